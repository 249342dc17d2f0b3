"""The progress of the query: polled from Spark, counted, and appended to the progress record."""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyspark.sql.streaming import StreamingQuery

from pipeline import text_files, times
from pipeline.service import Service
from pipeline.stream.micro_batches import Recorder
from pipeline.stream.query import Query
from pipeline.stream.topic_watch import TopicWatch
from pipeline.stream.windows import Publication

#: Columns of `stream_progress.csv`, a row for each micro-batch. `published_at` is when its open
#: windows became readable, `newest_trade` the newest trade in them, `rows` the records that it
#: read, and `first_receipt` and `last_receipt` when these were received (empty if some were
#: backfilled).
PROGRESS_COLUMNS = (
    "micro_batch",
    "published_at",
    "newest_trade",
    "rows",
    "first_receipt",
    "last_receipt",
    "unparsable",
    "duplicates",
    "late",
    "duration_ms",
    "lag",
    "state_rows",
    "state_bytes",
)
#: The record loses its older half above this size, bytes: more than a day of micro-batches.
RECORD_BYTES = 16_000_000
#: Seconds that a micro-batch may take in addition to three trigger intervals. On two busy cores,
#: micro-batches of a few records took up to 4 s.
MARGIN_SECONDS = 8.0
#: Seconds that the first micro-batch after a start may take in addition.
FIRST_SECONDS = 40.0
#: Records per second that the slowest supported machine processes. In a catch-up on two cores, the
#: stream reads 57,000 per second.
SLOWEST_RATE = 1000.0


class Progress:
    """Counts what the query reports about its micro-batches, and records it.

    It polls: a listener in Python costs eight CPU seconds a minute. A thread polls, because a call
    into a suspended Java process does not return.
    """

    def __init__(self, service: Service, recorder: Recorder, topic: TopicWatch) -> None:
        self._service = service
        self._recorder = recorder
        self._topic = topic
        #: What each micro-batch published and how long it then waited, until it is recorded.
        self._published: dict[int, tuple[Publication, float]] = {}
        self._recorded = -1
        #: The last time at which a micro-batch was completed or the query was idle, and the last
        #: time at which Java answered.
        self._active_at = self._answered_at = time.monotonic()
        self._error: Exception | None = None
        self._ended = threading.Event()

    def follow(self, query: Query) -> None:
        """Poll the query in a thread until it ends or the service stops."""
        self._active_at = self._answered_at = time.monotonic()  # the start of the query takes long
        threading.Thread(target=self._follow, args=(query,), name="progress", daemon=True).start()

    def _follow(self, query: Query) -> None:
        try:
            while not query.has_ended(wait_s=1):
                self.poll(query.spark)
        except Exception as error:  # noqa: BLE001 - `has_ended` raises it in the main thread
            self._error = error
        self._ended.set()

    def has_ended(self, wait_s: float) -> bool:
        """Wait and return whether the query has ended.

        Raises:
            Exception: the error with which the query ended.
        """
        ended = self._ended.wait(wait_s)
        if self._error is not None:
            raise self._error
        return ended

    def published(self, micro_batch: int, publication: Publication, waited_s: float) -> None:
        """Keep what a micro-batch published, and how long it then waited, for its record."""
        self._published[micro_batch] = (publication, waited_s)

    def poll(self, query: StreamingQuery) -> None:
        """Record the micro-batches completed since the last poll; Spark keeps the last hundred."""
        last = query.lastProgress
        if not query.status["isTriggerActive"]:
            self._active_at = time.monotonic()
        self._answered_at = time.monotonic()
        if last is None or last["batchId"] == self._recorded:
            return
        is_next = last["batchId"] == self._recorded + 1
        for progress in [last] if is_next else query.recentProgress:
            if progress["batchId"] > self._recorded and is_completed(progress):
                self._active_at = time.monotonic()
                self._recorded = progress["batchId"]
                self._record(json.loads(progress.json))

    def report(self) -> None:
        """Report the service as running, or as stalled if no micro-batch completes."""
        now, settings = time.monotonic(), self._service.settings
        records = settings.max_offsets_per_trigger  # before the first micro-batch: unknown
        if self._recorded >= 0:
            records = self._recorder.records_in(self._recorded + 1)
        stall = stalled(
            Silence(now - self._active_at, now - self._answered_at, self._topic.unanswered_s),
            settings.trigger_seconds,
            records,
            is_first=self._recorded < 0,
        )
        if stall:
            self._service.report("stalled", stall, healthy=False)
        else:
            self._service.report("running", "reading Kafka and writing windows", healthy=True)

    def _record(self, progress: Mapping[str, Any]) -> None:
        publication, waited_s = self._published.pop(progress["batchId"], (None, 0.0))
        row = progress_row(progress, publication, waited_s)
        counters = self._service.counters
        for name in ("rows", "unparsable", "duplicates", "late"):
            counters[name] += row[name]
        self._service.details |= {
            "micro_batch": row["micro_batch"],
            "micro_batch_ms": row["duration_ms"],
            "lag": row["lag"],
        }
        path = self._service.data.stream_progress
        text_files.append_csv(path, PROGRESS_COLUMNS, row, RECORD_BYTES)


