"""What the comparison reads from the store, on a connection that shows one snapshot."""

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import cache

from pipeline.compare.unread import PlacedTrade, PlacedTrades
from pipeline.ingest import transactions
from pipeline.metrics.definitions import HIGH, SPIKE
from pipeline.stores import common_queries
from pipeline.stores.interface import Connection
from pipeline.stream_offsets import Start
from pipeline.times import AFTER_ALL_TIMES, minute_text, time_text

#: The columns of a trade that the comparison reads.
_TRADE = "trade_id, time, side, price, last_size"


def ingest_counts(connection: Connection) -> tuple[int, int, int, int]:
    """Return the number of records read from Kafka, stored, repeated and rejected."""
    names = ("records", "stored", "repeated", "rejected")
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in names)
    row: tuple[int, int, int, int] = connection.execute(
        f"SELECT {sums} FROM ingest_totals"  # noqa: S608 - constants
    ).fetchone()
    return row


def evidence(
    connection: Connection,
) -> list[tuple[str | None, int | None, int, str, str, float, float, str, str]]:
    """Return all late or conflicting records in the order in which the consumer read them.

    Returns:
        Rows of topic, offset, id, time, side, price, size, kind, and the time of the stored trade
        with this id.
    """
    return connection.execute(
        "SELECT topic, kafka_offset, trade_id, e.time, e.side, e.price, e.last_size, kind, p.time "
        "FROM evidence AS e JOIN btc_prices AS p USING (trade_id) ORDER BY number"
    ).fetchall()


def consumed_offsets(connection: Connection) -> tuple[str | None, int, int]:
    """Return the id of the topic, the first offset read, and the offset after the last one.

    Records that schema version 2 stored are left out, because they have no topic.
    """
    row = connection.execute(f"SELECT topic, last_offset + 1 {common_queries.NEWEST}").fetchone()
    if row is None or row[0] is None:
        return None, 0, 0
    (first,) = connection.execute(
        "SELECT first_offset FROM ingest_totals WHERE topic = ?", row[:1]
    ).fetchone()
    return row[0], first, row[1]


def backfilled(connection: Connection) -> set[int]:
    """Return the ids of late trades that filled a gap and have no quotes: backfilled over REST.

    Other late trades came from the feed. They filled a gap that existed only because they were
    late.
    """
    rows = connection.execute(
        "SELECT trade_id FROM evidence JOIN btc_prices USING (trade_id) "
        "WHERE kind = 'stored' AND lateness_s IS NOT NULL "
        "AND best_bid IS NULL AND best_ask IS NULL AND ("
        "SELECT last_trade_id >= trade_id AND filled_at IS NOT NULL FROM gaps "
        "WHERE first_trade_id <= trade_id ORDER BY first_trade_id DESC LIMIT 1)"
    )
    return {trade_id for (trade_id,) in rows}


def stored_after(
    connection: Connection, covered: tuple[int, int], rows: int, before: str
) -> list[tuple[int, str, str, float, float]]:
    """Return the trades stored after the snapshot of a batch run: id, time, side, price, size.

    Args:
        connection: a read-only connection.
        covered: the least and the greatest id in the snapshot.
        rows: the number of rows in the snapshot.
        before: an event time as stored. Trades at or after it are left out.
    """
    trades = connection.execute(
        f"SELECT {_TRADE} FROM btc_prices "  # noqa: S608 - a constant
        "WHERE (trade_id > ? OR trade_id < ?) AND time < ?",
        (covered[1], covered[0], before),
    ).fetchall()
    snapshot = _committed_at(connection, rows)
    if snapshot is not None:
        trades += connection.execute(
            f"SELECT {_TRADE} FROM gaps CROSS JOIN btc_prices "  # noqa: S608 - a constant
            "WHERE trade_id BETWEEN gaps.first_trade_id AND gaps.last_trade_id "
            "AND filled_at > ? AND trade_id BETWEEN ? AND ?",
            (snapshot, *covered),
        ).fetchall()
    return trades


