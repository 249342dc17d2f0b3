"""Windows as the page needs them: a span of them, made coarser without losing one, rolled up."""

import math
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pandas as pd

from pipeline.compare.comparison import totals

#: More candles than this are made coarser: the chart has no more pixels for them, and the browser
#: takes 1.5 ms for each when it first draws them.
MOST_CANDLES = 750
#: Widths of coarser candles, minutes; beyond the last, whole days.
_WIDTHS = (2, 5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440)

#: What can be looked at, by the words on the page; None is everything.
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


@dataclass(frozen=True)
class Thresholds:
    """From when on a window is High, Bullish or Bearish, a Spike: from the settings."""

    volatility_range: Decimal
    sentiment_ratio: Decimal
    spike_volume: Decimal


#: What `coarser` gives for each candle.
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
    "mood",
    "windows",
    "high_windows",
    "spike_windows",
)


def since(windows: pd.DataFrame, span: timedelta | None, newest_end: pd.Timestamp) -> pd.DataFrame:
    """The windows that start within the span before this end; the frame is sorted by start."""
    if span is None or windows.empty:
        return windows
    first = windows["window_start"].searchsorted(newest_end - span, side="left")
    return windows.iloc[int(first) :]


def newest_end(*frames: pd.DataFrame) -> pd.Timestamp | None:
    """The end of the newest window in any of these frames, each sorted by start."""
    ends = [frame["window_end"].iloc[-1] for frame in frames if len(frame)]
    known = [end for end in ends if not pd.isna(end)]
    return max(known, default=None)


def candle_width(covered: timedelta, window: timedelta, most: int = MOST_CANDLES) -> timedelta:
    """The smallest round width, a multiple of the window, with which `most` candles are enough."""
    if covered <= window * most:
        return window
    for minutes in _WIDTHS:
        width = timedelta(minutes=minutes)
        if width % window == timedelta(0) and covered <= width * most:
            return width
    day = timedelta(days=1)
    unit = day if day % window == timedelta(0) else window
    return unit * -(-covered // (unit * most))


def coarser(
    windows: pd.DataFrame, width: timedelta, sentiment_ratio: Decimal = Decimal("1.2")
) -> pd.DataFrame:
    """Candles of this width out of windows or finer candles, exactly: every one is counted.

    Prices keep their first, last, greatest and least; volumes and counts are summed; averages are
    weighted by what they average over, and unknown when a part is; the mood follows from the
    summed counts, that of a single window is its own. The input is sorted by start.
    """
    if windows.empty:
        return pd.DataFrame(columns=list(CANDLE_COLUMNS))
    start = windows["window_start"].dt.floor(pd.Timedelta(width))
    parts = windows.assign(
        _start=start,
        _money=windows["avg_price"] * windows["trade_count"],
        _turnover=windows["vwap"] * windows["total_volume"],
        mood=windows.get("mood", windows.get("market_sentiment")),
        windows=windows.get("windows", 1),
        high_windows=windows.get("high_windows", (windows.get("volatility_flag") == "High") * 1),
        spike_windows=windows.get("spike_windows", (windows.get("volume_spike") == "Spike") * 1),
    )
    if start.is_unique:
        return parts.assign(window_start=start)[list(CANDLE_COLUMNS)].reset_index(drop=True)
    grouped = parts.groupby("_start", sort=True)
    made = grouped.agg(
        window_end=("window_end", "last"),
        open_price=("open_price", "first"),
        close_price=("close_price", "last"),
        max_price=("max_price", "max"),
        min_price=("min_price", "min"),
        mood=("mood", "first"),
        windows=("windows", "sum"),
        high_windows=("high_windows", "sum"),
        spike_windows=("spike_windows", "sum"),
    )
    summed = ["_money", "_turnover", "total_volume", "trade_count", "buy_count", "sell_count"]
    made = made.join(grouped[summed].sum())
    # pandas passes over what is unknown: a candle over an unknown part is unknown itself.
    checked = ["open_price", "close_price", "max_price", "min_price", *summed]
    known = grouped[checked].count().eq(grouped.size(), axis="index")
    made[checked] = made[checked].where(known)
    made["avg_price"] = made["_money"] / made["trade_count"]
    made["vwap"] = made["_turnover"] / made["total_volume"]
    several = made["windows"] > 1
    made.loc[several, "mood"] = [
        mood(buys, sells, sentiment_ratio)
        for buys, sells in made.loc[several, ["buy_count", "sell_count"]].to_numpy()
    ]
    return made.rename_axis("window_start").reset_index()[list(CANDLE_COLUMNS)]


def counts(windows: pd.DataFrame, width: timedelta) -> pd.DataFrame:
    """Trades in windows of this width, out of finer ones: `window_start` and `trade_count`."""
    start = windows["window_start"].dt.floor(pd.Timedelta(width))
    return windows["trade_count"].groupby(start, sort=True).sum(min_count=1).reset_index()


def mood(buys: float, sells: float, sentiment_ratio: Decimal) -> str | None:
    """The sentiment of so many buys and sells; the ratio is held against them exactly."""
    if math.isnan(buys + sells):
        return None
    more, of = sentiment_ratio.as_integer_ratio()
    if buys * of > sells * more:
        return "Bullish"
    return "Bearish" if sells * of > buys * more else "Neutral"


def roll_up(windows: pd.DataFrame, thresholds: Thresholds) -> dict[str, Any]:
    """All windows as one: the metrics over their whole span. Empty when there is none."""
    if windows.empty:
        return {}
    made = totals(windows)
    flags = {
        "volatility_flag": _flag(made["price_range"], thresholds.volatility_range, "High"),
        "market_sentiment": mood(made["buy_count"], made["sell_count"], thresholds.sentiment_ratio),
        "volume_spike": _flag(made["total_volume"], thresholds.spike_volume, "Spike"),
    }
    return {
        **made,
        **flags,
        "window_start": windows["window_start"].iloc[0],
        "window_end": windows["window_end"].iloc[-1],
        "last_trade_time": windows["last_trade_time"].max(),
        "written_at": windows["written_at"].max(),
    }


def _flag(value: float, threshold: Decimal, name: str) -> str | None:
    """Whether a sum of amounts of eight places is above a threshold, which doubles may miss."""
    if math.isnan(value):
        return None
    return name if Decimal(f"{value:.8f}") > threshold else "Normal"


def change(first_price: float | None, last_price: float | None) -> tuple[float, float] | None:
    """From the first to the last price: the difference, and its share of the first."""
    if first_price is None or last_price is None or first_price == 0:
        return None
    return last_price - first_price, last_price / first_price - 1


def place_of(price: float, candles: pd.DataFrame) -> str:
    """`within` the prices of the candles and a margin of half their range, `below` or `above`."""
    low, high = candles["min_price"].min(), candles["max_price"].max()
    margin = (high - low) / 2
    if price < low - margin:
        return "below"
    return "above" if price > high + margin else "within"
