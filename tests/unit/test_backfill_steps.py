"""How the producer requests missing trades from a real HTTP server, step by step."""

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from local.ports import free_port
from pipeline import times
from pipeline.ingest import backfill, kafka
from pipeline.ingest.backfill import Backfill
from pipeline.ingest.id_ranges import IdRanges
from pipeline.ingest.trade import Trade
from pipeline.service import Service
from pipeline.settings import Settings

NOON = datetime(2025, 12, 2, 12, tzinfo=UTC)
#: A status, headers and a body.
Answer = tuple[int, dict[str, str], bytes]


def at(number: int) -> datetime:
    return NOON + timedelta(seconds=number)


def row(number: int, **changed: object) -> dict[str, object]:
    time = at(number).isoformat().replace("+00:00", "Z")
    return {"trade_id": number, "side": "buy", "size": "1", "price": "9", "time": time} | changed


class Exchange:
    """Serves rows below an id, newest first, after some prepared answers."""

    def __init__(self) -> None:
        self.rows = [row(number) for number in range(1, 41)]
        self.first: list[Answer] = []
        self.asked: list[int] = []
        exchange = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, body = exchange.answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()

    def answer(self, path: str) -> Answer:
        after = int(parse_qs(urlsplit(path).query)["after"][0])
        self.asked.append(after)
        if self.first:
            return self.first.pop(0)
        below = [one for one in self.rows if int(str(one["trade_id"])) < after]
        return 200, {}, json.dumps(below[::-1][:10]).encode()


class Producer:
    """A backfill with the functions that the producer gives it."""

    def __init__(self, folder: Path, exchange: Exchange) -> None:
        url = f"http://127.0.0.1:{exchange.server.server_port}"
        broker = f"127.0.0.1:{free_port()}"  # no broker listens there
        settings = Settings(data_dir=folder, feed_rest_url=url, kafka_bootstrap_servers=broker)
        self.service = Service("producer", settings)
        self.published: list[int] = []
        self.rejected: list[str] = []
        self.room = 10**6
        self.backfill = Backfill(
            self.service, self._publish, self._reject, lambda: self.room > 0, times.now
        )

    def _publish(self, trade: Trade, message: bytes) -> None:
        assert json.loads(message)["trade_id"] == trade.trade_id
        assert (trade.side, trade.best_bid, trade.best_ask) == ("sell", None, None)
        self.published.append(trade.trade_id)
        self.room -= 1

    def _reject(self, _message: bytes, reason: str) -> None:
        self.rejected.append(reason)

    def receive(self, *ids: int) -> None:
        for number in ids:
            self.backfill.on_received(number, at(number))

    @property
    def details(self) -> dict[str, Any]:
        return dict(self.service.details["backfill"])

    def step_until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < end, self.details
            self.backfill.step()
            time.sleep(0.005)

    def step_to_the_end(self) -> None:
        self.backfill.step()
        self.step_until(lambda: self.details["gaps"] == 0)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    exchange = Exchange()
    yield exchange
    exchange.server.shutdown()
    exchange.server.server_close()


@pytest.fixture
def producer(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Producer]:
    """A producer that waits less than a real one."""
    for name, seconds in (("GRACE", 0.0), ("PAUSE", 0.01), ("ATTEMPT", 0.01)):
        monkeypatch.setattr(backfill, f"{name}_SECONDS", seconds)
    producer = Producer(tmp_path, exchange)
    yield producer
    producer.backfill.close()


def test_a_gap_is_recovered_page_by_page(producer: Producer, exchange: Exchange) -> None:
    producer.receive(3, 30)
    producer.step_to_the_end()
    assert sorted(producer.published) == list(range(4, 30))
    assert exchange.asked == [31, 22, 13]  # pages of ten, each with the trade above the gap
    assert producer.details == {
        "gaps": 0,
        "missing": 0,
        "recovered": 26,
        "not_served": 0,
        "last_error": None,
    }


def test_while_there_is_no_room_nothing_is_published(producer: Producer) -> None:
    producer.receive(3, 10)
    producer.room = 2
    producer.step_until(lambda: len(producer.published) == 2)
    for _ in range(5):
        producer.backfill.step()
    assert producer.published == [4, 5]
    producer.room = 100
    producer.step_to_the_end()
    assert producer.published == [4, 5, 6, 7, 8, 9]


