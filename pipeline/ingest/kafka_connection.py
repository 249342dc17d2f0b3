"""Connect and end clients of kafka-python.

A failed attempt leaves no thread and no open socket. Its error contains the cause.

Only this module uses parts of kafka-python that are not public: the class `KafkaNetClient`, which a
client uses for its connections, the thread of a producer, and the text of log lines.
tests/unit/test_kafka.py fails when the installed version is not `CHECKED_VERSION`.
"""

import gc
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka import KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaTimeoutError
from kafka.net.compat import KafkaNetClient

from pipeline.errors import TemporaryError

T = TypeVar("T")

#: The version of kafka-python with which this module was checked.
CHECKED_VERSION = "3.0.12"
#: Seconds for the thread of a producer to end when it has nothing to deliver.
END_SECONDS = 1.0
#: How kafka-python logs a failed connection: with an error number and its name, or with a text.
#: The line "Bootstrap failed" follows, but it does not contain the cause.
_FAILED = re.compile(
    r"(?<!Bootstrap) failed: (?:\w*Error: )*(?:([0-9]+) E[A-Z]+|(.+?))(?: \(backoff .*\))?$"
)
#: The error that kafka-python logs for a request without an answer in time.
_CUT_OFF = "RequestTimedOutError"
#: Saved levels and propagations of kafka-python's logger, one pair for each attempt in progress.
#: Threads can connect at the same time and end in any order. The attempt that ends last restores
#: the values from before the first attempt.
_before: list[tuple[int, bool]] = []
_changing_the_logger = threading.Lock()


def connected(make: Callable[..., T], **options: Any) -> tuple[T, ClusterMetadata]:
    """Return a new Kafka client and its metadata; close what it opened if it cannot connect.

    After a failed attempt, kafka-python itself leaves a thread running and its sockets open. A
    service that waits for Kafka would run out of file descriptors in half an hour.

    Raises:
        TemporaryError: no broker answered; the text has the cause.
    """
    opened: list[KafkaNetClient] = []

    def open_network(**config: Any) -> KafkaNetClient:
        opened.append(KafkaNetClient(**config))
        return opened[-1]

    with _last_error() as causes:
        try:
            return make(kafka_client=open_network, **options), opened[-1].cluster
        except BaseException as error:
            while opened:  # no variable may keep one of them
                opened.pop().close()
            gc.collect()  # refused sockets stay open in reference cycles: one for each attempt
            if not isinstance(error, KafkaTimeoutError):
                raise
            raise TemporaryError(_no_connection(options, causes)) from error


def end(producer: KafkaProducer, seconds: float) -> None:
    """Deliver the remaining records within some seconds. Then end the client in any case.

    While a record is undelivered, `KafkaProducer.close` only raises an error: its thread continues.
    """
    try:
        producer.flush(seconds)
    except KafkaTimeoutError:
        producer._sender.force_close()  # noqa: SLF001 - it fails the undelivered records
    try:
        producer.close(timeout=END_SECONDS)
    except KafkaTimeoutError:  # the thread waits for a connection, and ends after that
        producer._closed = True  # noqa: SLF001 - the destructor would try again


def _no_connection(options: Mapping[str, Any], causes: Sequence[str]) -> str:
    """Return the sentence about a failed attempt to connect."""
    cause = causes[-1] if causes else "no answer"
    advice = "Check KAFKA_BOOTSTRAP_SERVERS, and that the broker runs"
    if "UnsupportedSaslMechanism" in cause:
        advice = "Set KAFKA_SASL_MECHANISM to one that the broker has"
    elif "sasl_mechanism" in options and re.search("disconnected|Sasl|SASL", cause):
        advice = "Check the login in KAFKA_CREDENTIALS_FILE"
    elif "certificate" in cause:
        advice = "Check KAFKA_CA_FILE"
    servers = ",".join(options["bootstrap_servers"])
    return f"no connection to Kafka. {advice}. Cause: {cause} ({servers})"


@contextmanager
def _last_error() -> Iterator[Sequence[str]]:
    """Yield a sequence that gets the newest error that kafka-python logs.

    The error of a request that was cut off never replaces another error.

    The exception of a failed attempt contains only a timeout. The cause (refused, certificate,
    login) is only in the log.
    """
    newest: deque[str] = deque(maxlen=1)

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if failed := _FAILED.search(record.getMessage()):
                cause = os.strerror(int(failed[1])) if failed[1] else failed[2]
                # The end of the attempt cuts off its last request. With this error, a broker that
                # closes the connection after a wrong password would look like a silent one.
                if not newest or _CUT_OFF not in cause:
                    newest.append(cause)

    logger, handler = logging.getLogger("kafka.net.manager"), Keep(logging.WARNING)
    with _changing_the_logger:
        _before.append((logger.level, logger.propagate))
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        logger.addHandler(handler)
    try:
        yield newest
    finally:
        with _changing_the_logger:
            logger.removeHandler(handler)
            level, logger.propagate = _before.pop()
            logger.setLevel(level)  # it also clears the cache of enabled levels
