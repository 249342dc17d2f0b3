"""The watch on the topic: the same one, another one, and a Kafka that does not answer."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from local import topics
from pipeline.errors import OperationalError, TemporaryError
from pipeline.ingest.kafka import check_topic, topic_id
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stream import topic_watch
from pipeline.stream.topic_watch import TopicChangedError, TopicWatch
from tests.conftest import Broker, wait_until


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
    for check in (check_topic, topic_id):
        with pytest.raises(OperationalError, match="has 2 partitions and must have one"):
            check(settings)
