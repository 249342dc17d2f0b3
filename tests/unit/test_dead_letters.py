"""Rejected messages: what goes to Kafka and what a status file shows, both in bounded size."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest.dead_letters import CHARACTERS, LATEST, OTHERS, REASONS, RejectedSummary
from pipeline.ingest.exchange_connection import FeedWatchdog, Message
from pipeline.ingest.publisher import Publisher
from pipeline.service import Service
from pipeline.settings import Settings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_the_latest_messages_are_shown_with_reason_receipt_and_size() -> None:
    rejected = RejectedSummary()
    for n in range(LATEST + 5):
        rejected.add(f"message {n}", 9, f"price: {n} is not positive", NOW + timedelta(seconds=n))
    status = rejected.as_status()
    assert status["reasons"] == {"price": LATEST + 5}
    assert [one["message"] for one in status["latest"]] == [f"message {n}" for n in range(5, 15)]
    assert status["latest"][-1] == {
        "reason": "price: 14 is not positive",
        "received": "2026-03-01T12:00:14Z",
        "bytes": 9,
        "message": "message 14",
    }


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=900), st.text(max_size=900)), max_size=60))
def test_every_message_is_counted_once_and_the_size_is_bounded(messages) -> None:
    rejected = RejectedSummary()
    for message, reason in messages:
        rejected.add(message, len(message), reason, NOW)
    status = json.loads(json.dumps(rejected.as_status()))
    assert sum(status["reasons"].values()) == len(messages)
    assert len(status["reasons"]) <= REASONS + 1
    kinds = Counter(reason.partition(":")[0][:CHARACTERS] for _, reason in messages)
    if len(kinds) <= REASONS and OTHERS not in kinds:
        assert status["reasons"] == dict(kinds)
    assert all(len(one["message"]) <= CHARACTERS for one in status["latest"])
    assert all(len(one["reason"]) <= CHARACTERS for one in status["latest"])


def test_a_message_above_max_message_bytes_is_rejected_and_its_dead_letter_is_cut(
    tmp_path: Path,
) -> None:
    sent: list[tuple[str, bytes]] = []
    sender: Any = SimpleNamespace(
        topic_id=lambda: None,
        has_room=lambda: True,
        send=lambda topic, value, *_: sent.append((topic, value)),
    )
    service = Service("producer", Settings(data_dir=tmp_path, max_message_bytes=5000))
    publisher = Publisher(service, sender)
    publisher.on_connect(FeedWatchdog(heartbeat_timeout=60, trade_timeout=60))
    trade = (
        b'{"type":"ticker","product_id":"BTC-USD","price":"9","best_bid":"8","best_ask":"9",'
        b'"side":"buy","time":"2026-03-01T12:00:00Z","trade_id":7,"last_size":"1"}'
    )
    longest, too_long = trade.ljust(5000), trade.ljust(5001)
    for message in (longest, too_long):
        publisher.on_message(Message(message, len(message)), NOW)
    (published, dead_letter) = sent
    assert published == ("raw_prices", longest)
    assert (dead_letter[0], json.loads(dead_letter[1])) == (
        "raw_prices_rejected",
        {
            "reason": "too long: 5001 bytes, at most 5000",
            "received": "2026-03-01T12:00:00Z",
            "bytes": 5001,
            "message": trade.ljust(4096).decode(),
        },
    )
    assert (service.counters["published"], service.counters["rejected"]) == (1, 1)
