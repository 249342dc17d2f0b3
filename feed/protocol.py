"""The protocol of the exchange's feed: requests, answers, heartbeats. Pure functions."""

import json
from dataclasses import dataclass

#: The channels that a replay offers.
CHANNELS = ("ticker", "heartbeat")


class RefusedError(Exception):
    """A request is invalid. `message` and `reason` are those of the exchange's error answer."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(f"{message}: {reason}")
        self.message = message
        self.reason = reason


@dataclass(frozen=True)
class Request:
    """A request to `subscribe` to channels or to `unsubscribe` from them."""

    type: str
    channels: frozenset[str]


def parse_request(text: str | bytes, product: str) -> Request:
    """Parse the message of a client.

    Args:
        text: the message.
        product: the only product of this feed.

    Raises:
        RefusedError: it is not a request, or it asks for what this feed does not have.
    """
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedError("Malformed JSON", f"the message is not JSON: {error}") from error
    kind = request.get("type") if isinstance(request, dict) else None
    if kind not in ("subscribe", "unsubscribe"):
        raise RefusedError("Invalid message", "Type has to be either subscribe or unsubscribe")
    failed = f"Failed to {kind}"
    products = request.get("product_ids", [])
    channels = request.get("channels", [] if kind == "subscribe" else list(CHANNELS))
    if not isinstance(channels, list) or not channels:
        raise RefusedError(failed, "channels has to be a list with at least one channel")
    names = set()
    for channel in channels:
        name, own = channel, products
        if isinstance(channel, dict):
            name, own = channel.get("name"), channel.get("product_ids", products)
        if name not in CHANNELS:
            raise RefusedError(failed, f"{name} is not a valid channel")
        if not isinstance(own, list) or (not own and kind == "subscribe"):
            raise RefusedError(failed, "product_ids has to be a list with a product")
        for wanted in own:
            if wanted != product:
                raise RefusedError(failed, f"{wanted} is not a valid product")
        names.add(name)
    return Request(kind, frozenset(names))


def error(refused: RefusedError) -> dict[str, object]:
    """Return the error message for an invalid request."""
    return {"type": "error", "message": refused.message, "reason": refused.reason}


def subscriptions(channels: set[str], product: str) -> dict[str, object]:
    """Return the answer to a request: all channels of the connection."""
    return {
        "type": "subscriptions",
        "channels": [
            {"name": name, "product_ids": [product]} for name in CHANNELS if name in channels
        ],
    }


def heartbeat(last_ticker: bytes | None, product: str, time: str) -> dict[str, object]:
    """Return a heartbeat. Before the first ticker its sequence and trade id are 0 (unknown)."""
    last = ticker(last_ticker) if last_ticker is not None else None
    numbers = last or {}
    return {
        "type": "heartbeat",
        "sequence": _whole(numbers.get("sequence")),
        "last_trade_id": _whole(numbers.get("trade_id")),
        "product_id": product,
        "time": time,
    }


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def ticker(frame: bytes) -> dict[str, object] | None:
    """Return the ticker message in a frame; None if the frame is something else."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    if isinstance(message, dict) and message.get("type") == "ticker":
        return message
    return None
