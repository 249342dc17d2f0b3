"""Latencies counted in fixed buckets: bounded, and added up by adding the counts. Pure.

Whoever knows both stamps of a leg counts it, by minute; quantiles are read from the sums.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

_STEPS = (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)  # ten a decade: a quantile is within 12 %
#: Upper bounds of the buckets, seconds. The last bucket has none: what is longer is unknown.
BOUNDS: tuple[float, ...] = (
    *(-round(step * 10**decade, 6) for decade in (1, 0, -1, -2) for step in reversed(_STEPS)),
    0.0,
    *(round(step * 10**decade, 6) for decade in range(-3, 5) for step in _STEPS),
)

#: Legs that the consumer counts: event time → receipt → commit.
EVENT_TO_RECEIPT = "event_to_receipt"
RECEIPT_TO_STORED = "receipt_to_stored"


#: Counted by the stream: first in the open view → in a final window.
OPEN_TO_FINAL = "open_to_final"


def bucket(seconds: float) -> int:
    """The bucket of a latency; negative where clocks differ."""
    return bisect_left(BOUNDS, seconds)


def counted(latencies: Iterable[tuple[float, int]]) -> Counter[int]:
    """Counts by bucket, of (seconds, how many)."""
    counts: Counter[int] = Counter()
    for seconds, weight in latencies:
        counts[bucket(seconds)] += weight
    return counts


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """The latency that this share stays at or below; None: nothing counted, or beyond all buckets.

    Within a bucket the latencies are taken as evenly spread.
    """
    wanted = share * sum(counts.values())
    below = 0
    for number in sorted(counts):
        if below + counts[number] >= wanted and counts[number]:
            if number in (0, len(BOUNDS)):
                return None
            low = BOUNDS[number - 1]
            return low + (BOUNDS[number] - low) * (wanted - below) / counts[number]
        below += counts[number]
    return None
