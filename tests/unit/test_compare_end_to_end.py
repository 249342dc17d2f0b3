"""End-to-end latency: as if each trade were followed from its event to the result."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from pipeline.compare.end_to_end import end_to_end, of_micro_batches, of_runs, of_windows
from pipeline.compare.freshness import BATCH, RESULTS, STREAM_FINAL, STREAM_OPEN

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(NOON + timedelta(seconds=seconds))


@pytest.mark.parametrize(("interval", "delay"), [(60, 7.0), (10, 3.0), (1, 0.5)])
def test_latencies_are_those_of_trades_that_are_followed_one_by_one(
    interval: int, delay: float
) -> None:
    """Ten trades a second; a result every interval with all trades until `delay` before it."""
    times = np.arange(1, 12_001) / 10
    published = np.arange(interval, 1200 + 2 * interval, interval) + delay
    covered = published - delay
    visible = published[np.searchsorted(covered, times)]
    seconds = np.sort(visible - times)
    runs = pd.DataFrame(
        {
            "written_at": [at(moment) for moment in published],
            "last_trade_time": [at(min(moment, 1200)) for moment in covered],
            "rows": [int((times <= moment).sum()) for moment in covered],
        }
    )
    near = interval / 20 + 0.1  # the points of a publication, and the trades
    found = end_to_end({BATCH: of_runs(runs)}).set_index("result").loc[BATCH]
    assert found["median"] == pytest.approx(np.quantile(seconds, 0.5), abs=near)
    assert found["p99"] == pytest.approx(np.quantile(seconds, 0.99), abs=near)
    assert found["trades"] == (times > interval).sum()


def test_micro_batches_and_final_windows() -> None:
    micro_batches = pd.DataFrame(
        {
            "published_at": [at(11), at(20)],
            "newest_trade": [at(10), at(19)],
            "first_receipt": [at(8.1), at(18.1)],
            "last_receipt": [at(10.1), at(19.1)],
            "rows": [100, 0],
        }
    )
    final = pd.DataFrame(
        {
            "window_start": [at(0)],
            "last_trade_time": [at(60)],
            "written_at": [at(121)],
            "trade_count": [600],
        }
    )
    found = end_to_end(
        {STREAM_OPEN: of_micro_batches(micro_batches), STREAM_FINAL: of_windows(final)}
    ).set_index("result")
    assert found["median"][STREAM_OPEN] == pytest.approx(2, abs=0.1)  # from 1 s to 3 s
    assert found["median"][STREAM_FINAL] == pytest.approx(91, abs=3)  # from 61 s to 121 s
    assert found["trades"].tolist() == [100, 600, 0]


def test_without_publications_latencies_are_unknown() -> None:
    found = end_to_end({})
    assert found["result"].tolist() == list(RESULTS)
    assert found["median"].isna().all()
    one = pd.DataFrame({"written_at": [at(1)], "last_trade_time": [at(0)], "rows": [5]})
    assert end_to_end({BATCH: of_runs(one)})["trades"].sum() == 0
