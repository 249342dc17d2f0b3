"""Where each output lies and how it is written atomically (`tables.py` reads tables back).

Text files only, so that anybody can look into them. Every file is replaced as a whole
(`os.replace`), so a reader sees the old one or the new one, never half of one.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import OperationalError
from pipeline.metrics import FURTHER, METRICS, Z_SCORES
from pipeline.times import from_epoch_micros, iso

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
#: Columns that hold text; times aside, all others are numbers.
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
#: Fields of a line in `batch_log.txt`, in order; what is unknown is left out.
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
)


#: What to do about a folder that holds something else.
ANOTHER_FOLDER = (
    "choose another folder with DATA_DIR=, or empty it with make clean "
    "(in containers: docker compose down --volumes)"
)


class OutputError(OperationalError):
    """A file that should hold an output holds something else; the text says which and why."""


@dataclass(frozen=True)
class DataDir:
    """The paths below `DATA_DIR`."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "crypto_prices.db"

    @property
    def stream_csv(self) -> Path:
        return self.root / "stream_csv"

    @property
    def stream_live(self) -> Path:
        return self.root / "stream_live.csv"

    @property
    def batch_output(self) -> Path:
        return self.root / "batch_output"

    @property
    def batch_windows(self) -> Path:
        return self.root / "batch_windows.csv"

    @property
    def batch_log(self) -> Path:
        return self.root / "batch_log.txt"

    @property
    def batch_run(self) -> Path:
        """What the run under way, or the last one, says of itself."""
        return self.status / "batch_processor.json"

    @property
    def stream_progress(self) -> Path:
        """A row for each of the latest micro-batches."""
        return self.status / "stream_progress.csv"

    @property
    def stream_latency(self) -> Path:
        """Of each of the latest final windows: how long its trades stood in the open view."""
        return self.status / "stream_latency.csv"

    def minutes_of(self, service: str) -> Path:
        """What a service counted and cost, minute by minute."""
        return self.status / f"{service}_minutes.csv"

    def rejected_by(self, service: str) -> Path:
        """The trade ids in the latest messages that a service rejected, where they had one."""
        return self.status / f"{service}_rejected.csv"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def status(self) -> Path:
        return self.root / "status"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def source(self) -> Path:
        """Which feed filled this folder: see `claim_source`."""
        return self.root / "source.json"

    def status_of(self, service: str) -> Path:
        return self.status / f"{service}.json"


# --- writing --------------------------------------------------------------------------------


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replaces the file by one with this text; `durable` survives a power cut as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk it would make it fuller
        raise
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def moments(row: Mapping[str, Any]) -> dict[str, datetime]:
    """The times in a row, from microseconds since 1970."""
    return {name: from_epoch_micros(row[name]) for name in TIME_COLUMNS if name in row}


def run_id(started: datetime) -> str:
    """The name of a batch run, sortable: 20251202T051000Z."""
    return started.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, datetime):
        return iso(value)
    return str(value)


