-- Schema version 4 as it was written: three trades, the last one late.
CREATE TABLE btc_prices (
    trade_id  INTEGER PRIMARY KEY CHECK (trade_id > 0),
    price     REAL NOT NULL CHECK (price > 0 AND price < 1e10),
    best_bid  REAL CHECK (best_bid > 0 AND best_bid < 1e10),
    best_ask  REAL CHECK (best_ask > 0 AND best_ask < 1e10),
    side      TEXT NOT NULL CHECK (side IN ('buy', 'sell')),
    time      TEXT NOT NULL CHECK (time GLOB '[12][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T*Z'),
    last_size REAL NOT NULL CHECK (last_size > 0 AND last_size < 1e10)
);
INSERT INTO "btc_prices" VALUES(1,100.5,NULL,NULL,'buy','2025-12-02T05:00:01.000000Z',0.25);
INSERT INTO "btc_prices" VALUES(2,100.5,NULL,NULL,'buy','2025-12-02T05:01:40.000000Z',0.25);
INSERT INTO "btc_prices" VALUES(3,100.5,NULL,NULL,'buy','2025-12-02T05:00:02.000000Z',0.25);
CREATE TABLE evidence (
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
INSERT INTO "evidence" VALUES(1,'one',2,3,'2025-12-02T05:00:02.000000Z','buy',100.5,0.25,'stored',98.0);
CREATE TABLE gaps (
    first_trade_id INTEGER PRIMARY KEY,
    last_trade_id  INTEGER NOT NULL CHECK (last_trade_id >= first_trade_id),
    found_at       TEXT NOT NULL,
    filled_at      TEXT
);
CREATE TABLE ingest (
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
INSERT INTO "ingest" VALUES(1,0,2,3,3,0,0,1,3,'2025-12-02T05:00:00.000000Z','2025-12-02T05:00:00.000000Z','2025-12-02T05:00:03.000000Z',3,'2025-12-02T05:01:40.000000Z','one');
CREATE TABLE ingest_totals (
    topic        TEXT PRIMARY KEY,  -- Kafka's id of the topic; '': recorded by schema version 2
    first_number INTEGER NOT NULL,  -- the number of the first transaction, and its first offset
    first_offset INTEGER NOT NULL,
    records      INTEGER NOT NULL,
    stored       INTEGER NOT NULL,
    repeated     INTEGER NOT NULL,
    rejected     INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO "ingest_totals" VALUES('one',1,0,3,3,0,0);
CREATE TABLE latency (
    minute TEXT NOT NULL,
    leg    TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (minute, leg, bucket)
) WITHOUT ROWID;
INSERT INTO "latency" VALUES('2025-12-02T05:00Z','event_to_receipt',0,1);
INSERT INTO "latency" VALUES('2025-12-02T05:00Z','event_to_receipt',40,1);
INSERT INTO "latency" VALUES('2025-12-02T05:00Z','event_to_receipt',71,1);
INSERT INTO "latency" VALUES('2025-12-02T05:00Z','receipt_to_stored',71,3);
CREATE INDEX open_gaps ON gaps (first_trade_id, last_trade_id)
    WHERE filled_at IS NULL;
PRAGMA user_version = 4;
