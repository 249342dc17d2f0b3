"""Compare the two paths window by window, and find the cause of each difference. Pure.

A difference has a known cause only if single trades account for all of it. Times are text in the
format of the files.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import pandas as pd

from pipeline.compare.inputs import Evidence
from pipeline.compare.lateness import Outcomes, Record, outcomes
from pipeline.compare.unread import PlacedTrade, PlacedTrades, Reading
from pipeline.ingest.store import STORED
from pipeline.metrics.definitions import FURTHER, METRICS, buy_sell_ratio
from pipeline.thresholds import SETTING_OF, Period, Thresholds

#: The statuses of a window, the most important one first.
DIFFERS = "differs"
ONLY_STREAM = "only stream"
ONLY_BATCH = "only batch"
NOT_YET_FINAL = "not yet final"
NOT_YET_IN_A_BATCH = "not yet in a batch"
EQUAL = "equal"
STATUSES = (DIFFERS, ONLY_STREAM, ONLY_BATCH, NOT_YET_FINAL, NOT_YET_IN_A_BATCH, EQUAL)
DIFFERENCES = (DIFFERS, ONLY_STREAM, ONLY_BATCH)

#: Causes of a difference. Each is reported only if single trades account for all of it.
LATE = "late events dropped"
BACKFILLED = "backfilled trades dropped as late"
AFTER_SNAPSHOT = "trades stored after the batch's snapshot"
CONFLICT = "duplicate id with different content, received after the deduplication state expired"
#: Kafka's retention deleted the records before the stream read them.
DELETED = "records deleted in Kafka before the stream read them"
#: Kafka's topic was deleted and created again, and each of the two had a part of the trades.
TWO_TOPICS = "trades in two Kafka topics"
#: Flags differ, because the two paths used other thresholds. The settings follow.
THRESHOLDS = "computed with other thresholds"
#: Late events or duplicates can explain the difference, but their outcome was not recorded.
NOT_RECORDED = "evidence not recorded"
UNEXPLAINED = "cause unknown"
#: Causes of trades that neither path has.
GAP = "trade ids not received"
REJECTED = "rejected messages"

#: The columns that must be equal on both paths, to the last digit.
COMPARED = (*METRICS, *FURTHER, "last_trade_time")
COLUMNS = (
    "window_start",
    "status",
    "columns",
    "cause",
    "late",
    "doubled",
    "deleted",
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
        final: the final windows of the stream, as text cells.
        still_open: the open windows of the stream, as text cells.
        batch: the windows of the newest batch run, as text cells.
        newest_in_batch: the time of the newest trade in that run; None without a run.
        evidence: what the services recorded that can make the paths differ.

    Returns:
        One row per window, sorted by start.

        - `window_start`, `status`.
        - `columns`: the names of the columns that differ, separated by commas.
        - `cause`: the cause of a difference, or of trades that neither path has.
        - `late`: the number of trades that the stream dropped as late.
        - `doubled`: the number of trades that the stream counted twice.
        - `deleted`: the number of trades that Kafka deleted before the stream read them.
        - `unexplained`: trades in the batch minus trades in the stream, if the cause is unknown.
        - `missing`: the number of ids that were never stored in or next to this window. An id
          between two windows counts for both.

        A window is `not yet in a batch` until the run has a trade at or after the end of it.
    """
    streamed, batched = (table.set_index("window_start") for table in (final, batch))
    only_open = set(still_open["window_start"]) - set(streamed.index)
    starts = sorted({*streamed.index, *only_open, *batched.index})
    differing = _differing_columns(streamed, batched)
    ends: dict[str, str] = {}
    for known in (batched, streamed):
        ends.update(zip(known.index, known["window_end"], strict=True))
    progress = _Progress(
        in_stream=frozenset(streamed.index),
        in_batch=frozenset(batched.index),
        only_open=frozenset(only_open),
        newest_in_stream=max([*streamed.index, *only_open], default=""),
        newest_in_batch=None if newest_in_batch is None else _comparable(newest_in_batch),
    )
    missing = _missing_by_window(evidence, starts, ends)
    candidates = _candidates_by_checkpoint(evidence)
    rows = []
    for start in starts:
        columns, explanation = differing.get(start, ""), Explanation("")
        status = progress.status(start, ends.get(start), columns)
        if status in DIFFERENCES:
            explanation = _explain(
                (_row(streamed, start), _row(batched, start)),
                columns,
                [each.between(start, ends[start]) for each in candidates],
                evidence,
                evidence.replaced.get(start, ()),
            )
        lost = missing.get(start, _MissingIds())
        causes = [cause for cause in (explanation.cause, lost.cause) if cause]
        numbers = (
            explanation.late,
            explanation.counted_twice,
            explanation.deleted,
            explanation.unexplained,
            lost.ids,
        )
        rows.append((start, status, columns, "; ".join(causes), *numbers))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _differing_columns(streamed: pd.DataFrame, batched: pd.DataFrame) -> dict[str, str]:
    """Return the names of the columns that differ, by the start of each window that differs."""
    common = streamed.index.intersection(batched.index)
    unequal = streamed.loc[common, list(COMPARED)].ne(batched.loc[common, list(COMPARED)])
    return {
        start: ", ".join(unequal.columns[row])
        for start, row in zip(common, unequal.to_numpy(), strict=True)
        if row.any()
    }


