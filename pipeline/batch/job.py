"""One batch run: read what is stored now, compute the metrics, publish them.

`batch_processor.py` runs it by spark-submit. It publishes the result over the whole table first,
then the result of each window. It writes a file with the values that only the run can measure. The
scheduler appends them to `batch_log.txt`.
"""

import argparse
import contextlib
import json
import time
from datetime import timedelta
from typing import Any, NamedTuple

from pyspark.sql import SparkSession

from pipeline import alerts, outputs, source, spark, stores, text_files, thresholds, times
from pipeline.batch import failures, full, incremental, pushdown
from pipeline.batch.jdbc import Added
from pipeline.batch.snapshot import Snapshot, read_store, snapshot
from pipeline.data_dir import DataDir
from pipeline.logs import show
from pipeline.metrics import definitions, unit_sums
from pipeline.settings import Settings
from pipeline.stores.interface import Store

#: Exit status of a run that found no rows.
EXIT_NO_DATA = 3


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
    data = DataDir(settings.data_dir)
    try:
        result = _execute(settings, data, arguments)
    except Exception as error:
        reason = failures.explain(error, settings)
        result = {"run": arguments.run, "status": outputs.RUN_FAILED, "reason": reason}
        with contextlib.suppress(OSError):  # the first error is the one to report
            text_files.write_atomically(data.batch_run, json.dumps(result) + "\n")
        raise
    text_files.write_atomically(data.batch_run, json.dumps(result) + "\n")
    print(f"batch aggregation logic time: {result.get('logic_s', 'unknown')} s; {result}")
    return 0 if result["status"] == outputs.RUN_OK else EXIT_NO_DATA


def _execute(settings: Settings, data: DataDir, arguments: Arguments) -> dict[str, Any]:
    """Return what the log shows about the run.

    Raises:
        OSError: an output cannot be written.
        OutputError: the data directory holds another product, or windows of another length.
        TemporaryError: the database cannot be read now.
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
    data = DataDir(settings.data_dir)
    store = stores.store_of(settings)
    snapshot_at = times.now()
    with store.unchanged():
        stored = read_store(store, snapshot)
        if stored is None or not stored.ranges:
            return {"status": outputs.RUN_NO_DATA}
        began = time.monotonic()
        added = add_up(session, settings, store, stored)
    windows = unit_sums.decimal_sums(added.windows, settings.window // timedelta(microseconds=1))
    total, by_window = compute(windows, settings)
    computed = time.monotonic()
    publish(data, {"run": run, "snapshot_at": snapshot_at}, total, by_window)
    alerts.AlertLog(data.alerts_batch, settings, show).publish(
        by_window[-alerts.HORIZON_WINDOWS :], total["last_trade_time"], times.now()
    )
    if settings.batch_mode == "incremental":
        incremental.keep(settings, run, stored, added)
    return {
        "status": outputs.RUN_OK,
        "rows": total["rows"],
        "windows": len(windows),
        "logic_s": round(computed - began, 2),
        "read_s": None if added.read_s is None else round(added.read_s, 2),
        "write_s": round(time.monotonic() - computed, 2),
        "reason": added.reason,
        "mode": added.mode,
    }


def add_up(session: SparkSession, settings: Settings, store: Store, stored: Snapshot) -> Added:
    """Return the sums of each window over the stored rows, in the mode of the settings."""
    if settings.batch_mode == "incremental":
        return incremental.add_up(session, settings, store, stored)
    mode = full.add_up if settings.batch_mode == "full" else pushdown.add_up
    return mode(session, settings, store, stored.ranges)


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
    data: DataDir,
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
    one_row = text_files.to_csv(outputs.BATCH_COLUMNS, [total | origin])
    text_files.write_atomically(outputs.batch_file(data, origin["run"]), one_row)
    rows = text_files.to_csv(outputs.WINDOW_COLUMNS, (window | origin for window in windows))
    text_files.write_atomically(data.batch_windows, rows)
