"""The whole chain with real parts: feed, WebSocket, Kafka, SQLite, Spark, both paths' files."""

import csv
import json
import signal
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer

from tests import golden
from tests.conftest import ROOT, Broker, Run, Running, free_port, require_jars, wait_until

SAMPLE = ROOT / "data" / "sample" / "synthetic_btcusd.jsonl.gz"
SCRIPTS = ("producer", "consumer", "spark_processor", "batch_scheduler")


class Chain:
    """All services on one data directory, each a process that can be killed and started again."""

    def __init__(self, run: Run, folder: Path, broker: Broker, **environment: object) -> None:
        require_jars("spark")
        self._run = run
        self.data = folder / "data"
        self.topic = broker.new_topic()
        self.broker = broker
        self._feed_port = free_port()
        self.environment: dict[str, object] = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.address,
            "KAFKA_TOPIC": self.topic,
            "FEED_URL": f"ws://127.0.0.1:{self._feed_port}",
            "DATA_DIR": self.data,
            "BATCH_INTERVAL_SECONDS": 4,
            **environment,
        }
        self.running: dict[str, Running] = {}

    def feed(self, recording: Path, speed: str, *options: str) -> None:
        arguments = [str(recording), "--no-retime", "--speed", speed, *options]
        self.running["feed"] = self._run("feed.replay", *arguments, "--port", str(self._feed_port))
        wait_until(lambda: "REPLAY" in self.running["feed"].text(), 20, "the feed's start")

    def start(self, *names: str) -> None:
        for name in names or SCRIPTS:
            self.running[name] = self._run(f"{name}.py", **self.environment)

    def kill(self, name: str) -> None:
        """kill -9 of the service's own process alone: what it started is left behind."""
        process = self.running[name].process
        process.kill()
        process.wait(10)

    def restart(self, name: str) -> None:
        self.kill(name)
        self.start(name)

    def status(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.data / "status" / f"{name}.json").read_text()))
        except FileNotFoundError:
            return {}

    def counter(self, service: str, name: str) -> int:
        return int(self.status(service).get("counters", {}).get(name, 0))

    def live(self) -> list[dict[str, str]]:
        """The open windows."""
        with (self.data / "stream_live.csv").open() as file:
            return list(csv.DictReader(file))

    def rows(self) -> int:
        try:
            with sqlite3.connect(f"file:{self.data}/crypto_prices.db?mode=ro", uri=True) as db:
                return int(db.execute("SELECT count(*) FROM btc_prices").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    def final(self) -> list[dict[str, str]]:
        rows = []
        for path in sorted((self.data / "stream_csv").glob("*.csv")):
            with path.open() as file:
                rows += list(csv.DictReader(file))
        return rows

    def batch_rows(self) -> int:
        """Rows that the newest batch run has counted."""
        for path in sorted((self.data / "batch_output").glob("*.csv"))[-1:]:
            with path.open() as file:
                return int(next(csv.DictReader(file))["rows"])
        return 0

    def batch_windows(self) -> list[dict[str, str]]:
        with (self.data / "batch_windows.csv").open() as file:
            return list(csv.DictReader(file))

    def ids(self) -> tuple[set[int], set[int]]:
        """The trade ids stored, and those that stand in open gaps."""
        with sqlite3.connect(f"file:{self.data}/crypto_prices.db?mode=ro", uri=True) as db:
            stored = {row[0] for row in db.execute("SELECT trade_id FROM btc_prices")}
            gaps = db.execute(
                "SELECT first_trade_id, last_trade_id FROM gaps WHERE filled_at IS NULL"
            ).fetchall()
        return stored, {number for first, last in gaps for number in range(first, last + 1)}

    def settle(self, recording: Path, timeout: float) -> None:
        """Waits until both paths have everything of the recording."""
        expected = golden.compute(recording)
        rows, final = len(expected.trades), len(golden.final_windows(expected))
        alive = list(self.running.values())
        wait_until(lambda: self.rows() >= rows, timeout, f"{rows} rows stored", *alive)
        wait_until(lambda: len(self.final()) >= final, timeout, f"{final} final windows", *alive)
        wait_until(lambda: self.batch_rows() >= rows, timeout, "a batch over all", *alive)

    def records(self, topic: str) -> list[Any]:
        consumer = KafkaConsumer(
            topic,
            bootstrap_servers=self.broker.address,
            auto_offset_reset="earliest",
            consumer_timeout_ms=2000,
            enable_auto_commit=False,
        )
        try:
            return list(consumer)
        finally:
            consumer.close()


@pytest.fixture
def chain(run: Run, tmp_path: Path, kafka: Broker) -> Iterator[Chain]:
    """A chain on the shared broker."""
    started = Chain(run, tmp_path, kafka)
    yield started
    end_left_behind(started)


def end_left_behind(chain: Chain) -> None:
    """Ends what a killed service left: a test must not leave processes."""
    marks = {str(chain.data)}
    for process in psutil.process_iter():
        try:
            if process.environ().get("DATA_DIR") in marks:
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def test_the_sample_gives_the_golden_windows_on_both_paths(chain: Chain) -> None:
    chain.feed(SAMPLE, "max")
    chain.start()
    chain.settle(SAMPLE, 90)
    assert golden.verify(SAMPLE, chain.data) == []


def test_every_message_is_counted_under_exactly_one_outcome(chain: Chain) -> None:
    chain.feed(SAMPLE, "max")
    chain.start("producer")
    wait_until(lambda: chain.status("producer").get("state") == "ended", 60, "the replay's end")
    counters = chain.status("producer")["counters"]
    outcomes = ("published", "repeated", "rejected", "control", "ignored")
    assert counters["received"] == sum(counters.get(name, 0) for name in outcomes)
    assert counters["published"] == len(golden.compute(SAMPLE).trades)


def test_recorded_answers_and_heartbeats_do_not_pass_for_the_feeds_own(
    chain: Chain, tmp_path: Path
) -> None:
    recording = tmp_path / "with-control.jsonl"
    good = golden_lines(SAMPLE)[:200]
    answer = b'{"type":"subscriptions","channels":[]}'
    beat = b'{"type":"heartbeat","last_trade_id":1,"product_id":"BTC-USD"}'
    recording.write_bytes(b"\n".join([answer, *good[:100], answer, beat, *good[100:]]) + b"\n")
    chain.feed(recording, "max")
    chain.start("producer")
    producer = chain.running["producer"]
    wait_until(lambda: "has ended" in producer.text(), 60, "the replay's end", producer)
    assert chain.status("producer")["feed"]["kind"] == "replay"
    assert len(chain.records(chain.topic)) == len(golden.compute(recording).trades)


def test_a_restarted_producer_publishes_nothing_again(chain: Chain, tmp_path: Path) -> None:
    recording = tmp_path / "some.jsonl"
    recording.write_bytes(b"\n".join(golden_lines(SAMPLE)[:3000]) + b"\n")
    for _ in range(2):
        chain.feed(recording, "max")
        chain.start("producer")
        wait_until(lambda: "has ended" in chain.running["producer"].text(), 60, "the end")
        chain.kill("producer")
        chain.kill("feed")
    assert len(chain.records(chain.topic)) == len(golden.compute(recording).trades)


def test_kill_9_of_each_service_changes_no_result(
    run: Run, tmp_path: Path, own_kafka: Broker
) -> None:
    """Consumer, stream (its Python, its JVM), scheduler, batch run and broker, in the middle."""
    chain = Chain(run, tmp_path, own_kafka)
    try:
        chain.feed(SAMPLE, "75", "--hold")  # an hour in 48 s
        chain.start()
        stream = chain.running["spark_processor"]
        wait_until(lambda: chain.rows() > 1500, 60, "the first rows", *chain.running.values())
        chain.restart("consumer")
        wait_until(lambda: len(chain.final()) > 3, 60, "the first final windows", stream)
        chain.restart("spark_processor")
        wait_until(lambda: chain.batch_rows() > 0, 60, "the first batch")
        wait_until(lambda: _batch_under_way(chain), 20, "a batch run")
        chain.restart("batch_scheduler")
        scheduler = chain.running["batch_scheduler"]
        wait_until(lambda: _orphan_ended(chain), 20, "the orphaned run's end", scheduler)
        own_kafka.kill()
        own_kafka.start()
        seen = len(chain.final())
        stream = chain.running["spark_processor"]
        wait_until(lambda: len(chain.final()) > seen, 90, "final windows after the kills", stream)
        _kill_jvm(stream)
        stream.process.wait(30)
        chain.start("spark_processor")
        chain.settle(SAMPLE, 120)
        assert golden.verify(SAMPLE, chain.data) == []
    finally:
        end_left_behind(chain)


def test_kill_9_of_the_producer_loses_only_what_stands_in_gaps_and_doubles_nothing(
    chain: Chain,
) -> None:
    chain.feed(SAMPLE, "max")
    chain.start("producer", "consumer", "spark_processor")
    for rows in (2_000, 6_000, 12_000):
        wait_until(partial(_has_more, chain, rows), 60, f"{rows} rows", *chain.running.values())
        chain.restart("producer")
    ended = lambda: chain.status("producer").get("state") == "ended"  # noqa: E731
    wait_until(ended, 60, "the replay's end", chain.running["producer"])
    topic_has = len(chain.records(chain.topic))
    consumed = lambda: chain.counter("consumer", "records") == topic_has  # noqa: E731
    wait_until(consumed, 60, "all stored", chain.running["consumer"])
    stored, missing = chain.ids()
    issued = set(golden.compute(SAMPLE).trades)
    skipped = set(range(min(issued), max(issued) + 1)) - issued
    assert stored <= issued
    assert stored | missing == issued | skipped  # nothing is missing without a note
    assert not stored & missing
    chain.start("batch_scheduler")
    wait_until(lambda: chain.batch_rows() == len(stored), 60, "a batch over all")
    final = {row["window_start"]: row["trade_count"] for row in chain.final()}
    batch = {row["window_start"]: row["trade_count"] for row in chain.batch_windows()}
    assert len(final) >= len(batch) - 2
    assert final.items() <= batch.items()


def _has_more(chain: Chain, rows: int) -> bool:
    return chain.rows() > rows


def _batch_under_way(chain: Chain) -> bool:
    note = chain.data / "status" / "batch_scheduler_run.json"
    try:
        run = json.loads(note.read_text())["run"]
    except FileNotFoundError:
        return False
    return not (chain.data / "batch_output" / f"{run}.csv").exists()


def _orphan_ended(chain: Chain) -> bool:
    log = chain.data / "batch_log.txt"
    return log.exists() and "status=stopped" in log.read_text()


def _kill_jvm(stream: Running) -> None:
    (jvm,) = (process for process in stream.tree() if process.name() == "java")
    jvm.send_signal(signal.SIGKILL)


BAD = {
    b"not json": "not JSON",
    b"\xff\xfe": "not UTF-8",
    b"[1, 2]": "not a JSON object",
    b'{"type": "ticker"}': "product_id: missing",
    b'{"type": "ticker", "type": "ticker"}': "repeated key",
    b'{"type": []}': "type",
}


def test_bad_messages_leave_the_good_untouched_and_are_kept_with_their_reason(
    chain: Chain, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed.jsonl"
    good = golden_lines(SAMPLE)[:3000]
    bad = list(BAD)
    with mixed.open("wb") as file:
        for number, line in enumerate(good):
            file.write(line + b"\n")
            if number % 100 == 50:
                file.write(bad[number // 100 % len(bad)] + b"\n")
    chain.feed(mixed, "max")
    chain.start()
    chain.settle(mixed, 90)
    assert golden.verify(mixed, chain.data) == []
    rejected = [json.loads(record.value) for record in chain.records(f"{chain.topic}_rejected")]
    assert len(rejected) == 30
    reasons = {reason.split(":")[0] for reason in BAD.values()}
    assert {record["reason"].split(":")[0] for record in rejected} == reasons
    for record in rejected:
        assert record["received"].endswith("Z")


def test_garbage_written_to_the_topic_by_others_is_refused_by_both_paths(
    chain: Chain, tmp_path: Path
) -> None:
    recording = tmp_path / "good.jsonl"
    recording.write_bytes(b"\n".join(golden_lines(SAMPLE)[:2000]) + b"\n")
    writer = KafkaProducer(bootstrap_servers=chain.broker.address)
    far = golden_lines(SAMPLE)[0].replace(b'"time":"2', b'"time":"9')
    for value in [*BAD, far, b"", None]:
        writer.send(chain.topic, value=value, key=b"x")
    writer.flush()
    writer.close()
    chain.feed(recording, "max")
    chain.start()
    chain.settle(recording, 90)
    assert golden.verify(recording, chain.data) == []
    assert chain.status("consumer")["counters"]["rejected"] == len(BAD) + 3
    # A micro-batch is counted when it has ended, a moment after its windows are readable.
    wait_until(
        lambda: chain.status("spark_processor")["counters"].get("unparsable") == len(BAD) + 3,
        10,
        "the stream's count of what it refused",
    )
    assert len(chain.records(f"{chain.topic}_rejected")) == len(BAD) + 3


def golden_lines(recording: Path) -> list[bytes]:
    from feed.recording import read

    return [line.frame for line in read(recording)]
