"""Make the synthetic sample, the same bytes on every machine: `python -m feed.sample`.

It is one hour of made-up BTC-USD trades across a UTC midnight, in the message format of the
exchange. It has the cases that make real data difficult: bursts (over 100 messages in a second),
silences (up to 8 s), many equal times, series of trades of one side, minutes with only buys, one
trade exactly at midnight, messages that are delivered twice, one missing trade id. Prices move
around 90,000 and return to it, so that a replay can repeat the sample. None of it is market data.

All numbers are integers (cents, satoshis, microseconds), because the last digit of floating-point
functions such as logarithms differs between machines.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

#: The sample in this project.
SAMPLE = Path(__file__).parent.parent / "data" / "sample" / "synthetic_btcusd.jsonl.gz"
SEED = 20250630
START = datetime(2025, 6, 30, 23, 30, tzinfo=UTC)
MINUTES = 60
PRODUCT = "BTC-USD"

_SECOND = 1_000_000  # microseconds
_MINUTE = 60 * _SECOND
_BTC = 100_000_000  # satoshis
_CENTRE = 90_000_00  # cents
_MIDNIGHT = 30 * _MINUTE  # after the start

#: Number of trades of one order (with equal times), and how often in 1000.
_FILLS = (
    *((1, 820), (2, 100), (3, 46), (4, 22), (6, 16)),
    *((9, 9), (15, 4), (30, 2), (60, 1)),
)
#: Microseconds to the next order, from and to, and how often in 1000.
_GAPS = (
    *(((200, 20_000), 270), ((20_000, 100_000), 200), ((100_000, 300_000), 290)),
    *(((300_000, 900_000), 195), ((900_000, 2_500_000), 45)),
)
#: Satoshis of a trade, from and to, and how often in 1000.
_SIZES = (
    *(((1, 100), 3), ((100, 1_000), 20), ((1_300, 1_301), 95), ((1_001, 10_000), 145)),
    *(((10_000, 100_000), 290), ((100_000, 1_000_000), 210), ((1_000_000, 5_000_000), 200)),
    *(((5_000_000, 50_000_000), 36), ((100_000_000, 700_000_000), 1)),
)
#: Round sizes, satoshis: people prefer them.
_ROUND_SIZES = (10_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 10_000_000)
#: Cents between the prices of two orders if the price moves, from and to, and how often in 1000.
_MOVES = (
    *(((1, 2), 400), ((2, 30), 200), ((30, 150), 200)),
    *(((150, 400), 150), ((400, 900), 50)),
)
#: Buys in 1000 orders in a minute of each sentiment, and how often in 100 minutes.
_SENTIMENTS = ((680, 47), (500, 30), (330, 23))

#: Minutes (from the start) without a sell.
_ONLY_BUYS = (11, 38, 47)
#: Percent of `_MOVES` in a calm and in a volatile minute, and how many of 100 minutes are calm.
_CALM, _VOLATILE, _CALM_SHARE = 50, 330, 50
#: Percent of `_GAPS` in a minute, from and to.
_PACE = (65, 180)
#: Start of each silence and its length, microseconds.
_SILENCES = (
    *((4 * _MINUTE + 12 * _SECOND, 5_600_000), (17 * _MINUTE + 40 * _SECOND, 4_600_000)),
    *((33 * _MINUTE + 57 * _SECOND, 5_800_000), (52 * _MINUTE + 3 * _SECOND, 5_200_000)),
)
#: Start of each burst, and its trades within one second.
_BURSTS = (
    *((8 * _MINUTE + 21 * _SECOND, 117), (22 * _MINUTE + 44 * _SECOND, 136)),
    *((41 * _MINUTE + 5 * _SECOND, 109),),
)
#: In the largest burst the order with this many trades has one trade of this size (satoshis), which
#: makes the minute a volume spike.
_SPIKE_MINUTE, _SPIKE_FILLS, _SPIKE_SIZE = 22, 48, 104 * _BTC
#: Trades (counted from 0) whose message is repeated, and after how many other messages.
_REPEATED = {900: 1, 2_500: 1, 5_003: 3, 9_999: 12, 14_000: 1, 14_001: 1, 14_002: 1, 18_500: 40}
#: The trade id before this trade is missing.
_SKIPPED = 12_345


T = TypeVar("T")


@dataclass
class _Market:
    """The values that change from trade to trade."""

    mid: int = _CENTRE
    sequence: int = 90_000_000_001
    trade_id: int = 700_000_001
    volume_24h: int = 11_873 * _BTC + 20_304_050
    volume_30d: int = 301_442 * _BTC + 7_080_910
    low: int = _CENTRE - 1_210_35
    high: int = _CENTRE + 960_80


class _Trade(NamedTuple):
    side: str
    moment: int
    price: int
    size: int


def trades() -> Iterator[dict[str, object]]:
    """Yield the message of each trade once."""
    random = Random(SEED)  # noqa: S311 - reproducible on purpose
    market = _Market()
    side = "buy"
    for moment, fills in _orders(random):
        minute = moment // _MINUTE
        buys, movement, _ = _character(minute)
        # An order often has the side of the one before it, which makes series of one side.
        if buys == 1000 or random.randrange(1000) >= 600:
            side = "buy" if random.randrange(1000) < buys else "sell"
        _move(random, market, movement, minute)
        price = market.mid + (1 if side == "buy" else 0)
        for fill in range(fills):
            if fill and random.randrange(3) == 0:
                price += random.randrange(1, 40) * (1 if side == "buy" else -1)
            size = _size(random)
            if minute == _SPIKE_MINUTE and fills == _SPIKE_FILLS and fill == 3:
                size = _SPIKE_SIZE
            yield _message(random, market, _Trade(side, moment, price, size))
        market.mid = price - (1 if side == "buy" else 0)


def messages() -> Iterator[bytes]:
    """Yield the lines of the sample, including the repeated messages."""
    repeats: dict[int, list[bytes]] = {}
    for number, trade in enumerate(trades()):
        line = json.dumps(trade, separators=(",", ":")).encode()
        yield line
        if number in _REPEATED:
            repeats.setdefault(number + _REPEATED[number], []).append(line)
        yield from repeats.pop(number, [])


def _orders(random: Random) -> Iterator[tuple[int, int]]:
    """Yield (microseconds after the start, number of trades) of each order."""
    moment = 1_250_000
    silences, bursts = list(_SILENCES), list(_BURSTS)
    midnight = False
    while moment < MINUTES * _MINUTE - 300_000:
        if silences and moment >= silences[0][0]:
            moment += silences.pop(0)[1]
        if bursts and moment >= bursts[0][0]:
            moment = moment // _SECOND * _SECOND + _SECOND
            left = bursts.pop(0)[1]
            for fills in (_SPIKE_FILLS, 3, 1, 17, 2, 9, 1, left - 81):
                yield moment, fills
                moment += random.randrange(20_000, 110_000)
            continue
        if not midnight and moment >= _MIDNIGHT:
            midnight, moment = True, _MIDNIGHT
        yield moment, _choose(random, _FILLS)
        low, high = _choose(random, _GAPS)
        moment += random.randrange(low, high) * _character(moment // _MINUTE)[2] // 100


@lru_cache
def _character(minute: int) -> tuple[int, int, int]:
    """Return (buys in 1000 orders, percent of `_MOVES`, percent of `_GAPS`) of a minute."""
    random = Random(SEED * 1000 + minute)  # noqa: S311
    buys = _choose(random, _SENTIMENTS) if minute not in _ONLY_BUYS else 1000
    movement = _CALM if random.randrange(100) < _CALM_SHARE else _VOLATILE
    return buys, movement, random.randrange(*_PACE)


def _move(random: Random, market: _Market, movement: int, minute: int) -> None:
    if random.randrange(1000) < 450:
        return
    low, high = _choose(random, _MOVES)
    # The further from the centre, the more likely a move back to it, above all near the end.
    patience = 250 if minute < MINUTES - 6 else 20
    pull = max(-350, min(350, (market.mid - _CENTRE) // patience))
    direction = 1 if random.randrange(1000) >= 500 + pull else -1
    market.mid += direction * max(1, random.randrange(low, high) * movement // 100)


def _size(random: Random) -> int:
    if random.randrange(1000) < 90:
        return random.choice(_ROUND_SIZES)
    return random.randrange(*_choose(random, _SIZES))


def _message(random: Random, market: _Market, trade: _Trade) -> dict[str, object]:
    side, moment, price, size = trade
    spread = 1 if random.randrange(100) < 55 else random.randrange(2, 600)
    bid = price - spread if side == "buy" else price
    ask = price if side == "buy" else price + spread
    market.volume_24h += size
    market.volume_30d += size
    market.low, market.high = min(market.low, price), max(market.high, price)
    moved = START + timedelta(microseconds=moment)
    message: dict[str, object] = {
        "type": "ticker",
        "sequence": market.sequence,
        "product_id": PRODUCT,
        "price": _decimal(price, 2),
        "open_24h": _decimal(_CENTRE - 512_33, 2),
        "volume_24h": _decimal(market.volume_24h, 8),
        "low_24h": _decimal(market.low, 2),
        "high_24h": _decimal(market.high, 2),
        "volume_30d": _decimal(market.volume_30d, 8),
        "best_bid": _decimal(bid, 2),
        "best_bid_size": f"0.{_size(random) % _BTC:08d}",
        "best_ask": _decimal(ask, 2),
        "best_ask_size": f"0.{_size(random) % _BTC:08d}",
        "side": side,
        "time": moved.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z",
        "trade_id": market.trade_id,
        "last_size": _decimal(size, 8),
    }
    market.sequence += 2 if random.randrange(100) < 36 else random.randrange(3, 500)
    market.trade_id += 1
    if market.trade_id == 700_000_001 + _SKIPPED:
        market.trade_id += 1
    return message


def _decimal(units: int, places: int) -> str:
    """Return 12, 2 as 0.12, without trailing zeros, as the exchange writes it."""
    whole, fraction = divmod(units, 10**places)
    return f"{whole}.{fraction:0{places}d}".rstrip("0").rstrip(".")


def _choose(random: Random, table: tuple[tuple[T, int], ...]) -> T:
    pick = random.randrange(sum([weight for _, weight in table]))
    for value, weight in table:
        pick -= weight
        if pick < 0:
            return value
    raise AssertionError("the weights do not add up")


def main(arguments: list[str] | None = None) -> None:
    """Write the sample."""
    parser = argparse.ArgumentParser(
        prog="python -m feed.sample", description="Makes the synthetic sample."
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=SAMPLE,
        help="output file (default: the sample of this project)",
    )
    path: Path = parser.parse_args(arguments).file
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = list(messages())
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n", mtime=0))
    print(f"{path}: {len(lines)} messages, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