def _row(windows: pd.DataFrame, start: str) -> Mapping[str, str] | None:
    if start not in windows.index:
        return None
    return dict(zip(windows.columns, windows.loc[start], strict=True))


@dataclass(frozen=True)
class _Progress:
    """Which windows each path has, by their start."""

    #: Final windows of the stream, and windows of the newest batch run.
    in_stream: frozenset[str]
    in_batch: frozenset[str]
    #: Windows of the stream that are not final.
    only_open: frozenset[str]
    newest_in_stream: str
    #: The time of the newest trade in the batch run, comparable as text. None: no run.
    newest_in_batch: str | None

    def status(self, start: str, end: str | None, differing: str) -> str:
        """Return the status of a window.

        Args:
            start: the start of the window.
            end: the end of the window. None: unknown, because it is only open.
            differing: the columns that differ. Empty: none, or only one path has the window.
        """
        if start in self.only_open or start > self.newest_in_stream:
            return NOT_YET_FINAL
        if start not in self.in_stream:
            return ONLY_BATCH
        if differing == "" and start in self.in_batch:
            return EQUAL
        newest = self.newest_in_batch
        if newest is None or end is None or newest < _comparable(end):
            return NOT_YET_IN_A_BATCH
        return DIFFERS if start in self.in_batch else ONLY_STREAM


@dataclass(frozen=True)
class Explanation:
    """The cause of a difference, and the numbers of trades behind it."""

    cause: str
    #: Trades that the stream dropped as late.
    late: int = 0
    #: Trades that the stream counted twice: duplicates with different content.
    counted_twice: int = 0
    #: Trades that Kafka deleted before the stream read them.
    deleted: int = 0
    #: Trades in the batch minus trades in the stream, if the cause is unknown.
    unexplained: int = 0


@dataclass(frozen=True, slots=True)
class _Trade:
    """A trade that one path counted and the other one did not."""

    number: int
    time: str
    price: Decimal
    size: Decimal
    bought: bool


@dataclass(frozen=True)
class _Candidates:
    """Trades that can make the paths differ, if one checkpoint made all windows of the stream.

    Each sequence is sorted by event time.
    """

    #: What the checkpoint read. None: the stream recorded nothing.
    reading: Reading | None
    #: Trades that the checkpoint read or will read, but did not count.
    dropped: Sequence[_Trade]
    #: Trades outside of the offsets that the checkpoint reads, and trades that may be outside.
    unread: Sequence[_Trade]
    perhaps_unread: Sequence[_Trade]
    #: Duplicates that the stream counted.
    counted_twice: Sequence[_Trade]
    #: Trades that the batch does not have.
    after_snapshot: Sequence[_Trade]
    #: Late events and duplicates whose outcome in the stream was not recorded.
    unrecorded_late: Sequence[_Trade]
    unrecorded_duplicates: Sequence[_Trade]
    #: Trades in micro-batches whose reported numbers contradict Spark's rules.
    contradicted: Sequence[_Trade]

    def surplus(self) -> tuple[list[_Trade], list[_Trade]]:
        """Return the trades that only the stream counted, and those that only the batch counted."""
        missing = [*self.dropped, *self.unread]
        lost, later = (
            {trade.number for trade in trades} for trades in (missing, self.after_snapshot)
        )
        in_stream = [trade for trade in self.after_snapshot if trade.number not in lost]
        in_batch = [trade for trade in missing if trade.number not in later]
        return [*in_stream, *self.counted_twice], in_batch

    def between(self, start: str, end: str) -> "_Candidates":
        trades = {name: value for name, value in vars(self).items() if name != "reading"}
        return _Candidates(
            self.reading, **{name: _between(value, start, end) for name, value in trades.items()}
        )