def to_csv(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """CSV text of these rows, header first. A missing value is an empty cell."""
    names = tuple(columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def append_csv(path: Path, columns: Iterable[str], row: Mapping[str, object], limit: int) -> None:
    """Adds a row to a record of the latest; one longer than `limit` bytes loses its older half.

    A record with other columns, of another version, is begun anew; a line that was cut off, by a
    full disk or a kill, is ended first.
    """
    header, line = (text.encode() + b"\n" for text in to_csv(columns, [row]).splitlines())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        fits = file.readline() == header
        if not fits:
            file.truncate(0)
        file.write(b"\n" * _torn(file) + (line if fits else header + line))
        long = file.tell() > limit
    if long:
        lines = path.read_bytes().splitlines(keepends=True)
        kept = b"".join([header, *lines[len(lines) // 2 :]])
        write_atomically(path, kept.decode(), durable=False)


def cells(columns: Iterable[str], row: Mapping[str, object]) -> dict[str, str]:
    """A row as the text of its cells; what is missing or unknown is empty."""
    return {name: _cell(row.get(name)) for name in columns}


def laid_over(
    before: Mapping[str, Mapping[str, str]], windows: Iterable[Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """Final windows by `window_start`, once these (as cells) are written over those before.

    Writing a window again changes nothing: the first `written_at` stays. Nor does one with fewer
    trades, as a new checkpoint makes of a topic whose beginning Kafka has deleted.
    """
    laid = {start: {**row} for start, row in before.items()}
    for row in windows:
        known = laid.get(row["window_start"])
        if known is None:
            laid[row["window_start"]] = {**row}
        elif int(row["trade_count"]) >= int(known["trade_count"]):
            laid[row["window_start"]] = {**row, "written_at": known["written_at"]}
    return laid


def write_final_windows(data: DataDir, windows: Iterable[Mapping[str, str]]) -> None:
    """Lays final windows (as cells) into the file of their UTC day: one row each, sorted."""
    by_day: dict[str, list[Mapping[str, str]]] = {}
    for window in windows:
        by_day.setdefault(window["window_start"][:10], []).append(window)
    for day, rows in by_day.items():
        path = data.stream_csv / f"{day}.csv"
        laid = laid_over(_final_cells(path), rows)
        write_atomically(path, to_csv(WINDOW_COLUMNS, (laid[key] for key in sorted(laid))))


def read_final_cells(data: DataDir, first: datetime, last: datetime) -> dict[str, dict[str, str]]:
    """The cells of the final windows that start from `first` to `last`, by `window_start`."""
    since, until = iso(first), iso(last)
    return {
        start: row
        for path in stream_files(data)
        if since[:10] <= path.stem <= until[:10]
        for start, row in _final_cells(path).items()
        if since <= start <= until
    }


def _final_cells(path: Path) -> dict[str, dict[str, str]]:
    """A file of `stream_csv/` by `window_start`; one of an older version has fewer columns."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        header = tuple(reader.fieldnames or ())
        if "written_at" not in header or header != WINDOW_COLUMNS[: len(header)]:
            raise OutputError(f"{path} has other columns than this version writes: move it away")
        return {row["window_start"]: row for row in reader}


def append_batch_log(data: DataDir, fields: Mapping[str, object]) -> None:
    """Adds one run's line to `batch_log.txt`, whole; a line cut off before it is ended first."""
    line = " ".join(
        f"{name}={_log_value(fields[name])}" for name in LOG_FIELDS if fields.get(name) is not None
    )
    data.root.mkdir(parents=True, exist_ok=True)
    with data.batch_log.open("a+b") as file:
        file.write(b"\n" * _torn(file) + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _torn(file: BinaryIO) -> bool:
    """Whether a text file ends within a line; leaves its position at the end."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(-1, os.SEEK_END)
    return size > 0 and file.read(1) != b"\n"


def _log_value(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else _cell(value)


def write_status(data: DataDir, service: str, status: Mapping[str, object]) -> None:
    text = json.dumps(status, indent=1, default=_cell)
    write_atomically(data.status_of(service), text + "\n", durable=False)


def claim_source(data: DataDir, source: Mapping[str, object]) -> None:
    """Remembers which feed fills this folder; another one than before is an OutputError."""
    if not data.source.exists():
        write_atomically(data.source, json.dumps(source, indent=1) + "\n")
        return
    before = read_json(data.source)
    if before != dict(source):
        raise OutputError(
            f"{data.root} holds {_source_name(before)}, not {_source_name(source)}: "
            f"{ANOTHER_FOLDER}"
        )


def _source_name(source: Mapping[str, object]) -> str:
    if source.get("kind") == "live":
        return f"the live feed {source.get('url')}"
    retimed = "re-timed" if source.get("retimed") else "as recorded"
    return f"a replay of {source.get('recording')} ({retimed})"


# --- reading --------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} when it is missing; OutputError when it is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise OutputError(f"{path} does not hold a JSON object")
    return value


def read_status(data: DataDir, service: str) -> dict[str, Any]:
    return read_json(data.status_of(service))


def stream_files(data: DataDir) -> list[Path]:
    return sorted(data.stream_csv.glob("[0-9]*-[0-9]*-[0-9]*.csv"))


def batch_files(data: DataDir) -> list[Path]:
    return sorted(data.batch_output.glob("[0-9]*Z.csv"))
