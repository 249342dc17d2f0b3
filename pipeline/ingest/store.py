"""The SQLite database: its schema, writes and queries.

Only the connection of the consumer writes; all others are read-only. SQLite before 3.51.3 can
corrupt the write-ahead log if two connections write at once.
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

from pipeline import histogram
from pipeline.errors import OperationalError, RestartError
from pipeline.ingest import lags
from pipeline.ingest.trade import Trade

#: Seconds that a statement waits for the lock of another process before it fails.
BUSY_SECONDS = 5.0
SCHEMA_VERSION = 5

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
-- One row for each transaction of the consumer. total_rows is the number of stored trades after
-- it. newest_trade is the greatest event time since the consumer last started at the beginning of
-- the topic.
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
-- Running totals over all transactions of a topic. Readers do not have to sum `ingest`, and the
-- totals stay when retention deletes rows of `ingest`.
CREATE TABLE IF NOT EXISTS ingest_totals (
    topic        TEXT PRIMARY KEY,  -- Kafka's id of the topic; '': recorded by schema version 2
    first_number INTEGER NOT NULL,  -- the number of the first transaction, and its first offset
    first_offset INTEGER NOT NULL,
    records      INTEGER NOT NULL,
    stored       INTEGER NOT NULL,
    repeated     INTEGER NOT NULL,
    rejected     INTEGER NOT NULL
) WITHOUT ROWID;
-- Ranges of trade ids that were never received, between the least and the greatest stored id.
CREATE TABLE IF NOT EXISTS gaps (
    first_trade_id INTEGER PRIMARY KEY,
    last_trade_id  INTEGER NOT NULL CHECK (last_trade_id >= first_trade_id),
    found_at       TEXT NOT NULL,
    filled_at      TEXT
);
-- Records that can make the two paths differ. Late records: their event time is at least a
-- watermark before the newest one, so the stream may have dropped them; repeats included.
-- Conflicts: a stored trade has the same id and other content; only the first one is stored.
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
    lateness_s   REAL,    -- seconds before the newest event time; NULL: less than the watermark
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
-- How far stored trades came behind an event time, by minute of receipt: pipeline/ingest/lags.py.
-- Backfilled trades are left out.
CREATE TABLE IF NOT EXISTS lags (
    minute TEXT NOT NULL,
    behind TEXT NOT NULL CHECK (behind IN ('newest', 'micro_batches')),
    bucket INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (minute, behind, bucket)
) WITHOUT ROWID;
-- One row: the event times with which the lags of the next transaction are computed.
CREATE TABLE IF NOT EXISTS lag_position (
    number          INTEGER PRIMARY KEY CHECK (number = 1),
    started         TEXT,   -- when the current micro-batch began to collect records
    before_previous TEXT,   -- the newest event time of the micro-batches before the previous one
    before          TEXT    -- the newest event time of the micro-batches before the current one
);
CREATE INDEX IF NOT EXISTS open_gaps ON gaps (first_trade_id, last_trade_id)
    WHERE filled_at IS NULL;
"""

#: Schema version 2 recorded late trades and conflicts without their topic and offset.
_VERSION_2_EVIDENCE = """
SELECT NULL AS number, NULL AS topic, NULL AS kafka_offset, trade_id, time, side, price, last_size,
    'stored' AS kind, behind_s AS lateness_s FROM late JOIN btc_prices USING (trade_id)
UNION ALL
SELECT NULL, NULL, NULL, trade_id, time, side, price, last_size, 'conflict', NULL FROM conflicts
"""
#: Schema version 3 had no totals. The row with the least number has the first offset.
_VERSION_3_TOTALS = """
SELECT coalesce(topic, '') AS topic, min(number) AS first_number, first_offset,
    sum(records) AS records, sum(stored) AS stored, sum(repeated) AS repeated,
    sum(rejected) AS rejected FROM ingest GROUP BY coalesce(topic, '')
"""
_CONVERT = {
    2: f"""
BEGIN IMMEDIATE;
ALTER TABLE ingest ADD COLUMN topic TEXT;
{_SCHEMA}
INSERT INTO evidence {_VERSION_2_EVIDENCE};
INSERT INTO ingest_totals {_VERSION_3_TOTALS};
DROP TABLE late;
DROP TABLE conflicts;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
""",
    3: f"""
BEGIN IMMEDIATE;
{_SCHEMA}
INSERT INTO ingest_totals {_VERSION_3_TOTALS};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
""",
    4: f"""
BEGIN IMMEDIATE;
{_SCHEMA}
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
""",
}
#: Schema version 4 had no lags.
_VERSION_4_LAGS = (
    "CREATE TEMP VIEW lags AS SELECT '' AS minute, '' AS behind, 0 AS bucket, 0 AS count WHERE 0;"
)
#: Read-only connections show an older schema version as the current one, until the consumer has
#: converted the database.
_SHOW = {
    2: f"""
CREATE TEMP VIEW evidence AS {_VERSION_2_EVIDENCE};
CREATE TEMP VIEW ingest AS SELECT *, NULL AS topic FROM main.ingest;
CREATE TEMP VIEW ingest_totals AS {_VERSION_3_TOTALS};
{_VERSION_4_LAGS}
""",  # noqa: S608 - constants
    3: f"CREATE TEMP VIEW ingest_totals AS {_VERSION_3_TOTALS}; {_VERSION_4_LAGS}",
    4: _VERSION_4_LAGS,
}

