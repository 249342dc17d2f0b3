"""Read everything that the comparison needs: the output files and the store.

`output_files.py` reads the files, and `database.py` has the queries on the store.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from pipeline import stream_offsets, thresholds, times
from pipeline.compare import database, output_files
from pipeline.compare.lateness import NOTHING_CONSUMED, ConsumedOffsets, Record
from pipeline.compare.stops import stops, union
from pipeline.compare.unread import PlacedTrades
from pipeline.data_dir import DataDir
from pipeline.errors import OperationalError, OutputError, TemporaryError
from pipeline.outputs import SERVICES, read_status
from pipeline.source import is_as_recorded
from pipeline.stores import common_queries
from pipeline.stores.interface import Connection, Store
from pipeline.stream_offsets import OffsetRange, Start, read_offset_ranges
from pipeline.text_files import read_json
from pipeline.thresholds import Period
from pipeline.times import iso

#: The latest alerts whose decisive trades are read. Finding one in 2 million trades takes 0.4 ms.
MAX_ALERTS = 200


@dataclass(frozen=True)
class Evidence:
    """What the services recorded that can make the paths differ."""

    #: Late or conflicting records, in the order in which the consumer read them.
    records: Sequence[Record]
    #: Trades stored after the newest run's snapshot: `trade_id`, `time` (text, as stored), `side`,
    #: `price` and `last_size`.
    after_snapshot: pd.DataFrame
    #: Gaps in the trade ids: `first_trade_id`, `last_trade_id`, `filled` (bool), and the event
    #: times of the stored trades around the gap, `after` and `before`.
    gaps: pd.DataFrame
    #: Ids of late trades that were backfilled.
    backfilled: frozenset[int]
    #: Trade ids in rejected messages.
    rejected: frozenset[int]
    #: The offsets that the stream read, with the micro-batches that dropped records.
    offset_ranges: Sequence[OffsetRange]
    #: For each of the latest micro-batches: the number of records that it read, and the number that
    #: Spark dropped as late.
    reported: Mapping[int, tuple[int, int]]
    #: The offsets that the consumer has read since schema version 3.
    consumed: ConsumedOffsets
    #: The checkpoints of the stream with their first offset, oldest first.
    starts: Sequence[Start]
    #: Stored trades of the windows around offsets that the stream skipped.
    placed: Sequence[PlacedTrades]
    #: Versions of final windows that other versions with more trades replaced, by `window_start`.
    replaced: Mapping[str, Sequence[Mapping[str, str]]]
    #: The thresholds that the stream and the batch used, oldest first.
    stream_thresholds: Sequence[Period]
    batch_thresholds: Sequence[Period]


@dataclass(frozen=True)
class IngestCounts:
    """The counts of the consumer: records from Kafka and trades in the table."""

    records: int
    stored: int
    repeated: int
    rejected: int
    #: The number of trade ids from the lowest to the highest stored one.
    issued: int
    #: How many of these ids were never received.
    missing: int


@dataclass(frozen=True)
class PipelineOutputs:
    """Everything that the services wrote and the comparison needs."""

    #: Final windows, open windows and the windows of the newest batch run, as text cells.
    final: pd.DataFrame
    still_open: pd.DataFrame
    batch: pd.DataFrame
    #: The one-row results of all batch runs, typed, and the batch log.
    runs: pd.DataFrame
    log: pd.DataFrame
    evidence: Evidence
    #: None: the consumer has stored nothing yet.
    ingest_counts: IngestCounts | None
    #: The consumer's latency histograms over the span: `leg`, `bucket`, `count`.
    latencies: pd.DataFrame
    #: How far trades came behind the newest event time, over the span: `behind`, `bucket`, `count`.
    lags: pd.DataFrame
    #: The alerts of `stream` and `batch`: `window_start` (text), `kind`, `value`, `threshold`,
    #: `newest_trade`, `raised_at`.
    alerts: dict[str, pd.DataFrame]
    #: The event time of the trade behind each of the latest alerts: `window_start` (text), `kind`,
    #: `crossed_at`.
    crossings: pd.DataFrame
    #: The latest micro-batches: `published_at`, `newest_trade`, `rows`, `first_receipt`, ….
    micro_batches: pd.DataFrame
    #: The latest final windows: `window_start`, `leg`, `counts` (by bucket, as JSON).
    window_latencies: pd.DataFrame
    #: The latest minutes of each service: `at`, `seconds`, `cpu_s`, `rss_mib`, `counters` (JSON).
    minutes: dict[str, pd.DataFrame]
    #: The status file of each service.
    status: dict[str, dict[str, Any]]
    #: The feed that filled the data directory: see `pipeline.source`.
    source: dict[str, Any]
    #: The feed replays a recording with its original timestamps.
    replayed_as_recorded: bool
    #: From the first moment at which both paths have a result to the newest result. None: one
    #: path has no result yet.
    span: tuple[datetime, datetime] | None
    #: The requested length of time before the newest result, and its start. None: everything.
    last: timedelta | None
    since: datetime | None
    #: The damaged rows of the stream's final windows, which are left out: a phrase for each file.
    damaged: tuple[str, ...]


def require_folder(data: DataDir) -> None:
    """Raise OutputError if there is no data directory, so that a mistyped one is not created."""
    if not data.root.is_dir():
        raise OutputError(
            f"DATA_DIR={data.root} does not exist. Set DATA_DIR to the data directory of a stack, "
            "or start one with `make demo`."
        )


def read_outputs(data: DataDir, trades: Store, last: timedelta | None = None) -> PipelineOutputs:
    """Read all outputs. A missing file is an empty table.

    Args:
        data: The data directory.
        trades: The store of the trades.
        last: Compare only this length of time before the newest result. Completeness and growth
            always cover everything. None: everything.

    Raises:
        OutputError: A file has unexpected content, or the database cannot be read.
    """
    # Open windows are read first. A window that becomes final meanwhile is then in both files
    # instead of in neither.
    still_open = output_files.read_compared(data.stream_live)
    final, damaged = output_files.read_all_final_windows(data)
    batch = output_files.read_compared(data.batch_windows)
    runs = _published_runs(output_files.read_batch_runs(data), batch)
    span = _span(output_files.typed(final[["written_at"]])["written_at"], runs["written_at"])
    since = None
    if span and last is not None:
        since = span[1] - last
        span = max(span[0], since), span[1]
    source = read_json(data.source)
    as_recorded = is_as_recorded(source)
    micro_batches = output_files.read_micro_batches(data)
    minutes = {name: output_files.read_minutes(data, name) for name in SERVICES}
    status = {name: read_status(data, name) for name in SERVICES}
    found_alerts = {
        "stream": output_files.read_alerts(data.alerts_stream),
        "batch": output_files.read_alerts(data.alerts_batch),
    }
    stored = _read_store(
        trades,
        data,
        runs.iloc[-1] if len(runs) else None,
        None if as_recorded else span,
        stopped=stops(("producer", "consumer"), minutes, status),
        window=output_files.window_length(batch),
        alerted=[] if as_recorded else _latest(found_alerts.values(), since),
    )
    return PipelineOutputs(
        final=final,
        still_open=still_open,
        batch=batch,
        runs=runs,
        log=output_files.read_batch_log(data),
        evidence=_evidence(data, stored, micro_batches),
        ingest_counts=stored.counts,
        latencies=stored.latencies,
        lags=stored.lags,
        alerts=found_alerts,
        crossings=stored.crossings,
        micro_batches=micro_batches,
        window_latencies=output_files.read_window_latencies(data),
        minutes=minutes,
        status=status,
        source=source,
        replayed_as_recorded=as_recorded,
        span=span,
        last=last,
        since=since,
        damaged=damaged,
    )


def _published_runs(runs: pd.DataFrame, batch: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that have published their windows."""
    if batch.empty:
        return runs
    published = pd.to_datetime(batch["written_at"].iloc[0], utc=True)
    visible: pd.DataFrame = runs[runs["written_at"] <= published]
    return visible


