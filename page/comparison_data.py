"""What the page shows of a comparison, in a bounded size.

`page/comparison_worker.py` runs this module in a child process: a comparison of 90 days takes
seconds of CPU and half a gigabyte of memory, which the process returns when it ends.
"""

import argparse
import pickle
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from page import agreement_strip, formatting
from pipeline import times
from pipeline.compare import summary
from pipeline.compare.agreement import DIFFERENCES, EQUAL, VERDICTS
from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.freshness import Freshness
from pipeline.compare.growth import MIN_RUNS, Growth, Steadiness
from pipeline.compare.inputs import PipelineOutputs, read_outputs
from pipeline.compare.sections import lost_in_words
from pipeline.compare.totals import Shared
from pipeline.outputs import DataDir, OutputError

#: Bins along the x axis of a chart. Of each bin the chart shows only the extremes.
BINS = 300
#: Rows of a table at most. The caption names the number of all rows.
MAX_ROWS = 50
#: The chart shows a forecast up to this multiple of the measured rows.
MAX_FORECAST = 4
#: The chart shows the interval up to this multiple of the longest run.
MAX_LIMIT = 12
#: The lowest age in the chart, seconds: its axis is logarithmic.
MIN_AGE = 0.1
#: Points of each rise: a straight line would be wrong on a logarithmic axis.
RISE_POINTS = 8


@dataclass(frozen=True)
class ComparisonData:
    """The part of a comparison that the page shows."""

    #: When the files were read, and the CPU seconds that reading and comparing took.
    made_at: datetime
    cpu_s: float
    answers: tuple[summary.Finding, ...]
    #: The span of ages and latencies; None while one of the paths has no result.
    span: tuple[datetime, datetime] | None
    replayed_as_recorded: bool
    interval_s: float
    #: Windows by verdict; compared windows; windows that differ without a known cause.
    counts: Mapping[str, int]
    #: Equal windows that both paths miss trades of.
    equal_but_missing: int
    compared: int
    unexplained: int
    shared: Shared
    #: The length of a window, and the layout of the cells.
    window: timedelta
    layout: agreement_strip.Layout
    #: The cells, as `agreement_strip.chart_data` returns them.
    cells: pd.DataFrame
    #: The newest windows that differ (unexplained ones first), then those that both paths miss
    #: trades of: `window`, `verdict`, `values`, `cause`.
    differing: pd.DataFrame
    all_differing: int
    freshness: Mapping[str, Freshness | None]
    #: The age of each result over time: `answer`, `at`, `age` (seconds).
    teeth: pd.DataFrame
    waterfall: pd.DataFrame
    #: `stage`, `count`, `drawn_from`, `said`.
    funnel: pd.DataFrame
    cost: pd.DataFrame
    growth: Growth | None
    growth_said: str
    #: Successful runs: `rows`, `wall_s`, `when`.
    runs: pd.DataFrame
    #: `minute`, `median_ms`, `p99_ms`, `count`.
    micro_batches: pd.DataFrame
    steadiness: Steadiness | None
    aspects: pd.DataFrame
    #: The newest gaps: `first`, `last`, `ids`, `after`, `before`, `filled`, `rejected` (how many
    #: of the ids were in rejected messages).
    gaps: pd.DataFrame
    #: The number of gaps; None while nothing is stored.
    all_gaps: int | None

    @property
    def most_rows(self) -> float:
        return float(self.runs["rows"].max())

    @property
    def growth_is_drawn(self) -> bool:
        """Whether the chart shows a trend: of enough runs, and steeper than their noise."""
        return bool(self.growth and self.growth.runs >= MIN_RUNS and self.growth.low > 0)

    @property
    def forecast_is_drawn(self) -> bool:
        """Whether the chart shows the forecast: only where the interval is near enough."""
        limit = self.growth.rows_at_limit if self.growth else None
        return (
            self.growth_is_drawn
            and limit is not None
            and self.most_rows < limit <= MAX_FORECAST * self.most_rows
        )

    @property
    def limit_is_drawn(self) -> bool:
        """Whether the chart shows the interval: only where it does not flatten the runs."""
        return self.interval_s <= MAX_LIMIT * float(self.runs["wall_s"].max())


def comparison_data(
    written: PipelineOutputs, found: Comparison, made_at: datetime
) -> ComparisonData:
    """Return what the page shows of a comparison and of its inputs."""
    stream = pd.concat([written.final, written.still_open], ignore_index=True)
    judged = found.agreement
    window = agreement_strip.window_of(written.batch if len(written.batch) else stream)
    shape, cells = _cells(judged, stream, written.batch, window)
    noteworthy = found.noteworthy
    differ = noteworthy["verdict"].isin(DIFFERENCES)
    missing, newest = noteworthy[~differ], noteworthy.head(MAX_ROWS)
    counts = judged["verdict"].value_counts()
    gaps = written.evidence.gaps
    return ComparisonData(
        made_at=made_at,
        cpu_s=time.process_time(),
        answers=summary.findings(found),
        span=found.span,
        replayed_as_recorded=found.replayed_as_recorded,
        interval_s=found.interval_s,
        counts={name: int(counts.get(name, 0)) for name in VERDICTS},
        equal_but_missing=int((missing["verdict"] == EQUAL).sum()),
        compared=found.compared,
        unexplained=found.unexplained,
        shared=found.shared,
        window=window,
        layout=shape,
        cells=cells,
        differing=pd.DataFrame(
            {
                "window": newest["window_start"],
                "verdict": newest["verdict"],
                "values": agreement_strip.differing_values(newest, stream, written.batch),
                "cause": newest["cause"],
            }
        ),
        all_differing=int(differ.sum()) + len(missing),
        freshness=found.freshness,
        teeth=_points(found.teeth),
        waterfall=found.waterfall,
        funnel=_stages(found.funnel),
        cost=found.cost,
        growth=found.growth,
        growth_said=summary.forecast(found.growth, found.interval_s),
        runs=_runs(found.runs),
        micro_batches=_micro_batches(found.micro_batches),
        steadiness=found.steadiness,
        aspects=summary.aspects(found),
        gaps=_gaps(gaps, written.evidence.rejected),
        all_gaps=None if written.ingested is None else len(gaps),
    )


