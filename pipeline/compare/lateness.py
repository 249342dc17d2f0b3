"""Find the records that the stream dropped as late and the duplicates that it counted. Pure.

The functions apply Spark's own rules. Both rules need the offset of a record and the micro-batch
that read it. W is the watermark of the micro-batch before that one.

- Late events: Spark drops a record if its event time is at or before W.
- Duplicates: Spark keeps a trade id until the event time of the counted record plus the delay of
  the watermark is at or before W. After that, Spark counts a record with the same id again.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter

from pipeline.compare.unread import Reading, readings
from pipeline.ingest.store import CONFLICT, REPEAT, STORED
from pipeline.stream_offsets import OffsetRange, Start
from pipeline.times import time_text


@dataclass(frozen=True)
class Record:
    """A record in Kafka that is late, or has the id of a stored trade but different content.

    Times are text in the format of the database.
    """

    #: Kafka's id of the topic, and the offset. None: not recorded.
    topic: str | None
    offset: int | None
    trade_id: int
    time: str
    side: str
    price: float
    size: float
    #: STORED, REPEAT or CONFLICT.
    kind: str
    #: The event time of the stored trade with this id.
    stored_time: str


@dataclass(frozen=True)
class ConsumedOffsets:
    """The offsets of a topic that the consumer has read since schema version 3."""

    topic: str | None = None
    first_offset: int = 0
    end_offset: int = 0


NOTHING_CONSUMED = ConsumedOffsets()


@dataclass(frozen=True)
class Outcomes:
    """What a checkpoint of the stream did with late and conflicting records."""

    #: What the checkpoint read. None: the stream recorded nothing.
    reading: Reading | None = None
    #: Stored trades that the stream has not counted: dropped as late, or not read yet.
    dropped: Sequence[Record] = ()
    #: Duplicates with different content that the stream counted.
    counted_twice: Sequence[Record] = ()
    #: Stored trades outside of the offsets that this checkpoint reads.
    never_read: Sequence[Record] = ()
    #: Records without enough evidence to tell whether the stream counted them.
    not_recorded: Sequence[Record] = ()
    #: Records in micro-batches whose reported numbers contradict these rules.
    contradicted: Sequence[Record] = ()


def outcomes(
    records: Sequence[Record],
    offset_ranges: Iterable[OffsetRange],
    reported: Mapping[int, tuple[int, int]],
    consumed: ConsumedOffsets,
    starts: Iterable[Start],
) -> list[Outcomes]:
    """Return what the stream did with these records: one item per checkpoint, newest first.

    Args:
        records: all late or conflicting records, in the order in which the consumer read them.
        offset_ranges: the offsets that the stream read, in the order of reading.
        reported: for each known micro-batch of the newest checkpoint, the number of records that
            it read, and the number that it dropped as late (`numRowsDroppedByWatermark`).
        consumed: the offsets that the consumer has read.
        starts: the checkpoints with their first offset.
    """
    offset_ranges = list(offset_ranges)
    by_checkpoint: dict[tuple[str, str], list[OffsetRange]] = {}
    for offset_range in offset_ranges:
        key = (offset_range.checkpoint, offset_range.topic)
        by_checkpoint.setdefault(key, []).append(offset_range)
    if not by_checkpoint:
        return [Outcomes(not_recorded=[record for record in records if record.kind != REPEAT])]
    return [
        _outcomes_of(
            records,
            by_checkpoint[reading.checkpoint, reading.topic],
            reading,
            reported if reading.is_newest else {},
            consumed,
        )
        for reading in reversed(readings(offset_ranges, starts))
    ]


#: The outcomes of a record.
_COUNTED, _LATE, _DUPLICATE, _NOT_READ, _NEVER_READ, _NOT_RECORDED = (
    "counted",
    "dropped as late",
    "dropped as duplicate",
    "not read yet",
    "never read",
    "not recorded",
)


class _Checkpoint:
    """A model of one checkpoint. It needs the records in the order of their offsets."""

    def __init__(self, offset_ranges: Sequence[OffsetRange], reading: Reading) -> None:
        self.topic = reading.topic
        self._reading = reading
        self._delay_s = offset_ranges[0].delay_s
        self._ordered = sorted(offset_ranges, key=attrgetter("end_offset"))
        self._ends = [offset_range.end_offset for offset_range in self._ordered]
        self._watermarks = [time_text(offset_range.watermark) for offset_range in self._ordered]
        #: By trade id: the watermark at which Spark removes the id from its state. "": the id is
        #: not in the state. None: unknown.
        self._expires_at: dict[int, str | None] = {}
        #: The records in each range of offsets, with their outcomes.
        self.outcomes: dict[OffsetRange, list[tuple[Record, str]]] = defaultdict(list)

    def process(self, record: Record, offset: int) -> str:
        """Return the outcome of the next record."""
        place = bisect_right(self._ends, offset)
        offset_range = self._ordered[place] if place < len(self._ordered) else None
        if self._reading.never_reads(offset, offset):
            outcome = _NEVER_READ
        elif offset_range is None:
            outcome = _NOT_READ
        elif offset < offset_range.counted_from:
            outcome = _NOT_RECORDED
        else:
            is_counted = offset < offset_range.first_offset
            outcome = _COUNTED if is_counted else self._outcome(record, self._watermarks[place])
            self.outcomes[offset_range].append((record, outcome))
        self._update_state(record, outcome)
        return outcome

    def _outcome(self, record: Record, watermark: str) -> str:
        if record.time <= watermark:
            return _LATE
        if record.kind == STORED:
            return _COUNTED
        if record.kind == REPEAT:  # the id stays in the state at least until its event time is late
            return _DUPLICATE
        expires_at = self._expires_at.get(
            record.trade_id, _plus_seconds(record.stored_time, self._delay_s)
        )
        if expires_at is None:
            return _NOT_RECORDED
        return _COUNTED if expires_at <= watermark else _DUPLICATE

    def _update_state(self, record: Record, outcome: str) -> None:
        if record.kind == REPEAT:
            return
        if outcome == _COUNTED:
            self._expires_at[record.trade_id] = _plus_seconds(record.time, self._delay_s)
        elif outcome == _NOT_RECORDED:
            self._expires_at[record.trade_id] = None
        elif record.kind == STORED:
            self._expires_at[record.trade_id] = ""


def _outcomes_of(
    records: Sequence[Record],
    offset_ranges: Sequence[OffsetRange],
    reading: Reading,
    reported: Mapping[int, tuple[int, int]],
    consumed: ConsumedOffsets,
) -> Outcomes:
    checkpoint = _Checkpoint(offset_ranges, reading)
    relevant = [record for record in records if record.kind != REPEAT]
    known = [(r.offset, r) for r in records if r.topic == checkpoint.topic and r.offset is not None]
    outcome_of = {
        record: checkpoint.process(record, offset)
        for offset, record in sorted(known, key=lambda pair: pair[0])
    }
    pairs = [(record, outcome_of.get(record, _NOT_RECORDED)) for record in relevant]
    contradictory = (
        read
        for offset_range, read in checkpoint.outcomes.items()
        if not _is_possible(offset_range, read, reported, consumed)
    )
    return Outcomes(
        reading=reading,
        never_read=[r for r, outcome in pairs if r.kind == STORED and outcome == _NEVER_READ],
        dropped=[r for r, outcome in pairs if r.kind == STORED and outcome in (_LATE, _NOT_READ)],
        counted_twice=[r for r, outcome in pairs if r.kind == CONFLICT and outcome == _COUNTED],
        not_recorded=[r for r, outcome in pairs if outcome == _NOT_RECORDED],
        contradicted=[record for read in contradictory for record, _ in read],
    )


def _is_possible(
    offset_range: OffsetRange,
    pairs: Sequence[tuple[Record, str]],
    reported: Mapping[int, tuple[int, int]],
    consumed: ConsumedOffsets,
) -> bool:
    """Return whether these outcomes fit the numbers that the stream reported for the records."""
    late = sum(outcome == _LATE for _, outcome in pairs)
    lost = late + sum(outcome == _DUPLICATE for _, outcome in pairs)
    if offset_range.dropped is not None and lost > offset_range.dropped:
        return False
    if any(record.kind == REPEAT and outcome == _COUNTED for record, outcome in pairs):
        return False
    count, dropped_as_late = reported.get(offset_range.micro_batch, (0, 0))
    all_recorded = (
        consumed.topic == offset_range.topic
        and consumed.first_offset <= offset_range.first_offset
        and offset_range.end_offset <= consumed.end_offset
    )
    if not all_recorded or count != offset_range.end_offset - offset_range.first_offset:
        return True  # not all records are in the evidence, or the report is of another micro-batch
    return dropped_as_late == late


def _plus_seconds(time: str, seconds: float) -> str:
    return time_text(datetime.fromisoformat(time) + timedelta(seconds=seconds))
