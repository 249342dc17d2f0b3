"""How the two paths are held against each other: pure functions on data frames.

Times are UTC. A path's *answer* is what a reader of its files finds at a moment. What the frames
hold is said in `tables.py`, which reads them; unknown is None or NaN, never 0. Whether the paths
agree is decided in `agreement.py`, what all of it says in words in `verdict.py`.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from pipeline import histogram as latency
from pipeline.compare.agreement import DIFFERENCES, DIFFERS, EQUAL, UNEXPLAINED, agreement, refused
from pipeline.compare.inputs import Ingested, Written, typed
from pipeline.times import iso

# --- freshness ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Freshness:
    """How old a path's answer was over a span, in seconds, and over how much of it is known."""

    mean: float
    median: float
    p99: float
    maximum: float
    known_seconds: float


def sawtooth(publications: pd.DataFrame, start: datetime, end: datetime) -> pd.DataFrame:
    """The age of the newest trade in a path's readable answer, at each moment of a span.

    Between two publications the age grows by a second a second, so that the ends of each tooth
    say all. A publication with an older newest trade than one before changes nothing.

    Args:
        publications: `at`, when an answer became readable, and `newest`, the event time of the
            newest trade in it.
        start: of the span.
        end: of the span.

    Returns:
        A row a tooth: `from`, `to` (moments), `young`, `old` (ages at both ends, seconds). What
        comes before the first publication is unknown and has no row.
    """
    known = publications.dropna().sort_values("at")
    first, last = pd.Timestamp(start), pd.Timestamp(end)
    newest = known["newest"].cummax()
    begins = known["at"].where(known["at"] > first, first)
    ends = known["at"].shift(-1)
    ends = ends.where(ends < last, last)
    teeth = pd.DataFrame(
        {
            "from": begins,
            "to": ends,
            "young": (begins - newest).dt.total_seconds(),
            "old": (ends - newest).dt.total_seconds(),
        }
    )
    return teeth[teeth["to"] > teeth["from"]].reset_index(drop=True)


def freshness(teeth: pd.DataFrame) -> Freshness | None:
    """Exact mean, quantiles and maximum of a sawtooth over time; None when nothing is known."""
    if teeth.empty:
        return None
    young, old = teeth["young"].to_numpy(), teeth["old"].to_numpy()
    lengths = old - young
    known = float(lengths.sum())
    mean = float(((young + old) / 2 * lengths).sum() / known)
    median, p99 = _quantiles(young, old, (0.5, 0.99))
    return Freshness(mean, median, p99, float(old.max()), known)


def _quantiles(young: np.ndarray, old: np.ndarray, wanted: Sequence[float]) -> list[float]:
    """Quantiles of the age over time: each tooth spends equal time at each of its ages.

    The time spent at or below an age is piecewise linear in it, with bends at the teeth's ends.
    """
    bends = np.unique(np.concatenate([young, old]))
    below = _time_since(young, bends) - _time_since(old, bends)
    total = float((old - young).sum())
    return [float(np.interp(share * total, below, bends)) for share in wanted]


def _time_since(moments: np.ndarray, bends: np.ndarray) -> np.ndarray:
    """For each bend, the sum of how far it lies beyond each moment that it has passed."""
    ordered = np.sort(moments)
    passed = np.searchsorted(ordered, bends, side="right")
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    since: np.ndarray = passed * bends - sums[passed]
    return since


# --- latency --------------------------------------------------------------------------------

#: The legs in order: stamp → stamp.
LEGS = (
    "event → received",
    "received → stored",
    "received → in an open window",
    "open window → final window",
    "final window → in a batch result",
)


