"""The report's figures, drawn with matplotlib from `pipeline.compare.figures`.

Equal data gives equal bytes.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.dates as mdates
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.compare import palette
from pipeline.compare.agreement import EQUAL
from pipeline.compare.agreement_grid import MISSING, SYMBOLS, AgreementGrid
from pipeline.compare.figures import (
    AT_MOST,
    ESTIMATE,
    FITTED,
    FORECAST,
    SCORED,
    Figures,
    FrontierFigure,
    GrowthFigure,
)
from pipeline.compare.formatting import number, seconds
from pipeline.compare.latency import without_zone
from pipeline.compare.totals import UNUSUAL_Z

WIDTH_INCHES = 7.5
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": palette.GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "stream-vs-batch",
}


def svg(figure: Figure) -> str:
    """Return a figure as the text of an SVG file."""
    text = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def draw(data: Figures) -> dict[str, Figure]:
    """Return the figures by the key of their section. A figure without data is left out."""
    with mpl.rc_context(STYLE):
        drawn = {name: make(getattr(data, name)) for name, make in DRAWINGS.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches))
    return figure, figure.subplots()


def _time_axis(axes: Axes) -> None:
    locator = mdates.AutoDateLocator(minticks=2, maxticks=8)
    locator.intervald[mdates.MICROSECONDLY] = [10**n for n in range(7)]  # else it warns
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    axes.set_xlabel("UTC")


def _legend(axes: Axes, columns: int, **options: Any) -> None:
    """Write the legend above the figure."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, **options)


def _named_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label horizontal bars or lines, the first one at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


#: The marker of each result.
MARKERS = {result: marker for result, (_, marker) in palette.RESULT_MARKERS.items()}


