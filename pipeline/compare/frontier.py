"""Freshness against cost: how old a batch result would be, and what it would cost, at any interval.

A batch every T seconds uses the CPU time of a run 3600 / T times an hour. Its newest trade has some
age when the result is published, and gets older until the next result, T seconds later. So the
median age of the result is this age plus half an interval. An interval is never shorter than a run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.compare.freshness import BATCH, RESULTS, Freshness
from pipeline.compare.modes import RECENT_RUNS, Mode

#: The longest interval of the model, in seconds.
LONGEST_SECONDS = 3600.0
#: Intervals of a curve in the figure.
CURVE_POINTS = 60
#: How many times larger the table of the future is.
LARGER = 10
#: Without a trend, the runs of a mode do not predict the cost over a table that has grown or shrunk
#: by more than this factor.
MAX_GROWTH = 1.5


@dataclass(frozen=True)
class BatchModel:
    """A batch in one mode, over a table of one size."""

    mode: str
    #: Rows of the table.
    rows: float
    #: Duration of a run and its CPU time, in seconds.
    duration_s: float
    cpu_s: float
    #: The age of the newest trade in a result when the result is published, in seconds. It is the
    #: age at the snapshot and the time from the snapshot to the publication.
    published_age_s: float

    def age_s(self, interval_s: float) -> float:
        """Return the median age of the result."""
        return max(interval_s, self.duration_s) / 2 + self.published_age_s

    def cpu_s_per_hour(self, interval_s: float) -> float:
        """Return the CPU seconds per hour."""
        return self.cpu_s * 3600 / max(interval_s, self.duration_s)

    def interval_for_cost(self, cpu_s_per_hour: float) -> float | None:
        """Return the interval with this cost; None if back-to-back runs cost less."""
        interval = self.cpu_s * 3600 / cpu_s_per_hour
        return interval if interval >= self.duration_s else None

    def interval_for_age(self, age_s: float) -> float | None:
        """Return the longest interval with at most this median age; None if there is none."""
        interval = min(2 * (age_s - self.published_age_s), LONGEST_SECONDS)
        return interval if interval >= self.duration_s else None


@dataclass(frozen=True)
class Frontier:
    """What each result costs and how old it is: the batch by the model, and both as measured."""

    #: One for each mode whose cost over the current table can be predicted. The mode of the newest
    #: run comes first.
    today: tuple[BatchModel, ...]
    #: By mode: the same over a table that is LARGER times as large. None: the runs show no trend
    #: with the number of rows.
    larger: Mapping[str, BatchModel | None]
    #: As measured, by result: `result`, `age_s` (median), `cpu_s_per_hour`. Only known values.
    measured: pd.DataFrame
    #: The interval with which the batch runs, in seconds.
    interval_s: float

    @property
    def several_modes(self) -> bool:
        """Return whether the name of a batch needs its mode."""
        return len(self.today) > 1

    def point(self, result: str) -> tuple[float, float] | None:
        """Return the age and the cost of a result as measured; None if unknown."""
        found = self.measured[self.measured["result"] == result]
        if found.empty:
            return None
        return float(found["age_s"].iloc[0]), float(found["cpu_s_per_hour"].iloc[0])


def frontier(
    modes: tuple[Mode, ...],
    log: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    ages: Mapping[str, Freshness | None],
    cost: pd.DataFrame,
    interval_s: float,
) -> Frontier:
    """Return the model of the batch, and what was measured.

    Args:
        modes: The modes that have run.
        log: The successful runs in the log: `run`, `rows` and `mode`.
        runs: The results of the batch: `run`, `last_trade_time`, `written_at`.
        ages: The age of each result over time. None: unknown.
        cost: As `pipeline.compare.cost.cost` returns it.
        interval_s: The interval with which the batch runs.
    """
    today, larger = [], {}
    if any(found is not None for found in ages.values()):
        names = dict(zip(log["run"], log["mode"], strict=True))
        of_run = runs["run"].map(names)
        delays = (runs["written_at"] - runs["last_trade_time"]).dt.total_seconds()
        rows = float(log["rows"].iloc[-1]) if len(log) else math.nan
        for mode in modes:
            delay = float(delays[of_run == mode.name].tail(RECENT_RUNS).quantile(0.5))
            model = _at(rows, mode, delay)
            if model is None and mode.rows / MAX_GROWTH <= rows <= mode.rows * MAX_GROWTH:
                model = BatchModel(mode.name, rows, mode.wall_s, mode.cpu_s, delay)
            if model and math.isfinite(model.duration_s + model.cpu_s + model.published_age_s):
                today.append(model)
                larger[mode.name] = _at(LARGER * rows, mode, delay)
    per_hour = cost.set_index("path")["cpu_s_per_hour"]
    measured = [
        (result, found.median, float(per_hour["batch" if result == BATCH else "stream"]))
        for result in RESULTS
        if (found := ages.get(result)) is not None
    ]
    points = pd.DataFrame(measured, columns=["result", "age_s", "cpu_s_per_hour"]).dropna()
    return Frontier(tuple(today), larger, points, interval_s)


def _at(rows: float, mode: Mode, delay_s: float) -> BatchModel | None:
    """Return the model for a table with this many rows, from the trends of the mode.

    A larger table makes the time from the snapshot to the publication longer, so the age at
    publication grows by the same seconds as the run.

    Args:
        rows: The rows of the table.
        mode: Medians and trends of its newest runs.
        delay_s: The median age of the newest trade in their results, when they were published.

    Returns:
        The model; None without a trend.
    """
    millions = (rows - mode.median_rows) / 1e6
    more_s = mode.wall_s_per_million * millions
    duration_s, cpu_s = mode.wall_s + more_s, mode.cpu_s + mode.cpu_s_per_million * millions
    if not (duration_s > 0 and cpu_s > 0):  # far below the tables of the runs; or NaN: no trend
        return None
    return BatchModel(mode.name, rows, duration_s, cpu_s, delay_s + more_s)


def curve(model: BatchModel) -> pd.DataFrame:
    """Return age and cost for intervals from back-to-back runs to an hour.

    Returns:
        `interval_s`, `age_s`, `cpu_s_per_hour`.
    """
    shortest = min(max(model.duration_s, 0.1), LONGEST_SECONDS)
    intervals = np.geomspace(shortest, LONGEST_SECONDS, CURVE_POINTS)
    return pd.DataFrame(
        {
            "interval_s": intervals,
            "age_s": [model.age_s(interval) for interval in intervals],
            "cpu_s_per_hour": [model.cpu_s_per_hour(interval) for interval in intervals],
        }
    )
