"""Trades that a test makes up and writes to Kafka step by step, without feed and producer."""

import json
from datetime import UTC, datetime, timedelta

from kafka import KafkaProducer

from pipeline.ingest.trade import BACKFILL_HEADER
from tests.conftest import wait_until
from tests.integration.chain import Chain

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def message(
    trade_id: int,
    at_seconds: float,
    price: str = "100.00",
    side: str = "buy",
    size: str = "0.5",
    *,
    backfilled: bool = False,
) -> bytes:
    """Return a ticker message with an event time of this many seconds after noon."""
    time = (NOON + timedelta(seconds=at_seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    fields = {
        "type": "ticker",
        "product_id": "BTC-USD",
        "trade_id": trade_id,
        "price": price,
        "side": side,
        "time": time,
        "last_size": size,
        "best_bid": price,
        "best_ask": price,
    }
    if backfilled:  # the exchange's REST interface has no quotes
        del fields["best_bid"], fields["best_ask"]
    return json.dumps(fields).encode()


class Topic:
    """Writes messages to a chain's topic. Each step becomes one or more micro-batches."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._producer = KafkaProducer(bootstrap_servers=chain.broker.address)
        self.written = 0

    def send(self, *messages: bytes, recovered: bool = False) -> None:
        """Send messages: as received over the WebSocket, or as recovered over REST."""
        headers = [(BACKFILL_HEADER, b"rest")] if recovered else []
        for value in messages:
            self._producer.send(self._chain.topic, value=value, key=b"BTC-USD", headers=headers)
        self._producer.flush()
        self.written += len(messages)

    def step(self, *messages: bytes) -> None:
        """Send messages and wait until the stream has processed them."""
        self.send(*messages)
        self.wait()

    def wait(self) -> None:
        """Wait until the stream has processed and counted every message sent."""
        stream = self._chain.running["spark_processor"]
        wait_until(self._is_read, 60, "the stream counts every message sent", stream)

    def _is_read(self) -> bool:
        return self._chain.counter("spark_processor", "rows") >= self.written

    def close(self) -> None:
        self._producer.close()


def counts(chain: Chain) -> dict[str, str]:
    """Return the number of trades of each final window, by its start (HH:MM)."""
    return {row["window_start"][11:16]: row["trade_count"] for row in chain.final_windows()}
