"""Growth: how the run times of both paths change while the table grows."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

#: A forecast needs this number of runs, and a table that grew by this factor between them.
MIN_RUNS = 8
MIN_TABLE_GROWTH = 1.2
#: Theil-Sen compares every pair of points. More points than this are thinned evenly.
MAX_POINTS = 500
#: A crossing further away than this is not forecast.
MAX_YEARS = 100
#: The 97.5 % quantile of the normal distribution: half the width of a 95 %
#: confidence interval, in standard deviations.
_Z_95 = 1.959963984540054
#: Why the values of runs show no trend with the number of rows. The first reason continues with the
#: number of runs.
_NO_TREND = (
    f"a forecast needs {MIN_RUNS} batch runs",
    "the table grew too little between runs",
    "run time shows no trend beyond its noise",
    "the trend gives a negative run time for an empty table",
)
#: Why there is no forecast when the runs already take longer than the interval.
TOO_SLOW_ALREADY = "the trend already exceeds the interval"


@dataclass(frozen=True)
class Growth:
    """Batch run time against rows: `wall_s = base_s + s_per_million * rows / 1e6`."""

    runs: int
    base_s: float
    s_per_million: float
    #: 95 % confidence interval of the slope.
    low: float
    high: float
    #: Rows at which a run takes as long as its interval, by the slope and by both ends of its
    #: confidence interval (`rows_high` may be infinite), and when the table will have that many.
    rows_at_limit: float | None
    rows_low: float | None
    rows_high: float | None
    at_limit: datetime | None
    #: Why there is no forecast. Empty when there is one.
    refusal: str

    @property
    def has_trend(self) -> bool:
        """Return whether the run times show a trend with the number of rows."""
        return not self.refusal.startswith(_NO_TREND)


def growth(
    runs: pd.DataFrame, interval_s: float, rows_per_s: float | None, now: datetime
) -> Growth | None:
    """Fit a robust line through the run times and forecast when it crosses the interval.

    Args:
        runs: Successful runs: `rows`, `wall_s` and, where recorded, `start_s`. The start-up of the
            JVM does not depend on the table. If it grows too, the machine got busier.
        interval_s: Seconds from the start of one run to the start of the next.
        rows_per_s: Growth rate of the table. None: unknown.
        now: The time from which the forecast counts.

    Returns:
        None with fewer than two table sizes.
    """
    known = runs.dropna(subset=["rows", "wall_s"])
    x = known["rows"].to_numpy(float) / 1e6
    line = theil_sen(x, known["wall_s"].to_numpy(float))
    if line is None:
        return None
    refusal = _refusal(x, line, known.get("start_s"), rows_per_s)
    limit = low = high = at = None
    if not refusal:
        limit, low, high = (
            max(0.0, (interval_s - line.base_at(slope)) / slope * 1e6)
            for slope in (line.slope, line.high, line.low)
        )
        seconds = (limit - x.max() * 1e6) / (rows_per_s or math.nan)
        if seconds <= 0:
            refusal = TOO_SLOW_ALREADY
        elif seconds > MAX_YEARS * 365 * 86400:
            refusal = f"run time reaches the interval in more than {MAX_YEARS} years"
        else:
            at = now + timedelta(seconds=seconds)
    slopes = (line.slope, line.low, line.high)
    return Growth(len(x), line.base_at(line.slope), *slopes, limit, low, high, at, refusal)


def _refusal(
    x: np.ndarray, line: "Line", start_s: pd.Series | None, rows_per_s: float | None
) -> str:
    """Return why the runs allow no forecast; empty if they do."""
    if reason := no_trend(x, line):
        return reason
    reasons = {
        "the start-up of Spark got slower too, so the machine may be busier": _grows(x, start_s),
        "the growth rate of the table is unknown": rows_per_s is None,
        "the table is not growing": rows_per_s is not None and rows_per_s <= 0,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def no_trend(x: np.ndarray, line: "Line") -> str:
    """Return why values of runs show no trend with the number of rows; empty if they do."""
    few_runs, small_growth, noise, negative = _NO_TREND
    reasons = {
        f"{few_runs}, and there are {len(x)}": len(x) < MIN_RUNS,
        small_growth: x.max() < MIN_TABLE_GROWTH * x.min(),
        noise: line.low <= 0,
        # The larger table cannot be the cause. The machine was probably busier in the later runs.
        negative: round(line.base_at(line.slope), 1) < 0,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def rows_per_second(runs: pd.DataFrame) -> float | None:
    """Return how fast the table grew over the last hour of runs, or over the last two runs."""
    if len(runs) < 2:
        return None
    last, before = runs.iloc[-1], runs.iloc[:-1]
    recent = before[before["snapshot_at"] >= last["snapshot_at"] - timedelta(hours=1)]
    first = (recent if len(recent) else before.tail(1)).iloc[0]
    seconds = (last["snapshot_at"] - first["snapshot_at"]).total_seconds()
    return float(last["rows"] - first["rows"]) / seconds if seconds > 0 else None


def _grows(x: np.ndarray, values: pd.Series | None) -> bool:
    """Return whether known values grow with x, beyond their noise."""
    if values is None:
        return False
    known = values.notna().to_numpy()
    line = theil_sen(x[known], values[known].to_numpy(float))
    return line is not None and line.low > 0


@dataclass(frozen=True)
class Line:
    """A robust line through points, with the 95 % confidence interval of its slope."""

    slope: float
    low: float
    high: float
    x: np.ndarray
    y: np.ndarray

    def base_at(self, slope: float) -> float:
        """Return the intercept of the line with this slope through the middle of the points."""
        return float(np.median(self.y - slope * self.x))


def theil_sen(x: np.ndarray, y: np.ndarray) -> Line | None:
    """Fit a line by the median of the slopes between all pairs of points (Theil-Sen).

    The confidence interval is Sen's (1968): order statistics of the slopes, their ranks by the
    normal approximation of Kendall's statistic, with its correction for ties. The ranks are those
    of `scipy.stats.theilslopes`. With too few points for a rank the interval has no bound.

    Returns:
        None when all x are equal.
    """
    step = max(1, -(-len(x) // MAX_POINTS))
    x, y = x[::step], y[::step]
    left, right = np.triu_indices(len(x), k=1)
    apart = x[left] != x[right]
    if not apart.any():
        return None
    slopes = np.sort((y[right] - y[left])[apart] / (x[right] - x[left])[apart])
    variance = (_tie_term(len(x)) - sum(_tie_term(n) for n in _repeats(x) + _repeats(y))) / 18
    # With ties in both x and y the corrected variance can be negative. No interval is known then.
    spread = _Z_95 * math.sqrt(variance) if variance >= 0 else len(slopes) + 2.0
    # Ranks count from 1 below and are symmetric, so the upper one needs no shift as an index.
    low, high = round((len(slopes) - spread) / 2) - 1, round((len(slopes) + spread) / 2)
    return Line(
        float(np.median(slopes)),
        float(slopes[low]) if low >= 0 else -math.inf,
        float(slopes[high]) if high < len(slopes) else math.inf,
        x,
        y,
    )


def _tie_term(n: int) -> int:
    return n * (n - 1) * (2 * n + 5)


def _repeats(values: np.ndarray) -> list[int]:
    """Return how often each repeated value occurs."""
    counts = np.unique(values, return_counts=True)[1]
    return [int(n) for n in counts if n > 1]


@dataclass(frozen=True)
class Steadiness:
    """Micro-batch duration while trades arrive. It should not change."""

    micro_batches: int
    median_ms: float
    p99_ms: float
    #: Trades read by these micro-batches.
    trades: int
    #: Change of the median over these trades, and its 95 % confidence interval. None: too few
    #: minutes.
    change_ms: float | None
    low: float | None
    high: float | None


def by_minute(micro_batches: pd.DataFrame) -> pd.DataFrame:
    """Return micro-batches by minute: `minute`, `count`, `median_ms`, `p99_ms`, `trades` so far."""
    known = micro_batches.dropna(subset=["published_at", "duration_ms"])
    known = known.astype({"duration_ms": float, "rows": float})
    minutes = known["published_at"].dt.floor("min")
    grouped = known.groupby(minutes)
    return pd.DataFrame(
        {
            "count": grouped.size(),
            "median_ms": grouped["duration_ms"].median(),
            "p99_ms": grouped["duration_ms"].quantile(0.99),
            "trades": grouped["rows"].sum().cumsum(),
        }
    ).reset_index(names="minute")


def steadiness(micro_batches: pd.DataFrame) -> Steadiness | None:
    """Return how micro-batch duration changes with the trades read before; None without any."""
    durations = micro_batches["duration_ms"].dropna().astype(float)
    if durations.empty:
        return None
    minutes = by_minute(micro_batches)
    read = minutes["trades"].to_numpy(float)
    enough = len(read) >= MIN_RUNS
    line = theil_sen(read, minutes["median_ms"].to_numpy(float)) if enough else None
    return Steadiness(
        micro_batches=len(durations),
        median_ms=float(durations.median()),
        p99_ms=float(durations.quantile(0.99)),
        trades=int(micro_batches["rows"].sum()),
        change_ms=line.slope * read[-1] if line else None,
        low=line.low * read[-1] if line else None,
        high=line.high * read[-1] if line else None,
    )
