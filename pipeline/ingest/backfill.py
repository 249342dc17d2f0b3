"""Find missing trades and recover them from the exchange's REST interface.

The `ticker` channel never repeats the trades that passed while the producer was away. A trade is
missing if its id lies between two published ids. The published ids come from Kafka at the start,
and then from the feed.

`MissingTrades` decides which ids to request. In `Backfill`, threads read Kafka and the REST
interface, and the producer's main loop calls `step`, which publishes what they found. So no lock is
needed, and a slow server delays no message of the feed.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any, Generic, NamedTuple, TypeVar, cast

from pipeline import times
from pipeline.errors import is_temporary, sentence
from pipeline.ingest import kafka, trade
from pipeline.ingest.id_ranges import IdRanges
from pipeline.ingest.rest import PAGE_TRADES, PastTrade, RestError, fetch_trades, rest_url
from pipeline.service import Service, backoff

T = TypeVar("T")

#: Seconds before a gap is requested. Trades that arrive in another order close their gap.
GRACE_SECONDS = 2.0
#: Seconds between two requests. The exchange allows ten requests per second.
PAUSE_SECONDS = 0.5
#: Seconds before the next request after an error that a retry does not end.
LASTING_ERROR_SECONDS = 300.0
#: How often a gap is requested if its upper neighbour is not in the answer: the REST interface may
#: be behind the feed. EMPTY_ATTEMPTS requests are enough if each answer is empty: nothing as old as
#: the gap is served. They are also enough if each answer begins with the same jump over more than
#: PAGE_TRADES ids. One such answer is not enough: one wrong low id can cause it.
ATTEMPTS = 6
EMPTY_ATTEMPTS = 3
#: Seconds after the first of these attempts, doubled after each further one.
ATTEMPT_SECONDS = 2.0
_NEVER = math.inf


class Gap(NamedTuple):
    """A range of missing trade ids."""

    first: int
    last: int


class MissingTrades:
    """Decides which ids to request and what an answer means. Pure; times are monotonic seconds.

    An id needs no request if its trade is published, is too old, or is not served. After a restart
    the ids that are not served are requested once more.
    """

    def __init__(self, max_age: timedelta) -> None:
        self._max_age = max_age
        #: The ids that need no request.
        self._settled = IdRanges()
        #: Event time of the newest trade from the feed.
        self._newest: datetime | None = None
        #: By the last id of a gap: when to request it (`_NEVER`: not again), and how many requests
        #: for it failed.
        self._due: dict[int, tuple[float, int]] = {}
        #: By the last id of a gap: the id below the jump with which the newest answers began, and
        #: how many of them.
        self._jumps: dict[int, tuple[int, int]] = {}

    def on_received(self, trade_id: int, event_time: datetime) -> None:
        """Record a trade from the feed, which is or will be published."""
        self._settled.add(trade_id)
        self._newest = event_time

    def on_recovered(self, trade_id: int) -> None:
        """Record a published trade from the REST interface."""
        self._settled.add(trade_id)

    def restore(self, published: IdRanges) -> None:
        """Record the ids that were published before this start."""
        self._settled.update(published)

    def forget(self) -> None:
        """Forget which ids need no request. Ids below the lowest one still do not count."""
        lowest = self._settled.lowest()
        self._settled, self._due, self._jumps = IdRanges(), {}, {}
        if lowest is not None:
            self._settled.add(lowest - 1)

    def is_missing(self, trade_id: int) -> bool:
        """Return whether a trade lies in a gap between two published ones."""
        lowest = self._settled.lowest()
        return lowest is not None and trade_id > lowest and trade_id not in self._settled

    def is_too_old(self, event_time: datetime) -> bool:
        return self._newest is not None and event_time < self._newest - self._max_age

    def gaps(self) -> list[Gap]:
        """Return the gaps that are still to be requested, newest first."""
        return [gap for gap in self._all_gaps() if self._due_at(gap)[0] != _NEVER]

    def next_gap(self, now: float) -> Gap | None:
        """Return the newest gap that is due; None if none is."""
        if self._newest is None:  # the feed decides what is too old
            return None
        gaps = self._all_gaps()
        self._due = {gap.last: self._due.get(gap.last, (now + GRACE_SECONDS, 0)) for gap in gaps}
        return next((gap for gap in gaps if self._due[gap.last][0] <= now), None)

    def settle(self, gap: Gap, page: Sequence[int], now: float, *, too_old: bool) -> int:
        """Record an answer, after its trades were published.

        The trades of an answer follow each other. So an id between two of its ids is not served.
        For a jump over more than PAGE_TRADES ids, this is accepted only after EMPTY_ATTEMPTS
        answers in a row that begin with the same jump.

        Args:
            gap: the gap that was requested, together with the id above it.
            page: the ids in the answer, newest first.
            now: monotonic seconds.
            too_old: whether even the newest trade of the answer is too old.

        Returns:
            How many missing ids will not be requested again: too old, or not served.
        """
        before = self.missing()
        above = gap.last + 1
        attempts = self._due_at(gap)[1] + 1
        proved = _ids_above_jump(page)
        jumps_at_once = len(page) > 1 and proved == [above]
        if self._is_confirmed(gap, page[1] if jumps_at_once else None):
            jumps_at_once, proved = False, [above, *_ids_above_jump(page[1:])]
        if proved:
            lowest = self._settled.lowest() or proved[-1]
            if proved[0] >= lowest:
                self._settled.add(max(lowest, proved[-1]), proved[0])
            if too_old:
                self._settled.fill_below(proved[0])
        if above not in proved or jumps_at_once:
            is_last = attempts >= (ATTEMPTS if page else EMPTY_ATTEMPTS)
            delay = _NEVER if is_last else ATTEMPT_SECONDS * 2 ** (attempts - 1)
            self._due[gap.last] = (now + delay, attempts)
            if is_last and not page:  # nothing below this gap is served either
                self._settled.fill_below(gap.first - 1)
        elif proved[-1] == above:  # nothing older is served
            self._settled.fill_below(above)
        else:  # the rest of the gap, below these ids, is due at once
            self._due[proved[-1] - 1] = (now, 0)
        return before - self.missing()

    def _is_confirmed(self, gap: Gap, below_jump: int | None) -> bool:
        """Return whether enough answers in a row, this one included, began with the same jump.

        Args:
            gap: the gap that was requested.
            below_jump: the id below the jump; None if the answer does not begin with a jump.
        """
        earlier, answers = self._jumps.pop(gap.last, (None, 0))
        if below_jump is None:
            return False
        answers = answers + 1 if below_jump == earlier else 1
        self._jumps[gap.last] = (below_jump, answers)
        return answers >= EMPTY_ATTEMPTS

    def missing(self) -> int:
        """Return the number of ids that are still to be requested."""
        return sum(gap.last - gap.first + 1 for gap in self.gaps())

    def _all_gaps(self) -> list[Gap]:
        return [Gap(*gap) for gap in self._settled.gaps()]

    def _due_at(self, gap: Gap) -> tuple[float, int]:
        return self._due.get(gap.last, (0.0, 0))


def _ids_above_jump(page: Sequence[int]) -> list[int]:
    """Return the first ids of an answer, down to a jump over more than PAGE_TRADES ids."""
    jumps = (end for end, (n, below) in enumerate(pairwise(page), 1) if n - below > PAGE_TRADES)
    return list(page[: next(jumps, len(page))])


class _InThread(Generic[T]):
    """A function that runs in a thread of its own, and its result or error."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._result: T | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._function()
        except Exception as error:  # noqa: BLE001 - `result` raises it in the main thread
            self._error = error

    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> T:
        """Return the result of a function that is done, or raise its error."""
        if self._error is not None:
            raise self._error
        return cast("T", self._result)


