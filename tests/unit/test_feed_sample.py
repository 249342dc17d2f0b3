"""The synthetic sample: reproducible, and with the cases that make real data difficult."""

import gzip
import json
from collections import Counter
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest

from feed import recording, sample
from tests import golden


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return [line.frame for line in recording.read(sample.SAMPLE)]


@pytest.fixture(scope="module")
def results() -> golden.Golden:
    return golden.compute(sample.SAMPLE)


def moments(lines: list[bytes]) -> list[float]:
    seen = {}
    for line in lines:
        message = json.loads(line)
        seen[message["trade_id"]] = datetime.fromisoformat(message["time"]).timestamp()
    return [seen[trade_id] for trade_id in sorted(seen)]


def test_the_committed_sample_equals_the_output_of_the_program(tmp_path):
    made = tmp_path / "made.gz"
    sample.main([str(made)])
    assert gzip.decompress(made.read_bytes()) == gzip.decompress(sample.SAMPLE.read_bytes())
    assert made.read_bytes()[4:8] == b"\0\0\0\0"  # gzip's own time stamp


def test_the_file_is_small():
    assert sample.SAMPLE.stat().st_size < 2_000_000


def test_its_name_states_that_it_is_synthetic():
    assert recording.is_synthetic(sample.SAMPLE)
    assert sample.SAMPLE.parent == Path(__file__).parents[2] / "data" / "sample"


def test_every_message_is_a_valid_trade_in_the_exchanges_shape(lines, results):
    assert results.other == 0
    for line in lines[::100]:
        message = json.loads(line)
        assert list(message) == [
            *("type", "sequence", "product_id", "price", "open_24h", "volume_24h", "low_24h"),
            *("high_24h", "volume_30d", "best_bid", "best_bid_size", "best_ask"),
            *("best_ask_size", "side", "time", "trade_id", "last_size"),
        ]
        assert float(message["best_bid"]) < float(message["best_ask"])


def test_some_messages_are_repeated_and_one_id_is_missing(lines, results):
    ids = sorted(results.trades)
    assert results.repeated == 8
    assert len(set(lines)) == results.valid  # what comes again is identical
    assert len(ids) == ids[-1] - ids[0]  # one is missing


def test_it_is_an_hour_across_midnight_with_one_trade_exactly_at_midnight(results):
    assert len(results.windows) == 60
    midnight = round(datetime.fromisoformat("2025-07-01T00:00:00Z").timestamp() * 1e6)
    assert midnight in {trade.time for trade in results.trades.values()}
    days = {start // (1440 * golden.MINUTE) for start in results.windows}
    assert len(days) == 2


def test_bursts_silences_and_equal_times(lines):
    times = moments(lines)
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) == 0
    assert 7 < max(gaps) < 8
    assert max(Counter(int(time) for time in times).values()) > 100
    assert 0.33 < sum(gap == 0 for gap in gaps) / len(gaps) < 0.40
    assert 5.5 < len(times) / 3600 < 6.2


def test_all_classes_occur(results):
    for column, classes in {
        "volatility_flag": {"High", "Normal"},
        "market_sentiment": {"Bullish", "Bearish", "Neutral"},
        "volume_spike": {"Spike", "Normal"},
    }.items():
        assert {window[column] for window in results.windows.values()} == classes
    assert sum(window["sell_count"] == 0 for window in results.windows.values()) == 3


def test_sides_come_in_series_and_prices_return_to_their_start(results):
    trades = [results.trades[trade_id] for trade_id in sorted(results.trades)]
    same = sum(a.side == b.side for a, b in pairwise(trades))
    assert same / len(trades) > 0.7
    assert abs(trades[0].price - trades[-1].price) < 60
    assert all(85_000 < trade.price < 95_000 for trade in trades)


def test_sizes_are_heavy_tailed(results):
    sizes = sorted(trade.size for trade in results.trades.values())
    assert sizes[0] < Decimal("0.000001")
    assert sizes[-1] > 1000 * sizes[len(sizes) // 2]
