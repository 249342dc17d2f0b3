"""Find the transactions of the consumer that hold the trades around a range of Kafka offsets.

The table `ingest` has one row for each transaction. The offsets, the commit times and the newest
event times of a topic ascend with the number of the transaction. A binary search therefore reads
few rows of a table with millions.
"""

from bisect import bisect_left
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pipeline import times
from pipeline.stores.interface import Connection
from pipeline.times import AFTER_ALL_TIMES, time_text

#: Greater than every number in the table.
_AFTER_ALL_NUMBERS = 2**63


def numbers_of(connection: Connection, topic: str) -> range:
    """Return the numbers of the transactions that read a topic. Some rows may be deleted."""
    rows = connection.execute(
        "SELECT topic, first_number FROM ingest_totals ORDER BY first_number"
    ).fetchall()
    firsts = [first for of_topic, first in rows if of_topic == topic]
    if not firsts:
        return range(0)
    (newest,) = connection.execute("SELECT max(number) FROM ingest").fetchone()
    end = min((first for _, first in rows if first > firsts[0]), default=(newest or 0) + 1)
    return range(firsts[0], end)


def is_read_once(connection: Connection, topic: str) -> bool:
    """Return whether the consumer read each record of a topic at most once, in order.

    Otherwise the offsets do not ascend with the number of the transaction. The consumer reads a
    topic again from its beginning after Kafka lost its newest records, for example in a power cut
    of the broker's host. An earlier broker can also replace the current one.
    """
    numbers = numbers_of(connection, topic)
    last = connection.execute(
        "SELECT topic, last_offset FROM ingest WHERE number < ? ORDER BY number DESC LIMIT 1",
        (numbers.stop,),
    ).fetchone()
    total = connection.execute(
        "SELECT first_offset, records FROM ingest_totals WHERE topic = ?", (topic,)
    ).fetchone()
    if last is None or total is None or last[0] != topic:
        return False
    first_offset, records = total
    return bool(records <= last[1] + 1 - first_offset)


class Surroundings(NamedTuple):
    """The transactions that can hold trades of certain windows.

    They hold all trades with an event time from `since` up to `until`, except late ones.
    """

    numbers: range
    #: Times in the format of the tables.
    since: str
    until: str
    #: Whether none of these transactions was deleted.
    is_complete: bool


def around(
    connection: Connection,
    topic: str,
    offsets: tuple[int, int | None],
    window: timedelta,
    delay: timedelta,
) -> Surroundings | None:
    """Return all transactions that can hold trades of certain windows.

    The windows are those that can have a record in a range of offsets. Trades that arrived after
    the watermark are left out, because `evidence` has their offsets.

    Args:
        connection: a connection in a transaction.
        topic: Kafka's id of the topic.
        offsets: the first offset, and the offset after the last one. None: there is no last one.
        window: the length of the windows.
        delay: the watermark.

    Returns:
        None: unknown, because the consumer read the topic more than once.
    """
    if not is_read_once(connection, topic):
        return None
    numbers = numbers_of(connection, topic)
    least, end = offsets
    start = first(connection, numbers, "last_offset", least)
    # The event time of a record that is not late is after the newest one before it minus the delay.
    newest_before = _newest_trade(connection, numbers, start)
    since, until = "", AFTER_ALL_TIMES
    if newest_before is None:
        start = numbers.start
    else:
        since = time_text(times.floor(newest_before - delay, window))
        start = min(start, first(connection, numbers, "newest_trade", since))
    stop = numbers.stop if end is None else first(connection, numbers, "first_offset", end)
    newest = _newest_trade(connection, numbers, stop)
    if newest is not None:
        window_end = times.floor(newest, window) + window
        until, complete = time_text(window_end), time_text(window_end + delay)
        stop = max(stop, first(connection, numbers, "newest_trade", complete) + 1)
    found = range(start, min(stop, numbers.stop))
    (kept,) = connection.execute(
        "SELECT count(*) FROM ingest WHERE number >= ? AND number < ?", (found.start, found.stop)
    ).fetchone()
    return Surroundings(found, since, until, 0 < kept == len(found))


def first(connection: Connection, numbers: range, column: str, least: int | str) -> int:
    """Return the first number whose column has at least this value; the end if there is none.

    Args:
        connection: a connection in a transaction.
        numbers: the numbers to search.
        column: the name of a column that ascends with the number.
        least: the value.
    """
    after_all, smallest = (
        (_AFTER_ALL_NUMBERS, 0) if isinstance(least, int) else (AFTER_ALL_TIMES, "")
    )

    def value(number: int) -> Any:
        row = connection.execute(
            f"SELECT number, coalesce({column}, ?) FROM ingest "  # noqa: S608 - names in this code
            "WHERE number >= ? ORDER BY number LIMIT 1",
            (smallest, number),
        ).fetchone()
        return after_all if row is None or row[0] >= numbers.stop else row[1]

    return numbers.start + bisect_left(numbers, least, key=value)


def _newest_trade(connection: Connection, numbers: range, number: int) -> datetime | None:
    """Return the greatest event time before a transaction. None: it is the first one."""
    row = connection.execute(
        "SELECT newest_trade FROM ingest WHERE number < ? AND number >= ? "
        "ORDER BY number DESC LIMIT 1",
        (number, numbers.start),
    ).fetchone()
    return datetime.fromisoformat(row[0]) if row and row[0] else None
