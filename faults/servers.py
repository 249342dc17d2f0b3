"""A proxy between the feed and the producer that breaks connections in every way a server can.

The feed implements the protocol correctly. This proxy forwards its frames, and a `Behaviour`
decides what happens to each connection and each frame. The proxy removes the `replay` member from
the answers of the feed, so the pipeline handles the feed like the live exchange.
"""

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self, TypeVar

T = TypeVar("T")

HOST = "127.0.0.1"
TEXT, CLOSE, PING, CONTINUATION = 1, 8, 9, 0
#: Longest frame of the feed, bytes.
FRAME_BYTES = 1 << 24

_TICKER = re.compile(rb'"type"\s*:\s*"ticker"')
_HEARTBEAT = re.compile(rb'"type"\s*:\s*"heartbeat"')
_TRADE_ID = re.compile(rb'"trade_id"\s*:\s*(\d+)')
_TIME = re.compile(rb'("time"\s*:\s*")([^"]+)(")')


class Frame(NamedTuple):
    """A WebSocket frame of the feed."""

    opcode: int
    payload: bytes

    @property
    def is_ticker(self) -> bool:
        return self.opcode == TEXT and _TICKER.search(self.payload) is not None

    @property
    def is_heartbeat(self) -> bool:
        return self.opcode == TEXT and _HEARTBEAT.search(self.payload) is not None

    def encoded(self) -> bytes:
        """Return the bytes of the frame as a server sends it."""
        return header(self.opcode, len(self.payload)) + self.payload


def header(opcode: int, length: int, *, final: bool = True) -> bytes:
    """Return the header of a frame from a server. The length is not checked."""
    first = bytes([opcode | (0x80 if final else 0)])
    if length < 126:
        return first + bytes([length])
    if length < 1 << 16:
        return first + b"\x7e" + length.to_bytes(2, "big")
    return first + b"\x7f" + length.to_bytes(8, "big")