def _candidates_by_checkpoint(evidence: Evidence) -> list[_Candidates]:
    """Return the candidates of each checkpoint, newest first."""
    after = _sorted_by_time(
        _Trade(number, time, _decimal(price), _decimal(size), side == "buy")
        for number, time, side, price, size in evidence.after_snapshot.itertuples(index=False)
    )
    found = outcomes(
        evidence.records,
        evidence.offset_ranges,
        evidence.reported,
        evidence.consumed,
        evidence.starts,
    )
    return [
        _Candidates(
            reading=each.reading,
            dropped=_trades(each.dropped),
            unread=_trades(_unread(each, evidence.placed, never=True)),
            perhaps_unread=_trades(_unread(each, evidence.placed, never=None)),
            counted_twice=_trades(each.counted_twice),
            after_snapshot=after,
            unrecorded_late=_trades(r for r in each.not_recorded if r.kind == STORED),
            unrecorded_duplicates=_trades(r for r in each.not_recorded if r.kind != STORED),
            contradicted=_trades(each.contradicted),
        )
        for each in found
    ]


def _unread(
    outcome: Outcomes, placed: Iterable[PlacedTrades], *, never: bool | None
) -> list[Record | PlacedTrade]:
    """Return the trades that a checkpoint never reads. If `never` is None, return the unknown ones.

    For a late record, this is unknown if the other trades of its window are unknown, because a
    checkpoint that began long after a window proves nothing about the window.
    """
    reading = outcome.reading
    if reading is None:
        return []
    around = [each for each in placed if each.topic == reading.topic]
    late = [
        record
        for record in outcome.never_read
        if any(each.has_window_of(record.offset, record.time) for each in around) is bool(never)
    ]
    trades = {trade.trade_id: trade for each in around for trade in each.trades}
    return [
        *late,
        *(
            trade
            for trade in trades.values()
            if reading.never_reads(trade.first_offset, trade.last_offset) is never
        ),
    ]


def _trades(records: Iterable[Record | PlacedTrade]) -> list[_Trade]:
    return _sorted_by_time(
        _Trade(r.trade_id, r.time, _decimal(r.price), _decimal(r.size), r.side == "buy")
        for r in records
    )


def _sorted_by_time(trades: Iterable[_Trade]) -> list[_Trade]:
    return sorted(trades, key=attrgetter("time"))


#: The number of trades, the number of buys, and the volume.
_Amount = tuple[Decimal, Decimal, Decimal]
_Window = Mapping[str, str] | None
_Pair = tuple[_Window, _Window]


def _explain(
    windows: _Pair,
    columns: str,
    candidates: Sequence[_Candidates],
    evidence: Evidence,
    replaced: Sequence[Mapping[str, str]],
) -> Explanation:
    """Return the cause of a difference, or `UNEXPLAINED`."""
    stream, batch = windows
    if cause := _other_thresholds(stream, batch, columns, evidence):
        return Explanation(cause)
    if not (
        _flags_follow(stream, evidence.stream_thresholds)
        and _flags_follow(batch, evidence.batch_thresholds)
    ):
        candidates = ()  # no trade explains such a flag
    found = _explain_by_trades(stream, batch, candidates, evidence.backfilled)
    if found.cause != UNEXPLAINED or stream is None or batch is None:
        return found
    two = any(_adds_up((stream, version), batch) for version in replaced)
    return Explanation(TWO_TOPICS) if two else found


