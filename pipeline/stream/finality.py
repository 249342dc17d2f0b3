"""Decide when a window of the stream is final, by the rule of Spark. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import OperationalError

#: A row of a CSV file: the text of each cell, by column.
Cells = dict[str, str]
#: Maximum number of entries in the growth of a window.
MAX_GROWTH_ENTRIES = 240


class StateError(OperationalError):
    """The stored open windows do not fit the micro-batch; the message says what to do."""


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
        StateError: a micro-batch is missing between the state and this one.
    """
    if micro_batch > state.micro_batch + 1:
        raise StateError(
            f"The open windows are those after micro-batch {state.micro_batch}, but Spark is at "
            f"micro-batch {micro_batch}. Stop the stream and delete the folder `checkpoints`: the "
            "stream then reads the topic from its beginning."
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
    after = State(
        micro_batch=micro_batch,
        max_event_time_before=before,
        max_event_time=max(event_times, default=None),
        open={start: window for start, window in windows.items() if start not in final},
    )
    return after, [final[start] for start in sorted(final)]


def _is_final(window: Window, max_event_time_before: int | None, watermark: int) -> bool:
    return max_event_time_before is not None and window.end + watermark <= max_event_time_before


def closes_in_next_micro_batch(state: State, watermark: int) -> bool:
    """Return whether the next micro-batch makes a window final, whatever trades it holds."""
    return any(_is_final(window, state.max_event_time, watermark) for window in state.open.values())


def to_json(state: State) -> dict[str, Any]:
    """Return the state as a JSON object. Its names are a file format and must not change."""
    return {
        "micro_batch": state.micro_batch,
        "greatest_before": state.max_event_time_before,
        "greatest": state.max_event_time,
        "open": [
            [window.start, window.end, window.last_trade_time, window.cells, window.growth]
            for window in state.open.values()
        ],
    }


def from_json(value: Mapping[str, Any]) -> State:
    """Return the state in a JSON object; {} is the state before the first micro-batch."""
    if not value:
        return State()
    windows = [
        Window(start, end, last, cells, tuple((at, count) for at, count in growth))
        for start, end, last, cells, growth in value["open"]
    ]
    return State(
        micro_batch=value["micro_batch"],
        max_event_time_before=value["greatest_before"],
        max_event_time=value["greatest"],
        open={window.start: window for window in windows},
    )
