"""Kafka: the topics, and how a record is sent without loss."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from threading import Event
from types import MappingProxyType
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaTimeoutError, NoError, UnknownTopicOrPartitionError, for_code
from kafka.structs import OffsetAndMetadata, TopicPartition

from pipeline import kafka_security, times
from pipeline.errors import OperationalError, TemporaryError
from pipeline.ingest.kafka_connection import connected, end
from pipeline.ingest.trade import BACKFILL_HEADER
from pipeline.service import Service
from pipeline.settings import Settings

#: How many records before a moment `records_since` yields. One of them is usually a trade, which
#: has the trade id below a gap that begins at that moment.
RECORDS_BEFORE = 1000

#: Seconds. If a record is unacknowledged for longer, Kafka does not answer.
ACKNOWLEDGE_SECONDS = 5.0
#: Seconds to deliver the remaining records when the service stops.
CLOSE_SECONDS = 2.0
#: Milliseconds within which Kafka must return the id of a topic.
IDENTITY_MS = 5000
#: Milliseconds within which the client must return its position in the topic.
POSITION_MS = 3000
#: Milliseconds within which Kafka must return what the consumer group committed.
COORDINATOR_MS = 5000
#: Milliseconds to reach a broker. The caller tries again.
CONNECT_MS = 3000
#: Milliseconds between two reads of the topic's metadata. A topic that was created again has
#: another id there.
METADATA_MS = 2000
#: Milliseconds after which kafka-python drops a record. The producer must never drop one.
_FOREVER_MS = 2**31 - 1
#: What affects the throughput of a client that sends, and of one that reads. The benchmarks measure
#: the limit of kafka-python with the same options.
SEND_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "acks": "all",
        "enable_idempotence": True,
        "compression_type": "lz4",
        "linger_ms": 5,
        "batch_size": 131_072,
        "metrics_enabled": False,
    }
)
READ_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "max_partition_fetch_bytes": 8 * 1024 * 1024,
        "metrics_enabled": False,
    }
)


class Sender:
    """Sends records to Kafka; at most `max_unacknowledged` of them wait for acknowledgement.

    Each record is acknowledged by all in-sync replicas, or is still being retried. A record that
    Kafka rejects permanently raises an error, which ends the service.
    """

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self._limit = settings.max_unacknowledged
        self._key = settings.product_id.encode()
        #: When each record was sent, and its future; oldest first. A topic has one partition,
        #: which acknowledges in order.
        self._pending: deque[tuple[float, Any]] = deque()
        self._retrying = service.retrying("Kafka")
        self._retrying(check_topic, settings)
        self._producer, self._metadata = self._retrying(
            connected,
            KafkaProducer,
            **_client(settings),
            **SEND_OPTIONS,
            delivery_timeout_ms=_FOREVER_MS,
            max_block_ms=3000,
        )
        # From now on, the client keeps the metadata of the topics fresh, and with it their ids.
        for topic in (settings.kafka_topic, settings.rejected_topic):
            self._retrying(self._producer.partitions_for, topic)

    def send(
        self,
        topic: str,
        value: bytes,
        received: datetime,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """Hand a record to the client. The caller waits for `has_room` first.

        Raises:
            TemporaryError: the service was asked to stop while Kafka did not answer.
        """
        record = {
            "value": value,
            "key": self._key,
            "partition": 0,  # the only one; the client need not hash the key
            "timestamp_ms": times.epoch_micros(received) // 1000,
            "headers": list(headers),
        }
        try:
            future = self._producer.send(topic, **record)
        except KafkaTimeoutError:  # the client has no metadata of the topic
            future = self._retrying(self._send_or_explain, topic, record)
        self._pending.append((time.monotonic(), future))

    def _send_or_explain(self, topic: str, record: Mapping[str, Any]) -> Any:
        try:
            return self._producer.send(topic, **record)
        except KafkaTimeoutError as error:
            raise TemporaryError(self.stall()) from error

    def topic_id(self) -> str | None:
        """Return Kafka's id of the topic of trades, at most a few seconds old; None: unknown."""
        return known_topic_id(self._metadata, self._service.settings)

    def unacknowledged(self) -> int:
        """Return how many records are not acknowledged yet.

        Raises:
            KafkaError: Kafka rejected a record permanently.
        """
        pending = self._pending
        while pending and pending[0][1].is_done:
            _, future = pending.popleft()
            if future.failed():
                raise future.exception
        return len(pending)

    def is_stalled(self) -> bool:
        """Return whether the oldest unacknowledged record has waited for too long."""
        if not self.unacknowledged():
            return False
        return time.monotonic() - self._pending[0][0] > ACKNOWLEDGE_SECONDS

    def stall(self) -> str:
        """Return the sentence about a Kafka that does not acknowledge: see `no_answer`."""
        settings = self._service.settings
        return no_answer(self._metadata, settings, settings.kafka_topic, settings.rejected_topic)

    def has_room(self) -> bool:
        return len(self._pending) < self._limit or self.unacknowledged() < self._limit

    def flush(self) -> bool:
        """Wait until all records are acknowledged.

        Returns:
            False if the service was asked to stop before.
        """
        while self.unacknowledged():
            if self._service.stop.wait(0.005):
                return False
            if self.is_stalled():
                self._service.report("waiting for Kafka", self.stall(), healthy=False)
            self._service.tick()
        return True

    def close(self) -> None:
        """Deliver remaining records within a few seconds. Log the number of undelivered ones."""
        end(self._producer, CLOSE_SECONDS)
        lost = sum(not future.succeeded() for _, future in self._pending)
        self._pending.clear()
        if lost:
            self._service.error(undelivered(self._service.name, lost))


