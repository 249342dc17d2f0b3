"""An independent computation of the results that the pipeline must produce from a recording.

It is written in plain Python with exact decimals, from the definitions of the metrics. It imports
nothing of the pipeline. `feed.recording` only reads the file.

`python -m tests.golden RECORDING DATA_DIR` compares the output files in a data directory with the
recording that was replayed into it, with the settings of that run: see `tests/golden/run.py`. It
prints each difference and a summary. The exit status is 0 without differences, 1 with some, and 2
if the files cannot be compared. `verify()` compares a run with default settings that was replayed
with its original timestamps.
"""

import csv
import gc
import json
import math
import re
import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation, localcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from feed import recording

PRODUCT = "BTC-USD"
MINUTE = 60_000_000  # microseconds, the unit of all times here (since 1970)
#: Amounts are added up as integers in units of 10^-8.
UNIT = Decimal(10**8)
#: Greatest difference allowed: absolute, and relative for numbers that a double holds less exactly.
TOLERANCE = Decimal("1e-9")
DOUBLE = Decimal("1e-15")
#: Differences listed per output file. Further ones are only counted.
SHOWN = 20

#: The column of each z-score, and the column it scores. Scores are rounded to six places.
Z_SCORES = {"range_z": "price_range", "volume_z": "total_volume"}
Z_TOLERANCE = Decimal("5.000001e-7")
HOUR = 60 * MINUTE
LEAST_WINDOWS = 10

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST = 1_325_376_000_000_000  # 2012-01-01
_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?"
    r"(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))",
    re.ASCII,
)

TEXTS = ("volatility_flag", "market_sentiment", "volume_spike")
COUNTS = ("trade_count", "buy_count", "sell_count")
NUMBERS = (
    *("avg_price", "max_price", "min_price", "price_range", "total_volume", "buy_sell_ratio"),
    *("vwap", "open_price", "close_price", "volume_imbalance"),
)


class Trade(NamedTuple):
    trade_id: int
    price: Decimal
    best_bid: Decimal | None
    best_ask: Decimal | None
    side: str
    time: int
    size: Decimal


class Rules(NamedTuple):
    """What the results depend on besides the trades. The defaults are those of the contract."""

    product: str = PRODUCT
    window: int = MINUTE
    watermark: int = MINUTE
    #: Thresholds of the metrics.
    range: Decimal = Decimal(50)
    ratio: Decimal = Decimal("1.2")
    spike: Decimal = Decimal(100)


CONTRACT = Rules()

#: The rows of one path, each with its name, by window start.
NamedRows = dict[int, tuple[str, dict[str, str]]]


@dataclass
class Golden:
    """The results that follow from a recording."""

    rules: Rules = CONTRACT
    #: By trade_id. Of several messages with one id, the first valid one counts.
    trades: dict[int, Trade] = field(default_factory=dict)
    #: The metrics by the start of the window.
    windows: dict[int, dict[str, object]] = field(default_factory=dict)
    #: The metrics of all trades. Empty without trades.
    total: dict[str, object] = field(default_factory=dict)
    #: Messages by outcome: valid (first of their id), repeated (valid, id seen before), other.
    valid: int = 0
    repeated: int = 0
    other: int = 0


class InvalidError(Exception):
    """A message that is no valid trade."""


# --- what a valid trade is ------------------------------------------------------------------


def trade_in(frame: bytes, now: datetime, product: str = PRODUCT) -> Trade:
    """Return the trade in a message that was received at `now`.

    Raises:
        InvalidError: The message is not a valid ticker of the product.
    """
    message = strict_json(frame)
    if not isinstance(message, dict):
        raise InvalidError("not an object")
    if message.get("type") != "ticker" or message.get("product_id") != product:
        raise InvalidError("not a ticker of this product")
    trade_id = message.get("trade_id")
    if type(trade_id) is not int or not 0 < trade_id < 2**63:
        raise InvalidError("trade_id")
    if message.get("side") not in ("buy", "sell"):
        raise InvalidError("side")
    time = _moment(message.get("time"))
    if not _EARLIEST <= time <= _micros(now) + MINUTE:
        raise InvalidError("time before 2012 or ahead of now")
    bid, ask = message.get("best_bid"), message.get("best_ask")
    return Trade(
        trade_id,
        _amount(message.get("price")),
        None if bid is None else _amount(bid),
        None if ask is None else _amount(ask),
        message["side"],
        time,
        _amount(message.get("last_size")),
    )


