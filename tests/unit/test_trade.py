"""What a valid trade is: each rule at its limits, compared with an independent validator."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import times
from pipeline.ingest import store, trade
from pipeline.stores import sqlite

PRODUCT = "BTC-USD"
RECEIVED = datetime(2025, 12, 2, 5, 0, tzinfo=UTC)
GOOD = {
    "type": "ticker",
    "sequence": 1,
    "product_id": PRODUCT,
    "price": "86321.55",
    **dict.fromkeys(("open_24h", "volume_24h", "low_24h", "high_24h", "volume_30d"), "1.5"),
    "best_bid": "86321.54",
    "best_bid_size": "0.1",
    "best_ask": "86321.55",
    "best_ask_size": "0.2",
    "side": "buy",
    "time": "2025-12-02T04:59:59.123456Z",
    "trade_id": 123456789,
    "last_size": "0.00012345",
}


def message(**fields: object) -> bytes:
    return json.dumps(GOOD | fields).encode()


def without(field: str) -> bytes:
    return json.dumps({name: value for name, value in GOOD.items() if name != field}).encode()


def decode(raw: bytes, received: datetime = RECEIVED) -> trade.Trade:
    return trade.decode(raw, PRODUCT, received)


def reason(raw: bytes, received: datetime = RECEIVED) -> str:
    with pytest.raises(trade.InvalidTradeError) as refusal:
        decode(raw, received)
    return str(refusal.value)


# --- the message ----------------------------------------------------------------------------


def test_a_valid_message_keeps_its_values() -> None:
    assert decode(message()) == trade.Trade(
        trade_id=123456789,
        price="86321.55",
        best_bid="86321.54",
        best_ask="86321.55",
        side="buy",
        time=datetime(2025, 12, 2, 4, 59, 59, 123456, tzinfo=UTC),
        last_size="0.00012345",
    )


@pytest.mark.parametrize(
    "broken",
    [
        message().replace(b"buy", b"b\xffy"),
        message().replace(b"buy", b"\xc0\xaf"),  # an overlong slash
        message().replace(b"buy", b"\xed\xa0\x80"),  # half of a surrogate pair
        message().replace(b"buy", b"\xf4\x90\x80\x80"),  # beyond Unicode
        message()[:-2] + b"\xe2\x82",  # cut inside a character
        message().decode().encode("utf-16"),
    ],
)
def test_bytes_that_are_not_strict_utf8_are_invalid(broken: bytes) -> None:
    assert reason(broken).startswith("not UTF-8: byte ")


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b" ",
        b"{",
        message()[:-1],
        message() + b"x",
        message() + message(),
        message() + b"\x00",
        b"\xef\xbb\xbf" + message(),  # a byte order mark
        message().replace(b"{", b"{,", 1),
        message()[:-1] + b",}",
        message()[:-1] + b",'a':1}",
        message()[:-1] + b",a:1}",
        message()[:-1] + b',"a":NaN}',
        message()[:-1] + b',"a":Infinity}',
        message()[:-1] + b',"a":-Infinity}',
        message()[:-1] + b',"a":1e400}',
        message()[:-1] + b',"a":01}',
        message()[:-1] + b',"a":+1}',
        message()[:-1] + b',"a":.5}',
        message()[:-1] + b',"a":1.}',
        message()[:-1] + b',"a":"\\x41"}',
        message()[:-1] + b',"a":"\\ud800"}',
        message()[:-1] + b',"a":"\n"}',
        message()[:-1] + b',"a":1/*x*/}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_text_that_is_not_strict_json_is_invalid(broken: bytes) -> None:
    assert reason(broken).startswith("not JSON: ")


@pytest.mark.parametrize("value", [b"[]", b"1", b'"x"', b"null", b"true", b"[" + message() + b"]"])
def test_json_that_is_not_an_object_is_invalid(value: bytes) -> None:
    assert reason(value) == "not a JSON object"


@pytest.mark.parametrize(
    ("added", "key"),
    [
        (b'"price":"86321.55"', "price"),
        (b'"price" : "1"', "price"),
        (b'"price"\t\r\n:\n"1"', "price"),
        (b'"\\u0070rice":"1"', "price"),
        (b'"price":1', "price"),
        (b'"price":null', "price"),
        (b'"price":{}', "price"),
        (b'"sequence":1', "sequence"),
        (b'"a":{"b":1,"b":1}', "b"),
        (b'"a":[{"b":1,"\\u0062":2}]', "b"),
        (b'"a":[[{"c":[],"c":""}]]', "c"),
        (b'"":1,"":2', ""),
    ],
)
def test_a_repeated_key_is_invalid_and_in_the_reason(added: bytes, key: str) -> None:
    assert reason(message()[:-1] + b"," + added + b"}") == f"repeated key: {key!r}"


@pytest.mark.parametrize(
    "added",
    [
        b'"note":"a \\"price\\": in a text"',
        b'"Price":"1"',
        b'"a":{"price":"1"}',
        b'"a":[{"b":1},{"b":2}]',
        b'"a":[],"b":{}',
        b'"\\u0071":"1"',
    ],
)
def test_keys_that_only_look_repeated_are_valid(added: bytes) -> None:
    assert decode(message()[:-1] + b"," + added + b"}").trade_id == 123456789


def test_white_space_between_the_parts_is_valid() -> None:
    spread = b"\r\n\t " + json.dumps(GOOD, indent=3).encode() + b"\n \r"
    assert decode(spread) == decode(message())


# --- the fields -----------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["product_id", "trade_id", "price", "side", "time", "last_size"])
def test_a_missing_field_is_invalid_and_in_the_reason(field: str) -> None:
    assert reason(without(field)) == f"{field}: missing"


@pytest.mark.parametrize("field", ["best_bid", "best_ask"])
@pytest.mark.parametrize("how", ["missing", "null"])
def test_best_bid_and_best_ask_may_be_unknown(field: str, how: str) -> None:
    raw = without(field) if how == "missing" else message(**{field: None})
    assert getattr(decode(raw), field) is None


def test_a_message_of_another_type_is_not_a_trade() -> None:
    assert reason(message(type="match")) == "type: 'match' is not a ticker"
    assert reason(without("type")) == "type: None is not a ticker"
    assert reason(message(type=["ticker"])) == "type: ['ticker'] is not a ticker"


@pytest.mark.parametrize(
    "field", ["product_id", "price", "best_bid", "best_ask", "side", "time", "last_size"]
)
@pytest.mark.parametrize("value", [1, 1.5, True, [], {}, ["1"], {"a": "1"}])
def test_a_field_of_another_type_is_invalid_and_in_the_reason(field: str, value: object) -> None:
    assert reason(message(**{field: value})).startswith(f"{field}: ")


@pytest.mark.parametrize("field", ["product_id", "price", "side", "time", "last_size", "trade_id"])
def test_null_is_invalid(field: str) -> None:
    assert reason(message(**{field: None})).startswith(f"{field}: ")


@pytest.mark.parametrize("value", [1, 2**31, 2**31 - 1, 2**53 + 1, 2**63 - 1])
def test_a_trade_id_is_a_positive_64_bit_number(value: int) -> None:
    assert decode(message(trade_id=value)).trade_id == value


@pytest.mark.parametrize(
    "value", [0, -1, 2**63, 2**64, 10**400, 1.0, 1.5, 1e18, True, False, "1", "", [1], None]
)
def test_any_other_trade_id_is_invalid(value: object) -> None:
    assert reason(message(trade_id=value)).startswith("trade_id: ")


@pytest.mark.parametrize("written", [b"-0", b"1e3", b"1.0", b"123456789.0"])
def test_a_trade_id_in_another_notation_is_invalid(written: bytes) -> None:
    raw = message().replace(b"123456789", written)
    assert reason(raw).startswith("trade_id: ")


def test_a_side_is_buy_or_sell() -> None:
    assert decode(message(side="sell")).side == "sell"
    for side in ("BUY", "Sell", "", "hold", " buy", "buy "):
        assert reason(message(side=side)).startswith("side: "), side


def test_another_product_is_invalid() -> None:
    assert reason(message(product_id="ETH-USD")) == "product_id: 'ETH-USD' is not BTC-USD"
    assert reason(message(product_id="btc-usd")).startswith("product_id: ")


DECIMALS = ["price", "best_bid", "best_ask", "last_size"]


@pytest.mark.parametrize("field", DECIMALS)
@pytest.mark.parametrize(
    "text",
    [
        "0.00000001",  # the least that 8 places hold
        "9999999999",  # the greatest of 10 integer digits
        "9999999999.99999",  # 15 digits
        "1234567.12345678",
        "1.00000000000000000000",  # zeros at the end say nothing
        "0000000000001.5",
        "000000000000000000000.1",
        "1e9",
        "1E9",
        "1e+9",
        "1e-8",
        "123456789012345e-5",
        "100000000000e-2",
        "0.000000001e1",
    ],
)
def test_a_positive_decimal_that_spark_and_sqlite_store_exactly_is_valid(
    field: str, text: str
) -> None:
    assert getattr(decode(message(**{field: text})), field) == text


@pytest.mark.parametrize("field", DECIMALS)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0", "not positive"),
        ("0.00000000", "not positive"),
        ("0e400", "not positive"),
        ("000", "not positive"),
        ("-1", "not a positive decimal"),
        ("-0.0", "not a positive decimal"),
        ("+1", "not a positive decimal"),
        ("", "not a positive decimal"),
        (" 1", "not a positive decimal"),
        ("1 ", "not a positive decimal"),
        ("1\n", "not a positive decimal"),
        ("1,5", "not a positive decimal"),
        ("1_000", "not a positive decimal"),
        (".5", "not a positive decimal"),
        ("5.", "not a positive decimal"),
        ("1.5.5", "not a positive decimal"),
        ("0x10", "not a positive decimal"),
        ("1e", "not a positive decimal"),
        ("1e5.0", "not a positive decimal"),
        ("NaN", "not a positive decimal"),
        ("nan", "not a positive decimal"),
        ("sNaN1", "not a positive decimal"),
        ("Infinity", "not a positive decimal"),
        ("inf", "not a positive decimal"),
        ("\u0661\u0662", "not a positive decimal"),  # Arabic digits
        ("\uff11", "not a positive decimal"),  # a full-width one
        ("1e99999", "not a positive decimal"),
        ("1e400", "does not fit"),
        ("1e-400", "does not fit"),
        ("10000000000", "does not fit"),
        ("1e10", "does not fit"),
        ("0.000000001", "does not fit"),
        ("1.000000001", "does not fit"),
        ("1." + "0" * 40 + "1", "does not fit"),  # beyond the default precision of decimals
        ("0." + "9" * 60, "does not fit"),
        ("9999999999.999999", "has more than 15 digits"),
        ("12345678.12345678", "has more than 15 digits"),
    ],
)
def test_any_other_price_or_size_is_invalid_and_in_the_reason(
    field: str, text: str, why: str
) -> None:
    refusal = reason(message(**{field: text}))
    assert refusal.startswith(f"{field}: ")
    assert why in refusal


def test_a_reason_has_a_maximum_length() -> None:
    assert len(reason(message(side="x" * 5000))) <= trade.REASON_LENGTH


def test_a_long_value_is_cut_in_the_reason() -> None:
    assert len(reason(message(price="x" * 10_000))) < 100
    assert len(reason(message(product_id="x" * 10_000))) < 100


# --- the time -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2012-01-01T00:00:00Z", datetime(2012, 1, 1, tzinfo=UTC)),
        ("2025-12-02T04:59:59.1Z", datetime(2025, 12, 2, 4, 59, 59, 100_000, tzinfo=UTC)),
        ("2025-12-02T05:01:00Z", RECEIVED + timedelta(seconds=60)),
        ("2025-12-02T05:01:00.000000Z", RECEIVED + timedelta(seconds=60)),
        ("2025-12-02T10:29:00+05:30", datetime(2025, 12, 2, 4, 59, tzinfo=UTC)),
        ("2025-12-01T23:59:00-05:00", datetime(2025, 12, 2, 4, 59, tzinfo=UTC)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
    ],
)
def test_a_time_with_a_zone_becomes_utc(text: str, moment: datetime) -> None:
    valid = decode(message(time=text))
    assert valid.time == moment
    assert valid.time.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        "2011-12-31T23:59:59.999999Z",
        "2012-01-01T00:59:59.999999+01:00",
        "1970-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "2025-12-02T05:01:00.000001Z",
        "2025-12-02T06:01:00.000001+01:00",
        "2286-11-20T17:46:40Z",
        "9999-12-31T23:59:59-23:59",
        "2025-12-02T04:59:59",  # no zone
        "2025-12-02T04:59:59 UTC",
        "2025-12-02",
        "2025-02-29T00:00:00Z",
        "2025-13-01T00:00:00Z",
        "2025-12-02T25:00:00Z",
        "2025-12-02T04:60:00Z",
        "2025-12-02T04:59:60Z",
        "2025-12-02T04:59:59.Z",
        "2025-12-02T04:59:59+24:00",
        "1764651599",
        "",
        " 2025-12-02T04:59:59Z",
    ],
)
def test_any_other_time_is_invalid_and_in_the_reason(text: str) -> None:
    assert reason(message(time=text)).startswith("time: ")


def test_a_time_may_be_one_minute_after_the_receipt() -> None:
    raw = message(time="2025-12-02T05:01:00Z")
    assert decode(raw, RECEIVED).time > RECEIVED
    assert reason(raw, RECEIVED - timedelta(microseconds=1)).startswith("time: ")


# --- times ----------------------------------------------------------------------------------


@given(st.integers(-(10**15), 10**16))
def test_microseconds_since_1970_are_exact(micros: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    assert times.epoch_micros(moment) == micros


def test_a_record_timestamp_is_milliseconds_since_1970() -> None:
    moment = datetime(2025, 12, 2, 5, 0, 0, 999_000, tzinfo=UTC)
    assert times.from_epoch_millis(1_764_651_600_999) == moment
    assert times.from_epoch_millis(-1) == datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)


@pytest.mark.parametrize("millis", [2**62, -(2**62), 2**63 - 1])
def test_a_record_timestamp_outside_of_the_calendar_raises_no_error(millis: int) -> None:
    assert (times.from_epoch_millis(millis).year == 9999) == (millis > 0)


# --- an independent validator ---------------------------------------------------------------


class Bad(Exception):  # noqa: N818 - a word, not an error of the program
    """The message is not a valid trade, as this file decides."""


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise Bad
    return dict(pairs)


def _constant(_: str) -> object:
    raise Bad


def _float(text: str) -> float:
    if Decimal(text).copy_abs() >= Decimal(2) ** 1024:
        raise Bad
    return float(text)


def _surrogate_free(value: object) -> None:
    """Return whether a text has half of a surrogate pair, which is not a character."""
    json.dumps(value, ensure_ascii=False).encode()


def own_decimal(text: object) -> Decimal:
    if not isinstance(text, str):
        raise Bad
    match = re.fullmatch(r"([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]{1,3}))?", text)
    if match is None:
        raise Bad
    # The value is `digits` * 10 ** `power`, in whole numbers only.
    digits = (match[1] + (match[2] or "")).lstrip("0")
    power = int(match[3] or 0) - len(match[2] or "")
    power += len(digits) - len(digits.rstrip("0"))
    digits = digits.rstrip("0")
    fits = digits and len(digits) <= 15 and power >= -8 and len(digits) + power <= 10
    if not fits:
        raise Bad
    return Decimal(f"{digits}e{power}")


def own_time(text: object, received: datetime) -> datetime:
    form = (
        r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?"
        r"(?:[Zz]|([+-])(\d\d):?(\d\d))"
    )
    match = re.fullmatch(form, text, re.ASCII) if isinstance(text, str) else None
    if match is None:
        raise Bad
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    micros = int(((match[7] or "") + "0000000")[:7])
    micros = (micros + 5) // 10
    offset = 0
    if match[8]:
        if int(match[9]) > 23 or int(match[10]) > 59:
            raise Bad
        offset = (int(match[9]) * 60 + int(match[10])) * (1 if match[8] == "+" else -1)
    if hour > 23 or minute > 59 or second > 59:
        raise Bad
    try:
        days = date(year, month, day).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        raise Bad from None
    seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second
    since = seconds * 1_000_000 + micros
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    ahead = (received - epoch + timedelta(seconds=60)) // timedelta(microseconds=1)
    if not 1_325_376_000_000_000 <= since <= ahead:
        raise Bad
    return epoch + timedelta(microseconds=since)


def own_trade(raw: bytes) -> tuple[object, ...]:
    """Return the trade in a message, validated with the standard library alone."""
    try:
        parsed = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_pairs,
            parse_constant=_constant,
            parse_float=_float,
        )
        _surrogate_free(parsed)
    except (ValueError, RecursionError):
        raise Bad from None
    if not isinstance(parsed, dict):
        raise Bad
    number, side = parsed.get("trade_id"), parsed.get("side")
    if parsed.get("type") != "ticker" or parsed.get("product_id") != PRODUCT:
        raise Bad
    if type(number) is not int or not 1 <= number < 2**63 or side not in ("buy", "sell"):
        raise Bad
    bid, ask = parsed.get("best_bid"), parsed.get("best_ask")
    return (
        number,
        own_decimal(parsed.get("price")),
        None if bid is None else own_decimal(bid),
        None if ask is None else own_decimal(ask),
        side,
        own_time(parsed.get("time"), RECEIVED),
        own_decimal(parsed.get("last_size")),
    )


def own_judgement(raw: bytes) -> tuple[object, ...] | None:
    try:
        return own_trade(raw)
    except Bad:
        return None


def their_judgement(raw: bytes) -> tuple[object, ...] | None:
    try:
        taken = decode(raw)
    except trade.InvalidTradeError:
        return None
    amounts = (taken.price, taken.best_bid, taken.best_ask, taken.last_size)
    price, bid, ask, size = (None if a is None else Decimal(a) for a in amounts)
    return taken.trade_id, price, bid, ask, taken.side, taken.time, size


digits = st.text("0123456789", min_size=1, max_size=14)
decimal_texts = st.one_of(
    st.builds("{}.{}".format, digits, digits),
    digits,
    st.builds("{}e{}".format, digits, st.integers(-16, 12)),
    st.builds("{}.{}E{}".format, digits, digits, st.integers(-16, 12)),
    st.builds("1.{}{}".format, st.integers(0, 45).map("0".__mul__), digits),
    st.text("0123456789.eE+- naNifI", max_size=12),
)
two = st.integers(0, 99).map("{:02}".format)
time_texts = st.builds(
    "{}-{}-{}{}{}:{}:{}{}{}".format,
    st.sampled_from(["2025", "2012", "2011", "2024", "0001", "9999", "20255"]),
    st.sampled_from(["12", "01", "02", "00", "13", "1"]),
    st.sampled_from(["02", "01", "31", "29", "30", "00", "32"]),
    st.sampled_from(["T", " ", "t", ""]),
    st.sampled_from(["04", "05", "00", "23", "24"]),
    st.sampled_from(["59", "00", "01", "60"]),
    st.sampled_from(["59", "00", "60", "01"]),
    st.one_of(st.just(""), st.just("."), st.text("0123456789", max_size=12).map(".{}".format)),
    st.one_of(
        st.sampled_from(["Z", "z", "", " Z", "+00:00", "-00:00", "+0530", "+05", "UTC"]),
        st.builds("{}{}:{}".format, st.sampled_from("+-"), two, two),
    ),
)
any_value = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
field_values: dict[str, st.SearchStrategy[object]] = {
    "type": st.one_of(st.just("ticker"), any_value),
    "product_id": st.one_of(st.just(PRODUCT), any_value),
    "trade_id": st.one_of(st.integers(-1, 3), st.integers(2**63 - 2, 2**63 + 1), any_value),
    "side": st.one_of(st.sampled_from(["buy", "sell", "Buy", ""]), any_value),
    "time": st.one_of(time_texts, any_value),
    **{field: st.one_of(decimal_texts, any_value) for field in DECIMALS},
}


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a valid message with some fields changed, removed or added, in some notation."""
    fields: dict[str, object] = dict(GOOD)
    for name in draw(st.sets(st.sampled_from(sorted(field_values)), max_size=2)):
        fields[name] = draw(field_values[name])
    for name in draw(st.sets(st.sampled_from(sorted(fields)), max_size=1)):
        if draw(st.booleans()):
            del fields[name]
    fields |= draw(st.dictionaries(st.text(max_size=3), any_value, max_size=1))
    text = json.dumps(
        fields,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1])),
        separators=draw(st.sampled_from([(",", ":"), (" , ", " : ")])),
    )
    return text.encode(errors="surrogatepass")