def _latest(found: Iterable[pd.DataFrame], since: datetime | None) -> list[tuple[str, str, float]]:
    """Return window, kind and threshold of the latest alerts of both paths, each once."""
    names = ["window_start", "kind", "threshold"]
    both = pd.concat([table[names] for table in found], ignore_index=True)
    if since is not None:
        both = both[both["window_start"] >= iso(since)]
    # If the paths used different thresholds, they detect different events.
    both = both.drop_duplicates().drop_duplicates(["window_start", "kind"], keep=False)
    latest = both.sort_values(["window_start", "kind"]).tail(MAX_ALERTS)
    return list(latest.itertuples(index=False, name=None))


def _span(*published: pd.Series) -> tuple[datetime, datetime] | None:
    known = [moments.dropna() for moments in published]
    if any(moments.empty for moments in known):
        return None
    start, end = max(moments.min() for moments in known), max(moments.max() for moments in known)
    return start.to_pydatetime(), end.to_pydatetime()


#: The columns of `Evidence.after_snapshot` and `Evidence.gaps`.
_TRADE_COLUMNS = ("trade_id", "time", "side", "price", "last_size")
_GAP_COLUMNS = ("first_trade_id", "last_trade_id", "filled", "after", "before")


@dataclass(frozen=True)
class _Stored:
    """What the consumer stored. Without a database: nothing."""

    records: Sequence[Record] = ()
    consumed: ConsumedOffsets = NOTHING_CONSUMED
    after_snapshot: Sequence[Any] = ()
    gaps: Sequence[Any] = ()
    backfilled: Iterable[int] = ()
    starts: Sequence[Start] = ()
    offset_ranges: Sequence[OffsetRange] = ()
    placed: Sequence[PlacedTrades] = ()
    latencies: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["leg", "bucket", "count"])
    )
    lags: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["behind", "bucket", "count"])
    )
    crossings: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(
            {"window_start": [], "kind": [], "crossed_at": pd.to_datetime([], utc=True)}
        ).astype({"window_start": object, "kind": object})
    )
    counts: IngestCounts | None = None


