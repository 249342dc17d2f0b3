"""The rules of the metrics in plain Python, at their thresholds and over merged windows."""

import math
import random
import subprocess
import sys
from decimal import Decimal
from typing import NamedTuple

import pandas as pd
import pytest

from pipeline import outputs
from pipeline.metrics import definitions
from tests.conftest import ROOT

RATIO = Decimal("1.2")


@pytest.mark.parametrize(
    ("buys", "sells", "sentiment"),
    [
        (6, 5, "Neutral"),
        (5, 6, "Neutral"),
        (7, 5, "Bullish"),
        (5, 7, "Bearish"),
        (12_000_001, 10_000_000, "Bullish"),
        (12_000_000, 10_000_000, "Neutral"),
        (0, 0, "Neutral"),
        (1, 0, "Bullish"),
        (0, 1, "Bearish"),
        (math.nan, 1, None),
        (1, math.nan, None),
    ],
)
def test_sentiment_is_exact_at_its_threshold_for_integers_and_floats(buys, sells, sentiment):
    assert definitions.market_sentiment(buys, sells, RATIO) == sentiment
    assert definitions.market_sentiment(float(buys), float(sells), RATIO) == sentiment


@pytest.mark.parametrize(
    ("amount", "above"),
    [
        (Decimal(50), False),
        (Decimal("50.00000001"), True),
        (50.0, False),
        (50.00000001, True),
        (sum([0.1] * 500), False),  # 49.99999999999997 as floats
        (sum([0.1] * 501), True),
    ],
)
def test_a_flag_is_set_above_its_threshold_and_not_at_it(amount, above):
    assert definitions.volatility_flag(amount, Decimal(50)) == ("High" if above else "Normal")
    assert definitions.volume_spike(amount, Decimal(50)) == ("Spike" if above else "Normal")


def test_the_flag_of_an_unknown_amount_is_unknown() -> None:
    assert definitions.volatility_flag(math.nan, Decimal(50)) is None
    assert definitions.volume_spike(math.nan, Decimal(50)) is None


def test_the_buy_sell_ratio_of_columns_is_that_of_the_numbers() -> None:
    buys, sells = pd.Series([3, 0, 7]), pd.Series([0, 3, 7])
    assert list(definitions.buy_sell_ratio(buys, sells)) == [3 / 1e-5, 0.0, 7 / (7 + 1e-5)]
    assert definitions.buy_sell_ratio(3, 0) == 3 / 1e-5


def test_every_column_of_a_window_has_a_label() -> None:
    assert set(definitions.LABELS) == set(outputs.WINDOW_COLUMNS)
    assert len(set(definitions.LABELS.values())) == len(definitions.LABELS)


# --- windows merged into groups -------------------------------------------------------------


class T(NamedTuple):
    """A trade of a test."""

    minute: int
    price: float
    size: float
    side: str


def windows_of(trades: list[T]) -> pd.DataFrame:
    """Windows of these trades, by plain sums."""
    rows = []
    for minute in sorted({trade.minute for trade in trades}):
        own = [trade for trade in trades if trade.minute == minute]
        prices, sizes = [trade.price for trade in own], [trade.size for trade in own]
        volume = sum(sizes)
        bought = sum(trade.size for trade in own if trade.side == "buy")
        start = pd.Timestamp("2025-12-02", tz="UTC") + pd.Timedelta(minutes=minute)
        rows.append(
            {
                "window_start": start,
                "window_end": start + pd.Timedelta(minutes=1),
                "avg_price": sum(prices) / len(prices),
                "max_price": max(prices),
                "min_price": min(prices),
                "open_price": prices[0],
                "close_price": prices[-1],
                "total_volume": volume,
                "trade_count": len(own),
                "buy_count": sum(trade.side == "buy" for trade in own),
                "sell_count": sum(trade.side == "sell" for trade in own),
                "vwap": sum(p * s for p, s in zip(prices, sizes, strict=True)) / volume,
                "volume_imbalance": (2 * bought - volume) / volume,
            }
        )
    return pd.DataFrame(rows)


def random_trades(seed: int, minutes: int) -> list[T]:
    rng = random.Random(seed)
    return [
        T(minute, rng.uniform(90, 110), rng.uniform(0.1, 2), rng.choice(["buy", "sell"]))
        for minute in range(minutes)
        for _ in range(rng.randint(1, 9))
    ]


def test_merged_windows_have_the_metrics_of_one_window_over_the_same_trades() -> None:
    trades = random_trades(1, 40)
    windows = windows_of(trades)
    tens = windows["window_start"].dt.floor("10min")
    rolled = definitions.roll_up(windows, tens)
    wanted = windows_of([trade._replace(minute=trade.minute // 10) for trade in trades])
    assert list(rolled["windows"]) == [10] * 4
    assert list(rolled.index) == list(rolled["window_start"]) == sorted(set(tens))
    assert list(rolled["window_end"]) == [
        start + pd.Timedelta(minutes=10) for start in rolled.index
    ]
    exact = ["max_price", "min_price", "open_price", "close_price"]
    exact += ["trade_count", "buy_count", "sell_count"]
    for name in exact:
        assert list(rolled[name]) == list(wanted[name]), name
    for name in ("avg_price", "vwap", "total_volume", "volume_imbalance"):
        assert list(rolled[name]) == pytest.approx(list(wanted[name]), rel=1e-12), name
    assert list(rolled["price_range"]) == list(wanted["max_price"] - wanted["min_price"])
    ratios = [
        b / (s + 1e-5) for b, s in zip(wanted["buy_count"], wanted["sell_count"], strict=True)
    ]
    assert list(rolled["buy_sell_ratio"]) == ratios


def test_the_total_is_one_group_of_all_windows() -> None:
    trades = random_trades(2, 25)
    whole = definitions.total(windows_of(trades))
    (wanted,) = windows_of([trade._replace(minute=0) for trade in trades]).to_dict("records")
    assert whole["windows"] == 25
    assert whole["trade_count"] == wanted["trade_count"]
    for name in ("avg_price", "vwap", "total_volume", "volume_imbalance"):
        assert whole[name] == pytest.approx(wanted[name], rel=1e-12), name
    assert definitions.total(windows_of([])) == {}


@pytest.mark.parametrize(
    ("column", "unknown"),
    [
        ("vwap", {"vwap"}),
        ("avg_price", {"avg_price"}),
        ("buy_count", {"buy_count", "buy_sell_ratio"}),
        ("max_price", {"max_price", "price_range"}),
        ("open_price", {"open_price"}),
    ],
)
def test_a_group_with_an_unknown_value_is_unknown_and_not_a_part_of_the_truth(column, unknown):
    windows = windows_of(random_trades(3, 4))
    windows[column] = windows[column].astype(float)
    windows.loc[1, column] = math.nan
    rolled = definitions.roll_up(windows, pd.Series(["a", "a", "b", "b"]))
    missing = rolled.isna()
    assert {name for name in rolled.columns if missing.loc["a", name]} == unknown
    assert not missing.loc["b"].any()


def test_the_rules_load_neither_spark_nor_pandas() -> None:
    code = "import sys; import pipeline.metrics.definitions, pipeline.outputs; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert not {"pyspark", "pandas", "numpy"} & set(done.stdout.decode().split())
