"""Completeness: how many trades survive each step from the exchange to each path's result."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from pipeline.compare.inputs import IngestCounts
from pipeline.health import STALE_SECONDS
from pipeline.outputs import SERVICE_STOPPED, part

#: Why a stage holds fewer trades than its input.
LOSSES = ("missing", "repeated", "rejected", "late", "deleted", "unexplained", "not_yet")
FUNNEL_COLUMNS = ("stage", "drawn_from", "count", *LOSSES, "of_issued", "of_received")

#: The stages in order, each named after its input and its output.
PUBLISHED = "received → published"
READ = "in Kafka → read by the consumer"
STORED = "read by the consumer → stored"
STORED_OF_ISSUED = "issued by the exchange → stored"
IN_STREAM = "stored → counted by the stream"
IN_BATCH = "stored → counted by the batch"


def funnel(
    ingest_counts: IngestCounts | None,
    status: Mapping[str, Mapping[str, Any]],
    in_stream: int,
    agreement: pd.DataFrame,
    in_batch: int | None,
    *,
    rejected_ids: int,
) -> pd.DataFrame:
    """Return what each stage received and kept, with each loss.

    Args:
        ingest_counts: The consumer's counts. None when nothing is stored yet.
        status: The services' status files: the producer's counters since it started, and the
            consumer's lag.
        in_stream: Trades in final and open windows.
        agreement: As `agreement` returns it: trades dropped as late, counted twice, deleted in
            Kafka before the stream read them, and missing from the stream for an unknown reason.
        in_batch: Rows of the newest run. None without one.
        rejected_ids: Trade ids that were never stored because their messages were rejected.

    Returns:
        One row per stage: `stage`, `drawn_from` (its input), `count` (its output), and the
        difference between the two by reason (`LOSSES`), so that each row adds up. `of_issued` and
        `of_received` are the shares of the trade ids that the exchange issued, and of those that
        were received. `not_yet` is negative when the stream is ahead of the consumer. `repeated`
        is negative when the stream counted trades twice.
    """
    producer, consumer = (status[name] for name in ("producer", "consumer"))
    stages = [_published(producer.get("counters"))]
    if ingest_counts is not None:
        stages += [
            _read(ingest_counts, consumer.get("lag")),
            _stored(ingest_counts),
            _stored_of_issued(ingest_counts, rejected_ids),
            _in_stream(ingest_counts.stored, in_stream, agreement),
            _in_batch(ingest_counts.stored, in_batch),
        ]
    rows = [stage for stage in stages if stage is not None]
    table = pd.DataFrame(rows, columns=list(FUNNEL_COLUMNS))
    if ingest_counts is not None:
        of_all = table["stage"].isin([STORED_OF_ISSUED, IN_STREAM, IN_BATCH])
        kept, received = table.loc[of_all, "count"], ingest_counts.stored + rejected_ids
        table.loc[of_all, "of_issued"] = kept / ingest_counts.issued
        table.loc[of_all, "of_received"] = kept / received
    return table


_Stage = dict[str, object]


def _published(counters: object) -> _Stage | None:
    """Return what the producer published; None if it does not report its counters."""
    if not isinstance(counters, Mapping) or not {"received", "published"} <= counters.keys():
        return None
    others = sum(counters.get(name, 0) for name in ("control", "ignored", "repeated"))
    new, rejected = counters["received"] - others, counters.get("rejected", 0)
    published = counters["published"] + counters.get("conflicting", 0)
    return {
        "stage": PUBLISHED,
        "drawn_from": new,
        "count": published,
        "rejected": rejected,
        "not_yet": new - published - rejected,
    }


def _read(counts: IngestCounts, lag: object) -> _Stage | None:
    """Return what the consumer read; None if its lag is unknown."""
    if not isinstance(lag, int):
        return None
    return {
        "stage": READ,
        "drawn_from": counts.records + lag,
        "count": counts.records,
        "not_yet": lag,
    }


def _stored(counts: IngestCounts) -> _Stage:
    return {
        "stage": STORED,
        "drawn_from": counts.records,
        "count": counts.stored,
        "repeated": counts.repeated,
        "rejected": counts.rejected,
    }


def _stored_of_issued(counts: IngestCounts, rejected_ids: int) -> _Stage:
    return {
        "stage": STORED_OF_ISSUED,
        "drawn_from": counts.issued,
        "count": counts.stored,
        "missing": counts.missing - rejected_ids,
        "rejected": rejected_ids,
    }


def _in_stream(stored: int, in_stream: int, agreement: pd.DataFrame) -> _Stage:
    late, doubled, deleted, unexplained = (
        int(agreement[name].sum()) for name in ("late", "doubled", "deleted", "unexplained")
    )
    return {
        "stage": IN_STREAM,
        "drawn_from": stored,
        "count": in_stream,
        "late": late,
        "deleted": deleted,
        "repeated": -doubled,
        "unexplained": unexplained,
        "not_yet": stored - in_stream - late + doubled - deleted - unexplained,
    }


def _in_batch(stored: int, in_batch: int | None) -> _Stage | None:
    """Return what the newest batch run counted; None without one."""
    if in_batch is None:
        return None
    return {
        "stage": IN_BATCH,
        "drawn_from": stored,
        "count": in_batch,
        "not_yet": stored - in_batch,
    }


@dataclass(frozen=True)
class Backfill:
    """What the producer reports about missing trades. None: unknown."""

    #: Number of trade ids that the producer is recovering.
    in_progress: int | None = None
    #: Since the last start of the producer: the number of recovered trades, and the number of ids
    #: that it does not request again, because the exchange does not serve them or they are too old.
    recovered: int | None = None
    not_served: int | None = None
    #: The error of the newest request and its time. Empty: it succeeded, or no trade is missing.
    last_error: str = ""
    last_error_time: str = ""


def backfill(status: Mapping[str, Mapping[str, Any]]) -> Backfill:
    """Return what the producer reports about missing trades in its status file.

    Args:
        status: The services' status files.
    """
    producer = status["producer"]
    fields, settings = part(producer, "backfill"), part(producer, "settings")
    error = part(fields, "last_error")
    in_progress = _count(fields.get("missing"))
    if not _is_running(producer, status):
        in_progress = None
    elif settings.get("backfill_seconds") == 0:
        in_progress = 0
    return Backfill(
        in_progress=in_progress,
        recovered=_count(fields.get("recovered")),
        not_served=_count(fields.get("not_served")),
        last_error=str(error.get("text") or ""),
        last_error_time=str(error.get("time") or ""),
    )


def _is_running(service: Mapping[str, Any], status: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a service still writes its status file, compared with the other services."""
    updates = [_moment(fields.get("updated")) for fields in status.values()]
    newest = max(filter(None, updates), default=None)
    own = _moment(service.get("updated"))
    if service.get("state") == SERVICE_STOPPED or newest is None or own is None:
        return False
    return (newest - own).total_seconds() <= STALE_SECONDS


def _moment(value: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(value)).astimezone(UTC)
    except ValueError:
        return None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
