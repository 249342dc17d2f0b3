"""Read the files of the services: once for all viewers, and only those that changed.

A file counts as unchanged while its inode, modification time and size stay the same. Threads
read the files, so that a refresh never waits long for a large one. `st.cache_data` would hash
and copy 90 days of windows at each refresh; these caches do neither.
"""

import csv
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv  # type: ignore[import-untyped]
import streamlit as st

from page import formatting, status
from page.pace import Pace
from pipeline import alerts, outputs, text_files, times, window_files
from pipeline.alerts import Alert
from pipeline.compare import output_files
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError
from pipeline.health import full_disk, on_this_clock
from pipeline.stores.interface import Store

#: Seconds that a refresh waits for files that are being read; the page names the others.
PATIENCE_SECONDS = 0.15
#: Seconds in which a changed directory is listed again: its modification time is coarse.
FRESH_FOLDER_SECONDS = 2.0
#: Characters of the sentence about an unreadable file, at most.
MAX_PROBLEM = 300
#: Bytes at the end of the per-minute records that hold at least the newest row.
MINUTE_BYTES = 4096

#: Stands for the path in a sentence, while sentences about several files are compared.
_PATH = "\0"

Signature = tuple[int, int, int]
T = TypeVar("T")


@dataclass(eq=False)
class Table:
    """A data frame and what was computed from it. Both are dropped together."""

    frame: pd.DataFrame
    #: What could not be read of the file; None: everything was read.
    problem: str | None = None
    _derived: dict[str | tuple[str, str], tuple[object, Any]] = field(default_factory=dict)

    def derived(
        self,
        name: str | tuple[str, str],
        parameters: object,
        compute: Callable[[pd.DataFrame], T],
    ) -> T:
        """Return `compute(frame)`, computed again only when `parameters` changed.

        Only the newest result of each name is kept: a file may stay unchanged for days.
        """
        found = self._derived.get(name)
        if found is None or found[0] != parameters:
            found = self._derived[name] = (parameters, compute(self.frame))
        return cast("T", found[1])


def _no_windows() -> Table:
    columns = {
        name: pd.Series(
            dtype="datetime64[ns, UTC]"
            if name in outputs.TIME_COLUMNS
            else object
            if name in outputs.TEXT_COLUMNS
            else float
        )
        for name in outputs.WINDOW_COLUMNS
    }
    return Table(pd.DataFrame(columns))


@dataclass(frozen=True)
class Snapshot:
    """The content of all files at one moment."""

    taken_at: datetime
    #: When this page first read the files: "waiting for".
    first_look: datetime
    finals: Table
    #: The open windows; a new table whenever they or the final windows changed.
    open_windows: Table
    batch_windows: Table
    batch_run: Mapping[str, Any]
    #: Why the newest batch result cannot be read.
    batch_problem: str | None
    runs: Table
    #: The alerts of the stream and of the batch, oldest first.
    alerts: tuple[Sequence[Alert], Sequence[Alert]]
    services: Mapping[str, status.ServiceStatus]
    source: Mapping[str, Any]
    #: A sentence for each file that cannot be read in full.
    problems: tuple[str, ...]
    #: Names of files that are still being read.
    loading: tuple[str, ...]

    @property
    def live(self) -> pd.DataFrame:
        return self.open_windows.frame

    @property
    def reading(self) -> str:
        """Return which files are still being read; empty if none."""
        return f"Reading {', '.join(self.loading)}." if self.loading else ""


@dataclass
class _Entry:
    signature: Signature | None
    value: Any
    problem: str | None = None


