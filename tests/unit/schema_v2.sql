-- The schema of version 2, and two trades: one late, one with a conflicting duplicate.
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
-- newest_trade the greatest event time in the topic up to there.
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
    newest_trade   TEXT
);
-- Runs of trade_ids between the least and the greatest stored one that were never seen.
CREATE TABLE IF NOT EXISTS gaps (
    first_trade_id INTEGER PRIMARY KEY,
    last_trade_id  INTEGER NOT NULL CHECK (last_trade_id >= first_trade_id),
    found_at       TEXT NOT NULL,
    filled_at      TEXT
);
-- Trades that came a watermark or more behind the newest one: the stream may have dropped them.
CREATE TABLE IF NOT EXISTS late (
    trade_id INTEGER PRIMARY KEY,
    behind_s REAL NOT NULL
);
-- Valid messages with the id of a stored trade and another content: only the first one counts.
CREATE TABLE IF NOT EXISTS conflicts (
    trade_id  INTEGER NOT NULL,
    price     REAL NOT NULL,
    side      TEXT NOT NULL,
    time      TEXT NOT NULL,
    last_size REAL NOT NULL,
    PRIMARY KEY (trade_id, price, side, time, last_size)
) WITHOUT ROWID;
-- Latencies of stored trades by minute of receipt, in the buckets of pipeline/latency.py.
CREATE TABLE IF NOT EXISTS latency (
    minute TEXT NOT NULL,
    leg    TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (minute, leg, bucket)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open_gaps ON gaps (first_trade_id, last_trade_id)
    WHERE filled_at IS NULL;
PRAGMA user_version = 2;
INSERT INTO btc_prices VALUES
    (1, 86321.55, NULL, NULL, 'buy', '2025-12-02T05:00:00.000000Z', 0.25),
    (2, 86321.55, NULL, NULL, 'buy', '2025-12-02T05:00:24.500000Z', 0.25);
INSERT INTO ingest VALUES (NULL, 0, 2, 3, 2, 1, 0, 1, 2, '2025-12-02T05:00:00.000000Z',
    '2025-12-02T05:00:00.000000Z', '2025-12-02T05:00:01.000000Z', 2, '2025-12-02T05:01:40.000000Z');
INSERT INTO late VALUES (2, 75.5);
INSERT INTO conflicts VALUES (1, 86321.55, 'buy', '2025-12-02T05:00:00.000000Z', 0.5);
