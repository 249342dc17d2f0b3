"""The agreement of the windows as rows of cells. A cell is one window, or the worst of several."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pandas as pd

from page import formatting
from pipeline.compare.agreement import (
    DIFFERS,
    EQUAL,
    NOT_YET_FINAL,
    NOT_YET_IN_A_BATCH,
    ONLY_BATCH,
    ONLY_STREAM,
    UNEXPLAINED,
    VERDICTS,
)

#: A symbol in each cell, for readers who cannot tell the colours apart.
SYMBOLS = {
    DIFFERS: "≠",
    ONLY_STREAM: "S",
    ONLY_BATCH: "B",
    NOT_YET_FINAL: "…",
    NOT_YET_IN_A_BATCH: "○",
    EQUAL: "=",
}
#: The symbol of equal windows that both miss trades of.
MISSING = "−"  # noqa: RUF001 - a minus is meant
#: Rows at most. Longer spans have wider cells.
MAX_ROWS = 32
#: Differing columns whose values a cell shows, at most.
MAX_VALUES = 4
#: Cell and row of wider layouts, the finest first. Beyond the last one, both are doubled.
_WIDER = (
    (timedelta(minutes=30), timedelta(days=1)),
    (timedelta(hours=4), timedelta(days=7)),
    (timedelta(days=1), timedelta(days=28)),
)
#: Rows count from a Monday, so that a row of a week begins with a Monday.
_MONDAY = pd.Timestamp("1970-01-05", tz="UTC")

#: Rows in which a column has a fixed time on the clock, and the format of that time.
_CLOCKS = {
    timedelta(hours=1): ":%M",
    timedelta(days=1): "%H:%M",
    timedelta(days=7): "%a %H:%M",
}

CELL_COLUMNS = (
    *("row", "column", "verdict", "symbol", "when", "summary"),
    *("stream", "batch", "values", "cause"),
)


@dataclass(frozen=True)
class Layout:
    """The length of a cell and of a row of cells, in event time."""

    cell: timedelta
    row: timedelta

    @property
    def columns(self) -> list[str]:
        """Return the label of each column: its time on the clock, or its offset in the row."""
        offsets = [n * self.cell for n in range(self.row // self.cell)]
        pattern = _CLOCKS.get(self.row)
        if pattern:
            second = ":%S" if self.cell < timedelta(minutes=1) else ""
            return [f"{_MONDAY + offset:{pattern}{second}}" for offset in offsets]
        day = timedelta(days=1)
        if self.row % day or self.row < day:
            return [_offset(offset, self.cell) for offset in offsets]
        clock = " %H:%M" if self.cell % day else ""
        return [f"day {1 + offset.days}{(_MONDAY + offset).strftime(clock)}" for offset in offsets]


def _offset(offset: timedelta, cell: timedelta) -> str:
    """Return `+3:15`: hours and minutes into the row; minutes and seconds for short cells."""
    seconds = int(offset.total_seconds())
    size = 3600 if cell >= timedelta(minutes=1) else 60
    return f"+{seconds // size}:{seconds % size * 60 // size:02}"


def layout(covered: timedelta, window: timedelta) -> Layout:
    """Return the finest layout in which a span fits. A cell has whole windows."""
    wider = [
        Layout(cell, row) for cell, row in _WIDER if cell > window and cell % window == timedelta(0)
    ]
    for found in (Layout(window, 60 * window), *wider):
        if covered <= (MAX_ROWS - 1) * found.row:  # the first and the last may be cut
            return found
    found = wider[-1] if wider else Layout(window, 60 * window)
    while covered > (MAX_ROWS - 1) * found.row:
        found = Layout(2 * found.cell, 2 * found.row)
    return found


def window_of(cells: pd.DataFrame) -> timedelta:
    """Return the length of the windows in a table of text cells; one minute without windows."""
    known = cells[(cells["window_start"] != "") & (cells["window_end"] != "")].tail(1)
    if known.empty:
        return timedelta(minutes=1)
    start, end = (pd.Timestamp(known[name].iloc[0]) for name in ("window_start", "window_end"))
    return (end - start).to_pytimedelta()


def cells(judged: pd.DataFrame, stream: pd.DataFrame, batch: pd.DataFrame) -> pd.DataFrame:
    """Return the windows of the strip with their rank and counts.

    Args:
        judged: a row for each window, from `agreement`.
        stream: the stream's windows as text, final ones first.
        batch: the batch's windows as text.

    Returns:
        `judged` with `start`, `rank` (the worst verdict first; of the same verdict the unexplained
        first, then those with a cause), `stream` and `batch` (their trade counts; NaN if missing).
    """
    known = {
        name: pd.to_numeric(
            table.drop_duplicates("window_start").set_index("window_start")["trade_count"],
            errors="coerce",
        )
        for name, table in (("stream", stream), ("batch", batch))
    }
    rank = judged["verdict"].map({name: 3 * n for n, name in enumerate(VERDICTS)})
    rank += (judged["cause"] == "") * 2
    rank += (judged["cause"] != "") * ~judged["cause"].str.contains(UNEXPLAINED, regex=False)
    return judged.assign(
        start=pd.to_datetime(judged["window_start"], utc=True, format="ISO8601"),
        rank=rank,
        **{name: judged["window_start"].map(counts) for name, counts in known.items()},
    )


def grouped(found: pd.DataFrame, shape: Layout) -> pd.DataFrame:
    """Return a row for each cell: the worst of its windows, with the counts of all of them."""
    since = found["start"] - _MONDAY
    number = since // pd.Timedelta(shape.cell)
    groups = found.assign(number=number).groupby("number", sort=True)
    worst = found.loc[groups["rank"].idxmin()].set_axis(groups.size().index, axis="index")
    begins = _MONDAY + worst.index.to_series() * pd.Timedelta(shape.cell)
    row = _MONDAY + (begins - _MONDAY) // pd.Timedelta(shape.row) * pd.Timedelta(shape.row)
    return worst.assign(
        begins=begins,
        row=row,
        place=((begins - row) // pd.Timedelta(shape.cell)).astype(int),
        windows=groups.size(),
        stream=groups["stream"].sum(min_count=1),
        batch=groups["batch"].sum(min_count=1),
        of_each=groups["verdict"].agg(Counter),
    )


def chart_data(worst: pd.DataFrame, shape: Layout, values: dict[str, str]) -> pd.DataFrame:
    """Return the cells as the chart needs them, with the texts of their tooltips.

    Args:
        worst: a row for each cell, from `grouped`.
        shape: the layout of the cells.
        values: by window, the columns that differ with both values.
    """
    columns = shape.columns
    texts = [_texts(cell, shape.cell, values) for cell in worst.to_dict("records")]
    return pd.DataFrame(
        {
            "row": worst["row"].dt.strftime("%Y-%m-%d %H:%M").tolist(),
            "column": [columns[place] for place in worst["place"]],
            "verdict": worst["verdict"].tolist(),
            "symbol": [
                MISSING if verdict == EQUAL and cause else SYMBOLS[verdict]
                for verdict, cause in zip(worst["verdict"], worst["cause"], strict=True)
            ],
            "stream": worst["stream"].map(formatting.count).tolist(),
            "batch": worst["batch"].map(formatting.count).tolist(),
            **{
                name: [text[name] for text in texts]
                for name in ("when", "summary", "values", "cause")
            },
        },
        columns=list(CELL_COLUMNS),
    )


def _texts(cell: dict[Any, Any], width: timedelta, values: dict[str, str]) -> dict[str, str]:
    verdict, windows, begins = cell["verdict"], cell["windows"], cell["begins"]
    seconds = ":%S" if begins.second or width.seconds % 60 else ""
    when = f"{begins:%Y-%m-%d %H:%M{seconds}}"
    summary, differing = verdict, values.get(cell["window_start"], formatting.DASH)
    if windows > 1:
        each = ", ".join(
            f"{cell['of_each'][name]:,} {name}" for name in VERDICTS if cell["of_each"][name]
        )
        when += f" and {formatting.duration(width)}"
        summary = f"{verdict}, the worst of {windows:,} windows: {each}"
        if differing != formatting.DASH:
            differing = f"{cell['start']:%m-%d %H:%M}: {differing}"
    return {
        "when": when,
        "summary": summary,
        "values": differing,
        "cause": cell["cause"] or formatting.DASH,
    }


def differing_values(judged: pd.DataFrame, stream: pd.DataFrame, batch: pd.DataFrame) -> list[str]:
    """Return, for each of these windows, the columns that differ with both values."""
    by_start = [
        {
            str(row["window_start"]): row
            for row in table[table["window_start"].isin(judged["window_start"])].to_dict("records")
        }
        for table in (batch, stream)
    ]
    texts = []
    for start, columns in zip(judged["window_start"], judged["columns"], strict=True):
        right, left = (found.get(start) for found in by_start)
        names = columns.split(", ") if columns else []
        if not names or left is None or right is None:
            texts.append(formatting.DASH)
            continue
        first = [f"{name} {left[name]} / {right[name]}" for name in names[:MAX_VALUES]]
        more = len(names) - MAX_VALUES
        texts.append("; ".join(first) + (f"; {more} more" if more > 0 else ""))
    return texts
