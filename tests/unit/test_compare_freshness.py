"""Freshness, against brute-force sampling."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare.freshness import freshness, sawtooth, stops, without_stops

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def seconds(count: float) -> datetime:
    return NOON + timedelta(seconds=count)


def publications(*pairs: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "at": pd.to_datetime([seconds(at) for at, _ in pairs], utc=True),
            "newest": pd.to_datetime([seconds(newest) for _, newest in pairs], utc=True),
        }
    )


def test_a_result_ages_by_one_second_per_second_until_the_next_one() -> None:
    teeth = sawtooth(publications((0, -10), (60, 30)), seconds(0), seconds(100))
    assert list(teeth["age_from"]) == [10, 30]
    assert list(teeth["age_to"]) == [70, 70]
    found = freshness(teeth)
    assert found is not None
    assert found.mean == pytest.approx((40 * 60 + 50 * 40) / 100)
    assert (found.maximum, found.known_seconds) == (70, 100)


def test_before_the_first_result_the_age_is_unknown() -> None:
    teeth = sawtooth(publications((40, 30)), seconds(0), seconds(100))
    found = freshness(teeth)
    assert found is not None
    assert found.known_seconds == 60
    assert freshness(sawtooth(publications(), seconds(0), seconds(9))) is None


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(-50, 150), st.integers(-300, 50)),
        min_size=1,
        max_size=12,
        unique=True,
    )
)
def test_mean_and_quantiles_agree_with_brute_force_sampling(pairs: list[tuple[int, int]]) -> None:
    found = freshness(sawtooth(publications(*pairs), seconds(0), seconds(100)))
    moments = np.arange(0.005, 100, 0.01)
    newest = np.full(len(moments), -np.inf)
    for at, trade in pairs:
        newest = np.where(moments >= at, np.maximum(newest, trade), newest)
    ages = (moments - newest)[np.isfinite(newest)]
    if not len(ages):
        assert found is None
        return
    assert found is not None
    assert found.mean == pytest.approx(np.mean(ages), abs=0.05)
    assert found.maximum == pytest.approx(max(ages), abs=0.05)
    near = np.sort(ages)
    for share, value in ((0.5, found.median), (0.99, found.p99)):
        # Where no time is spent between two ages, any value between them is a quantile.
        place = share * (len(near) - 1)
        low = near[max(0, int(place) - 2)] - 0.05
        high = near[min(len(near) - 1, int(place) + 3)] + 0.05
        assert low <= value <= high


def records(*rows: tuple[float, float]) -> pd.DataFrame:
    """Return a per-minute record, given as (end, length) in seconds."""
    return pd.DataFrame(
        {
            "at": pd.to_datetime([seconds(at) for at, _ in rows], utc=True),
            "seconds": [float(length) for _, length in rows],
        }
    )


def stopped(found: pd.DataFrame, *, started: float | None = None) -> list[tuple[float, float]]:
    """Return the stops of a service with this per-minute record, in seconds after noon."""
    status = {} if started is None else {"started": seconds(started).isoformat()}
    rows = stops(["batch_scheduler"], {"batch_scheduler": found}, {"batch_scheduler": status})
    start, end = ((rows[name] - NOON).dt.total_seconds() for name in ("start", "end"))
    return list(zip(start, end, strict=True))


FOREVER = (pd.Timestamp.max.tz_localize("UTC") - NOON).total_seconds()


def test_a_service_is_stopped_from_its_last_record_to_the_start_of_its_next_process() -> None:
    found = stopped(records((60, 60.2), (85, 25), (260, 60), (320, 60)), started=200)
    assert found == [(85, 200), (410, FOREVER)]


def test_after_a_kill_the_first_90_seconds_do_not_count_as_stopped() -> None:
    assert stopped(records((60, 60), (560, 60), (620, 60)), started=500) == [
        (150, 500),
        (710, FOREVER),
    ]
    assert stopped(records((60, 60), (180, 60), (200, 20)), started=120) == [(200, FOREVER)]


def test_a_new_process_without_a_record_ends_the_stop() -> None:
    assert stopped(records((60, 60), (80, 20)), started=300) == [(80, 300)]
    assert stopped(records()) == []


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(-40, 60)), min_size=1, max_size=12, unique=True
    ),
    st.lists(st.tuples(st.integers(-60, 110), st.integers(1, 40)), max_size=4),
)
def test_ages_that_include_stopped_time_are_left_out_as_in_brute_force_sampling(
    pairs: list[tuple[int, int]], times_stopped: list[tuple[int, int]]
) -> None:
    pauses = [(start, start + length) for start, length in times_stopped]
    frame = pd.DataFrame(
        {
            "start": pd.to_datetime([seconds(start) for start, _ in pauses], utc=True),
            "end": pd.to_datetime([seconds(end) for _, end in pauses], utc=True),
        }
    )
    teeth = without_stops(sawtooth(publications(*pairs), seconds(0), seconds(100)), frame)
    ages = []
    for moment in np.arange(0.05, 100, 0.1):
        visible = [trade for at, trade in pairs if at <= moment]
        if visible and not any(max(visible) < end and start < moment for start, end in pauses):
            ages.append(moment - max(visible))
    found = freshness(teeth)
    if not ages:
        assert found is None
        return
    assert found is not None
    assert found.known_seconds == pytest.approx(len(ages) / 10, abs=0.01)
    assert found.mean == pytest.approx(np.mean(ages), abs=0.01)
    assert found.maximum == pytest.approx(max(ages), abs=0.06)