def _explain_by_trades(
    stream: _Window,
    batch: _Window,
    candidates: Sequence[_Candidates],
    backfilled: frozenset[int],
) -> Explanation:
    """Return the cause of a difference, or `UNEXPLAINED` if single trades do not account for it."""
    for known in candidates:
        in_stream, in_batch = known.surplus()
        deleted = _numbers(known.unread) - _dropped_by_others(known, candidates)
        late = _numbers([*known.dropped, *known.unread]) - deleted
        causes = {BACKFILLED if n in backfilled else LATE for n in _numbers(in_batch) - deleted}
        causes |= {DELETED} if _numbers(in_batch) & deleted else set()
        causes |= {AFTER_SNAPSHOT} if len(in_stream) > len(known.counted_twice) else set()
        causes |= {CONFLICT} if known.counted_twice else set()
        if (
            causes
            and not known.contradicted
            and (not deleted or _was_deleted(known, candidates))
            and _accounts_for_all(stream, batch, in_stream, in_batch)
        ):
            return Explanation(
                "; ".join(sorted(causes)),
                len(late),
                len(known.counted_twice),
                len(deleted),
            )
    if any(_unrecorded_may_explain(stream, batch, known) for known in candidates):
        return Explanation(NOT_RECORDED)
    return Explanation(UNEXPLAINED, unexplained=int(_amount_of(batch)[0] - _amount_of(stream)[0]))


def _numbers(trades: Iterable[_Trade]) -> set[int]:
    return {trade.number for trade in trades}


def _dropped_by_others(known: _Candidates, candidates: Iterable[_Candidates]) -> set[int]:
    """Return the trades that another checkpoint of the topic dropped as late: Kafka had them."""
    return {
        number
        for each in candidates
        if each is not known and _same_topic(known, each)
        for number in _numbers(each.dropped)
    }


def _same_topic(one: _Candidates, other: _Candidates) -> bool:
    return bool(one.reading and other.reading and one.reading.topic == other.reading.topic)


def _was_deleted(known: _Candidates, candidates: Iterable[_Candidates]) -> bool:
    """Return whether Kafka had deleted the trades that a checkpoint did not read.

    This requires that no checkpoint of the topic read the whole window. Otherwise the stream would
    have published the complete version, even if that checkpoint ended before the window was final:
    the next checkpoint publishes the windows that it left open.
    """
    return not known.perhaps_unread and all(
        each.unread for each in candidates if _same_topic(known, each)
    )


def _other_thresholds(stream: _Window, batch: _Window, columns: str, evidence: Evidence) -> str:
    """Return the cause of flags that differ because of recorded thresholds; "" for another cause.

    Both rows must have exactly the flags that follow from thresholds that their path used.
    """
    differing = columns.split(", ")
    if stream is None or batch is None or not {*differing} <= SETTING_OF.keys():
        return ""
    ours = _thresholds_of(stream, evidence.stream_thresholds)
    theirs = _thresholds_of(batch, evidence.batch_thresholds)
    if ours is None or theirs is None:
        return ""
    names = [SETTING_OF[flag] for flag in differing]
    listed = [f"{name.upper()}={getattr(ours, name).normalize():f}" for name in names]
    return f"{THRESHOLDS}: {', '.join(listed)}"


def _adds_up(parts: tuple[Mapping[str, str], Mapping[str, str]], whole: Mapping[str, str]) -> bool:
    """Return whether a window has exactly the trades of two others."""
    if not (whole["max_price"] and whole["min_price"]):
        return False
    highest, lowest = (
        best(Decimal(part[name]) for part in parts) == Decimal(whole[name])
        for best, name in ((max, "max_price"), (min, "min_price"))
    )
    return highest and lowest and _plus(*map(_amount_of, parts)) == _amount_of(whole)