def waterfall(
    noted: pd.DataFrame,
    micro_batches: pd.DataFrame,
    windows: pd.DataFrame,
    final: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    replayed_as_recorded: bool = False,
) -> pd.DataFrame:
    """How long each leg of a trade's way took.

    Args:
        noted: by the consumer: `leg`, `bucket`, `count`.
        micro_batches: `rows`, `first_receipt`, `last_receipt`, `published_at`.
        windows: by the stream, of each final window: `leg`, `counts` (by bucket, as JSON).
        final: final windows: `window_end`, `last_trade_time`, `written_at`, `trade_count`.
        runs: batch runs: `last_trade_time`, `written_at`.
        replayed_as_recorded: the trades are of long ago, at whatever pace, so that what depends on
            event time (the first leg, and when a window is final) means nothing.

    Returns:
        A row a leg: `leg`, `trades`, `median`, `p99` (seconds; NaN: unknown, or beyond all
        buckets, as in a replay of old trades).
    """
    by_leg: dict[str, Counter[int]] = {leg: Counter() for leg in LEGS}
    for leg, number, count in noted[["leg", "bucket", "count"]].itertuples(index=False):
        place = {latency.EVENT_TO_RECEIPT: LEGS[0], latency.RECEIPT_TO_STORED: LEGS[1]}.get(leg)
        if place is not None:
            by_leg[place][number] += count
    by_leg[LEGS[2]] = latency.count(_until_open(micro_batches))
    for text in windows.loc[windows["leg"] == latency.OPEN_TO_FINAL, "counts"]:
        by_leg[LEGS[3]].update({int(number): count for number, count in json.loads(text).items()})
    by_leg[LEGS[4]] = latency.count(_until_batch(final, runs))
    if replayed_as_recorded:
        for leg in (LEGS[0], *LEGS[3:]):
            by_leg[leg] = Counter()
    rows = []
    for leg, counts in by_leg.items():
        total = sum(counts.values())
        rows.append((leg, total, latency.quantile(counts, 0.5), latency.quantile(counts, 0.99)))
    return pd.DataFrame(rows, columns=["leg", "trades", "median", "p99"]).astype(
        {"median": float, "p99": float}
    )


def _until_open(micro_batches: pd.DataFrame) -> Iterator[tuple[float, int]]:
    """From receipt to the open view; within a micro-batch the receipts are evenly spread."""
    known = micro_batches.dropna(subset=["published_at", "first_receipt", "last_receipt"])
    longest = (known["published_at"] - known["first_receipt"]).dt.total_seconds()
    shortest = (known["published_at"] - known["last_receipt"]).dt.total_seconds()
    for rows, high, low in zip(known["rows"].astype(int), longest, shortest, strict=True):
        points = min(rows, 20)
        for point in range(points):
            share = point / (points - 1) if points > 1 else 0.0
            weight = rows * (point + 1) // points - rows * point // points
            yield low + (high - low) * share, weight


def _until_batch(final: pd.DataFrame, runs: pd.DataFrame) -> Iterator[tuple[float, int]]:
    """From a window's final row to the first batch result with all of its trades."""
    ordered = runs.dropna(subset=["last_trade_time", "written_at"]).sort_values("written_at")
    if ordered.empty or final.empty:
        return
    covered = _naive(ordered["last_trade_time"].cummax())
    places = np.searchsorted(covered, _naive(final["last_trade_time"]), side="left")
    inside = places < len(ordered)
    written = _naive(ordered["written_at"])[places[inside]]
    seconds = (written - _naive(final["written_at"])[inside]) / np.timedelta64(1, "s")
    yield from zip(seconds.tolist(), final["trade_count"].astype(int)[inside], strict=True)


def _naive(times: pd.Series) -> np.ndarray:
    """Moments in UTC as numpy has them, without a zone."""
    moments: np.ndarray = times.dt.tz_localize(None).to_numpy()
    return moments


# --- completeness ---------------------------------------------------------------------------


#: Why a stage has fewer than the one that it draws from.
LOSSES = ("missing", "repeated", "rejected", "late", "unexplained", "not_yet")
FUNNEL_COLUMNS = ("stage", "drawn_from", "count", *LOSSES, "of_issued", "of_received")


