"""The connection to the exchange: its watchdog, and frames over a real socket."""

import errno
import http.client
import json
import queue
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websocket import WebSocketBadStatusException
from websockets.sync.server import ServerConnection, serve

from pipeline.ingest import exchange_connection
from pipeline.ingest.connect_failure import connect_failure, status_failure
from pipeline.ingest.exchange_connection import Connection, FeedError, FeedWatchdog, Message

# --- watchdog -------------------------------------------------------------------------------


def watchdog() -> FeedWatchdog:
    return FeedWatchdog(
        heartbeat_timeout=15,
        trade_timeout=90,
        last_heartbeat=1000,
        last_trade=1000,
        last_turn=1000,
    )


def test_there_is_no_fault_up_to_the_timeouts() -> None:
    one = watchdog()
    assert one.fault(1015) is None
    one.on_heartbeat(1089, {"last_trade_id": 5})
    assert one.fault(1090) is None


def test_a_missing_heartbeat_is_a_fault_although_trades_arrive() -> None:
    one = watchdog()
    one.on_trade(1015, 5)
    assert one.fault(1015.1) == ("no heartbeat for 15 s", "")


def test_missing_trades_are_a_fault_although_heartbeats_arrive() -> None:
    one = watchdog()
    one.on_trade(1001, 5)
    one.on_heartbeat(1091, {"last_trade_id": 6})
    assert one.fault(1091) is None
    assert one.fault(1091.5) == ("no trade for 90 s, although heartbeats arrive", "")


def test_a_market_without_new_trades_is_not_a_fault() -> None:
    one = watchdog()
    one.on_trade(1001, 5)
    one.on_heartbeat(2000, {"last_trade_id": 5})
    assert one.fault(2001) is None
    one.on_heartbeat(2002, {"last_trade_id": 6})
    assert one.fault(2002) == ("no trade for 1001 s, although heartbeats arrive", "")


def test_missing_trades_are_explained_by_the_rejected_ones() -> None:
    one = watchdog()
    one.on_heartbeat(1091, {"last_trade_id": 6})
    one.rejected = "price: '0' is not positive"
    assert one.fault(1091) == ("no valid trade for 91 s", "Rejected: price: '0' is not positive")
    one.on_trade(1001, 5)
    assert one.fault(1092) == ("no trade for 91 s, although heartbeats arrive", "")


@pytest.mark.parametrize("heartbeat", [{"last_trade_id": 0}, {"last_trade_id": None}, {}])
def test_missing_trades_are_a_fault_if_the_newest_id_is_unknown(heartbeat: dict[str, Any]) -> None:
    one = watchdog()
    one.on_heartbeat(1091, heartbeat)
    assert one.fault(1091) == ("no trade for 91 s, although heartbeats arrive", "")
    one.on_trade(1001, 5)
    one.on_heartbeat(1100, heartbeat)
    assert one.fault(1100) == ("no trade for 99 s, although heartbeats arrive", "")


def test_an_announced_id_is_forgotten_when_it_becomes_unknown() -> None:
    one = watchdog()
    one.on_trade(1001, 5)
    one.on_heartbeat(1002, {"last_trade_id": 5})
    one.on_heartbeat(1100, {"last_trade_id": 0})
    assert one.fault(1100) is not None


def test_a_trade_is_not_a_heartbeat() -> None:
    one = watchdog()
    one.on_trade(1050, 5)
    one.on_heartbeat(1130, {"last_trade_id": 5})
    assert one.newest_received == 5
    assert one.fault(1150) is not None  # the heartbeat
    one.on_heartbeat(1150, {"last_trade_id": 5})
    assert one.fault(1150) is None


def test_an_ended_replay_sends_no_more_trades_but_still_heartbeats() -> None:
    one = watchdog()
    one.on_heartbeat(2000, {"last_trade_id": 9, "replay": {"state": "ended"}})
    assert one.ended
    assert one.fault(2010) is None
    assert one.fault(2016) == ("no heartbeat for 16 s", "")
    one.on_heartbeat(2016, {"last_trade_id": 9, "replay": {"state": "playing"}})
    assert one.fault(2016) == ("no trade for 1016 s, although heartbeats arrive", "")


