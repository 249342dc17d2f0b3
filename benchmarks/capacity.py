"""Find the highest rate at which a stream does not fall behind. Pure functions and one search."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import linear_regression
from typing import NamedTuple

#: The lag is flat if it grows by at most this share of the rate.
FLAT = 0.02
#: In the short steps of the search, a growth of at most this share of the rate counts as flat.
GROWS = 0.25
#: With fewer publications in a step, the growth of the lag is unknown.
LEAST_PUBLICATIONS = 3
#: The share of the messages due that a sender must send. With less, the sender is the limit.
SENT = 0.97
#: The rate is held at these shares of the rate at which the stream reads a backlog, until the lag
#: is flat.
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


class Publication(NamedTuple):
    """A micro-batch: when its results became readable (Unix time), and how many records it had."""

    at: float
    rows: int


class Moment(NamedTuple):
    """A time, in seconds, and a number of messages."""

    at: float
    messages: float


@dataclass(frozen=True)
class Step:
    """What happened while the sender sent at one rate.

    Attributes:
        rate: the messages per second that were due.
        sent: the messages per second that all in-sync replicas got.
        read: the messages per second in the published results.
        lags: the lag at each publication: messages that were sent and not yet published.
        cpu: the CPU seconds per second of each group of processes.
    """

    rate: float
    sent: float
    read: float
    lags: Sequence[Moment]
    cpu: Mapping[str, float]

    @property
    def growth(self) -> float:
        """The growth of the lag as a share of the rate; infinite if too little was published."""
        if len(self.lags) < LEAST_PUBLICATIONS:
            return float("inf")
        return linear_regression(*zip(*self.lags, strict=True)).slope / self.rate

    @property
    def sent_all(self) -> bool:
        """Whether the sender sent what was due."""
        return self.sent >= SENT * self.rate


@dataclass(frozen=True)
class Capacity:
    """The result of a search.

    Attributes:
        backlog: the messages per second read with a backlog; None if the stream never had one.
        held: the step at the highest rate with a flat lag.
        failed: the rates that were held before, at which the lag grew.
    """

    backlog: float | None
    held: Step
    failed: Sequence[float]


@dataclass(frozen=True)
class Plan:
    """The first and the highest rate, messages/s, and the length of a step and of a hold."""

    first: float
    most: float
    step_seconds: float
    hold_seconds: float


class NoFlatRateError(Exception):
    """The lag grew at every rate that was held, or nothing was published."""


def lags(ends: Sequence[Moment], publications: Sequence[Publication]) -> list[Moment]:
    """Return the lag at each publication.

    Args:
        ends: the number of messages in the topic at several moments, oldest first.
        publications: all publications since the topic was empty, oldest first.
    """
    read = accumulate(publication.rows for publication in publications)
    return [
        Moment(publication.at, _at(ends, publication.at) - count)
        for publication, count in zip(publications, read, strict=True)
    ]


def _at(series: Sequence[Moment], at: float) -> float:
    """Return the number of messages at a time, between two moments in proportion."""
    place = bisect_left(series, at, key=lambda moment: moment.at)
    if place in {0, len(series)}:
        return series[min(place, len(series) - 1)].messages
    (begin, low), (end, high) = series[place - 1 : place + 1]
    return low + (high - low) * (at - begin) / (end - begin)


def read_rate(publications: Sequence[Publication]) -> float:
    """Return the records per second from the first publication to the last; 0 without two."""
    if len(publications) < 2:
        return 0.0
    rows = sum(publication.rows for publication in publications[1:])
    return rows / (publications[-1].at - publications[0].at)


def search(
    observe: Callable[[float, float], Step], drain: Callable[[], None], plan: Plan
) -> Capacity:
    """Double the rate until the lag grows, measure the rate of reading, then hold rates below it.

    Args:
        observe: sends at a rate for a number of seconds, and returns what happened.
        drain: sends nothing until the stream has read everything.
        plan: the rates and the lengths.

    Raises:
        NoFlatRateError: the lag grew at every rate that was held, or nothing was published.
    """
    backlog, limit, rate = None, 0.0, plan.first
    while rate <= plan.most:
        step = observe(rate, plan.step_seconds)
        limit = rate
        if not step.sent_all:
            limit = step.sent
            break
        if not step.read:
            raise NoFlatRateError(f"the stream published nothing at {rate:.0f} messages/s")
        if step.growth > GROWS:
            # The sender uses the rate that was read. At the rate of the step, an overloaded machine
            # would read less.
            backlog = limit = observe(step.read, plan.step_seconds * 2).read
            break
        rate *= 2
    drain()
    failed: list[float] = []
    for share in SHARES:
        observe(share * limit, plan.step_seconds)
        held = observe(share * limit, plan.hold_seconds)
        if held.growth <= FLAT and held.sent_all:
            return Capacity(backlog, held, failed)
        failed.append(held.rate)
        drain()
    raise NoFlatRateError(
        f"the lag grew at {', '.join(f'{rate:.0f}' for rate in failed)} messages/s"
    )
