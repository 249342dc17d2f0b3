"""Watch that the topic is still the one that the query began with, and that Kafka answers."""

import contextlib
import threading
import time

from pipeline.errors import TemporaryError, is_temporary
from pipeline.ingest.kafka import TopicIdentity, check_topic
from pipeline.service import Service

#: Seconds between two requests to Kafka.
INTERVAL_SECONDS = 2.0
#: Seconds for which a micro-batch waits for Kafka to confirm the topic.
CONFIRM_SECONDS = 60.0


class TopicChangedError(TemporaryError):
    """The topic was deleted, and another one has its name. The next attempt reads that one."""


class TopicWatch:
    """Requests the id of the topic from Kafka every two seconds, in a thread.

    Offsets of one topic mean nothing in another one. Spark compares offsets only, so it reads on in
    a topic that was created again and has grown beyond the old offset.
    """

    def __init__(self, service: Service) -> None:
        """Read the id of the topic. Wait for Kafka and for both topics."""
        self._settings = service.settings
        self.topic = service.settings.kafka_topic
        self._stop = service.stop
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._identity: TopicIdentity | None = None
        service.retrying("Kafka")(check_topic, service.settings)
        self.id: str = service.retrying("Kafka")(self._read)
        self._found = self.id
        self._answered_at = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="topic watch", daemon=True)
        self._thread.start()

    @property
    def unanswered_s(self) -> float:
        """Return for how long Kafka has not answered, seconds."""
        return time.monotonic() - self._answered_at

    def check(self) -> None:
        """Check that the topic was the same at the last answer.

        Raises:
            TopicChangedError: it was not.
        """
        if self._found != self.id:
            raise TopicChangedError(
                f"Topic {self.topic} was created again. The stream reads the new one from its "
                f"beginning and keeps the final windows. The topic id was {self.id} and "
                f"is now {self._found}."
            )

    def confirm(self, wait_s: float = CONFIRM_SECONDS) -> None:
        """Request the id from Kafka now, and check that the topic is the same.

        If it is, every record read before this call is of this topic.

        Args:
            wait_s: how long to repeat the request while Kafka does not answer.

        Raises:
            TopicChangedError: it is another one.
            TemporaryError: it does not exist.
            KafkaError: Kafka did not answer.
        """
        end = time.monotonic() + wait_s
        while True:
            try:
                self._ask()
                break
            except Exception as error:
                late = time.monotonic() > end or self._closed.is_set() or self._stop.wait(0.2)
                if late or not is_temporary(error):
                    raise
        self.check()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(INTERVAL_SECONDS)
        if self._identity is not None:
            self._identity.close()

    def _watch(self) -> None:
        while not self._closed.wait(INTERVAL_SECONDS):
            with contextlib.suppress(Exception):  # `unanswered_s` grows, which is reported
                self._ask()

    def _ask(self) -> None:
        found = self._read()
        self._answered_at = time.monotonic()
        if self._found == self.id:  # an answer from before the change can arrive after it
            self._found = found

    def _read(self) -> str:
        with self._lock:
            try:
                if self._identity is None:
                    self._identity = TopicIdentity(self._settings)
                return self._identity.read()
            except Exception:
                if self._identity is not None:
                    self._identity.close()
                    self._identity = None
                raise
