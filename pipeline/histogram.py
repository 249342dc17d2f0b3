"""Histograms of latencies: fixed buckets, so that histograms are added by adding counts. Pure.

The process that holds both timestamps of a leg counts its latencies. The comparison adds the counts
and reads quantiles from the sums.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

_STEPS = (
    1,
    1.25,
    1.6,
    2,
    2.5,
    3.15,
    4,
    5,
    6.3,
    8,
)  # ten per decade: a quantile is exact within 12 %
#: Upper bounds of the buckets, in seconds. One more bucket counts longer latencies.
BOUNDS: tuple[float, ...] = (
    *(-round(step * 10**decade, 6) for decade in (1, 0, -1, -2) for step in reversed(_STEPS)),
    0.0,
    *(round(step * 10**decade, 6) for decade in range(-3, 5) for step in _STEPS),
)

#: The legs that the consumer counts: event time → receipt → commit.
EVENT_TO_RECEIPT = "event_to_receipt"
RECEIPT_TO_STORED = "receipt_to_stored"

#: The leg that the stream counts: first visible in an open window → visible in a final window.
OPEN_TO_FINAL = "open_to_final"


def bucket(seconds: float) -> int:
    """Return the number of the bucket of a latency, which is negative if two clocks differ."""
    return bisect_left(BOUNDS, seconds)


def count(latencies: Iterable[tuple[float, int]]) -> Counter[int]:
    """Return the counts by bucket of pairs (seconds, how many)."""
    counts: Counter[int] = Counter()
    for seconds, weight in latencies:
        counts[bucket(seconds)] += weight
    return counts


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """Return the latency that a share of the latencies does not exceed, in seconds.

    Within a bucket, latencies are assumed to be evenly distributed.

    Returns:
        None if nothing is counted or the latency lies in the first or the last bucket.
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
