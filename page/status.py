"""The state of the feed and of each service: live, stale or down, and why.

Status files come from other processes: every field may be missing or of another type.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from page import formatting
from pipeline import outputs
from pipeline.health import READ_THE_LOG, STALE_SECONDS, no_status_text, unhealthy_text
from pipeline.outputs import SERVICE_STOPPED, SERVICES
from pipeline.source import REPETITION, feed_description, is_as_recorded

PRODUCER, CONSUMER, STREAM, SCHEDULER = SERVICES

#: Seconds without a trade after which the feed counts as stale; the longest silence in two hours
#: of recorded BTC-USD was 8 s.
STALE_TRADE_SECONDS = 30.0
#: Seconds after its start in which a service may wait for others: all start at once.
GRACE_SECONDS = 30.0
#: Seconds by which the stream's newest trade may be behind the producer's.
STALE_STREAM_SECONDS = 30.0

Condition = Literal["ok", "starting", "unhealthy", "silent", "stopped", "absent", "unreadable"]
Word = Literal["LIVE", "REPLAY", "WAITING", "STALE", "UNUSABLE", "DOWN", "ENDED"]


@dataclass(frozen=True)
class ServiceStatus:
    """The status file of a service. `problem` is why it could not be read."""

    name: str
    fields: Mapping[str, Any]
    problem: str | None = None
    #: The newest row of its per-minute records.
    minute: Mapping[str, Any] = field(default_factory=dict)
    #: The sentence about the disk of the data directory if it is full (`pipeline.health`).
    full_disk: str | None = None

    def part(self, name: str) -> Mapping[str, Any]:
        return outputs.part(self.fields, name)

    def number(self, name: str) -> float | None:
        return formatting.number(self.fields.get(name))

    def moment(self, name: str) -> datetime | None:
        return formatting.moment(self.fields.get(name))

    def text(self, name: str) -> str:
        return formatting.text(self.fields.get(name))


def condition(service: ServiceStatus, now: datetime) -> Condition:
    """Return the condition of a service according to its status file."""
    if service.problem is not None:
        return "unreadable"
    updated = service.moment("updated")
    if updated is None:
        return "unreadable" if service.fields else "absent"
    if service.fields.get("state") == SERVICE_STOPPED:
        return "stopped"
    if (now - updated).total_seconds() > STALE_SECONDS:
        return "silent"
    if service.fields.get("healthy") is True:
        return "ok"
    started = service.moment("started")
    young = started is not None and (updated - started).total_seconds() < GRACE_SECONDS
    return "starting" if young or service.fields.get("state") == "starting" else "unhealthy"


def sentence(service: ServiceStatus, now: datetime, *, with_action: bool = True) -> str:
    """Return what a service does now, and what to do if its status file does not explain it."""
    name = service.name
    match condition(service, now):
        case "absent":
            return _without_status(service, f"{name} has not started yet", "", with_action)
        case "unreadable":
            no_time = f"the status of {name} has no heartbeat time. Check that the service runs"
            return formatting.text(service.problem or no_time)  # the problem names the file
        case "stopped":
            ago = formatting.ago(service.moment("updated"), now)
            return _without_status(service, f"{name} stopped {ago}", "Start it again", with_action)
        case "silent":
            quiet = formatting.age(formatting.seconds_since(service.moment("updated"), now))
            text = f"no heartbeat from {name} for {quiet}"
            return _without_status(service, text, READ_THE_LOG, with_action)
        case "starting":
            started = formatting.age(formatting.seconds_since(service.moment("started"), now))
            starts = service.number("starts") or 1
            restarts = f" ({formatting.many(starts - 1, 'restart')})" if starts > 1 else ""
            message = service.text("message")
            message = "" if message in (formatting.DASH, "starting") else f": {message}"
            return f"{name} has been starting for {started}{restarts}{message}"
        case _:
            return unhealthy_text(name, service.text("state"), service.text("message"))


def _without_status(service: ServiceStatus, text: str, action: str, with_action: bool) -> str:
    return no_status_text(text, action, service.full_disk) if with_action else text


@dataclass(frozen=True)
class Feed:
    """The feed that the producer reads. `kind` is `live`, `replay` or None while unknown."""

    kind: str | None
    synthetic: bool
    as_recorded: bool
    ended: bool
    name: str


def feed_of(producer: ServiceStatus, source: Mapping[str, Any]) -> Feed:
    """Return the feed from the producer's status, or else from `source.json`."""
    published = producer.part("feed")
    known = published or source
    kind = known.get("kind") if known.get("kind") in ("live", "replay") else None
    pace = _pace(known.get("speed")) if kind == "replay" else ""
    return Feed(
        kind=kind,
        synthetic=known.get("synthetic") is True,
        as_recorded=is_as_recorded(known),
        ended=kind == "replay" and published.get("state") == "ended",
        name=formatting.text(f"{feed_description(known) or 'unknown feed'}{pace}"),
    )


