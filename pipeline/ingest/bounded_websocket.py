"""A WebSocket client connection that keeps at most a given number of bytes of each frame.

This module is the only one that uses private parts of websocket-client, and it has two reasons:

- The library has no limit on the size of a frame: it reads a frame of any length into memory.
  All reading of payloads goes through `frame_buffer.recv_strict`, which is replaced here.
- The library makes three system calls for each frame, which cost more than everything else that
  the producer does with a message. All reading of the socket goes through `WebSocket._recv`, which
  reads large pieces here.

tests/unit/test_bounded_websocket.py fails when the installed version is not `CHECKED_VERSION`.
"""

import websocket
from websocket._abnf import frame_buffer

#: The version of websocket-client whose private parts were read.
CHECKED_VERSION = "1.9.2"
_READ_BYTES = 65_536


class _BoundedFrames(frame_buffer):  # type: ignore[misc]
    """Reads frames, keeps the first `limit` bytes of each payload and skips the rest.

    After a timeout it continues where it was interrupted, as its parent class does.
    """

    limit = 0
    skipped = 0
    _kept: bytes | None = None
    _left = 0

    def recv_strict(self, bufsize: int) -> bytes:
        if bufsize <= self.limit:
            return bytes(super().recv_strict(bufsize))
        if self._kept is None:
            self._kept = bytes(super().recv_strict(self.limit))
            self._left = bufsize - self.limit
        while self._left:
            piece = min(self._left, _READ_BYTES)
            super().recv_strict(piece)
            self._left -= piece
            self.skipped += piece
        kept, self._kept = self._kept, None
        return kept


class BoundedWebSocket(websocket.WebSocket):  # type: ignore[misc]
    """A connected WebSocket; use `connect` to make one."""

    _piece = memoryview(b"")

    def _recv(self, bufsize: int) -> bytes:
        if not self._piece:
            self._piece = memoryview(super()._recv(_READ_BYTES))
        data, self._piece = bytes(self._piece[:bufsize]), self._piece[bufsize:]
        return data

    def limit_frames(self, limit: int) -> None:
        """Keep at most this many bytes of each frame from now on."""
        self._frames = _BoundedFrames(self._recv, skip_utf8_validation=True)
        self._frames.limit = limit
        self.frame_buffer = self._frames

    def take_skipped(self) -> int:
        """Return how many bytes were skipped since the last call."""
        skipped, self._frames.skipped = self._frames.skipped, 0
        return skipped


def connect(url: str, timeout: float, frame_limit: int) -> BoundedWebSocket:
    """Open a WebSocket connection.

    Args:
        url: its address, `ws://` or `wss://`.
        timeout: seconds for the handshake and for each read.
        frame_limit: how many bytes of a frame are kept.

    Raises:
        websocket.WebSocketException, OSError: the connection failed.
    """
    socket: BoundedWebSocket = websocket.create_connection(
        url,
        timeout=timeout,
        class_=BoundedWebSocket,
        skip_utf8_validation=True,  # an invalid message is rejected; the connection stays open
        fire_cont_frame=True,
        enable_multithread=False,
    )
    socket.limit_frames(frame_limit)
    return socket
