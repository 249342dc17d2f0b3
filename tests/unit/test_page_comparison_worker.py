"""When the page compares the paths: at a limited rate, for spans in view, in a child process."""

import time
from datetime import UTC, datetime
from pathlib import Path

from page import comparison_worker, worker_process
from page.comparison_worker import Comparer, LatestComparison, next_span, rest
from page.pace import Pace
from page.worker_process import WorkerError
from pipeline import times
from pipeline.data_dir import DataDir
from tests import page_data
from tests.conftest import wait_until

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


def test_comparisons_take_five_percent_of_a_core_at_most() -> None:
    assert rest(0.1, Pace()) == Pace().comparison_rest
    for cpu_s in (1.0, 8.0, 60.0):
        assert cpu_s / (cpu_s + rest(cpu_s, Pace())) <= 0.05 + 1e-9


def test_a_new_span_is_compared_at_once() -> None:
    kept = {"1 h": LatestComparison(ended=90.0)}
    assert next_span({"1 h": 99.0, "6 h": 99.0}, kept, now=100.0, rest_until=300.0) == "6 h"


def test_nothing_is_compared_again_before_the_rest_is_over() -> None:
    kept = {"1 h": LatestComparison(ended=90.0)}
    assert next_span({"1 h": 99.0}, kept, now=100.0, rest_until=101.0) is None
    assert next_span({"1 h": 99.0}, kept, now=101.0, rest_until=101.0) == "1 h"


def test_spans_take_turns() -> None:
    kept = {"1 h": LatestComparison(ended=90.0), "6 h": LatestComparison(ended=60.0)}
    assert next_span({"1 h": 99.0, "6 h": 95.0}, kept, now=100.0, rest_until=0.0) == "6 h"


def test_a_span_without_viewers_is_not_compared() -> None:
    assert next_span({"1 h": 0.0}, {}, now=100.0, rest_until=0.0) is None


def waited(comparer: Comparer, span: str) -> LatestComparison:
    def found() -> LatestComparison | None:
        latest = comparer.latest(span)
        return latest if latest.data or latest.problem else None

    latest = wait_until(found, 60, "a comparison")
    assert latest is not None
    return latest


def test_a_comparison_comes_from_a_child_process_and_no_viewer_waits(tmp_path) -> None:
    data = DataDir(tmp_path)
    page_data.disputed(data, times.now())
    comparer = Comparer(tmp_path, 60, Pace())
    began = time.monotonic()
    first = comparer.latest("1 h")
    assert time.monotonic() - began < 0.5
    assert first.data is None
    assert first.asked_at is not None
    found = waited(comparer, "1 h")
    assert found.data is not None
    assert found.data.findings[0].sentence.startswith("2 windows differ, cause unknown")
    assert comparer.latest("1 h") is found
    # Until another span is compared, this one is shown in its place.
    assert comparer.kept("6 h", "1 h") is None
    shown = comparer.kept("1 h", "6 h")
    assert shown is not None
    assert (shown.data, shown.span, shown.instead_of) == (found.data, "1 h", "6 h")


def test_a_failure_is_reported_and_the_last_good_comparison_stays(tmp_path) -> None:
    page_data.sample(DataDir(tmp_path), times.now())
    comparer = Comparer(tmp_path, 60, Pace(comparison_rest=0.0, comparison_share=1.0))
    good = waited(comparer, "1 h").data
    (tmp_path / "stream_live.csv").write_text("a,b\n1,2\n")
    end = time.monotonic() + 60
    while not (found := comparer.latest("1 h")).problem and time.monotonic() < end:
        good = found.data
        time.sleep(0.05)
    assert "has no column window_start" in str(found.problem)
    assert found.data is good is not None
    assert found.tried_at is not None


def test_a_failed_child_process_is_reported_with_its_last_line(tmp_path, monkeypatch) -> None:
    def dying(*_: str, timeout_s: float) -> bytes:
        raise WorkerError("MemoryError")

    monkeypatch.setattr(worker_process, "run", dying)
    found = waited(Comparer(Path(tmp_path), 60, Pace()), "1 h")
    assert found.problem == "MemoryError"


def test_the_waiting_time_counts_from_when_a_viewer_came(tmp_path, monkeypatch) -> None:
    """Not from an earlier visit that ended before the comparison."""
    monkeypatch.setattr(comparison_worker, "next_span", lambda *_: None)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    comparer = Comparer(Path(tmp_path), 60, Pace())
    first = comparer.latest("1 h").asked_at
    clock[0] += comparison_worker.WANTED_SECONDS - 1
    assert comparer.latest("1 h").asked_at == first
    clock[0] += comparison_worker.WANTED_SECONDS + 1
    again = comparer.latest("1 h").asked_at
    assert first is not None
    assert again is not None
    assert again > first
