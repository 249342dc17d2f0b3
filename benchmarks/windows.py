"""The windows that follow from a recording, computed independently, and a check against them.

`tests/golden/` decides which messages are trades and adds them up. It uses no code of the
pipeline.
"""

import csv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from feed import recording
from tests import golden

#: The end of a final window is at least this long before the newest trade, microseconds.
WATERMARK = 60_000_000
#: Columns that every engine writes.
COUNTS = ("trade_count", "buy_count")
AMOUNTS = ("avg_price", "max_price", "min_price", "total_volume")
#: Greatest relative difference of a sum of doubles. Exact results differ by rounding only: 1e-9.
DOUBLES = Decimal("1e-12")
EXACT = Decimal("1e-9")

#: The values of a window by column, and all windows by their start, microseconds since 1970.
Window = Mapping[str, object]
Windows = Mapping[int, Window]


@dataclass(frozen=True)
class Expected:
    """The windows of a recording.

    Attributes:
        distinct: each trade counts once.
        repeated: repeated deliveries of a trade count again, as without deduplication. Empty if
            they were not asked for.
        newest: the newest event time, microseconds since 1970.
        messages: number of messages.
    """

    distinct: Windows
    repeated: Windows
    newest: int
    messages: int

    def closed(self) -> set[int]:
        """Return the windows that are final when all messages are processed."""
        return {
            start for start in self.distinct if start + golden.MINUTE + WATERMARK <= self.newest
        }


def expected(path: Path, *, repeats: bool) -> Expected:
    """Compute the windows of a recording, with `repeats` also those without deduplication."""
    now = datetime.now(UTC)
    seen: set[int] = set()
    sums: tuple[dict[int, golden.Sums], ...] = ({}, {})
    newest = messages = 0
    for line in recording.read(path):
        messages += 1
        try:
            trade = golden.trade_in(line.frame, now)
        except golden.InvalidError:
            continue
        start = trade.time // golden.MINUTE * golden.MINUTE
        newest = max(newest, trade.time)
        for of, counts in zip(sums, (trade.trade_id not in seen, repeats), strict=True):
            if counts:
                of.setdefault(start, golden.Sums()).add(trade)
        seen.add(trade.trade_id)
    distinct, repeated = ({start: window.metrics() for start, window in of.items()} for of in sums)
    return Expected(distinct, repeated, newest, messages)


@dataclass(frozen=True)
class Check:
    """How many windows of an engine are right, wrong and missing."""

    right: int
    wrong: int
    missing: int

    def __str__(self) -> str:
        return f"{self.right:,} / {self.wrong:,} / {self.missing:,}"


def check(found: Windows, right: Windows, closed: Collection[int], tolerance: Decimal) -> Check:
    """Compare the windows of an engine with the right ones.

    Args:
        found: the windows of the engine.
        right: the independent computation.
        closed: the windows that have to be there. Others are not checked.
        tolerance: greatest relative difference of an amount.
    """
    present = [start for start in closed if start in found]
    equal = sum(_equal(found[start], right[start], tolerance) for start in present)
    outside = sum(start not in right for start in found)
    missing = len(closed) - len(present)
    return Check(equal, len(present) - equal + outside, missing)


def _equal(found: Window, right: Window, tolerance: Decimal) -> bool:
    if any(int(str(found[name])) != right[name] for name in COUNTS if name in found):
        return False
    pairs = [(Decimal(str(found[name])), Decimal(str(right[name]))) for name in AMOUNTS]
    return all(
        abs(value - wanted) <= max(EXACT, abs(wanted) * tolerance) for value, wanted in pairs
    )


def read_csv(folder: Path) -> Windows:
    """Return the windows in the CSV files of a directory, without a row that is cut off.

    Each file has a header.
    """
    found: dict[int, Window] = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if None in row.values():  # it is being written
                    continue
                found[micros(row["window_start"])] = row
    return found


def micros(text: str) -> int:
    """Return the microseconds since 1970 of a time in UTC, with or without its zone."""
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000


class RowCounter:
    """Counts the rows in the CSV files of a directory. It reads only files that changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counted: dict[str, tuple[int, int]] = {}

    def count(self) -> int:
        """Return the number of rows now, headers excluded."""
        for path in self._folder.glob("*.csv"):
            version = path.stat().st_mtime_ns
            if self._counted.get(path.name, (0, 0))[0] != version:
                rows = max(0, path.read_bytes().count(b"\n") - 1)
                self._counted[path.name] = (version, rows)
        return sum(rows for _, rows in self._counted.values())
