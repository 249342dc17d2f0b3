"""The producer detects that no message of the feed is usable."""

from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest import trade
from pipeline.ingest.exchange_connection import FeedWatchdog, Message
from pipeline.ingest.publisher import Publisher
from pipeline.ingest.unusable import UNUSABLE_AFTER, SameRejections, description
from pipeline.service import Service
from pipeline.settings import Settings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FRAME = (
    b'{"type":"ticker","product_id":"BTC-USD","price":"9","best_bid":"8","best_ask":"9",'
    b'"side":"buy","time":"2026-03-01T12:00:00Z","trade_id":7,"last_size":"1"}'
)


def reason_of(frame: bytes, product: str = "BTC-USD") -> str:
    """Return why the producer rejects a message."""
    with pytest.raises(trade.InvalidTradeError) as error:
        trade.decode(frame, product, NOON)
    return str(error.value)


def of_product(name: str) -> str:
    return reason_of(FRAME.replace(b"BTC-USD", name.encode()))


def rejected(times: int, *reasons: str) -> SameRejections:
    """Return the rejections of one message per second, with these reasons in turn."""
    found = SameRejections()
    for n in range(times):
        found.on_rejected(reasons[n % len(reasons)], NOON + timedelta(seconds=n))
    return found


def text_of(found: SameRejections) -> str | None:
    shown = found.as_status()
    return None if shown is None else str(shown["text"])


def test_the_text_about_messages_of_another_product_names_both_products() -> None:
    found = rejected(8551, reason_of(FRAME, "ETH-USD")).as_status()
    assert found == {
        "since": NOON,
        "messages": 8551,
        "text": "No usable trade: 8,551 messages are for BTC-USD, but PRODUCT_ID is ETH-USD. "
        "Correct PRODUCT_ID or FEED_URL",
    }


def test_only_ten_seconds_of_the_same_reason_are_an_unusable_feed() -> None:
    seconds = int(UNUSABLE_AFTER.total_seconds())
    assert rejected(seconds, "x").as_status() is None
    assert rejected(seconds + 1, "x").as_status()
    assert rejected(10 * seconds, "x", "y").as_status() is None
    assert SameRejections().as_status() is None


@pytest.mark.parametrize(
    ("products", "named"),
    [
        (["SOL-USD", "ETH-USD"], "ETH-USD and SOL-USD"),
        (["SOL-USD", "ETH-USD", "ADA-USD"], "ADA-USD, ETH-USD and SOL-USD"),
        ([f"P{n}-USD" for n in range(9)], "P0-USD, P1-USD, P2-USD and other products"),
    ],
)
def test_messages_of_several_other_products_count_together(products: list[str], named: str) -> None:
    found = rejected(20, *map(of_product, products))
    assert text_of(found) == (
        f"No usable trade: 20 messages are for {named}, but PRODUCT_ID is BTC-USD. "
        "Correct PRODUCT_ID or FEED_URL"
    )


def test_a_reason_counts_without_the_value_that_it_quotes() -> None:
    negative = [
        reason_of(FRAME.replace(b'"price":"9"', b'"price":"-%d"' % n)) for n in range(1, 31)
    ]
    assert len(set(negative)) == 30
    assert text_of(rejected(30, *negative)) == (
        "No usable trade: 30 messages were rejected. Check FEED_URL. Newest reason: "
        "price: '-30' is not a positive decimal"
    )
    missing = reason_of(FRAME.replace(b'"product_id":"BTC-USD",', b""))
    assert text_of(rejected(20, of_product("ETH-USD"), missing)) == (
        "No usable trade: 20 messages were rejected. Check FEED_URL. Newest reason: "
        "product_id: missing"
    )


def test_a_valid_trade_makes_the_feed_usable_again() -> None:
    found = rejected(20, "x")
    found.on_trade()
    assert found.as_status() is None
    found.on_rejected("x", NOON + timedelta(hours=1))
    assert found.as_status() is None


def test_only_a_rejection_on_the_current_connection_makes_the_feed_unusable() -> None:
    found = rejected(20, "x")
    found.on_connect()
    assert found.as_status() is None
    found.on_rejected("x", NOON + timedelta(minutes=1))
    shown = found.as_status()
    assert shown is not None
    assert (shown["since"], shown["messages"]) == (NOON, 21)
    found.on_connect()
    found.on_rejected("y", NOON + timedelta(minutes=2))
    assert found.as_status() is None


def test_another_reason_is_shown_unchanged() -> None:
    assert description(["price: missing"], "price: missing", 20) == (
        "No usable trade: 20 messages were rejected. Check FEED_URL. Reason: price: missing"
    )


def test_rejected_times_name_the_clock_of_this_machine_as_a_possible_cause() -> None:
    later = [
        reason_of(FRAME.replace(b"12:00:00Z", b"13:00:%02dZ" % second)) for second in range(20)
    ]
    assert text_of(rejected(20, *later)) == (
        "No usable trade: 20 messages were rejected. Check the clock of this machine and FEED_URL. "
        f"Newest reason: {later[-1]}"
    )
    missing = reason_of(FRAME.replace(b'"time"', b'"at"'))
    assert (text_of(rejected(20, missing)) or "").endswith("Check FEED_URL. Reason: time: missing")


# --- in the producer ------------------------------------------------------------------------


class NoKafka:
    """Takes records and sends them nowhere."""

    def topic_id(self) -> None:
        return None

    def has_room(self) -> bool:
        return True

    def is_stalled(self) -> bool:
        return False

    def send(self, *_: Any) -> None:
        pass


def test_the_producer_does_not_show_the_rejections_of_a_connection_that_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the same reason once, although the producer connects again."""
    monkeypatch.setattr("pipeline.ingest.publisher.REPORT_SECONDS", 0.0)
    service = Service("producer", Settings(data_dir=tmp_path, product_id="ETH-USD"))
    sender: Any = NoKafka()
    publisher = Publisher(service, sender)
    seconds = count()

    def receive(messages: int) -> str | None:
        for _ in range(messages):
            received = NOON + timedelta(seconds=next(seconds))
            publisher.on_message(Message(FRAME, len(FRAME)), received)
            publisher.after_read()
        shown = service.details["unusable"]
        return None if shown is None else str(shown["text"])[:39]

    publisher.on_connect(FeedWatchdog(heartbeat_timeout=60, trade_timeout=60))
    assert receive(10) is None
    assert receive(1) == "No usable trade: 11 messages are for BT"
    publisher.on_connect(FeedWatchdog(heartbeat_timeout=60, trade_timeout=60))
    assert service.details["unusable"] is None
    publisher.after_read()
    assert service.details["unusable"] is None
    assert receive(1) == "No usable trade: 12 messages are for BT"
    publisher.close()
    logged = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert [text[:39] for text in logged] == ["No usable trade: 11 messages are for BT"]
