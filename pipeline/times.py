"""Conversions of times: UTC, exact to the microsecond. Pure, except `now`."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_MILLIS = (datetime(1, 1, 2, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
_LAST_MILLIS = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)
#: Greater than the text of every time in the store.
AFTER_ALL_TIMES = "~"


def now() -> datetime:
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """Return a time as ISO 8601 in UTC with `Z`; a fraction only if it is not zero."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_text(moment: datetime) -> str:
    """Return a time in the format of the store: six decimals. The texts sort like the times."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


def minute_text(moment: datetime) -> str:
    """Return the minute of a time as the table `latency` stores it."""
    return moment.astimezone(UTC).isoformat(timespec="minutes")[:16] + "Z"


def floor(moment: datetime, length: timedelta) -> datetime:
    """Return the start of the interval that contains this moment.

    Intervals are counted from 1970.
    """
    return moment - (moment - _EPOCH) % length


def epoch_micros(moment: datetime) -> int:
    """Return the microseconds since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def from_epoch_micros(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND


def from_epoch_millis(millis: int) -> datetime:
    """Return the time of a Kafka timestamp; outside of the calendar, the nearest time inside."""
    if not _FIRST_MILLIS <= millis <= _LAST_MILLIS:
        millis = min(max(millis, _FIRST_MILLIS), _LAST_MILLIS)
    return _EPOCH + timedelta(milliseconds=millis)
