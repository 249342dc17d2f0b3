"""The data of the figures: bounded, and the same line as through all points."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare import figures
from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.growth import TOO_SLOW_ALREADY, Growth
from pipeline.compare.inputs import read_outputs
from pipeline.outputs import DataDir
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=500),
    st.integers(1, 60),
)
def test_thinned_points_keep_the_extremes_of_every_place(values, bins) -> None:
    points = pd.DataFrame({"x": np.arange(len(values)), "y": values})
    kept = figures.thinned(points, "x", "y", bins)
    assert len(kept) <= max(2 * bins, 1) + 2
    assert kept["x"].is_monotonic_increasing
    assert (kept["x"].iloc[0], kept["x"].iloc[-1]) == (0, len(values) - 1)
    for place in range(bins):
        inside = [
            value
            for n, value in enumerate(values)
            if min(int(n / max(len(values) - 1, 1) * bins), bins - 1) == place
        ]
        left = set(kept["y"])
        assert not inside or {min(inside), max(inside)} <= left


def test_each_rise_of_an_age_has_points_between_its_ends() -> None:
    """On a logarithmic axis a rise is no straight line."""
    at = pd.to_datetime([NOW, NOW + timedelta(seconds=60)], utc=True)
    teeth = pd.DataFrame({"from": at[:1], "to": at[1:], "age_from": [4.0], "age_to": [64.0]})
    points = figures.age_points({"batch": teeth})
    ages = points["age"].tolist()
    assert (ages[0], ages[-1], len(ages)) == (4.0, 64.0, figures.TOOTH_POINTS)
    assert points["at"].tolist()[:: len(ages) - 1] == list(at)
    # each point lies where the age is the time gone by
    gone = (points["at"] - at[0]).dt.total_seconds()
    np.testing.assert_allclose(gone, points["age"] - 4.0, atol=1e-6)
    # and the steps between them are equal on that axis
    np.testing.assert_allclose(np.diff(np.log(ages)), np.log(16) / (len(ages) - 1))


def test_an_age_that_starts_at_or_below_zero_is_drawn() -> None:
    """Clocks differ: an age may be negative."""
    at = pd.to_datetime([NOW, NOW + timedelta(seconds=3)], utc=True)
    teeth = pd.DataFrame({"from": at[:1], "to": at[1:], "age_from": [-1.0], "age_to": [2.0]})
    ages = figures.age_points({"batch": teeth})["age"].tolist()
    assert (ages[0], ages[-1]) == (-1.0, 2.0)
    assert ages == sorted(ages)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Comparison:
    data = DataDir(tmp_path_factory.mktemp("disputed"))
    page_data.disputed(data, NOW)
    return compare(read_outputs(data), 60)


def test_every_trade_of_a_stage_is_part_of_its_share(comparison) -> None:
    shares = figures.kept_shares(comparison.funnel).set_index("stage")["share"]
    for row in comparison.funnel.to_dict("records"):
        assert shares[row["stage"]] == pytest.approx(min(1, row["count"] / row["drawn_from"]))


def grown(comparison: Comparison, rows: list[float], walls: list[float], **how) -> Comparison:
    """Return a comparison with these runs. Their trend: 5 s, and 5 s per million rows, to 30 s."""
    line = Growth(9, 5.0, 5.0, 4.0, 6.0, 5e6, 4e6, 6e6, NOW, "")
    runs = pd.DataFrame({"rows": rows, "wall_s": walls, "started": [pd.Timestamp(NOW)] * len(rows)})
    return replace(comparison, runs=runs, growth=replace(line, **how), interval_s=30.0)


def test_a_near_forecast_is_drawn_and_a_far_one_is_not(comparison) -> None:
    near = figures.growth_figure(grown(comparison, [1e6, 2e6], [10.0, 15.0]))
    assert near.line.to_numpy().tolist() == [
        [1e6, 10.0, "fitted"],
        [2e6, 15.0, "fitted"],
        [2e6, 15.0, "forecast"],
        [5e6, 30.0, "forecast"],
    ]
    assert near.limit_s == 30.0
    far = grown(comparison, [1e6, 2e6], [10.0, 15.0], rows_at_limit=100e6)
    assert set(figures.growth_figure(far).line["part"]) == {"fitted"}


def test_an_interval_that_is_exceeded_has_no_forecast(comparison) -> None:
    passed = grown(comparison, [1e6, 9e6], [10.0, 50.0], at_limit=None, refusal=TOO_SLOW_ALREADY)
    drawn = figures.growth_figure(passed)
    assert drawn.line["part"].tolist() == ["fitted", "fitted"]
    assert drawn.limit_s == 30.0


def test_an_interval_that_would_flatten_the_runs_is_not_drawn(comparison) -> None:
    small = replace(grown(comparison, [1e6, 2e6], [10.0, 15.0]), interval_s=600.0)
    assert figures.growth_figure(small).limit_s is None


@pytest.mark.parametrize("how", [{"low": -1.0}, {"runs": 2}])
def test_a_trend_that_may_be_noise_is_not_drawn(comparison, how) -> None:
    noise = grown(comparison, [1e6, 2e6], [10.0, 15.0], rows_at_limit=None, **how)
    assert figures.growth_figure(noise).line.empty
