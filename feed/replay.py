"""Replay a recording through a WebSocket server: `python -m feed.replay RECORDING`.

The server implements the protocol of the Coinbase Exchange's feed for the channels `ticker` and
`heartbeat`. It sends every line of the recording, valid or not, as one text frame, including
recorded subscription answers, heartbeats and errors. Its own answers and heartbeats have one
additional member, `replay`, which describes the recording.

- Re-timed (the default): see `feed/retime.py`. The first subscriber after the start receives the
  messages of the last `--backlog` seconds at once. Messages that are due while there is no client
  are lost, as on the exchange (not with `--hold`).
- `--no-retime`: the bytes as recorded, from the first subscription on, at `--speed` times the
  recorded speed, or with `max` as fast as the clients read.
- With `--hold` or `--speed max` the replay pauses while there is no client. It continues after the
  last message that it wrote to a connection. Messages in the buffers of a closed connection are
  lost, as on the exchange; the buffers of the server are small.
- The same port serves past trades over REST: see `feed/rest.py`.
- Several clients share one stream: each message goes to all clients that are subscribed at that
  time, as fast as the slowest of them reads. If one stops reading while others are subscribed, the
  server closes its connection.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import logging
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from feed import protocol, recording, rest, retime
from feed.arguments import Arguments, parse_count, parse_port, parse_seconds, parse_speed
from pipeline.errors import OperationalError, exit_on_error
from pipeline.logs import log_to_stdout

#: Seconds without a subscription after which the server closes a connection.
SUBSCRIBE_SECONDS = 5.0
#: Seconds without a read after which the server closes a connection, if there are other clients.
STUCK_SECONDS = 10.0
HEARTBEAT_SECONDS = 1.0
#: Seconds between two lines of progress in the log.
PROGRESS_SECONDS = 60.0
#: Buffers of a connection, bytes. Their content is lost when the connection fails.
WRITE_LIMIT = 1 << 14
SEND_BUFFER = 1 << 16
#: Longest message of a client, bytes. All of them are requests.
REQUEST_BYTES = 1 << 16
#: Messages sent before other tasks (heartbeats, new clients) run.
MESSAGES_PER_TURN = 64
#: Event times later than this after the start are not re-timed, seconds.
AHEAD_SECONDS = 60

_TICKER = re.compile(rb'"type"\s*:\s*"ticker"')

log = logging.getLogger("feed")


class Message(NamedTuple):
    """A frame to send, and its time on the player's clock, seconds; None means at once."""

    due: float | None
    frame: bytes


class Player:
    """Send one stream of messages to all subscribed clients.

    Args:
        messages: returns the stream; called when the first client subscribes.
        clock: the clock of the messages' due times, seconds.
        hold: whether to pause while there is no client. Otherwise the messages of that time are
            lost.
        catch_up: whether to send the messages that became due in a pause at once after it.
    """

    def __init__(
        self,
        messages: Callable[[], Iterator[Message]],
        clock: Callable[[], float],
        *,
        hold: bool,
        catch_up: bool,
    ) -> None:
        self._messages = messages
        self._clock = clock
        self._hold = hold
        self._catch_up = catch_up
        self._clients: set[ServerConnection] = set()
        self._subscribed = asyncio.Event()
        self._sending: tuple[ServerConnection, float] | None = None
        self._paused_s = 0.0
        self.last_ticker: bytes | None = None
        self.sent = 0
        self.lost = 0
        self.ended = False

    @property
    def played(self) -> int:
        """The number of messages that were sent or lost."""
        return self.sent + self.lost

    @property
    def clients(self) -> int:
        """The number of subscribed clients."""
        return len(self._clients)

    def add(self, client: ServerConnection) -> None:
        """Send the last ticker to a client, then all following messages."""
        if self.last_ticker is not None and protocol.ticker(self.last_ticker):
            broadcast([client], self.last_ticker, text=True)
        self._clients.add(client)
        self._subscribed.set()

    def remove(self, client: ServerConnection) -> None:
        """Send nothing more to a client."""
        self._clients.discard(client)
        if not self._clients:
            self._subscribed.clear()

    async def play(self) -> None:
        """Send the stream, from the first subscription on."""
        await self._subscribed.wait()
        for number, (due, frame) in enumerate(self._messages(), 1):
            if due is not None:
                await self._until(due)
            while not await self._send(frame):
                if not self._hold:
                    self.lost += 1
                    break
                await self._wait_for_a_client()
            else:
                self.sent += 1
            if _TICKER.search(frame):
                self.last_ticker = frame
            if number % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)
        self.ended = True
        log.info("the recording ended after %d messages; heartbeats continue", self.sent)

    async def _until(self, due: float) -> None:
        # In steps, because the clock can be set meanwhile. There is no event to wait for.
        while (left := due + self._paused_s - self._clock()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, 1.0))

    async def _wait_for_a_client(self) -> None:
        log.info("no client connected; paused after %d messages", self.sent)
        begin = time.monotonic()
        await self._subscribed.wait()
        if not self._catch_up:
            self._paused_s += time.monotonic() - begin
        log.info("client connected; continuing")

    async def _send(self, frame: bytes) -> bool:
        """Send a frame to all clients; return whether at least one received it."""
        received = False
        for client in tuple(self._clients):
            self._sending = (client, time.monotonic())
            try:
                await client.send(frame, text=True)
                received = True
            except ConnectionClosed:
                self.remove(client)
        self._sending = None
        return received

    def close_blocked(self) -> None:
        """Close a connection whose client does not read and so blocks all others."""
        if self._sending is None or len(self._clients) < 2:
            return
        client, since = self._sending
        if time.monotonic() - since > STUCK_SECONDS:
            log.warning("closing the connection to %s: it does not read", _name(client))
            client.transport.abort()