def _thresholds_of(row: Mapping[str, str], periods: Sequence[Period]) -> Thresholds | None:
    """Return thresholds that give the flags of a row: those of its time if possible, else any.

    A row that was computed again, with a new checkpoint, keeps the time of its first version.
    """
    if not _has_inputs_of_flags(row):
        return None
    written = row["written_at"]
    earlier = [p for p in periods if written and p.since <= datetime.fromisoformat(written)]
    for period in (*earlier[-1:], *reversed(periods)):
        if all(row[flag] == value for flag, value in period.thresholds.flags(row).items()):
            return period.thresholds
    return None


def _flags_follow(row: _Window, periods: Sequence[Period]) -> bool:
    """Return whether the flags of a row follow from recorded thresholds. Unknown: True."""
    if row is None or not periods or not _has_inputs_of_flags(row):
        return True
    return _thresholds_of(row, periods) is not None


def _has_inputs_of_flags(row: Mapping[str, str]) -> bool:
    """Return whether a row is of a version that wrote what decides its flags."""
    return bool(row["price_range"] and row["sell_count"])


def _unrecorded_may_explain(stream: _Window, batch: _Window, known: _Candidates) -> bool:
    """Return whether unrecorded outcomes can explain the difference in trades, buys and volume."""
    in_stream, in_batch = known.surplus()
    left = _minus(
        _plus(_amount_of(batch), _amount_of_trades(in_stream)),
        _plus(_amount_of(stream), _amount_of_trades(in_batch)),
    )
    most, least = (
        _amount_of_trades(known.unrecorded_late),
        _amount_of_trades(known.unrecorded_duplicates),
    )
    if left[0] == 0 and not (known.unrecorded_late and known.unrecorded_duplicates):
        return False
    return all(-low <= value <= high for low, value, high in zip(least, left, most, strict=True))


def _accounts_for_all(
    stream: _Window, batch: _Window, in_stream: Sequence[_Trade], in_batch: Sequence[_Trade]
) -> bool:
    """Return whether exactly these trades make the two windows differ, in every metric.

    The numbers of trades and buys and the volume are exact. Means are rounded to ten decimal
    places, so a sum that is computed from a mean has that rounding error.
    """
    windows = (stream, batch)
    return (
        _plus(_amount_of(stream), _amount_of_trades(in_batch))
        == _plus(_amount_of(batch), _amount_of_trades(in_stream))
        and all(_sums_fit(column, windows, in_stream, in_batch) for column in _SUMS)
        and all(_is_self_consistent(window) for window in windows if window)
        and all(_extremes_fit(column, windows, in_stream, in_batch) for column in _EXTREMES)
        and all(_ends_fit(column, windows, in_stream, in_batch) for column in _ENDS)
    )


def _sums_fit(column: str, windows: _Pair, *extra: Sequence[_Trade]) -> bool:
    difference, doubt = _sum_difference(column, *windows)
    if difference is None:
        return True
    _, value_of = _SUMS[column]
    in_stream, in_batch = (sum(map(value_of, trades), Decimal(0)) for trades in extra)
    return abs(difference - in_batch + in_stream) <= doubt


def _sum_difference(column: str, stream: _Window, batch: _Window) -> tuple[Decimal | None, Decimal]:
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


def _extremes_fit(column: str, windows: _Pair, *extra: Sequence[_Trade]) -> bool:
    """Return whether the shared trades and those of one path lead to both extremes."""
    best, value_of = _EXTREMES[column]
    found = [_cell(window, column) for window in windows]
    if "" in found:
        return True
    known = [value for value in found if value is not None]
    # The less extreme of the two values is that of the shared trades, if there are any.
    count, _, _ = _amount_of(windows[0])
    lesser = known[0] if best(known) != known[0] else known[-1]
    shared = [lesser] if count > len(extra[0]) else []
    return all(
        value is None or best([*shared, *map(value_of, trades)], default=None) == value
        for value, trades in zip(found, extra, strict=True)
    )


def _ends_fit(column: str, windows: _Pair, *extra: Sequence[_Trade]) -> bool:
    """Return whether two first (or last) prices fit: equal, or one is of a trade of one path."""
    found = [_cell(window, column) for window in windows]
    best = _ENDS[column]
    ends = {best(trades, key=lambda trade: trade.number).price for trades in extra if trades}
    return found[0] == found[1] or "" in found or bool({*found} & ends)


