"""The exchange's TLS certificate is verified."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from websockets.sync.server import ServerConnection, serve

from pipeline.ingest.exchange_connection import Connection, FeedError
from pipeline.ingest.rest import RestError, fetch_trades

LIMIT = 1000


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def send_messages(client: ServerConnection) -> None:
    client.recv()
    for _ in range(20):
        client.send("x" * 100_000)


@contextmanager
def exchange(authority: trustme.CA, name: str) -> Iterator[str]:
    """Serve messages of 100 KB over TLS with a certificate. Give the address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    server = serve(send_messages, "localhost", 0, ssl=context, compression=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"wss://localhost:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
        thread.join()


def trust(authority: trustme.CA, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


def test_messages_arrive_over_tls_with_a_trusted_certificate(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trust(authority, tmp_path / "ca.pem", monkeypatch)
    with exchange(authority, "localhost") as url:
        connection = Connection(url, "BTC-USD", LIMIT)
        messages = [connection.receive() for _ in range(20)]
        assert [message and message.size for message in messages] == [100_000] * 20
        connection.close()


def connect(url: str) -> None:
    Connection(url, "BTC-USD", LIMIT)


def request(url: str) -> None:
    fetch_trades(url.replace("wss://", "https://"), "BTC-USD", 8)


UNTRUSTED = r"invalid TLS certificate. Set SSL_CERT_FILE to trust it \(.*issuer certificate\)"
OTHER_HOST = r"invalid TLS certificate. Check {} \(Hostname mismatch, .*localhost.*\)"


@pytest.mark.parametrize(
    ("ask", "name", "trusted", "error", "reason"),
    [
        (connect, "localhost", False, FeedError, UNTRUSTED),
        (connect, "example.org", True, FeedError, OTHER_HOST.format("FEED_URL")),
        (request, "localhost", False, RestError, UNTRUSTED),
        (request, "example.org", True, RestError, OTHER_HOST.format("FEED_REST_URL")),
        # It serves only WebSocket, so this status comes after a valid certificate.
        (request, "localhost", True, RestError, "HTTP status 426"),
    ],
)
def test_a_certificate_that_is_not_valid_is_refused_and_retried_slowly(
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    ask: Callable[[str], None],
    name: str,
    trusted: bool,
    error: type[FeedError | RestError],
    reason: str,
) -> None:
    if trusted:
        trust(authority, tmp_path / "ca.pem", monkeypatch)
    with exchange(authority, name) as url, pytest.raises(error, match=reason) as refused:
        ask(url)
    assert isinstance(refused.value, FeedError | RestError)
    assert refused.value.lasting


@pytest.mark.parametrize(
    ("answer", "reason", "lasting"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server does not use TLS", True),
        (b"", r"the TLS handshake failed\. .*\(unexpected eof while reading\)", False),
    ],
)
def test_a_server_without_tls_is_named_as_such(
    answer: bytes, reason: str, *, lasting: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_one() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                client.sendall(answer)

        thread = threading.Thread(target=serve_one)
        thread.start()
        with pytest.raises(FeedError, match=reason) as error:
            Connection(f"wss://127.0.0.1:{listener.getsockname()[1]}", "BTC-USD", LIMIT)
        assert "Check wss:// in FEED_URL" in str(error.value)
        assert error.value.lasting == lasting
        thread.join()
