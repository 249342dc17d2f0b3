"""One batch run: read what is stored now, compute the metrics, publish them.

`batch_processor.py` runs it by spark-submit. It publishes the result over the whole table first,
then the result of each window. It writes a file with the values that only the run can measure. The
scheduler appends them to `batch_log.txt`.
"""

import argparse
import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the usual name

from pipeline import alerts, outputs, source, spark, thresholds, times
from pipeline.errors import TemporaryError
from pipeline.ingest import store
from pipeline.java_errors import cause
from pipeline.logs import show
from pipeline.metrics import definitions, spark_sums
from pipeline.settings import Settings

T = TypeVar("T")

#: Exit status of a run that found no rows.
EXIT_NO_DATA = 3
#: Metrics of Spark's JDBC scan, nanoseconds, summed over all tasks: the query up to its first row,
#: then each fetch of a row from SQLite into Spark's format.
_READ_METRICS = ("queryExecutionTime", "fetchAndTransformToInternalRowsNs")
_COLUMNS = f"trade_id, price, last_size, side, {store.TIME_US} AS time_us"
_SCHEMA = "part INT, trade_id LONG, price DOUBLE, last_size DOUBLE, side STRING, time_us LONG"


class Arguments(NamedTuple):
    """What the scheduler passes to a run."""

    #: The name of the run.
    run: str
    #: Its start, monotonic seconds of this machine: a change of the clock is no part of the time.
    began: float


def parse_arguments() -> Arguments:
    parser = argparse.ArgumentParser(description="Compute the metrics over the whole table, once.")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--began", required=True, type=float, help="its start, monotonic seconds")
    given = parser.parse_args()
    return Arguments(given.run, given.began)


def run(settings: Settings, arguments: Arguments) -> int:
    """Execute one run and return the exit status. A run that fails reports why.

    Raises:
        Exception: why the run failed.
    """
    data = outputs.DataDir(settings.data_dir)
    try:
        result = _execute(settings, data, arguments)
    except Exception as error:
        result = {"run": arguments.run, "status": "failed", "reason": cause(error)}
        with contextlib.suppress(OSError):  # the first error is the one to report
            outputs.write_atomically(data.batch_run, json.dumps(result) + "\n")
        raise
    outputs.write_atomically(data.batch_run, json.dumps(result) + "\n")
    print(f"batch aggregation logic time: {result.get('logic_s', 'unknown')} s; {result}")
    return 0 if result["status"] == "ok" else EXIT_NO_DATA


def _execute(settings: Settings, data: outputs.DataDir, arguments: Arguments) -> dict[str, Any]:
    """Return what the log shows about the run.

    Raises:
        OSError: an output cannot be written.
        OutputError: the data directory holds another product, or windows of another length.
        sqlite3.Error: the database cannot be read.
    """
    source.claim(data, settings)
    source.check_window(data, settings.window)
    thresholds.record(data.thresholds_of("batch_processor"), settings)
    session = spark.submitted_session("batch")
    start_s = time.monotonic() - arguments.began
    result = {"run": arguments.run, **process(session, settings, arguments.run)}
    result["start_s"] = round(start_s, 2)
    session.stop()
    return result


def process(session: SparkSession, settings: Settings, run: str) -> dict[str, Any]:
    """Read, compute and publish; return the status and what the log shows about the run.

    Raises:
        TemporaryError: the database was replaced during the run, so the result may mix two files.
    """
    data = outputs.DataDir(settings.data_dir)
    if not data.database.exists():
        return {"status": "no_data"}
    snapshot_at = times.now()
    with not_replaced(data.database):
        ranges = read_store(data.database, store.stored_ranges) or []
        if not ranges:
            return {"status": "no_data"}
        began = time.monotonic()
        trades = amounts(read_table(session, settings, ranges))
        windows, read_s = sums_by_window(trades, settings.window)
    total, by_window = compute(windows, settings)
    computed = time.monotonic()
    publish(data, {"run": run, "snapshot_at": snapshot_at}, total, by_window)
    alerts.AlertLog(data.alerts_batch, settings, show).publish(
        by_window[-alerts.HORIZON_WINDOWS :], total["last_trade_time"], times.now()
    )
    return {
        "status": "ok",
        "rows": total["rows"],
        "windows": len(windows),
        "logic_s": round(computed - began, 2),
        "read_s": None if read_s is None else round(read_s, 2),
        "write_s": round(time.monotonic() - computed, 2),
    }


@contextmanager
def not_replaced(database: Path) -> Iterator[None]:
    """Check after the block that the database is still the file that it was before.

    The file stays open, so no other file can get its inode.

    Raises:
        TemporaryError: it was replaced or deleted.
    """
    with database.open("rb") as opened:
        yield
        if not database.exists() or not os.path.samestat(
            os.fstat(opened.fileno()), database.stat()
        ):
            raise TemporaryError(
                f"{database.name} was replaced during the run. The next run reads the new one"
            )


