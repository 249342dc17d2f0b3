"""The streaming path at its edges: late and repeated trades, written to Kafka step by step."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kafka import KafkaProducer

from tests.conftest import Broker, Run, wait_until
from tests.integration.test_chain import Chain, end_left_behind

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def message(
    trade_id: int,
    at_seconds: float,
    price: str = "100.00",
    side: str = "buy",
    size: str = "0.5",
    *,
    recovered: bool = False,
) -> bytes:
    """A ticker message with an event time so many seconds after noon."""
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
    if recovered:  # the exchange's REST interface has no quotes
        del fields["best_bid"], fields["best_ask"]
    return json.dumps(fields).encode()


class Topic:
    """Writes messages to the topic in steps; each step is one or more micro-batches of its own."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._producer = KafkaProducer(bootstrap_servers=chain.broker.address)
        self.written = 0

    def send(self, *messages: bytes) -> None:
        for value in messages:
            self._producer.send(self._chain.topic, value=value, key=b"BTC-USD")
        self._producer.flush()
        self.written += len(messages)

    def step(self, *messages: bytes) -> None:
        self.send(*messages)
        self.wait()

    def wait(self) -> None:
        """Until the stream has read, and counted, all that was sent."""
        stream = self._chain.running["spark_processor"]
        wait_until(self._is_read, 60, "the micro-batch", stream)

    def _is_read(self) -> bool:
        return self._chain.counter("spark_processor", "rows") >= self.written

    def close(self) -> None:
        self._producer.close()


@pytest.fixture
def chain(run: Run, tmp_path: Path, kafka: Broker) -> Iterator[Chain]:
    started = Chain(run, tmp_path, kafka)
    started.start("consumer", "spark_processor")
    yield started
    end_left_behind(started)


@pytest.fixture
def topic(chain: Chain) -> Iterator[Topic]:
    writer = Topic(chain)
    yield writer
    writer.close()


def counts(chain: Chain) -> dict[str, str]:
    """Trades in each final window, by its start."""
    return {row["window_start"][11:16]: row["trade_count"] for row in chain.final()}


def test_late_and_repeated_trades_are_counted_and_leave_final_windows_alone(
    chain: Chain, topic: Topic
) -> None:
    topic.step(message(1, 10), message(2, 20), message(2, 20))
    topic.step(message(3, 65), message(1, 10))  # repeated in a window that is still open
    topic.step(message(4, 121))  # 12:02:01: the first minute may close now
    wait_until(lambda: "12:00" in counts(chain), 30, "the first final window")
    first = chain.final()[0]
    assert (first["trade_count"], first["total_volume"]) == ("2", "1")
    topic.step(message(5, 30))  # too late
    topic.step(message(6, 122, price="101.5"))
    wait_until(lambda: chain.rows() == 6, 30, "the table has the late trade too")
    assert chain.counter("spark_processor", "late") == 1
    assert chain.counter("spark_processor", "duplicates") == 2
    assert chain.final() == [first]
    (minute_1, minute_2) = chain.live()
    assert (minute_1["trade_count"], minute_2["trade_count"]) == ("1", "2")
    assert minute_2["max_price"] == "101.5"


def test_one_event_from_the_future_closes_no_window(chain: Chain, topic: Topic) -> None:
    topic.step(message(1, 10))
    century = 100 * 365 * 86_400
    topic.step(message(2, century))
    topic.step(message(3, 20))
    (window,) = chain.live()
    assert window["trade_count"] == "2"
    assert chain.counter("spark_processor", "unparsable") == 1
    assert counts(chain) == {}


def test_windows_of_two_lengths_never_share_a_folder(chain: Chain, topic: Topic) -> None:
    topic.step(message(1, 10))
    topic.step(message(2, 200))
    wait_until(lambda: "12:00" in counts(chain), 30, "a final window")
    chain.kill("spark_processor")
    chain.environment["WINDOW"] = "5 minutes"
    chain.start("spark_processor")
    stream = chain.running["spark_processor"]
    assert stream.process.wait(30) == 2
    assert "WINDOW is 0:05:00" in stream.text()
