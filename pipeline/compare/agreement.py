"""Whether the two paths agree, window by window, and what a difference comes from: pure functions.

A cause is proved by trades that account for all of a difference. Times are the text of cells.
"""

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter, itemgetter
from typing import Any

import pandas as pd

from pipeline.compare.inputs import Evidence
from pipeline.metrics import FURTHER, METRICS

#: Verdicts on a window, in the order in which a reader should look at them.
DIFFERS = "differs"
ONLY_STREAM = "only stream"
ONLY_BATCH = "only batch"
NOT_YET_FINAL = "not yet final"
NOT_YET_IN_A_BATCH = "not yet in a batch"
EQUAL = "equal"
VERDICTS = (DIFFERS, ONLY_STREAM, ONLY_BATCH, NOT_YET_FINAL, NOT_YET_IN_A_BATCH, EQUAL)
DIFFERENCES = (DIFFERS, ONLY_STREAM, ONLY_BATCH)

#: Causes of a difference, each proved by trades that account for all of it.
LATE = "late trades dropped by the watermark"
RECOVERED = "trades recovered after a gap, too late for the stream"
AFTER_SNAPSHOT = "trades stored after the batch's snapshot"
CONFLICT = "a repeated trade id with another content, which the stream no longer knew"
UNEXPLAINED = "unexplained"
#: Of a window on whose trades both agree, though the exchange issued more.
GAP = "a gap at the producer"
REJECTED = "a rejected message"

#: What both paths must agree on, to the last digit.
COMPARED = (*METRICS, *FURTHER, "last_trade_time")
COLUMNS = (
    "window_start",
    "verdict",
    "columns",
    "cause",
    "late",
    "doubled",
    "unexplained",
    "missing",
)
#: Trades of which every choice is tried out, at most: two more double the work. Of more, choices
#: of few of them (or of all but few), as long as there are not more than this.
MOST_TRIED = 26
MOST_CHOICES = 300_000


def agreement(
    final: pd.DataFrame,
    still_open: pd.DataFrame,
    batch: pd.DataFrame,
    newest_in_batch: str | None,
    evidence: Evidence,
) -> pd.DataFrame:
    """One verdict for each window that either path knows, and the cause of each difference.

    Args:
        final: the stream's final windows, as the text of their cells.
        still_open: its open ones.
        batch: the newest run's windows.
        newest_in_batch: time of the newest trade in that run; None without a run.
        evidence: what the consumer noted.

    Returns:
        A row a window, sorted: `window_start`, `verdict`, `columns` (which differ, as text),
        `cause` (of a difference, or of trades that both paths miss), `late` and `doubled` (trades
        that the stream dropped, or counted twice), `unexplained` (trades that the batch has more,
        for no known reason), `missing` (ids never stored around this window: an id between two
        windows counts for both). A window is `not yet in a batch` as long as the run has seen no
        trade after its end.
    """
    streamed = final.set_index("window_start")
    batched = batch.set_index("window_start")
    opened = set(still_open["window_start"]) - set(streamed.index)
    starts = sorted(set(streamed.index) | opened | set(batched.index))
    common = streamed.index.intersection(batched.index)
    left = streamed.loc[common, list(COMPARED)]
    unequal = left.ne(batched.loc[common, list(COMPARED)])
    differing = {
        start: ", ".join(unequal.columns[row])
        for start, row in zip(common, unequal.to_numpy(), strict=True)
        if row.any()
    }
    ends: dict[str, str] = {}
    for known in (batched, streamed):
        ends.update(zip(known.index, known["window_end"], strict=True))
    in_stream, in_batch = set(streamed.index), set(batched.index)
    missing = _missing(evidence, starts, ends)
    noted = {
        LATE: _in_time(LATE, evidence.late),
        AFTER_SNAPSHOT: _in_time(AFTER_SNAPSHOT, evidence.after_snapshot),
        CONFLICT: _in_time(CONFLICT, evidence.conflicts),
    }
    newest_in_stream = max([*in_stream, *opened], default="")
    newest = None if newest_in_batch is None else _comparable(newest_in_batch)
    rows = []
    for start in starts:
        end = ends.get(start)
        covered = newest is not None and end is not None and newest >= _comparable(end)
        columns, proof = differing.get(start, ""), _NO_CAUSE
        if start in opened or start > newest_in_stream:  # it has not come so far
            verdict = NOT_YET_FINAL
        elif start not in in_stream:
            verdict = ONLY_BATCH
        elif columns == "" and start in in_batch:
            verdict = EQUAL
        elif not covered:
            verdict = NOT_YET_IN_A_BATCH
        else:
            verdict = DIFFERS if start in in_batch else ONLY_STREAM
        if verdict in DIFFERENCES:
            proof = _proof(
                streamed.loc[start].to_dict() if start in in_stream else None,
                batched.loc[start].to_dict() if start in in_batch else None,
                {kind: _between(trades, start, ends[start]) for kind, trades in noted.items()},
                evidence.recovered,
            )
        lost = missing.get(start, _Missing())
        causes = [cause for cause in (proof.cause, lost.cause) if cause]
        numbers = (proof.late, proof.doubled, proof.unexplained, lost.ids)
        rows.append((start, verdict, columns, "; ".join(causes), *numbers))
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True)
class Proof:
    """The cause of a difference, and by how many trades of which kind."""

    cause: str
    #: Dropped by the stream, as late.
    late: int = 0
    #: Counted twice by the stream: repeats with another content.
    doubled: int = 0
    #: That the batch has more, for no known reason.
    unexplained: int = 0


