"""The charts of the comparison, from the data in `pipeline.compare.figures`."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any

import altair as alt
import pandas as pd

from page import formatting
from page.charts.chart import (
    Chart,
    Spec,
    milliseconds,
    renderer_of,
    specification,
    x_time,
)
from pipeline.compare.agreement import EQUAL
from pipeline.compare.agreement_grid import SYMBOLS, Layout, layout
from pipeline.compare.figures import AT_MOST, ESTIMATE, FITTED, FORECAST, Figures, GrowthFigure
from pipeline.compare.formatting import seconds
from pipeline.compare.palette import (
    BATCH_COLOUR,
    INK,
    MODE_COLOURS,
    QUIET,
    RESULT_LINES,
    RESULT_MARKERS,
    STREAM_COLOUR,
    VERMILION,
    WINDOW_STATUS,
)

#: Height of a row of the agreement grid, pixels.
ROW_HEIGHT = 17
#: Width of a cell of the agreement grid, pixels, below which the symbols of equal windows are left
#: out.
NARROW_CELL = 8
#: Height of a bar with its space, pixels.
BAR_HEIGHT = 24
#: The width that labels of bars may take, pixels.
LABEL_WIDTH = 190

#: The results, their colours and the shapes of their points.
RESULTS = list(RESULT_LINES)
RESULT_COLOURS = [colour for colour, _ in RESULT_LINES.values()]
RESULT_SHAPES = [shape for shape, _ in RESULT_MARKERS.values()]


def _legend_of_lines(**options: Any) -> alt.Legend:
    """Return a legend above the chart, whose symbols show colour and dash of the lines."""
    return alt.Legend(title=None, orient="top", symbolType="stroke", symbolSize=300, **options)


# --- age against cost -----------------------------------------------------------------------


@cache
def _frontier_specification(curves: tuple[tuple[str, str, bool], ...]) -> Spec:
    """Return the specification for curves: name, colour, and whether the table is larger."""
    x = alt.X(
        "age_s:Q",
        title="median age, s",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(format="~g", tickCount=6),
    )
    y = alt.Y(
        "cpu_s_per_hour:Q",
        title="CPU seconds per hour",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(format="~g", tickCount=6),
    )
    names = [name for name, _, _ in curves]
    legend = _legend_of_lines(columns=2)
    color = alt.Scale(domain=names, range=[colour for _, colour, _ in curves])
    dash = alt.Scale(domain=names, range=[[4, 3] if larger else [1, 0] for *_, larger in curves])
    tooltip = [
        alt.Tooltip("name:N", title="result"),
        alt.Tooltip("age_s:Q", title="median age, s", format=",.1f"),
        alt.Tooltip("cpu_s_per_hour:Q", title="CPU seconds per hour", format=",.0f"),
    ]
    interval = alt.Tooltip("interval_s:Q", title="interval, s", format=",.0f")
    lines = (
        alt.Chart(alt.NamedData("curves"))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=x,
            y=y,
            color=alt.Color("name:N", scale=color, legend=legend),
            strokeDash=alt.StrokeDash("name:N", scale=dash, legend=legend),
            order="interval_s:Q",
        )
    )
    hover = (
        alt.Chart(alt.NamedData("curves"))
        .mark_point(opacity=0, size=60)
        .encode(x=x, y=y, tooltip=[*tooltip, interval])
    )
    # Both legends above the chart would be wider than a phone.
    legend_of_points = alt.Legend(title=None, orient="bottom", columns=2)
    points = (
        alt.Chart(alt.NamedData("points"))
        .mark_point(filled=True, size=110, opacity=1)
        .encode(
            x=x,
            y=y,
            fill=alt.Fill(
                "name:N",
                scale=alt.Scale(domain=RESULTS, range=RESULT_COLOURS),
                legend=legend_of_points,
            ),
            shape=alt.Shape(
                "name:N",
                scale=alt.Scale(domain=RESULTS, range=RESULT_SHAPES),
                legend=legend_of_points,
            ),
            tooltip=tooltip,
        )
    )
    chart = alt.layer(lines, hover, points).resolve_scale(fill="independent", shape="independent")
    return specification(chart, 280, "svg")


def frontier_chart(figures: Figures) -> Chart | None:
    """Return the age of each result against its cost."""
    data = figures.frontier
    if data.curves.empty or data.points.empty:
        return None
    firsts = data.curves.drop_duplicates("curve")
    curves = tuple(
        (name, MODE_COLOURS[mode % len(MODE_COLOURS)], bool(larger))
        for name, mode, larger in firsts[["curve", "mode", "larger"]].itertuples(index=False)
    )
    shown = ["name", "interval_s", "age_s", "cpu_s_per_hour"]
    return Chart(
        _frontier_specification(curves),
        {
            "curves": data.curves.rename(columns={"curve": "name"})[shown],
            "points": data.points.rename(columns={"result": "name"}),
        },
    )


# --- agreement ------------------------------------------------------------------------------


@cache
def _agreement_specification(shape: Layout, rows: int, renderer: str) -> Spec:
    columns = shape.columns
    each = -(-len(columns) // 6)
    label = "slice(datum.value, 0, 10)"
    if shape.row < timedelta(days=1):
        label = "slice(datum.value, 5, 16)"
    x = alt.X(
        "column:O",
        scale=alt.Scale(domain=columns, paddingInner=0.06, paddingOuter=0),
        axis=alt.Axis(
            title=None, orient="top", labelAngle=0, values=columns[::each], labelAlign="left",
            labelFlush=False,
            ticks=False, domain=False,
        ),
    )  # fmt: skip
    y = alt.Y(
        "row:O",
        scale=alt.Scale(paddingInner=0.1, paddingOuter=0),
        axis=alt.Axis(title=None, labelExpr=label, labelFlush=False, ticks=False, domain=False),
    )
    color = alt.Scale(domain=list(WINDOW_STATUS), range=list(WINDOW_STATUS.values()))
    legend = alt.Legend(title=None, orient="top", columns=3, symbolType="square")
    tooltip = [
        alt.Tooltip("when:N", title="window (UTC)"),
        alt.Tooltip("description:N", title="status"),
        alt.Tooltip("stream:N", title="trades, stream"),
        alt.Tooltip("batch:N", title="trades, batch"),
        alt.Tooltip("values:N", title="values (stream / batch)"),
        alt.Tooltip("cause:N", title="cause"),
    ]
    base = alt.Chart(alt.NamedData("cells")).encode(x=x, y=y, tooltip=tooltip)
    cells = base.mark_rect().encode(color=alt.Color("status:N", scale=color, legend=legend))
    # In narrow cells only the symbols of other statuses are readable, because they are few.
    is_shown = f"datum.symbol != '{SYMBOLS[EQUAL]}' || width >= {NARROW_CELL * len(columns)}"
    symbols = base.mark_text(baseline="middle", fontSize=11, color=INK).encode(
        text=alt.condition(is_shown, "symbol:N", alt.value(""))
    )
    return specification(alt.layer(cells, symbols), ROW_HEIGHT * rows, renderer)


def agreement_chart(figures: Figures) -> Chart | None:
    """Return the status of each window, or the worst of several, over time."""
    grid = figures.agreement
    if grid.cells.empty:
        return None
    rows = grid.cells["row"].nunique()
    spec = _agreement_specification(grid.layout, rows, renderer_of(grid.cells))
    return Chart(spec, {"cells": grid.cells})


# --- freshness ------------------------------------------------------------------------------


@cache
def _freshness_specification() -> Spec:
    dashes = [list(dash) for _, dash in RESULT_LINES.values()]
    legend = _legend_of_lines(columns=2)
    y = alt.Y(
        "drawn:Q",
        title="age, s",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(values=[10**n for n in range(-1, 8)], format="~g"),
    )
    base = alt.Chart(alt.NamedData("ages")).encode(x=x_time("at"), y=y)
    lines = base.mark_line(strokeWidth=1.5, strokeJoin="bevel").encode(
        color=alt.Color(
            "result:N", scale=alt.Scale(domain=RESULTS, range=RESULT_COLOURS), legend=legend
        ),
        strokeDash=alt.StrokeDash(
            "result:N", scale=alt.Scale(domain=RESULTS, range=dashes), legend=legend
        ),
    )
    points = base.mark_point(opacity=0, size=60).encode(
        tooltip=[
            alt.Tooltip("when:N", title="UTC"),
            alt.Tooltip("result:N"),
            alt.Tooltip("age:Q", title="age, s", format=",.1f"),
        ],
    )
    return specification(alt.layer(lines, points), 230, "canvas")


def freshness_chart(figures: Figures) -> Chart | None:
    """Return the age of the newest visible trade in each result over time."""
    points = figures.freshness
    if points.empty:
        return None
    ages = points.assign(
        at=milliseconds(points["at"].astype("datetime64[ns, UTC]")),
        when=points["at"].dt.strftime("%Y-%m-%d %H:%M:%S"),
    )
    return Chart(_freshness_specification(), {"ages": ages})


# --- latency --------------------------------------------------------------------------------


@cache
def _latency_specification(count: int) -> Spec:
    y = alt.Y("step:N", title=None, sort=None, axis=alt.Axis(labelLimit=LABEL_WIDTH))
    x = alt.X("start:Q", title="time since the event, s", axis=alt.Axis(tickCount=6))
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("step", "median", "p99", "trades")]
    base = alt.Chart(alt.NamedData("steps")).encode(y=y, x=x, tooltip=tooltip)
    medians = base.mark_bar(color=STREAM_COLOUR, size=10).encode(x2="median_end:Q")
    p99s = base.mark_rule(color=QUIET, strokeWidth=2).encode(x2="p99_end:Q")
    return specification(alt.layer(p99s, medians), BAR_HEIGHT * count, "svg")


def latency_chart(figures: Figures) -> Chart | None:
    """Return the latency of each step, each after the step before it."""
    steps = figures.latency
    if not steps["trades"].any():
        return None
    known = steps[["median", "p99"]].fillna(0.0)
    data = pd.DataFrame(
        {
            "step": steps["leg"],
            "start": steps["start"],
            "median_end": steps["start"] + known["median"],
            "p99_end": steps["start"] + known["p99"],
            "median": steps["median"].map(seconds),
            "p99": steps["p99"].map(seconds),
            "trades": steps["trades"].map(formatting.count),
        }
    )
    return Chart(_latency_specification(len(steps)), {"steps": data})


# --- detection ------------------------------------------------------------------------------


@cache
def _detection_specification() -> Spec:
    color = alt.Color(
        "result:N", scale=alt.Scale(domain=RESULTS, range=RESULT_COLOURS), legend=None
    )
    y = alt.Y("result:N", title=None, sort=None, axis=alt.Axis(labelLimit=LABEL_WIDTH))
    x = alt.X(
        "median_drawn:Q",
        title="time to detection, s",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(format="~g", tickCount=6),
    )
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("result", "median", "p99")]
    base = alt.Chart(alt.NamedData("times")).encode(x=x, y=y, color=color, tooltip=tooltip)
    lines = base.mark_rule(strokeWidth=2).encode(x2="p99_drawn:Q")
    points = base.mark_point(filled=True, size=90, opacity=1)
    return specification(alt.layer(lines, points), BAR_HEIGHT * len(RESULTS), "svg")


def detection_chart(figures: Figures) -> Chart | None:
    """Return median and p99 of the time to detection of each result."""
    times = figures.detection
    if times.empty:
        return None
    data = times.assign(median=times["median"].map(seconds), p99=times["p99"].map(seconds))
    return Chart(_detection_specification(), {"times": data})


# --- watermark ------------------------------------------------------------------------------


@cache
def _watermark_specification() -> Spec:
    names = [AT_MOST, ESTIMATE]
    legend = _legend_of_lines()
    lines = (
        alt.Chart(alt.NamedData("dropped"))
        .mark_line(point=alt.OverlayMarkDef(size=14), strokeWidth=1.5, interpolate="step-after")
        .encode(
            x=alt.X("watermark_s:Q", title="watermark, s", scale=alt.Scale(zero=True)),
            y=alt.Y("percent:Q", title="dropped trades, %", scale=alt.Scale(type="log")),
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=names, range=[STREAM_COLOUR, BATCH_COLOUR]),
                legend=legend,
            ),
            strokeDash=alt.StrokeDash(
                "kind:N", scale=alt.Scale(domain=names, range=[[1, 0], [4, 3]]), legend=legend
            ),
            tooltip=[
                alt.Tooltip("watermark_s:Q", title="watermark, s"),
                alt.Tooltip("kind:N", title="dropped"),
                alt.Tooltip("percent:Q", title="% of the trades", format=".4f"),
            ],
        )
    )
    return specification(lines, 200, "svg")


def watermark_chart(figures: Figures) -> Chart | None:
    """Return the share of trades that each watermark would have dropped."""
    if figures.watermark.empty:
        return None
    return Chart(_watermark_specification(), {"dropped": figures.watermark})


# --- completeness ---------------------------------------------------------------------------


@cache
def _completeness_specification(count: int) -> Spec:
    bars = (
        alt.Chart(alt.NamedData("stages"))
        .mark_bar(color=STREAM_COLOUR, size=12)
        .encode(
            y=alt.Y("stage:N", title=None, sort=None, axis=alt.Axis(labelLimit=LABEL_WIDTH)),
            x=alt.X(
                "share:Q",
                title=None,
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%", tickCount=5),
            ),
            tooltip=[
                alt.Tooltip("stage:N", title="step"),
                alt.Tooltip("share:Q", title="kept", format=".2%"),
            ],
        )
    )
    return specification(bars, BAR_HEIGHT * count, "svg")


def completeness_chart(figures: Figures) -> Chart | None:
    """Return the share of its input that each step kept."""
    stages = figures.completeness
    if stages.empty:
        return None
    return Chart(_completeness_specification(len(stages)), {"stages": stages})


# --- growth ---------------------------------------------------------------------------------


@cache
def _growth_specification() -> Spec:
    x = alt.X("rows:Q", title="rows in the table", axis=alt.Axis(format=",d", tickCount=5))
    y = alt.Y("wall_s:Q", title="run time, s", scale=alt.Scale(zero=True))
    runs = (
        alt.Chart(alt.NamedData("runs"))
        .mark_point(color=BATCH_COLOUR, filled=True, size=36, opacity=0.8)
        .encode(
            x=x,
            y=y,
            tooltip=[
                alt.Tooltip("when:N", title="started (UTC)"),
                alt.Tooltip("rows:Q", format=","),
                alt.Tooltip("wall_s:Q", title="run time, s", format=",.2f"),
            ],
        )
    )
    parts = alt.Scale(domain=[FITTED, FORECAST, "hidden"], range=[[1, 0], [5, 4], [1, 0]])
    line = (
        alt.Chart(alt.NamedData("line"))
        .mark_line(color=STREAM_COLOUR, strokeWidth=2)
        .encode(
            x=x,
            y=y,
            strokeDash=alt.StrokeDash("part:N", scale=parts, legend=None),
            opacity=alt.condition("datum.part == 'hidden'", alt.value(0), alt.value(1)),
        )
    )
    limit = alt.Chart(alt.NamedData("limit"))
    shown = alt.condition("datum.shown", alt.value(1), alt.value(0))
    rule = limit.mark_rule(color=VERMILION, strokeWidth=1.5).encode(y=y, opacity=shown)
    name = limit.mark_text(align="left", dy=-7, color=QUIET, fontSize=11).encode(
        x=alt.value(4), y=y, text="label:N", opacity=shown
    )
    return specification(alt.layer(rule, name, line, runs), 230, "svg")


def growth_chart(figures: Figures) -> Chart | None:
    """Return run time by rows, its trend, and the interval.

    A line that is not shown is hidden: Vega has no scale for an empty data set.
    """
    growth: GrowthFigure = figures.growth
    if growth.runs.empty:
        return None
    runs, line, limit_s = growth.runs, growth.line, growth.limit_s
    when = runs["started"].map(lambda at: formatting.day_and_clock(formatting.moment(at)))
    if line.empty:
        line = runs[["rows", "wall_s"]].agg(["min", "max"]).assign(part="hidden")
    limit = {
        "wall_s": [float(runs["wall_s"].max()) if limit_s is None else limit_s],
        "shown": [limit_s is not None],
        "label": ["" if limit_s is None else f"interval, {limit_s:g} s"],
    }
    data = {
        "runs": runs[["rows", "wall_s"]].assign(when=when),
        "line": line,
        "limit": pd.DataFrame(limit),
    }
    return Chart(_growth_specification(), data)


# --- micro-batches --------------------------------------------------------------------------


@cache
def _micro_batches_specification() -> Spec:
    names = ["median", "p99"]
    legend = _legend_of_lines()
    colors = alt.Scale(domain=names, range=[STREAM_COLOUR, QUIET])
    dashes = alt.Scale(domain=names, range=[[1, 0], [4, 3]])
    lines = (
        alt.Chart(alt.NamedData("minutes"))
        .mark_line(point=alt.OverlayMarkDef(size=14), strokeWidth=1.5)
        .encode(
            x=x_time("at"),
            y=alt.Y(
                "ms:Q", title="duration, ms", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5)
            ),
            color=alt.Color("of:N", scale=colors, legend=legend),
            strokeDash=alt.StrokeDash("of:N", scale=dashes, legend=legend),
            tooltip=[
                alt.Tooltip("when:N", title="UTC"),
                alt.Tooltip("of:N", title="statistic"),
                alt.Tooltip("ms:Q", title="duration, ms", format=",.0f"),
                alt.Tooltip("count:Q", title="micro-batches", format=",.0f"),
            ],
        )
    )
    return specification(lines, 230, "svg")


def micro_batches_chart(figures: Figures) -> Chart | None:
    """Return the duration of the micro-batches by minute."""
    minutes = figures.micro_batches
    if minutes.empty:
        return None
    shared = pd.DataFrame(
        {
            "at": milliseconds(minutes["minute"].astype("datetime64[ns, UTC]")),
            "when": minutes["minute"].map(lambda when: f"{when:%Y-%m-%d %H:%M}"),
            "count": minutes["count"],
        }
    )
    both = [
        shared.assign(ms=minutes[column], of=name)
        for column, name in (("median_ms", "median"), ("p99_ms", "p99"))
    ]
    return Chart(_micro_batches_specification(), {"minutes": pd.concat(both, ignore_index=True)})


#: The chart of each section, by its key. The tables of the other sections need no chart.
CHARTS: Mapping[str, Callable[[Figures], Chart | None]] = {
    "frontier": frontier_chart,
    "agreement": agreement_chart,
    "freshness": freshness_chart,
    "latency": latency_chart,
    "detection": detection_chart,
    "watermark": watermark_chart,
    "completeness": completeness_chart,
    "growth": growth_chart,
    "micro_batches": micro_batches_chart,
}


def prepare() -> None:
    """Make the specifications, so that the first viewer does not wait for them."""
    _freshness_specification()
    _growth_specification()
    _micro_batches_specification()
    _agreement_specification(layout(timedelta(hours=1), timedelta(minutes=1)), 2, "svg")
