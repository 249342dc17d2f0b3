"""Publish the messages of the feed to Kafka: valid trades once each, invalid ones as dead letters.

Every received message is counted under exactly one outcome: `published`, `repeated`,
`conflicting`, `rejected`, `control` or `ignored`. A trade that `backfill` recovers is no received
message: it is counted as `backfilled`.
"""

import time
from collections import deque
from datetime import datetime, timedelta
from typing import Any

from pipeline import times
from pipeline.ingest import kafka, trade
from pipeline.ingest.backfill import Backfill
from pipeline.ingest.dead_letters import DeadLetters
from pipeline.ingest.exchange_clock import ExchangeClock
from pipeline.ingest.exchange_connection import FeedWatchdog, Message
from pipeline.ingest.id_ranges import IdRanges
from pipeline.ingest.published import PublishedTrades
from pipeline.ingest.unusable import SameRejections
from pipeline.service import Service
from pipeline.source import REPETITION, claim

#: How many records are read back from Kafka after a restart: an hour at the usual rate.
RESTORED_RECORDS = 20_000
#: The fields in a replay's answers that identify the source of a data directory.
REPLAY_SOURCE = ("kind", "recording", "fingerprint", "retimed")
#: How many messages are held at most until the clock is known, and for how many seconds. The
#: exchange sends a heartbeat per second.
HELD_MESSAGES = 10_000
HOLD_SECONDS = 10.0
#: Seconds between two reports of the state.
REPORT_SECONDS = 0.25