_NO_CAUSE = Proof("")


@dataclass(frozen=True)
class _Trade:
    """A trade that one path may have counted and the other one not."""

    #: LATE, CONFLICT or AFTER_SNAPSHOT: why they may differ by it.
    kind: str
    number: int
    time: str
    price: Decimal
    size: Decimal
    bought: bool
    #: How many seconds it came behind the newest one; 0 where that is no question.
    behind: float = 0.0


#: Trades, buys and volume of a window or of some trades.
_Amount = tuple[int, int, Decimal]
_NOTHING: _Amount = (0, 0, Decimal(0))
_Window = Mapping[str, str] | None
_Pair = tuple[_Window, _Window]


def _proof(
    stream: _Window,
    batch: _Window,
    noted: Mapping[str, Sequence[_Trade]],
    recovered: frozenset[int],
) -> Proof:
    """Which trades account for the whole difference, to the last digit.

    Trades that came late may have been dropped by the stream or not, and a repeat may have been
    forgotten or not: that is tried out. What was stored after the snapshot is no question.
    """
    after = noted[AFTER_SNAPSHOT]
    # Batch less stream: what the stream dropped, less what came after the snapshot, less repeats.
    wanted = _plus(_plus(_counted(batch), _counted(stream), -1), _sum(after))
    price, doubt = _difference("avg_price", stream, batch)
    if price is not None:
        price += sum((trade.price for trade in after), Decimal(0))
    numbers_after = {trade.number for trade in after}
    for taken in _choices([*noted[LATE], *noted[CONFLICT]], wanted, price, doubt):
        dropped = [trade for trade in taken if trade.kind == LATE]
        doubled = [trade for trade in taken if trade.kind == CONFLICT]
        numbers = {trade.number for trade in dropped}
        in_stream = [trade for trade in after if trade.number not in numbers] + doubled
        in_batch = [trade for trade in dropped if trade.number not in numbers_after]
        if _is_all(stream, batch, in_stream, in_batch):
            causes = {RECOVERED if number in recovered else LATE for number in numbers} | {
                trade.kind for trade in in_stream
            }
            if causes:
                return Proof("; ".join(sorted(causes)), len(dropped), len(doubled))
    return Proof(UNEXPLAINED, unexplained=_counted(batch)[0] - _counted(stream)[0])


def _is_all(
    stream: _Window, batch: _Window, in_stream: Sequence[_Trade], in_batch: Sequence[_Trade]
) -> bool:
    """Whether two windows differ by just these trades, in every metric that trades settle.

    Count, buys and volume are known to fit. Means are rounded at the tenth place, so that sums
    that follow from them are known within that.
    """
    windows = (stream, batch)
    return (
        all(_sums_fit(column, windows, in_stream, in_batch) for column in _SUMS)
        and all(_is_consistent(window) for window in windows if window)
        and all(_extremes_fit(column, windows, in_stream, in_batch) for column in _EXTREMES)
        and all(_ends_fit(column, windows, in_stream, in_batch) for column in _ENDS)
    )


def _sums_fit(column: str, windows: _Pair, *extra: Sequence[_Trade]) -> bool:
    difference, doubt = _difference(column, *windows)
    if difference is None:
        return True
    _, of_trade = _SUMS[column]
    in_stream, in_batch = (sum(map(of_trade, trades), Decimal(0)) for trades in extra)
    return abs(difference - in_batch + in_stream) <= doubt


def _difference(column: str, stream: _Window, batch: _Window) -> tuple[Decimal | None, Decimal]:
    """By how much the batch's sum behind a mean is greater, and how sure that is.

    None: not known, as one of the sums was too large to be told.
    """
    weight, _ = _SUMS[column]
    one, other = (_weighted(window, column, weight) for window in (stream, batch))
    weights = sum((Decimal(window[weight]) for window in (stream, batch) if window), Decimal(0))
    return None if one is None or other is None else other - one, weights * _HALF_A_PLACE


