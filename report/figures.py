"""The report's figures: what was compared, drawn for print. Each may be None: nothing to draw.

The same data gives the same bytes. Colours are those of Okabe and Ito, which most people who are
colour-blind can tell apart; what is told by colour is told by place or marker, too.
"""

import io
import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import matplotlib as mpl
import matplotlib.dates as mdates
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pipeline.compare import agreement
from pipeline.compare.comparison import (
    BATCH,
    LEGS,
    STANDS_OUT,
    STREAM_FINAL,
    STREAM_OPEN,
    Comparison,
)
from pipeline.compare.summary import kept_in_words

WIDTH = 7.5
GREEN, RED, BLUE, ORANGE = "#009E73", "#D55E00", "#0072B2", "#E69F00"
PURPLE, SKY, GREY, PALE = "#CC79A7", "#56B4E9", "#666666", "#CCCCCC"
COLOURS = {
    agreement.EQUAL: GREEN,
    agreement.DIFFERS: RED,
    agreement.ONLY_STREAM: PURPLE,
    agreement.ONLY_BATCH: ORANGE,
    agreement.NOT_YET_FINAL: PALE,
    agreement.NOT_YET_IN_A_BATCH: SKY,
}
ANSWERS = {STREAM_OPEN: GREEN, STREAM_FINAL: BLUE, BATCH: RED}
#: Rows of the strip of windows, at most.
MOST_ROWS = 100
#: More teeth than this are drawn as the band between their least and greatest ages.
MOST_TEETH = 600
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "stream-vs-batch",
}

Drawing = Callable[[Comparison], Figure | None]


