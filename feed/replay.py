"""`python -m feed.replay RECORDING`: a WebSocket server that stands in for the exchange.

It speaks the protocol of the Coinbase Exchange's feed for the channels `ticker` and `heartbeat`
and sends every line of the recording, valid or not, as one text frame: recorded subscription
answers, heartbeats and errors too. Its own answers and heartbeats carry one extra member,
`replay`, which says what is replayed; nothing else is added.

- Re-timed (the default): see `feed/retime.py`. The last `--backlog` seconds come at once to the
  first subscriber after the server's start. What is due while nobody listens is lost, as on the
  exchange (not with `--hold`).
- `--no-retime`: the bytes as recorded, at the recorded pace divided by `--speed` from the first
  subscription on, or with `max` as fast as the clients read.
- With `--hold` or `--speed max` the replay waits while nobody listens, and goes on after the last
  message that it handed over. Handed over means written to the connection: what a closed
  connection's buffers still held (the server keeps its own small) is gone, as on the exchange.
- Several clients share one stream: each message goes to all who listen at that moment, as fast
  as the slowest of them reads. One that stops reading altogether is cut off if others listen.
"""

import argparse
import asyncio
import contextlib
import functools
import http
import json
import logging
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from feed import protocol, recording, retime

#: A client that has not subscribed after so long is cut off, seconds.
SUBSCRIBE_SECONDS = 5.0
#: A client that takes nothing for so long, while others listen, is cut off, seconds.
STUCK_SECONDS = 10.0
HEARTBEAT_SECONDS = 1.0
#: Seconds between two lines of progress in the log.
PROGRESS_SECONDS = 60.0
#: The server's buffers of a connection, bytes: what they hold is lost when it breaks.
WRITE_LIMIT = 1 << 14
SEND_BUFFER = 1 << 16
#: A client's messages are requests: none is longer, bytes.
REQUEST_BYTES = 1 << 16
#: Messages handed over before others (heartbeats, new clients) get their turn.
TURN = 64
#: A later event time than so long after the start is left as it is when re-timing, seconds.
AHEAD_SECONDS = 60

_TICKER = re.compile(rb'"type"\s*:\s*"ticker"')

log = logging.getLogger("feed")


class Message(NamedTuple):
    """A frame to send, and when: in the player's time, seconds; None for at once."""

    due: float | None
    frame: bytes


class Player:
    """Hands one stream of messages to whoever listens.

    Args:
        messages: gives the stream when the first client subscribes.
        clock: the time that the messages' due moments are measured in, seconds.
        patient: waits while nobody listens; otherwise what is due then is lost.
        catch_up: after such a wait, sends at once what became due in it.
    """

    def __init__(
        self,
        messages: Callable[[], Iterator[Message]],
        clock: Callable[[], float],
        *,
        patient: bool,
        catch_up: bool,
    ) -> None:
        self._messages = messages
        self._clock = clock
        self._patient = patient
        self._catch_up = catch_up
        self._listeners: set[ServerConnection] = set()
        self._arrived = asyncio.Event()
        self._handing: tuple[ServerConnection, float] | None = None
        self._waited = 0.0
        self.last_ticker: bytes | None = None
        self.handed = 0
        self.lost = 0
        self.ended = False

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    def listen(self, client: ServerConnection) -> None:
        """Repeats the last ticker to a client, then sends it all that follows."""
        if self.last_ticker is not None and protocol.ticker(self.last_ticker):
            broadcast([client], self.last_ticker, text=True)
        self._listeners.add(client)
        self._arrived.set()

    def leave(self, client: ServerConnection) -> None:
        self._listeners.discard(client)
        if not self._listeners:
            self._arrived.clear()

    async def play(self) -> None:
        await self._arrived.wait()
        for number, (due, frame) in enumerate(self._messages(), 1):
            if due is not None:
                await self._until(due)
            while not await self._hand(frame):
                if not self._patient:
                    self.lost += 1
                    break
                await self._wait_for_a_listener()
            else:
                self.handed += 1
            if _TICKER.search(frame):
                self.last_ticker = frame
            if number % TURN == 0:
                await asyncio.sleep(0)
        self.ended = True
        log.info("the recording has ended after %d messages; heartbeats go on", self.handed)

    async def _until(self, due: float) -> None:
        # In steps, as the clock may be set while we sleep; there is no event to wait for.
        while (left := due + self._waited - self._clock()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, 1.0))

    async def _wait_for_a_listener(self) -> None:
        log.info("nobody listens: waiting after %d messages", self.handed)
        begin = time.monotonic()
        await self._arrived.wait()
        if not self._catch_up:
            self._waited += time.monotonic() - begin
        log.info("going on")

    async def _hand(self, frame: bytes) -> bool:
        """Whether anybody took the frame."""
        taken = False
        for client in tuple(self._listeners):
            self._handing = (client, time.monotonic())
            try:
                await client.send(frame, text=True)
                taken = True
            except ConnectionClosed:
                self.leave(client)
        self._handing = None
        return taken

    def cut_off_stuck(self) -> None:
        """Ends a connection that holds up the others: its client does not read."""
        if self._handing is None or len(self._listeners) < 2:
            return
        client, since = self._handing
        if time.monotonic() - since > STUCK_SECONDS:
            log.warning("cutting off %s: it does not read", _name(client))
            client.transport.abort()


