"""Count how far each trade came behind the newest event time. Pure.

The comparison chooses a watermark by these counts. A trade can be dropped only if it is at least a
watermark behind the newest event time before it. Spark compares it with the newest event time of
the micro-batches before the previous one. The consumer does not see the micro-batches. It assumes
that each of them has the records that were received in one trigger interval.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

#: The event time with which a trade is compared: the newest one before it, or the newest one of the
#: micro-batches before the previous one.
NEWEST, MICRO_BATCHES = "newest", "micro_batches"
#: The bucket of trades that are newer than the event time with which they are compared.
NOT_BEHIND = -1
#: The last bucket. Bucket n counts lags from n seconds to less than n + 1 seconds. The last one
#: also counts all longer lags.
LONGEST = 600

_EPOCH = datetime.fromtimestamp(0, UTC)
_SECOND, _MINUTE = timedelta(seconds=1), timedelta(minutes=1)
_IN_ORDER = (NOT_BEHIND, NOT_BEHIND)
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Position:
    """The newest event times at a place in the topic. None: there was no trade."""

    #: When the current micro-batch began to collect records. None: no record has a time of receipt.
    started: datetime | None = None
    #: The newest event time of all micro-batches before the previous one.
    before_previous: datetime | None = None
    #: The newest event time of all micro-batches before this one.
    before: datetime | None = None
    #: The newest event time so far.
    newest: datetime | None = None

    def at(self, received: datetime, interval: timedelta) -> "Position":
        """Return the position in the micro-batch of a record; this one if it is not a later one."""
        start = received - (received - _EPOCH) % interval
        if self.started is None:
            return replace(self, started=start)
        if start <= self.started:
            return self
        # Without records for an interval, Spark advances the watermark in an empty micro-batch.
        follows = start - self.started < 2 * interval
        return Position(start, self.before if follows else self.newest, self.newest, self.newest)


def count_lags(
    arrivals: Iterable[tuple[datetime, datetime | None, bool]],
    position: Position,
    interval: timedelta,
) -> tuple[Counter[tuple[datetime, str, int]], Position]:
    """Return the number of trades by lag, and the position after them.

    Args:
        arrivals: trades in the order of the topic: event time, time of receipt, and whether the
            trade counts. A trade without a time of receipt is backfilled and does not count.
        position: the position before them.
        interval: from the start of one micro-batch to the start of the next.

    Returns:
        The number of trades by minute of receipt, NEWEST or MICRO_BATCHES, and bucket.
    """
    counts: Counter[tuple[datetime, str, int]] = Counter()
    of_minute: list[tuple[int, int]] = []
    newest, reference = position.newest or _NEVER, position.before_previous or _NEVER
    # Most trades are in the same minute and micro-batch as the trade before them.
    minute, next_minute, next_start = _NEVER, _NEVER, _NEVER
    for event_time, received, is_counted in arrivals:
        if received is not None and received >= next_start:
            position = replace(position, newest=_known(newest)).at(received, interval)
            reference = position.before_previous or _NEVER
            next_start = (position.started or received) + interval
        if received is not None and not minute <= received < next_minute:
            _add(counts, minute, of_minute)
            minute, of_minute = received.replace(second=0, microsecond=0), []
            next_minute = minute + _MINUTE
        if event_time > newest:
            newest, buckets = event_time, _IN_ORDER
        else:
            behind = NOT_BEHIND if event_time > reference else bucket(reference - event_time)
            buckets = (bucket(newest - event_time), behind)
        if is_counted and received is not None:
            of_minute.append(buckets)
    _add(counts, minute, of_minute)
    return counts, replace(position, newest=_known(newest))


def _known(moment: datetime) -> datetime | None:
    return None if moment is _NEVER else moment


def _add(
    counts: Counter[tuple[datetime, str, int]],
    minute: datetime,
    of_minute: Iterable[tuple[int, int]],
) -> None:
    for buckets, count in Counter(of_minute).items():
        for kind, number in zip((NEWEST, MICRO_BATCHES), buckets, strict=True):
            counts[minute, kind, number] += count


def bucket(lag: timedelta) -> int:
    """Return the bucket of a lag. A negative lag is not behind."""
    return max(NOT_BEHIND, min(lag // _SECOND, LONGEST))
