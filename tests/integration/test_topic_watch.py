"""The watch on the topic: the same one, another one, and a Kafka that does not answer.

The broker has no group coordinator. Only the consumer needs one.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from local import kafka as local_kafka
from local import topics
from local.ports import listens
from pipeline import outputs
from pipeline.errors import OperationalError, TemporaryError
from pipeline.ingest import kafka
from pipeline.ingest.dead_letters import DeadLetters
from pipeline.ingest.loader import Loader
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stores import sqlite
from pipeline.stream import topic_watch
from pipeline.stream.topic_watch import TopicChangedError, TopicWatch
from tests.conftest import Broker, Running, started_broker, wait_until


class BrokerWithoutCoordinator(Broker):
    """A single broker with Kafka's default: the committed offsets need three brokers."""

    def start(self) -> "BrokerWithoutCoordinator":
        log, configuration = self.folder / "log", self.folder / "server.properties"
        properties = local_kafka.server_properties(self.port, self.controller_port)
        changed = f"offsets.topic.replication.factor=3\nlog.dirs={log}\n"  # the last line counts
        configuration.write_text(properties + changed, encoding="utf-8")
        command = local_kafka.java_command()
        if not log.exists():
            formatting = [*command, *local_kafka.format_arguments(configuration)]
            subprocess.run(formatting, check=True, capture_output=True)
        command += ["kafka.Kafka", str(configuration)]
        self._running = Running(command, self.folder / "kafka.log", {})
        wait_until(lambda: listens(self.port), 60, "the broker's start", self._running)
        return self


@pytest.fixture(scope="module")
def module_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with started_broker(BrokerWithoutCoordinator(tmp_path_factory.mktemp("kafka"))) as broker:
        yield broker


@pytest.fixture
def watch(
    tmp_path: Path, module_kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TopicWatch]:
    monkeypatch.setattr(topic_watch, "INTERVAL_SECONDS", 0.2)
    name = module_kafka.new_topic()
    settings = Settings(
        data_dir=tmp_path, kafka_topic=name, kafka_bootstrap_servers=module_kafka.address
    )
    watch = TopicWatch(Service("spark_processor", settings))
    yield watch
    watch.close()


def test_a_topic_that_is_created_again_is_noticed_and_one_that_is_missing_is_not_another(
    watch: TopicWatch, module_kafka: Broker
) -> None:
    watch.check()
    watch.confirm(5)
    admin = KafkaAdminClient(bootstrap_servers=module_kafka.address)
    admin.delete_topics([watch.topic])
    admin.close()

    def is_missing() -> bool:
        try:
            watch.confirm(0.5)
        except TemporaryError as error:
            return "does not exist" in str(error)
        return False

    # A busy broker still knows a topic for a moment after it has confirmed the deletion.
    wait_until(is_missing, 10, "the topic is missing")
    watch.check()
    topics.create(module_kafka.address, watch.topic)
    with pytest.raises(TopicChangedError, match="was created again"):
        watch.confirm(5)
    with pytest.raises(TopicChangedError):
        watch.check()


def test_a_suspended_broker_is_a_silence_that_ends_with_it(
    watch: TopicWatch, module_kafka: Broker
) -> None:
    wait_until(lambda: watch.unanswered_s < 0.5, 10, "answers")
    module_kafka.signal(signal.SIGSTOP)
    time.sleep(3)
    assert watch.unanswered_s > 2
    module_kafka.signal(signal.SIGCONT)
    wait_until(lambda: watch.unanswered_s < 0.5, 15, "answers after the suspension")
    watch.check()


def test_a_broker_that_starts_again_has_the_same_topic(
    watch: TopicWatch, module_kafka: Broker
) -> None:
    module_kafka.kill()
    wait_until(lambda: watch.unanswered_s > 1, 10, "no answers")
    module_kafka.start()
    wait_until(lambda: watch.unanswered_s < 0.5, 30, "answers after the restart")
    watch.confirm(5)


def test_a_topic_with_more_than_one_partition_is_refused_at_the_start_and_later(
    watch: TopicWatch, module_kafka: Broker, tmp_path: Path
) -> None:
    admin = KafkaAdminClient(bootstrap_servers=module_kafka.address)
    admin.create_partitions({watch.topic: 2})
    admin.close()
    with pytest.raises(OperationalError, match="has 2 partitions and must have one"):
        watch.confirm(5)
    settings = Settings(
        data_dir=tmp_path, kafka_topic=watch.topic, kafka_bootstrap_servers=module_kafka.address
    )
    with pytest.raises(OperationalError, match="has 2 partitions and must have one"):
        kafka.check_topic(settings)
    client, metadata = kafka.consumer_and_metadata(settings)
    two = "has 2 partitions and must have one"
    with closing(client), pytest.raises(OperationalError, match=two):
        kafka.existing_topic_id(client, metadata, settings)


@pytest.mark.timeout(180)  # with the start of the broker
def test_a_missing_group_coordinator_is_the_state_of_the_consumer_which_ends_on_request(
    module_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "COORDINATOR_MS", 500)
    settings = Settings(
        data_dir=tmp_path,
        kafka_topic=module_kafka.new_topic(),
        kafka_bootstrap_servers=module_kafka.address,
    )
    service = Service("consumer", settings)
    expected = "no committed offset: set offsets.topic.replication.factor=1 if there is one broker"

    def shown() -> str:
        status = outputs.read_status(service.data, "consumer")
        return f"{status.get('state')}: {str(status.get('message'))[:100]}"

    def stop_after_the_report() -> None:
        while expected not in shown():
            time.sleep(0.05)
        service.stop.set()

    with ExitStack() as resources:
        connection = resources.enter_context(closing(sqlite.open_writer(service.data.database)))
        sender = kafka.Sender(service)
        resources.callback(sender.close)
        threading.Thread(target=stop_after_the_report, daemon=True).start()
        with pytest.raises(TemporaryError, match=expected):
            Loader(service, connection, DeadLetters(service, sender))
    assert shown().startswith(f"waiting for Kafka: {expected}")
