"""The figure of `python -m benchmarks.growth`, drawn with the style of the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from pipeline.compare import palette
from report.figures import STYLE

#: The line of each mode: its colour and its dashes, so that it is readable without colours.
LINES = {
    "plain job": (palette.GREY, ":"),
    "full": (palette.BATCH_COLOUR, "-"),
    "pushdown": (palette.ORANGE, "--"),
    "incremental": (palette.GREEN, "-."),
    "stream": (palette.STREAM_COLOUR, "-"),
}
#: Seconds with a label.
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
TITLES = {
    "batch": ("Batch run", "rows in the table"),
    "catch-up": ("Catch-up of the stream", "messages in Kafka"),
}


def short(size: float) -> str:
    """Return a size for an axis: 20000 → 20k, 1500000 → 1.5M."""
    for unit, name in ((1_000_000, "M"), (1000, "k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"


def series(
    rows: Sequence[Mapping[str, Any]], measurement: str
) -> dict[str, list[tuple[float, float]]]:
    """Return the points (size, wall seconds) of each mode, smallest size first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["measurement"] == measurement:
            point = (row["rows or messages"], row["wall, s"])
            found.setdefault(row["mode"], []).append(point)
    return {mode: sorted(points) for mode, points in found.items()}


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw a panel for each measurement that has rows, and write the figure."""
    measured = [name for name in TITLES if series(rows, name)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(measured), 3.4), layout="constrained")
        panels = figure.subplots(1, len(measured), squeeze=False)[0]
        for axes, name in zip(panels, measured, strict=True):
            _draw(axes, name, series(rows, name))
        figure.savefig(path, dpi=150)


def _draw(axes: Axes, name: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    title, what = TITLES[name]
    for mode, points in lines.items():
        colour, dashes = LINES[mode]
        sizes, seconds = zip(*points, strict=True)
        axes.plot(sizes, seconds, dashes, color=colour, marker="o", markersize=3, label=mode)
    axes.set_title(title)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(what)
    axes.set_ylabel("wall seconds")
    seconds_shown = [value for _, points in lines.items() for _, value in points]
    low, high = min(seconds_shown) / 1.25, max(seconds_shown) * 1.25
    axes.set_ylim(low, high)
    axes.set_yticks([tick for tick in TICKS if low <= tick <= high])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: short(size)))
    axes.legend(loc="upper left")
