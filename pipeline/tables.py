"""How the outputs are read back, as pandas tables.

Apart from `outputs.py`, as pandas costs a service that only writes 60 MB and half a second.
"""

from pathlib import Path

import pandas as pd

from pipeline.outputs import (
    BATCH_COLUMNS,
    LOG_FIELDS,
    TEXT_COLUMNS,
    TIME_COLUMNS,
    WINDOW_COLUMNS,
    DataDir,
    OutputError,
    batch_files,
    stream_files,
)


def read_windows(path: Path) -> pd.DataFrame:
    """Windows from one file, typed (times in UTC, numbers as floats), sorted by start."""
    return _read_table(path, WINDOW_COLUMNS, required="window_start").sort_values(
        "window_start", ignore_index=True
    )


def read_final_windows(data: DataDir) -> pd.DataFrame:
    """All final windows of the stream, sorted by start."""
    return _join([read_windows(path) for path in stream_files(data)], WINDOW_COLUMNS)


def read_batch_runs(data: DataDir) -> pd.DataFrame:
    """The one-row results of all batch runs, oldest first."""
    frames = [_read_table(path, BATCH_COLUMNS, required="run") for path in batch_files(data)]
    return _join(frames, BATCH_COLUMNS)


def read_batch_log(data: DataDir) -> pd.DataFrame:
    """`batch_log.txt` as a table with the columns LOG_FIELDS; lines that are none are left out."""
    try:
        lines = data.batch_log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise OutputError(f"{data.batch_log} cannot be read: {error}") from error
    rows = [dict(part.split("=", 1) for part in line.split() if "=" in part) for line in lines]
    table = pd.DataFrame(
        [row for row in rows if {"started", "status"} <= row.keys()], columns=list(LOG_FIELDS)
    )
    table["started"] = pd.to_datetime(table["started"], utc=True, errors="coerce", format="ISO8601")
    for name in LOG_FIELDS[3:]:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    return table


def _read_table(path: Path, columns: tuple[str, ...], *, required: str) -> pd.DataFrame:
    try:
        cells = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        cells = pd.DataFrame(columns=list(columns), dtype=str)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error
    if not isinstance(cells.index, pd.RangeIndex):  # pandas takes what is too much for an index
        raise OutputError(f"{path} has rows with more cells than its header")
    if required not in cells.columns:
        raise OutputError(f"{path} has no column {required}: it is not one of this system's files")
    return _typed(cells.reindex(columns=list(columns), fill_value=""))


def _typed(cells: pd.DataFrame) -> pd.DataFrame:
    table = cells.copy()
    for name in table.columns:
        if name in TIME_COLUMNS:
            table[name] = pd.to_datetime(table[name], utc=True, errors="coerce", format="ISO8601")
        elif name not in TEXT_COLUMNS:
            table[name] = pd.to_numeric(table[name], errors="coerce")
    return table


def _join(frames: list[pd.DataFrame], columns: tuple[str, ...]) -> pd.DataFrame:
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return _typed(pd.DataFrame(columns=list(columns), dtype=str))
    return pd.concat(frames, ignore_index=True)
