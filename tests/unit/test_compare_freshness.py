"""Freshness, against brute-force sampling."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare.freshness import freshness, sawtooth

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