class Reader:
    """Reads one data directory for all viewers of the page."""

    def __init__(self, data: DataDir, trades: Store, pace: Pace) -> None:
        self._data = data
        self._trades = trades
        self._shared_s = pace.snapshot
        self._entries: dict[Path, _Entry] = {}
        self._reading: dict[Path, Future[_Entry]] = {}
        self._listings: dict[tuple[Path, str], tuple[int, list[Path]]] = {}
        self._nothing = _no_windows()
        self._joined: tuple[tuple[Signature | None, ...], Table] = ((), self._nothing)
        #: The two inputs of the open windows, and the result.
        self._opened: tuple[Table, Table, Table] | None = None
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="reader")
        self._lock = threading.Lock()
        self._first_look = times.now()
        self._last: Snapshot | None = None
        self._taken = 0.0

    def snapshot(self) -> Snapshot:
        """Return the newest content of all files. `loading` names those still being read."""
        with self._lock:
            # By the monotonic clock: the system clock may be set back.
            if self._last and time.monotonic() - self._taken < self._shared_s:
                return self._last
            self._taken = time.monotonic()
            self._last = self._read_all(times.now())
            return self._last

    def _read_all(self, now: datetime) -> Snapshot:
        days = self._list(self._data.stream_csv, outputs.STREAM_FILES, now)
        run = next(iter(self._list(self._data.batch_output, outputs.BATCH_FILES, now)[-1:]), None)
        readers = self._readers(days, run)
        for path, read in readers.items():
            self._want(path, read)
        wait(self._reading.values(), timeout=PATIENCE_SECONDS)
        self._collect()
        for gone in self._entries.keys() - readers.keys():
            del self._entries[gone]
        return self._content(days, run, now)

    def _readers(self, days: Sequence[Path], run: Path | None) -> dict[Path, Callable[[Path], Any]]:
        """Return the function that reads each file, in the order in which the files are read."""
        data = self._data
        status_files = (*map(data.status_of, outputs.SERVICES), data.source)
        return {
            **dict.fromkeys(status_files, text_files.read_json),
            **dict.fromkeys(map(data.minutes_of, outputs.SERVICES), _read_minute),
            data.batch_log: lambda _path: Table(output_files.read_batch_log(data)),
            **({run: _read_run} if run else {}),
            **dict.fromkeys((data.stream_live, *reversed(days)), read_windows),  # newest first
            data.batch_windows: _read_counts,
            **dict.fromkeys((data.alerts_stream, data.alerts_batch), alerts.read),
        }

    def _content(self, days: Sequence[Path], run: Path | None, now: datetime) -> Snapshot:
        """Return what is read so far."""
        data = self._data
        finals = self._join(days)
        return Snapshot(
            taken_at=now,
            first_look=self._first_look,
            finals=finals,
            open_windows=self._open(data.stream_live, finals),
            batch_windows=self._table(data.batch_windows),
            batch_run=self._value(run, {}) if run else {},
            batch_problem=self._problem(run) if run else None,
            runs=self._value(data.batch_log, None) or Table(_no_runs()),
            alerts=(self._value(data.alerts_stream, []), self._value(data.alerts_batch, [])),
            services={name: self._service(name, now) for name in outputs.SERVICES},
            source=self._value(data.source, {}),
            problems=self._gone(run is not None)
            + self._problems(
                (
                    *(data.stream_live, *reversed(days), data.batch_windows),
                    *([run] if run else []),
                    *(data.batch_log, data.alerts_stream, data.alerts_batch, data.source),
                )
            ),
            loading=tuple(sorted(path.name for path in self._reading)),
        )

    def _service(self, name: str, now: datetime) -> status.ServiceStatus:
        path = self._data.status_of(name)
        fields = on_this_clock(self._value(path, {}), now)
        minute: Mapping[str, Any] = self._value(self._data.minutes_of(name), {})
        full = full_disk(self._data.root)
        return status.ServiceStatus(name, fields, self._problem(path), minute, full)

    def _gone(self, has_results: bool) -> tuple[str, ...]:
        """Return a sentence if the database is missing although there are results of it."""
        path = self._trades.missing() if has_results else None
        if path is None:
            return ()
        return (f"{path} is missing. Check that the consumer runs: it fills a new one from Kafka",)

    def _want(self, path: Path, read: Callable[[Path], Any]) -> None:
        """Start reading a file, unless it is unchanged or being read."""
        if path in self._reading:
            return
        signature = _signature(path)
        entry = self._entries.get(path)
        if entry is not None and entry.signature == signature:
            return
        if signature is None:
            self._entries[path] = _Entry(None, None)
        else:
            self._reading[path] = self._pool.submit(_read, path, signature, read)

    def _collect(self) -> None:
        for path in [path for path, future in self._reading.items() if future.done()]:
            self._entries[path] = self._reading.pop(path).result()

    def _value(self, path: Path, otherwise: T) -> T:
        entry = self._entries.get(path)
        return otherwise if entry is None or entry.value is None else cast("T", entry.value)

    def _problem(self, path: Path) -> str | None:
        entry = self._entries.get(path)
        return entry.problem if entry else None

    def _problems(self, paths: Iterable[Path]) -> tuple[str, ...]:
        """Return a sentence for each kind of problem, with the first file that has it."""
        paths_of: dict[str, list[str]] = {}
        for path in paths:
            problem = self._problem(path)
            if problem is not None:
                paths_of.setdefault(problem.replace(str(path), _PATH), []).append(str(path))
        return tuple(
            problem.replace(
                _PATH, found[0] + (f" (and {len(found) - 1:,} more)" if len(found) > 1 else "")
            )
            for problem, found in paths_of.items()
        )

    def _table(self, path: Path) -> Table:
        return self._value(path, self._nothing)

    def _open(self, path: Path, finals: Table) -> Table:
        """Return the open windows without those that have just become final."""
        read = self._table(path)
        if self._opened is None or self._opened[:2] != (read, finals):
            live, final = read.frame, finals.frame["window_start"].iloc[-len(read.frame) - 10 :]
            left = Table(live[~live["window_start"].isin(final)].reset_index(drop=True))
            self._opened = (read, finals, left)
        return self._opened[2]

    def _join(self, days: Iterable[Path]) -> Table:
        """Return all final windows read so far as one table, built again when a file changed."""
        known = [self._entries[path] for path in days if path in self._entries]
        signatures = tuple(entry.signature for entry in known)
        if signatures == self._joined[0]:
            return self._joined[1]
        filled = [entry for entry in known if entry.value is not None and len(entry.value.frame)]
        joined = self._nothing
        if filled:
            joined = Table(pd.concat([entry.value.frame for entry in filled], ignore_index=True))
            first = 0
            # Each day becomes a view of the whole table, so that memory holds it once.
            for entry in filled:
                last = first + len(entry.value.frame)
                entry.value = Table(joined.frame.iloc[first:last])
                first = last
        self._joined = (signatures, joined)
        return joined

    def _list(self, folder: Path, pattern: str, now: datetime) -> list[Path]:
        try:
            written = folder.stat().st_mtime_ns
        except OSError:
            return []
        before = self._listings.get((folder, pattern))
        fresh = now.timestamp() - written / 1e9 < FRESH_FOLDER_SECONDS
        if before is None or before[0] != written or fresh:
            before = (written, sorted(folder.glob(pattern)))
            self._listings[folder, pattern] = before
        return before[1]


