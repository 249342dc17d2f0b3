"""End an HTTP request of the standard library that takes too long.

`http.client` gives no public access to its socket before the answer. So this module, and no
other, uses a private name: `HTTPConnection._create_connection`, which opens the socket. It is the
same in Python 3.11, 3.12 and 3.13. `tests/unit/test_request_deadline.py` fails if Python changes
it.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any, Self


class RequestDeadline:
    """Ends all connections of one HTTP request after a number of seconds.

    The timeout of a socket is for a single read. A server that sends one byte from time to time
    would never exceed it.
    """

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def opener(self, *, through_proxy: bool) -> urllib.request.OpenerDirector:
        """Return an opener whose connections this deadline ends."""
        watch = self._watch

        class Context(ssl.SSLContext):
            def wrap_socket(self, sock: socket.socket, *_: Any, **options: Any) -> ssl.SSLSocket:
                options["do_handshake_on_connect"] = False
                wrapped = super().wrap_socket(sock, **options)
                watch(wrapped)
                wrapped.do_handshake()
                return wrapped

        context = Context(ssl.PROTOCOL_TLS_CLIENT)  # it verifies certificate and host name
        context.load_default_certs()

        def connection(kind: Callable[..., Any], host: str, **options: Any) -> Any:
            one = kind(host, **options)
            one._create_connection = self._connect  # noqa: SLF001
            return one

        class Http(urllib.request.HTTPHandler):
            def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(partial(connection, http.client.HTTPConnection), request)

        class Https(urllib.request.HTTPSHandler):
            def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
                kind = partial(connection, http.client.HTTPSConnection, context=context)
                return self.do_open(kind, request)

        return urllib.request.build_opener(
            urllib.request.ProxyHandler(None if through_proxy else {}), Http, Https
        )

    def _connect(self, *arguments: Any) -> socket.socket:
        opened = socket.create_connection(*arguments)
        self._watch(opened)
        return opened

    def _watch(self, opened: socket.socket) -> None:
        self._sockets.append(opened)
        if self.expired:  # the look-up of the host, or the proxy, took too long
            opened.close()
            raise TimeoutError

    def _expire(self) -> None:
        self.expired = True
        for opened in self._sockets:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
