"""Load records from Kafka into the store.

One transaction stores the trades and the offsets. Then the consumer commits the offset to Kafka.
"""

import gc
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from kafka import KafkaConsumer
from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import OffsetAndMetadata

from pipeline import times
from pipeline.errors import RestartError, is_temporary, sentence
from pipeline.ingest import kafka, retention, store, trade
from pipeline.ingest.dead_letters import DeadLetters
from pipeline.service import Service
from pipeline.source import record_topic_id
from pipeline.stores import common_queries
from pipeline.stores.interface import Writer

#: Kafka has the offsets of earlier versions under this name, so it stays, with any store.
GROUP = "sqlite_writer"
#: Seconds. At a low rate, records are collected for this long before they are stored.
COLLECT_SECONDS = 0.5
#: Milliseconds to read the newest stored record back from Kafka at the start.
READ_BACK_MS = 5000
#: Seconds between two measurements of the lag.
LAG_SECONDS = 3.0
#: Seconds from the end of a deletion of old bookkeeping to the next check.
RETENTION_SECONDS = 3600.0


class Loader:
    """Polls records, stores them and commits their offset, until the service is asked to stop."""

    def __init__(self, service: Service, connection: Writer, dead_letters: DeadLetters) -> None:
        self._service = service
        self._settings = service.settings
        self._connection = connection
        self._dead_letters = dead_letters
        self._next_lag = self._next_deletion = 0.0
        #: The dead-letter topic has every rejected record before this offset.
        self._handled = 0
        self._partition = kafka.partition(self._settings.kafka_topic)
        service.details |= {"last_trade": None, "lag": None}
        self._describe_table()
        self._kafka, self._metadata = service.retrying("Kafka")(self._connect)
        try:
            record_topic_id(service.data, self._topic_id)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> tuple[KafkaConsumer, ClusterMetadata]:
        consumer, metadata = kafka.consumer_and_metadata(
            self._settings,
            group_id=GROUP,
            max_poll_records=self._settings.poll_max_records,
        )
        try:
            self._topic_id = kafka.existing_topic_id(consumer, metadata, self._settings)
            filled_by = common_queries.newest_topic(self._connection)
            committed = kafka.committed(consumer, self._partition)
            end = consumer.end_offsets([self._partition])[self._partition]
            self._handled = handled_before(committed, end, self._topic_id)
            start = start_offset(
                stored=common_queries.next_offset(self._connection),
                committed=None if committed is None else committed.offset,
                end=end,
                same_topic=None if filled_by is None else filled_by == self._topic_id,
            )
            if start is not None and not self._is_kept(consumer, start - 1):
                start, self._handled = None, 0
            if start is None:
                consumer.seek_to_beginning(self._partition)
            else:
                consumer.seek(self._partition, start)
        except BaseException:
            consumer.close(timeout_ms=0)
            raise
        place = "the beginning of the topic" if start is None else f"offset {start}"
        self._service.log.info("the consumer starts at %s (topic id %s)", place, self._topic_id)
        if filled_by not in {None, self._topic_id}:
            self._service.log.warning("the stored rows are from another topic, id %s", filled_by)
        return consumer, metadata

    def _is_kept(self, consumer: KafkaConsumer, offset: int) -> bool:
        """Return whether the topic still has the newest stored record at its offset.

        A power cut of the broker's host can remove its newest records. New records then get their
        offsets. A record that retention has deleted counts as kept.
        """
        consumer.seek(self._partition, offset)
        polled = consumer.poll(timeout_ms=READ_BACK_MS, max_records=1)
        for record in polled.get(self._partition, []):
            if record.offset == offset:
                received = times.from_epoch_millis(record.timestamp)
                return common_queries.newest_receipt(self._connection) == times.time_text(received)
        return True

    def run(self) -> None:
        """Load until the service is asked to stop.

        Raises:
            RestartError: the topic was created again, or the database was deleted or replaced.
        """
        while not self._service.stop.is_set():
            polled = time.monotonic()
            records = self.poll()
            if records:
                self.load(records)
            self.check_identity()
            self._delete_expired()
            self._report()
            if 0 < len(records) < self._settings.poll_max_records:
                self._service.stop.wait(max(0.0, polled + COLLECT_SECONDS - time.monotonic()))

    def poll(self) -> Sequence[Any]:
        """Return the next records; an empty sequence if none arrives within half a second."""
        records: Sequence[Any] = self._kafka.poll(timeout_ms=500).get(self._partition, [])
        return records

    def check_identity(self) -> None:
        """Check that the topic and the database are still those that this loader opened.

        It may find a change up to two seconds late. The rows stored meanwhile are harmless: the
        next start compares the stored topic with Kafka's and reads from the beginning.

        Raises:
            RestartError: the topic was created again, or the database was deleted or replaced.
        """
        self._connection.check()
        found = kafka.known_topic_id(self._metadata, self._settings)
        if found not in {None, self._topic_id}:
            raise RestartError(
                f"topic {self._settings.kafka_topic} was created again: reading it from its "
                f"beginning. The topic id was {self._topic_id} and is now {found}"
            )

    def load(self, records: Sequence[Any]) -> None:
        """Store records and commit their offset; store nothing if the service has to stop first.

        Kafka must acknowledge the dead letters before the records are stored. The next start
        continues after the newest stored record, so it cannot send a lost dead letter again.
        """
        batch = self._decode(records)
        if batch.rejected and not self._dead_letters.flush():
            return
        stored = self._service.retrying("the database")(self._store, batch)
        self._commit(batch.last_offset + 1)
        counters = self._service.counters
        counters["records"] += batch.records
        counters["stored"] += stored.stored
        counters["repeated"] += stored.repeated
        counters["rejected"] += batch.rejected
        self._describe_table()
        received_live = zip(batch.trades, batch.receipts, strict=True)
        if live := [one for one, receipt in received_live if receipt is not None]:
            self._service.details["last_trade"] = {
                "trade_id": live[-1].trade_id,
                "time": live[-1].time,
            }

    def _store(self, batch: store.Batch) -> store.StoreResult:
        """Store a batch at the present time: the rows become visible at the commit."""
        return store.store(
            self._connection,
            batch,
            times.now(),
            self._settings.watermark,
            timedelta(seconds=self._settings.trigger_seconds),
        )

    def _delete_expired(self) -> None:
        """Delete a part of the old bookkeeping. Deleting all of it would delay new records."""
        if self._settings.retention_days is None or time.monotonic() < self._next_deletion:
            return
        deleted = self._service.retrying("the database")(
            retention.delete_expired,
            self._connection,
            self._service.data,
            self._settings,
            times.now(),
        )
        if not deleted:
            self._next_deletion = time.monotonic() + RETENTION_SECONDS

    def _decode(self, records: Sequence[Any]) -> store.Batch:
        trades, receipts, offsets, rejected = [], [], [], 0
        for record in records:
            received = times.from_epoch_millis(record.timestamp)
            raw = record.value or b""
            try:
                trades.append(trade.decode(raw, self._settings.product_id, received))
                # The receipt of a backfilled trade is much later than the trade: it is no latency.
                receipts.append(None if kafka.is_backfilled(record) else received)
                offsets.append(record.offset)
            except trade.InvalidTradeError as error:
                rejected += 1
                self._service.warn_about_message(
                    f"rejected the record at offset {record.offset}: {error}"
                )
                is_new = record.offset >= self._handled
                self._dead_letters.reject(raw, len(raw), str(error), received, send=is_new)
        return store.Batch(
            first_offset=records[0].offset,
            last_offset=records[-1].offset,
            records=len(records),
            rejected=rejected,
            first_receipt=times.from_epoch_millis(records[0].timestamp),
            last_receipt=times.from_epoch_millis(records[-1].timestamp),
            trades=trades,
            receipts=receipts,
            topic=self._topic_id,
            offsets=offsets,
        )

    def _commit(self, offset: int) -> None:
        """Commit the offset with the id of the topic: see `handled_before`.

        A failure loses nothing, because the database holds the offset too. The committed offset
        never decreases, even if the database was replaced and is filled again.
        """
        if offset <= self._handled:
            return
        try:
            self._kafka.commit(
                {self._partition: OffsetAndMetadata(offset, self._topic_id, -1)}, timeout_ms=5000
            )
            self._handled = offset
        except KafkaError as error:
            self._service.error(not_committed(offset, error))

    def _describe_table(self) -> None:
        gaps, missing = common_queries.open_gaps(self._connection)
        self._service.details |= {
            "rows": common_queries.total_rows(self._connection),
            "gaps": {"open": gaps, "missing": missing},
        }

    def _report(self) -> None:
        """Report the lag. Without it, an idle topic and a dead broker look the same."""
        if time.monotonic() >= self._next_lag:
            self._next_lag = time.monotonic() + LAG_SECONDS
            try:
                ends = self._kafka.end_offsets([self._partition], timeout_ms=3000)
                lag = ends[self._partition] - kafka.position(self._kafka, self._partition)
            except KafkaError as error:
                self._service.details["lag"] = None
                self._service.report("waiting for Kafka", self._cause(error), healthy=False)
                gc.collect()  # the client's refused sockets stay open in reference cycles
            else:
                self._service.details["lag"] = lag
                self._service.report("running", "storing trades", healthy=True)
        self._service.tick()

    def _cause(self, error: KafkaError) -> str:
        """Return why the lag is unknown."""
        topic = self._settings.kafka_topic
        is_deleted = self._metadata.partitions_for_topic(topic) is None
        if is_deleted or isinstance(error, KafkaTimeoutError):
            return kafka.no_answer(self._metadata, self._settings, topic)
        return sentence(error)

    def close(self) -> None:
        self._kafka.close(timeout_ms=2000)