def _committed_at(connection: Connection, rows: int) -> str | None:
    """Return when the last transaction ended after which the table had this number of rows.

    It reads only the transactions since then, because the number of rows never decreases.
    """
    last = connection.execute(
        "SELECT total_rows, committed_at FROM ingest WHERE total_rows <= ? "
        "ORDER BY number DESC LIMIT 1",
        (rows,),
    ).fetchone()
    return str(last[1]) if last and last[0] == rows else None


def placed_trades(
    connection: Connection, start: Start, window: timedelta, delay: timedelta
) -> list[PlacedTrades]:
    """Return the trades of all windows with a record that a checkpoint skipped, with their offsets.

    Args:
        connection: a read-only connection.
        start: the start of the checkpoint.
        window: the length of the windows.
        delay: the watermark of the stream. Later trades are in `evidence`.

    Returns:
        One item; none if the checkpoint began at the first record of the topic, or if the offsets
        of the trades are unknown.
    """
    if start.skipped is None:
        return []
    found = transactions.around(connection, start.topic, start.skipped, window, delay)
    if found is None or not found.is_complete:
        return []
    late = _late_ids(connection)
    rows = connection.execute(
        "SELECT first_offset, last_offset, stored, first_trade_id, last_trade_id FROM ingest "
        "WHERE number >= ? AND number < ? AND stored > 0 ORDER BY number",
        (found.numbers.start, found.numbers.stop),
    ).fetchall()
    trades: dict[int, PlacedTrade] = {}
    for placed in itertools.chain.from_iterable(
        _trades_of(connection, row, (found.since, found.until), late) for row in rows
    ):
        other = trades.get(placed.trade_id)
        trades[placed.trade_id] = placed if other is None else other.merged(placed)
    return [PlacedTrades(start.topic, start.skipped, found.since, found.until, [*trades.values()])]


def _late_ids(connection: Connection) -> set[int]:
    """Return the ids of the trades whose exact offset is in `evidence`."""
    rows = connection.execute("SELECT trade_id FROM evidence WHERE kind = 'stored'")
    return {trade_id for (trade_id,) in rows}


def _trades_of(
    connection: Connection,
    transaction: tuple[int, int, int, int, int],
    period: tuple[str, str],
    late: set[int],
) -> Iterator[PlacedTrade]:
    """Yield the trades of a period that a transaction may have stored, except late ones.

    If it stored every record, none of them late, and no other trade has an id between its ids, the
    offsets ascend with the ids. In every other case, a trade can have any offset of the
    transaction.

    Args:
        connection: a read-only connection.
        transaction: first and last offset, number of stored trades, least and greatest id.
        period: its first time and the time after its last one, in the format of the database.
        late: the ids of late trades.
    """
    first_offset, last_offset, stored, *ids = transaction
    # A transaction with a recovered trade has many other trades between its ids.
    select = f"SELECT {_TRADE} FROM btc_prices WHERE trade_id BETWEEN ? AND ?"  # noqa: S608
    own = connection.execute(f"{select} ORDER BY trade_id LIMIT ?", (*ids, stored + 1)).fetchall()
    if len(own) == stored == last_offset - first_offset + 1 and late.isdisjoint(
        row[0] for row in own
    ):
        for place, row in enumerate(own):
            if period[0] <= row[1] < period[1]:
                yield PlacedTrade(*(first_offset + place,) * 2, *row)
        return
    for row in connection.execute(f"{select} AND time >= ? AND time < ?", (*ids, *period)):
        if row[0] not in late:
            yield PlacedTrade(first_offset, last_offset, *row)


def gaps_with_neighbours(
    connection: Connection,
) -> list[tuple[int, int, bool, str | None, str | None]]:
    """Return each gap: first id, last id, whether it is filled, times of the trades around it."""
    rows = connection.execute(
        "SELECT first_trade_id, last_trade_id, filled_at IS NOT NULL, "
        "(SELECT time FROM btc_prices WHERE trade_id < first_trade_id "
        "ORDER BY trade_id DESC LIMIT 1), "
        "(SELECT time FROM btc_prices WHERE trade_id > gaps.last_trade_id "
        "ORDER BY trade_id LIMIT 1) FROM gaps"
    )
    return [(first, last, bool(filled), *around) for first, last, filled, *around in rows]


