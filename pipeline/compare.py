"""How the two paths are held against each other: pure functions on data frames.

Times are UTC. A path's *answer* is what a reader of its files finds at a moment. What the frames
hold is said in `tables.py`, which reads them; unknown is None or NaN, never 0.
"""

import argparse
import itertools
import json
import math
import sqlite3
import sys
import textwrap
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd

from pipeline import latency
from pipeline.outputs import FURTHER, METRICS, DataDir, OutputError, iso
from pipeline.settings import load
from pipeline.tables import Evidence, Ingested, Written, read_written, typed

#: Verdicts on a window, in the order in which a reader should look at them.
DIFFERS = "differs"
ONLY_STREAM = "only stream"
ONLY_BATCH = "only batch"
NOT_YET_FINAL = "not yet final"
NOT_YET_IN_A_BATCH = "not yet in a batch"
EQUAL = "equal"
VERDICTS = (DIFFERS, ONLY_STREAM, ONLY_BATCH, NOT_YET_FINAL, NOT_YET_IN_A_BATCH, EQUAL)
DIFFERENCES = (DIFFERS, ONLY_STREAM, ONLY_BATCH)

#: Causes of a difference, each proved by trades that account for all of it.
LATE = "late trades dropped by the watermark"
RECOVERED = "trades recovered after a gap, too late for the stream"
AFTER_SNAPSHOT = "trades stored after the batch's snapshot"
CONFLICT = "a repeated trade id with another content, which the stream no longer knew"
UNEXPLAINED = "unexplained"
#: Of a window on whose trades both agree, though the exchange issued more.
GAP = "a gap at the producer"

#: What both paths must agree on, to the last digit.
COMPARED = (*METRICS, *FURTHER, "last_trade_time")
#: Trades of which it must be tried out whether the stream has them, at most: each doubles the work.
_TRIED = 14


def agreement(
    final: pd.DataFrame,
    still_open: pd.DataFrame,
    batch: pd.DataFrame,
    newest_in_batch: str | None,
    evidence: Evidence,
) -> pd.DataFrame:
    """One verdict for each window that either path knows, and the cause of each difference.

    Args:
        final: the stream's final windows, as the text of their cells.
        still_open: its open ones.
        batch: the newest run's windows.
        newest_in_batch: time of the newest trade in that run; None without a run.
        evidence: what the consumer noted.

    Returns:
        A row a window, sorted: `window_start`, `verdict`, `columns` (which differ, as text),
        `cause` (of a difference, or of trades that both paths miss), `missing` (ids never seen
        around this window, at most). A window is `not yet in a batch` as long as the run has seen
        no trade after its end.
    """
    streamed = final.set_index("window_start")
    batched = batch.set_index("window_start")
    opened = set(still_open["window_start"]) - set(streamed.index)
    starts = sorted(set(streamed.index) | opened | set(batched.index))
    common = streamed.index.intersection(batched.index)
    left = streamed.loc[common, list(COMPARED)]
    unequal = left.ne(batched.loc[common, list(COMPARED)])
    differing = {
        start: ", ".join(unequal.columns[row])
        for start, row in zip(common, unequal.to_numpy(), strict=True)
        if row.any()
    }
    ends: dict[str, str] = {}
    for known in (batched, streamed):
        ends.update(zip(known.index, known["window_end"], strict=True))
    in_stream, in_batch = set(streamed.index), set(batched.index)
    missing = _missing(evidence.gaps, starts, ends)
    newest_in_stream = max([*in_stream, *opened], default="")
    newest = None if newest_in_batch is None else _comparable(newest_in_batch)
    rows = []
    for start in starts:
        end = ends.get(start)
        covered = newest is not None and end is not None and newest >= _comparable(end)
        columns, cause = differing.get(start, ""), ""
        if start in opened or start > newest_in_stream:  # it has not come so far
            verdict = NOT_YET_FINAL
        elif start not in in_stream:
            verdict = ONLY_BATCH
        elif columns == "" and start in in_batch:
            verdict = EQUAL
        elif not covered:
            verdict = NOT_YET_IN_A_BATCH
        else:
            verdict = DIFFERS if start in in_batch else ONLY_STREAM
        if verdict in DIFFERENCES:
            cause = _cause(
                start,
                ends[start],
                _counted(streamed.loc[start]) if start in in_stream else _NOTHING,
                _counted(batched.loc[start]) if start in in_batch else _NOTHING,
                evidence,
            )
        elif start in missing:
            cause = GAP
        rows.append((start, verdict, columns, cause, missing.get(start, 0)))
    return pd.DataFrame(rows, columns=["window_start", "verdict", "columns", "cause", "missing"])


