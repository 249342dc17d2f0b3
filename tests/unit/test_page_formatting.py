"""How the page writes numbers, times and ages."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pandas as pd
import pytest

from page import formatting

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (-0.04, "0.0 s"),
        (45.4, "45 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 4 * 3600, "3 d 4 h"),
        (86400, "1 d"),
        (-12, "-12 s"),
        (None, formatting.DASH),
        (math.nan, formatting.DASH),
    ],
)
def test_an_age_has_at_most_two_units(seconds, text) -> None:
    assert formatting.age(seconds) == text


@pytest.mark.parametrize(
    "unknown", [None, math.nan, math.inf, "", "x", True, pd.NA, pd.NaT, [], {}, "1e999"]
)
def test_a_value_that_is_no_finite_number_appears_as_a_dash(unknown) -> None:
    for write in (
        formatting.price,
        formatting.amount,
        formatting.count,
        formatting.ratio,
        formatting.percent,
    ):
        assert write(unknown) == formatting.DASH


@pytest.mark.parametrize("zero", [0, 0.0, "0"])
def test_zero_is_a_number_not_unknown(zero) -> None:
    assert formatting.count(zero) == "0"
    assert formatting.price(zero) == "0.00"


@pytest.mark.parametrize(
    ("value", "text"),
    [(93120.126, "93,120.13"), ("31.76", "31.76"), (0.12345678, "0.12345678"), (1.5, "1.50")],
)
def test_a_small_price_has_more_decimals(value, text) -> None:
    assert formatting.price(value) == text


def test_a_change_of_one_cent_has_two_decimals() -> None:
    """The difference of the two floating-point numbers is below 0.01."""
    assert formatting.price(95000.12 - 95000.11, sign=True) == "+0.01"


def test_a_ratio_next_to_zero_has_no_sign_and_a_huge_one_is_short() -> None:
    assert formatting.ratio(-0.0001) == "0.000"
    assert formatting.ratio(-0.0006) == "-0.001"
    assert formatting.ratio(12_300_000) == "1.23e+07"


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (formatting.count, -0.4, "0"),
        (formatting.price, -0.000000001, "0.00000000"),
        (formatting.amount, -0.000000001, "0.00000000"),
        (formatting.ratio, -0.0004, "0.000"),
        (formatting.percent, -0.00004, "0.00 %"),
    ],
)
def test_a_number_that_is_rounded_to_zero_has_no_minus(write, value, text) -> None:
    assert write(value) == text


def test_a_time_needs_a_zone_and_is_shown_in_utc() -> None:
    """A time without a zone is unknown."""
    assert formatting.moment("2026-03-01T12:00:00") is None
    assert formatting.moment("yesterday") is None
    assert formatting.moment(12) is None
    assert formatting.moment(pd.NaT) is None
    assert formatting.moment("2026-03-01T13:30:00+01:30") == NOW
    east = NOW.astimezone(timezone(timedelta(hours=9)))
    assert formatting.day_and_clock(formatting.moment(east)) == "2026-03-01 12:00:00"


def test_a_time_in_the_future_is_not_shown_as_an_age() -> None:
    assert formatting.ago(NOW - timedelta(seconds=90), NOW) == "1 min 30 s ago"
    assert formatting.ago(NOW + timedelta(seconds=5), NOW) == "5.0 s in the future"
    assert formatting.ago(NOW + timedelta(seconds=0.4), NOW) == "just now"
    assert formatting.ago(None, NOW) == formatting.DASH


def test_text_from_a_file_is_one_line_of_bounded_length() -> None:
    assert formatting.text("a\n\tb") == "a b"
    assert (
        formatting.text("") == formatting.text(None) == formatting.text(math.nan) == formatting.DASH
    )
    assert len(formatting.text("x" * 5000)) == 300


@pytest.mark.parametrize(
    ("value", "write", "said"),
    [
        (3, formatting.count, "+3"),
        (-1234, formatting.count, "-1,234"),
        (0.0, formatting.price, "="),
        (-0.75708395, formatting.price, "-0.76"),
        (0.00038465, formatting.price, "+0.00038465"),
        (-0.25, formatting.amount, "-0.2500"),
        (-0.00033, formatting.ratio, "-0.00033"),
        (float("nan"), formatting.ratio, formatting.DASH),
        (None, formatting.count, formatting.DASH),
    ],
)
def test_a_difference_has_a_sign_and_only_zero_is_equal(value, write, said) -> None:
    assert formatting.difference(value, write) == said
