"""The exchange's connection: its clocks, and frames over a real socket, however they come."""

import json
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websocket
from websockets.sync.server import ServerConnection, serve

from pipeline.ingest import exchange
from pipeline.ingest.exchange import Clocks, Connection, Message

# --- clocks ---------------------------------------------------------------------------------


def clocks() -> Clocks:
    return Clocks(heartbeat_timeout=15, tick_timeout=90, heartbeat=1000, tick=1000)


def test_all_is_well_up_to_the_time_outs() -> None:
    one = clocks()
    assert one.fault(1015) is None
    one.on_heartbeat(1089, {"last_trade_id": 5})
    assert one.fault(1090) is None


def test_a_heartbeat_missing_too_long_is_a_fault_though_trades_come() -> None:
    one = clocks()
    one.on_tick(1015, 5)
    assert one.fault(1015.1) == "no heartbeat for 15 s"


def test_trades_missing_too_long_while_heartbeats_come_are_another_fault() -> None:
    one = clocks()
    one.on_tick(1001, 5)
    one.on_heartbeat(1091, {"last_trade_id": 6})
    assert one.fault(1091) is None
    assert one.fault(1091.5) == "no trade for 90 s while heartbeats come"


def test_a_market_without_new_trades_is_no_fault() -> None:
    one = clocks()
    one.on_tick(1001, 5)
    one.on_heartbeat(2000, {"last_trade_id": 5})
    assert one.fault(2001) is None
    one.on_heartbeat(2002, {"last_trade_id": 6})
    assert one.fault(2002) == "no trade for 1001 s while heartbeats come"


@pytest.mark.parametrize("heartbeat", [{"last_trade_id": 0}, {"last_trade_id": None}, {}])
def test_an_unknown_newest_trade_excuses_nothing(heartbeat: dict[str, Any]) -> None:
    one = clocks()
    one.on_heartbeat(1091, heartbeat)
    assert one.fault(1091) == "no trade for 91 s while heartbeats come"
    one.on_tick(1001, 5)
    one.on_heartbeat(1100, heartbeat)
    assert one.fault(1100) == "no trade for 99 s while heartbeats come"


def test_a_newest_trade_that_becomes_unknown_is_not_remembered() -> None:
    one = clocks()
    one.on_tick(1001, 5)
    one.on_heartbeat(1002, {"last_trade_id": 5})
    one.on_heartbeat(1100, {"last_trade_id": 0})
    assert one.fault(1100) is not None


def test_a_tick_without_an_id_counts_and_keeps_the_newest_known() -> None:
    one = clocks()
    one.on_tick(1001, 5)
    one.on_tick(1050, None)
    one.on_heartbeat(1130, {"last_trade_id": 5})
    assert one.newest_received == 5
    assert one.fault(1150) is not None  # the heartbeat
    one.on_heartbeat(1150, {"last_trade_id": 5})
    assert one.fault(1150) is None


def test_an_ended_replay_has_no_more_trades_and_still_beats() -> None:
    one = clocks()
    one.on_heartbeat(2000, {"last_trade_id": 9, "replay": {"state": "ended"}})
    assert one.ended
    assert one.fault(2010) is None
    assert one.fault(2016) == "no heartbeat for 16 s"
    one.on_heartbeat(2016, {"last_trade_id": 9, "replay": {"state": "playing"}})
    assert one.fault(2016) == "no trade for 1016 s while heartbeats come"


@pytest.mark.parametrize("replay", [None, "ended", ["ended"], 1, {}])
def test_a_strange_replay_field_is_no_end(replay: object) -> None:
    one = clocks()
    one.on_heartbeat(1001, {"replay": replay})
    assert not one.ended


def test_after_a_pause_of_our_own_the_clocks_begin_anew() -> None:
    one = clocks()
    one.reset(5000)
    assert one.fault(5015) is None
    assert one.fault(5016) == "no heartbeat for 16 s"


# --- frames ---------------------------------------------------------------------------------

CAP = 2000
Handler = Callable[[ServerConnection], None]
SUBSCRIBE = {
    "type": "subscribe",
    "product_ids": ["BTC-USD"],
    "channels": ["ticker", "heartbeat"],
}


class Server:
    """A real WebSocket server, whose part in the talk is given by each test."""

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
    monkeypatch.setattr(exchange, "RECEIVE_SECONDS", 0.1)
    one = Server()
    yield one
    one.close()


def talk(server: Server, play: Handler) -> Connection:
    server.play = play
    return Connection(server.url, "BTC-USD", max_bytes=CAP)


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
    """A server's frame as RFC 6455 lays it out."""
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(data) < 126:
        return head + bytes([len(data)]) + data
    if len(data) < 65_536:
        return head + b"\x7e" + len(data).to_bytes(2, "big") + data
    return head + b"\x7f" + len(data).to_bytes(8, "big") + data


def raw(*pieces: bytes, pause: float = 0.0) -> Handler:
    """Sends these bytes as they are, over the connection's own socket."""

    def play(connection: ServerConnection) -> None:
        for piece in pieces:
            connection.socket.sendall(piece)
            time.sleep(pause)

    return play


def test_a_connection_subscribes_to_ticker_and_heartbeat(server: Server) -> None:
    connection = talk(server, lambda _: None)
    assert server.subscriptions.get(timeout=5) == SUBSCRIBE
    connection.close()


def test_messages_come_as_they_were_sent_in_order(server: Server) -> None:
    sent = [json.dumps({"n": n, "text": "é" * (n % 7)}) for n in range(2000)]

    def play(connection: ServerConnection) -> None:
        for text in sent:
            connection.send(text)

    connection = talk(server, play)
    assert receive(connection, 2000) == [whole(text.encode()) for text in sent]
    connection.close()