def funnel(
    ingested: Ingested | None,
    status: Mapping[str, Mapping[str, Any]],
    in_stream: int,
    judged: pd.DataFrame,
    in_batch: int | None,
    *,
    refused: int = 0,
) -> pd.DataFrame:
    """From what the exchange issued to what each path counted, with each loss.

    Args:
        ingested: None when nothing is stored yet.
        status: what each service says of itself: the producer's counters since its start, how
            many records the consumer has not read.
        in_stream: trades in final and open windows.
        judged: what `agreement` found: trades dropped as late, or counted twice, as it proves, and
            what the stream lacks for no known reason.
        in_batch: rows of the newest run; None without one.
        refused: ids, of those never stored, that came in messages that were rejected.

    Returns:
        A row a stage: `stage`, `count`, `drawn_from` (the count that it draws from), and what lies
        between the two by reason (`LOSSES`), so that each row adds up; shares of the ids that the
        exchange issued and of those that were ever received, `of_issued` and `of_received`.
        `not_yet` is negative where the stream is ahead of the consumer, `repeated` where the
        stream has counted trades twice.
    """
    rows: list[dict[str, object]] = []
    producer = status["producer"].get("counters")
    if isinstance(producer, Mapping) and {"received", "published"} <= producer.keys():
        others = sum(producer.get(name, 0) for name in ("control", "ignored", "repeated"))
        new, rejected = producer["received"] - others, producer.get("rejected", 0)
        rows.append(
            {
                "stage": "published, of the new messages received since the producer's start",
                "drawn_from": new,
                "count": producer["published"],
                "rejected": rejected,
                "not_yet": new - producer["published"] - rejected,
            }
        )
    if ingested is None:
        return pd.DataFrame(rows, columns=list(FUNNEL_COLUMNS))
    lag = status["consumer"].get("lag")
    if isinstance(lag, int):
        rows.append(
            {
                "stage": "read by the consumer, of the records in Kafka",
                "drawn_from": ingested.records + lag,
                "count": ingested.records,
                "not_yet": lag,
            }
        )
    stored = ingested.stored
    late, doubled, unexplained = (
        int(judged[name].sum()) for name in ("late", "doubled", "unexplained")
    )
    rows += [
        {
            "stage": "stored, of the records read",
            "drawn_from": ingested.records,
            "count": stored,
            "repeated": ingested.repeated,
            "rejected": ingested.rejected,
        },
        {
            "stage": "stored, of the ids that the exchange issued",
            "drawn_from": ingested.issued,
            "count": stored,
            "missing": ingested.missing - refused,
            "rejected": refused,
        },
        {
            "stage": "counted by the stream, of what is stored",
            "drawn_from": stored,
            "count": in_stream,
            "late": late,
            "repeated": -doubled,
            "unexplained": unexplained,
            "not_yet": stored - in_stream - late + doubled - unexplained,
        },
    ]
    if in_batch is not None:
        rows.append(
            {
                "stage": "counted by the batch, of what is stored",
                "drawn_from": stored,
                "count": in_batch,
                "not_yet": stored - in_batch,
            }
        )
    table = pd.DataFrame(rows, columns=list(FUNNEL_COLUMNS))
    trades = table.index[-4 if in_batch is not None else -3 :][1:]
    table.loc[trades, "of_issued"] = table.loc[trades, "count"] / ingested.issued
    table.loc[trades, "of_received"] = table.loc[trades, "count"] / (stored + refused)
    return table


# --- growth ---------------------------------------------------------------------------------

#: Why nothing is forecast of a batch that no longer fits into its interval.
TOO_SLOW_ALREADY = "it is so already"
#: Runs that a forecast needs, and how much the table must have grown among them.
LEAST_RUNS = 8
MOST_POINTS = 500
LEAST_GROWTH = 1.2


@dataclass(frozen=True)
class Growth:
    """Batch duration against rows: `wall_s = base_s + s_per_million * rows / 1e6`."""

    runs: int
    base_s: float
    s_per_million: float
    #: 95 % interval of the slope.
    low: float
    high: float
    #: Rows at which a run takes as long as its interval, by the slope and by the ends of its
    #: interval (the greater one may be infinite), and when that will be.
    rows_at_limit: float | None
    rows_low: float | None
    rows_high: float | None
    at_limit: datetime | None
    #: Why nothing is forecast; "" when something is.
    refusal: str


