"""The sentences and tables that help to choose."""

from datetime import timedelta

import pytest

from pipeline.compare.decision import watermark_sentence
from pipeline.compare.watermark import watermarks
from tests.unit.test_compare_watermark import lags, status


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
                "a watermark of 60 s would have dropped none of 10 trades, and every "
                "shorter one at least one."
            ),
        ),
        (
            {-1: 9, 600: 1},
            60,
            "even a watermark of 600 s would have dropped at most 1 of 10 trades.",
        ),
        (
            {-1: 9, 3: 1},
            7200,
            (
                "a watermark of 4 s would have dropped none of 10 trades and made final "
                "windows 7196 s fresher."
            ),
        ),
        ({}, 60, "No lateness yet. The consumer counts it for each trade that it stores."),
    ],
)
def test_the_sentence_names_the_shortest_watermark_that_drops_nothing(
    newest: dict[int, int], current: float, sentence: str
) -> None:
    found = watermarks(lags(newest, {}), status(timedelta(seconds=current)), 92.0)
    assert watermark_sentence(found).removeprefix("On this feed, ") == sentence
