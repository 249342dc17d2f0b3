"""Decode and validate trades, and give the reason why a message is invalid. Pure.

The producer, the consumer and the stream all use these rules.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Annotated, Any, Literal

import msgspec

#: Types of the messages about the connection; they are not about trades.
CONTROL_TYPES = frozenset({"subscriptions", "heartbeat", "error"})
TICKER = "ticker"
#: The header in Kafka of a trade that was recovered over REST.
BACKFILL_HEADER = "backfill"

#: DECIMAL(18,8) in Spark has 10 digits before the point and 8 after it. REAL in SQLite stores 15
#: digits exactly.
INTEGER_DIGITS = 10
SCALE = 8
SIGNIFICANT_DIGITS = 15

EARLIEST = datetime(2012, 1, 1, tzinfo=UTC)
#: How far the event time may be ahead of the time of receipt, because clocks differ.
MAX_AHEAD = timedelta(minutes=1)
#: The end of the reason of a `FutureTradeError`.
AFTER_RECEIPT = "is more than a minute after the receipt"

#: The default context would round a number to 28 digits before its digits are counted.
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_PLAIN = re.compile(r"[0-9]{1,10}(\.[0-9]{1,8})?", re.ASCII)


#: Maximum number of characters of a reason, which quotes the message.
REASON_LENGTH = 200


class InvalidTradeError(Exception):
    """A message is not a valid trade. The text is the reason: the field and what is wrong."""


def kind_of(reason: str) -> str:
    """Return the kind of a reason: the text before its first colon, for example the field."""
    return reason.partition(":")[0]


class FutureTradeError(InvalidTradeError):
    """The event time is too long after the receipt."""


class Trade(msgspec.Struct, frozen=True):
    """A valid trade. Prices are in quote currency, the size is in base currency.

    Decimals are strings, exactly as the exchange sent them.
    """

    trade_id: int
    price: str
    best_bid: str | None  #: None if unknown
    best_ask: str | None  #: None if unknown
    side: Literal["buy", "sell"]  #: of the taker
    time: datetime  #: event time, UTC, microseconds
    last_size: str

    @property
    def content(self) -> tuple[datetime, str, float, float]:
        """The fields that a repeated message must not change.

        If one differs, two trades have the same id: a conflict.
        """
        return self.time, self.side, float(self.price), float(self.last_size)


class _Ticker(msgspec.Struct):
    product_id: str
    trade_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    price: str
    side: Literal["buy", "sell"]
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    last_size: str
    best_bid: str | None = None
    best_ask: str | None = None


class _ExchangeTicker(_Ticker, kw_only=True):
    """The message as the exchange sends it: exactly these fields."""

    type: Literal["ticker"]
    sequence: int
    best_bid: str
    best_bid_size: str
    best_ask: str
    best_ask_size: str
    open_24h: str
    volume_24h: str
    low_24h: str
    high_24h: str
    volume_30d: str


_EXCHANGE = msgspec.json.Decoder(_ExchangeTicker)
#: Quotation marks in such a message: two for each key and each string value.
_EXCHANGE_QUOTES = 2 * (17 + 15)


class _Numbered(msgspec.Struct):
    product_id: str
    trade_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


def id_in(raw: bytes, product: str) -> int | None:
    """Return the trade id of a message of this product, valid or not; None if it has none."""
    try:
        numbered = msgspec.json.decode(raw, type=_Numbered)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return numbered.trade_id if numbered.product_id == product else None


def parse(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in a message.

    Raises:
        InvalidTradeError: not UTF-8, not strict JSON, not an object, or an object with the same key
            twice.
    """
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidTradeError(f"not UTF-8: byte {error.start}") from None
    try:
        message = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidTradeError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise InvalidTradeError("not a JSON object")
    if not _has_no_repeated_key(raw, message):
        _check_repeated_keys(raw)
    return message


def _has_no_repeated_key(raw: bytes, message: dict[str, Any]) -> bool:
    """Return True if the number of quotation marks proves that no key is repeated.

    Each string of a flat message has two. msgspec silently takes the last of repeated keys, and a
    parser that reports them is ten times slower. False means that the message has to be checked.
    """
    strings = len(message)
    for value in message.values():
        if isinstance(value, str):
            strings += 1
        elif isinstance(value, dict | list):
            return False
    return b"\\" not in raw and raw.count(b'"') == 2 * strings


