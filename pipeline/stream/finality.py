"""Decide when a window of the stream is final, by the rule of Spark. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import OperationalError

#: A row of a CSV file: the text of each cell, by column.
Cells = dict[str, str]
#: Columns of `stream_versions.csv`: what the comparison needs of a version that is not kept.
VERSION_COLUMNS = (
    "window_start",
    "trade_count",
    "buy_count",
    "total_volume",
    "max_price",
    "min_price",
)
#: Maximum number of entries in the growth of a window.
MAX_GROWTH_ENTRIES = 240


class StateError(OperationalError):
    """The stored open windows have an unknown form, or do not fit the micro-batch.

    The text names only what does not match: `recovery` starts a new checkpoint by itself.
    """


@dataclass(frozen=True)
class Window:
    """A window as a micro-batch reported it; times in microseconds since 1970."""

    start: int
    end: int
    last_trade_time: int
    cells: Cells
    #: Pairs: time of publication (microseconds since 1970), number of trades in the window then.
    growth: tuple[tuple[int, int], ...] = ()

    def continue_growth_of(self, previous: "Window | None") -> "Window":
        """Return this window with the growth of its previous version in front of its own."""
        if previous is None:
            return self
        published = previous.growth[-1][1] if previous.growth else 0
        added = tuple(entry for entry in self.growth if entry[1] > published)
        kept = previous.growth
        if len(kept) >= MAX_GROWTH_ENTRIES:  # a long window: every second entry is enough
            kept = kept[1::2]
        return replace(self, growth=kept + added)


@dataclass(frozen=True)
class State:
    """The open windows after a micro-batch, and the greatest event times before and after it."""

    micro_batch: int = -1
    #: The greatest event time in the micro-batches before this one; None: there were none.
    max_event_time_before: int | None = None
    #: The greatest event time in these micro-batches and this one.
    max_event_time: int | None = None
    open: Mapping[int, Window] = field(default_factory=dict)
    #: Windows that were open when another checkpoint ended: of another topic, or of a checkpoint
    #: that was deleted. They get no more trades, and do not count for the greatest event time.
    left_open: Mapping[int, Window] = field(default_factory=dict)
    #: The start of the newest final window. None: there is none yet.
    newest_final: int | None = None

    def shown(self) -> dict[int, Window]:
        """Return the windows that a reader sees as open."""
        shown = {**self.left_open, **self.open}
        return {start: more_complete(self.left_open.get(start), shown[start]) for start in shown}


def more_complete(before: Window | None, after: Window) -> Window:
    """Return the version of a window with more trades; of two with as many, the later one."""
    if before is None:
        return after
    earlier, later = (int(window.cells.get("trade_count", 0)) for window in (before, after))
    return before if earlier > later else after


def apply_micro_batch(
    state: State, micro_batch: int, rows: Iterable[Window], watermark: int
) -> tuple[State, list[Window]]:
    """Update the open windows with the rows of a micro-batch.

    A window is final after micro-batch k if its end + watermark is at or before the greatest event
    time in the micro-batches before k. Applying the newest micro-batch again changes nothing.

    Args:
        state: the state after the micro-batch before, or after this one if Spark repeats it.
        micro_batch: the number of the micro-batch.
        rows: the windows that changed in it.
        watermark: how late a trade may be, microseconds.

    Returns:
        The new state, and the windows that are now final, sorted by start.

    Raises:
        StateError: the micro-batch is not the next one, and not the newest one again.
    """
    if not continues(state, micro_batch):
        raise StateError(
            f"open_windows.json is of micro-batch {state.micro_batch}, but Spark is at "
            f"{micro_batch}"
        )
    repeated = micro_batch == state.micro_batch
    before = state.max_event_time_before if repeated else state.max_event_time
    changed = {row.start: row.continue_growth_of(state.open.get(row.start)) for row in rows}
    windows = {**state.open, **changed}
    event_times = [window.last_trade_time for window in windows.values()]
    if before is not None:
        event_times.append(before)
    final = {
        start: window for start, window in windows.items() if _is_final(window, before, watermark)
    }
    ended = {s: w for s, w in state.left_open.items() if _is_final(w, before, watermark)}
    after = State(
        micro_batch=micro_batch,
        max_event_time_before=before,
        max_event_time=max(event_times, default=None),
        open={start: window for start, window in windows.items() if start not in final},
        left_open={s: w for s, w in state.left_open.items() if s not in ended},
        newest_final=max([*ended, *final, *_known(state.newest_final)], default=None),
    )
    best = {s: more_complete(ended.get(s), w) for s, w in {**ended, **final}.items()}
    return after, [best[start] for start in sorted(best)]


def _known(value: int | None) -> list[int]:
    return [] if value is None else [value]


def continues(state: State, micro_batch: int) -> bool:
    """Return whether a micro-batch is the next one after this state, or the newest one again."""
    return micro_batch in (state.micro_batch, state.micro_batch + 1)


def _is_final(window: Window, max_event_time_before: int | None, watermark: int) -> bool:
    return max_event_time_before is not None and window.end + watermark <= max_event_time_before


def closes_in_next_micro_batch(state: State, watermark: int) -> bool:
    """Return whether the next micro-batch makes a window final, whatever trades it holds."""
    return any(_is_final(window, state.max_event_time, watermark) for window in state.open.values())


def to_json(state: State) -> dict[str, Any]:
    """Return the state as a JSON object. Its names are a file format and must not change."""

    def listed(windows: Mapping[int, Window]) -> list[Any]:
        return [[w.start, w.end, w.last_trade_time, w.cells, w.growth] for w in windows.values()]

    return {
        "micro_batch": state.micro_batch,
        "greatest_before": state.max_event_time_before,
        "greatest": state.max_event_time,
        "open": listed(state.open),
        "left_open": listed(state.left_open),
        "newest_final": state.newest_final,
    }


def from_json(value: Mapping[str, Any]) -> State:
    """Return the state in a JSON object; {} is the state before the first micro-batch.

    Raises:
        StateError: the object has another form.
    """
    if not value:
        return State()
    try:
        before, greatest = value["greatest_before"], value["greatest"]
        newest_final = value.get("newest_final")
        return State(
            micro_batch=_whole(value["micro_batch"]),
            max_event_time_before=None if before is None else _whole(before),
            max_event_time=None if greatest is None else _whole(greatest),
            open=_windows(value["open"]),
            left_open=_windows(value.get("left_open", [])),
            newest_final=None if newest_final is None else _whole(newest_final),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError("open_windows.json has an unknown form") from error


def _windows(listed: Iterable[Any]) -> dict[int, Window]:
    found = [
        Window(
            _whole(start),
            _whole(end),
            _whole(last),
            {str(name): cell for name, cell in cells.items()},
            tuple((_whole(at), _whole(count)) for at, count in growth),
        )
        for start, end, last, cells, growth in listed
    ]
    if not all(isinstance(cell, str) for window in found for cell in window.cells.values()):
        raise ValueError("a cell is not text")
    return {window.start: window for window in found}


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value
