"""Whether the two paths agree, window by window, and what a difference comes from: pure functions.

A cause is proved by trades that account for all of a difference. Times are the text of cells.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter
from typing import Any

import pandas as pd

from pipeline.compare.inputs import Evidence
from pipeline.compare.lateness import Record, outcomes
from pipeline.ingest.store import STORED
from pipeline.metrics import FURTHER, METRICS, buy_sell_ratio

#: The status of a window, in the order in which a reader should look at them.
DIFFERS = "differs"
ONLY_STREAM = "only stream"
ONLY_BATCH = "only batch"
NOT_YET_FINAL = "not yet final"
NOT_YET_IN_A_BATCH = "not yet in a batch"
EQUAL = "equal"
STATUSES = (DIFFERS, ONLY_STREAM, ONLY_BATCH, NOT_YET_FINAL, NOT_YET_IN_A_BATCH, EQUAL)
DIFFERENCES = (DIFFERS, ONLY_STREAM, ONLY_BATCH)

#: Causes of a difference, each proved by trades that account for all of it.
LATE = "late events dropped"
BACKFILLED = "backfilled trades dropped as late"
AFTER_SNAPSHOT = "trades stored after the batch's snapshot"
CONFLICT = "duplicate id with different content, received after the deduplication state expired"
#: It is not known which late events or duplicates the stream counted.
NOT_RECORDED = "evidence not recorded"
UNEXPLAINED = "cause unknown"
#: Of a window on whose trades both agree, though the exchange issued more.
GAP = "trade ids never received"
REJECTED = "rejected messages"

#: What both paths must agree on, to the last digit.
COMPARED = (*METRICS, *FURTHER, "last_trade_time")
COLUMNS = (
    "window_start",
    "status",
    "columns",
    "cause",
    "late",
    "doubled",
    "unexplained",
    "missing",
)


def agreement(
    final: pd.DataFrame,
    still_open: pd.DataFrame,
    batch: pd.DataFrame,
    newest_in_batch: str | None,
    evidence: Evidence,
) -> pd.DataFrame:
    """Return the status of each window of either path, and the cause of each difference.

    Args:
        final: the stream's final windows, as the text of their cells.
        still_open: its open ones.
        batch: the newest run's windows.
        newest_in_batch: time of the newest trade in that run; None without a run.
        evidence: what the consumer noted.

    Returns:
        One row per window, sorted: `window_start`, `status`, `columns` (which differ, as text),
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
    candidates = _candidates(evidence)
    newest_in_stream = max([*in_stream, *opened], default="")
    newest = None if newest_in_batch is None else _comparable(newest_in_batch)
    rows = []
    for start in starts:
        end = ends.get(start)
        covered = newest is not None and end is not None and newest >= _comparable(end)
        columns, proof = differing.get(start, ""), _NO_CAUSE
        if start in opened or start > newest_in_stream:  # it has not come so far
            status = NOT_YET_FINAL
        elif start not in in_stream:
            status = ONLY_BATCH
        elif columns == "" and start in in_batch:
            status = EQUAL
        elif not covered:
            status = NOT_YET_IN_A_BATCH
        else:
            status = DIFFERS if start in in_batch else ONLY_STREAM
        if status in DIFFERENCES:
            proof = _proof(
                streamed.loc[start].to_dict() if start in in_stream else None,
                batched.loc[start].to_dict() if start in in_batch else None,
                [each.between(start, ends[start]) for each in candidates],
                evidence.backfilled,
            )
        lost = missing.get(start, _Missing())
        causes = [cause for cause in (proof.cause, lost.cause) if cause]
        numbers = (proof.late, proof.doubled, proof.unexplained, lost.ids)
        rows.append((start, status, columns, "; ".join(causes), *numbers))
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
    """A trade that one path counted and the other one did not."""

    number: int
    time: str
    price: Decimal
    size: Decimal
    bought: bool


@dataclass(frozen=True)
class _Candidates:
    """What the paths may differ by, if one checkpoint made the stream's windows; by event time."""

    #: Not in the stream.
    dropped: Sequence[_Trade]
    #: Counted twice by the stream.
    doubled: Sequence[_Trade]
    #: Not in the batch.
    after_snapshot: Sequence[_Trade]
    #: Late events or duplicates of which it was not recorded what the stream did with them.
    late_or_not: Sequence[_Trade]
    doubled_or_not: Sequence[_Trade]
    #: Of which the stream reported something else than Spark's rules lead to.
    contradicted: Sequence[_Trade]

    def surplus(self) -> tuple[list[_Trade], list[_Trade]]:
        """Return the trades that the stream alone counted, and those that the batch alone did."""
        dropped, later = (
            {trade.number for trade in trades} for trades in (self.dropped, self.after_snapshot)
        )
        in_stream = [trade for trade in self.after_snapshot if trade.number not in dropped]
        in_batch = [trade for trade in self.dropped if trade.number not in later]
        return [*in_stream, *self.doubled], in_batch

    def between(self, start: str, end: str) -> "_Candidates":
        return _Candidates(
            **{name: _between(value, start, end) for name, value in vars(self).items()}
        )


