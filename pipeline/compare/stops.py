"""Stops: the times in which a service did not run, and what is left out because of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from pipeline.health import STALE_SECONDS
from pipeline.outputs import RECORD_SECONDS

#: A service also writes a record when it ends. A shorter record is the last one of its process.
SHORTEST_REGULAR_RECORD_SECONDS = RECORD_SECONDS - 1
#: A killed process writes no last record. It can have run for this time after its newest record.
_LONGEST_RUN_WITHOUT_RECORD = pd.Timedelta(seconds=RECORD_SECONDS + STALE_SECONDS)


def no_periods() -> pd.DataFrame:
    """Return an empty table of periods: `start`, `end` (times in UTC)."""
    return pd.DataFrame({"start": [], "end": []}, dtype="datetime64[ns, UTC]")


def stops(
    services: Sequence[str],
    minutes: Mapping[str, pd.DataFrame],
    status: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Return the periods in which at least one of these services was stopped.

    A stop is a time that no per-minute record covers. After a process was killed, the first
    90 s are not part of the stop, because it may still have been running.

    Args:
        services: The names of the services.
        minutes: The per-minute records of each service: `at` (the end of each record), `seconds`.
        status: The services' status files. `started` is the start of the newest process.

    Returns:
        One row per period: `start`, `end`. They do not overlap and are sorted. If a service is
        still stopped, the last period ends at the latest possible time.
    """
    found = [no_periods()]
    for service in services:
        records = minutes[service].dropna(subset=["at", "seconds"]).sort_values("at")
        if records.empty:
            continue
        ended = records["seconds"] < SHORTEST_REGULAR_RECORD_SECONDS
        ends = records["at"].where(ended, records["at"] + _LONGEST_RUN_WITHOUT_RECORD)
        begins = (records["at"] - pd.to_timedelta(records["seconds"], unit="s")).shift(-1)
        started = pd.to_datetime(str(status[service].get("started")), utc=True, errors="coerce")
        still_stopped = pd.isna(started) or started <= records["at"].iloc[-1]
        begins.iloc[-1] = pd.Timestamp.max.tz_localize("UTC") if still_stopped else started
        found.append(pd.DataFrame({"start": ends, "end": begins})[ends < begins])
    return union(pd.concat(found, ignore_index=True))


def union(found: pd.DataFrame) -> pd.DataFrame:
    """Return the same time as periods that do not overlap, sorted."""
    ordered = found.sort_values("start", ignore_index=True)
    numbers = (ordered["start"] >= ordered["end"].cummax().shift()).cumsum()
    merged = ordered.groupby(numbers).agg({"start": "min", "end": "max"})
    return merged.reset_index(drop=True)


def gaps(teeth: Mapping[str, pd.DataFrame], until: datetime) -> pd.DataFrame:
    """Return the periods after the first age of each result that `without_stops` left out.

    Such a period begins with a stop. It ends when the result has trades from after the stop.

    Args:
        teeth: By result, as `without_stops` returns them.
        until: The end of the last period, if a result has no trades from after the stop yet.
    """
    found = [no_periods()]
    for ages in teeth.values():
        begins = ages["from"].shift(-1).fillna(pd.Timestamp(until))
        apart = begins > ages["to"]
        found.append(pd.DataFrame({"start": ages["to"], "end": begins})[apart])
    return union(pd.concat(found, ignore_index=True))


def overlap(begins: pd.Series, ends: pd.Series, found: pd.DataFrame) -> pd.Series:
    """Return which times overlap with a period. The periods are sorted and do not overlap."""
    if found.empty:
        return pd.Series(data=False, index=begins.index)
    places = found["end"].searchsorted(begins, side="right")
    starts = found["start"].reindex(np.minimum(places, len(found) - 1)).set_axis(begins.index)
    return (starts <= ends) & (places < len(found))


def without_stops(teeth: pd.DataFrame, stopped: pd.DataFrame) -> pd.DataFrame:
    """Return the ages that include no stopped time.

    The age at a moment is the time from the event of the newest visible trade to this moment. It
    includes stopped time if a stop overlaps with this time.

    Args:
        teeth: As `freshness.sawtooth` returns them.
        stopped: As `stops` returns them.
    """
    if stopped.empty:
        return teeth
    newest = teeth["from"] - pd.to_timedelta(teeth["age_from"], unit="s")
    # The first stop that ends after the newest trade.
    places = stopped["end"].searchsorted(newest, side="right")
    cuts = stopped["start"].reindex(places).set_axis(teeth.index)
    ends = teeth["to"].where(cuts.isna() | (teeth["to"] <= cuts), cuts)
    lost = (teeth["to"] - ends).dt.total_seconds()
    left = teeth.assign(to=ends, age_to=teeth["age_to"] - lost)
    return left[left["to"] > left["from"]].reset_index(drop=True)
