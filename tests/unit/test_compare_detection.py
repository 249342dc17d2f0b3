"""Detection: the decisive trade is found in the store, and times count from it."""

import random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from pipeline import times
from pipeline.compare import database
from pipeline.compare.detection import Detection, detection
from pipeline.compare.freshness import BATCH, RESULTS, STREAM_FINAL, STREAM_OPEN
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.stores import sqlite

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite.SqliteWriter]:
    with closing(sqlite.open_writer(tmp_path / "crypto_prices.db")) as writer:
        writer.execute("PRAGMA synchronous = OFF")
        yield writer


def put(connection: sqlite.SqliteWriter, trades: list[Trade]) -> None:
    batch = store.Batch(0, len(trades) - 1, len(trades), 0, NOON, NOON, trades)
    store.store(connection, batch, NOON)


def directly(trades: list[Trade], start: datetime, kind: str, threshold: Decimal) -> str | None:
    """Return the time of the decisive trade by going through all trades, with exact decimals."""
    inside = [trade for trade in trades if start <= trade.time < start + MINUTE]
    inside.sort(key=lambda trade: (trade.time, trade.trade_id))
    prices: list[Decimal] = []
    volume = Decimal(0)
    for trade in inside:
        prices.append(Decimal(trade.price))
        volume += Decimal(trade.last_size)
        value = max(prices) - min(prices) if kind == "High" else volume
        if value > threshold:
            return times.time_text(trade.time)
    return None


@pytest.mark.parametrize("seed", range(4))
def test_the_decisive_trade_is_the_first_with_which_the_value_is_above_the_threshold(
    connection: sqlite.SqliteWriter, seed: int
) -> None:
    """An equal value is not above it. Some trades are missing, some are a little out of order."""
    source = random.Random(seed)
    trades = []
    for number in range(1, 1200):
        moment = NOON + timedelta(seconds=number * 0.5 + source.uniform(-2, 2))
        price, size = (
            source.choice(["93000.1", "93000.2", "93000.3"]),
            source.choice(["0.1", "0.2"]),
        )
        if source.random() < 0.9:
            trades.append(Trade(7000 + number, price, None, None, "buy", moment, size))
    put(connection, source.sample(trades, len(trades)))
    for minute in range(-1, 12):
        start = NOON + minute * MINUTE
        for kind, threshold in (("High", "0.1"), ("High", "0.2"), ("Spike", "3.3"), ("Spike", "0")):
            found = database.crossings(
                connection, [(times.iso(start), kind, float(threshold))], MINUTE
            )
            expected = directly(trades, start, kind, Decimal(threshold))
            assert [row[2] for row in found] == ([] if expected is None else [expected])


def test_without_trades_there_is_no_decisive_one(connection: sqlite.SqliteWriter) -> None:
    assert database.crossings(connection, [(times.iso(NOON), "High", 0.0)], MINUTE) == []


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def start(minute: int) -> str:
    return times.iso(NOON + minute * MINUTE)


def raised(*rows: tuple[int, str, float, float]) -> pd.DataFrame:
    """Return alerts: minute, kind, value, and when they were raised."""
    return pd.DataFrame(
        {
            "window_start": [start(minute) for minute, *_ in rows],
            "kind": [kind for _, kind, *_ in rows],
            "value": [value for *_, value, _ in rows],
            "raised_at": pd.to_datetime([at(seconds) for *_, seconds in rows], utc=True),
        }
    )


def crossed(*rows: tuple[int, str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "window_start": [start(minute) for minute, *_ in rows],
            "kind": [kind for _, kind, _ in rows],
            "crossed_at": pd.to_datetime([at(seconds) for *_, seconds in rows], utc=True),
        }
    )


def windows(*rows: tuple[int, float, float, float]) -> pd.DataFrame:
    """Return windows: minute, range, volume, and when they were written."""
    return pd.DataFrame(
        {
            "window_start": [start(minute) for minute, *_ in rows],
            "window_end": pd.to_datetime(
                [NOON + (minute + 1) * MINUTE for minute, *_ in rows], utc=True
            ),
            "price_range": [size for _, size, *_ in rows],
            "total_volume": [volume for *_, volume, _ in rows],
            "written_at": pd.to_datetime([at(seconds) for *_, seconds in rows], utc=True),
        }
    )