# --- read -----------------------------------------------------------------------------------


def read_store(database: Path, query: Callable[[sqlite3.Connection], T]) -> T | None:
    """Return the result of a query in one transaction; None if there is no table yet.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    if not database.exists():
        return None
    with closing(store.open_reader(database)) as connection:
        try:
            connection.execute("BEGIN")
            return query(connection)
        except sqlite3.OperationalError as error:
            if store.no_table_yet(error):
                return None
            raise


def read_table(
    session: SparkSession, settings: Settings, ranges: list[tuple[int, int]]
) -> DataFrame:
    """Return exactly the rows of these ranges of ids, read over several connections at once.

    The connections share no snapshot. The ranges have no holes, so rows that are stored during the
    read are outside of them.
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


def amounts(table: DataFrame) -> DataFrame:
    """Return rows of the table as the input of `spark_sums.trade_sums`."""
    return table.select(
        "trade_id",
        F.col("price").cast(spark_sums.AMOUNT),
        F.col("last_size").cast(spark_sums.AMOUNT).alias("size"),
        "side",
        "time_us",
    )


def sums_by_window(
    trades: DataFrame, window: timedelta
) -> tuple[list[definitions.Sums], float | None]:
    """Return the sums of each window, sorted by start, and `read_seconds`.

    The windows are computed with integers and sorted here: Spark takes longer to plan `window()`
    and a sort than to run them.
    """
    length = window // timedelta(microseconds=1)
    start = (F.col("time_us") - F.col("time_us") % length).alias("window_start")
    summed = trades.groupBy(start).agg(*spark_sums.trade_sums())
    rows = summed.collect()
    windows: list[definitions.Sums] = [
        row.asDict() | {"window_end": row.window_start + length}
        for row in sorted(rows, key=lambda row: row.window_start)
    ]
    return windows, read_seconds(summed)


def read_seconds(collected: DataFrame) -> float | None:
    """Return how long SQLite and JDBC took in a collected query, wall seconds.

    Reading and aggregating are one pass. Spark measures the fetch of each row, summed over the
    tasks. The tasks have equally many rows, so the sum divided by the number of parallel tasks is
    the time of one task. None: the plan or the metrics of this Spark version are different.
    """
    try:
        node = collected._jdf.queryExecution().executedPlan()  # noqa: SLF001 - no public way
        while not node.children().isEmpty():
            node = node.children().head()
        spent = sum(node.metrics().apply(name).value() for name in _READ_METRICS)
        tasks = node.rdd().getNumPartitions()
    except (AttributeError, Py4JError):
        return None
    at_once = min(tasks, collected.sparkSession.sparkContext.defaultParallelism)
    return float(spent / at_once / 1e9)


# --- compute and publish --------------------------------------------------------------------


def compute(
    windows: list[definitions.Sums], settings: Settings
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the row over all windows, and a row for each window, from the sums of the windows."""
    merged = definitions.merge_sums(windows)
    total = _row(merged, settings) | {
        "rows": merged["trade_count"],
        "first_trade_id": merged["first_trade_id"],
        "last_trade_id": merged["last_trade_id"],
    }
    return total, with_z_scores(windows, [_row(window, settings) for window in windows])


def _row(sums: definitions.Sums, settings: Settings) -> dict[str, Any]:
    return definitions.compute(sums, settings) | outputs.moments(sums)


def with_z_scores(
    windows: list[definitions.Sums], rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the rows of these windows, sorted by start, with the z-scores of each."""
    scores = definitions.z_scores(
        definitions.WindowAmounts(window["window_start"], row["price_range"], row["total_volume"])
        for window, row in zip(windows, rows, strict=True)
    )
    return [row | score for row, score in zip(rows, scores, strict=True)]


def publish(
    data: outputs.DataDir,
    origin: dict[str, Any],
    total: dict[str, Any],
    windows: list[dict[str, Any]],
) -> None:
    """Write the row over the whole table, then the windows. Each file is replaced as a whole.

    Args:
        data: the data directory.
        origin: `run` and `snapshot_at`.
        total: the row over the whole table.
        windows: the row of each window.
    """
    origin = origin | {"written_at": times.now()}
    one_row = outputs.to_csv(outputs.BATCH_COLUMNS, [total | origin])
    outputs.write_atomically(data.batch_output / f"{origin['run']}.csv", one_row)
    rows = outputs.to_csv(outputs.WINDOW_COLUMNS, (window | origin for window in windows))
    outputs.write_atomically(data.batch_windows, rows)
