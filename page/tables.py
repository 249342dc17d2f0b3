"""The tables of windows and of batch runs: their columns, rows and captions."""

from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from page import candles, formatting
from page.files import Snapshot
from pipeline.compare.formatting import seconds
from pipeline.metrics.definitions import LABELS, MIN_TRAILING_WINDOWS
from pipeline.outputs import RUN_STOPPED, SUCCESS_STATUSES
from pipeline.settings import units_text

#: Rows sent to the browser at most; the download has all of them.
MAX_WINDOW_ROWS = 1440
MAX_RUN_ROWS = 500
#: Bars in the chart of batch durations.
MAX_RUN_BARS = 60
#: What marks a run in the table and in the chart, by its outcome.
MARKS = {"succeeded": "", "stopped": "■", "failed": "✕"}


def _time(label: str) -> Any:
    return st.column_config.DatetimeColumn(label, format="YYYY-MM-DD HH:mm:ss", timezone="UTC")


def _number(label: str, pattern: str, meaning: str | None = None) -> Any:
    return st.column_config.NumberColumn(label, format=pattern, help=meaning)


def _metric(name: str, pattern: str) -> Any:
    return _number(LABELS[name], pattern)


def _z_score(name: str, metric: str) -> Any:
    meaning = (
        f"How unusual the {metric} is: its distance from the mean of the windows in the hour "
        "before, in standard deviations. Unknown with fewer than "
        f"{MIN_TRAILING_WINDOWS} such windows."
    )
    return _number(LABELS[name], "%.2f", meaning)


def _price(name: str, decimals: int = 2) -> Any:
    return _metric(name, f"%,.{decimals}f")


#: The columns of the table of windows, in order. The formats are those of `page.formatting`.
WINDOW_COLUMNS: dict[str, Any] = {
    "window_start": _time(LABELS["window_start"]),
    "state": "state",
    "open_price": _price("open_price"),
    "max_price": _price("max_price"),
    "min_price": _price("min_price"),
    "close_price": _price("close_price"),
    "avg_price": _price("avg_price"),
    "price_range": _price("price_range"),
    "volatility_flag": LABELS["volatility_flag"],
    "total_volume": _metric("total_volume", "%,.4f"),
    "volume_spike": LABELS["volume_spike"],
    "trade_count": _metric("trade_count", "%,d"),
    "buy_count": _metric("buy_count", "%,d"),
    "sell_count": _metric("sell_count", "%,d"),
    "buy_sell_ratio": _metric("buy_sell_ratio", "%,.3f"),
    "market_sentiment": LABELS["market_sentiment"],
    "vwap": _price("vwap"),
    "volume_imbalance": _metric("volume_imbalance", "%.3f"),
    "range_z": _z_score("range_z", "range"),
    "volume_z": _z_score("volume_z", "volume"),
    "last_trade_time": _time(LABELS["last_trade_time"]),
    "written_at": _time(LABELS["written_at"]),
}
#: The columns that can be negative, and their decimal places in the table.
SIGNED = {"volume_imbalance": 3, "range_z": 2, "volume_z": 2}
PRICES = ("open_price", "max_price", "min_price", "close_price", "avg_price", "price_range", "vwap")
#: The columns of the table of batch runs, in order.
RUN_COLUMNS: dict[str, Any] = {
    "started": _time("started (UTC)"),
    "run": "run",
    "status": "status",
    "exit": _number("exit status", "%d"),
    "rows": _number("rows", "%,d"),
    "windows": _number("windows", "%,d"),
    "wall_s": _number("run time, s", "%,.2f"),
    "start_s": _number("start-up, s", "%,.2f"),
    "logic_s": _number("reading and aggregation, s", "%,.2f"),
    "cpu_s": _number("CPU seconds", "%,.2f"),
    "peak_mib": _number("peak memory, MiB", "%,d"),
    "read_s": _number("reading only, s", "%,.2f"),
    "write_s": _number("writing, s", "%,.2f"),
    "reason": "reason",
    "mode": "mode",
}


# --- windows --------------------------------------------------------------------------------


