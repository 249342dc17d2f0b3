"""The tables of windows and of batch runs: their columns, rows and captions."""

from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from page import candles, formatting
from page.files import Snapshot
from pipeline.metrics import LABELS, MIN_TRAILING_WINDOWS

#: Rows sent to the browser at most; the download has all of them.
MAX_WINDOW_ROWS = 1440
MAX_RUN_ROWS = 500
#: Bars in the chart of batch durations.
MAX_RUN_BARS = 60
#: Statuses of runs that did what they should, and of runs that were ended from outside.
SUCCEEDED = ("ok", "no_data")
STOPPED = ("stopped",)


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


#: The columns of the table of windows, in order.
WINDOW_COLUMNS: dict[str, Any] = {
    "window_start": _time("window (UTC)"),
    "state": "state",
    "open_price": _metric("open_price", "%.2f"),
    "max_price": _metric("max_price", "%.2f"),
    "min_price": _metric("min_price", "%.2f"),
    "close_price": _metric("close_price", "%.2f"),
    "avg_price": _metric("avg_price", "%.2f"),
    "price_range": _metric("price_range", "%.2f"),
    "volatility_flag": LABELS["volatility_flag"],
    "total_volume": _metric("total_volume", "%.4f"),
    "volume_spike": LABELS["volume_spike"],
    "trade_count": _metric("trade_count", "%d"),
    "buy_count": _metric("buy_count", "%d"),
    "sell_count": _metric("sell_count", "%d"),
    "buy_sell_ratio": _metric("buy_sell_ratio", "%.3f"),
    "market_sentiment": LABELS["market_sentiment"],
    "vwap": _metric("vwap", "%.2f"),
    "volume_imbalance": _metric("volume_imbalance", "%.3f"),
    "range_z": _z_score("range_z", "range"),
    "volume_z": _z_score("volume_z", "volume"),
    "last_trade_time": _time("last trade (UTC)"),
    "written_at": _time("written (UTC)"),
}
#: The columns of the table of batch runs, in order.
RUN_COLUMNS: dict[str, Any] = {
    "started": _time("started (UTC)"),
    "run": "run",
    "status": "status",
    "exit": _number("exit status", "%d"),
    "rows": _number("rows", "localized"),
    "windows": _number("windows", "localized"),
    "wall_s": _number("wall time, s", "%.2f"),
    "start_s": _number("start-up, s", "%.2f"),
    "logic_s": _number("reading and aggregation, s", "%.2f"),
    "cpu_s": _number("CPU seconds", "%.2f"),
    "peak_mib": _number("peak memory, MiB", "%d"),
    "read_s": _number("reading, s", "%.2f"),
    "write_s": _number("writing, s", "%.2f"),
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
    rows = pd.concat(newest).tail(MAX_WINDOW_ROWS)
    return rows.iloc[::-1][list(WINDOW_COLUMNS)], len(finals) + len(live)


def first_of_span(snapshot: Snapshot, span_name: str) -> datetime | None:
    """Return the start of the first window of the span; None without windows."""
    frames = _in_span(snapshot, span_name)
    return min((frame["window_start"].iloc[0] for frame in frames if len(frame)), default=None)


def windows_caption(shown: int, count: int) -> str:
    """Return what the table of windows holds."""
    if not count:
        return "No window yet. The first trade opens a window."
    which = f"The newest {formatting.count(shown)} of {formatting.many(count, 'window')}"
    if shown == count:
        which = formatting.many(count, "window")
    return (
        f"{which} in the span. Click a column header to sort. To search, hover over the table "
        "and click the search icon."
    )


# --- batch runs -----------------------------------------------------------------------------


def run_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the newest runs, newest first. A cross marks a failed run."""
    newest = runs.iloc[::-1].head(MAX_RUN_ROWS)
    expected = (*SUCCEEDED, *STOPPED)
    return newest.assign(
        status=[
            text if (text := formatting.text(found)) in expected else f"✕ {text.upper()}"
            for found in newest["status"]
        ]
    )


def runs_caption(runs: pd.DataFrame) -> str:
    """Return what the table of batch runs holds."""
    if runs.empty:
        return "No batch run yet. The first run starts when the table btc_prices has rows."
    shown = min(len(runs), MAX_RUN_ROWS)
    which = formatting.many(len(runs), "run")
    if shown < len(runs):
        which = f"The newest {formatting.count(shown)} of {which}"
    return f"{which}, from batch_log.txt. ✕ marks a failed run."


def durations_caption(runs: pd.DataFrame) -> str:
    """Return what the newest run took, and how to read the chart of durations."""
    if runs.empty:
        return "No batch run yet. A bar appears when the first run ends."
    newest = runs.iloc[-1]
    wall, rows = formatting.seconds(newest["wall_s"]), formatting.count(newest["rows"])
    stopped = int(runs["status"].isin(STOPPED).sum())
    failed = int((~runs["status"].isin((*SUCCEEDED, *STOPPED))).sum())
    outcome = [f"{failed} failed (red ✕)"] if failed else []
    outcome += [f"{stopped} stopped"] if stopped else []
    shown = min(len(runs), MAX_RUN_BARS)
    return (
        f"Newest run: {formatting.text(newest['status'])}, wall time {wall}, {rows} rows. "
        f"{formatting.many(len(runs), 'run')}: {', '.join(outcome) or 'all succeeded'}. "
        f"The chart shows the last {formatting.many(shown, 'run')}, from the oldest to the newest."
    )
