"""The SQLite schema, how rows go in, how it is opened read-only.

One connection alone writes (the consumer's); everybody else opens read-only. SQLite before 3.51.3
can corrupt a WAL that two connections write at once.
"""

import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline import histogram as latency
from pipeline.errors import OperationalError
from pipeline.ingest.trade import Trade

#: Seconds that a statement waits for another process's lock before it fails.
BUSY_SECONDS = 5.0
SCHEMA_VERSION = 3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS btc_prices (
    trade_id  INTEGER PRIMARY KEY CHECK (trade_id > 0),
    price     REAL NOT NULL CHECK (price > 0 AND price < 1e10),
    best_bid  REAL CHECK (best_bid > 0 AND best_bid < 1e10),
    best_ask  REAL CHECK (best_ask > 0 AND best_ask < 1e10),
    side      TEXT NOT NULL CHECK (side IN ('buy', 'sell')),
    time      TEXT NOT NULL CHECK (time GLOB '[12][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T*Z'),
    last_size REAL NOT NULL CHECK (last_size > 0 AND last_size < 1e10)
);
-- One row for each transaction of the consumer; total_rows is the table's count after it, and
-- newest_trade the greatest event time in the topic up to there, since it was last read anew.
CREATE TABLE IF NOT EXISTS ingest (
    number         INTEGER PRIMARY KEY,
    first_offset   INTEGER NOT NULL,
    last_offset    INTEGER NOT NULL CHECK (last_offset >= first_offset),
    records        INTEGER NOT NULL,
    stored         INTEGER NOT NULL,
    repeated       INTEGER NOT NULL,
    rejected       INTEGER NOT NULL,
    first_trade_id INTEGER,
    last_trade_id  INTEGER,
    first_receipt  TEXT NOT NULL,
    last_receipt   TEXT NOT NULL,
    committed_at   TEXT NOT NULL,
    total_rows     INTEGER NOT NULL,
    newest_trade   TEXT,
    topic          TEXT     -- Kafka's id of the topic; NULL: recorded by schema version 2
);
-- Runs of trade_ids between the least and the greatest stored one that were never seen.
CREATE TABLE IF NOT EXISTS gaps (
    first_trade_id INTEGER PRIMARY KEY,
    last_trade_id  INTEGER NOT NULL CHECK (last_trade_id >= first_trade_id),
    found_at       TEXT NOT NULL,
    filled_at      TEXT
);
-- Records that can make the paths differ: those a watermark or more behind the newest event time,
-- which the stream may have dropped as late, and those with the id of a stored trade and another
-- content, of which only the first counts here. Repeats of late records included.
CREATE TABLE IF NOT EXISTS evidence (
    number       INTEGER PRIMARY KEY,
    topic        TEXT,    -- Kafka's id of the topic; NULL: recorded by schema version 2
    kafka_offset INTEGER,
    trade_id     INTEGER NOT NULL,
    time         TEXT NOT NULL,
    side         TEXT NOT NULL,
    price        REAL NOT NULL,
    last_size    REAL NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('stored', 'repeat', 'conflict')),
    behind_s     REAL,    -- seconds behind the newest event time; NULL: less than the watermark
    UNIQUE (topic, kafka_offset)
);
-- Latencies of stored trades by minute of receipt, in the buckets of pipeline/histogram.py.
CREATE TABLE IF NOT EXISTS latency (
    minute TEXT NOT NULL,
    leg    TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (minute, leg, bucket)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open_gaps ON gaps (first_trade_id, last_trade_id)
    WHERE filled_at IS NULL;
"""

#: Version 2 noted late trades and conflicting content, but neither topic nor offset.
_FROM_VERSION_2 = f"""
BEGIN IMMEDIATE;
ALTER TABLE ingest ADD COLUMN topic TEXT;
{_SCHEMA}
INSERT INTO evidence (trade_id, time, side, price, last_size, kind, behind_s)
    SELECT trade_id, time, side, price, last_size, 'stored', behind_s
    FROM late JOIN btc_prices USING (trade_id);
INSERT INTO evidence (trade_id, time, side, price, last_size, kind)
    SELECT trade_id, time, side, price, last_size, 'conflict' FROM conflicts;
DROP TABLE late;
DROP TABLE conflicts;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""  # noqa: S608 - constants

#: `time` as microseconds since 1970, in SQL: three times cheaper than to parse it in Spark.
#: Of the whole seconds alone, as SQLite before 3.51 rounds the last half millisecond up.
TIME_US = "unixepoch(substr(time, 1, 19)) * 1000000 + substr(time, 21, 6)"

_INSERT_TRADE = """
INSERT INTO btc_prices (trade_id, price, best_bid, best_ask, side, time, last_size)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (trade_id) DO NOTHING
"""
#: The last transaction. Not the one with the greatest offset: a new topic begins at 0 again.
_NEWEST = "FROM ingest ORDER BY number DESC LIMIT 1"


class StoreError(OperationalError):
    """The file is no database, or one of another version than this program writes."""


@dataclass(frozen=True)
class Batch:
    """What one poll of the topic brought, decoded."""

    first_offset: int
    last_offset: int
    records: int
    rejected: int
    first_receipt: datetime
    last_receipt: datetime
    trades: Sequence[Trade]
    #: Of each trade, in the same order; () where nobody asks for latencies.
    receipts: Sequence[datetime] = ()
    #: Kafka's id of the topic, and the offset of each trade, in the same order; unknown where no
    #: stream is compared.
    topic: str | None = None
    offsets: Sequence[int] = ()


@dataclass(frozen=True)
class Stored:
    """What a transaction did, and where the table stands after it."""

    stored: int
    repeated: int
    total_rows: int


def open_writer(path: Path) -> sqlite3.Connection:
    """The one writing connection; makes the schema.

    Raises:
        sqlite3.OperationalError: locked, full, or no place to write.
        StoreError: no database, or one of another version.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # survives a power cut; costs little
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 2:
            connection.executescript(_FROM_VERSION_2)
        elif version not in {0, SCHEMA_VERSION}:
            raise StoreError(
                f"{path} has schema version {version}, this program writes {SCHEMA_VERSION}: "
                "choose another folder with DATA_DIR="
            )
        connection.executescript(f"{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};")
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StoreError(
            f"{path}: {error}: move it away, or choose another folder with DATA_DIR="
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection.

    Raises:
        sqlite3.OperationalError: there is no database yet.
    """
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )


