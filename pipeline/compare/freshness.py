"""Freshness: how old the newest trade visible to a reader is, at each moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from pipeline.compare.inputs import PipelineOutputs
from pipeline.compare.output_files import typed

#: The three results whose freshness is compared.
STREAM_OPEN, STREAM_FINAL, BATCH = "stream, open windows", "stream, final windows", "batch"
RESULTS = (STREAM_OPEN, STREAM_FINAL, BATCH)
#: The services that a trade passes on its way to each result.
SERVICES_OF = {
    STREAM_OPEN: ("producer", "spark_processor"),
    STREAM_FINAL: ("producer", "spark_processor"),
    BATCH: ("producer", "consumer", "batch_scheduler"),
}

#: The smallest age that is drawn, in seconds: the axis of ages is logarithmic.
MIN_AGE_SECONDS = 0.1


@dataclass(frozen=True)
class Freshness:
    """The age of a result over time, in seconds, and the seconds for which it is known."""

    mean: float
    median: float
    p99: float
    maximum: float
    known_seconds: float


def publications(outputs: PipelineOutputs) -> dict[str, pd.DataFrame]:
    """Return when each result was published and the newest trade in it.

    Returns:
        By result: a frame with `at`, the time of publication, and `newest`, the event time of the
        newest trade in it.
    """
    return {
        name: table[[at, newest]].set_axis(["at", "newest"], axis="columns").dropna()
        for name, table, at, newest in (
            (STREAM_OPEN, outputs.micro_batches, "published_at", "newest_trade"),
            (STREAM_FINAL, typed(outputs.final), "written_at", "last_trade_time"),
            (BATCH, outputs.runs, "written_at", "last_trade_time"),
        )
    }


def sawtooth(published: pd.DataFrame, start: datetime, end: datetime) -> pd.DataFrame:
    """Return the age of the newest visible trade at each moment between two times.

    Between two publications the age grows by one second per second, so the two ends of each tooth
    describe it exactly. A publication whose newest trade is older than that of an earlier one
    changes nothing.

    Args:
        published: `at`, the time of publication, and `newest`, the event time of the newest trade.
        start: The first moment.
        end: The last moment.

    Returns:
        One row per tooth: `from`, `to` (moments), `age_from`, `age_to` (seconds). The time before
        the first publication has no row, because the age is unknown there.
    """
    known = published.dropna().sort_values("at")
    first, last = pd.Timestamp(start), pd.Timestamp(end)
    newest = known["newest"].cummax()
    begins = known["at"].where(known["at"] > first, first)
    ends = known["at"].shift(-1)
    ends = ends.where(ends < last, last)
    teeth = pd.DataFrame(
        {
            "from": begins,
            "to": ends,
            "age_from": (begins - newest).dt.total_seconds(),
            "age_to": (ends - newest).dt.total_seconds(),
        }
    )
    return teeth[teeth["to"] > teeth["from"]].reset_index(drop=True)


def freshness(teeth: pd.DataFrame) -> Freshness | None:
    """Return mean, quantiles and maximum of the age over time, computed exactly.

    Args:
        teeth: As `sawtooth` returns them.

    Returns:
        None when no age is known.
    """
    if teeth.empty:
        return None
    young, old = teeth["age_from"].to_numpy(), teeth["age_to"].to_numpy()
    lengths = old - young
    known = float(lengths.sum())
    mean = float(((young + old) / 2 * lengths).sum() / known)
    median, p99 = _quantiles(young, old, (0.5, 0.99))
    return Freshness(mean, median, p99, float(old.max()), known)


def _quantiles(young: np.ndarray, old: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Return quantiles of the age over time.

    Each tooth spends equal time at each of its ages, so the time spent at or below an age is
    piecewise linear, with bends at the ends of the teeth.
    """
    bends = np.unique(np.concatenate([young, old]))
    below = _total_excess(young, bends) - _total_excess(old, bends)
    total = float((old - young).sum())
    return [float(np.interp(share * total, below, bends)) for share in shares]


def _total_excess(ages: np.ndarray, bends: np.ndarray) -> np.ndarray:
    """Return, for each bend, the sum of (bend - age) over the ages below it."""
    ordered = np.sort(ages)
    passed = np.searchsorted(ordered, bends, side="right")
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    excess: np.ndarray = passed * bends - sums[passed]
    return excess
