"""The batch path: the whole table by JDBC, the same metrics over everything.

Run by spark-submit, by `batch_scheduler.py`. It publishes the one row, then the windows; the
scheduler, who alone knows how the run ended and what it cost, adds the line to the log.
"""

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows

from pipeline import metrics, outputs, store
from pipeline.settings import Settings, load
from pipeline.trade import from_epoch_micros

#: Status of a process that found an empty or missing table.
NO_DATA = 3
_SCHEMA = "trade_id LONG, price DOUBLE, last_size DOUBLE, side STRING, time STRING"


def snapshot(data: outputs.DataDir) -> list[tuple[int, int]]:
    """The ranges of trade ids stored at this moment; [] when there is no table or no row."""
    if not data.database.exists():
        return []
    connection = store.open_reader(data.database)
    try:
        connection.execute("BEGIN")
        return store.stored_ranges(connection)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return []
        raise
    finally:
        connection.close()


def read_table(
    session: SparkSession, settings: Settings, ranges: list[tuple[int, int]]
) -> DataFrame:
    """Exactly the rows of these ranges, read over several connections at once.

    The connections share no snapshot; the ranges have no holes, so what is stored while they read
    lies outside of them.
    """
    parts = store.split_ranges(ranges, settings.batch_partitions)
    database = outputs.DataDir(settings.data_dir).database
    frames = [
        session.read.format("jdbc")
        .option("url", f"jdbc:sqlite:{database.as_uri()}?mode=ro")
        .option("dbtable", _select(part))
        .option("customSchema", _SCHEMA)
        .option("fetchsize", 10_000)
        .load()
        for part in parts
    ]
    return reduce(DataFrame.union, frames)


def _select(ranges: list[tuple[int, int]]) -> str:
    return (
        "(SELECT trade_id, price, last_size, side, time FROM json_each("  # noqa: S608 - numbers
        f"'{json.dumps(ranges)}') CROSS JOIN btc_prices ON trade_id "
        "BETWEEN json_extract(value, '$[0]') AND json_extract(value, '$[1]'))"
    )


def trades_of(table: DataFrame) -> DataFrame:
    return table.select(
        "trade_id",
        F.col("price").cast(metrics.DECIMAL),
        F.col("last_size").cast(metrics.DECIMAL).alias("size"),
        "side",
        F.col("time").cast("timestamp").alias("event_time"),
    )


def aggregate(trades: DataFrame, settings: Settings) -> tuple[list[Row], Row]:
    """The windows, and from their sums the one row of all trades."""
    window = F.window("event_time", f"{settings.window.total_seconds():.0f} seconds")
    by_window = trades.groupBy(window.alias("window")).agg(*metrics.sums()).cache()
    windows = by_window.select(
        F.unix_micros("window.start").alias("window_start"),
        F.unix_micros("window.end").alias("window_end"),
        *metrics.derived(settings),
    )
    total = by_window.agg(*metrics.merged_sums()).select(*metrics.derived(settings))
    # Sorted here: a sort in Spark costs two more stages, and there are few windows.
    rows = sorted(windows.collect(), key=lambda row: row.window_start)
    return rows, total.collect()[0]


def with_times(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = row.asDict()
    return {
        name: from_epoch_micros(value) if name in outputs.TIME_COLUMNS else value
        for name, value in fields.items()
    }


def publish(
    data: outputs.DataDir, run: str, snapshot_at: datetime, windows: list[Row], total: Row
) -> None:
    """The one row first, then the windows: each replaced as a whole."""
    written_at = outputs.now()
    one_row = with_times(total) | {
        "rows": total.trade_count,
        "run": run,
        "snapshot_at": snapshot_at,
        "written_at": written_at,
    }
    text = outputs.to_csv(outputs.BATCH_COLUMNS, [one_row])
    outputs.write_atomically(data.batch_output / f"{run}.csv", text)
    rows = (with_times(row) | {"written_at": written_at} for row in windows)
    outputs.write_atomically(data.batch_windows, outputs.to_csv(outputs.WINDOW_COLUMNS, rows))


def process(settings: Settings, run: str, began: float) -> Mapping[str, object]:
    """One run; returns what it can tell the log."""
    data = outputs.DataDir(settings.data_dir)
    session = SparkSession.builder.appName("batch").getOrCreate()
    start_s = time.time() - began
    snapshot_at = outputs.now()
    ranges = snapshot(data)
    if not ranges:
        return {"status": "no_data", "start_s": round(start_s, 2)}
    logic_began = time.time()
    trades = trades_of(read_table(session, settings, ranges))
    windows, total = aggregate(trades, settings)
    logic_s = time.time() - logic_began
    publish(data, run, snapshot_at, windows, total)
    session.stop()
    return {
        "status": "ok",
        "rows": total.trade_count,
        "windows": len(windows),
        "start_s": round(start_s, 2),
        "logic_s": round(logic_s, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="id of the run")
    parser.add_argument("--began", required=True, type=float, help="its start, Unix seconds")
    arguments = parser.parse_args()
    settings = load()
    result = process(settings, arguments.run, arguments.began)
    report = {"run": arguments.run, **result}
    path = outputs.DataDir(settings.data_dir).batch_run
    outputs.write_atomically(path, json.dumps(report) + "\n")
    print(f"batch aggregation logic time: {result.get('logic_s', 'unknown')} s; {report}")
    sys.exit(0 if result["status"] == "ok" else NO_DATA)


if __name__ == "__main__":
    main()