def growth(
    runs: pd.DataFrame, interval_s: float, rows_per_s: float | None, now: datetime
) -> Growth | None:
    """A robust line through the runs (Theil-Sen), and when it crosses the interval.

    Args:
        runs: successful ones: `rows`, `wall_s` and, of runs that note it, `start_s`: the JVM's
            start does not depend on the table, so runs whose start grows with it tell of a
            machine that got busier.
        interval_s: from the start of one run to the next.
        rows_per_s: at which the table grows; None: unknown.
        now: from when on to count.

    Returns:
        None with fewer than two runs of different size.
    """
    known = runs.dropna(subset=["rows", "wall_s"])
    x = known["rows"].to_numpy(float) / 1e6
    line = _line(x, known["wall_s"].to_numpy(float))
    if line is None:
        return None
    refusal = ""
    if len(x) < LEAST_RUNS:
        refusal = f"{len(x)} runs are too few: a forecast needs {LEAST_RUNS}"
    elif x.max() < LEAST_GROWTH * x.min():
        refusal = "the table has hardly grown among these runs"
    elif line.low <= 0:
        refusal = "no growth of the duration can be told from its noise"
    elif _grows(x, known.get("start_s")):
        refusal = "the runs' start, before they read the table, has slowed down as well"
    elif rows_per_s is None:
        refusal = "at what rate the table grows is unknown"
    elif rows_per_s <= 0:
        refusal = "the table does not grow at present"
    limit = fewest = most = at = None
    if not refusal:
        limit, fewest, most = (
            max(0.0, (interval_s - base) / slope * 1e6)
            for base, slope in (
                (line.base, line.slope),
                (line.base_at(line.high), line.high),
                (line.base_at(line.low), line.low),
            )
        )
        seconds = (limit - x.max() * 1e6) / (rows_per_s or math.nan)
        at, refusal = _after(now, seconds)
    slopes = (line.slope, line.low, line.high)
    return Growth(len(x), line.base, *slopes, limit, fewest, most, at, refusal)


def _after(now: datetime, seconds: float) -> tuple[datetime | None, str]:
    """When so many seconds have gone by; or why that is no forecast."""
    if seconds <= 0:
        return None, TOO_SLOW_ALREADY
    if seconds > 100 * 365 * 86400:
        return None, "not within a hundred years"
    return now + timedelta(seconds=seconds), ""


def _grows(x: np.ndarray, values: pd.Series | None) -> bool:
    """Whether known values surely grow with x."""
    if values is None:
        return False
    known = values.notna().to_numpy()
    line = _line(x[known], values[known].to_numpy(float))
    return line is not None and line.low > 0


@dataclass(frozen=True)
class _Line:
    """`y = base + slope * x`, with the 95 % interval of the slope."""

    slope: float
    low: float
    high: float
    x: np.ndarray
    y: np.ndarray

    @property
    def base(self) -> float:
        return self.base_at(self.slope)

    def base_at(self, slope: float) -> float:
        """Where the line through the points' middle begins, with this slope."""
        return float(np.median(self.y - slope * self.x))


