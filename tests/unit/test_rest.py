"""The requests for past trades, with a real HTTP server."""

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import pytest

from pipeline.ingest import rest
from pipeline.ingest.rest import RestError, fetch_trades, parse_page, rest_url, seconds_to_wait

ROW = {
    "time": "2025-12-02T04:59:59.000001Z",
    "trade_id": 7,
    "price": "86321.55",
    "size": "0.25",
    "side": "sell",
}


@pytest.mark.parametrize(
    ("feed", "expected"),
    [
        ("wss://ws-feed.exchange.coinbase.com", "https://api.exchange.coinbase.com"),
        (
            "wss://ws-feed-public.sandbox.exchange.coinbase.com/",
            "https://api-public.sandbox.exchange.coinbase.com",
        ),
        ("ws://127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("ws://user:secret@feed:8765/path", "http://feed:8765"),
        ("ws://[::1]:8765", "http://[::1]:8765"),
    ],
)
def test_the_rest_address_follows_from_that_of_the_feed(feed: str, expected: str) -> None:
    assert rest_url(feed) == expected


def page(*rows: dict[str, Any], after: int = 100) -> list[dict[str, Any]]:
    found = parse_page(json.dumps(rows).encode(), "BTC-USD", after, "http://x")
    return [json.loads(one.message) for one in found]


def test_a_trade_becomes_a_ticker_message_with_the_takers_side_and_no_quotes() -> None:
    assert page(ROW) == [
        {
            "type": "ticker",
            "product_id": "BTC-USD",
            "trade_id": 7,
            "price": "86321.55",
            "last_size": "0.25",
            "time": "2025-12-02T04:59:59.000001Z",
            "side": "buy",
        }
    ]
    assert page(ROW | {"side": "buy"})[0]["side"] == "sell"


def test_a_page_is_sorted_newest_first() -> None:
    rows = [ROW | {"trade_id": number} for number in (3, 9, 5)]
    assert [row["trade_id"] for row in page(*rows)] == [9, 5, 3]


def test_what_is_wrong_in_a_trade_is_left_to_the_rules_for_messages() -> None:
    assert page({"trade_id": 7, "side": "up"}) == [
        {"type": "ticker", "product_id": "BTC-USD", "trade_id": 7, "side": "up"}
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b'{"message":"x"}',
        b"[1]",
        b"[{}]",
        b'[{"trade_id":[]}]',
        b"\xff",
        b"[" * 100_000,
        b'[{"trade_id":1,"pr',
    ],
)
def test_an_answer_that_is_no_list_of_trades_is_an_error(body: bytes) -> None:
    text = r"^no past trades: the answer is not a list of trades\. Check FEED_REST_URL\. "
    with pytest.raises(RestError, match=text) as raised:
        parse_page(body, "BTC-USD", 100, "http://x")
    assert f"Address: http://x. The answer begins with {body[:60]!r}" in str(raised.value)


def test_trades_above_the_requested_ids_are_left_out() -> None:
    rows = [ROW | {"trade_id": number} for number in (101, 100, 99, 98)]
    assert [row["trade_id"] for row in page(*rows)] == [99, 98]


