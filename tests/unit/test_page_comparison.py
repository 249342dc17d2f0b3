"""What the comparison's section says, from prepared data folders."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from html.parser import HTMLParser

import pandas as pd
import pytest

from page import comparison as compared
from page import digest
from page.background import Compared
from page.charts import comparison as graphs
from page.charts import market as charts
from pipeline.compare.agreement import VERDICTS
from pipeline.compare.comparison import LEGS, TOO_SLOW_ALREADY, Growth, Steadiness
from pipeline.compare.summary import Answer
from pipeline.outputs import DataDir
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
EVIL = "<script>x</script><img src=x>"


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> digest.Digest:
    data = DataDir(tmp_path_factory.mktemp("disputed"))
    page_data.disputed(data, NOW)
    made = digest.made(data, None, 60)
    assert isinstance(made, digest.Digest)
    return replace(made, made_at=NOW - timedelta(seconds=20), cpu_s=2.0)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory) -> digest.Digest:
    made = digest.made(DataDir(tmp_path_factory.mktemp("empty")), None, 60)
    assert isinstance(made, digest.Digest)
    return made


class Parsed(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: set[str] = set()
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.elements.add(tag)


def text(html: str) -> str:
    return " ".join(" ".join(Parsed(html).words).split())


def all_of(made: digest.Digest) -> str:
    return "".join(
        (
            compared.legend(made, graphs.VERDICT_COLORS),
            compared.differing(made),
            compared.ages(made),
            compared.waterfall(made),
            compared.funnel(made),
            compared.cost(made),
            compared.aspects(made),
            compared.gaps(made),
        )
    )


def test_the_verdict_is_said_with_its_age(found) -> None:
    said = text(compared.verdict(Compared(found), NOW))
    for answer in found.answers:
        assert f"{answer.question} {answer.short} {answer.sentence}" in said
    assert "Compared 20 s ago" in said


def test_an_old_comparison_is_marked_as_such(found) -> None:
    """Somebody comes back to a span that nobody has looked at for a while."""
    assert "p-problem" not in compared.verdict(Compared(found), NOW)
    later = compared.verdict(Compared(found), NOW + timedelta(minutes=6))
    assert '<div class="p-problem">Compared 6 min 20 s ago. A newer one follows.' in later


def test_what_nothing_explains_is_an_alarm(found) -> None:
    assert found.answers[0].kind == "alarm"
    assert compared.verdict(Compared(found), NOW).count("p-kind-alarm") == 1


def test_a_comparison_that_is_awaited_says_so_and_for_how_long() -> None:
    waiting = Compared(asked_at=NOW - timedelta(seconds=3))
    for said in (compared.verdict(waiting, NOW), compared.section_said(waiting, NOW)):
        assert "compared for the first time, for 3.0 s so far" in said


def test_a_failure_is_a_sentence_beside_the_last_good_comparison_and_its_age(found) -> None:
    tried = NOW - timedelta(seconds=2)
    failed = Compared(found, "database is locked", tried)
    said = text(compared.verdict(failed, NOW))
    assert found.answers[0].sentence in said
    assert "! no newer comparison: database is locked (tried 2.0 s ago)" in said
    assert "Compared 20 s ago" in compared.section_said(failed, NOW)
    never = text(compared.verdict(Compared(None, "database is locked", tried), NOW))
    assert "There is no comparison. ! database is locked" in never


def test_the_section_says_when_the_next_comparison_will_be(found) -> None:
    """2 s of CPU are a twentieth of 40 s."""
    assert "the next one 38 s later at the earliest, as each costs 2.0 s of CPU" in compared.when(
        Compared(found), NOW
    )


def test_the_legend_counts_every_verdict(found) -> None:
    said = text(compared.legend(found, graphs.VERDICT_COLORS))
    for name in VERDICTS:
        assert f"{name} {found.counts[name]:,}" in said
    assert set(graphs.VERDICT_COLORS) == set(VERDICTS)


def test_windows_that_differ_are_listed_with_both_values_and_the_cause(found) -> None:
    said = text(compared.differing(found))
    assert "2 of them without a known cause" in said
    assert "≠ differs close_price" in said
    assert "too late for the stream" in said


def test_legs_are_laid_end_to_end_along_the_way_of_a_trade(found) -> None:
    """Left edges: a leg begins where the median of the one before it ends."""
    legs = found.waterfall.set_index("leg").reindex(list(LEGS))
    legs["median"], legs["p99"] = [1.0, 2.0, 3.0, 60.0, 30.0], [1.0, 2.0, 3.0, 60.0, 36.0]
    html = compared.waterfall(replace(found, waterfall=legs.reset_index()))
    bars = re.findall(r'p-thick" style="left:([\d.]+)%;width:([\d.]+)%', html)
    expected = [(0, 1), (1, 2), (1, 3), (4, 60), (64, 30)]
    assert [(float(a), float(b)) for a, b in bars] == expected


def test_a_batch_that_was_earlier_is_a_bar_to_the_left(found) -> None:
    legs = found.waterfall.set_index("leg").reindex(list(LEGS))
    legs["median"] = legs["p99"] = [0.0, 0.0, 0.0, 100.0, -40.0]
    html = compared.waterfall(replace(found, waterfall=legs.reset_index()))
    assert re.findall(r'p-thick" style="left:([\d.]+)%;width:([\d.]+)%', html)[-1] == (
        "60.00",
        "40.00",
    )


def test_unknown_numbers_are_dashes(nothing) -> None:
    said = text(all_of(nothing))
    assert "event → received – – 0" in said  # noqa: RUF001
    assert "CPU seconds an hour – – –" in said  # noqa: RUF001
    assert "batch – – – –" in said  # noqa: RUF001
    assert "Gaps: –" in said  # noqa: RUF001
    assert "nan" not in said.lower()
    assert "Ages are unknown" in compared.ages_said(nothing)
    assert "No micro-batch" in compared.steady_said(nothing.steadiness)


@pytest.mark.parametrize(
    ("low", "high", "said"), [(-3.0, 9.0, "No change can be told"), (2.0, 9.0, "It changes")]
)
def test_micro_batches_change_only_where_the_interval_holds_no_zero(low, high, said) -> None:
    steady = Steadiness(900, 300.0, 410.0, 5000, 4.0, low, high)
    assert said in compared.steady_said(steady)


def test_nothing_of_the_data_is_markup(found) -> None:
    evil = replace(
        found,
        answers=(Answer(EVIL, EVIL, EVIL),),
        differing=pd.DataFrame({n: [EVIL] for n in ("window", "values", "cause")}).assign(
            verdict="differs"
        ),
        funnel=pd.DataFrame({"stage": [EVIL], "count": [1], "drawn_from": [1], "said": [EVIL]}),
        aspects=pd.DataFrame({"aspect": [EVIL], "stream": [EVIL]}),
    )
    html = all_of(evil) + compared.verdict(Compared(evil, EVIL, NOW), NOW)
    assert not Parsed(html).elements & {"script", "img"}
    assert EVIL in "".join(Parsed(html).words)


# --- charts ---------------------------------------------------------------------------------


def test_every_chart_has_its_data_under_the_names_of_its_drawing(found) -> None:
    for chart in (
        graphs.strip_chart(found),
        graphs.ages_chart(found.teeth),
        graphs.growth_chart(found),
        graphs.micro_chart(found.micro_batches),
    ):
        assert isinstance(chart, charts.Chart)
        assert set(re.findall(r"'data': {'name': '(\w+)'", str(chart.drawing))) == set(chart.data)


def grown(found: digest.Digest, rows: list[float], walls: list[float], **how) -> digest.Digest:
    """The digest with these runs; their line is 5 s and 5 s more with each million, to 30 s."""
    line = Growth(9, 5.0, 5.0, 4.0, 6.0, 5e6, 4e6, 6e6, NOW, "")
    runs = pd.DataFrame({"rows": rows, "wall_s": walls})
    return replace(found, runs=runs, growth=replace(line, **how), interval_s=30.0)


def test_the_fitted_line_goes_on_to_the_limit_only_when_that_is_near(found) -> None:
    near = grown(found, [1e6, 2e6], [10.0, 15.0])
    drawn = graphs.growth_chart(near).data
    assert drawn["line"].to_numpy().tolist() == [
        [1e6, 10.0, "fitted"],
        [2e6, 15.0, "fitted"],
        [2e6, 15.0, "forecast"],
        [5e6, 30.0, "forecast"],
    ]
    assert drawn["limit"].iloc[0].tolist() == [30.0, True, "interval, 30 s"]
    said = compared.growth_said(near)
    assert said.endswith("what is dashed is the forecast; the red line is the interval.")
    far = grown(found, [1e6, 2e6], [10.0, 15.0], rows_at_limit=100e6)
    assert set(graphs.growth_chart(far).data["line"]["part"]) == {"fitted"}
    assert "the forecast is too far away" in compared.growth_said(far)


def test_a_limit_that_is_passed_is_not_called_far_away(found) -> None:
    passed = grown(found, [1e6, 9e6], [10.0, 50.0], at_limit=None, refusal=TOO_SLOW_ALREADY)
    drawn = graphs.growth_chart(passed).data
    assert drawn["line"]["part"].tolist() == ["fitted", "fitted"]
    assert drawn["limit"]["shown"].tolist() == [True]
    assert "too far away" not in compared.growth_said(passed)


def test_the_interval_is_not_drawn_where_runs_would_be_a_line_at_its_foot(found) -> None:
    small = replace(grown(found, [1e6, 2e6], [10.0, 15.0]), interval_s=600.0)
    drawn = graphs.growth_chart(small).data
    assert drawn["limit"].iloc[0].tolist() == [15.0, False, "interval, 600 s"]
    assert "red line" not in compared.growth_said(small)


def test_a_line_that_may_be_noise_is_not_drawn(found) -> None:
    """Nor is one through few runs. It is hidden: of an empty data set Vega makes no scale."""
    for how in ({"low": -1.0}, {"runs": 2}):
        noise = grown(found, [1e6, 2e6], [10.0, 15.0], rows_at_limit=None, **how)
        assert graphs.growth_chart(noise).data["line"].to_numpy().tolist() == [
            [1e6, 12.5, "hidden"],
            [2e6, 12.5, "hidden"],
        ]
        assert "Each point is a run; the red line" in compared.growth_said(noise)
    alone = replace(grown(found, [1e6], [10.0]), growth=None)
    assert set(graphs.growth_chart(alone).data["line"]["part"]) == {"hidden"}


def test_a_share_is_rounded_down_so_that_100_percent_are_all() -> None:
    assert compared._share(999_997, 1_000_000) == "99.99 %"
    assert compared._share(5, 4) == "125.00 %"
    for of in (100, 1000):
        for count in range(of + 1):
            assert compared._share(count, of) == f"{100 * Fraction(count, of).__float__():.2f} %"


def test_of_nothing_each_part_still_holds_its_place(nothing) -> None:
    """Streamlit refuses empty HTML, which would end the whole page."""
    assert compared.legend(nothing, graphs.VERDICT_COLORS)
    assert compared.verdict(Compared(nothing), NOW)
    for part in (
        compared.differing,
        compared.ages,
        compared.waterfall,
        compared.funnel,
        compared.cost,
        compared.aspects,
        compared.gaps,
    ):
        assert part(nothing)
    assert compared.gaps(None)
