"""Measure the messages per second that the stream sustains: `python -m benchmarks.scale`.

The stream runs on a standalone Spark cluster with one or two executors, and reads a topic that is
on one of three brokers or on all of them. The reference runs without a cluster. Everything runs on
the same two cores: docs/scale.md explains the numbers.
"""

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from benchmarks import capacity, catch_up, clusters, machine, parts, record
from benchmarks.capacity import Capacity, Moment, Plan, Publication, Step
from benchmarks.cost import memory
from benchmarks.processes import CONNECT_MS, SCRIPTS, Bench, BenchmarkError, Running
from feed.arguments import Arguments, parse_count
from local import topics
from pipeline.data_dir import DataDir
from pipeline.processes import tree_cost
from pipeline.settings import rejected_topic_of

FILE = parts.FOLDER / "scale.json"
#: Java heap of the process that holds the state: the executor, or the stream without a cluster.
HEAP = "3g"
#: Seconds between two looks at the end of the topic.
LOOK_SECONDS = 0.2
#: Seconds that a step waits at most, beyond its length, for enough publications.
PATIENCE_SECONDS = 60.0
START_TIMEOUT = 400
DRAIN_TIMEOUT = 180
#: Seconds of the lags in one column of the table.
SHOWN_SECONDS = 10


@dataclass(frozen=True)
class Form:
    """One way to run the stream."""

    name: str
    #: None: no cluster, `SPARK_MASTER=local[2]` and one broker.
    executors: int | None
    replicas: int


REFERENCE = Form("local", None, 1)
FORMS = (
    REFERENCE,
    *(
        Form(f"executors-{executors}-replicas-{replicas}", executors, replicas)
        for executors in (1, 2)
        for replicas in (1, 3)
    ),
)


def main() -> None:
    """Measure the chosen forms and print the table."""
    parser = Arguments(
        prog="python -m benchmarks.scale",
        description="Measures the messages per second that the stream sustains, by number of "
        "executors and of replicas.",
    )
    by_name = {form.name: form for form in FORMS}
    parser.add_argument(
        "forms",
        nargs="*",
        metavar="FORM",
        help=f"form to measure again (default: all): {', '.join(by_name)}",
    )
    for name, what, default in (
        ("first", "the first rate, messages per second", 8_000),
        ("most", "no rate above this", 128_000),
        ("step", "seconds of each step of the search", 12),
        ("hold", "seconds for which the lag must be flat", 60),
    ):
        parser.add_argument(
            f"--{name}",
            metavar="N",
            type=parse_count,
            default=default,
            help=f"{what} (default {default})",
        )
    parser.add_argument("--keep", action="store_true", help="keep the temporary files")
    given = parser.parse_args()
    if unknown := set(given.forms) - by_name.keys():
        parser.error(f"unknown form {', '.join(sorted(unknown))}: choose from {', '.join(by_name)}")
    parts.check(parser, "kafka", "spark")
    plan = Plan(given.first, given.most, given.step, given.hold)
    chosen = [form for form in FORMS if form.name in (given.forms or by_name)]
    with parts.session(keep=given.keep) as session:
        rows = record.Rows(FILE, session.about(**described(plan)), ("form",))
        Measurement(session, plan, rows).run(chosen)
        text = rows.write(session.failures)
    parts.finish(session, text, FILE)


def described(plan: Plan) -> dict[str, object]:
    """Return what the results depend on, by name."""
    return {
        "input": "made-up trades of one product, with the time at which they are sent; one topic "
        "with one partition",
        "search": f"from {plan.first:,.0f} messages/s, doubled every {plan.step_seconds:g} s until "
        f"the lag grows, at most {plan.most:,.0f}",
        "sustained": f"the lag grows by at most {capacity.FLAT:.0%} of the messages sent in "
        f"{plan.hold_seconds:g} s",
        "heap": f"{HEAP} for the executor, or for the stream without a cluster",
    }