#: SQL for `time` in microseconds since 1970. Parsing it in Spark takes three times as long.
#: `unixepoch` gets whole seconds only: SQLite before 3.51 rounds the last half millisecond up.
TIME_US = "unixepoch(substr(time, 1, 19)) * 1000000 + substr(time, 21, 6)"

_INSERT_TRADE = """
INSERT INTO btc_prices (trade_id, price, best_bid, best_ask, side, time, last_size)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (trade_id) DO NOTHING
"""
_ADD_TO_TOTALS = """
INSERT INTO ingest_totals VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (topic) DO UPDATE SET
    records = records + excluded.records, stored = stored + excluded.stored,
    repeated = repeated + excluded.repeated, rejected = rejected + excluded.rejected
"""
#: The newest transaction. It does not always have the greatest offset: a new topic starts at 0.
_NEWEST = "FROM ingest ORDER BY number DESC LIMIT 1"


class StoreError(OperationalError):
    """The file is not a database, or its schema has another version than this program writes."""


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


def damaged(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    """Return the error for a file that is not a database, or is damaged."""
    return StoreError(
        f"Cannot open {path.name}: {error}. Move the file away: the consumer fills a new one from "
        f"Kafka. Or choose another directory with DATA_DIR=. The file: {path}"
    )


class Writer(sqlite3.Connection):
    """The writing connection. It can check that its files are still at their paths.

    SQLite writes into files that were deleted or replaced, without an error.
    """

    #: The database, its write-ahead log and its shared memory.
    _paths: tuple[Path, ...] = ()
    _files: tuple[tuple[int, int], ...] = ()
    _bytes = 0

    def remember_files(self, path: Path) -> None:
        """Record which files this connection has opened."""
        self._paths = (path, *_companions(path))
        self._files, self._bytes = _identities(self._paths)

    def check_files(self) -> None:
        """Check that the files at the paths are the open ones. This takes some microseconds.

        Raises:
            RestartError: a file was deleted, replaced or truncated. The database has to be opened
                again. What it then lacks is read again from Kafka.
        """
        path = self._paths[0]
        try:
            files, size = _identities(self._paths)
        except OSError as error:
            name = Path(error.filename or path).name
            raise RestartError(
                f"{name} was deleted while it was open. The consumer opens it again and reads "
                f"missing records from Kafka. The database: {path}"
            ) from error
        if files != self._files:
            raise RestartError(
                f"{path.name} was replaced while it was open. The consumer opens it again and "
                f"reads missing records from Kafka. The database: {path}"
            )
        if size < self._bytes:  # SQLite never makes it shorter: nothing here runs VACUUM
            raise RestartError(
                f"{path.name} was truncated while it was open. The consumer opens it again. Its "
                f"size was {self._bytes} bytes and is {size} bytes. The database: {path}"
            )
        self._bytes = size


def _companions(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))


