"""The output files of the services: their columns, and what is written to and read from each.

`data_dir.py` has their paths. `text_files.py` writes and reads any text file.
"""

import csv
import heapq
import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import MAXYEAR, UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pipeline import text_files
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError
from pipeline.metrics.definitions import FURTHER, METRICS, Z_SCORES
from pipeline.times import from_epoch_micros, iso

#: The services that write a status file, in the order in which data passes them.
SERVICES = ("producer", "consumer", "spark_processor", "batch_scheduler")
#: Columns of `stream_csv/`, `stream_live.csv` and `batch_windows.csv`.
#: `last_receipt_time` is unknown (empty) in the batch: the table does not hold it.
WINDOW_COLUMNS = (
    "window_start",
    "window_end",
    *METRICS,
    *FURTHER,
    "last_trade_time",
    "last_receipt_time",
    "written_at",
    *Z_SCORES,
)
#: The names of the files in `stream_csv/` and in `batch_output/`.
STREAM_FILES, BATCH_FILES = "[0-9]*-[0-9]*-[0-9]*.csv", "[0-9]*Z.csv"
#: Batch runs that retention keeps at any age, with the transactions that they read. The newest run
#: may not have published its windows.
KEPT_RUNS = 2
#: Columns of a file in `batch_output/`.
BATCH_COLUMNS = (
    *METRICS,
    "rows",
    "first_trade_time",
    "last_trade_time",
    "run",
    *FURTHER,
    "snapshot_at",
    "written_at",
    "first_trade_id",
    "last_trade_id",
)
#: Columns that hold text, and columns that hold times. All other columns hold numbers.
TEXT_COLUMNS = ("volatility_flag", "market_sentiment", "volume_spike", "run")
TIME_COLUMNS = (
    "window_start",
    "window_end",
    "first_trade_time",
    "last_trade_time",
    "last_receipt_time",
    "snapshot_at",
    "written_at",
)
#: Characters of a value in `batch_log.txt`. A space in a text is written as an underscore.
_LOG_CHARACTERS = 300
#: The state in the status file of a service that ended on request.
SERVICE_STOPPED = "stopped"
#: The statuses of batch runs.
RUN_OK, RUN_NO_DATA, RUN_FAILED = "ok", "no_data", "failed"
RUN_TIMEOUT, RUN_STOPPED = "timeout", "stopped"
#: Statuses of batch runs that succeeded.
SUCCESS_STATUSES = (RUN_OK, RUN_NO_DATA)
#: Fields of a line in `batch_log.txt`, in order. Unknown fields are omitted.
LOG_FIELDS = (
    "started",
    "run",
    "status",
    "exit",
    "rows",
    "windows",
    "wall_s",
    "start_s",
    "logic_s",
    "cpu_s",
    "peak_mib",
    "read_s",
    "write_s",
    "reason",
    "mode",
)
#: Columns of the per-minute record of a service; `counters` is JSON.
MINUTE_COLUMNS = ("at", "seconds", "cpu_s", "rss_mib", "counters")
#: Seconds between two rows of this record, and between two log lines of the counters.
RECORD_SECONDS = 60.0
#: Columns of `stream_latency.csv`; `counts` is the number of trades by bucket of `histogram`, JSON.
LATENCY_COLUMNS = ("window_start", "leg", "counts")


# --- writing --------------------------------------------------------------------------------


def moments(row: Mapping[str, Any]) -> dict[str, datetime]:
    """Return the known times of a row, given as microseconds since 1970, as datetimes."""
    known = {name: row[name] for name in TIME_COLUMNS if row.get(name) is not None}
    return {name: from_epoch_micros(micros) for name, micros in known.items()}


def run_id(started: datetime, newest: str | None = None) -> str:
    """Return the name of a batch run, which sorts by start: 20251202T051000Z.

    It sorts after the name of the newest run, even if the clock was set back since then. So no run
    replaces the file of another run, and the last file belongs to the newest run.

    Args:
        started: when the run started.
        newest: the name of the newest run; None: there is none.
    """
    name = started.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    if newest is None or name > newest:
        return name
    return run_id(datetime.fromisoformat(newest) + timedelta(seconds=1))


def newest_run(data: DataDir) -> str | None:
    """Return the name of the newest batch run that has a file or a line in the log."""
    log = data.batch_log.read_bytes() if data.batch_log.exists() else b""
    names = {path.stem for path in batch_files(data)}
    names |= {name.decode() for name in re.findall(rb" run=(\d{8}T\d{6}Z)\b", log)}
    return max(filter(_is_run_id, names), default=None)


def started(path: Path, now: datetime) -> datetime | None:
    """Return when the run of a file in `batch_output/` started; None if its name is no run id."""
    if not _is_run_id(path.stem):
        return None
    return start_of(datetime.fromisoformat(path.stem), _modified(path), now)


def start_of(named: datetime, modified: datetime, now: datetime) -> datetime:
    """Return when a run started, or when its file was written if its name is in the future.

    After one run with a clock that was ahead, the name of each later run is one second after the
    name of the run before it: all these names are in the future.

    Args:
        named: the start in the name of its file.
        modified: when the file was written.
        now: the current time.
    """
    return modified if named > now else named


