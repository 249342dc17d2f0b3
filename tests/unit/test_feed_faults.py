"""A feed over real sockets whose server is slow, silent or gone, or that was not read for a while.

Nothing that was received is lost, no server can block the feed, and a stop request always works.
"""

import base64
import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest

from feed import record
from pipeline.ingest import exchange_connection
from pipeline.ingest.exchange_connection import Connection, Feed, FeedError, FeedWatchdog, Message
from pipeline.service import Service
from pipeline.settings import Settings

Play = Callable[[socket.socket], None]
HEARTBEAT = b'{"type":"heartbeat"}'


class Server:
    """A TCP server that plays the same bytes to each client."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                threading.Thread(target=self._serve_client, args=(client,), daemon=True).start()

    def _serve_client(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._play(client)

    def close(self) -> None:
        for one in (self._listener, *self._clients):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Play], Server]]:
    """Start servers; they are closed at the end."""
    servers: list[Server] = []

    def start(play: Play) -> Server:
        servers.append(Server(play))
        return servers[-1]

    yield start
    for one in servers:
        one.close()


def accepted(client: socket.socket) -> bytes:
    """Read a client's handshake and return the answer that accepts it."""
    request = client.recv(4096)
    key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


def subscribed(play: Play) -> Play:
    """Accept the handshake, read the subscription, then play."""

    def whole(client: socket.socket) -> None:
        client.sendall(accepted(client))
        client.recv(4096)
        play(client)

    return whole