def frontier(data: FrontierFigure) -> Figure | None:
    """Draw the age of each result against its cost."""
    if data.points.empty or data.curves.empty:
        return None
    figure, axes = _figure(3.2)
    for name, line in data.curves.groupby("curve", sort=False):
        larger, mode = bool(line["larger"].iloc[0]), int(line["mode"].iloc[0])
        colour = palette.MODE_COLOURS[mode % len(palette.MODE_COLOURS)]
        style = "--" if larger else "-"
        axes.plot(
            line["age_s"], line["cpu_s_per_hour"], style, color=colour, linewidth=1, label=name
        )
    for point in data.points.to_dict("records"):
        colour, _ = palette.RESULT_LINES[point["result"]]
        axes.plot(
            point["age_s"],
            point["cpu_s_per_hour"],
            MARKERS[point["result"]],
            color=colour,
            linestyle="none",
            label=f"{point['result']}: {seconds(point['age_s'])}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel("median age of the newest trade, s")
    axes.set_ylabel("CPU seconds per hour")
    _legend(axes, 3)
    return figure


def agreement(grid: AgreementGrid) -> Figure | None:
    """Draw one cell per window, or per group of windows."""
    cells = grid.cells
    if cells.empty:
        return None
    columns, rows = grid.layout.columns, sorted(cells["row"].unique())
    statuses = list(palette.WINDOW_STATUS)
    codes = np.full((len(rows), len(columns)), np.nan)
    x, y = cells["column"].map(columns.index), cells["row"].map(rows.index)
    codes[y, x] = cells["status"].map(statuses.index)
    figure, axes = _figure(max(1.5, 0.9 + 0.22 * len(rows)))
    axes.pcolormesh(
        codes,
        cmap=ListedColormap(list(palette.WINDOW_STATUS.values())),
        norm=BoundaryNorm(np.arange(-0.5, len(statuses)), len(statuses)),
        edgecolors="white",
        linewidth=0.8,
    )
    marked = cells["symbol"] != SYMBOLS[EQUAL]
    for column, row, symbol in zip(x[marked], y[marked], cells["symbol"][marked], strict=True):
        axes.text(column + 0.5, row + 0.5, symbol, ha="center", va="center", fontsize=6)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    every = -(-len(columns) // 6)
    axes.set_xticks(np.arange(len(columns))[::every] + 0.5, columns[::every])
    axes.invert_yaxis()
    axes.grid(visible=False)
    seen = cells["status"].unique()
    patches = [
        Patch(color=colour, label=f"{SYMBOLS[status]} {status}")
        for status, colour in palette.WINDOW_STATUS.items()
        if status in seen
    ]
    if (cells["symbol"] == MISSING).any():
        label = f"{MISSING} {EQUAL}, both lack trades"
        patches.append(Patch(color=palette.WINDOW_STATUS[EQUAL], label=label))
    _legend(axes, 3, handles=patches)
    return figure


def freshness(ages: pd.DataFrame) -> Figure | None:
    """Draw the age of each result over time."""
    if ages.empty:
        return None
    figure, axes = _figure(2.9)
    for result, (colour, dash) in palette.RESULT_LINES.items():
        line = ages[ages["result"] == result]
        axes.plot(
            without_zone(line["at"]),
            line["drawn"],
            color=colour,
            linestyle=(0, dash) if dash[1] else "-",
            linewidth=1,
            label=result,
        )
    axes.set_yscale("log")
    axes.set_ylabel("age of the newest trade, s")
    _time_axis(axes)
    _legend(axes, 3)
    return figure


def latency(steps: pd.DataFrame) -> Figure | None:
    """Draw the steps of a trade as bars, each after the step before it."""
    steps = steps.dropna(subset=["median"])
    if steps.empty:
        return None
    figure, axes = _figure(0.8 + 0.32 * len(steps))
    for place, step in enumerate(steps.to_dict("records")):
        start, median, p99 = step["start"], step["median"], step["p99"]
        axes.barh(place, median, left=start, color=palette.BLUE, height=0.55)
        reach = p99 if pd.notna(p99) else median
        axes.plot([start + median, start + reach], [place, place], color=palette.GREY, linewidth=1)
        axes.plot(start + reach, place, "|", color=palette.GREY, markersize=9)
        label = f" {seconds(median)} (p99 {seconds(p99)})"
        axes.annotate(label, (start + max(0, median, reach), place), va="center")
    _named_rows(axes, steps["leg"].tolist())
    axes.margins(x=0.25)
    axes.set_xlabel("time since the event, s")
    return figure


def detection(times: pd.DataFrame) -> Figure | None:
    """Draw the median and the p99 of the time to detection of each result."""
    if times.empty:
        return None
    figure, axes = _figure(0.8 + 0.3 * len(times))
    for place, row in enumerate(times.to_dict("records")):
        colour, _ = palette.RESULT_LINES[row["result"]]
        median, p99 = row["median_drawn"], row["p99_drawn"]
        axes.plot([median, p99], [place, place], color=colour, linewidth=2)
        axes.plot(median, place, MARKERS[row["result"]], color=colour)
        label = f"  {seconds(row['median'])} (p99 {seconds(row['p99'])})"
        axes.annotate(label, (p99, place), va="center")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    _named_rows(axes, times["result"].tolist())
    axes.margins(x=0.3, y=0.3)
    axes.set_xlabel("time to detection, s")
    return figure


def watermark(dropped: pd.DataFrame) -> Figure | None:
    """Draw the share of trades that each watermark would have dropped."""
    if dropped.empty:
        return None
    figure, axes = _figure(2.2)
    for kind, colour, style in (
        (AT_MOST, palette.BLUE, "-"),
        (ESTIMATE, palette.ORANGE, "--"),
    ):
        line = dropped[dropped["kind"] == kind]
        axes.step(
            line["watermark_s"], line["percent"], style, where="post", color=colour, label=kind
        )
        axes.plot(line["watermark_s"].tail(1), line["percent"].tail(1), ".", color=colour)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(left=0)
    axes.set_xlabel("watermark, s")
    axes.set_ylabel("dropped trades, %")
    _legend(axes, 2)
    return figure


def completeness(stages: pd.DataFrame) -> Figure | None:
    """Draw the share of its input that each step kept."""
    if stages.empty:
        return None
    figure, axes = _figure(0.7 + 0.32 * len(stages))
    axes.barh(range(len(stages)), stages["share"], color=palette.GREEN, height=0.55)
    _named_rows(axes, stages["stage"].tolist())
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 % kept"])
    return figure


def cost(costs: pd.DataFrame) -> Figure | None:
    """Draw CPU time and memory of both paths."""
    if costs["cpu_s_per_hour"].isna().all():
        return None
    figure = Figure(figsize=(WIDTH_INCHES, 1.5))
    names = {"cpu_s_per_hour": "CPU seconds per hour", "peak_mib": "peak memory, MiB"}
    for axes, (column, title) in zip(figure.subplots(1, 2), names.items(), strict=True):
        values = costs[column].fillna(0)
        colours = [palette.STREAM_COLOUR, palette.BATCH_COLOUR]
        axes.barh(costs["path"], values, color=colours, height=0.55)
        for place, value in enumerate(costs[column]):
            axes.annotate(f" {number(value, ',.0f')}", (values.iloc[place], place), va="center")
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(title)
    return figure


def growth(data: GrowthFigure) -> Figure | None:
    """Draw run time against rows, with its trend and the interval."""
    if data.runs.empty:
        return None
    figure, axes = _figure(2.6)
    axes.plot(data.runs["rows"], data.runs["wall_s"], ".", color=palette.BATCH_COLOUR, label="run")
    for part, label, style in ((FITTED, "trend", "-"), (FORECAST, "forecast", "--")):
        line = data.line[data.line["part"] == part]
        if len(line):
            axes.plot(line["rows"], line["wall_s"], style, color=palette.GREY, label=label)
    if data.limit_s is not None:
        label = f"interval, {data.limit_s:g} s"
        axes.axhline(data.limit_s, color=palette.VERMILION, linewidth=0.8, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows in the table")
    axes.set_ylabel("run time, s")
    _legend(axes, 4)
    return figure


def micro_batches(minutes: pd.DataFrame) -> Figure | None:
    """Draw the duration of the micro-batches by minute."""
    if minutes.empty:
        return None
    figure, axes = _figure(2.2)
    at = without_zone(minutes["minute"])
    axes.plot(at, minutes["median_ms"], color=palette.BLUE, linewidth=1, label="median")
    axes.plot(at, minutes["p99_ms"], "--", color=palette.SKY, linewidth=0.8, label="p99")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("duration, ms")
    _time_axis(axes)
    _legend(axes, 2)
    return figure


def metrics(scores: pd.DataFrame) -> Figure | None:
    """Draw the z-scores of range and volume."""
    if scores.empty:
        return None
    figure = Figure(figsize=(WIDTH_INCHES, 2.4))
    axes_of = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(axes_of, SCORED.values(), strict=True):
        of = scores[scores["metric"] == metric]
        for unusual, marker, colour in ((False, ".", palette.GREY), (True, "^", palette.VERMILION)):
            points = of[of["unusual"] == unusual]
            at = without_zone(points["window_start"])
            axes.plot(at, points["z"], marker, color=colour, markersize=3, linestyle="")
        axes.axhline(UNUSUAL_Z, color=palette.VERMILION, linewidth=0.8, linestyle="--")
        axes.set_title(metric, fontsize=8.5)
        _time_axis(axes)
    figure.axes[0].set_ylabel("z-score")
    return figure


#: By the key of the section.
DRAWINGS: Mapping[str, Callable[[Any], Figure | None]] = {
    "frontier": frontier,
    "agreement": agreement,
    "freshness": freshness,
    "latency": latency,
    "detection": detection,
    "watermark": watermark,
    "completeness": completeness,
    "cost": cost,
    "growth": growth,
    "micro_batches": micro_batches,
    "metrics": metrics,
}
