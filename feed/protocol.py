"""What the exchange and its clients say to each other beside the data: pure functions."""

import json
from dataclasses import dataclass

#: The channels that a replay serves.
CHANNELS = ("ticker", "heartbeat")


class RefusedError(Exception):
    """A request that cannot be served: `message` and `reason` of the exchange's answer."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(f"{message}: {reason}")
        self.message = message
        self.reason = reason


@dataclass(frozen=True)
class Request:
    """What a client asks for: to `subscribe` to some channels, or to `unsubscribe`."""

    type: str
    channels: frozenset[str]


def parse_request(text: str | bytes, product: str) -> Request:
    """Reads a client's message.

    Raises:
        RefusedError: it is no request, or for something else than this feed has.
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
        raise RefusedError(failed, "channels has to be a list that names at least one channel")
    names = set()
    for channel in channels:
        name, own = channel, products
        if isinstance(channel, dict):
            name, own = channel.get("name"), channel.get("product_ids", products)
        if name not in CHANNELS:
            raise RefusedError(failed, f"{name} is not a valid channel")
        if not isinstance(own, list) or (not own and kind == "subscribe"):
            raise RefusedError(failed, "product_ids has to be a list that names a product")
        for wanted in own:
            if wanted != product:
                raise RefusedError(failed, f"{wanted} is not a valid product")
        names.add(name)
    return Request(kind, frozenset(names))


def error(refused: RefusedError) -> dict[str, object]:
    return {"type": "error", "message": refused.message, "reason": refused.reason}


def subscriptions(channels: set[str], product: str) -> dict[str, object]:
    """The answer to a request: all that the connection is subscribed to now."""
    return {
        "type": "subscriptions",
        "channels": [
            {"name": name, "product_ids": [product]} for name in CHANNELS if name in channels
        ],
    }


def heartbeat(last_ticker: bytes | None, product: str, time: str) -> dict[str, object]:
    """A heartbeat; sequence and trade id are 0 (unknown) before the first ticker."""
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
    """The ticker message in a frame; None when it holds something else."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return None
    if isinstance(message, dict) and message.get("type") == "ticker":
        return message
    return None
