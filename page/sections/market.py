"""The market section: the candles of the chosen span, and the trades that each path counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd

from page import candles, formatting, status
from page.files import Snapshot
from page.formatting import DASH
from pipeline.compare.formatting import length
from pipeline.metrics.definitions import HIGH, SPIKE
from pipeline.settings import Settings, currencies
from pipeline.source import seams

#: How to use the price chart. A phone has no mouse.
MOUSE = "Drag to pan, Ctrl+scroll to zoom, double-click to reset."
#: The maximum number of recording starts that a chart marks. A very short recording starts again
#: every second.
MAX_SEAMS = 50


@dataclass(frozen=True)
class Market:
    """The candles of the chosen span. The newest ones are of open windows."""

    candles: pd.DataFrame
    width: timedelta
    open_starts: frozenset[pd.Timestamp]
    #: The end of the newest window, from which the span counts back; None without windows.
    end: pd.Timestamp | None
    covered: timedelta
    first_price: float | None
    last_price: float | None
    #: The times in the span at which a re-timed recording started again. The first price is the
    #: first one after the last of them.
    seams: tuple[datetime, ...] = ()


def market(snapshot: Snapshot, span_name: str, settings: Settings) -> Market:
    """Return the candles of a span. All viewers and all sections share them."""
    repetition = status.repetition(snapshot.services, snapshot.source)
    return snapshot.open_windows.derived(
        ("market", span_name),
        (settings, repetition),
        lambda _live: _market(snapshot, span_name, settings, repetition),
    )


def _market(
    snapshot: Snapshot, span_name: str, settings: Settings, repetition: Mapping[str, Any]
) -> Market:
    span = candles.SPANS[span_name]
    finals, live = snapshot.finals, snapshot.live
    end = candles.newest_end(finals.frame, live)
    if end is None:
        nothing = candles.aggregate(live, settings.window, settings.sentiment_ratio)
        return Market(nothing, settings.window, frozenset(), None, timedelta(0), None, None)
    shown = (candles.since(frame, span, end) for frame in (finals.frame, live))
    covered = end - min(frame["window_start"].iloc[0] for frame in shown if len(frame))
    width = candles.candle_width(covered, settings.window)
    ratio = settings.sentiment_ratio
    closed = finals.derived(
        ("candles", span_name),
        (end, width, ratio),
        lambda frame: candles.aggregate(candles.since(frame, span, end), width, ratio),
    )
    opened = candles.since(live, span, end)
    found = joined(closed, candles.since(finals.frame, span, end), opened, width, ratio)
    starts = seams(repetition, end - covered, end, MAX_SEAMS)
    same = found[found["window_start"] >= starts[-1]] if starts else found
    if starts and len(same):
        covered = end - same["window_start"].iloc[0]
    return Market(
        candles=found,
        width=width,
        open_starts=frozenset(opened["window_start"].dt.floor(pd.Timedelta(width))),
        end=end,
        covered=covered,
        first_price=formatting.number(same["open_price"].iloc[0]) if len(same) else None,
        last_price=formatting.number(found["close_price"].iloc[-1]) if len(found) else None,
        seams=tuple(starts),
    )


def joined(
    closed: pd.DataFrame,
    finals: pd.DataFrame,
    opened: pd.DataFrame,
    width: timedelta,
    ratio: Decimal,
) -> pd.DataFrame:
    """Return the candles of final and of open windows together.

    A candle that has windows of both kinds is computed again from all of its windows.

    Args:
        closed: the candles of the final windows.
        finals: the final windows of the span.
        opened: the open windows of the span.
        width: the length of a candle.
        ratio: the setting `SENTIMENT_RATIO`.
    """
    if opened.empty:
        return closed
    start = opened["window_start"].iloc[0].floor(pd.Timedelta(width))
    begun = finals.iloc[int(finals["window_start"].searchsorted(start)) :]
    newest = opened
    if len(begun):
        newest = pd.concat([begun, opened]).sort_values("window_start", kind="stable")
    newest = candles.aggregate(newest, width, ratio)
    whole = closed[closed["window_start"] < start]
    return pd.concat([whole, newest], ignore_index=True) if len(whole) else newest


def waiting_since(snapshot: Snapshot) -> str:
    """Return how long the page has been waiting for missing data."""
    waited = formatting.age(formatting.seconds_since(snapshot.first_look, snapshot.taken_at))
    return f"waiting for {waited}"


def empty_state(snapshot: Snapshot) -> str:
    """Return why no window is shown and what will fill the chart; empty when there are windows."""
    if len(snapshot.finals.frame) or len(snapshot.live):
        return ""
    if snapshot.reading:
        return snapshot.reading
    reasons = [
        status.sentence(snapshot.services[name], snapshot.taken_at)
        for name in (status.PRODUCER, status.STREAM)
        if status.condition(snapshot.services[name], snapshot.taken_at) != "ok"
    ]
    why = "; ".join(reasons) or "the stream is running and has received no trade"
    return (
        f"No window yet ({waiting_since(snapshot)}): {why}. The first trade opens a window. A "
        "window becomes final when a trade arrives whose event time is after the end of the window "
        "by at least the watermark."
    )


def how_to_read(shown: Market, average: float | None, settings: Settings) -> str:
    """Return how to read the price chart, and where the batch's average price is.

    Args:
        shown: the candles.
        average: the average price of the batch; None if unknown.
        settings: the settings of the stream.
    """
    if shown.candles.empty:
        return ""
    text = (
        f"A candle covers {length(shown.width)} of event time (UTC). It is pale while open. Dotted "
        "horizontal line: last price of the stream."
    )
    if shown.seams:
        text += (
            " Vertical line: the recording starts again. The price jump there is not a market "
            "movement."
        )
    if average is not None:
        place = candles.place_of(average, shown.candles)
        price = formatting.price(average)
        if place == "within":
            text += f" Orange line: average price of the batch, {price}."
        else:
            text += f" The average price of the batch, {price}, is {place} the prices shown."
    base, quote = currencies(settings.product_id)
    return (
        f"{text} Sentiment: Bullish is green, Bearish is red, Neutral has no mark. {HIGH} marks a "
        f"window with a price range above {settings.volatility_range:,f} {quote}. {SPIKE} marks a "
        f"window with a volume above {settings.spike_volume:,f} {base}."
    )


# --- trades counted by each path ------------------------------------------------------------


def batch_counts(snapshot: Snapshot, span_name: str, shown: Market) -> pd.DataFrame:
    """Return the batch's trade counts, in windows as wide as the candles shown."""
    span, end = candles.SPANS[span_name], shown.end
    return snapshot.batch_windows.derived(
        ("counts", span_name),
        (end, shown.width),
        lambda frame: candles.counts(
            frame if end is None else candles.since(frame, span, end), shown.width
        ),
    )


