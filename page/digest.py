"""What the page shows of the comparison, in a bounded size: pure functions, and a process' work.

`python -m page.digest` is run by `page/background.py`, apart from the page's server: a comparison
of 90 days takes seconds of CPU and half a gigabyte, which go with the process.
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

from page import agreement_strip as strip
from page import formatting as words
from pipeline import times
from pipeline.compare import summary as verdict
from pipeline.compare.agreement import DIFFERENCES, EQUAL, UNEXPLAINED, VERDICTS
from pipeline.compare.comparison import (
    LEAST_RUNS,
    Comparison,
    Freshness,
    Growth,
    Shared,
    Steadiness,
    compare,
)
from pipeline.compare.inputs import Written, read_written
from pipeline.outputs import DataDir, OutputError

#: Places along the time axis of a chart: of what falls on the same one, only extremes are drawn.
BINS = 300
#: Rows of a table at most; the text above it says how many there are.
MOST_ROWS = 50
#: A forecast is drawn if it is not further away than so many times what was measured.
DRAWN_FORECAST = 4
#: The interval is drawn if it is no longer than so many times the longest run.
DRAWN_LIMIT = 12
#: The least age that is drawn, seconds: the axis of ages is logarithmic.
LEAST_AGE = 0.1
#: Points of a tooth: a straight line between its ends would be wrong on a logarithmic axis.
TOOTH_POINTS = 8


@dataclass(frozen=True)
class Digest:
    """All of the comparison that is drawn or said."""

    #: When the files were read, and what reading and comparing them cost, seconds of CPU.
    made_at: datetime
    cpu_s: float
    answers: tuple[verdict.Answer, ...]
    #: Over which ages and legs are measured; None: one of the paths has no answer yet.
    span: tuple[datetime, datetime] | None
    replayed_as_recorded: bool
    interval_s: float
    #: Windows by verdict, those on which there is one, and differences without a cause.
    counts: Mapping[str, int]
    #: Of the equal ones, those of which both paths miss trades.
    equal_but_missing: int
    compared: int
    unexplained: int
    shared: Shared
    #: The length of a window, and how windows are laid out as cells.
    window: timedelta
    layout: strip.Layout
    #: As `strip.drawn` gives them.
    cells: pd.DataFrame
    #: The newest windows that differ, unexplained ones first, then those that miss trades on both
    #: paths: `window`,
    #: `verdict`, `values`, `cause`.
    differing: pd.DataFrame
    all_differing: int
    freshness: Mapping[str, Freshness | None]
    #: `answer`, `at`, `age` (seconds).
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
    #: The newest runs of ids never seen: `first`, `last`, `ids`, `after`, `before`, `filled`,
    #: `rejected` (how many of the ids came in messages that were rejected).
    gaps: pd.DataFrame
    #: None: nothing is stored yet.
    all_gaps: int | None

    @property
    def most_rows(self) -> float:
        return float(self.runs["rows"].max())

    @property
    def growth_is_drawn(self) -> bool:
        """Whether there is a line through the runs: of enough of them, and steeper than noise."""
        return bool(self.growth and self.growth.runs >= LEAST_RUNS and self.growth.low > 0)

    @property
    def forecast_is_drawn(self) -> bool:
        """Whether the line goes on to the interval, which is near enough."""
        limit = self.growth.rows_at_limit if self.growth else None
        return (
            self.growth_is_drawn
            and limit is not None
            and self.most_rows < limit <= DRAWN_FORECAST * self.most_rows
        )

    @property
    def limit_is_drawn(self) -> bool:
        """Whether the interval stands in the chart: where runs would not be a line at its foot."""
        return self.interval_s <= DRAWN_LIMIT * float(self.runs["wall_s"].max())


def digest(written: Written, found: Comparison, made_at: datetime) -> Digest:
    """What is shown of a comparison and of what it was made from."""
    stream = pd.concat([written.final, written.still_open], ignore_index=True)
    judged = found.agreement
    window = strip.window_of(written.batch if len(written.batch) else stream)
    shape, cells = _strip(judged, stream, written.batch, window)
    noteworthy = found.noteworthy
    differ = noteworthy["verdict"].isin(DIFFERENCES)
    missing, differing = noteworthy[~differ], noteworthy[differ].iloc[::-1]
    unexplained = differing["cause"].str.contains(UNEXPLAINED, regex=False)
    in_order = (differing[unexplained], differing[~unexplained], missing.iloc[::-1])
    newest = pd.concat(in_order).head(MOST_ROWS)
    counts = judged["verdict"].value_counts()
    gaps = written.evidence.gaps
    return Digest(
        made_at=made_at,
        cpu_s=time.process_time(),
        answers=verdict.answers(found),
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
                "values": strip.differing_values(newest, stream, written.batch),
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
        growth_said=verdict.growth_in_words(found.growth, found.interval_s),
        runs=_runs(found.runs),
        micro_batches=_micro_batches(found.micro_batches),
        steadiness=found.steadiness,
        aspects=verdict.aspects(found),
        gaps=_gaps(gaps, written.evidence.rejected),
        all_gaps=None if written.ingested is None else len(gaps),
    )


def _strip(
    judged: pd.DataFrame, stream: pd.DataFrame, batch: pd.DataFrame, window: timedelta
) -> tuple[strip.Layout, pd.DataFrame]:
    if judged.empty:
        return strip.layout(window, window), pd.DataFrame(columns=list(strip.CELL_COLUMNS))
    found = strip.cells(judged, stream, batch)
    shape = strip.layout(found["start"].max() - found["start"].min() + window, window)
    worst = strip.grouped(found, shape)
    unequal = worst[worst["columns"] != ""]
    said = strip.differing_values(unequal, stream, batch)
    values = dict(zip(unequal["window_start"], said, strict=True))
    return shape, strip.drawn(worst, shape, values)


def thinned(points: pd.DataFrame, x: str, y: str, bins: int = BINS) -> pd.DataFrame:
    """Points in their order, of many only the least and the greatest of each place along x.

    First and last stay. A line through what is left covers the same pixels as one through all.
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
    """The sawtooth of each answer as the points of a line."""
    lines = []
    for answer, found in teeth.items():
        young, old = (found[name].to_numpy(float)[:, None] for name in ("young", "old"))
        least = np.maximum(young, LEAST_AGE)
        steps = np.linspace(0, 1, TOOTH_POINTS)[None, :]
        ages = np.clip(least * (np.maximum(old, least) / least) ** steps, young, old)
        ages[:, [0]], ages[:, [-1]] = young, old
        since = (ages - young).ravel() * 1e9
        begins = found["from"].repeat(TOOTH_POINTS)
        at = begins + pd.to_timedelta(since.round(), unit="ns")
        points = pd.DataFrame({"at": at.reset_index(drop=True), "age": ages.ravel()})
        lines.append(thinned(points, "at", "age").assign(answer=answer))
    if not lines:
        return pd.DataFrame({"at": pd.to_datetime([], utc=True), "age": [], "answer": []})
    return pd.concat(lines, ignore_index=True)