def _read_store(
    trades: Store,
    data: DataDir,
    newest_run: Any,
    span: tuple[datetime, datetime] | None,
    *,
    stopped: pd.DataFrame,
    window: timedelta | None,
    alerted: Sequence[tuple[str, str, float]],
) -> _Stored:
    """Return what the consumer stored, and what the stream read at that time.

    Args:
        trades: The store of the trades.
        data: The data directory.
        newest_run: The result of the newest batch run. None: there is no run.
        span: The time for which latencies are read. None: all times.
        stopped: The times in which the producer or the consumer was stopped. Latencies of these
            times are left out.
        window: The length of a window. None: there is no batch result, so no window differs.
        alerted: The alerts whose decisive trades are read: window, kind and threshold.

    Raises:
        OutputError: The database cannot be read.
    """
    since, left_out = (span[0], catching_up(stopped, span[1])) if span else (None, ())

    def query(connection: Connection) -> _Stored:
        records = [Record(*row) for row in database.evidence(connection)]
        starts, offset_ranges = stream_offsets.read_starts(data), read_offset_ranges(data)
        latencies = database.latencies(connection, since, left_out)
        return _Stored(
            records=records,
            consumed=ConsumedOffsets(*database.consumed_offsets(connection)),
            after_snapshot=_stored_after(connection, newest_run),
            gaps=database.gaps_with_neighbours(connection),
            backfilled=database.backfilled(connection),
            starts=starts,
            offset_ranges=offset_ranges,
            placed=_placed(connection, window, starts, offset_ranges),
            latencies=pd.DataFrame(latencies, columns=["leg", "bucket", "count"]),
            lags=pd.DataFrame(
                database.lags(connection, since), columns=["behind", "bucket", "count"]
            ),
            crossings=_crossings(connection, alerted, window),
            counts=_ingest_counts(connection),
        )

    try:
        return trades.read(query) or _Stored()
    except (TemporaryError, OperationalError) as error:
        raise OutputError(str(error)) from error


