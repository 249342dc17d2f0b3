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
from datetime import timedelta
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows

from pipeline import metrics, outputs, spark_metrics, times
from pipeline.ingest import store
from pipeline.settings import Settings, load

#: Status of a process that found an empty or missing table.
NO_DATA = 3
#: What Spark's JDBC scan says it spent: on the query up to its first row, then on each fetch of a
#: row from SQLite into Spark's own form; nanoseconds, added up over all tasks.
_READING = ("queryExecutionTime", "fetchAndTransformToInternalRowsNs")
_COLUMNS = f"trade_id, price, last_size, side, {store.TIME_US} AS time_us"
_SCHEMA = "part INT, trade_id LONG, price DOUBLE, last_size DOUBLE, side STRING, time_us LONG"


def snapshot(data: outputs.DataDir) -> list[tuple[int, int]]:
    """The ranges of trade ids stored at this moment; [] when there is no table or no row."""
    if not data.database.exists():
        return []
    connection = store.open_reader(data.database)
    try:
        connection.execute("BEGIN")
        return store.stored_ranges(connection)
    except sqlite3.OperationalError as error:
        if store.no_table_yet(error):
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
    numbered = [(part, *ids) for part, group in enumerate(parts) for ids in group]
    database = outputs.DataDir(settings.data_dir).database
    return session.read.jdbc(
        f"jdbc:sqlite:{database.as_uri()}?mode=ro",
        _select(numbered),
        predicates=[f"part = {part}" for part in range(len(parts))],
        properties={"customSchema": _SCHEMA, "fetchsize": "10000"},
    )


def _select(numbered: list[tuple[int, int, int]]) -> str:
    return (
        f"(SELECT json_extract(value, '$[0]') AS part, {_COLUMNS} FROM json_each("  # noqa: S608
        f"'{json.dumps(numbered)}') CROSS JOIN btc_prices ON trade_id "
        "BETWEEN json_extract(value, '$[1]') AND json_extract(value, '$[2]'))"
    )


def trades_of(table: DataFrame) -> DataFrame:
    return table.select(
        "trade_id",
        F.col("price").cast(spark_metrics.AMOUNT),
        F.col("last_size").cast(spark_metrics.AMOUNT).alias("size"),
        "side",
        "time_us",
    )


def sums_by_window(trades: DataFrame, window: timedelta) -> tuple[list[metrics.Sums], float | None]:
    """The sums of each tumbling window, in order, times in microseconds since 1970; `read_s`.

    By whole numbers and sorted here: `window()` and a sort in Spark take longer to plan than to do.
    """
    length = window // timedelta(microseconds=1)
    start = (F.col("time_us") - F.col("time_us") % length).alias("window_start")
    summed = trades.groupBy(start).agg(*spark_metrics.trade_sums())
    rows = summed.collect()
    windows: list[metrics.Sums] = [
        row.asDict() | {"window_end": row.window_start + length}
        for row in sorted(rows, key=lambda row: row.window_start)
    ]
    return windows, read_seconds(summed)


def read_seconds(collected: DataFrame) -> float | None:
    """How long SQLite and JDBC took in a query over the table that was collected, wall seconds.

    Reading and adding up are one pass; Spark times the fetch of each row in it, added up over the
    tasks. Divided by the tasks that run at once, which have equally many rows: as long as a task
    spent on it. None where Spark's plan or metrics are others than those of today's version.
    """
    try:
        node = collected._jdf.queryExecution().executedPlan()  # noqa: SLF001 - else nowhere
        while not node.children().isEmpty():
            node = node.children().head()
        spent = sum(node.metrics().apply(name).value() for name in _READING)
        tasks = node.rdd().getNumPartitions()
    except (AttributeError, Py4JError):
        return None
    at_once = min(tasks, collected.sparkSession.sparkContext.defaultParallelism)
    return float(spent / at_once / 1e9)


def row_of(sums: metrics.Sums, settings: Settings) -> dict[str, Any]:
    return metrics.compute(sums, settings) | outputs.moments(sums)


def with_z_scores(windows: list[metrics.Sums], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of these windows, in order, with the z-scores of each."""
    scored = (
        metrics.WindowAmounts(window["window_start"], row["price_range"], row["total_volume"])
        for window, row in zip(windows, rows, strict=True)
    )
    return [row | z for row, z in zip(rows, metrics.z_scores(scored), strict=True)]


def publish(
    data: outputs.DataDir, stamps: dict[str, Any], total: dict[str, Any], windows: list[Any]
) -> None:
    """The one row first, then the windows: each replaced as a whole."""
    stamps = {**stamps, "written_at": times.now()}
    one_row = outputs.to_csv(outputs.BATCH_COLUMNS, [total | stamps])
    outputs.write_atomically(data.batch_output / f"{stamps['run']}.csv", one_row)
    rows = outputs.to_csv(outputs.WINDOW_COLUMNS, (window | stamps for window in windows))
    outputs.write_atomically(data.batch_windows, rows)


def process(settings: Settings, run: str, began: float) -> Mapping[str, object]:
    """One run; returns what it can tell the log."""
    data = outputs.DataDir(settings.data_dir)
    session = SparkSession.builder.appName("batch").getOrCreate()
    start_s = time.time() - began
    snapshot_at = times.now()
    ranges = snapshot(data)
    if not ranges:
        return {"status": "no_data", "start_s": round(start_s, 2)}
    logic_began = time.time()
    trades = trades_of(read_table(session, settings, ranges))
    windows, read_s = sums_by_window(trades, settings.window)
    rows = sum(window["trade_count"] for window in windows)
    merged = metrics.merge_sums(windows)
    ids = {name: merged[name] for name in ("first_trade_id", "last_trade_id")}
    total = row_of(merged, settings) | ids | {"rows": rows}
    by_window = with_z_scores(windows, [row_of(window, settings) for window in windows])
    logic_s = time.time() - logic_began
    publish(data, {"run": run, "snapshot_at": snapshot_at}, total, by_window)
    write_s = time.time() - logic_began - logic_s
    session.stop()
    return {
        "status": "ok",
        "rows": rows,
        "windows": len(windows),
        "start_s": round(start_s, 2),
        "logic_s": round(logic_s, 2),
        "read_s": None if read_s is None else round(read_s, 2),
        "write_s": round(write_s, 2),
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
