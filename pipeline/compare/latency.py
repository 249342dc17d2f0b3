"""Latency: how long each step of a trade takes, from its event to a batch result."""

import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline import histogram

#: The steps in order, each from one timestamp to the next.
STEPS = (
    "event → received",
    "received → stored",
    "received → in an open window",
    "open window → final window",
    "final window → in a batch result",
)
#: The step after which each step starts. Storing a trade and counting it in an open window both
#: start when the trade is received.
PREVIOUS = {1: 0, 2: 0, 3: 2, 4: 3}
#: Steps that depend on event time.
_BY_EVENT_TIME = (STEPS[0], STEPS[3], STEPS[4])
#: Number of points over which the rows of a micro-batch are spread between its first and last
#: receipt.
_POINTS = 20


def waterfall(
    consumer: pd.DataFrame,
    micro_batches: pd.DataFrame,
    windows: pd.DataFrame,
    final: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    replayed_as_recorded: bool,
) -> pd.DataFrame:
    """Return how long each step of a trade took.

    Args:
        consumer: The consumer's histograms: `leg`, `bucket`, `count`.
        micro_batches: `rows`, `first_receipt`, `last_receipt`, `published_at`.
        windows: The stream's histogram per final window: `leg`, `counts` (by bucket, as JSON).
        final: Final windows: `window_end`, `last_trade_time`, `written_at`, `trade_count`.
        runs: Batch runs: `last_trade_time`, `written_at`.
        replayed_as_recorded: The feed replays old trades with their original timestamps. Steps
            that depend on event time are then unknown.

    Returns:
        One row per step: `leg`, `trades`, `median`, `p99` (seconds; NaN: unknown, or beyond the
        largest bucket).
    """
    counts: dict[str, Counter[int]] = {step: Counter() for step in STEPS}
    names = {histogram.EVENT_TO_RECEIPT: STEPS[0], histogram.RECEIPT_TO_STORED: STEPS[1]}
    for leg, bucket, trades in consumer[["leg", "bucket", "count"]].itertuples(index=False):
        if leg in names:
            counts[names[leg]][bucket] += trades
    counts[STEPS[2]] = histogram.count(_receipt_to_open(micro_batches))
    for text in windows.loc[windows["leg"] == histogram.OPEN_TO_FINAL, "counts"]:
        counts[STEPS[3]].update({int(bucket): n for bucket, n in json.loads(text).items()})
    counts[STEPS[4]] = histogram.count(_final_to_batch(final, runs))
    if replayed_as_recorded:
        counts |= {step: Counter() for step in _BY_EVENT_TIME}
    rows = [
        (step, sum(n.values()), histogram.quantile(n, 0.5), histogram.quantile(n, 0.99))
        for step, n in counts.items()
    ]
    table = pd.DataFrame(rows, columns=["leg", "trades", "median", "p99"])
    return table.astype({"median": float, "p99": float})


def _receipt_to_open(micro_batches: pd.DataFrame) -> Iterator[tuple[float, int]]:
    """Yield seconds and trades from receipt to the open windows.

    Only the first and the last receipt of a micro-batch are recorded. The receipts between them
    are assumed to be evenly spread.
    """
    known = micro_batches.dropna(subset=["published_at", "first_receipt", "last_receipt"])
    longest = (known["published_at"] - known["first_receipt"]).dt.total_seconds()
    shortest = (known["published_at"] - known["last_receipt"]).dt.total_seconds()
    for rows, high, low in zip(known["rows"].astype(int), longest, shortest, strict=True):
        points = min(rows, _POINTS)
        for point in range(points):
            share = point / (points - 1) if points > 1 else 0.0
            weight = rows * (point + 1) // points - rows * point // points
            yield low + (high - low) * share, weight


def _final_to_batch(final: pd.DataFrame, runs: pd.DataFrame) -> Iterator[tuple[float, int]]:
    """Yield seconds and trades from a final window to the first batch result with its trades."""
    ordered = runs.dropna(subset=["last_trade_time", "written_at"]).sort_values("written_at")
    if ordered.empty or final.empty:
        return
    covered = without_zone(ordered["last_trade_time"].cummax())
    places = np.searchsorted(covered, without_zone(final["last_trade_time"]), side="left")
    inside = places < len(ordered)
    written = without_zone(ordered["written_at"])[places[inside]]
    seconds = (written - without_zone(final["written_at"])[inside]) / np.timedelta64(1, "s")
    yield from zip(seconds.tolist(), final["trade_count"].astype(int)[inside], strict=True)


def without_zone(times: pd.Series) -> np.ndarray:
    """Return UTC times as a numpy array without time zone."""
    moments: np.ndarray = times.dt.tz_localize(None).to_numpy()
    return moments