class Publisher:
    """Handles the messages of a feed: a `Handler` of `exchange_connection.Feed`."""

    def __init__(self, service: Service, sender: kafka.Sender) -> None:
        self._service = service
        self._settings = service.settings
        self._sender = sender
        self._dead_letters = DeadLetters(service, sender)
        self._published = PublishedTrades()
        self._rejections = SameRejections()
        #: The beginning of the newest unusable period that was logged.
        self._unusable_since: datetime | None = None
        self._clock = ExchangeClock()
        #: Trades in the future, according to a clock that may be wrong: message, and receipt in
        #: monotonic seconds. They are handled when the clock is checked.
        self._held: deque[tuple[Message, float]] = deque()
        self._held_until = 0.0
        self._topic_id = sender.topic_id()
        self._next_report = 0.0
        self._watchdog: FeedWatchdog  # of the connection that is read: see `on_connect`
        #: The source, from the first answer of a connection; None before it.
        self._feed: dict[str, Any] | None = None
        self._backfill = Backfill(
            service, self._publish_backfilled, self._reject_backfilled, sender.has_room, self._now
        )
        service.details |= {"feed": None, "last_trade": None, "unusable": None}

    def restore_published(self) -> None:
        """Read from Kafka which trades were published before this start.

        Raises:
            KafkaError, TemporaryError: Kafka does not answer.
        """
        ids, records = IdRanges(), []
        for record in kafka.newest_records(self._settings, RESTORED_RECORDS):
            received = times.from_epoch_millis(record.timestamp)
            records.append((record.offset, received))
            try:
                valid = trade.decode(record.value or b"", self._settings.product_id, received)
            except trade.InvalidTradeError:
                continue
            self._published.add(valid)
            ids.add(valid.trade_id)
        self._service.log.info("published trades restored from Kafka: %d", len(self._published))
        if records:
            self._backfill.restore(ids, first_offset=records[0][0], newest=records[-1][1])

    def on_connect(self, watchdog: FeedWatchdog) -> None:
        self._watchdog = watchdog
        self._feed = None
        self._rejections.on_connect()
        self._service.details["unusable"] = None

    def on_message(self, message: Message, received: datetime) -> None:
        """Handle one message and count its outcome.

        Raises:
            KafkaError: Kafka rejected a record permanently.
            TemporaryError: the service was asked to stop while Kafka did not answer.
            OutputError: another feed filled the data directory.
        """
        self._service.counters["received"] += 1
        received = self._clock.correct(time.monotonic(), received)
        try:
            self._count(self._outcome(message, received))
        except trade.FutureTradeError as error:
            if not self._hold(message):
                self._reject(message, received, error)
        except trade.InvalidTradeError as error:
            self._reject(message, received, error)

    def _count(self, outcome: str) -> None:
        self._service.counters[outcome] += 1

    def _reject(self, message: Message, received: datetime, why: trade.InvalidTradeError) -> None:
        self._dead_letters.reject(message.data, message.size, str(why), received)
        self._service.warn_about_message(f"rejected a message: {why}")
        self._watchdog.rejected = str(why)
        self._rejections.on_rejected(str(why), received)
        self._count("rejected")

    def _hold(self, message: Message) -> bool:
        """Keep a message until heartbeats show whether this machine's clock is behind.

        Returns:
            False if that is known, or if too many messages are kept.
        """
        if self._clock.is_known() or len(self._held) >= HELD_MESSAGES:
            return False
        if not self._held:
            self._held_until = time.monotonic() + HOLD_SECONDS
        self._held.append((message, time.monotonic()))
        return True

    def _release(self) -> None:
        """Handle the held messages. Compute their times of receipt from the current clock.

        NTP may have set the clock since the receipt.
        """
        while self._held:
            message, at = self._held.popleft()
            passed = timedelta(seconds=time.monotonic() - at)
            received = self._clock.correct(at, times.now() - passed)
            try:
                self._count(self._outcome(message, received))
            except trade.InvalidTradeError as error:
                self._reject(message, received, error)

    def close(self) -> None:
        """Handle the held messages, and ask the threads of the backfill to end."""
        self._release()
        self._backfill.close()

    def _outcome(self, message: Message, received: datetime) -> str:
        if message.size > self._settings.max_message_bytes:
            limit = self._settings.max_message_bytes
            raise trade.InvalidTradeError(f"too long: {message.size} bytes, at most {limit}")
        parsed = trade.parse(message.data)
        kind = parsed.get("type")
        if isinstance(kind, str) and kind in trade.CONTROL_TYPES:
            self._on_control(parsed)
            return "control"
        if isinstance(kind, str) and kind != trade.TICKER:
            return "ignored"
        valid = trade.trade_of(parsed, self._settings.product_id, received)
        return self._publish(valid, message.data, received)

    def _publish(self, valid: trade.Trade, raw: bytes, received: datetime) -> str:
        self._watchdog.on_trade(time.monotonic(), valid.trade_id)
        self._rejections.on_trade()
        self._backfill.on_received(valid.trade_id, valid.time)
        outcome = self._published.outcome(valid)
        if outcome == "repeated":
            return outcome
        if outcome == "conflicting":
            self._service.warn_about_message(
                f"trade {valid.trade_id} has other content than before"
            )
        self._sender.send(self._settings.kafka_topic, raw, received)
        self._published.add(valid)
        self._service.details["last_trade"] = {
            "trade_id": valid.trade_id,
            "price": valid.price,
            "time": valid.time,
            "received": received,
        }
        return outcome

    def _now(self) -> datetime:
        """Return the time of this machine, corrected if its clock is behind the exchange's."""
        return self._clock.correct(time.monotonic(), times.now())

    def _publish_backfilled(self, valid: trade.Trade, message: bytes) -> None:
        topic = self._settings.kafka_topic
        self._sender.send(topic, message, self._now(), [(trade.BACKFILL_HEADER, b"rest")])
        self._published.add(valid)
        self._service.counters["backfilled"] += 1

    def _reject_backfilled(self, message: bytes, reason: str) -> None:
        self._dead_letters.reject(message, len(message), reason, self._now())
        self._service.warn_about_message(f"rejected a backfilled trade: {reason}")
        self._service.counters["backfill_rejected"] += 1

    def _on_control(self, message: dict[str, Any]) -> None:
        kind, replay = message["type"], message.get("replay")
        if kind == "error":
            text = self._watchdog.on_error(message)
            self._service.error(f"the exchange sent an error: {text}")
            return
        if isinstance(replay, dict):
            identity = {name: replay.get(name) for name in REPLAY_SOURCE}
            repetition = {name: replay[name] for name in REPETITION if name in replay}
            self._set_source(identity | repetition, replay)
        elif self._feed is not None and self._feed["kind"] == "replay":
            return  # part of the recording; the replay's own messages describe the feed
        elif kind == "subscriptions":
            live = {"kind": "live", "url": self._settings.feed_url}
            self._set_source(live, {"state": "playing"})
        if kind == "subscriptions":
            self._watchdog.on_subscribed()
        elif kind == "heartbeat":
            self._watchdog.on_heartbeat(time.monotonic(), message)
            self._clock.on_heartbeat(time.monotonic(), message.get("time"))

    def _set_source(self, source: dict[str, Any], state: dict[str, Any]) -> None:
        """Record which feed this is. A data directory belongs to one feed.

        Raises:
            OutputError: another feed filled the data directory.
        """
        if self._feed is None:
            claim(self._service.data, self._settings, source)
        self._feed = {"url": self._settings.feed_url, **source, **state}
        self._service.details["feed"] = self._feed

    def after_read(self) -> None:
        """Report the state when it is due. Stop reading while too much is unacknowledged."""
        if self._held and (self._clock.is_known() or time.monotonic() > self._held_until):
            self._release()
        if not self._sender.has_room():
            self._wait_for_room()
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + REPORT_SECONDS
            self._forget_another_topic()
            self._backfill.step()
            self._report()
            self._service.tick()

    def _forget_another_topic(self) -> None:
        """Forget the published trades if the topic was created again: it does not hold them.

        The feed may send them again, and the backfill requests them again. A trade that the new
        topic already holds is then published twice, which changes no result.
        """
        found = self._sender.topic_id()
        if found in {None, self._topic_id}:
            return
        self._service.error(
            f"topic {self._settings.kafka_topic} was created again and is empty: the producer "
            f"requests the trades of the last {self._settings.backfill_seconds:.0f} s again. The "
            f"topic id was {self._topic_id} and is now {found}"
        )
        self._topic_id = found
        self._published = PublishedTrades()
        self._backfill.forget()

    def _wait_for_room(self) -> None:
        while not self._sender.has_room() and not self._service.stop.is_set():
            time.sleep(0.001)
            if self._sender.is_stalled():
                self._report()
                self._service.tick()

    def _report(self) -> None:
        feed = self._feed
        self._report_unusable()
        if self._sender.is_stalled():
            buffered = self._sender.unacknowledged()
            message = f"{self._sender.stall()}. Messages in the buffer: {buffered}"
            self._service.report("waiting for Kafka", message, healthy=False)
        elif refusal := self._watchdog.refusal():
            self._service.report("refused", str(refusal), healthy=False)
        elif feed is None:
            self._report_connecting()
        elif problem := self._clock.problem(time.monotonic(), times.now()):
            self._service.report("running", problem, healthy=False)
        elif self._watchdog.ended:
            message = f"the replay of {feed.get('recording')} has ended"
            self._service.report("ended", message, healthy=True)
        elif feed["kind"] == "replay":
            label = "SYNTHETIC REPLAY" if feed.get("synthetic") else "REPLAY"
            self._service.report("running", f"{label} of {feed.get('recording')}", healthy=True)
        else:
            self._service.report("running", f"LIVE from {feed['url']}", healthy=True)

    def _report_unusable(self) -> None:
        """Show in the status that no message is usable. Log this once, even after a reconnect."""
        unusable = self._rejections.as_status()
        if unusable and unusable["since"] != self._unusable_since:
            self._service.error(unusable["text"])
            self._unusable_since = unusable["since"]
        self._service.details["unusable"] = unusable

    def _report_connecting(self) -> None:
        """Report that the exchange has sent nothing yet. The cause stays until something works."""
        message = f"waiting for the first answer from {self._settings.feed_url}"
        fault = self._watchdog.previous_fault
        if fault is None:
            self._service.report("connecting", message, healthy=False)
        else:
            text = f"{fault.problem}. Connected again, {message}. Details of the failure: "
            self._service.report(fault.state, text + fault.details, healthy=False)
