"""The charts: what is drawn (Vega-Lite, made with Altair once) apart from the data of each refresh.

The drawing never changes while the page is open, only the named data sets do. So the browser
replaces the data within the drawn chart, and zoom, scroll position and selection stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import altair as alt
import pandas as pd

from page import formatting as words
from page import windows

UP = "#26a69a"
DOWN = "#ef5350"
AVERAGE = "#f59e0b"
HIGH = "#f59e0b"
SPIKE = "#8e6bd8"
BATCH = "#f59e0b"
STREAM = "#4f8fd9"
QUIET = "#8a94a0"

#: Heights within the price chart, pixels from its top.
PRICE_HEIGHT = 310
VOLUME_TOP, VOLUME_BOTTOM = 336, 400
MOOD_TOP, HIGH_TOP, SPIKE_TOP, CELL = 411, 431, 444, 7
CHART_HEIGHT = 454

#: The zoom and pan of the price chart; wheel only with Ctrl, so that the page can be scrolled.
ZOOM = "zoom"

#: With more candles than this the browser draws on a canvas.
MOST_SVG_CANDLES = 400

Spec = Mapping[str, Any]
Data = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Chart:
    """A drawing and its data sets, by the names under which the drawing asks for them."""

    drawing: Spec
    data: Data

    @property
    def spec(self) -> dict[str, Any]:
        return {**self.drawing, "datasets": dict(self.data)}


#: 24 hours a day, and the day where it changes.
_TIME_FORMAT = {
    "seconds": "%H:%M:%S",
    "minutes": "%H:%M",
    "hours": "%H:%M",
    "day": "%b %d",
    "date": "%b %d",
    "week": "%b %d",
    "month": "%b %d",
    "quarter": "%b %d",
    "year": "%Y",
}


def x_time(field: str) -> Any:
    """A time, by UTC, whatever the clock of the browser."""
    axis = alt.Axis(grid=False, labelOverlap=True, format=_TIME_FORMAT, tickCount=8)
    return alt.X(f"{field}:T", scale=alt.Scale(type="utc"), title=None, axis=axis)


# --- price ----------------------------------------------------------------------------------


@cache
def _price_drawing(product: str, decimals: int, renderer: str) -> Spec:
    base, _, quote = product.partition("-")
    zoom = alt.selection_interval(
        name=ZOOM,
        bind="scales",
        encodings=["x"],
        zoom="wheel![event.ctrlKey]",
        # a finger scrolls the page
        translate="[pointerdown[event.pointerType === 'mouse'], window:pointerup] "
        "> window:pointermove!",
    )
    candles = alt.Chart()
    rising = alt.condition("datum.close >= datum.open", alt.value(UP), alt.value(DOWN))
    price_scale = alt.Scale(zero=False, range=[PRICE_HEIGHT, 0], padding=4)
    prices = {"scale": price_scale, "title": None}
    money = f",.{decimals}f"
    tooltip = [
        alt.Tooltip("when:N", title="UTC"),
        alt.Tooltip("state:N", title="window"),
        alt.Tooltip("open:Q", format=money),
        alt.Tooltip("max:Q", format=money, title="highest"),
        alt.Tooltip("min:Q", format=money, title="lowest"),
        alt.Tooltip("close:Q", format=money),
        alt.Tooltip("average:Q", format=money),
        alt.Tooltip("volume:Q", format=",.4f", title=f"volume, {base}"),
        alt.Tooltip("trades:Q", format=",.0f"),
        alt.Tooltip("mood:N", title="sentiment"),
        alt.Tooltip("flags:N"),
    ]
    wick = candles.mark_rule().encode(
        x=x_time("middle"),
        y=alt.Y("min:Q", **prices),
        y2="max:Q",
        color=rising,
        opacity=alt.condition("datum.forming", alt.value(0.6), alt.value(1)),
    )
    body = candles.mark_bar(strokeWidth=1.2).encode(
        x=x_time("body_start"),
        x2="body_end:T",
        y=alt.Y("open:Q", **prices),
        y2="close:Q",
        fill=rising,
        stroke=rising,
        fillOpacity=alt.condition("datum.forming", alt.value(0.2), alt.value(1)),
        strokeDash=alt.condition("datum.forming", alt.value([3, 2]), alt.value([1, 0])),
    )
    average = alt.Chart(alt.NamedData("average"))
    line = average.mark_rule(color=AVERAGE, strokeDash=[6, 4], strokeWidth=1.5).encode(
        y=alt.Y("value:Q", **prices),
        opacity=alt.condition("datum.shown", alt.value(1), alt.value(0)),
    )
    volume = candles.mark_rect().encode(
        x=x_time("body_start"),
        x2="body_end:T",
        y=alt.Y(
            "volume:Q",
            scale=alt.Scale(range=[VOLUME_BOTTOM, VOLUME_TOP], domainMin=0, nice=True),
            axis=alt.Axis(title=None, orient="left", tickCount=2, grid=False),
        ),
        y2=alt.Y2Datum(0),
        fill=rising,
        fillOpacity=alt.condition("datum.forming", alt.value(0.25), alt.value(0.7)),
    )
    hover = candles.mark_rect(opacity=0).encode(
        x=x_time("start"), x2="end:T", y=alt.value(0), y2=alt.value(CHART_HEIGHT), tooltip=tooltip
    )
    priced = alt.layer(wick, body, line)
    named = [
        _name(f"price, {quote}", 0, -8, "left"),
        _name(f"volume, {base}", 0, VOLUME_TOP - 8, "left"),
        _name("mood", -6, MOOD_TOP + CELL, "right"),
        _name("High", -6, HIGH_TOP + CELL / 2, "right"),
        _name("Spike", -6, SPIKE_TOP + CELL / 2, "right"),
    ]
    whole = alt.layer(
        hover.add_params(zoom), priced, volume, *_flag_cells(candles), *named
    ).resolve_scale(y="independent")
    whole = whole.properties(data=alt.NamedData("candles")).transform_filter(zoom)
    return drawn(whole, CHART_HEIGHT, renderer)


def _name(text: str, x: float, y: float, align: str) -> Any:
    """A word at a place, pixels from the upper left corner of the prices."""
    return (
        alt.Chart(alt.NamedData("once"))
        .mark_text(align=align, baseline="middle", fontSize=11, color=QUIET, text=text, clip=False)
        .encode(x=alt.value(x), y=alt.value(y))
    )


def _flag_cells(candles: Any) -> list[Any]:
    """Three rows of cells below the volume: mood (bullish above, bearish below) and two flags."""

    def cells(top: Any, height: float, shown: str, color: Any) -> Any:
        return candles.mark_rect().encode(
            x=x_time("body_start"),
            x2="body_end:T",
            y=alt.value(top),
            y2=alt.value(top + height),
            fill=color,
            fillOpacity=alt.condition(shown, alt.value(1), alt.value(0)),
        )

    bullish = alt.expr.if_(alt.datum.mood == "Bullish", MOOD_TOP, MOOD_TOP + CELL)
    mood = alt.condition("datum.mood == 'Bullish'", alt.value(UP), alt.value(DOWN))
    return [
        cells(bullish, CELL, "datum.mood == 'Bullish' || datum.mood == 'Bearish'", mood),
        cells(HIGH_TOP, CELL, "datum.high", alt.value(HIGH)),
        cells(SPIKE_TOP, CELL, "datum.spike", alt.value(SPIKE)),
    ]


def price_chart(
    candles: pd.DataFrame,
    width: timedelta,
    forming_starts: frozenset[pd.Timestamp],
    average: float | None,
    product: str,
) -> Chart:
    """Candles with volume and flags; the batch's average as a line where it is within view."""
    low = words.number(candles["min_price"].min())
    data = _candle_data(candles, width, forming_starts)
    shown = average is not None and windows.place_of(average, candles) == "within"
    # Out of view the line is hidden, not left out: an empty data set has no extent to draw.
    line = average if shown else candles["close_price"].iloc[-1] if len(candles) else 0.0
    return Chart(
        _price_drawing(product, 2 if low is None or low >= 1 else 8, renderer_of(candles)),
        {
            "candles": data,
            "average": pd.DataFrame({"value": [line], "shown": [shown]}),
            "once": pd.DataFrame({"one": [1]}),
        },
    )