def frame(data: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
    length = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
    return bytes([(0x80 if fin else 0) | opcode]) + length + data


def trickle(data: bytes, pause: float) -> Play:
    """Send one byte after the other."""

    def play(client: socket.socket) -> None:
        for byte in data:
            client.sendall(bytes([byte]))
            time.sleep(pause)

    return play


def endless(data: bytes, pause: float = 0.0) -> Play:
    def play(client: socket.socket) -> None:
        while True:
            client.sendall(data)
            time.sleep(pause)

    return play


def first(data: bytes, then: Play) -> Play:
    def play(client: socket.socket) -> None:
        client.sendall(data)
        then(client)

    return play


class Recorder:
    """A handler that keeps the messages, and blocks once, as a suspended process does."""

    def __init__(self, block_s: float = 0.0) -> None:
        self.messages: list[bytes] = []
        self.watchdogs: list[FeedWatchdog] = []
        self._block_s = block_s

    def on_connect(self, watchdog: FeedWatchdog) -> None:
        self.watchdogs.append(watchdog)

    def on_message(self, message: Message, _received: datetime) -> None:
        self.messages.append(message.data)
        if message.data == HEARTBEAT:
            self.watchdogs[-1].on_heartbeat(time.monotonic(), json.loads(message.data))
        time.sleep(self._block_s)
        self._block_s = 0.0

    def after_read(self) -> None:
        pass


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use short times, but leave a busy machine time to connect. `hasty` shortens this time too."""
    monkeypatch.setattr(exchange_connection, "RECEIVE_SECONDS", 0.1)
    monkeypatch.setattr(exchange_connection, "MESSAGE_SECONDS", 0.25)
    monkeypatch.setattr(exchange_connection, "CONNECT_SECONDS", 10)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_connection, "CONNECT_SECONDS", 0.4)


def run_feed(
    tmp_path: Path, url: str, handler: Recorder, until: Callable[[Service], bool], heartbeat=0.4
) -> tuple[Service, float]:
    """Run a feed until a condition is true, then ask it to stop.

    Returns:
        The service, and the seconds from the stop request to the end.
    """
    settings = Settings(data_dir=tmp_path, feed_url=url, heartbeat_timeout_seconds=heartbeat)
    service = Service("producer", settings)
    stopped = [0.0]

    def watch() -> None:
        end = time.monotonic() + 8
        while not until(service) and time.monotonic() < end:
            time.sleep(0.02)
        stopped[0] = time.monotonic()
        service.stop.set()

    threading.Thread(target=watch).start()
    Feed(service, handler).run()
    return service, time.monotonic() - stopped[0]


def fault_of(service: Service) -> str:
    service.tick(at_once=True)
    status = json.loads(service.data.status_of("producer").read_text())
    return str((status["last_error"] or {}).get("text"))


def has_failed(service: Service) -> bool:
    return service.counters["reconnects"] > 0


# --- a feed that was not read for a while -----------------------------------------------------

SENT = [b'{"n":%d,"text":"%s"}' % (n, b"x" * 60) for n in range(600)]
ALL = b"".join(frame(b"ping", opcode=9) + frame(data) for data in SENT)


def stay(_client: socket.socket) -> None:
    time.sleep(10)


def close_with_frame(client: socket.socket) -> None:
    client.sendall(frame((1011).to_bytes(2, "big") + b"keepalive ping timeout", opcode=8))
    client.close()


def reset(client: socket.socket) -> None:
    time.sleep(0.3)  # the data must reach the client before the RST
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize("end", [stay, close_with_frame, reset], ids=["stay", "close", "reset"])
def test_everything_received_during_a_pause_is_read_before_the_connection_is_given_up(
    serve: Callable[[Play], Server], tmp_path: Path, end: Play
) -> None:
    def play(client: socket.socket) -> None:
        client.sendall(ALL)
        end(client)

    handler = Recorder(block_s=1.0)  # longer than the timeout for heartbeats
    run_feed(tmp_path, serve(subscribed(play)).url, handler, has_failed, heartbeat=0.3)
    assert handler.messages[: len(SENT)] == SENT


def test_heartbeats_that_waited_during_a_pause_keep_the_connection(
    serve: Callable[[Play], Server], tmp_path: Path
) -> None:
    def play(client: socket.socket) -> None:
        client.sendall(ALL)
        endless(frame(HEARTBEAT), 0.05)(client)

    handler = Recorder(block_s=1.0)
    service, _ = run_feed(
        tmp_path,
        serve(subscribed(play)).url,
        handler,
        lambda _: len(handler.messages) > len(SENT) + 30,
        heartbeat=0.3,
    )
    assert handler.messages[: len(SENT)] == SENT
    assert service.counters["reconnects"] == 0


def test_missing_heartbeats_are_found_although_the_socket_is_never_empty(
    serve: Callable[[Play], Server], tmp_path: Path
) -> None:
    server = serve(subscribed(endless(ALL)))
    service, _ = run_feed(tmp_path, server.url, Recorder(), has_failed)
    assert "no heartbeat for" in fault_of(service)


def test_a_pause_within_a_message_loses_nothing(
    serve: Callable[[Play], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_connection, "PAUSE_SECONDS", 0.5)
    parts = frame(b"one ", fin=False), frame(b"two ", 0, fin=False), frame(b"three", 0)

    def play(client: socket.socket) -> None:
        client.sendall(frame(b"first") + parts[0])
        time.sleep(0.8)
        client.sendall(parts[1])
        time.sleep(0.3)
        client.sendall(parts[2])
        stay(client)

    handler = Recorder(block_s=0.9)
    run_feed(tmp_path, serve(subscribed(play)).url, handler, lambda _: len(handler.messages) > 1)
    assert handler.messages[1] == b"one two three"


INCOMPLETE = "a message was not complete within"
NO_ANSWER = "no complete answer within"
TOO_LONG = "the answer is longer than 65,536 bytes"
NOT_FOUND = "HTTP status 404 Not Found"

# --- slow and silent servers ------------------------------------------------------------------

ERROR_PAGE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 99999999\r\n\r\n"
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\n"
HUGE = b"\x81\x7f" + (2**62).to_bytes(8, "big")
BEGINNING = frame(b"x", fin=False)


def handshake_byte_by_byte(client: socket.socket) -> None:
    trickle(accepted(client), 0.05)(client)


#: What the server does, and how the feed reports it.
BLOCKING: dict[str, tuple[Play, str]] = {
    "silence": (subscribed(stay), "no heartbeat for"),
    "pings": (subscribed(endless(frame(b"x", 9), 0.05)), "no heartbeat for"),
    "a flood of pings": (subscribed(endless(frame(b"x", 9) * 100, 0.002)), "no heartbeat for"),
    "pings and pongs": (
        subscribed(endless(frame(b"x", 10) + frame(b"", 9), 0.01)),
        "no heartbeat for",
    ),
    "endless fragments": (
        subscribed(first(BEGINNING, endless(frame(b"x", 0, fin=False), 0.05))),
        INCOMPLETE,
    ),
    "a flood of empty fragments": (
        subscribed(first(BEGINNING, endless(frame(b"", 0, fin=False) * 5000))),
        INCOMPLETE,
    ),
    "a declared length of 2^62": (
        subscribed(first(HUGE, endless(b"x" * 100_000))),
        INCOMPLETE,
    ),
    "a declared length of 2^62, then silence": (subscribed(first(HUGE, stay)), INCOMPLETE),
    "a frame byte by byte": (subscribed(trickle(frame(b"x" * 400), 0.05)), INCOMPLETE),
    "half a close frame": (subscribed(first(b"\x88\x20\x03", stay)), INCOMPLETE),
    "no handshake": (stay, NO_ANSWER),
    "a handshake byte by byte": (handshake_byte_by_byte, NO_ANSWER),
    "headers that never end": (first(UPGRADE, endless(b"X: y\r\n", 0.05)), NO_ANSWER),
    "a flood of headers": (first(UPGRADE, endless(b"X: " + b"y" * 1000 + b"\r\n")), TOO_LONG),
    "a header without end": (first(UPGRADE + b"X: ", endless(b"y" * 1000)), TOO_LONG),
    "an error page that never ends": (first(ERROR_PAGE, endless(b"x", 0.05)), NOT_FOUND),
    "an error page of 100 MB": (first(ERROR_PAGE, endless(b"x" * 10_000)), NOT_FOUND),
}


#: One for each place where the feed waits.
STOPPED = (
    "silence",
    "a flood of pings",
    "a declared length of 2^62",
    "a frame byte by byte",
    "no handshake",
    "headers that never end",
    "an error page that never ends",
)


@pytest.mark.parametrize("case", BLOCKING)
def test_no_server_can_block_the_feed(
    serve: Callable[[Play], Server], tmp_path: Path, request: pytest.FixtureRequest, case: str
) -> None:
    play, fault = BLOCKING[case]
    if fault in (NO_ANSWER, NOT_FOUND):
        request.getfixturevalue("hasty")
    server = serve(play)
    began = time.monotonic()
    heartbeat = 0.3 if "heartbeat" in fault else 60
    service, to_stop_s = run_feed(tmp_path, server.url, Recorder(), has_failed, heartbeat)
    assert fault in fault_of(service)
    assert time.monotonic() - began < 4
    assert to_stop_s < 1


@pytest.mark.parametrize("case", STOPPED)
def test_a_stop_request_ends_the_feed_at_once(
    serve: Callable[[Play], Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    monkeypatch.setattr(exchange_connection, "MESSAGE_SECONDS", 60)
    monkeypatch.setattr(exchange_connection, "CONNECT_SECONDS", 60)
    play, _ = BLOCKING[case]
    began = time.monotonic()
    _, to_stop_s = run_feed(
        tmp_path,
        serve(play).url,
        Recorder(),
        lambda _: time.monotonic() - began > 0.15,
        heartbeat=60,
    )
    assert to_stop_s < 1


@pytest.mark.usefixtures("hasty")
def test_a_tls_handshake_that_never_ends_is_given_up(serve: Callable[[Play], Server]) -> None:
    server = serve(stay)
    with pytest.raises(FeedError, match="no complete answer within"):
        Connection(f"wss://127.0.0.1:{server.port}", "BTC-USD", 1000)


@pytest.mark.usefixtures("hasty")
def test_a_look_up_of_the_host_that_never_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5))
    with pytest.raises(
        FeedError, match=r"cannot resolve the host name exchange\.example\.org: no complete answer"
    ):
        Connection("ws://exchange.example.org", "BTC-USD", 1000)


def receive_all(connection: Connection) -> None:
    for _ in range(100):
        connection.receive()


def test_a_server_that_does_not_read_ends_the_connection(serve: Callable[[Play], Server]) -> None:
    """It sends pings and reads none of the answers."""
    server = serve(subscribed(endless(frame(b"x" * 125, 9) * 100)))
    connection = Connection(server.url, "BTC-USD", 1000)
    with closing(connection), pytest.raises(FeedError, match="the server does not read"):
        receive_all(connection)


# --- the recorder -----------------------------------------------------------------------------


def test_a_suspended_recorder_records_everything_that_waited_in_its_socket(
    serve: Callable[[Play], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "SILENCE_SECONDS", 0.3)
    stop = threading.Event()

    def play(client: socket.socket) -> None:
        client.sendall(ALL)
        close_with_frame(client)

    class SlowWriter(record.Writer):
        def write(self, line: bytes) -> None:
            if not lines:
                time.sleep(0.8)
            lines.append(line)
            if len(lines) == len(SENT):
                stop.set()

    lines: list[bytes] = []
    writer = SlowWriter(tmp_path / "recording", "wb", packed=False)
    recorder = record.Recorder(serve(subscribed(play)).url, "BTC-USD", writer, stop)
    recorder.run(time.monotonic() + 5)
    assert [json.loads(line)["raw"].encode() for line in lines] == SENT


def test_no_server_can_block_the_recorder(
    serve: Callable[[Play], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "SILENCE_SECONDS", 0.2)
    began = time.monotonic()
    for play, _ in BLOCKING.values():
        writer = record.Writer(tmp_path / "recording", "wb", packed=False)
        recorder = record.Recorder(serve(play).url, "BTC-USD", writer, threading.Event())
        recorder.run(time.monotonic() + 0.1)
        writer.close()
    assert time.monotonic() - began < len(BLOCKING)
