"""What the consumer stores in one transaction.

`pipeline/stores` opens the database and contains its schema. `pipeline/stores/common_queries.py`
has the queries that other services need too.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline import histogram
from pipeline.ingest import lags
from pipeline.ingest.trade import Trade
from pipeline.stores.common_queries import NEWEST, id_span, total_rows
from pipeline.stores.interface import Connection, Content, Writer
from pipeline.times import minute_text, time_text

_ADD_TO_TOTALS = """
INSERT INTO ingest_totals VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (topic) DO UPDATE SET
    records = ingest_totals.records + excluded.records,
    stored = ingest_totals.stored + excluded.stored,
    repeated = ingest_totals.repeated + excluded.repeated,
    rejected = ingest_totals.rejected + excluded.rejected
"""
#: The numbers of the transactions have no gaps.
_INSERT_TRANSACTION = """
INSERT INTO ingest VALUES (
    (SELECT coalesce(max(number), 0) + 1 FROM ingest), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
) RETURNING number
"""


@dataclass(frozen=True)
class Batch:
    """The decoded records of one poll."""

    first_offset: int
    last_offset: int
    records: int
    rejected: int
    first_receipt: datetime
    last_receipt: datetime
    trades: Sequence[Trade]
    #: Time of receipt of each trade, in the same order, or None for a backfilled one; empty if
    #: latencies are not recorded.
    receipts: Sequence[datetime | None] = ()
    #: Kafka's id of the topic, and the offset of each trade in the same order. None and empty: not
    #: recorded.
    topic: str | None = None
    offsets: Sequence[int] = ()


@dataclass(frozen=True)
class StoreResult:
    """What a transaction stored, and the number of rows after it."""

    stored: int
    repeated: int
    total_rows: int


def store(
    connection: Writer,
    batch: Batch,
    now: datetime,
    watermark: timedelta = timedelta(minutes=1),
    trigger: timedelta = timedelta(seconds=1),
) -> StoreResult:
    """Store the trades of a batch with gaps, evidence and bookkeeping, in one transaction.

    Storing the same batch again changes no trade.

    Args:
        connection: the writing connection.
        batch: the records of one poll.
        now: the time of the commit.
        watermark: the watermark of the stream. Records that are later than this are evidence.
        trigger: from the start of one micro-batch of the stream to the start of the next.
    """
    committed_at = time_text(now)
    ids = sorted({trade.trade_id for trade in batch.trades})
    with connection.transaction():
        span = id_span(connection)
        total = total_rows(connection)
        newest = _newest_trade(connection, batch)
        known = _known(connection, ids, span)
        new, duplicates = split_new_and_duplicate(batch.trades, known.keys())
        stored = [batch.trades[place] for place in new]
        connection.insert_trades(map(_row, stored))
        for id_range in id_ranges(ids):
            span = _update_gaps(connection, id_range, span, committed_at)
        kinds = _kinds_of_duplicates(batch.trades, duplicates, known)
        _insert_evidence(connection, batch, kinds, newest, watermark)
        if batch.receipts:
            receipts = [batch.receipts[place] for place in new]
            _count_latencies(connection, stored, receipts, now)
            _count_lags(connection, batch, set(new), newest, trigger)
        result = StoreResult(len(new), len(duplicates), total + len(new))
        times = [trade.time for trade in batch.trades] + ([newest] if newest else [])
        (number,) = connection.execute(
            _INSERT_TRANSACTION,
            (
                batch.first_offset,
                batch.last_offset,
                batch.records,
                result.stored,
                result.repeated,
                batch.rejected,
                ids[0] if ids else None,
                ids[-1] if ids else None,
                time_text(batch.first_receipt),
                time_text(batch.last_receipt),
                committed_at,
                result.total_rows,
                time_text(max(times)) if times else None,
                batch.topic,
            ),
        ).fetchone()
        counts = (batch.records, result.stored, result.repeated, batch.rejected)
        connection.execute(_ADD_TO_TOTALS, (batch.topic or "", number, batch.first_offset, *counts))
    return result


def _newest_trade(connection: Connection, batch: Batch) -> datetime | None:
    """Return the greatest event time before this batch; None at the beginning of the topic.

    A consumer that reads a topic again from its beginning starts without one, as the stream does.
    """
    row = connection.execute(f"SELECT newest_trade, last_offset, topic {NEWEST}").fetchone()
    if row is None or row[0] is None:
        return None
    newest, last_offset, topic = row
    follows = batch.first_offset > last_offset and topic in {None, batch.topic}
    return datetime.fromisoformat(newest) if follows else None


#: Kinds of records in the table `evidence`: the stored record, a later one with the same content,
#: and a later one with other content.
STORED, REPEAT, CONFLICT = "stored", "repeat", "conflict"


def id_ranges(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of consecutive ids in sorted ids: (first, last)."""
    for _, group in itertools.groupby(enumerate(ids), key=lambda pair: pair[1] - pair[0]):
        members = [member for _, member in group]
        yield members[0], members[-1]