def _in_span(snapshot: Snapshot, span_name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the final and the open windows of the span, which ends with the newest window."""
    finals, live = snapshot.finals.frame, snapshot.live
    end = candles.newest_end(finals, live)
    if end is None:
        return finals, live
    span = candles.SPANS[span_name]
    return candles.since(finals, span, end), candles.since(live, span, end)


def window_rows(snapshot: Snapshot, span_name: str) -> tuple[pd.DataFrame, int]:
    """Return the newest windows of the span, newest first, and the number of all of them."""
    finals, live = _in_span(snapshot, span_name)
    newest = [finals.tail(MAX_WINDOW_ROWS).assign(state="final"), live.assign(state="open")]
    rows = pd.concat(newest).tail(MAX_WINDOW_ROWS).iloc[::-1][list(WINDOW_COLUMNS)]
    # The browser rounds to the same places, but writes -0.0004 as -0.000.
    rounded = {
        name: rows[name].astype(float).round(places) + 0.0 for name, places in SIGNED.items()
    }
    return rows.assign(**rounded), len(finals) + len(live)


def window_columns(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the columns of the table of windows, with the decimals that these prices need."""
    decimals = formatting.price_decimals(rows["min_price"].min())
    return WINDOW_COLUMNS | {name: _price(name, decimals) for name in PRICES}


def first_of_span(snapshot: Snapshot, span_name: str) -> datetime | None:
    """Return the start of the first window of the span; None without windows."""
    frames = _in_span(snapshot, span_name)
    return min((frame["window_start"].iloc[0] for frame in frames if len(frame)), default=None)


def windows_caption(snapshot: Snapshot, shown: int, count: int, product: str) -> str:
    """Return what the table of windows holds, and its units."""
    if not count:
        return snapshot.reading or "No window yet. The first trade opens a window."
    which = f"The newest {formatting.count(shown)} of {formatting.many(count, 'window')}"
    if shown == count:
        which = formatting.many(count, "window")
    return (
        f"{which} in the selected time range. {units_text(product)} Click a column header to sort. "
        "To search, hover over the table and click the search icon."
    )


# --- batch runs -----------------------------------------------------------------------------


def outcome_of(run_status: object) -> str:
    """Return `succeeded`, `stopped` or `failed` for the status of a run in the batch log."""
    if run_status in SUCCESS_STATUSES:
        return "succeeded"
    return "stopped" if run_status == RUN_STOPPED else "failed"


def run_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the newest runs, newest first. A mark shows which did not succeed."""
    newest = runs.iloc[::-1].head(MAX_RUN_ROWS)
    return newest.assign(
        status=[
            f"{MARKS[outcome_of(found)]} {formatting.text(found)}".lstrip()
            for found in newest["status"]
        ]
    )


def runs_caption(snapshot: Snapshot) -> str:
    """Return what the table of batch runs holds."""
    runs = snapshot.runs.frame
    if runs.empty:
        empty = "No batch run yet. The first run starts when the table btc_prices has rows."
        return snapshot.reading or empty
    shown = min(len(runs), MAX_RUN_ROWS)
    which = formatting.many(len(runs), "run")
    if shown < len(runs):
        which = f"The newest {formatting.count(shown)} of {which}"
    failed, stopped = MARKS["failed"], MARKS["stopped"]
    return (
        f"{which}, from batch_log.txt. {failed} marks a run that failed or timed out. {stopped} "
        "marks a stopped run."
    )


def durations_caption(runs: pd.DataFrame) -> str:
    """Return what the newest run took, and how to read the chart of durations."""
    if runs.empty:
        return "No batch run yet. A bar appears when the first run ends."
    newest = runs.iloc[-1]
    wall, rows = seconds(newest["wall_s"]), formatting.many(newest["rows"], "row")
    counts = runs["status"].map(outcome_of).value_counts()
    others = [
        f"{counts[outcome]:,} {outcome} ({MARKS[outcome]})"
        for outcome in ("failed", "stopped")
        if outcome in counts
    ]
    shown = min(len(runs), MAX_RUN_BARS)
    return (
        f"Newest run: {formatting.text(newest['status'])}, run time {wall}, {rows}, mode "
        f"{formatting.text(newest['mode'])}. "
        f"{formatting.many(len(runs), 'run')}: {', '.join(others) or 'all succeeded'}. "
        f"Runs in the chart, from the oldest to the newest: {shown:,}. "
        "The part “other” is writing and shutdown."
    )
