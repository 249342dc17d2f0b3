"""Malformed messages: listed kinds, and generated ones."""

import json
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from faults.truth import is_invalid

#: A valid message whose id no recording has. Each malformed message breaks one thing in it.
VALID: Mapping[str, Any] = {
    "type": "ticker",
    "sequence": 7,
    "product_id": "BTC-USD",
    "price": "90000.5",
    "best_bid": "90000.4",
    "best_ask": "90000.6",
    "side": "buy",
    "time": "2025-01-01T00:00:00.000000Z",
    "trade_id": 5,
    "last_size": "0.01",
}
#: Values that a decimal must not have.
NUMBERS: tuple[Any, ...] = (
    *(None, 1, 1.5, True, [], {}, "", " ", "0", "-1", "+1", "1,5", "1_000", "NaN", "Infinity"),
    *("1e400", "0x10", "1e-9", "12345678901", "1.123456789", "1234567.123456789", "\u0661"),
)
#: Broken values by field.
FIELDS: Mapping[str, tuple[Any, ...]] = {
    "price": NUMBERS,
    "last_size": ("0", "-0.5", "nan", 0.5, None, "1e9999"),
    "best_bid": ("-1", "abc", 3, "1e11"),
    "best_ask": ("0", "", {"a": 1}),
    "side": ("BUY", "", None, 1, "buyer"),
    "trade_id": (0, -1, 1.5, "5", None, True, 2**63, 10**400),
    "time": (
        *("", "yesterday", None, 0, "2025-01-01", "2025-01-01T00:00:00", "2025-13-01T00:00:00Z"),
        *("2025-01-01T25:00:00Z", "1999-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
    ),
    "product_id": ("ETH-USD", "btc-usd", None, 1, ""),
}
#: Messages that are broken as a whole.
WHOLE = (
    b"",
    b" ",
    b"null",
    b"true",
    b"0",
    b'"text"',
    b"[]",
    b"[1, 2",
    b"{",
    b"}",
    b"not json",
    b"<html><body>502 Bad Gateway</body></html>",
    b'{"type": "ticker"',
    b'{"type": "ticker"} trailing',
    b'{"type": "ticker"}{"type": "ticker"}',
    b'{"type": "ticker", "type": "ticker"}',
    b'{"type": ["ticker"]}',
    b'{"type": null}',
    b"{'type': 'ticker'}",
    b'{"price": NaN}',
    b'{"a": "\\ud800"}',
    b"[" * 5000,
    b'{"a":' * 5000,
    b"\x00",
    b"x" * 5000,
)


def kinds() -> list[bytes]:
    """Return one message of each malformed kind, at least 60."""
    broken = [
        json.dumps({**VALID, name: value}).encode()
        for name, values in FIELDS.items()
        for value in values
    ]
    missing = [
        json.dumps({key: value for key, value in VALID.items() if key != name}).encode()
        for name in ("product_id", "price", "side", "time", "trade_id", "last_size")
    ]
    return [message for message in (*WHOLE, *broken, *missing) if is_invalid(message)]


def generated(random: Random, count: int) -> Iterator[bytes]:
    """Yield malformed messages: a valid one with random changes to its text."""
    valid = json.dumps(VALID)
    alphabet = '{}[]",:.0123456789-+eEaz\\/ \t\u20ac'
    while count:
        text = list(valid)
        for _ in range(random.randint(1, 4)):
            place = random.randrange(len(text))
            change = random.randrange(4)
            if change == 0:
                del text[place]
            elif change == 1:
                text.insert(place, random.choice(alphabet))
            elif change == 2:
                text[place] = random.choice(alphabet)
            else:
                del text[place : place + random.randint(1, 30)]
        message = "".join(text).encode()
        if is_invalid(message):
            count -= 1
            yield message
