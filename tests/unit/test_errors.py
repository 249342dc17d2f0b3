"""The exit policy: the family of each exception, and what a service or a command does about it."""

import errno
import os
import re
import socket
import sqlite3
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from kafka.errors import (
    GroupAuthorizationFailedError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaConnectionError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnknownBrokerIdError,
    UnsupportedVersionError,
    for_code,
)

from pipeline import outputs, spark
from pipeline.errors import (
    Family,
    OperationalError,
    OutputError,
    TemporaryError,
    exit_on_error,
    family_of,
    is_temporary,
    sentence,
)
from pipeline.ingest.exchange_connection import FeedError
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stores.interface import StoreError
from pipeline.stream.finality import StateError


def sqlite_error(path: Path, statement: str) -> sqlite3.Error:
    """The error that SQLite itself raises for a statement on a file."""
    connection = sqlite3.connect(path, timeout=0)
    try:
        connection.execute(statement)
    except sqlite3.Error as error:
        return error
    finally:
        connection.close()
    raise AssertionError(f"{statement} did not fail")


# --- the family of an exception -------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        TemporaryError("no answer"),
        KafkaConnectionError("refused"),
        KafkaTimeoutError("no metadata"),
        UnknownBrokerIdError(7),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        FeedError("no heartbeat for 16 s", "Feed: ws://x"),
    ],
)
def test_an_error_that_ends_without_a_person_is_temporary(error: Exception) -> None:
    assert family_of(error) is Family.TEMPORARY
    assert is_temporary(error)


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("Java is missing"),
        OutputError("not a JSON object"),
        spark.SetupError("jars are missing"),
        StateError("micro-batches are missing"),
        StoreError("schema version 7"),
        MessageSizeTooLargeError("too large"),
        TopicAuthorizationFailedError("not allowed"),
        GroupAuthorizationFailedError("not allowed"),
        SaslAuthenticationFailedError("wrong password"),
        InvalidTopicError("a/b"),
        UnsupportedVersionError("too old"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EROFS, "Read-only file system"),
    ],
)
def test_an_error_that_a_person_has_to_correct_is_operational(error: Exception) -> None:
    assert family_of(error) is Family.OPERATIONAL
    assert not is_temporary(error)


#: Error codes of temporary errors. First the codes that Kafka itself marks as retriable: the
#: classes of kafka-clients 4.3.1 that extend RetriableException, without shares and transactions.
RETRIABLE_CODES = (
    *(2, 3, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 41, 56, 70, 71, 72, 74, 75, 78, 80, 88, 89),
    *(100, 103, 106),
)
#: An unexpected error, a broker that is not available, a producer that the broker does not know,
#: and a code that this client does not know.
OTHER_CODES = (-1, 8, 45, 47, 59, 129)


@pytest.mark.parametrize("code", [*RETRIABLE_CODES, *OTHER_CODES])
def test_an_error_of_the_broker_that_needs_no_person_is_temporary(code: int) -> None:
    """These include elections, moved coordinators and storage errors."""
    assert family_of(for_code(code)()) is Family.TEMPORARY


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (TopicAuthorizationFailedError({"raw_prices"}), "Grant its user access to the topics"),
        (SaslAuthenticationFailedError("no"), "Check the user name and the password"),
        (MessageSizeTooLargeError("9 bytes"), "Set max.message.bytes of the topic"),
        (InvalidTimestampError("in 2099"), "Set the clock of this machine"),
    ],
)
def test_an_error_of_kafka_names_the_action_in_its_first_100_characters(
    error: Exception, action: str
) -> None:
    assert action in sentence(error)[:100]
    assert sentence(error).endswith(str(error))


@pytest.mark.parametrize(
    ("number", "action"),
    [
        (errno.EACCES, "give this user access to /data/stream_live.csv"),
        (errno.EROFS, "give this user access to /data/stream_live.csv"),
        (errno.EISDIR, "a file must be at /data/stream_live.csv. Move the directory away."),
        (errno.EEXIST, "a directory must be at /data/stream_live.csv. Move the file away."),
    ],
)
def test_an_error_of_the_operating_system_names_the_action_and_the_file(
    number: int, action: str
) -> None:
    """Of a rename, the file that was to be replaced."""
    text = os.strerror(number)
    target = "/data/stream_live.csv"
    assert sentence(OSError(number, text, target)) == f"{text}: {action}"
    assert sentence(OSError(number, text, "/data/.tmp", None, target)) == f"{text}: {action}"


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ZeroDivisionError(),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),  # the JVM was killed
        TimeoutError("timed out"),
        socket.gaierror(socket.EAI_NONAME, "name not known"),
    ],
)
def test_any_other_exception_is_a_fault_of_the_program(error: Exception) -> None:
    assert family_of(error) is Family.FAULT


def test_a_locked_database_is_temporary(tmp_path: Path) -> None:
    path = tmp_path / "locked.db"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    error = sqlite_error(path, "CREATE TABLE t (x)")
    holder.close()
    assert family_of(error) is Family.TEMPORARY


