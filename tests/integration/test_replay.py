"""The real replay server and recorder, tested with a real WebSocket client."""

import gzip
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import websocket

from feed import recording, replay, retime, sample
from local.ports import free_port
from tests.conftest import ROOT, Run, Running, wait_until

SUBSCRIBE = {"type": "subscribe", "product_ids": ["BTC-USD"], "channels": ["ticker"]}
BOTH = SUBSCRIBE | {"channels": ["ticker", "heartbeat"]}
START = datetime(2025, 6, 30, 23, 30, tzinfo=UTC)


def ticker(number: int, seconds: float) -> bytes:
    moment = (START + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    message = {"type": "ticker", "sequence": 5 * number, "product_id": "BTC-USD"}
    return json.dumps(message | {"time": moment, "trade_id": number}).encode()


def record(path: Path, frames: list[bytes]) -> list[bytes]:
    path.write_bytes(b"\n".join(frames) + b"\n")
    return frames


class Client:
    """A WebSocket client that returns each frame's bytes unchanged."""

    def __init__(self, port: int, request: dict[str, Any] | None = None) -> None:
        self.socket = websocket.create_connection(
            f"ws://127.0.0.1:{port}", timeout=10, skip_utf8_validation=True
        )
        if request is not None:
            self.send(request)
            assert self.json()["type"] == "subscriptions"

    def send(self, request: object) -> None:
        self.socket.send(json.dumps(request))

    def frame(self) -> bytes:
        """Return the next frame, which must be a text frame."""
        opcode, frame = self.socket.recv_data()
        assert opcode == websocket.ABNF.OPCODE_TEXT, (opcode, frame)
        return bytes(frame)

    def frames(self, count: int) -> list[bytes]:
        return [self.frame() for _ in range(count)]

    def json(self) -> dict[str, Any]:
        message = json.loads(self.frame())
        assert isinstance(message, dict)
        return message

    def nothing_for(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            self.frame()
        except websocket.WebSocketTimeoutException:
            return True
        finally:
            self.socket.settimeout(10)
        return False

    def close(self) -> None:
        self.socket.close(timeout=1)


Connect = Callable[..., Client]
Serve = Callable[..., int]


@pytest.fixture
def serve(run: Run) -> Serve:
    """Start a replay and return its port once it answers.

    Keyword arguments replace constants of `feed.replay`: `serve(path, STUCK_SECONDS=1)`.
    """

    def start(path: Path, *arguments: str, **seconds: float) -> int:
        port = free_port()
        times = [f"{name}={value}" for name, value in seconds.items()]
        program = ("tests.integration.impatient_feed", *times) if times else ("feed.replay",)
        feed = run(*program, str(path), "--port", str(port), *arguments)
        wait_until(lambda: health(port), 20, "the replay's start", feed)
        start.processes[port] = feed  # type: ignore[attr-defined]
        return port

    start.processes = {}  # type: ignore[attr-defined]
    return start


def process(serve: Serve, port: int) -> Running:
    found = serve.processes[port]  # type: ignore[attr-defined]
    assert isinstance(found, Running)
    return found


@pytest.fixture
def connect() -> Iterator[Connect]:
    clients: list[Client] = []

    def start(port: int, request: dict[str, Any] | None = SUBSCRIBE) -> Client:
        clients.append(Client(port, request))
        return clients[-1]

    yield start
    for client in clients:
        client.socket.shutdown()


def health(port: int) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return dict(json.load(answer), http=answer.status)
    except OSError:
        return {}


BAD = [
    b"not json",
    b"",
    b"\xff\xfe\x80 not UTF-8",
    b'{"type":"ticker","trade_id":',
    b"x" * 100_000,
    "{käse}".encode(),
    b'{"type":"heartbeat"}',
]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_line_is_sent_as_a_text_frame_with_its_bytes_unchanged(
    tmp_path, serve, connect, pack
):
    path = tmp_path / "r"
    frames = [ticker(1, 0), *BAD, ticker(2, 1)]
    path.write_bytes(pack(b"\n".join(frames) + b"\n"))
    client = connect(serve(path, "--no-retime", "--speed", "max"))
    assert client.frames(len(frames)) == frames
    assert client.nothing_for(0.5)


def test_the_frames_of_a_wire_recording_are_sent(tmp_path, serve, connect):
    frames = [b'{"type":"subscriptions"}', ticker(1, 0), b"a\nb", b"\xff", ticker(2, 1)]
    lines = [
        {"ts": 1.0e9 + n, "pair": "BTC-USD", "raw": frame.decode("utf-8", "surrogateescape")}
        for n, frame in enumerate(frames)
    ]
    path = tmp_path / "r"
    record(path, [*(json.dumps(line).encode() for line in lines), b"no wire object"])
    client = connect(serve(path, "--no-retime", "--speed", "max"))
    assert client.frames(len(frames) + 1) == [*frames, b"no wire object"]


def test_answer_and_heartbeats_name_the_recording_and_its_end(tmp_path, serve, connect):
    path = tmp_path / "synthetic_x"
    record(path, [ticker(7, 0)])
    port = serve(path, "--no-retime", "--speed", "max")
    client = connect(port, None)
    client.send(BOTH)
    described = {
        **recording.identity(path, None),
        "synthetic": True,
        "path": str(path),
        "speed": "max",
        "state": "playing",
    }
    assert client.json() == {
        "type": "subscriptions",
        "channels": [
            {"name": "ticker", "product_ids": ["BTC-USD"]},
            {"name": "heartbeat", "product_ids": ["BTC-USD"]},
        ],
        "replay": described,
    }
    first = client.json()
    assert first.pop("time")[:4] >= "2025"
    unknown = {"type": "heartbeat", "sequence": 0, "last_trade_id": 0, "product_id": "BTC-USD"}
    assert first == unknown | {"replay": described}
    assert client.frame() == ticker(7, 0)
    begin = time.monotonic()
    beats = [client.json() for _ in range(3)]
    assert 2 < time.monotonic() - begin < 4
    for beat in beats:
        del beat["time"]
        known = unknown | {"sequence": 35, "last_trade_id": 7}
        assert beat == known | {"replay": described | {"state": "ended"}}
    assert health(port)["replay"]["state"] == "ended"
    log = process(serve, port).text()
    assert "REPLAY of synthetic_x (SYNTHETIC, not market data), as recorded, speed max" in log
    assert "the recording ended after 1 messages" in log


def test_bad_requests_get_the_exchanges_error_and_keep_the_connection(tmp_path, serve, connect):
    path = tmp_path / "r"
    record(path, [ticker(7, 0)])
    client = connect(serve(path, "--no-retime", "--speed", "max"), None)
    for bad, reason in [
        ("{", "not JSON"),
        ('{"type":"hello"}', "Type has to be either subscribe or unsubscribe"),
        (json.dumps(SUBSCRIBE | {"product_ids": ["X-Y"]}), "X-Y is not a valid product"),
        (json.dumps(SUBSCRIBE | {"channels": ["level2"]}), "level2 is not a valid channel"),
    ]:
        client.socket.send(bad)
        error = client.json()
        assert error.keys() == {"type", "message", "reason"}
        assert error["type"] == "error"
        assert reason in error["reason"]
    client.send(SUBSCRIBE)
    assert client.json()["type"] == "subscriptions"
    assert client.frame() == ticker(7, 0)


def test_the_last_ticker_is_repeated_on_each_subscribe(tmp_path, serve, connect):
    path = tmp_path / "r"
    frames = record(path, [ticker(1, 0), ticker(2, 1), b"garbage"])
    port = serve(path, "--no-retime", "--speed", "max")
    first = connect(port)
    assert first.frames(3) == frames
    assert connect(port).frame() == ticker(2, 1)
    first.send(SUBSCRIBE)
    assert first.json()["type"] == "subscriptions"
    assert first.frame() == ticker(2, 1)


def test_a_client_that_unsubscribes_gets_no_more(tmp_path, serve, connect):
    path = tmp_path / "r"
    record(path, [ticker(n, n / 20) for n in range(1, 400)])
    client = connect(serve(path, "--no-retime", HEARTBEAT_SECONDS=0.3), BOTH)
    assert client.json()["type"] == "heartbeat"
    assert client.json()["trade_id"] == 1
    client.send({"type": "unsubscribe", "product_ids": ["BTC-USD"], "channels": ["ticker"]})
    while (message := client.json())["type"] != "subscriptions":
        pass
    assert [channel["name"] for channel in message["channels"]] == ["heartbeat"]
    assert client.json()["type"] == "heartbeat"
    assert client.json()["type"] == "heartbeat"
    client.send({"type": "unsubscribe"})
    assert client.json()["channels"] == []
    assert client.nothing_for(0.8)


def test_a_client_that_does_not_subscribe_in_time_is_disconnected(tmp_path, serve, connect):
    assert replay.SUBSCRIBE_SECONDS == 5  # as the exchange does
    path = tmp_path / "r"
    record(path, [ticker(1, 0)])
    port = serve(path, "--no-retime", "--speed", "max", SUBSCRIBE_SECONDS=1)
    begin = time.monotonic()
    idle, refused = connect(port, None), connect(port, None)
    refused.socket.send("{")
    assert refused.json()["type"] == "error"
    for client in (idle, refused):
        assert client.socket.recv_data()[0] == websocket.ABNF.OPCODE_CLOSE
        assert 0.8 < time.monotonic() - begin < 4
    connect(port, SUBSCRIBE | {"channels": ["heartbeat"]})
    wait_until(lambda: health(port)["clients"] == 1, 5, "only the subscribed one stays")


def test_messages_come_at_the_recorded_pace_divided_by_the_speed(tmp_path, serve, connect):
    path = tmp_path / "r"
    record(path, [ticker(n, 0.4 * n) for n in range(5)])
    for speed, seconds in (("1", 1.6), ("4", 0.4)):
        client = connect(serve(path, "--no-retime", "--speed", speed))
        arrivals = []
        for n in range(5):
            assert client.json()["trade_id"] == n
            arrivals.append(time.monotonic())
        assert seconds - 0.1 < arrivals[-1] - arrivals[0] < seconds + 0.6


def test_at_full_speed_nothing_is_skipped_between_connections(serve, connect):
    """The replay waits without a client, and continues after the last message it sent."""
    frames = [line.frame for line in recording.read(sample.SAMPLE)]
    port = serve(sample.SAMPLE, "--no-retime", "--speed", "max")
    first = connect(port)
    assert first.frames(500) == frames[:500]
    first.close()
    feed = process(serve, port)
    wait_until(lambda: "no client connected" in feed.text(), 5, "the replay's waiting", feed)
    handed = health(port)["handed"]
    time.sleep(0.5)
    assert health(port)["handed"] == handed < len(frames)
    second = connect(port)
    assert second.frame() == frames[handed - 1]  # the last ticker again
    assert second.frames(len(frames) - handed) == frames[handed:]
    assert second.nothing_for(0.5)


def test_with_hold_the_replay_clock_stops_while_no_client_is_connected(tmp_path, serve, connect):
    path = tmp_path / "r"
    frames = record(path, [ticker(n, n / 20) for n in range(100)])
    port = serve(path, "--no-retime", "--hold")
    first = connect(port)
    assert first.frames(5) == frames[:5]
    first.socket.shutdown()
    feed = process(serve, port)
    wait_until(lambda: "no client connected" in feed.text(), 5, "the replay's waiting", feed)
    handed = health(port)["handed"]
    assert 5 <= handed <= 9
    time.sleep(0.8)
    second = connect(port)
    begin = time.monotonic()
    assert second.frame() == frames[handed - 1]
    assert second.frames(20) == frames[handed : handed + 20]
    assert 0.7 < time.monotonic() - begin < 2.5


def test_without_hold_messages_due_while_no_client_is_connected_are_lost(tmp_path, serve, connect):
    path = tmp_path / "r"
    record(path, [ticker(n, n / 20) for n in range(1, 200)])
    port = serve(path, "--no-retime")
    first = connect(port)
    assert [first.json()["trade_id"] for _ in range(3)] == [1, 2, 3]
    first.close()
    time.sleep(1)
    second = connect(port)
    last, following = second.json()["trade_id"], second.json()["trade_id"]
    assert 15 < last < 60
    assert following == last + 1
    assert health(port)["lost"] >= 10


def test_two_clients_get_the_same_stream(tmp_path, serve, connect):
    path = tmp_path / "r"
    frames = record(path, [ticker(n, n / 40) for n in range(60)])
    port = serve(path, "--no-retime")
    first = connect(port)
    begun = first.frames(10)
    second = connect(port)
    rest = [second.frame()]
    while rest[-1] != frames[-1]:
        rest.append(second.frame())
    assert begun + first.frames(50) == frames
    assert rest == frames[-len(rest) :]


def test_a_client_that_stops_reading_does_not_stop_the_others(serve, connect):
    port = serve(sample.SAMPLE, "--no-retime", "--speed", "max", STUCK_SECONDS=1)
    connect(port)  # never reads
    reader = connect(port)
    frames = [line.frame for line in recording.read(sample.SAMPLE)]
    reader.socket.settimeout(30)
    got = [reader.frame()]
    while got[-1] != frames[-1]:
        got.append(reader.frame())
    feed = process(serve, port)
    assert "it does not read" in feed.text()
    assert len(got) > 10_000


# --- re-timed -------------------------------------------------------------------------------


def expected_tiles() -> retime.Tiles:
    """Return what the server must send, and when. `test_feed_retime` checks it independently."""
    now = int(time.time() * retime.SECOND)
    return retime.tile(recording.read(sample.SAMPLE), now + retime.MINUTE)


def test_retimed_the_first_subscriber_gets_the_backlog_at_once_then_the_present(serve, connect):
    tiles = expected_tiles()
    port = serve(sample.SAMPLE, "--backlog", "600")
    before = int(time.time() * retime.SECOND)
    client = connect(port)
    first = client.frame()
    after = int(time.time() * retime.SECOND)
    earliest = tiles.first_after(before - 600 * retime.SECOND)
    latest = tiles.first_after(after - 600 * retime.SECOND)
    position = next(p for p in range(earliest, latest + 1) if tiles.frame(p) == first)
    count = tiles.first_after(after) - position
    assert count > 1000
    assert client.frames(count - 1) == [tiles.frame(position + n) for n in range(1, count)]
    caught_up = int(time.time() * retime.SECOND)
    assert caught_up - after < 10 * retime.SECOND
    for n in range(count, count + 15):  # in the present: neither early nor late
        assert client.frame() == tiles.frame(position + n)
        now = int(time.time() * retime.SECOND)
        assert tiles.due(position + n) <= now < max(tiles.due(position + n), caught_up) + 1_500_000
    second = connect(port)
    last, following = json.loads(second.frame()), json.loads(second.frame())
    assert following["trade_id"] - last["trade_id"] in {1, 2, 0}
    assert datetime.now(UTC) - datetime.fromisoformat(last["time"]) < timedelta(seconds=20)


def test_retimed_a_restarted_feed_continues_with_the_same_messages(serve, connect):
    def messages() -> dict[int, bytes]:
        port = serve(sample.SAMPLE, "--backlog", "300")
        client = connect(port)
        found = client.frames(1000)
        process(serve, port).kill()
        return {json.loads(frame)["trade_id"]: frame for frame in found}

    first, second = messages(), messages()
    common = first.keys() & second.keys()
    assert len(common) > 700
    assert all(first[trade_id] == second[trade_id] for trade_id in common)
    assert max(second) > min(second) >= min(first) > 700_000_001


@pytest.mark.parametrize("hold", [True, False])
def test_retimed_messages_due_while_no_client_is_connected_are_lost_except_with_hold(
    tmp_path, serve, connect, hold
):
    path = tmp_path / "r"
    # A minute of ten messages per second. Ids start at 1: 0 is no trade id.
    record(path, [ticker(n + 1, n / 10) for n in range(600)])
    port = serve(path, "--backlog", "2", *(["--hold"] if hold else []))
    client = connect(port)
    client.frames(5)
    client.socket.shutdown()
    gone = datetime.now(UTC)
    time.sleep(2.5)
    again = connect(port)
    last, following = again.json(), again.json()
    came = datetime.fromisoformat(following["time"])
    assert following["trade_id"] == last["trade_id"] + 1
    if hold:
        assert came - gone < timedelta(seconds=1)
        behind = [again.json()["trade_id"] for _ in range(25)]
        assert behind == list(range(behind[0], behind[0] + 25))
    else:
        assert came - gone > timedelta(seconds=1.7)
        assert health(port)["lost"] >= 10


# --- the process ----------------------------------------------------------------------------


def test_health_answers_on_the_same_port(tmp_path, serve):
    path = tmp_path / "r"
    record(path, [ticker(1, 0)])
    found = health(serve(path))
    assert found["http"] == 200
    assert found["status"] == "ok"
    assert found["replay"]["recording"] == "r"
    assert (found["clients"], found["handed"], found["lost"]) == (0, 0, 0)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_once_even_with_a_client_that_does_not_read(serve, connect, signum):
    port = serve(sample.SAMPLE, "--no-retime", "--speed", "max")
    connect(port)
    time.sleep(0.5)
    feed = process(serve, port)
    begin = time.monotonic()
    feed.process.send_signal(signum)
    assert feed.process.wait(10) == 0
    assert time.monotonic() - begin < 3
    assert "Traceback" not in feed.text()


def refused(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


def test_a_recording_that_cannot_be_read_is_refused_in_one_sentence(tmp_path):
    port = ["--port", str(free_port())]
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(ticker(1, 0))[:-8] + b"badcheck")
    for mode in ("--retime", "--no-retime"):
        assert "No such file" in refused("feed.replay", str(tmp_path / "none"), *port, mode)
        assert "not a file" in refused("feed.replay", str(tmp_path), *port, mode)
        assert "broken gzip" in refused("feed.replay", str(broken), *port, mode)


def test_a_busy_port_is_refused_in_one_sentence(tmp_path, serve):
    path = tmp_path / "r"
    record(path, [ticker(1, 0)])
    port = serve(path)
    assert f"port {port} on" in refused("feed.replay", str(path), "--port", str(port))


# --- the recorder ---------------------------------------------------------------------------


@contextmanager
def recorder(run: Run, path: Path, port: int, *arguments: str) -> Iterator[Running]:
    running = run("feed.record", str(path), "--url", f"ws://127.0.0.1:{port}", *arguments)
    wait_until(lambda: "connected to" in running.text(), 20, "the recorder's start", running)
    yield running


@pytest.mark.parametrize("name", ["made.ndjson.gz", "made.ndjson"])
def test_a_recording_survives_kill_9_and_is_continued_with_append(tmp_path, serve, run, name):
    source, made = tmp_path / "source", tmp_path / name
    frames = record(source, [ticker(n, n / 60) if n % 5 else b"odd \xff%d" % n for n in range(260)])
    port = serve(source, "--no-retime", "--hold")
    with recorder(run, made, port) as running:
        wait_until(lambda: health(port)["handed"] >= 90, 20, "90 messages", running)
        handed = health(port)["handed"]
        running.kill()
    first = [line.frame for line in recording.read(made)]
    assert first == frames[: len(first)]
    assert handed - 70 <= len(first)  # at 60 messages per second: at most one second is lost
    assert "already exists" in refused("feed.record", str(made))
    with recorder(run, made, port, "--append") as running:
        wait_until(lambda: health(port)["handed"] >= 180, 20, "180 messages", running)
        assert running.terminate() == 0
    lines = list(recording.read(made))
    assert [line.frame for line in lines[: len(first)]] == first
    assert all(line.received and abs(line.received - time.time()) < 60 for line in lines)
    last = frames[:180].index(lines[len(first)].frame)  # the last ticker, repeated
    following = [line.frame for line in lines[len(first) + 1 :]]
    begin = frames.index(following[0])
    assert begin - last in {1, 2}  # a message that is no ticker is not repeated
    assert following == frames[begin : begin + len(following)]
    assert recording.is_whole(made)


def test_the_recorder_connects_again_and_stops_by_itself(tmp_path, serve, run):
    source, made = tmp_path / "source", tmp_path / "made.gz"
    frames = record(source, [ticker(n, n / 40) for n in range(2000)])
    port = serve(source, "--no-retime")
    with recorder(run, made, port, "--seconds", "6") as running:
        wait_until(lambda: health(port)["handed"] >= 20, 20, "20 messages", running)
        process(serve, port).kill()
        time.sleep(0.5)
        again = run("feed.replay", str(source), "--port", str(port), "--no-retime")
        wait_until(lambda: health(port).get("handed", 0) >= 20, 20, "20 messages again", again)
        assert running.process.wait(20) == 0
    found = [line.frame for line in recording.read(made)]
    restart = len(found) - 1 - found[::-1].index(frames[0])
    assert restart >= 20
    assert found[:restart] == frames[:restart]
    assert found[restart:] == frames[: len(found) - restart]
    assert "Cannot connect to" in running.text()
    nothing = tmp_path / "nothing.gz"
    url = f"ws://127.0.0.1:{free_port()}"
    failed = run("feed.record", str(nothing), "--url", url, "--seconds", "1")
    assert failed.process.wait(20) == 1
    assert "Nothing was recorded: Connection refused. Check --url, and that" in failed.text()
    assert "FEED_URL" not in failed.text()
    assert not nothing.exists()