def number_in(frame: bytes) -> int | None:
    """Return the trade id in a message, valid or not; None if it has none."""
    try:
        message = strict_json(frame)
    except InvalidError:
        return None
    found = message.get("trade_id") if isinstance(message, dict) else None
    return found if type(found) is int else None


def strict_json(frame: bytes) -> object:
    try:
        text = frame.decode("utf-8")
        message = _JSON.decode(text)
        if "\\u" in text:  # half of a surrogate pair, escaped, is no character
            json.dumps(message, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise InvalidError("not JSON") from error
    return message


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice")
    return members


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is out of range")
    return number


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)


def _amount(value: object) -> Decimal:
    """Return a positive decimal that DECIMAL(18,8) and the 15 digits of a double hold exactly."""
    if not isinstance(value, str):
        raise InvalidError("not a string")
    return _decimal(value)


@lru_cache(maxsize=50_000)
def _decimal(text: str) -> Decimal:
    if not _DECIMAL.fullmatch(text):
        raise InvalidError("not a decimal")
    number = Decimal(text)
    whole, _, places = format(number, "f").partition(".")
    whole, places = whole.lstrip("0"), places.rstrip("0")
    if len(whole) > 10 or len(places) > 8:
        raise InvalidError("outside DECIMAL(18,8)")
    if not 1 <= len((whole + places).strip("0")) <= 15:
        raise InvalidError("zero, or over 15 digits")
    return number


def _moment(value: object) -> int:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidError("not a time with its zone")
    date, clock, fraction, sign, hours, minutes = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}+00:00")
    except ValueError as error:
        raise InvalidError("no such time") from error
    micros = _micros(moment)
    if fraction:
        digits = fraction[1:].ljust(7, "0")
        micros += int(digits[:6]) + (digits[6] >= "5")  # to the nearest microsecond
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            raise InvalidError("no such zone")
        offset = (int(hours) * 60 + int(minutes)) * MINUTE
        micros -= offset if sign == "+" else -offset
    return micros


# --- the results of the trades -----------------------------------------------------------


def compute(path: Path, now: datetime | None = None, rules: Rules = CONTRACT) -> Golden:
    """Return the trades of a recording and every result computed from them."""
    return compute_frames((line.frame for line in recording.read(path)), now, rules)


def compute_frames(
    frames: Iterable[bytes], now: datetime | None = None, rules: Rules = CONTRACT
) -> Golden:
    """Return the trades in messages and every result computed from them."""
    received = now or datetime.now(UTC)
    golden = Golden(rules)
    with _no_garbage_collection():
        for frame in frames:
            try:
                trade = trade_in(frame, received, rules.product)
            except InvalidError:
                golden.other += 1
                continue
            if trade.trade_id in golden.trades:
                golden.repeated += 1
            else:
                golden.valid += 1
                golden.trades[trade.trade_id] = trade
    aggregate(golden)
    return golden


