"""The charts of the comparison: agreement, ages, latency, completeness, growth, micro-batches."""

from datetime import timedelta
from functools import cache

import altair as alt
import pandas as pd

from page import agreement_strip, formatting
from page.charts.drawing import (
    BATCH,
    QUIET,
    STREAM,
    UP,
    Chart,
    Spec,
    drawing,
    milliseconds,
    renderer_of,
    x_time,
)
from page.comparison_data import MIN_AGE, ComparisonData
from pipeline.compare.agreement import (
    DIFFERS,
    EQUAL,
    NOT_YET_FINAL,
    NOT_YET_IN_A_BATCH,
    ONLY_BATCH,
    ONLY_STREAM,
)
from pipeline.compare.freshness import BATCH as BATCH_ANSWER
from pipeline.compare.freshness import STREAM_FINAL, STREAM_OPEN

#: Different in lightness as well as in hue. Each cell has a symbol too.
VERDICT_COLORS = {
    DIFFERS: "#e4572e",
    ONLY_STREAM: "#5aa9f0",
    ONLY_BATCH: "#f5b13d",
    NOT_YET_FINAL: "#dfe3e8",
    NOT_YET_IN_A_BATCH: "#b4bcc6",
    EQUAL: "#7fc8bd",
}
#: Colour and dash of the three results: the dash is for readers who cannot tell the colours apart.
RESULTS = {
    STREAM_OPEN: (UP, [1, 0]),
    STREAM_FINAL: (STREAM, [6, 3]),
    BATCH_ANSWER: (BATCH, [2, 2]),
}
#: Parts of the line through the runs, and the dash of each.
LINE_PARTS = ["fitted", "forecast", "hidden"]
DASHES = [[1, 0], [5, 4], [1, 0]]
#: Height of a row of cells, pixels.
ROW_HEIGHT = 17


# --- agreement ------------------------------------------------------------------------------


@cache
def _strip_drawing(shape: agreement_strip.Layout, rows: int, renderer: str) -> Spec:
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
    color = alt.Scale(domain=list(VERDICT_COLORS), range=list(VERDICT_COLORS.values()))
    tooltip = [
        alt.Tooltip("when:N", title="UTC"),
        alt.Tooltip("summary:N", title="verdict"),
        alt.Tooltip("stream:N", title="trades, stream"),
        alt.Tooltip("batch:N", title="trades, batch"),
        alt.Tooltip("values:N", title="stream / batch"),
        alt.Tooltip("cause:N", title="cause"),
    ]
    base = alt.Chart(alt.NamedData("cells")).encode(x=x, y=y, tooltip=tooltip)
    cells = base.mark_rect().encode(color=alt.Color("verdict:N", scale=color, legend=None))
    symbols = base.mark_text(
        baseline="middle",
        fontSize=alt.ExprRef(f"min(11, 1.4 * width / {len(columns)})"),
        color="#10141a",
    ).encode(
        text="symbol:N",
        opacity=alt.condition(f"datum.verdict == '{EQUAL}'", alt.value(0.6), alt.value(1)),
    )
    return drawing(alt.layer(cells, symbols), ROW_HEIGHT * rows, renderer)


def strip_chart(found: ComparisonData) -> Chart:
    """Return the verdict of each window, or the worst of several, over time."""
    cells = found.cells
    rows = cells["row"].nunique()
    return Chart(_strip_drawing(found.layout, rows, renderer_of(cells)), {"cells": cells})


# --- freshness ------------------------------------------------------------------------------


@cache
def _ages_drawing(renderer: str) -> Spec:
    names = list(RESULTS)
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolSize=300)
    y = alt.Y(
        "drawn:Q",
        title="age, s",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(values=[10**n for n in range(-1, 8)], format="~g"),
    )
    lines = (
        alt.Chart(alt.NamedData("ages"))
        .mark_line(strokeWidth=1.5, strokeJoin="bevel")
        .encode(
            x=x_time("at"),
            y=y,
            color=alt.Color(
                "answer:N",
                scale=alt.Scale(domain=names, range=[color for color, _ in RESULTS.values()]),
                legend=legend,
            ),
            strokeDash=alt.StrokeDash(
                "answer:N",
                scale=alt.Scale(domain=names, range=[dash for _, dash in RESULTS.values()]),
                legend=legend,
            ),
        )
    )
    points = (
        alt.Chart(alt.NamedData("ages"))
        .mark_point(opacity=0, size=60)
        .encode(
            x=x_time("at"),
            y=y,
            tooltip=[
                alt.Tooltip("when:N", title="UTC"),
                alt.Tooltip("answer:N", title="result"),
                alt.Tooltip("age:Q", title="age, s", format=",.1f"),
            ],
        )
    )
    return drawing(alt.layer(lines, points), 230, renderer)


