"""The comparison for the page: made in a process of its own, once for all viewers, seldom.

Nothing is made without a viewer who asks. A refresh never waits: it gets the newest one there is.
"""

import math
import pickle
import resource
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from page import child
from page.child import ChildError
from page.digest import Digest
from page.windows import SPANS
from pipeline import times

#: Seconds from one comparison to the next at least, and the share of a core that they may take.
LEAST_REST_SECONDS = 10.0
MOST_SHARE = 0.05
#: A span that nobody has asked for in so long is not compared, seconds.
WANTED_SECONDS = 20.0
#: One that is older is marked so: nobody was looking, or each costs much.
STALE_SECONDS = 60.0
#: A comparison is given up after so long, seconds.
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Compared:
    """The newest comparison of a span, and why there is none or no newer one."""

    digest: Digest | None = None
    #: Why the last try gave nothing, and when that was.
    problem: str | None = None
    tried_at: datetime | None = None
    #: Since when it is awaited, as long as there has been no try.
    asked_at: datetime | None = None
    #: Monotonic time of the last try's end.
    ended: float = 0.0


def rest(cpu_s: float) -> float:
    """Seconds to wait after a comparison that cost so much."""
    return max(LEAST_REST_SECONDS, cpu_s / MOST_SHARE - cpu_s)


def next_span(
    asked: Mapping[str, float], kept: Mapping[str, Compared], now: float, rest_until: float
) -> str | None:
    """Which span is to be compared now: one never tried at once, else the one tried longest ago.

    Args:
        asked: by span: when a viewer asked last.
        kept: what is there.
        now: monotonic, as all times here.
        rest_until: until when nothing is made again.
    """
    wanted = [span for span, when in asked.items() if now - when <= WANTED_SECONDS]
    new = [span for span in wanted if span not in kept]
    if new:
        return new[0]
    if not wanted or now < rest_until:
        return None
    return min(wanted, key=lambda span: kept[span].ended)


class Comparer:
    """Compares what lies in a data folder, for the spans that viewers look at."""

    def __init__(self, root: Path, interval_s: float) -> None:
        self._root = root.resolve()
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._kept: dict[str, Compared] = {}
        self._asked: dict[str, float] = {}
        #: Since when somebody has been looking at each span.
        self._since: dict[str, datetime] = {}
        self._rest_until = 0.0
        self._busy = False

    def latest(self, span: str) -> Compared:
        """What is known of the span; has it compared in the background when that is due."""
        now = time.monotonic()
        with self._lock:
            if now - self._asked.get(span, -math.inf) > WANTED_SECONDS:
                self._since[span] = times.now()
            self._asked[span] = now
            due = None if self._busy else next_span(self._asked, self._kept, now, self._rest_until)
            if due is not None:
                self._busy = True
                threading.Thread(target=self._make, args=(due,), daemon=True).start()
            return self._kept.get(span) or Compared(asked_at=self._since[span])

    def _make(self, span: str) -> None:
        before_cpu = _cpu_of_children()
        try:
            found = self._compared(SPANS[span])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said on the page
            found = f"the comparison failed: {error!r}"
        ended = time.monotonic()
        with self._lock:
            self._busy = False
            before = self._kept.get(span, Compared())
            if isinstance(found, Digest):
                self._kept[span] = Compared(digest=found, ended=ended)
                self._rest_until = ended + rest(found.cpu_s)
            else:
                at = times.now()
                self._kept[span] = Compared(before.digest, found, at, ended=ended)
                self._rest_until = ended + rest(_cpu_of_children() - before_cpu)

    def _compared(self, last: timedelta | None) -> Digest | str:
        asked = [] if last is None else ["--last", str(last.total_seconds())]
        given = [str(self._root), "--interval", str(self._interval_s), *asked]
        try:
            answer = child.run("page.digest", *given, patience_s=PATIENCE_SECONDS)
        except ChildError as error:
            return f"the comparison {error}"
        made: Digest | str = pickle.loads(answer)  # noqa: S301 - from our own process
        return made


def _cpu_of_children() -> float:
    """CPU seconds of all ended processes of this server: a failure may have waited for a lock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@cache
def comparer_of(root: Path, interval_s: float) -> Comparer:
    """The one comparer of a data folder in this server."""
    return Comparer(root, interval_s)
