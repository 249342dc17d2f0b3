"""The progress of the query: polled from Spark, counted, and appended to the progress record."""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pyspark.sql.streaming import StreamingQuery

from pipeline import outputs, times
from pipeline.service import Service
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
#: A micro-batch that takes longer than this is reported, seconds.
STALLED_SECONDS = 120.0


class Progress:
    """Counts what the query reports about its micro-batches, and records it.

    It polls: a listener in Python costs eight CPU seconds a minute.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        #: What each micro-batch published and how long it then waited, until it is recorded.
        self._published: dict[int, tuple[Publication, float]] = {}
        self._recorded = -1
        #: The last time at which a micro-batch was completed or the query was idle.
        self._active_at = time.monotonic()

    def published(self, micro_batch: int, publication: Publication, waited_s: float) -> None:
        """Keep what a micro-batch published, and how long it then waited, for its record."""
        self._published[micro_batch] = (publication, waited_s)

    def poll(self, query: StreamingQuery) -> None:
        """Record the micro-batches completed since the last poll; Spark keeps the last hundred."""
        last = query.lastProgress
        if not query.status["isTriggerActive"]:
            self._active_at = time.monotonic()
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
        silent = time.monotonic() - self._active_at
        if silent > STALLED_SECONDS + self._service.settings.trigger_seconds:
            message = f"no micro-batch completed for {silent:.0f} s"
            self._service.report("stalled", message, healthy=False)
        else:
            self._service.report("running", "reads Kafka and writes windows", healthy=True)

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
        outputs.append_csv(path, PROGRESS_COLUMNS, row, RECORD_BYTES)


def is_completed(progress: Mapping[str, Any]) -> bool:
    """Return whether this is the progress of a micro-batch that ran.

    Every 10 seconds an idle query reports that it ran none, under the number of the next one.
    """
    return "addBatch" in progress["durationMs"]


def progress_row(
    progress: Mapping[str, Any], publication: Publication | None, waited_s: float = 0.0
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