def unreadable(path: Path, error: sqlite3.Error) -> str:
    """What keeps a reader from the database, in a sentence."""
    if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{path} is locked: another program keeps it for itself, end that one"
    return f"{path} cannot be read: {error}"


def no_table_yet(error: sqlite3.OperationalError) -> bool:
    """Whether a statement failed because the writer has not made its tables yet."""
    return "no such table" in str(error)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back on a full disk
            connection.execute("ROLLBACK")
        raise


def store(
    connection: sqlite3.Connection,
    batch: Batch,
    now: datetime,
    watermark: timedelta = timedelta(minutes=1),
) -> Stored:
    """Rows, gaps, evidence and bookkeeping of one batch, in one transaction.

    Repeating it is harmless. `watermark` is the stream's: records that far behind are evidence.
    """
    committed_at = time_text(now)
    ids = sorted({trade.trade_id for trade in batch.trades})
    with transaction(connection):
        span = id_span(connection)
        total = total_rows(connection)
        newest = _newest_trade(connection, batch)
        known = _known(connection, ids, span)
        fresh, repeated = _told_apart(batch.trades, known)
        stored = [batch.trades[place] for place in fresh]
        connection.executemany(_INSERT_TRADE, map(_row, stored))
        for run in runs(ids):
            span = _note_gaps(connection, run, span, committed_at)
        _note_evidence(connection, batch, set(fresh), newest, watermark)
        if batch.receipts:
            receipts = [batch.receipts[place] for place in fresh]
            _note_latencies(connection, stored, receipts, now)
        result = Stored(len(fresh), len(repeated), total + len(fresh))
        times = [trade.time for trade in batch.trades] + ([newest] if newest else [])
        connection.execute(
            "INSERT INTO ingest VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
        )
    return result


