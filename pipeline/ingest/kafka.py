"""How messages stand in Kafka: what a record is, and how it gets there without loss."""

import json
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaTimeoutError
from kafka.structs import TopicPartition

from pipeline import times
from pipeline.errors import TemporaryError
from pipeline.ingest import trade
from pipeline.ingest.dead_letters import Rejected
from pipeline.outputs import append_csv
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.times import iso

#: Bytes of a rejected message that are kept.
REJECTED_BYTES = 4096
#: The record of rejected ids is halved when it is longer than this, in bytes.
NOTED_BYTES = 1_000_000
#: Unacknowledged for longer than this, in seconds, means that Kafka is away.
ACKNOWLEDGE_SECONDS = 5.0
#: Seconds to deliver what is left when the service stops.
CLOSE_SECONDS = 4.0
#: kafka-python gives a record up after this; a record is retried for as long as we live.
_FOREVER_MS = 2**31 - 1


class Publisher:
    """Sends records to Kafka; holds at most `max_unacknowledged` that are not yet acknowledged.

    Each record sent is acknowledged by all in-sync replicas or still being retried; one that Kafka
    refuses for good raises, which ends the service.
    """

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self._service = service
        self._limit = settings.max_unacknowledged
        self._key = settings.product_id.encode()
        self._rejected_topic = settings.rejected_topic
        #: (when sent, future), oldest first; each topic's one partition acknowledges in order.
        self._pending: deque[tuple[float, Any]] = deque()
        self._rejected = Rejected()
        service.details["rejected"] = self._rejected.as_status()
        self._retrying = service.retrying("Kafka")
        self._retrying(check_topic, settings)
        self._producer = self._retrying(
            KafkaProducer,
            **_client(settings),
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=5,
            batch_size=131_072,
            delivery_timeout_ms=_FOREVER_MS,
            max_block_ms=3000,
        )

    def send(self, topic: str, value: bytes, received: datetime) -> None:
        """Hands a record over; wait until `has_room` before.

        Raises:
            KafkaError: a record was refused for good, or the service must stop.
        """
        record = {
            "value": value,
            "key": self._key,
            "partition": 0,  # the only one; spares hashing the key
            "timestamp_ms": times.epoch_micros(received) // 1000,
        }
        try:
            future = self._producer.send(topic, **record)
        except KafkaTimeoutError:  # Kafka is away and the topic's place is not known any more
            future = self._retrying(self._producer.send, topic, **record)
        self._pending.append((time.monotonic(), future))

    def reject(self, raw: bytes, size: int, reason: str, received: datetime) -> None:
        """Sends a refused message to the rejected topic, and shows it in the service's status.

        Notes its trade id, if it has one: that explains why it is nowhere else.

        Args:
            raw: the message, or as much of it as was read.
            size: the whole message's length in bytes.
            reason: what was wrong.
            received: the moment of receipt.
        """
        message = raw[:REJECTED_BYTES].decode(errors="backslashreplace")
        record = {"reason": reason, "received": iso(received), "bytes": size, "message": message}
        self._rejected.note(message, size, reason, received)
        self._service.details["rejected"] = self._rejected.as_status()
        number = trade.id_in(raw, self._service.settings.product_id)
        if number is not None:
            self._note(number, reason, received)
        self.send(self._rejected_topic, json.dumps(record).encode(), received)

    def _note(self, number: int, reason: str, received: datetime) -> None:
        path = self._service.data.rejected_by(self._service.name)
        row = {"trade_id": number, "received": received, "reason": reason}
        try:
            append_csv(path, tuple(row), row, NOTED_BYTES)
        except OSError as error:  # a full disk must not stop the good
            self._service.log.warning("a rejected id cannot be noted: %s", error)

    def unacknowledged(self) -> int:
        """How many records wait for Kafka; forgets those that are delivered."""
        pending = self._pending
        while pending and pending[0][1].is_done:
            _, future = pending.popleft()
            if future.failed():
                raise future.exception
        return len(pending)

    def waiting_seconds(self) -> float:
        """How long the oldest unacknowledged record has waited."""
        return time.monotonic() - self._pending[0][0] if self.unacknowledged() else 0.0

    def away(self) -> bool:
        return self.waiting_seconds() > ACKNOWLEDGE_SECONDS

    def has_room(self) -> bool:
        return len(self._pending) < self._limit or self.unacknowledged() < self._limit

    def flush(self) -> bool:
        """Waits until all is acknowledged; False when the service was asked to stop before."""
        while self.unacknowledged():
            if self._service.stop.wait(0.005):
                return False
            if self.away():
                self._service.report("waiting for Kafka", "it does not answer", healthy=False)
            self._service.tick()
        return True

    def close(self) -> None:
        """Deliver the remaining records within a few seconds and log how many are lost."""
        self._producer.close(timeout=CLOSE_SECONDS)
        lost = sum(not future.succeeded() for _, future in self._pending)
        self._pending.clear()
        if lost:
            self._service.error(f"stopped with {lost} messages that Kafka has not acknowledged")


def partition(topic: str) -> TopicPartition:
    """The topic's one partition: it keeps the order of the trades."""
    return TopicPartition(topic, 0)


def consumer(settings: Settings, **options: Any) -> KafkaConsumer:
    """A consumer of the trades' one partition, which commits nothing by itself."""
    kafka = KafkaConsumer(
        **_client(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        **options,
    )
    kafka.assign([partition(settings.kafka_topic)])
    return kafka


def check_topic(settings: Settings) -> None:
    """Returns when Kafka answers and both topics are there.

    Raises:
        KafkaError: Kafka does not answer.
        TemporaryError: a topic does not exist yet.
    """
    kafka = consumer(settings)
    try:
        for topic in (settings.kafka_topic, settings.rejected_topic):
            if not kafka.partitions_for_topic(topic):
                raise TemporaryError(f"topic {topic} does not exist yet")
    finally:
        kafka.close(timeout_ms=1000)


def tail(settings: Settings, count: int) -> Iterator[Any]:
    """The newest records of the topic of trades, at most so many, oldest first.

    Raises:
        KafkaError, TemporaryError: Kafka does not answer any more.
    """
    kafka = consumer(settings, max_partition_fetch_bytes=8 * 1024 * 1024)
    try:
        place = partition(settings.kafka_topic)
        end = kafka.end_offsets([place])[place]
        beginning = kafka.beginning_offsets([place])[place]
        kafka.seek(place, max(beginning, end - count))
        while kafka.position(place) < end:
            records = kafka.poll(timeout_ms=10_000).get(place, [])
            if not records:
                raise TemporaryError(f"no answer from {settings.kafka_bootstrap_servers} for 10 s")
            yield from records
    finally:
        kafka.close(timeout_ms=1000)


def _client(settings: Settings) -> dict[str, Any]:
    return {
        "bootstrap_servers": settings.kafka_bootstrap_servers.split(","),
        "bootstrap_timeout_ms": 3000,
        "reconnect_backoff_max_ms": 2000,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
