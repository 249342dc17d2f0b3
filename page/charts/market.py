"""The charts of the market: price, trades counted by each path, duration of batch runs."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import altair as alt
import pandas as pd

from page import formatting
from page.candles import place_of
from page.charts.chart import (
    Chart,
    Spec,
    milliseconds,
    renderer_of,
    specification,
    x_time,
)
from page.tables import MARKS, outcome_of
from pipeline.compare import palette
from pipeline.compare.formatting import seconds
from pipeline.metrics.definitions import BEARISH, BULLISH, HIGH, SPIKE
from pipeline.settings import currencies

#: Places within the price chart, pixels from its bottom: in full screen only the prices grow.
PRICE_BOTTOM, VOLUME_TOP, VOLUME_BOTTOM = 144, 118, 54
SENTIMENT_TOP, HIGH_TOP, SPIKE_TOP, CELL = 43, 23, 10, 7
#: Height of the price chart with its time axis.
CHART_HEIGHT = 430
#: Space for the labels at the right edge.
LABELS_RIGHT = 62
#: Width of the body of a candle, as a part of the time that the candle covers.
BODY = 0.7
#: Width of the chart on a desktop, and the minimum width of candles that are far apart, pixels.
USUAL_WIDTH, SPARSE_CANDLE = 640, 4

#: The zoom and pan of the price chart; wheel only with Ctrl, so that the page can be scrolled.
ZOOM = "zoom"
#: The candle below the pointer.
HOVER = "hover"

# --- price ----------------------------------------------------------------------------------


#: The colours of rising and falling candles, as values of Vega-Lite.
_UP, _DOWN = alt.value(palette.UP), alt.value(palette.DOWN)
_RISING = alt.condition("datum.close >= datum.open", _UP, _DOWN)
#: A mark that is hidden where the data says so: Vega has no scale for an empty data set.
_SHOWN = alt.condition("datum.shown", alt.value(1), alt.value(0))


@cache
def _price_specification(product: str, decimals: int, renderer: str) -> Spec:
    base, quote = currencies(product)
    zoom = alt.selection_interval(
        name=ZOOM,
        bind="scales",
        encodings=["x"],
        zoom="wheel![event.ctrlKey]",
        # a finger scrolls the page
        translate="[pointerdown[event.pointerType === 'mouse'], window:pointerup] "
        "> window:pointermove!",
    )
    over = alt.selection_point(
        name=HOVER,
        on="pointermove",
        clear="pointerout",
        fields=["middle", "close", "clock"],
        empty=False,
    )
    money = f",.{decimals}f"
    candles = alt.Chart()
    hover = candles.mark_rect(opacity=0).encode(
        x=x_time("start"), x2="end:T", y=alt.value(0), y2=_bottom(), tooltip=_tooltip(base, money)
    )
    upright, moment, *levels = _crosshair(money)
    priced = alt.layer(*_candles(candles), _average_line(), *_last_price(money), *levels)
    named = [
        _name(f"price, {quote}", 0, alt.value(-8), "left"),
        _name(f"volume, {base}", 0, _place(VOLUME_TOP + 8), "left"),
        _name("sentiment", -6, _place(SENTIMENT_TOP - CELL), "right"),
        _name(HIGH, -6, _place(HIGH_TOP - CELL / 2), "right"),
        _name(SPIKE, -6, _place(SPIKE_TOP - CELL / 2), "right"),
    ]
    volume, flags = _volume(candles), _flag_cells(candles)
    layers = (_seams(), priced, volume, *flags, upright, moment, *named)
    whole = alt.layer(hover.add_params(zoom, over), *layers).resolve_scale(y="independent")
    whole = whole.properties(data=alt.NamedData("candles")).transform_filter(zoom)
    return specification(whole, CHART_HEIGHT, renderer, right=LABELS_RIGHT, fit="fit")


def _tooltip(base: str, money: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("when:N", title="UTC"),
        alt.Tooltip("state:N", title="window"),
        alt.Tooltip("open:Q", format=money),
        alt.Tooltip("max:Q", format=money, title="high"),
        alt.Tooltip("min:Q", format=money, title="low"),
        alt.Tooltip("close:Q", format=money),
        alt.Tooltip("average:Q", format=money),
        alt.Tooltip("volume:Q", format=",.4f", title=f"volume, {base}"),
        alt.Tooltip("trades:Q", format=",.0f"),
        alt.Tooltip("sentiment:N"),
        alt.Tooltip("flags:N"),
    ]


def _prices() -> dict[str, Any]:
    """Return the axis that all marks at a price share."""
    scale = alt.Scale(zero=False, range=[_from_bottom(PRICE_BOTTOM), 0], padding=4)
    return {"scale": scale, "title": None}


def _candles(candles: Any) -> tuple[Any, Any]:
    """Return the wicks and the bodies. Those of open windows are pale and dashed."""
    wick = candles.mark_rule().encode(
        x=x_time("middle"),
        y=alt.Y("min:Q", **_prices()),
        y2="max:Q",
        color=_RISING,
        opacity=alt.condition("datum.is_open", alt.value(0.6), alt.value(1)),
    )
    body = candles.mark_bar().encode(
        strokeWidth=alt.StrokeWidth("stroke:Q", scale=None),
        x=x_time("body_start"),
        x2="body_end:T",
        y=alt.Y("open:Q", **_prices()),
        y2="close:Q",
        fill=_RISING,
        stroke=_RISING,
        fillOpacity=alt.condition("datum.is_open", alt.value(0.2), alt.value(1)),
        strokeDash=alt.condition("datum.is_open", alt.value([3, 2]), alt.value([1, 0])),
    )
    return wick, body


def _average_line() -> Any:
    """Return the line at the average price of the batch."""
    average = alt.Chart(alt.NamedData("average"))
    return average.mark_rule(color=palette.AVERAGE, strokeDash=[6, 4], strokeWidth=1.5).encode(
        y=alt.Y("value:Q", **_prices()), opacity=_SHOWN
    )


def _last_price(money: str) -> tuple[Any, Any]:
    """Return the line at the last price, and its label at the right edge."""
    last = alt.Chart(alt.NamedData("last")).encode(
        y=alt.Y("price:Q", **_prices()), color=alt.condition("datum.rose", _UP, _DOWN)
    )
    line = last.mark_rule(strokeDash=[1, 3], strokeWidth=1.5)
    label = last.mark_text(align="left", dx=5, fontSize=12, fontWeight="bold", clip=False).encode(
        x=_right(), text=alt.Text("price:Q", format=money)
    )
    return line, label


def _seams() -> Any:
    """Return a vertical line where the recording starts again."""
    return (
        alt.Chart(alt.NamedData("seams"))
        .mark_rule(color=palette.QUIET, strokeDash=[2, 4], strokeWidth=1.5)
        .encode(x=x_time("at"), y=alt.value(0), y2=_bottom(), opacity=_SHOWN)
    )


def _volume(candles: Any) -> Any:
    scale = alt.Scale(
        range=[_from_bottom(VOLUME_BOTTOM), _from_bottom(VOLUME_TOP)], domainMin=0, nice=True
    )
    axis = alt.Axis(title=None, orient="left", tickCount=2, grid=False)
    return candles.mark_rect().encode(
        x=x_time("body_start"),
        x2="body_end:T",
        y=alt.Y("volume:Q", scale=scale, axis=axis),
        y2=alt.Y2Datum(0),
        fill=_RISING,
        stroke=_RISING,
        strokeWidth=alt.StrokeWidth("widening:Q", scale=None),
        fillOpacity=alt.condition("datum.is_open", alt.value(0.25), alt.value(0.7)),
    )


def _crosshair(money: str) -> tuple[Any, Any, Any, Any]:
    """Return its vertical line, the time at its top, its horizontal line and the price there.

    Its data set has one row, which gets the values of the candle below the pointer.
    """
    cross = alt.Chart(alt.NamedData("cross")).transform_calculate(
        **{
            name: f"isValid({HOVER}.{name}) ? {HOVER}.{name}[0] : datum.{name}"
            for name in ("middle", "close", "clock")
        },
        shown=f"isValid({HOVER}.close)",
    )
    upright = cross.mark_rule(color=palette.QUIET).encode(
        x=x_time("middle"), y=alt.value(0), y2=_bottom(), opacity=_SHOWN
    )
    moment = cross.mark_text(
        baseline="bottom", dy=-2, fontSize=12, color=palette.QUIET, clip=False
    ).encode(x=x_time("middle"), y=alt.value(0), text="clock:N", opacity=_SHOWN)
    level = cross.mark_rule(color=palette.QUIET).encode(
        y=alt.Y("close:Q", **_prices()), opacity=_SHOWN
    )
    value = cross.mark_text(
        align="left", dx=5, fontSize=12, color=palette.QUIET, clip=False
    ).encode(
        x=_right(),
        y=alt.Y("close:Q", **_prices()),
        text=alt.Text("close:Q", format=money),
        opacity=_SHOWN,
    )
    return upright, moment, level, value


def _from_bottom(pixels: float) -> Any:
    """Return a place above the bottom of the chart, whose height the browser decides."""
    return alt.ExprRef(f"height - {pixels:g}")


def _place(pixels: float) -> Any:
    return alt.value(_from_bottom(pixels))


def _bottom() -> Any:
    return alt.value(alt.ExprRef("height"))


def _right() -> Any:
    return alt.value(alt.ExprRef("width"))


def _name(text: str, x: float, y: Any, align: str) -> Any:
    """Return a label at a place, pixels from the left edge of the prices."""
    return (
        alt.Chart(alt.NamedData("once"))
        .mark_text(
            align=align, baseline="middle", fontSize=11, color=palette.QUIET, text=text, clip=False
        )
        .encode(x=alt.value(x), y=y)
    )


def _flag_cells(candles: Any) -> list[Any]:
    """Return three rows of cells below the volume: sentiment (up, down) and two flags."""

    def cells(top: Any, bottom: Any, shown: Any, color: Any) -> Any:
        return candles.mark_rect().encode(
            x=x_time("body_start"),
            x2="body_end:T",
            y=top,
            y2=bottom,
            fill=color,
            stroke=color,
            strokeWidth=alt.StrokeWidth("widening:Q", scale=None),
            opacity=alt.condition(shown, alt.value(1), alt.value(0)),
        )

    bullish = alt.datum.sentiment == BULLISH
    row = alt.expr.if_(bullish, SENTIMENT_TOP, SENTIMENT_TOP - CELL)
    top, bottom = (alt.value(alt.ExprRef(f"height - ({row} - {n})")) for n in (0, CELL))
    color = alt.condition(bullish, alt.value(palette.UP), alt.value(palette.DOWN))
    return [
        cells(top, bottom, bullish | (alt.datum.sentiment == BEARISH), color),
        cells(
            _place(HIGH_TOP), _place(HIGH_TOP - CELL), "datum.high", alt.value(palette.HIGH_RANGE)
        ),
        cells(
            _place(SPIKE_TOP),
            _place(SPIKE_TOP - CELL),
            "datum.spike",
            alt.value(palette.VOLUME_SPIKE),
        ),
    ]


def price_chart(
    candles: pd.DataFrame,
    width: timedelta,
    open_starts: frozenset[pd.Timestamp],
    average: float | None,
    product: str,
    *,
    seams: Sequence[datetime],
) -> Chart:
    """Return candles with volume and flags.

    Lines show the last price, the batch's average price where it is in view, and the times at
    which a recording starts again.
    """
    decimals = formatting.price_decimals(candles["min_price"].min())
    data = _candle_data(candles, width, open_starts)
    shown = average is not None and place_of(average, candles) == "within"
    # Out of view a line is hidden: Vega has no scale for an empty data set.
    close = float(candles["close_price"].iloc[-1]) if len(candles) else 0.0
    line = average if shown else close
    rose = bool(len(candles)) and close >= candles["open_price"].iloc[-1]
    known = [moment.timestamp() * 1000 for moment in seams]
    marked = known or data["start"].tail(1).tolist()
    return Chart(
        _price_specification(product, decimals, renderer_of(candles)),
        {
            "candles": data,
            "average": pd.DataFrame({"value": [line], "shown": [shown]}),
            "last": pd.DataFrame({"price": [close], "rose": [rose]}),
            "cross": data[["middle", "close", "clock"]].tail(1),
            "seams": pd.DataFrame({"at": marked, "shown": bool(known)}),
            "once": pd.DataFrame({"one": [1]}),
        },
    )


def _widening(start: pd.Series, step: float) -> float:
    """Return the pixels to add to the width of each candle; above 0 if most are far apart."""
    apart = start.diff().median()
    if pd.isna(apart):
        return 0.0
    pixels = USUAL_WIDTH / (start.max() - start.min() + step)
    return max(0.0, float(min(SPARSE_CANDLE, BODY * apart * pixels) - BODY * step * pixels))


def _candle_data(
    candles: pd.DataFrame, width: timedelta, open_starts: frozenset[pd.Timestamp]
) -> pd.DataFrame:
    start = milliseconds(candles["window_start"].astype("datetime64[ns, UTC]"))
    step = width.total_seconds() * 1000
    widening = _widening(start, step)
    is_open = candles["window_start"].isin(open_starts)
    counted = zip(candles["high_windows"], candles["spike_windows"], strict=True)
    return pd.DataFrame(
        {
            "start": start,
            "end": start + step,
            "middle": start + step / 2,
            "body_start": start + step * (1 - BODY) / 2,
            "body_end": start + step * (1 + BODY) / 2,
            "widening": widening,
            "stroke": max(1.2, widening),
            "open": candles["open_price"],
            "close": candles["close_price"],
            "max": candles["max_price"],
            "min": candles["min_price"],
            "volume": candles["total_volume"],
            "is_open": is_open,
            "sentiment": candles["sentiment"].where(candles["sentiment"].notna(), formatting.DASH),
            "high": candles["high_windows"] > 0,
            "spike": candles["spike_windows"] > 0,
            "when": candles["window_start"].dt.strftime("%Y-%m-%d %H:%M:%S"),
            "clock": candles["window_start"].dt.strftime("%H:%M:%S" if step < 60_000 else "%H:%M"),
            "state": [
                _state(n, one_open) for n, one_open in zip(candles["windows"], is_open, strict=True)
            ],
            "flags": [_flags(high, spike) for high, spike in counted],
            "average": candles["avg_price"],
            "trades": candles["trade_count"],
        }
    )


def _state(windows: float, is_open: object) -> str:
    if windows > 1:
        return f"{windows:.0f} windows" + (", some open" if is_open else "")
    return "open" if is_open else "final"


def _flags(high: float, spike: float) -> str:
    flags = [
        name if n == 1 else f"{name} in {n:.0f} windows"
        for name, n in ((HIGH, high), (SPIKE, spike))
        if n > 0
    ]
    return ", ".join(flags) or "none"


# --- counts of both paths -------------------------------------------------------------------


@cache
def _counts_specification(renderer: str) -> Spec:
    both = alt.Chart(alt.NamedData("counts"))
    color = alt.Scale(
        domain=["stream", "batch"], range=[palette.STREAM_COLOUR, palette.BATCH_COLOUR]
    )
    legend = alt.Legend(title=None, orient="top")
    tooltip = [
        alt.Tooltip("when:N", title="UTC"),
        alt.Tooltip("stream_text:N", title="stream"),
        alt.Tooltip("batch_text:N", title="batch"),
    ]
    y = {"title": "trades", "axis": alt.Axis(tickCount=5, format=",")}
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
    return specification(alt.layer(bars, steps), 190, renderer)


def counts_chart(stream: pd.DataFrame, batch: pd.DataFrame, width: timedelta) -> Chart:
    """Return trades by candle: the stream as bars, the batch as lines on top of them."""
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
        _counts_specification(renderer_of(counts)),
        {
            "counts": pd.DataFrame(
                {
                    "start": start,
                    "end": start + step,
                    "body_start": start + step * 0.15,
                    "body_end": start + step * 0.85,
                    # An unknown count is drawn as nothing; its tooltip shows a dash.
                    "stream": counts["stream"].astype(float).fillna(0),
                    "batch": counts["batch"].astype(float).fillna(0),
                    "counted": counts["batch"].notna(),
                    "stream_name": "stream",
                    "batch_name": "batch",
                    "when": counts["window_start"].dt.strftime("%Y-%m-%d %H:%M:%S"),
                    "stream_text": counts["stream"].map(formatting.count),
                    "batch_text": counts["batch"].map(formatting.count),
                }
            )
        },
    )


# --- batch duration -------------------------------------------------------------------------

#: The parts of a batch run's run time, from the bottom up.
PARTS = ("start-up", "reading and aggregation", "other")
#: A run that did not succeed is one bar.
UNSUCCESSFUL = {"failed": "failed run", "stopped": "stopped run"}


@cache
def _duration_specification() -> Spec:
    names = [*PARTS, *UNSUCCESSFUL.values()]
    colors = alt.Scale(domain=names, range=[*palette.RUN_PARTS, palette.FAILED, palette.STOPPED])
    legend = alt.Legend(title=None, orient="top", columns=2, symbolType="square")
    color = alt.Color("part:N", scale=colors, legend=legend)
    x = alt.X(
        "run:O",
        title=None,
        axis=alt.Axis(labelOverlap="greedy", labelAngle=0, labelExpr="slice(datum.label, 5, 16)"),
    )
    parts = alt.Chart(alt.NamedData("parts"))
    bars = parts.mark_bar(width=alt.ExprRef("min(36, bandwidth('x') * 0.85)")).encode(
        x=x,
        y=alt.Y("seconds:Q", title="run time, s", stack="zero", axis=alt.Axis(tickCount=5)),
        order="order:Q",
        color=color,
        tooltip=[
            alt.Tooltip("run:N", title="started, UTC"),
            alt.Tooltip("status:N", title="status"),
            alt.Tooltip("wall:N", title="run time"),
            alt.Tooltip("start:N", title="start-up"),
            alt.Tooltip("logic:N", title="reading and aggregation"),
            alt.Tooltip("rows:N", title="rows"),
        ],
    )
    marks = parts.mark_text(fontWeight="bold", dy=-7, fontSize=13, tooltip=None).encode(
        x=x,
        y=alt.Y("seconds:Q", stack=None),
        text="mark:N",
        color=color,
    )
    return specification(alt.layer(bars, marks), 190, "svg")


def duration_chart(runs: pd.DataFrame) -> Chart:
    """Return the run time of each batch run by its parts, oldest left."""
    parts: list[dict[str, Any]] = []
    for run in runs.to_dict("records"):
        wall, start, logic = (
            formatting.number(run[name]) for name in ("wall_s", "start_s", "logic_s")
        )
        shared = {
            "run": formatting.day_and_clock(formatting.moment(run["started"])),
            "status": formatting.text(run["status"]),
            "wall": seconds(wall),
            "start": seconds(start),
            "logic": seconds(logic),
            "rows": formatting.count(run["rows"]),
        }
        outcome = outcome_of(run["status"])
        if outcome in UNSUCCESSFUL:
            whole = {"part": UNSUCCESSFUL[outcome], "order": 3, "seconds": wall or 0.0}
            parts.append({**shared, **whole, "mark": MARKS[outcome]})
            continue
        rest = None if wall is None else max(0.0, wall - (start or 0.0) - (logic or 0.0))
        parts += [
            {**shared, "part": part, "order": order, "seconds": duration, "mark": ""}
            for order, (part, duration) in enumerate(zip(PARTS, (start, logic, rest), strict=True))
            if duration is not None
        ]
    names = ["run", "status", "wall", "start", "logic", "rows", "part", "order", "seconds", "mark"]
    return Chart(_duration_specification(), {"parts": pd.DataFrame(parts, columns=names)})


def prepare(product: str) -> None:
    """Make all specifications, so that the first viewer does not wait for them."""
    for renderer in ("svg", "canvas"):
        _price_specification(product, 2, renderer)
        _counts_specification(renderer)
    _duration_specification()