@pytest.mark.parametrize("number", [0, -1, 100, 101, "7", True, 1.5, None])
def test_an_id_that_was_not_asked_for_is_an_error(number: object) -> None:
    with pytest.raises(RestError) as raised:
        page(ROW | {"trade_id": number})
    assert str(raised.value) == (
        "no past trades: wrong trade ids. Check FEED_REST_URL. Address: http://x. The answer has "
        f"{number!r}, although ids below 100 were requested"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("3", 3),
        ("0.5", 0.5),
        ("-1", 0),
        ("1e9", rest.LONGEST_WAIT_SECONDS),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("Tue, 02 Dec 2025 12:00:30 GMT", 30),
        ("Tue, 02 Dec 2025 11:00:00 GMT", 0),
        ("Tue, 99 Dec 2025 11:00:00 GMT", None),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("Tue, 02 Dec 2025 11:00:00 +9999999999999999", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str | None, seconds: float | None) -> None:
    assert seconds_to_wait(text, datetime(2025, 12, 2, 12, tzinfo=UTC)) == seconds


# --- a real server --------------------------------------------------------------------------

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]
Serve = Callable[[Answer], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def send(status: int, body: bytes, **headers: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_a_page_is_requested_below_an_id(serve: Serve) -> None:
    asked = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append((handler.path, handler.headers["User-Agent"]))
        send(200, json.dumps([ROW]).encode())(handler)

    assert [one.trade_id for one in fetch_trades(serve(answer) + "/", "BTC-USD", 8)] == [7]
    assert asked == [("/products/BTC-USD/trades?after=8&limit=1000", "stream-vs-batch")]


@pytest.mark.parametrize(
    ("status", "lasting"),
    [
        *((status, True) for status in (400, 403, 404, 501, 505)),
        *((status, False) for status in (408, 425, 429, 500, 502, 503, 504)),
    ],
)
def test_a_refusal_names_the_status_and_whether_it_lasts(
    serve: Serve, status: int, lasting: bool
) -> None:
    with pytest.raises(RestError, match=f"HTTP status {status}") as raised:
        fetch_trades(serve(send(status, b"no", Retry_After="7")), "BTC-USD", 8)
    assert (raised.value.lasting, raised.value.retry_after) == (lasting, 7.0)
    then = "Check FEED_REST_URL" if lasting else "The producer tries again"
    assert f"HTTP status {status} {HTTPStatus(status).phrase}. {then}. Address: http://127" in str(
        raised.value
    )


def test_a_server_that_is_not_there_is_a_temporary_error() -> None:
    with pytest.raises(RestError, match="Connection refused") as raised:
        fetch_trades("http://127.0.0.1:1", "BTC-USD", 8)
    assert not raised.value.lasting


def test_an_unexpected_error_of_a_request_names_the_address_and_is_temporary(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> Any:
        raise MemoryError

    url = serve(send(200, b"[]"))
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(RestError, match=f"^no past trades: MemoryError.* {url}$") as raised:
        fetch_trades(url, "BTC-USD", 8)
    assert not raised.value.lasting


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "http://[::1", "http://"])
def test_an_address_that_cannot_work_is_an_error(url: str) -> None:
    with pytest.raises(RestError):
        fetch_trades(url, "BTC-USD", 8)


def test_a_proxy_is_not_used_for_loopback(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch_trades(serve(send(200, json.dumps([ROW]).encode())), "BTC-USD", 8)
    with pytest.raises(
        RestError, match=r"Check http_proxy\. Cause: Connection refused \(127\.0\.0\.1:1\)"
    ):
        fetch_trades("http://exchange.invalid", "BTC-USD", 8)


@pytest.mark.parametrize("answer", [b"", b"\x05\x00"])  # nothing, and that of a SOCKS proxy
def test_a_proxy_that_does_not_answer_over_http_is_named(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")

    def play() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    threading.Thread(target=play, daemon=True).start()
    with server, pytest.raises(RestError, match=r"the proxy failed\. Check https_proxy\."):
        fetch_trades("https://exchange.invalid", "BTC-USD", 8)


def test_an_endless_answer_is_cut(serve: Serve) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * 65536)

    with pytest.raises(RestError, match=r"too long\..* The maximum is 1,000,000 bytes"):
        fetch_trades(serve(ignoring_errors(answer)), "BTC-USD", 8)


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n", b""])
def test_a_server_that_trickles_is_given_up_after_a_while(
    serve: Serve, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "REQUEST_SECONDS", 0.5)

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(first)
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    began = time.monotonic()
    with pytest.raises(RestError, match=r"no complete answer within 0\.5 s"):
        fetch_trades(serve(ignoring_errors(answer)), "BTC-USD", 8)
    assert time.monotonic() - began < 2


def test_a_tls_handshake_that_does_not_end_is_given_up_after_a_while(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "REQUEST_SECONDS", 0.5)
    silent = threading.Event()
    url = serve_silence(silent)
    began = time.monotonic()
    try:
        with pytest.raises(RestError, match=r"no complete answer within 0\.5 s"):
            fetch_trades(url, "BTC-USD", 8)
    finally:
        silent.set()
    assert time.monotonic() - began < 2


def test_a_proxy_that_trickles_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "REQUEST_SECONDS", 0.5)
    server = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")

    def trickle() -> None:
        connection, _ = server.accept()
        with contextlib.suppress(OSError), connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            for _ in range(60):
                connection.sendall(b"x")
                time.sleep(0.05)

    threading.Thread(target=trickle, daemon=True).start()
    began = time.monotonic()
    with server, pytest.raises(RestError, match=r"no complete answer within 0\.5 s"):
        fetch_trades("https://exchange.invalid", "BTC-USD", 8)
    assert time.monotonic() - began < 2


def test_a_connection_that_opens_after_the_deadline_is_not_used(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-up of the host can take longer than the whole request may."""
    monkeypatch.setattr(rest, "REQUEST_SECONDS", 0.0)
    requests: list[str] = []
    url = serve(lambda handler: requests.append(handler.path))
    look_up = socket.getaddrinfo

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return look_up(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(RestError, match="no complete answer within 0 s"):
        fetch_trades(url, "BTC-USD", 8)
    assert requests == []


def serve_silence(end: threading.Event) -> str:
    """Return the https address of a server that accepts one connection and sends nothing."""
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        connection, _ = server.accept()
        end.wait(10)
        connection.close()
        server.close()

    threading.Thread(target=accept, daemon=True).start()
    return f"https://127.0.0.1:{server.getsockname()[1]}"


def ignoring_errors(answer: Answer) -> Answer:
    def guarded(handler: http.server.BaseHTTPRequestHandler) -> None:
        try:
            answer(handler)
        except OSError:
            handler.close_connection = True

    return guarded
