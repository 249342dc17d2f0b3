"""The comparison's pure functions, against brute force and constructed cases."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import compare
from pipeline.outputs import WINDOW_COLUMNS

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def seconds(count: float) -> datetime:
    return NOON + timedelta(seconds=count)


def publications(*pairs: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "at": pd.to_datetime([seconds(at) for at, _ in pairs], utc=True),
            "newest": pd.to_datetime([seconds(newest) for _, newest in pairs], utc=True),
        }
    )


def test_an_answer_ages_by_a_second_a_second_until_the_next_one() -> None:
    teeth = compare.sawtooth(publications((0, -10), (60, 30)), seconds(0), seconds(100))
    assert list(teeth["young"]) == [10, 30]
    assert list(teeth["old"]) == [70, 70]
    found = compare.freshness(teeth)
    assert found is not None
    assert found.mean == pytest.approx((40 * 60 + 50 * 40) / 100)
    assert (found.maximum, found.known_seconds) == (70, 100)


def test_before_the_first_answer_the_age_is_unknown() -> None:
    teeth = compare.sawtooth(publications((40, 30)), seconds(0), seconds(100))
    found = compare.freshness(teeth)
    assert found is not None
    assert found.known_seconds == 60
    assert compare.freshness(compare.sawtooth(publications(), seconds(0), seconds(9))) is None


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(-50, 150), st.integers(-300, 50)),
        min_size=1,
        max_size=12,
        unique=True,
    )
)
def test_mean_and_quantiles_agree_with_brute_force_sampling(pairs: list[tuple[int, int]]) -> None:
    found = compare.freshness(compare.sawtooth(publications(*pairs), seconds(0), seconds(100)))
    moments = np.arange(0.005, 100, 0.01)
    newest = np.full(len(moments), -np.inf)
    for at, trade in pairs:
        newest = np.where(moments >= at, np.maximum(newest, trade), newest)
    ages = (moments - newest)[np.isfinite(newest)]
    if not len(ages):
        assert found is None
        return
    assert found is not None
    assert found.mean == pytest.approx(np.mean(ages), abs=0.05)
    assert found.maximum == pytest.approx(max(ages), abs=0.05)
    near = np.sort(ages)
    for share, value in ((0.5, found.median), (0.99, found.p99)):
        # Where no time is spent between two ages, any value between them is a quantile.
        place = share * (len(near) - 1)
        low = near[max(0, int(place) - 2)] - 0.05
        high = near[min(len(near) - 1, int(place) + 3)] + 0.05
        assert low <= value <= high


def window(minute: int, **cells: str) -> dict[str, str]:
    start, end = (NOON + timedelta(minutes=minute + more) for more in (0, 1))
    text = {
        "window_start": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "window_end": f"{end:%Y-%m-%dT%H:%M:%SZ}",
    }
    return dict.fromkeys(WINDOW_COLUMNS, "") | {"trade_count": "5"} | text | cells


def frame(*rows: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(WINDOW_COLUMNS), dtype=str)


def verdicts(
    final: pd.DataFrame, still_open: pd.DataFrame, batch: pd.DataFrame, newest: str | None
) -> list[str]:
    return list(compare.agreement(final, still_open, batch, newest)["verdict"])


def test_each_verdict_in_a_constructed_case() -> None:
    final = frame(window(0), window(1), window(2), window(5))
    still_open = frame(window(6))
    batch = frame(window(0), window(1, trade_count="6"), window(3), window(6))
    found = compare.agreement(final, still_open, batch, "2025-06-01T12:04:30Z")
    assert list(found["verdict"]) == [
        compare.EQUAL,
        compare.DIFFERS,
        compare.ONLY_STREAM,
        compare.ONLY_BATCH,
        compare.NOT_YET_IN_A_BATCH,
        compare.NOT_YET_FINAL,
    ]
    assert list(found["columns"]) == ["", "trade_count", "", "", "", ""]


def test_a_window_that_the_run_saw_in_part_is_not_yet_in_a_batch() -> None:
    final, batch = frame(window(0)), frame(window(0, trade_count="2"))
    assert verdicts(final, frame(), batch, "2025-06-01T12:00:30Z") == [compare.NOT_YET_IN_A_BATCH]
    assert verdicts(final, frame(), batch, "2025-06-01T12:01:00Z") == [compare.DIFFERS]


def test_time_of_receipt_and_of_writing_are_no_difference() -> None:
    final = frame(window(0, written_at="a", last_receipt_time="b"))
    assert verdicts(final, frame(), frame(window(0)), "2025-06-01T13:00:00Z") == [compare.EQUAL]


def test_without_anything_there_is_nothing_to_compare() -> None:
    assert verdicts(frame(), frame(), frame(), None) == []
