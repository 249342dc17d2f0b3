"""The connection to the exchange: subscribe, read messages, watch the feed, reconnect."""

import json
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from websocket import ABNF, WebSocketBadStatusException, WebSocketException

from pipeline.errors import TemporaryError, sentence
from pipeline.ingest import bounded_websocket
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
#: Statuses of HTTP after which a new attempt can succeed. 520 to 530 are those of Cloudflare.
_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 531)})

#: What to do about a certificate, by the code of OpenSSL.
_CERTIFICATE_ADVICE = {
    **dict.fromkeys((9, 10), "Check this machine's clock"),  # not yet valid, expired
    **dict.fromkeys((18, 19, 20, 21), "Set SSL_CERT_FILE to trust it"),  # unknown issuer
}


class FeedError(TemporaryError):
    """The connection failed or was lost, or the watchdog found a fault. Reconnect.

    Attributes:
        lasting: whether a new attempt fails too until a person corrects something.
    """

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        super().__init__(text)
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

    Raises:
        FeedError: the connection failed.
    """

    def __init__(
        self, url: str, product: str, max_bytes: int, go_on: Callable[[], bool] = lambda: True
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
            reason, lasting = connect_failure(error)
            raise FeedError(f"cannot connect to {url}: {reason}", lasting=lasting) from error
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
                raise FeedError(f"lost the connection to {self.url}: {_reason(error)}") from error
            if opcode == ABNF.OPCODE_CLOSE:
                raise FeedError(f"{self.url} closed the connection{_close_reason(frame.data)}")
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


def connect_failure(error: Exception) -> tuple[str, bool]:
    """Return why a connection failed, and whether only a person can correct the cause.

    Pure: no other place decides which errors are retried slowly.
    """
    if isinstance(error, WebSocketBadStatusException):
        status = _reason(error).removeprefix("Handshake status ")
        lasting = error.status_code not in _RETRIED_STATUSES
        return f"HTTP status {status}{'. Check FEED_URL' if lasting else ''}", lasting
    if isinstance(error, ssl.SSLError):
        return _tls_failure(error)
    if isinstance(error, socket.gaierror):
        unknown = error.errno == socket.EAI_NONAME
        problem = "the host is unknown" if unknown else "host name not resolved"
        return f"{problem}. Check FEED_URL and the network", False
    if isinstance(error, TimeoutError):
        return f"{_reason(error)}. Check FEED_URL and the network", False
    if isinstance(error, ConnectionRefusedError):
        return "Connection refused. Check FEED_URL, and that its server runs", False
    return _reason(error), isinstance(error, ValueError)


def _tls_failure(error: ssl.SSLError) -> tuple[str, bool]:
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = _CERTIFICATE_ADVICE.get(error.verify_code, "Check FEED_URL")
        return f"invalid TLS certificate. {advice} ({error.verify_message.rstrip('.')})", True
    if error.reason == "WRONG_VERSION_NUMBER":
        return "the server does not use TLS. Check wss:// in FEED_URL", True
    why = (error.reason or "unknown reason").replace("_", " ").lower()
    return f"the TLS handshake failed. Check wss:// in FEED_URL ({why})", False


def _reason(error: Exception) -> str:
    """Return the text of the library without error numbers and without HTTP headers."""
    return re.sub(r"^\[Errno -?\d+\] ", "", sentence(error)).partition(" -+-+-")[0]


def _close_reason(data: bytes) -> str:
    if len(data) < 2:
        return ""
    return f": code {int.from_bytes(data[:2], 'big')} {data[2:].decode(errors='replace')}".rstrip()


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
    previous_fault: "FeedError | None" = None

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
        self.error = " ".join(": ".join(parts).split())[:ERROR_CHARACTERS] or "no reason given"
        return self.error

    def refusal(self) -> str | None:
        """Return the sentence about a subscription that the exchange does not accept."""
        if self.subscribed or self.error is None:
            return None
        return f"subscription refused: {self.error}. Check PRODUCT_ID"

    def cause(self, fault: "FeedError") -> "FeedError":
        """Return why the connection ended: an error that the exchange sent is the cause."""
        if refusal := self.refusal():
            return FeedError(refusal, lasting=True)
        if self.error:
            return FeedError(f"the exchange sent an error: {self.error}; {fault}")
        return fault

    def fault(self, now: float) -> str | None:
        """Return what has been missing for too long; None if nothing is."""
        if self.incomplete is not None and now - self.incomplete[1] > MESSAGE_SECONDS:
            return f"a message was not complete within {MESSAGE_SECONDS:.0f} s"
        silent = now - self.last_heartbeat
        if silent > self.heartbeat_timeout:
            return f"no heartbeat for {silent:.0f} s"
        silent = now - self.last_trade
        no_new_trade = self.ended or (
            self.newest_announced is not None and self.newest_announced == self.newest_received
        )
        if silent > self.trade_timeout and not no_new_trade:
            if self.rejected:
                return f"no valid trade for {silent:.0f} s (rejected: {self.rejected})"
            return f"no trade for {silent:.0f} s, although heartbeats arrive"
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
            raise FeedError(f"{fault} from {connection.url}")


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
        service.error(str(fault))
        service.counters["reconnects"] += 1
        service.details["connected"] = False
        text = f"{fault}; next attempt in {seconds:.1f} s"
        service.report(fault.state, text, healthy=False)
        service.log.info("next attempt to connect in %.1f s", seconds)
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