def repetition(services: Mapping[str, ServiceStatus], source: Mapping[str, Any]) -> dict[str, Any]:
    """Return when a re-timed recording starts again: see `pipeline.source.seams`."""
    feed = services[PRODUCER].part("feed") or source
    return {name: feed.get(name) for name in REPETITION}


def _pace(speed: object) -> str:
    if speed == "max":
        return ", as fast as possible"
    factor = formatting.number(speed)
    return "" if factor in (None, 1) else f", at {factor:g}{formatting.TIMES} speed"


@dataclass(frozen=True)
class LastTrade:
    """The newest trade that the producer received.

    `age_s` counts from its event time. For a recording with its original timestamps it counts
    from its time of receipt. `counted_from` is which of the two.
    """

    price: float | None
    time: datetime | None
    age_s: float | None
    counted_from: Literal["event time", "receipt"]


def last_trade(producer: ServiceStatus, feed: Feed, now: datetime) -> LastTrade:
    """Return the newest trade from the producer's status."""
    trade = producer.part("last_trade")
    time, received = formatting.moment(trade.get("time")), formatting.moment(trade.get("received"))
    by_receipt = feed.as_recorded or time is None
    return LastTrade(
        price=formatting.number(trade.get("price")),
        time=time,
        age_s=formatting.seconds_since(received if by_receipt else time, now),
        counted_from="receipt" if by_receipt else "event time",
    )


def age_of(trade: LastTrade) -> str:
    """Return the age of the last trade in words."""
    if trade.age_s is None:
        return f"last trade {formatting.DASH}"
    if trade.counted_from == "event time":
        return f"last trade {formatting.age(max(trade.age_s, 0.0))} ago"
    own = f" (event time {formatting.day_and_clock(trade.time)})" if trade.time else ""
    return f"last trade received {formatting.age(max(trade.age_s, 0.0))} ago{own}"


@dataclass(frozen=True)
class FeedState:
    """The word in the header, the reason in a sentence, and the service that causes it."""

    word: Word
    reason: str
    cause: str | None = None


@dataclass(frozen=True)
class _Evidence:
    """What the state of the feed is decided from."""

    services: Mapping[str, ServiceStatus]
    feed: Feed
    trade: LastTrade
    now: datetime

    def condition(self, name: str) -> Condition:
        return condition(self.services[name], self.now)

    def sentence(self, name: str) -> str:
        return sentence(self.services[name], self.now)


def feed_state(
    services: Mapping[str, ServiceStatus], source: Mapping[str, Any], now: datetime
) -> FeedState:
    """Return the state of the feed: the first fault on the way from the exchange to the page."""
    feed = feed_of(services[PRODUCER], source)
    seen = _Evidence(services, feed, last_trade(services[PRODUCER], feed, now), now)
    found = _producer_fault(seen)
    if found is None and (unusable := unusable_feed(services)):
        found = FeedState("UNUSABLE", unusable, "feed")
    found = found or _feed_fault(seen) or _stream_fault(seen)
    if found is not None:
        return found
    if feed.kind is None:
        return FeedState(
            "WAITING", "the producer receives trades and has not published the name of the feed yet"
        )
    return FeedState("REPLAY" if feed.kind == "replay" else "LIVE", feed.name)


def _producer_fault(seen: _Evidence) -> FeedState | None:
    if all(seen.condition(name) == "absent" for name in seen.services):
        full = seen.services[PRODUCER].full_disk
        return FeedState("WAITING", no_status_text("no service has started yet", "", full))
    match seen.condition(PRODUCER):
        case "absent" | "starting":
            return FeedState("WAITING", seen.sentence(PRODUCER), PRODUCER)
        case "silent" | "stopped" | "unreadable":
            return FeedState("DOWN", seen.sentence(PRODUCER), PRODUCER)
    return None


def _feed_fault(seen: _Evidence) -> FeedState | None:
    if seen.feed.ended:
        ended = "the recording has ended. The last windows stay open"
        return FeedState("ENDED", f"{seen.feed.name}: {ended}")
    if seen.services[PRODUCER].fields.get("connected") is False:
        return FeedState(
            "DOWN", f"no connection to the feed: {seen.services[PRODUCER].text('message')}", "feed"
        )
    if seen.condition(PRODUCER) == "unhealthy":
        return FeedState("DOWN", seen.sentence(PRODUCER), PRODUCER)
    if seen.trade.age_s is None:
        return FeedState("WAITING", "connected to the feed, no trade yet", "feed")
    if seen.trade.age_s > STALE_TRADE_SECONDS:
        quiet = formatting.age(seen.trade.age_s)
        return FeedState("STALE", f"connected to the feed, but no trade for {quiet}", "feed")
    return None