def _known(connection: Writer, ids: list[int], span: tuple[int, int] | None) -> dict[int, Content]:
    """Return the stored trades of these sorted ids; ids above all stored ones need no query."""
    if span is None or not ids or ids[0] > span[1]:
        return {}
    return connection.stored_trades(ids)


def split_new_and_duplicate(
    trades: Sequence[Trade], known: AbstractSet[int]
) -> tuple[list[int], list[int]]:
    """Return the positions of the trades with a new id, and of those with a known one."""
    seen = set(known)
    new, duplicates = [], []
    for place, trade in enumerate(trades):
        if trade.trade_id in seen:
            duplicates.append(place)
        else:
            seen.add(trade.trade_id)
            new.append(place)
    return new, duplicates


def _insert_evidence(
    connection: Connection,
    batch: Batch,
    kinds: Mapping[int, str],
    newest: datetime | None,
    watermark: timedelta,
) -> None:
    """Record the trades of a batch that are late or conflict with stored trades.

    Args:
        connection: the writing connection, in the transaction that stores the batch.
        batch: the records of one poll.
        kinds: the kind of each trade that was not stored, by its position.
        newest: the greatest event time before the batch.
        watermark: the watermark of the stream. Spark never drops a trade with less lateness,
            however the trades are split into micro-batches.
    """
    rows: list[tuple[object, ...]] = []
    for place, trade in enumerate(batch.trades):
        lateness = None
        if newest is None or trade.time > newest:
            newest = trade.time
        elif newest - trade.time >= watermark:
            lateness = (newest - trade.time).total_seconds()
        kind = kinds.get(place, STORED)
        if lateness is not None or kind == CONFLICT:
            offset = batch.offsets[place] if batch.offsets else None
            rows.append((batch.topic, offset, trade.trade_id, *_content(trade), kind, lateness))
    connection.executemany(
        "INSERT INTO evidence (topic, kafka_offset, trade_id, time, side, price, last_size, kind, "
        "lateness_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        rows,
    )


def _kinds_of_duplicates(
    trades: Sequence[Trade], duplicates: Sequence[int], known: Mapping[int, Content]
) -> dict[int, str]:
    """Return the kind of each trade that was not stored, by its position.

    Args:
        trades: the trades of a batch.
        duplicates: the positions of those that were not stored.
        known: the content of the trades that were stored before, by their ids.
    """
    if not duplicates:
        return {}
    first = {trade.trade_id: trade for trade in reversed(trades)}
    kinds = {}
    for place in duplicates:
        trade = trades[place]
        stored = known.get(trade.trade_id) or _content(first[trade.trade_id])
        kinds[place] = REPEAT if stored == _content(trade) else CONFLICT
    return kinds


def _content(trade: Trade) -> Content:
    time, side, price, size = trade.content
    return time_text(time), side, price, size