class Feed:
    """The server: what each connection asks for and gets."""

    def __init__(
        self, player: Player, identity: dict[str, object], speed: object, product: str
    ) -> None:
        self._player = player
        self._identity = identity
        self._speed = speed
        self._product = product
        self._connections = 0

    def _replay(self) -> dict[str, object]:
        state = "ended" if self._player.ended else "playing"
        return {**self._identity, "speed": self._speed, "state": state}

    def health(self, _connection: ServerConnection, request: Request) -> Response | None:
        """Answers `GET /health`; any other path is a WebSocket."""
        if request.path != "/health":
            return None
        state = {
            "status": "ok",
            "replay": self._replay(),
            "clients": self._connections,
            "handed": self._player.handed,
            "lost": self._player.lost,
        }
        body = _json(state) + b"\n"
        headers = Headers(
            {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Connection": "close",
            }
        )
        return Response(http.HTTPStatus.OK, "OK", headers, body)

    async def serve_client(self, client: ServerConnection) -> None:
        log.info("%s connected", _name(client))
        self._connections += 1
        channels: set[str] = set()
        heartbeats = asyncio.create_task(self._send_heartbeats(client, channels))
        try:
            async with asyncio.timeout(SUBSCRIBE_SECONDS) as limit:
                async for text in client:
                    await self._answer(client, text, channels)
                    if channels:
                        limit.reschedule(None)
        except TimeoutError:
            log.warning("%s did not subscribe within %g s", _name(client), SUBSCRIBE_SECONDS)
            await client.close(1008, f"no subscription within {SUBSCRIBE_SECONDS:g} seconds")
        except ConnectionClosed:
            pass
        finally:
            heartbeats.cancel()
            self._player.leave(client)
            self._connections -= 1
            log.info("%s is gone (%s)", _name(client), client.close_code)

    async def _answer(
        self, client: ServerConnection, text: str | bytes, channels: set[str]
    ) -> None:
        try:
            request = protocol.parse_request(text, self._product)
        except protocol.RefusedError as refused:
            log.warning("%s: %s", _name(client), refused)
            await client.send(_json(protocol.error(refused)), text=True)
            return
        if request.type == "unsubscribe":
            channels -= request.channels
            if "ticker" not in channels:
                self._player.leave(client)
        else:
            channels |= request.channels
        answer = protocol.subscriptions(channels, self._product)
        await client.send(_json({**answer, "replay": self._replay()}), text=True)
        if request.type == "subscribe":
            log.info("%s subscribed to %s", _name(client), ", ".join(sorted(request.channels)))
            if "heartbeat" in request.channels:
                await self._send_heartbeat(client)
            if "ticker" in request.channels:
                self._player.listen(client)

    async def _send_heartbeats(self, client: ServerConnection, channels: set[str]) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(HEARTBEAT_SECONDS)
                if "heartbeat" in channels:
                    await self._send_heartbeat(client)

    async def _send_heartbeat(self, client: ServerConnection) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        beat = protocol.heartbeat(self._player.last_ticker, self._product, now)
        await client.send(_json({**beat, "replay": self._replay()}), text=True)

    async def watch(self) -> None:
        """Looks for a stuck client each second, and logs the progress each minute."""
        logged = -1
        while True:
            for _ in range(int(PROGRESS_SECONDS)):
                await asyncio.sleep(1)
                self._player.cut_off_stuck()
            if self._player.handed != logged:
                logged = self._player.handed
                log.info(
                    "REPLAY %s: %d messages handed over, %d lost, %d listening",
                    "ended" if self._player.ended else "goes on",
                    logged,
                    self._player.lost,
                    self._player.listeners,
                )


def _name(client: ServerConnection) -> str:
    address = client.remote_address
    return f"client {address[0]}:{address[1]}" if address else "client"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# --- the two streams ------------------------------------------------------------------------


def retimed_messages(tiles: retime.Tiles, backlog: float) -> Iterator[Message]:
    """All messages due since `backlog` seconds ago, without end; due in Unix seconds."""
    position = tiles.first_after(int((time.time() - backlog) * retime.SECOND))
    while True:
        yield Message(tiles.due(position) / retime.SECOND, tiles.frame(position))
        position += 1


