"""The schema of the SQLite database, and how databases of older versions are read."""

from pipeline.stores.interface import SCHEMA_VERSION

#: Creates the tables.
SCHEMA = """
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
#: Converts a database of an older schema version to the current one.
CONVERT = {
    2: f"""
BEGIN IMMEDIATE;
ALTER TABLE ingest ADD COLUMN topic TEXT;
{SCHEMA}
INSERT INTO evidence {_VERSION_2_EVIDENCE};
INSERT INTO ingest_totals {_VERSION_3_TOTALS};
DROP TABLE late;
DROP TABLE conflicts;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
""",
    3: f"""
BEGIN IMMEDIATE;
{SCHEMA}
INSERT INTO ingest_totals {_VERSION_3_TOTALS};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
""",
    4: f"""
BEGIN IMMEDIATE;
{SCHEMA}
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
SHOW = {
    2: f"""
CREATE TEMP VIEW evidence AS {_VERSION_2_EVIDENCE};
CREATE TEMP VIEW ingest AS SELECT *, NULL AS topic FROM main.ingest;
CREATE TEMP VIEW ingest_totals AS {_VERSION_3_TOTALS};
{_VERSION_4_LAGS}
""",  # noqa: S608 - constants
    3: f"CREATE TEMP VIEW ingest_totals AS {_VERSION_3_TOTALS}; {_VERSION_4_LAGS}",
    4: _VERSION_4_LAGS,
}