def _candidates(evidence: Evidence) -> list[_Candidates]:
    """Return the candidates by each checkpoint, the newest first."""
    after = _by_time(
        _Trade(number, time, _decimal(price), _decimal(size), side == "buy")
        for number, time, side, price, size in evidence.after_snapshot.itertuples(index=False)
    )
    found = outcomes(evidence.records, evidence.offset_ranges, evidence.reported, evidence.consumed)
    return [
        _Candidates(
            dropped=_trades(each.dropped),
            doubled=_trades(each.counted_twice),
            after_snapshot=after,
            late_or_not=_trades(r for r in each.not_recorded if r.kind == STORED),
            doubled_or_not=_trades(r for r in each.not_recorded if r.kind != STORED),
            contradicted=_trades(each.contradicted),
        )
        for each in found
    ]


def _trades(records: Iterable[Record]) -> list[_Trade]:
    return _by_time(
        _Trade(r.trade_id, r.time, _decimal(r.price), _decimal(r.size), r.side == "buy")
        for r in records
    )


def _by_time(trades: Iterable[_Trade]) -> list[_Trade]:
    return sorted(trades, key=attrgetter("time"))


#: Trades, buys and volume of a window or of some trades.
_Amount = tuple[Decimal, Decimal, Decimal]
_Window = Mapping[str, str] | None
_Pair = tuple[_Window, _Window]


def _proof(
    stream: _Window,
    batch: _Window,
    candidates: Sequence[_Candidates],
    backfilled: frozenset[int],
) -> Proof:
    """Return the cause of a difference, if trades account for it to the last digit."""
    for known in candidates:
        in_stream, in_batch = known.surplus()
        causes = {BACKFILLED if trade.number in backfilled else LATE for trade in in_batch}
        causes |= {AFTER_SNAPSHOT} if len(in_stream) > len(known.doubled) else set()
        causes |= {CONFLICT} if known.doubled else set()
        if causes and not known.contradicted and _is_all(stream, batch, in_stream, in_batch):
            return Proof("; ".join(sorted(causes)), len(known.dropped), len(known.doubled))
    if any(_may_be(stream, batch, known) for known in candidates):
        return Proof(NOT_RECORDED)
    return Proof(UNEXPLAINED, unexplained=int(_counted(batch)[0] - _counted(stream)[0]))


def _may_be(stream: _Window, batch: _Window, known: _Candidates) -> bool:
    """Return whether unrecorded evidence can explain the difference in trades, buys and volume."""
    in_stream, in_batch = known.surplus()
    left = _less(_plus(_counted(batch), _sum(in_stream)), _plus(_counted(stream), _sum(in_batch)))
    most, least = _sum(known.late_or_not), _sum(known.doubled_or_not)
    if left[0] == 0 and not (known.late_or_not and known.doubled_or_not):
        return False
    return all(-low <= value <= high for low, value, high in zip(least, left, most, strict=True))


def _is_all(
    stream: _Window, batch: _Window, in_stream: Sequence[_Trade], in_batch: Sequence[_Trade]
) -> bool:
    """Whether two windows differ by just these trades, in every metric that trades settle.

    Count, buys and volume are exact. Means are rounded at the tenth place, so that sums that
    follow from them are known within that.
    """
    windows = (stream, batch)
    return (
        _plus(_counted(stream), _sum(in_batch)) == _plus(_counted(batch), _sum(in_stream))
        and all(_sums_fit(column, windows, in_stream, in_batch) for column in _SUMS)
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
    return not (ratio and sells) or float(ratio) == buy_sell_ratio(int(buys), int(sells))


def _extremes_fit(column: str, windows: _Pair, *extra: Sequence[_Trade]) -> bool:
    """Whether both extremes follow from the trades that both paths have and those that one has."""
    best, value_of = _EXTREMES[column]
    found = [_cell(window, column) for window in windows]
    if "" in found:
        return True
    known = [value for value in found if value is not None]
    # The trades that both paths have reach the lesser of the two extremes, if there are any.
    count, _, _ = _counted(windows[0])
    lesser = known[0] if best(known) != known[0] else known[-1]
    shared = [lesser] if count > len(extra[0]) else []
    return all(
        value is None or best([*shared, *map(value_of, trades)], default=None) == value
        for value, trades in zip(found, extra, strict=True)
    )


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
    count, buys, volume = (
        Decimal(window[name]) if window else Decimal(0)
        for name in ("trade_count", "buy_count", "total_volume")
    )
    return count, buys, volume


def _plus(one: _Amount, other: _Amount) -> _Amount:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _less(one: _Amount, other: _Amount) -> _Amount:
    return one[0] - other[0], one[1] - other[1], one[2] - other[2]


def _sum(trades: Sequence[_Trade]) -> _Amount:
    bought = sum(trade.bought for trade in trades)
    volume = sum((trade.size for trade in trades), Decimal(0))
    return Decimal(len(trades)), Decimal(bought), volume


def _between(trades: Sequence[_Trade], start: str, end: str) -> Sequence[_Trade]:
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


def rejected_ids(evidence: Evidence) -> int:
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