@dataclass(frozen=True)
class Silence:
    """Seconds since the last progress and the last answers."""

    #: Since a micro-batch completed, or the query was idle.
    query_s: float
    #: Since the Java process answered.
    java_s: float
    #: Since Kafka answered this process, not Java.
    kafka_s: float


def stalled(silence: Silence, trigger_s: float, records: int, *, is_first: bool) -> str | None:
    """Return in one sentence why the stream has stalled; None if it has not.

    A suspended process does not answer, so three trigger intervals and a margin are enough to
    report it. A micro-batch in a catch-up is slow, but both processes answer. It may take longer,
    by its number of records.

    Args:
        silence: seconds since the last progress and the last answers.
        trigger_s: seconds from the start of one micro-batch to the start of the next.
        records: how many records the running micro-batch has.
        is_first: whether it is the first one since the start of the query.
    """
    limit = 3 * trigger_s + MARGIN_SECONDS
    if silence.query_s <= limit:
        return None
    text = f"no micro-batch for {silence.query_s:.0f} s"
    if silence.java_s > limit:
        return (
            f"{text}: Java does not answer. Free CPU or memory. If this lasts, restart the service"
        )
    if silence.kafka_s > limit:
        return f"{text}: Kafka does not answer. Check that it runs. The stream then continues"
    if silence.query_s <= limit + records / SLOWEST_RATE + FIRST_SECONDS * is_first:
        return None
    return f"{text}. Free CPU. A micro-batch is still running (records: {records:,})"


def is_completed(progress: Mapping[str, Any]) -> bool:
    """Return whether this is the progress of a micro-batch that ran.

    Every 10 seconds an idle query reports that it ran none, under the number of the next one.
    """
    return "addBatch" in progress["durationMs"]


def progress_row(
    progress: Mapping[str, Any], publication: Publication | None, waited_s: float
) -> dict[str, Any]:
    """Return the progress of a micro-batch with PROGRESS_COLUMNS.

    Args:
        progress: as Spark reports it.
        publication: what it published; None if it completed before this process started.
        waited_s: how long it then waited until the next one was due, seconds.
    """
    observed = (progress.get("observedMetrics") or {}).get("input") or {}
    # Receipts measure the latency. It is unknown if only some of the records have it.
    receipts = {} if observed.get("backfilled") else observed
    operators = progress.get("stateOperators") or []
    lag = (progress["sources"][0].get("metrics") or {}).get("maxOffsetsBehindLatest")
    duration_ms = progress["durationMs"].get("triggerExecution")
    if publication is None:  # how long it waited is unknown too
        duration_ms = None
    elif duration_ms is not None:
        duration_ms = max(0, duration_ms - round(waited_s * 1000))
    return {
        "micro_batch": progress["batchId"],
        "published_at": publication and publication.published_at,
        "newest_trade": publication and publication.newest_trade,
        "rows": observed.get("rows", 0),
        "first_receipt": _moment(receipts.get("first_receipt")),
        "last_receipt": _moment(receipts.get("last_receipt")),
        "unparsable": observed.get("unparsable", 0),
        "duplicates": sum(
            operator.get("customMetrics", {}).get("numDroppedDuplicateRows", 0)
            for operator in operators
        ),
        "late": sum(operator["numRowsDroppedByWatermark"] for operator in operators),
        "duration_ms": duration_ms,
        "lag": None if lag is None else int(float(lag)),
        "state_rows": sum(operator["numRowsTotal"] for operator in operators),
        "state_bytes": sum(operator["memoryUsedBytes"] for operator in operators),
    }


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else times.from_epoch_micros(micros)
