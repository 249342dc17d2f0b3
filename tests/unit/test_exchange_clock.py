"""This machine's clock against the times in the exchange's heartbeats."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.ingest.exchange_clock import ExchangeClock

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def iso(seconds: float) -> str:
    return at(seconds).isoformat().replace("+00:00", "Z")


def clock_after(ahead_s: float, delays: list[float], first: float = 0.0) -> ExchangeClock:
    """Return the clock after one heartbeat per second, each delayed.

    The exchange is ahead of this machine by `ahead_s`; the monotonic clock starts at `first`.
    """
    clock = ExchangeClock()
    for second, delay in enumerate(delays, 1):
        clock.on_heartbeat(first + second + delay, iso(second + ahead_s))
    return clock


@pytest.mark.parametrize("ahead_s", [-9.0, 0.0, 9.0])
def test_a_small_difference_is_no_problem_and_corrects_nothing(ahead_s: float) -> None:
    clock = clock_after(ahead_s, [0.1] * 5)
    assert clock.problem(5.0, at(5)) is None
    assert clock.correct(5.0, at(5)) == at(5)


def test_a_clock_that_is_behind_is_a_problem_and_corrected() -> None:
    clock = clock_after(200, [0.1] * 5, first=7000)
    text = "this machine's clock is 200 s behind the exchange. Set the clock"
    assert clock.problem(7005, at(5)) == text
    assert clock.correct(7005, at(5)) - at(205) == timedelta(seconds=-0.1)


def test_a_clock_that_is_ahead_is_a_problem_but_not_corrected() -> None:
    clock = clock_after(-200, [0.1] * 5)
    problem = clock.problem(5, at(5))
    assert problem is not None
    assert problem.startswith("this machine's clock is 200 s ahead of the exchange, or the feed")
    assert clock.correct(5, at(5)) == at(5)


def test_two_heartbeats_are_not_enough() -> None:
    clock = clock_after(200, [0.0] * 2)
    assert not clock.is_known()
    assert clock.problem(2, at(2)) is None
    assert clock.correct(2, at(2)) == at(2)


@pytest.mark.parametrize("delays", [[0.1, 40, 0.1, 0.2, 0.1], [0.0, 2.5, 0.1, 5, 9, 0.1, 0.1]])
def test_delayed_heartbeats_do_not_make_the_clock_look_ahead(delays: list[float]) -> None:
    assert clock_after(0, delays).problem(10, at(10)) is None


def test_one_wrong_heartbeat_changes_nothing() -> None:
    clock = clock_after(0, [0.1] * 4)
    clock.on_heartbeat(5, "2099-01-01T00:00:00Z")
    assert clock.problem(5, at(5)) is None
    assert clock.correct(5, at(5)) == at(5)


@pytest.mark.parametrize("time", [None, 7, "", "soon", "2026-03-01T12:00:00", [], "9" * 500])
def test_a_heartbeat_without_a_valid_time_is_ignored(time: object) -> None:
    clock = ExchangeClock()
    for second in range(5):
        clock.on_heartbeat(second, time)
    assert not clock.is_known()


def test_heartbeats_that_waited_during_a_pause_do_not_make_the_clock_look_ahead() -> None:
    clock = clock_after(0, [0.1] * 5)
    for second in range(6, 306):  # read at once, after 300 s
        clock.on_heartbeat(305 + second / 100_000, iso(second))
    assert clock.problem(306, at(306)) is None


def test_after_a_jump_of_the_clock_three_further_heartbeats_are_needed() -> None:
    clock = clock_after(0, [0.1] * 5)
    assert clock.problem(5, at(5)) is None
    assert clock.problem(6, at(6 - 200)) is None
    assert not clock.is_known()
    for second in (6, 7, 8):
        clock.on_heartbeat(second + 0.1, iso(second))
    assert "200 s behind" in str(clock.problem(9, at(9 - 200)))


def test_a_suspension_that_stops_the_monotonic_clock_does_not_make_the_clock_look_ahead() -> None:
    clock = clock_after(0, [0.1] * 5)
    assert clock.problem(5, at(5)) is None
    assert clock.problem(6, at(3600)) is None
    for second in (6, 7, 8):
        clock.on_heartbeat(second + 0.1, iso(second + 3594))
    assert clock.problem(9, at(3603)) is None
