"""The modes of the batch: duration, cost and growth of each mode that has run."""

import math
from dataclasses import dataclass

import pandas as pd

from pipeline.compare.growth import no_trend, theil_sen

#: The mode of a run whose line in the log has no mode: older versions had only this one.
FULL = "full"
#: What a run of each mode reads, as a sentence.
READS = {
    FULL: "Every batch run reads the whole table.",
    "pushdown": "Every batch run reads the whole table, and the store adds up its rows.",
    "incremental": "A batch run reads only the trades stored since the run before it.",
}
#: Each value is the median of at most this number of newest runs, because the table grows.
RECENT_RUNS = 10


@dataclass(frozen=True)
class Mode:
    """A mode of the batch. Unknown values are NaN."""

    name: str
    #: The number of successful runs.
    runs: int
    #: Rows of the table at the newest run.
    rows: float
    #: Medians of the newest runs.
    median_rows: float
    wall_s: float
    cpu_s: float
    peak_mib: float
    #: How much longer a run takes, and how much more CPU time it uses, per million rows. NaN: the
    #: runs show no trend with the number of rows.
    wall_s_per_million: float
    cpu_s_per_million: float


def of_mode(log: pd.DataFrame, mode: str) -> pd.DataFrame:
    """Return the runs of one mode. Only their run times are comparable."""
    chosen: pd.DataFrame = log[log["mode"] == mode]
    return chosen


def modes(log: pd.DataFrame) -> tuple[Mode, ...]:
    """Return the modes that have run, the mode of the newest run first.

    Args:
        log: Successful runs, oldest first: `rows`, `wall_s`, `cpu_s`, `peak_mib` and `mode`.
    """
    return tuple(_mode(str(name), of_mode(log, name)) for name in log["mode"].iloc[::-1].unique())


def _mode(name: str, runs: pd.DataFrame) -> Mode:
    recent = runs.tail(RECENT_RUNS)
    return Mode(
        name=name,
        runs=len(runs),
        rows=float(runs["rows"].iloc[-1]),
        median_rows=float(recent["rows"].quantile(0.5)),
        **{of: float(recent[of].quantile(0.5)) for of in ("wall_s", "cpu_s", "peak_mib")},
        wall_s_per_million=_per_million(runs, "wall_s"),
        cpu_s_per_million=_per_million(runs, "cpu_s"),
    )


def _per_million(runs: pd.DataFrame, column: str) -> float:
    """Return by how much a value grows per million rows; NaN without a trend."""
    known = runs.dropna(subset=["rows", column])
    rows = known["rows"].to_numpy(float) / 1e6
    line = theil_sen(rows, known[column].to_numpy(float))
    return math.nan if line is None or no_trend(rows, line) else line.slope