class Feed:
    """The server: handle the requests of each connection."""

    def __init__(
        self,
        player: Player,
        past: rest.Rest,
        identity: dict[str, object],
        speed: object,
        product: str,
    ) -> None:
        self._player = player
        self._past = past
        self._identity = identity
        self._speed = speed
        self._product = product
        self._connections = 0

    def _replay(self) -> dict[str, object]:
        state = "ended" if self._player.ended else "playing"
        return {**self._identity, "speed": self._speed, "state": state}

    async def answer(self, _connection: ServerConnection, request: Request) -> Response | None:
        """Answer `GET /health` and requests for past trades. Every other path is a WebSocket."""
        if request.path != "/health":
            return await self._past.answer(request.path)
        state = {
            "status": "ok",
            "replay": self._replay(),
            "clients": self._connections,
            "handed": self._player.sent,
            "lost": self._player.lost,
        }
        return rest.json_response(200, state)

    async def serve_client(self, client: ServerConnection) -> None:
        """Handle one connection until it is closed."""
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
            self._player.remove(client)
            self._connections -= 1
            log.info("%s disconnected (%s)", _name(client), client.close_code)

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
                self._player.remove(client)
        else:
            channels |= request.channels
        answer = protocol.subscriptions(channels, self._product)
        await client.send(_json({**answer, "replay": self._replay()}), text=True)
        if request.type == "subscribe":
            log.info("%s subscribed to %s", _name(client), ", ".join(sorted(request.channels)))
            if "heartbeat" in request.channels:
                await self._send_heartbeat(client)
            if "ticker" in request.channels:
                self._player.add(client)

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
        """Check for a blocked client every second, and log the progress every minute."""
        logged = -1
        while True:
            for _ in range(int(PROGRESS_SECONDS)):
                await asyncio.sleep(1)
                self._player.close_blocked()
            if self._player.sent != logged:
                logged = self._player.sent
                log.info(
                    "REPLAY %s: %d messages sent, %d lost, clients: %d",
                    "ended" if self._player.ended else "running",
                    logged,
                    self._player.lost,
                    self._player.clients,
                )


def _name(client: ServerConnection) -> str:
    address = client.remote_address
    return f"client {address[0]}:{address[1]}" if address else "client"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# --- the two streams ------------------------------------------------------------------------


def retimed_messages(tiles: retime.Tiles, backlog: float) -> Iterator[Message]:
    """Yield all messages that are due since `backlog` seconds ago, without end, in Unix seconds."""
    position = tiles.first_after(int((time.time() - backlog) * retime.SECOND))
    while True:
        yield Message(tiles.due(position) / retime.SECOND, tiles.frame(position))
        position += 1


def recorded_messages(
    lines: Iterator[recording.Line], speed: float | None, latest: int
) -> Iterator[Message]:
    """Yield all messages as recorded, due in seconds of the monotonic clock or, at max, None."""
    if speed is None:
        for line in lines:
            yield Message(None, line.frame)
        return
    begin = time.monotonic()
    for frame, since in retime.pace(lines, latest):
        yield Message(begin + since / retime.SECOND / speed, frame)


