"""What the services say of themselves, and what follows for the reader: live, stale, down, why.

Status files come from other processes: every field may be missing or of another type.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from page import formatting as words
from pipeline.health import STALE_SECONDS

PRODUCER = "producer"
CONSUMER = "consumer"
STREAM = "spark_processor"
SCHEDULER = "batch_scheduler"
#: The services that write a status, in the order in which data passes them.
SERVICES = (PRODUCER, CONSUMER, STREAM, SCHEDULER)

#: Seconds without a trade after which the feed counts as stale; the longest silence in two hours
#: of recorded BTC-USD was 8 s.
STALE_TRADE_SECONDS = 30.0
#: Seconds from its start in which a service may still be waiting for others: all start at once.
GRACE_SECONDS = 30.0
#: Seconds that the stream's newest trade may be behind the producer's.
STALE_STREAM_SECONDS = 30.0

Condition = Literal["ok", "starting", "trouble", "silent", "stopped", "absent", "unreadable"]
Word = Literal["LIVE", "REPLAY", "WAITING", "STALE", "DOWN", "ENDED"]


@dataclass(frozen=True)
class Service:
    """One service's status file; `problem` says why it could not be read."""

    name: str
    fields: Mapping[str, Any]
    problem: str | None = None
    #: The newest row of its record of minutes.
    minute: Mapping[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> Mapping[str, Any]:
        """A nested object; empty when it is missing or something else."""
        value = self.fields.get(name)
        return value if isinstance(value, Mapping) else {}

    def number(self, name: str) -> float | None:
        return words.number(self.fields.get(name))

    def moment(self, name: str) -> datetime | None:
        return words.moment(self.fields.get(name))

    def said(self, name: str) -> str:
        return words.text(self.fields.get(name))


def condition(service: Service, now: datetime) -> Condition:
    if service.problem is not None:
        return "unreadable"
    updated = service.moment("updated")
    if updated is None:
        return "unreadable" if service.fields else "absent"
    if service.fields.get("state") == "stopped":
        return "stopped"
    if (now - updated).total_seconds() > STALE_SECONDS:
        return "silent"
    if service.fields.get("healthy") is True:
        return "ok"
    started = service.moment("started")
    young = started is not None and (updated - started).total_seconds() < GRACE_SECONDS
    return "starting" if young or service.fields.get("state") == "starting" else "trouble"


def sentence(service: Service, now: datetime) -> str:
    """What is to be known of a service, in one plain sentence."""
    name = service.name
    match condition(service, now):
        case "absent":
            return f"{name} has not written a status yet"
        case "unreadable":
            why = words.text(service.problem) if service.problem else "it holds no time of writing"
            return f"the status of {name} cannot be read: {why}"
        case "stopped":
            return f"{name} was stopped {words.ago(service.moment('updated'), now)}"
        case "silent":
            quiet = words.age(words.seconds_since(service.moment("updated"), now))
            return f"{name} has not been heard of for {quiet}"
        case "starting":
            started = words.age(words.seconds_since(service.moment("started"), now))
            starts = service.number("starts") or 1
            again = f", its start number {starts:.0f}" if starts > 1 else ""
            said = service.said("message")
            said = "" if said in (words.DASH, "starting") else f": {said}"
            return f"{name} is starting, for {started} so far{again}{said}"
        case _:
            return f"{name} is {service.said('state')}: {service.said('message')}"


@dataclass(frozen=True)
class Feed:
    """Which feed is read. `kind` is `live`, `replay` or None while unknown."""

    kind: str | None
    synthetic: bool
    as_recorded: bool
    ended: bool
    name: str


def feed_of(producer: Service, source: Mapping[str, Any]) -> Feed:
    """From the producer's status, else from what `source.json` remembers of the data folder."""
    said = producer.part("feed")
    known = said or source
    kind = known.get("kind") if known.get("kind") in ("live", "replay") else None
    recording = words.text(known.get("recording"))
    as_recorded = kind == "replay" and known.get("retimed") is False
    if kind == "live":
        name = f"the live feed {words.text(known.get('url'))}"
    elif kind == "replay":
        pace = _pace(known.get("speed"))
        times = "with its own times" if as_recorded else "re-timed to now"
        name = f"a replay of {recording}, {times}{pace}"
    else:
        name = "a feed that is not known yet"
    return Feed(
        kind=kind,
        synthetic=known.get("synthetic") is True,
        as_recorded=as_recorded,
        ended=kind == "replay" and said.get("state") == "ended",
        name=name,
    )


def _pace(speed: object) -> str:
    if speed == "max":
        return ", as fast as it is read"
    factor = words.number(speed)
    return "" if factor in (None, 1) else f", at {factor:g} times its pace"


@dataclass(frozen=True)
class LastTrade:
    """The newest trade that the producer received.

    `age_s` is counted from its event time, or, where event times are those of an old recording,
    from its receipt; `counted_from` says which.
    """

    price: float | None
    time: datetime | None
    age_s: float | None
    counted_from: Literal["event time", "receipt"]


def last_trade(producer: Service, feed: Feed, now: datetime) -> LastTrade:
    trade = producer.part("last_trade")
    time, received = words.moment(trade.get("time")), words.moment(trade.get("received"))
    by_receipt = feed.as_recorded or time is None
    return LastTrade(
        price=words.number(trade.get("price")),
        time=time,
        age_s=words.seconds_since(received if by_receipt else time, now),
        counted_from="receipt" if by_receipt else "event time",
    )


def age_words(trade: LastTrade) -> str:
    """The age of the last trade, and what it is counted from where that is not its own time."""
    if trade.age_s is None:
        return f"last trade {words.DASH}"
    if trade.counted_from == "event time":
        return f"last trade {words.age(max(trade.age_s, 0.0))} ago"
    own = f", its own time is {words.day_and_clock(trade.time)}" if trade.time else ""
    return f"last trade received {words.age(max(trade.age_s, 0.0))} ago{own}"


@dataclass(frozen=True)
class Verdict:
    """The word at the top of the page, the reason in a sentence, and the service at fault."""

    word: Word
    reason: str
    cause: str | None = None


@dataclass(frozen=True)
class _Look:
    """What the verdict is made from."""

    services: Mapping[str, Service]
    feed: Feed
    trade: LastTrade
    now: datetime

    def state(self, name: str) -> Condition:
        return condition(self.services[name], self.now)

    def says(self, name: str) -> str:
        return sentence(self.services[name], self.now)


def verdict(services: Mapping[str, Service], source: Mapping[str, Any], now: datetime) -> Verdict:
    """What the reader must know before believing anything below it: the first fault on the way."""
    feed = feed_of(services[PRODUCER], source)
    look = _Look(services, feed, last_trade(services[PRODUCER], feed, now), now)
    found = _producer_at_fault(look) or _feed_at_fault(look) or _stream_at_fault(look)
    if found is not None:
        return found
    if feed.kind is None:
        return Verdict("WAITING", "trades come, but the producer has not said yet from which feed")
    return Verdict("REPLAY" if feed.kind == "replay" else "LIVE", feed.name)


def _producer_at_fault(look: _Look) -> Verdict | None:
    if all(look.state(name) == "absent" for name in look.services):
        return Verdict("WAITING", "no service has written a status yet")
    match look.state(PRODUCER):
        case "absent" | "starting":
            return Verdict("WAITING", look.says(PRODUCER), PRODUCER)
        case "silent" | "stopped" | "unreadable":
            return Verdict("DOWN", look.says(PRODUCER), PRODUCER)
    return None


def _feed_at_fault(look: _Look) -> Verdict | None:
    if look.feed.ended:
        said = "it has ended, no more trades will come; the windows that are open stay so"
        return Verdict("ENDED", f"{look.feed.name}: {said}")
    if look.services[PRODUCER].fields.get("connected") is False:
        return Verdict("DOWN", f"no connection to the feed; {look.says(PRODUCER)}", "feed")
    if look.state(PRODUCER) == "trouble":
        return Verdict("DOWN", look.says(PRODUCER), PRODUCER)
    if look.trade.age_s is None:
        return Verdict("WAITING", "connected to the feed, no trade yet", "feed")
    if look.trade.age_s > STALE_TRADE_SECONDS:
        quiet = words.age(look.trade.age_s)
        return Verdict("STALE", f"connected to the feed, but no trade for {quiet}", "feed")
    return None


def _stream_at_fault(look: _Look) -> Verdict | None:
    if look.state(STREAM) in ("silent", "stopped", "unreadable", "trouble"):
        return Verdict("STALE", f"the stream's windows stand still: {look.says(STREAM)}", STREAM)
    time, newest = look.trade.time, look.services[STREAM].moment("newest_trade")
    # Times of an old recording pass at whatever pace it is replayed.
    if (
        time
        and newest
        and not look.feed.as_recorded
        and (time - newest).total_seconds() > STALE_STREAM_SECONDS
    ):
        late = words.age((time - newest).total_seconds())
        return Verdict("STALE", f"the stream's windows are {late} behind the feed", STREAM)
    return None


def troubles(services: Mapping[str, Service], now: datetime) -> list[str]:
    """A sentence for each service that does not do its job now."""
    return [
        sentence(service, now)
        for service in services.values()
        if condition(service, now) not in ("ok", "absent")
    ] + _absent(services, now)


def _absent(services: Mapping[str, Service], now: datetime) -> list[str]:
    names = [name for name in services if condition(services[name], now) == "absent"]
    if not names or len(names) == len(services):
        return []
    return [f"not started yet: {', '.join(names)}"]


def lag(service: Service) -> float | None:
    """Kafka records that the service has not taken in yet."""
    return service.number("lag")


@dataclass(frozen=True)
class Rate:
    """How many a second over the newest minute on record, which ended at this moment."""

    counter: str
    per_second: float
    until: datetime


#: What a service takes in, by the name of its counter.
_RATES = {PRODUCER: "received", CONSUMER: "records", STREAM: "rows"}
#: A minute on record that ended longer ago says nothing of now, seconds.
STALE_MINUTE_SECONDS = 150.0


def rate(service: Service, now: datetime) -> Rate | None:
    """The service's pace over the last minute; None: unknown."""
    counter, until = _RATES.get(service.name), words.moment(service.minute.get("at"))
    seconds = words.number(service.minute.get("seconds"))
    if counter is None or until is None or not seconds:
        return None
    if (now - until).total_seconds() > STALE_MINUTE_SECONDS:
        return None
    try:
        counted = words.number(json.loads(service.minute["counters"]).get(counter, 0))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return None if counted is None else Rate(counter, counted / seconds, until)


@dataclass(frozen=True)
class Rejection:
    """A refused message: who refused it, when it was received, why, and its beginning."""

    service: str
    received: datetime | None
    reason: str
    message: str
    size: float | None


def rejections(services: Mapping[str, Service]) -> list[Rejection]:
    """The latest refused messages of all services, the newest first."""
    found = []
    for service in services.values():
        latest = service.part("rejected").get("latest")
        for said in latest if isinstance(latest, list) else []:
            if isinstance(said, Mapping):
                reason, message = words.text(said.get("reason")), words.text(said.get("message"))
                received, size = words.moment(said.get("received")), words.number(said.get("bytes"))
                found.append(Rejection(service.name, received, reason, message, size))
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda one: one.received or oldest, reverse=True)


def reasons(services: Mapping[str, Service]) -> dict[str, float]:
    """How many messages were refused since the services' starts, by reason, most first."""
    counted: dict[str, float] = {}
    for service in services.values():
        said = service.part("rejected").get("reasons")
        for reason, n in said.items() if isinstance(said, Mapping) else ():
            counted[str(reason)] = counted.get(str(reason), 0) + (words.number(n) or 0)
    return dict(sorted(counted.items(), key=lambda pair: -pair[1]))