def aggregate(golden: Golden) -> None:
    """Compute the results of the trades."""
    rules = golden.rules
    by_window: dict[int, list[Trade]] = {}
    for trade in golden.trades.values():
        by_window.setdefault(trade.time // rules.window * rules.window, []).append(trade)
    golden.windows = {start: metrics(by_window[start], rules) for start in sorted(by_window)}
    golden.total = metrics(list(golden.trades.values()), rules) if golden.trades else {}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pause garbage collection: half a million long-lived objects make it a third slower."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def metrics(trades: Iterable[Trade], rules: Rules = CONTRACT) -> dict[str, object]:
    """Return every metric of at least one trade."""
    sums = Sums(rules)
    for trade in trades:
        sums.add(trade)
    return sums.metrics()


class Sums:
    """The exact sums over trades: integers, in units of 10^-8 (turnover: 10^-16)."""

    def __init__(self, rules: Rules = CONTRACT) -> None:
        self._rules = rules
        self.count = self.buys = 0
        self._prices = self._bought = self._sold = self._turnover = 0
        self._low, self._high = math.inf, -math.inf
        self._first: tuple[int, int] = (2**63, 0)  # trade id and price
        self._last: tuple[int, int] = (0, 0)
        self._earliest, self._latest = math.inf, -math.inf

    def add(self, trade: Trade) -> None:
        price, size = _scaled(trade.price), _scaled(trade.size)
        self.count += 1
        self._prices += price
        self._turnover += price * size
        if trade.side == "buy":
            self.buys += 1
            self._bought += size
        else:
            self._sold += size
        self._low, self._high = min(self._low, price), max(self._high, price)
        self._first = min(self._first, (trade.trade_id, price))
        self._last = max(self._last, (trade.trade_id, price))
        self._earliest = min(self._earliest, trade.time)
        self._latest = max(self._latest, trade.time)

    def metrics(self) -> dict[str, object]:
        """Return every metric of the trades so far, at least one."""
        buys, sells = self.buys, self.count - self.buys
        with localcontext(prec=80):
            volume = self._bought + self._sold
            price_range = (int(self._high) - int(self._low)) / UNIT
            flags = flags_of(price_range, volume / UNIT, buys, sells, self._rules)
            return {
                "avg_price": self._prices / UNIT / self.count,
                "max_price": int(self._high) / UNIT,
                "min_price": int(self._low) / UNIT,
                "price_range": price_range,
                "volatility_flag": flags["volatility_flag"],
                "total_volume": volume / UNIT,
                "trade_count": self.count,
                "buy_sell_ratio": buys / (sells + Decimal("1e-5")),
                "market_sentiment": flags["market_sentiment"],
                "volume_spike": flags["volume_spike"],
                "buy_count": buys,
                "sell_count": sells,
                "vwap": self._turnover / UNIT / volume,
                "open_price": self._first[1] / UNIT,
                "close_price": self._last[1] / UNIT,
                "volume_imbalance": Decimal(self._bought - self._sold) / volume,
                "first_trade_time": int(self._earliest),
                "last_trade_time": int(self._latest),
            }


@lru_cache(maxsize=50_000)
def _scaled(number: Decimal) -> int:
    """Return a number with at most eight decimal places as an integer in units of 10^-8."""
    return int(number.scaleb(8))


def flags_of(
    price_range: Decimal, volume: Decimal, buys: int, sells: int, rules: Rules
) -> dict[str, str]:
    """Return the flags that follow from the thresholds."""
    if buys > rules.ratio * sells:
        sentiment = "Bullish"
    elif sells > rules.ratio * buys:
        sentiment = "Bearish"
    else:
        sentiment = "Neutral"
    return {
        "volatility_flag": "High" if price_range > rules.range else "Normal",
        "market_sentiment": sentiment,
        "volume_spike": "Spike" if volume > rules.spike else "Normal",
    }


def with_flags(found: Mapping[str, object], rules: Rules) -> dict[str, object]:
    """Return metrics with the flags of other thresholds."""
    price_range, volume = (Decimal(str(found[name])) for name in ("price_range", "total_volume"))
    buys, sells = (int(str(found[name])) for name in ("buy_count", "sell_count"))
    with localcontext(prec=80):
        return {**found, **flags_of(price_range, volume, buys, sells, rules)}


def z_score(value: Decimal, before: list[Decimal]) -> Decimal | None:
    """Return the z-score of a value among those of the hour before.

    None with fewer than ten values, or if all of them are equal.
    """
    if len(before) < LEAST_WINDOWS or len(set(before)) == 1:
        return None
    with localcontext(prec=80):
        mean = sum(before, Decimal(0)) / len(before)
        squares = sum(((other - mean) ** 2 for other in before), Decimal(0))
        return (value - mean) / (squares / (len(before) - 1)).sqrt()


def final_windows(golden: Golden) -> list[int]:
    """Return the starts of the windows that must be final once every trade has been read."""
    if not golden.trades:
        return []
    latest = max(trade.time for trade in golden.trades.values())
    rules = golden.rules
    after = rules.window + rules.watermark
    return [start for start in golden.windows if start + after <= latest]


# --- comparing the output files ------------------------------------------------------------


def verify(path: Path, data_dir: Path, now: datetime | None = None) -> list[str]:
    """Return the differences between the output files and the results of a recording."""
    return differences(compute(path, now), data_dir)


def differences(golden: Golden, data_dir: Path) -> list[str]:
    """Return the differences between the output files and the expected results."""
    return [
        *bounded(check_table(golden, data_dir)),
        *bounded(check_stream(golden, data_dir)),
        *bounded(check_batch_windows(golden, data_dir / "batch_windows.csv")),
        *bounded(check_batch_total(golden, data_dir / "batch_output")),
    ]


def bounded(problems: Iterable[str]) -> list[str]:
    """Return the first differences of a file, and how many more there are."""
    found = list(problems)
    more = len(found) - SHOWN
    return [*found[:SHOWN], f"... and {more} more like these"] if more > 0 else found


class TableError(Exception):
    """The stored trades cannot be read. The text is the reason."""


def query_table(data_dir: Path, query: str) -> list[Any]:
    """Return the rows of a query over what the consumer of a data directory stored.

    The settings in its status file name the store.

    Raises:
        TableError: the store is missing or cannot be read.
    """
    try:
        status = json.loads((data_dir / "status" / "consumer.json").read_text(encoding="utf-8"))
        settings = status["settings"]
    except (OSError, ValueError, KeyError):
        settings = {}
    if settings.get("store_url", "sqlite") != "sqlite":
        return _query_postgresql(settings, query)
    database = data_dir / "crypto_prices.db"
    if not database.is_file():
        raise TableError(f"{database.name}: missing")
    address = f"{database.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            return connection.execute(query).fetchall()
    except sqlite3.Error as error:
        raise TableError(f"{database.name}: {error}") from error


def _query_postgresql(settings: Mapping[str, Any], query: str) -> list[Any]:
    import psycopg

    url, file = settings["store_url"], settings["store_password_file"]
    password = Path(file).read_text(encoding="utf-8").rstrip("\n") if file else None
    try:
        with psycopg.connect(url, password=password) as connection:
            rows: list[Any] = connection.execute(query).fetchall()
    except psycopg.Error as error:
        raise TableError(f"{url}: {error}") from error
    return rows


def check_table(golden: Golden, data_dir: Path) -> list[str]:
    """Return the differences between the stored and the expected trades.

    A trade without bid and ask is no difference: see `without_quotes`.
    """
    query = "SELECT trade_id, price, best_bid, best_ask, side, time, last_size FROM btc_prices"
    problems: list[str] = []
    stored = set()
    try:
        rows = query_table(data_dir, query)
    except TableError as error:
        return [str(error)]
    for row in rows:
        stored.add(row[0])
        trade = golden.trades.get(row[0])
        if trade is None:
            problems.append(f"btc_prices trade_id {row[0]}: not in the recording")
        else:
            if row[2:4] == (None, None):
                trade = trade._replace(best_bid=None, best_ask=None)
            problems += row_problems(trade, row)
    missing = sorted(golden.trades.keys() - stored)
    return problems + [f"btc_prices trade_id {trade_id}: missing" for trade_id in missing]


def without_quotes(golden: Golden, data_dir: Path) -> int:
    """Return how many stored trades lack the bid and the ask that their message has.

    The REST interface has no quotes, so a trade that was recovered after a gap has none. The table
    does not tell which trades were recovered: if the consumer reads a recovered trade together with
    the trades around it, it records no gap. 0 if the table cannot be read: see `check_table`.
    """
    query = "SELECT trade_id FROM btc_prices WHERE best_bid IS NULL AND best_ask IS NULL"
    try:
        rows = query_table(data_dir, query)
    except TableError:
        return 0
    found = (golden.trades.get(trade_id) for (trade_id,) in rows)
    return sum((trade.best_bid, trade.best_ask) != (None, None) for trade in found if trade)


def row_problems(trade: Trade, row: tuple[object, ...]) -> list[str]:
    expected = (
        ("price", float(trade.price)),
        ("best_bid", None if trade.best_bid is None else float(trade.best_bid)),
        ("best_ask", None if trade.best_ask is None else float(trade.best_ask)),
        ("side", trade.side),
        ("time", trade.time),
        ("last_size", float(trade.size)),
    )
    found = (*row[1:5], cell_time(str(row[5])), row[6])
    return [
        f"btc_prices trade_id {trade.trade_id}: {column} is {cell!r}, not {right!r}"
        for (column, right), cell in zip(expected, found, strict=True)
        if cell != right
    ]


def check_stream(golden: Golden, data_dir: Path, final: set[int] | None = None) -> list[str]:
    """Return the differences in `stream_csv/` and `stream_live.csv`: each window is in one row.

    Args:
        golden: the expected results.
        data_dir: the data directory.
        final: the starts of the windows that must be final. The values of open windows are then
            not compared. None: all windows are compared, and the final ones follow from the trades.
    """
    problems: list[str] = []
    compares_open = final is None
    final = set(final_windows(golden)) if final is None else final
    found: NamedRows = {}
    files = sorted((data_dir / "stream_csv").glob("*.csv"))
    if final and not files:
        problems.append("stream_csv: no file")
    for file in files:
        before = -1
        for start, name in _check_windows(golden, file, found, problems):
            if start not in final:
                problems.append(f"{name}: cannot be final")
            if file.stem != iso(start)[:10] or start <= before:
                problems.append(f"{name}: in the wrong file or order")
            before = start
    live = data_dir / "stream_live.csv"
    if live.is_file():
        open_starts = {cell_time(row.get("window_start", "")) for row in read_rows(live, [])}
        if compares_open:
            _check_windows(golden, live, found, problems)
        problems += [
            f"{live.name} window {iso(start)}: is final, and belongs in stream_csv"
            for start in sorted(final & open_starts)
        ]
    return [*problems, *_problems_of_all_windows(golden, "stream", found)]


def check_batch_windows(golden: Golden, file: Path) -> list[str]:
    """Return the differences in the windows of the newest batch run."""
    if not file.is_file():
        return [f"{file.name}: missing"]
    problems: list[str] = []
    found: NamedRows = {}
    _check_windows(golden, file, found, problems)
    return [*problems, *_problems_of_all_windows(golden, file.name, found)]


def _check_windows(
    golden: Golden, file: Path, found: NamedRows, problems: list[str]
) -> list[tuple[int, str]]:
    """Compare each row of a file with the expected window, which must not have a row yet.

    Args:
        golden: the expected results.
        file: a CSV file with a row for each window.
        found: the rows of the path. The rows of this file are added.
        problems: the differences are added.

    Returns:
        The window start and the name of each added row, in the order of the file.
    """
    added = []
    for row in read_rows(file, problems):
        start = cell_time(row.get("window_start", ""))
        name = f"{file.name} window {row.get('window_start')}"
        if start is None or start not in golden.windows:
            problems.append(f"{name}: no such window in the recording")
        elif start in found:
            problems.append(f"{name}: also in {found[start][0]}")
        else:
            found[start] = name, row
            window = golden.windows[start]
            problems += window_problems(name, start, window, row, golden.rules.window)
            added.append((start, name))
    return added


def _problems_of_all_windows(golden: Golden, path: str, found: NamedRows) -> Iterator[str]:
    """Yield the wrong z-scores in the rows of one path, and the windows that it does not have."""
    yield from z_problems(golden.windows, found)
    for start in golden.windows:
        if start not in found:
            yield f"{path} window {iso(start)}: missing"


def check_batch_total(golden: Golden, folder: Path) -> list[str]:
    """Return the differences in the row of the newest batch run."""
    files = sorted(folder.glob("*.csv"))
    if not files:
        return [f"{folder.name}: no file"]
    problems: list[str] = []
    rows = read_rows(files[-1], problems)
    name = f"{folder.name}/{files[-1].name}"
    if len(rows) != 1 or not golden.total:
        return [*problems, f"{name}: {len(rows)} rows, from {len(golden.trades)} trades"]
    problems += cell_problems(name, golden.total, rows[0])
    if rows[0].get("rows") != str(len(golden.trades)):
        problems.append(f"{name}: rows is {rows[0].get('rows')!r}, not {len(golden.trades)}")
    first = golden.total["first_trade_time"]
    if cell_time(rows[0].get("first_trade_time", "")) != first:
        problems.append(f"{name}: first_trade_time is {rows[0].get('first_trade_time')!r}")
    return problems


def read_rows(file: Path, problems: list[str]) -> list[dict[str, str]]:
    """Return the rows of a CSV file. An error is added to the problems."""
    try:
        with file.open(encoding="utf-8", newline="") as text:
            return [
                {key: value or "" for key, value in row.items() if isinstance(key, str)}
                for row in csv.DictReader(text)
            ]
    except (OSError, ValueError, csv.Error) as error:
        problems.append(f"{file.name}: cannot be read: {error}")
        return []


def window_problems(
    name: str,
    start: int,
    expected: Mapping[str, object],
    row: Mapping[str, str],
    length: int = MINUTE,
) -> list[str]:
    problems = cell_problems(name, expected, row)
    if cell_time(row.get("window_end", "")) != start + length:
        problems.append(f"{name}: window_end is {row.get('window_end')!r}")
    return problems


def cell_problems(name: str, expected: Mapping[str, object], row: Mapping[str, str]) -> list[str]:
    problems = [
        f"{name}: {column} is {row.get(column)!r}, not {expected[column]}"
        for column in (*COUNTS, *TEXTS)
        if row.get(column) != str(expected[column])
    ]
    for column in NUMBERS:
        right = expected[column]
        assert isinstance(right, Decimal)
        if not _close(row.get(column, ""), right):
            problems.append(f"{name}: {column} is {row.get(column)!r}, not {right:.12f}")
    if cell_time(row.get("last_trade_time", "")) != expected["last_trade_time"]:
        problems.append(f"{name}: last_trade_time is {row.get('last_trade_time')!r}")
    return problems


def z_problems(
    windows: Mapping[int, Mapping[str, object]], rows: Mapping[int, tuple[str, Mapping[str, str]]]
) -> Iterator[str]:
    """Yield the wrong z-scores in the rows of one path.

    A score is checked against the values in the path's own rows, which are checked elsewhere. So a
    trade that only one path has is reported for one window, not for the sixty after it as well.

    Args:
        windows: the right metrics by window start.
        rows: named rows by window start.
    """
    starts = sorted(rows)
    for column, of in Z_SCORES.items():
        values = []
        for start in starts:
            expected = windows[start][of]
            assert isinstance(expected, Decimal)
            found = _number(rows[start][1].get(of, ""))
            values.append(expected if found is None else found)
        for place, start in enumerate(starts):
            hour = values[bisect_left(starts, start - HOUR) : place]
            right = z_score(values[place], hour)
            name, row = rows[start]
            cell = row.get(column, "")
            number = _number(cell)
            if right is None:
                agrees = cell == ""
            else:
                agrees = number is not None and abs(number - right) <= Z_TOLERANCE
            if not agrees:
                shown = "empty" if right is None else f"{right:.6f}"
                yield f"{name}: {column} is {cell!r}, not {shown}"


def _close(cell: str, right: Decimal) -> bool:
    number = _number(cell)
    return number is not None and abs(number - right) <= max(TOLERANCE, abs(right) * DOUBLE)


def _number(cell: str) -> Decimal | None:
    try:
        number = Decimal(cell)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def cell_time(cell: str) -> int | None:
    try:
        return _moment(cell)
    except InvalidError:
        return None


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def iso(micros: int) -> str:
    return (_EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")
