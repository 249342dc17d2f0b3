"""The results of a measurement: numbers, ratios, marks, and their table. Pure functions."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

#: What the pipeline is compared with, if a result names nothing else.
BASELINE = "plain job"


@dataclass(frozen=True)
class Mark:
    """A limit for the value of the pipeline, or for its ratio to the value it is compared with."""

    at_least: float | None = None
    at_most: float | None = None
    of_ratio: bool = False

    def __str__(self) -> str:
        sign, limit = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{'ratio ' if self.of_ratio else ''}{sign} {shown(limit)}"

    def reached(self, value: float) -> bool:
        """Return whether a value is within the limit."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


@dataclass(frozen=True)
class Result:
    """One row of the table. A value that was not measured is None.

    Attributes:
        ours: the value of this project.
        baseline: the value of what it is compared with.
        compared_with: its name.
    """

    what: str
    unit: str
    ours: float | None
    baseline: float | None = None
    mark: Mark | None = None
    compared_with: str = BASELINE

    @property
    def ratio(self) -> float | None:
        """The value of the pipeline divided by the value it is compared with."""
        if self.ours is None or not self.baseline:
            return None
        return self.ours / self.baseline

    @property
    def reached(self) -> bool | None:
        """Whether the mark was reached; None without a mark or without a value."""
        if self.mark is None:
            return None
        value = self.ratio if self.mark.of_ratio else self.ours
        return None if value is None else self.mark.reached(value)


def shown(value: float | None) -> str:
    """Return a number with at least three digits, None as `-`: 52300 → 52,300; 0.0123 → 0.0123."""
    if value is None:
        return "-"
    if value and abs(value) < 100:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:,.0f}"


def from_json(row: dict[str, Any]) -> Result:
    """Return the result that `as_json` wrote."""
    mark = row["goal"]  # stored results use the key `goal`
    fields = {name: row[name] for name in ("what", "unit", "ours", "baseline", "compared_with")}
    return Result(**fields, mark=None if mark is None else Mark(**mark))


def as_json(result: Result) -> dict[str, Any]:
    """Return a result as a JSON object, with its ratio and whether its mark was reached."""
    mark = result.mark
    return {
        "what": result.what,
        "unit": result.unit,
        "ours": result.ours,
        "baseline": result.baseline,
        "compared_with": result.compared_with,
        "ratio": result.ratio,
        "goal": None
        if mark is None
        else {"at_least": mark.at_least, "at_most": mark.at_most, "of_ratio": mark.of_ratio},
        "reached": result.reached,
    }


def table(results: Iterable[Result]) -> str:
    """Return the results as a Markdown table with aligned columns."""
    outcome = {None: "", True: "reached", False: "NOT reached"}
    head = ("what", "unit", "this project", "compared with", "its value", "ratio", "mark", "")
    rows = [
        (
            result.what,
            result.unit,
            shown(result.ours),
            "" if result.baseline is None else result.compared_with,
            "" if result.baseline is None else shown(result.baseline),
            "" if result.ratio is None else shown(result.ratio),
            str(result.mark or ""),
            outcome[result.reached],
        )
        for result in results
    ]
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
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
