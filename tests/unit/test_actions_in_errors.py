"""The first 100 characters of an error, with every prefix, contain the action.

A temporary error needs no action. Its text then contains that the service tries again.
"""

import errno
import logging
import os
import socket
import sqlite3
import urllib.error
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import tenacity
from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaTimeoutError
from websocket import WebSocketBadStatusException

from page.status import ServiceStatus, feed_state
from pipeline import http_health
from pipeline.compare import output_files
from pipeline.errors import OutputError, TemporaryError, sentence
from pipeline.health import unhealthy_text
from pipeline.ingest import bounded_websocket, kafka, kafka_connection, rest
from pipeline.ingest.exchange_connection import Connection, Feed, FeedError, FeedWatchdog, messages
from pipeline.ingest.publisher import Publisher
from pipeline.ingest.request_deadline import RequestDeadline
from pipeline.ingest.trade import AFTER_RECEIPT
from pipeline.ingest.unusable import description
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stores import sqlite
from pipeline.stores.interface import StoreError
from pipeline.stores.postgresql import PostgresqlStore
from pipeline.stream.failures import explain_text
from pipeline.stream.progress import Silence, stalled
from pipeline.text_files import cannot_read
from tests.unit.test_page_status import NOW, services

FEED = "wss://ws-feed.exchange.coinbase.com"
REST = "https://api.exchange.coinbase.com"


def start(text: str) -> str:
    return text[:100]


# --- the feed ---------------------------------------------------------------------------------


def not_found() -> WebSocketBadStatusException:
    return WebSocketBadStatusException("Handshake status 404 Not Found -+-+- {'a': 'b'}", 404)


def unavailable() -> WebSocketBadStatusException:
    return WebSocketBadStatusException("Handshake status 503 Service Unavailable -+-+- {}", 503)


def on_the_page(tmp_path: Path, fault: FeedError) -> str:
    """Return the reason in the header of the page after the producer reported a fault."""
    service = Service("producer", Settings(data_dir=tmp_path, feed_url=FEED))
    service.stop.set()  # it does not wait for the next attempt
    reported: dict[str, Any] = {}

    def report(state: str, message: str, *, healthy: bool) -> None:
        reported.update(state=state, message=message, healthy=healthy)

    service.report = report  # type: ignore[method-assign]
    Feed(service, handler=None)._pause(fault, 3.0)  # type: ignore[arg-type]
    assert service._last_error is not None
    assert service._last_error["text"] == reported["message"]  # the ERROR line
    return feed_state(services({"producer": {**reported, "connected": False}}), {}, NOW).reason


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Check FEED_URL and the"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "Check FEED_URL and the network"),
        (ConnectionRefusedError(111, "Connection refused"), "Check FEED_URL, and that its server"),
        (TimeoutError("no complete answer within 10 s"), "Check FEED_URL and the network"),
        (not_found(), "Check FEED_URL"),
        (unavailable(), "The producer tries again in 3.0 s"),
        (ConnectionResetError(104, "Connection reset by peer"), "Check FEED_URL and the network"),
    ],
)
def test_a_connection_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, action: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(bounded_websocket, "connect", fail)
    with pytest.raises(FeedError) as raised:
        Connection(FEED, "BTC-USD", 1000)
    assert action in start(str(raised.value)) or "tries again" in action
    assert action in start(on_the_page(tmp_path, raised.value))
    assert str(raised.value).endswith(f". Cannot connect to {FEED}")


def test_a_refused_subscription(tmp_path: Path) -> None:
    watchdog = FeedWatchdog(15, 90)
    watchdog.on_error(
        {"message": "Failed to subscribe", "reason": "BTC-XYZ is not a valid product"}
    )
    assert "Check PRODUCT_ID" in start(str(watchdog.refusal()))
    fault = watchdog.cause(FeedError("the server closed the connection", f"Feed: {FEED}"))
    shown = on_the_page(tmp_path, fault)
    assert "Check PRODUCT_ID" in start(shown)
    assert shown.endswith("BTC-XYZ is not a valid product")


@pytest.mark.parametrize(
    ("timeouts", "rejected", "fault"),
    [
        ((-1, 90), None, "no heartbeat for 0 s"),
        ((15, -1), None, "no trade for 0 s, although heartbeats arrive"),
        ((15, -1), "time: 2026-01-01T12:34:56.789012+00:00 is after its receipt", "no valid trade"),
    ],
)
def test_a_fault_of_the_feed_is_retried(
    tmp_path: Path, timeouts: tuple[float, float], rejected: str | None, fault: str
) -> None:
    connection: Any = SimpleNamespace(
        receive=lambda: None,
        incomplete=lambda: None,
        unread=lambda: 0,
        bytes_read=lambda: 0,
        url=FEED,
    )
    watchdog = FeedWatchdog(*timeouts, rejected=rejected)
    with pytest.raises(FeedError) as raised:
        list(messages(connection, watchdog, logging.getLogger("test")))
    assert str(raised.value).startswith(fault)
    shown = on_the_page(tmp_path, raised.value)
    assert "The producer tries again in" in start(shown)
    assert shown.endswith(f". Feed: {FEED}")