class Link:
    """One connection of the producer."""

    def __init__(self, writer: asyncio.StreamWriter, changed: asyncio.Event) -> None:
        self._writer = writer
        #: Set when the behaviour has changed since the frame or connection that is handled.
        self.changed = changed

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def pause(self, seconds: float) -> bool:
        """Wait; return False as soon as the behaviour has changed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changed.wait(), seconds)
        return not self.changed.is_set()

    def abort(self) -> None:
        """Close the connection at once, without a closing handshake.

        Raises:
            ConnectionAbortedError: always, so that the handler of the connection ends.
        """
        self._writer.transport.abort()
        raise ConnectionAbortedError


class Behaviour:
    """Forward everything: the behaviour of a correct server."""

    async def on_connect(self, link: Link) -> None:
        """Handle a new connection before it is passed to the feed."""

    async def on_frame(self, link: Link, frame: Frame) -> None:
        """Handle a frame of the feed."""
        await link.send(frame.encoded())


MakeBehaviour = Callable[[], Behaviour]


class Close(Behaviour):
    """Close each connection correctly after some frames.

    Args:
        after: frames that are forwarded before the connection is closed.
        code: the code in the close frame; None drops the connection without one.
        times: connections to close. All later ones stay open.
    """

    def __init__(self, after: int, code: int | None, times: int) -> None:
        self._after, self._code = after, code
        self.left = times
        self._frames = 0

    async def on_connect(self, link: Link) -> None:
        del link
        self._frames = 0

    async def on_frame(self, link: Link, frame: Frame) -> None:
        self._frames += 1
        if self.left and self._frames > self._after:
            self.left -= 1
            if self._code is not None:
                await link.send(Frame(CLOSE, self._code.to_bytes(2, "big") + b"bye").encoded())
                await asyncio.sleep(0.05)
            link.abort()
        await link.send(frame.encoded())


class HalfFrame(Behaviour):
    """Send half of a trade's frame, then wait, then drop the connection."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._done = False

    async def on_frame(self, link: Link, frame: Frame) -> None:
        data = frame.encoded()
        if frame.is_ticker and not self._done:
            self._done = True
            await link.send(data[: len(data) // 2])
            await link.pause(self._wait_s)
            link.abort()
        await link.send(data)


class Trickle(Behaviour):
    """Send every frame one byte at a time."""

    def __init__(self, byte_s: float) -> None:
        self._byte_s = byte_s

    async def on_frame(self, link: Link, frame: Frame) -> None:
        data = frame.encoded()
        for place in range(len(data)):
            await link.send(data[place : place + 1])
            if not await link.pause(self._byte_s):
                link.abort()


class Endless(Behaviour):
    """Send the same bytes again and again instead of the frames of the feed."""

    def __init__(self, data: bytes, every_s: float, first: bytes = b"") -> None:
        self._data, self._every_s, self._first = data, every_s, first

    async def on_frame(self, link: Link, frame: Frame) -> None:
        del frame
        await link.send(self._first)
        while await link.pause(self._every_s):
            await link.send(self._data)
        link.abort()


class Silence(Behaviour):
    """Send nothing, and read nothing from the feed."""

    async def on_frame(self, link: Link, frame: Frame) -> None:
        await link.changed.wait()
        await link.send(frame.encoded())


class Only(Behaviour):
    """Forward some frames and discard the others."""

    def __init__(self, wanted: Callable[[Frame], bool]) -> None:
        self._wanted = wanted

    async def on_frame(self, link: Link, frame: Frame) -> None:
        if self._wanted(frame):
            await link.send(frame.encoded())


class Instead(Behaviour):
    """Send these bytes before the first frame of each connection, then forward."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._sent = False

    async def on_frame(self, link: Link, frame: Frame) -> None:
        if not self._sent:
            self._sent = True
            await link.send(self._data)
        await link.send(frame.encoded())


class Answer(Behaviour):
    """Answer each request with these bytes, one at a time if slow, and drop the connection."""

    def __init__(self, data: bytes, byte_s: float = 0.0) -> None:
        self._data, self._byte_s = data, byte_s

    async def on_connect(self, link: Link) -> None:
        if not self._byte_s:
            await link.send(self._data)
        for place in range(len(self._data) if self._byte_s else 0):
            await link.send(self._data[place : place + 1])
            if not await link.pause(self._byte_s):
                break
        await asyncio.sleep(0.05)
        link.abort()

    async def on_frame(self, link: Link, frame: Frame) -> None:
        del frame
        link.abort()  # a connection from before the fault


class Late(Behaviour):
    """Set back the event time of some trades.

    Attributes:
        rewritten: the changed messages, by trade id.
    """

    def __init__(self, every: int, seconds: Callable[[], float]) -> None:
        self._every, self._seconds = every, seconds
        self._trades = 0
        self._newest = 0
        self.rewritten: dict[int, bytes] = {}

    async def on_frame(self, link: Link, frame: Frame) -> None:
        found = _TRADE_ID.search(frame.payload)
        if frame.is_ticker and found is not None:
            frame = self._changed(frame, int(found[1]))
        await link.send(frame.encoded())

    def _changed(self, frame: Frame, trade_id: int) -> Frame:
        """Return the frame as it is sent: a repeated trade again as it was sent first."""
        is_new, self._newest = 0 < self._newest < trade_id, max(self._newest, trade_id)
        self._trades += is_new
        if is_new and self._trades % self._every == 0:
            self.rewritten[trade_id] = self._set_back(frame.payload)
        return Frame(frame.opcode, self.rewritten.get(trade_id, frame.payload))

    def _set_back(self, message: bytes) -> bytes:
        time = _TIME.search(message)
        if time is None:
            return message
        moment = datetime.fromisoformat(time[2].decode()) - timedelta(seconds=self._seconds())
        text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
        return _TIME.sub(rb"\g<1>" + text + rb"\g<3>", message, count=1)


def http_answer(status: str, body: str) -> bytes:
    """Return a complete HTTP answer with a page."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


class Proxy:
    """The proxy, in a thread of its own.

    Attributes:
        connections: connections accepted so far.
    """

    def __init__(self, port: int, feed_port: int) -> None:
        self.port = port
        self._feed_port = feed_port
        self.connections = 0
        self._behaviour = Behaviour()
        self._changed = asyncio.Event()
        self._link: Link | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._call(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def listen(self) -> None:
        """Accept connections."""

        async def listen() -> None:
            if self._server is None:
                self._server = await asyncio.start_server(
                    self._serve, HOST, self.port, limit=FRAME_BYTES
                )

        self._call(listen())

    def refuse(self) -> None:
        """Close the port and all connections: new ones are refused by the system."""

        async def refuse() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None
            for writer in self._writers:
                writer.transport.abort()

        self._call(refuse())

    def behave(self, behaviour: Behaviour | None = None) -> None:
        """Change the behaviour of all connections; without one, forward everything."""

        async def change() -> None:
            self._behaviour = behaviour or Behaviour()
            self._changed.set()
            self._changed = asyncio.Event()

        self._call(change())

    def send(self, messages: Iterable[bytes]) -> int:
        """Send text messages to the producer between the frames of the feed.

        Returns:
            The number of messages that were written to the connection.
        """

        async def send() -> int:
            sent = 0
            link = self._link
            if link is not None:
                with contextlib.suppress(OSError):
                    for message in messages:
                        await link.send(Frame(TEXT, message).encoded())
                        sent += 1
            return sent

        return self._call(send(), seconds=600)

    def _call(self, what: Coroutine[Any, Any, T], seconds: float = 10) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(seconds)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        link = Link(writer, self._changed)
        feed: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            try:
                await self._behaviour.on_connect(link)
                answers, feed = await asyncio.open_connection(
                    HOST, self._feed_port, limit=FRAME_BYTES
                )
                await _first_of(_copy(reader, feed), self._forward(answers, link))
            finally:
                self._writers.discard(writer)
                if self._link is link:
                    self._link = None
                for end in (writer, feed):
                    if end is not None:
                        end.transport.abort()

    async def _forward(self, answers: asyncio.StreamReader, link: Link) -> None:
        head = await answers.readuntil(b"\r\n\r\n")
        await link.send(head)
        if b" 101 " not in head.partition(b"\r\n")[0]:
            while data := await answers.read(1 << 16):
                await link.send(data)
            return
        self._link = link
        while True:
            frame = await _read_frame(answers)
            link.changed = self._changed
            await self._behaviour.on_frame(link, frame)


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _first_of(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all parts until the first ends, then cancel the others."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def _read_frame(reader: asyncio.StreamReader) -> Frame:
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length > 125:
        length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
    return _without_replay(Frame(first & 0x0F, await reader.readexactly(length)))


def _without_replay(frame: Frame) -> Frame:
    """Return the frame without the member that describes a replay."""
    if frame.opcode != TEXT or b'"replay"' not in frame.payload:
        return frame
    try:
        message = json.loads(frame.payload)
    except ValueError:
        return frame
    if not isinstance(message, dict) or message.pop("replay", None) is None:
        return frame
    return Frame(TEXT, json.dumps(message, separators=(",", ":")).encode())
