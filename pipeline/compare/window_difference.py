"""Decide whether given trades account for the whole difference between two windows. Pure.

Times are text in the format of the files and of the database.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pipeline.metrics.definitions import buy_sell_ratio


@dataclass(frozen=True, slots=True)
class Trade:
    """A trade that one path counted and the other one did not."""

    number: int
    time: str
    price: Decimal
    size: Decimal
    bought: bool


#: The number of trades, the number of buys, and the volume.
Amount = tuple[Decimal, Decimal, Decimal]
#: The cells of a window by column. None: a path does not have the window.
Window = Mapping[str, str] | None
#: A window of the stream, and the same one of the batch.
Pair = tuple[Window, Window]


#: For each mean: the column of its weight, and the value of a trade in the sum behind the mean.
_SUMS: dict[str, tuple[str, Callable[[Trade], Decimal]]] = {
    "avg_price": ("trade_count", lambda trade: trade.price),
    "vwap": ("total_volume", lambda trade: trade.price * trade.size),
    "volume_imbalance": (
        "total_volume",
        lambda trade: trade.size if trade.bought else -trade.size,
    ),
}
_EXTREMES: dict[str, tuple[Callable[..., Any], Callable[[Trade], Decimal | str]]] = {
    "max_price": (max, lambda trade: trade.price),
    "min_price": (min, lambda trade: trade.price),
    "last_trade_time": (max, lambda trade: trade.time),
}
_ENDS: dict[str, Callable[..., Any]] = {"open_price": min, "close_price": max}
#: Means and ratios are rounded to ten decimal places.
_ROUNDING_ERROR = Decimal("0.51e-10")


def accounts_for_all(
    stream: Window, batch: Window, in_stream: Sequence[Trade], in_batch: Sequence[Trade]
) -> bool:
    """Return whether exactly these trades make the two windows differ, in every metric.

    The numbers of trades and buys and the volume are exact. Means are rounded to ten decimal
    places, so a sum that is computed from a mean has that rounding error.
    """
    windows = (stream, batch)
    return (
        plus(amount_of(stream), amount_of_trades(in_batch))
        == plus(amount_of(batch), amount_of_trades(in_stream))
        and all(_sums_fit(column, windows, in_stream, in_batch) for column in _SUMS)
        and all(_is_self_consistent(window) for window in windows if window)
        and all(_extremes_fit(column, windows, in_stream, in_batch) for column in _EXTREMES)
        and all(_ends_fit(column, windows, in_stream, in_batch) for column in _ENDS)
    )


def _sums_fit(column: str, windows: Pair, *extra: Sequence[Trade]) -> bool:
    difference, doubt = _sum_difference(column, *windows)
    if difference is None:
        return True
    _, value_of = _SUMS[column]
    in_stream, in_batch = (sum(map(value_of, trades), Decimal(0)) for trades in extra)
    return abs(difference - in_batch + in_stream) <= doubt


def _sum_difference(column: str, stream: Window, batch: Window) -> tuple[Decimal | None, Decimal]:
    """Return the sum behind a mean, batch minus stream, and its maximum rounding error.

    The difference is None if one of the means is unknown.
    """
    weight, _ = _SUMS[column]
    one, other = (_weighted(window, column, weight) for window in (stream, batch))
    weights = sum((Decimal(window[weight]) for window in (stream, batch) if window), Decimal(0))
    return None if one is None or other is None else other - one, weights * _ROUNDING_ERROR


def _is_self_consistent(window: Mapping[str, str]) -> bool:
    """Return whether the derived columns of a row follow from its other columns."""
    highest, lowest, span = (window[name] for name in ("max_price", "min_price", "price_range"))
    if all((highest, lowest, span)) and Decimal(highest) - Decimal(lowest) != Decimal(span):
        return False
    count, buys, sells = (window[name] for name in ("trade_count", "buy_count", "sell_count"))
    if sells and int(count) - int(buys) != int(sells):
        return False
    ratio = window["buy_sell_ratio"]
    return not (ratio and sells) or float(ratio) == buy_sell_ratio(int(buys), int(sells))


def _extremes_fit(column: str, windows: Pair, *extra: Sequence[Trade]) -> bool:
    """Return whether the shared trades and those of one path lead to both extremes."""
    best, value_of = _EXTREMES[column]
    found = [_cell(window, column) for window in windows]
    if "" in found:
        return True
    known = [value for value in found if value is not None]
    # The less extreme of the two values is that of the shared trades, if there are any.
    count, _, _ = amount_of(windows[0])
    lesser = known[0] if best(known) != known[0] else known[-1]
    shared = [lesser] if count > len(extra[0]) else []
    return all(
        value is None or best([*shared, *map(value_of, trades)], default=None) == value
        for value, trades in zip(found, extra, strict=True)
    )


def _ends_fit(column: str, windows: Pair, *extra: Sequence[Trade]) -> bool:
    """Return whether two first (or last) prices fit: equal, or one is of a trade of one path."""
    found = [_cell(window, column) for window in windows]
    best = _ENDS[column]
    ends = {best(trades, key=lambda trade: trade.number).price for trades in extra if trades}
    return found[0] == found[1] or "" in found or bool({*found} & ends)


def adds_up(parts: tuple[Mapping[str, str], Mapping[str, str]], whole: Mapping[str, str]) -> bool:
    """Return whether a window has exactly the trades of two others."""
    if not (whole["max_price"] and whole["min_price"]):
        return False
    highest, lowest = (
        best(Decimal(part[name]) for part in parts) == Decimal(whole[name])
        for best, name in ((max, "max_price"), (min, "min_price"))
    )
    return highest and lowest and plus(*map(amount_of, parts)) == amount_of(whole)


def _weighted(window: Window, column: str, weight: str) -> Decimal | None:
    """Return the sum behind a mean: the mean times its weight. No window: 0. Unknown mean: None."""
    if window is None:
        return Decimal(0)
    return Decimal(window[column]) * Decimal(window[weight]) if window[column] else None


def _cell(window: Window, column: str) -> Decimal | str | None:
    if window is None or not window[column]:
        return None if window is None else ""
    is_time = column == "last_trade_time"
    return comparable_time(window[column]) if is_time else Decimal(window[column])


def amount_of(window: Window) -> Amount:
    """Return the amount of a window; 0 if a path does not have it."""
    count, buys, volume = (
        Decimal(window[name]) if window else Decimal(0)
        for name in ("trade_count", "buy_count", "total_volume")
    )
    return count, buys, volume


def plus(one: Amount, other: Amount) -> Amount:
    """Return the sum of two amounts."""
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def minus(one: Amount, other: Amount) -> Amount:
    """Return the first amount without the other one."""
    return one[0] - other[0], one[1] - other[1], one[2] - other[2]


def amount_of_trades(trades: Sequence[Trade]) -> Amount:
    """Return the amount of these trades together."""
    bought = sum(trade.bought for trade in trades)
    volume = sum((trade.size for trade in trades), Decimal(0))
    return Decimal(len(trades)), Decimal(bought), volume


def comparable_time(cell: str) -> str:
    """Return the edge of a window in the time format of the database, with six decimals."""
    return cell if "." in cell else f"{cell[:-1]}.000000Z"