def test_a_new_connection_after_a_failure_keeps_the_action(tmp_path: Path) -> None:
    service = Service("producer", Settings(data_dir=tmp_path, feed_url=FEED))
    sender: Any = SimpleNamespace(topic_id=lambda: None, has_room=lambda: True)
    publisher = Publisher(service, sender)
    refused = "Connection refused. Check FEED_URL, and that its server runs"
    fault = FeedError(refused, f"Cannot connect to {FEED}")
    publisher.on_connect(FeedWatchdog(15, 90, previous_fault=fault))
    publisher._report_connecting()
    again = f"Connected again, waiting for the first answer from {FEED}"
    details = f"Details of the failure: Cannot connect to {FEED}"
    assert service._message == f"{refused}. {again}. {details}"


# --- past trades ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy", "error", "action"),
    [
        (True, OSError("Tunnel connection failed: 407 Proxy Authentication Required"), "https_p"),
        (True, ConnectionRefusedError(111, "Connection refused"), "https_proxy"),
        (True, TimeoutError("timed out"), "FEED_REST_URL and the network"),
        (False, ConnectionRefusedError(111, "Connection refused"), "FEED_REST_URL, and that its"),
        (False, socket.gaierror(socket.EAI_NONAME, "Name or service"), "FEED_REST_URL and the net"),
    ],
)
def test_past_trades(
    monkeypatch: pytest.MonkeyPatch, *, proxy: bool, error: Exception, action: str
) -> None:
    class Opener:
        def open(self, *_: Any, **__: Any) -> None:
            raise urllib.error.URLError(error)

    monkeypatch.setattr(RequestDeadline, "opener", lambda *_, **__: Opener())
    if proxy:
        monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    with pytest.raises(rest.RestError) as raised:
        rest.fetch_trades(REST, "BTC-USD", 8)
    assert f"Check {action}" in start(str(raised.value))
    assert f"Address: {REST}" in str(raised.value)


# --- the database -----------------------------------------------------------------------------


def waiting(tmp_path: Path, waiting_for: str, error: Exception) -> str:
    """Return what the page shows for a service that waits for another one, the longest text."""
    service = Service("consumer", Settings(data_dir=tmp_path))
    caller = service.retrying(waiting_for)
    assert caller.before_sleep is not None
    attempt = tenacity.RetryCallState(caller, None, (), {})
    attempt.set_exception((type(error), error, None))
    attempt.start_time -= 61
    caller.before_sleep(attempt)
    assert service._last_error is not None
    assert service._last_error["text"] == f"waiting for {waiting_for}: {error}"  # the ERROR line
    return unhealthy_text("consumer", service._state, service._message)


NO_SERVER = (
    'connection failed: connection to server at "10.0.0.7", port 5432 failed: Connection refused\n'
    "\tIs the server running on that host and accepting TCP/IP connections?"
)


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (psycopg.OperationalError(NO_SERVER), "Check that its server runs"),
        (psycopg.errors.ConnectionTimeout("connection timeout expired"), "Check that its server"),
        (psycopg.errors.AdminShutdown("terminating connection"), "Check that its server runs"),
        (psycopg.errors.SerializationFailure("could not serialize"), "If this lasts, read its log"),
        (psycopg.errors.DiskFull("could not extend file"), "Free space on it"),
        (psycopg.errors.TooManyConnections("sorry"), "Close some"),
        (psycopg.errors.InsufficientPrivilege("permission denied"), "Make the user in STORE_URL"),
        (psycopg.errors.DuplicateTable("relation exists"), "Set STORE_URL to an empty database"),
        (
            psycopg.OperationalError('root certificate file "/etc/ca.pem" does not exist'),
            "Correct sslrootcert",
        ),
    ],
)
def test_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, action: str
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(psycopg, "connect", fail)
    url = "postgresql://pipeline@db.example.com:5432/prices"
    chosen = PostgresqlStore(Settings(data_dir=tmp_path, store_url=url))
    with pytest.raises((TemporaryError, StoreError)) as raised:
        chosen.open_writer()
    text = str(raised.value)
    if isinstance(raised.value, TemporaryError):
        text = waiting(tmp_path, "the database", raised.value)
    assert action in start(text)
    assert text.endswith(" (PostgreSQL at db.example.com:5432/prices)")
    assert "Cause: " in text