def _cells(
    judged: pd.DataFrame, stream: pd.DataFrame, batch: pd.DataFrame, window: timedelta
) -> tuple[agreement_strip.Layout, pd.DataFrame]:
    if judged.empty:
        return agreement_strip.layout(window, window), pd.DataFrame(
            columns=list(agreement_strip.CELL_COLUMNS)
        )
    found = agreement_strip.cells(judged, stream, batch)
    shape = agreement_strip.layout(found["start"].max() - found["start"].min() + window, window)
    worst = agreement_strip.grouped(found, shape)
    unequal = worst[worst["columns"] != ""]
    said = agreement_strip.differing_values(unequal, stream, batch)
    values = dict(zip(unequal["window_start"], said, strict=True))
    return shape, agreement_strip.chart_data(worst, shape, values)


def thinned(points: pd.DataFrame, x: str, y: str, bins: int = BINS) -> pd.DataFrame:
    """Return at most the lowest and the highest point in each of the bins along x.

    The first and the last point stay. A line through the result covers the same pixels.
    """
    if len(points) <= 2 * bins:
        return points
    places = points[x].astype("int64") if points[x].dtype.kind == "M" else points[x]
    low, high = places.min(), places.max()
    numbers = pd.Series(
        np.minimum((places - low) / max(high - low, 1) * bins, bins - 1).astype(int), points.index
    )
    by_place = points[y].groupby(numbers)
    kept = {points.index[0], points.index[-1], *by_place.idxmin(), *by_place.idxmax()}
    return points.loc[points.index.isin(kept)]


def _points(teeth: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the age of each result over time as the points of a line."""
    lines = []
    for answer, found in teeth.items():
        young, old = (found[name].to_numpy(float)[:, None] for name in ("age_from", "age_to"))
        least = np.maximum(young, MIN_AGE)
        steps = np.linspace(0, 1, RISE_POINTS)[None, :]
        ages = np.clip(least * (np.maximum(old, least) / least) ** steps, young, old)
        ages[:, [0]], ages[:, [-1]] = young, old
        since = (ages - young).ravel() * 1e9
        begins = found["from"].repeat(RISE_POINTS)
        at = begins + pd.to_timedelta(since.round(), unit="ns")
        points = pd.DataFrame({"at": at.reset_index(drop=True), "age": ages.ravel()})
        lines.append(thinned(points, "at", "age").assign(answer=answer))
    if not lines:
        return pd.DataFrame({"at": pd.to_datetime([], utc=True), "age": [], "answer": []})
    return pd.concat(lines, ignore_index=True)


def _stages(funnel: pd.DataFrame) -> pd.DataFrame:
    said = [
        f"{row['count']:,} of {row['drawn_from']:,} ({lost_in_words(row)})"
        for row in funnel.to_dict("records")
    ]
    return funnel[["stage", "count", "drawn_from"]].assign(said=said)


def _runs(runs: pd.DataFrame) -> pd.DataFrame:
    known = runs.dropna(subset=["rows", "wall_s"])
    points = thinned(known.sort_values("rows", ignore_index=True), "rows", "wall_s")
    when = points["started"].map(
        lambda started: formatting.day_and_clock(formatting.moment(started))
    )
    return points[["rows", "wall_s"]].astype(float).assign(when=when)


def _micro_batches(minutes: pd.DataFrame) -> pd.DataFrame:
    """Return the minutes that either of the two lines needs."""
    if minutes.empty:
        return minutes
    kept = [thinned(minutes, "minute", line).index for line in ("median_ms", "p99_ms")]
    return minutes.loc[kept[0].union(kept[1])]


def _gaps(gaps: pd.DataFrame, rejected: frozenset[int]) -> pd.DataFrame:
    newest = gaps.sort_values("first_trade_id").iloc[::-1].head(MAX_ROWS)
    return pd.DataFrame(
        {
            "first": newest["first_trade_id"],
            "last": newest["last_trade_id"],
            "ids": newest["last_trade_id"] - newest["first_trade_id"] + 1,
            "after": newest["after"],
            "before": newest["before"],
            "filled": newest["filled"].astype(bool),
            "rejected": [
                sum(first <= one <= last for one in rejected)
                for first, last in zip(
                    newest["first_trade_id"], newest["last_trade_id"], strict=True
                )
            ],
        }
    )


# --- the process ----------------------------------------------------------------------------


def load(data: DataDir, last: timedelta | None, interval_s: float) -> ComparisonData | str:
    """Read a data folder and compare the paths.

    Returns:
        The data, or a sentence that names the reason why the folder cannot be compared.
    """
    try:
        at = times.now()
        written = read_outputs(data, last)
        found = compare(written, interval_s)
    except OutputError as error:
        return formatting.text(str(error))
    return comparison_data(written, found, at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--last", type=float, help="span in seconds (default: everything)")
    parser.add_argument("--interval", type=float, required=True, help="batch interval in seconds")
    given = parser.parse_args()
    last = None if given.last is None else timedelta(seconds=given.last)
    pickle.dump(load(DataDir(given.data_dir), last, given.interval), sys.stdout.buffer)


if __name__ == "__main__":
    main()
