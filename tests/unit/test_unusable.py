"""The producer detects that no message of the feed is usable."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.ingest import trade
from pipeline.ingest.unusable import UNUSABLE_AFTER, SameRejections, description

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FRAME = (
    b'{"type":"ticker","product_id":"BTC-USD","price":"9","best_bid":"8","best_ask":"9",'
    b'"side":"buy","time":"2026-03-01T12:00:00Z","trade_id":7,"last_size":"1"}'
)


def rejected(times: int, *reasons: str) -> SameRejections:
    """Return the rejections of one message per second, with these reasons in turn."""
    found = SameRejections()
    for n in range(times):
        found.on_rejected(reasons[n % len(reasons)], NOON + timedelta(seconds=n))
    return found


def test_the_text_about_messages_of_another_product_names_both_products() -> None:
    with pytest.raises(trade.InvalidTradeError) as error:
        trade.decode(FRAME, "ETH-USD", NOON)
    found = rejected(8551, str(error.value)).as_status()
    assert found == {
        "since": NOON,
        "messages": 8551,
        "text": "No usable trade: 8,551 messages are for BTC-USD, PRODUCT_ID is ETH-USD. "
        "Correct PRODUCT_ID or FEED_URL",
    }


def test_only_ten_seconds_of_the_same_reason_are_an_unusable_feed() -> None:
    seconds = int(UNUSABLE_AFTER.total_seconds())
    assert rejected(seconds, "x").as_status() is None
    assert rejected(seconds + 1, "x").as_status()
    assert rejected(10 * seconds, "x", "y").as_status() is None
    assert SameRejections().as_status() is None


def test_a_valid_trade_makes_the_feed_usable_again() -> None:
    found = rejected(20, "x")
    found.on_trade()
    assert found.as_status() is None
    found.on_rejected("x", NOON + timedelta(hours=1))
    assert found.as_status() is None


def test_another_reason_is_shown_unchanged() -> None:
    assert description("price: missing", 20) == (
        "No usable trade: 20 messages are rejected, reason: price: missing. Check FEED_URL"
    )