#: Trades, buys and volume of a window or of some trades: what a set of trades must account for.
_Amount = tuple[int, int, Decimal]
_NOTHING: _Amount = (0, 0, Decimal(0))


def _counted(window: "pd.Series[str]") -> _Amount:
    return int(window["trade_count"]), int(window["buy_count"]), Decimal(window["total_volume"])


def _plus(one: _Amount, other: _Amount, sign: int = 1) -> _Amount:
    return one[0] + sign * other[0], one[1] + sign * other[1], one[2] + sign * other[2]


def _cause(start: str, end: str, stream: _Amount, batch: _Amount, evidence: Evidence) -> str:
    """Which trades account for the whole difference, to the last digit.

    Trades that came late may have been dropped by the stream or not, and a repeat may have been
    forgotten or not: that is tried out. What was stored after the snapshot is no question.
    """
    late = _trades_of(evidence.late, start, end)
    after = _trades_of(evidence.after_snapshot, start, end)
    conflicts = _trades_of(evidence.conflicts, start, end)
    # Batch less stream: what the stream dropped, less what came after the snapshot, less repeats.
    wanted = _plus(batch, stream, -1)
    for amount in after.values():
        wanted = _plus(wanted, amount)
    questions = [(LATE, number, amount, 1) for number, amount in late.items()]
    questions += [(CONFLICT, number, amount, -1) for number, amount in conflicts.items()]
    for answers in _answers(len(questions)):
        reached = _NOTHING
        for question, answer in zip(questions, answers, strict=True):
            if answer:
                reached = _plus(reached, question[2], question[3])
        if reached == wanted:
            counted = [
                question for question, answer in zip(questions, answers, strict=True) if answer
            ]
            causes = {
                RECOVERED if kind == LATE and _was_recovered(evidence.gaps, number) else kind
                for kind, number, _, _ in counted
            }
            causes |= (
                {AFTER_SNAPSHOT} if set(after) - {number for _, number, _, _ in counted} else set()
            )
            return "; ".join(sorted(causes)) or UNEXPLAINED
    return UNEXPLAINED


def _answers(questions: int) -> Iterator[Sequence[bool]]:
    """Which of so many trades to take: all of them first; every choice as long as there are few."""
    yield [True] * questions
    if questions <= _TRIED:
        yield from itertools.product([True, False], repeat=questions)
        return
    # Late trades are dropped from a moment on: those that came first may still have counted.
    for kept in range(1, questions + 1):
        yield [False] * kept + [True] * (questions - kept)


def _trades_of(trades: pd.DataFrame, start: str, end: str) -> dict[int, _Amount]:
    lower, upper = _comparable(start), _comparable(end)
    inside = trades[(trades["time"] >= lower) & (trades["time"] < upper)]
    return {
        number: (1, int(side == "buy"), size)
        for number, side, size in zip(
            inside["trade_id"], inside["side"], map(_decimal, inside["last_size"]), strict=True
        )
    }


def _comparable(cell: str) -> str:
    """A window's edge as the table writes times, with six decimals."""
    return cell if "." in cell else f"{cell[:-1]}.000000Z"