def counts_summary(snapshot: Snapshot) -> str:
    """Return how many trades each path has counted, and how many the table holds."""
    finals, live = snapshot.finals.frame, snapshot.live
    rows = snapshot.services[status.CONSUMER].number("rows")
    return (
        f"Stream: {_in_windows(finals, 'final', snapshot)}, {_in_windows(live, 'open', snapshot)}. "
        f"Table btc_prices: {DASH if rows is None else formatting.many(rows, 'row')}. "
        f"Batch: {_rows_of_run(snapshot.batch_run, snapshot)}."
    )


def _in_windows(frame: pd.DataFrame, kind: str, snapshot: Snapshot) -> str:
    if frame.empty:
        return f"{DASH} {kind} windows" if snapshot.loading else f"no {kind} window"
    trades = formatting.many(frame["trade_count"].sum(min_count=1), "trade")
    return f"{trades} in {formatting.many(len(frame), f'{kind} window')}"


def _rows_of_run(run: Mapping[str, Any], snapshot: Snapshot) -> str:
    if not run:
        return "no result yet"
    read_at = formatting.moment(run.get("snapshot_at"))
    when = f", read {formatting.ago(read_at, snapshot.taken_at)}" if read_at else ""
    return f"{formatting.many(run.get('rows'), 'row')}{when}"


def counts_how_to_read(shown: Market) -> str:
    """Return how to read the chart of trade counts."""
    if shown.candles.empty:
        return ""
    return (
        f"A bar shows how many trades the stream counted in {length(shown.width)}. A line shows "
        "the count of the batch. If a line touches the top of its bar, both counts are equal."
    )
