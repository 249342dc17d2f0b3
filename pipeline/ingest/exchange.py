"""The connection to the exchange: subscribe, read messages, watch the feed, reconnect."""

import json
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from websocket import ABNF, WebSocketException, WebSocketTimeoutException

from pipeline.errors import TemporaryError, sentence
from pipeline.ingest import bounded_websocket
from pipeline.service import Service, backoff
from pipeline.times import now

#: Seconds to connect.
CONNECT_SECONDS = 10.0
#: Seconds to wait for a frame before the watchdog is checked again.
RECEIVE_SECONDS = 1.0


class FeedError(TemporaryError):
    """The connection failed or was lost, or the watchdog found a fault. Reconnect."""


@dataclass(frozen=True)
class Message:
    """A received message: its bytes, cut to the limit, and its full size in bytes."""

    data: bytes
    size: int


class Connection:
    """A WebSocket connection that is subscribed to the trades and heartbeats of a product.

    Raises:
        FeedError: the connection failed.
    """

    def __init__(self, url: str, product: str, max_bytes: int) -> None:
        self._url = url
        self._max_bytes = max_bytes
        subscription = {
            "type": "subscribe",
            "product_ids": [product],
            "channels": ["ticker", "heartbeat"],
        }
        try:
            self._socket = bounded_websocket.connect(url, CONNECT_SECONDS, max_bytes)
            self._socket.send(json.dumps(subscription))
        except (WebSocketException, OSError) as error:
            raise FeedError(f"cannot connect to {url}: {_reason(error)}") from error
        self._socket.settimeout(RECEIVE_SECONDS)
        self._parts: list[bytes] = []
        self._size = 0

    def receive(self) -> Message | None:
        """Return the next message; None if none is complete within a second.

        Raises:
            FeedError: the connection was lost, or closed by the server.
        """
        while True:
            try:
                opcode, frame = self._socket.recv_data_frame()
            except WebSocketTimeoutException:
                return None
            except (WebSocketException, OSError) as error:
                raise FeedError(f"lost the connection to {self._url}: {_reason(error)}") from error
            if opcode == ABNF.OPCODE_CLOSE:
                raise FeedError(f"{self._url} closed the connection{_close_reason(frame.data)}")
            self._add(frame.data)
            if frame.fin:
                message = Message(b"".join(self._parts), self._size)
                self._parts, self._size = [], 0
                return message

    def _add(self, data: bytes) -> None:
        room = max(0, self._max_bytes - sum(map(len, self._parts)))
        self._parts.append(data[:room])
        self._size += len(data) + self._socket.take_skipped()

    def close(self) -> None:
        self._socket.shutdown()


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
    #: The newest trade id in a heartbeat; None if the exchange sent none.
    newest_announced: int | None = None
    newest_received: int | None = None
    #: Whether a replay has sent its whole recording.
    ended: bool = False

    def reset(self, now: float) -> None:
        """Start both timeouts again, after a pause in which the feed was not read."""
        self.last_heartbeat = self.last_trade = now

    def on_heartbeat(self, now: float, message: dict[str, Any]) -> None:
        self.last_heartbeat = now
        self.newest_announced = message.get("last_trade_id") or None  # 0 is unknown
        replay = message.get("replay")
        self.ended = isinstance(replay, dict) and replay.get("state") == "ended"

    def on_trade(self, now: float, trade_id: int) -> None:
        self.last_trade = now
        self.newest_received = trade_id

    def fault(self, now: float) -> str | None:
        """Return what has been missing for too long; None if nothing is."""
        silent = now - self.last_heartbeat
        if silent > self.heartbeat_timeout:
            return f"no heartbeat for {silent:.0f} s"
        silent = now - self.last_trade
        no_new_trade = self.ended or (
            self.newest_announced is not None and self.newest_announced == self.newest_received
        )
        if silent > self.trade_timeout and not no_new_trade:
            return f"no trade for {silent:.0f} s, although heartbeats arrive"
        return None


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
        while not stop.is_set():
            watchdog = FeedWatchdog(
                settings.heartbeat_timeout_seconds, settings.tick_timeout_seconds
            )
            try:
                self._read_connection(watchdog)
            except FeedError as error:
                if watchdog.newest_received is not None:
                    delays = backoff()
                self._pause(str(error), next(delays))

    def _pause(self, fault: str, seconds: float) -> None:
        service = self._service
        service.error(fault)
        service.counters["reconnects"] += 1
        service.details["connected"] = False
        service.report("connecting", f"{fault}; next attempt in {seconds:.1f} s", healthy=False)
        service.log.info("next attempt to connect in %.1f s", seconds)
        service.sleep(seconds)

    def _read_connection(self, watchdog: FeedWatchdog) -> None:
        """Read one connection until the service is asked to stop.

        Raises:
            FeedError: the connection failed or was lost, or the watchdog found a fault.
        """
        settings = self._settings
        connection = Connection(settings.feed_url, settings.product_id, settings.max_message_bytes)
        try:
            self._service.details["connected"] = True
            self._service.log.info("connected to %s", settings.feed_url)
            self._handler.on_connect(watchdog)
            while not self._service.stop.is_set():
                message = connection.receive()
                if message is not None:
                    self._handler.on_message(message, now())
                self._handler.after_read()
                if fault := watchdog.fault(time.monotonic()):
                    raise FeedError(f"{fault} from {settings.feed_url}")
        finally:
            connection.close()
