-- Schema version 3 as it was written: two topics, repeated and rejected records.
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
INSERT INTO "btc_prices" VALUES(2,100.5,NULL,NULL,'buy','2025-12-02T05:00:02.000000Z',0.25);
INSERT INTO "btc_prices" VALUES(3,100.5,NULL,NULL,'buy','2025-12-02T05:00:03.000000Z',0.25);
INSERT INTO "btc_prices" VALUES(4,100.5,NULL,NULL,'buy','2025-12-02T05:00:04.000000Z',0.25);
INSERT INTO "btc_prices" VALUES(5,100.5,NULL,NULL,'buy','2025-12-02T05:00:05.000000Z',0.25);
INSERT INTO "btc_prices" VALUES(6,100.5,NULL,NULL,'buy','2025-12-02T05:00:06.000000Z',0.25);
INSERT INTO "btc_prices" VALUES(7,100.5,NULL,NULL,'buy','2025-12-02T05:00:07.000000Z',0.25);
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
INSERT INTO "ingest" VALUES(1,5,8,4,3,0,1,1,3,'2025-12-02T05:00:00.000000Z','2025-12-02T05:00:00.000000Z','2025-12-02T05:00:00.000000Z',3,'2025-12-02T05:00:03.000000Z','one');
INSERT INTO "ingest" VALUES(2,9,10,2,1,1,0,3,4,'2025-12-02T05:00:00.000000Z','2025-12-02T05:00:00.000000Z','2025-12-02T05:00:00.000000Z',4,'2025-12-02T05:00:04.000000Z','one');
INSERT INTO "ingest" VALUES(3,0,2,3,2,1,0,4,6,'2025-12-02T05:00:00.000000Z','2025-12-02T05:00:00.000000Z','2025-12-02T05:00:00.000000Z',6,'2025-12-02T05:00:06.000000Z','two');
INSERT INTO "ingest" VALUES(4,3,3,1,1,0,0,7,7,'2025-12-02T05:00:00.000000Z','2025-12-02T05:00:00.000000Z','2025-12-02T05:00:00.000000Z',7,'2025-12-02T05:00:07.000000Z','two');
CREATE TABLE latency (
    minute TEXT NOT NULL,
    leg    TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (minute, leg, bucket)
) WITHOUT ROWID;
CREATE INDEX open_gaps ON gaps (first_trade_id, last_trade_id)
    WHERE filled_at IS NULL;
PRAGMA user_version = 3;
