"""What everybody asks of the two paths, answered in words."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from pipeline.compare import summary as verdict
from pipeline.compare.agreement import COLUMNS, DIFFERS, EQUAL, LATE, NOT_YET_FINAL, UNEXPLAINED
from pipeline.compare.comparison import (
    BATCH,
    STREAM_FINAL,
    STREAM_OPEN,
    TOO_SLOW_ALREADY,
    Comparison,
    Freshness,
    Growth,
    funnel,
)
from pipeline.compare.comparison import compare as compared
from pipeline.compare.inputs import read_written
from pipeline.outputs import DataDir

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def age(median: float) -> Freshness:
    return Freshness(median, median, median, median, 600)


def judged(*verdicts: str, cause: str = "") -> pd.DataFrame:
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"missing": 0, "window_start": f"2026-03-01T12:{minute:02}:00Z", "verdict": name}
        | {"cause": cause if name == DIFFERS else ""}
        for minute, name in enumerate(verdicts)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compared(read_written(DataDir(tmp_path_factory.mktemp("nothing"))), 600)


@pytest.fixture
def found(nothing: Comparison) -> Comparison:
    """Two minutes that agree, ages and costs."""
    cost = nothing.cost.assign(cpu_s_per_hour=[1500.0, 500.0])
    ages: dict[str, Freshness | None] = {
        STREAM_OPEN: age(1.5),
        STREAM_FINAL: age(90),
        BATCH: age(300),
    }
    return replace(
        nothing,
        span=(NOON, NOON + timedelta(minutes=30)),
        agreement=judged(EQUAL, EQUAL, NOT_YET_FINAL),
        freshness=ages,
        cost=cost,
    )


def short(found: Comparison) -> list[str]:
    return [answer.short for answer in verdict.answers(found)]


def test_each_question_has_an_answer_in_a_few_words(found: Comparison) -> None:
    answers = verdict.answers(found)
    assert [answer.question for answer in answers] == list(verdict.QUESTIONS)
    assert short(found)[:3] == [
        "Yes, in all 2 minutes",
        "Open windows 1.5 s, final windows 90 s, batch 300 s",
        "Stream: 3.0 times the CPU",
    ]
    assert {answer.kind for answer in answers} == {"fine"}
    assert answers[1].sentence == (
        "Over 30 min until 2026-03-01 12:30 UTC the stream's open windows were in the median "
        "1.5 s, its final ones 90 s, the batch's answer 300 s old."
    )
    assert verdict.in_words(found) == " ".join(answer.sentence for answer in answers)


def test_what_is_not_known_yet_is_unknown_and_no_alarm(nothing: Comparison) -> None:
    answers = verdict.answers(nothing)
    assert [answer.short for answer in answers] == ["unknown"] * 4
    assert {answer.kind for answer in answers} == {"fine"}
    assert verdict.in_words(nothing).startswith("There is nothing to compare yet")


def test_a_known_cause_is_counted_and_an_unknown_one_is_an_alarm(found: Comparison) -> None:
    late = replace(found, agreement=judged(EQUAL, DIFFERS, cause=LATE))
    first = verdict.answers(late)[0]
    assert (first.short, first.kind) == ("In 1 of 2 minutes", "note")
    unknown = replace(found, agreement=judged(EQUAL, DIFFERS, cause=UNEXPLAINED))
    first = verdict.answers(unknown)[0]
    assert (first.short, first.kind) == ("Not explained in 1 minute", "alarm")
    assert first.sentence.startswith("UNEXPLAINED: 1 window differs for no known reason!")


def test_trades_missing_in_both_are_told_though_the_paths_agree(found: Comparison) -> None:
    first = verdict.answers(replace(found, missing=152))[0]
    assert (first.short, first.kind) == ("Yes, in all 2 minutes", "note")
    assert first.sentence.endswith("152 trades that the exchange issued: in neither.")


def test_about_the_same_cost_is_called_so(found: Comparison) -> None:
    cost = found.cost.assign(cpu_s_per_hour=[324.0, 335.0])
    answer = verdict.answers(replace(found, cost=cost))[2]
    assert answer.short == "About the same CPU"
    assert answer.sentence.endswith("324 against 335 CPU seconds an hour.")


def test_the_fresher_and_the_dearer_path_may_be_the_batch(found: Comparison) -> None:
    ages = found.freshness | {STREAM_OPEN: age(70), BATCH: age(30)}
    cost = found.cost.assign(cpu_s_per_hour=[500.0, 1500.0])
    assert short(replace(found, freshness=ages, cost=cost))[1:3] == [
        "Batch 30 s, open windows 70 s, final windows 90 s",
        "Batch: 3.0 times the CPU",
    ]
    finals_alone = ages | {STREAM_OPEN: None}
    assert short(replace(found, freshness=finals_alone))[1] == "Batch 30 s, final windows 90 s"
    only = {STREAM_OPEN: None, STREAM_FINAL: age(90), BATCH: None}
    assert short(replace(found, freshness=only))[1] == "unknown"


def test_a_forecast_is_a_day_and_a_refusal_is_none(found: Comparison) -> None:
    """Beside it stands how much of its interval a run takes now."""
    found = replace(found, runs=pd.DataFrame({"wall_s": [9.0, 6.41]}))
    grown = Growth(9, 5.0, 3.0, 2.0, 4.0, 2e8, 1.5e8, 3e8, datetime(2031, 7, 3, tzinfo=UTC), "")
    assert short(replace(found, growth=grown))[3] == "About 2031-07-03; 6.4 s of 600 s now"
    refused = replace(grown, at_limit=None, refusal="3 runs are too few")
    assert short(replace(found, growth=refused))[3] == "Not forecast; 6.4 s of 600 s now"
    assert short(replace(found, growth=None))[3] == "unknown"
    late = replace(grown, at_limit=None, refusal=TOO_SLOW_ALREADY, rows_at_limit=2.5e6)
    answer = verdict.answers(replace(found, growth=late))[3]
    assert (answer.short, answer.kind) == ("Already: 6.4 s of 600 s now", "alarm")
    assert "from 2.5 million trades on, and there are more than that" in answer.sentence


def test_a_run_that_took_longer_than_its_interval_is_an_alarm_whatever_is_forecast(
    found: Comparison,
) -> None:
    """Also where there are too few runs; one whose time is unknown says nothing."""
    runs = pd.DataFrame({"wall_s": [70.0, float("nan")]})
    for growth in (None, Growth(2, 70.0, 0.0, 0.0, 0.0, None, None, None, None, "2 runs are few")):
        slow = replace(found, runs=runs, interval_s=60.0, growth=growth)
        answer = verdict.answers(slow)[3]
        assert (answer.short, answer.kind) == ("Already: 70.0 s of 60 s now", "alarm")


@pytest.mark.parametrize(
    "said", [None, [], {}, {"batch_interval_seconds": None}, {"batch_interval_seconds": "soon"}]
)
def test_an_interval_that_is_not_said_is_the_settings(said: object) -> None:
    assert verdict.interval_of({"batch_scheduler": {"settings": said}}, 600) == 600
    assert verdict.interval_of({"batch_scheduler": {}}, 600) == 600


def test_counters_that_are_not_said_make_no_stage(nothing: Comparison) -> None:
    for counters in (None, [1], {"rejected": 3}):
        status = {"producer": {"counters": counters}, "consumer": {}}
        assert funnel(None, status, 0, nothing.agreement, None).empty


def test_a_cost_that_is_not_on_record_yet_is_awaited_in_words(found: Comparison) -> None:
    cost = found.cost.assign(cpu_s_per_hour=[1500.0, float("nan")])
    answer = verdict.answers(replace(found, cost=cost))[2]
    assert (answer.short, answer.kind) == ("unknown", "fine")
    assert answer.sentence.startswith("What each costs is unknown yet")
