"""The two families of expected errors, and the function that assigns an exception to one.

- Temporary: Kafka does not answer, the disk is full. The service retries with backoff.
- Operational: Java is missing, a file is not a database. A person has to act. The service logs
  one sentence and exits with status 2.

Every other exception is an internal error: the service logs one line, writes the traceback at
log level DEBUG and exits with status 1. `pipeline.service.run` applies this policy.
"""

import contextlib
import errno
import socket
import sqlite3
import sys
from collections.abc import Iterator
from enum import Enum, auto

from pipeline import postgresql_errors

#: Exit status after an operational error, and after an internal error.
EXIT_OPERATIONAL = 2
EXIT_FAULT = 1

#: Errors of the operating system that end without a change to the program or its configuration.
_TEMPORARY_ERRNOS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.EINTR),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    }
)
#: What a person can do about an error of the operating system that names a file.
_ACCESS = "give this user access to {}"
_ACTIONS = {
    errno.EISDIR: "a file must be at {}. Move the directory away.",
    errno.ENOTDIR: "a directory must be at {}. Move the file away.",
    errno.EEXIST: "a directory must be at {}. Move the file away.",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _ACCESS),
}
#: The same for an error that does not depend on the file. An error of `write` names no file.
_RESOURCE_ACTIONS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space on the disk of {}"),
    errno.EIO: "check the disk of {}",
    errno.EMFILE: "increase the limit of open files (ulimit -n)",
    errno.ENFILE: "increase the limit of open files of this machine (fs.file-max)",
    errno.ENOMEM: "free memory on this machine",
}
#: Error classes of the Kafka client that are temporary although the client does not mark them as
#: retriable: an unexpected error of the broker, data that was damaged on the way (Kafka marks it as
#: retriable), old metadata, and an idempotent producer whose id the broker no longer has. The next
#: attempt creates new clients.
_TEMPORARY_KAFKA = frozenset(
    {
        *("UnknownError", "CorruptRecordError", "BrokerNotAvailableError", "UnknownBrokerIdError"),
        *("OutOfOrderSequenceNumberError", "InvalidProducerEpochError", "UnknownProducerIdError"),
    }
)
#: What a person can do about an error of Kafka, by the client's class.
_KAFKA_ACTIONS = {
    "AuthorizationError": "Kafka refuses this client. Grant its user access to the topics and to "
    "the consumer group",
    "SaslAuthenticationFailedError": "Kafka refuses the login. Check the user name and the "
    "password in KAFKA_CREDENTIALS_FILE",
    "MessageSizeTooLargeError": "Kafka rejects a message that is too large. Set max.message.bytes "
    "of the topic above MAX_MESSAGE_BYTES",
    "PolicyViolationError": "A policy of Kafka refuses the topics. Change KAFKA_TOPIC, "
    "KAFKA_REPLICATION_FACTOR or the policy",
    "InvalidTimestampError": "Kafka rejects the timestamp of a message. Set the clock of this "
    "machine, or message.timestamp.after.max.ms of the topic",
}

#: What a person can do about a damaged SQLite database.
_SQLITE_ACTION = (
    "The database in DATA_DIR is damaged. Restore a backup, or move crypto_prices.db away: the "
    "consumer fills a new one from Kafka"
)


class TemporaryError(Exception):
    """An error that is expected to end without any action of a person."""


class RestartError(TemporaryError):
    """A temporary error that ends only if the service closes its resources and opens them again."""


class OperationalError(Exception):
    """An error that a person has to correct. The text names the failure and the action."""


class OutputError(OperationalError):
    """An output file has unexpected content. The text names the file."""


class Family(Enum):
    """How a service reacts to an exception."""

    TEMPORARY = auto()
    OPERATIONAL = auto()
    FAULT = auto()


