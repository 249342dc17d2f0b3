"""Queries that several services need: how much is stored, up to where, and which ids."""

from collections.abc import Sequence
from datetime import datetime

from pipeline.stores.interface import Connection

#: The newest transaction. It does not always have the greatest offset: a new topic starts at 0.
NEWEST = "FROM ingest ORDER BY number DESC LIMIT 1"


def next_offset(connection: Connection) -> int | None:
    """Return the offset after the newest stored one; None if nothing is stored."""
    last = connection.execute(f"SELECT last_offset {NEWEST}").fetchone()
    return last[0] + 1 if last else None


def newest_topic(connection: Connection) -> str | None:
    """Return Kafka's id of the topic of the newest stored record; None if it is not recorded."""
    newest = connection.execute(f"SELECT topic {NEWEST}").fetchone()
    return newest[0] if newest else None


def newest_receipt(connection: Connection) -> str | None:
    """Return the time of receipt of the newest stored record; None if nothing is stored."""
    newest = connection.execute(f"SELECT last_receipt {NEWEST}").fetchone()
    return newest[0] if newest else None


def newest_event_time(connection: Connection) -> datetime | None:
    """Return the event time up to which the topic was read; None if no trade was read."""
    newest = connection.execute(f"SELECT newest_trade {NEWEST}").fetchone()
    return datetime.fromisoformat(newest[0]) if newest and newest[0] else None


def total_rows(connection: Connection) -> int:
    """Return the number of stored trades.

    The table `ingest` holds this number. Counting millions of rows takes seconds.
    """
    row = connection.execute(f"SELECT total_rows {NEWEST}").fetchone()
    return row[0] if row else 0


def id_span(connection: Connection) -> tuple[int, int] | None:
    """Return the least and the greatest stored trade id; None if nothing is stored."""
    low, high = connection.execute(
        "SELECT (SELECT min(trade_id) FROM btc_prices), (SELECT max(trade_id) FROM btc_prices)"
    ).fetchone()
    return None if low is None else (low, high)


def stored_ranges(connection: Connection) -> list[tuple[int, int]]:
    """Return the ranges of stored trade ids; the open gaps are between them.

    Call it in the same transaction as the queries that must see the same rows.
    """
    span = id_span(connection)
    if span is None:
        return []
    gaps = connection.execute(
        "SELECT first_trade_id, last_trade_id FROM gaps WHERE filled_at IS NULL "
        "ORDER BY first_trade_id"
    ).fetchall()
    starts = [span[0], *(last + 1 for _, last in gaps)]
    ends = [*(first - 1 for first, _ in gaps), span[1]]
    return list(zip(starts, ends, strict=True))


def split_ranges(ranges: Sequence[tuple[int, int]], parts: int) -> list[list[tuple[int, int]]]:
    """Split id ranges, in order, into equal numbers of ids. Empty parts are left out."""
    total = sum(last - first + 1 for first, last in ranges)
    size = -(-total // parts) if total else 0
    result: list[list[tuple[int, int]]] = []
    room = 0
    for whole_first, last in ranges:
        first = whole_first
        while first <= last:
            if room == 0:
                result.append([])
                room = size
            cut = min(last, first + room - 1)
            result[-1].append((first, cut))
            room -= cut - first + 1
            first = cut + 1
    return result


def open_gaps(connection: Connection) -> tuple[int, int]:
    """Return the number of open gaps and the number of missing trade ids."""
    count, missing = connection.execute(
        "SELECT count(*), coalesce(sum(last_trade_id - first_trade_id + 1), 0) "
        "FROM gaps WHERE filled_at IS NULL"
    ).fetchone()
    return count, missing
