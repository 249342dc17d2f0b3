"""Reads what the services wrote: once for all viewers, and only what changed since the last look.

A file counts as unchanged while its inode, time of writing and size stay the same. They
are read by threads of their own, so that a refresh never waits long for a large one.
"""

import csv
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv  # type: ignore[import-untyped]

from page import status
from pipeline import outputs, times
from pipeline.compare import inputs as tables
from pipeline.outputs import DataDir, OutputError

#: Seconds that one look at the files serves all viewers.
SHARED_SECONDS = 0.4
#: Seconds that a refresh waits for files that are being read; the page says what is missing.
PATIENCE_SECONDS = 0.15
#: A folder written to in the last seconds is listed again: its time stamp is too coarse to trust.
FRESH_FOLDER_SECONDS = 2.0
#: Characters of what is said of an unreadable file, at most.
MOST_PROBLEM = 300
#: Bytes at the end of a record of minutes that hold at least its newest row.
MINUTE_BYTES = 4096

Signature = tuple[int, int, int]
T = TypeVar("T")


@dataclass(eq=False)
class Table:
    """A data frame and what was made of it, which lives and dies with it."""

    frame: pd.DataFrame
    #: What of the file could not be read; None: nothing.
    problem: str | None = None
    _made: dict[str | tuple[str, str], tuple[Hashable, Any]] = field(default_factory=dict)

    def made(
        self, what: str | tuple[str, str], by: Hashable, make: Callable[[pd.DataFrame], T]
    ) -> T:
        """What `make` gives for this frame, computed anew only when `by` has changed.

        Of each `what` only the newest is kept: a file may stand still for days.
        """
        made = self._made.get(what)
        if made is None or made[0] != by:
            made = self._made[what] = (by, make(self.frame))
        return cast("T", made[1])


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
    """Everything that the page shows, as it was at one moment."""

    looked: datetime
    #: When this page first looked: "waiting since".
    first_look: datetime
    finals: Table
    #: The open windows; a new table whenever these or the final ones have changed.
    open_windows: Table
    batch_windows: Table
    batch_run: Mapping[str, Any]
    #: Why the newest batch result cannot be shown.
    batch_problem: str | None
    runs: Table
    services: Mapping[str, status.Service]
    source: Mapping[str, Any]
    #: A sentence for each file that is not what it should be.
    problems: tuple[str, ...]
    #: Names of files that are still being read.
    loading: tuple[str, ...]

    @property
    def live(self) -> pd.DataFrame:
        return self.open_windows.frame


@dataclass
class _Entry:
    signature: Signature | None
    value: Any
    problem: str | None = None