def _stages(funnel: pd.DataFrame) -> pd.DataFrame:
    said = [
        verdict.stage_in_words(row).removeprefix(f"{row['stage']}: ")
        for row in funnel.to_dict("records")
    ]
    return funnel[["stage", "count", "drawn_from"]].assign(said=said)


def _runs(runs: pd.DataFrame) -> pd.DataFrame:
    known = runs.dropna(subset=["rows", "wall_s"])
    points = thinned(known.sort_values("rows", ignore_index=True), "rows", "wall_s")
    when = points["started"].map(lambda started: words.day_and_clock(words.moment(started)))
    return points[["rows", "wall_s"]].astype(float).assign(when=when)


def _micro_batches(minutes: pd.DataFrame) -> pd.DataFrame:
    """By minute: the points that either of the two lines needs."""
    if minutes.empty:
        return minutes
    kept = [thinned(minutes, "minute", line).index for line in ("median_ms", "p99_ms")]
    return minutes.loc[kept[0].union(kept[1])]


def _gaps(gaps: pd.DataFrame, rejected: frozenset[int]) -> pd.DataFrame:
    newest = gaps.sort_values("first_trade_id").iloc[::-1].head(MOST_ROWS)
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


def made(data: DataDir, last: timedelta | None, interval_s: float) -> Digest | str:
    """Reads the data folder and compares; or the sentence that says why that cannot be done."""
    try:
        at = times.now()
        written = read_written(data, last)
        interval = verdict.interval_of(written.status, interval_s)
        found = compare(written, interval)
    except OutputError as error:
        return words.text(str(error))
    return digest(written, found, at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--last", type=float, help="seconds; without it, everything")
    parser.add_argument("--interval", type=float, required=True, help="of batch runs, seconds")
    given = parser.parse_args()
    last = None if given.last is None else timedelta(seconds=given.last)
    pickle.dump(made(DataDir(given.data_dir), last, given.interval), sys.stdout.buffer)


if __name__ == "__main__":
    main()