NONE = raised()
#: The content of `source.json` for a feed without seams, and for a recording of 100 s from noon on.
LIVE = {"kind": "live"}
REPEATED = {"kind": "replay", "repeat_from": "2026-03-01T12:00:00Z", "repeat_s": 100}


def test_times_count_from_the_decisive_trade() -> None:
    final = windows((0, 61, 120, 121), (1, 55, 3, 181))
    found = detection(
        {
            "stream": raised((0, "High", 60, 11.5), (0, "Spike", 101, 22), (1, "High", 55, 102)),
            "batch": raised((0, "High", 61, 45), (0, "Spike", 120, 21.5)),
        },
        crossed((0, "High", 10), (0, "Spike", 20), (1, "High", 100)),
        final,
        {"stream": final, "batch": final},
        LIVE,
    )
    table = found.table.set_index("result")
    assert list(table.index) == list(RESULTS)
    assert table["detected"].tolist() == [3, 3, 2]
    assert table["median"].tolist() == [2, 101, pytest.approx((35 + 1.5) / 2)]
    assert table["longest"].tolist() == [2, 111, 35]
    assert (len(found.events), found.by_both, found.stream_first) == (3, 2, 1)
    assert (found.checked, found.false) == (5, 0)
    assert found.median(BATCH) == pytest.approx(18.25)


def test_windows_around_a_stop_and_unknown_decisive_trades_are_left_out() -> None:
    final = windows((0, 61, 1, 121), (1, 61, 1, 181))
    found = detection(
        {"stream": raised((0, "High", 60, 11), (1, "High", 60, 900)), "batch": NONE},
        crossed((0, "High", 10), (1, "High", 70)),
        final.head(1),
        {"stream": final, "batch": final},
        LIVE,
    )
    assert len(found.events) == 1
    assert found.table.set_index("result")["longest"][STREAM_OPEN] == 1
    assert found.table.set_index("result")["detected"].to_dict() == {
        STREAM_OPEN: 1,
        STREAM_FINAL: 1,
        BATCH: 0,
    }
    assert found.checked == 2


def test_windows_in_which_the_recording_starts_again_are_left_out() -> None:
    """The jump there is not a market movement. The check for false alerts covers them."""
    numbers = range(6)
    final = windows(*((n, 61, 1, 60 * n + 121) for n in numbers))
    found = detection(
        {
            "stream": raised(*((n, "High", 60, 60 * n + 10 + n) for n in numbers)),
            "batch": NONE,
        },
        crossed(*((n, "High", 60 * n + 10) for n in numbers)),
        final,
        {"stream": final, "batch": final},
        REPEATED,
    )
    # It starts again at 100, 200 and 300 s. The window from 300 s on begins with it.
    assert len(found.events) == 4
    assert found.table.set_index("result")["longest"][STREAM_OPEN] == 5
    assert found.table.set_index("result")["median"][STREAM_OPEN] == (2 + 4) / 2
    assert found.checked == 6


def test_an_alert_that_the_result_of_its_window_contradicts_is_false() -> None:
    final = windows((0, 49, 1, 121), (1, 61, 99, 181))
    found = detection(
        {
            "stream": raised((0, "High", 60, 11), (1, "High", 61, 70), (9, "High", 60, 600)),
            "batch": raised((1, "Spike", 100.5, 80)),
        },
        crossed(),
        final,
        {"stream": final, "batch": final},
        LIVE,
    )
    assert (found.checked, found.false) == (3, 2)


def test_without_alerts_nothing_is_measured() -> None:
    empty = windows()
    found = detection(
        {"stream": NONE, "batch": NONE}, crossed(), empty, {"stream": empty, "batch": empty}, LIVE
    )
    assert isinstance(found, Detection)
    assert (len(found.events), found.checked) == (0, 0)
    assert found.table["median"].isna().all()