def next_offset(connection: sqlite3.Connection) -> int | None:
    """The offset after the last one stored; None when nothing is stored."""
    last = connection.execute(f"SELECT last_offset {_NEWEST}").fetchone()
    return last[0] + 1 if last else None


def total_rows(connection: sqlite3.Connection) -> int:
    """Rows in `btc_prices`, from the bookkeeping: counting millions would take seconds."""
    row = connection.execute(f"SELECT total_rows {_NEWEST}").fetchone()
    return row[0] if row else 0


def _newest_trade(connection: sqlite3.Connection, batch: Batch) -> datetime | None:
    """The greatest event time in the topic before this batch; None at the topic's beginning.

    A topic that is read anew is judged anew: as the stream judged it.
    """
    row = connection.execute(f"SELECT newest_trade, last_offset, topic {_NEWEST}").fetchone()
    if row is None or row[0] is None:
        return None
    newest, last_offset, topic = row
    follows = batch.first_offset > last_offset and topic in {None, batch.topic}
    return datetime.fromisoformat(newest) if follows else None


def id_span(connection: sqlite3.Connection) -> tuple[int, int] | None:
    """The least and the greatest stored trade_id."""
    low, high = connection.execute(
        "SELECT (SELECT min(trade_id) FROM btc_prices), (SELECT max(trade_id) FROM btc_prices)"
    ).fetchone()
    return None if low is None else (low, high)