@pytest.mark.parametrize("replay", [None, "ended", ["ended"], 1, {}])
def test_a_malformed_replay_field_is_not_an_end(replay: object) -> None:
    one = watchdog()
    one.on_heartbeat(1001, {"replay": replay})
    assert not one.ended


def test_a_pause_starts_all_timeouts_again() -> None:
    one = watchdog()
    assert one.on_turn(1001, 7) is None
    assert one.on_turn(5000, 7) == 3999
    assert one.fault(5010) is None
    assert one.fault(5011) == ("a message was not complete within 10 s", "")
    assert one.on_turn(5001, None) is None
    assert one.fault(5015) is None
    assert one.fault(5016) == ("no heartbeat for 16 s", "")


def test_turns_without_a_pause_start_no_timeout_again() -> None:
    one = watchdog()
    for turn in range(1001, 1016):
        assert one.on_turn(turn, 7 if turn > 1002 else None) is None
    assert one.fault(1013) is None
    assert one.fault(1014) == ("a message was not complete within 10 s", "")
    one.on_turn(1016, 8)
    assert one.fault(1016) == ("no heartbeat for 16 s", "")


# --- errors of the exchange ------------------------------------------------------------------

REFUSED = {
    "type": "error",
    "message": "Failed to subscribe",
    "reason": "FOO-USD is not a valid product",
}
CLOSED = FeedError("the server closed the connection", "Code 1000. Feed: ws://x")


def test_an_error_before_the_subscription_is_the_cause_of_the_close_after_it() -> None:
    one = watchdog()
    one.on_error(REFUSED)
    reason = "Failed to subscribe: FOO-USD is not a valid product"
    text = f"subscription refused. Check PRODUCT_ID. Answer: {reason}"
    assert str(one.refusal()) == text
    cause = one.cause(CLOSED)
    assert (str(cause), cause.lasting, cause.state) == (text, True, "refused")


def test_a_refusal_for_another_reason_does_not_ask_for_another_product() -> None:
    one = watchdog()
    one.on_error({"type": "error", "message": "Rate limit exceeded", "reason": "too many requests"})
    assert (
        str(one.refusal()) == "subscription refused. Answer: Rate limit exceeded: too many requests"
    )


def test_an_error_after_the_subscription_is_named_with_the_close_and_temporary() -> None:
    one = watchdog()
    one.on_subscribed()
    one.on_error({"type": "error", "message": "slow consumer"})
    assert one.refusal() is None
    cause = one.cause(CLOSED)
    text = f"the exchange sent an error. The error: slow consumer. Then: {CLOSED}"
    assert str(cause) == text
    assert (cause.lasting, cause.state) == (False, "connecting")


def test_a_text_of_the_exchange_that_ends_with_a_full_stop_gets_no_second_one() -> None:
    one = watchdog()
    one.on_subscribed()
    assert one.on_error({"message": "slow consumer."}) == "slow consumer"
    assert "The error: slow consumer. Then: the server" in str(one.cause(CLOSED))
    assert exchange_connection._close_reason(b"\x03\xf0too slow.") == "Code 1008 too slow. "
    assert exchange_connection._close_reason(b"\x03\xf0") == "Code 1008. "


def test_an_error_is_forgotten_when_something_works() -> None:
    one = watchdog()
    one.on_error(REFUSED)
    one.on_trade(1001, 5)
    assert one.refusal() is None
    assert one.cause(CLOSED) is CLOSED


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({}, "no reason given"),
        ({"message": None, "reason": ""}, "no reason given"),
        ({"message": {"a": 1}}, "{'a': 1}"),
        ({"message": "a\n\tb"}, "a b"),
        ({"message": "x" * 5000}, "x" * 200),
    ],
)
def test_the_text_of_an_error_is_one_short_line(message: dict[str, Any], text: str) -> None:
    assert watchdog().on_error(message) == text


# --- frames ---------------------------------------------------------------------------------

LIMIT = 2000
Handler = Callable[[ServerConnection], None]
SUBSCRIBE = {
    "type": "subscribe",
    "product_ids": ["BTC-USD"],
    "channels": ["ticker", "heartbeat"],
}


