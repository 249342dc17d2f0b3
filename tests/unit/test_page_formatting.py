"""How the page writes numbers, times and ages."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pandas as pd
import pytest

from page import formatting as words

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8 s"),
        (9.94, "9.9 s"),
        (45.4, "45 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 4 * 3600, "3 d 4 h"),
        (86400, "1 d"),
        (-12, "-12 s"),
        (None, words.DASH),
        (math.nan, words.DASH),
    ],
)
def test_an_age_has_at_most_two_units(seconds, text) -> None:
    assert words.age(seconds) == text


@pytest.mark.parametrize(
    "unknown", [None, math.nan, math.inf, "", "x", True, pd.NA, pd.NaT, [], {}, "1e999"]
)
def test_what_is_not_a_finite_number_is_a_dash_in_every_form(unknown) -> None:
    for write in (words.price, words.amount, words.count, words.ratio, words.percent):
        assert write(unknown) == words.DASH
    assert words.seconds(unknown) == words.DASH


@pytest.mark.parametrize("zero", [0, 0.0, "0"])
def test_zero_is_a_number_not_unknown(zero) -> None:
    assert words.count(zero) == "0"
    assert words.price(zero) == "0.00"


@pytest.mark.parametrize(
    ("value", "text"),
    [(93120.126, "93,120.13"), ("31.76", "31.76"), (0.12345678, "0.12345678"), (1.5, "1.50")],
)
def test_a_price_has_the_decimals_its_size_asks_for(value, text) -> None:
    assert words.price(value) == text


def test_a_ratio_next_to_zero_has_no_sign_and_a_huge_one_is_short() -> None:
    assert words.ratio(-0.0001) == "0.000"
    assert words.ratio(-0.0006) == "-0.001"
    assert words.ratio(12_300_000) == "1.23e+07"


def test_a_moment_is_taken_with_its_zone_only_and_shown_in_utc() -> None:
    """A time without a zone could be any time: it is unknown."""
    assert words.moment("2026-03-01T12:00:00") is None
    assert words.moment("yesterday") is None
    assert words.moment(12) is None
    assert words.moment(pd.NaT) is None
    assert words.moment("2026-03-01T13:30:00+01:30") == NOW
    east = NOW.astimezone(timezone(timedelta(hours=9)))
    assert words.day_and_clock(words.moment(east)) == "2026-03-01 12:00:00"


def test_a_time_ahead_of_the_clock_is_said_to_be_so() -> None:
    assert words.ago(NOW - timedelta(seconds=90), NOW) == "1 min 30 s ago"
    assert words.ago(NOW + timedelta(seconds=5), NOW) == "5.0 s ahead of this clock"
    assert words.ago(None, NOW) == words.DASH


def test_text_from_a_file_is_one_line_of_bounded_length() -> None:
    assert words.text("a\n\tb") == "a b"
    assert words.text("") == words.text(None) == words.text(math.nan) == words.DASH
    assert len(words.text("x" * 5000)) == 300


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(minutes=1), "1 minute"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(hours=2), "2 hours"),
        (timedelta(days=1), "1 day"),
        (timedelta(seconds=45), "45 seconds"),
    ],
)
def test_a_length_is_said_in_its_own_unit(span, text) -> None:
    assert words.length(span) == text


@pytest.mark.parametrize(
    ("value", "write", "said"),
    [
        (3, words.count, "+3"),
        (-1234, words.count, "-1,234"),
        (0.0, words.price, "="),
        (-0.75708395, words.price, "-0.76"),
        (0.00038465, words.price, "+0.00038465"),
        (-0.25, words.amount, "-0.2500"),
        (-0.00033, words.ratio, "-0.00033"),
        (float("nan"), words.ratio, words.DASH),
        (None, words.count, words.DASH),
    ],
)
def test_a_difference_has_a_sign_and_only_nothing_is_equal(value, write, said) -> None:
    assert words.difference(value, write) == said


def test_of_two_moments_the_older_is_told() -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert words.apart(at - timedelta(seconds=40), at) == "40 s older"
    assert words.apart(at, at - timedelta(minutes=2)) == "2 min newer"
    assert words.apart(at, at) == "="
    assert words.apart(None, at) == words.DASH