def stored_ranges(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """The stored trade_ids as ranges without holes: what lies between them are the open gaps.

    To be read in one transaction with whatever it must agree with.
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
    """Ranges of ids cut into so many parts of equal count, in order; fewer if there are few ids."""
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


def open_gaps(connection: sqlite3.Connection) -> tuple[int, int]:
    """How many runs of trade_ids are missing, and how many ids in all."""
    count, missing = connection.execute(
        "SELECT count(*), coalesce(sum(last_trade_id - first_trade_id + 1), 0) "
        "FROM gaps WHERE filled_at IS NULL"
    ).fetchone()
    return count, missing


def ingested(connection: sqlite3.Connection) -> tuple[int, int, int, int]:
    """Records read from Kafka in all, and those stored, repeated and rejected."""
    names = ("records", "stored", "repeated", "rejected")
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in names)
    row: tuple[int, int, int, int] = connection.execute(f"SELECT {sums} FROM ingest").fetchone()  # noqa: S608
    return row


#: A trade as evidence.
_EVIDENCE = "trade_id, time, side, price, last_size"
Row = tuple[int, str, str, float, float]
#: Kinds of records in the table `evidence`: the one that is stored, one with the same content as
#: that, and one with another.
STORED, REPEAT, CONFLICT = "stored", "repeat", "conflict"


def evidence(
    connection: sqlite3.Connection,
) -> list[tuple[str | None, int | None, int, str, str, float, float, str, str]]:
    """Return all late or conflicting records in the order of reading.

    Topic, offset, id, time, side, price, size, kind, and the time of the stored trade with this id.
    """
    return connection.execute(
        "SELECT topic, kafka_offset, trade_id, e.time, e.side, e.price, e.last_size, kind, p.time "
        "FROM evidence AS e JOIN btc_prices AS p USING (trade_id) ORDER BY number"
    ).fetchall()


def reading(connection: sqlite3.Connection) -> tuple[str | None, int, int]:
    """Return which topic is read now, the first offset read of it, and the offset to be read next.

    Only what schema version 3 recorded counts: earlier evidence has no offsets.
    """
    row = connection.execute(f"SELECT topic, last_offset + 1 {_NEWEST}").fetchone()
    if row is None or row[0] is None:
        return None, 0, 0
    (first,) = connection.execute(
        "SELECT first_offset FROM ingest WHERE topic = ? ORDER BY number LIMIT 1", row[:1]
    ).fetchone()
    return row[0], first, row[1]


def recovered(connection: sqlite3.Connection) -> set[int]:
    """The late trades that filled a gap and have no quotes, as the exchange's REST interface has.

    Others are late by themselves: their gap is no more than the time by which they were late.
    """
    rows = connection.execute(
        "SELECT trade_id FROM evidence JOIN btc_prices USING (trade_id) "
        "WHERE kind = 'stored' AND behind_s IS NOT NULL "
        "AND best_bid IS NULL AND best_ask IS NULL AND EXISTS (SELECT 1 FROM gaps WHERE "
        "trade_id BETWEEN first_trade_id AND last_trade_id AND filled_at IS NOT NULL)"
    )
    return {trade_id for (trade_id,) in rows}


def stored_after(
    connection: sqlite3.Connection, covered: tuple[int, int], rows: int, before: str
) -> list[Row]:
    """The trades stored after a batch run's snapshot: id, time, side, price, size.

    Args:
        connection: a read-only one.
        covered: the least and the greatest id in the snapshot.
        rows: how many it had.
        before: only trades with an earlier event time than this, as stored.
    """
    trades = connection.execute(
        f"SELECT {_EVIDENCE} FROM btc_prices "  # noqa: S608 - a constant
        "WHERE (trade_id > ? OR trade_id < ?) AND time < ?",
        (covered[1], covered[0], before),
    ).fetchall()
    snapshot = connection.execute(
        "SELECT committed_at FROM ingest WHERE total_rows = ? ORDER BY number DESC LIMIT 1", (rows,)
    ).fetchone()
    if snapshot is not None:
        trades += connection.execute(
            f"SELECT {_EVIDENCE} FROM gaps CROSS JOIN btc_prices "  # noqa: S608 - a constant
            "ON trade_id BETWEEN gaps.first_trade_id AND gaps.last_trade_id "
            "WHERE filled_at > ? AND trade_id BETWEEN ? AND ?",
            (*snapshot, *covered),
        ).fetchall()
    return trades


def gaps_with_neighbours(
    connection: sqlite3.Connection,
) -> list[tuple[int, int, bool, str | None, str | None]]:
    """First and last id of each gap, whether it was filled, the times of the trades around it."""
    rows = connection.execute(
        "SELECT first_trade_id, last_trade_id, filled_at IS NOT NULL, "
        "(SELECT time FROM btc_prices WHERE trade_id < first_trade_id "
        "ORDER BY trade_id DESC LIMIT 1), "
        "(SELECT time FROM btc_prices WHERE trade_id > gaps.last_trade_id "
        "ORDER BY trade_id LIMIT 1) FROM gaps"
    )
    return [(first, last, bool(filled), *around) for first, last, filled, *around in rows]


def latencies(
    connection: sqlite3.Connection, since: datetime | None = None
) -> list[tuple[str, int, int]]:
    """Counts of the latencies noted in the minutes that began then or later: leg, bucket, count."""
    minute = "" if since is None else _minute(since + timedelta(seconds=59, microseconds=999_999))
    return connection.execute(
        "SELECT leg, bucket, sum(count) FROM latency WHERE minute >= ? GROUP BY leg, bucket",
        (minute,),
    ).fetchall()


def runs(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Sorted ids as runs of consecutive ones: (first, last)."""
    for _, group in itertools.groupby(enumerate(ids), key=lambda pair: pair[1] - pair[0]):
        members = [member for _, member in group]
        yield members[0], members[-1]


def _known(
    connection: sqlite3.Connection, ids: list[int], span: tuple[int, int] | None
) -> set[int]:
    """Which of these sorted ids are stored already; ids above all stored ones need no look."""
    if span is None or not ids or ids[0] > span[1]:
        return set()
    rows = connection.execute(
        "SELECT trade_id FROM json_each(?) CROSS JOIN btc_prices ON trade_id = value",
        (json.dumps(ids),),
    )
    return {trade_id for (trade_id,) in rows}


def _told_apart(trades: Sequence[Trade], known: set[int]) -> tuple[list[int], list[int]]:
    """The places of the trades whose id is new, and of those that repeat one."""
    seen = set(known)
    fresh, repeated = [], []
    for place, trade in enumerate(trades):
        if trade.trade_id in seen:
            repeated.append(place)
        else:
            seen.add(trade.trade_id)
            fresh.append(place)
    return fresh, repeated


def _note_evidence(
    connection: sqlite3.Connection,
    batch: Batch,
    fresh: set[int],
    newest: datetime | None,
    watermark: timedelta,
) -> None:
    """Records the trades of a batch that came late or conflict with the stored ones.

    Args:
        connection: in the transaction that has stored the batch.
        batch: all trades.
        fresh: the places of those that were stored.
        newest: the greatest event time before the batch.
        watermark: of the stream. Spark drops nothing that is less behind the newest event time,
            whatever its micro-batches are.
    """
    rows: list[tuple[object, ...]] = []
    for place, trade in enumerate(batch.trades):
        behind = None
        if newest is None or trade.time > newest:
            newest = trade.time
        elif newest - trade.time >= watermark:
            behind = (newest - trade.time).total_seconds()
        kind = STORED if place in fresh else _kind_of_repeat(connection, trade)
        if behind is not None or kind == CONFLICT:
            offset = batch.offsets[place] if batch.offsets else None
            rows.append((batch.topic, offset, trade.trade_id, *_content(trade), kind, behind))
    connection.executemany(
        "INSERT INTO evidence (topic, kafka_offset, trade_id, time, side, price, last_size, kind, "
        "behind_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        rows,
    )


def _kind_of_repeat(connection: sqlite3.Connection, trade: Trade) -> str:
    stored = connection.execute(
        "SELECT time, side, price, last_size FROM btc_prices WHERE trade_id = ?", (trade.trade_id,)
    ).fetchone()
    return REPEAT if stored == _content(trade) else CONFLICT


def _content(trade: Trade) -> tuple[str, str, float, float]:
    return time_text(trade.time), trade.side, float(trade.price), float(trade.last_size)


def _note_latencies(
    connection: sqlite3.Connection,
    trades: Sequence[Trade],
    receipts: Sequence[datetime],
    committed: datetime,
) -> None:
    counts: Counter[tuple[str, str, int]] = Counter()
    for trade, received in zip(trades, receipts, strict=True):
        minute = _minute(received)
        for leg, seconds in (
            (latency.EVENT_TO_RECEIPT, (received - trade.time).total_seconds()),
            (latency.RECEIPT_TO_STORED, (committed - received).total_seconds()),
        ):
            counts[minute, leg, latency.bucket(seconds)] += 1
    connection.executemany(
        "INSERT INTO latency VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET count = count + excluded.count",
        ((*key, count) for key, count in counts.items()),
    )


def _minute(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="minutes")[:16] + "Z"


def _note_gaps(
    connection: sqlite3.Connection,
    run: tuple[int, int],
    span: tuple[int, int] | None,
    now: str,
) -> tuple[int, int]:
    """Notes what a run of seen ids leaves out or fills in; returns the new span of stored ids."""
    first, last = run
    if span is None:
        return run
    low, high = span
    if first > high + 1:
        _insert_gap(connection, high + 1, first - 1, now)
    if last < low - 1:
        _insert_gap(connection, last + 1, low - 1, now)
    _fill_gaps(connection, first, last, now)
    return min(low, first), max(high, last)


def _insert_gap(
    connection: sqlite3.Connection, first: int, last: int, found: str, filled: str | None = None
) -> None:
    connection.execute("INSERT INTO gaps VALUES (?, ?, ?, ?)", (first, last, found, filled))


def _fill_gaps(connection: sqlite3.Connection, first: int, last: int, now: str) -> None:
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


def time_text(moment: datetime) -> str:
    """A time as the tables hold it.

    Always with six decimals, so that the order of the texts is the order in time.
    """
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"