class Server:
    """A real WebSocket server; each test defines what it sends."""

    def __init__(self) -> None:
        self.subscriptions: queue.Queue[object] = queue.Queue()
        self.play: Handler = lambda _: None
        self.finished = threading.Event()
        self._server = serve(self._handle, "127.0.0.1", 0, compression=None)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        port = self._server.socket.getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}"

    def _handle(self, connection: ServerConnection) -> None:
        self.subscriptions.put(json.loads(connection.recv()))
        self.play(connection)
        self.finished.wait(10)

    def close(self) -> None:
        self.finished.set()
        self._server.shutdown()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(exchange_connection, "RECEIVE_SECONDS", 0.1)
    one = Server()
    yield one
    one.close()


def connect(server: Server, play: Handler) -> Connection:
    server.play = play
    return Connection(server.url, "BTC-USD", max_bytes=LIMIT)


def receive(connection: Connection, count: int, timeout: float = 5) -> list[Message]:
    messages: list[Message] = []
    end = time.monotonic() + timeout
    while len(messages) < count and time.monotonic() < end:
        message = connection.receive()
        if message is not None:
            messages.append(message)
    return messages


def whole(data: bytes) -> Message:
    return Message(data, len(data))


def frame(data: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
    """A server's frame, as RFC 6455 defines it."""
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(data) < 126:
        return head + bytes([len(data)]) + data
    if len(data) < 65_536:
        return head + b"\x7e" + len(data).to_bytes(2, "big") + data
    return head + b"\x7f" + len(data).to_bytes(8, "big") + data


def raw(*pieces: bytes, pause: float = 0.0) -> Handler:
    """Send these bytes unchanged over the socket of the connection."""

    def play(connection: ServerConnection) -> None:
        for piece in pieces:
            connection.socket.sendall(piece)
            time.sleep(pause)

    return play


def test_a_connection_subscribes_to_ticker_and_heartbeat(server: Server) -> None:
    connection = connect(server, lambda _: None)
    assert server.subscriptions.get(timeout=5) == SUBSCRIBE
    connection.close()


def test_messages_arrive_unchanged_and_in_order(server: Server) -> None:
    sent = [json.dumps({"n": n, "text": "é" * (n % 7)}) for n in range(2000)]

    def play(connection: ServerConnection) -> None:
        for text in sent:
            connection.send(text)

    connection = connect(server, play)
    assert receive(connection, 2000) == [whole(text.encode()) for text in sent]
    connection.close()


def test_silence_is_none_and_the_connection_stays_open(server: Server) -> None:
    silent = threading.Event()

    def play(connection: ServerConnection) -> None:
        silent.wait(5)
        connection.send("after the silence")

    connection = connect(server, play)
    began = time.monotonic()
    assert connection.receive() is None
    assert 0.05 < time.monotonic() - began < 1
    silent.set()
    assert receive(connection, 1) == [whole(b"after the silence")]
    connection.close()


@pytest.mark.parametrize("size", [LIMIT + 1, 65_535, 65_536, 3_000_000])
def test_a_message_over_the_limit_is_cut_and_its_neighbours_are_whole(
    server: Server, size: int
) -> None:
    long = bytes(random.Random(size).randrange(32, 127) for _ in range(LIMIT)) + b"x" * (
        size - LIMIT
    )

    def play(connection: ServerConnection) -> None:
        for data in (b"before", long, b"between", long, b"after"):
            connection.send(data, text=True)

    connection = connect(server, play)
    cut = Message(long[:LIMIT], size)
    assert receive(connection, 5) == [
        whole(b"before"),
        cut,
        whole(b"between"),
        cut,
        whole(b"after"),
    ]
    connection.close()


@pytest.mark.parametrize("size", [0, 1, 125, 126, LIMIT - 1, LIMIT])
def test_a_message_up_to_the_limit_is_whole(server: Server, size: int) -> None:
    data = b"y" * size
    connection = connect(server, lambda one: one.send(data, text=True))
    assert receive(connection, 1) == [whole(data)]
    connection.close()


def test_a_fragmented_message_with_pings_between_its_parts_is_whole(
    server: Server,
) -> None:
    play = raw(
        frame(b"one ", fin=False),
        frame(b"ping", opcode=9),
        frame(b"two ", opcode=0, fin=False),
        frame(b"", opcode=0, fin=False),
        frame(b"three", opcode=0),
        frame(b"next"),
    )
    connection = connect(server, play)
    assert receive(connection, 2) == [whole(b"one two three"), whole(b"next")]
    connection.close()


@pytest.mark.parametrize("sizes", [(1500, 1500), (100, 5000, 100), (2000, 1), (2001, 0, 70_000)])
def test_a_fragmented_message_over_the_limit_is_cut_once(
    server: Server, sizes: tuple[int, ...]
) -> None:
    parts = [bytes([ord("a") + n]) * size for n, size in enumerate(sizes)]

    def play(connection: ServerConnection) -> None:
        connection.send(part.decode() for part in parts)
        connection.send("next")

    connection = connect(server, play)
    cut = Message(b"".join(parts)[:LIMIT], sum(sizes))
    assert receive(connection, 2) == [cut, whole(b"next")]
    connection.close()


def test_a_text_frame_that_is_not_utf8_arrives_and_the_connection_stays_open(
    server: Server,
) -> None:
    broken = b'{"type":"\xff\xfe\xed\xa0\x80"}'

    def play(connection: ServerConnection) -> None:
        connection.send("before")
        connection.send(broken, text=True)
        connection.send(broken)  # a binary frame
        connection.send("after")

    connection = connect(server, play)
    messages = [whole(b"before"), whole(broken), whole(broken), whole(b"after")]
    assert receive(connection, 4) == messages
    connection.close()


@pytest.mark.parametrize("data", [b"z" * 90, b"z" * 1000, b"z" * 100_000])
@pytest.mark.parametrize("cut", [1, 3, 9, 60, -1])
def test_half_a_frame_is_none_until_the_other_half_arrives(
    server: Server, data: bytes, cut: int
) -> None:
    go_on = threading.Event()
    both = frame(b"first") + frame(data)
    at = len(frame(b"first")) + cut if cut > 0 else cut

    def play(connection: ServerConnection) -> None:
        connection.socket.sendall(both[:at])
        go_on.wait(5)
        connection.socket.sendall(both[at:] + frame(b"next"))

    connection = connect(server, play)
    assert receive(connection, 1) == [whole(b"first")]
    assert connection.receive() is None
    assert connection.receive() is None
    go_on.set()
    assert receive(connection, 2) == [Message(data[:LIMIT], len(data)), whole(b"next")]
    connection.close()


def test_frames_cut_at_random_places_with_timeouts_between_arrive_whole(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_connection, "RECEIVE_SECONDS", 0.005)
    rng = random.Random(3)
    sizes = [rng.choice([0, 5, 125, 126, LIMIT, LIMIT + 1, 9000, 66_000]) for _ in range(40)]
    sent = [rng.randbytes(size) for size in sizes]
    stream = b"".join(frame(data, opcode=2) for data in sent)
    cuts = sorted(rng.sample(range(1, len(stream)), 60))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    connection = connect(server, raw(*pieces, pause=0.012))
    assert receive(connection, 40) == [Message(data[:LIMIT], len(data)) for data in sent]
    connection.close()


def test_a_close_by_the_server_is_an_error_with_its_code_and_reason(
    server: Server,
) -> None:
    connection = connect(server, lambda one: one.close(1008, "too slow"))
    with pytest.raises(
        FeedError, match=r"^the server closed the connection\. Code 1008 too slow\. "
    ):
        receive(connection, 1)
    connection.close()


def test_a_lost_connection_is_an_error_after_the_last_whole_message(server: Server) -> None:
    def play(connection: ServerConnection) -> None:
        connection.socket.sendall(frame(b"whole") + frame(b"torn")[:3])
        connection.socket.shutdown(socket.SHUT_RDWR)

    connection = connect(server, play)
    assert receive(connection, 1) == [whole(b"whole")]
    with pytest.raises(FeedError, match=r"^lost the connection\. Cause: .*\. Feed: ws://"):
        receive(connection, 1)
    connection.close()


def test_a_refused_connection_is_an_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    text = (
        r"^Connection refused\. Check FEED_URL, and that its server runs\. Cannot connect to ws://"
    )
    with pytest.raises(FeedError, match=text):
        Connection(f"ws://127.0.0.1:{port}", "BTC-USD", LIMIT)


@pytest.mark.parametrize(
    ("status", "lasting"),
    [
        *((status, True) for status in (200, 301, 400, 401, 403, 404, 410, 426, 501)),
        *((status, False) for status in (408, 425, 429, 500, 502, 503, 504, 520, 530)),
    ],
)
def test_only_some_statuses_are_retried_soon(status: int, lasting: bool) -> None:
    error = WebSocketBadStatusException(f"Handshake status {status} Text -+-+- {{}}", status)
    reason, found = connect_failure(error, "FEED_URL")
    assert found == lasting
    assert reason == f"HTTP status {status} Text" + (". Check FEED_URL" if lasting else "")


def test_no_space_comes_before_the_full_stop_after_a_status_without_a_reason() -> None:
    assert status_failure(404, "404 ", "FEED_URL") == ("HTTP status 404. Check FEED_URL", True)
    assert status_failure(503, "503 ", "FEED_URL") == ("HTTP status 503", False)


def test_a_failure_names_the_option_that_holds_the_address() -> None:
    with pytest.raises(FeedError, match=r"^Connection refused\. Check --url, and that its"):
        Connection("ws://127.0.0.1:1", "BTC-USD", LIMIT, setting="--url")
    no_tls = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    no_tls.reason = "WRONG_VERSION_NUMBER"
    found = connect_failure(no_tls, "--url")
    assert found == ("the server does not use TLS. Check wss:// in --url", True)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (
            http.client.BadStatusLine("SSH-2.0-OpenSSH_9.6p1"),
            "the answer is not HTTP. Check FEED_REST_URL",
        ),
        (
            http.client.RemoteDisconnected("Remote end closed connection without response"),
            "Remote end closed connection without response. Check FEED_REST_URL and the network",
        ),
        (
            http.client.IncompleteRead(b"[{"),
            "the connection ended within the answer. Check FEED_REST_URL and the network",
        ),
        (http.client.UnknownProtocol("HTTP/9"), "the answer is not HTTP. Check FEED_REST_URL"),
        (
            OSError(errno.ENETUNREACH, "Network is unreachable"),
            "Network is unreachable. Check FEED_REST_URL and the network",
        ),
    ],
)
def test_an_answer_that_is_missing_or_not_http_is_retried_and_the_setting_is_named(
    error: Exception, problem: str
) -> None:
    assert connect_failure(error, "FEED_REST_URL") == (problem, False)


