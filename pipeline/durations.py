"""Texts of durations: `1 minute` in a setting, `PT1M` in a status file. Pure."""

import re
from datetime import timedelta

_UNITS = {"second": 1, "minute": 60, "hour": 3600}
_DURATION = re.compile(r"([1-9][0-9]{0,5}) (second|minute|hour)s?")


def parse_duration(text: object) -> object:
    """Return the timedelta of a text such as '1 minute', '30 seconds' or '2 hours'.

    Raises:
        ValueError: the text is not a whole number of seconds, minutes or hours.
    """
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(str(text).strip())
    if match is None:
        raise ValueError("must be a whole number of seconds, minutes or hours, such as '1 minute'")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def duration_text(span: timedelta) -> str:
    """Return the text of a whole number of seconds as `parse_duration` reads it: `2 hours`."""
    whole = int(span.total_seconds())
    unit = next(name for name in ("hour", "minute", "second") if whole % _UNITS[name] == 0)
    number = whole // _UNITS[unit]
    return f"{number} {unit}" + ("" if number == 1 else "s")


#: A duration in a status file, which holds JSON: whole seconds as ISO 8601.
_ISO_DURATION = re.compile(
    r"P(?:(\d{1,8})D)?(?:T(?:(\d{1,8})H)?(?:(\d{1,8})M)?(?:(\d{1,8})S)?)?", re.ASCII
)


def json_duration(value: object) -> timedelta | None:
    """Return a duration from a status file, such as `PT1M`; None for anything else."""
    match = _ISO_DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