def test_silence_is_none_and_the_connection_goes_on(server: Server) -> None:
    heard = threading.Event()

    def play(connection: ServerConnection) -> None:
        heard.wait(5)
        connection.send("after the silence")

    connection = talk(server, play)
    began = time.monotonic()
    assert connection.receive() is None
    assert 0.05 < time.monotonic() - began < 1
    heard.set()
    assert receive(connection, 1) == [whole(b"after the silence")]
    connection.close()


@pytest.mark.parametrize("size", [CAP + 1, 65_535, 65_536, 3_000_000])
def test_a_message_over_the_cap_is_cut_its_size_known_and_its_neighbours_whole(
    server: Server, size: int
) -> None:
    long = bytes(random.Random(size).randrange(32, 127) for _ in range(CAP)) + b"x" * (size - CAP)

    def play(connection: ServerConnection) -> None:
        for data in (b"before", long, b"between", long, b"after"):
            connection.send(data, text=True)

    connection = talk(server, play)
    cut = Message(long[:CAP], size)
    assert receive(connection, 5) == [
        whole(b"before"),
        cut,
        whole(b"between"),
        cut,
        whole(b"after"),
    ]
    connection.close()


@pytest.mark.parametrize("size", [0, 1, 125, 126, CAP - 1, CAP])
def test_a_message_up_to_the_cap_is_whole(server: Server, size: int) -> None:
    data = b"y" * size
    connection = talk(server, lambda one: one.send(data, text=True))
    assert receive(connection, 1) == [whole(data)]
    connection.close()


def test_a_fragmented_message_is_put_together_with_pings_between_its_parts(
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
    connection = talk(server, play)
    assert receive(connection, 2) == [whole(b"one two three"), whole(b"next")]
    connection.close()


@pytest.mark.parametrize("sizes", [(1500, 1500), (100, 5000, 100), (2000, 1), (2001, 0, 70_000)])
def test_a_fragmented_message_over_the_cap_is_cut_as_a_whole(
    server: Server, sizes: tuple[int, ...]
) -> None:
    parts = [bytes([ord("a") + n]) * size for n, size in enumerate(sizes)]

    def play(connection: ServerConnection) -> None:
        connection.send(part.decode() for part in parts)
        connection.send("next")

    connection = talk(server, play)
    cut = Message(b"".join(parts)[:CAP], sum(sizes))
    assert receive(connection, 2) == [cut, whole(b"next")]
    connection.close()


def test_a_text_frame_that_is_not_utf8_is_handed_over_and_the_connection_goes_on(
    server: Server,
) -> None:
    broken = b'{"type":"\xff\xfe\xed\xa0\x80"}'

    def play(connection: ServerConnection) -> None:
        connection.send("before")
        connection.send(broken, text=True)
        connection.send(broken)  # a binary frame
        connection.send("after")

    connection = talk(server, play)
    messages = [whole(b"before"), whole(broken), whole(broken), whole(b"after")]
    assert receive(connection, 4) == messages
    connection.close()


@pytest.mark.parametrize("data", [b"z" * 90, b"z" * 1000, b"z" * 100_000])
@pytest.mark.parametrize("cut", [1, 3, 9, 60, -1])
def test_half_a_frame_then_silence_is_none_and_completes_later(
    server: Server, data: bytes, cut: int
) -> None:
    go_on = threading.Event()
    both = frame(b"first") + frame(data)
    at = len(frame(b"first")) + cut if cut > 0 else cut

    def play(connection: ServerConnection) -> None:
        connection.socket.sendall(both[:at])
        go_on.wait(5)
        connection.socket.sendall(both[at:] + frame(b"next"))

    connection = talk(server, play)
    assert receive(connection, 1) == [whole(b"first")]
    assert connection.receive() is None
    assert connection.receive() is None
    go_on.set()
    assert receive(connection, 2) == [Message(data[:CAP], len(data)), whole(b"next")]
    connection.close()


def test_frames_torn_at_random_with_time_outs_between_come_out_whole(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "RECEIVE_SECONDS", 0.005)
    rng = random.Random(3)
    sizes = [rng.choice([0, 5, 125, 126, CAP, CAP + 1, 9000, 66_000]) for _ in range(40)]
    sent = [rng.randbytes(size) for size in sizes]
    stream = b"".join(frame(data, opcode=2) for data in sent)
    cuts = sorted(rng.sample(range(1, len(stream)), 60))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    connection = talk(server, raw(*pieces, pause=0.012))
    assert receive(connection, 40) == [Message(data[:CAP], len(data)) for data in sent]
    connection.close()


def test_a_close_by_the_server_is_an_error_that_tells_its_code_and_reason(
    server: Server,
) -> None:
    connection = talk(server, lambda one: one.close(1008, "too slow"))
    with pytest.raises(websocket.WebSocketException, match="code 1008 too slow"):
        receive(connection, 1)
    connection.close()


def test_a_lost_connection_is_an_error_after_all_that_came_before(server: Server) -> None:
    def play(connection: ServerConnection) -> None:
        connection.socket.sendall(frame(b"whole") + frame(b"torn")[:3])
        connection.socket.shutdown(socket.SHUT_RDWR)

    connection = talk(server, play)
    assert receive(connection, 1) == [whole(b"whole")]
    with pytest.raises((websocket.WebSocketException, OSError)):
        receive(connection, 1)
    connection.close()


def test_nobody_there_is_an_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        Connection(f"ws://127.0.0.1:{port}", "BTC-USD", CAP)


def test_what_is_no_websocket_server_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(websocket.WebSocketException):
            Connection(f"ws://127.0.0.1:{port}", "BTC-USD", CAP)
        thread.join()
