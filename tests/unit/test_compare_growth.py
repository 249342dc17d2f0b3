"""The trend of both run times and its forecast."""

import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.compare.growth import MAX_POINTS, TOO_SLOW_ALREADY, growth, steadiness, theil_sen

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def seconds(count: float) -> datetime:
    return NOON + timedelta(seconds=count)


def run_times(count: int, base: float, slope: float, noise: float, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = np.linspace(1e5, 3e6, count)
    wall = base + slope * rows / 1e6 + rng.normal(0, noise, count)
    wall[::7] += 20 * noise  # now and then a run is disturbed
    return pd.DataFrame({"rows": rows, "wall_s": wall})


@pytest.mark.parametrize("seed", range(5))
def test_the_trend_is_found_despite_noise_and_outliers(seed: int) -> None:
    found = growth(run_times(40, 5, 3, 0.2, seed), 600, 6.0, NOON)
    assert found is not None
    assert found.refusal == ""
    assert found.s_per_million == pytest.approx(3, rel=0.1)
    assert found.low <= 3 <= found.high
    limit = (600 - 5) / 3 * 1e6
    assert found.rows_at_limit is not None
    assert found.rows_low is not None
    assert found.rows_high is not None
    assert found.rows_at_limit == pytest.approx(limit, rel=0.1)
    assert found.rows_low <= found.rows_at_limit <= found.rows_high
    assert found.at_limit is not None
    days = (found.at_limit - NOON).total_seconds()
    assert days == pytest.approx((found.rows_at_limit - 3e6) / 6, rel=1e-6)


@pytest.mark.parametrize(
    ("runs", "rate", "why", "trend"),
    [
        (run_times(5, 5, 3, 0.1), 6.0, "needs 8 batch runs, and there are 5", False),
        (run_times(40, 5, 0, 0.5), 6.0, "no trend", False),
        (run_times(40, -5, 30, 0.5), 6.0, "negative run time for an empty table", False),
        (
            run_times(40, 100, 3, 0.1).assign(rows=lambda t: 1e6 + t["rows"] / 20),
            6.0,
            "grew too little",
            False,
        ),
        (run_times(40, 5, 3, 0.1), 0.0, "is not growing", True),
        (run_times(40, 5, 3, 0.1), None, "growth rate of the table is unknown", True),
        (run_times(40, 5, 3, 0.1), 0.001, "100 years", True),
    ],
)
def test_there_is_no_forecast_without_a_sound_trend_and_the_reason_is_named(
    runs: pd.DataFrame, rate: float | None, why: str, *, trend: bool
) -> None:
    found = growth(runs, 600, rate, NOON)
    assert found is not None
    assert re.search(why, found.refusal)
    assert found.at_limit is None
    assert found.has_trend is trend


def test_a_trend_above_the_interval_is_reported_instead_of_a_forecast() -> None:
    """5 s plus 10 s per million rows reach 20 s at 1.5 of 3 million rows."""
    runs = run_times(30, base=5.0, slope=10.0, noise=0.1)
    found = growth(runs, 20, rows_per_s=100, now=NOON)
    assert found is not None
    assert found.refusal == TOO_SLOW_ALREADY
    assert found.at_limit is None
    assert found.rows_at_limit == pytest.approx(1.5e6, rel=0.1)


def test_if_the_start_up_got_slower_too_there_is_no_forecast() -> None:
    rng = np.random.default_rng(5)
    runs = run_times(40, 8, 3, 0.1)
    steady = runs.assign(start_s=4 + rng.normal(0, 0.2, 40))
    found = growth(steady, 600, 6, NOON)
    assert found is not None
    assert found.refusal == ""
    slower = runs.assign(start_s=4 + np.linspace(0, 3, 40) + rng.normal(0, 0.2, 40))
    found = growth(slower, 600, 6, NOON)
    assert found is not None
    assert "start-up" in found.refusal
    assert found.at_limit is None


def test_runs_over_tables_of_one_size_have_no_trend() -> None:
    assert growth(run_times(3, 5, 3, 0.1).assign(rows=7), 600, 6, NOON) is None
    assert growth(run_times(0, 5, 3, 0.1), 600, 6, NOON) is None


def micro_batches(count: int, slope: float) -> pd.DataFrame:
    """Return 20 micro-batches per minute of 1,000 trades. `slope` is in ms per million trades."""
    rng = np.random.default_rng(3)
    read = np.arange(count) * 1000
    return pd.DataFrame(
        {
            "published_at": pd.to_datetime([seconds(3 * n) for n in range(count)], utc=True),
            "rows": 1000,
            "duration_ms": 400 + slope * read / 1e6 + rng.normal(0, 20, count),
        }
    )


def test_steady_micro_batches_are_distinguished_from_slowing_ones() -> None:
    flat, grown = (steadiness(micro_batches(1000, slope)) for slope in (0, 300))
    assert flat is not None
    assert grown is not None
    assert flat.low is not None
    assert flat.high is not None
    assert flat.low < 0 < flat.high
    assert grown.change_ms == pytest.approx(300, rel=0.1)
    assert (grown.micro_batches, grown.trades) == (1000, 1_000_000)


def test_few_minutes_of_micro_batches_have_no_trend() -> None:
    few = steadiness(micro_batches(100, 0))
    assert few is not None
    assert few.change_ms is None
    assert few.median_ms == pytest.approx(400, rel=0.05)
    assert steadiness(micro_batches(0, 0)) is None


# --- the robust line ------------------------------------------------------------------------


def check_against_scipy(x: np.ndarray, y: np.ndarray) -> bool:
    """Compare a line with scipy's, and return whether its interval has two ends.

    With very few slopes scipy takes the outermost ones. Here such an interval has no bound.
    """
    line, expected = theil_sen(x, y), stats.theilslopes(y, x, method="joint")
    assert line is not None
    assert line.slope == pytest.approx(expected.slope, rel=1e-9, abs=1e-9)
    assert line.base_at(line.slope) == pytest.approx(expected.intercept, rel=1e-9, abs=1e-9)
    bounded = np.isfinite([line.low, line.high])
    for own, scipys, finite in zip(
        (line.low, line.high), (expected.low_slope, expected.high_slope), bounded, strict=True
    ):
        assert not finite or own == pytest.approx(scipys, rel=1e-9, abs=1e-9)
    return bool(bounded.all())


@pytest.mark.parametrize("points", [8, 9, 10, 25, 120])
def test_slope_and_interval_are_those_of_scipy(points: int) -> None:
    rng = np.random.default_rng(points)
    assert check_against_scipy(np.arange(points) * 1.5, rng.normal(0, 1, points))


def test_the_interval_of_8_points_ends_at_the_6th_slope_from_either_end() -> None:
    """Sen: 28 slopes with a deviation of sqrt(8 * 7 * 21 / 18), so (28 - 1.96 * 8.08) / 2 = 6.1."""
    y = np.random.default_rng(8).normal(0, 1, 8)
    slopes = sorted((y[b] - y[a]) / (b - a) for a in range(8) for b in range(a + 1, 8))
    line = theil_sen(np.arange(8.0), y)
    assert line is not None
    assert (line.low, line.high) == pytest.approx((slopes[5], slopes[-6]))


@pytest.mark.parametrize(
    ("points", "used"),
    [(2, 2), (MAX_POINTS, MAX_POINTS), (MAX_POINTS + 1, 251), (2 * MAX_POINTS, MAX_POINTS)],
)
def test_only_more_points_than_the_maximum_are_thinned(points: int, used: int) -> None:
    x = np.arange(points, dtype=float)
    line = theil_sen(x, x)
    assert line is not None
    assert (len(line.x), len(line.y)) == (used, used)


@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt")  # scipy, with many ties
@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=8, max_size=60))
def test_slope_and_interval_are_those_of_scipy_with_ties(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T
    assume(len(set(x)) > 1)
    check_against_scipy(x, y)


def test_too_few_points_give_an_interval_without_bounds() -> None:
    line = theil_sen(np.arange(3.0), np.array([1.0, 3.0, 2.0]))
    assert line is not None
    assert (line.low, line.high) == (-np.inf, np.inf)
    assert theil_sen(np.ones(5), np.arange(5.0)) is None