@pytest.mark.parametrize("url", ["", "nonsense", "http://127.0.0.1:1", "ws://", "ws://h:port"])
def test_an_address_that_cannot_work_is_a_lasting_error(url: str) -> None:
    with pytest.raises(FeedError, match=r"\. Cannot connect to ") as error:
        Connection(url, "BTC-USD", LIMIT)
    assert error.value.lasting


def test_an_unknown_host_is_an_error_that_names_what_to_check() -> None:
    with pytest.raises(
        FeedError, match=r"^the host is unknown\. Check FEED_URL and the network\. Cannot"
    ) as one:
        Connection("ws://exchange.invalid", "BTC-USD", LIMIT)
    assert not one.value.lasting


def answer_of_a_server(answer: bytes) -> FeedError:
    """Return the error after a server reads the request, sends these bytes and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def play() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(answer)

        thread = threading.Thread(target=play)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(FeedError) as raised:
            Connection(f"ws://127.0.0.1:{port}", "BTC-USD", LIMIT)
        thread.join()
    return raised.value


def test_an_answer_of_another_server_is_an_error() -> None:
    error = answer_of_a_server(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    assert error.problem == "HTTP status 404 Not Found. Check FEED_URL"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"SSH-2.0-OpenSSH_9.6p1 Ubuntu-3\r\n", "the answer is not HTTP. Check FEED_URL"),
        (b"220 220 mail.example.com ESMTP\r\n\r\n", "the answer is not HTTP. Check FEED_URL"),
        (b"GET / HTTP/1.1\r\n\r\n", "the answer is not HTTP. Check FEED_URL"),  # an echo
        (b"\x00\xff\x00", "the answer is not HTTP. Check FEED_URL"),
        (
            b"",
            "the server closed the connection without an answer. Check FEED_URL and the network",
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "the answer is not valid: Invalid WebSocket Header. Check FEED_URL",
        ),
        (
            b"HTT",
            "the answer is not valid: Connection to remote host was lost. Check FEED_URL",
        ),
    ],
)
def test_a_server_that_does_not_answer_as_a_websocket_server_is_retried_and_names_the_setting(
    answer: bytes, problem: str
) -> None:
    error = answer_of_a_server(answer)
    assert error.problem == problem
    assert not error.lasting