def _decimal(size: float) -> Decimal:
    return Decimal(repr(size))


def _was_recovered(gaps: pd.DataFrame, number: int) -> bool:
    inside = (gaps["first_trade_id"] <= number) & (gaps["last_trade_id"] >= number)
    return bool((inside & gaps["filled"]).any())


def _missing(gaps: pd.DataFrame, starts: Sequence[str], ends: Mapping[str, str]) -> dict[str, int]:
    """How many ids were never seen around each window: they lie between two stored trades."""
    found: Counter[str] = Counter()
    edges = [_comparable(start) for start in starts]
    unfilled = gaps[~gaps["filled"].astype(bool)]
    names = ["first_trade_id", "last_trade_id", "after", "before"]
    for first, last, after, before in unfilled[names].itertuples(index=False):
        for place in range(max(0, bisect_right(edges, after) - 1), bisect_right(edges, before)):
            if starts[place] in ends and _comparable(ends[starts[place]]) > after:
                found[starts[place]] += last - first + 1
    return dict(found)


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
) -> pd.DataFrame:
    """How long each leg of a trade's way took.

    Args:
        noted: by the consumer: `leg`, `bucket`, `count`.
        micro_batches: `rows`, `first_receipt`, `last_receipt`, `published_at`.
        windows: by the stream, of each final window: `leg`, `counts` (by bucket, as JSON).
        final: final windows: `window_end`, `last_trade_time`, `written_at`, `trade_count`.
        runs: batch runs: `last_trade_time`, `written_at`.

    Returns:
        A row a leg: `leg`, `trades`, `median`, `p99` (seconds; NaN: unknown, or beyond all
        buckets, as in a replay of old trades).
    """
    by_leg: dict[str, Counter[int]] = {leg: Counter() for leg in LEGS}
    for leg, number, count in noted[["leg", "bucket", "count"]].itertuples(index=False):
        place = {latency.EVENT_TO_RECEIPT: LEGS[0], latency.RECEIPT_TO_STORED: LEGS[1]}.get(leg)
        if place is not None:
            by_leg[place][number] += count
    by_leg[LEGS[2]] = latency.counted(_until_open(micro_batches))
    for text in windows.loc[windows["leg"] == latency.OPEN_TO_FINAL, "counts"]:
        by_leg[LEGS[3]].update({int(number): count for number, count in json.loads(text).items()})
    by_leg[LEGS[4]] = latency.counted(_until_batch(final, runs))
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
LOSSES = ("missing", "repeated", "rejected", "no_trade", "late", "not_yet")


def funnel(
    ingested: Ingested | None,
    producer: Mapping[str, int],
    in_stream: int,
    late: int,
    in_batch: int | None,
) -> pd.DataFrame:
    """From what the exchange issued to what each path counted, with each loss.

    Args:
        ingested: None when nothing is stored yet.
        producer: its counters, since its start.
        in_stream: trades in final and open windows.
        late: trades of the table that the stream dropped as late, as the agreement proves.
        in_batch: rows of the newest run; None without one.

    Returns:
        A row a stage: `stage`, `count`, `drawn_from` (the count that it draws from), and what lies
        between the two by reason (`LOSSES`), so that each row adds up; `of_issued`, a share.
        `not_yet` is negative where the stream is ahead of the consumer.
    """
    rows: list[dict[str, object]] = []
    if producer:
        rows.append(
            {
                "stage": "published by the producer, since its start",
                "drawn_from": producer.get("received", 0),
                "count": producer.get("published", 0),
                "repeated": producer.get("repeated", 0),
                "rejected": producer.get("rejected", 0),
                "no_trade": producer.get("control", 0) + producer.get("ignored", 0),
            }
        )
    if ingested is not None:
        stored, issued = ingested.stored, ingested.issued
        rows += [
            {
                "stage": "stored, of the records in Kafka",
                "drawn_from": ingested.records,
                "count": stored,
                "repeated": ingested.repeated,
                "rejected": ingested.rejected,
            },
            {
                "stage": "stored, of the ids that the exchange issued",
                "drawn_from": issued,
                "count": stored,
                "missing": ingested.missing,
                "of_issued": stored / issued,
            },
            {
                "stage": "counted by the stream, of what is stored",
                "drawn_from": stored,
                "count": in_stream,
                "late": late,
                "not_yet": stored - in_stream - late,
                "of_issued": in_stream / issued,
            },
        ]
        if in_batch is not None:
            rows.append(
                {
                    "stage": "counted by the batch, of what is stored",
                    "drawn_from": stored,
                    "count": in_batch,
                    "not_yet": stored - in_batch,
                    "of_issued": in_batch / issued,
                }
            )
    return pd.DataFrame(rows, columns=["stage", "drawn_from", "count", *LOSSES, "of_issued"])