def unusable_feed(services: Mapping[str, ServiceStatus]) -> str:
    """Return why no message of the feed is usable; empty if trades are usable.

    Without a connection it is empty too: the producer receives no message then.
    """
    producer = services[PRODUCER]
    connected = producer.fields.get("connected") is not False
    unusable = producer.part("unusable") if connected else {}
    return formatting.text(unusable.get("text")) if unusable else ""


def _stream_fault(seen: _Evidence) -> FeedState | None:
    if seen.condition(STREAM) in ("silent", "stopped", "unreadable", "unhealthy"):
        return FeedState("STALE", seen.sentence(STREAM), STREAM)
    time, newest = seen.trade.time, seen.services[STREAM].moment("newest_trade")
    # With original timestamps, event time passes at the speed of the replay.
    if (
        time
        and newest
        and not seen.feed.as_recorded
        and (time - newest).total_seconds() > STALE_STREAM_SECONDS
    ):
        late = formatting.age((time - newest).total_seconds())
        return FeedState("STALE", f"the stream is {late} behind the feed", STREAM)
    return None


def problems(services: Mapping[str, ServiceStatus], now: datetime) -> list[str]:
    """Return a sentence for each service that does not do its work.

    Several services often end together. Only the first sentence of a condition has the action, so
    that all of them fit on one line.
    """
    found = []
    seen: set[Condition] = set()
    for service in services.values():
        found_in = condition(service, now)
        if found_in in ("ok", "absent"):
            continue
        found.append(sentence(service, now, with_action=found_in not in seen))
        seen.add(found_in)
    return found + _absent(services, now)


def _absent(services: Mapping[str, ServiceStatus], now: datetime) -> list[str]:
    names = [name for name in services if condition(services[name], now) == "absent"]
    if not names or len(names) == len(services):
        return []
    return [f"not started yet: {', '.join(names)}"]


@dataclass(frozen=True)
class Rate:
    """Messages per second over the newest recorded minute, which ended at `until`."""

    counter: str
    per_second: float
    until: datetime


#: The counter of what a service processes.
_RATES = {PRODUCER: "received", CONSUMER: "records", STREAM: "rows"}
#: Seconds after which a recorded minute is too old to show.
STALE_MINUTE_SECONDS = 150.0


def rate(service: ServiceStatus, now: datetime) -> Rate | None:
    """Return the service's rate over the last minute; None when unknown."""
    counter, until = _RATES.get(service.name), formatting.moment(service.minute.get("at"))
    seconds = formatting.number(service.minute.get("seconds"))
    if counter is None or until is None or not seconds:
        return None
    if (now - until).total_seconds() > STALE_MINUTE_SECONDS:
        return None
    try:
        counted = formatting.number(json.loads(service.minute["counters"]).get(counter))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return None if counted is None else Rate(counter, counted / seconds, until)


@dataclass(frozen=True)
class RejectedMessage:
    """A rejected message: the service, the time of receipt, the reason and its beginning."""

    service: str
    received: datetime | None
    reason: str
    message: str
    size: float | None


def latest_rejected(services: Mapping[str, ServiceStatus]) -> list[RejectedMessage]:
    """Return the latest rejected messages of all services, newest first."""
    found = [
        RejectedMessage(
            service=service.name,
            received=formatting.moment(fields.get("received")),
            reason=formatting.text(fields.get("reason")),
            message=formatting.text(fields.get("message")),
            size=formatting.number(fields.get("bytes")),
        )
        for service in services.values()
        if isinstance(latest := service.part("rejected").get("latest"), list)
        for fields in latest
        if isinstance(fields, Mapping)
    ]
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda one: one.received or oldest, reverse=True)


def rejected_by_reason(services: Mapping[str, ServiceStatus]) -> dict[str, float]:
    """Return how many messages were rejected since the services started, most frequent first.

    Returns:
        By reason. NaN: unknown.
    """
    counted: dict[str, float] = {}
    for service in services.values():
        by_reason = service.part("rejected").get("reasons")
        for reason, n in by_reason.items() if isinstance(by_reason, Mapping) else ():
            known = formatting.number(n)
            counted[str(reason)] = counted.get(str(reason), 0) + (
                math.nan if known is None else known
            )
    return dict(sorted(counted.items(), key=lambda pair: (math.isnan(pair[1]), -pair[1])))
