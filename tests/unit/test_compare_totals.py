"""Totals and classified windows of both paths."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import times
from pipeline.compare import agreement
from pipeline.compare.comparison import compare
from pipeline.compare.inputs import read_outputs
from pipeline.compare.output_files import typed
from pipeline.compare.totals import flags, shared_totals, shared_windows
from pipeline.data_dir import DataDir
from pipeline.metrics import definitions
from pipeline.stores.sqlite import SqliteStore
from tests import page_data
from tests.unit.test_compare_agreement import LAST, evidence, frame, window


def priced(minute: int, count: int, average: str, high: str) -> dict[str, str]:
    numbers = {"avg_price": average, "max_price": high, "min_price": "1", "open_price": "2"}
    numbers |= {"close_price": high, "sell_count": f"{count - 3}", "volume_imbalance": "0.5"}
    return window(minute, trade_count=f"{count}", vwap=average, **numbers)


def test_totals_cover_only_the_windows_that_both_paths_have_in_full() -> None:
    """Computed by hand: 5 + 10 trades in the stream, 5 + 11 in the batch."""
    stream = frame(priced(0, 5, "10", "20"), priced(1, 10, "40", "50"), priced(2, 9, "1", "99"))
    batch = frame(priced(0, 5, "10", "20"), priced(1, 11, "40", "60"), priced(3, 9, "1", "99"))
    judged = agreement.agreement(stream, frame(), batch, LAST, evidence())
    shared = shared_windows(typed(stream), typed(batch), judged)
    assert [len(table) for table in shared.values()] == [2, 2]
    found = shared_totals(shared, judged)
    by_metric = {row[0]: row[1:] for row in found.totals.itertuples(index=False, name=None)}
    assert (found.windows, found.differing) == (2, 1)
    assert by_metric["trade_count"] == (15, 16, -1)
    assert by_metric["avg_price"] == (30.0, 30.625, -0.625)
    assert by_metric["max_price"] == (50, 60, -10)
    assert by_metric["price_range"] == (49, 59, -10)
    assert by_metric["total_volume"] == (3.0, 3.0, 0.0)
    assert by_metric["sell_count"] == (9, 10, -1)


def test_both_paths_classify_the_same_windows(tmp_path: Path) -> None:
    """The batch has two windows that the stream lacks."""
    data = DataDir(tmp_path)
    page_data.live(data, times.now())
    outputs = read_outputs(data, SqliteStore(data.database))
    fewer = replace(outputs, final=outputs.final.iloc[:-2])
    found = compare(fewer, 60).flags.set_index("path")["windows"]
    assert found.to_dict() == {"stream": len(fewer.final), "batch": len(fewer.final)}


def test_without_shared_windows_there_are_no_totals() -> None:
    nothing = typed(frame())
    judged = agreement.agreement(frame(), frame(), frame(), None, evidence())
    assert shared_totals(shared_windows(nothing, nothing, judged), judged).windows == 0


def test_a_total_with_an_unknown_part_is_unknown_and_not_0() -> None:
    rows = frame(priced(0, 5, "10", "20"), priced(1, 10, "40", "50") | {"buy_count": ""})
    found = definitions.total(typed(rows))
    assert np.isnan(found["buy_count"])
    assert np.isnan(found["buy_sell_ratio"])
    assert found["trade_count"] == 15
    empty = definitions.total(typed(frame(priced(0, 5, "10", "20") | {"total_volume": "0"})))
    assert np.isnan(empty["vwap"])


def test_flags_and_unusual_windows_are_counted_per_path() -> None:
    windows = pd.DataFrame(
        {
            "volatility_flag": ["High", "High", "Normal"],
            "volume_spike": ["Normal"] * 3,
            "market_sentiment": ["Bullish", "Neutral", "Bearish"],
            "range_z": [np.nan, 2.5, -3],
            "volume_z": [np.nan, 2.0, 2.1],
            "volume_imbalance": [0.5, -0.25, 0.125],
        }
    )
    found = flags({"stream": windows, "batch": windows[:0]}).set_index("path")
    assert found.loc["stream"].to_dict() == {
        "windows": 3,
        "high": 2,
        "spike": 0,
        "bullish": 1,
        "bearish": 1,
        "scored": 2,
        "range_stands_out": 1,
        "volume_stands_out": 1,
        "imbalance": 0.25,
    }
    assert found["windows"]["batch"] == 0
