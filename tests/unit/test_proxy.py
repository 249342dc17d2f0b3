"""The HTTP proxy of the environment: when it is used, and a connection through a real one."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from websockets.sync.server import serve

from pipeline.ingest.exchange_connection import Connection, FeedError
from pipeline.ingest.proxy import is_local, proxy_for

VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


LOCAL = ("localhost", "127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "a.localhost", "replay", "kafka")


@pytest.mark.parametrize("host", LOCAL)
@pytest.mark.parametrize("secure", [True, False])
def test_local_hosts_are_reached_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, host: str, *, secure: bool
) -> None:
    for name in VARIABLES[:2]:
        monkeypatch.setenv(name, "http://proxy.example.com:3128")
    assert is_local(host)
    assert proxy_for(host, secure=secure) is None


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://proxy.example.com:3128", "proxy proxy.example.com:3128 (https_proxy)"),
        ("proxy.example.com:3128", "proxy proxy.example.com:3128 (https_proxy)"),
        ("http://me:secret@10.0.0.1", "proxy 10.0.0.1:80 (https_proxy)"),
    ],
)
def test_other_hosts_are_reached_through_the_proxy_which_is_shown_without_its_password(
    monkeypatch: pytest.MonkeyPatch, address: str, shown: str
) -> None:
    monkeypatch.setenv("https_proxy", address)
    assert str(proxy_for("exchange.example.org", secure=True)) == shown
    assert proxy_for("exchange.example.org", secure=False) is None
    monkeypatch.setenv("no_proxy", "other.org,.example.org")
    assert proxy_for("exchange.example.org", secure=True) is None


@pytest.mark.parametrize(
    "address", ["socks5://h:1080", "http://", "http://h:port", "https://h", "http://h:70000"]
)
def test_a_proxy_that_cannot_be_used_is_an_error_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("https_proxy", address)
    with pytest.raises(FeedError, match="https_proxy is not the address of an HTTP proxy") as error:
        Connection("wss://exchange.example.org", "BTC-USD", 1000)
    assert error.value.lasting


def test_an_error_of_the_proxy_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    reason = (
        rf"^the proxy failed\. Check http_proxy\. Cause: Connection refused \(127.0.0.1:{port}\)"
    )
    with pytest.raises(FeedError, match=reason):
        Connection("ws://exchange.example.org", "BTC-USD", 1000)


class Proxy:
    """An HTTP proxy that connects every client to one server, or refuses it."""

    def __init__(self, target: int, answer: bytes) -> None:
        self.requests: list[bytes] = []
        self._target, self._answer = target, answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://me:secret@127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        self.requests.append(client.recv(4096))
        server = socket.create_connection(("127.0.0.1", self._target))
        client.sendall(self._answer)
        threading.Thread(target=copy, args=(server, client), daemon=True).start()
        copy(client, server)

    def close(self) -> None:
        self._listener.close()


def copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(4096):
            target.sendall(data)
    with suppress(OSError):  # otherwise the server waits 10 s for the end of the connection
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def target() -> Iterator[int]:
    """A WebSocket server that sends one message. Give its port."""
    server = serve(lambda client: client.send(client.recv()), "127.0.0.1", 0, compression=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.socket.getsockname()[1]
    server.shutdown()
    thread.join()


def test_messages_arrive_through_a_proxy(monkeypatch: pytest.MonkeyPatch, target: int) -> None:
    proxy = Proxy(target, b"HTTP/1.1 200 Connection established\r\n\r\n")
    monkeypatch.setenv("http_proxy", proxy.address)
    connection = Connection(f"ws://exchange.example.org:{target}", "BTC-USD", 1000)
    message = connection.receive()
    assert message is not None
    assert b"BTC-USD" in message.data
    connection.close()
    proxy.close()
    (request,) = proxy.requests
    assert request.startswith(b"CONNECT exchange.example.org:%d HTTP/1.1\r\n" % target)
    assert b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n" in request


def test_the_status_of_a_proxy_that_refuses_is_reported(
    monkeypatch: pytest.MonkeyPatch, target: int
) -> None:
    proxy = Proxy(target, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    monkeypatch.setenv("http_proxy", proxy.address)
    with pytest.raises(
        FeedError,
        match=r"Check http_proxy\. Cause: failed CONNECT via proxy status: 407 \(127.*\)\. Cannot "
        r"connect to ws://exchange\.example\.org:\d+ through the proxy 127\.0\.0\.1:\d+ ",
    ):
        Connection(f"ws://exchange.example.org:{target}", "BTC-USD", 1000)
    proxy.close()
