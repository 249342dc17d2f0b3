"""The trades that the producer remembers, to find repeated and conflicting messages."""

import time
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from pipeline.ingest.published import PublishedTrades
from pipeline.ingest.trade import Trade

TRADE = Trade(
    trade_id=7,
    price="86321.50",
    best_bid="86321.49",
    best_ask="86321.51",
    side="buy",
    time=datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC),
    last_size="0.25",
)


SAME: list[dict[str, object]] = [
    {},
    {"price": "86321.5", "last_size": "2.5e-1"},
    {"time": TRADE.time.astimezone(timezone(timedelta(hours=2)))},
    {"best_bid": "1", "best_ask": None},  # quotes are no part of the trade
]
OTHER: list[dict[str, object]] = [
    {"price": "86321.51"},
    {"side": "sell"},
    {"time": TRADE.time + timedelta(microseconds=1)},
    {"last_size": "0.26"},
]


@pytest.mark.parametrize("fields", SAME)
def test_a_trade_with_the_same_content_is_repeated(fields: dict[str, object]) -> None:
    published = PublishedTrades()
    assert published.outcome(TRADE) == "published"
    published.add(TRADE)
    assert published.outcome(msgspec.structs.replace(TRADE, **fields)) == "repeated"


@pytest.mark.parametrize("fields", OTHER)
def test_a_trade_with_other_content_is_conflicting_once(fields: dict[str, object]) -> None:
    published = PublishedTrades()
    published.add(TRADE)
    other = msgspec.structs.replace(TRADE, **fields)
    assert published.outcome(other) == "conflicting"
    published.add(other)
    assert published.outcome(other) == "repeated"


def test_the_oldest_trade_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ingest.published.REMEMBERED_TRADES", 3)
    published = PublishedTrades()
    trades = [msgspec.structs.replace(TRADE, trade_id=number) for number in range(1, 6)]
    for trade in trades:
        published.add(trade)
    assert len(published) == 3
    assert [published.outcome(trade) for trade in trades] == ["published"] * 2 + ["repeated"] * 3


def test_forgetting_the_oldest_trade_takes_no_longer_than_remembering_a_new_one() -> None:
    published = PublishedTrades()
    trades = [msgspec.structs.replace(TRADE, trade_id=number) for number in range(200_000)]
    newer = [msgspec.structs.replace(TRADE, trade_id=number) for number in range(200_000, 300_000)]

    def seconds_per_trade(added: list[Trade]) -> float:
        began = time.process_time()
        for trade in added:
            published.add(trade)
        return (time.process_time() - began) / len(added)

    until_full = seconds_per_trade(trades)
    assert seconds_per_trade(newer) < 5 * until_full
    assert len(published) == len(trades)