#: For each mean: the column of its weight, and the value of a trade in the sum behind the mean.
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
#: Means and ratios are rounded to ten decimal places.
_ROUNDING_ERROR = Decimal("0.51e-10")


_ENDS: dict[str, Callable[..., Any]] = {"open_price": min, "close_price": max}


def _weighted(window: _Window, column: str, weight: str) -> Decimal | None:
    """Return the sum behind a mean: the mean times its weight. No window: 0. Unknown mean: None."""
    if window is None:
        return Decimal(0)
    return Decimal(window[column]) * Decimal(window[weight]) if window[column] else None


def _cell(window: _Window, column: str) -> Decimal | str | None:
    if window is None or not window[column]:
        return None if window is None else ""
    return _comparable(window[column]) if column == "last_trade_time" else Decimal(window[column])


def _amount_of(window: _Window) -> _Amount:
    count, buys, volume = (
        Decimal(window[name]) if window else Decimal(0)
        for name in ("trade_count", "buy_count", "total_volume")
    )
    return count, buys, volume


def _plus(one: _Amount, other: _Amount) -> _Amount:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _minus(one: _Amount, other: _Amount) -> _Amount:
    return one[0] - other[0], one[1] - other[1], one[2] - other[2]


def _amount_of_trades(trades: Sequence[_Trade]) -> _Amount:
    bought = sum(trade.bought for trade in trades)
    volume = sum((trade.size for trade in trades), Decimal(0))
    return Decimal(len(trades)), Decimal(bought), volume


def _between(trades: Sequence[_Trade], start: str, end: str) -> Sequence[_Trade]:
    """Return the trades from `start` up to `end`. The trades are sorted by time."""
    edges = (
        bisect_left(trades, _comparable(edge), key=attrgetter("time")) for edge in (start, end)
    )
    return trades[slice(*edges)]


def _comparable(cell: str) -> str:
    """Return the edge of a window in the time format of the database, with six decimals."""
    return cell if "." in cell else f"{cell[:-1]}.000000Z"


def _decimal(size: float) -> Decimal:
    return Decimal(repr(size))


def rejected_ids(evidence: Evidence) -> int:
    """Return the number of ids that were never stored because their messages were rejected."""
    return sum(rejected for _, rejected, _, _ in _never_stored(evidence))


def _never_stored(evidence: Evidence) -> Iterator[tuple[int, int, str, str]]:
    """Yield for each open gap: ids, rejected ids, and the times of the trades around it, sorted."""
    rejected = sorted(evidence.rejected)
    unfilled = evidence.gaps[~evidence.gaps["filled"].astype(bool)]
    names = ["first_trade_id", "last_trade_id", "after", "before"]
    for first, last, *around in unfilled[names].itertuples(index=False):
        earlier, later = sorted(around)  # trade ids and times may be in a different order
        count = bisect_right(rejected, last) - bisect_left(rejected, first)
        yield last - first + 1, count, earlier, later


@dataclass
class _MissingIds:
    """The number of missing ids in or next to a window, and how many of them were rejected."""

    ids: int = 0
    rejected: int = 0

    @property
    def cause(self) -> str:
        causes = [(GAP, self.ids > self.rejected), (REJECTED, self.rejected > 0)]
        return "; ".join(cause for cause, holds in causes if holds)


def _missing_by_window(
    evidence: Evidence, starts: Sequence[str], ends: Mapping[str, str]
) -> dict[str, _MissingIds]:
    """Return the missing ids by window start. A gap counts for each window that it touches."""
    found: dict[str, _MissingIds] = defaultdict(_MissingIds)
    edges = [_comparable(start) for start in starts]
    for ids, rejected, after, before in _never_stored(evidence):
        for place in range(max(0, bisect_right(edges, after) - 1), bisect_right(edges, before)):
            if starts[place] in ends and _comparable(ends[starts[place]]) > after:
                found[starts[place]].ids += ids
                found[starts[place]].rejected += rejected
    return found
