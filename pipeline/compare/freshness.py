"""Freshness: how old the newest trade visible to a reader is, at each moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from pipeline.compare.inputs import PipelineOutputs, typed
from pipeline.health import STALE_SECONDS

#: The three results whose freshness is compared.
STREAM_OPEN, STREAM_FINAL, BATCH = "stream, open windows", "stream, final windows", "batch"
RESULTS = (STREAM_OPEN, STREAM_FINAL, BATCH)
#: The services that a trade passes on its way to each result.
SERVICES_OF = {
    STREAM_OPEN: ("producer", "spark_processor"),
    STREAM_FINAL: ("producer", "spark_processor"),
    BATCH: ("producer", "consumer", "batch_scheduler"),
}
#: A service writes a record every 60 s and when it ends. A shorter record is the last one of its
#: process.
_SHORTEST_REGULAR_RECORD_SECONDS = 59.0
#: A killed process writes no last record. It can have run for this time after its newest record.
_LONGEST_RUN_WITHOUT_RECORD = pd.Timedelta(seconds=60 + STALE_SECONDS)


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


def stops(
    services: Sequence[str],
    minutes: Mapping[str, pd.DataFrame],
    status: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Return the times in which at least one of these services was stopped.

    A stop is a time that no per-minute record covers. After a process was killed, the first
    90 s are not part of the stop, because it may still have been running.

    Args:
        services: The names of the services.
        minutes: The per-minute records of each service: `at` (the end of each record), `seconds`.
        status: The services' status files. `started` is the start of the newest process.

    Returns:
        One row per stop: `start`, `end`. The stops of different services can overlap. A service
        that is still stopped has the latest possible time as its end.
    """
    found = [pd.DataFrame({"start": [], "end": []}, dtype="datetime64[ns, UTC]")]
    for service in services:
        records = minutes[service].dropna(subset=["at", "seconds"]).sort_values("at")
        if records.empty:
            continue
        ended = records["seconds"] < _SHORTEST_REGULAR_RECORD_SECONDS
        ends = records["at"].where(ended, records["at"] + _LONGEST_RUN_WITHOUT_RECORD)
        begins = (records["at"] - pd.to_timedelta(records["seconds"], unit="s")).shift(-1)
        started = pd.to_datetime(str(status[service].get("started")), utc=True, errors="coerce")
        still_stopped = pd.isna(started) or started <= records["at"].iloc[-1]
        begins.iloc[-1] = pd.Timestamp.max.tz_localize("UTC") if still_stopped else started
        found.append(pd.DataFrame({"start": ends, "end": begins})[ends < begins])
    return pd.concat(found, ignore_index=True)


def without_stops(teeth: pd.DataFrame, stopped: pd.DataFrame) -> pd.DataFrame:
    """Return the ages that include no stopped time.

    The age at a moment is the time from the event of the newest visible trade to this moment. It
    includes stopped time if a stop overlaps with this time.

    Args:
        teeth: As `sawtooth` returns them.
        stopped: As `stops` returns them.
    """
    if stopped.empty:
        return teeth
    by_end = stopped.sort_values("end")
    # The start of the first stop that ends after each tooth's newest trade.
    earliest = by_end["start"][::-1].cummin()[::-1].reset_index(drop=True)
    newest = teeth["from"] - pd.to_timedelta(teeth["age_from"], unit="s")
    places = by_end["end"].searchsorted(newest, side="right")
    cuts = earliest.reindex(places).set_axis(teeth.index)
    ends = teeth["to"].where(cuts.isna() | (teeth["to"] <= cuts), cuts)
    lost = (teeth["to"] - ends).dt.total_seconds()
    left = teeth.assign(to=ends, age_to=teeth["age_to"] - lost)
    return left[left["to"] > left["from"]].reset_index(drop=True)


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
