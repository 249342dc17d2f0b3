"""The producer with a real broker and a WebSocket server that behaves as an exchange may."""

import json
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from pipeline import outputs, times
from pipeline.data_dir import DataDir
from pipeline.ingest import trade
from tests.conftest import Broker, Run, Running, wait_until

PRODUCT = "BTC-USD"
SUBSCRIPTIONS = {
    "type": "subscriptions",
    "channels": [
        {"name": "ticker", "product_ids": [PRODUCT]},
        {"name": "heartbeat", "product_ids": [PRODUCT]},
    ],
}


class Exchange:
    """A WebSocket server without the replay's own messages, so a producer takes it for live.

    Attributes:
        skew: by how much its clock is ahead of this machine's.
        answer: what it sends after a subscription.
        connections: the open connections, oldest first.
    """

    def __init__(self) -> None:
        self.skew = timedelta()
        self.answer: dict[str, Any] = SUBSCRIPTIONS
        self.connections: queue.Queue[ServerConnection] = queue.Queue()
        self._ended = threading.Event()
        self._server = serve(self._handle, "127.0.0.1", 0, compression=None, ping_interval=None)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"

    def _handle(self, connection: ServerConnection) -> None:
        connection.recv()
        connection.send(json.dumps(self.answer))
        self.connections.put(connection)
        try:
            while not self._ended.wait(0.2):
                connection.send(json.dumps({"type": "heartbeat", "time": self.now()}))
        except ConnectionClosed:
            return

    def now(self) -> str:
        return times.iso(datetime.now(UTC) + self.skew)

    def trade(self, trade_id: int, **fields: object) -> str:
        """Return the message of a trade that happens now."""
        message = {
            "type": "ticker",
            "product_id": PRODUCT,
            "trade_id": trade_id,
            "price": f"{80_000 + trade_id}.5",
            "side": "buy",
            "time": self.now(),
            "last_size": "0.25",
        }
        return json.dumps(message | fields)

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._thread.join()


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    one = Exchange()
    yield one
    one.close()


class Producer:
    """A running producer and its topic."""

    def __init__(self, run: Run, data: Path, kafka: Broker, url: str) -> None:
        self._broker = kafka
        self.topic = kafka.new_topic()
        self.data = DataDir(data)
        self.running: Running = run(
            "producer.py",
            DATA_DIR=data,
            FEED_URL=url,
            KAFKA_BOOTSTRAP_SERVERS=kafka.address,
            KAFKA_TOPIC=self.topic,
            HEARTBEAT_TIMEOUT_SECONDS=1,
            BACKFILL_SECONDS=0,
        )

    def status(self) -> dict[str, Any]:
        return outputs.read_status(self.data, "producer")

    def wait(self, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait until the status fulfils a condition, and return it."""
        wait_until(lambda: condition(self.status()), 20, what, self.running)
        return self.status()

    def wait_for(self, **counters: int) -> dict[str, Any]:
        """Wait until the counters have these values, and return all of them."""

        def reached(status: dict[str, Any]) -> bool:
            return bool(counters.items() <= status.get("counters", {}).items())

        return dict(self.wait(reached, f"the counters {counters}")["counters"])

    def records(self) -> list[Any]:
        """Return all records of the topic."""
        return self._broker.records(self.topic)


@pytest.fixture
def producer(run: Run, tmp_path: Path, kafka: Broker, exchange: Exchange) -> Producer:
    return Producer(run, tmp_path / "data", kafka, exchange.url)


def ids_of(records: list[Any]) -> list[int]:
    return [json.loads(record.value)["trade_id"] for record in records]


@pytest.mark.parametrize("closes", [False, True])
def test_a_suspended_producer_publishes_everything_that_waited_in_its_socket(
    producer: Producer, exchange: Exchange, *, closes: bool
) -> None:
    connection = exchange.connections.get(timeout=20)
    connection.send(exchange.trade(1))
    producer.wait_for(published=1)
    producer.running.process.send_signal(signal.SIGSTOP)
    for trade_id in range(2, 1002):
        connection.send(exchange.trade(trade_id))
    if closes:
        connection.socket.shutdown(socket.SHUT_RDWR)
    time.sleep(4)
    producer.running.process.send_signal(signal.SIGCONT)
    producer.wait_for(published=1001)
    assert ids_of(producer.records()) == list(range(1, 1002))
    counters = producer.status()["counters"]
    assert counters.get("reconnects", 0) == int(closes)


def test_a_known_id_with_other_content_is_published_and_counted_as_conflicting(
    producer: Producer, exchange: Exchange
) -> None:
    connection = exchange.connections.get(timeout=20)
    first = exchange.trade(7)
    for message in (first, first, exchange.trade(7, price="1.5"), exchange.trade(8)):
        connection.send(message)
    counters = producer.wait_for(published=2, conflicting=1, repeated=1)
    assert ids_of(producer.records()) == [7, 7, 8]
    outcomes = ("published", "repeated", "conflicting", "rejected", "control", "ignored")
    assert counters["received"] == sum(counters.get(name, 0) for name in outcomes)


def test_a_refusal_stays_the_state_after_the_exchange_has_closed_the_connection(
    producer: Producer, exchange: Exchange
) -> None:
    reason = "FOO-USD is not a valid product"
    exchange.answer = {"type": "error", "message": "Failed to subscribe", "reason": reason}
    exchange.connections.get(timeout=20).close()
    status = producer.wait(lambda one: one.get("state") == "refused", "the refusal")
    assert reason in status["message"][:100]
    assert status["healthy"] is False


@pytest.mark.parametrize("skew_s", [200, -200])
def test_trades_are_published_and_the_clock_is_the_state_if_it_differs_from_the_exchanges(
    producer: Producer, exchange: Exchange, skew_s: int
) -> None:
    exchange.skew = timedelta(seconds=skew_s)
    connection = exchange.connections.get(timeout=20)
    for trade_id in range(1, 101):
        connection.send(exchange.trade(trade_id))
    counters = producer.wait_for(published=100)
    assert counters.get("rejected", 0) == 0
    status = producer.wait(lambda one: "clock is 200 s" in one["message"], "the clock's state")
    assert ("behind" if skew_s > 0 else "ahead") in status["message"]
    assert status["healthy"] is False
    for record in producer.records():  # the consumer and the stream accept each record as well
        trade.decode(record.value, PRODUCT, times.from_epoch_millis(record.timestamp))
    exchange.skew = timedelta()
    producer.wait(lambda one: one["healthy"], "the corrected clock")


def test_a_handshake_that_never_ends_does_not_delay_the_end_of_the_process(
    run: Run, tmp_path: Path, kafka: Broker
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        producer = Producer(run, tmp_path / "data", kafka, url)
        silent.accept()
        began = time.monotonic()
        assert producer.running.terminate() == 0
        assert time.monotonic() - began < 2
