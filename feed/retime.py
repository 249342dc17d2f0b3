"""Repeat a recording with its times shifted to the present: a pure function of the clock.

The copies of the recording follow each other from a fixed time on. Each copy is called a tile.
Trade ids and sequence numbers increase from tile to tile, so that no message is repeated. A
restarted replay continues with the same messages.

- A tile is as long as the recording, in whole seconds. So a tile begins at most a second after the
  last message of the tile before. There is one exception: a tile has a length of whole minutes if
  the silence before the next tile is then at most five seconds and not longer than the longest
  silence of the recording. Each window of a minute then has the same trades in every tile.

- A message is due at its receive time. If the recording does not have it, the message is due at the
  greatest event time so far: a trade that was late in the recording is late again.
- A silence of more than a minute is shortened by whole minutes, to less than two.
- Only `time`, `trade_id` (in a heartbeat `last_trade_id`) and `sequence` of a message change. A
  message without a valid time and trade id is sent unchanged at its place.
"""

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from statistics import median_low

from feed.recording import Line, RecordingError
from pipeline import times

#: Microseconds: the unit of every moment and duration in this module (moments since 1970).
SECOND = 1_000_000
MINUTE = 60 * SECOND
#: Start of the first tile.
ORIGIN = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * SECOND
#: Earlier event times are not times of trades.
_EARLIEST = int(datetime(2012, 1, 1, tzinfo=UTC).timestamp()) * SECOND
#: Later event times are not times of trades either.
_LATEST = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) * SECOND
#: Longest silence that is kept.
LONGEST_SILENCE = MINUTE
#: Longest silence between two tiles of whole minutes.
_LONGEST_HOLE = 5 * SECOND
#: An event time that is further from its due time does not make the tile longer.
_NEAR = MINUTE
#: If more than one of this number of messages has an event time after now, the recording is dated
#: in the future or the clock of this machine is behind. Fewer are single wrong times.
_AHEAD_SHARE = 100
#: Maximum difference between these event times and their median.
_AHEAD_REACH = 7 * 24 * 60 * MINUTE
#: Ids further from the median are not of this market. They would make large gaps between tiles.
_ID_REACH = 10**12
_UNKNOWN = -1

#: Members of a message: a fast search for the name, then a regular expression.
_TIME = (
    b'"time"',
    re.compile(
        rb'"time"\s*:\s*"'
        rb'(\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)"'
    ),
)
_TRADE_ID = b'trade_id"', re.compile(rb'trade_id"\s*:\s*(\d{1,19})(?=\s*[,}])')
_SEQUENCE = b'"sequence"', re.compile(rb'"sequence"\s*:\s*(\d{1,19})(?=\s*[,}])')

_Member = tuple[bytes, re.Pattern[bytes]]


