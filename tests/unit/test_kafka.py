"""The Kafka clients when no broker answers, or the topic does not exist."""

import gc
import importlib.metadata
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from kafka import KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaError, KafkaTimeoutError

from local import topics
from local.ports import free_port
from pipeline.errors import TemporaryError
from pipeline.ingest import kafka, kafka_connection
from pipeline.service import Service
from pipeline.settings import Settings

#: Rounds over all paths. Each attempt would leave a thread and four files: see `connected`.
ROUNDS = 6
CONNECT_MS = 20


@contextmanager
def refusing() -> Iterator[int]:
    yield free_port()


@contextmanager
def silent() -> Iterator[int]:
    """A broker that is suspended: the kernel accepts connections, nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def read_newest(settings: Settings) -> None:
    list(kafka.newest_records(settings, 5))


def create_topics(settings: Settings) -> None:
    topics.create(settings.kafka_bootstrap_servers, "a-topic", wait_seconds=0)


def connect_producer(settings: Settings) -> None:
    servers = [settings.kafka_bootstrap_servers]
    kafka_connection.connected(
        KafkaProducer, bootstrap_servers=servers, bootstrap_timeout_ms=CONNECT_MS
    )


#: What each service, and the creation of the topics, does at its start.
PATHS: tuple[Callable[[Settings], object], ...] = (
    kafka.check_topic,
    kafka.TopicIdentity,
    partial(kafka.consumer, group_id="a-group"),
    read_newest,
    connect_producer,
    create_topics,
)


@pytest.mark.parametrize("broker", [refusing, silent])
def test_failed_attempts_to_connect_leave_no_thread_and_no_file_open(
    broker: Callable[[], AbstractContextManager[int]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("CRITICAL", "kafka")  # a kept log record would keep its connection
    gc.collect()
    gc.freeze()  # each failed attempt collects garbage: leave out objects of other tests
    for module in (kafka, topics):
        monkeypatch.setattr(module, "CONNECT_MS", CONNECT_MS)
    process = psutil.Process()
    with broker() as port:
        settings = Settings(kafka_bootstrap_servers=f"127.0.0.1:{port}")
        threads, files = set(threading.enumerate()), process.num_fds()
        for _ in range(ROUNDS):
            for path in PATHS:
                with pytest.raises((KafkaError, TemporaryError)):
                    path(settings)
        assert not set(threading.enumerate()) - threads
        assert process.num_fds() <= files + 4  # of the newest attempt, whose error is still known


def test_two_threads_that_connect_leave_the_logger_of_kafka_python_unchanged() -> None:
    """The attempt that began first ends first. The producer connects in two threads."""
    logger = logging.getLogger("kafka.net.manager")
    before = logger.level, logger.propagate, list(logger.handlers)
    began, may_end = (threading.Event(), threading.Event()), (threading.Event(), threading.Event())

    def attempt(number: int) -> None:
        def wait_and_fail(**_: object) -> None:
            began[number].set()
            may_end[number].wait(10)
            raise KafkaTimeoutError

        with suppress(TemporaryError):
            kafka_connection.connected(wait_and_fail, bootstrap_servers=["127.0.0.1:1"])

    attempts = [threading.Thread(target=attempt, args=(number,)) for number in range(2)]
    for number, thread in enumerate(attempts):
        thread.start()
        assert began[number].wait(10)
    for number, thread in enumerate(attempts):
        may_end[number].set()
        thread.join(10)
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_a_refused_connection_is_named_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "CONNECT_MS", 200)
    with refusing() as port:
        settings = Settings(kafka_bootstrap_servers=f"127.0.0.1:{port}")
        with pytest.raises(TemporaryError) as error:
            kafka.consumer(settings)
    assert str(error.value) == (
        "no connection to Kafka. Check KAFKA_BOOTSTRAP_SERVERS, and that the broker runs. Cause: "
        f"Connection refused (127.0.0.1:{port})"
    )


def test_a_closed_connection_is_the_cause_also_if_the_last_attempt_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker closes the connection after a wrong password, so the advice names the password."""
    monkeypatch.setattr(kafka, "CONNECT_MS", 400)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close_the_first_connection() -> None:
            with server.accept()[0] as client:
                client.recv(4096)

        threading.Thread(target=close_the_first_connection, daemon=True).start()
        settings = Settings(kafka_bootstrap_servers=f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(TemporaryError, match="socket disconnected"):
            kafka.consumer(settings)


def test_a_wrong_option_of_a_client_keeps_its_own_error() -> None:
    with pytest.raises(ValueError, match="no_such_option"):
        kafka_connection.connected(KafkaProducer, no_such_option=1)


def test_the_login_is_a_possible_cause_if_a_kafka_with_a_login_does_not_answer() -> None:
    """A client reports a login that Kafka no longer accepts as a timeout."""
    plain = Settings(kafka_bootstrap_servers="kafka:9092")
    secure = plain.model_copy(update={"kafka_credentials_file": Path("credentials")})
    cause = "no answer from Kafka. Check that its brokers run"
    assert kafka.no_answer(ClusterMetadata(), plain) == f"{cause} (kafka:9092)"
    assert kafka.no_answer(ClusterMetadata(), secure) == (
        f"{cause}. Restart this service if the login in KAFKA_CREDENTIALS_FILE has changed "
        "(kafka:9092)"
    )


def test_a_record_has_the_product_as_key_and_is_retried_until_all_in_sync_replicas_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is so in both topics. The client is idempotent: a retry stores no second record."""
    options: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    client = SimpleNamespace(
        partitions_for=lambda _: {0},
        send=lambda topic, **record: records.append(record | {"topic": topic}),
    )

    def connect(_: object, **given: Any) -> tuple[SimpleNamespace, ClusterMetadata]:
        options.update(given)
        return client, ClusterMetadata()

    monkeypatch.setattr(kafka, "check_topic", lambda _: None)
    monkeypatch.setattr(kafka, "connected", connect)
    sender = kafka.Sender(Service("producer", Settings(data_dir=tmp_path, product_id="ETH-EUR")))
    for topic in ("raw_prices", "raw_prices_rejected"):
        sender.send(topic, b"a message", datetime(2026, 3, 1, tzinfo=UTC))
    assert [(each["topic"], each["key"]) for each in records] == [
        ("raw_prices", b"ETH-EUR"),
        ("raw_prices_rejected", b"ETH-EUR"),
    ]
    assert (options["acks"], options["enable_idempotence"]) == ("all", True)
    assert options["delivery_timeout_ms"] == 2**31 - 1  # the greatest value, 24 days
    assert "retries" not in options
    assert KafkaProducer.DEFAULT_CONFIG["retries"] == float("inf")


def test_the_installed_kafka_python_is_the_checked_version() -> None:
    """After an upgrade: read `kafka.net.manager` and its log lines, then change CHECKED_VERSION."""
    assert importlib.metadata.version("kafka-python") == kafka_connection.CHECKED_VERSION


@pytest.mark.parametrize(
    ("name", "lost", "text"),
    [
        (
            "producer",
            1,
            (
                "the producer stopped before Kafka acknowledged 1 message. After its next start, "
                "it recovers the trades that Kafka lacks, up to BACKFILL_SECONDS old"
            ),
        ),
        (
            "consumer",
            1200,
            (
                "the consumer stopped before Kafka acknowledged 1,200 messages. After its next "
                "start, it reads the rejected records again, and sends them again"
            ),
        ),
    ],
)
def test_undelivered_messages_are_named_with_what_happens_next(
    name: str, lost: int, text: str
) -> None:
    assert kafka.undelivered(name, lost) == text