# --- growth ---------------------------------------------------------------------------------

#: Runs that a forecast needs, and how much the table must have grown among them.
LEAST_RUNS = 8
MOST_RUNS = 500
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
    #: Rows at which a run takes as long as its interval, and when that will be.
    rows_at_limit: float | None
    at_limit: datetime | None
    #: Why nothing is forecast; "" when something is.
    refusal: str


def growth(
    runs: pd.DataFrame, interval_s: float, rows_per_s: float | None, now: datetime
) -> Growth | None:
    """A robust line through the runs (Theil-Sen), and when it crosses the interval.

    Args:
        runs: successful ones: `rows`, `wall_s`.
        interval_s: from the start of one run to the next.
        rows_per_s: at which the table grows; None: unknown.
        now: from when on to count.

    Returns:
        None with fewer than two runs of different size.
    """
    known = runs.dropna(subset=["rows", "wall_s"])
    # Every pair of runs is looked at: of very many, evenly spread ones tell as much.
    known = known.iloc[:: 1 + len(known) // MOST_RUNS]
    x, y = known["rows"].to_numpy(float) / 1e6, known["wall_s"].to_numpy(float)
    left, right = np.triu_indices(len(x), k=1)
    apart = x[left] != x[right]
    if not apart.any():
        return None
    slopes = np.sort((y[right] - y[left])[apart] / (x[right] - x[left])[apart])
    slope = float(np.median(slopes))
    base = float(np.median(y - slope * x))
    low, high = _sen_interval(slopes, len(x))
    refusal = ""
    if len(x) < LEAST_RUNS:
        refusal = f"{len(x)} runs are too few: a forecast needs {LEAST_RUNS}"
    elif x.max() < LEAST_GROWTH * x.min():
        refusal = "the table has hardly grown among these runs"
    elif low <= 0:
        refusal = "no growth of the duration can be told from its noise"
    elif rows_per_s is None or rows_per_s <= 0:
        refusal = "the table does not grow at present"
    limit = at = None
    if not refusal:
        limit = max(0.0, (interval_s - base) / slope * 1e6)
        seconds = max(0.0, limit - x.max() * 1e6) / (rows_per_s or math.nan)
        at = now + timedelta(seconds=seconds) if seconds < 100 * 365 * 86400 else None
        if at is None:
            refusal = "not within a hundred years"
    return Growth(len(x), base, slope, low, high, limit, at, refusal)


def _sen_interval(slopes: np.ndarray, runs: int) -> tuple[float, float]:
    """Sen's 95 % interval of the slope, by the normal approximation of Kendall's statistic."""
    spread = 1.96 * math.sqrt(runs * (runs - 1) * (2 * runs + 5) / 18)
    lower = int((len(slopes) - spread) // 2)
    upper = math.ceil((len(slopes) + spread) / 2)
    if lower < 0 or upper >= len(slopes):
        return -math.inf, math.inf
    return float(slopes[lower]), float(slopes[upper])


# --- cost -----------------------------------------------------------------------------------


def cost(minutes: Mapping[str, pd.DataFrame], log: pd.DataFrame, finals: int) -> pd.DataFrame:
    """What each path costs.

    Args:
        minutes: of each service: `seconds`, `cpu_s`, `rss_mib`, `counters` (new ones, as JSON).
        log: of the batch runs: `cpu_s`, `peak_mib`, `rows`, `status`.
        finals: final windows that the stream delivered meanwhile.

    Returns:
        A row a path: `path`, `cpu_s_per_hour`, `peak_mib`, `answers`, `cpu_s_per_answer`,
        `cpu_s_per_million` (trades worked through); NaN: unknown.
    """
    stream = minutes.get("spark_processor", pd.DataFrame())
    scheduler = minutes.get("batch_scheduler", pd.DataFrame())
    runs = log[log["status"] == "ok"]
    rows = []
    read = _counted_in(stream, "rows")
    rows.append(("stream", *_costs(stream, finals, read)))
    rows.append(("batch", *_costs(scheduler, len(runs), float(runs["rows"].sum()))))
    frame = pd.DataFrame(
        rows,
        columns=[
            "path",
            "cpu_s_per_hour",
            "peak_mib",
            "answers",
            "cpu_s_per_answer",
            "cpu_s_per_million",
        ],
    )
    if len(runs):
        frame.loc[frame["path"] == "batch", "peak_mib"] = runs["peak_mib"].max()
    return frame


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


def idle_cost(minutes: pd.DataFrame) -> float | None:
    """CPU seconds an hour of the minutes in which nothing was read; None: there were none."""
    if minutes.empty:
        return None
    idle = minutes[[not json.loads(text).get("rows") for text in minutes["counters"]]]
    return float(idle["cpu_s"].sum() / idle["seconds"].sum() * 3600) if len(idle) else None


def _counted_in(minutes: pd.DataFrame, name: str) -> float:
    if minutes.empty:
        return 0.0
    return float(sum(json.loads(text).get(name, 0) for text in minutes["counters"]))


# --- all of it ------------------------------------------------------------------------------

#: The answers whose freshness is compared.
STREAM_OPEN, STREAM_FINAL, BATCH = "stream, open windows", "stream, final windows", "batch"


@dataclass(frozen=True)
class Comparison:
    """Everything that is known of the two paths, and the verdict in words."""

    #: From when on both paths have answers, until the newest one; None: not yet.
    span: tuple[datetime, datetime] | None
    agreement: pd.DataFrame
    #: By answer; None: unknown.
    freshness: dict[str, Freshness | None]
    waterfall: pd.DataFrame
    funnel: pd.DataFrame
    cost: pd.DataFrame
    idle_cpu_s_per_hour: float | None
    growth: Growth | None
    verdict: str

    @property
    def unexplained(self) -> int:
        return int(self.agreement["cause"].str.contains(UNEXPLAINED).sum())

    @property
    def compared(self) -> int:
        """Windows on which there is a verdict, equal or not."""
        return int(self.agreement["verdict"].isin([EQUAL, *DIFFERENCES]).sum())


def compare(written: Written, interval_s: float) -> Comparison:
    """Holds the two paths against each other.

    Args:
        written: what the services wrote.
        interval_s: from the start of one batch run to the next.
    """
    runs, micro_batches = written.runs, written.micro_batches
    final = typed(written.final)
    newest = None if runs.empty else iso(runs["last_trade_time"].iloc[-1])
    judged = agreement(written.final, written.still_open, written.batch, newest, written.evidence)
    answers = {
        STREAM_OPEN: _publications(micro_batches, "published_at", "newest_trade"),
        STREAM_FINAL: _publications(final, "written_at", "last_trade_time"),
        BATCH: _publications(runs, "written_at", "last_trade_time"),
    }
    span = _span(answers[STREAM_FINAL], answers[BATCH])
    # Trades of long ago, as in a recording replayed as it was: their age tells of nothing.
    aged = span is not None and not written.replayed_as_recorded
    fresh = {
        name: freshness(sawtooth(published, *span)) if aged and span else None
        for name, published in answers.items()
    }
    late = _proved_late(judged, written)
    counted = int(final["trade_count"].sum() + typed(written.still_open)["trade_count"].sum())
    since = [minutes["at"].min() for minutes in written.minutes.values() if len(minutes)]
    costs = cost(
        written.minutes,
        written.log[written.log["started"] >= max(since)] if since else written.log[:0],
        int((final["written_at"] >= max(since)).sum()) if since else 0,
    )
    ok = written.log[written.log["status"] == "ok"]
    end = span[1] if span else datetime.now(UTC)
    grown = growth(ok, interval_s, _rows_per_second(runs), end)
    partial = Comparison(
        span=span,
        agreement=judged,
        freshness=fresh,
        waterfall=waterfall(
            written.latencies, micro_batches, written.window_latencies, final, runs
        ),
        funnel=funnel(
            written.ingested,
            written.status["producer"].get("counters", {}),
            counted,
            late,
            None if runs.empty else int(runs["rows"].iloc[-1]),
        ),
        cost=costs,
        idle_cpu_s_per_hour=idle_cost(written.minutes["spark_processor"]),
        growth=grown,
        verdict="",
    )
    return replace(partial, verdict=verdict_in_words(partial, interval_s))


def _publications(table: pd.DataFrame, at: str, newest: str) -> pd.DataFrame:
    return table[[at, newest]].set_axis(["at", "newest"], axis="columns").dropna()


def _span(*answers: pd.DataFrame) -> tuple[datetime, datetime] | None:
    if any(answer.empty for answer in answers):
        return None
    start = max(answer["at"].min() for answer in answers)
    end = max(answer["at"].max() for answer in answers)
    return start.to_pydatetime(), end.to_pydatetime()


def _proved_late(judged: pd.DataFrame, written: Written) -> int:
    """Trades by which the stream is short in windows whose cause is late trades."""
    late = judged[judged["cause"].isin([LATE, RECOVERED])]["window_start"]
    counts = [
        table[table["window_start"].isin(late)]["trade_count"].astype(int).sum()
        for table in (written.batch, written.final)
    ]
    return int(counts[0] - counts[1])


def _rows_per_second(runs: pd.DataFrame) -> float | None:
    """At which the table grew over the last hour of runs."""
    if len(runs) < 2:
        return None
    last = runs.iloc[-1]
    first = runs[runs["snapshot_at"] >= last["snapshot_at"] - timedelta(hours=1)].iloc[0]
    seconds = (last["snapshot_at"] - first["snapshot_at"]).total_seconds()
    return float(last["rows"] - first["rows"]) / seconds if seconds > 0 else None


def verdict_in_words(found: Comparison, interval_s: float) -> str:
    """A paragraph that says what the numbers say, and nothing that they do not."""
    if found.span is None:
        return "There is nothing to compare yet: one of the two paths has no answer."
    span, counts = _long(found.span[1] - found.span[0]), found.agreement["verdict"].value_counts()
    differing = sum(int(counts.get(name, 0)) for name in DIFFERENCES)
    shared = found.compared
    if not differing:
        agree = f"both paths agree on all {shared:,} shared minutes"
    else:
        causes = Counter(found.agreement[found.agreement["verdict"].isin(DIFFERENCES)]["cause"])
        named = ", ".join(f"{count} for {cause}" for cause, count in causes.most_common())
        agree = f"the paths agree on {shared - differing:,} of {shared:,} minutes; {named}"
    sentences = [f"Over {span} {agree}."]
    final, opened, batch = (found.freshness[name] for name in (STREAM_FINAL, STREAM_OPEN, BATCH))
    if final and batch:
        open_text = f" (its open windows: {opened.median:.1f} s)" if opened else ""
        sentences.append(
            f"The stream's final answer was {final.median:.0f} s old in the median{open_text}, "
            f"the batch's {batch.median:.0f} s."
        )
    else:
        sentences.append("How old the answers were is unknown: the trades are of long ago.")
    stream_cpu, batch_cpu = found.cost["cpu_s_per_hour"]
    if stream_cpu > 0 and batch_cpu > 0:
        sentences.append(
            f"The stream used {stream_cpu / batch_cpu:.1f} times the CPU of the batch, "
            f"{stream_cpu:.0f} against {batch_cpu:.0f} CPU seconds an hour."
        )
    sentences.append(_growth_in_words(found.growth, interval_s))
    return " ".join(sentences)


def _growth_in_words(grown: Growth | None, interval_s: float) -> str:
    if grown is None:
        return "Nothing can be said of the batch's growth yet."
    if grown.refusal or grown.rows_at_limit is None or grown.at_limit is None:
        return f"When the batch will be too slow is not forecast: {grown.refusal}."
    return (
        f"A batch run takes {grown.s_per_million:.1f} s more with each million trades; it will "
        f"take longer than its interval of {interval_s:.0f} s at "
        f"{grown.rows_at_limit / 1e6:,.0f} million trades, which is about "
        f"{grown.at_limit:%Y-%m-%d} at the last hour's rate."
    )


def _long(length: timedelta) -> str:
    minutes = round(length.total_seconds() / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"


def main() -> None:
    """`python -m pipeline.compare [--json]`: verdict and tables.

    Status 0: each difference is explained; 1: one is not; 2: there is nothing to compare.
    """
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="for programs")
    as_json = parser.parse_args().json
    settings = load()
    try:
        written = read_written(DataDir(settings.data_dir))
    except (OutputError, sqlite3.Error) as error:
        print(f"{settings.data_dir} cannot be compared: {error}", file=sys.stderr)
        sys.exit(2)
    found = compare(written, settings.batch_interval_seconds)
    print(to_json(found) if as_json else in_text(found))
    sys.exit(2 if not found.compared else 1 if found.unexplained else 0)


def to_json(found: Comparison) -> str:
    def plain(value: object) -> object:
        if isinstance(value, pd.DataFrame):
            return json.loads(value.to_json(orient="records", date_format="iso"))
        if isinstance(value, Freshness | Growth):
            return asdict(value)
        if isinstance(value, datetime):
            return iso(value)
        raise TypeError(type(value))

    return json.dumps(vars(found) | {"unexplained": found.unexplained}, default=plain, indent=1)


def in_text(found: Comparison) -> str:
    """The verdict and the tables for a terminal; only windows that differ are listed."""
    counts = found.agreement["verdict"].value_counts()
    differing = found.agreement[
        found.agreement["verdict"].isin(DIFFERENCES) | (found.agreement["cause"] != "")
    ]
    ages = pd.DataFrame(
        [
            {"answer": name, **({} if known is None else asdict(known))}
            for name, known in found.freshness.items()
        ]
    )
    parts = [
        ("", "\n".join(textwrap.wrap(found.verdict, 98))),
        ("Windows", "\n".join(f"{name}: {counts.get(name, 0)}" for name in VERDICTS)),
        ("Windows that differ, or that miss trades", _table(differing)),
        ("Age of the newest trade in each answer, seconds", _table(ages)),
        ("Latency by leg, seconds", _table(found.waterfall)),
        ("Completeness", _table(found.funnel)),
        ("Cost", _table(found.cost)),
    ]
    return "\n\n".join(f"{title}\n{text}" if title else text for title, text in parts)


def _table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "none"
    return str(frame.to_string(index=False, na_rep="unknown", float_format=lambda x: f"{x:,.2f}"))


if __name__ == "__main__":
    main()