def test_a_trade_that_arrives_meanwhile_is_not_published_again(producer: Producer) -> None:
    producer.receive(3, 10)
    producer.room = 2
    producer.step_until(lambda: len(producer.published) == 2)
    producer.receive(7)
    producer.room = 100
    producer.step_to_the_end()
    assert producer.published == [4, 5, 6, 8, 9]


def test_an_invalid_trade_is_rejected_with_its_reason_and_not_requested_again(
    producer: Producer, exchange: Exchange
) -> None:
    exchange.rows[4] = row(5, price="NaN")
    exchange.rows[6] = row(7, time="soon")
    producer.receive(3, 10)
    producer.step_to_the_end()
    assert producer.published == [4, 6, 8, 9]
    assert [reason.partition(":")[0] for reason in producer.rejected] == ["price", "time"]
    assert exchange.asked == [11]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((500, {}, b""), "HTTP status 500"),
        ((200, {}, b"<html>"), "not a list of trades"),
        ((429, {"Retry-After": "0"}, b""), "HTTP status 429"),
        ((503, {"Retry-After": "Mon, 01 Jan 99999999999 00:00:00 GMT"}, b""), "HTTP status 503"),
    ],
)
def test_after_a_temporary_error_the_gap_is_requested_again(
    producer: Producer,
    exchange: Exchange,
    answer: Answer,
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    exchange.first = [answer]
    producer.receive(3, 6)
    producer.step_until(lambda: producer.details["last_error"])
    assert text in producer.details["last_error"]["text"]
    assert producer.details["missing"] == 2
    (warning,) = caplog.messages
    last_error = producer.details["last_error"]["text"]
    assert re.fullmatch(rf"{re.escape(last_error)}\. Next attempt in \d s", warning)
    producer.step_to_the_end()
    assert producer.published == [4, 5]
    assert producer.details["last_error"] is None


def test_an_error_is_over_when_the_feed_has_delivered_the_missing_trades(
    producer: Producer, exchange: Exchange
) -> None:
    exchange.first = [(404, {}, b"")]
    producer.receive(3, 6)
    producer.step_until(lambda: producer.details["last_error"])
    producer.receive(4, 5)
    producer.backfill.step()
    assert producer.details["missing"] == 0
    assert producer.details["last_error"] is None


@pytest.mark.parametrize(
    ("answer", "least"),
    [
        ((429, {"Retry-After": "120"}, b""), 110),
        ((404, {}, b""), backfill.LASTING_ERROR_SECONDS - 10),
    ],
)
def test_the_next_request_waits_as_long_as_the_server_asks_or_the_error_lasts(
    producer: Producer, exchange: Exchange, answer: Answer, least: float
) -> None:
    exchange.first = [answer]
    producer.receive(3, 6)
    producer.step_until(lambda: producer.details["last_error"])
    assert producer.backfill._next_request - time.monotonic() > least
    for _ in range(5):
        producer.backfill.step()
    assert len(exchange.asked) == 1


def test_after_the_topic_was_created_again_its_trades_are_requested_again(
    producer: Producer,
) -> None:
    """The consumer may not have stored all of them."""
    producer.receive(*range(11, 31))
    producer.backfill.forget()
    producer.receive(31)
    producer.step_to_the_end()
    assert sorted(producer.published) == list(range(11, 31))


def test_a_page_that_was_requested_before_the_topic_was_created_again_is_not_published(
    producer: Producer,
) -> None:
    producer.receive(11, 31)
    producer.room = 3
    producer.step_until(lambda: len(producer.published) == 3)
    producer.room = 100
    producer.backfill.forget()
    producer.receive(31)
    producer.step_to_the_end()
    assert sorted(producer.published[3:]) == list(range(11, 31))


def test_the_thread_that_reads_the_published_ids_ends_with_the_producer(
    producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if Kafka does not answer: a producer that failed starts again in the same process."""
    monkeypatch.setattr(kafka, "CONNECT_MS", 20)
    producer.backfill.restore(IdRanges(), first_offset=5, newest=NOON)
    assert producer.backfill._restoring is not None
    thread = producer.backfill._restoring._thread
    producer.backfill.close()
    thread.join(10)
    assert not thread.is_alive()


def test_with_an_age_of_zero_nothing_is_requested(exchange: Exchange, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{exchange.server.server_port}"
    service = Service(
        "producer", Settings(data_dir=tmp_path, feed_rest_url=url, backfill_seconds=0)
    )
    one = Backfill(service, lambda *_: None, lambda *_: None, lambda: True, times.now)
    for number in (3, 9):
        one.on_received(number, at(number))
        one.step()
    assert exchange.asked == []
