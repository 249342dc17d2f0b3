"""Delete old bookkeeping of the consumer: rows of `ingest`, `latency` and `lags`.

Trades, gaps, evidence and the totals in `ingest_totals` stay. A transaction stays while one of
these conditions is true:

- The stream has not read all records of the windows of its trades.
- It has trades around records that Kafka deleted before the stream read them.
- A batch run that the comparison may use as the newest one has read the table after it.

The age of a row is measured from the newest trade or from the clock of this machine, whichever is
earlier. So a clock that is years ahead deletes nothing.

Each call deletes a bounded number of rows in one transaction. A call that is interrupted deletes
nothing, and the next one continues.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from pipeline import outputs, stream_offsets, times
from pipeline.data_dir import DataDir
from pipeline.ingest import transactions
from pipeline.settings import Settings
from pipeline.stores import common_queries
from pipeline.stores.interface import Connection, Writer

#: Maximum number of rows of each table that one call deletes. A call takes some milliseconds, in
#: which the loader waits.
CHUNK = 10_000


def delete_expired(connection: Writer, data: DataDir, settings: Settings, now: datetime) -> int:
    """Delete old rows and return their number, at most CHUNK of each table.

    Args:
        connection: the writing connection.
        data: the data directory.
        settings: `retention_days` is the maximum age of a row. None: no row is deleted.
        now: the current time.
    """
    if settings.retention_days is None:
        return 0
    with connection.transaction():
        newest = common_queries.newest_event_time(connection)
        if newest is None:
            return 0
        oldest = min(now, newest) - timedelta(days=settings.retention_days)
        deleted = _delete_transactions(connection, data, settings, oldest, now)
        return deleted + _delete_minutes(connection, oldest)


def _delete_transactions(
    connection: Connection,
    data: DataDir,
    settings: Settings,
    oldest: datetime,
    now: datetime,
) -> int:
    needed, offsets_by_topic = [], needed_offsets(data)
    for topic, offsets in offsets_by_topic:
        found = transactions.around(connection, topic, offsets, settings.window, settings.watermark)
        if found is None:  # the offsets of its transactions prove nothing
            continue
        # The transaction before them proves that none of them was deleted. The last transaction of
        # the topic proves that the offsets of the topic ascend.
        needed.append(range(found.numbers.start - 1, found.numbers.stop))
        end = transactions.numbers_of(connection, topic).stop
        needed.append(range(end - 1, end))
    newest_topic = common_queries.newest_topic(connection)
    read = {topic for topic, (_, end) in offsets_by_topic if end is None}
    if newest_topic is not None and newest_topic not in read:  # the stream has not read it yet
        needed.append(transactions.numbers_of(connection, newest_topic))
    first, newest = connection.execute(
        "SELECT (SELECT min(number) FROM ingest), (SELECT max(number) FROM ingest)"
    ).fetchone()
    if newest is None:
        return 0
    snapshot = min([times.time_text(oldest), *_batch_snapshots(data, now)])
    needed.append(range(_last_before(connection, snapshot, first, newest), newest + 1))
    deleted = 0
    for numbers in between(needed, range(first, newest + 1)):
        deleted += connection.execute(
            "DELETE FROM ingest WHERE number IN (SELECT number FROM ingest WHERE number >= ? AND "
            "number < ? AND committed_at < ? ORDER BY number LIMIT ?)",
            (numbers.start, numbers.stop, times.time_text(oldest), CHUNK - deleted),
        ).rowcount
    return deleted


def needed_offsets(data: DataDir) -> list[tuple[str, tuple[int, int | None]]]:
    """Return the offsets that the stream skipped, and those that it has not read, by topic."""
    found: list[tuple[str, tuple[int, int | None]]] = [
        (start.topic, start.skipped) for start in stream_offsets.read_starts(data) if start.skipped
    ]
    position = stream_offsets.read_position(data)
    return found if position is None else [*found, (position.topic, (position.end_offset, None))]


def _batch_snapshots(data: DataDir, now: datetime) -> list[str]:
    """Return when the newest batch runs started."""
    newest = outputs.newest_batch_files(data, outputs.KEPT_RUNS)
    starts = (outputs.started(path, now) for path in newest)
    return [times.time_text(start) for start in starts if start]


def _last_before(connection: Connection, moment: str, first: int, newest: int) -> int:
    """Return the number of the last transaction before a time; the first one if none was."""
    numbers = range(first, newest + 1)
    return max(first, transactions.first(connection, numbers, "committed_at", moment) - 1)


def between(needed: Iterable[range], numbers: range) -> list[range]:
    """Return the parts of a range that are in none of the others, in order."""
    found, start = [], numbers.start
    for each in sorted(needed, key=lambda each: each.start):
        if each.start > start:
            found.append(range(start, min(each.start, numbers.stop)))
        start = max(start, each.stop)
    if start < numbers.stop:
        found.append(range(start, numbers.stop))
    return found


def _delete_minutes(connection: Connection, oldest: datetime) -> int:
    """Delete counts by minute, and return the number of rows."""
    return sum(
        connection.execute(
            f"DELETE FROM {table} WHERE ({key}) IN "  # noqa: S608 - names in this code
            f"(SELECT {key} FROM {table} WHERE minute < ? ORDER BY minute LIMIT ?)",
            (times.minute_text(oldest), CHUNK),
        ).rowcount
        for table, key in (
            ("latency", "minute, leg, bucket"),
            ("lags", "minute, behind, bucket"),
        )
    )
