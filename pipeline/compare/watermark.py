"""How many trades other watermarks would have dropped, and how old final windows would be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.durations import json_duration
from pipeline.ingest.lags import LONGEST, MICRO_BATCHES, NEWEST
from pipeline.outputs import part

#: The watermarks in the table, in seconds. The current one is added.
WATERMARKS = (0, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600)
#: Columns of the table: see `watermarks`.
COLUMNS = ("watermark_s", "at_most", "estimate", "final_age_s")


@dataclass(frozen=True)
class Watermarks:
    """How many of the trades that came from the feed each watermark would have dropped."""

    #: The number of these trades. Backfilled trades are left out.
    trades: int
    #: The watermark of the stream, in seconds. None: unknown.
    current_s: float | None
    #: One row for each whole second from 0 to LONGEST, with COLUMNS: the watermark; how many trades
    #: it would have dropped at most; an estimate of that number; and the median age of final
    #: windows, in seconds. NaN: unknown.
    table: pd.DataFrame

    @property
    def lossless_s(self) -> int | None:
        """Return the shortest watermark with an upper bound of 0; None if the table has none."""
        lossless = self.table.loc[self.table["at_most"] == 0, "watermark_s"]
        return int(lossless.iloc[0]) if self.trades and len(lossless) else None

    def row(self, watermark_s: float) -> Mapping[Any, Any] | None:
        """Return the row of a watermark; None if it is not in the table."""
        found = self.table[self.table["watermark_s"] == watermark_s]
        return None if found.empty else found.iloc[0].to_dict()

    @property
    def listed(self) -> pd.DataFrame:
        """Return the rows of WATERMARKS and of the current watermark."""
        return self.table[self.table["watermark_s"].isin([*WATERMARKS, self.current_s])]


def watermarks(
    lags: pd.DataFrame,
    status: Mapping[str, Mapping[str, Any]],
    final_age_s: float | None,
    *,
    is_live_pace: bool,
) -> Watermarks:
    """Return how many trades each watermark would have dropped.

    The stream drops a trade only if the trade is at least a watermark behind the newest event time
    before it. The number of these trades is therefore an upper bound. The stream compares a trade
    with the newest event time of the micro-batches before the previous one. This gives the
    estimate.

    A window becomes final when a trade arrives that is newer than its end by the watermark. So a
    watermark that is one second shorter makes final windows one second younger.

    Args:
        lags: How far trades came behind: `behind`, `bucket`, `count`.
        status: The status file of each service.
        final_age_s: The median age of final windows, in seconds. None: unknown.
        is_live_pace: Whether trades arrive at the pace at which they were made. If not, the
            micro-batches hold other trades than those of a live feed, and the estimate is unknown.
    """
    counts = {
        kind: lags.loc[lags["behind"] == kind].set_index("bucket")["count"].astype("int64")
        for kind in (NEWEST, MICRO_BATCHES)
    }
    seconds = range(LONGEST + 1)
    at_most, estimate = (
        counts[kind].reindex(seconds, fill_value=0)[::-1].cumsum()[::-1].to_numpy()
        for kind in (NEWEST, MICRO_BATCHES)
    )
    current_s = configured_s(status)
    shift = math.nan if final_age_s is None or current_s is None else final_age_s - current_s
    table = pd.DataFrame(
        {
            "watermark_s": seconds,
            "at_most": at_most,
            "estimate": estimate if is_live_pace else math.nan,
            "final_age_s": (pd.Series(seconds) + shift).clip(lower=0.0),
        },
        columns=list(COLUMNS),
    )
    return Watermarks(int(counts[NEWEST].sum()), current_s, table)


def configured_s(status: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the watermark with which the stream runs, in seconds; None if it is unknown."""
    found = json_duration(part(status.get("spark_processor", {}), "settings").get("watermark"))
    return None if found is None else found.total_seconds()