def svg(drawn: Figure) -> str:
    text = io.StringIO()
    with mpl.rc_context(STYLE):
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def draw(found: Comparison) -> dict[str, Figure]:
    """By name; what there is no data for is left out."""
    with mpl.rc_context(STYLE):
        drawn = {name: make(found) for name, make in DRAWINGS.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots()


def _clock(axes: Axes) -> None:
    locator = mdates.AutoDateLocator(minticks=2, maxticks=8)
    locator.intervald[mdates.MICROSECONDLY] = [10**n for n in range(7)]  # else it warns
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    axes.set_xlabel("UTC")


def agreement_strip(found: Comparison) -> Figure | None:
    """Each window is a cell; a row is an hour, or of more than a day a day."""
    if found.agreement.empty:
        return None
    starts = pd.to_datetime(found.agreement["window_start"], utc=True, format="ISO8601")
    length = starts.diff().min()
    length = pd.Timedelta(minutes=1) if pd.isna(length) else length
    by_day = max(length, (starts.max() - starts.min()) / 24) > timedelta(hours=1)
    row = pd.Timedelta(days=1) if by_day else pd.Timedelta(hours=1)
    every = "D" if by_day else "h"
    rows = pd.DatetimeIndex(starts).floor(every)
    columns = ((pd.DatetimeIndex(starts) - rows) // length).to_numpy()
    shown = rows.unique().sort_values()[-MOST_ROWS:]  # of the newest, those that have windows
    codes = found.agreement["verdict"].map(list(COLOURS).index).to_numpy()
    cells = np.full((len(shown), math.ceil(row / length)), np.nan)
    places = shown.get_indexer(rows)
    inside = places >= 0
    cells[places[inside], columns[inside]] = codes[inside]
    figure, axes = _figure(max(1.5, 0.9 + 0.22 * len(shown)))
    axes.pcolormesh(
        cells,
        cmap=ListedColormap(list(COLOURS.values())),
        norm=BoundaryNorm(np.arange(-0.5, len(COLOURS)), len(COLOURS)),
        edgecolors="none" if by_day else "white",
        linewidth=0 if by_day else 0.8,
        rasterized=by_day,
    )
    loud = found.agreement["cause"].str.startswith(agreement.UNEXPLAINED).to_numpy() & inside
    marked = (found.agreement["cause"] != "").to_numpy() & inside & ~loud
    axes.plot(columns[marked] + 0.5, places[marked] + 0.5, "k.", markersize=3)
    axes.plot(columns[loud] + 0.5, places[loud] + 0.5, "kX", markersize=7)
    axes.set_yticks(
        np.arange(len(shown)) + 0.5, shown.strftime("%Y-%m-%d" if by_day else "%m-%d %H:00")
    )
    axes.set_xlabel("hour of the day, UTC" if by_day else "minute of the hour, UTC")
    ticks = range(0, 25, 3) if by_day else range(0, 61, 10)
    axes.set_xticks([tick * cells.shape[1] / ticks[-1] for tick in ticks], map(str, ticks))
    axes.invert_yaxis()
    axes.grid(visible=False)
    counts = found.agreement["verdict"].value_counts()
    handles: list[Any] = [
        Patch(color=colour, label=f"{name} ({counts[name]:,})")
        for name, colour in COLOURS.items()
        if counts.get(name)
    ]
    if found.unexplained:
        label = f"unexplained ({found.unexplained:,})"
        handles.append(Line2D([], [], color="k", marker="X", linestyle="", label=label))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=3,
    )
    return figure


def freshness_sawtooth(found: Comparison) -> Figure | None:
    if all(teeth.empty for teeth in found.teeth.values()):
        return None
    figure, axes = _figure(2.9)
    for name, teeth in found.teeth.items():
        if teeth.empty:
            continue
        times = teeth[["from", "to"]].apply(lambda column: column.dt.tz_localize(None))
        if len(teeth) > MOST_TEETH:
            bands = teeth.groupby(pd.cut(times["from"], MOST_TEETH, labels=False), observed=True)
            axes.fill_between(
                times["from"].groupby(bands.ngroup()).min(),
                bands["young"].min(),
                bands["old"].max(),
                color=ANSWERS[name],
                alpha=0.6,
                linewidth=0,
                label=name,
            )
        else:
            axes.plot(
                times.to_numpy().ravel(),
                teeth[["young", "old"]].to_numpy().ravel(),
                color=ANSWERS[name],
                linewidth=1,
                label=name,
            )
    axes.set_ylabel("age of the newest trade, s")
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    _clock(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    return figure


def latency_waterfall(found: Comparison) -> Figure | None:
    """Each leg begins where the median of the one before it has ended."""
    legs = found.waterfall.dropna(subset=["median"])
    if legs.empty:
        return None
    figure, axes = _figure(0.8 + 0.32 * len(legs))
    begin = 0.0
    rows = zip(legs["leg"], legs["median"], legs["p99"], strict=True)
    for place, (leg, median, p99) in enumerate(rows):
        axes.barh(place, median, left=begin, color=BLUE, height=0.55)
        if pd.notna(p99):
            axes.plot([begin + median, begin + p99], [place, place], color=GREY, linewidth=1)
            axes.plot(begin + p99, place, "|", color=GREY, markersize=9)
        right = begin + max(0, median, p99 if pd.notna(p99) else median)
        reach = f" (99 %: {p99:,.2f})" if pd.notna(p99) else ""
        axes.annotate(f" {median:,.2f} s{reach}", (right, place), va="center")
        if leg != STORED:  # a way of its own: what follows goes on from the receipt
            begin += median
    axes.set_yticks(range(len(legs)), legs["leg"])
    axes.invert_yaxis()
    axes.margins(x=0.25)
    begins = "made" if legs["leg"].iloc[0] == LEGS[0] else "received"
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(
        f"seconds since the trade was {begins}: medians, and thin lines to the 99th percentile"
    )
    return figure


STORED = "received → stored"


def completeness_funnel(found: Comparison) -> Figure | None:
    """Each stage as the share of what it draws from that it keeps."""
    stages = found.funnel[found.funnel["drawn_from"] > 0]
    if stages.empty:
        return None
    figure, axes = _figure(0.7 + 0.42 * len(stages))
    places = range(len(stages))
    kept = (stages["count"] / stages["drawn_from"]).to_numpy(float)
    axes.barh(places, [1.0] * len(stages), color=ORANGE, height=0.55)
    axes.barh(places, kept.clip(max=1), color=GREEN, height=0.55)
    rows = stages.to_dict("records")
    axes.set_yticks(places, [f"{row['stage']}\n{kept_in_words(row)}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "kept"])
    axes.grid(visible=False, axis="y")
    return figure


def cost_bars(found: Comparison) -> Figure | None:
    costs = found.cost.set_index("path")
    if costs["cpu_s_per_hour"].isna().all():
        return None
    figure = Figure(figsize=(WIDTH, 1.5))
    names = {"cpu_s_per_hour": "CPU seconds an hour", "peak_mib": "peak memory, MiB"}
    for axes, (column, title) in zip(figure.subplots(1, 2), names.items(), strict=True):
        values = costs[column].fillna(0)
        axes.barh(values.index, values, color=[BLUE, RED], height=0.55)
        for place, value in enumerate(costs[column]):
            axes.annotate(
                f" {value:,.0f}" if pd.notna(value) else " unknown",
                (max(value, 0), place),
                va="center",
            )
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(title)
    return figure


def growth_lines(found: Comparison) -> Figure | None:
    """Batch runs against rows, with the robust line; micro-batches by minute over the same span."""
    runs = found.runs.dropna(subset=["rows", "wall_s"])
    if runs.empty and found.micro_batches.empty:
        return None
    figure = Figure(figsize=(WIDTH, 2.6))
    left, right = figure.subplots(1, 2)
    left.plot(runs["rows"], runs["wall_s"], ".", color=RED, markersize=4, label="a run")
    grown = found.growth
    if grown and not grown.refusal and len(runs):
        x = np.array([runs["rows"].min(), runs["rows"].max()])
        middle, height = (
            runs["rows"].median(),
            grown.base_s + grown.s_per_million * runs["rows"].median() / 1e6,
        )
        for slope, style in ((grown.s_per_million, "-"), (grown.low, ":"), (grown.high, ":")):
            left.plot(x, height + slope * (x - middle) / 1e6, style, color=GREY, linewidth=1)
    left.set_ylim(bottom=0)
    left.set_xlabel("rows in the table")
    left.set_ylabel("batch run, s")
    minutes = found.micro_batches
    times = minutes["minute"].dt.tz_localize(None) if len(minutes) else []
    right.plot(times, minutes["median_ms"] / 1e3, color=BLUE, linewidth=1, label="median")
    right.plot(times, minutes["p99_ms"] / 1e3, color=SKY, linewidth=0.8, label="99th percentile")
    right.set_ylim(bottom=0)
    right.set_ylabel("stream's micro-batch, s")
    if len(minutes):
        _clock(right)
        right.legend(loc="best")
    return figure


def stands_out(found: Comparison) -> Figure | None:
    """Each minute's range and volume against the hour before it, in standard deviations."""
    windows = found.windows.dropna(subset=["range_z", "volume_z"], how="all")
    if windows.empty:
        return None
    figure = Figure(figsize=(WIDTH, 2.4))
    for axes, (column, name) in zip(
        figure.subplots(1, 2, sharey=True),
        {"range_z": "price range", "volume_z": "volume"}.items(),
        strict=True,
    ):
        scored = windows.dropna(subset=[column])
        values, times = scored[column], scored["window_start"].dt.tz_localize(None)
        out = values > STANDS_OUT
        axes.plot(
            times[~out], values[~out], ".", color=GREY, markersize=2.5, rasterized=len(out) > 2000
        )
        axes.plot(times[out], values[out], "^", color=RED, markersize=4)
        axes.axhline(STANDS_OUT, color=RED, linewidth=0.8, linestyle="--")
        axes.set_title(f"{name}: {out.sum():,} of {len(out):,} stand out", fontsize=8.5)
        _clock(axes)
    figure.axes[0].set_ylabel("z-score")
    return figure


DRAWINGS: Mapping[str, Drawing] = {
    "agreement": agreement_strip,
    "freshness": freshness_sawtooth,
    "latency": latency_waterfall,
    "completeness": completeness_funnel,
    "cost": cost_bars,
    "growth": growth_lines,
    "metrics": stands_out,
}