def recorded_messages(
    lines: Iterator[recording.Line], speed: float | None, latest: int
) -> Iterator[Message]:
    """All messages as recorded; due in seconds of the monotonic clock, None without a speed."""
    if speed is None:
        for line in lines:
            yield Message(None, line.frame)
        return
    begin = time.monotonic()
    for frame, since in retime.pace(lines, latest):
        yield Message(begin + since / retime.SECOND / speed, frame)


# --- the command line -----------------------------------------------------------------------


def parse_speed(text: str) -> float | None:
    """`max` (None) or how many times the recorded pace."""
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is neither max nor a number from 0 to 1e6")
    return speed


def parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 10 * 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to ten days")
    return seconds


def parse_port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


class Arguments(argparse.ArgumentParser):
    """An argument parser whose complaint is one sentence."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message}\n")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = Arguments(
        prog="python -m feed.replay",
        description="Replays a recording of the exchange's feed over a real WebSocket.",
    )
    parser.add_argument("recording", type=Path, help="file in either form, plain or gzip")
    parser.add_argument(
        "--speed", type=parse_speed, default=1.0, help="1, N times the recorded pace, or max"
    )
    parser.add_argument(
        "--retime",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="lay the recording over the clock (default), or send its bytes as they are",
    )
    parser.add_argument(
        "--backlog",
        type=parse_seconds,
        default=1800.0,
        metavar="SECONDS",
        help="re-timed only: the last so many seconds come at once (default 1800)",
    )
    parser.add_argument("--hold", action="store_true", help="wait while nobody listens")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=parse_port, default=8765)
    parser.add_argument("--product", default="BTC-USD", help="product that clients may ask for")
    options = parser.parse_args(arguments)
    if options.retime and options.speed != 1:
        parser.error("a re-timed replay has speed 1: give --no-retime with another --speed")
    return options


def listening_socket(host: str, port: int) -> socket.socket:
    """Takes the port at once, before a long recording is read."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.create_server((host, port), family=family)
    # Connections inherit it. Small, so that little is lost with a connection.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return server


def latest_event_time() -> int:
    """The latest that a message can have, in the unit of `retime`."""
    return int((time.time() + AHEAD_SECONDS) * retime.SECOND)


def make_player(options: argparse.Namespace) -> Player:
    latest = latest_event_time()
    path: Path = options.recording
    if options.retime:
        tiles = retime.tile(recording.read(path), latest)
        log.info("%d messages in tiles of %d minutes", tiles.count, tiles.period // retime.MINUTE)
        return Player(
            functools.partial(retimed_messages, tiles, options.backlog),
            time.time,
            patient=options.hold,
            catch_up=True,
        )
    # Read once before, so that a broken file is refused at the start.
    log.info("%d messages", sum(1 for _ in recording.read(path)))
    return Player(
        lambda: recorded_messages(recording.read(path), options.speed, latest),
        time.monotonic,
        patient=options.hold or options.speed is None,
        catch_up=False,
    )


async def run(options: argparse.Namespace, listening: socket.socket) -> None:
    path: Path = options.recording
    identity = {
        **recording.identity(path, retimed=options.retime),
        "synthetic": recording.is_synthetic(path),
    }
    player = make_player(options)
    speed = "max" if options.speed is None else options.speed
    if isinstance(speed, float) and speed.is_integer():
        speed = int(speed)
    feed = Feed(player, identity, speed, options.product)
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    server = await serve(
        feed.serve_client,
        sock=listening,
        process_request=feed.health,
        compression=None,
        ping_interval=None,  # a client that does not read for a while is waited for
        close_timeout=1,
        max_size=REQUEST_BYTES,
        write_limit=WRITE_LIMIT,
    )
    log.info(
        "REPLAY of %s (%s), %s, on ws://%s:%d",
        path.name,
        "SYNTHETIC, not market data" if identity["synthetic"] else "recorded",
        "re-timed" if options.retime else f"as recorded, speed {speed}",
        *listening.getsockname()[:2],
    )
    tasks = [asyncio.create_task(player.play()), asyncio.create_task(feed.watch())]
    for task in tasks:
        task.add_done_callback(functools.partial(_stop_on_failure, stop))
    await stop.wait()
    log.info("stopping after %d messages", player.handed)
    server.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.wait_closed(), 1)
    for task in tasks:
        if task.done():
            task.result()


def _stop_on_failure(stop: asyncio.Event, done: asyncio.Task[None]) -> None:
    if not done.cancelled() and done.exception() is not None:
        stop.set()


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the server runs: end at once, quietly
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stdout,
    )
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # a port scan is no news
    try:
        listening = listening_socket(options.host, options.port)
    except OSError as error:
        sys.stderr.write(
            f"port {options.port} on {options.host} cannot be used "
            f"({error.strerror}): end what holds it or choose another with --port\n"
        )
        sys.exit(2)
    try:
        asyncio.run(run(options, listening))
    except recording.RecordingError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
