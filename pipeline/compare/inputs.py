"""Read what the services wrote, as pandas tables.

`outputs.py` does not import pandas, because the import costs 60 MB and half a second and most
services only write.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import alerts, stream_starts, thresholds, window_files
from pipeline.compare import database
from pipeline.compare.lateness import NOTHING_CONSUMED, ConsumedOffsets, Record
from pipeline.compare.modes import FULL, READS
from pipeline.compare.stops import stops, union
from pipeline.compare.unread import PlacedTrades
from pipeline.data_dir import DataDir
from pipeline.errors import OperationalError, OutputError, TemporaryError
from pipeline.ingest import store
from pipeline.outputs import (
    BATCH_COLUMNS,
    LATENCY_COLUMNS,
    LOG_FIELDS,
    MINUTE_COLUMNS,
    SERVICES,
    TEXT_COLUMNS,
    TIME_COLUMNS,
    WINDOW_COLUMNS,
    batch_files,
    read_status,
    stream_files,
)
from pipeline.source import is_as_recorded
from pipeline.stores.interface import Connection, Store
from pipeline.stream.finality import VERSION_COLUMNS
from pipeline.stream_starts import OffsetRange, Start, read_offset_ranges
from pipeline.text_files import cannot_read, damaged, read_csv, read_json, read_text
from pipeline.thresholds import Period
from pipeline.times import iso


def read_windows(*paths: Path) -> pd.DataFrame:
    """Return the windows in these files, typed (times in UTC, numbers as floats), sorted by start.

    Raises:
        OutputError: A file cannot be read or is no table of windows.
    """
    table = typed(_read_cells(paths, WINDOW_COLUMNS, required="window_start"))
    return table.sort_values("window_start", ignore_index=True)


def read_batch_runs(data: DataDir) -> pd.DataFrame:
    """Return the one-row results of all batch runs, typed, oldest first."""
    return typed(_read_cells(batch_files(data), BATCH_COLUMNS, required="run"))


def read_batch_log(data: DataDir) -> pd.DataFrame:
    """Return `batch_log.txt` as a table with the columns LOG_FIELDS, without malformed lines.

    A last line without a line end is malformed: it can lack fields, or digits of a number. A line
    of an older version has no mode: such runs were full.
    """
    text = read_text(data.batch_log)
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = [dict(part.split("=", 1) for part in line.split() if "=" in part) for line in lines]
    table = pd.DataFrame(
        [row for row in rows if {"started", "status"} <= row.keys()], columns=list(LOG_FIELDS)
    )
    table["started"] = pd.to_datetime(table["started"], utc=True, errors="coerce", format="ISO8601")
    table["reason"] = _with_spaces(table["reason"])
    table["mode"] = table["mode"].where(table["mode"].isin(READS), FULL)
    texts = {"started", "run", "status", "reason", "mode"}
    for name in set(LOG_FIELDS) - texts:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    return table


#: Names in lower case that occur in the reasons of batch runs.
_NAMES_IN_REASONS = ("crypto_prices.db", "batch_windows.csv", "batch_sums.json", "pids_limit")


def _with_spaces(reasons: pd.Series) -> pd.Series:
    """Return the reasons of batch runs with spaces instead of the underscores of the log.

    An underscore between two capital letters stays: it is part of a setting such as BATCH_MEMORY.
    """
    reasons = reasons.astype("string").str.replace("(?<![A-Z])_|_(?![A-Z])", " ", regex=True)
    for name in _NAMES_IN_REASONS:
        reasons = reasons.str.replace(name.replace("_", " "), name, regex=False)
    return reasons


# --- for the comparison ---------------------------------------------------------------------


#: A line of `stream_versions.csv`: a time, two whole numbers and three decimals.
_VERSION = re.compile(r"[-0-9T:]+Z(,\d+){2}(,\d+(\.\d+)?){3}")
#: The latest alerts whose decisive trades are read. Finding one in 2 million trades takes 0.4 ms.
MAX_ALERTS = 200
#: Columns that hold a whole number in every window.
COUNTS = ("trade_count", "buy_count")


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
    still_open = _read_compared(data.stream_live)
    final, damaged = _read_final_windows(data)
    batch = _read_compared(data.batch_windows)
    runs = _published_runs(read_batch_runs(data), batch)
    span = _span(typed(final[["written_at"]])["written_at"], runs["written_at"])
    since = None
    if span and last is not None:
        since = span[1] - last
        span = max(span[0], since), span[1]
    source = read_json(data.source)
    as_recorded = is_as_recorded(source)
    micro_batches = _read_micro_batches(data)
    minutes = {name: _read_minutes(data, name) for name in SERVICES}
    status = {name: read_status(data, name) for name in SERVICES}
    found_alerts = {
        "stream": _read_alerts(data.alerts_stream),
        "batch": _read_alerts(data.alerts_batch),
    }
    stored = _read_store(
        trades,
        data,
        runs.iloc[-1] if len(runs) else None,
        None if as_recorded else span,
        stopped=stops(("producer", "consumer"), minutes, status),
        window=_window_length(batch),
        alerted=[] if as_recorded else _latest(found_alerts.values(), since),
    )
    return PipelineOutputs(
        final=final,
        still_open=still_open,
        batch=batch,
        runs=runs,
        log=read_batch_log(data),
        evidence=_evidence(data, stored, micro_batches),
        ingest_counts=stored.counts,
        latencies=stored.latencies,
        lags=stored.lags,
        alerts=found_alerts,
        crossings=stored.crossings,
        micro_batches=micro_batches,
        window_latencies=_read_window_latencies(data),
        minutes=minutes,
        status=status,
        source=source,
        replayed_as_recorded=as_recorded,
        span=span,
        last=last,
        since=since,
        damaged=damaged,
    )


def _read_compared(path: Path) -> pd.DataFrame:
    """Return windows that are to be compared, as the text of their cells."""
    cells = _read_cells([path], WINDOW_COLUMNS, required="window_start")
    _check_numbers(path, cells)
    return cells


def _published_runs(runs: pd.DataFrame, batch: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that have published their windows."""
    if batch.empty:
        return runs
    published = pd.to_datetime(batch["written_at"].iloc[0], utc=True)
    visible: pd.DataFrame = runs[runs["written_at"] <= published]
    return visible


