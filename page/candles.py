"""The windows of a span, aggregated to candles that a chart has room for."""

from datetime import timedelta
from decimal import Decimal

import pandas as pd

from pipeline.metrics import definitions

#: Candles in a chart at most: it has no more pixels for them, and the browser takes 1.5 ms to
#: draw each.
MAX_CANDLES = 750
#: Widths of candles, minutes. Wider candles cover whole days.
_WIDTHS = (2, 5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440)

#: The spans of event time that a viewer can choose; None is everything.
SPANS: dict[str, timedelta | None] = {
    "15 min": timedelta(minutes=15),
    "1 h": timedelta(hours=1),
    "6 h": timedelta(hours=6),
    "24 h": timedelta(hours=24),
    "7 d": timedelta(days=7),
    "30 d": timedelta(days=30),
    "everything": None,
}
DEFAULT_SPAN = "1 h"


#: The columns that `aggregate` returns.
CANDLE_COLUMNS = (
    "window_start",
    "window_end",
    "open_price",
    "close_price",
    "max_price",
    "min_price",
    "avg_price",
    "vwap",
    "total_volume",
    "trade_count",
    "buy_count",
    "sell_count",
    "sentiment",
    "windows",
    "high_windows",
    "spike_windows",
)


def since(windows: pd.DataFrame, span: timedelta | None, newest_end: pd.Timestamp) -> pd.DataFrame:
    """Return the windows that start within the span before this end. Input sorted by start."""
    if span is None or windows.empty:
        return windows
    first = windows["window_start"].searchsorted(newest_end - span, side="left")
    return windows.iloc[int(first) :]


def newest_end(*frames: pd.DataFrame) -> pd.Timestamp | None:
    """Return the end of the newest window in these frames, each sorted by start."""
    ends = [frame["window_end"].iloc[-1] for frame in frames if len(frame)]
    known = [end for end in ends if not pd.isna(end)]
    return max(known, default=None)


def candle_width(covered: timedelta, window: timedelta) -> timedelta:
    """Return the smallest round width, a multiple of the window, that needs few enough candles."""
    if covered <= window * MAX_CANDLES:
        return window
    for minutes in _WIDTHS:
        width = timedelta(minutes=minutes)
        if width % window == timedelta(0) and covered <= width * MAX_CANDLES:
            return width
    day = timedelta(days=1)
    unit = day if day % window == timedelta(0) else window
    return unit * -(-covered // (unit * MAX_CANDLES))


def aggregate(windows: pd.DataFrame, width: timedelta, sentiment_ratio: Decimal) -> pd.DataFrame:
    """Return candles of this width from windows, which are sorted by start.

    Sentiment follows from the summed counts; a candle of one window keeps that window's own.
    """
    if windows.empty:
        return pd.DataFrame(columns=list(CANDLE_COLUMNS))
    start = windows["window_start"].dt.floor(pd.Timedelta(width))
    flagged = windows.assign(
        sentiment=windows["market_sentiment"],
        high_windows=(windows["volatility_flag"] == definitions.HIGH) * 1,
        spike_windows=(windows["volume_spike"] == definitions.SPIKE) * 1,
    )
    if start.is_unique:
        found = flagged.assign(windows=1, window_start=start)
        return found[list(CANDLE_COLUMNS)].reset_index(drop=True)
    flags = flagged.groupby(start, sort=True).agg(
        sentiment=("sentiment", "first"),
        high_windows=("high_windows", "sum"),
        spike_windows=("spike_windows", "sum"),
    )
    found = definitions.roll_up(windows, start).drop(columns="window_start").join(flags)
    several = found["windows"] > 1
    found.loc[several, "sentiment"] = [
        definitions.market_sentiment(buys, sells, sentiment_ratio)
        for buys, sells in found.loc[several, ["buy_count", "sell_count"]].to_numpy()
    ]
    return found.rename_axis("window_start").reset_index()[list(CANDLE_COLUMNS)]


def counts(windows: pd.DataFrame, width: timedelta) -> pd.DataFrame:
    """Return `window_start` and `trade_count` in windows of this width, from narrower ones."""
    start = windows["window_start"].dt.floor(pd.Timedelta(width))
    return windows["trade_count"].groupby(start, sort=True).sum(min_count=1).reset_index()


def change(first_price: float | None, last_price: float | None) -> tuple[float, float] | None:
    """Return the difference from the first to the last price, and its share of the first."""
    if first_price is None or last_price is None or first_price == 0:
        return None
    return last_price - first_price, last_price / first_price - 1


def place_of(price: float, candles: pd.DataFrame) -> str:
    """Return `within`, `below` or `above`: the candles' prices, and half their range as margin."""
    low, high = candles["min_price"].min(), candles["max_price"].max()
    margin = (high - low) / 2
    if price < low - margin:
        return "below"
    return "above" if price > high + margin else "within"
