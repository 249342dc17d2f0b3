"""The windows in Flink SQL: the statements, each way to remove duplicates, and the settings.

The job computes what the pipeline computes for a window, without open and close price. Prices and
sizes are `DECIMAL(18, 8)`, as in the pipeline.
"""

import csv
import json
from decimal import Decimal
from pathlib import Path

from benchmarks.processes import SCRIPTS, Bench, Running
from benchmarks.windows import Window, Windows, micros
from pipeline.spark import ROOT

JARS = ROOT / "jars" / "flink" / "lib"
#: On two cores, the serial garbage collector took 5 % less CPU and half of the memory: with 2.1
#: million messages 34.5 CPU s and 539 MiB, and G1 took 36.3 CPU s and 1,157 MiB.
JAVA_OPTIONS = ("-Xmx2g", "-XX:+UseSerialGC")
CONFIGURATION = {
    "execution.target": "local",  # all of Flink in one JVM
    "parallelism.default": "2",
    "pipeline.object-reuse": "true",
    "table.local-time-zone": "UTC",
}
#: The job reads the messages that are in the topic when it starts. Then it closes all windows and
#: ends. It makes no checkpoints. Both are in favour of Flink.
FEED = """
CREATE TABLE feed (
    trade_id BIGINT, price DECIMAL(18, 8), last_size DECIMAL(18, 8), side STRING,
    `time` TIMESTAMP_LTZ(3), WATERMARK FOR `time` AS `time` - INTERVAL '1' MINUTE
) WITH (
    'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{servers}',
    'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset',
    'format' = 'json', 'json.ignore-parse-errors' = 'true',
    'json.timestamp-format.standard' = 'ISO-8601'
)
"""
COLUMNS = {
    "window_start": "TIMESTAMP(3)",
    "trade_count": "BIGINT",
    "buy_count": "BIGINT",
    "sum_price": "DECIMAL(38, 8)",
    "max_price": "DECIMAL(18, 8)",
    "min_price": "DECIMAL(18, 8)",
    "total_volume": "DECIMAL(38, 8)",
    "turnover": "DECIMAL(38, 16)",
}
_SINK = """
CREATE TABLE windows ({columns}) WITH (
    'connector' = 'filesystem', 'path' = '{folder}', 'format' = 'csv'
)
"""
_INSERT = """
INSERT INTO windows SELECT window_start, COUNT(*), COUNT(*) FILTER (WHERE side = 'buy'),
    SUM(price), MAX(price), MIN(price), SUM(last_size), SUM(price * last_size)
FROM {trades} GROUP BY window_start, window_end
"""
_TUMBLE = "TUMBLE(TABLE {table}, DESCRIPTOR(`time`), INTERVAL '1' MINUTE)"
_FEED = _TUMBLE.format(table="feed")
#: The first delivery of each trade, in all windows. Its state expires after 60 s of processing
#: time, because Flink cannot limit the lifetime of this state in event time.
_FIRST = """
CREATE VIEW first_deliveries AS SELECT trade_id, price, last_size, side, `time` FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY trade_id ORDER BY `time`) AS delivery FROM feed
) WHERE delivery = 1
"""
#: The ways to handle repeated deliveries, the first without deduplication: views and trades.
DEDUPLICATIONS = {
    "none": ((), _FEED),
    "window deduplication": (
        (),
        f"""(
    SELECT * FROM (
        SELECT *, ROW_NUMBER() OVER (
            PARTITION BY window_start, window_end, trade_id ORDER BY `time`) AS delivery
        FROM {_FEED}
    ) WHERE delivery = 1
)""",
    ),
    "group by trade_id in the window": (
        (),
        f"""(
    SELECT window_start, window_end, trade_id, MAX(price) AS price, MAX(last_size) AS last_size,
        MAX(side) AS side
    FROM {_FEED} GROUP BY window_start, window_end, trade_id
)""",
    ),
    "ROW_NUMBER over all windows": ((_FIRST,), _TUMBLE.format(table="first_deliveries")),
}
_OWN_SETTINGS = {"ROW_NUMBER over all windows": {"table.exec.state.ttl": "60 s"}}


def statements(servers: str, topic: str, folder: Path, deduplication: str) -> list[str]:
    """Return the SQL statements of a job. The last one runs until all windows are written."""
    views, trades = DEDUPLICATIONS[deduplication]
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    return [
        FEED.format(servers=servers, topic=topic),
        _SINK.format(columns=columns, folder=folder.as_uri()),
        *views,
        _INSERT.format(trades=trades),
    ]


def start(bench: Bench, servers: str, topic: str, deduplication: str) -> Running:
    """Start a job. It writes to the directory `flink` of the measurement."""
    job = bench.folder / "flink.json"
    folder = bench.folder / "flink"
    described = {
        "configuration": CONFIGURATION | _OWN_SETTINGS.get(deduplication, {}),
        "statements": statements(servers, topic, folder, deduplication),
    }
    job.write_text(json.dumps(described), encoding="utf-8")
    return bench.python("flink-job", SCRIPTS / "flink.py", JARS / "*", job, *JAVA_OPTIONS)


def read_windows(folder: Path) -> Windows:
    """Return the windows in Flink's files, which have no header."""
    found: dict[int, Window] = {}
    for path in folder.glob("*"):
        if path.name.startswith("."):  # not completed
            continue
        with path.open(encoding="utf-8", newline="") as file:
            for cells in csv.reader(file):
                row: dict[str, object] = dict(zip(COLUMNS, cells, strict=True))
                average = Decimal(str(row["sum_price"])) / int(str(row["trade_count"]))
                found[micros(cells[0])] = row | {"avg_price": average}
    return found


def versions() -> dict[str, str]:
    """Return the versions of Flink and of its Kafka connector."""
    names = {"Flink": "flink-clients-", "Kafka connector of Flink": "flink-sql-connector-kafka-"}
    return {
        name: next(JARS.glob(f"{prefix}*.jar")).stem.removeprefix(prefix)
        for name, prefix in names.items()
    }