def family_of(error: BaseException) -> Family:
    """Return the family of an exception.

    A Kafka error is recognised by its attribute `retriable`, in which the client states whether a
    retry can succeed, and by the name of its class. Importing the client for its classes would take
    a tenth of a second in every health check.
    """
    if isinstance(error, TemporaryError):
        return Family.TEMPORARY
    if isinstance(error, OperationalError):
        return Family.OPERATIONAL
    if isinstance(error, sqlite3.Error):
        return _family_of_sqlite_error(error)
    if postgresql_errors.is_of_client(error):
        return _family_of_postgresql_error(error)
    if isinstance(error, OSError):
        return _family_of_os_error(error)
    return _family_of_kafka_error(error)


def _family_of_kafka_error(error: BaseException) -> Family:
    retriable = getattr(error, "retriable", None)
    if retriable is None:
        return Family.FAULT
    is_expected_to_end = retriable or not _TEMPORARY_KAFKA.isdisjoint(_class_names(error))
    return Family.TEMPORARY if is_expected_to_end else Family.OPERATIONAL


def _class_names(error: BaseException) -> list[str]:
    """Return the names of the class of an exception and of its base classes."""
    return [each.__name__ for each in type(error).__mro__]


def is_temporary(error: BaseException) -> bool:
    return family_of(error) is Family.TEMPORARY


def sentence(error: BaseException) -> str:
    """Return the text of an exception on one line.

    The text of an OSError has no error number. It names the file, and the action if there is one.
    The text of an error of Kafka or of a store begins with the action if there is one.
    """
    if isinstance(error, OSError) and error.strerror:
        path = error.filename2 or error.filename
        if action := _RESOURCE_ACTIONS.get(error.errno or 0):
            return f"{error.strerror}: {action.format(path or 'DATA_DIR')}"
        if not path:
            return error.strerror
        if action := _ACTIONS.get(error.errno or 0):
            return f"{error.strerror}: {action.format(path)}"
        return f"{path}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    action = None
    if hasattr(error, "retriable"):
        actions = (_KAFKA_ACTIONS.get(name) for name in _class_names(error))
        action = next(filter(None, actions), None)
    elif _is_damage(error):
        action = _SQLITE_ACTION
    elif postgresql_errors.is_of_client(error):
        action = postgresql_errors.action_of(error)
    return text if action is None else f"{action}. Cause: {text}"


def _family_of_sqlite_error(error: sqlite3.Error) -> Family:
    """Return the family: temporary for a locked or full database, operational for a damaged one."""
    if isinstance(error, sqlite3.OperationalError):
        wrong_sql = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
        return Family.FAULT if wrong_sql else Family.TEMPORARY
    return Family.OPERATIONAL if _is_damage(error) else Family.FAULT


def _is_damage(error: BaseException) -> bool:
    """Return whether SQLite reports a damaged file. The subclasses have other causes."""
    return type(error) is sqlite3.DatabaseError


def _family_of_postgresql_error(error: BaseException) -> Family:
    """Return the family: operational for a refusal, temporary for a lost server or a full disk."""
    if postgresql_errors.is_refusal(error):
        return Family.OPERATIONAL
    return Family.TEMPORARY if postgresql_errors.is_temporary(error) else Family.FAULT


def _family_of_os_error(error: OSError) -> Family:
    """Return whether an error is temporary (full disk), operational (permission) or a fault.

    A failed connection is a fault. The clients of Kafka and of the exchange raise errors of their
    own when a connection fails. What remains is the connection to Spark's JVM, which ends with the
    process that started it.
    """
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return Family.FAULT
    return Family.TEMPORARY if error.errno in _TEMPORARY_ERRNOS else Family.OPERATIONAL


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """End a command that runs once with one sentence, where a service would retry or stop.

    An operational error ends the process with status 2, a temporary one with status 1. A fault of
    the program is raised again, with its traceback.
    """
    try:
        yield
    except Exception as error:
        family = family_of(error)
        if family is Family.FAULT:
            raise
        print(sentence(error), file=sys.stderr)
        sys.exit(EXIT_OPERATIONAL if family is Family.OPERATIONAL else EXIT_FAULT)
