"""The connection to the exchange: subscribe, read messages, watch the feed, reconnect."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from websocket import ABNF, WebSocketException

from pipeline.errors import TemporaryError
from pipeline.ingest import bounded_websocket
from pipeline.ingest.connect_failure import connect_failure, reason
from pipeline.ingest.transport import Waiter
from pipeline.service import Service, backoff
from pipeline.times import now

#: Seconds to connect: from the look-up of the host to the last byte of the handshake.
CONNECT_SECONDS = 10.0
#: Seconds to read before the watchdog is checked again.
RECEIVE_SECONDS = 1.0
#: Seconds from the first byte of a message to its last one.
MESSAGE_SECONDS = 10.0
#: Seconds. If the feed was not read for longer, the process was suspended or waited for Kafka.
PAUSE_SECONDS = 3.0
#: Seconds to the next attempt when only a person can correct the cause.
SLOW_RETRY_SECONDS = 60.0
#: Maximum length of an error message of the exchange, in characters.
ERROR_CHARACTERS = 200


class FeedError(TemporaryError):
    """The connection failed or was lost, or the watchdog found a fault. Reconnect.

    Attributes:
        problem: what happened, and the action if there is one.
        details: a sentence that is less important, such as the address.
        lasting: whether a new attempt fails too until a person corrects something.
    """

    def __init__(self, problem: str, details: str, *, lasting: bool = False) -> None:
        super().__init__(f"{problem}. {details}")
        self.problem = problem
        self.details = details
        self.lasting = lasting

    @property
    def state(self) -> str:
        """The state of the service while it waits for the next attempt."""
        return "refused" if self.lasting else "connecting"


@dataclass(frozen=True)
class Message:
    """A received message: its bytes, cut to the limit, and its full size in bytes."""

    data: bytes
    size: int


class Connection:
    """A WebSocket connection that is subscribed to the trades and heartbeats of a product.

    Args:
        url: address of the exchange.
        product: the product to subscribe to.
        max_bytes: how many bytes of a message are kept.
        go_on: called at least twice per second while the connection waits. False ends the wait.
        setting: the setting or the option that holds the address, for the error message.

    Raises:
        FeedError: the connection failed.
    """

    def __init__(
        self,
        url: str,
        product: str,
        max_bytes: int,
        go_on: Callable[[], bool] = lambda: True,
        *,
        setting: str = "FEED_URL",
    ) -> None:
        self.url = url
        self._max_bytes = max_bytes
        self._waiter = Waiter(go_on)
        subscription = {
            "type": "subscribe",
            "product_ids": [product],
            "channels": ["ticker", "heartbeat"],
        }
        self._waiter.allow(CONNECT_SECONDS)
        try:
            self._socket = bounded_websocket.connect(url, self._waiter, max_bytes)
        except (WebSocketException, OSError, ValueError) as error:
            problem, lasting = connect_failure(error, setting)
            details = f"Cannot connect to {url}{bounded_websocket.way_to(url)}"
            raise FeedError(problem, details, lasting=lasting) from error
        self._socket.send(json.dumps(subscription))
        self._message = bytearray()
        self._size = 0

    def receive(self) -> Message | None:
        """Return the next message; None if none is complete within a second.

        Raises:
            FeedError: the connection was lost, or closed by the server.
        """
        self._waiter.allow(RECEIVE_SECONDS)
        while True:
            try:
                opcode, frame = self._socket.recv_data_frame()
            except TimeoutError:
                return None
            except (WebSocketException, OSError) as error:
                cause = f"Cause: {reason(error)}. Feed: {self.url}"
                raise FeedError("lost the connection", cause) from error
            if opcode == ABNF.OPCODE_CLOSE:
                cause = f"{_close_reason(frame.data)}Feed: {self.url}"
                raise FeedError("the server closed the connection", cause)
            self._add(frame.data)
            if frame.fin:
                message = Message(bytes(self._message), self._size)
                self._message.clear()
                self._size = 0
                return message

    def _add(self, data: bytes) -> None:
        room = self._max_bytes - len(self._message)
        self._message += data[:room]
        self._size += len(data) + self._socket.take_skipped()

    def incomplete(self) -> int | None:
        """Return a number for the incomplete message; None if the newest one is complete."""
        return self._socket.incomplete()

    def bytes_read(self) -> int:
        """Return how many bytes were read from the connection."""
        return self._socket.transport.bytes_read

    def unread(self) -> int:
        """Return how many bytes this machine has received that are not read yet."""
        return self._socket.transport.unread()

    def close(self) -> None:
        """Close the connection at once, without a closing handshake."""
        self._socket.transport.close()


def _close_reason(data: bytes) -> str:
    if len(data) < 2:
        return ""
    text = f"Code {int.from_bytes(data[:2], 'big')} {data[2:].decode(errors='replace')}"
    return f"{text.rstrip(' .')}. "


@dataclass
class FeedWatchdog:
    """Finds two different faults of a feed: missing heartbeats, and missing trades.

    Trades can be missing while heartbeats arrive. Times are monotonic seconds.
    """

    heartbeat_timeout: float
    trade_timeout: float
    last_heartbeat: float = field(default_factory=time.monotonic)
    last_trade: float = field(default_factory=time.monotonic)
    #: When the feed was read last.
    last_turn: float = field(default_factory=time.monotonic)
    #: The number of the incomplete message, and when it was first seen; None if there is none.
    incomplete: tuple[int, float] | None = None
    #: The newest trade id in a heartbeat; None if the exchange sent none.
    newest_announced: int | None = None
    newest_received: int | None = None
    #: Why the newest ticker was rejected; None if it was valid.
    rejected: str | None = None
    #: Whether a replay has sent its whole recording.
    ended: bool = False
    #: Whether the exchange has accepted the subscription.
    subscribed: bool = False
    #: The error that the exchange sent; None if it sent none, or something worked after it.
    error: str | None = None
    #: Why the connection before this one ended; None for the first one.
    previous_fault: FeedError | None = None

    def start(self, now: float) -> None:
        """Start all timeouts."""
        self.last_turn = self.last_heartbeat = self.last_trade = now
        self.incomplete = None

    def on_turn(self, now: float, incomplete: int | None) -> float | None:
        """Note that the feed was read. After a pause, all timeouts start again.

        Args:
            now: the time.
            incomplete: the number of the message of which only a part was read.

        Returns:
            The length of the pause in seconds; None if there was none.
        """
        since_last, self.last_turn = now - self.last_turn, now
        paused = since_last > PAUSE_SECONDS
        if paused:
            self.start(now)
        if incomplete is None:
            self.incomplete = None
        elif self.incomplete is None or self.incomplete[0] != incomplete:
            self.incomplete = incomplete, now
        return since_last if paused else None

    def on_heartbeat(self, now: float, message: dict[str, Any]) -> None:
        self.last_heartbeat = now
        self.newest_announced = message.get("last_trade_id") or None  # 0 is unknown
        replay = message.get("replay")
        self.ended = isinstance(replay, dict) and replay.get("state") == "ended"

    def on_trade(self, now: float, trade_id: int) -> None:
        self.last_trade = now
        self.newest_received, self.rejected = trade_id, None
        self.on_subscribed()

    def on_subscribed(self) -> None:
        self.subscribed, self.error = True, None

    def on_error(self, message: dict[str, Any]) -> str:
        """Take note of an error message of the exchange, and return its text."""
        parts = [str(message[name]) for name in ("message", "reason") if message.get(name)]
        text = " ".join(": ".join(parts).split())[:ERROR_CHARACTERS].rstrip(" .")
        self.error = text or "no reason given"
        return self.error

    def refusal(self) -> FeedError | None:
        """Return the error of a subscription that the exchange does not accept."""
        if self.subscribed or self.error is None:
            return None
        check = ". Check PRODUCT_ID" if "product" in self.error.lower() else ""
        return FeedError(f"subscription refused{check}", f"Answer: {self.error}", lasting=True)

    def cause(self, fault: FeedError) -> FeedError:
        """Return why the connection ended: an error that the exchange sent is the cause."""
        if refusal := self.refusal():
            return refusal
        if self.error:
            return FeedError(
                "the exchange sent an error", f"The error: {self.error}. Then: {fault}"
            )
        return fault

    def fault(self, now: float) -> tuple[str, str] | None:
        """Return what has been missing for too long, and its details; None if nothing is."""
        if self.incomplete is not None and now - self.incomplete[1] > MESSAGE_SECONDS:
            return f"a message was not complete within {MESSAGE_SECONDS:.0f} s", ""
        silent = now - self.last_heartbeat
        if silent > self.heartbeat_timeout:
            return f"no heartbeat for {silent:.0f} s", ""
        silent = now - self.last_trade
        no_new_trade = self.ended or (
            self.newest_announced is not None and self.newest_announced == self.newest_received
        )
        if silent > self.trade_timeout and not no_new_trade:
            if self.rejected:
                return f"no valid trade for {silent:.0f} s", f"Rejected: {self.rejected}"
            return f"no trade for {silent:.0f} s, although heartbeats arrive", ""
        return None


def messages(
    connection: Connection, watchdog: FeedWatchdog, log: logging.Logger
) -> Iterator[Message | None]:
    """Yield each message, and None after each second without a complete one.

    A fault that the watchdog finds is certain only when everything is read that this machine had
    received by then.

    Raises:
        FeedError: the connection was lost, or the watchdog found a fault.
    """
    watchdog.start(time.monotonic())
    certain_at: int | None = None
    while True:
        message = connection.receive()
        yield message
        turn = time.monotonic()
        incomplete = connection.incomplete() if message is None else None
        if pause := watchdog.on_turn(turn, incomplete):
            log.warning("the producer did not read the feed for %.0f s", pause)
        fault = watchdog.fault(turn)
        if fault is None:
            certain_at = None
            continue
        unread = connection.unread()
        if certain_at is None:
            certain_at = connection.bytes_read() + unread
        if unread == 0 or connection.bytes_read() >= certain_at:
            problem, details = fault
            raise FeedError(problem, f"{details}{'. ' if details else ''}Feed: {connection.url}")


class Handler(Protocol):
    """What a feed does with its messages."""

    def on_connect(self, watchdog: FeedWatchdog) -> None:
        """Use a new connection; the handler reports heartbeats and trades to its watchdog."""

    def on_message(self, message: Message, received: datetime) -> None:
        """Handle one message."""

    def after_read(self) -> None:
        """Do what is due; called after every message and at least once a second."""


class Feed:
    """Reads one connection after the other and hands each message to the handler."""

    def __init__(self, service: Service, handler: Handler) -> None:
        self._service = service
        self._settings = service.settings
        self._handler = handler
        service.details["connected"] = False

    def run(self) -> None:
        """Read and reconnect with backoff until the service is asked to stop.

        The backoff starts again at its shortest delay after a connection with at least one trade.
        """
        settings, stop = self._settings, self._service.stop
        delays = backoff()
        fault: FeedError | None = None
        while not stop.is_set():
            watchdog = FeedWatchdog(
                settings.heartbeat_timeout_seconds,
                settings.tick_timeout_seconds,
                previous_fault=fault,
            )
            try:
                self._read_connection(watchdog)
            except FeedError as error:
                if stop.is_set():
                    return
                fault = watchdog.cause(error)
                if watchdog.newest_received is not None:
                    delays = backoff()
                self._pause(fault, SLOW_RETRY_SECONDS if fault.lasting else next(delays))

    def _pause(self, fault: FeedError, seconds: float) -> None:
        service = self._service
        attempt = f"The producer tries again in {seconds:.1f} s"
        text = f"{fault.problem}. {attempt}. {fault.details}"
        service.error(text)
        service.counters["reconnects"] += 1
        service.details["connected"] = False
        service.report(fault.state, text, healthy=False)
        service.sleep(seconds)

    def _go_on(self) -> bool:
        self._service.tick()
        return not self._service.stop.is_set()

    def _read_connection(self, watchdog: FeedWatchdog) -> None:
        """Read one connection until the service is asked to stop.

        Raises:
            FeedError: the connection failed or was lost, or the watchdog found a fault.
        """
        settings = self._settings
        connection = Connection(
            settings.feed_url, settings.product_id, settings.max_message_bytes, self._go_on
        )
        with closing(connection):
            self._service.details["connected"] = True
            self._service.log.info("connected to %s", settings.feed_url)
            self._handler.on_connect(watchdog)
            for message in messages(connection, watchdog, self._service.log):
                if message is not None:
                    self._handler.on_message(message, now())
                self._handler.after_read()
                if self._service.stop.is_set():
                    return
