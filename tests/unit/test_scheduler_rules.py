"""The rules of the scheduler: when the next run is due, when one is ended, and its status."""

from fractions import Fraction
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import processes
from pipeline.batch.job import EXIT_NO_DATA
from pipeline.batch.scheduler import Scheduler, must_end, next_due, status_of
from pipeline.service import Service
from pipeline.settings import Settings

#: Quarters of a second: floats hold them exactly.
quarters = st.integers(0, 4 * 10**9).map(lambda n: n / 4)
intervals = st.integers(1, 40_000).map(lambda n: n / 4)


def test_the_next_run_is_one_interval_after_the_last_one_was_due() -> None:
    assert next_due(due=1000, interval=600, now=1006.41) == 1600


def test_due_moments_that_passed_during_a_long_run_are_skipped() -> None:
    assert next_due(due=1000, interval=600, now=2900) == 3400


def test_a_run_that_ends_exactly_when_the_next_is_due_is_followed_at_once() -> None:
    assert next_due(due=1000, interval=600, now=1600) == 1600
    assert next_due(due=1000, interval=600, now=2200) == 2200


def test_a_clock_that_is_set_back_starts_no_second_run_at_once() -> None:
    assert next_due(due=1000, interval=600, now=400) == 1600


@given(due=quarters, interval=intervals, took=quarters)
def test_the_next_run_is_due_at_the_first_moment_of_the_fixed_rate_that_has_not_passed(
    due: float, interval: float, took: float
) -> None:
    now = due + took
    following = next_due(due, interval, now)
    steps = Fraction(following - due) / Fraction(interval)
    assert steps.denominator == 1
    assert steps >= 1
    assert following >= now
    assert steps == 1 or following - interval < now


@given(interval=intervals, runs=st.lists(quarters.map(lambda q: q % 5000), max_size=30))
def test_the_rate_never_drifts_however_long_the_runs_take(
    interval: float, runs: list[float]
) -> None:
    due = began = 1_764_651_600.25
    for took in runs:
        due = next_due(due, interval, due + took)
    assert (Fraction(due) - Fraction(began)) % Fraction(interval) == 0


OK, NOTHING = {"status": "ok", "run": "r"}, {"status": "no_data", "run": "r"}


@pytest.mark.parametrize(
    ("exit_code", "ended_as", "result", "status"),
    [
        (0, None, OK, "ok"),
        (0, "stopped", OK, "ok"),  # it had completed before the signal
        (0, "timeout", OK, "ok"),
        (0, None, {}, "failed"),  # it reported nothing, so it published nothing
        (0, None, NOTHING, "failed"),
        (EXIT_NO_DATA, None, NOTHING, "no_data"),
        (EXIT_NO_DATA, None, {}, "failed"),
        (EXIT_NO_DATA, None, OK, "failed"),
        (1, None, {}, "failed"),
        (1, None, OK, "failed"),
        (-9, None, {}, "failed"),  # killed by another process
        (143, None, {}, "failed"),
        (-15, "stopped", {}, "stopped"),
        (143, "stopped", {}, "stopped"),
        (1, "stopped", {}, "stopped"),
        (-9, "timeout", {}, "timeout"),
        (137, "timeout", OK, "timeout"),
    ],
)
def test_the_status_of_a_run_follows_from_its_exit_status_its_result_and_who_ended_it(
    exit_code: int, ended_as: str | None, result: dict[str, str], status: str
) -> None:
    assert status_of(exit_code, ended_as, result) == status


def test_a_run_is_ended_when_the_service_stops_or_after_its_deadline() -> None:
    assert must_end(now=99, deadline=100, stopping=False) is None
    assert must_end(now=100, deadline=100, stopping=False) is None
    assert must_end(now=100.25, deadline=100, stopping=False) == "timeout"
    assert must_end(now=99, deadline=100, stopping=True) == "stopped"
    assert must_end(now=101, deadline=100, stopping=True) == "stopped"


def test_no_run_continues_after_a_fault_of_its_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service("batch_scheduler", Settings(data_dir=tmp_path))
    scheduler = Scheduler(service)
    monkeypatch.setattr(scheduler, "_rows", lambda: 1)
    monkeypatch.setattr(scheduler, "_command", lambda *_: ["sh", "-c", "sleep 60 & wait"])
    monkeypatch.setattr(processes, "tree_cost", lambda _pid: 1 / 0)
    before = set(psutil.Process().children(recursive=True))  # other tests of this worker have some
    with pytest.raises(ZeroDivisionError):
        scheduler.run()
    assert set(psutil.Process().children(recursive=True)) <= before
