"""When the next micro-batch starts. Spark starts one as soon as foreachBatch returns."""

import threading
import time

#: Micro-batches start this long after each whole interval, seconds. The first trades after the
#: end of a minute, which let windows close, have arrived by then. A trigger of Spark fires at whole
#: seconds: final windows were published 62.7 s after their end instead of 61.2 s.
OFFSET_SECONDS = 0.3


def next_due(now: float, interval: float) -> float:
    """Return when the next micro-batch is due, seconds since 1970."""
    return now + interval - (now - OFFSET_SECONDS) % interval


class Trigger:
    """Delays the next micro-batch until it is due."""

    def __init__(self, interval: float, stop: threading.Event) -> None:
        self._interval = interval
        self._stop = stop
        self._due = 0.0

    def wait(self) -> float:
        """Wait until the next micro-batch is due or the service stops; return seconds waited."""
        began = time.monotonic()
        # The limit of one interval is for a clock that was set back.
        self._stop.wait(min(max(0.0, self._due - time.time()), self._interval))
        self._due = next_due(time.time(), self._interval)
        return time.monotonic() - began
