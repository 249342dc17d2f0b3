"""Z-scores of range and volume: compared with plain statistics, and equal on both paths."""

import random
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import text_files
from pipeline.batch import job
from pipeline.metrics import definitions
from pipeline.metrics.definitions import MIN_TRAILING_WINDOWS, WindowAmounts, z_scores
from pipeline.stream import windows as stream_windows

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = 60_000_000
HOUR = 60 * MINUTE

amounts = st.decimals(0, Decimal("9999999999.99999999"), places=8) | st.sampled_from(
    [Decimal(0), Decimal("1E-8"), Decimal("0.3"), Decimal("0.30000001")]
)


def minutes(ranges: Sequence[Decimal | int | str]) -> list[WindowAmounts]:
    """A window for each minute, with equal volumes."""
    return [WindowAmounts(n * MINUTE, Decimal(value), Decimal(7)) for n, value in enumerate(ranges)]


def expected(value: Decimal, before: list[Decimal]) -> Decimal | None:
    """By the definition, in fractions. Only the root is a decimal, with a hundred digits."""
    if len(before) < 10:
        return None
    exact = [Fraction(other) for other in before]
    variance = statistics.variance(exact)
    if not variance:
        return None
    distance = Fraction(value) - statistics.mean(exact)
    with localcontext(prec=100, rounding=ROUND_HALF_UP):
        square = distance**2 / variance
        size = (Decimal(square.numerator) / Decimal(square.denominator)).sqrt()
        return size.quantize(Decimal("1e-6")) * (1 if distance > 0 else -1)


def test_a_score_computed_by_hand() -> None:
    """The mean of 1 to 10 is 5.5, the sample variance 55 / 6."""
    *first, last = z_scores(minutes([*range(1, 11), 11]))
    assert first == [{"range_z": None, "volume_z": None}] * 10
    assert last == {"range_z": Decimal("1.816590"), "volume_z": None}  # all volumes are equal


def test_values_equally_far_below_and_above_the_mean_have_opposite_scores() -> None:
    values = [*range(1, 11)]
    scores = [z_scores(minutes([*values, last]))[-1]["range_z"] for last in ("5.5", "0", "11")]
    assert scores == [0, Decimal("-1.816590"), Decimal("1.816590")]


@pytest.mark.parametrize(("known", "least"), [(False, 9), (True, 10)])
def test_fewer_than_ten_windows_before_give_no_score(known: bool, least: int) -> None:
    score = z_scores(minutes([*range(least), 3]))[-1]["range_z"]
    assert (score is not None) == known
    assert MIN_TRAILING_WINDOWS == 10


def test_the_hour_before_starts_exactly_an_hour_before_the_window() -> None:
    hour = [WindowAmounts(HOUR + n, Decimal(n), Decimal(1)) for n in range(10)]
    for start, known in ((2 * HOUR, True), (2 * HOUR + 1, False)):
        *_, last = z_scores([*hour, WindowAmounts(start, Decimal(3), Decimal(1))])
        assert (last["range_z"] is not None) == known


def test_no_windows_give_no_scores() -> None:
    assert z_scores([]) == []


@settings(max_examples=150, deadline=None)
@given(
    windows=st.lists(
        st.tuples(st.sampled_from([1, 1, 1, 2, 17, 55, 200]), amounts, amounts), max_size=90
    )
)
def test_every_score_follows_the_definition_to_the_last_place(
    windows: list[tuple[int, Decimal, Decimal]],
) -> None:
    starts, minute = [], 0
    for gap, _, _ in windows:
        minute += gap
        starts.append(minute)
    given_windows = [
        WindowAmounts(start * MINUTE, price_range, volume)
        for start, (_, price_range, volume) in zip(starts, windows, strict=True)
    ]
    for number, score in enumerate(z_scores(given_windows)):
        hour = [n for n in range(number) if starts[n] >= starts[number] - 60]
        for column, values in (
            ("range_z", [price_range for _, price_range, _ in windows]),
            ("volume_z", [volume for _, _, volume in windows]),
        ):
            assert score[column] == expected(values[number], [values[n] for n in hour])


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_the_stream_in_pieces_gives_the_scores_of_the_batch_at_once(
    source: random.Random, pieces: list[int]
) -> None:
    windows = [
        WindowAmounts(
            n * MINUTE, Decimal(source.randrange(9)) / 100, Decimal(source.randrange(1, 10**9))
        )
        for n in range(sum(pieces))
    ]
    sums: list[definitions.Sums] = [{"window_start": window.start} for window in windows]
    rows = [
        {"price_range": window.price_range, "total_volume": window.total_volume}
        for window in windows
    ]
    at_once = [text_files.cells(definitions.Z_SCORES, row) for row in job.with_z_scores(sums, rows)]
    before: dict[str, dict[str, str]] = {}
    for piece in pieces:
        start = len(before)
        cells = [
            text_files.cells(
                ("window_start", "price_range", "total_volume"),
                {"window_start": EPOCH + timedelta(minutes=n), **rows[n]},
            )
            for n in range(start, start + piece)
        ]
        before |= {
            row["window_start"]: row
            for row in stream_windows.with_z_scores(before, reversed(cells))
        }
    assert [
        {name: row[name] for name in definitions.Z_SCORES} for row in before.values()
    ] == at_once
