"""The connection to the exchange: one WebSocket, read frame by frame, and its clocks."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

import websocket
from websocket import ABNF, WebSocketTimeoutException
from websocket._abnf import frame_buffer  # the only way to bound what a frame may take

#: Seconds to connect, and to wait for a frame before the clocks are looked at again.
CONNECT_SECONDS = 10.0
RECEIVE_SECONDS = 1.0
_READ_BYTES = 65_536


@dataclass(frozen=True)
class Message:
    """A message as it came: its bytes, cut to the cap, and its whole length."""

    data: bytes
    size: int


class _BoundedFrames(frame_buffer):  # type: ignore[misc]
    """Reads frames, keeps of each payload at most `cap` bytes and skips the rest.

    Interrupted by a time-out it goes on where it was, as its parent does.
    """

    cap = 0
    skipped = 0
    _head: bytes | None = None
    _left = 0

    def recv_strict(self, bufsize: int) -> bytes:
        if bufsize <= self.cap:
            return bytes(super().recv_strict(bufsize))
        if self._head is None:
            self._head = bytes(super().recv_strict(self.cap))
            self._left = bufsize - self.cap
        while self._left:
            chunk = min(self._left, _READ_BYTES)
            super().recv_strict(chunk)
            self._left -= chunk
            self.skipped += chunk
        head, self._head = self._head, None
        return head


class _BufferedSocket(websocket.WebSocket):  # type: ignore[misc]
    """Reads the socket in large pieces: three system calls a frame cost more than the rest."""

    _piece = memoryview(b"")

    def _recv(self, bufsize: int) -> bytes:
        if not self._piece:
            self._piece = memoryview(super()._recv(_READ_BYTES))
        data, self._piece = bytes(self._piece[:bufsize]), self._piece[bufsize:]
        return data


class Connection:
    """A subscribed WebSocket connection.

    Raises, here and in `receive`:
        websocket.WebSocketException, OSError: the connection failed or was lost.
    """

    def __init__(self, url: str, product: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._socket = websocket.create_connection(
            url,
            timeout=CONNECT_SECONDS,
            class_=_BufferedSocket,
            skip_utf8_validation=True,  # a bad message is ours to judge, not a reason to hang up
            fire_cont_frame=True,
            enable_multithread=False,
        )
        self._frames = _BoundedFrames(self._socket._recv, skip_utf8_validation=True)  # noqa: SLF001
        self._frames.cap = max_bytes
        self._socket.frame_buffer = self._frames
        self._parts: list[bytes] = []
        self._size = 0
        self._socket.send(
            json.dumps(
                {
                    "type": "subscribe",
                    "product_ids": [product],
                    "channels": ["ticker", "heartbeat"],
                }
            )
        )
        self._socket.settimeout(RECEIVE_SECONDS)

    def receive(self) -> Message | None:
        """The next message; None when none was complete within a second."""
        while True:
            try:
                opcode, frame = self._socket.recv_data_frame()
            except WebSocketTimeoutException:
                return None
            if opcode == ABNF.OPCODE_CLOSE:
                raise websocket.WebSocketConnectionClosedException(_close_text(frame.data))
            self._take(frame.data)
            if frame.fin:
                message = Message(b"".join(self._parts), self._size)
                self._parts, self._size = [], 0
                return message

    def _take(self, data: bytes) -> None:
        room = max(0, self._max_bytes - sum(map(len, self._parts)))
        self._parts.append(data[:room])
        self._size += len(data) + self._frames.skipped
        self._frames.skipped = 0

    def close(self) -> None:
        self._socket.shutdown()


def _close_text(data: bytes) -> str:
    code = int.from_bytes(data[:2], "big") if len(data) >= 2 else "none"
    return f"closed by the server, code {code} {data[2:].decode(errors='replace')}".rstrip()


@dataclass
class Clocks:
    """Two clocks, for two faults: heartbeats that stop, and trades that stop while it beats.

    Times are monotonic seconds.
    """

    heartbeat_timeout: float
    tick_timeout: float
    heartbeat: float = field(default_factory=time.monotonic)
    tick: float = field(default_factory=time.monotonic)
    #: The newest trade that the exchange spoke of; 0 or None is unknown.
    newest_announced: int | None = None
    newest_received: int | None = None
    ended: bool = False

    def reset(self, now: float) -> None:
        """After a pause of our own, nothing can be said about the exchange."""
        self.heartbeat = self.tick = now

    def on_heartbeat(self, now: float, message: dict[str, Any]) -> None:
        self.heartbeat = now
        self.newest_announced = message.get("last_trade_id") or None
        replay = message.get("replay")
        self.ended = isinstance(replay, dict) and replay.get("state") == "ended"

    def on_tick(self, now: float, trade_id: int | None) -> None:
        self.tick = now
        self.newest_received = trade_id or self.newest_received

    def fault(self, now: float) -> str | None:
        """What is missing too long, in words; None while all is well."""
        silent = now - self.heartbeat
        if silent > self.heartbeat_timeout:
            return f"no heartbeat for {silent:.0f} s"
        silent = now - self.tick
        nothing_new = self.ended or (
            self.newest_announced is not None and self.newest_announced == self.newest_received
        )
        if silent > self.tick_timeout and not nothing_new:
            return f"no trade for {silent:.0f} s while heartbeats come"
        return None