def _line(x: np.ndarray, y: np.ndarray) -> _Line | None:
    """A robust line (Theil-Sen: the median of the slopes); None when no two x differ."""
    # Every pair of points is looked at: of very many, evenly spread ones tell as much.
    x, y = (values[:: 1 + len(values) // MOST_POINTS] for values in (x, y))
    left, right = np.triu_indices(len(x), k=1)
    apart = x[left] != x[right]
    if not apart.any():
        return None
    slopes = np.sort((y[right] - y[left])[apart] / (x[right] - x[left])[apart])
    return _Line(float(np.median(slopes)), *_sen_interval(slopes, len(x)), x, y)


def _sen_interval(slopes: np.ndarray, points: int) -> tuple[float, float]:
    """Sen's 95 % interval of the slope, by the normal approximation of Kendall's statistic."""
    spread = 1.96 * math.sqrt(points * (points - 1) * (2 * points + 5) / 18)
    lower = int((len(slopes) - spread) // 2)
    upper = math.ceil((len(slopes) + spread) / 2)
    if lower < 0 or upper >= len(slopes):
        return -math.inf, math.inf
    return float(slopes[lower]), float(slopes[upper])


@dataclass(frozen=True)
class Steadiness:
    """The time of the stream's micro-batches while the table grows: it should stay flat."""

    micro_batches: int
    median_ms: float
    p99_ms: float
    #: Trades read meanwhile.
    trades: int
    #: By how much they have grown with them, and its 95 % interval; None: too few minutes.
    change_ms: float | None
    low: float | None
    high: float | None


def by_minute(micro_batches: pd.DataFrame) -> pd.DataFrame:
    """Micro-batches by minute: `minute`, `count`, `median_ms`, `p99_ms`, `trades` read so far."""
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
    """How micro-batches grow with the trades read before them; None without any."""
    durations = micro_batches["duration_ms"].dropna().astype(float)
    if durations.empty:
        return None
    minutes = by_minute(micro_batches)
    read = minutes["trades"].to_numpy(float)
    line = _line(read, minutes["median_ms"].to_numpy(float)) if len(read) >= LEAST_RUNS else None
    return Steadiness(
        micro_batches=len(durations),
        median_ms=float(durations.median()),
        p99_ms=float(durations.quantile(0.99)),
        trades=int(micro_batches["rows"].sum()),
        change_ms=line.slope * read[-1] if line else None,
        low=line.low * read[-1] if line else None,
        high=line.high * read[-1] if line else None,
    )


#: Of a run's wall time, in order. Spark reads and aggregates in one pass.
RUN_PARTS = ("start of JVM and Spark", "reading", "aggregating", "writing", "end of the process")


def run_parts(log: pd.DataFrame) -> pd.DataFrame:
    """How a batch run's time is spent.

    Args:
        log: of the batch runs: `status`, `wall_s`, `start_s`, `logic_s` and, of runs that note
            them, `read_s` (which is part of `logic_s`) and `write_s`.

    Returns:
        A row a part: `part`, `seconds` (median over the successful runs), `share` of them all;
        NaN: unknown. Where reading is unknown, aggregating holds it.
    """
    runs = log[log["status"] == "ok"].reindex(
        columns=["wall_s", "start_s", "logic_s", "read_s", "write_s"]
    )
    parts = [
        runs["start_s"],
        runs["read_s"],
        runs["logic_s"] - runs["read_s"].fillna(0),
        runs["write_s"],
        runs["wall_s"] - runs["start_s"] - runs["logic_s"] - runs["write_s"].fillna(0),
    ]
    seconds = [_median(part) for part in parts]
    whole = sum(part for part in seconds if not math.isnan(part))
    return pd.DataFrame(
        {
            "part": RUN_PARTS,
            "seconds": seconds,
            "share": [part / whole if whole else math.nan for part in seconds],
        }
    )


def _median(values: pd.Series) -> float:
    known = values.astype(float).dropna()
    return float(known.median()) if len(known) else math.nan


#: A z-score beyond this stands out against the trailing hour.
STANDS_OUT = 2.0


def flags(windows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What fixed thresholds and z-scores against the trailing hour say of the windows of a path.

    Args:
        windows: by path, typed.

    Returns:
        A row a path: `path`, `windows`, and how many of them are `high`, `spike`, `bullish`,
        `bearish`; `scored` windows, of which `range_stands_out` and `volume_stands_out`; the
        median of the `imbalance` without its sign.
    """
    return pd.DataFrame(
        [
            {
                "path": path,
                "windows": len(table),
                "high": int((table["volatility_flag"] == "High").sum()),
                "spike": int((table["volume_spike"] == "Spike").sum()),
                "bullish": int((table["market_sentiment"] == "Bullish").sum()),
                "bearish": int((table["market_sentiment"] == "Bearish").sum()),
                "scored": int(table["range_z"].notna().sum()),
                "range_stands_out": int((table["range_z"] > STANDS_OUT).sum()),
                "volume_stands_out": int((table["volume_z"] > STANDS_OUT).sum()),
                "imbalance": _median(table["volume_imbalance"].abs()),
            }
            for path, table in windows.items()
        ]
    )


# --- what each path found in all ------------------------------------------------------------


def totals(windows: pd.DataFrame) -> dict[str, float]:
    """Windows of a path rolled up to one: how many, and its metrics that are numbers.

    Args:
        windows: typed, sorted by start.

    Returns:
        Empty without windows. Over a part that is unknown (a column that an older version did not
        write) the whole is unknown: NaN.
    """
    if windows.empty:
        return {}

    def mean(of: str, weight: str) -> float:
        weighted = float((windows[of] * windows[weight]).sum(skipna=False))
        return weighted / sums[weight] if sums[weight] else math.nan

    sums = {
        name: float(windows[name].sum(skipna=False))
        for name in ("total_volume", "trade_count", "buy_count", "sell_count")
    }
    highest = float(windows["max_price"].max(skipna=False))
    lowest = float(windows["min_price"].min(skipna=False))
    return {
        "windows": len(windows),
        "avg_price": mean("avg_price", "trade_count"),
        "vwap": mean("vwap", "total_volume"),
        "open_price": windows["open_price"].iloc[0],
        "max_price": highest,
        "min_price": lowest,
        "close_price": windows["close_price"].iloc[-1],
        "price_range": highest - lowest,
        **sums,
        "buy_sell_ratio": sums["buy_count"] / (sums["sell_count"] + 1e-5),
        "volume_imbalance": mean("volume_imbalance", "total_volume"),
    }


#: Sums of doubles tell no smaller difference.
_LEAST_DIFFERENCE = 1e-8


@dataclass(frozen=True)
class Shared:
    """What both paths found over the very same windows, those that both have in full."""

    windows: int
    #: How many of them differ, which need not show in the totals.
    differing: int
    #: A row a metric: `metric`, `stream`, `batch`, `difference` (stream - batch).
    totals: pd.DataFrame


def shared(final: pd.DataFrame, batch: pd.DataFrame, judged: pd.DataFrame) -> Shared:
    """Both paths rolled up over the same windows.

    Args:
        final: the stream's final windows, typed.
        batch: the batch's.
        judged: as `agreement` gives it.
    """
    both = judged[judged["verdict"].isin([EQUAL, DIFFERS])]
    starts = pd.to_datetime(both["window_start"], utc=True, format="ISO8601")
    stream, other = (totals(table[table["window_start"].isin(starts)]) for table in (final, batch))
    rows = [
        (name, stream[name], other[name], stream[name] - other[name])
        for name in stream
        if name != "windows"
    ]
    found = pd.DataFrame(rows, columns=["metric", "stream", "batch", "difference"])
    near = found["difference"].abs() < _LEAST_DIFFERENCE
    found["difference"] = found["difference"].astype(float).mask(near, 0.0)
    return Shared(len(both), int((both["verdict"] == DIFFERS).sum()), found)


# --- cost -----------------------------------------------------------------------------------


#: A shorter row of a record of minutes is of a service's end.
WHOLE_MINUTE_SECONDS = 30.0
COST_COLUMNS = (
    "path",
    "cpu_s_per_hour",
    "peak_mib",
    "answers",
    "cpu_s_per_answer",
    "cpu_s_per_million",
    "idle_cpu_s_per_hour",
)


def cost(minutes: Mapping[str, pd.DataFrame], log: pd.DataFrame, finals: pd.Series) -> pd.DataFrame:
    """What each path costs, over the time of which its record of minutes tells.

    Args:
        minutes: of each service: `at` (the end of each), `seconds`, `cpu_s`, `rss_mib` (at most),
            `counters` (new ones, as JSON).
        log: of the batch runs: `started`, `wall_s`, `cpu_s`, `peak_mib`, `rows`, `status`.
        finals: when each final window of the stream was written.

    Returns:
        A row a path: `path`, `cpu_s_per_hour`, `peak_mib` (of the batch: of a run), `answers`,
        `cpu_s_per_answer`, `cpu_s_per_million` (rows read: the batch reads a trade anew in each
        run), `idle_cpu_s_per_hour` (in minutes without a trade); NaN: unknown.
    """
    stream, scheduler = (
        minutes.get(name, pd.DataFrame()) for name in ("spark_processor", "batch_scheduler")
    )
    runs = log[log["status"] == "ok"]
    ends = runs["started"] + pd.to_timedelta(runs["wall_s"], unit="s")
    runs = runs[_covered(scheduler, ends)]
    answers = int(_covered(stream, finals).sum())
    read = _counted_in(stream, "rows")
    rows = [
        ("stream", *_costs(stream, answers, read), _idle_cost(stream)),
        ("batch", *_costs(scheduler, len(runs), float(runs["rows"].sum())), math.nan),
    ]
    frame = pd.DataFrame(rows, columns=list(COST_COLUMNS))
    if len(runs):
        frame.loc[frame["path"] == "batch", "peak_mib"] = runs["peak_mib"].max()
    return frame


def _covered(minutes: pd.DataFrame, moments: pd.Series) -> pd.Series:
    """Which moments lie in the time of a record of minutes; without one, all."""
    if minutes.empty:
        return moments.notna()
    begins = minutes["at"] - pd.to_timedelta(minutes["seconds"], unit="s")
    return moments.between(begins.min(), minutes["at"].max())


def _costs(minutes: pd.DataFrame, answers: int, trades: float) -> tuple[float, ...]:
    if minutes.empty:
        return math.nan, math.nan, answers, math.nan, math.nan
    cpu, seconds = float(minutes["cpu_s"].sum()), float(minutes["seconds"].sum())
    return (
        cpu / seconds * 3600 if seconds else math.nan,
        float(minutes["rss_mib"].max()),
        answers,
        cpu / answers if answers else math.nan,
        cpu / trades * 1e6 if trades else math.nan,
    )


def _idle_cost(minutes: pd.DataFrame) -> float:
    """CPU seconds an hour of the minutes in which nothing was read; NaN: there were none.

    While it starts, the stream has no count of what it read: that is not idle.
    """
    if minutes.empty:
        return math.nan
    idle = minutes[[json.loads(text).get("rows") == 0 for text in minutes["counters"]]]
    idle = idle[idle["seconds"] >= WHOLE_MINUTE_SECONDS]
    return float(idle["cpu_s"].sum() / idle["seconds"].sum() * 3600) if len(idle) else math.nan


def _counted_in(minutes: pd.DataFrame, name: str) -> float:
    if minutes.empty:
        return 0.0
    return float(sum(json.loads(text).get(name, 0) for text in minutes["counters"]))


# --- all of it ------------------------------------------------------------------------------

#: The answers whose freshness is compared.
STREAM_OPEN, STREAM_FINAL, BATCH = "stream, open windows", "stream, final windows", "batch"


@dataclass(frozen=True)
class Comparison:
    """Everything that is known of the two paths."""

    #: Over which ages and legs are measured; None: one of the paths has no answer yet.
    span: tuple[datetime, datetime] | None
    #: Whether the trades are of long ago: then ages are unknown.
    replayed_as_recorded: bool
    interval_s: float
    agreement: pd.DataFrame
    #: Ids that the exchange issued around these windows and that neither path has.
    missing: int
    #: By answer; None: unknown.
    freshness: dict[str, Freshness | None]
    #: By answer, as `sawtooth` gives them.
    teeth: dict[str, pd.DataFrame]
    waterfall: pd.DataFrame
    funnel: pd.DataFrame
    cost: pd.DataFrame
    run_parts: pd.DataFrame
    #: Successful runs: `started`, `rows`, `wall_s`, ….
    runs: pd.DataFrame
    growth: Growth | None
    micro_batches: pd.DataFrame
    steadiness: Steadiness | None
    flags: pd.DataFrame
    #: Over all windows, whatever the span.
    shared: Shared
    #: The stream's final windows, typed.
    windows: pd.DataFrame

    @property
    def unexplained(self) -> int:
        """Windows with a difference that nothing explains."""
        return int(self.agreement["cause"].str.contains(UNEXPLAINED).sum())

    @property
    def decided(self) -> pd.DataFrame:
        """The windows on which there is a verdict, equal or not."""
        return self.agreement[self.agreement["verdict"].isin([EQUAL, *DIFFERENCES])]

    @property
    def compared(self) -> int:
        """How many they are."""
        return len(self.decided)

    @property
    def noteworthy(self) -> pd.DataFrame:
        """The windows that differ, or on whose missing trades both agree."""
        differ = self.agreement["verdict"].isin(DIFFERENCES)
        return self.agreement[differ | (self.agreement["cause"] != "")]


def compare(written: Written, interval_s: float) -> Comparison:
    """Holds the two paths against each other.

    Args:
        written: what the services wrote.
        interval_s: from the start of one batch run to the next.
    """
    runs, span = written.runs, written.span
    final, still_open, batch = map(typed, (written.final, written.still_open, written.batch))
    newest = None if runs.empty else iso(runs["last_trade_time"].iloc[-1])
    judged = agreement(written.final, written.still_open, written.batch, newest, written.evidence)
    micro_batches, window_latencies = written.micro_batches, written.window_latencies
    whole = final
    teeth = {}
    if span and not written.replayed_as_recorded:
        teeth = {
            name: sawtooth(published, *span) for name, published in publications(written).items()
        }
        # What was there before both paths had answers was caught up with, and did not come live.
        micro_batches = micro_batches[micro_batches["published_at"] >= span[0]]
        whole = final[final["window_start"] >= span[0]]
        starts = written.final.loc[whole.index, "window_start"]
        window_latencies = window_latencies[window_latencies["window_start"].isin(starts)]
    both = shared(final, batch, judged)
    only_open = ~still_open["window_start"].isin(final["window_start"])
    counted = final["trade_count"].sum() + still_open[only_open]["trade_count"].sum()
    ok = written.log[written.log["status"] == "ok"]
    shown, minutes, log = judged, written.minutes, written.log
    if written.since:
        minutes = {name: table[table["at"] >= written.since] for name, table in minutes.items()}
        log = log[log["started"] >= written.since]
    counted_log, finals = log, final["written_at"]
    if span and not written.replayed_as_recorded:
        # Neither catching up with what was there before, nor the time after the last answer.
        minutes = {name: _within(table, span) for name, table in minutes.items()}
        counted_log = log[log["started"] >= span[0]]
        finals = finals[finals.between(*span)]
    if written.since and written.last:
        # Windows by event time, which in a replay as recorded is not the clock's.
        ends = [table["window_end"].max() for table in (final, still_open, batch) if len(table)]
        since = max(ends) - written.last
        shown = judged[judged["window_start"] >= iso(since)].reset_index(drop=True)
        final, batch = (table[table["window_start"] >= since] for table in (final, batch))
    return Comparison(
        span=span,
        replayed_as_recorded=written.replayed_as_recorded,
        interval_s=interval_s,
        agreement=shown,
        missing=_missing(written.evidence.gaps, shown),
        freshness={
            name: freshness(teeth[name]) if name in teeth else None
            for name in (STREAM_OPEN, STREAM_FINAL, BATCH)
        },
        teeth=teeth,
        waterfall=waterfall(
            written.latencies,
            micro_batches,
            window_latencies,
            whole,
            runs,
            replayed_as_recorded=written.replayed_as_recorded,
        ),
        funnel=funnel(
            written.ingested,
            written.status,
            int(counted),
            judged,
            None if runs.empty else int(runs["rows"].iloc[-1]),
            refused=refused(written.evidence),
        ),
        cost=cost(minutes, counted_log, finals),
        run_parts=run_parts(log),
        runs=ok,
        growth=growth(ok, interval_s, _rows_per_second(runs), runs["written_at"].max()),
        micro_batches=by_minute(micro_batches),
        steadiness=steadiness(micro_batches),
        flags=flags({"stream": final, "batch": batch}),
        shared=both,
        windows=final,
    )


def _missing(gaps: pd.DataFrame, shown: pd.DataFrame) -> int:
    """Ids of the open gaps that reach into the windows shown, each once."""
    if shown.empty or gaps.empty:
        return 0
    reach = gaps["before"].fillna("") >= shown["window_start"].iloc[0]
    missing = gaps[reach & ~gaps["filled"].astype(bool)]
    return int((missing["last_trade_id"] - missing["first_trade_id"] + 1).sum())


def _within(minutes: pd.DataFrame, span: tuple[datetime, datetime]) -> pd.DataFrame:
    """The minutes of a record that began in a span, by the clock."""
    if minutes.empty:
        return minutes
    begins = minutes["at"] - pd.to_timedelta(minutes["seconds"], unit="s")
    return minutes[begins.between(*span)]


def publications(written: Written) -> dict[str, pd.DataFrame]:
    """By answer: `at`, when one became readable, and `newest`, the newest trade in it."""
    return {
        name: table[[at, newest]].set_axis(["at", "newest"], axis="columns").dropna()
        for name, table, at, newest in (
            (STREAM_OPEN, written.micro_batches, "published_at", "newest_trade"),
            (STREAM_FINAL, typed(written.final), "written_at", "last_trade_time"),
            (BATCH, written.runs, "written_at", "last_trade_time"),
        )
    }


def _rows_per_second(runs: pd.DataFrame) -> float | None:
    """At which the table grew over the last hour of runs, or over the last two runs."""
    if len(runs) < 2:
        return None
    last, before = runs.iloc[-1], runs.iloc[:-1]
    recent = before[before["snapshot_at"] >= last["snapshot_at"] - timedelta(hours=1)]
    first = (recent if len(recent) else before.tail(1)).iloc[0]
    seconds = (last["snapshot_at"] - first["snapshot_at"]).total_seconds()
    return float(last["rows"] - first["rows"]) / seconds if seconds > 0 else None
