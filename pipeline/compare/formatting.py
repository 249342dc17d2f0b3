"""How the comparison writes numbers, times and counts. Unknown values are shown as a dash."""

import math
from datetime import timedelta
from numbers import Real

UNKNOWN = "–"  # noqa: RUF001 - a dash is meant


def number(value: object, pattern: str, unit: str = "") -> str:
    """Return a number in a format, with its unit; a dash for None, NaN and infinity.

    A number that is rounded to zero has no minus.
    """
    if not isinstance(value, Real) or not math.isfinite(value):
        return UNKNOWN
    sign = "+" if pattern.startswith("+") else ""
    return format(float(value), f"{sign}z{pattern.removeprefix('+')}") + unit


def seconds(value: object) -> str:
    """Return seconds with the precision that a reader needs: `0.43 s`, `5.2 s`, `1,204 s`."""
    size = abs(float(value)) if isinstance(value, Real) else math.nan
    decimals = 2 if size < 0.995 else 1 if size < 9.95 else 0
    return number(value, f",.{decimals}f", " s")


def count(value: float, noun: str) -> str:
    """Return a count with its noun: `1 window`, `1,440 windows`."""
    return f"{value:,.0f} {noun if value == 1 else noun + 's'}"


def percent(part: float, whole: float) -> str:
    """Return a share in percent, rounded down: only a whole is 100 %. A dash if `whole` is 0."""
    return f"{10_000 * int(part) // int(whole) / 100:.2f} %" if whole else UNKNOWN


def of_a_core(cpu_s_per_hour: float) -> str:
    """Return CPU seconds per hour as a share of one core: `42 %`, `0.04 %`."""
    share = cpu_s_per_hour / 36
    return f"{share:.0f} %" if share >= 1 else f"{share:.1g} %"


def length(span: timedelta) -> str:
    """Return a length of time in its largest whole unit: `1 minute`, `2 hours`, `90 seconds`."""
    whole = int(span.total_seconds())
    for name, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if whole and whole % size == 0:
            return count(whole // size, name)
    return count(whole, "second")


def elapsed(span_s: float | None) -> str:
    """Return a duration in its largest two units: 0.8 s, 45 s, 3 min 5 s, 2 h 5 min, 3 d 4 h."""
    if span_s is None or not math.isfinite(span_s):
        return UNKNOWN
    if abs(span_s) < 9.95:
        return f"{span_s:z.1f} s"
    left = round(abs(span_s))
    sign = "-" if span_s < 0 else ""
    for name, size, smaller, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if left >= size:
            rest = left % size // part
            return f"{sign}{left // size} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{sign}{left} s"


def window_time(start: str) -> str:
    """Return the start of a window, as the files write it, as a reader expects it."""
    return start[:19].replace("T", " ")


def confidence_interval(low: float | None, high: float | None, pattern: str, unit: str = "") -> str:
    """Return `+1.2 to +3.4 s`; a dash if an end is unknown or infinite."""
    if low is None or high is None or not math.isfinite(low + high):
        return UNKNOWN
    return f"{number(low, pattern)} to {number(high, pattern, unit)}"
