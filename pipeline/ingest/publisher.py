"""The exchange's ticker messages, from the WebSocket to Kafka: good ones and bad ones.

Every message received is counted under exactly one outcome: `published`, `repeated`, `rejected`,
`control` or `ignored`.
"""

import time
from datetime import datetime
from typing import Any

import websocket

from pipeline import times
from pipeline.ingest import kafka as topics
from pipeline.ingest import trade
from pipeline.ingest.exchange import Clocks, Connection, Message
from pipeline.ingest.kafka import Publisher
from pipeline.outputs import OutputError, claim_source
from pipeline.service import Service, backoff
from pipeline.times import now

#: How many of the last published trade ids are remembered, to suppress repeated ones; and how
#: many of them are read back from Kafka after a restart (an hour at the usual pace).
REMEMBERED = 200_000
READ_BACK = 20_000
#: What of a replay's own words makes up the source that a data folder remembers.
REPLAY_SOURCE = ("kind", "recording", "fingerprint", "retimed")
#: Seconds between two looks at the state of things.
LOOK_SECONDS = 0.25


class Producer:
    """Reads one connection after the other and publishes what it brings."""

    def __init__(self, service: Service, publisher: Publisher) -> None:
        self._service = service
        self._settings = service.settings
        self._publisher = publisher
        self._recent: dict[int, None] = {}
        self._next_look = 0.0
        #: What is listened to, as the connection's first answer says; None until it has come.
        self._feed: dict[str, Any] | None = None
        self._clocks = self._new_clocks()
        service.details |= {"feed": None, "last_trade": None, "connected": False}

    def remember_published(self) -> None:
        """Learns from Kafka what a producer before this one has published lately."""
        for record in topics.tail(self._settings, READ_BACK):
            received = times.from_epoch_millis(record.timestamp)
            try:
                valid = trade.decode(record.value or b"", self._settings.product_id, received)
            except trade.RefusedError:
                continue
            self._remember(valid.trade_id)
        self._service.log.info("remembers %d published trades", len(self._recent))

    def run(self) -> None:
        """Connects again and again, until the service is asked to stop."""
        delays = backoff()
        while not self._service.stop.is_set():
            good_before = self._good()
            try:
                self._read_connection()
            except (websocket.WebSocketException, OSError) as error:
                self._service.error(f"connection to {self._settings.feed_url}: {error}")
            if self._service.stop.is_set():
                break
            if self._good() > good_before:
                delays = backoff()
            delay = next(delays)
            self._service.counters["reconnects"] += 1
            self._service.details["connected"] = False
            self._service.report(
                "connecting", f"connects again to {self._settings.feed_url}", healthy=False
            )
            self._service.log.info("connecting again in %.1f s", delay)
            self._service.sleep(delay)

    def _new_clocks(self) -> Clocks:
        settings = self._settings
        return Clocks(settings.heartbeat_timeout_seconds, settings.tick_timeout_seconds)

    def _good(self) -> int:
        counters = self._service.counters
        return counters["published"] + counters["repeated"]

    def _read_connection(self) -> None:
        settings = self._settings
        connection = Connection(
            settings.feed_url, settings.product_id, max_bytes=settings.max_message_bytes
        )
        self._service.details["connected"] = True
        self._service.log.info("connected to %s", settings.feed_url)
        self._clocks = self._new_clocks()
        self._feed = None
        try:
            while not self._service.stop.is_set():
                message = connection.receive()
                if message is not None:
                    self._handle(message, now())
                self._look_around()
                if fault := self._clocks.fault(time.monotonic()):
                    raise websocket.WebSocketTimeoutException(fault)
        finally:
            connection.close()

    def _handle(self, message: Message, received: datetime) -> None:
        counters = self._service.counters
        counters["received"] += 1
        try:
            parsed = self._parse(message)
            kind = parsed.get("type")
            if isinstance(kind, str) and kind in trade.CONTROL_TYPES:
                self._on_control(parsed)
                counters["control"] += 1
                return
            if isinstance(kind, str) and kind != trade.TICKER:
                counters["ignored"] += 1
                return
            valid = trade.trade_of(parsed, self._settings.product_id, received)
        except trade.RefusedError as refusal:
            self._publisher.reject(message.data, message.size, str(refusal), received)
            counters["rejected"] += 1
            self._service.log.warning("rejected a message: %s", refusal)
            return
        self._clocks.on_tick(time.monotonic(), valid.trade_id)
        if valid.trade_id in self._recent:
            counters["repeated"] += 1
            return
        self._publisher.send(self._settings.kafka_topic, message.data, received)
        self._remember(valid.trade_id)
        counters["published"] += 1
        self._service.details["last_trade"] = {
            "trade_id": valid.trade_id,
            "price": valid.price,
            "time": valid.time,
            "received": received,
        }

    def _parse(self, message: Message) -> dict[str, Any]:
        if message.size > self._settings.max_message_bytes:
            raise trade.RefusedError(
                f"too long: {message.size} bytes, at most {self._settings.max_message_bytes}"
            )
        return trade.parse(message.data)

    def _remember(self, trade_id: int) -> None:
        self._recent[trade_id] = None
        if len(self._recent) > REMEMBERED:
            del self._recent[next(iter(self._recent))]

    def _on_control(self, message: dict[str, Any]) -> None:
        replay = message.get("replay")
        if message["type"] == "error":
            text = f"{message.get('message')}: {message.get('reason')}"
            self._service.error(f"the exchange answered: {text}")
        elif isinstance(replay, dict):
            self._learn_source({name: replay.get(name) for name in REPLAY_SOURCE}, replay)
        elif (self._feed or {}).get("kind") == "replay":
            return  # a recorded answer or heartbeat: the feed's own ones say what it is
        elif message["type"] == "subscriptions":
            live = {"kind": "live", "url": self._settings.feed_url}
            self._learn_source(live, {"state": "playing"})
        if message["type"] == "heartbeat":
            self._clocks.on_heartbeat(time.monotonic(), message)

    def _learn_source(self, source: dict[str, Any], state: dict[str, Any]) -> None:
        """Takes note of what is listened to; the folder takes one source only.

        Raises:
            OutputError: the folder was filled by another one.
        """
        if self._feed is None:
            try:
                claim_source(self._service.data, source)
            except OSError as error:  # not to be taken for one of the connection
                path = self._service.data.source
                raise OutputError(f"{path} cannot be written: {error}") from error
        self._feed = {"url": self._settings.feed_url, **source, **state}
        self._service.details["feed"] = self._feed

    def _look_around(self) -> None:
        """Says how things stand; while Kafka holds back, the socket is not read."""
        if not self._publisher.has_room():
            self._wait_for_room()
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._report()
            self._service.tick()

    def _wait_for_room(self) -> None:
        started = time.monotonic()
        while not self._publisher.has_room() and not self._service.stop.is_set():
            time.sleep(0.001)
            if self._publisher.away():
                self._report()
                self._service.tick()
        if time.monotonic() - started > LOOK_SECONDS:
            self._clocks.reset(time.monotonic())

    def _report(self) -> None:
        feed = self._feed
        if self._publisher.away():
            held = self._publisher.unacknowledged()
            message = f"Kafka does not answer; {held} messages are held"
            self._service.report("waiting for Kafka", message, healthy=False)
        elif feed is None:
            self._service.report("connecting", "awaits the first answer", healthy=False)
        elif self._clocks.ended:
            message = f"the replay of {feed.get('recording')} has ended"
            self._service.report("ended", message, healthy=True)
        elif feed["kind"] == "replay":
            words = "SYNTHETIC REPLAY" if feed.get("synthetic") else "REPLAY"
            message = f"{words} of {feed.get('recording')}"
            self._service.report("running", message, healthy=True)
        else:
            self._service.report("running", f"LIVE from {feed['url']}", healthy=True)