# --- the command line -----------------------------------------------------------------------


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line, None for that of the process."""
    parser = Arguments(
        prog="python -m feed.replay",
        description="Replays a recording of the exchange's feed over a real WebSocket.",
    )
    parser.add_argument("recording", type=Path, help="recording, plain or gzip")
    parser.add_argument(
        "--speed",
        type=parse_speed,
        default=1.0,
        help="multiple of the recorded speed, or max (1)",
    )
    parser.add_argument(
        "--retime",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="shift the times to the present (default), or keep the bytes as recorded",
    )
    parser.add_argument(
        "--backlog",
        type=parse_seconds,
        default=1800.0,
        metavar="SECONDS",
        help="re-timed only: send the messages of the last SECONDS at once (1800)",
    )
    parser.add_argument("--hold", action="store_true", help="pause while there is no client")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=parse_port, default=8765, help="port to listen on (8765)")
    parser.add_argument(
        "--product",
        default="BTC-USD",
        help="product to offer (BTC-USD)",
    )
    parser.add_argument(
        "--rest-rate",
        type=parse_count,
        default=10,
        metavar="N",
        help="REST requests per second; further ones get the status 429 (10)",
    )
    parser.add_argument(
        "--rest-newest",
        type=parse_count,
        metavar="N",
        help="serve only trades among the newest N ids over REST (default: all)",
    )
    parser.add_argument(
        "--rest-failures",
        type=parse_count,
        default=0,
        metavar="N",
        help="the first N REST requests fail, each in another way (0)",
    )
    options = parser.parse_args(arguments)
    if options.retime and options.speed != 1:
        parser.error("--speed needs --no-retime: a re-timed replay runs in real time")
    return options


def listening_socket(host: str, port: int) -> socket.socket:
    """Open the port, before the replay reads a long recording.

    Raises:
        OperationalError: the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, port), family=family)
    except OSError as error:
        raise OperationalError(
            f"Cannot use port {port} on {host}: {error.strerror}. Stop the process that uses it, "
            "or choose another port with --port."
        ) from error
    # All connections inherit it. It is small, so that a failed connection loses little.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return server


def latest_event_time() -> int:
    """Return the latest event time that a message can have, in the unit of `retime`."""
    return int((time.time() + AHEAD_SECONDS) * retime.SECOND)


def read_tiles(path: Path) -> retime.Tiles:
    """Return the messages of a recording as an endless sequence (see `feed.retime`).

    Raises:
        RecordingError: the recording cannot be read, or it has no time.
    """
    _, latest = retime.survey(recording.read(path), latest_event_time())
    return retime.tile(recording.read(path), latest)


def make_player(
    options: argparse.Namespace,
) -> tuple[Player, rest.PlayedTrades, dict[str, object]]:
    """Return a player of the recording, the trades that it has played, and its identity."""
    path: Path = options.recording
    if options.retime:
        tiles = read_tiles(path)
        log.info("%d messages, repeated every %d s", tiles.count, tiles.period // retime.SECOND)
        player = Player(
            functools.partial(retimed_messages, tiles, options.backlog),
            time.time,
            hold=options.hold,
            catch_up=True,
        )
        past = rest.RetimedTrades(tiles, options.product, time.time)
        return player, past, recording.identity(path, tiles.repetition)
    # Read the whole file, so that a broken one fails at the start.
    count, latest = retime.survey(recording.read(path), latest_event_time())
    log.info("%d messages", count)
    player = Player(
        lambda: recorded_messages(recording.read(path), options.speed, latest),
        time.monotonic,
        hold=options.hold or options.speed is None,
        catch_up=False,
    )
    played = rest.RecordedTrades(recording.read(path), options.product, lambda: player.played)
    return player, played, recording.identity(path, None)


async def run(options: argparse.Namespace, listening: socket.socket) -> None:
    """Serve until a signal stops it."""
    path: Path = options.recording
    player, played, identity = make_player(options)
    identity |= {"synthetic": recording.is_synthetic(path), "path": str(path)}
    past = rest.Rest(
        played,
        options.product,
        rate=options.rest_rate,
        newest=options.rest_newest,
        failures=options.rest_failures,
    )
    speed = "max" if options.speed is None else options.speed
    if isinstance(speed, float) and speed.is_integer():
        speed = int(speed)
    feed = Feed(player, past, identity, speed, options.product)
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    server = await serve(
        feed.serve_client,
        sock=listening,
        process_request=feed.answer,
        compression=None,
        ping_interval=None,  # a client may stop reading for a while
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
    log.info("stopping after %d messages", player.sent)
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
    """Start the server, or exit with one sentence."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback until the server runs
    log_to_stdout("INFO")
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # it logs every port scan
    with exit_on_error():
        asyncio.run(run(options, listening_socket(options.host, options.port)))


if __name__ == "__main__":
    main()