@dataclass
class _Answer:
    """An answer whose trades are being published."""

    gap: Gap
    trades: Sequence[PastTrade]
    #: How many of the trades were handled, oldest first.
    handled: int = 0
    recovered: int = 0
    too_old: int = 0


class Backfill:
    """Recovers missing trades while the producer runs.

    Args:
        service: the producer.
        publish: publishes a recovered trade.
        reject: handles a recovered trade that is not valid, with the reason.
        has_room: returns whether a further trade can be published now.
        now: returns the time.
    """

    def __init__(
        self,
        service: Service,
        publish: Callable[[trade.Trade, bytes], None],
        reject: Callable[[bytes, str], None],
        has_room: Callable[[], bool],
        now: Callable[[], datetime],
    ) -> None:
        settings = service.settings
        self._service = service
        self._publish, self._reject, self._has_room, self._now = publish, reject, has_room, now
        self._url = settings.feed_rest_url or rest_url(settings.feed_url)
        self._age = timedelta(seconds=settings.backfill_seconds)
        self._missing = MissingTrades(self._age)
        #: Ends the threads that were started so far.
        self._stop = threading.Event()
        self._restoring: _InThread[IdRanges] | None = None
        self._request: tuple[Gap, _InThread[list[PastTrade]]] | None = None
        self._answer: _Answer | None = None
        self._next_request = 0.0
        self._delays = backoff(first=1.0)
        #: None: unknown until the published ids are read.
        self._details: dict[str, Any] = {
            "gaps": None,
            "missing": None,
            "recovered": 0,
            "not_served": 0,
            "last_error": None,
        }
        service.details["backfill"] = self._details

    def restore(self, published: IdRanges, first_offset: int, newest: datetime) -> None:
        """Record which trades were published before this start, and read older ones from Kafka.

        Gaps are requested only after a thread has read the older trades, because trades that were
        recovered earlier are far from their neighbours in the topic.

        Args:
            published: the ids in the newest records of the topic.
            first_offset: the offset of the first of these records.
            newest: the time of receipt of the last record, used instead of the current time.
        """
        if not self._age:
            return
        self._missing.restore(published)
        if first_offset:
            arguments = (self._service, newest - self._age, first_offset, self._stop)
            self._restoring = _InThread(partial(read_published_ids, *arguments))

    def forget(self) -> None:
        """Forget which trades were published: the topic was created again and does not hold them.

        They are requested again, because the old topic may have held trades that the consumer has
        not stored.
        """
        self.close()
        self._stop = threading.Event()
        self._restoring = self._request = self._answer = None
        self._missing.forget()

    def close(self) -> None:
        """Ask the threads to end. Each one ends after its current request to a server."""
        self._stop.set()

    def on_received(self, trade_id: int, event_time: datetime) -> None:
        """Record a trade from the feed, which is or will be published."""
        if self._age:
            self._missing.on_received(trade_id, event_time)

    def step(self) -> None:
        """Do what is due, without waiting: start a request, or publish what one returned.

        Raises:
            KafkaError: Kafka rejected a record permanently.
            TemporaryError: the service was asked to stop while Kafka did not answer.
        """
        if not self._age:
            return
        if self._restoring is not None:
            if not self._restoring.is_done():
                return
            self._missing.restore(self._restoring.result())
            self._restoring = None
        if self._request is not None:
            self._read_answer(*self._request)
        if self._answer is not None:
            self._publish_answer(self._answer)
        if self._request is None and self._answer is None:
            self._ask()
        gaps, missing = self._missing.gaps(), self._missing.missing()
        self._details |= {"gaps": len(gaps), "missing": missing}
        if not missing:  # the feed can deliver missing trades after a failed request
            self._details["last_error"] = None

    def _ask(self) -> None:
        """Start the next request if it is due. Its thread waits for the rest of the pause.

        The main loop is not fast enough for that: without messages, it calls `step` once a second.
        """
        now = time.monotonic()
        if now < self._next_request - PAUSE_SECONDS:
            return
        gap = self._missing.next_gap(now)
        if gap is not None:
            wait_s = self._next_request - now
            self._request = (gap, _InThread(partial(self._fetch, gap, wait_s, self._stop)))

    def _fetch(self, gap: Gap, wait_s: float, stop: threading.Event) -> list[PastTrade]:
        if stop.wait(max(0.0, wait_s)):
            return []
        # The id above the gap is in the answer, if the answer is complete up to it.
        return fetch_trades(self._url, self._service.settings.product_id, gap.last + 2)

    def _read_answer(self, gap: Gap, request: _InThread[list[PastTrade]]) -> None:
        if not request.is_done():
            return
        self._request = None
        try:
            trades = request.result()
        except RestError as error:
            self._on_error(error)
            return
        self._delays = backoff(first=1.0)
        self._next_request = time.monotonic() + PAUSE_SECONDS
        self._details["last_error"] = None
        self._answer = _Answer(gap, trades)

    def _on_error(self, error: RestError) -> None:
        delay = LASTING_ERROR_SECONDS if error.lasting else next(self._delays)
        delay = max(delay, error.retry_after or 0.0)
        self._next_request = time.monotonic() + delay
        self._details["last_error"] = {"time": times.iso(times.now()), "text": str(error)}
        self._service.log.warning("%s. Next attempt in %.0f s", error, delay)

    def _publish_answer(self, answer: _Answer) -> None:
        """Publish the missing trades of an answer, oldest first, as long as there is room."""
        received = self._now()
        ascending = answer.trades[::-1]
        while answer.handled < len(ascending):
            if not self._has_room():
                return
            past = ascending[answer.handled]
            answer.handled += 1
            self._handle(past, received, answer)
        self._answer = None
        ids = [past.trade_id for past in answer.trades]
        too_old = bool(ids) and answer.too_old == len(ids)
        lost = self._missing.settle(answer.gap, ids, time.monotonic(), too_old=too_old)
        self._details["not_served"] += lost
        self._service.log.info(
            "trade ids %d to %d: %d recovered, %d not served or too old; %d still missing",
            *answer.gap,
            answer.recovered,
            lost,
            self._missing.missing(),
        )

    def _handle(self, past: PastTrade, received: datetime, answer: _Answer) -> None:
        try:
            valid = trade.decode(past.message, self._service.settings.product_id, received)
        except trade.InvalidTradeError as error:
            if self._missing.is_missing(past.trade_id):
                self._reject(past.message, str(error))
            return
        if self._missing.is_too_old(valid.time):
            answer.too_old += 1
        elif self._missing.is_missing(valid.trade_id):
            self._publish(valid, past.message)
            self._missing.on_recovered(valid.trade_id)
            self._details["recovered"] += 1
            answer.recovered += 1


def read_published_ids(
    service: Service, since: datetime, before: int, stop: threading.Event
) -> IdRanges:
    """Return the trade ids in the records of the topic since a moment.

    Temporary errors are retried until `stop` is set.

    Args:
        service: the producer.
        since: a time of receipt.
        before: the offset to end at.
        stop: ends the reading.
    """
    for delay in backoff():
        published = IdRanges()
        try:
            for record in kafka.records_since(service.settings, since, before, stop):
                received = times.from_epoch_millis(record.timestamp)
                with suppress(trade.InvalidTradeError):
                    product = service.settings.product_id
                    published.add(trade.decode(record.value or b"", product, received).trade_id)
        except Exception as error:
            if not is_temporary(error):
                raise
            service.log.warning("cannot read published trades: %s", sentence(error))
            if stop.wait(delay):
                break
        else:
            break
    return published
