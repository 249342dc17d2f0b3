"""The definition of every metric.

Both paths, the page and the comparison use these rules. This module loads neither Spark nor
pandas. The sums over the trades of a group come from `pipeline.metrics.spark_sums` in the stream,
and from `pipeline.metrics.unit_sums` in the batch.

- `compute` derives the metrics of a group (a window, or the whole table) from its sums.
- `merge_sums` adds the sums of several groups, exactly.
- `roll_up` and `total` merge windows that were read back as a pandas table of floats.
- `z_scores` compares each window with the windows of the hour before it.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.settings import Settings

#: The metrics of a group, in the order of the columns of every file that holds them.
METRICS = (
    "avg_price",
    "max_price",
    "min_price",
    "price_range",
    "volatility_flag",
    "total_volume",
    "trade_count",
    "buy_sell_ratio",
    "market_sentiment",
    "volume_spike",
)
#: Further metrics. Their columns follow the columns above.
FURTHER = (
    "buy_count",
    "sell_count",
    "vwap",
    "open_price",
    "close_price",
    "volume_imbalance",
)
#: How unusual a window is, compared with the hour before it. The comparison of the paths skips
#: these columns: they depend on up to 60 windows, so one late trade would mark all 60.
Z_SCORES = ("range_z", "volume_z")

#: The label of each column in tables and figures.
LABELS = {
    "window_start": "window start (UTC)",
    "window_end": "window end (UTC)",
    "avg_price": "average price",
    "max_price": "highest price",
    "min_price": "lowest price",
    "price_range": "price range",
    "volatility_flag": "volatility",
    "total_volume": "volume",
    "trade_count": "trades",
    "buy_sell_ratio": "buys / sells",
    "market_sentiment": "sentiment",
    "volume_spike": "volume spike",
    "buy_count": "buys",
    "sell_count": "sells",
    "vwap": "VWAP",
    "open_price": "open",
    "close_price": "close",
    "volume_imbalance": "volume imbalance",
    "last_trade_time": "last trade (UTC)",
    "last_receipt_time": "last receipt (UTC)",
    "written_at": "written (UTC)",
    "range_z": "range z-score",
    "volume_z": "volume z-score",
}

#: Values of `volatility_flag`, `volume_spike` and `market_sentiment`.
NORMAL, HIGH, SPIKE = "Normal", "High", "Spike"
BULLISH, BEARISH, NEUTRAL = "Bullish", "Bearish", "Neutral"

#: Added to the number of sells, so that a group without sells has a ratio.
RATIO_EPSILON = 1e-5
#: Means and ratios are rounded to this place.
_PLACE = Decimal("1e-10")
#: More digits than any sum or quotient of the amounts needs.
_EXACT = Context(prec=80, rounding=ROUND_HALF_UP)
#: A window is compared with the windows that start within this time before its own start.
TRAILING = timedelta(hours=1)
#: Windows needed for a z-score. The standard deviation of fewer is itself off by over a quarter.
MIN_TRAILING_WINDOWS = 10

#: The sums of a group by name. Amounts are decimals, times are microseconds since 1970.
Sums = Mapping[str, Any]
_ADDITIVE = ("trade_count", "buy_count", "price_sum", "total_volume", "buy_volume")


# --- the rules ------------------------------------------------------------------------------


def buy_sell_ratio(buys: Any, sells: Any) -> Any:
    """Return buys / (sells + 1e-5), of numbers or of pandas columns."""
    return buys / (sells + RATIO_EPSILON)


def market_sentiment(buys: float, sells: float, ratio: Decimal) -> str | None:
    """Return the sentiment of a group from its numbers of buys and sells.

    Args:
        buys: number of trades in which the taker bought.
        sells: number of trades in which the taker sold.
        ratio: `SENTIMENT_RATIO`. The comparison is exact: exactly `ratio` times as many is Neutral.

    Returns:
        Bullish if buys > ratio * sells, Bearish if sells > ratio * buys, else Neutral.
        None if a number is unknown (NaN).
    """
    if math.isnan(buys) or math.isnan(sells):
        return None
    times, of = ratio.as_integer_ratio()
    bought, sold = int(buys), int(sells)
    if bought * of > sold * times:
        return BULLISH
    return BEARISH if sold * of > bought * times else NEUTRAL


def volatility_flag(price_range: Decimal | float, threshold: Decimal) -> str | None:
    """Return High if the range is above `VOLATILITY_RANGE`, else Normal; None if it is unknown."""
    return _flag(price_range, threshold, HIGH)


def volume_spike(volume: Decimal | float, threshold: Decimal) -> str | None:
    """Return Spike if the volume is above `SPIKE_VOLUME`, else Normal; None if it is unknown."""
    return _flag(volume, threshold, SPIKE)


def _flag(amount: Decimal | float, threshold: Decimal, above: str) -> str | None:
    if math.isnan(amount):
        return None
    # Amounts have eight decimal places. A float sum may miss the exact value in a later place.
    exact = amount if isinstance(amount, Decimal) else Decimal(f"{amount:.8f}")
    return above if exact > threshold else NORMAL


# --- from sums to metrics -------------------------------------------------------------------


def compute(sums: Sums, settings: "Settings") -> dict[str, Any]:
    """Return METRICS and FURTHER of a group from its sums; an unknown value is None."""
    count, buys = sums["trade_count"], sums["buy_count"]
    sells = count - buys
    volume, bought, turnover = sums["total_volume"], sums["buy_volume"], sums["turnover"]
    price_range = _EXACT.subtract(sums["max_price"], sums["min_price"])
    return {
        "avg_price": _quotient(sums["price_sum"], count),
        "max_price": sums["max_price"],
        "min_price": sums["min_price"],
        "price_range": price_range,
        "volatility_flag": volatility_flag(price_range, settings.volatility_range),
        "total_volume": volume,
        "trade_count": count,
        "buy_sell_ratio": buy_sell_ratio(buys, sells),
        "market_sentiment": market_sentiment(buys, sells, settings.sentiment_ratio),
        "volume_spike": volume_spike(volume, settings.spike_volume),
        "buy_count": buys,
        "sell_count": sells,
        "vwap": None if turnover is None else _quotient(turnover, volume),
        "open_price": sums["open_price"],
        "close_price": sums["close_price"],
        "volume_imbalance": _quotient(
            _EXACT.subtract(_EXACT.multiply(bought, Decimal(2)), volume), volume
        ),
    }


def merge_sums(groups: Sequence[Sums]) -> Sums:
    """Return the sums over all trades from the sums of groups of trades (at least one group)."""
    first = min(groups, key=lambda group: group["first_trade_id"])
    last = max(groups, key=lambda group: group["last_trade_id"])
    turnovers = [group["turnover"] for group in groups]
    return {
        **{name: _sum([group[name] for group in groups]) for name in _ADDITIVE},
        "turnover": None if None in turnovers else _sum(turnovers),
        "max_price": max(group["max_price"] for group in groups),
        "min_price": min(group["min_price"] for group in groups),
        "first_trade_id": first["first_trade_id"],
        "last_trade_id": last["last_trade_id"],
        "open_price": first["open_price"],
        "close_price": last["close_price"],
        "first_trade_time": min(group["first_trade_time"] for group in groups),
        "last_trade_time": max(group["last_trade_time"] for group in groups),
    }


def _sum(values: Sequence[Any]) -> Any:
    """Return the exact sum of integers or of decimals, which the default context would round."""
    total = values[0]
    for value in values[1:]:
        total = _EXACT.add(total, value) if isinstance(total, Decimal) else total + value
    return total


def _quotient(dividend: Decimal, divisor: Decimal | int) -> Decimal:
    return _EXACT.divide(dividend, divisor).quantize(_PLACE, context=_EXACT)


# --- windows in a pandas table --------------------------------------------------------------


def roll_up(windows: "pd.DataFrame", groups: "pd.Series | list[int]") -> "pd.DataFrame":
    """Merge windows into one row for each group.

    Args:
        windows: typed windows (times in UTC, numbers as floats), sorted by start.
        groups: the group of each window, such as the start of an hour.

    Returns:
        A row for each group, sorted, with the group as the index. `windows` is the number of
        windows in it; the other columns are `window_start`, `window_end` and the metrics that are
        numbers. A value is NaN if a window of the group has no known value for it.
    """
    parts = windows.assign(
        windows=1,
        _price_sum=windows["avg_price"] * windows["trade_count"],
        _turnover=windows["vwap"] * windows["total_volume"],
        _imbalance=windows["volume_imbalance"] * windows["total_volume"],
    )
    grouped = parts.groupby(groups, sort=True)
    counts = ["total_volume", "trade_count", "buy_count", "sell_count"]
    summed = ["_price_sum", "_turnover", "_imbalance", *counts]
    merged = grouped.agg(
        windows=("windows", "sum"),
        window_start=("window_start", "first"),
        window_end=("window_end", "last"),
        open_price=("open_price", "first"),
        max_price=("max_price", "max"),
        min_price=("min_price", "min"),
        close_price=("close_price", "last"),
    ).join(grouped[summed].sum())
    # pandas skips unknown values.
    checked = ["open_price", "max_price", "min_price", "close_price", *summed]
    known = grouped[checked].count().eq(merged["windows"], axis="index")
    merged[checked] = merged[checked].where(known)
    merged["avg_price"] = merged["_price_sum"] / merged["trade_count"]
    merged["vwap"] = merged["_turnover"] / merged["total_volume"]
    merged["volume_imbalance"] = merged["_imbalance"] / merged["total_volume"]
    merged["price_range"] = merged["max_price"] - merged["min_price"]
    merged["buy_sell_ratio"] = buy_sell_ratio(merged["buy_count"], merged["sell_count"])
    prices = ["avg_price", "vwap", "open_price", "max_price", "min_price", "close_price"]
    ratios = ["buy_sell_ratio", "volume_imbalance"]
    return merged[
        ["windows", "window_start", "window_end", *prices, "price_range", *counts, *ratios]
    ]


def total(windows: "pd.DataFrame") -> dict[str, Any]:
    """Return all windows merged into one, with the columns of `roll_up`; {} without windows."""
    if windows.empty:
        return {}
    row = roll_up(windows, [0] * len(windows)).iloc[0]
    return {str(name): value for name, value in row.items()}


# --- z-scores -------------------------------------------------------------------------------


class WindowAmounts(NamedTuple):
    """The values of a window that the z-scores use; `start` in microseconds since 1970."""

    start: int
    price_range: Decimal
    total_volume: Decimal


def z_scores(windows: Iterable[WindowAmounts]) -> list[dict[str, Decimal | None]]:
    """Return the z-scores of the range and the volume of each window.

    The score is (value - mean) / sample standard deviation, rounded to six decimal places. Mean
    and deviation are those of the windows that start in the hour before.

    Args:
        windows: the windows that have trades, sorted by start.

    Returns:
        `range_z` and `volume_z` of each window; None with fewer than MIN_TRAILING_WINDOWS windows
        in the hour before, or if all of them have the same value.
    """
    length = TRAILING // timedelta(microseconds=1)
    hour: deque[tuple[int, int, int]] = deque()
    ranges, volumes = _RunningStatistics(), _RunningStatistics()
    scores = []
    for window in windows:
        while hour and hour[0][0] < window.start - length:
            _, price_range, volume = hour.popleft()
            ranges.remove(price_range)
            volumes.remove(volume)
        price_range, volume = _units(window.price_range), _units(window.total_volume)
        scores.append({"range_z": ranges.z(price_range), "volume_z": volumes.z(volume)})
        hour.append((window.start, price_range, volume))
        ranges.add(price_range)
        volumes.add(volume)
    return scores


class _RunningStatistics:
    """Sums of a changing set of integers: exact, and faster than sums of decimals."""

    def __init__(self) -> None:
        self._count = self._sum = self._squares = 0

    def add(self, value: int) -> None:
        self._count += 1
        self._sum += value
        self._squares += value * value

    def remove(self, value: int) -> None:
        self._count -= 1
        self._sum -= value
        self._squares -= value * value

    def z(self, value: int) -> Decimal | None:
        n = self._count
        spread = n * self._squares - self._sum**2  # n (n - 1) times the variance
        if n < MIN_TRAILING_WINDOWS or not spread:
            return None
        distance = n * value - self._sum
        # The square of twice the score in millionths: half of its root is rounded half up.
        square = 4 * 10**12 * (n - 1) * distance**2 // (n * spread)
        millionths = (math.isqrt(square) + 1) // 2
        return _EXACT.scaleb(Decimal(millionths if distance > 0 else -millionths), -6)


def _units(amount: Decimal) -> int:
    """Return an amount in units of its eighth decimal place."""
    return int(_EXACT.scaleb(amount, 8))
