"""The data of each figure, prepared once for the page (Altair) and the report (matplotlib).

Every frame has a bounded number of rows, whatever the size of the comparison.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.compare.agreement_grid import AgreementGrid, agreement_grid
from pipeline.compare.comparison import Comparison
from pipeline.compare.detection import Detection
from pipeline.compare.freshness import MIN_AGE_SECONDS
from pipeline.compare.frontier import LARGER, Frontier, curve
from pipeline.compare.latency import PREVIOUS
from pipeline.compare.totals import UNUSUAL_Z
from pipeline.compare.watermark import Watermarks
from pipeline.metrics.definitions import LABELS

#: Number of positions along the x axis of a figure. At each position only the extreme points are
#: kept, which cover the same pixels.
BINS = 300
#: The forecast is drawn up to this multiple of the largest measured table.
MAX_FORECAST = 4
#: The interval is drawn up to this multiple of the longest run.
MAX_LIMIT = 12
#: At most this number of pauses interrupts a line of minutes: the others are too short to be seen.
MAX_PAUSES = 10
#: Points per tooth. On a logarithmic axis a tooth is not a straight line.
TOOTH_POINTS = 8
#: The lines of dropped trades.
AT_MOST, ESTIMATE = "at most", "estimate"
#: The parts of the line of run times.
FITTED, FORECAST = "fitted", "forecast"
#: The metrics that have a z-score, by its column.
SCORED = {"range_z": LABELS["price_range"], "volume_z": LABELS["total_volume"]}


@dataclass(frozen=True)
class GrowthFigure:
    """Run time against table size."""

    #: `rows`, `wall_s`, `started`.
    runs: pd.DataFrame
    #: The fitted line and its forecast: `rows`, `wall_s`, `part` (`FITTED` or `FORECAST`). Empty
    #: if run time shows no trend with the number of rows.
    line: pd.DataFrame
    #: The interval of the runs in seconds, if it is within sight of them.
    limit_s: float | None


@dataclass(frozen=True)
class FrontierFigure:
    """Age against cost."""

    #: The batch at every interval: `curve` (its name), `mode` (its place among the modes), `larger`
    #: (over a larger table), `interval_s`, `age_s`, `cpu_s_per_hour`.
    curves: pd.DataFrame
    #: As measured: `result`, `age_s`, `cpu_s_per_hour`.
    points: pd.DataFrame


@dataclass(frozen=True)
class Figures:
    """The data of each figure. The field is the name that a section uses."""

    frontier: FrontierFigure
    agreement: AgreementGrid
    #: `result`, `at`, `age` (seconds), `drawn` (the age, at least MIN_AGE_SECONDS).
    freshness: pd.DataFrame
    #: `leg`, `start`, `median`, `p99` (seconds), `trades`. A step starts where the one before
    #: it ends.
    latency: pd.DataFrame
    #: `result`, `median`, `p99` (seconds), `median_drawn`, `p99_drawn` (at least MIN_AGE_SECONDS).
    detection: pd.DataFrame
    #: `watermark_s`, `kind` (`AT_MOST` or `ESTIMATE`), `percent` of the trades.
    watermark: pd.DataFrame
    #: `stage`, `share` (of its input that the stage kept, at most 1).
    completeness: pd.DataFrame
    #: `path`, `cpu_s_per_hour`, `peak_mib`.
    cost: pd.DataFrame
    growth: GrowthFigure
    #: `minute`, `median_ms`, `p99_ms`, `count`.
    micro_batches: pd.DataFrame
    #: `window_start`, `metric`, `z`, `unusual`.
    metrics: pd.DataFrame


def figures(comparison: Comparison) -> Figures:
    """Return the data of each figure."""
    agreement, batch = comparison.agreement, comparison.outputs.batch
    return Figures(
        frontier=frontier_figure(comparison.frontier),
        agreement=agreement_grid(agreement, comparison.stream_windows, batch, comparison.window),
        freshness=age_points(comparison.teeth),
        latency=latency_bars(comparison.waterfall),
        detection=detection_times(comparison.detection),
        watermark=dropped_shares(comparison.watermarks),
        completeness=kept_shares(comparison.funnel),
        cost=comparison.cost[["path", "cpu_s_per_hour", "peak_mib"]],
        growth=growth_figure(comparison),
        micro_batches=_micro_batches(comparison.micro_batches),
        metrics=z_scores(comparison.windows),
    )


def frontier_figure(frontier: Frontier) -> FrontierFigure:
    """Return the curve of each mode, over the table of today and over a larger one."""
    curves = []
    for place, model in enumerate(frontier.today):
        name = f"batch, {model.mode}" if frontier.several_modes else "batch"
        larger = frontier.larger.get(model.mode)
        curves.append(curve(model).assign(curve=name, mode=place, larger=False))
        if larger is not None:
            name = f"{name}, {LARGER} times the rows"
            curves.append(curve(larger).assign(curve=name, mode=place, larger=True))
    columns = ["curve", "mode", "larger", "interval_s", "age_s", "cpu_s_per_hour"]
    table = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=columns)
    points = frontier.measured[frontier.measured["cpu_s_per_hour"] > 0]
    points = points.assign(age_s=points["age_s"].clip(lower=MIN_AGE_SECONDS))
    return FrontierFigure(table[columns], points.reset_index(drop=True))


def thinned(points: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return the points of a line, or only the extremes of each position along x if there are many.

    The first and the last point stay, so that the line covers the same pixels.
    """
    if len(points) <= 2 * BINS:
        return points
    places = points[x].astype("int64") if points[x].dtype.kind == "M" else points[x]
    low, high = places.min(), places.max()
    numbers = pd.Series(
        np.minimum((places - low) / max(high - low, 1) * BINS, BINS - 1).astype(int), points.index
    )
    by_place = points[y].groupby(numbers)
    kept = {points.index[0], points.index[-1], *by_place.idxmin(), *by_place.idxmax()}
    return points.loc[points.index.isin(kept)]


