"""Count how far each trade came behind the newest event time. Pure.

The comparison computes from these counts how many trades other watermarks would have dropped. A
trade can be dropped only if it is at least a watermark behind the newest event time before it.
Spark compares it with the newest event time of the micro-batches before the previous one. The
consumer does not see the micro-batches. It assumes that each of them has the records that were
received in one trigger interval.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pipeline import times

#: The event time with which a trade is compared: the newest one before it, or the newest one of the
#: micro-batches before the previous one.
NEWEST, MICRO_BATCHES = "newest", "micro_batches"
#: The bucket of trades that are newer than the event time with which they are compared.
NOT_BEHIND = -1
#: The last bucket. Bucket n counts lags from n seconds to less than n + 1 seconds. The last one
#: also counts all longer lags.
LONGEST = 600

_SECOND, _MINUTE = timedelta(seconds=1), timedelta(minutes=1)
_IN_ORDER, _WITHIN_A_SECOND = (NOT_BEHIND, NOT_BEHIND), (0, NOT_BEHIND)
_NEVER = datetime.min.replace(tzinfo=UTC)


class Position(NamedTuple):
    """The newest event times at a place in the topic. None: there was no trade."""

    #: When the current micro-batch began to collect records. None: no record has a time of receipt.
    started: datetime | None = None
    #: The newest event time of all micro-batches before the previous one.
    before_previous: datetime | None = None
    #: The newest event time of all micro-batches before this one.
    before: datetime | None = None
    #: The newest event time so far.
    newest: datetime | None = None


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
    started = position.started
    reference, before, newest = (moment or _NEVER for moment in position[1:])
    minute, next_minute = _NEVER, _NEVER
    next_start = _NEVER if started is None else started + interval
    for event_time, received, is_counted in arrivals:
        if received is not None:
            # An earlier time of receipt means that the clock was set back.
            if started is None or not started <= received < next_start:
                if started is not None:
                    # After an interval without records, Spark has run an empty micro-batch.
                    reference = before if received < next_start + interval else newest
                    before = newest
                started = times.floor(received, interval)
                next_start = started + interval
            if not minute <= received < next_minute:
                _add(counts, minute, of_minute)
                minute, of_minute = received.replace(second=0, microsecond=0), []
                next_minute = minute + _MINUTE
        if event_time > newest:
            newest, buckets = event_time, _IN_ORDER
        elif event_time > reference and newest - event_time < _SECOND:
            buckets = _WITHIN_A_SECOND
        else:
            buckets = (bucket(newest - event_time), bucket(reference - event_time))
        if is_counted and received is not None:
            of_minute.append(buckets)
    _add(counts, minute, of_minute)
    return counts, Position(started, *map(_known, (reference, before, newest)))


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
