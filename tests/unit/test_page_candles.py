"""Spans, candles and roll-ups, compared with plain Python sums."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from page import candles
from pipeline.metrics import definitions
from pipeline.settings import Settings
from tests.page_data import MINUTE, window, windows_until

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RATIO = Decimal("1.2")


def frame(rows) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    for name in ("window_start", "window_end", "last_trade_time", "written_at"):
        table[name] = pd.to_datetime(table[name], utc=True)
    return table


@pytest.mark.parametrize("minutes", [2, 5, 60, 1440])
def test_candles_count_every_window(minutes) -> None:
    """Each candle equals a plain Python sum of its windows."""
    rows = [row for row in windows_until(NOON, 300) if row["window_start"].minute % 13]
    made = candles.aggregate(frame(rows), timedelta(minutes=minutes), RATIO)
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(int(row["window_start"].timestamp()) // (60 * minutes), []).append(row)
    assert len(made) == len(groups)
    for candle, key in zip(made.to_dict("records"), sorted(groups), strict=True):
        group = groups[key]
        count = sum(row["trade_count"] for row in group)
        volume = sum(Fraction(row["total_volume"]) for row in group)
        money = sum(Fraction(row["avg_price"]) * row["trade_count"] for row in group)
        turnover = sum(Fraction(row["vwap"]) * Fraction(row["total_volume"]) for row in group)
        assert candle["window_start"].timestamp() == key * 60 * minutes
        assert candle["open_price"] == group[0]["open_price"]
        assert candle["close_price"] == group[-1]["close_price"]
        assert candle["max_price"] == max(row["max_price"] for row in group)
        assert candle["min_price"] == min(row["min_price"] for row in group)
        assert candle["trade_count"] == count
        assert candle["buy_count"] == sum(row["buy_count"] for row in group)
        assert candle["total_volume"] == pytest.approx(float(volume), rel=1e-12)
        assert candle["avg_price"] == pytest.approx(float(money / count), rel=1e-12)
        assert candle["vwap"] == pytest.approx(float(turnover / volume), rel=1e-12)
        assert candle["windows"] == len(group)
        assert candle["high_windows"] == sum(row["volatility_flag"] == "High" for row in group)
        assert candle["spike_windows"] == sum(row["volume_spike"] == "Spike" for row in group)


def test_a_candle_of_one_window_is_that_window() -> None:
    """Also beside candles of several windows, and with its own sentiment."""
    rows = [window(NOON, 1), window(NOON + MINUTE, 2), window(NOON + 5 * MINUTE, 3)]
    rows[2]["market_sentiment"] = "its own"
    made = candles.aggregate(frame(rows), 2 * MINUTE, RATIO)
    assert made["windows"].tolist() == [2, 1]
    assert made["sentiment"].iloc[1] == "its own"
    same = candles.aggregate(frame(rows), MINUTE, RATIO)
    for name in ("avg_price", "vwap", "total_volume", "open_price", "close_price"):
        assert same[name].tolist() == [row[name] for row in rows]


def test_an_average_over_an_unknown_part_is_unknown() -> None:
    rows = [window(NOON, 1), window(NOON + MINUTE, 2)]
    rows[1]["vwap"] = None
    made = candles.aggregate(frame(rows), 2 * MINUTE, RATIO)
    assert pd.isna(made["vwap"].iloc[0])
    assert made["avg_price"].notna().all()
    assert pd.isna(definitions.total(frame(rows))["vwap"])


@given(
    covered=st.integers(1, 400 * 1440).map(lambda minutes: timedelta(minutes=minutes)),
    window_minutes=st.sampled_from([1, 2, 5, 7, 15, 25, 60, 1440]),
)
def test_the_width_is_a_multiple_of_the_window_and_few_candles_are_enough(
    covered, window_minutes
) -> None:
    length = timedelta(minutes=window_minutes)
    width = candles.candle_width(covered, length)
    assert covered <= width * candles.MAX_CANDLES
    assert width % length == timedelta(0)
    assert width == length or covered > length * candles.MAX_CANDLES
    # not coarser than needed: by no more than the step from one round width to the next
    assert width == length or covered >= width * candles.MAX_CANDLES / 8


def test_the_roll_up_of_all_windows_equals_a_plain_sum() -> None:
    rows = windows_until(NOON, 97)
    whole = definitions.total(frame(rows))
    buys, sells = (sum(row[name] for row in rows) for name in ("buy_count", "sell_count"))
    price_range = max(r["max_price"] for r in rows) - min(r["min_price"] for r in rows)
    assert whole["trade_count"] == buys + sells
    assert whole["price_range"] == pytest.approx(price_range, rel=1e-12)
    assert whole["buy_sell_ratio"] == pytest.approx(buys / (sells + 1e-5), rel=1e-12)
    assert whole["open_price"] == rows[0]["open_price"]
    assert whole["window_end"] == NOON
    assert definitions.total(frame(rows).iloc[:0]) == {}


def spike_of(rows: list[dict[str, Any]]) -> str | None:
    volume = definitions.total(frame(rows))["total_volume"]
    return definitions.volume_spike(volume, Settings().spike_volume)


def test_a_volume_equal_to_the_threshold_is_no_spike() -> None:
    """A thousand volumes of 0.1 are 100, although floats add up to a little more."""
    rows = [window(NOON + n * MINUTE, 1) | {"total_volume": 0.1} for n in range(1000)]
    assert sum(0.1 for _ in range(1000)) != 100
    assert spike_of(rows) == "Normal"
    rows[0]["total_volume"] = 0.10000001
    assert spike_of(rows) == "Spike"


def test_a_span_ends_with_the_newest_window() -> None:
    """Its first window is inside in full. Without a span all windows are inside."""
    table = frame(windows_until(NOON, 100))
    end = candles.newest_end(table)
    assert end == pd.Timestamp(NOON)
    assert len(candles.since(table, timedelta(minutes=15), end)) == 15
    assert len(candles.since(table, None, end)) == 100
    assert candles.newest_end(table.iloc[:0]) is None


def test_a_change_needs_both_prices() -> None:
    assert candles.change(100.0, 101.0) == pytest.approx((1.0, 0.01))
    assert candles.change(None, 101.0) is None
    assert candles.change(100.0, None) is None
    assert candles.change(0.0, 1.0) is None


def test_an_average_far_from_the_prices_is_out_of_view() -> None:
    """In view, it would flatten the candles."""
    table = pd.DataFrame({"min_price": [100.0, 102.0], "max_price": [104.0, 110.0]})
    assert candles.place_of(105.0, table) == "within"
    assert candles.place_of(95.0, table) == "within"
    assert candles.place_of(94.9, table) == "below"
    assert candles.place_of(115.1, table) == "above"