def latencies(
    connection: Connection,
    since: datetime | None,
    left_out: Iterable[tuple[datetime, datetime]],
) -> list[tuple[str, int, int]]:
    """Return the latencies by minute of receipt: leg, bucket, count.

    Args:
        connection: a read-only connection.
        since: The first minute starts at or after this time. None: all minutes.
        left_out: Periods of full minutes, from a start up to an end, that do not overlap. Their
            minutes are left out.
    """
    first = _first_minute(since)
    counts: Counter[tuple[str, int]] = Counter()
    ranges = [(1, first, AFTER_ALL_TIMES)]
    ranges += [(-1, max(first, minute_text(start)), minute_text(end)) for start, end in left_out]
    for sign, *limits in ranges:
        for leg, bucket, count in connection.execute(
            "SELECT leg, bucket, sum(count) FROM latency WHERE minute >= ? AND minute < ? "
            "GROUP BY leg, bucket",
            limits,
        ):
            counts[leg, bucket] += sign * count
    return [(*key, count) for key, count in counts.items() if count]


def lags(connection: Connection, since: datetime | None) -> list[tuple[str, int, int]]:
    """Return how far trades came behind: kind, bucket, count (see `pipeline.ingest.lags`).

    Args:
        connection: a read-only connection.
        since: The first minute of receipt starts at or after this time. None: all minutes.
    """
    return connection.execute(
        "SELECT behind, bucket, sum(count) FROM lags WHERE minute >= ? GROUP BY behind, bucket",
        (_first_minute(since),),
    ).fetchall()


def _first_minute(since: datetime | None) -> str:
    """Return the first whole minute since a time, as the tables store it."""
    if since is None:
        return ""
    return minute_text(since + timedelta(seconds=59, microseconds=999_999))


def crossings(
    connection: Connection,
    alerts: Iterable[tuple[str, str, float]],
    window: timedelta,
) -> list[tuple[str, str, str]]:
    """Return the event time of the trade that made a window High or a Spike.

    It is the first trade in the order of event time with which the range or the volume of the
    window is above the threshold. The exchange numbers its trades in the order of event time, so a
    binary search finds the ids of a window.

    Args:
        connection: a read-only connection.
        alerts: the start of the window in the format of the files, the kind, and the threshold.
        window: the length of the windows.

    Returns:
        The start, the kind and the event time of each alert whose trade is stored.
    """
    ids = common_queries.id_span(connection)
    if ids is None:
        return []
    first_id = _first_ids(connection, range(ids[0], ids[1] + 1))
    found = []
    for start, kind, threshold in alerts:
        first = datetime.fromisoformat(start)
        # Trades with neighbouring ids can be a little out of order.
        low, high = (first_id(time_text(moment)) for moment in (first - window, first + 2 * window))
        row = connection.execute(
            _CROSSING[kind],
            (low, high, time_text(first), time_text(first + window), threshold),
        ).fetchone()
        if row is not None:
            found.append((start, kind, row[0]))
    return found


#: Sums are rounded to the digits of a trade: they are sums of binary fractions.
_CROSSING = {
    kind: (
        f"SELECT time FROM (SELECT time, round(CAST({value} AS NUMERIC), 8) AS value "  # noqa: S608
        "FROM btc_prices WHERE trade_id >= ? AND trade_id < ? AND time >= ? AND time < ? "
        "WINDOW so_far AS (ORDER BY time, trade_id)) AS sums WHERE value > ? LIMIT 1"
    )
    for kind, value in (
        (HIGH, "max(price) OVER so_far - min(price) OVER so_far"),
        (SPIKE, "sum(last_size) OVER so_far"),
    )
}


def _first_ids(connection: Connection, ids: range) -> Callable[[str], int]:
    """Return the function that finds the first id whose trade is at or after a time.

    It returns the end of the range if there is none. Its searches share what they have read:
    windows have common edges, and a query to PostgreSQL takes longer than one to SQLite.
    """

    @cache
    def time_of(trade_id: int) -> str:
        row = connection.execute(
            "SELECT time FROM btc_prices WHERE trade_id >= ? ORDER BY trade_id LIMIT 1", (trade_id,)
        ).fetchone()
        return AFTER_ALL_TIMES if row is None else str(row[0])

    return cache(lambda time: ids.start + bisect_left(ids, time, key=time_of))
