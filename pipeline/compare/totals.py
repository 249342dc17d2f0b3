"""The metrics of both paths over many windows: classified windows and totals."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from pipeline.compare.agreement import DIFFERS, EQUAL
from pipeline.metrics import definitions

#: A z-score above this is unusual compared with the previous hour.
UNUSUAL_Z = 2.0
#: Smaller differences are rounding errors of sums of doubles.
_MIN_DIFFERENCE = 1e-8


def flags(windows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the number of windows in each class, for each path.

    Args:
        windows: The windows of each path, typed.

    Returns:
        One row per path: `path`, `windows`, and how many of them are `high`, `spike`, `bullish`,
        `bearish`; how many have a z-score (`scored`), and in how many of those the range or the
        volume is unusual (`range_stands_out`, `volume_stands_out`); `imbalance`, the median of
        the absolute volume imbalance.
    """
    return pd.DataFrame(
        [
            {
                "path": path,
                "windows": len(table),
                "high": int((table["volatility_flag"] == definitions.HIGH).sum()),
                "spike": int((table["volume_spike"] == definitions.SPIKE).sum()),
                "bullish": int((table["market_sentiment"] == definitions.BULLISH).sum()),
                "bearish": int((table["market_sentiment"] == definitions.BEARISH).sum()),
                "scored": int(table["range_z"].notna().sum()),
                "range_stands_out": int((table["range_z"] > UNUSUAL_Z).sum()),
                "volume_stands_out": int((table["volume_z"] > UNUSUAL_Z).sum()),
                "imbalance": float(table["volume_imbalance"].abs().quantile(0.5)),
            }
            for path, table in windows.items()
        ]
    )


@dataclass(frozen=True)
class SharedTotals:
    """The totals of both paths over the windows that are complete on both paths."""

    windows: int
    #: How many of these windows differ. The totals can still be equal.
    differing: int
    #: One row per metric: `metric`, `stream`, `batch`, `difference` (stream - batch).
    totals: pd.DataFrame


def shared_windows(
    final: pd.DataFrame, batch: pd.DataFrame, agreement: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Return the windows of each path that are complete on both paths.

    Args:
        final: The stream's final windows, typed.
        batch: The windows of the newest batch run, typed.
        agreement: As `agreement` returns it.
    """
    both = _finished(agreement)
    starts = pd.to_datetime(both["window_start"], utc=True, format="ISO8601")
    return {
        path: table[table["window_start"].isin(starts)]
        for path, table in (("stream", final), ("batch", batch))
    }


def _finished(agreement: pd.DataFrame) -> pd.DataFrame:
    found: pd.DataFrame = agreement[agreement["status"].isin([EQUAL, DIFFERS])]
    return found


def shared_totals(windows: Mapping[str, pd.DataFrame], agreement: pd.DataFrame) -> SharedTotals:
    """Return the totals of both paths over the same windows.

    Args:
        windows: The windows of each path, as `shared_windows` returns them.
        agreement: As `agreement` returns it.
    """
    both = _finished(agreement)
    stream, other = (definitions.total(windows[path]) for path in ("stream", "batch"))
    rows = [
        (name, value, other[name], value - other[name])
        for name, value in stream.items()
        if name not in ("windows", "window_start", "window_end")
    ]
    table = pd.DataFrame(rows, columns=["metric", "stream", "batch", "difference"])
    rounding = table["difference"].abs() < _MIN_DIFFERENCE
    table["difference"] = table["difference"].astype(float).mask(rounding, 0.0)
    return SharedTotals(len(both), int((both["status"] == DIFFERS).sum()), table)
