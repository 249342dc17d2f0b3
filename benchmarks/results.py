"""The results of a measurement: numbers, ratios, goals, and their table. Pure functions."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A limit for the value of the pipeline, or for its ratio to the value of the baseline."""

    at_least: float | None = None
    at_most: float | None = None
    of_ratio: bool = False

    def __str__(self) -> str:
        sign, limit = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {shown(limit)}{' times the baseline' if self.of_ratio else ''}"

    def reached(self, value: float) -> bool:
        """Return whether a value is within the limit."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


@dataclass(frozen=True)
class Result:
    """One row of the table. A value that was not measured is None."""

    what: str
    unit: str
    ours: float | None
    baseline: float | None = None
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """The value of the pipeline divided by that of the baseline."""
        if self.ours is None or not self.baseline:
            return None
        return self.ours / self.baseline

    @property
    def reached(self) -> bool | None:
        """Whether the goal was reached; None without a goal or without a value."""
        if self.goal is None:
            return None
        value = self.ratio if self.goal.of_ratio else self.ours
        return None if value is None else self.goal.reached(value)


def shown(value: float | None) -> str:
    """Return a number with at least three digits, None as `-`: 52300 → 52,300; 0.0123 → 0.0123."""
    if value is None:
        return "-"
    if value and abs(value) < 100:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:,.0f}"


def table(results: Iterable[Result]) -> str:
    """Return the results as a Markdown table with aligned columns."""
    outcome = {None: "", True: "reached", False: "NOT reached"}
    head = ("what", "unit", "ours", "baseline", "ours / baseline", "goal", "")
    rows = [
        (
            result.what,
            result.unit,
            shown(result.ours),
            shown(result.baseline),
            shown(result.ratio),
            str(result.goal or ""),
            outcome[result.reached],
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile by the nearest-rank method; None without values."""
    if not values:
        return None
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(0, rank - 1)]


def rate(counted: Sequence[tuple[float, int]]) -> float | None:
    """Return the items per second of a series; None if it is too short.

    Args:
        counted: (time in seconds, items completed since the previous time). The items of the first
            pair do not count, because their duration is unknown.
    """
    if len(counted) < 2:
        return None
    seconds = counted[-1][0] - counted[0][0]
    return sum(count for _, count in counted[1:]) / seconds if seconds > 0 else None


def per_minute(samples: Sequence[tuple[float, float]], begin: float, end: float) -> float | None:
    """Return the growth per minute of a running total of (second, value) between two times."""
    inside = [sample for sample in samples if begin <= sample[0] <= end]
    if len(inside) < 2:
        return None
    (first, low), (last, high) = inside[0], inside[-1]
    return (high - low) / (last - first) * 60