class Measurement:
    """Measures forms one after the other. The reference comes first, for the ratios."""

    def __init__(self, session: parts.Session, plan: Plan, rows: record.Rows) -> None:
        self._session = session
        self._plan = plan
        self._rows = rows
        self._reference: dict[str, Any] = {}

    def run(self, forms: Sequence[Form]) -> None:
        """Measure forms. Those on clusters share the clusters."""
        session = self._session
        if REFERENCE in forms:
            with session.part(REFERENCE.name), session.open("reference") as bench:
                servers = bench.broker(catch_up.TOPIC)
                settings = {"SPARK_MASTER": "local[2]", "STREAM_MEMORY": HEAP}
                place = Place(servers, catch_up.TOPIC, settings, bench.running)
                self._measure(REFERENCE, place)
        if clustered := [form for form in forms if form.executors]:
            with session.part("clusters"), session.open("clusters") as bench:
                kafka, spark = clusters.start_kafka(bench), clusters.start_spark(bench, HEAP)
                for form in clustered:
                    names = (form.name, rejected_topic_of(form.name))
                    in_sync = max(1, form.replicas - 1)
                    topics.create(kafka.address, *names, replicas=form.replicas, in_sync=in_sync)
                    settings = {
                        "SPARK_MASTER": spark.address,
                        "SPARK_CORES_MAX": str(form.executors),
                        "SPARK_EXECUTOR_CORES": "1",
                        "SPARK_EXECUTOR_MEMORY": HEAP,
                    }
                    where = (kafka.address, form.name, settings)
                    self._measure(form, Place(*where, kafka.processes, spark.processes))

    def _measure(self, form: Form, place: "Place") -> None:
        """Measure one form, and add its row."""
        with self._session.part(form.name), self._session.open(form.name) as bench:
            load = Load(bench, place)
            load.start(self._plan.first)
            found = capacity.search(load.observe, load.drain, self._plan)
            state = load.state()
            load.drain()
            load.check()
            row = table_row(form, found, state, self._reference)
            if form is REFERENCE:
                self._reference = row
            self._rows.add(row)


@dataclass(frozen=True)
class Place:
    """Where a stream runs.

    Attributes:
        servers: the addresses of the brokers.
        topic: the empty topic.
        settings: the settings of the stream.
        brokers: the processes of Kafka.
        nodes: the processes of the Spark cluster.
    """

    servers: str
    topic: str
    settings: Mapping[str, str]
    brokers: Sequence[Running]
    nodes: Sequence[Running] = ()


class Load:
    """A sender with a rate, and a stream that reads what it sends."""

    def __init__(self, bench: Bench, place: Place) -> None:
        self._bench = bench
        self._data = DataDir(bench.folder)
        self._rate = bench.folder / "rate"
        self._rate.write_text("0")
        self._kafka = KafkaConsumer(
            bootstrap_servers=place.servers.split(","),
            bootstrap_timeout_ms=CONNECT_MS,
            enable_auto_commit=False,
            metrics_enabled=False,
        )
        self._partition = TopicPartition(place.topic, 0)
        #: The end of the topic at each look.
        self._ends: list[Moment] = []
        where = (place.servers, place.topic)
        script = SCRIPTS / "send_rate.py"
        self._sender = bench.python("sender", script, catch_up.kafka_jars(), *where, self._rate)
        self._stream = bench.service("spark_processor", *where, **place.settings)
        self._groups = {
            "stream": [self._stream, *place.nodes],
            "brokers": place.brokers,
            "sender": [self._sender],
        }

    def start(self, rate: float) -> None:
        """Send at a rate, and wait for the first results."""
        self._bench.log(f"{self._bench.folder.name}: starting the stream and the sender")
        self._rate.write_text(str(rate))
        own = (self._sender, self._stream)
        self._bench.wait(lambda: self.published()[1:], START_TIMEOUT, "the first results", *own)

    def published(self) -> list[Publication]:
        """Return all publications of the stream."""
        found = []
        for row in self._progress():
            at = datetime.fromisoformat(row["published_at"]).timestamp()
            found.append(Publication(at, int(row["rows"])))
        return found

    def _progress(self) -> list[dict[str, str]]:
        try:
            with self._data.stream_progress.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        except FileNotFoundError:
            return []
        return [row for row in rows if row["published_at"] and row["state_bytes"]]

    def observe(self, rate: float, seconds: float) -> Step:
        """Send at a rate for some seconds; return what happened.

        If the stream publishes too rarely, it takes up to PATIENCE_SECONDS longer.
        """
        self._rate.write_text(str(rate))
        before, began = self._cpu(), self._look()
        inside: list[Publication] = []
        latest = began.at + seconds + PATIENCE_SECONDS
        while len(inside) < capacity.LEAST_PUBLICATIONS:
            time.sleep(LOOK_SECONDS)
            ended = self._look()
            if ended.at < began.at + seconds:
                continue
            published = self.published()
            inside = [one for one in published if began.at <= one.at <= ended.at]
            if ended.at > latest:
                break
        after, seconds = self._cpu(), ended.at - began.at
        for process in (self._sender, self._stream):
            process.check()
        lags = capacity.lags(self._ends, published)
        step = Step(
            rate=rate,
            sent=(ended.messages - began.messages) / seconds,
            read=capacity.read_rate(inside),
            lags=[lag for lag in lags if began.at <= lag.at <= ended.at],
            cpu={name: (after[name] - before[name]) / seconds for name in after},
        )
        self._bench.log(
            f"{self._bench.folder.name}: {rate:,.0f} messages/s for {seconds:.0f} s. "
            f"Messages/s sent: {step.sent:,.0f}, read: {step.read:,.0f}. Growth of the lag: "
            f"{step.growth:.1%} of the sent messages"
        )
        return step

    def drain(self) -> None:
        """Send nothing until the stream has published everything."""
        self._rate.write_text("0")
        time.sleep(1)  # the last chunk

        def is_read() -> bool:
            return sum(one.rows for one in self.published()) >= self._look().messages

        what = "the end of the backlog"
        self._bench.wait(is_read, DRAIN_TIMEOUT, what, self._stream, every=LOOK_SECONDS)

    def state(self) -> "State":
        """Return the state of the stream after its newest micro-batch, and its memory."""
        newest = self._progress()[-1]
        mib = sum(memory(process.pid) for process in self._groups["stream"])
        return State(int(newest["state_rows"]), int(newest["state_bytes"]), mib)

    def check(self) -> None:
        """Check that the stream dropped nothing.

        Raises:
            BenchmarkError: it did, so its rate is not that of the messages.
        """
        rows = self._progress()
        dropped = {
            name: sum(int(row[name]) for row in rows)
            for name in ("unparsable", "duplicates", "late")
        }
        if any(dropped.values()):
            raise BenchmarkError(f"the stream dropped messages: {dropped}")

    def _look(self) -> Moment:
        end = self._kafka.end_offsets([self._partition])[self._partition]
        self._ends.append(Moment(time.time(), end))
        return self._ends[-1]

    def _cpu(self) -> dict[str, float]:
        return {
            name: sum(tree_cost(process.pid)[0] for process in processes)
            for name, processes in self._groups.items()
        }


