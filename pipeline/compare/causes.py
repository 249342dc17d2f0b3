"""Find the cause of each difference between the paths. Pure.

A difference has a known cause only if single trades account for all of it, or if the two paths used
different thresholds. Times are text in the format of the files.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import attrgetter

from pipeline.compare.inputs import Evidence
from pipeline.compare.lateness import Outcomes, Record, outcomes
from pipeline.compare.unread import PlacedTrade, PlacedTrades, Reading
from pipeline.compare.window_difference import (
    Pair,
    Trade,
    Window,
    accounts_for_all,
    adds_up,
    amount_of,
    amount_of_trades,
    comparable_time,
    minus,
    plus,
)
from pipeline.ingest.store import STORED
from pipeline.thresholds import SETTING_OF, Period, Thresholds

#: Causes of a difference. Each is reported only if single trades account for all of it.
LATE = "late events dropped"
BACKFILLED = "backfilled trades dropped as late"
AFTER_SNAPSHOT = "trades stored after the batch's snapshot"
CONFLICT = "duplicate id with different content, received after the deduplication state expired"
#: Kafka's retention deleted the records before the stream read them.
DELETED = "records deleted in Kafka before the stream read them"
#: Kafka's topic was deleted and created again, and each of the two had a part of the trades.
TWO_TOPICS = "trades in two Kafka topics"
#: Flags differ, because the two paths used different thresholds. The settings follow this text.
THRESHOLDS = "computed with other thresholds"
#: Late events or duplicates can explain the difference, but their outcome was not recorded.
NOT_RECORDED = "evidence not recorded"
UNEXPLAINED = "cause unknown"
#: Causes of trades that neither path has.
GAP = "trade ids not received"
REJECTED = "rejected messages"


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


@dataclass(frozen=True)
class Candidates:
    """Trades that can make the paths differ, if one checkpoint made all windows of the stream.

    Each sequence is sorted by event time.
    """

    #: What the checkpoint read. None: the stream recorded nothing.
    reading: Reading | None
    #: Trades that the checkpoint read or will read, but did not count.
    dropped: Sequence[Trade]
    #: Trades outside of the offsets that the checkpoint reads, and trades that may be outside.
    unread: Sequence[Trade]
    perhaps_unread: Sequence[Trade]
    #: Duplicates that the stream counted.
    counted_twice: Sequence[Trade]
    #: Trades that the batch does not have.
    after_snapshot: Sequence[Trade]
    #: Late events and duplicates whose outcome in the stream was not recorded.
    unrecorded_late: Sequence[Trade]
    unrecorded_duplicates: Sequence[Trade]
    #: Trades in micro-batches whose reported numbers contradict Spark's rules.
    contradicted: Sequence[Trade]

    def surplus(self) -> tuple[list[Trade], list[Trade]]:
        """Return the trades that only the stream counted, and those that only the batch counted."""
        missing = [*self.dropped, *self.unread]
        lost, later = (
            {trade.number for trade in trades} for trades in (missing, self.after_snapshot)
        )
        in_stream = [trade for trade in self.after_snapshot if trade.number not in lost]
        in_batch = [trade for trade in missing if trade.number not in later]
        return [*in_stream, *self.counted_twice], in_batch

    def between(self, start: str, end: str) -> "Candidates":
        """Return the candidates with an event time from `start` up to `end`."""
        trades = {name: value for name, value in vars(self).items() if name != "reading"}
        return Candidates(
            self.reading, **{name: _between(value, start, end) for name, value in trades.items()}
        )


def candidates_by_checkpoint(evidence: Evidence) -> list[Candidates]:
    """Return the candidates of each checkpoint, newest first."""
    after = _sorted_by_time(
        Trade(number, time, _decimal(price), _decimal(size), side == "buy")
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
        Candidates(
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


def _trades(records: Iterable[Record | PlacedTrade]) -> list[Trade]:
    return _sorted_by_time(
        Trade(r.trade_id, r.time, _decimal(r.price), _decimal(r.size), r.side == "buy")
        for r in records
    )


def _sorted_by_time(trades: Iterable[Trade]) -> list[Trade]:
    return sorted(trades, key=attrgetter("time"))


def explain(
    windows: Pair,
    columns: str,
    candidates: Sequence[Candidates],
    evidence: Evidence,
    replaced: Sequence[Mapping[str, str]],
) -> Explanation:
    """Return the cause of a difference, or `UNEXPLAINED`.

    Args:
        windows: the window of the stream and that of the batch, which differ.
        columns: the names of the columns that differ, separated by commas.
        candidates: for each checkpoint, the trades of this window that can make the paths differ.
        evidence: what the services recorded.
        replaced: versions of the stream's window that others with more trades replaced.
    """
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
    two = any(adds_up((stream, version), batch) for version in replaced)
    return Explanation(TWO_TOPICS) if two else found


def _explain_by_trades(
    stream: Window,
    batch: Window,
    candidates: Sequence[Candidates],
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
            and accounts_for_all(stream, batch, in_stream, in_batch)
        ):
            return Explanation(
                "; ".join(sorted(causes)),
                len(late),
                len(known.counted_twice),
                len(deleted),
            )
    if any(_unrecorded_may_explain(stream, batch, known) for known in candidates):
        return Explanation(NOT_RECORDED)
    return Explanation(UNEXPLAINED, unexplained=int(amount_of(batch)[0] - amount_of(stream)[0]))


def _numbers(trades: Iterable[Trade]) -> set[int]:
    return {trade.number for trade in trades}


def _dropped_by_others(known: Candidates, candidates: Iterable[Candidates]) -> set[int]:
    """Return the trades that another checkpoint of the topic dropped as late: Kafka had them."""
    return {
        number
        for each in candidates
        if each is not known and _same_topic(known, each)
        for number in _numbers(each.dropped)
    }


def _same_topic(one: Candidates, other: Candidates) -> bool:
    return bool(one.reading and other.reading and one.reading.topic == other.reading.topic)


def _was_deleted(known: Candidates, candidates: Iterable[Candidates]) -> bool:
    """Return whether Kafka had deleted the trades that a checkpoint did not read.

    This requires that no checkpoint of the topic read the whole window. Otherwise the stream would
    have published the complete version, even if that checkpoint ended before the window was final:
    the next checkpoint publishes the windows that it left open.
    """
    return not known.perhaps_unread and all(
        each.unread for each in candidates if _same_topic(known, each)
    )


def _other_thresholds(stream: Window, batch: Window, columns: str, evidence: Evidence) -> str:
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


def _flags_follow(row: Window, periods: Sequence[Period]) -> bool:
    """Return whether the flags of a row follow from recorded thresholds. Unknown: True."""
    if row is None or not periods or not _has_inputs_of_flags(row):
        return True
    return _thresholds_of(row, periods) is not None


def _has_inputs_of_flags(row: Mapping[str, str]) -> bool:
    """Return whether a row is of a version that wrote what decides its flags."""
    return bool(row["price_range"] and row["sell_count"])


def _unrecorded_may_explain(stream: Window, batch: Window, known: Candidates) -> bool:
    """Return whether unrecorded outcomes can explain the difference in trades, buys and volume."""
    in_stream, in_batch = known.surplus()
    left = minus(
        plus(amount_of(batch), amount_of_trades(in_stream)),
        plus(amount_of(stream), amount_of_trades(in_batch)),
    )
    most, least = (
        amount_of_trades(known.unrecorded_late),
        amount_of_trades(known.unrecorded_duplicates),
    )
    if left[0] == 0 and not (known.unrecorded_late and known.unrecorded_duplicates):
        return False
    return all(-low <= value <= high for low, value, high in zip(least, left, most, strict=True))


def _between(trades: Sequence[Trade], start: str, end: str) -> Sequence[Trade]:
    """Return the trades from `start` up to `end`. The trades are sorted by time."""
    edges = (
        bisect_left(trades, comparable_time(edge), key=attrgetter("time")) for edge in (start, end)
    )
    return trades[slice(*edges)]


def _decimal(size: float) -> Decimal:
    return Decimal(repr(size))