class Reader:
    """The files of one data folder, shared by all viewers of the page."""

    def __init__(self, data: DataDir) -> None:
        self._data = data
        self._entries: dict[Path, _Entry] = {}
        self._reading: dict[Path, Future[_Entry]] = {}
        self._listings: dict[tuple[Path, str], tuple[int, list[Path]]] = {}
        self._nothing = _no_windows()
        self._joined: tuple[tuple[Signature | None, ...], Table] = ((), self._nothing)
        #: The open windows, and what they were made of.
        self._opened: tuple[Table, Table, Table] | None = None
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="reader")
        self._lock = threading.Lock()
        self._first_look = times.now()
        self._last: Snapshot | None = None
        self._looked = 0.0

    def look(self) -> Snapshot:
        """The newest state of all files; what is still being read is named in `loading`."""
        with self._lock:
            # By the clock that nobody sets: the other one may be set back.
            if self._last and time.monotonic() - self._looked < SHARED_SECONDS:
                return self._last
            self._looked = time.monotonic()
            self._last = self._look(times.now())
            return self._last

    def _look(self, now: datetime) -> Snapshot:
        data = self._data
        days = self._list(data.stream_csv, "[0-9]*-[0-9]*-[0-9]*.csv", now)
        newest_run = self._list(data.batch_output, "[0-9]*Z.csv", now)[-1:]
        windows = [data.stream_live, *reversed(days)]
        services = {name: data.status_of(name) for name in status.SERVICES}
        for path in (*services.values(), data.source):
            self._want(path, outputs.read_json)
        minutes = {name: data.minutes_of(name) for name in status.SERVICES}
        for path in minutes.values():
            self._want(path, _read_minute)
        self._want(data.batch_log, lambda _path: Table(tables.read_batch_log(data)))
        for path in newest_run:
            self._want(path, _read_run)
        for path in windows:  # the newest first, the largest last
            self._want(path, read_windows)
        self._want(data.batch_windows, _read_counts)
        wait(self._reading.values(), timeout=PATIENCE_SECONDS)
        self._collect()
        wanted = {
            *windows,
            *newest_run,
            data.batch_windows,
            data.batch_log,
            data.source,
            *services.values(),
            *minutes.values(),
        }
        for gone in self._entries.keys() - wanted:
            del self._entries[gone]
        finals = self._join(days)
        return Snapshot(
            looked=now,
            first_look=self._first_look,
            finals=finals,
            open_windows=self._open(data.stream_live, finals),
            batch_windows=self._table(data.batch_windows),
            batch_run=self._value(newest_run[0], {}) if newest_run else {},
            batch_problem=self._problem(newest_run[0]) if newest_run else None,
            runs=self._value(data.batch_log, None) or Table(_no_runs()),
            services={
                name: status.Service(
                    name,
                    self._value(path, {}),
                    self._problem(path),
                    self._value(minutes[name], {}),
                )
                for name, path in services.items()
            },
            source=self._value(data.source, {}),
            problems=self._gone(bool(newest_run))
            + self._problems(
                (*windows, data.batch_windows, *newest_run, data.batch_log, data.source)
            ),
            loading=tuple(sorted(path.name for path in self._reading)),
        )

    def _gone(self, has_results: bool) -> tuple[str, ...]:
        """A database that was there, as there are results of it."""
        path = self._data.database
        return (f"{path} is missing",) if has_results and not path.exists() else ()

    def _want(self, path: Path, read: Callable[[Path], Any]) -> None:
        """Has the file read, unless what is known of it is current or being read."""
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
        """A sentence for each file that is not what it should be; one for all alike."""
        alike: dict[str, list[str]] = {}
        for path in paths:
            problem = self._problem(path)
            if problem is not None:
                alike.setdefault(problem.removeprefix(str(path)), []).append(str(path))
        return tuple(
            found[0] + (f" and {len(found) - 1:,} more" if len(found) > 1 else "") + said
            for said, found in alike.items()
        )

    def _table(self, path: Path) -> Table:
        return self._value(path, self._nothing)

    def _open(self, path: Path, finals: Table) -> Table:
        """The windows still open; one that has just become final is left out."""
        read = self._table(path)
        if self._opened is None or self._opened[:2] != (read, finals):
            live, final = read.frame, finals.frame["window_start"].iloc[-len(read.frame) - 10 :]
            left = Table(live[~live["window_start"].isin(final)].reset_index(drop=True))
            self._opened = (read, finals, left)
        return self._opened[2]

    def _join(self, days: Iterable[Path]) -> Table:
        """All final windows read so far as one table, made anew only when a file changed."""
        known = [self._entries[path] for path in days if path in self._entries]
        signatures = tuple(entry.signature for entry in known)
        if signatures == self._joined[0]:
            return self._joined[1]
        filled = [entry for entry in known if entry.value is not None and len(entry.value.frame)]
        joined = self._nothing
        if filled:
            joined = Table(pd.concat([entry.value.frame for entry in filled], ignore_index=True))
            first = 0
            for (
                entry
            ) in filled:  # each day from now on as a part of the whole: kept once, not twice
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


@cache
def reader_of(root: Path) -> Reader:
    """The one reader of a data folder in this process."""
    return Reader(DataDir(root))


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
    except Exception as error:  # noqa: BLE001 - whatever is in it, one file must not end the page
        return _Entry(signature, None, f"{path} cannot be read: {error!r}"[:MOST_PROBLEM])


def read_windows(path: Path, columns: tuple[str, ...] = outputs.WINDOW_COLUMNS) -> Table:
    """One file of windows, read in a tenth of the time of `tables.read_windows`.

    That one takes over where the file is not exactly as this version writes it.
    """
    problem = None
    try:
        frame = _read_fast(path, columns)
    except (pa.ArrowException, KeyError) as error:
        frame = tables.read_windows(path)[list(columns)]
        cell = f"{path} has cells that are unknown here: {str(error).splitlines()[0]}"
        problem = _lacking(path, frame) or cell[:MOST_PROBLEM]
    known = frame.dropna(subset=["window_start"])
    if wrong := len(frame) - len(known):
        problem = f"{path} has {wrong:,} rows that are no windows, left out here"
    return Table(known.sort_values("window_start"), problem)


def _lacking(path: Path, frame: pd.DataFrame) -> str | None:
    """Which columns an older version did not write."""
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline().strip().split(",")
    lacking = [name for name in frame.columns if name not in header]
    if not lacking:
        return None
    return f"{path} is of an older version, without {', '.join(lacking)}: they are unknown"


def _read_counts(path: Path) -> Table:
    """Of the batch's windows, which come anew with each run, only what the page shows."""
    return read_windows(path, ("window_start", "window_end", "trade_count"))


def _read_minute(path: Path) -> Mapping[str, str]:
    """The newest row of a service's record of minutes, which may be long."""
    with path.open("rb") as file:
        header = file.readline()
        file.seek(max(len(header), path.stat().st_size - MINUTE_BYTES))
        last = file.read().splitlines()[-1:]
    rows = csv.DictReader(line.decode(errors="replace") for line in (header, *last))
    return next(rows, {})


def _read_run(path: Path) -> Mapping[str, Any]:
    """The newest row of one batch result."""
    try:
        frame = _read_fast(path, outputs.BATCH_COLUMNS)
    except (pa.ArrowException, KeyError) as error:
        why = str(error).splitlines()[0]
        raise OutputError(f"{path} cannot be read as a batch result: {why}") from error
    if frame.empty:
        raise OutputError(f"{path} holds no row")
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