@dataclass(frozen=True)
class State:
    """The state of the stream: its trade ids and windows, and the memory of all its processes."""

    rows: int
    size: int
    mib: float


def table_row(
    form: Form, found: Capacity, state: State, reference: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the row of a form.

    Args:
        form: the form.
        found: its capacity.
        state: the state of the stream at the end of the hold.
        reference: the row of the reference; {} if this run did not measure it.
    """
    held = found.held
    cpu = {name: busy / held.read * 1e6 for name, busy in held.cpu.items()}
    row = {
        "form": form.name,
        "Spark": f"executors: {form.executors}" if form.executors else "local[2]",
        "brokers": clusters.NODES if form.executors else 1,
        "replicas": form.replicas,
        "sustained, messages/s": round(held.rate),
        "read with a backlog, messages/s": found.backlog and round(found.backlog),
        "CPU of the stream, s per million": round(cpu["stream"], 1),
    }
    ratios = {
        f"{name} / local": reference and round(row[column] / reference[column], 3)
        for name, column in (
            ("sustained", "sustained, messages/s"),
            ("CPU", "CPU of the stream, s per million"),
        )
    }
    return {
        **row,
        **{name: ratio or None for name, ratio in ratios.items()},
        "CPU of the brokers, s per million": round(cpu["brokers"], 1),
        "CPU of the sender, s per million": round(cpu["sender"], 1),
        f"busy cores of {machine.CORES}": round(sum(held.cpu.values()), 2),
        f"lag every {SHOWN_SECONDS} s, thousand messages": shown_lags(held.lags),
        "growth of the lag, % of the sent messages": round(100 * held.growth, 2),
        "rates at which the lag grew": ", ".join(f"{rate:,.0f}" for rate in found.failed) or "-",
        "ids and windows in the state": state.rows,
        "bytes for each of them": round(state.size / state.rows),
        "memory of the stream, MiB": round(state.mib),
    }


def shown_lags(lags: Sequence[Moment]) -> str:
    """Return the mean lag of each SHOWN_SECONDS, in thousand messages."""
    groups: dict[int, list[float]] = {}
    for lag in lags:
        groups.setdefault(int((lag.at - lags[0].at) // SHOWN_SECONDS), []).append(lag.messages)
    return ", ".join(f"{sum(group) / len(group) / 1000:.1f}" for group in groups.values())


if __name__ == "__main__":
    parts.run_program(main)