def test_a_full_database_is_temporary(tmp_path: Path) -> None:
    path = tmp_path / "full.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError, match="full") as full:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()
    assert family_of(full.value) is Family.TEMPORARY


def test_a_file_that_is_not_a_database_is_operational(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("not a database " * 100)
    error = sqlite_error(path, "CREATE TABLE t (x)")
    assert family_of(error) is Family.OPERATIONAL
    assert sentence(error) == (
        "The database in DATA_DIR is damaged. Restore a backup, or move crypto_prices.db away: the "
        "consumer fills a new one from Kafka. Cause: file is not a database"
    )


@pytest.mark.parametrize("statement", ["SELECT * FROM missing", "SELEKT 1"])
def test_a_wrong_statement_is_a_fault_of_the_program(tmp_path: Path, statement: str) -> None:
    assert family_of(sqlite_error(tmp_path / "empty.db", statement)) is Family.FAULT


def test_a_violated_constraint_is_a_fault_of_the_program() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (x CHECK (x > 0))")
    with pytest.raises(sqlite3.IntegrityError) as violation:
        connection.execute("INSERT INTO t VALUES (0)")
    connection.close()
    assert family_of(violation.value) is Family.FAULT


# --- what a service does --------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service("producer", Settings(data_dir=tmp_path))


def last_status(service: Service) -> dict[str, object]:
    return outputs.read_status(service.data, service.name)


def test_a_service_asked_to_stop_ends_with_status_0_and_state_stopped(service: Service) -> None:
    assert service.run(lambda one, _resources: one.stop.set()) == 0
    assert last_status(service)["state"] == "stopped"
    assert last_status(service)["message"] == "stopped on request"


@pytest.mark.parametrize("error", [TemporaryError("x"), OperationalError("x"), KeyError("x")])
def test_an_error_after_a_stop_request_does_not_change_the_end(
    service: Service, error: Exception
) -> None:
    def body(one: Service, _resources: ExitStack) -> None:
        one.stop.set()
        raise error

    assert service.run(body) == 0
    assert last_status(service)["state"] == "stopped"
    assert last_status(service)["last_error"] is None


def test_an_operational_error_ends_with_its_sentence_and_status_2(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    def body(_service: Service, _resources: ExitStack) -> None:
        raise OperationalError("Java is missing: set JAVA_HOME")

    assert service.run(body) == 2
    assert last_status(service)["state"] == "failed"
    assert last_status(service)["message"] == "Java is missing: set JAVA_HOME"
    assert "Traceback" not in caplog.text


def test_a_fault_ends_with_one_line_and_status_1(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    def body(_service: Service, _resources: ExitStack) -> None:
        raise ValueError("line one\n  line two")

    assert service.run(body) == 1
    assert last_status(service)["state"] == "failed"
    assert last_status(service)["message"] == "ValueError: line one line two"
    assert "Traceback" not in caplog.text


def test_the_traceback_is_logged_at_debug_level(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        service.run(lambda *_: 1 / 0)  # type: ignore[arg-type]
    assert "Traceback" in caplog.text


def test_after_a_temporary_error_the_parts_are_closed_and_the_body_runs_again(
    service: Service,
) -> None:
    events: list[str] = []
    first = service.began

    def body(one: Service, resources: ExitStack) -> None:
        events.append("run")
        resources.callback(events.append, "close")
        if len(events) < 4:
            raise TemporaryError("reset by peer")
        one.stop.set()

    assert service.run(body) == 0
    assert events == ["run", "close"] * 3
    assert first < service.began <= time.monotonic()  # start-up is measured per attempt
    error = last_status(service)["last_error"]
    assert isinstance(error, dict)
    assert re.fullmatch(r"reset by peer\. The service tries again in \d\.\d s", error["text"])


def test_an_error_while_closing_does_not_hide_the_error_of_the_body(service: Service) -> None:
    def close() -> None:
        raise TemporaryError("cannot close")

    def body(_service: Service, resources: ExitStack) -> None:
        resources.callback(close)
        raise OperationalError("Java is missing")

    assert service.run(body) == 2
    assert last_status(service)["message"] == "Java is missing"


def test_the_parts_are_closed_before_the_last_status_is_written(service: Service) -> None:
    states: list[object] = []

    def body(one: Service, resources: ExitStack) -> None:
        one.report("running", "works", healthy=True)
        resources.callback(lambda: states.append(last_status(one)["state"]))
        one.stop.set()

    service.run(body)
    assert states == ["running"]
    assert last_status(service)["state"] == "stopped"


# --- what a command does --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"), [(OperationalError("no table"), 2), (TemporaryError("no answer"), 1)]
)
def test_a_command_ends_with_one_sentence(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, exit_on_error():
        raise error
    assert end.value.code == status
    assert capsys.readouterr().err == f"{error}\n"


def test_a_command_raises_a_fault_again() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_error():
        raise ZeroDivisionError
