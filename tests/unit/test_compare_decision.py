"""The sentences and tables that help to choose."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.compare.agreement import DIFFERS, EQUAL
from pipeline.compare.causes import LATE, NOT_RECORDED, UNEXPLAINED
from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.decision import (
    choice_sentence,
    frontier_section,
    frontier_sentences,
    headline,
    watermark_sentence,
)
from pipeline.compare.freshness import BATCH, STREAM_FINAL, STREAM_OPEN, Freshness
from pipeline.compare.frontier import BatchModel, Frontier
from pipeline.compare.inputs import read_outputs
from pipeline.compare.sections import sections
from pipeline.compare.summary import NO_AGES, findings
from pipeline.compare.watermark import watermarks
from pipeline.data_dir import DataDir
from pipeline.stores.sqlite import SqliteStore
from tests.unit.test_compare_frontier import MODEL, measured
from tests.unit.test_compare_sections import agreement
from tests.unit.test_compare_watermark import lags, status

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("newest", "current", "sentence"),
    [
        (
            {-1: 38_000, 0: 120, 1: 6},
            60,
            (
                "a watermark of 2 s would have dropped none of 38,126 trades and made "
                "final windows 58 s fresher."
            ),
        ),
        (
            {-1: 38_000, 89: 5},
            60,
            (
                "a watermark of 90 s would have dropped none of 38,005 trades and made "
                "final windows 30 s older. The current one of 60 s would have dropped at most 5."
            ),
        ),
        (
            {-1: 9, 59: 1},
            60,
            (
                "a watermark of 60 s would have dropped none of 10 trades. A shorter one could "
                "have dropped trades."
            ),
        ),
        (
            {-1: 9, 600: 1},
            60,
            "even a watermark of 600 s could have dropped up to 1 of 10 trades.",
        ),
        (
            {-1: 9, 3: 1},
            7200,
            (
                "a watermark of 4 s would have dropped none of 10 trades and made final "
                "windows 7196 s fresher."
            ),
        ),
        (
            {},
            60,
            (
                "No trade counted yet. The consumer counts how many seconds each trade is behind "
                "the newest event time."
            ),
        ),
    ],
)
def test_the_sentence_names_the_shortest_watermark_that_drops_nothing(
    newest: dict[int, int], current: float, sentence: str
) -> None:
    found = watermarks(
        lags(newest, {}), status(timedelta(seconds=current)), 92.0, is_live_pace=True
    )
    assert watermark_sentence(found).removeprefix("On this feed, ") == sentence


def test_the_break_even_is_named_with_the_ages_of_both_results() -> None:
    found = Frontier((MODEL,), {}, measured(1.5, 92, 33), 60)
    (sentence,) = frontier_sentences(found)
    assert sentence == (
        "A batch every 36 s would cost as much as the stream. Its median age would be 22 s. The "
        "median age of the stream's open windows is 1.5 s at that cost."
    )


def test_a_batch_that_costs_less_back_to_back_has_no_break_even() -> None:
    cheap = BatchModel("incremental", 1e6, duration_s=6.0, cpu_s=1.0, published_age_s=4.0)
    found = Frontier((cheap, MODEL), {}, measured(1.5, 92, 33), 60)
    first, second = frontier_sentences(found)
    assert first == (
        "The incremental batch always uses less CPU than the stream. Back to back, every 6.0 s, it "
        "would use 600 CPU seconds per hour. Its median age would be 7.0 s. The stream uses 1,000 "
        "CPU seconds per hour. The median age of the stream's open windows is 1.5 s at that cost."
    )
    assert second.startswith("A full batch every 36 s would cost as much")


def test_an_interval_is_rounded_down_so_that_the_result_is_not_older() -> None:
    fast = BatchModel("full", 1e6, duration_s=1.0, cpu_s=1.0, published_age_s=4.0)
    points = measured(7.0, 92, 33)
    for accepted_s, every in ((5.99, "3.9 s"), (6.15, "4.3 s"), (8.999, "9.9 s"), (16, "24 s")):
        sentence = choice_sentence(Frontier((fast,), {}, points, 60), accepted_s)
        assert f"a batch every {every}. " in sentence


def test_a_share_below_one_percent_of_a_core_is_not_shown_as_zero(tmp_path: Path) -> None:
    """The table and the finding about the CPU cost write shares in the same way."""
    cheap = BatchModel("full", 1e6, duration_s=1.0, cpu_s=1.4, published_age_s=4.0)
    data = DataDir(tmp_path)
    nothing = compare(read_outputs(data, SqliteStore(data.database)), 60)
    found = replace(nothing, frontier=Frontier((cheap,), {}, measured(1.5, 92, 33), 60))
    rows = {row[0]: row[1:] for row in frontier_section(found).tables[0].rows}
    assert rows["30 minutes"] == ("batch every 3,592 s", "1,800 s", "1", "0.04 %")


def test_without_costs_or_runs_the_sentence_names_what_is_missing() -> None:
    points = measured(1.5, 92, 33)
    assert "needs a batch run" in frontier_sentences(Frontier((), {}, points, 60))[0]
    found = frontier_sentences(Frontier((MODEL,), {}, points.iloc[1:], 60))
    assert "one full minute" in found[0]


def with_ages(comparison: Comparison, opened: float, batch: float) -> Comparison:
    ages = {STREAM_OPEN: opened, STREAM_FINAL: 92.0, BATCH: batch}
    return replace(
        comparison,
        freshness={name: Freshness(age, age, age, age, 60) for name, age in ages.items()},
        frontier=Frontier((MODEL,), {}, measured(opened, 92, batch), 60),
        span=(NOON, NOON),
    )


def test_the_headline_names_agreement_freshness_and_cost(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    nothing = compare(read_outputs(data, SqliteStore(data.database)), 60)
    assert headline(nothing) == "Nothing to compare yet."
    windows = agreement(*[(EQUAL, "")] * 52)
    found = replace(with_ages(nothing, 1.5, 53.5), agreement=windows)
    assert headline(found) == (
        "Both paths agree on all 52 windows. The stream's open windows are 52.0 s fresher than a "
        "batch every 60 s. The stream uses 1.7 times the CPU of the batch."
    )
    differ = agreement((DIFFERS, LATE), (DIFFERS, UNEXPLAINED), (EQUAL, ""))
    found = replace(with_ages(nothing, 30, 20), agreement=differ)
    assert headline(found) == (
        "1 window differs, cause unknown. A batch every 60 s is 10.0 s fresher than the stream's "
        "open windows. The stream uses 1.7 times the CPU of the batch."
    )


def test_the_headline_names_the_path_that_costs_more_if_both_are_equally_fresh(
    tmp_path: Path,
) -> None:
    """The stream costs 1000 CPU seconds per hour, the batch 600."""
    data = DataDir(tmp_path)
    nothing = compare(read_outputs(data, SqliteStore(data.database)), 60)
    found = replace(with_ages(nothing, 30.02, 29.98), agreement=agreement((EQUAL, "")))
    assert headline(found) == (
        "Both paths agree on the 1 window. The stream's open windows and a batch every 60 s are "
        "equally fresh. The stream uses 1.7 times the CPU of the batch."
    )


def test_the_headline_and_the_finding_agree_on_which_path_costs_more(tmp_path: Path) -> None:
    """With a factor of less than 1.05, both call the costs equal."""
    data = DataDir(tmp_path)
    nothing = compare(read_outputs(data, SqliteStore(data.database)), 60)
    for costs, in_headline, in_finding in (
        (
            (1020.0, 1000.0),
            "The stream and the batch use about the same CPU.",
            "The stream and a batch every 60 s use about the same CPU.",
        ),
        (
            (500.0, 1500.0),
            "The batch uses 3.0 times the CPU of the stream.",
            "A batch every 60 s uses 3.0 times the CPU of the stream.",
        ),
    ):
        points = measured(1.5, 92, 53.5)
        points["cpu_s_per_hour"] = [costs[0], costs[0], costs[1]]
        found = replace(
            with_ages(nothing, 1.5, 53.5),
            agreement=agreement((EQUAL, "")),
            frontier=Frontier((MODEL,), {}, points, 60),
            cost=nothing.cost.assign(cpu_s_per_hour=costs),
        )
        assert headline(found).endswith(f"s. {in_headline}")
        assert findings(found)[2].sentence == in_finding


def test_the_headline_calls_no_difference_explained_without_evidence(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    nothing = compare(read_outputs(data, SqliteStore(data.database)), 60)
    for cause, sentence in (
        (LATE, "2 of 3 windows differ, all explained."),
        (NOT_RECORDED, "2 of 3 windows differ, evidence not recorded for 1."),
    ):
        differ = agreement((DIFFERS, LATE), (DIFFERS, cause), (EQUAL, ""))
        found = replace(with_ages(nothing, 1.5, 53.5), agreement=differ)
        assert headline(found).startswith(sentence)


def test_the_choice_for_an_accepted_age_is_a_sentence() -> None:
    """With 30 s of age, 4 s of them at the publication, a batch can run every 52 s."""
    found = Frontier((MODEL,), {}, measured(1.5, 92, 33), 60)
    assert choice_sentence(found) == (
        "For a median age of 30 s or less, the cheapest choice is a batch every 52 s. It costs 692 "
        "CPU seconds per hour. The stream costs 1,000 CPU seconds per hour."
    )
    stream = choice_sentence(found, 5)
    assert "is the stream's open windows. It costs 1,000 CPU" in stream
    assert choice_sentence(found, 1) == "No result has a median age of 1.0 s or less."
    assert choice_sentence(Frontier((), {}, measured(1.5, 92, 33), 60)) == ""
    incremental = replace(MODEL, mode="incremental", cpu_s=MODEL.cpu_s / 2)
    both = choice_sentence(Frontier((MODEL, incremental), {}, measured(1.5, 92, 33), 60))
    assert "the cheapest choice is an incremental batch every 52 s." in both


def test_no_choice_is_named_while_the_stream_is_unknown(tmp_path: Path) -> None:
    """Only a batch is known. A sentence above says that there is no cost curve yet."""
    points = measured(1.5, 92, 33)
    found = Frontier((MODEL,), {}, points[points["result"] == BATCH], 60)
    assert choice_sentence(found) == ""
    data = DataDir(tmp_path)
    nothing = compare(read_outputs(data, SqliteStore(data.database)), 60)
    section = frontier_section(replace(nothing, frontier=found))
    assert section.lines == frontier_sentences(found)
    assert section.tables[0].rows == ()


def test_a_replay_as_recorded_has_one_reason_why_ages_are_not_measured(tmp_path: Path) -> None:
    """No section promises ages that will never come, and no caption names a line without data."""
    data = DataDir(tmp_path)
    nothing = compare(read_outputs(data, SqliteStore(data.database)), 60)
    recorded = replace(
        nothing,
        replayed_as_recorded=True,
        frontier=Frontier((), {}, measured(1.5, 92, 33).iloc[:0], 60),
        watermarks=watermarks(
            lags({-1: 9, 3: 1}, {-1: 9, 3: 1}),
            status(timedelta(minutes=1)),
            None,
            is_live_pace=False,
        ),
    )
    found = {section.key: section for section in sections(recorded)}
    assert NO_AGES.endswith("this replay keeps the original timestamps of the recording.")
    assert found["frontier"].lines == (NO_AGES,)
    assert found["freshness"].lines == (NO_AGES,)
    assert found["detection"].lines[0] == NO_AGES
    assert found["watermark"].lines[1:] == (NO_AGES,)
    assert "lines" not in found["frontier"].figure_note
    assert "Dashed" not in found["watermark"].figure_note
    live = replace(
        recorded,
        replayed_as_recorded=False,
        frontier=Frontier((MODEL,), {}, measured(1.5, 92, 33), 60),
    )
    live = replace(
        live,
        watermarks=watermarks(
            lags({-1: 9, 3: 1}, {-1: 9, 3: 1}),
            status(timedelta(minutes=1)),
            62.0,
            is_live_pace=True,
        ),
    )
    shown = {section.key: section for section in sections(live)}
    assert not any(NO_AGES in section.lines for section in shown.values())
    assert "lines are the model" in shown["frontier"].figure_note
    assert "Dashed" in shown["watermark"].figure_note
