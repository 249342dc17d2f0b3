"""What each metric means.

`sums()` are Spark's part, the same in both jobs: what is added up over the trades of a group.
`derived()` makes the metrics of a group from its sums, in plain decimals, and `merged()` adds
groups up: a few rows, for which Spark would take longer to plan than to compute. `z_scores()`
holds windows against those before them.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, NamedTuple

from pyspark.sql import Column
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows

from pipeline.settings import Settings

#: Prices and sizes; 10 digits before the point and 8 after it.
DECIMAL = "decimal(18,8)"
#: Means and ratios are rounded at this place.
_PLACE = Decimal("1e-10")
#: More digits than any sum or quotient of such amounts has.
_EXACT = Context(prec=80, rounding=ROUND_HALF_UP)
#: What a window is scored against: the windows that began in so long before its own start.
TRAILING = timedelta(hours=1)
#: With fewer windows the score is unknown: the standard deviation of so few is itself off by a
#: quarter and more.
LEAST_TRAILING = 10
_ADDED = ("trade_count", "buy_count", "price_sum", "total_volume", "buy_volume")

#: The sums of a group by name; amounts are decimals, times microseconds since 1970.
Sums = Mapping[str, Any]


def sums() -> list[Column]:
    """What is added up over the trades of a group.

    Of `trade_id` BIGINT, `price` and `size` DECIMAL(18,8), `side` STRING and `time_us` BIGINT,
    the event time in microseconds since 1970. Decimals, so their order does not matter.
    """
    bought = F.col("side") == "buy"
    return [
        F.count("*").alias("trade_count"),
        F.count_if(bought).alias("buy_count"),
        F.sum("price").alias("price_sum"),
        F.max("price").alias("max_price"),
        F.min("price").alias("min_price"),
        F.sum("size").alias("total_volume"),
        F.sum(F.when(bought, F.col("size")).otherwise(F.lit(0))).alias("buy_volume"),
        # try_sum: a turnover beyond DECIMAL(38,16) is unknown, not the end of the query
        F.try_sum(F.col("price") * F.col("size")).alias("turnover"),
        F.min("trade_id").alias("first_trade_id"),
        F.max("trade_id").alias("last_trade_id"),
        F.min_by("price", "trade_id").alias("open_price"),
        F.max_by("price", "trade_id").alias("close_price"),
        F.min("time_us").alias("first_trade_time"),
        F.max("time_us").alias("last_trade_time"),
    ]


def merged(groups: Sequence[Sums]) -> Sums:
    """The sums of all trades, from the sums of groups of them (one at least)."""
    first = min(groups, key=lambda group: group["first_trade_id"])
    last = max(groups, key=lambda group: group["last_trade_id"])
    turnovers = [group["turnover"] for group in groups]
    return {
        **{name: _sum([group[name] for group in groups]) for name in _ADDED},
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


def derived(sums: Sums, settings: Settings) -> dict[str, Any]:
    """The metrics of DESIGN's contract from the sums of a group; what is unknown is None."""
    count, buys = sums["trade_count"], sums["buy_count"]
    sells = count - buys
    volume, bought, turnover = sums["total_volume"], sums["buy_volume"], sums["turnover"]
    price_range = _EXACT.subtract(sums["max_price"], sums["min_price"])
    ratio = settings.sentiment_ratio
    if buys > _EXACT.multiply(ratio, sells):
        sentiment = "Bullish"
    elif sells > _EXACT.multiply(ratio, buys):
        sentiment = "Bearish"
    else:
        sentiment = "Neutral"
    return {
        "avg_price": _quotient(sums["price_sum"], count),
        "max_price": sums["max_price"],
        "min_price": sums["min_price"],
        "price_range": price_range,
        "volatility_flag": "High" if price_range > settings.volatility_range else "Normal",
        "total_volume": volume,
        "trade_count": count,
        "buy_sell_ratio": buys / (sells + 1e-5),
        "market_sentiment": sentiment,
        "volume_spike": "Spike" if volume > settings.spike_volume else "Normal",
        "buy_count": buys,
        "sell_count": sells,
        "vwap": None if turnover is None else _quotient(turnover, volume),
        "open_price": sums["open_price"],
        "close_price": sums["close_price"],
        "volume_imbalance": _quotient(
            _EXACT.subtract(_EXACT.multiply(bought, Decimal(2)), volume), volume
        ),
    }


class Scored(NamedTuple):
    """What the z-scores need of a window; `start` in microseconds since 1970."""

    start: int
    price_range: Decimal
    total_volume: Decimal


def z_scores(windows: Iterable[Scored]) -> list[dict[str, Decimal | None]]:
    """How unusual the range and the volume of each window are, by the windows of the hour before.

    (value - mean) / sample standard deviation of the windows that begin in the hour before its
    start, rounded to six places; None with fewer than LEAST_TRAILING of them, or when all of them
    are the same. `windows` stand in the order of their starts, those that have trades.
    """
    length = TRAILING // timedelta(microseconds=1)
    hour: deque[tuple[int, int, int]] = deque()
    ranges, volumes = _Spread(), _Spread()
    found = []
    for window in windows:
        while hour and hour[0][0] < window.start - length:
            _, price_range, volume = hour.popleft()
            ranges.add(price_range, -1)
            volumes.add(volume, -1)
        price_range, volume = _units(window.price_range), _units(window.total_volume)
        found.append({"range_z": ranges.z(price_range), "volume_z": volumes.z(volume)})
        hour.append((window.start, price_range, volume))
        ranges.add(price_range, 1)
        volumes.add(volume, 1)
    return found


class _Spread:
    """Sums of values that come and go, as whole numbers: exact, and faster than decimals."""

    def __init__(self) -> None:
        self._count = self._sum = self._squares = 0

    def add(self, value: int, times: int) -> None:
        """Takes a value in (1) or out again (-1)."""
        self._count += times
        self._sum += times * value
        self._squares += times * value * value

    def z(self, value: int) -> Decimal | None:
        n = self._count
        spread = n * self._squares - self._sum**2  # n (n - 1) times the variance
        if n < LEAST_TRAILING or not spread:
            return None
        distance = n * value - self._sum
        # The square of twice the score in millionths: its root, halved, is rounded half up.
        square = 4 * 10**12 * (n - 1) * distance**2 // (n * spread)
        millionths = (math.isqrt(square) + 1) // 2
        return _EXACT.scaleb(Decimal(millionths if distance > 0 else -millionths), -6)


def _units(amount: Decimal) -> int:
    """An amount of eight places, in units of the last one."""
    return int(_EXACT.scaleb(amount, 8))


def _sum(values: Sequence[Any]) -> Any:
    """The exact sum of whole numbers or of decimals, which the default context would round."""
    total = values[0]
    for value in values[1:]:
        total = _EXACT.add(total, value) if isinstance(total, Decimal) else total + value
    return total


def _quotient(dividend: Decimal, divisor: Decimal | int) -> Decimal:
    return _EXACT.divide(dividend, divisor).quantize(_PLACE, context=_EXACT)
