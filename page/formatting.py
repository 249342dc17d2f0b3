"""Format numbers, times and ages for the page. Unknown values appear as a dash, never as 0.

The `z` in a number format removes the minus of a number that is rounded to zero.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from numbers import Real

from pipeline.compare.formatting import UNKNOWN, elapsed

DASH = UNKNOWN
age = elapsed
TIMES = "×"  # noqa: RUF001 - the sign of multiplication is meant


def is_known(value: object) -> bool:
    """Return whether a value is there: not None, NaN or NaT."""
    return value is not None and value == value  # noqa: PLR0124 - NaN and NaT differ from themselves


def number(value: object) -> float | None:
    """Return a finite number, also from text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | Real):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def moment(value: object) -> datetime | None:
    """Return a UTC time from ISO text or a timestamp with a zone; None for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime) or not is_known(value) or value.tzinfo is None:
        return None
    return value.astimezone(UTC)


def seconds_since(then: datetime | None, now: datetime) -> float | None:
    return None if then is None else (now - then).total_seconds()


def ago(then: datetime | None, now: datetime) -> str:
    """Return `45 s ago`; `just now` or `5.0 s in the future` for a clock that is ahead."""
    seconds = seconds_since(then, now)
    if seconds is None:
        return DASH
    if seconds >= 0:
        return f"{age(seconds)} ago"
    return "just now" if seconds > -1 else f"{age(-seconds)} in the future"


def clock(when: datetime | None) -> str:
    return DASH if when is None else f"{when.astimezone(UTC):%H:%M:%S}"


def day_and_clock(when: datetime | None) -> str:
    return DASH if when is None else f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def count(value: object) -> str:
    found = number(value)
    return DASH if found is None else f"{found:z,.0f}"


def many(value: object, noun: str) -> str:
    """Return `1 window` or `12 windows`; a dash for an unknown number."""
    written = count(value)
    return f"{written} {noun}" + ("" if written == "1" else "s")


def with_unit(written: str, unit: str) -> str:
    """Return `310 ms`; a dash stays a dash."""
    return written if written == DASH else f"{written} {unit}"


def price_decimals(lowest: object) -> int:
    """Return the number of decimals for prices of a market, by its lowest price."""
    found = number(lowest)
    return 2 if found is None or found >= 1 else 8


def price(value: object, *, sign: bool = False) -> str:
    """Return a price with 2 decimals, or with 8 if it is below 1 (a change: below 0.01)."""
    found = number(value)
    if found is None:
        return DASH
    size = abs(found)
    # The difference of two prices has a floating-point error: 0.01 can become 0.0099999.
    decimals = 2 if size >= 1 or size == 0 or (sign and round(size, 8) >= 0.01) else 8
    return f"{found:{'+' if sign else ''}z,.{decimals}f}"


def amount(value: object) -> str:
    """Return a traded volume, in the base currency."""
    found = number(value)
    if found is None:
        return DASH
    return f"{found:,.4f}" if abs(found) >= 0.00005 or found == 0 else f"{found:z.8f}"


def ratio(value: object) -> str:
    """Return a ratio; a huge one, as of a window without sells, in scientific notation."""
    found = number(value)
    if found is None:
        return DASH
    return f"{found:.3g}" if abs(found) >= 1e5 else f"{found:z,.3f}"


def difference(value: object, write: Callable[[object], str]) -> str:
    """Return a difference with its sign; `=` for zero."""
    found = number(value)
    if found is None:
        return DASH
    if found == 0:
        return "="
    if write is price:
        return price(found, sign=True)
    written = write(abs(found))
    if not written.strip("0."):  # smaller than the last decimal that `write` shows
        written = f"{abs(found):.2g}"
    return f"{'+' if found > 0 else '-'}{written}"


def percent(value: object) -> str:
    """Return a share in percent, with its sign."""
    found = number(value)
    if found is None:
        return DASH
    shown = round(found * 100, 2) + 0.0  # no negative zero
    return f"{shown:+.2f} %" if shown else "0.00 %"


def text(value: object) -> str:
    """Return text from a file, on one line and cut to 300 characters; a dash for no text."""
    if not is_known(value) or value == "":
        return DASH
    line = " ".join(str(value).split())
    return line if len(line) <= 300 else line[:299] + "…"