def ages_chart(teeth: pd.DataFrame) -> Chart:
    """Return the age of the newest visible trade in each result over time."""
    ages = teeth.assign(
        at=milliseconds(teeth["at"].astype("datetime64[ns, UTC]")),
        drawn=teeth["age"].clip(lower=MIN_AGE),
        when=teeth["at"].dt.strftime("%Y-%m-%d %H:%M:%S"),
    )
    return Chart(_ages_drawing("canvas"), {"ages": ages})


# --- latency --------------------------------------------------------------------------------

#: After which step each step begins: the batch has its trades from Kafka, as the stream has.
_STEP_BEFORE = {1: 0, 2: 0, 3: 2, 4: 3}


@cache
def _steps_drawing(count: int) -> Spec:
    base = alt.Chart(alt.NamedData("steps"))
    y = alt.Y("step:N", title=None, sort=None, axis=alt.Axis(labelLimit=180))
    x = alt.X("start:Q", title="s", axis=alt.Axis(tickCount=6))
    tooltip = [
        alt.Tooltip("step:N"),
        alt.Tooltip("median:N"),
        alt.Tooltip("p99:N"),
        alt.Tooltip("trades:N"),
    ]
    medians = base.mark_bar(color=STREAM, size=10).encode(
        y=y, x=x, x2="median_end:Q", tooltip=tooltip
    )
    p99s = base.mark_rule(color=QUIET, strokeWidth=2).encode(
        y=y, x=x, x2="p99_end:Q", tooltip=tooltip
    )
    return drawing(alt.layer(p99s, medians), 24 * count, "svg")


def steps_chart(found: ComparisonData) -> Chart:
    """Return the latency of each step. A step begins where the median of the one before ends."""
    steps = found.waterfall
    medians = [formatting.number(value) for value in steps["median"]]
    p99s = [formatting.number(value) for value in steps["p99"]]
    starts: list[float] = []
    for number in range(len(steps)):
        before = _STEP_BEFORE.get(number)
        starts.append(0.0 if before is None else starts[before] + (medians[before] or 0.0))
    data = pd.DataFrame(
        {
            "step": steps["leg"],
            "start": starts,
            "median_end": [
                start + (one or 0.0) for start, one in zip(starts, medians, strict=True)
            ],
            "p99_end": [start + (one or 0.0) for start, one in zip(starts, p99s, strict=True)],
            "median": [formatting.latency(value) for value in medians],
            "p99": [formatting.latency(value) for value in p99s],
            "trades": steps["trades"].map(formatting.count),
        }
    )
    return Chart(_steps_drawing(len(steps)), {"steps": data})


# --- completeness ---------------------------------------------------------------------------


@cache
def _stages_drawing(count: int) -> Spec:
    bars = (
        alt.Chart(alt.NamedData("stages"))
        .mark_bar(color=STREAM, size=12)
        .encode(
            y=alt.Y("stage:N", title=None, sort=None, axis=alt.Axis(labelLimit=260)),
            x=alt.X(
                "share:Q",
                title=None,
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%", tickCount=5),
            ),
            tooltip=[alt.Tooltip("stage:N"), alt.Tooltip("trades:N")],
        )
    )
    return drawing(bars, 24 * count, "svg")


def stages_chart(found: ComparisonData) -> Chart | None:
    """Return the share of trades that each stage keeps; None while nothing is counted."""
    stages = found.funnel
    if stages.empty:
        return None
    share = stages["count"] / stages["drawn_from"]
    data = pd.DataFrame(
        {"stage": stages["stage"], "share": share.clip(0, 1).fillna(0), "trades": stages["said"]}
    )
    return Chart(_stages_drawing(len(stages)), {"stages": data})


# --- growth ---------------------------------------------------------------------------------