def milliseconds(times: "pd.Series[Any]") -> "pd.Series[Any]":
    return times.astype("int64") / 1e6


def _candle_data(
    candles: pd.DataFrame, width: timedelta, forming_starts: frozenset[pd.Timestamp]
) -> pd.DataFrame:
    start = milliseconds(candles["window_start"].astype("datetime64[ns, UTC]"))
    step = width.total_seconds() * 1000
    forming = candles["window_start"].isin(forming_starts)
    counted = zip(candles["high_windows"], candles["spike_windows"], strict=True)
    return pd.DataFrame(
        {
            "start": start,
            "end": start + step,
            "middle": start + step / 2,
            "body_start": start + step * 0.15,
            "body_end": start + step * 0.85,
            "open": candles["open_price"],
            "close": candles["close_price"],
            "max": candles["max_price"],
            "min": candles["min_price"],
            "volume": candles["total_volume"],
            "forming": forming,
            "mood": candles["mood"].where(candles["mood"].notna(), words.DASH),
            "high": candles["high_windows"] > 0,
            "spike": candles["spike_windows"] > 0,
            "when": candles["window_start"].dt.strftime("%Y-%m-%d %H:%M:%S"),
            "state": [
                _state(n, is_forming)
                for n, is_forming in zip(candles["windows"], forming, strict=True)
            ],
            "flags": [_flags(high, spike) for high, spike in counted],
            "average": candles["avg_price"],
            "trades": candles["trade_count"],
        }
    )


