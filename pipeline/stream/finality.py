"""When a window of the stream is final: Spark's own rule, computed from the rows. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from pipeline.errors import OperationalError

#: A window as the text of its cells, beside what the rule needs of it.
Cells = dict[str, str]
#: Steps of a window's growth that are kept, at most.
GROWTH_STEPS = 240


class StateError(OperationalError):
    """The state of the open windows does not fit the micro-batch; the text says what to do."""


@dataclass(frozen=True)
class Window:
    """A window as a micro-batch reported it; times in microseconds since 1970."""

    start: int
    end: int
    last_trade_time: int
    cells: Cells
    #: Its growth: (when it was published, trades in it by then), microseconds since 1970.
    growth: tuple[tuple[int, int], ...] = ()

    def after(self, before: "Window | None") -> "Window":
        """This window with the growth of the one that it replaces in front of its own."""
        if before is None:
            return self
        known = before.growth[-1][1] if before.growth else 0
        grown = tuple(step for step in self.growth if step[1] > known)
        kept = before.growth
        if len(kept) >= GROWTH_STEPS:  # a long window: every other step tells enough
            kept = kept[1::2]
        return replace(self, growth=kept + grown)


@dataclass(frozen=True)
class State:
    """The open windows after a micro-batch, and the greatest event times around it."""

    micro_batch: int = -1
    #: The greatest event time in the micro-batches before this one; None: there were none.
    greatest_before: int | None = None
    #: The same, with this one.
    greatest: int | None = None
    open: Mapping[int, Window] = field(default_factory=dict)


def lay(
    state: State, micro_batch: int, rows: Iterable[Window], watermark: int
) -> tuple[State, list[Window]]:
    """Lays a micro-batch's rows over the open windows; returns what is open, and what is final.

    A window is final after a micro-batch if its end + watermark is at or before the greatest
    event time in the micro-batches before. Laying the newest micro-batch again changes nothing.

    Raises:
        StateError: micro-batches lie between the state and this one: windows would be wrong.
    """
    if micro_batch > state.micro_batch + 1:
        raise StateError(
            f"the open windows are of micro-batch {state.micro_batch}, Spark is at {micro_batch}: "
            "stop the stream and remove the folder checkpoints; it then reads Kafka anew"
        )
    again = micro_batch == state.micro_batch
    before = state.greatest_before if again else state.greatest
    laid = {row.start: row.after(state.open.get(row.start)) for row in rows}
    windows = {**state.open, **laid}
    times = [window.last_trade_time for window in windows.values()]
    if before is not None:
        times.append(before)
    final = sorted(
        start
        for start, window in windows.items()
        if before is not None and window.end + watermark <= before
    )
    after = State(
        micro_batch=micro_batch,
        greatest_before=before,
        greatest=max(times, default=None),
        open={start: window for start, window in windows.items() if start not in set(final)},
    )
    return after, [windows[start] for start in final]


def closing(state: State, watermark: int) -> bool:
    """Whether the next micro-batch makes a window final, whatever it brings."""
    greatest = state.greatest
    return greatest is not None and any(
        window.end + watermark <= greatest for window in state.open.values()
    )


def late(
    trades: Iterable[tuple[int, datetime]], newest: datetime | None, watermark: timedelta
) -> list[tuple[int, float]]:
    """The trades that the stream may have dropped as late, whatever its micro-batches were.

    Args:
        trades: (id, event time), in the order of the topic.
        newest: the greatest event time before them.
        watermark: how late a trade may be.

    Returns:
        (id, seconds behind the newest trade before it) of those that lie as far behind or more.
    """
    found = []
    for trade_id, time in trades:
        if newest is None or time > newest:
            newest = time
        elif newest - time >= watermark:
            found.append((trade_id, (newest - time).total_seconds()))
    return found


def to_json(state: State) -> dict[str, Any]:
    return {
        "micro_batch": state.micro_batch,
        "greatest_before": state.greatest_before,
        "greatest": state.greatest,
        "open": [
            [window.start, window.end, window.last_trade_time, window.cells, window.growth]
            for window in state.open.values()
        ],
    }


def from_json(value: Mapping[str, Any]) -> State:
    """The state in such an object; {} is the state before the first micro-batch."""
    if not value:
        return State()
    windows = [
        Window(start, end, last, cells, tuple((at, count) for at, count in growth))
        for start, end, last, cells, growth in value["open"]
    ]
    return State(
        micro_batch=value["micro_batch"],
        greatest_before=value["greatest_before"],
        greatest=value["greatest"],
        open={window.start: window for window in windows},
    )
