"""Find stored trades that the stream could not read, because Kafka had deleted their records. Pure.

A checkpoint reads the offsets from its start up to its end. It starts at the oldest record that
Kafka has. If that is after the end of the checkpoint before, no checkpoint read the records between
the two.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.stream_offsets import OffsetRange, Start


@dataclass(frozen=True)
class Reading:
    """The offsets of a topic that one checkpoint read, without the end. None: unknown."""

    checkpoint: str
    topic: str
    start: int | None
    end: int
    #: Whether no other checkpoint follows. The newest one continues to read after `end`.
    is_newest: bool = False

    def never_reads(self, first: int, last: int) -> bool | None:
        """Return whether the checkpoint never reads an offset. None: unknown.

        Args:
            first: the least possible offset.
            last: the greatest possible offset.
        """
        if not self.is_newest and first >= self.end:
            return True
        if self.start is None:
            return None
        if last < self.start:
            return True
        is_read = first >= self.start and (self.is_newest or last < self.end)
        return False if is_read else None


@dataclass(frozen=True, slots=True)  # there can be millions
class PlacedTrade:
    """A stored trade, and the least and the greatest offset that its record can have.

    The time is text in the format of the database.
    """

    first_offset: int
    last_offset: int
    trade_id: int
    time: str
    side: str
    price: float
    size: float

    def merged(self, other: "PlacedTrade") -> "PlacedTrade":
        """Return the trade with all offsets that are possible in either of two transactions."""
        return replace(
            self,
            first_offset=min(self.first_offset, other.first_offset),
            last_offset=max(self.last_offset, other.last_offset),
        )


@dataclass(frozen=True)
class PlacedTrades:
    """The trades around the offsets that a checkpoint skipped, except late ones.

    These are all trades with an event time from `since` up to `until`. The times are text in the
    format of the database.
    """

    topic: str
    #: The first offset, and the offset after the last one.
    skipped: tuple[int, int]
    since: str
    until: str
    trades: Sequence[PlacedTrade]

    def has_window_of(self, offset: int | None, time: str) -> bool:
        """Return whether a late record was skipped, or `trades` has the others of its window."""
        first, end = self.skipped
        return self.since <= time < self.until or (offset is not None and first <= offset < end)


def readings(offset_ranges: Iterable[OffsetRange], starts: Iterable[Start]) -> list[Reading]:
    """Return what each checkpoint read, ordered by their newest reads.

    Args:
        offset_ranges: the record of the stream, in the order of reading.
        starts: the checkpoints with their first offset.
    """
    ends: dict[tuple[str, str], int] = {}
    for each in offset_ranges:
        key = (each.checkpoint, each.topic)
        # Moved to the end, so that the last key belongs to the newest checkpoint. An older
        # checkpoint continues when WATERMARK is changed and changed back.
        ends[key] = max(each.end_offset, ends.pop(key, 0))
    newest = next(reversed(ends), None)
    first = {(start.checkpoint, start.topic): start.first_offset for start in starts}
    return [Reading(*key, first.get(key), end, key == newest) for key, end in ends.items()]