def _state(windows: float, forming: object) -> str:
    if windows > 1:
        return f"{windows:.0f} windows" + (", one still open" if forming else "")
    return "open" if forming else "final"


def _flags(high: float, spike: float) -> str:
    said = [
        name if n == 1 else f"{name} in {n:.0f} windows"
        for name, n in (("High", high), ("Spike", spike))
        if n > 0
    ]
    return ", ".join(said) or "none"


# --- counts of both paths -------------------------------------------------------------------


@cache
def _counts_drawing(renderer: str) -> Spec:
    both = alt.Chart(alt.NamedData("counts"))
    color = alt.Scale(domain=["stream", "batch"], range=[STREAM, BATCH])
    legend = alt.Legend(title=None, orient="top")
    tooltip = [
        alt.Tooltip("when:N", title="UTC"),
        alt.Tooltip("stream_text:N", title="stream"),
        alt.Tooltip("batch_text:N", title="batch"),
    ]
    y = {"title": "trades", "axis": alt.Axis(tickCount=5, format="~s")}
    bars = both.mark_rect(opacity=0.65).encode(
        x=x_time("body_start"),
        x2="body_end:T",
        y=alt.Y("stream:Q", **y),
        y2=alt.Y2Datum(0),
        color=alt.Color("stream_name:N", scale=color, legend=legend),
        tooltip=tooltip,
    )
    steps = both.mark_rule(strokeWidth=2.5).encode(
        x=x_time("start"),
        x2="end:T",
        y=alt.Y("batch:Q", **y),
        color=alt.Color("batch_name:N", scale=color, legend=legend),
        opacity=alt.condition("datum.counted", alt.value(1), alt.value(0)),
        tooltip=tooltip,
    )
    return drawn(alt.layer(bars, steps), 190, renderer)


def counts_chart(stream: pd.DataFrame, batch: pd.DataFrame, width: timedelta) -> Chart:
    """Trades by candle: the stream's as bars, the batch's as lines on top of them."""
    by_stream = stream[["window_start", "trade_count"]].rename(columns={"trade_count": "stream"})
    counts = by_stream.merge(
        batch[["window_start", "trade_count"]].rename(columns={"trade_count": "batch"}),
        on="window_start",
        how="outer",
        sort=True,
    )
    start = milliseconds(counts["window_start"].astype("datetime64[ns, UTC]"))
    step = width.total_seconds() * 1000
    return Chart(
        _counts_drawing(renderer_of(counts)),
        {
            "counts": pd.DataFrame(
                {
                    "start": start,
                    "end": start + step,
                    "body_start": start + step * 0.15,
                    "body_end": start + step * 0.85,
                    # What a path has not counted is drawn as nothing, and said with a dash.
                    "stream": counts["stream"].astype(float).fillna(0),
                    "batch": counts["batch"].astype(float).fillna(0),
                    "counted": counts["batch"].notna(),
                    "stream_name": "stream",
                    "batch_name": "batch",
                    "when": counts["window_start"].dt.strftime("%Y-%m-%d %H:%M:%S"),
                    "stream_text": counts["stream"].map(words.count),
                    "batch_text": counts["batch"].map(words.count),
                }
            )
        },
    )


