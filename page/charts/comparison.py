"""The charts of the comparison: drawings made once, data sets of each refresh (see `charts.py`)."""

from datetime import timedelta
from functools import cache

import altair as alt
import pandas as pd

from page import agreement_strip as strip
from page.charts.market import (
    BATCH,
    QUIET,
    STREAM,
    UP,
    Chart,
    Spec,
    drawn,
    milliseconds,
    renderer_of,
    x_time,
)
from page.digest import LEAST_AGE, Digest
from pipeline.compare.agreement import (
    DIFFERS,
    EQUAL,
    NOT_YET_FINAL,
    NOT_YET_IN_A_BATCH,
    ONLY_BATCH,
    ONLY_STREAM,
)
from pipeline.compare.comparison import BATCH as BATCH_ANSWER
from pipeline.compare.comparison import STREAM_FINAL, STREAM_OPEN

#: Apart in lightness as well as in hue; each carries its symbol too.
VERDICT_COLORS = {
    DIFFERS: "#e4572e",
    ONLY_STREAM: "#5aa9f0",
    ONLY_BATCH: "#f5b13d",
    NOT_YET_FINAL: "#dfe3e8",
    NOT_YET_IN_A_BATCH: "#b4bcc6",
    EQUAL: "#7fc8bd",
}
#: The three answers: colour and dash, so that they can be told apart without colours.
ANSWERS = {
    STREAM_OPEN: (UP, [1, 0]),
    STREAM_FINAL: (STREAM, [6, 3]),
    BATCH_ANSWER: (BATCH, [2, 2]),
}
#: Parts of the line through the runs, and how each is dashed.
LINE_PARTS = ["fitted", "forecast", "hidden"]
DASHES = [[1, 0], [5, 4], [1, 0]]
#: Height of a row of the strip, pixels.
ROW_HEIGHT = 17


# --- agreement ------------------------------------------------------------------------------


@cache
def _strip_drawing(shape: strip.Layout, rows: int, renderer: str) -> Spec:
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
        alt.Tooltip("said:N", title="verdict"),
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
    return drawn(alt.layer(cells, symbols), ROW_HEIGHT * rows, renderer)


def strip_chart(found: Digest) -> Chart:
    cells = found.cells
    rows = cells["row"].nunique()
    return Chart(_strip_drawing(found.layout, rows, renderer_of(cells)), {"cells": cells})


# --- freshness ------------------------------------------------------------------------------


@cache
def _ages_drawing(renderer: str) -> Spec:
    names = list(ANSWERS)
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
                scale=alt.Scale(domain=names, range=[color for color, _ in ANSWERS.values()]),
                legend=None,
            ),
            strokeDash=alt.StrokeDash(
                "answer:N",
                scale=alt.Scale(domain=names, range=[dash for _, dash in ANSWERS.values()]),
                legend=None,
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
                alt.Tooltip("answer:N"),
                alt.Tooltip("age:Q", title="age, s", format=",.1f"),
            ],
        )
    )
    return drawn(alt.layer(lines, points), 230, renderer)


def ages_chart(teeth: pd.DataFrame) -> Chart:
    """The age of the newest trade in each answer over time."""
    ages = teeth.assign(
        at=milliseconds(teeth["at"].astype("datetime64[ns, UTC]")),
        drawn=teeth["age"].clip(lower=LEAST_AGE),
        when=teeth["at"].dt.strftime("%Y-%m-%d %H:%M:%S"),
    )
    return Chart(_ages_drawing("canvas"), {"ages": ages})


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
    return drawn(alt.layer(rule, name, line, runs), 230, "svg")


def growth_chart(found: Digest) -> Chart:
    """Batch duration against rows, the fitted line, and the interval where it will be crossed."""
    runs, shown = found.runs, found.limit_is_drawn
    level = found.interval_s if shown else float(runs["wall_s"].max())
    limit = {"wall_s": [level], "shown": [shown], "said": [f"interval, {found.interval_s:g} s"]}
    return Chart(
        _growth_drawing(), {"runs": runs, "line": line_of(found), "limit": pd.DataFrame(limit)}
    )


def line_of(found: Digest) -> pd.DataFrame:
    """The points of the fitted line and, where it is drawn, of its forecast.

    A line that is not to be seen is hidden, not left out: Vega has no scale for an empty data set.
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
    names = ["median", "99 %"]
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
                alt.Tooltip("of:N", title="of the minute's"),
                alt.Tooltip("ms:Q", format=",.0f"),
                alt.Tooltip("count:Q", title="micro-batches", format=",.0f"),
            ],
        )
    )
    return drawn(lines, 230, "svg")


def micro_chart(minutes: pd.DataFrame) -> Chart:
    """The time of the micro-batches by minute."""
    shared = pd.DataFrame(
        {
            "at": milliseconds(minutes["minute"].astype("datetime64[ns, UTC]")),
            "when": minutes["minute"].map(lambda when: f"{when:%Y-%m-%d %H:%M}"),
            "count": minutes["count"],
        }
    )
    both = [
        shared.assign(ms=minutes[name], of=said)
        for name, said in (("median_ms", "median"), ("p99_ms", "99 %"))
    ]
    return Chart(_micro_drawing(), {"minutes": pd.concat(both, ignore_index=True)})


def prepare() -> None:
    """Makes the drawings that need nothing of the data."""
    _ages_drawing("canvas")
    _growth_drawing()
    _micro_drawing()
    _strip_drawing(strip.layout(timedelta(hours=1), timedelta(minutes=1)), 2, "svg")
