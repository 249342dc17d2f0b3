"""The cells of the agreement figure: one window per cell, or the worst of several windows."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pandas as pd

from pipeline.compare import formatting
from pipeline.compare.agreement import (
    DIFFERS,
    EQUAL,
    NOT_YET_FINAL,
    NOT_YET_IN_A_BATCH,
    ONLY_BATCH,
    ONLY_STREAM,
    STATUSES,
)
from pipeline.compare.causes import UNEXPLAINED

#: A symbol next to the colour, for readers who cannot distinguish the colours.
SYMBOLS = {
    DIFFERS: "≠",
    ONLY_STREAM: "S",
    ONLY_BATCH: "B",
    NOT_YET_FINAL: "…",
    NOT_YET_IN_A_BATCH: "○",
    EQUAL: "=",
}
#: The symbol of equal windows for which neither path has all trades that the exchange issued.
MISSING = "!"
#: The length of windows if there is none.
ONE_MINUTE = timedelta(minutes=1)
#: Maximum number of rows. If there are more windows, a cell holds several of them.
MAX_ROWS = 32
#: Maximum number of columns of a window whose two values are listed.
MAX_VALUES = 4
#: Cell and row of wider layouts, the finest first. After the last one, both lengths are doubled.
_WIDER = (
    (timedelta(minutes=30), timedelta(days=1)),
    (timedelta(hours=4), timedelta(days=7)),
    (timedelta(days=1), timedelta(days=28)),
)
#: Rows count from a Monday, so that a row of a week begins with one.
_MONDAY = pd.Timestamp("1970-01-05", tz="UTC")
#: Rows whose columns have a fixed time of day or week, and the format of that time.
_CLOCKS = {
    timedelta(hours=1): ":%M",
    timedelta(days=1): "%H:%M",
    timedelta(days=7): "%a %H:%M",
}
CELL_COLUMNS = (
    *("row", "column", "status", "symbol", "when", "description"),
    *("stream", "batch", "values", "cause"),
)


@dataclass(frozen=True)
class Layout:
    """The time that one cell and one row of cells cover."""

    cell: timedelta
    row: timedelta

    @property
    def columns(self) -> list[str]:
        """Return the label of each column: its time of day, or its offset from the row's start."""
        offsets = [n * self.cell for n in range(self.row // self.cell)]
        pattern = _CLOCKS.get(self.row)
        if pattern:
            second = ":%S" if self.cell < ONE_MINUTE else ""
            return [f"{_MONDAY + offset:{pattern}{second}}" for offset in offsets]
        day = timedelta(days=1)
        if self.row % day or self.row < day:
            return [_offset(offset, self.cell) for offset in offsets]
        clock = " %H:%M" if self.cell % day else ""
        return [f"day {1 + offset.days}{(_MONDAY + offset).strftime(clock)}" for offset in offsets]


@dataclass(frozen=True)
class AgreementGrid:
    """The cells of the figure and how they are laid out."""

    layout: Layout
    #: One row per cell, with the columns `CELL_COLUMNS`, all text.
    cells: pd.DataFrame


def agreement_grid(
    agreement: pd.DataFrame, stream: pd.DataFrame, batch: pd.DataFrame, window: timedelta
) -> AgreementGrid:
    """Return the windows as a bounded number of cells.

    Args:
        agreement: As `agreement` returns it.
        stream: The stream's windows, as the text of their cells, final ones first.
        batch: The windows of the newest batch run, as the text of their cells.
        window: The length of the windows.
    """
    shape = grid_layout(agreement, window)
    if agreement.empty:
        return AgreementGrid(shape, pd.DataFrame(columns=list(CELL_COLUMNS)))
    worst = group(rank(agreement, stream, batch), shape)
    unequal = worst[worst["columns"] != ""]
    values = dict(
        zip(unequal["window_start"], differing_values(unequal, stream, batch), strict=True)
    )
    return AgreementGrid(shape, describe(worst, shape, values))


def grid_layout(agreement: pd.DataFrame, window: timedelta) -> Layout:
    """Return the layout for these windows, as `agreement` returns them, of this length."""
    if agreement.empty:
        return Layout(window, 60 * window)
    first, last = (pd.Timestamp(agreement["window_start"].iloc[place]) for place in (0, -1))
    return layout((last - first).to_pytimedelta() + window, window)


def _offset(offset: timedelta, cell: timedelta) -> str:
    """Return `+3:15`: hours and minutes into the row, or minutes and seconds for short cells."""
    seconds = int(offset.total_seconds())
    size = 3600 if cell >= ONE_MINUTE else 60
    return f"+{seconds // size}:{seconds % size * 60 // size:02}"


def layout(covered: timedelta, window: timedelta) -> Layout:
    """Return the finest layout in which a time fits into the rows. A cell holds whole windows."""
    wider = [
        Layout(cell, row) for cell, row in _WIDER if cell > window and cell % window == timedelta(0)
    ]
    for shape in (Layout(window, 60 * window), *wider):
        if covered <= (MAX_ROWS - 1) * shape.row:  # the first and the last row may be incomplete
            return shape
    shape = wider[-1] if wider else Layout(window, 60 * window)
    while covered > (MAX_ROWS - 1) * shape.row:
        shape = Layout(2 * shape.cell, 2 * shape.row)
    return shape


def rank(agreement: pd.DataFrame, stream: pd.DataFrame, batch: pd.DataFrame) -> pd.DataFrame:
    """Return the agreement with what its cells need.

    Returns:
        `agreement` with `start`, `rank` (0 is the worst: by status, within a status unexplained
        windows first, then those with a cause), and `stream` and `batch` (the trades that each
        path counted; NaN: it has no such window).
    """
    known = {
        name: pd.to_numeric(
            table.drop_duplicates("window_start").set_index("window_start")["trade_count"],
            errors="coerce",
        )
        for name, table in (("stream", stream), ("batch", batch))
    }
    ranks = agreement["status"].map({name: 3 * n for n, name in enumerate(STATUSES)})
    ranks += (agreement["cause"] == "") * 2
    ranks += (agreement["cause"] != "") * ~agreement["cause"].str.contains(UNEXPLAINED, regex=False)
    return agreement.assign(
        start=pd.to_datetime(agreement["window_start"], utc=True, format="ISO8601"),
        rank=ranks,
        **{name: agreement["window_start"].map(counts) for name, counts in known.items()},
    )


def group(ranked: pd.DataFrame, shape: Layout) -> pd.DataFrame:
    """Return one row per cell: the worst of its windows, with the counts of all of them."""
    since = ranked["start"] - _MONDAY
    number = since // pd.Timedelta(shape.cell)
    groups = ranked.assign(number=number).groupby("number", sort=True)
    worst = ranked.loc[groups["rank"].idxmin()].set_axis(groups.size().index, axis="index")
    begins = _MONDAY + worst.index.to_series() * pd.Timedelta(shape.cell)
    row = _MONDAY + (begins - _MONDAY) // pd.Timedelta(shape.row) * pd.Timedelta(shape.row)
    return worst.assign(
        begins=begins,
        row=row,
        place=((begins - row) // pd.Timedelta(shape.cell)).astype(int),
        windows=groups.size(),
        stream=groups["stream"].sum(min_count=1),
        batch=groups["batch"].sum(min_count=1),
        of_each=groups["status"].agg(Counter),
    )


def symbol_of(status: str, cause: str) -> str:
    """Return the symbol of a window. An equal window has a cause if both paths lack trades."""
    return MISSING if status == EQUAL and cause else SYMBOLS[status]


def describe(worst: pd.DataFrame, shape: Layout, values: dict[str, str]) -> pd.DataFrame:
    """Return the cells with the text of their tooltips.

    Args:
        worst: As `group` returns it.
        shape: The layout.
        values: By window: the columns that differ, with both values.
    """
    columns = shape.columns
    texts = [_texts(cell, shape.cell, values) for cell in worst.to_dict("records")]
    return pd.DataFrame(
        {
            "row": worst["row"].dt.strftime("%Y-%m-%d %H:%M").tolist(),
            "column": [columns[place] for place in worst["place"]],
            "status": worst["status"].tolist(),
            "symbol": [
                symbol_of(status, cause)
                for status, cause in zip(worst["status"], worst["cause"], strict=True)
            ],
            **{
                path: [formatting.number(count, ",.0f") for count in worst[path]]
                for path in ("stream", "batch")
            },
            **{
                name: [of[name] for of in texts]
                for name in ("when", "description", "values", "cause")
            },
        },
        columns=list(CELL_COLUMNS),
    )


def _texts(cell: dict[Any, Any], width: timedelta, values: dict[str, str]) -> dict[str, str]:
    status, windows, begins = cell["status"], cell["windows"], cell["begins"]
    seconds = ":%S" if begins.second or width.seconds % 60 else ""
    when = f"{begins:%Y-%m-%d %H:%M{seconds}}"
    described, differing = status, values.get(cell["window_start"], formatting.UNKNOWN)
    if windows > 1:
        each = ", ".join(
            f"{cell['of_each'][name]:,} {name}" for name in STATUSES if cell["of_each"][name]
        )
        when += f", {formatting.length(width)}"
        described = f"{status} (worst of {windows:,} windows: {each})"
        if differing != formatting.UNKNOWN:
            differing = f"{cell['start']:%m-%d %H:%M}: {differing}"
    return {
        "when": when,
        "description": described,
        "values": differing,
        "cause": cell["cause"] or formatting.UNKNOWN,
    }


def differing_values(windows: pd.DataFrame, stream: pd.DataFrame, batch: pd.DataFrame) -> list[str]:
    """Return, for each of these windows, the columns that differ, with both values."""
    by_start = [
        {
            str(row["window_start"]): row
            for row in table[table["window_start"].isin(windows["window_start"])].to_dict("records")
        }
        for table in (batch, stream)
    ]
    texts = []
    for start, columns in zip(windows["window_start"], windows["columns"], strict=True):
        right, left = (rows.get(start) for rows in by_start)
        names = columns.split(", ") if columns else []
        if not names or left is None or right is None:
            texts.append(formatting.UNKNOWN)
            continue
        first = [f"{name} {left[name]} / {right[name]}" for name in names[:MAX_VALUES]]
        more = len(names) - MAX_VALUES
        texts.append("; ".join(first) + (f"; {more} more" if more > 0 else ""))
    return texts