def age_points(teeth: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the sawtooth of each result as the points of a line, with the columns of `Figures`.

    Where ages are unknown for long enough to be seen, a point without an age interrupts the line.
    """
    lines = [
        pd.DataFrame({"result": [], "at": pd.to_datetime([], utc=True), "age": []}).astype(
            {"result": object, "age": float}
        )
    ]
    for result, found in teeth.items():
        if found.empty:
            continue
        young, old = (found[name].to_numpy(float)[:, None] for name in ("age_from", "age_to"))
        least = np.maximum(young, MIN_AGE_SECONDS)
        steps = np.linspace(0, 1, TOOTH_POINTS)[None, :]
        ages = np.clip(least * (np.maximum(old, least) / least) ** steps, young, old)
        ages[:, [0]], ages[:, [-1]] = young, old
        since = (ages - young).ravel() * 1e9
        at = found["from"].repeat(TOOTH_POINTS) + pd.to_timedelta(since.round(), unit="ns")
        points = pd.DataFrame({"result": result, "at": at.array, "age": ages.ravel()})
        visible = (found["to"].iloc[-1] - found["from"].iloc[0]) / BINS
        pauses = found["to"][found["from"].shift(-1) - found["to"] > visible]
        unknown = pd.DataFrame({"result": result, "at": pauses.array, "age": np.nan})
        line = pd.concat([thinned(points, "at", "age"), unknown], ignore_index=True)
        lines.append(line.sort_values("at", kind="stable"))
    points = pd.concat(lines[1:] or lines, ignore_index=True)
    return points.assign(drawn=points["age"].clip(lower=MIN_AGE_SECONDS))


def latency_bars(waterfall: pd.DataFrame) -> pd.DataFrame:
    """Return the steps with their `start`: where the median of the previous step ends."""
    starts: list[float] = [0.0]
    medians = waterfall["median"].fillna(0.0)
    for step in range(1, len(waterfall)):
        previous = PREVIOUS[step]
        starts.append(starts[previous] + medians.iloc[previous])
    return waterfall.assign(start=starts)


def detection_times(detection: Detection) -> pd.DataFrame:
    """Return the times to detection of each result that has shown an event."""
    known = detection.table[detection.table["detected"] > 0]
    times = known[["result", "median", "p99"]].reset_index(drop=True)
    drawn = times[["median", "p99"]].clip(lower=MIN_AGE_SECONDS)
    return times.join(drawn.add_suffix("_drawn"))


def dropped_shares(watermarks: Watermarks) -> pd.DataFrame:
    """Return the share of trades that each watermark of a second or more would have dropped.

    A watermark that would have dropped no trade has no row: the scale is logarithmic.
    """
    table = watermarks.table[watermarks.table["watermark_s"] > 0]
    parts = []
    for column, kind in (("at_most", AT_MOST), ("estimate", ESTIMATE)):
        percent = 100 * table[column].astype(float) / max(watermarks.trades, 1)
        line = pd.DataFrame({"watermark_s": table["watermark_s"].astype(float), "kind": kind})
        parts.append(line.assign(percent=percent)[percent > 0])
    return pd.concat(parts, ignore_index=True)


def kept_shares(funnel: pd.DataFrame) -> pd.DataFrame:
    """Return the share of its input that each stage kept: `stage`, `share`."""
    known = funnel[funnel["drawn_from"].fillna(0) > 0]
    share = (known["count"].astype(float) / known["drawn_from"].astype(float)).clip(upper=1.0)
    return pd.DataFrame({"stage": known["stage"], "share": share})


def growth_figure(comparison: Comparison) -> GrowthFigure:
    """Return run time against rows, the fitted line, and the interval if it is within sight."""
    known = comparison.runs.dropna(subset=["rows", "wall_s"]).sort_values("rows", ignore_index=True)
    runs = thinned(known, "rows", "wall_s").reindex(columns=["rows", "wall_s", "started"])
    runs = runs.astype({"rows": float, "wall_s": float})
    fit, points = comparison.growth, []
    if fit and fit.has_trend:
        first, last = float(runs["rows"].min()), float(runs["rows"].max())
        points = [(first, FITTED), (last, FITTED)]
        if fit.rows_at_limit is not None and last < fit.rows_at_limit <= MAX_FORECAST * last:
            points += [(last, FORECAST), (fit.rows_at_limit, FORECAST)]
    rows = [(x, fit.base_s + fit.s_per_million * x / 1e6, part) for x, part in points if fit]
    in_sight = len(runs) > 0 and comparison.interval_s <= MAX_LIMIT * float(runs["wall_s"].max())
    return GrowthFigure(
        runs=runs,
        line=pd.DataFrame(rows, columns=["rows", "wall_s", "part"]),
        limit_s=comparison.interval_s if in_sight else None,
    )


def _micro_batches(minutes: pd.DataFrame) -> pd.DataFrame:
    """Return the minutes that either of the two lines needs.

    A row without durations interrupts the lines where there was no micro-batch for a long time.
    """
    if minutes.empty:
        return minutes
    kept = [thinned(minutes, "minute", line).index for line in ("median_ms", "p99_ms")]
    at = minutes["minute"]
    steps = at.shift(-1) - at
    long = (steps > 10 * steps.median()) & (steps > (at.iloc[-1] - at.iloc[0]) / MAX_PAUSES)
    pauses = minutes[long][["minute"]]
    lines = pd.concat([minutes.loc[kept[0].union(kept[1])], pauses], ignore_index=True)
    return lines.sort_values("minute", kind="stable", ignore_index=True)


def z_scores(windows: pd.DataFrame) -> pd.DataFrame:
    """Return the z-scores of range and volume: `window_start`, `metric`, `z`, `unusual`."""
    parts = []
    for column, metric in SCORED.items():
        scored = windows.dropna(subset=[column])
        points = pd.DataFrame({"window_start": scored["window_start"], "z": scored[column]})
        points = thinned(points, "window_start", "z").assign(metric=metric)
        parts.append(points.assign(unusual=points["z"] > UNUSUAL_Z))
    return pd.concat(parts, ignore_index=True)[["window_start", "metric", "z", "unusual"]]
