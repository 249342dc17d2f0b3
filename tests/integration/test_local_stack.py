"""The broker without containers, and how a starting or killed stack ends."""

import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from local import kafka as local_kafka
from local import stack, topics
from local.archives import make_broker_archive
from pipeline.outputs import read_status
from tests.conftest import Broker, Run, require_jars, wait_until
from tests.integration.conftest import END_SECONDS, Demo, end_by

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


def test_the_jvm_of_kafka_really_uses_the_class_data_archive() -> None:
    """With -Xshare:on the JVM refuses to start on an archive that does not fit."""
    require_jars("kafka")
    option = f"-XX:SharedArchiveFile={make_broker_archive()}"
    command = local_kafka.java_command("-Xshare:on")
    assert option in command
    tool = ("kafka.tools.StorageTool", "random-uuid")
    done = subprocess.run([*command, *tool], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    command[command.index(option)] = f"-XX:SharedArchiveFile={os.devnull}"
    done = subprocess.run([*command, *tool], capture_output=True, text=True, check=False)
    assert done.returncode != 0


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


# --- a stack that has no results yet ----------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.5, 2, 5])
def test_sigterm_to_make_ends_a_stack_that_is_still_starting(demo: Demo, seconds: float) -> None:
    made = demo.make("demo")
    time.sleep(seconds)
    took = end_by(made, made.process.terminate)
    assert took < END_SECONDS, made.tail()
    assert stack.leftovers(demo.data.root) == []


# --- a broker of the user -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_broker_of_the_user_is_used_and_none_is_started(demo: Demo, kafka: Broker) -> None:
    topic = f"of_the_user_{uuid.uuid4().hex[:8]}"
    made = demo.make("demo", KAFKA_BOOTSTRAP_SERVERS=kafka.address, KAFKA_TOPIC=topic)

    def stored() -> bool:
        counters = read_status(demo.data, "consumer").get("counters", {})
        return int(counters.get("stored", 0)) > 1000

    wait_until(stored, 90, "rows from the broker of the user", made)
    assert f"Kafka: {kafka.address} (KAFKA_BOOTSTRAP_SERVERS is set" in made.text()
    assert not [name for name in demo.pids() if "Kafka" in name]
    assert not (demo.data.root / "kafka").exists()
    assert len(read(kafka, topic, 1000)) >= 1000
    assert end_by(made, made.process.terminate) < END_SECONDS
