"""The schema of the PostgreSQL database."""

#: The same tables as in SQLite, with the same meanings: see `sqlite_schema.py`. Texts sort by
#: their bytes.
SCHEMA = """
CREATE TABLE btc_prices (
    trade_id  bigint PRIMARY KEY CHECK (trade_id > 0),
    price     double precision NOT NULL CHECK (price > 0 AND price < 1e10),
    best_bid  double precision CHECK (best_bid > 0 AND best_bid < 1e10),
    best_ask  double precision CHECK (best_ask > 0 AND best_ask < 1e10),
    side      text COLLATE "C" NOT NULL CHECK (side IN ('buy', 'sell')),
    time      text COLLATE "C" NOT NULL
        CHECK (time ~ '^[12][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T.*Z$'),
    last_size double precision NOT NULL CHECK (last_size > 0 AND last_size < 1e10)
);
CREATE TABLE ingest (
    number         bigint PRIMARY KEY,
    first_offset   bigint NOT NULL,
    last_offset    bigint NOT NULL CHECK (last_offset >= first_offset),
    records        bigint NOT NULL,
    stored         bigint NOT NULL,
    repeated       bigint NOT NULL,
    rejected       bigint NOT NULL,
    first_trade_id bigint,
    last_trade_id  bigint,
    first_receipt  text COLLATE "C" NOT NULL,
    last_receipt   text COLLATE "C" NOT NULL,
    committed_at   text COLLATE "C" NOT NULL,
    total_rows     bigint NOT NULL,
    newest_trade   text COLLATE "C",
    topic          text COLLATE "C"
);
CREATE TABLE ingest_totals (
    topic        text COLLATE "C" PRIMARY KEY,
    first_number bigint NOT NULL,
    first_offset bigint NOT NULL,
    records      bigint NOT NULL,
    stored       bigint NOT NULL,
    repeated     bigint NOT NULL,
    rejected     bigint NOT NULL
);
CREATE TABLE gaps (
    first_trade_id bigint PRIMARY KEY,
    last_trade_id  bigint NOT NULL CHECK (last_trade_id >= first_trade_id),
    found_at       text COLLATE "C" NOT NULL,
    filled_at      text COLLATE "C"
);
CREATE TABLE evidence (
    number       bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    topic        text COLLATE "C",
    kafka_offset bigint,
    trade_id     bigint NOT NULL,
    time         text COLLATE "C" NOT NULL,
    side         text COLLATE "C" NOT NULL,
    price        double precision NOT NULL,
    last_size    double precision NOT NULL,
    kind         text COLLATE "C" NOT NULL CHECK (kind IN ('stored', 'repeat', 'conflict')),
    lateness_s   double precision,
    UNIQUE (topic, kafka_offset)
);
CREATE TABLE latency (
    minute text COLLATE "C" NOT NULL,
    leg    text COLLATE "C" NOT NULL,
    bucket bigint NOT NULL,
    count  bigint NOT NULL,
    PRIMARY KEY (minute, leg, bucket)
);
CREATE TABLE lags (
    minute text COLLATE "C" NOT NULL,
    behind text COLLATE "C" NOT NULL CHECK (behind IN ('newest', 'micro_batches')),
    bucket bigint NOT NULL,
    count  bigint NOT NULL,
    PRIMARY KEY (minute, behind, bucket)
);
CREATE TABLE lag_position (
    number          bigint PRIMARY KEY CHECK (number = 1),
    started         text COLLATE "C",
    before_previous text COLLATE "C",
    before          text COLLATE "C"
);
CREATE INDEX open_gaps ON gaps (first_trade_id, last_trade_id) WHERE filled_at IS NULL;
-- One row: the schema version of the tables, and the product whose trades they hold.
CREATE TABLE store_version (version bigint NOT NULL, product text COLLATE "C" NOT NULL);
"""

#: SCHEMA for a database that already has its tables: creates dropped tables of measurements and
#: dropped indexes. The first start must not use it, because it accepts a table of another program
#: with one of these names.
DROPPED_PARTS = SCHEMA.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ").replace(
    "CREATE INDEX ", "CREATE INDEX IF NOT EXISTS "
)