def _check_repeated_keys(raw: bytes) -> None:
    def check(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidTradeError(f"repeated key: {key[:40]!r}")
            seen.add(key)

    try:
        json.loads(raw, object_pairs_hook=check)
    except (ValueError, RecursionError) as error:
        raise InvalidTradeError(f"not JSON: {error}") from None


def trade_of(message: dict[str, Any], product: str, received: datetime) -> Trade:
    """Return the trade in a parsed `ticker` message.

    Args:
        message: what `parse` returned.
        product: the only valid product.
        received: the time of receipt; the event time may be at most `MAX_AHEAD` later.

    Raises:
        InvalidTradeError: a field is missing, has the wrong type or is out of range.
    """
    if message.get("type") != TICKER:
        raise InvalidTradeError(f"type: {_shown(message.get('type'))} is not a ticker")
    try:
        ticker = msgspec.convert(message, _Ticker)
    except msgspec.ValidationError as error:
        raise InvalidTradeError(_field_problem(str(error))) from None
    return _checked(ticker, product, received)


def _checked(ticker: _Ticker, product: str, received: datetime) -> Trade:
    if ticker.product_id != product:
        raise InvalidTradeError(f"product_id: {_shown(ticker.product_id)} is not {product}")
    _check_decimal("price", ticker.price)
    _check_decimal("last_size", ticker.last_size)
    if ticker.best_bid is not None:
        _check_decimal("best_bid", ticker.best_bid)
    if ticker.best_ask is not None:
        _check_decimal("best_ask", ticker.best_ask)
    if ticker.time < EARLIEST:
        raise InvalidTradeError(f"time: {ticker.time.isoformat()} is before 2012")
    if ticker.time - received > MAX_AHEAD:
        raise FutureTradeError(f"time: {ticker.time.isoformat()} {AFTER_RECEIPT}")
    return Trade(
        trade_id=ticker.trade_id,
        price=ticker.price,
        best_bid=ticker.best_bid,
        best_ask=ticker.best_ask,
        side=ticker.side,
        time=ticker.time.astimezone(UTC),
        last_size=ticker.last_size,
    )


def decode(raw: bytes, product: str, received: datetime) -> Trade:
    """Return the trade in a message: `parse` and `trade_of` in one step.

    Messages as the exchange sends them take a third of the time.
    """
    ticker = _as_the_exchange_sends(raw)
    if ticker is None:
        return trade_of(parse(raw), product, received)
    return _checked(ticker, product, received)


def _as_the_exchange_sends(raw: bytes) -> _ExchangeTicker | None:
    """Return the message if it has exactly the fields that the exchange sends, each once."""
    if not raw.isascii() or b"\\" in raw or raw.count(b'"') != _EXCHANGE_QUOTES:
        return None
    try:
        return _EXCHANGE.decode(raw)
    except msgspec.MsgspecError:
        return None


def _field_problem(text: str) -> str:
    """Return the text of msgspec with the name of the field in front."""
    if missing := re.search("missing required field `(.+)`", text):
        return f"{missing[1]}: missing"
    what, _, where = text.partition(" - at `$.")
    return f"{where.rstrip('`')}: {what}"[:REASON_LENGTH]


def _shown(value: object) -> str:
    return repr(value)[:40]


def _check_decimal(field: str, text: str) -> None:
    """Check that a text is a positive decimal that Spark and SQLite both store exactly."""
    if len(text) <= SIGNIFICANT_DIGITS and _PLAIN.fullmatch(text) and text.strip("0."):
        return
    if not _NUMBER.fullmatch(text):
        raise InvalidTradeError(f"{field}: {_shown(text)} is not a positive decimal")
    number = Decimal(text).normalize(_EXACT)
    _, digits, exponent = number.as_tuple()
    if not number:
        raise InvalidTradeError(f"{field}: {_shown(text)} is not positive")
    if number.adjusted() >= INTEGER_DIGITS or int(exponent) < -SCALE:
        raise InvalidTradeError(f"{field}: {_shown(text)} does not fit DECIMAL(18,8)")
    if len(digits) > SIGNIFICANT_DIGITS:
        raise InvalidTradeError(
            f"{field}: {_shown(text)} has more than {SIGNIFICANT_DIGITS} digits"
        )