def sqlite_error(code: int, text: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (sqlite_error(sqlite3.SQLITE_BUSY, "database is locked"), "stop the program that locks it"),
        (sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full"), "free space on its disk"),
        (sqlite_error(sqlite3.SQLITE_CANTOPEN, "unable to open"), "give this user write access to"),
        (sqlite_error(sqlite3.SQLITE_IOERR, "disk I/O error"), "check its disk"),
    ],
)
def test_a_write_to_sqlite(tmp_path: Path, error: sqlite3.OperationalError, action: str) -> None:
    found = sqlite._unwritable(tmp_path / "crypto_prices.db", error)
    assert action in start(waiting(tmp_path, "the database", found))
    assert action in start(str(found))


# --- Kafka ------------------------------------------------------------------------------------


def test_a_group_coordinator_that_does_not_answer(tmp_path: Path) -> None:
    def committed(*_: Any, **__: Any) -> None:
        raise KafkaTimeoutError

    client: Any = SimpleNamespace(committed=committed)
    with pytest.raises(TemporaryError) as raised:
        kafka.committed(client, kafka.partition("raw_prices"))
    action = "set offsets.topic.replication.factor=1"
    assert action in start(waiting(tmp_path, "Kafka", raised.value))


SERVERS = "kafka-1.example.com:9092,kafka-2.example.com:9092,kafka-3.example.com:9092"


def test_kafka_with_three_brokers_does_not_answer(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, kafka_bootstrap_servers=SERVERS)
    secure = settings.model_copy(update={"kafka_credentials_file": tmp_path / "credentials"})
    action = "no answer from Kafka. Check that its brokers run"
    for chosen in (settings, secure):
        text = kafka.no_answer(ClusterMetadata(), chosen)
        assert action in start(waiting(tmp_path, "Kafka", TemporaryError(text)))
        assert text.endswith(f" ({SERVERS})")


@pytest.mark.parametrize(
    ("java", "action"),
    [
        ("TimeoutException: Timeout of 20000ms expired", "Check that its brokers run"),
        ("SaslAuthenticationException: Authentication failed", "Check its credentials and rights"),
    ],
)
def test_kafka_with_three_brokers_fails_the_stream(java: str, action: str) -> None:
    settings = Settings(kafka_bootstrap_servers=SERVERS)
    text = f"Caused by: org.apache.kafka.common.errors.{java}\n\tat a.b.C.d(E.java:7)"
    assert action in start(str(explain_text(text, settings)))


def test_the_command_for_a_missing_topic_is_in_backticks() -> None:
    """A full stop after it is then not copied with it."""
    settings = Settings(kafka_bootstrap_servers=SERVERS)
    unknown = "Caused by: org.apache.kafka.common.errors.UnknownTopicOrPartitionException: This"
    texts = (
        kafka.no_answer(ClusterMetadata(), settings, "raw_prices"),
        str(kafka._no_topic("raw_prices")),
        str(explain_text(unknown, settings)),
    )
    for text in texts:
        assert "Create it with `python -m local.topics`" in start(text)


@pytest.mark.parametrize(
    ("cause", "action"),
    [
        (
            "[Error 58] SaslAuthenticationFailedError: wrong",
            "Check the login in KAFKA_CREDENTIALS_FILE",
        ),
        ("socket disconnected", "Check the login in KAFKA_CREDENTIALS_FILE"),
        ("SASL Authentication timed out", "Check the login in KAFKA_CREDENTIALS_FILE"),
        ("[Error 33] UnsupportedSaslMechanismError", "Set KAFKA_SASL_MECHANISM to one that the"),
        ("certificate verify failed: self-signed certificate", "Check KAFKA_CA_FILE"),
        ("Connection refused", "Check KAFKA_BOOTSTRAP_SERVERS, and that the "),
    ],
)
def test_a_connection_to_kafka_with_a_login(tmp_path: Path, cause: str, action: str) -> None:
    def fail(**_: Any) -> None:
        log = logging.getLogger("kafka.net.manager")
        log.error("Bootstrap attempt to bootstrap-0 failed: %s (backoff 0.05 secs)", cause)
        raise KafkaTimeoutError

    options = {"sasl_mechanism": "PLAIN", "bootstrap_servers": SERVERS.split(",")}
    with pytest.raises(TemporaryError) as raised:
        kafka_connection.connected(fail, **options)
    assert action in start(waiting(tmp_path, "Kafka", raised.value))


