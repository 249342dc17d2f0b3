"""What other watermarks would have dropped: exact at whole seconds."""

import math
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare.watermark import configured_s, watermarks
from pipeline.ingest.lags import LONGEST, MICRO_BATCHES, NEWEST, bucket
from pipeline.settings import Settings


def status(watermark: timedelta) -> dict[str, dict[str, Any]]:
    settings = Settings(watermark=watermark).model_dump(mode="json")
    return {"spark_processor": {"settings": settings}}


MINUTE = status(timedelta(minutes=1))


def lags(newest: dict[int, int], micro_batches: dict[int, int]) -> pd.DataFrame:
    rows = [(NEWEST, *pair) for pair in newest.items()]
    rows += [(MICRO_BATCHES, *pair) for pair in micro_batches.items()]
    return pd.DataFrame(rows, columns=["behind", "bucket", "count"])


@settings(max_examples=40)
@given(
    st.lists(st.integers(-(10**6), 700 * 10**6), min_size=1, max_size=60),
    st.sampled_from([0, 1, 2, 59, 60, 61, 599, 600]),
)
def test_the_bound_counts_each_trade_that_is_at_least_a_watermark_behind(
    micros: list[int], watermark: int
) -> None:
    behind = [timedelta(microseconds=n) for n in micros]
    counts: dict[int, int] = {}
    for lag in behind:
        counts[bucket(lag)] = counts.get(bucket(lag), 0) + 1
    found = watermarks(lags(counts, {}), MINUTE, 90.0, is_live_pace=True)
    row = found.row(watermark)
    assert row is not None
    assert row["at_most"] == sum(lag >= timedelta(seconds=watermark) for lag in behind)
    assert found.trades == len(micros)
    lossless = [w for w in range(LONGEST + 1) if all(lag < timedelta(seconds=w) for lag in behind)]
    assert found.lossless_s == (lossless[0] if lossless else None)


def test_the_estimate_and_the_age_of_final_windows() -> None:
    found = watermarks(
        lags({-1: 90, 0: 5, 1: 4, 2: 1}, {-1: 98, 1: 2}), MINUTE, 92.0, is_live_pace=True
    )
    assert (found.trades, found.current_s, found.lossless_s) == (100, 60.0, 3)
    rows = found.table.head(4)
    assert rows["at_most"].tolist() == [10, 5, 1, 0]
    assert rows["estimate"].tolist() == [2, 2, 0, 0]
    assert rows["final_age_s"].tolist() == [32.0, 33.0, 34.0, 35.0]
    assert len(found.table) == LONGEST + 1


def test_an_age_is_unknown_without_the_current_age_or_the_current_watermark() -> None:
    counts = lags({-1: 3}, {-1: 3})
    assert watermarks(counts, MINUTE, None, is_live_pace=True).table["final_age_s"].isna().all()
    found = watermarks(counts, {}, 90.0, is_live_pace=True)
    assert found.current_s is None
    assert found.table["final_age_s"].isna().all()
    assert found.lossless_s == 0


def test_without_trades_nothing_is_lossless() -> None:
    assert watermarks(lags({}, {}), MINUTE, 90.0, is_live_pace=True).lossless_s is None


def test_the_estimate_is_unknown_if_the_feed_has_another_pace() -> None:
    found = watermarks(lags({-1: 3, 70: 1}, {-1: 3, 70: 1}), MINUTE, None, is_live_pace=False)
    assert found.table["estimate"].isna().all()
    assert found.lossless_s == 71


def test_the_table_lists_the_current_watermark() -> None:
    found = watermarks(
        lags({-1: 3}, {-1: 3}), status(timedelta(seconds=7)), 90.0, is_live_pace=True
    )
    assert 7 in found.listed["watermark_s"].tolist()
    longer = watermarks(
        lags({-1: 3}, {-1: 3}), status(timedelta(hours=2)), 7300.0, is_live_pace=True
    )
    assert longer.row(7200) is None
    assert longer.table["final_age_s"].iloc[60] == 160


@pytest.mark.parametrize("text", [None, 60, "soon", "NaT", {}])
def test_a_watermark_that_is_not_reported_is_unknown(text: object) -> None:
    assert configured_s({"spark_processor": {"settings": {"watermark": text}}}) is None
    assert configured_s({"spark_processor": {"settings": text}}) is None
    assert math.isclose(configured_s(status(timedelta(hours=2))) or 0, 7200)
