"""Kafka's raw_prices into SQLite: rows and bookkeeping in one transaction, then the offset."""

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from pipeline import times
from pipeline.ingest import kafka as topics
from pipeline.ingest import store, trade
from pipeline.ingest.kafka import Publisher
from pipeline.service import Service
from pipeline.times import now

GROUP = "sqlite_writer"
#: At a slow pace, records are gathered for so long, in seconds, before they are stored.
GATHER_SECONDS = 0.5
#: Seconds between two looks at the topic's end.
LOOK_SECONDS = 3.0


class Consumer:
    """Polls, stores, commits, again and again."""

    def __init__(self, service: Service, connection: sqlite3.Connection) -> None:
        self._service = service
        self._settings = service.settings
        self._connection = connection
        self._publisher = Publisher(service)
        self._next_look = 0.0
        self._partition = topics.partition(self._settings.kafka_topic)
        self._kafka = service.retrying("Kafka")(self._connect)
        service.details |= {"last_trade": None, "lag": None}
        self._describe_table()

    def _connect(self) -> KafkaConsumer:
        kafka = topics.consumer(
            self._settings,
            group_id=GROUP,
            max_poll_records=self._settings.poll_max_records,
            max_partition_fetch_bytes=8 * 1024 * 1024,
        )
        start = start_offset(
            stored=store.next_offset(self._connection),
            committed=kafka.committed(self._partition),
            end=kafka.end_offsets([self._partition])[self._partition],
        )
        if start is None:
            kafka.seek_to_beginning(self._partition)
        else:
            kafka.seek(self._partition, start)
        self._service.log.info("starting at %s", "the beginning" if start is None else start)
        return kafka

    def run(self) -> None:
        """Until the service is asked to stop."""
        while not self._service.stop.is_set():
            polled = time.monotonic()
            records = self._kafka.poll(timeout_ms=500).get(self._partition, [])
            if records:
                self._store(records)
            self._report()
            if 0 < len(records) < self._settings.poll_max_records:
                self._service.stop.wait(max(0.0, polled + GATHER_SECONDS - time.monotonic()))

    def _store(self, records: Sequence[Any]) -> None:
        batch = self._decode(records)
        # First what is refused: the database decides where the next start goes on.
        if batch.rejected and not self._publisher.flush():
            return
        waiting = self._service.retrying("the database")
        stored = waiting(
            # The present of each try: that is when the rows are there.
            lambda: store.store(self._connection, batch, now(), self._settings.watermark)
        )
        self._commit(batch.last_offset + 1)
        counters = self._service.counters
        counters["records"] += batch.records
        counters["stored"] += stored.stored
        counters["repeated"] += stored.repeated
        counters["rejected"] += batch.rejected
        self._describe_table()
        if batch.trades:
            newest = batch.trades[-1]
            self._service.details["last_trade"] = {
                "trade_id": newest.trade_id,
                "time": newest.time,
            }

    def _decode(self, records: Sequence[Any]) -> store.Batch:
        trades, receipts, rejected = [], [], 0
        present = now()
        for record in records:
            received = min(times.from_epoch_millis(record.timestamp), present)
            raw = record.value or b""
            try:
                trades.append(trade.decode(raw, self._settings.product_id, received))
                receipts.append(received)
            except trade.RefusedError as refusal:
                rejected += 1
                self._service.log.warning("rejected offset %d: %s", record.offset, refusal)
                self._publisher.reject(raw, len(raw), str(refusal), received)
        return store.Batch(
            first_offset=records[0].offset,
            last_offset=records[-1].offset,
            records=len(records),
            rejected=rejected,
            first_receipt=times.from_epoch_millis(records[0].timestamp),
            last_receipt=times.from_epoch_millis(records[-1].timestamp),
            trades=trades,
            receipts=receipts,
        )

    def _commit(self, offset: int) -> None:
        """A commit that fails costs nothing: the next one, or the database, knows the place."""
        try:
            self._kafka.commit(
                {self._partition: OffsetAndMetadata(offset, "", -1)}, timeout_ms=5000
            )
        except KafkaError as error:
            self._service.error(f"offset {offset} is stored, but not committed: {error}")

    def _describe_table(self) -> None:
        runs, missing = store.open_gaps(self._connection)
        self._service.details |= {
            "rows": store.total_rows(self._connection),
            "gaps": {"open": runs, "missing": missing},
        }

    def _report(self) -> None:
        """Says how things stand; a poll alone does not tell an idle topic from a dead broker."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            try:
                ends = self._kafka.end_offsets([self._partition], timeout_ms=3000)
                lag = ends[self._partition] - self._kafka.position(self._partition, timeout_ms=3000)
            except KafkaError as error:
                self._service.details["lag"] = None
                self._service.report("waiting for Kafka", str(error), healthy=False)
            else:
                self._service.details["lag"] = lag
                self._service.report("running", "stores what comes", healthy=True)
        self._service.tick()

    def close(self) -> None:
        self._publisher.close()
        self._kafka.close(timeout_ms=2000)


def start_offset(stored: int | None, committed: int | None, end: int) -> int | None:
    """Where to go on; None is the beginning of the topic.

    The database knows best what it has. Kafka's own word tells whether this is still the topic
    that filled it: a new one has no committed offset, or ends before what is stored.
    """
    if stored is None or committed is None or stored > end:
        return None
    return stored
