"""A TCP or TLS connection on which nothing can block for longer than a deadline.

The socket is non-blocking. Every wait is cut into short slices, so that a stop request and the
watchdog of the caller are checked while a server is silent or sends one byte at a time.
"""

import errno
import fcntl
import os
import queue
import select
import socket
import ssl
import sys
import termios
import threading
import time
from collections.abc import Callable
from typing import Any

#: Seconds of waiting between two calls of `go_on`.
SLICE_SECONDS = 0.5
#: Bytes of one read. The feed handles even a read of tiny frames in a fraction of a second.
_READ_BYTES = 16_384
#: Bytes that may wait for a server that does not read. A client sends only short answers.
_MAX_OUTGOING = 65_536
_POLL_IN = select.POLLIN | select.POLLPRI


class Waiter:
    """Waits for a socket until a deadline.

    Args:
        go_on: called every `SLICE_SECONDS`. False ends the wait.
    """

    def __init__(self, go_on: Callable[[], bool]) -> None:
        self._go_on = go_on
        self._seconds = 0.0
        self._until = 0.0
        self._next_call = 0.0

    def allow(self, seconds: float) -> None:
        """Set the deadline to this number of seconds from now."""
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def part(self, count: int) -> "Waiter":
        """Return a waiter with a part of the time that is left."""
        one = Waiter(self._go_on)
        one.allow(max(0.0, self._until - time.monotonic()) / count)
        return one

    def check(self) -> float:
        """Return the seconds to wait before the next check.

        Raises:
            TimeoutError: the deadline has passed, or `go_on` returned False.
        """
        now = time.monotonic()
        if now >= self._until:
            raise TimeoutError(f"no complete answer within {round(self._seconds, 1):g} s")
        if now >= self._next_call:
            self._next_call = now + SLICE_SECONDS
            if not self._go_on():
                raise TimeoutError("asked to stop")
        return min(self._until - now, SLICE_SECONDS)

    def wait(self, one: socket.socket, events: int) -> None:
        """Wait until the socket is ready for the events, or has failed.

        Raises:
            TimeoutError: as `check`.
        """
        poll = select.poll()
        poll.register(one, events)
        while not poll.poll(self.check() * 1000):
            pass


class Transport:
    """A connected socket in the form that websocket-client uses.

    Nothing is lost when a connection fails: everything that was received before is read first.
    A failed `send` therefore raises no error. The error, or the end, follows in `recv`.

    Attributes:
        bytes_read: how many bytes were read from the socket.
        head: the first bytes that were read.
        max_bytes: how many bytes may be read; None is no limit.
    """

    def __init__(self, connected: socket.socket, waiter: Waiter) -> None:
        self._socket = connected
        self._waiter = waiter
        self._received = memoryview(b"")
        self._outgoing = b""
        self._can_send = True
        self.bytes_read = 0
        self.head = b""
        self.max_bytes: int | None = None

    def recv(self, size: int) -> bytes:
        """Return at most `size` bytes; none at the end of the connection.

        Raises:
            TimeoutError: nothing arrived before the deadline.
            OSError: the connection was lost, or more than `max_bytes` arrived.
        """
        if not self._received:
            self._received = memoryview(self._read())
        data, self._received = bytes(self._received[:size]), self._received[size:]
        return data

    def _read(self) -> bytes:
        if self.max_bytes is not None and self.bytes_read >= self.max_bytes:
            raise ConnectionError(f"the answer is longer than {self.max_bytes:,} bytes")
        while True:
            self._waiter.check()
            try:
                piece = self._socket.recv(_READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._waiter.wait(self._socket, _POLL_IN | self._wanted())
            except ssl.SSLWantWriteError:
                self._waiter.wait(self._socket, select.POLLOUT)
            else:
                self.head = self.head or piece[:200]
                self.bytes_read += len(piece)
                return piece
            self._flush()

    def unread(self) -> int:
        """Return how many bytes this machine has received that are not read yet."""
        pending = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        waiting = bytearray(4)
        fcntl.ioctl(self._socket, termios.FIONREAD, waiting)
        return len(self._received) + pending + int.from_bytes(waiting, sys.byteorder)

    def send(self, data: bytes | str) -> int:
        """Send data, at the latest while the next bytes are read. Return its length.

        Raises:
            OSError: the server does not read.
        """
        raw = data.encode() if isinstance(data, str) else data
        if self._can_send:
            self._outgoing += raw
            self._flush()
        if len(self._outgoing) > _MAX_OUTGOING:
            raise OSError("the server does not read")
        return len(data)

    def _flush(self) -> None:
        while self._outgoing:
            try:
                sent = self._socket.send(self._outgoing)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                self._can_send, self._outgoing = False, b""
                return
            self._outgoing = self._outgoing[sent:]

    def _wanted(self) -> int:
        return select.POLLOUT if self._outgoing else 0

    def gettimeout(self) -> float:
        """Return 0: websocket-client must not wait itself."""
        return 0.0

    def start_tls(self, host: str) -> "Transport":
        """Return the transport with TLS, after its handshake. Do not use this one afterwards.

        Raises:
            OSError: the handshake failed, or the certificate is not trusted.
        """
        context = ssl.create_default_context()
        secure = context.wrap_socket(
            self._socket, server_hostname=host, do_handshake_on_connect=False
        )
        self._socket = secure
        while True:
            self._waiter.check()
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                self._waiter.wait(secure, _POLL_IN)
            except ssl.SSLWantWriteError:
                self._waiter.wait(secure, select.POLLOUT)
            else:
                return Transport(secure, self._waiter)

    def close(self) -> None:
        """Close the connection at once."""
        self._socket.close()


def connect(host: str, port: int, waiter: Waiter) -> Transport:
    """Open a TCP connection to the first address of a host that accepts it.

    Raises:
        OSError: the host is unknown, or no address accepts the connection before the deadline.
    """
    addresses = _addresses(host, port, waiter)
    failures: list[OSError] = []
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        try:
            one = _open(family, kind, protocol, address, waiter.part(len(addresses) - number))
        except OSError as error:
            failures.append(error)
        else:
            return Transport(one, waiter)
    # On a kernel without IPv6, each IPv6 address fails. Then report the error of another address.
    usable = [failure for failure in failures if failure.errno != errno.EAFNOSUPPORT]
    raise (usable or failures or [OSError(f"{host} has no address")])[0]


def _open(family: int, kind: int, protocol: int, address: Any, waiter: Waiter) -> socket.socket:
    """Return a socket that is connected to an address."""
    one = socket.socket(family, kind, protocol)
    try:
        one.setblocking(False)
        try:
            one.connect(address)
        except BlockingIOError:
            waiter.wait(one, select.POLLOUT)
            if number := one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number)) from None
    except BaseException:
        one.close()
        raise
    return one


def _addresses(host: str, port: int, waiter: Waiter) -> list[Any]:
    """Return the addresses of a host.

    The look-up runs in a thread, because a call of the resolver cannot be interrupted and has no
    deadline. A thread whose result came too late ends with the resolver's own timeout.
    """
    answers: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    while True:
        try:
            answer = answers.get(timeout=waiter.check())
        except queue.Empty:
            continue
        except TimeoutError as error:
            raise TimeoutError(f"cannot resolve the host name {host}: {error}") from None
        if isinstance(answer, UnicodeError):
            raise OSError(f"{host!r} is not a host name") from answer
        if isinstance(answer, Exception):
            raise answer
        return answer
