"""When the page compares: seldom, for those who look, without letting anybody wait."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from page import background, child
from page.background import Compared, Comparer, next_span, rest
from page.child import ChildError
from pipeline import times
from pipeline.outputs import DataDir
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


def test_comparisons_take_a_twentieth_of_a_core_at_most() -> None:
    assert rest(0.1) == background.LEAST_REST_SECONDS
    for cpu_s in (1.0, 8.0, 60.0):
        assert cpu_s / (cpu_s + rest(cpu_s)) <= 0.05 + 1e-9


def test_a_span_never_tried_is_compared_at_once() -> None:
    kept = {"1 h": Compared(ended=90.0)}
    assert next_span({"1 h": 99.0, "6 h": 99.0}, kept, now=100.0, rest_until=300.0) == "6 h"


def test_nothing_is_compared_again_before_the_rest_is_over() -> None:
    kept = {"1 h": Compared(ended=90.0)}
    assert next_span({"1 h": 99.0}, kept, now=100.0, rest_until=101.0) is None
    assert next_span({"1 h": 99.0}, kept, now=101.0, rest_until=101.0) == "1 h"


def test_spans_take_turns_whoever_asks() -> None:
    kept = {"1 h": Compared(ended=90.0), "6 h": Compared(ended=60.0)}
    assert next_span({"1 h": 99.0, "6 h": 95.0}, kept, now=100.0, rest_until=0.0) == "6 h"


def test_what_nobody_looks_at_is_not_compared() -> None:
    assert next_span({"1 h": 0.0}, {}, now=100.0, rest_until=0.0) is None


def waited(comparer: Comparer, span: str) -> Compared:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = comparer.latest(span)
        if found.digest or found.problem:
            return found
        time.sleep(0.05)
    pytest.fail("no comparison")


def test_a_comparison_comes_from_a_process_of_its_own_and_nobody_waits(tmp_path) -> None:
    data = DataDir(tmp_path)
    page_data.disputed(data, times.now())
    comparer = Comparer(tmp_path, 60)
    began = time.monotonic()
    first = comparer.latest("1 h")
    assert time.monotonic() - began < 0.5
    assert first.digest is None
    assert first.asked_at is not None
    found = waited(comparer, "1 h")
    assert found.digest is not None
    assert found.digest.answers[0].sentence.startswith("UNEXPLAINED: 2 windows")
    assert comparer.latest("1 h") is found


def test_a_failure_is_said_and_the_last_good_comparison_stays(tmp_path, monkeypatch) -> None:
    page_data.sample(DataDir(tmp_path), times.now())
    monkeypatch.setattr(background, "LEAST_REST_SECONDS", 0.0)
    monkeypatch.setattr(background, "MOST_SHARE", 1.0)
    comparer = Comparer(tmp_path, 60)
    good = waited(comparer, "1 h").digest
    (tmp_path / "stream_live.csv").write_text("a,b\n1,2\n")
    end = time.monotonic() + 60
    while not (found := comparer.latest("1 h")).problem and time.monotonic() < end:
        good = found.digest
        time.sleep(0.05)
    assert "has no column window_start" in str(found.problem)
    assert found.digest is good is not None
    assert found.tried_at is not None


def test_a_process_that_dies_is_said_with_its_last_words(tmp_path, monkeypatch) -> None:
    def dying(*_: str, patience_s: float) -> bytes:
        raise ChildError("ended with status 1, no memory")

    monkeypatch.setattr(child, "run", dying)
    found = waited(Comparer(Path(tmp_path), 60), "1 h")
    assert found.problem == "the comparison ended with status 1, no memory"


def test_how_long_a_span_is_awaited_counts_from_when_somebody_came_to_look(
    tmp_path, monkeypatch
) -> None:
    """Not from a look of days ago that was given up before it was compared."""
    monkeypatch.setattr(background, "next_span", lambda *_: None)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    comparer = Comparer(Path(tmp_path), 60)
    first = comparer.latest("1 h").asked_at
    clock[0] += background.WANTED_SECONDS - 1
    assert comparer.latest("1 h").asked_at == first
    clock[0] += background.WANTED_SECONDS + 1
    again = comparer.latest("1 h").asked_at
    assert first is not None
    assert again is not None
    assert again > first
