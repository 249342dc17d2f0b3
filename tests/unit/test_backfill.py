"""Which trade ids the producer requests, and what an answer means."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.backfill import (
    ATTEMPTS,
    EMPTY_ATTEMPTS,
    GRACE_SECONDS,
    Gap,
    MissingTrades,
)
from pipeline.ingest.id_ranges import IdRanges

NOON = datetime(2025, 12, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def at(trade_id: int) -> datetime:
    """Return the event time of a trade: one trade a second."""
    return NOON + timedelta(seconds=trade_id % 1000)


class Exchange:
    """Serves trades below an id, as the exchange does, in small pages."""

    def __init__(self, served: set[int], page: int = 3) -> None:
        self.served = served
        self.page = page
        self.requests = 0

    def below(self, after: int) -> list[int]:
        self.requests += 1
        return sorted((number for number in self.served if number < after), reverse=True)[
            : self.page
        ]


def recover(missing: MissingTrades, exchange: Exchange, now: float = 0.0) -> tuple[set[int], float]:
    """Ask until nothing is left to ask for; return the published ids and the time."""
    published: set[int] = set()
    for _ in range(1000):
        gap = missing.next_gap(now)
        if gap is None:
            if not missing.gaps():
                return published, now
            now += 1
            continue
        page = exchange.below(gap.last + 2)
        for number in reversed(page):
            if missing.is_missing(number) and not missing.is_too_old(at(number)):
                missing.on_recovered(number)
                published.add(number)
        too_old = bool(page) and missing.is_too_old(at(page[0]))
        missing.settle(gap, page, now, too_old=too_old)
    raise AssertionError("asks without end")


def received(*ids: int, max_age: timedelta = DAY) -> MissingTrades:
    missing = MissingTrades(max_age)
    for number in ids:
        missing.on_received(number, at(number))
    return missing


def test_a_first_start_recovers_nothing() -> None:
    missing = received(1000)
    assert missing.next_gap(100.0) is None
    assert received(1000, 1001, 1002).next_gap(100.0) is None


def test_a_gap_is_requested_after_the_grace_time() -> None:
    missing = received(1, 2, 6)
    assert missing.next_gap(10.0) is None
    assert missing.next_gap(10.0 + GRACE_SECONDS) == Gap(3, 5)


def test_trades_in_another_order_close_their_gap_themselves() -> None:
    missing = received(1, 4, 3, 2)
    missing.next_gap(0.0)
    assert missing.gaps() == []


def test_the_next_page_of_a_gap_is_requested_without_a_further_grace_time() -> None:
    missing = received(1, 1000)
    published, end = recover(missing, Exchange(served=set(range(1, 1001)), page=100))
    assert published == set(range(2, 1000))
    assert end == GRACE_SECONDS


def test_the_newest_gap_is_requested_first() -> None:
    missing = received(1, 5, 9)
    missing.next_gap(0.0)
    assert missing.next_gap(60.0) == Gap(6, 8)


def test_without_a_trade_from_the_feed_nothing_is_requested() -> None:
    missing = MissingTrades(DAY)
    published = IdRanges()
    published.add(1, 5)
    published.add(9)
    missing.restore(published)
    assert missing.next_gap(0.0) is None
    missing.on_received(9, at(9))
    missing.next_gap(0.0)
    assert missing.next_gap(60.0) == Gap(6, 8)


@given(st.sets(st.integers(1, 80), min_size=1), st.sets(st.integers(1, 80)), st.integers(2, 10))
def test_all_served_trades_between_two_received_ones_are_published_once(
    ids: set[int], lost: set[int], page: int
) -> None:
    """The exchange has no trade with an id in `lost`, apart from the received ones."""
    missing = received(*sorted(ids))
    exchange = Exchange(set(range(1, 81)) - (lost - ids), page)
    published, now = recover(missing, exchange)
    between = set(range(min(ids), max(ids) + 1))
    assert published == (between & exchange.served) - ids
    requests = exchange.requests
    assert recover(missing, exchange, now + 1000)[0] == set()
    assert exchange.requests == requests  # ids that are not served are not asked for again


@given(st.sets(st.integers(1, 80), min_size=1), st.integers(1, 80))
def test_trades_that_the_exchange_no_longer_serves_end_the_search(
    ids: set[int], oldest: int
) -> None:
    missing = received(*sorted(ids))
    exchange = Exchange(set(range(oldest, 81)))
    published, _ = recover(missing, exchange)
    between = set(range(min(ids), max(ids) + 1))
    assert published == (between & exchange.served) - ids
    assert exchange.requests <= len(between) + ATTEMPTS * len(ids)


def test_a_gap_is_requested_again_if_the_interface_is_behind_the_feed() -> None:
    missing = received(1, 2, 6)
    missing.next_gap(0.0)
    gap = missing.next_gap(10.0)
    assert gap is not None
    missing.on_recovered(3)
    assert missing.settle(gap, [3, 2, 1], 10.0, too_old=False) == 0  # 6 is not in it yet
    assert missing.gaps() == [Gap(4, 5)]
    assert missing.next_gap(10.5) is None
    assert recover(missing, Exchange({1, 2, 3, 4, 5, 6}), 11.0)[0] == {4, 5}


def test_an_interface_that_stays_behind_is_given_up_after_about_a_minute() -> None:
    missing, exchange = received(1, 2, 6), Exchange({1, 2})
    published, now = recover(missing, exchange)
    assert (published, exchange.requests) == (set(), ATTEMPTS)
    assert 55 < now < 75


def test_empty_answers_end_the_search_below_the_gap_too() -> None:
    missing, exchange = received(1, 4, 7, 10), Exchange(set())
    recover(missing, exchange)
    assert exchange.requests < EMPTY_ATTEMPTS * 3


@pytest.mark.parametrize("first", [[*range(3000, 2001, -1), 5], [3000, 5]])
def test_one_answer_with_a_wrong_low_id_does_not_hide_the_trades_that_it_jumps_over(
    first: list[int],
) -> None:
    class Wrong(Exchange):
        def below(self, after: int) -> list[int]:
            honest = super().below(after)
            return first if self.requests == 1 else honest

    missing = received(10, 1500, 3000)
    published, _ = recover(missing, Wrong(set(range(1, 3001)), page=1000))
    assert published == set(range(11, 3000)) - {1500}


@pytest.mark.parametrize("answers", [[[], [], [3000, 5]], [[3000, 5], [3000, 7], [3000, 9]]])
def test_only_equal_answers_in_a_row_prove_that_the_ids_in_a_jump_are_not_served(
    answers: list[list[int]],
) -> None:
    class Wrong(Exchange):
        def below(self, after: int) -> list[int]:
            honest = super().below(after)
            return answers[self.requests - 1] if self.requests <= len(answers) else honest

    published, _ = recover(received(10, 3000), Wrong(set(range(1, 3001)), page=1000))
    assert published == set(range(11, 3000))


def test_a_jump_over_more_ids_than_a_page_is_accepted_after_equal_answers() -> None:
    missing, exchange = received(1, 5002), Exchange({1, 2, 3, 5000, 5001, 5002})
    published, now = recover(missing, exchange)
    assert published == {2, 3, 5000, 5001}
    assert exchange.requests == 1 + EMPTY_ATTEMPTS
    assert now < 10 + GRACE_SECONDS


def test_a_trade_inside_a_gap_that_was_given_up_makes_a_new_gap() -> None:
    """An id far ahead of all others must not hide the gaps that come later."""
    missing = received(1, 2, 10**18)
    recover(missing, Exchange({1, 2}))
    missing.on_received(3, at(3))
    missing.on_received(7, at(7))
    assert missing.gaps() == [Gap(4, 6)]
    assert recover(missing, Exchange(set(range(1, 8))), 500.0)[0] == {4, 5, 6}


def test_trades_beyond_the_age_are_left_out_and_end_the_search() -> None:
    missing = received(1, 100, max_age=timedelta(seconds=20))
    exchange = Exchange(set(range(1, 101)))
    assert recover(missing, exchange)[0] == set(range(80, 100))
    assert exchange.requests <= 12  # two new ids in each page


def test_the_lost_ids_are_counted_once() -> None:
    missing = received(1, 10, 20)
    lost = 0
    for _ in range(2):
        missing.next_gap(0.0)
        gap = missing.next_gap(100.0)
        assert gap is not None
        above = gap.last + 1
        lost += missing.settle(gap, [above, above - 10, 1][:2], 100.0, too_old=False)
    assert lost == 9 + 8
    assert missing.missing() == 0
