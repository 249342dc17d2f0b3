"""The data of the figures: bounded, and the same as the comparison's."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare import palette
from pipeline.compare.agreement import STATUSES
from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.figures import (
    TOOTH_POINTS,
    age_points,
    figures,
    growth_figure,
    kept_shares,
    latency_bars,
    thinned,
)
from pipeline.compare.formatting import UNKNOWN
from pipeline.compare.freshness import RESULTS
from pipeline.compare.growth import TOO_SLOW_ALREADY, Growth
from pipeline.compare.inputs import read_outputs
from pipeline.compare.latency import STEPS
from pipeline.compare.sections import sections
from pipeline.data_dir import DataDir
from pipeline.stores.sqlite import SqliteStore

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    data = DataDir(tmp_path_factory.mktemp("nothing"))
    return compare(read_outputs(data, SqliteStore(data.database)), 60)


def test_without_data_every_figure_is_empty(nothing: Comparison) -> None:
    found = figures(nothing)
    assert found.agreement.cells.empty
    assert found.freshness.empty
    assert found.growth.runs.empty
    assert found.growth.limit_s is None
    assert found.micro_batches.empty
    assert found.metrics.empty


def test_every_status_and_every_result_has_its_own_colour() -> None:
    assert set(palette.WINDOW_STATUS) == set(STATUSES)
    assert set(palette.RESULT_LINES) == set(RESULTS)
    for colours in (palette.WINDOW_STATUS.values(), palette.RESULT_LINES.values()):
        assert len(set(colours)) == len(colours)


def luminance(colour: str) -> float:
    """Return the relative luminance of a colour, by the definition of WCAG 2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_symbols_of_the_agreement_contrast_with_every_cell() -> None:
    for colour in palette.WINDOW_STATUS.values():
        lighter, darker = sorted((luminance(colour), luminance(palette.INK)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=500), st.integers(1, 60))
def test_thinned_points_keep_the_extremes_of_every_place(values: list[float], bins: int) -> None:
    points = pd.DataFrame({"x": np.arange(len(values)), "y": values})
    with patch("pipeline.compare.figures.BINS", bins):
        kept = thinned(points, "x", "y")
    assert len(kept) <= max(2 * bins, 1) + 2
    assert kept["x"].is_monotonic_increasing
    assert (kept["x"].iloc[0], kept["x"].iloc[-1]) == (0, len(values) - 1)
    for place in range(bins):
        inside = [
            value
            for n, value in enumerate(values)
            if min(int(n / max(len(values) - 1, 1) * bins), bins - 1) == place
        ]
        assert not inside or {min(inside), max(inside)} <= set(kept["y"])


def teeth(age_from: float, age_to: float) -> pd.DataFrame:
    at = pd.to_datetime([NOW, NOW + timedelta(seconds=age_to - age_from)], utc=True)
    return pd.DataFrame({"from": at[:1], "to": at[1:], "age_from": [age_from], "age_to": [age_to]})


def test_the_line_of_ages_is_interrupted_where_ages_are_unknown() -> None:
    at = pd.to_datetime([NOW + timedelta(seconds=second) for second in (0, 10, 60, 70, 70.1, 80)])
    found = pd.DataFrame({"from": at[::2], "to": at[1::2], "age_from": 1.0, "age_to": 11.0})
    points = age_points({"batch": found, "stream": found[:0]})
    unknown = points[points["age"].isna()]
    assert list(unknown["at"]) == [at[1]]
    assert points["at"].is_monotonic_increasing


def test_the_lines_of_micro_batches_are_interrupted_by_a_long_pause(nothing: Comparison) -> None:
    numbers = [0, 1, 2, 4, 62, 63, 64]
    minutes = pd.DataFrame(
        {
            "minute": pd.to_datetime([NOW + timedelta(minutes=n) for n in numbers], utc=True),
            "median_ms": 300.0,
            "p99_ms": 400.0,
            "count": 60,
        }
    )
    found = figures(replace(nothing, micro_batches=minutes)).micro_batches
    assert [(at - NOW) // timedelta(minutes=1) for at in found["minute"]] == [
        0,
        1,
        2,
        4,
        4,
        62,
        63,
        64,
    ]
    assert list(found["median_ms"].isna()) == [False] * 4 + [True] + [False] * 3
    few = figures(replace(nothing, micro_batches=minutes[:2])).micro_batches
    assert not few["median_ms"].isna().any()


