"""A WebSocket client connection with a bounded size of each frame and a deadline for each wait.

This module is the only one that uses private parts of websocket-client, for three reasons:

- The library has no limit on the size of a frame: it reads a frame of any length into memory.
  All reading of payloads goes through `frame_buffer.recv_strict`, which is replaced here.
- The timeout of the library starts again at each byte, so a slow server can block it without end.
  It gets a `Transport` instead of a socket.
- It has no public function that opens a tunnel through a proxy.

tests/unit/test_bounded_websocket.py fails when the installed version is not `CHECKED_VERSION`.
"""

import re
from urllib.parse import urlsplit

import websocket
from websocket import (
    WebSocketBadStatusException,
    WebSocketConnectionClosedException,
    WebSocketException,
)
from websocket._abnf import frame_buffer
from websocket._http import _tunnel

from pipeline.errors import sentence
from pipeline.ingest import transport
from pipeline.ingest.proxy import Proxy, proxy_for, through
from pipeline.ingest.transport import Transport, Waiter

#: The version of websocket-client whose private parts were read.
CHECKED_VERSION = "1.9.2"
#: Maximum size of the server's answer to the handshake, including an error page, in bytes.
_MAX_ANSWER = 65_536
_PIECE_BYTES = 65_536
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])( [^\r\n]*)?")


class _BoundedFrames(frame_buffer):  # type: ignore[misc]
    """Reads frames, keeps the first `limit` bytes of each payload and skips the rest.

    After a timeout it continues where it was interrupted, as its parent class does.
    """

    limit = 0
    skipped = 0
    #: How many frames were read.
    frames = 0
    _kept: bytes | None = None
    _left = 0

    def recv_strict(self, bufsize: int) -> bytes:
        if bufsize <= self.limit:
            return bytes(super().recv_strict(bufsize))
        if self._kept is None:
            self._kept = bytes(super().recv_strict(self.limit))
            self._left = bufsize - self.limit
        while self._left:
            piece = min(self._left, _PIECE_BYTES)
            super().recv_strict(piece)
            self._left -= piece
            self.skipped += piece
        kept, self._kept = self._kept, None
        return kept

    def clear(self) -> None:
        super().clear()
        self.frames += 1


class BoundedWebSocket(websocket.WebSocket):  # type: ignore[misc]
    """A connected WebSocket; use `connect` to make one."""

    def __init__(self, own: Transport, frame_limit: int) -> None:
        super().__init__(
            skip_utf8_validation=True,  # an invalid message is rejected; the connection stays open
            fire_cont_frame=True,
            enable_multithread=False,
        )
        self.transport = own
        self._frames = _BoundedFrames(self._recv, skip_utf8_validation=True)
        self._frames.limit = frame_limit
        self.frame_buffer = self._frames

    def _recv(self, bufsize: int) -> bytes:
        data = self.transport.recv(bufsize)
        if not data:
            raise WebSocketConnectionClosedException("Connection to remote host was lost.")
        return data

    def take_skipped(self) -> int:
        """Return how many bytes were skipped since the last call."""
        skipped, self._frames.skipped = self._frames.skipped, 0
        return skipped

    def incomplete(self) -> int | None:
        """Return a number for the incomplete message or frame; None if the newest one is complete.

        A ping may arrive between the parts of a message. It does not complete the message.
        """
        if self.cont_frame.recving_frames:
            return 0
        partial = self._frames.header is not None or self._frames.recv_buffer
        return self._frames.frames if partial else None


def connect(url: str, waiter: Waiter, frame_limit: int) -> BoundedWebSocket:
    """Open a WebSocket connection before the deadline of the waiter.

    Args:
        url: its address, `ws://` or `wss://`.
        waiter: the deadline of the whole handshake, from the look-up of the host on. It is also
            the waiter of the connection.
        frame_limit: how many bytes of a frame are kept.

    Raises:
        WebSocketException, OSError, ValueError: the connection failed.
    """
    parts = urlsplit(url)
    secure, host = parts.scheme == "wss", parts.hostname
    if parts.scheme not in ("ws", "wss") or not host:
        raise ValueError("not an address such as ws://127.0.0.1:8765")
    port = parts.port or (443 if secure else 80)
    proxy = proxy_for(host, secure=secure)
    if proxy is None:
        own = transport.connect(host, port, waiter)
    else:
        own = _through(proxy, host, port, waiter)
    try:
        if secure:
            own = own.start_tls(host)
        own.max_bytes = _MAX_ANSWER
        one = BoundedWebSocket(own, frame_limit)
        _shake_hands(one, url)
        own.max_bytes = None
    except BaseException:
        own.close()
        raise
    return one


def way_to(url: str) -> str:
    """Return ` through the proxy …` if a connection to the address goes through one; else ""."""
    parts = urlsplit(url)
    try:
        proxy = proxy_for(parts.hostname or "", secure=parts.scheme == "wss")
    except ValueError:
        proxy = None
    return through(proxy)


def _through(proxy: Proxy, host: str, port: int, waiter: Waiter) -> Transport:
    """Return a connection to the host through a proxy.

    Raises:
        OSError: the proxy cannot be reached, or does not connect to the host.
    """
    try:
        own = transport.connect(proxy.host, proxy.port, waiter)
        try:
            own.max_bytes = _MAX_ANSWER
            _tunnel(own, f"[{host}]" if ":" in host else host, port, proxy.login)
        except BaseException:
            own.close()
            raise
    except (WebSocketException, OSError, ValueError) as error:
        raise OSError(proxy.failure(sentence(error))) from error
    own.bytes_read, own.head = 0, b""
    return own


def _shake_hands(one: BoundedWebSocket, url: str) -> None:
    """Make the handshake.

    Raises:
        WebSocketBadStatusException: the server answered with another status than 101, even if its
            answer was not complete.
        WebSocketException, OSError: the handshake failed otherwise.
    """
    try:
        one.connect(url, socket=one.transport, redirect_limit=0)
    except Exception as error:
        head = one.transport.head
        if not _begins_as_http(head):
            raise WebSocketException("the answer is not HTTP") from error
        if isinstance(error, WebSocketBadStatusException):
            raise
        status = _STATUS_LINE.match(head)
        if status is not None and status[1] != b"101":
            text = (status[1] + (status[2] or b"")).decode(errors="replace")
            raise WebSocketBadStatusException(f"Handshake status {text}", int(status[1])) from error
        if isinstance(error.__context__, TimeoutError):  # the library hides its text
            raise error.__context__ from None
        closed = isinstance(error, WebSocketConnectionClosedException | ConnectionError)
        if closed and not head:
            text = "the server closed the connection without an answer"
            raise WebSocketConnectionClosedException(text) from error
        if isinstance(error, OSError):
            raise
        raise WebSocketException(f"the answer is not valid: {error}") from error


def _begins_as_http(head: bytes) -> bool:
    """Return whether the first bytes of an answer can be those of HTTP. There may be none yet."""
    return head[:5] == b"HTTP/"[: len(head)]