def undelivered(name: str, lost: int) -> str:
    """Return the sentence about messages that were not acknowledged when a service stopped."""
    messages = "1 message" if lost == 1 else f"{lost:,} messages"
    then = "recovers the trades that Kafka lacks, up to BACKFILL_SECONDS old"
    if name == "consumer":
        then = "reads the rejected records again, and sends them again"
    return (
        f"the {name} stopped before Kafka acknowledged {messages}. After its next start, it {then}"
    )


def partition(topic: str) -> TopicPartition:
    """Return the only partition of a topic: one partition keeps the order of the trades."""
    return TopicPartition(topic, 0)


def consumer(settings: Settings, **options: Any) -> KafkaConsumer:
    """Return a consumer of the topic of trades that commits no offset by itself."""
    return consumer_and_metadata(settings, **options)[0]


def consumer_and_metadata(
    settings: Settings, **options: Any
) -> tuple[KafkaConsumer, ClusterMetadata]:
    """Return a consumer of the topic of trades, and the metadata that its client keeps."""
    kafka, metadata = connected(
        KafkaConsumer,
        **_client(settings),
        **READ_OPTIONS,
        **options,
    )
    kafka.assign([partition(settings.kafka_topic)])
    return kafka, metadata


def position(kafka: KafkaConsumer, trades: TopicPartition, timeout_ms: int = POSITION_MS) -> int:
    """Return the offset of the record that the consumer reads next.

    Raises:
        KafkaTimeoutError: the client does not have it yet. It has requested it from Kafka.
    """
    found: int | None = kafka.position(trades, timeout_ms=timeout_ms)
    if found is None:
        raise KafkaTimeoutError(f"no position in topic {trades.topic} within {timeout_ms} ms")
    return found


def committed(kafka: KafkaConsumer, trades: TopicPartition) -> OffsetAndMetadata | None:
    """Return what the consumer group committed; None if it committed nothing.

    Raises:
        TemporaryError: Kafka did not return it. By default, kafka-python waits for a group
            coordinator without a time limit.
    """
    try:
        found: OffsetAndMetadata | None = kafka.committed(
            trades, metadata=True, timeout_ms=COORDINATOR_MS
        )
    except KafkaTimeoutError as error:
        raise TemporaryError(
            "no committed offset: set offsets.topic.replication.factor=1 if there is one broker. "
            "Check that the brokers run, and that each partition of the topic __consumer_offsets "
            "has a leader"
        ) from error
    return found


def no_answer(metadata: ClusterMetadata, settings: Settings, *topics: str) -> str:
    """Return the probable cause of a timeout of a client, and the action.

    A client reports every cause as a timeout.

    Args:
        metadata: the client's metadata of the topics, also kept while no broker answers.
        settings: the settings of the service.
        topics: topics that existed when the client was created.
    """
    for topic in topics:
        if metadata.partitions_for_topic(topic) is None:
            return f"topic {topic} was deleted. Create it with `python -m local.topics`"
    servers = settings.kafka_bootstrap_servers
    text = "no answer from Kafka. Check that its brokers run"
    if settings.kafka_credentials_file is not None:
        text += ". Restart this service if the login in KAFKA_CREDENTIALS_FILE has changed"
    return f"{text} ({servers})"


def _no_topic(name: str) -> TemporaryError:
    return TemporaryError(
        f"topic {name} does not exist yet. Create it with `python -m local.topics`"
    )


def check_topic(settings: Settings) -> None:
    """Check that Kafka answers and both topics exist.

    Raises:
        KafkaError: Kafka does not answer.
        TemporaryError: a topic does not exist yet.
        OperationalError: the topic of trades has more than one partition.
    """
    kafka = consumer(settings)
    try:
        for topic in (settings.kafka_topic, settings.rejected_topic):
            partitions = kafka.partitions_for_topic(topic)
            if not partitions:
                raise _no_topic(topic)
            if topic == settings.kafka_topic:
                require_one_partition(topic, len(partitions))
    finally:
        kafka.close(timeout_ms=1000)