def _stored_after(connection: Connection, run: Any) -> list[Any]:
    """Return the trades stored after the snapshot of a batch run; none without a known snapshot."""
    if run is None or run[["first_trade_id", "last_trade_id"]].isna().any():
        return []
    covered = (int(run["first_trade_id"]), int(run["last_trade_id"]))
    newest = times.time_text(run["last_trade_time"].to_pydatetime())
    return database.stored_after(connection, covered, int(run["rows"]), newest)


def _placed(
    connection: Connection,
    window: timedelta | None,
    starts: Iterable[Start],
    offset_ranges: Iterable[OffsetRange],
) -> list[PlacedTrades]:
    """Return the stored trades of the windows around offsets that the stream skipped."""
    if window is None:
        return []
    delay = timedelta(seconds=max((each.delay_s for each in offset_ranges), default=0))
    return [
        placed
        for start in starts
        for placed in database.placed_trades(connection, start, window, delay)
    ]


def _crossings(
    connection: Connection,
    alerted: Sequence[tuple[str, str, float]],
    window: timedelta | None,
) -> pd.DataFrame:
    """Return the event time of the decisive trade of each alert."""
    rows = [] if window is None else database.crossings(connection, alerted, window)
    table = pd.DataFrame(rows, columns=["window_start", "kind", "crossed_at"], dtype=object)
    table["crossed_at"] = pd.to_datetime(table["crossed_at"], utc=True, format="ISO8601")
    return table


def _ingest_counts(connection: Connection) -> IngestCounts | None:
    """Return the consumer's counts. None: it has stored nothing yet."""
    ids = common_queries.id_span(connection)
    if not ids:
        return None
    missing = common_queries.open_gaps(connection)[1]
    return IngestCounts(*database.ingest_counts(connection), ids[1] - ids[0] + 1, missing)


def _evidence(data: DataDir, stored: _Stored, micro_batches: pd.DataFrame) -> Evidence:
    """Return the records of all services that can explain a difference."""
    return Evidence(
        records=stored.records,
        after_snapshot=pd.DataFrame(stored.after_snapshot, columns=list(_TRADE_COLUMNS)),
        gaps=pd.DataFrame(stored.gaps, columns=list(_GAP_COLUMNS)),
        backfilled=frozenset(stored.backfilled),
        rejected=output_files.read_rejected_ids(data),
        offset_ranges=stored.offset_ranges,
        starts=stored.starts,
        placed=stored.placed,
        reported=_reported(micro_batches),
        consumed=stored.consumed,
        replaced=output_files.read_replaced_versions(data),
        stream_thresholds=thresholds.read(data.thresholds_of("spark_processor")),
        batch_thresholds=thresholds.read(data.thresholds_of("batch_processor")),
    )


def catching_up(stopped: pd.DataFrame, until: datetime) -> list[tuple[datetime, datetime]]:
    """Return the full minutes up to a time that contain a stop or the minute after it.

    In the minute after a stop, trades arrive that waited for the service.
    """
    before = stopped[stopped["start"] < until]
    ends = before["end"].where(before["end"] < until, pd.Timestamp(until)) + pd.Timedelta(minutes=1)
    minutes = pd.DataFrame({"start": before["start"].dt.floor("min"), "end": ends.dt.ceil("min")})
    found = union(minutes)
    both = ([moment.to_pydatetime() for moment in found[name]] for name in ("start", "end"))
    return list(zip(*both, strict=True))


def _reported(micro_batches: pd.DataFrame) -> dict[int, tuple[int, int]]:
    """Return the newest report of each micro-batch: records read, and records dropped as late."""
    known = micro_batches.reindex(columns=["micro_batch", "rows", "late"])
    known = known.apply(pd.to_numeric, errors="coerce")
    whole = known.dropna().astype("int64").itertuples(index=False)
    return {number: (rows, late) for number, rows, late in whole}
