"""Cost of a stream with a backlog, from its start until all closed windows are written.

Every engine reads the same topic, which is filled first. Some messages are repeated deliveries,
and some trades are out of order.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from benchmarks import inputs, windows
from benchmarks.cost import Cost, cost_until
from benchmarks.processes import BASELINE, ENDING, SCRIPTS, Bench, Open, Running
from benchmarks.results import Mark, Result
from pipeline import spark
from pipeline.data_dir import DataDir

TOPIC = "raw_prices"
#: Longest run of an engine, seconds.
TIMEOUT = 400
FILL_TIMEOUT = 600
#: The marks: maximum wall seconds and maximum CPU seconds for 2.1 million messages.
MARK_MESSAGES = 2_102_048
WALL = Mark(at_most=55)
CPU = Mark(at_most=80)


@dataclass(frozen=True)
class Backlog:
    """A filled topic and the windows that follow from it."""

    servers: str
    expected: windows.Expected


@dataclass(frozen=True)
class Run:
    """What one engine took and wrote."""

    cost: Cost
    #: Whether all closed windows were there in time.
    complete: bool
    #: The check against windows in which each trade counts once, and against windows in which
    #: repeats count too.
    check: windows.Check
    check_repeated: windows.Check | None


def measure(open_bench: Open, messages: int) -> Iterator[Result]:
    """Yield the cost of a catch-up of the pipeline."""
    with open_bench("catch-up") as bench:
        recording = write_deliveries(bench, messages)
        backlog = fill(bench, recording)
        run = run_ours(bench, backlog)
    name = f"stream, catch-up of {messages:,} messages"
    marked = messages == MARK_MESSAGES
    yield Result(f"{name}: wall", "s", run.cost.wall, None, WALL if marked else None)
    yield Result(f"{name}: CPU", "s", run.cost.cpu, None, CPU if marked else None)
    yield Result(f"{name}: peak memory", "MiB", run.cost.peak_mib)
    closed = len(backlog.expected.closed())
    yield Result(f"{name}: right windows of {closed:,}", "", run.check.right, None, Mark(closed))


def write_deliveries(bench: Bench, messages: int) -> Path:
    """Write a recording with repeated deliveries and trades out of order; return its path."""
    bench.log(f"{bench.folder.name}: writing {messages:,} messages")
    recording = bench.folder / "deliveries.jsonl"
    inputs.write_recording(recording, messages, inputs.deliveries())
    return recording


def fill(bench: Bench, recording: Path, *, repeats: bool = False) -> Backlog:
    """Start a broker and fill its topic; compute the right windows meanwhile.

    Args:
        bench: the measurement.
        recording: the messages.
        repeats: compute the windows without deduplication too.
    """
    servers = bench.broker(TOPIC)
    with multiprocessing.Pool(1, initializer=_end_at_signals) as pool:
        expected = pool.apply_async(windows.expected, [recording], {"repeats": repeats})
        fill_topic(bench, servers, recording)
        bench.log(f"{bench.folder.name}: computing the right windows")
        return Backlog(servers, expected.get())


def _end_at_signals() -> None:
    """Reset the signal handlers that the process inherits: it has no child processes to end."""
    for signum in ENDING:
        signal.signal(signum, signal.SIG_DFL)


def fill_topic(bench: Bench, servers: str, recording: Path) -> None:
    """Send all messages of a recording, plain or gzip, to the topic."""
    bench.log(f"{bench.folder.name}: filling the topic")
    script = SCRIPTS / "fill_topic.py"
    filling = bench.python("fill", script, kafka_jars(), servers, TOPIC, recording)
    bench.output(filling, FILL_TIMEOUT, "the end of the filling")


def kafka_jars() -> str:
    """Return the jars of Spark's Kafka connector, as Spark's setting expects them."""
    return ",".join(
        str(jar) for jar in spark.jars() if not jar.name.startswith(("sqlite", "postgresql"))
    )


@dataclass(frozen=True)
class Engine:
    """One way to compute the windows.

    Attributes:
        name: its name.
        start: starts it.
        read: returns the windows that it wrote.
        folder: where it writes CSV files; None: it ends by itself when all windows are written.
        tolerance: greatest relative difference of an amount from the right one.
    """

    name: str
    start: Callable[[], Running]
    read: Callable[[], windows.Windows]
    folder: Path | None = None
    tolerance: Decimal = Decimal(0)


def run_ours(bench: Bench, backlog: Backlog) -> Run:
    """Measure `spark_processor.py`, with default settings."""
    folder = DataDir(bench.folder).stream_csv
    engine = Engine(
        "spark_processor.py",
        lambda: bench.service("spark_processor", backlog.servers, TOPIC),
        lambda: windows.read_csv(folder),
        folder,
    )
    return run(bench, engine, backlog)


def run_baseline(bench: Bench, backlog: Backlog) -> Run:
    """Measure the plain job with two queries."""
    folder = bench.folder / "windows"
    script = BASELINE / "stream.py"
    place = (kafka_jars(), backlog.servers, TOPIC, bench.folder)
    engine = Engine(
        "plain Spark job",
        lambda: bench.python("stream", script, *place),
        lambda: windows.read_csv(folder),
        folder,
        windows.DOUBLES,
    )
    return run(bench, engine, backlog)


def run(bench: Bench, engine: Engine, backlog: Backlog) -> Run:
    """Measure an engine from its start until all closed windows are written, and check them."""
    bench.log(f"{bench.folder.name}: {engine.name}")
    closed = backlog.expected.closed()
    rows = windows.RowCounter(engine.folder) if engine.folder else None
    started: list[Running] = []

    def start() -> Running:
        started.append(engine.start())
        return started[0]

    done = (lambda: rows.count() >= len(closed)) if rows else None
    try:
        cost, complete = cost_until(start, done, TIMEOUT, f"all windows of {engine.name}")
        # Before the stop: when Spark stops, its file sink deletes the files of a micro-batch that
        # is not committed yet.
        found = engine.read()
    finally:
        for running in started:
            running.stop()
    expected = backlog.expected
    check = windows.check(found, expected.distinct, closed, engine.tolerance)
    check_repeated = None
    if expected.repeated:
        check_repeated = windows.check(found, expected.repeated, closed, engine.tolerance)
    bench.log(
        f"{bench.folder.name}: {engine.name}: {cost.wall:.1f} s, {cost.cpu:.1f} CPU s, "
        f"{cost.peak_mib:.0f} MiB, windows right/wrong/missing: {check}"
    )
    return Run(cost, complete, check, check_repeated)