def _is_consistent(window: Mapping[str, str]) -> bool:
    """Whether what follows from other columns of the same row does so."""
    highest, lowest, span = (window[name] for name in ("max_price", "min_price", "price_range"))
    if all((highest, lowest, span)) and Decimal(highest) - Decimal(lowest) != Decimal(span):
        return False
    count, buys, sells = (window[name] for name in ("trade_count", "buy_count", "sell_count"))
    if sells and int(count) - int(buys) != int(sells):
        return False
    ratio = window["buy_sell_ratio"]
    return not (ratio and sells) or float(ratio) == int(buys) / (int(sells) + 1e-5)


def _extremes_fit(column: str, windows: _Pair, *extra: Sequence[_Trade]) -> bool:
    """Of two extremes the one that wins is of a trade that the other path lacks."""
    best, value_of = _EXTREMES[column]
    found = [_cell(window, column) for window in windows]
    if found[0] == found[1] or "" in found:
        return True
    winner = best(value for value in found if value is not None)
    trades = extra[found.index(winner)]
    return bool(trades) and best(map(value_of, trades)) == winner


def _ends_fit(column: str, windows: _Pair, *extra: Sequence[_Trade]) -> bool:
    """Of two first (or last) prices one is of a trade that the other path lacks."""
    found = [_cell(window, column) for window in windows]
    best = _ENDS[column]
    ends = {best(trades, key=lambda trade: trade.number).price for trades in extra if trades}
    return found[0] == found[1] or "" in found or bool({*found} & ends)


#: What follows from a mean and its weight: a sum over the trades.
_SUMS: dict[str, tuple[str, Callable[[_Trade], Decimal]]] = {
    "avg_price": ("trade_count", lambda trade: trade.price),
    "vwap": ("total_volume", lambda trade: trade.price * trade.size),
    "volume_imbalance": (
        "total_volume",
        lambda trade: trade.size if trade.bought else -trade.size,
    ),
}
_EXTREMES: dict[str, tuple[Callable[..., Any], Callable[[_Trade], Decimal | str]]] = {
    "max_price": (max, lambda trade: trade.price),
    "min_price": (min, lambda trade: trade.price),
    "last_trade_time": (max, lambda trade: trade.time),
}
#: Means and ratios are rounded at the tenth place.
_HALF_A_PLACE = Decimal("0.51e-10")


_ENDS: dict[str, Callable[..., Any]] = {"open_price": min, "close_price": max}


def _weighted(window: _Window, column: str, weight: str) -> Decimal | None:
    """The sum that follows from a mean; of no window 0, of an unknown mean None."""
    if window is None:
        return Decimal(0)
    return Decimal(window[column]) * Decimal(window[weight]) if window[column] else None


def _cell(window: _Window, column: str) -> Decimal | str | None:
    if window is None or not window[column]:
        return None if window is None else ""
    return _comparable(window[column]) if column == "last_trade_time" else Decimal(window[column])


def _counted(window: _Window) -> _Amount:
    if window is None:
        return _NOTHING
    return int(window["trade_count"]), int(window["buy_count"]), Decimal(window["total_volume"])


def _plus(one: _Amount, other: _Amount, sign: int = 1) -> _Amount:
    return one[0] + sign * other[0], one[1] + sign * other[1], one[2] + sign * other[2]


def _sum(trades: Iterable[_Trade]) -> _Amount:
    """What the batch has more by these trades: less, by repeats that the stream counted."""
    total = _NOTHING
    for trade in trades:
        amount = (1, int(trade.bought), trade.size)
        total = _plus(total, amount, -1 if trade.kind == CONFLICT else 1)
    return total


def _choices(
    trades: Sequence[_Trade], wanted: _Amount, price: Decimal | None, doubt: Decimal
) -> Iterator[Sequence[_Trade]]:
    """The choices of some of these trades that come to so much, and to this sum of prices."""
    if len(trades) <= MOST_TRIED:
        yield from _every_choice(trades, wanted, price, doubt)
        return
    for choice in _likely_choices(trades, wanted):
        if _sum(choice) == wanted and (price is None or abs(_prices(choice) - price) <= doubt):
            yield choice


