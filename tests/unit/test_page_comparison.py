"""The comparison section of the page, from prepared data directories."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from page import comparison_data, parts
from page.charts import comparison as charts
from page.charts.chart import Chart
from page.comparison_data import ComparisonData
from page.comparison_worker import LatestComparison
from page.formatting import DASH
from page.sections import answers, comparison
from pipeline.compare.figures import GrowthFigure
from pipeline.compare.summary import NO_AGES, NO_COST, TITLES, Finding, Kind
from pipeline.data_dir import DataDir
from pipeline.stores.sqlite import SqliteStore
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> ComparisonData:
    data = DataDir(tmp_path_factory.mktemp("disputed"))
    page_data.disputed(data, NOW)
    loaded = comparison_data.load(data, SqliteStore(data.database), None, 60)
    assert isinstance(loaded, ComparisonData)
    return replace(loaded, made_at=NOW - timedelta(seconds=20), cpu_s=2.0)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory) -> ComparisonData:
    data = DataDir(tmp_path_factory.mktemp("empty"))
    loaded = comparison_data.load(data, SqliteStore(data.database), None, 60)
    assert isinstance(loaded, ComparisonData)
    return loaded


def test_the_findings_are_those_of_the_comparison_with_its_age(found) -> None:
    latest = LatestComparison(found)
    assert comparison.findings(latest) == found.findings
    assert comparison.age(latest, NOW) == "Compared 20 s ago."


def test_the_first_screen_names_what_to_choose_or_what_the_answer_needs(found) -> None:
    advice = "For a median age of 30 s or less, the cheapest choice is a batch every 52 s."
    shown = comparison.choice(LatestComparison(replace(found, choice=advice)))
    assert shown == advice
    needed = "No answer yet. The answer needs the ages and the CPU time of both paths."
    assert comparison.choice(LatestComparison(replace(found, choice=""))) == needed
    assert comparison.choice(LatestComparison()) == needed


@pytest.mark.parametrize(("place", "reason"), [(1, NO_AGES), (2, NO_COST)])
def test_no_answer_is_promised_if_ages_or_costs_are_never_known(found, place, reason) -> None:
    """A replay with original timestamps has no ages, and a Spark cluster has no known costs."""
    findings = list(found.findings)
    findings[place] = replace(findings[place], kind="unknown", sentence=reason)
    never = LatestComparison(replace(found, choice="", findings=tuple(findings)))
    assert comparison.choice(never) == f"No answer. {reason}"


def test_an_old_comparison_is_marked(found) -> None:
    """A viewer comes back to a span that nobody has looked at for a while."""
    latest = LatestComparison(found)
    assert not comparison.is_old(latest, NOW)
    later = NOW + timedelta(minutes=6)
    assert comparison.is_old(latest, later)
    assert comparison.age(latest, later) == "Compared 6 min 20 s ago. A newer comparison follows."


def test_an_unexplained_difference_is_an_alarm(found) -> None:
    kinds = [finding.kind for finding in found.findings]
    assert kinds[0] == "alarm"
    assert kinds.count("alarm") == 1


def test_the_first_comparison_shows_for_how_long_it_has_been_running() -> None:
    waiting = LatestComparison(asked_at=NOW - timedelta(seconds=3))
    assert comparison.age(waiting, NOW) == "The first comparison is running (3.0 s)."
    assert comparison.section_caption(waiting, NOW) == "The first comparison is running (3.0 s)."
    assert {finding.kind for finding in comparison.findings(waiting)} == {"waiting"}
    assert {finding.short for finding in comparison.findings(waiting)} == {DASH}


def test_until_a_new_span_is_compared_the_findings_of_the_span_before_stay(found) -> None:
    before = LatestComparison(found, span="1 h", instead_of="6 h")
    assert comparison.findings(before) == found.findings
    assert comparison.age(before, NOW) == (
        "These are the findings of the time range 1 h. The comparison of 6 h is running."
    )


def test_each_kind_of_finding_looks_different_and_text_is_shown_letter_by_letter() -> None:
    kinds: tuple[Kind, ...] = ("waiting", "unknown", "fine", "note", "alarm")
    cards = [answers.html(Finding("Agreement", "<b>x</b>", "a & b", kind)) for kind in kinds]
    assert len(set(answers.LABELS.values())) == len(set(cards)) == len(kinds)
    for kind, card in zip(kinds, cards, strict=True):
        assert f'class="p-answer p-{kind}"' in card
        assert "&lt;b&gt;x&lt;/b&gt;" in card
        assert "a &amp; b" in card


def test_each_finding_has_a_tab_with_its_sections(found) -> None:
    assert set(answers.PART_OF) == set(TITLES)
    assert set(answers.PART_OF.values()) <= set(parts.PARTS)
    by_key = {section.key: section for section in found.sections}
    shown = [key for part in parts.ROWS for row in parts.rows_of(part, by_key) for key in row]
    assert sorted(shown) == sorted(by_key)
    assert set(parts.ROWS) <= set(parts.PARTS)
    new = by_key | {"new": replace(found.sections[0], key="new")}
    assert parts.rows_of("Overview", new)[0] == ("new",)


def test_a_failure_leaves_the_last_good_comparison_with_its_age(found) -> None:
    tried = NOW - timedelta(seconds=2)
    failed = LatestComparison(found, "database is locked", tried)
    assert comparison.findings(failed) == found.findings
    assert comparison.problem(failed, NOW) == (
        "No newer comparison: database is locked. Last attempt 2.0 s ago."
    )
    assert comparison.section_caption(failed, NOW) == "Compared 20 s ago."
    never = LatestComparison(None, "database is locked", tried)
    assert comparison.problem(never, NOW).startswith("No comparison: database is locked")
    assert comparison.section_caption(never, NOW).startswith("No comparison: database is locked")
    assert comparison.age(never, NOW) == ""
    assert {(each.kind, each.short, each.sentence) for each in comparison.findings(never)} == {
        ("unknown", "–", "The comparison failed. The message below gives the cause.")  # noqa: RUF001
    }
    assert comparison.choice(never) == "No answer: the comparison failed."


# --- charts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", charts.CHARTS)
def test_every_chart_has_its_data_under_the_names_of_its_specification(found, key) -> None:
    chart = charts.CHARTS[key](found.figures)
    assert isinstance(chart, Chart)
    assert set(re.findall(r"'data': {'name': '(\w+)'", str(chart.specification))) == set(chart.data)


@pytest.mark.parametrize("key", charts.CHARTS)
def test_without_data_there_is_no_chart(nothing, key) -> None:
    assert charts.CHARTS[key](nothing.figures) is None


def test_every_chart_belongs_to_a_section(found) -> None:
    assert charts.CHARTS.keys() <= {section.key for section in found.sections}


def steps(found: ComparisonData, medians: list[float], p99s: list[float]) -> pd.DataFrame:
    """Return the drawn bars of steps with these latencies and starts of 0, 1, 2, …"""
    latency = found.figures.latency.assign(
        start=[float(n) for n in range(5)], median=medians, p99=p99s
    )
    chart = charts.latency_chart(replace(found.figures, latency=latency))
    assert chart is not None
    return chart.data["steps"]


def test_a_bar_ends_at_the_median_and_its_line_at_the_p99(found) -> None:
    drawn = steps(found, [1.0, 2.0, 3.0, 60.0, -30.0], [1.0, 2.0, 3.5, 61.0, -25.0])
    assert drawn["median_end"].tolist() == [1, 3, 5, 63, -26]
    assert drawn["p99_end"].tolist() == [1, 3, 5.5, 64, -21]


def growth(found: ComparisonData, line: list[tuple[float, float, str]], limit: float | None):
    runs = pd.DataFrame({"rows": [1e6, 2e6], "wall_s": [10.0, 15.0], "started": [NOW, NOW]})
    frame = pd.DataFrame(line, columns=["rows", "wall_s", "part"])
    chart = charts.growth_chart(replace(found.figures, growth=GrowthFigure(runs, frame, limit)))
    assert chart is not None
    return chart.data


def test_the_trend_the_forecast_and_the_interval_are_drawn(found) -> None:
    line = [(1e6, 10.0, "fitted"), (2e6, 15.0, "fitted"), (5e6, 30.0, "forecast")]
    drawn = growth(found, line, 30.0)
    assert list(drawn["line"].itertuples(index=False, name=None)) == line
    assert drawn["limit"].iloc[0].tolist() == [30.0, True, "interval, 30 s"]


def test_a_missing_trend_or_interval_is_hidden_and_not_left_out(found) -> None:
    """Vega makes no scale for an empty data set."""
    drawn = growth(found, [], None)
    assert set(drawn["line"]["part"]) == {"hidden"}
    assert drawn["line"]["wall_s"].tolist() == [10.0, 15.0]
    assert drawn["limit"].iloc[0].tolist() == [15.0, False, ""]