@dataclass(frozen=True, slots=True)
class Ids:
    """The range of numbers in a recording: `count` numbers from `first` on."""

    first: int
    count: int

    def __contains__(self, number: int) -> bool:
        return self.first <= number < self.first + self.count

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class Tiles:
    """The endless sequence of messages. A position in it is an integer."""

    period: int  # from a message to the same one in the next tile, whole seconds
    _base: int  # the recorded time that the first tile moves to `ORIGIN`, a whole minute
    _due: "array[int]"  # of each message in the first tile, after `ORIGIN`; increasing
    _cut: "array[int]"  # minutes of silence removed before each message
    _frames: bytearray
    _ends: "array[int]"  # end of each message in `_frames`
    _latest: int  # latest valid event time
    trade_ids: Ids  # in the recording; each tile adds their count
    _sequences: Ids

    @property
    def count(self) -> int:
        """Number of messages in one tile."""
        return len(self._due)

    @property
    def start(self) -> int:
        """The time at which the first tile begins, a whole second."""
        return ORIGIN + self._due[0] // SECOND * SECOND

    @property
    def repetition(self) -> dict[str, object]:
        """When the recording starts again, as in `source.json`: see `pipeline.source.seams`."""
        start = datetime.fromtimestamp(self.start // SECOND, UTC)
        return {"repeat_from": times.iso(start), "repeat_s": self.period // SECOND}

    def first_after(self, moment: int) -> int:
        """Return the position of the first message that is due after a time."""
        tile = (moment - self.start) // self.period
        rest = moment - ORIGIN - tile * self.period
        return tile * self.count + bisect_right(self._due, rest)

    def due(self, position: int) -> int:
        """Return when a message is due."""
        tile, index = divmod(position, self.count)
        return ORIGIN + tile * self.period + self._due[index]

    def frame(self, position: int) -> bytes:
        """Return a message with its times and ids shifted."""
        tile, index = divmod(position, self.count)
        recorded = bytes(self._frames[self._ends[index - 1] if index else 0 : self._ends[index]])
        time = _find(_TIME, recorded)
        trade_id = _number(_TRADE_ID, recorded)
        if event_time(recorded, self._latest) == _UNKNOWN or trade_id not in self.trade_ids:
            return recorded
        assert time is not None  # noqa: S101 - event_time found it
        shift = ORIGIN + tile * self.period - self._base - self._cut[index] * MINUTE
        seconds = _move(time[1], shift // SECOND)
        moved = recorded[: time.start(1)] + seconds + recorded[time.end(1) :]
        moved = _count_up(_TRADE_ID, moved, tile * self.trade_ids.count)
        if _number(_SEQUENCE, moved) in self._sequences:
            moved = _count_up(_SEQUENCE, moved, tile * self._sequences.count)
        return moved


_NO_TIME = (
    "The recording has no times. Replay it as recorded: RETIME=0 (--no-retime). A message without "
    "a time cannot be re-timed."
)


def check(lines: Iterable[Line], latest: int) -> None:
    """Check that a recording can be re-timed; reads up to its first message with a time.

    Raises:
        RecordingError: no line has a receive time or an event time.
    """
    if all(clock == _UNKNOWN for _, _, clock in _timed(lines, latest)):
        raise RecordingError(_NO_TIME)


def survey(lines: Iterable[Line], latest: int) -> tuple[int, int]:
    """Return the number of messages in a recording, and its latest valid event time.

    Args:
        lines: the lines of the recording.
        latest: the latest valid event time if the recording is not dated in the future.
    """
    count, ahead = 0, array("q")
    for line in lines:
        count += 1
        if (event := event_time(line.frame, _LATEST)) > latest:
            ahead.append(event)
    if len(ahead) * _AHEAD_SHARE > count:
        latest = min(_LATEST, median_low(ahead) + _AHEAD_REACH)
    return count, latest


def tile(lines: Iterable[Line], latest: int) -> Tiles:
    """Return the endless sequence of a recording.

    Args:
        lines: the lines of the recording. All of them stay in memory.
        latest: the latest valid event time, for example a minute after now. A message with a later
            time is sent unchanged.

    Raises:
        RecordingError: no line has a receive time or an event time.
    """
    frames = bytearray()
    ends, events, deliveries = array("Q"), array("q"), array("q")
    trade_ids, sequences = array("q"), array("q")
    clock = _UNKNOWN
    for line, event, clock in _timed(lines, latest):
        frames += line.frame
        ends.append(len(frames))
        events.append(event)
        deliveries.append(clock)
        if event != _UNKNOWN:
            trade_ids.append(_number(_TRADE_ID, line.frame))
            sequences.append(_number(_SEQUENCE, line.frame))
    if clock == _UNKNOWN:
        raise RecordingError(_NO_TIME)
    start = next(delivery for delivery in deliveries if delivery != _UNKNOWN)
    deliveries = array("q", (max(delivery, start) for delivery in deliveries))
    cut, base, whole_minutes = _layout(deliveries, events)
    due = array(
        "q",
        (delivery - c * MINUTE - base for delivery, c in zip(deliveries, cut, strict=True)),
    )
    return Tiles(
        _period(due, whole_minutes),
        base,
        due,
        cut,
        frames,
        ends,
        latest,
        _range_of(trade_ids),
        _range_of(sequences),
    )


def _period(due: "array[int]", whole_minutes: int) -> int:
    """Return the length of a tile.

    Args:
        due: when each message of the first tile is due; increasing.
        whole_minutes: the whole minutes that have messages.
    """
    lasts = due[-1] - due[0]
    longest_silence = max((after - before for before, after in pairwise(due)), default=0)
    if whole_minutes - lasts <= min(longest_silence, _LONGEST_HOLE):
        return whole_minutes
    return (lasts // SECOND + 1) * SECOND


def pace(lines: Iterable[Line], latest: int) -> Iterator[tuple[bytes, int]]:
    """Yield each frame and its due time, counted from the first frame that has a time."""
    start = _UNKNOWN
    for line, _, clock in _timed(lines, latest):
        if start == _UNKNOWN:
            start = clock
        yield line.frame, clock - start


def _timed(lines: Iterable[Line], latest: int) -> Iterator[tuple[Line, int, int]]:
    """Yield each line, its event time and its due time; -1 if unknown."""
    clock = _UNKNOWN
    for line in lines:
        event = event_time(line.frame, latest)
        received = _UNKNOWN if line.received is None else int(line.received * SECOND)
        known = received if _EARLIEST <= received <= latest else event
        clock = max(clock, known)
        yield line, event, clock


def _layout(deliveries: "array[int]", events: "array[int]") -> tuple["array[int]", int, int]:
    """Return (minutes removed before each message, start of the first minute, length of all)."""
    cuts = array("l")
    cut = 0
    before = high_before = deliveries[0]
    first, last = deliveries[0], deliveries[0]
    for delivery, event in zip(deliveries, events, strict=True):
        low = high = delivery
        if -_NEAR <= event - delivery < 0:
            low = event
        elif 0 < event - delivery <= _NEAR:
            high = event
        if delivery - before > LONGEST_SILENCE:
            # Only whole minutes without messages. Those on both sides of the silence stay apart.
            cut += max(0, low // MINUTE - high_before // MINUTE - 1)
        cuts.append(cut)
        before = delivery
        high_before = max(high_before, high)
        first = min(first, low - cut * MINUTE)
        last = max(last, high - cut * MINUTE)
    base = first // MINUTE * MINUTE
    return cuts, base, (last // MINUTE + 1) * MINUTE - base


def event_time(frame: bytes, latest: int) -> int:
    """Return the event time of a message; -1 if it has no valid one."""
    match = _find(_TIME, frame)
    if match is None:
        return _UNKNOWN
    second_text, fraction, zone = match.groups()
    moment = _second(second_text)
    if moment == _UNKNOWN:
        return _UNKNOWN
    if fraction is not None:
        moment += int(fraction[:6].ljust(6, b"0"))
    if zone != b"Z":
        moment -= _offset(zone)
    return moment if _EARLIEST <= moment <= latest else _UNKNOWN


@lru_cache(maxsize=4096)
def _second(text: bytes) -> int:
    try:
        moment = datetime.fromisoformat(text.decode() + "+00:00")
    except ValueError:
        return _UNKNOWN
    return times.epoch_micros(moment)


def _offset(zone: bytes) -> int:
    minutes = int(zone[1:3]) * 60 + int(zone[4:6])
    return (-minutes if zone[:1] == b"-" else minutes) * MINUTE


@lru_cache(maxsize=4096)
def _move(second_text: bytes, seconds: int) -> bytes:
    moment = times.from_epoch_micros(_second(second_text) + seconds * SECOND)
    return moment.strftime("%Y-%m-%dT%H:%M:%S").encode()


def _find(member: _Member, frame: bytes) -> re.Match[bytes] | None:
    name, pattern = member
    position = frame.find(name)
    return pattern.match(frame, position) if position >= 0 else None


def _number(member: _Member, frame: bytes) -> int:
    match = _find(member, frame)
    number = int(match[1]) if match else _UNKNOWN
    return number if number < 2**63 else _UNKNOWN


def _count_up(member: _Member, frame: bytes, step: int) -> bytes:
    match = _find(member, frame)
    if match is None:
        return frame
    return b"%b%d%b" % (frame[: match.start(1)], int(match[1]) + step, frame[match.end(1) :])


def _range_of(numbers: "array[int]") -> Ids:
    known = [number for number in numbers if number > 0]
    if not known:
        return Ids(0, 0)
    middle = median_low(known)
    near = [number for number in known if abs(number - middle) <= _ID_REACH]
    return Ids(min(near), max(near) - min(near) + 1)
