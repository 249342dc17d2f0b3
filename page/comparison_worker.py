"""Compare the paths in a process of its own, once for all viewers and at a limited rate.

Nothing is compared while no viewer looks at the page. A refresh never waits: it gets the newest
comparison.
"""

import math
import pickle
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import streamlit as st

from page import worker_process
from page.candles import SPANS
from page.comparison_data import ComparisonData
from page.pace import Pace
from page.worker_process import WorkerError
from pipeline import times
from pipeline.processes import cpu_of_ended_children

#: Seconds after the last request for a span in which it is still compared.
WANTED_SECONDS = 20.0
#: Seconds after which a comparison is marked as old.
OLD_SECONDS = 60.0
#: Seconds after which a comparison is stopped.
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class LatestComparison:
    """The newest comparison of a span, and why there is none or no newer one."""

    data: ComparisonData | None = None
    #: Why the last attempt failed, and when that was.
    problem: str | None = None
    tried_at: datetime | None = None
    #: When a viewer first asked; kept until the first attempt ends.
    asked_at: datetime | None = None
    #: Monotonic time at which the last attempt ended.
    ended: float = 0.0
    #: The span, and the chosen one that is not compared yet. Empty: this is the chosen one.
    span: str = ""
    instead_of: str = ""


def rest(cpu_s: float, pace: Pace) -> float:
    """Return the seconds to wait after a comparison that took this much CPU."""
    return max(pace.comparison_rest, cpu_s / pace.comparison_share - cpu_s)


def next_span(
    asked: Mapping[str, float], kept: Mapping[str, LatestComparison], now: float, rest_until: float
) -> str | None:
    """Return the span to compare now: a new one at once, or else the one compared longest ago.

    Args:
        asked: by span: when a viewer asked last.
        kept: by span: its newest comparison.
        now: monotonic time, as all times here.
        rest_until: the time before which no span is compared again.
    """
    wanted = [span for span, when in asked.items() if now - when <= WANTED_SECONDS]
    new = [span for span in wanted if span not in kept]
    if new:
        return new[0]
    if not wanted or now < rest_until:
        return None
    return min(wanted, key=lambda span: kept[span].ended)


class Comparer:
    """Compares the paths in a data directory, for the spans that viewers look at."""

    def __init__(self, root: Path, interval_s: float, pace: Pace) -> None:
        self._root = root.resolve()
        self._interval_s = interval_s
        self._pace = pace
        self._lock = threading.Lock()
        self._kept: dict[str, LatestComparison] = {}
        self._asked: dict[str, float] = {}
        #: When a viewer began to look at each span.
        self._since: dict[str, datetime] = {}
        self._rest_until = 0.0
        self._busy = False

    def latest(self, span: str) -> LatestComparison:
        """Return the newest comparison of a span, and start a new one when it is due."""
        now = time.monotonic()
        with self._lock:
            if now - self._asked.get(span, -math.inf) > WANTED_SECONDS:
                self._since[span] = times.now()
            self._asked[span] = now
            due = None if self._busy else next_span(self._asked, self._kept, now, self._rest_until)
            if due is not None:
                threading.Thread(target=self._run, args=(due,), daemon=True).start()
                self._busy = True  # not before: without a thread, nothing would be compared again
            return self._kept.get(span) or LatestComparison(asked_at=self._since[span])

    def kept(self, span: str, chosen: str) -> LatestComparison | None:
        """Return the newest comparison of a span, to show until the chosen one is compared."""
        with self._lock:
            found = self._kept.get(span)
        if found is None or found.data is None:
            return None
        return replace(found, problem=None, span=span, instead_of=chosen)

    def _run(self, span: str) -> None:
        before_cpu = cpu_of_ended_children()
        try:
            found = self._compare(SPANS[span])
        except Exception as error:  # noqa: BLE001 - the page shows any failure
            found = f"the comparison failed: {error!r}"
        ended = time.monotonic()
        with self._lock:
            self._busy = False
            before = self._kept.get(span, LatestComparison())
            if isinstance(found, ComparisonData):
                self._kept[span] = LatestComparison(data=found, ended=ended)
                self._rest_until = ended + rest(found.cpu_s, self._pace)
            else:
                at = times.now()
                self._kept[span] = LatestComparison(before.data, found, at, ended=ended)
                # A failed comparison does not report its own CPU time.
                cpu_s = cpu_of_ended_children() - before_cpu
                self._rest_until = ended + rest(cpu_s, self._pace)

    def _compare(self, last: timedelta | None) -> ComparisonData | str:
        span = [] if last is None else ["--last", str(last.total_seconds())]
        arguments = [str(self._root), "--interval", str(self._interval_s), *span]
        try:
            answer = worker_process.run(
                "page.comparison_data", *arguments, timeout_s=TIMEOUT_SECONDS
            )
        except WorkerError as error:
            return str(error)
        found: ComparisonData | str = pickle.loads(answer)  # noqa: S301 - from our own process
        return found


@st.cache_resource(show_spinner=False)
def comparer_of(root: Path, interval_s: float, pace: Pace) -> Comparer:
    """Return the one comparer of a data directory in this server."""
    return Comparer(root, interval_s, pace)
