"""Cost: CPU time and memory of each path, and the parts of a batch run's time."""

import json
import math
from collections.abc import Mapping

import pandas as pd

from pipeline.compare.stops import SHORTEST_REGULAR_RECORD_SECONDS, overlap, union
from pipeline.outputs import RUN_OK

#: The end of a row and the start of the next one differ by less than this.
_ROUNDING = pd.Timedelta(milliseconds=100)
COST_COLUMNS = (
    "path",
    "cpu_s_per_hour",
    "peak_mib",
    "answers",
    "cpu_s_per_answer",
    "cpu_s_per_million",
    "idle_cpu_s_per_hour",
)
#: The parts of a run's wall time, in order. Spark reads and aggregates in one pass.
RUN_PARTS = ("start-up", "reading", "aggregation", "writing", "shutdown")


def cost(minutes: Mapping[str, pd.DataFrame], log: pd.DataFrame, finals: pd.Series) -> pd.DataFrame:
    """Return what each path costs, over the time that its service recorded.

    Args:
        minutes: The minute record of each service: `at` (the end of each minute), `seconds`,
            `cpu_s`, `rss_mib` (peak), `counters` (increments, as JSON).
        log: The batch runs: `started`, `wall_s`, `cpu_s`, `peak_mib`, `rows`, `status`, `mode`.
        finals: When each final window of the stream was written.

    Returns:
        One row per path: `path`, `cpu_s_per_hour`, `peak_mib` (for the batch: of a run), `answers`
        (final windows or runs), `cpu_s_per_answer`, `cpu_s_per_million` (rows read; unknown with
        incremental runs), `idle_cpu_s_per_hour` (in minutes without a trade). NaN: unknown.
    """
    stream, scheduler = (
        minutes.get(name, pd.DataFrame()) for name in ("spark_processor", "batch_scheduler")
    )
    runs = log[log["status"] == RUN_OK]
    ends = runs["started"] + pd.to_timedelta(runs["wall_s"], unit="s")
    runs = runs[_recorded(scheduler, ends)]
    results = int(_recorded(stream, finals).sum())
    read = _sum_of_counter(stream, "rows")
    reread = runs["rows"].where(runs["mode"] != "incremental")
    rows = [
        ("stream", *_costs(stream, results, read), _idle_cost(stream)),
        ("batch", *_costs(scheduler, len(runs), float(reread.sum(skipna=False))), math.nan),
    ]
    frame = pd.DataFrame(rows, columns=list(COST_COLUMNS))
    if len(runs):
        frame.loc[frame["path"] == "batch", "peak_mib"] = runs["peak_mib"].max()
    return frame


def _recorded(minutes: pd.DataFrame, moments: pd.Series) -> pd.Series:
    """Return which moments are within the recorded minutes. If there is no row, all moments are."""
    if minutes.empty:
        return moments.notna()
    begins = minutes["at"] - pd.to_timedelta(minutes["seconds"], unit="s")
    covered = union(pd.DataFrame({"start": begins - _ROUNDING, "end": minutes["at"]}))
    return overlap(moments, moments, covered)


def _costs(minutes: pd.DataFrame, results: int, rows: float) -> tuple[float, ...]:
    if minutes.empty:
        return math.nan, math.nan, results, math.nan, math.nan
    cpu, seconds = _sum(minutes["cpu_s"]), float(minutes["seconds"].sum())
    return (
        cpu / seconds * 3600 if seconds else math.nan,
        float(minutes["rss_mib"].max(skipna=False)),
        results,
        cpu / results if results else math.nan,
        cpu / rows * 1e6 if rows else math.nan,
    )


def _idle_cost(minutes: pd.DataFrame) -> float:
    """Return CPU seconds per hour over the minutes in which no row was read; NaN without any.

    While the stream starts, it has no count of rows. Those minutes are not idle.
    """
    if minutes.empty:
        return math.nan
    idle = minutes[[json.loads(text).get("rows") == 0 for text in minutes["counters"]]]
    idle = idle[idle["seconds"] >= SHORTEST_REGULAR_RECORD_SECONDS]
    return _sum(idle["cpu_s"]) / float(idle["seconds"].sum()) * 3600 if len(idle) else math.nan


def _sum(costs: pd.Series) -> float:
    """Return the sum; NaN if one is unknown, as on a Spark cluster."""
    return float(costs.sum(skipna=False))


def _sum_of_counter(minutes: pd.DataFrame, name: str) -> float:
    if minutes.empty:
        return 0.0
    return float(sum(json.loads(text).get(name, 0) for text in minutes["counters"]))


def run_parts(log: pd.DataFrame) -> pd.DataFrame:
    """Return how the time of a batch run divides into parts.

    Args:
        log: The batch runs: `status`, `wall_s`, `start_s`, `logic_s` and, where recorded, `read_s`
            (a part of `logic_s`) and `write_s`.

    Returns:
        One row per part: `part`, `seconds` (median of the successful runs), `share` of the whole
        run. NaN: unknown. If reading is unknown, aggregation includes it.
    """
    runs = log[log["status"] == RUN_OK].reindex(
        columns=["wall_s", "start_s", "logic_s", "read_s", "write_s"]
    )
    parts = [
        runs["start_s"],
        runs["read_s"],
        runs["logic_s"] - runs["read_s"].fillna(0),
        runs["write_s"],
        runs["wall_s"] - runs["start_s"] - runs["logic_s"] - runs["write_s"].fillna(0),
    ]
    seconds = pd.Series([part.astype(float).quantile(0.5) for part in parts])
    whole = seconds.sum()
    return pd.DataFrame(
        {"part": RUN_PARTS, "seconds": seconds, "share": seconds / whole if whole else math.nan}
    )