def handled_before(committed: OffsetAndMetadata | None, end: int, topic_id: str) -> int:
    """Return the offset below which the dead-letter topic has every rejected record; 0: unknown.

    The consumer commits an offset after Kafka has acknowledged the dead letters before it. The
    offset stays in Kafka if the database is replaced.

    Args:
        committed: what this consumer group committed; None if it committed nothing.
        end: the offset after the newest record of the topic.
        topic_id: Kafka's id of the topic.
    """
    if committed is None or committed.metadata != topic_id or committed.offset > end:
        return 0
    return int(committed.offset)


def not_committed(offset: int, error: KafkaError) -> str:
    """Return the sentence about an offset that could not be committed."""
    then = "Nothing to do: the next commit includes it. Cause: " if is_temporary(error) else ""
    return f"Offset {offset} is stored but not committed. {then}{sentence(error)}"


def start_offset(
    stored: int | None, committed: int | None, end: int, *, same_topic: bool | None = None
) -> int | None:
    """Return the offset to continue at; None is the beginning of the topic.

    The database has the exact offset and the id of its topic. If it has no id (schema version 2),
    the two values from Kafka show whether this is still the topic that filled the database: a new
    topic has no committed offset, or ends before the stored one.

    Args:
        stored: the offset after the newest stored record; None if nothing is stored.
        committed: the offset that this consumer group committed; None if it committed none.
        end: the offset after the newest record of the topic.
        same_topic: whether the stored record is from this topic; None: not recorded.
    """
    if stored is None or stored > end or same_topic is False:
        return None
    if same_topic is None and committed is None:
        return None
    return stored
