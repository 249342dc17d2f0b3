"""A set of trade ids, kept as ranges of consecutive ids. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

#: Maximum number of ranges. Above it, the lowest gap counts as part of the set.
MAX_RANGES = 10_000


class IdRanges:
    """A set of ids. Its memory grows with the number of gaps, not with the number of ids."""

    def __init__(self) -> None:
        #: The first and the last id of each range, in ascending order.
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __contains__(self, number: int) -> bool:
        place = bisect_left(self._lasts, number)
        return place < len(self._lasts) and self._firsts[place] <= number

    def lowest(self) -> int | None:
        """Return the lowest id; None if the set is empty."""
        return self._firsts[0] if self._firsts else None

    def add(self, first: int, last: int | None = None) -> None:
        """Add an id, or all ids from `first` to `last`."""
        last = first if last is None else last
        if self._lasts and self._lasts[-1] + 1 == first:  # almost every id
            self._lasts[-1] = last
            return
        low = bisect_left(self._lasts, first - 1)
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]
        if len(self._firsts) > MAX_RANGES:
            del self._lasts[0], self._firsts[1]

    def fill_below(self, number: int) -> None:
        """Add all ids between the lowest id of the set and a higher id."""
        if self._firsts and self._firsts[0] < number:
            self.add(self._firsts[0], number)

    def update(self, other: "IdRanges") -> None:
        """Add all ids of another set."""
        for first, last in other.ranges():
            self.add(first, last)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the first and the last id of each range, oldest first."""
        return zip(self._firsts, self._lasts, strict=True)

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the first and the last id of each gap between two ids of the set, newest first."""
        for place in range(len(self._firsts) - 1, 0, -1):
            yield self._lasts[place - 1] + 1, self._firsts[place] - 1
