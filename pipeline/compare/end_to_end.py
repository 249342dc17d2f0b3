"""End-to-end latency: from the event of a trade to the first result that counts it."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.compare.freshness import RESULTS

#: Number of points over which the trades of a publication are spread.
_POINTS = 20
#: Columns of the table.
COLUMNS = ("result", "trades", "median", "p99")


def end_to_end(published: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return how long after its event a trade is visible in each result.

    Args:
        published: By result: `at`, the time of a publication; `oldest` and `newest`, the event
            times of its oldest and its newest trade that no earlier publication has; and `trades`,
            their number. These trades are assumed to be evenly spread.

    Returns:
        One row per result, with COLUMNS: `median` and `p99` in seconds. NaN: unknown.
    """
    rows = [(result, *_latencies(published.get(result, pd.DataFrame()))) for result in RESULTS]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _latencies(published: pd.DataFrame) -> tuple[int, float, float]:
    if published.empty:
        return 0, np.nan, np.nan
    known = published.dropna()
    known = known[known["trades"] > 0]
    if known.empty:
        return 0, np.nan, np.nan
    low, high = (
        (known["at"] - known[edge]).dt.total_seconds().to_numpy()[:, None]
        for edge in ("newest", "oldest")
    )
    shares = (np.arange(_POINTS)[None, :] + 0.5) / _POINTS
    seconds = (low + (np.maximum(high, low) - low) * shares).ravel()
    weights = np.repeat(known["trades"].to_numpy(float) / _POINTS, _POINTS)
    order = np.argsort(seconds)
    reached = np.cumsum(weights[order]) / weights.sum()
    median, p99 = (
        float(seconds[order][np.searchsorted(reached, share - 1e-12)]) for share in (0.5, 0.99)
    )
    return int(known["trades"].sum()), median, p99


def of_micro_batches(micro_batches: pd.DataFrame) -> pd.DataFrame:
    """Return the publications of the open windows.

    The event times of a micro-batch are assumed to be as far apart as its times of receipt.
    """
    received = micro_batches["last_receipt"] - micro_batches["first_receipt"]
    return pd.DataFrame(
        {
            "at": micro_batches["published_at"],
            "oldest": micro_batches["newest_trade"] - received,
            "newest": micro_batches["newest_trade"],
            "trades": micro_batches["rows"].astype(float),
        }
    )


def of_windows(final: pd.DataFrame) -> pd.DataFrame:
    """Return the publications of final windows."""
    return pd.DataFrame(
        {
            "at": final["written_at"],
            "oldest": final["window_start"],
            "newest": final["last_trade_time"],
            "trades": final["trade_count"].astype(float),
        }
    )


def of_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the publications of the batch, each with the trades that the run before it lacks."""
    table = runs.sort_values("written_at")
    newest = table["last_trade_time"].cummax()
    return pd.DataFrame(
        {
            "at": table["written_at"],
            "oldest": newest.shift(),
            "newest": newest,
            "trades": table["rows"].astype(float).diff(),
        }
    )
