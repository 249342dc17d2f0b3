"""The latency of each step."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from pipeline import histogram
from pipeline.compare.latency import STEPS, waterfall

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def seconds(count: float) -> datetime:
    return NOON + timedelta(seconds=count)


def moments(*at: float) -> pd.Series:
    return pd.Series(pd.to_datetime([seconds(second) for second in at], utc=True))


def test_each_step_is_measured_between_its_two_timestamps() -> None:
    noted = pd.DataFrame(
        [
            ("event_to_receipt", histogram.bucket(0.2), 9),
            ("receipt_to_stored", histogram.bucket(3), 9),
        ],
        columns=["leg", "bucket", "count"],
    )
    micro_batches = pd.DataFrame(
        {
            "rows": [1, 3, 0],
            "first_receipt": moments(1, 2, 2).where(np.array([True, True, False])),
            "last_receipt": moments(1, 4, 2).where(np.array([True, True, False])),
            "published_at": moments(3, 6, 7),
        }
    )
    windows = pd.DataFrame(
        [("2025-06-01T12:00:00Z", "open_to_final", json.dumps({histogram.bucket(70): 5}))],
        columns=["window_start", "leg", "counts"],
    )
    final = pd.DataFrame(
        {
            "last_trade_time": moments(50, 110, 170),
            "written_at": moments(121, 181, 241),
            "trade_count": [4, 5, 6],
        }
    )
    runs = pd.DataFrame({"last_trade_time": moments(55, 115), "written_at": moments(60, 200)})
    found = waterfall(
        noted, micro_batches, windows, final, runs, replayed_as_recorded=False
    ).set_index("leg")
    assert list(found.index) == list(STEPS)
    assert list(found["trades"]) == [9, 9, 4, 5, 9]  # the third window is in no run yet
    near = [0.2, 3, 2, 70, 19]  # of the last: 4 trades 61 s before, 5 trades 19 s after
    for leg, value in zip(STEPS, near, strict=True):
        assert found["median"][leg] == pytest.approx(value, rel=0.3), leg


def test_a_step_without_measurements_is_unknown() -> None:
    empty = pd.DataFrame(
        columns=["leg", "bucket", "count", "counts", "rows", "published_at", "first_receipt"]
    )
    times = pd.DataFrame(
        {name: moments() for name in ("published_at", "first_receipt", "last_receipt")}
    ).assign(rows=[])
    final = pd.DataFrame({"last_trade_time": moments(), "written_at": moments(), "trade_count": []})
    found = waterfall(empty, times, empty, final, final, replayed_as_recorded=False)
    assert found["median"].isna().all()
    assert list(found["trades"]) == [0] * 5
