"""The input of all measurements: made-up trades, a seeded random walk, six per second.

The trades are the same on every machine. They are not market data.
"""

import heapq
import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import NamedTuple

from kafka import KafkaProducer

from benchmarks.processes import CONNECT_MS
from pipeline.stores import sqlite

SEED = 20250601
#: Time of the first trade, and trades per second.
BEGIN = datetime(2025, 6, 1, tzinfo=UTC)
PER_SECOND = 6
FIRST_ID = 800_000_001
#: In `deliveries`, one trade in DISORDERED arrives later and one trade in REPEATED arrives again,
#: both at most LONGEST_DELAY trades (20 s) after their place.
DISORDERED = 50
REPEATED = 9
LONGEST_DELAY = 20 * PER_SECOND
DESCRIPTION = f"made-up trades, a random walk with {PER_SECOND} trades per second, seed {SEED}"

_CENTRE = 90_000_00  # cents
_BTC = 100_000_000  # satoshis
#: Rows in one transaction, and records sent to Kafka between two flushes.
_CHUNK = 50_000
_INSERT_ROW = "INSERT INTO btc_prices VALUES (?, ?, ?, ?, ?, ?, ?)"
_INSERT_INGEST = """
INSERT INTO ingest (
    first_offset, last_offset, records, stored, repeated, rejected, first_trade_id, last_trade_id,
    first_receipt, last_receipt, committed_at, total_rows
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_TO_TOTALS = """
INSERT INTO ingest_totals VALUES ('', 1, 0, ?, ?, 0, 0) ON CONFLICT (topic) DO UPDATE SET
    records = records + excluded.records, stored = stored + excluded.stored
"""


class Trade(NamedTuple):
    """One made-up trade. Its trade id is FIRST_ID + number."""

    number: int
    moment: int  # microseconds since 1970
    time: str
    cents: int
    satoshis: int
    side: str


def walk() -> Iterator[Trade]:
    """Yield trades without end: one in each sixth of a second, at a random time in it."""
    random = Random(SEED)
    begin = int(BEGIN.timestamp()) * 1_000_000
    cents = _CENTRE
    second, prefix = -1, ""
    for number in itertools.count():
        bits = random.getrandbits(60)  # one call for all choices: there are ten million trades
        moment = begin + (number * 1_000_000 + bits % 1_000_000) // PER_SECOND
        now, micros = divmod(moment, 1_000_000)
        if now != second:
            second = now
            prefix = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        cents += (bits >> 20 & 255) - 127 - (cents - _CENTRE) // 2000
        side = "buy" if bits >> 28 & 1 else "sell"
        satoshis = 1_000 + (bits >> 29 & 0xFFFFF)
        yield Trade(number, moment, f"{prefix}.{micros:06d}Z", cents, satoshis, side)


def message(trade: Trade) -> bytes:
    """Return the trade as a `ticker` message of the exchange."""
    bid, ask = (-1, 0) if trade.side == "buy" else (0, 1)
    return (
        f'{{"type":"ticker","sequence":{90_000_000_001 + 3 * trade.number},'
        f'"product_id":"BTC-USD","price":"{_price(trade.cents)}","open_24h":"89487.67",'
        f'"volume_24h":"11873.2354199","low_24h":"88789.65","high_24h":"90960.8",'
        f'"volume_30d":"301442.1031885","best_bid":"{_price(trade.cents + bid)}",'
        f'"best_bid_size":"0.03974704","best_ask":"{_price(trade.cents + ask)}",'
        f'"best_ask_size":"0.02368726","side":"{trade.side}","time":"{trade.time}",'
        f'"trade_id":{FIRST_ID + trade.number},'
        f'"last_size":"0.{trade.satoshis:08d}"}}'
    ).encode()


def deliveries() -> Iterator[Trade]:
    """Yield trades in the order of their delivery, without end: some repeated, some out of order.

    One message in ten is a repeated delivery, as in a recording of one week. The delays are shorter
    than the watermark, so no trade is late.
    """
    random = Random(SEED + 1)
    waiting: list[tuple[int, int, Trade]] = []  # place in the delivery, number of the message
    numbers = itertools.count()
    for trade in walk():
        bits = random.getrandbits(32)
        place = trade.number
        if bits % DISORDERED == 0:
            place += 1 + (bits >> 8) % LONGEST_DELAY
        heapq.heappush(waiting, (place, next(numbers), trade))
        if (bits >> 16) % REPEATED == 0:
            again = trade.number + 1 + (bits >> 20) % LONGEST_DELAY
            heapq.heappush(waiting, (again, next(numbers), trade))
        while waiting and waiting[0][0] <= trade.number:
            yield heapq.heappop(waiting)[2]


def now_ms() -> int:
    """Return the time, milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _price(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def write_recording(path: Path, count: int, trades: Iterator[Trade] | None = None) -> None:
    """Write the first `count` messages, one per line, as the exchange sends them."""
    with path.open("wb") as file:
        chosen = itertools.islice(trades or walk(), count)
        file.writelines(message(trade) + b"\n" for trade in chosen)


def fill_topic(servers: str, topic: str, count: int) -> None:
    """Send the first `count` messages, compressed as the producer does under load."""
    producer = KafkaProducer(
        bootstrap_servers=servers,
        bootstrap_timeout_ms=CONNECT_MS,
        compression_type="lz4",
        linger_ms=5,
        batch_size=131_072,
    )
    for trade in itertools.islice(walk(), count):
        # The time of receipt is now: the broker would remove records as old as the trades.
        producer.send(topic, message(trade), key=b"BTC-USD", timestamp_ms=now_ms())
        if trade.number % _CHUNK == 0:
            producer.flush()  # `send` alone would fill the memory
    producer.flush()
    producer.close()


class Table:
    """A database as the consumer leaves it, with more and more trades of the walk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._walk = walk()

    def grow(self, rows: int) -> None:
        """Fill the table up to a number of rows, with the matching rows in table `ingest`."""
        connection = sqlite.open_writer(self.path)
        try:
            while self.rows < rows:
                trades = list(itertools.islice(self._walk, min(_CHUNK, rows - self.rows)))
                self._insert(connection, trades)
        finally:
            connection.close()

    def _insert(self, connection: sqlite.SqliteWriter, trades: list[Trade]) -> None:
        first, last = trades[0], trades[-1]
        self.rows = last.number + 1
        now = datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        count = len(trades)
        ids = (FIRST_ID + first.number, FIRST_ID + last.number)
        counts = (first.number, last.number, count, count, 0, 0)
        transaction = (*counts, *ids, first.time, last.time, now, self.rows)
        with connection.transaction():
            connection.executemany(_INSERT_ROW, map(_row, trades))
            connection.execute(_INSERT_INGEST, transaction)
            connection.execute(_ADD_TO_TOTALS, (count, count))


def _row(trade: Trade) -> tuple[object, ...]:
    price = trade.cents / 100
    size = trade.satoshis / _BTC
    trade_id = FIRST_ID + trade.number
    return trade_id, price, price - 0.01, price + 0.01, trade.side, trade.time, size
