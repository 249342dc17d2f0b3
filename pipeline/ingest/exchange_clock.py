"""Compare this machine's clock with the exchange's, by the times in the heartbeats.

No function here reads a clock.
"""

from collections import deque
from datetime import datetime, timedelta
from statistics import median

#: Seconds. If the two clocks differ by more, this machine's clock counts as wrong. Network and
#: exchange delay a heartbeat by less.
MAX_ERROR_SECONDS = 10.0
#: Heartbeats that are compared, and the number of them that is enough for a result.
SAMPLES = 9
ENOUGH_SAMPLES = 3
#: Seconds. Heartbeats that waited in a buffer are read at once; only the newest of them counts.
BURST_SECONDS = 0.5
#: Seconds. A larger change of the clock against the monotonic clock is a jump.
JUMP_SECONDS = 1.0


class ExchangeClock:
    """The exchange's clock as an offset from the monotonic clock.

    The median of several heartbeats is used, so one wrong or delayed heartbeat changes nothing.
    The comparison starts again when this machine's clock jumps: a person or NTP has set it, or the
    machine was suspended, which stops the monotonic clock of Linux.
    """

    def __init__(self) -> None:
        #: When a heartbeat was read, and the exchange's time minus that, in seconds.
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self._offset: float | None = None
        #: This machine's time minus the monotonic clock, in seconds.
        self._difference: float | None = None

    def on_heartbeat(self, now: float, time: object) -> None:
        """Take note of a heartbeat.

        Args:
            now: monotonic seconds.
            time: the field `time` of the heartbeat. An invalid one is ignored.
        """
        try:
            moment = datetime.fromisoformat(str(time))
        except ValueError:
            return
        if moment.tzinfo is None:
            return
        offset = moment.timestamp() - now
        if self._samples and now - self._samples[-1][0] < BURST_SECONDS:
            first, known = self._samples.pop()
            self._samples.append((first, max(known, offset)))
        else:
            self._samples.append((now, offset))
        if self.is_known():
            self._offset = median(offset for _, offset in self._samples)

    def is_known(self) -> bool:
        """Return whether enough heartbeats were read."""
        return len(self._samples) >= ENOUGH_SAMPLES

    def behind_s(self, now: float, clock: datetime) -> float:
        """Return by how many seconds this machine's clock is behind; negative if it is ahead.

        A difference that delays can explain, or that is not known yet, is 0.

        Args:
            now: monotonic seconds.
            clock: this machine's time at that moment.
        """
        difference = clock.timestamp() - now
        if self._difference is not None and abs(difference - self._difference) > JUMP_SECONDS:
            self._samples.clear()
            self._offset = None
        self._difference = difference
        if self._offset is None:
            return 0.0
        behind = self._offset - difference
        return behind if abs(behind) > MAX_ERROR_SECONDS else 0.0

    def correct(self, now: float, clock: datetime) -> datetime:
        """Return the exchange's time if this machine's clock is behind, else the clock's time.

        A heartbeat cannot arrive before it is sent, so heartbeats prove that a clock is behind. A
        clock that is ahead looks like a feed that is late: it is not corrected.
        """
        return clock + timedelta(seconds=max(0.0, self.behind_s(now, clock)))

    def problem(self, now: float, clock: datetime) -> str | None:
        """Return the sentence about a wrong clock; None if there is no problem."""
        behind = self.behind_s(now, clock)
        if behind > 0:
            return f"this machine's clock is {behind:.0f} s behind the exchange. Set the clock"
        if behind < 0:
            return (
                f"this machine's clock is {-behind:.0f} s ahead of the exchange, or the feed is "
                "late. Check the clock"
            )
        return None