def require_one_partition(topic: str, partitions: int) -> None:
    """Check the number of partitions of the topic of trades: only one keeps the order of arrival.

    Raises:
        OperationalError: there are more.
    """
    if partitions > 1:
        raise OperationalError(
            f"topic {topic} has {partitions} partitions and must have one. Set KAFKA_TOPIC to a "
            "new name. docs/scale.md gives the reasons"
        )


class TopicIdentity:
    """Requests the id of the topic of trades from Kafka, over one connection.

    A topic that is deleted and created again has another id. An id is never used twice, so if the
    id is unchanged after a record was read, the record is from this topic.
    """

    def __init__(self, settings: Settings) -> None:
        """Connect to Kafka.

        Raises:
            KafkaError: Kafka does not answer.
        """
        options = _client(settings)
        del options["allow_auto_create_topics"]  # not known to the admin client
        self._topic = settings.kafka_topic
        self._admin, _ = connected(KafkaAdminClient, request_timeout_ms=IDENTITY_MS, **options)

    def read(self) -> str:
        """Return the id.

        Raises:
            KafkaError: Kafka does not answer.
            TemporaryError: the topic does not exist.
            OperationalError: it has more than one partition.
        """
        (described,) = self._admin.describe_topics([self._topic])
        failure = for_code(described["error_code"])
        if failure is UnknownTopicOrPartitionError:
            raise _no_topic(self._topic)
        if failure is not NoError:
            raise failure(self._topic)
        require_one_partition(self._topic, len(described["partitions"]))
        return str(described["topic_id"])

    def close(self) -> None:
        self._admin.close()


def existing_topic_id(kafka: KafkaConsumer, metadata: ClusterMetadata, settings: Settings) -> str:
    """Return Kafka's id of the topic of trades, by a client that has just been created.

    Raises:
        KafkaError: Kafka does not answer.
        TemporaryError: the topic does not exist yet.
        OperationalError: the topic has more than one partition.
    """
    partitions = kafka.partitions_for_topic(settings.kafka_topic)
    found = known_topic_id(metadata, settings)
    if not partitions or found is None:
        raise _no_topic(settings.kafka_topic)
    require_one_partition(settings.kafka_topic, len(partitions))
    return found


def known_topic_id(metadata: ClusterMetadata, settings: Settings) -> str | None:
    """Return Kafka's id of the topic of trades from a client's metadata; None if unknown."""
    found = metadata.topic_id(settings.kafka_topic)
    return str(found) if found is not None and found.int else None


def newest_records(settings: Settings, count: int) -> Iterator[Any]:
    """Yield the newest records of the topic of trades, at most `count`, oldest first.

    Raises:
        KafkaError, TemporaryError: Kafka does not answer.
    """
    yield from _records(settings, lambda _kafka, _trades, end: (end - count, end))


def records_since(settings: Settings, moment: datetime, before: int, stop: Event) -> Iterator[Any]:
    """Yield the records of the topic of trades since a moment, and a few before it, oldest first.

    It ends early when `stop` is set.

    Args:
        settings: the settings of the service.
        moment: a time of receipt.
        before: the offset to end at.
        stop: ends the reading.

    Raises:
        KafkaError, TemporaryError: Kafka does not answer.
    """

    def offsets(kafka: KafkaConsumer, trades: TopicPartition, end: int) -> tuple[int, int]:
        millis = max(0, times.epoch_micros(moment) // 1000)
        found = kafka.offsets_for_times({trades: millis})[trades]
        return (found.offset if found else end) - RECORDS_BEFORE, min(before, end)

    for record in _records(settings, offsets):
        if stop.is_set():
            return
        yield record


def is_backfilled(record: Any) -> bool:
    """Return whether a record was recovered over REST."""
    return any(name == BACKFILL_HEADER for name, _ in record.headers)


def _records(
    settings: Settings,
    offsets: Callable[[KafkaConsumer, TopicPartition, int], tuple[int, int]],
) -> Iterator[Any]:
    """Yield the records between the two offsets that `offsets` returns for the end of the topic."""
    kafka, metadata = consumer_and_metadata(settings)
    try:
        trades = partition(settings.kafka_topic)
        end = kafka.end_offsets([trades])[trades]
        beginning = kafka.beginning_offsets([trades])[trades]
        first, end = offsets(kafka, trades, end)
        kafka.seek(trades, max(beginning, first))
        while position(kafka, trades) < end:
            records = kafka.poll(timeout_ms=10_000).get(trades, [])
            if not records:
                raise TemporaryError(no_answer(metadata, settings, settings.kafka_topic))
            yield from (record for record in records if record.offset < end)
    finally:
        kafka.close(timeout_ms=1000)


def _client(settings: Settings) -> dict[str, Any]:
    return {
        "bootstrap_servers": settings.kafka_bootstrap_servers.split(","),
        "bootstrap_timeout_ms": CONNECT_MS,
        "metadata_max_age_ms": METADATA_MS,
        "reconnect_backoff_max_ms": 2000,
        "allow_auto_create_topics": False,
        **kafka_security.client_options(settings),
    }