# --- an unusable feed -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reasons", "action"),
    [
        (
            ["product_id: 'BTC-USD' is not ETH-USD", "product_id: 'SOL-USD' is not ETH-USD"],
            "PRODUCT_ID is ETH-USD",
        ),
        (
            [f"time: 2026-01-01T12:34:56.789012+00:00 {AFTER_RECEIPT}"],
            "Check the clock of this machine and FEED_URL",
        ),
        (["price: missing"], "Check FEED_URL"),
    ],
)
def test_an_unusable_feed(reasons: list[str], action: str) -> None:
    assert action in start(description(reasons, reasons[-1], 1234))


# --- the machine ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "No space left on device: free space on the disk of DATA_DIR"),
        (errno.EDQUOT, "Disk quota exceeded: free space on the disk of DATA_DIR"),
        (errno.EIO, "Input/output error: check the disk of DATA_DIR"),
        (errno.EMFILE, "Too many open files: increase the limit of open files (ulimit -n)"),
        (errno.ENOMEM, "Cannot allocate memory: free memory on this machine"),
    ],
)
def test_an_error_of_the_operating_system_without_a_file(number: int, text: str) -> None:
    error = OSError(number, os.strerror(number))
    assert sentence(error) == text
    assert sentence(OSError(number, os.strerror(number), "/x")) == text.replace("DATA_DIR", "/x")


# --- the page and the health check ------------------------------------------------------------

SUSPENDED = {
    "java": (Silence(125, 125, 0), "Free CPU or memory"),
    "kafka": (Silence(125, 0, 125), "Check that it runs"),
    "slow": (Silence(1000, 0, 0), "Free CPU"),
}


@pytest.mark.parametrize("name", SUSPENDED)
def test_a_stalled_stream(name: str) -> None:
    silence, action = SUSPENDED[name]
    text = stalled(silence, 1.0, 200_000, is_first=False)
    assert text is not None
    changes = {"spark_processor": {"healthy": False, "state": "stalled", "message": text}}
    assert action in start(feed_state(services(changes), {}, NOW).reason)


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({"updated": "2026-03-01T11:58:25Z"}, "Check that it runs, and read its log"),
        ({"state": "stopped", "updated": "2026-03-01T11:55:00Z"}, "Start it again"),
        ({"updated": None}, "Check that the service runs"),
    ],
)
def test_a_service_that_does_not_run(changes: dict[str, Any], action: str) -> None:
    for name in ("producer", "spark_processor"):
        assert action in start(feed_state(services({name: changes}), {}, NOW).reason)


def test_a_status_file_that_cannot_be_read() -> None:
    path = Path("/home/anna/stream-vs-batch/data/status/spark_processor.json")
    denied = PermissionError(errno.EACCES, "Permission denied", str(path))
    found = services()
    broken = ServiceStatus("spark_processor", {}, str(cannot_read(path, denied)))
    reason = feed_state({**found, "spark_processor": broken}, {}, NOW).reason
    assert "Permission denied: give this user access to /home/anna" in start(reason)


def test_a_record_of_a_service_that_lacks_columns(tmp_path: Path) -> None:
    path = tmp_path / "stream_progress.csv"
    path.write_text("micro_batch,lag\n7,0\n")
    columns = ("micro_batch", "duration_ms", "first_receipt", "last_receipt")
    with pytest.raises(OutputError) as raised:
        output_files._read_record(path, columns, times=("published_at",))
    assert start(f"No newer comparison: {raised.value}").startswith(
        "No newer comparison: stream_progress.csv lacks columns. Move it away. "
    )
    assert str(raised.value).endswith(
        "(missing: duration_ms, first_receipt, last_receipt, published_at)"
    )


def test_a_server_in_a_container_that_does_not_answer() -> None:
    text = http_health.problem(1, "/_stcore/script-health-check", seconds=1)
    assert "Read the log of this container" in start(str(text))


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "action"),
    [
        (
            "STORE_URL",
            "postgresql://pipeline@db.example.com:5432/prices?sslmode=prefer",
            "must have sslmode=disable, require",
        ),
        ("DATA_DIR", "/proc/stream-vs-batch/data", "must be writable for this user"),
        (
            "KAFKA_BOOTSTRAP_SERVERS",
            "kafka-1.example.com,kafka-2.example.com,kafka-3.example.com",
            "must be host:port with a port",
        ),
        (
            "PRODUCT_ID",
            "Bitcoin in United States dollars",
            "must be two names in capitals and a",
        ),
        ("KAFKA_MIN_INSYNC_REPLICAS", "as many as there are", "must be a whole number from 1"),
        ("FEED_URL", "ws-feed.exchange.coinbase.com", "must begin with ws:// or wss://"),
    ],
)
def test_a_setting(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    action: str,
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        Service.start("producer")
    assert action in start(capsys.readouterr().err)