def _modified(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:  # another process has deleted it: it has no age
        return datetime.max.replace(tzinfo=UTC)


def _is_run_id(name: str) -> bool:
    try:
        started = datetime.fromisoformat(name)
    except ValueError:
        return False
    return run_id(started) == name and started.year < MAXYEAR


def upsert_windows(
    before: Mapping[str, Mapping[str, str]], windows: Iterable[Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Return final windows (as cells) by `window_start`, after inserts and updates.

    Writing a window again changes nothing: the first `written_at` stays. A row with fewer trades
    never replaces a row with more. The stream computes such rows with a new checkpoint, when Kafka
    has deleted the beginning of the topic.
    """
    rows = {start: {**row} for start, row in before.items()}
    for window in windows:
        known = rows.get(window["window_start"])
        if known is None:
            rows[window["window_start"]] = {**window}
        elif int(window["trade_count"]) >= int(known["trade_count"]):
            rows[window["window_start"]] = {**window, "written_at": known["written_at"]}
    return rows


def write_final_windows(data: DataDir, windows: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """Write final windows (as cells) to the file of the UTC day of their start, sorted.

    Returns:
        The number of rows in each file that was written, by day.
    """
    by_day: dict[str, list[Mapping[str, str]]] = {}
    for window in windows:
        by_day.setdefault(window["window_start"][:10], []).append(window)
    written = {}
    for day, added in by_day.items():
        path = data.stream_csv / f"{day}.csv"
        rows = upsert_windows(read_window_cells(path), added)
        text_files.write_atomically(
            path, text_files.to_csv(WINDOW_COLUMNS, (rows[start] for start in sorted(rows)))
        )
        written[day] = len(rows)
    return written


def append_batch_log(data: DataDir, fields: Mapping[str, object]) -> None:
    """Append the line of a batch run to `batch_log.txt`, unless the log has a line of this run.

    A kill or a full disk may have left an unfinished line at the end. It is removed first: its run
    is logged again.
    """
    line = " ".join(
        f"{name}={_log_value(fields[name])}" for name in LOG_FIELDS if fields.get(name) is not None
    )
    data.root.mkdir(parents=True, exist_ok=True)
    with data.batch_log.open("a+b") as file:
        file.seek(0)
        finished = _finished_lines(file.read())
        file.truncate(len(finished))
        if not _has_run(finished, str(fields["run"])):
            file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def is_logged(data: DataDir, run: str) -> bool:
    """Return whether `batch_log.txt` has the line of this run."""
    log = data.batch_log.read_bytes() if data.batch_log.exists() else b""
    return _has_run(_finished_lines(log), run)


def _has_run(log: bytes, run: str) -> bool:
    return f" run={run} status=".encode() in log


def _finished_lines(log: bytes) -> bytes:
    return log[: log.rfind(b"\n") + 1]


def _log_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "_".join(text_files.cell(value).split())[:_LOG_CHARACTERS]


def write_status(data: DataDir, service: str, status: Mapping[str, object]) -> None:
    text = json.dumps(status, indent=1, default=text_files.cell)
    text_files.write_atomically(data.status_of(service), text + "\n", durable=False)


# --- reading --------------------------------------------------------------------------------


def read_window_cells(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a file of `stream_csv/` by `window_start`; {} if it does not exist.

    Raises:
        OutputError: the file has other columns. A file of an older version has fewer at its end.
    """
    header, rows = text_files.read_csv(path)
    if not header:
        return {}
    if "written_at" not in header or tuple(header) != WINDOW_COLUMNS[: len(header)]:
        raise text_files.damaged(path, "has other columns than expected")
    if any(len(row) < len(header) for row in rows):
        raise text_files.damaged(path, "has a row that was cut off")
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def read_final_windows(data: DataDir, first: datetime, last: datetime) -> dict[str, dict[str, str]]:
    """Return the final windows (as cells) that start from `first` to `last`, by `window_start`."""
    since, until = iso(first), iso(last)
    return {
        start: row
        for path in stream_files(data)
        if since[:10] <= path.stem <= until[:10]
        for start, row in read_window_cells(path).items()
        if since <= start <= until
    }


def read_status(data: DataDir, service: str) -> dict[str, Any]:
    return text_files.read_json(data.status_of(service))


def status_or_empty(data: DataDir, service: str) -> dict[str, Any]:
    """Return the status of a service; {} if it has no readable status file."""
    try:
        return read_status(data, service)
    except OutputError:
        return {}


def part(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object in a status file, such as `settings`; {} if the field has no object."""
    value = fields.get(name)
    return value if isinstance(value, Mapping) else {}


def stream_files(data: DataDir) -> list[Path]:
    return sorted(data.stream_csv.glob(STREAM_FILES))


def batch_file(data: DataDir, run: str) -> Path:
    """Return the path of the row of a batch run."""
    return data.batch_output / f"{run}.csv"


def has_windows(data: DataDir, run: str) -> bool:
    """Return whether `batch_windows.csv` is of this run: `written_at` is the same in both files."""
    row, windows = _first_row(batch_file(data, run)), _first_row(data.batch_windows)
    return "written_at" in row and row["written_at"] == windows.get("written_at")


def _first_row(path: Path) -> dict[str, str]:
    """Return the first row of a CSV file; {} if it has none or cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            return next(csv.DictReader(file), {})
    except (OSError, csv.Error):
        return {}


def batch_files(data: DataDir) -> list[Path]:
    return sorted(data.batch_output.glob(BATCH_FILES))


def newest_batch_files(data: DataDir, count: int) -> list[Path]:
    """Return the files of the newest runs, without a path object for each of the others."""
    try:
        with os.scandir(data.batch_output) as entries:
            names = (entry.name for entry in entries if fnmatch(entry.name, BATCH_FILES))
            return [data.batch_output / name for name in heapq.nlargest(count, names)]
    except (FileNotFoundError, NotADirectoryError):
        return []