def test_a_tooth_has_points_along_its_curve_on_a_logarithmic_axis() -> None:
    points = age_points({"batch": teeth(4.0, 64.0)})
    ages = points["age"].tolist()
    assert (ages[0], ages[-1], len(ages)) == (4.0, 64.0, TOOTH_POINTS)
    elapsed = (points["at"] - pd.Timestamp(NOW)).dt.total_seconds()
    np.testing.assert_allclose(elapsed, points["age"] - 4.0, atol=1e-6)
    np.testing.assert_allclose(np.diff(np.log(ages)), np.log(16) / (len(ages) - 1))


def test_a_tooth_may_start_at_a_negative_age() -> None:
    """Two clocks may differ. The logarithmic axis starts at 0.1 s."""
    points = age_points({"batch": teeth(-1.0, 2.0)})
    ages, drawn = points["age"].tolist(), points["drawn"].tolist()
    assert (ages[0], ages[-1]) == (-1.0, 2.0)
    assert (drawn[0], drawn[-1]) == (0.1, 2.0)
    assert ages == sorted(ages)


def test_each_step_starts_where_the_median_of_the_previous_one_ends() -> None:
    """Storing a trade and counting it in an open window both start at its receipt."""
    steps = pd.DataFrame({"leg": STEPS, "median": [1.0, 2.0, 3.0, 60.0, -30.0]})
    assert list(latency_bars(steps)["start"]) == [0, 1, 1, 4, 64]
    steps["median"] = [np.nan, 2.0, 3.0, 60.0, np.nan]
    assert list(latency_bars(steps)["start"]) == [0, 0, 0, 3, 63]


def test_the_share_of_a_stage_is_its_output_over_its_input_and_at_most_1() -> None:
    funnel = pd.DataFrame({"stage": list("abc"), "drawn_from": [10, 4, 0], "count": [9, 5, 0]})
    assert kept_shares(funnel).to_numpy().tolist() == [["a", 0.9], ["b", 1.0]]


def with_runs(
    nothing: Comparison, rows: list[float], walls: list[float], **changes: float | str | None
) -> Comparison:
    """Return a comparison with these runs, a trend of 5 s + 5 s per million rows, interval 30 s."""
    line = Growth(9, 5.0, 5.0, 4.0, 6.0, 5e6, 4e6, 6e6, NOW, "")
    runs = pd.DataFrame({"rows": rows, "wall_s": walls, "started": NOW})
    return replace(nothing, runs=runs, growth=replace(line, **changes), interval_s=30.0)  # type: ignore[arg-type]


def test_the_forecast_is_drawn_only_if_the_limit_is_near(nothing: Comparison) -> None:
    near = growth_figure(with_runs(nothing, [1e6, 2e6], [10.0, 15.0]))
    assert near.line.to_numpy().tolist() == [
        [1e6, 10.0, "fitted"],
        [2e6, 15.0, "fitted"],
        [2e6, 15.0, "forecast"],
        [5e6, 30.0, "forecast"],
    ]
    assert near.limit_s == 30.0
    far = growth_figure(with_runs(nothing, [1e6, 2e6], [10.0, 15.0], rows_at_limit=100e6))
    assert set(far.line["part"]) == {"fitted"}
    passed = growth_figure(with_runs(nothing, [1e6, 9e6], [10.0, 50.0]))
    assert set(passed.line["part"]) == {"fitted"}
    assert passed.limit_s == 30.0


def test_the_interval_is_drawn_only_if_it_is_not_far_above_the_runs(nothing: Comparison) -> None:
    small = replace(with_runs(nothing, [1e6, 2e6], [10.0, 15.0]), interval_s=600.0)
    assert growth_figure(small).limit_s is None


NO_TREND = (
    "a forecast needs 8 batch runs, and there are 2",
    "the table grew too little between runs",
    "run time shows no trend beyond its noise",
    "the trend gives a negative run time for an empty table",
)


@pytest.mark.parametrize("refusal", NO_TREND)
def test_without_a_trend_of_the_table_no_line_is_drawn(nothing: Comparison, refusal: str) -> None:
    comparison = with_runs(nothing, [1e6, 2e6], [10.0, 15.0], refusal=refusal)
    assert growth_figure(comparison).line.empty


@pytest.mark.parametrize("refusal", ["", *NO_TREND, "the table is not growing", TOO_SLOW_ALREADY])
def test_a_trend_is_drawn_exactly_if_the_table_shows_its_slope(
    nothing: Comparison, refusal: str
) -> None:
    comparison = with_runs(nothing, [1e6, 2e6], [10.0, 15.0], refusal=refusal)
    (growth,) = (section for section in sections(comparison) if section.key == "growth")
    slope = next(row[1] for row in growth.tables[0].rows if row[0].startswith("increase"))
    assert growth_figure(comparison).line.empty == (slope == UNKNOWN)