def _every_choice(
    trades: Sequence[_Trade], wanted: _Amount, price: Decimal | None, doubt: Decimal
) -> Iterator[Sequence[_Trade]]:
    """From both ends: half the trades on each side, so that twice as many can be tried."""
    half = len(trades) // 2
    left: dict[_Amount, list[tuple[Decimal, Sequence[_Trade]]]] = defaultdict(list)
    for choice in _subsets(trades[:half]):
        left[_sum(choice)].append((_prices(choice), choice))
    for choices in left.values():
        choices.sort(key=itemgetter(0))
    for choice in _subsets(trades[half:]):
        others = left.get(_plus(wanted, _sum(choice), -1), [])
        if price is not None:  # equal sizes are common, equal sums of prices are not
            rest = price - _prices(choice)
            first = bisect_left(others, rest - doubt, key=itemgetter(0))
            others = others[first : bisect_right(others, rest + doubt, key=itemgetter(0))]
        for _, other in others:
            yield [*other, *choice]


def _likely_choices(trades: Sequence[_Trade], wanted: _Amount) -> Iterator[Sequence[_Trade]]:
    """Of very many: those that were latest, or came from a moment on, or until one; any few."""
    late = [trade for trade in trades if trade.kind == LATE]
    conflicts = [trade for trade in trades if trade.kind == CONFLICT]
    for doubled in ([], conflicts) if conflicts else ([],):
        count = wanted[0] + len(doubled)
        if not 0 <= count <= len(late):
            continue
        for ordered in (late, sorted(late, key=lambda trade: -trade.behind)):
            yield [*ordered[:count], *doubled]
            yield [*ordered[len(late) - count :], *doubled]
        if math.comb(len(late), count) <= MOST_CHOICES:
            for choice in itertools.combinations(late, count):
                yield [*choice, *doubled]


def _prices(trades: Iterable[_Trade]) -> Decimal:
    signed = (-trade.price if trade.kind == CONFLICT else trade.price for trade in trades)
    return sum(signed, Decimal(0))


def _subsets(trades: Sequence[_Trade]) -> Iterator[Sequence[_Trade]]:
    """All of them first."""
    for count in range(len(trades), -1, -1):
        yield from itertools.combinations(trades, count)


def _in_time(kind: str, trades: pd.DataFrame) -> list[_Trade]:
    columns = ["trade_id", "time", "side", "price", "last_size"]
    behind = trades["behind_s"] if "behind_s" in trades else itertools.repeat(0.0)
    rows = zip(trades[columns].itertuples(index=False), behind, strict=False)
    found = [
        _Trade(kind, number, time, _decimal(price), _decimal(size), side == "buy", seconds)
        for (number, time, side, price, size), seconds in rows
    ]
    return sorted(found, key=attrgetter("time"))


def _between(trades: list[_Trade], start: str, end: str) -> list[_Trade]:
    """Of trades in order of time those of a window."""
    edges = (
        bisect_left(trades, _comparable(edge), key=attrgetter("time")) for edge in (start, end)
    )
    return trades[slice(*edges)]


def _comparable(cell: str) -> str:
    """A window's edge as the table writes times, with six decimals."""
    return cell if "." in cell else f"{cell[:-1]}.000000Z"


def _decimal(size: float) -> Decimal:
    return Decimal(repr(size))


def refused(evidence: Evidence) -> int:
    """How many of the ids never stored came in messages that were rejected."""
    return sum(rejected for _, rejected, _, _ in _never_stored(evidence))


def _never_stored(evidence: Evidence) -> Iterator[tuple[int, int, str, str]]:
    """Of each open gap: how many ids, how many of them rejected, the times around it, in order."""
    rejected = sorted(evidence.rejected)
    unfilled = evidence.gaps[~evidence.gaps["filled"].astype(bool)]
    names = ["first_trade_id", "last_trade_id", "after", "before"]
    for first, last, *around in unfilled[names].itertuples(index=False):
        earlier, later = sorted(around)  # trades come out of order, too
        count = bisect_right(rejected, last) - bisect_left(rejected, first)
        yield last - first + 1, count, earlier, later


@dataclass
class _Missing:
    """Ids never seen around a window, and how many of them came in messages that were rejected."""

    ids: int = 0
    rejected: int = 0

    @property
    def cause(self) -> str:
        causes = [(GAP, self.ids > self.rejected), (REJECTED, self.rejected > 0)]
        return "; ".join(cause for cause, holds in causes if holds)


def _missing(
    evidence: Evidence, starts: Sequence[str], ends: Mapping[str, str]
) -> dict[str, _Missing]:
    """What was never seen around each window: it lies between two stored trades."""
    found: dict[str, _Missing] = defaultdict(_Missing)
    edges = [_comparable(start) for start in starts]
    for ids, rejected, after, before in _never_stored(evidence):
        for place in range(max(0, bisect_right(edges, after) - 1), bisect_right(edges, before)):
            if starts[place] in ends and _comparable(ends[starts[place]]) > after:
                found[starts[place]].ids += ids
                found[starts[place]].rejected += rejected
    return found