def _count_latencies(
    connection: Connection,
    trades: Sequence[Trade],
    receipts: Sequence[datetime | None],
    committed: datetime,
) -> None:
    counts: Counter[tuple[str, str, int]] = Counter()
    for trade, received in zip(trades, receipts, strict=True):
        if received is None:
            continue
        minute = minute_text(received)
        for leg, seconds in (
            (histogram.EVENT_TO_RECEIPT, (received - trade.time).total_seconds()),
            (histogram.RECEIPT_TO_STORED, (committed - received).total_seconds()),
        ):
            counts[minute, leg, histogram.bucket(seconds)] += 1
    connection.executemany(
        "INSERT INTO latency VALUES (?, ?, ?, ?) ON CONFLICT (minute, leg, bucket) "
        "DO UPDATE SET count = latency.count + excluded.count",
        ((*key, count) for key, count in counts.items()),
    )


def _count_lags(
    connection: Connection,
    batch: Batch,
    new: set[int],
    newest: datetime | None,
    trigger: timedelta,
) -> None:
    """Count how far the stored trades of a batch came behind the newest event time.

    Args:
        connection: the writing connection, in the transaction that stores the batch.
        batch: the records of one poll.
        new: the positions of the trades that were stored. A repeated trade is not counted again.
        newest: the greatest event time before the batch; None at the beginning of the topic.
        trigger: from the start of one micro-batch to the start of the next.
    """
    position = lags.Position(newest=newest)
    known = connection.execute("SELECT started, before_previous, before FROM lag_position")
    if newest is not None and (row := known.fetchone()):
        started, before_previous, before = (text and datetime.fromisoformat(text) for text in row)
        position = lags.Position(started, before_previous, before, newest)
    counts, position = lags.count_lags(
        zip(
            [trade.time for trade in batch.trades],
            batch.receipts,
            [place in new for place in range(len(batch.trades))],
            strict=True,
        ),
        position,
        trigger,
    )
    connection.executemany(
        "INSERT INTO lags VALUES (?, ?, ?, ?) ON CONFLICT (minute, behind, bucket) "
        "DO UPDATE SET count = lags.count + excluded.count",
        ((minute_text(minute), *key, count) for (minute, *key), count in counts.items()),
    )
    connection.execute(
        "INSERT INTO lag_position VALUES (1, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET "
        "started = excluded.started, before_previous = excluded.before_previous, "
        "before = excluded.before",
        [
            moment and time_text(moment)
            for moment in (position.started, position.before_previous, position.before)
        ],
    )


def _update_gaps(
    connection: Connection,
    id_range: tuple[int, int],
    span: tuple[int, int] | None,
    now: str,
) -> tuple[int, int]:
    """Record the gaps that a range of received ids opens or fills; return the new span of ids."""
    first, last = id_range
    if span is None:
        return id_range
    low, high = span
    if first > high + 1:
        _insert_gap(connection, high + 1, first - 1, now)
    if last < low - 1:
        _insert_gap(connection, last + 1, low - 1, now)
    _fill_gaps(connection, first, last, now)
    return min(low, first), max(high, last)


def _insert_gap(
    connection: Connection, first: int, last: int, found: str, filled: str | None = None
) -> None:
    connection.execute("INSERT INTO gaps VALUES (?, ?, ?, ?)", (first, last, found, filled))


def _fill_gaps(connection: Connection, first: int, last: int, now: str) -> None:
    overlapping = connection.execute(
        "SELECT first_trade_id, last_trade_id, found_at FROM gaps "
        "WHERE filled_at IS NULL AND first_trade_id <= ? AND last_trade_id >= ?",
        (last, first),
    ).fetchall()
    for gap_first, gap_last, found in overlapping:
        connection.execute("DELETE FROM gaps WHERE first_trade_id = ?", (gap_first,))
        if gap_first < first:
            _insert_gap(connection, gap_first, first - 1, found)
        _insert_gap(connection, max(gap_first, first), min(gap_last, last), found, now)
        if gap_last > last:
            _insert_gap(connection, last + 1, gap_last, found)


def _row(trade: Trade) -> tuple[object, ...]:
    return (
        trade.trade_id,
        float(trade.price),
        None if trade.best_bid is None else float(trade.best_bid),
        None if trade.best_ask is None else float(trade.best_ask),
        trade.side,
        time_text(trade.time),
        float(trade.last_size),
    )
