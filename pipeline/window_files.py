"""Find damaged rows in files of windows: `stream_csv/`, `stream_live.csv`, `batch_windows.csv`.

A power cut or a full disk can leave an empty file, a row that was cut off, or zero bytes.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.outputs import TEXT_COLUMNS, TIME_COLUMNS, WINDOW_COLUMNS
from pipeline.text_files import cannot_read, short

#: These columns have a value in every window.
REQUIRED = ("window_start", "window_end", "trade_count", "buy_count", "written_at")
#: Columns that the first version wrote. A later version adds columns at the end.
FIRST_COLUMNS = WINDOW_COLUMNS[: WINDOW_COLUMNS.index("written_at") + 1]

_DAY = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_TIME = _DAY + r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?Z"
_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"


@dataclass(frozen=True)
class WindowFile:
    """The content of a file of windows."""

    header: tuple[str, ...]
    #: The undamaged rows, in the order of the file.
    rows: tuple[tuple[str, ...], ...]
    #: What is damaged: `row 3`, `header`. An undamaged file has none.
    damage: tuple[str, ...]
    #: Whether a newer version added columns, which are left out here.
    newer: bool = False


def scan(path: Path, length: timedelta | None = None) -> WindowFile:
    """Return the undamaged rows of a file of windows, and what is damaged in it.

    A second row of the same window counts as damaged. A file that does not exist has no rows.

    Args:
        path: the file.
        length: the length of its windows; None: any.

    Raises:
        OutputError: the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return WindowFile(WINDOW_COLUMNS, (), ())
    except OSError as error:
        raise cannot_read(path, error) from error
    first, *lines = text.split("\n")
    header = tuple(first.removesuffix("\r").split(","))
    newer = len(header) > len(WINDOW_COLUMNS) and header[: len(WINDOW_COLUMNS)] == WINDOW_COLUMNS
    if newer:
        rows, damage = _sound_rows(header, lines, length)
        cut = tuple(row[: len(WINDOW_COLUMNS)] for row in rows)
        return WindowFile(WINDOW_COLUMNS, cut, damage, newer=True)
    known = header == WINDOW_COLUMNS[: len(header)] and len(header) >= len(FIRST_COLUMNS)
    header = header if known else WINDOW_COLUMNS
    rows, damage = _sound_rows(header, lines, length)
    return WindowFile(header, rows, damage if known else ("header", *damage))


def _sound_rows(
    header: tuple[str, ...], lines: list[str], length: timedelta | None
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    form = re.compile(",".join(_pattern(name) for name in header))
    rows: dict[str, tuple[str, ...]] = {}
    damage = []
    for number, line in enumerate(lines, 2):
        cells = tuple(line.removesuffix("\r").split(","))
        if not line and number == len(lines) + 1:  # the text after the last line end
            continue
        if form.fullmatch(",".join(cells)) and cells[0] not in rows and _fits(cells, length):
            rows[cells[0]] = cells
        else:
            damage.append(f"row {number}")
    return tuple(rows.values()), tuple(damage)


def _pattern(column: str) -> str:
    if column in TEXT_COLUMNS:
        return "[A-Za-z]*"
    if column not in WINDOW_COLUMNS:
        return "[^,]*"
    if column in ("trade_count", "buy_count"):
        return r"\d+"
    pattern = _TIME if column in TIME_COLUMNS else _NUMBER
    return pattern if column in REQUIRED else f"(?:{pattern})?"


def _fits(cells: tuple[str, ...], length: timedelta | None) -> bool:
    """Return whether the start and the end of a window are dates and have this distance."""
    try:
        start, end = map(datetime.fromisoformat, cells[:2])
    except ValueError:
        return False
    return end - start == length if length else end > start


def description(path: Path, damage: tuple[str, ...]) -> str:
    """Return a damaged file with its first damages: `stream_csv/2025-12-02.csv (row 3, row 7)`."""
    listed = ", ".join(damage[:3]) + (f" and {len(damage) - 3} more" if damage[3:] else "")
    return f"{short(path)} ({listed})"
