"""Read the output files as pandas tables.

`outputs.py` does not import pandas, because the import costs 60 MB and half a second and most
services only write.
"""

import json
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

from pipeline import alerts, window_files
from pipeline.compare.modes import FULL, READS
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError
from pipeline.outputs import (
    BATCH_COLUMNS,
    LATENCY_COLUMNS,
    LOG_FIELDS,
    MINUTE_COLUMNS,
    TEXT_COLUMNS,
    TIME_COLUMNS,
    WINDOW_COLUMNS,
    batch_files,
    stream_files,
)
from pipeline.stream.finality import VERSION_COLUMNS
from pipeline.text_files import cannot_read, damaged, read_csv, read_text

#: A line of `stream_versions.csv`: a time, two whole numbers and three decimals.
_VERSION = re.compile(r"[-0-9T:]+Z(,\d+){2}(,\d+(\.\d+)?){3}")
#: Columns that hold a whole number in every window.
COUNTS = ("trade_count", "buy_count")
#: Names in lower case that occur in the reasons of batch runs.
_NAMES_IN_REASONS = (
    "crypto_prices.db",
    "batch_windows.csv",
    "batch_sums.json",
    "batch_processor.json",
    "pids_limit",
)


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
    table["started"] = _as_times(table["started"])
    table["reason"] = _with_spaces(table["reason"])
    table["mode"] = table["mode"].where(table["mode"].isin(READS), FULL)
    texts = {"started", "run", "status", "reason", "mode"}
    for name in set(LOG_FIELDS) - texts:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    return table


def _with_spaces(reasons: pd.Series) -> pd.Series:
    """Return the reasons of batch runs with spaces instead of the underscores of the log.

    An underscore between two capital letters stays: it is part of a setting such as BATCH_MEMORY.
    """
    reasons = reasons.astype("string").str.replace("(?<![A-Z])_|_(?![A-Z])", " ", regex=True)
    for name in _NAMES_IN_REASONS:
        reasons = reasons.str.replace(name.replace("_", " "), name, regex=False)
    return reasons


def read_compared(path: Path) -> pd.DataFrame:
    """Return windows that are to be compared, as the text of their cells."""
    cells = _read_cells([path], WINDOW_COLUMNS, required="window_start")
    _check_numbers(path, cells)
    return cells


def window_length(*tables: pd.DataFrame) -> timedelta | None:
    """Return the length of the windows in the first table of text cells that has one."""
    for cells in tables:
        known = cells[(cells["window_start"] != "") & (cells["window_end"] != "")].tail(1)
        if len(known):
            start, end = (known[f"window_{edge}"].iloc[0] for edge in ("start", "end"))
            return datetime.fromisoformat(end) - datetime.fromisoformat(start)
    return None


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


def read_all_final_windows(data: DataDir) -> tuple[pd.DataFrame, tuple[str, ...]]:
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


def read_micro_batches(data: DataDir) -> pd.DataFrame:
    return _read_record(
        data.stream_progress,
        ("micro_batch", "published_at", "newest_trade", "rows", "duration_ms"),
        times=("published_at", "newest_trade", "first_receipt", "last_receipt"),
    )


def read_minutes(data: DataDir, service: str) -> pd.DataFrame:
    return _read_record(data.minutes_of(service), MINUTE_COLUMNS, times=("at",))


def read_window_latencies(data: DataDir) -> pd.DataFrame:
    """Return the latencies of each window, by its first row."""
    table = _read_record(data.stream_latency, LATENCY_COLUMNS, times=())
    return table.drop_duplicates("window_start", ignore_index=True)


def read_alerts(path: Path) -> pd.DataFrame:
    """Return the alerts in a file, typed, each once."""
    table = pd.DataFrame(alerts.read(path), columns=list(alerts.COLUMNS), dtype=object)
    for name in ("newest_trade", "raised_at"):
        table[name] = _as_times(table[name])
    for name in ("value", "threshold"):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    return table.drop_duplicates(["window_start", "kind"], ignore_index=True)


def read_replaced_versions(data: DataDir) -> dict[str, list[dict[str, str]]]:
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


def read_rejected_ids(data: DataDir) -> frozenset[int]:
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
        table[name] = _as_times(table[name])
    return table


def _is_json(text: object) -> bool:
    try:
        return isinstance(json.loads(str(text)), dict)
    except ValueError:
        return False


def _read_cells(paths: Iterable[Path], columns: tuple[str, ...], *, required: str) -> pd.DataFrame:
    """Return the rows of several files as the text of their cells.

    The csv module reads them, because pandas needs 10 ms for each file. There may be a thousand.
    """
    rows = [row for path in paths for row in _read_rows(path, columns, required)]
    return pd.DataFrame(rows, columns=list(columns), dtype=str)


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


def _as_times(texts: pd.Series) -> pd.Series:
    """Return texts as times in UTC. Other texts are NaT."""
    return pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601")


def typed(cells: pd.DataFrame) -> pd.DataFrame:
    """Return text cells as times in UTC and numbers. Unknown values are NaT or NaN."""
    table = cells.copy()
    for name in table.columns:
        if name in TIME_COLUMNS:
            table[name] = _as_times(table[name])
        elif name not in TEXT_COLUMNS:
            table[name] = pd.to_numeric(table[name], errors="coerce")
    return table
