"""Which records the stream dropped as late, and which duplicates it counted: Spark's own rules.

Both follow from the offset of a record and the micro-batch that read it. In micro-batch k, with the
watermark W of micro-batch k-1, Spark drops a record if its event time is at or before W. It has
forgotten a trade id, and counts a duplicate of it, if the event time of the record that it counted
last, plus the delay of the watermark, is at or before W. Pure.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.ingest.store import CONFLICT, REPEAT, STORED, time_text
from pipeline.stream.micro_batches import Stretch


@dataclass(frozen=True)
class Record:
    """A record in Kafka that came late, or has the id of a stored trade and another content.

    Times are text, as stored.
    """

    #: Kafka's id of the topic, and the offset; None: not recorded.
    topic: str | None
    offset: int | None
    trade_id: int
    time: str
    side: str
    price: float
    size: float
    #: STORED, REPEAT or CONFLICT.
    kind: str
    #: Event time of the stored trade with this id.
    stored_time: str


@dataclass(frozen=True)
class Reading:
    """What the consumer has read with this version: the offsets of a topic."""

    topic: str | None = None
    first_offset: int = 0
    end_offset: int = 0


NOTHING_READ = Reading()


@dataclass(frozen=True)
class Fates:
    """What the stream did with late and conflicting records, as far as it concerns the windows."""

    #: Stored trades that the stream does not have: dropped as late, or not read yet.
    dropped: Sequence[Record] = ()
    #: Duplicates with another content that the stream counted.
    doubled: Sequence[Record] = ()
    #: Not known: what decides was not recorded.
    not_recorded: Sequence[Record] = ()
    #: In micro-batches for which the stream reported other numbers than these rules lead to.
    contradicted: Sequence[Record] = ()


def fates(
    records: Sequence[Record],
    stretches: Iterable[Stretch],
    reported: Mapping[int, tuple[int, int]],
    reading: Reading,
) -> list[Fates]:
    """Return what the stream did with these records by each checkpoint, the newest one first.

    Args:
        records: all late or conflicting records, in the order in which the consumer read them.
        stretches: what the stream read, in the order in which it read it.
        reported: by micro-batch of the newest checkpoint, how many records it read and how many of
            them it dropped as late (`numRowsDroppedByWatermark`), where that is known.
        reading: what the consumer has read.
    """
    by_checkpoint: dict[tuple[str, str], list[Stretch]] = {}
    for stretch in stretches:
        by_checkpoint.setdefault((stretch.checkpoint, stretch.topic), []).append(stretch)
    if not by_checkpoint:
        return [Fates(not_recorded=[record for record in records if record.kind != REPEAT])]
    newest = next(reversed(by_checkpoint))
    return [
        _fates_of(records, found, reported if key == newest else {}, reading)
        for key, found in reversed(by_checkpoint.items())
    ]


#: What became of a record.
_COUNTED, _LATE, _DUPLICATE, _NOT_READ, _NOT_RECORDED = (
    "counted",
    "dropped as late",
    "dropped as duplicate",
    "not read yet",
    "not recorded",
)


class _Checkpoint:
    """What the stream does with records that come in the order of their offsets."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.topic = stretches[0].topic
        self._delay_s = stretches[0].delay_s
        self._ordered = sorted(stretches, key=lambda stretch: stretch.end_offset)
        self._ends = [stretch.end_offset for stretch in self._ordered]
        #: By trade id: until when Spark remembers it; "": it does not, None: that is not known.
        self._remembered: dict[int, str | None] = {}
        #: The records in each stretch, and what became of them.
        self.read: dict[Stretch, list[tuple[Record, str]]] = defaultdict(list)

    def take(self, record: Record, offset: int) -> str:
        """Return what becomes of the record."""
        place = bisect_right(self._ends, offset)
        stretch = self._ordered[place] if place < len(self._ordered) else None
        if stretch is None:
            fate = _NOT_READ
        elif offset < stretch.counted_from:
            fate = _NOT_RECORDED
        else:
            fate = self._fate(record, offset, stretch)
            self.read[stretch].append((record, fate))
        self._remember(record, fate)
        return fate

    def _fate(self, record: Record, offset: int, stretch: Stretch) -> str:
        if offset < stretch.first_offset:
            return _COUNTED
        watermark = time_text(stretch.watermark)
        if record.time <= watermark:
            return _LATE
        if record.kind == STORED:
            return _COUNTED
        if record.kind == REPEAT:  # Spark remembers an id at least until its content is late
            return _DUPLICATE
        until = self._remembered.get(record.trade_id, _later(record.stored_time, self._delay_s))
        if until is None:
            return _NOT_RECORDED
        return _COUNTED if until <= watermark else _DUPLICATE

    def _remember(self, record: Record, fate: str) -> None:
        if record.kind == REPEAT:
            return
        if fate == _COUNTED:
            self._remembered[record.trade_id] = _later(record.time, self._delay_s)
        elif fate == _NOT_RECORDED:
            self._remembered[record.trade_id] = None
        elif record.kind == STORED:
            self._remembered[record.trade_id] = ""


def _fates_of(
    records: Sequence[Record],
    stretches: Sequence[Stretch],
    reported: Mapping[int, tuple[int, int]],
    reading: Reading,
) -> Fates:
    checkpoint = _Checkpoint(stretches)
    relevant = [record for record in records if record.kind != REPEAT]
    known = [(r.offset, r) for r in records if r.topic == checkpoint.topic and r.offset is not None]
    fate_of = {
        record: checkpoint.take(record, offset)
        for offset, record in sorted(known, key=lambda pair: pair[0])
    }
    fated = [(record, fate_of.get(record, _NOT_RECORDED)) for record in relevant]
    contradictory = (
        read
        for stretch, read in checkpoint.read.items()
        if not _is_possible(stretch, read, reported, reading)
    )
    return Fates(
        dropped=[r for r, fate in fated if r.kind == STORED and fate in (_LATE, _NOT_READ)],
        doubled=[r for r, fate in fated if r.kind == CONFLICT and fate == _COUNTED],
        not_recorded=[r for r, fate in fated if fate == _NOT_RECORDED],
        contradicted=[record for read in contradictory for record, _ in read],
    )


def _is_possible(
    stretch: Stretch,
    judged: Sequence[tuple[Record, str]],
    reported: Mapping[int, tuple[int, int]],
    reading: Reading,
) -> bool:
    """Return whether these fates fit what the stream reported of the same records."""
    late = sum(fate == _LATE for _, fate in judged)
    lost = late + sum(fate == _DUPLICATE for _, fate in judged)
    if stretch.dropped is not None and lost > stretch.dropped:
        return False
    if any(record.kind == REPEAT and fate == _COUNTED for record, fate in judged):
        return False
    count, dropped_as_late = reported.get(stretch.micro_batch, (0, 0))
    whole = (
        reading.topic == stretch.topic
        and reading.first_offset <= stretch.first_offset
        and stretch.end_offset <= reading.end_offset
    )
    if not whole or count != stretch.end_offset - stretch.first_offset:
        return True  # not all of these records were recorded, or not this micro-batch reported
    return dropped_as_late == late


def _later(time: str, seconds: float) -> str:
    return time_text(datetime.fromisoformat(time) + timedelta(seconds=seconds))
