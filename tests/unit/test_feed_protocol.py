"""The requests of clients to the replay, and its answers."""

import json

import pytest

from feed import protocol

SUBSCRIBE = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker", "heartbeat"]}
BOTH = frozenset({"ticker", "heartbeat"})
TICKER = b'{"type":"ticker","sequence":12,"trade_id":34}'


def parse(request: object) -> protocol.Request:
    return protocol.parse_request(json.dumps(request), "BTC-USD")


@pytest.mark.parametrize(
    ("change", "channels"),
    [
        ({}, BOTH),
        ({"channels": ["ticker"]}, {"ticker"}),
        (
            {"product_ids": [], "channels": [{"name": "ticker", "product_ids": ["BTC-USD"]}]},
            ["ticker"],
        ),
        ({"channels": [{"name": "heartbeat"}, "ticker"]}, BOTH),
        ({"signature": "unknown members are ignored"}, BOTH),
    ],
)
def test_a_channel_is_a_name_or_an_object(change, channels):
    assert parse(SUBSCRIBE | change) == protocol.Request("subscribe", frozenset(channels))


def test_unsubscribe_without_channels_means_all_channels():
    request = {"type": "unsubscribe", "product_ids": ["BTC-USD"]}
    assert parse(request) == protocol.Request("unsubscribe", BOTH)
    assert parse({"type": "unsubscribe", "channels": ["ticker"]}).channels == {"ticker"}


@pytest.mark.parametrize(
    ("request_", "message", "reason"),
    [
        ([], "Invalid message", "Type has to be"),
        ({"type": "hello"}, "Invalid message", "Type has to be"),
        ({"type": ["subscribe"]}, "Invalid message", "Type has to be"),
        (SUBSCRIBE | {"channels": []}, "Failed to subscribe", "at least one channel"),
        (SUBSCRIBE | {"channels": "ticker"}, "Failed to subscribe", "has to be a list"),
        (
            SUBSCRIBE | {"channels": ["level2"]},
            "Failed to subscribe",
            "level2 is not a valid channel",
        ),
        (SUBSCRIBE | {"channels": [7]}, "Failed to subscribe", "7 is not a valid channel"),
        (SUBSCRIBE | {"channels": [["ticker"]]}, "Failed to subscribe", "not a valid channel"),
        (SUBSCRIBE | {"product_ids": []}, "Failed to subscribe", "with a product"),
        (SUBSCRIBE | {"product_ids": "BTC-USD"}, "Failed to subscribe", "has to be a list"),
        (SUBSCRIBE | {"product_ids": ["X-Y"]}, "Failed to subscribe", "X-Y is not a valid product"),
        (
            {"type": "unsubscribe", "product_ids": ["X-Y"]},
            "Failed to unsubscribe",
            "X-Y is not a valid product",
        ),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(request_, message, reason):
    with pytest.raises(protocol.RefusedError) as refused:
        parse(request_)
    answer = protocol.error(refused.value)
    assert answer["type"] == "error"
    assert answer["message"] == message
    assert reason in str(answer["reason"])


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000])
def test_a_message_that_is_not_json_is_refused(text):
    with pytest.raises(protocol.RefusedError, match="Malformed JSON"):
        protocol.parse_request(text, "BTC-USD")


def test_the_answer_lists_all_channels_of_the_connection():
    assert protocol.subscriptions({"heartbeat", "ticker"}, "BTC-USD") == {
        "type": "subscriptions",
        "channels": [
            {"name": "ticker", "product_ids": ["BTC-USD"]},
            {"name": "heartbeat", "product_ids": ["BTC-USD"]},
        ],
    }
    assert protocol.subscriptions(set(), "BTC-USD")["channels"] == []


def test_a_heartbeat_has_the_ids_of_the_last_ticker_or_zeros():
    beat = protocol.heartbeat(TICKER, "BTC-USD", "2025-06-30T23:30:00.000000Z")
    assert beat == {
        "type": "heartbeat",
        "sequence": 12,
        "last_trade_id": 34,
        "product_id": "BTC-USD",
        "time": "2025-06-30T23:30:00.000000Z",
    }
    for frame in (None, b"garbage", b'{"type":"ticker","trade_id":"x"}'):
        beat = protocol.heartbeat(frame, "BTC-USD", "")
        assert (beat["sequence"], beat["last_trade_id"]) == (0, 0)
