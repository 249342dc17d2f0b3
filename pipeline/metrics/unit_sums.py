"""The sums over the trades of a window in whole numbers: exact like decimals, and faster.

Prices and sizes are whole numbers of UNIT. The store or Spark adds up groups of trades in 64-bit
numbers. Python merges the groups into windows: its whole numbers have no limit. The metrics follow
from the merged sums by `pipeline.metrics.definitions`, as in the stream.

No 64-bit number overflows:

- A group has at most GROUP_TRADES trades, with prices and sizes below 10 million: SMALL units.
- Price and size are split at HALF, so each factor of a product is below 1e8, and each product is
  below 1e16. The sum over 512 trades is below 5.2e18. The limit is 9.2e18.
- A trade with a price or size of 10 million or more is a group of its own. Its products may
  overflow or be NULL, so Python computes the turnover of a single trade.
"""

from collections.abc import Iterable, Mapping
from decimal import Context
from typing import Any, NamedTuple

from pipeline.metrics.definitions import Sums

#: Decimal places of a price or size in units. A turnover has twice as many.
_PLACES = 8
#: Maximum number of trades in a group.
GROUP_TRADES = 512
#: A trade with a price or size of at least this number of units is a group of its own.
SMALL = 10**15
#: The same price or size, not in units.
SMALL_AMOUNT = SMALL // 10**_PLACES
#: A price or size is split into a high half and a low half below this number of units.
HALF = 10**7
#: A turnover from this value on is unknown: it does not fit the DECIMAL(38,16) of the stream.
_UNKNOWN_TURNOVER = 10**38
#: Returns a whole number times a power of ten. The default context would round to 28 digits.
_scale = Context(prec=80).scaleb

#: The columns that both stores and Spark compute over the trades of a group. Their input is:
#: `trade_id`, `price` and `size` in units, `buy` (1: the taker bought, else 0), and the halves
#: `price_high`, `price_low`, `size_high` and `size_low`.
GROUP_SUMS: Mapping[str, str] = {
    "trade_count": "count(*)",
    "buy_count": "sum(buy)",
    "price_sum": "sum(price)",
    "total_volume": "sum(size)",
    "buy_volume": "sum(buy * size)",
    "high_products": "sum(price_high * size_high)",
    "middle_products": "sum(price_high * size_low + price_low * size_high)",
    "low_products": "sum(price_low * size_low)",
    "max_price": "max(price)",
    "min_price": "min(price)",
    "first_trade_id": "min(trade_id)",
    "last_trade_id": "max(trade_id)",
}
#: The values of a group that each engine computes in its own way, in this order. Times are
#: microseconds since 1970.
GROUP_ENDS = ("open_price", "close_price", "first_trade_time", "last_trade_time")


class UnitSums(NamedTuple):
    """The sums over some trades. Prices and sizes are in units, times in microseconds since 1970.

    The turnover is in units of 1e-16.
    """

    trade_count: int
    buy_count: int
    price_sum: int
    total_volume: int
    buy_volume: int
    turnover: int
    max_price: int
    min_price: int
    first_trade_id: int
    last_trade_id: int
    open_price: int
    close_price: int
    first_trade_time: int
    last_trade_time: int


def units(column: str, whole: str) -> str:
    """Return the SQL for a REAL column in units, exact for every valid trade.

    A valid price or size has at most 15 digits. A product below 1e15 is off by less than 0.3 and
    gives the nearest whole number. From 10 million on, the last decimal places are therefore
    zero, and the factor leaves them out.

    Args:
        column: the name of the column.
        whole: the SQL for the whole number nearest to a positive REAL.
    """
    exact = [whole.format(f"{column} * 1e{places}") for places in (8, 7, 6, 5)]
    return (
        f"CASE WHEN {column} < 1e7 THEN {exact[0]} "
        f"WHEN {column} < 1e8 THEN {exact[1]} * 10 "
        f"WHEN {column} < 1e9 THEN {exact[2]} * 100 "
        f"ELSE {exact[3]} * 1000 END"
    )


def of_group(values: Iterable[Any]) -> UnitSums:
    """Return the sums of a group from the values of GROUP_SUMS and GROUP_ENDS, in this order."""
    count, buys, prices, volume, bought, high, middle, low, greatest, least, *ends = values
    turnover = prices * volume if count == 1 else (high * HALF + middle) * HALF + low
    return UnitSums(count, buys, prices, volume, bought, turnover, greatest, least, *ends)


def merge(a: UnitSums, b: UnitSums) -> UnitSums:
    """Return the sums over the trades of both groups."""
    return UnitSums(
        a.trade_count + b.trade_count,
        a.buy_count + b.buy_count,
        a.price_sum + b.price_sum,
        a.total_volume + b.total_volume,
        a.buy_volume + b.buy_volume,
        a.turnover + b.turnover,
        max(a.max_price, b.max_price),
        min(a.min_price, b.min_price),
        min(a.first_trade_id, b.first_trade_id),
        max(a.last_trade_id, b.last_trade_id),
        a.open_price if a.first_trade_id < b.first_trade_id else b.open_price,
        a.close_price if a.last_trade_id > b.last_trade_id else b.close_price,
        min(a.first_trade_time, b.first_trade_time),
        max(a.last_trade_time, b.last_trade_time),
    )


def by_window(
    groups: Iterable[UnitSums], window_us: int, before: Mapping[int, UnitSums] | None = None
) -> dict[int, UnitSums]:
    """Return the sums of each window by its start, microseconds since 1970.

    Args:
        groups: sums over trades, each of one window.
        window_us: length of a window, microseconds.
        before: sums of windows over other trades, which are added.

    Raises:
        ValueError: a group has trades of two windows.
    """
    windows = dict(before or {})
    for group in groups:
        start = group.first_trade_time - group.first_trade_time % window_us
        if group.last_trade_time >= start + window_us:
            raise ValueError(f"a group has trades of two windows: {group}")
        known = windows.get(start)
        windows[start] = group if known is None else merge(known, group)
    return windows


def decimal_sums(windows: Mapping[int, UnitSums], window_us: int) -> list[Sums]:
    """Return the sums of windows as the metrics are computed from, sorted by start."""
    return [_decimal_sums(windows[start], start, window_us) for start in sorted(windows)]


def _decimal_sums(sums: UnitSums, start: int, window_us: int) -> Sums:
    is_known = sums.turnover < _UNKNOWN_TURNOVER
    return {
        "window_start": start,
        "window_end": start + window_us,
        "trade_count": sums.trade_count,
        "buy_count": sums.buy_count,
        "price_sum": _scale(sums.price_sum, -_PLACES),
        "total_volume": _scale(sums.total_volume, -_PLACES),
        "buy_volume": _scale(sums.buy_volume, -_PLACES),
        "turnover": _scale(sums.turnover, -2 * _PLACES) if is_known else None,
        "max_price": _scale(sums.max_price, -_PLACES),
        "min_price": _scale(sums.min_price, -_PLACES),
        "first_trade_id": sums.first_trade_id,
        "last_trade_id": sums.last_trade_id,
        "open_price": _scale(sums.open_price, -_PLACES),
        "close_price": _scale(sums.close_price, -_PLACES),
        "first_trade_time": sums.first_trade_time,
        "last_trade_time": sums.last_trade_time,
    }
