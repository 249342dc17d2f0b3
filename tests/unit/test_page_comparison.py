"""What the comparison section shows, from prepared data folders."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pandas as pd
import pytest

from page import comparison, comparison_data
from page.charts import comparison as charts
from page.charts.drawing import Chart
from page.comparison_data import ComparisonData
from page.comparison_worker import LatestComparison
from pipeline.compare.agreement import VERDICTS
from pipeline.compare.growth import TOO_SLOW_ALREADY, Growth, Steadiness
from pipeline.compare.latency import STEPS as LEGS
from pipeline.outputs import DataDir
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> ComparisonData:
    data = DataDir(tmp_path_factory.mktemp("disputed"))
    page_data.disputed(data, NOW)
    loaded = comparison_data.load(data, None, 60)
    assert isinstance(loaded, ComparisonData)
    return replace(loaded, made_at=NOW - timedelta(seconds=20), cpu_s=2.0)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory) -> ComparisonData:
    loaded = comparison_data.load(DataDir(tmp_path_factory.mktemp("empty")), None, 60)
    assert isinstance(loaded, ComparisonData)
    return loaded


def test_the_answers_are_those_of_the_comparison_with_its_age(found) -> None:
    latest = LatestComparison(found)
    assert comparison.answers(latest) == found.answers
    assert comparison.age(latest, NOW) == "Compared 20 s ago."


def test_an_old_comparison_is_marked(found) -> None:
    """A viewer comes back to a span that nobody has looked at for a while."""
    latest = LatestComparison(found)
    assert not comparison.is_old(latest, NOW)
    later = NOW + timedelta(minutes=6)
    assert comparison.is_old(latest, later)
    assert comparison.age(latest, later) == "Compared 6 min 20 s ago. A newer one follows."


def test_an_unexplained_difference_is_an_alarm(found) -> None:
    kinds = [answer.kind for answer in found.answers]
    assert kinds[0] == "alarm"
    assert kinds.count("alarm") == 1
    assert comparison.LEVELS["alarm"] == "error"


def test_the_first_comparison_shows_for_how_long_it_has_been_running() -> None:
    waiting = LatestComparison(asked_at=NOW - timedelta(seconds=3))
    assert comparison.age(waiting, NOW) == "First comparison running (3.0 s)."
    assert comparison.section_caption(waiting, NOW) == "First comparison running (3.0 s)."
    assert {answer.short for answer in comparison.answers(waiting)} == {"…"}


def test_a_failure_leaves_the_last_good_comparison_with_its_age(found) -> None:
    tried = NOW - timedelta(seconds=2)
    failed = LatestComparison(found, "database is locked", tried)
    assert comparison.answers(failed) == found.answers
    assert comparison.problem(failed, NOW) == (
        "No newer comparison: database is locked (last attempt 2.0 s ago)."
    )
    assert "Compared 20 s ago" in comparison.section_caption(failed, NOW)
    never = LatestComparison(None, "database is locked", tried)
    assert comparison.problem(never, NOW).startswith("No comparison: database is locked")
    assert comparison.age(never, NOW) == ""


def test_the_legend_counts_every_verdict(found) -> None:
    html = comparison.legend(found, charts.VERDICT_COLORS)
    for name in VERDICTS:
        assert f"{name} <b>{found.counts[name]:,}</b>" in html
    assert set(charts.VERDICT_COLORS) == set(VERDICTS)


def test_windows_that_differ_are_listed_with_both_values_and_the_cause(found) -> None:
    assert "2 without a known cause" in comparison.differing_caption(found)
    text = str(comparison.differing_rows(found))
    assert "'≠ differs', 'close_price" in text
    assert "too late for the stream" in text


def steps(found: ComparisonData, medians: list[float], p99s: list[float]) -> pd.DataFrame:
    legs = found.waterfall.set_index("leg").reindex(list(LEGS))
    legs["median"], legs["p99"] = medians, p99s
    return charts.steps_chart(replace(found, waterfall=legs.reset_index())).data["steps"]


def test_a_step_begins_where_the_median_of_the_step_before_ends(found) -> None:
    drawn = steps(found, [1.0, 2.0, 3.0, 60.0, 30.0], [1.0, 2.0, 3.0, 60.0, 36.0])
    assert drawn["start"].tolist() == [0, 1, 1, 4, 64]
    assert drawn["median_end"].tolist() == [1, 3, 4, 64, 94]
    assert drawn["p99_end"].tolist() == [1, 3, 4, 64, 100]


def test_a_batch_that_has_the_trades_first_is_a_bar_to_the_left(found) -> None:
    last = steps(found, [0.0, 0.0, 0.0, 100.0, -40.0], [0.0, 0.0, 0.0, 100.0, -40.0]).iloc[-1]
    assert (last["start"], last["median_end"]) == (100, 60)


def test_unknown_numbers_are_dashes(nothing) -> None:
    assert comparison.steps_rows(nothing)[0] == ("event → received", "–", "–", "0")  # noqa: RUF001
    assert comparison.cost_rows(nothing)[0][1:] == ("–", "–", "–")  # noqa: RUF001
    assert comparison.ages_rows(nothing)[-1] == ("batch", "–", "–", "–", "–")  # noqa: RUF001
    assert comparison.gaps_caption(nothing).startswith("Gaps: –.")  # noqa: RUF001
    assert "No ages yet" in comparison.ages_caption(nothing)
    assert "No micro-batch" in comparison.micro_batches_caption(nothing.steadiness)
    tables = (comparison.steps_rows, comparison.cost_rows, comparison.ages_rows)
    assert "nan" not in str([rows(nothing) for rows in tables]).lower()


@pytest.mark.parametrize(
    ("low", "high", "trend"),
    [(-3.0, 9.0, "No significant trend"), (2.0, 9.0, "Significant trend")],
)
def test_a_trend_is_significant_where_its_interval_excludes_zero(low, high, trend) -> None:
    steady = Steadiness(900, 300.0, 410.0, 5000, 4.0, low, high)
    assert f"{trend}: +4 ms" in comparison.micro_batches_caption(steady)


# --- charts ---------------------------------------------------------------------------------


def test_every_chart_has_its_data_under_the_names_of_its_drawing(found) -> None:
    for chart in (
        charts.strip_chart(found),
        charts.ages_chart(found.teeth),
        charts.growth_chart(found),
        charts.micro_chart(found.micro_batches),
        charts.steps_chart(found),
        charts.stages_chart(found),
    ):
        assert isinstance(chart, Chart)
        assert set(re.findall(r"'data': {'name': '(\w+)'", str(chart.drawing))) == set(chart.data)


def grown(found: ComparisonData, rows: list[float], walls: list[float], **how) -> ComparisonData:
    """Return data with these runs. Their trend: 5 s, and 5 s more per million rows, to 30 s."""
    line = Growth(9, 5.0, 5.0, 4.0, 6.0, 5e6, 4e6, 6e6, NOW, "")
    runs = pd.DataFrame({"rows": rows, "wall_s": walls})
    return replace(found, runs=runs, growth=replace(line, **how), interval_s=30.0)


def test_a_near_forecast_is_drawn_and_a_far_one_is_not(found) -> None:
    near = grown(found, [1e6, 2e6], [10.0, 15.0])
    drawn = charts.growth_chart(near).data
    assert drawn["line"].to_numpy().tolist() == [
        [1e6, 10.0, "fitted"],
        [2e6, 15.0, "fitted"],
        [2e6, 15.0, "forecast"],
        [5e6, 30.0, "forecast"],
    ]
    assert drawn["limit"].iloc[0].tolist() == [30.0, True, "interval, 30 s"]
    caption = comparison.growth_caption(near)
    assert caption.endswith("Line: trend of all runs. Dashed: forecast. Red: interval.")
    far = grown(found, [1e6, 2e6], [10.0, 15.0], rows_at_limit=100e6)
    assert set(charts.growth_chart(far).data["line"]["part"]) == {"fitted"}
    assert "The forecast is too far away" in comparison.growth_caption(far)


def test_an_interval_that_is_exceeded_has_no_forecast(found) -> None:
    passed = grown(found, [1e6, 9e6], [10.0, 50.0], at_limit=None, refusal=TOO_SLOW_ALREADY)
    drawn = charts.growth_chart(passed).data
    assert drawn["line"]["part"].tolist() == ["fitted", "fitted"]
    assert drawn["limit"]["shown"].tolist() == [True]
    assert "too far away" not in comparison.growth_caption(passed)


def test_an_interval_that_would_flatten_the_runs_is_not_drawn(found) -> None:
    small = replace(grown(found, [1e6, 2e6], [10.0, 15.0]), interval_s=600.0)
    drawn = charts.growth_chart(small).data
    assert drawn["limit"].iloc[0].tolist() == [15.0, False, "interval, 600 s"]
    assert "Red:" not in comparison.growth_caption(small)


def test_a_trend_that_may_be_noise_is_hidden(found) -> None:
    """Also a trend of few runs. Vega makes no scale for an empty data set."""
    for how in ({"low": -1.0}, {"runs": 2}):
        noise = grown(found, [1e6, 2e6], [10.0, 15.0], rows_at_limit=None, **how)
        assert charts.growth_chart(noise).data["line"].to_numpy().tolist() == [
            [1e6, 12.5, "hidden"],
            [2e6, 12.5, "hidden"],
        ]
        assert "Point: a run. Red: interval." in comparison.growth_caption(noise)
    alone = replace(grown(found, [1e6], [10.0]), growth=None)
    assert set(charts.growth_chart(alone).data["line"]["part"]) == {"hidden"}


def test_a_share_of_100_percent_means_all() -> None:
    assert comparison.kept_share(999_997, 1_000_000) == "99.99 %"
    assert comparison.kept_share(5, 4) == "125.00 %"
    for of in (100, 1000):
        for count in range(of + 1):
            assert (
                comparison.kept_share(count, of) == f"{100 * Fraction(count, of).__float__():.2f} %"
            )


def test_every_part_has_something_to_show_without_data(nothing) -> None:
    assert comparison.legend(nothing, charts.VERDICT_COLORS)
    assert charts.stages_chart(nothing) is None
    for caption in (
        comparison.agreement_caption,
        comparison.ages_caption,
        comparison.growth_caption,
        comparison.gaps_caption,
    ):
        assert caption(nothing)
    assert comparison.differing_rows(nothing) == comparison.gap_rows(nothing) == []
    assert comparison.gaps_caption(None)