# --- batch duration -------------------------------------------------------------------------

#: The parts of a run's wall time, from the bottom up.
PARTS = ("start-up", "aggregation logic", "the rest", "run that failed")


@cache
def _duration_drawing() -> Spec:
    color = alt.Scale(domain=list(PARTS), range=["#8a94a0", "#4f8fd9", "#c3c9d0", DOWN])
    x = alt.X(
        "run:O",
        title=None,
        axis=alt.Axis(labelOverlap="greedy", labelAngle=0, labelExpr="slice(datum.label, 5, 16)"),
    )
    parts = alt.Chart(alt.NamedData("parts"))
    bars = parts.mark_bar(width=alt.ExprRef("min(36, bandwidth('x') * 0.85)")).encode(
        x=x,
        y=alt.Y("seconds:Q", title="wall time, s", stack="zero", axis=alt.Axis(tickCount=5)),
        order="order:Q",
        color=alt.Color(
            "part:N", scale=color, legend=alt.Legend(title=None, orient="top", columns=2)
        ),
        tooltip=[
            alt.Tooltip("run:N", title="started, UTC"),
            alt.Tooltip("status:N", title="status"),
            alt.Tooltip("wall:N", title="wall time"),
            alt.Tooltip("start:N", title="start-up"),
            alt.Tooltip("logic:N", title="logic"),
            alt.Tooltip("rows:N", title="rows"),
        ],
    )
    crosses = parts.mark_text(
        text="✕", color=DOWN, fontWeight="bold", dy=-7, fontSize=13, tooltip=None
    ).encode(
        x=x,
        y=alt.Y("seconds:Q", stack=None),
        opacity=alt.condition("datum.part == 'run that failed'", alt.value(1), alt.value(0)),
    )
    return drawn(alt.layer(bars, crosses), 190, "svg")


def duration_chart(runs: pd.DataFrame, good: Sequence[str]) -> Chart:
    """The wall time of each run, oldest on the left, split into what it was spent on."""
    parts: list[dict[str, Any]] = []
    for run in runs.to_dict("records"):
        wall, start, logic = (words.number(run[name]) for name in ("wall_s", "start_s", "logic_s"))
        shared = {
            "run": words.day_and_clock(words.moment(run["started"])),
            "status": words.text(run["status"]),
            "wall": words.seconds(wall),
            "start": words.seconds(start),
            "logic": words.seconds(logic),
            "rows": words.count(run["rows"]),
        }
        if run["status"] not in good:
            parts.append({**shared, "part": PARTS[3], "order": 3, "seconds": wall or 0.0})
            continue
        rest = None if wall is None else max(0.0, wall - (start or 0.0) - (logic or 0.0))
        parts += [
            {**shared, "part": part, "order": order, "seconds": seconds}
            for order, (part, seconds) in enumerate(
                zip(PARTS[:3], (start, logic, rest), strict=True)
            )
            if seconds is not None
        ]
    names = ["run", "status", "wall", "start", "logic", "rows", "part", "order", "seconds"]
    return Chart(_duration_drawing(), {"parts": pd.DataFrame(parts, columns=names)})


def prepare(product: str) -> None:
    """Makes all drawings, so that the first viewer does not wait for it."""
    for renderer in ("svg", "canvas"):
        _price_drawing(product, 2, renderer)
        _counts_drawing(renderer)
    _duration_drawing()


def renderer_of(rows: pd.DataFrame) -> str:
    """SVG is sharper and can be read by tools; with many candles it is slow."""
    return "svg" if len(rows) <= MOST_SVG_CANDLES else "canvas"


def drawn(chart: Any, height: Any, renderer: str) -> Spec:
    drawing: Spec = (
        chart.properties(
            height=height,
            usermeta={"embedOptions": {"renderer": renderer}},
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
            padding={"left": 4, "top": 14, "right": 24, "bottom": 4},
        )
        .configure_axis(labelFontSize=11, titleFontSize=11)
        .configure_view(strokeWidth=0)
        .to_dict()
    )
    return drawing