@cache
def _growth_drawing() -> Spec:
    x = alt.X("rows:Q", title="rows in the table", axis=alt.Axis(format="~s", tickCount=6))
    y = alt.Y("wall_s:Q", title="wall time, s", scale=alt.Scale(zero=True))
    runs = (
        alt.Chart(alt.NamedData("runs"))
        .mark_point(color=BATCH, filled=True, size=36, opacity=0.8)
        .encode(
            x=x,
            y=y,
            tooltip=[
                alt.Tooltip("when:N", title="started, UTC"),
                alt.Tooltip("rows:Q", format=","),
                alt.Tooltip("wall_s:Q", title="wall time, s", format=",.2f"),
            ],
        )
    )
    line = (
        alt.Chart(alt.NamedData("line"))
        .mark_line(color=STREAM, strokeWidth=2)
        .encode(
            x=x,
            y=y,
            strokeDash=alt.StrokeDash(
                "part:N", scale=alt.Scale(domain=LINE_PARTS, range=DASHES), legend=None
            ),
            opacity=alt.condition("datum.part == 'hidden'", alt.value(0), alt.value(1)),
        )
    )
    limit = alt.Chart(alt.NamedData("limit"))
    shown = alt.condition("datum.shown", alt.value(1), alt.value(0))
    rule = limit.mark_rule(color="#c62f2c", strokeWidth=1.5).encode(y=y, opacity=shown)
    name = limit.mark_text(align="left", dy=-7, color=QUIET, fontSize=11).encode(
        x=alt.value(4), y=y, text="said:N", opacity=shown
    )
    return drawing(alt.layer(rule, name, line, runs), 230, "svg")


def growth_chart(found: ComparisonData) -> Chart:
    """Return batch duration by rows, the trend, and the interval."""
    runs, shown = found.runs, found.limit_is_drawn
    level = found.interval_s if shown else float(runs["wall_s"].max())
    limit = {"wall_s": [level], "shown": [shown], "said": [f"interval, {found.interval_s:g} s"]}
    return Chart(
        _growth_drawing(), {"runs": runs, "line": line_of(found), "limit": pd.DataFrame(limit)}
    )


def line_of(found: ComparisonData) -> pd.DataFrame:
    """Return the points of the trend and of its forecast.

    A line that is not shown is hidden: Vega has no scale for an empty data set.
    """
    grown, low, high = found.growth, float(found.runs["rows"].min()), found.most_rows
    if grown is None or not found.growth_is_drawn:
        points = [(low, "hidden"), (high, "hidden")]
        base, slope = float(found.runs["wall_s"].median()), 0.0
    else:
        points = [(low, "fitted"), (high, "fitted")]
        base, slope = grown.base_s, grown.s_per_million
        if found.forecast_is_drawn and grown.rows_at_limit is not None:
            points += [(high, "forecast"), (grown.rows_at_limit, "forecast")]
    rows = [(rows, base + slope * rows / 1e6, part) for rows, part in points]
    return pd.DataFrame(rows, columns=["rows", "wall_s", "part"])


# --- micro-batches --------------------------------------------------------------------------


@cache
def _micro_drawing() -> Spec:
    names = ["median", "p99"]
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolSize=300)
    lines = (
        alt.Chart(alt.NamedData("minutes"))
        .mark_line(point=alt.OverlayMarkDef(size=14), strokeWidth=1.5)
        .encode(
            x=x_time("at"),
            y=alt.Y("ms:Q", title="ms", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5)),
            color=alt.Color(
                "of:N", scale=alt.Scale(domain=names, range=[STREAM, QUIET]), legend=legend
            ),
            strokeDash=alt.StrokeDash(
                "of:N", scale=alt.Scale(domain=names, range=[[1, 0], [4, 3]]), legend=legend
            ),
            tooltip=[
                alt.Tooltip("when:N", title="UTC"),
                alt.Tooltip("of:N", title="of the minute"),
                alt.Tooltip("ms:Q", format=",.0f"),
                alt.Tooltip("count:Q", title="micro-batches", format=",.0f"),
            ],
        )
    )
    return drawing(lines, 230, "svg")


def micro_chart(minutes: pd.DataFrame) -> Chart:
    """Return the duration of the micro-batches by minute."""
    shared = pd.DataFrame(
        {
            "at": milliseconds(minutes["minute"].astype("datetime64[ns, UTC]")),
            "when": minutes["minute"].map(lambda when: f"{when:%Y-%m-%d %H:%M}"),
            "count": minutes["count"],
        }
    )
    both = [
        shared.assign(ms=minutes[name], of=said)
        for name, said in (("median_ms", "median"), ("p99_ms", "p99"))
    ]
    return Chart(_micro_drawing(), {"minutes": pd.concat(both, ignore_index=True)})


def prepare() -> None:
    """Make the drawings, so that the first viewer does not wait for them."""
    _ages_drawing("canvas")
    _growth_drawing()
    _micro_drawing()
    _strip_drawing(agreement_strip.layout(timedelta(hours=1), timedelta(minutes=1)), 2, "svg")