def _identities(paths: Iterable[Path]) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return the device and inode of each file, and the size of the first."""
    found = [path.stat() for path in paths]
    return tuple((of.st_dev, of.st_ino) for of in found), found[0].st_size


def _discard_log_of_truncated(path: Path) -> None:
    """Delete the write-ahead log of a database that was truncated to 0 bytes.

    SQLite would combine the log and the empty file into a damaged database. SQLite writes the first
    page of a new database before it creates a log, so no sound database is in this state.
    """
    if path.exists() and path.stat().st_size == 0:
        for companion in _companions(path):
            companion.unlink(missing_ok=True)


def open_writer(path: Path) -> Writer:
    """Open the only writing connection; create or migrate the schema.

    Raises:
        sqlite3.OperationalError: the database is locked or full, or cannot be written.
        StoreError: the file is not a database, or has another schema version.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _discard_log_of_truncated(path)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, factory=Writer)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # survives a power cut; costs little
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version in _CONVERT:
            connection.executescript(_CONVERT[version])
        elif version not in {0, SCHEMA_VERSION}:
            raise StoreError(
                f"{path.name} has schema version {version}, not {SCHEMA_VERSION}. Choose another "
                f"directory with DATA_DIR=. The file: {path}"
            )
        connection.executescript(f"{_SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};")
        connection.remember_files(path)
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise damaged(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a read-only connection.

    Raises:
        sqlite3.OperationalError: the database does not exist yet.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version in _SHOW:
            connection.executescript(_SHOW[version])
    except BaseException:
        connection.close()
        raise
    return connection


def unreadable(path: Path, error: sqlite3.Error) -> str:
    """Return the error message for a database that cannot be read."""
    if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        action = "another program has locked it. Stop that program"
    elif getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_CANTOPEN:
        action = f"{error}. Give this user access to it"
    else:
        action = f"{error}. Move it away: the consumer fills a new one from Kafka"
    return f"Cannot read {path.name}: {action}. The file: {path}"


def no_table_yet(error: sqlite3.OperationalError) -> bool:
    """Return whether a statement failed because the writer has not created its tables yet."""
    return "no such table" in str(error)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit everything that is written in the block, or nothing after an error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # on a full disk, SQLite has already rolled back
            connection.execute("ROLLBACK")
        raise


def store(
    connection: sqlite3.Connection,
    batch: Batch,
    now: datetime,
    watermark: timedelta = timedelta(minutes=1),
    trigger: timedelta = timedelta(seconds=1),
) -> StoreResult:
    """Store the trades of a batch with gaps, evidence and bookkeeping, in one transaction.

    Storing the same batch again changes no trade.

    Args:
        connection: the connection that `open_writer` returned.
        batch: the records of one poll.
        now: the time of the commit.
        watermark: the watermark of the stream. Records that are later than this are evidence.
        trigger: from the start of one micro-batch of the stream to the start of the next.
    """
    committed_at = time_text(now)
    ids = sorted({trade.trade_id for trade in batch.trades})
    with transaction(connection):
        span = id_span(connection)
        total = total_rows(connection)
        newest = _newest_trade(connection, batch)
        known = _known(connection, ids, span)
        new, duplicates = split_new_and_duplicate(batch.trades, known)
        stored = [batch.trades[place] for place in new]
        connection.executemany(_INSERT_TRADE, map(_row, stored))
        for id_range in id_ranges(ids):
            span = _update_gaps(connection, id_range, span, committed_at)
        _insert_evidence(connection, batch, set(new), newest, watermark)
        if batch.receipts:
            receipts = [batch.receipts[place] for place in new]
            _count_latencies(connection, stored, receipts, now)
            _count_lags(connection, batch, set(new), newest, trigger)
        result = StoreResult(len(new), len(duplicates), total + len(new))
        times = [trade.time for trade in batch.trades] + ([newest] if newest else [])
        number = connection.execute(
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
        ).lastrowid
        counts = (batch.records, result.stored, result.repeated, batch.rejected)
        connection.execute(_ADD_TO_TOTALS, (batch.topic or "", number, batch.first_offset, *counts))
    return result


def next_offset(connection: sqlite3.Connection) -> int | None:
    """Return the offset after the newest stored one; None if nothing is stored."""
    last = connection.execute(f"SELECT last_offset {_NEWEST}").fetchone()
    return last[0] + 1 if last else None


def newest_topic(connection: sqlite3.Connection) -> str | None:
    """Return Kafka's id of the topic of the newest stored record; None if it is not recorded."""
    newest = connection.execute(f"SELECT topic {_NEWEST}").fetchone()
    return newest[0] if newest else None


def newest_receipt(connection: sqlite3.Connection) -> str | None:
    """Return the time of receipt of the newest stored record; None if nothing is stored."""
    newest = connection.execute(f"SELECT last_receipt {_NEWEST}").fetchone()
    return newest[0] if newest else None


def newest_event_time(connection: sqlite3.Connection) -> datetime | None:
    """Return the event time up to which the topic was read; None if no trade was read."""
    newest = connection.execute(f"SELECT newest_trade {_NEWEST}").fetchone()
    return datetime.fromisoformat(newest[0]) if newest and newest[0] else None


def total_rows(connection: sqlite3.Connection) -> int:
    """Return the number of stored trades.

    The table `ingest` holds this number. Counting millions of rows takes seconds.
    """
    row = connection.execute(f"SELECT total_rows {_NEWEST}").fetchone()
    return row[0] if row else 0


def _newest_trade(connection: sqlite3.Connection, batch: Batch) -> datetime | None:
    """Return the greatest event time before this batch; None at the beginning of the topic.

    A consumer that reads a topic again from its beginning starts without one, as the stream does.
    """
    row = connection.execute(f"SELECT newest_trade, last_offset, topic {_NEWEST}").fetchone()
    if row is None or row[0] is None:
        return None
    newest, last_offset, topic = row
    follows = batch.first_offset > last_offset and topic in {None, batch.topic}
    return datetime.fromisoformat(newest) if follows else None


def id_span(connection: sqlite3.Connection) -> tuple[int, int] | None:
    """Return the least and the greatest stored trade id; None if nothing is stored."""
    low, high = connection.execute(
        "SELECT (SELECT min(trade_id) FROM btc_prices), (SELECT max(trade_id) FROM btc_prices)"
    ).fetchone()
    return None if low is None else (low, high)


def stored_ranges(connection: sqlite3.Connection) -> list[tuple[int, int]]:
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


def open_gaps(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the number of open gaps and the number of missing trade ids."""
    count, missing = connection.execute(
        "SELECT count(*), coalesce(sum(last_trade_id - first_trade_id + 1), 0) "
        "FROM gaps WHERE filled_at IS NULL"
    ).fetchone()
    return count, missing


#: Kinds of records in the table `evidence`: the stored record, a later one with the same content,
#: and a later one with other content.
STORED, REPEAT, CONFLICT = "stored", "repeat", "conflict"


def id_ranges(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of consecutive ids in sorted ids: (first, last)."""
    for _, group in itertools.groupby(enumerate(ids), key=lambda pair: pair[1] - pair[0]):
        members = [member for _, member in group]
        yield members[0], members[-1]


def _known(
    connection: sqlite3.Connection, ids: list[int], span: tuple[int, int] | None
) -> set[int]:
    """Return which of these sorted ids are stored; ids above all stored ones need no query."""
    if span is None or not ids or ids[0] > span[1]:
        return set()
    rows = connection.execute(
        "SELECT trade_id FROM json_each(?) CROSS JOIN btc_prices ON trade_id = value",
        (json.dumps(ids),),
    )
    return {trade_id for (trade_id,) in rows}


def split_new_and_duplicate(
    trades: Sequence[Trade], known: set[int]
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
    connection: sqlite3.Connection,
    batch: Batch,
    new: set[int],
    newest: datetime | None,
    watermark: timedelta,
) -> None:
    """Record the trades of a batch that are late or conflict with stored trades.

    Args:
        connection: the writing connection, in the transaction that stores the batch.
        batch: the records of one poll.
        new: the positions of the trades that were stored.
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
        kind = STORED if place in new else _kind_of_duplicate(connection, trade)
        if lateness is not None or kind == CONFLICT:
            offset = batch.offsets[place] if batch.offsets else None
            rows.append((batch.topic, offset, trade.trade_id, *_content(trade), kind, lateness))
    connection.executemany(
        "INSERT INTO evidence (topic, kafka_offset, trade_id, time, side, price, last_size, kind, "
        "lateness_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        rows,
    )


def _kind_of_duplicate(connection: sqlite3.Connection, trade: Trade) -> str:
    stored = connection.execute(
        "SELECT time, side, price, last_size FROM btc_prices WHERE trade_id = ?", (trade.trade_id,)
    ).fetchone()
    return REPEAT if stored == _content(trade) else CONFLICT


def _content(trade: Trade) -> tuple[str, str, float, float]:
    return time_text(trade.time), trade.side, float(trade.price), float(trade.last_size)


def _count_latencies(
    connection: sqlite3.Connection,
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
        "INSERT INTO latency VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET count = count + excluded.count",
        ((*key, count) for key, count in counts.items()),
    )


def _count_lags(
    connection: sqlite3.Connection,
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
        "INSERT INTO lags VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET count = count + excluded.count",
        ((minute_text(minute), *key, count) for (minute, *key), count in counts.items()),
    )
    connection.execute(
        "INSERT OR REPLACE INTO lag_position VALUES (1, ?, ?, ?)",
        [
            moment and time_text(moment)
            for moment in (position.started, position.before_previous, position.before)
        ],
    )


def minute_text(moment: datetime) -> str:
    """Return the minute of a time as the table `latency` stores it."""
    return moment.astimezone(UTC).isoformat(timespec="minutes")[:16] + "Z"


def _update_gaps(
    connection: sqlite3.Connection,
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


#: Greater than every time in the tables.
AFTER_ALL_TIMES = "~"


def time_text(moment: datetime) -> str:
    """Return a time in the format of the tables: six decimals. The texts sort like the times."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"
