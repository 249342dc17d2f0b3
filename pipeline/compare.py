"""How the two paths are held against each other: pure functions on data frames.

Times are UTC. A path's *answer* is what a reader of its files finds at a moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from pipeline.outputs import FURTHER, METRICS

#: Verdicts on a window, in the order in which a reader should look at them.
DIFFERS = "differs"
ONLY_STREAM = "only stream"
ONLY_BATCH = "only batch"
NOT_YET_FINAL = "not yet final"
NOT_YET_IN_A_BATCH = "not yet in a batch"
EQUAL = "equal"
VERDICTS = (DIFFERS, ONLY_STREAM, ONLY_BATCH, NOT_YET_FINAL, NOT_YET_IN_A_BATCH, EQUAL)

#: What both paths must agree on, to the last digit.
COMPARED = (*METRICS, *FURTHER, "last_trade_time")


def agreement(
    final: pd.DataFrame, still_open: pd.DataFrame, batch: pd.DataFrame, newest_in_batch: str | None
) -> pd.DataFrame:
    """One verdict for each window that either path knows.

    Args:
        final: the stream's final windows, as the text of their cells.
        still_open: its open ones.
        batch: the newest run's windows.
        newest_in_batch: time of the newest trade in that run; None without a run.

    Returns:
        A row a window, sorted: `window_start`, `verdict`, `columns` (which differ, as text).
        A window is `not yet in a batch` as long as the run has seen no trade after its end.
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
    }
    rows = []
    for start in starts:
        end = streamed["window_end"].get(start) or batched["window_end"].get(start)
        covered = newest_in_batch is not None and end is not None and newest_in_batch >= end
        columns = differing.get(start, "")
        if start in opened:
            verdict = NOT_YET_FINAL
        elif start not in streamed.index:
            verdict = ONLY_BATCH
        elif columns == "" and start in batched.index:
            verdict = EQUAL
        elif not covered:
            verdict = NOT_YET_IN_A_BATCH
        else:
            verdict = DIFFERS if start in batched.index else ONLY_STREAM
        rows.append((start, verdict, columns))
    return pd.DataFrame(rows, columns=["window_start", "verdict", "columns"])


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