@st.cache_resource(show_spinner=False)
def reader_of(root: Path, pace: Pace, _trades: Store) -> Reader:
    """Return the one reader of a data directory in this process.

    Streamlit leaves arguments with an underscore out of the key of its cache.
    """
    return Reader(DataDir(root), _trades, pace)


def _signature(path: Path) -> Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path, signature: Signature, read: Callable[[Path], Any]) -> _Entry:
    try:
        value = read(path)
        return _Entry(signature, value, getattr(value, "problem", None))
    except (OutputError, OSError) as error:
        return _Entry(signature, None, str(error))
    except Exception as error:  # noqa: BLE001 - no file must stop the page
        return _Entry(signature, None, f"cannot read {path}: {error!r}"[:MAX_PROBLEM])


def read_windows(path: Path, columns: tuple[str, ...] = outputs.WINDOW_COLUMNS) -> Table:
    """Read one file of windows with pyarrow, in a tenth of the time of `output_files.read_windows`.

    `output_files.read_windows` reads files of other versions, and files with unexpected cells.
    """
    problem = None
    try:
        frame = _read_fast(path, columns)
    except (pa.ArrowException, KeyError) as error:
        try:
            frame = output_files.read_windows(path)[list(columns)]
            why = str(error).splitlines()[0]
            cell = f"{path} has unreadable cells. They are shown as unknown: {why}"
            problem = _lacking(path, frame) or cell[:MAX_PROBLEM]
        except OutputError:
            found = window_files.scan(path)
            if not found.rows:
                raise
            frame = _frame(found)[list(columns)]
            if found.damage:  # else the file was replaced since the first attempt
                where = window_files.description(path, found.damage)
                problem = f"Damaged: {where}. The page ignores such rows"
    known = frame.dropna(subset=["window_start"])
    if wrong := len(frame) - len(known):
        rows = formatting.many(wrong, "row")
        problem = f"{path} has {rows} without a window start. The page ignores such rows"
    return Table(known.sort_values("window_start"), problem)


def _frame(found: window_files.WindowFile) -> pd.DataFrame:
    """Return the undamaged rows of a file."""
    cells = pd.DataFrame(list(found.rows), columns=list(found.header), dtype=str)
    return output_files.typed(cells.reindex(columns=list(outputs.WINDOW_COLUMNS), fill_value=""))


def _lacking(path: Path, frame: pd.DataFrame) -> str | None:
    """Return a sentence about columns that an older version did not write; None if none."""
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline().strip().split(",")
    lacking = [name for name in frame.columns if name not in header]
    if not lacking:
        return None
    names = ", ".join(lacking)
    return f"{path} is from an older version and has no {names}. These values are unknown"


def _read_counts(path: Path) -> Table:
    """Read the columns of the batch's windows that the page shows: each run rewrites the file."""
    return read_windows(path, ("window_start", "window_end", "trade_count"))


def _read_minute(path: Path) -> Mapping[str, str]:
    """Read the newest row of a service's per-minute records."""
    with path.open("rb") as file:
        header = file.readline()
        file.seek(max(len(header), path.stat().st_size - MINUTE_BYTES))
        last = file.read().splitlines()[-1:]
    rows = csv.DictReader(line.decode(errors="replace") for line in (header, *last))
    return next(rows, {})


def _read_run(path: Path) -> Mapping[str, Any]:
    """Read one batch result."""
    try:
        frame = _read_fast(path, outputs.BATCH_COLUMNS)
    except (pa.ArrowException, KeyError) as error:
        why = str(error).splitlines()[0]
        raise text_files.damaged(path, "is not a valid batch result", why) from error
    if frame.empty:
        raise text_files.damaged(path, "has no row")
    return cast("Mapping[str, Any]", frame.iloc[-1].to_dict())


def _read_fast(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    types = {
        name: pa.timestamp("ns", "UTC")
        if name in outputs.TIME_COLUMNS
        else pa.string()
        if name in outputs.TEXT_COLUMNS
        else pa.float64()
        for name in columns
    }
    options = pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(columns))
    with pyarrow.csv.open_csv(path, convert_options=options) as file:  # block by block
        table = file.read_all()
    frame = table.to_pandas(split_blocks=True, self_destruct=True)
    del table
    pa.default_memory_pool().release_unused()
    return cast("pd.DataFrame", frame)


def _no_runs() -> pd.DataFrame:
    return pd.DataFrame(columns=list(outputs.LOG_FIELDS))