def _read_micro_batches(data: DataDir) -> pd.DataFrame:
    return _read_record(
        data.stream_progress,
        ("micro_batch", "published_at", "newest_trade", "rows", "duration_ms"),
        times=("published_at", "newest_trade", "first_receipt", "last_receipt"),
    )


def _read_minutes(data: DataDir, service: str) -> pd.DataFrame:
    return _read_record(data.minutes_of(service), MINUTE_COLUMNS, times=("at",))


def _read_window_latencies(data: DataDir) -> pd.DataFrame:
    """Return the latencies of each window, by its first row."""
    table = _read_record(data.stream_latency, LATENCY_COLUMNS, times=())
    return table.drop_duplicates("window_start", ignore_index=True)


def _read_alerts(path: Path) -> pd.DataFrame:
    """Return the alerts in a file, typed, each once."""
    table = pd.DataFrame(alerts.read(path), columns=list(alerts.COLUMNS), dtype=object)
    for name in ("newest_trade", "raised_at"):
        table[name] = pd.to_datetime(table[name], utc=True, errors="coerce", format="ISO8601")
    for name in ("value", "threshold"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    return table.drop_duplicates(["window_start", "kind"], ignore_index=True)


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


def _check_numbers(path: Path, cells: pd.DataFrame) -> None:
    """Check that the cells to be compared are numbers and times.

    Raises:
        OutputError: A cell is something else.
    """
    table = typed(cells)
    for name in (*COUNTS, *table.columns):
        if name in TEXT_COLUMNS:
            continue
        wrong = table[name].isna() & (cells[name] != "")
        if name in COUNTS:
            wrong = ~cells[name].str.fullmatch("[0-9]+")
        if wrong.any():
            row = cells[wrong].iloc[0]
            raise OutputError(
                f"{path.name} has an invalid value. Restore it, or move it away to compare without "
                f"it. {name} of the window {row['window_start']} is {row[name]!r}. The file: {path}"
            )


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
        starts, offset_ranges = stream_starts.read(data), read_offset_ranges(data)
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
    newest = store.time_text(run["last_trade_time"].to_pydatetime())
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
    ids = store.id_span(connection)
    if not ids:
        return None
    missing = store.open_gaps(connection)[1]
    return IngestCounts(*database.ingest_counts(connection), ids[1] - ids[0] + 1, missing)


def _evidence(data: DataDir, stored: _Stored, micro_batches: pd.DataFrame) -> Evidence:
    """Return the records of all services that can explain a difference."""
    return Evidence(
        records=stored.records,
        after_snapshot=pd.DataFrame(stored.after_snapshot, columns=list(_TRADE_COLUMNS)),
        gaps=pd.DataFrame(stored.gaps, columns=list(_GAP_COLUMNS)),
        backfilled=frozenset(stored.backfilled),
        rejected=_rejected_ids(data),
        offset_ranges=stored.offset_ranges,
        starts=stored.starts,
        placed=stored.placed,
        reported=_reported(micro_batches),
        consumed=stored.consumed,
        replaced=_replaced_versions(data),
        stream_thresholds=thresholds.read(data.thresholds_of("spark_processor")),
        batch_thresholds=thresholds.read(data.thresholds_of("batch_processor")),
    )


def _window_length(windows: pd.DataFrame) -> timedelta | None:
    if windows.empty:
        return None
    start, end = (datetime.fromisoformat(windows[f"window_{n}"].iloc[0]) for n in ("start", "end"))
    return end - start


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


def _replaced_versions(data: DataDir) -> dict[str, list[dict[str, str]]]:
    """Return the versions of final windows that were replaced, each once, by window start."""
    try:
        text = data.stream_versions.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    found: dict[str, list[dict[str, str]]] = {}
    for line in dict.fromkeys(text.splitlines()[1:]):
        if _VERSION.fullmatch(line):
            version = dict(zip(VERSION_COLUMNS, line.split(","), strict=True))
            found.setdefault(version["window_start"], []).append(version)
    return found


def _reported(micro_batches: pd.DataFrame) -> dict[int, tuple[int, int]]:
    """Return the newest report of each micro-batch: records read, and records dropped as late."""
    known = micro_batches.reindex(columns=["micro_batch", "rows", "late"])
    known = known.apply(pd.to_numeric, errors="coerce")
    whole = known.dropna().astype("int64").itertuples(index=False)
    return {number: (rows, late) for number, rows, late in whole}


def _is_json(text: object) -> bool:
    try:
        return isinstance(json.loads(str(text)), dict)
    except ValueError:
        return False


def _rejected_ids(data: DataDir) -> frozenset[int]:
    """Return the trade ids in the messages that the services rejected."""
    ids: set[int] = set()
    for service in ("producer", "consumer"):
        rejected = _read_record(data.rejected_by(service), ("trade_id",), times=())["trade_id"]
        ids.update(pd.to_numeric(rejected, errors="coerce").dropna().astype("int64"))
    return frozenset(ids)


def _read_record(path: Path, columns: tuple[str, ...], *, times: tuple[str, ...]) -> pd.DataFrame:
    """Return the table in which a service records its latest work, without incomplete lines."""
    try:
        table = pd.read_csv(path, on_bad_lines="skip")
    except (FileNotFoundError, pd.errors.EmptyDataError):
        table = pd.DataFrame(columns=list(dict.fromkeys([*columns, *times])))
    except OSError as error:
        raise cannot_read(path, error) from error
    except ValueError as error:
        raise damaged(path, "is not a valid CSV file", error) from error
    if missing := {*columns, *times} - set(table.columns):
        raise damaged(path, "lacks columns", f"missing: {', '.join(sorted(missing))}")
    whole = table.iloc[:, -1].notna()
    for name in {"counts", "counters"} & set(table.columns):
        whole &= table[name].map(_is_json)
    table = table[whole].reset_index(drop=True)
    for name in times:
        table[name] = pd.to_datetime(table[name], utc=True, errors="coerce", format="ISO8601")
    return table


def _read_cells(paths: Iterable[Path], columns: tuple[str, ...], *, required: str) -> pd.DataFrame:
    """Return the rows of several files as the text of their cells.

    The csv module reads them, because pandas needs 10 ms for each file. There may be a thousand.
    """
    rows = [row for path in paths for row in _read_rows(path, columns, required)]
    return pd.DataFrame(rows, columns=list(columns), dtype=str)


def _read_final_windows(data: DataDir) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the undamaged final windows, and a phrase for each damaged file."""
    rows: list[list[str]] = []
    damaged: list[str] = []
    for path in stream_files(data):
        found = window_files.scan(path)
        missing = len(WINDOW_COLUMNS) - len(found.header)
        rows += [[*row, *[""] * missing] for row in found.rows]
        if found.damage:
            damaged.append(window_files.description(path, found.damage))
    return pd.DataFrame(rows, columns=list(WINDOW_COLUMNS), dtype=str), tuple(damaged)


def _read_rows(path: Path, columns: tuple[str, ...], required: str) -> list[list[str]]:
    """Return the cells of these columns. A missing cell is empty. A missing file has no rows."""
    header, rows = read_csv(path)
    if not header:
        return []
    if required not in header:
        raise damaged(path, f"has no column {required}, so this pipeline did not write it")
    missing = len(header)
    places = [header.index(name) if name in header else missing for name in columns]
    padded = ([*row, *[""] * (missing + 1 - len(row))] for row in rows)
    return [[row[place] for place in places] for row in padded]


def typed(cells: pd.DataFrame) -> pd.DataFrame:
    """Return text cells as times in UTC and numbers. Unknown values are NaT or NaN."""
    table = cells.copy()
    for name in table.columns:
        if name in TIME_COLUMNS:
            table[name] = pd.to_datetime(table[name], utc=True, errors="coerce", format="ISO8601")
        elif name not in TEXT_COLUMNS:
            table[name] = pd.to_numeric(table[name], errors="coerce")
    return table