@pytest.mark.parametrize("field", ["sequence", "volume_30d"])
def test_a_message_with_fewer_or_more_fields_than_the_exchange_sends_is_the_same_trade(
    field: str,
) -> None:
    assert decode(without(field)) == decode(message(more="1")) == decode(message())


@settings(max_examples=300, deadline=None)
@given(mutated())
@example(message(price="1." + "0" * 40 + "1"))
@example(message(last_size="0." + "0" * 30 + "1e31"))
def test_exactly_the_messages_that_the_independent_validator_accepts_are_valid(raw: bytes) -> None:
    assert their_judgement(raw) == own_judgement(raw)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_independent_validator_agrees_on_damaged_bytes(data: st.DataObject) -> None:
    raw = bytearray(message())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        how = data.draw(st.sampled_from(["change", "drop", "insert", "double"]))
        byte = data.draw(st.sampled_from(list(b'"\\{}[]:,0159.eEtfnu \n\x00\x80\xc3\xed\xff')))
        if how == "change":
            raw[at] = byte
        elif how == "drop" and len(raw) > 1:
            del raw[at]
        elif how == "insert":
            raw.insert(at, byte)
        else:
            end = data.draw(st.integers(at, min(len(raw), at + 40)))
            raw[at:at] = raw[at:end]
    assert their_judgement(bytes(raw)) == own_judgement(bytes(raw))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite.SqliteWriter]:
    connection = sqlite.open_writer(tmp_path_factory.mktemp("trade") / "crypto_prices.db")
    connection.execute("PRAGMA synchronous = OFF")  # no power cut is tested here
    yield connection
    connection.close()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_valid_trade_passes_the_checks_of_the_table_and_is_read_back_exactly(
    database: sqlite.SqliteWriter, data: st.DataObject
) -> None:
    amounts = {field: data.draw(decimal_texts) for field in DECIMALS}
    raw = message(
        **amounts,
        trade_id=data.draw(st.integers(1, 2**63 - 1)),
        time=data.draw(time_texts),
    )
    if (valid := own_judgement(raw)) is None:
        raw = message(trade_id=data.draw(st.integers(1, 2**63 - 1)))
        valid = own_judgement(raw)
    assert valid is not None
    batch = store.Batch(0, 0, 1, 0, RECEIVED, RECEIVED, [decode(raw)])
    database.execute("DELETE FROM btc_prices")
    store.store(database, batch, RECEIVED)
    row = database.execute("SELECT * FROM btc_prices").fetchone()
    number, price, bid, ask, side, time, size = row
    reals = [None if real is None else Decimal(repr(real)) for real in (price, bid, ask, size)]
    assert (number, *reals[:3], side, datetime.fromisoformat(time), reals[3]) == valid


def test_fifteen_digits_are_read_back_from_a_real_exactly() -> None:
    for whole in range(1, 11):
        places = min(8, 15 - whole)
        for digit in "123456789":
            text = f"{digit * whole}.{digit * places}"
            assert own_decimal(text) == Decimal(text) == Decimal(repr(float(text)))


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        (b'{"product_id": "BTC-USD", "trade_id": 7, "price": "abc"}', 7),
        (b'{"product_id": "ETH-USD", "trade_id": 7}', None),
        (b'{"product_id": "BTC-USD", "trade_id": "7"}', None),
        (b'{"product_id": "BTC-USD", "trade_id": 0}', None),
        (b'{"product_id": "BTC-USD"}', None),
        (b"[7]", None),
        (b"not json", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b"", None),
    ],
)
def test_the_id_of_an_invalid_message_is_read_if_it_has_one(raw: bytes, number: int | None) -> None:
    assert trade.id_in(raw, "BTC-USD") == number
