"""The comparison in words."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from pipeline.compare.agreement import COLUMNS, DIFFERS, EQUAL, NOT_YET_FINAL
from pipeline.compare.causes import GAP, LATE, NOT_RECORDED, THRESHOLDS, UNEXPLAINED
from pipeline.compare.comparison import Comparison, batch_interval_s, compare
from pipeline.compare.completeness import Backfill, funnel
from pipeline.compare.decision import frontier_section
from pipeline.compare.freshness import BATCH, STREAM_FINAL, STREAM_OPEN, Freshness
from pipeline.compare.growth import TOO_SLOW_ALREADY, Growth
from pipeline.compare.inputs import read_outputs
from pipeline.compare.summary import TITLES, Finding, findings, forecast, summary
from pipeline.data_dir import DataDir
from pipeline.stores.sqlite import SqliteStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def age(median: float) -> Freshness:
    return Freshness(median, median, median, median, 1800)


def windows(*statuses: str, cause: str = "") -> pd.DataFrame:
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"missing": 0, "window_start": f"2026-03-01T12:{minute:02}:00Z", "status": name}
        | {"cause": cause if name == DIFFERS else ""}
        for minute, name in enumerate(statuses)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    data = DataDir(tmp_path_factory.mktemp("nothing"))
    return compare(read_outputs(data, SqliteStore(data.database)), 600)


@pytest.fixture
def comparison(nothing: Comparison) -> Comparison:
    """Two windows that agree, ages and costs."""
    ages: dict[str, Freshness | None] = {
        STREAM_OPEN: age(1.5),
        STREAM_FINAL: age(90),
        BATCH: age(300),
    }
    return replace(
        nothing,
        span=(NOON, NOON + timedelta(minutes=30)),
        agreement=windows(EQUAL, EQUAL, NOT_YET_FINAL),
        freshness=ages,
        cost=nothing.cost.assign(cpu_s_per_hour=[1500.0, 500.0]),
    )


def short(comparison: Comparison) -> list[str]:
    return [found.short for found in findings(comparison)]


def test_each_finding_has_a_short_form_and_a_sentence_with_its_numbers(
    comparison: Comparison,
) -> None:
    found = findings(comparison)
    assert tuple(one.title for one in found) == TITLES
    assert short(comparison)[:3] == [
        "All 2 windows match",
        "The stream's open windows are 298.5 s fresher than a batch every 600 s",
        "Stream 1,500 CPU seconds per hour (42 % of one core), batch 500 (14 %)",
    ]
    assert [one.kind for one in found] == ["fine", "fine", "fine", "waiting"]
    assert found[0].sentence == (
        "Stream and batch give identical results for all 2 windows compared "
        "(window starts 2026-03-01 12:00 to 12:01 UTC)."
    )
    assert found[1].sentence == (
        "Median age over 30 min until 2026-03-01 12:30 UTC: stream's open windows 1.5 s, "
        "stream's final windows 90.0 s, batch 300.0 s. Open windows still change."
    )
    assert found[2].sentence == ("The stream uses 3.0 times the CPU of a batch every 600 s.")
    assert summary(comparison) == " ".join(one.sentence for one in found)


def test_unknown_findings_are_dashes_and_no_alarm(nothing: Comparison) -> None:
    assert short(nothing) == ["–"] * 4  # noqa: RUF001
    assert {found.kind for found in findings(nothing)} == {"waiting"}
    assert summary(nothing) == (
        "Nothing to compare yet: waiting for the first final window of the stream and the first "
        "batch result."
    )
    assert all(found.sentence for found in findings(nothing))


def test_an_explained_difference_is_a_note_and_an_unexplained_one_an_alarm(
    comparison: Comparison,
) -> None:
    explained = replace(comparison, agreement=windows(EQUAL, DIFFERS, cause=LATE))
    first = findings(explained)[0]
    assert (first.short, first.kind) == ("1 of 2 windows differs, all explained", "note")
    assert first.sentence.endswith(f"Causes: {LATE} (1 window).")
    unrecorded = replace(comparison, agreement=windows(EQUAL, DIFFERS, cause=NOT_RECORDED))
    first = findings(unrecorded)[0]
    assert first.short == "1 of 2 windows differs, evidence not recorded for 1"
    assert first.kind == "note"
    unknown = replace(comparison, agreement=windows(EQUAL, DIFFERS, cause=UNEXPLAINED))
    first = findings(unknown)[0]
    assert (first.short, first.kind) == ("1 window differs, cause unknown", "alarm")
    assert first.sentence.startswith("1 window differs, cause unknown. 1 of 2 compared windows")


def test_changed_thresholds_are_a_note_that_names_the_settings(comparison: Comparison) -> None:
    cause = f"{THRESHOLDS}: VOLATILITY_RANGE=50"
    first = findings(replace(comparison, agreement=windows(EQUAL, DIFFERS, cause=cause)))[0]
    assert (first.short, first.kind) == ("1 of 2 windows differs, all explained", "note")
    assert first.sentence.endswith(
        ". The stream computed 1 window with VOLATILITY_RANGE=50, the batch with other thresholds."
    )
    both = windows(EQUAL, DIFFERS, DIFFERS, cause=f"{LATE}; {GAP}")
    both.loc[2, "cause"] = cause
    first = findings(replace(comparison, agreement=both))[0]
    assert first.sentence.endswith(
        f"Causes: {LATE} (1 window). The stream computed 1 window with VOLATILITY_RANGE=50, the "
        "batch with other thresholds."
    )


def test_missing_trades_are_reported_although_the_paths_agree(comparison: Comparison) -> None:
    first = findings(replace(comparison, missing=152))[0]
    assert (first.short, first.kind) == (
        "All 2 windows match, 152 trades missing from both",
        "note",
    )
    assert first.sentence.endswith("152 trade ids were never stored, so neither path has them.")


@pytest.mark.parametrize(
    ("missing", "in_progress", "sentence"),
    [
        (
            152,
            100,
            "being recovered. 52 trade ids were never stored, so neither path has them.",
        ),
        (101, 100, "1 trade id was never stored, so neither path has it."),
        (7, 900, ". 7 missing trade ids are being recovered."),
        (1, 1, ". 1 missing trade id is being recovered."),
        (1, None, ". 1 trade id was never stored, so neither path has it."),
    ],
)
def test_trades_that_are_being_recovered_do_not_count_as_never_received(
    comparison: Comparison, missing: int, in_progress: int | None, sentence: str
) -> None:
    found = replace(comparison, missing=missing, backfill=Backfill(in_progress))
    assert findings(found)[0].sentence.endswith(sentence)
    assert findings(found)[0].kind == "note"


def test_almost_equal_costs_count_as_equal(comparison: Comparison) -> None:
    cost = comparison.cost.assign(cpu_s_per_hour=[324.0, 335.0])
    cost_of = findings(replace(comparison, cost=cost))[2]
    assert cost_of.short == "Stream 324 CPU seconds per hour (9 % of one core), batch 335 (9 %)"
    assert cost_of.sentence == "The stream and a batch every 600 s use about the same CPU."
    tiny = replace(comparison, cost=cost.assign(cpu_s_per_hour=[36.0, 1.44]))
    assert short(tiny)[2].endswith("(1 % of one core), batch 1 (0.04 %)")


def test_the_batch_may_be_fresher_and_may_cost_more(comparison: Comparison) -> None:
    ages = comparison.freshness | {STREAM_OPEN: age(70), BATCH: age(30)}
    cost = comparison.cost.assign(cpu_s_per_hour=[500.0, 1500.0])
    turned = replace(comparison, freshness=ages, cost=cost, interval_s=60.0)
    assert short(turned)[1:3] == [
        "A batch every 60 s is 40.0 s fresher than the stream's open windows",
        "Stream 500 CPU seconds per hour (14 % of one core), batch 1,500 (42 %)",
    ]
    assert findings(turned)[2].sentence == (
        "A batch every 60 s uses 3.0 times the CPU of the stream."
    )
    without_open = replace(comparison, freshness=ages | {STREAM_OPEN: None})
    assert short(without_open)[1] == (
        "A batch every 600 s is 60.0 s fresher than the stream's final windows"
    )
    final_only = {STREAM_OPEN: None, STREAM_FINAL: age(90), BATCH: None}
    assert short(replace(comparison, freshness=final_only))[1] == "–"  # noqa: RUF001


@pytest.mark.parametrize(("known_s", "text"), [(59.7, "1 min"), (15_132.0, "4 h 12 min")])
def test_the_measured_time_of_the_ages_has_at_most_two_units(
    comparison: Comparison, known_s: float, text: str
) -> None:
    ages: dict[str, Freshness | None] = {
        name: replace(age(1.5), known_seconds=known_s) for name in comparison.freshness
    }
    found = findings(replace(comparison, freshness=ages))[1]
    assert found.sentence.startswith(f"Median age over {text} until ")


def test_ages_of_a_replay_as_recorded_are_unknown_and_no_result_is_awaited(
    comparison: Comparison,
) -> None:
    found = findings(replace(comparison, replayed_as_recorded=True))[1]
    assert (found.short, found.kind) == ("–", "unknown")  # noqa: RUF001


def test_equal_ages_have_no_winner(comparison: Comparison) -> None:
    ages = comparison.freshness | {STREAM_OPEN: age(30.02), BATCH: age(29.98)}
    equal = replace(comparison, freshness=ages)
    assert short(equal)[1] == "The stream's open windows and a batch every 600 s are equally fresh"


def test_the_cpu_cost_on_a_spark_cluster_is_unknown_and_not_awaited(
    comparison: Comparison,
) -> None:
    unknown = comparison.cost.assign(cpu_s_per_hour=[math.nan, math.nan])
    found = findings(replace(comparison, cost=unknown, on_cluster=True))[2]
    assert (found.short, found.kind) == ("–", "unknown")  # noqa: RUF001
    assert findings(replace(comparison, cost=unknown))[2].kind == "waiting"
    section = frontier_section(replace(comparison, cost=unknown, on_cluster=True))
    assert section.lines == (found.sentence,)


FAR = datetime(2031, 7, 3, tzinfo=UTC)
FORECAST = Growth(9, 5.0, 3.0, 2.0, 4.0, 2e8, 1.5e8, 3e8, FAR, "")


def of_runs(comparison: Comparison, *walls: float, growth: Growth | None, every: float) -> Finding:
    """Return the finding about the run time with these runs."""
    runs = pd.DataFrame({"wall_s": list(walls)})
    return findings(replace(comparison, runs=runs, growth=growth, interval_s=every))[3]


def test_a_forecast_names_the_day_and_how_long_a_run_takes_now(comparison: Comparison) -> None:
    found = of_runs(comparison, 9.0, 6.41, 6.2, growth=FORECAST, every=600)
    now = "Fast enough: a run takes 6.4 s, the interval is 600 s"
    assert (found.short, found.kind) == (
        now.replace("enough", "enough until about 2031-07-03"),
        "fine",
    )
    assert found.sentence == (
        "Median of the last 3 batch runs: 6.4 s. Run time grows by 3.0 s per million rows and "
        "reaches the interval at 200.0 million rows."
    )
    assert forecast(FORECAST, 600) == (
        "Run time grows by 3.0 s per million rows. It reaches the 600 s interval at 200.0 "
        "million rows (95 % confidence interval: 150.0 million to 300.0 million), around "
        "2031-07-03 if trades keep arriving at the rate of the last hour."
    )
    soon = replace(FORECAST, at_limit=NOON + timedelta(days=29))
    assert of_runs(comparison, 6.4, growth=soon, every=600).kind == "note"
    today = replace(FORECAST, at_limit=NOON + timedelta(hours=9, minutes=20))
    found = of_runs(comparison, 6.4, growth=today, every=600)
    assert found.short.startswith(f"Fast enough until about {NOON:%Y-%m-%d} 21:20 UTC: a run takes")
    for growth in (None, replace(FORECAST, at_limit=None, refusal="3 of 8 required runs")):
        found = of_runs(comparison, 6.4, growth=growth, every=600)
        assert (found.short, found.kind) == (now, "fine")
        assert found.sentence.startswith("The last batch run took 6.4 s. No forecast")


def test_a_small_growth_and_a_small_table_are_not_shown_as_0() -> None:
    slow = replace(FORECAST, s_per_million=0.031)
    assert forecast(slow, 600).startswith("Run time grows by 0.03 s per million rows. ")
    small = replace(FORECAST, rows_at_limit=42_000.0, refusal=TOO_SLOW_ALREADY)
    assert "more than 42,000 rows. The table already has more." in forecast(small, 5)


def test_only_the_median_of_the_last_three_runs_decides_that_the_batch_is_too_slow(
    comparison: Comparison,
) -> None:
    """A run without a recorded time is left out."""
    growths = (None, FORECAST, replace(FORECAST, at_limit=None, refusal="2 of 8 required runs"))
    for growth in growths:
        found = of_runs(comparison, 9, 9, 70, math.nan, 61, 90, growth=growth, every=60)
        assert found.short == "Too slow: a run takes 70 s, the interval is 60 s"
        assert found.sentence == (
            "Median of the last 3 batch runs: 70 s. Set BATCH_INTERVAL_SECONDS to more than 70."
        )
        assert found.kind == "alarm"
        one_slow = of_runs(comparison, 9, 9, 70, growth=growth, every=60)
        assert one_slow.short.endswith("a run takes 9.0 s, the interval is 60 s")
        assert one_slow.kind == "fine"
    late = replace(FORECAST, at_limit=None, refusal=TOO_SLOW_ALREADY, rows_at_limit=2.5e6)
    found = of_runs(comparison, 58, growth=late, every=60)
    assert (found.short, found.kind) == ("A run takes 58 s, the interval is 60 s", "note")
    assert found.sentence.endswith("of more than 2.5 million rows. The table already has more.")


@pytest.mark.parametrize("refusal", ["", "2 of 8 required runs are done", TOO_SLOW_ALREADY])
@pytest.mark.parametrize("wall", [5, 59, 61, 500])
def test_a_run_time_that_is_too_slow_has_no_sentence_about_a_missing_forecast(
    comparison: Comparison, refusal: str, wall: float
) -> None:
    growth = replace(FORECAST, at_limit=None if refusal else FAR, refusal=refusal)
    found = of_runs(comparison, wall, growth=growth, every=60)
    text = f"{found.short} {found.sentence}"
    assert ("Too slow:" in text) == (wall > 60) == (found.kind == "alarm")
    assert not ("Too slow" in text and "No forecast" in text)


@pytest.mark.parametrize(
    "settings", [None, [], {}, {"batch_interval_seconds": None}, {"batch_interval_seconds": "soon"}]
)
def test_an_interval_that_the_scheduler_did_not_report_is_the_settings(settings: object) -> None:
    assert batch_interval_s({"batch_scheduler": {"settings": settings}}, 600) == 600
    assert batch_interval_s({"batch_scheduler": {}}, 600) == 600
    reported = {"batch_scheduler": {"settings": {"batch_interval_seconds": 60}}}
    assert batch_interval_s(reported, 600) == 60


def test_counters_that_the_producer_did_not_report_make_no_stage(nothing: Comparison) -> None:
    for counters in (None, [1], {"rejected": 3}):
        status = {"producer": {"counters": counters}, "consumer": {}}
        assert funnel(None, status, 0, nothing.agreement, None, rejected_ids=0).empty


def test_a_cost_without_a_recorded_minute_names_what_is_missing(comparison: Comparison) -> None:
    cost = comparison.cost.assign(cpu_s_per_hour=[1500.0, float("nan")])
    found = findings(replace(comparison, cost=cost))[2]
    assert (found.short, found.kind) == ("–", "waiting")  # noqa: RUF001
    assert found.sentence == "No CPU cost yet. It needs one full minute of data from each path."
