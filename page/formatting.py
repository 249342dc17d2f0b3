"""How numbers, times and ages are written on the page. What is unknown is a dash, never 0."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from numbers import Real

DASH = "–"  # noqa: RUF001 - a dash is meant


def is_known(value: object) -> bool:
    """Whether a cell of a table holds anything: not None, NaN or NaT."""
    return value is not None and value == value  # noqa: PLR0124 - NaN and NaT differ from themselves


def number(value: object) -> float | None:
    """A finite number, also from its text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | Real):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def moment(value: object) -> datetime | None:
    """A time with its zone, from ISO text or a timestamp; None for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime) or not is_known(value) or value.tzinfo is None:
        return None
    return value.astimezone(UTC)


def age(seconds: float | None) -> str:
    """How long, in the largest two units: 0.8 s, 45 s, 3 min 5 s, 2 h 5 min, 3 d 4 h."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if abs(seconds) < 10:
        return f"{seconds:.1f} s"
    left = round(abs(seconds))
    sign = "-" if seconds < 0 else ""
    for name, size, smaller, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if left >= size:
            rest = left % size // part
            return f"{sign}{left // size} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{sign}{left} s"


def seconds_since(then: datetime | None, now: datetime) -> float | None:
    return None if then is None else (now - then).total_seconds()


def ago(then: datetime | None, now: datetime) -> str:
    """`45 s ago`; a time ahead of the clock is said to be so."""
    seconds = seconds_since(then, now)
    if seconds is None:
        return DASH
    return f"{age(seconds)} ago" if seconds >= 0 else f"{age(-seconds)} ahead of this clock"


def apart(one: datetime | None, other: datetime | None) -> str:
    """`32 s older` than the other, or newer."""
    if one is None or other is None:
        return DASH
    seconds = (other - one).total_seconds()
    return f"{age(abs(seconds))} {'older' if seconds > 0 else 'newer'}" if seconds else "="


def clock(when: datetime | None) -> str:
    return DASH if when is None else f"{when.astimezone(UTC):%H:%M:%S}"


def day_and_clock(when: datetime | None) -> str:
    return DASH if when is None else f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def length(span: timedelta) -> str:
    """A span as people say it: 1 minute, 5 minutes, 2 hours, 1 day."""
    seconds = int(span.total_seconds())
    for name, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds % size == 0:
            n = seconds // size
            return f"{n} {name}" + ("s" if n != 1 else "")
    return f"{seconds} second" + ("s" if seconds != 1 else "")


def count(value: object) -> str:
    found = number(value)
    return DASH if found is None else f"{found:,.0f}"


def with_unit(written: str, unit: str) -> str:
    """`310 ms`; a dash stays a dash."""
    return written if written == DASH else f"{written} {unit}"


def price(value: object, *, sign: bool = False) -> str:
    """A price, with as many decimals as its size asks for."""
    found = number(value)
    if found is None:
        return DASH
    size = abs(found)
    decimals = 2 if size >= 1 or size == 0 or (sign and size >= 0.01) else 8
    return f"{found:{'+' if sign else ''},.{decimals}f}"


def amount(value: object) -> str:
    """A traded volume, base currency."""
    found = number(value)
    if found is None:
        return DASH
    return f"{found:,.4f}" if abs(found) >= 0.00005 or found == 0 else f"{found:.8f}"


def ratio(value: object) -> str:
    """A plain number; an astronomic one (the ratio of a minute without sells) in short form."""
    found = number(value)
    if found is None:
        return DASH
    if abs(found) >= 1e5:
        return f"{found:.3g}"
    return f"{found if abs(found) >= 0.0005 else 0:,.3f}"


def difference(value: object, write: Callable[[object], str] = count) -> str:
    """How much more or less, with its sign; `=` where it is nothing."""
    found = number(value)
    if found is None:
        return DASH
    if found == 0:
        return "="
    if write is price:
        return price(found, sign=True)
    written = write(abs(found))
    if not written.strip("0."):  # less than what is written of such a number
        written = f"{abs(found):.2g}"
    return f"{'+' if found > 0 else '-'}{written}"


def percent(value: object) -> str:
    found = number(value)
    return DASH if found is None else f"{found * 100:+.2f} %"


def seconds(value: object) -> str:
    found = number(value)
    return DASH if found is None else f"{found:.2f} s"


def text(value: object) -> str:
    """Text from a file, on one line and of bounded length; a dash when there is none."""
    if not is_known(value) or value == "":
        return DASH
    line = " ".join(str(value).split())
    return line if len(line) <= 300 else line[:299] + "…"
