"""The broker without containers, and the whole stack as `make demo` starts it."""

import http.client
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from local import programs, stack, topics
from pipeline.compare.inputs import read_batch_log, read_windows
from pipeline.outputs import batch_files, stream_files
from tests.conftest import Broker, Run, require_jars, wait_until
from tests.integration.conftest import END_SECONDS, PROGRAMS, Demo, end_by

# --- the broker -------------------------------------------------------------------------------


def send(broker: Broker, topic: str, values: list[bytes], milliseconds: int) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.address, acks="all", enable_idempotence=True)
    sent = [producer.send(topic, value, timestamp_ms=milliseconds) for value in values]
    producer.flush()
    producer.close()
    for each in sent:
        each.get(0)


def read(broker: Broker, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    values: list[bytes] = []
    end = time.monotonic() + 30
    while len(values) < count and time.monotonic() < end:
        values += [record.value for batch in consumer.poll(1000).values() for record in batch]
    consumer.close()
    return values


def test_acknowledged_records_survive_a_killed_broker(own_kafka: Broker) -> None:
    topic = own_kafka.new_topic()
    values = [str(n).encode() for n in range(1000)]
    send(own_kafka, topic, values, round(time.time() * 1000))
    own_kafka.kill()
    own_kafka.start()
    assert read(own_kafka, topic, len(values)) == values


def test_topics_have_one_partition_and_are_created_once(kafka: Broker, topic: str) -> None:
    topics.create(kafka.address, topic, f"{topic}_rejected")
    consumer = KafkaConsumer(bootstrap_servers=kafka.address)
    assert consumer.partitions_for_topic(topic) == {0}
    assert consumer.partitions_for_topic(f"{topic}_rejected") == {0}
    consumer.close()


def test_the_broker_accepts_any_record_timestamp(kafka: Broker, topic: str) -> None:
    """The producer's clock may be a day ahead of the broker's, or an hour behind."""
    now = round(time.time() * 1000)
    send(kafka, topic, [b"ahead"], now + 86_400_000)
    send(kafka, topic, [b"behind"], now - 3_600_000)
    assert read(kafka, topic, 2) == [b"ahead", b"behind"]


def test_creating_the_topics_waits_for_a_broker_that_starts_later(tmp_path: Path, run: Run) -> None:
    require_jars("kafka")
    broker = Broker(tmp_path)
    creating = run("local.topics", KAFKA_BOOTSTRAP_SERVERS=broker.address, KAFKA_TOPIC="early")
    time.sleep(1)  # into its first failed connection
    try:
        broker.start()
        assert creating.process.wait(30) == 0, creating.tail()
    finally:
        broker.kill()


# --- the whole stack --------------------------------------------------------------------------


def page_status(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/")
    return connection.getresponse().status


def test_the_demo_shows_results_heals_ends_and_continues(demo: Demo) -> None:
    """One command gives windows, a batch result and the page; what is killed comes back."""
    data = demo.data
    made = demo.make("demo")
    wait_until(
        # A run's line in the log comes last of all it writes.
        lambda: stream_files(data) and len(read_batch_log(data)),
        150,
        "windows and a batch result",
        made,
    )
    assert batch_files(data)
    wait_until(lambda: "the page: http://" in made.text(), 30, "the page's address", made)
    assert page_status(demo.ports["DASHBOARD_PORT"]) == 200
    assert "REPLAY of synthetic_btcusd.jsonl.gz (SYNTHETIC, re-timed to now)" in made.text()
    assert list(read_batch_log(data)["status"])[-1] == "ok"
    windows = read_windows(*stream_files(data))
    assert len(windows) >= 25  # of the 30 minutes that came at once

    # While it runs, nobody else gets at its folder or its ports.
    status, said = demo.outcome("demo")
    assert (status, "runs already on DATA_DIR=" in said) == (2, True), said
    status, said = demo.outcome("demo", DATA_DIR=f"{data.root}-2")
    assert (status, "KAFKA_PORT=" in said) == (2, True), said
    status, said = demo.outcome("clean")
    assert (status, "stop it first" in said) == (2, True), said
    status, said = demo.outcome("status")
    assert (status, "pipeline:consumer" in said) == (0, True), said

    # What is killed is started again.
    before = demo.pids()
    # One that ends earlier is reported as "ended soon after its start".
    born = max(psutil.Process(pid).create_time() for pid in before.values())
    time.sleep(max(0.0, born + int(str(programs.COMMON["startsecs"])) + 1 - time.time()))
    for name in PROGRAMS:
        os.kill(before[name], signal.SIGKILL)
    wait_until(
        lambda: (
            (now := demo.pids()).keys() == before.keys()
            and all(now[name] != before[name] for name in PROGRAMS)
        ),
        60,
        "new processes for the killed ones",
        made,
    )
    assert "consumer was killed" in made.text()

    # Ctrl-C: the terminal sends SIGINT to all of its foreground process group.
    took = end_by(made, lambda: os.killpg(made.pid, signal.SIGINT))
    assert took < END_SECONDS, made.tail()

    # Another feed is refused; the same one continues.
    status, said = demo.outcome("demo", RETIME="0")
    assert (status, "DATA_DIR=" in said, "make clean" in said) == (2, True, True), said
    last = windows["window_start"].iloc[-1]
    again = demo.make("demo")
    wait_until(
        lambda: read_windows(*stream_files(data))["window_start"].iloc[-1] > last,
        150,
        "newer windows",
        again,
    )
    after = read_windows(*stream_files(data))
    assert after["window_start"].is_unique
    kept = after[after["window_start"].isin(windows["window_start"])].reset_index(drop=True)
    assert kept.equals(windows)  # what was final has stayed as it was
    took = end_by(again, again.process.terminate)
    assert took < END_SECONDS, again.tail()

    status, said = demo.outcome("clean")
    assert status == 0, said
    assert list(data.root.iterdir()) == []


@pytest.mark.parametrize("seconds", [0.5, 2, 5])
def test_sigterm_to_make_ends_a_stack_that_is_still_starting(demo: Demo, seconds: float) -> None:
    made = demo.make("demo")
    time.sleep(seconds)
    took = end_by(made, made.process.terminate)
    assert took < END_SECONDS, made.tail()
    assert stack.leftovers(demo.data.root) == []


def test_the_next_start_ends_the_processes_that_a_killed_supervisor_left(demo: Demo) -> None:
    made = demo.make("demo")
    wait_until(lambda: "kafka.Kafka" in demo.pids(), 60, "the broker's process", made)
    left = stack.leftovers(demo.data.root)
    supervisor = next(p for p in made.tree() if "local.supervise" in p.cmdline())
    supervisor.kill()
    made.process.wait(10)
    again = demo.make("demo")
    wait_until(lambda: "REPLAY of" in again.text(), 60, "the next start", again)
    assert "of an earlier stack that was killed" in again.text()
    assert not [p for p in left if p.is_running()]
    assert end_by(again, again.process.terminate) < END_SECONDS
