"""When a window of the stream is final: Spark's own rule, computed from the rows. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: A window as the text of its cells, beside what the rule needs of it.
Cells = dict[str, str]


@dataclass(frozen=True)
class Window:
    """A window as a micro-batch reported it; times in microseconds since 1970."""

    start: int
    end: int
    last_trade_time: int
    cells: Cells


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
    """
    again = micro_batch == state.micro_batch
    before = state.greatest_before if again else state.greatest
    windows = {**state.open, **{row.start: row for row in rows}}
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


def to_json(state: State) -> dict[str, Any]:
    return {
        "micro_batch": state.micro_batch,
        "greatest_before": state.greatest_before,
        "greatest": state.greatest,
        "open": [
            [window.start, window.end, window.last_trade_time, window.cells]
            for window in state.open.values()
        ],
    }


def from_json(value: Mapping[str, Any]) -> State:
    """The state in such an object; {} is the state before the first micro-batch."""
    if not value:
        return State()
    windows = (Window(*fields) for fields in value["open"])
    return State(
        micro_batch=value["micro_batch"],
        greatest_before=value["greatest_before"],
        greatest=value["greatest"],
        open={window.start: window for window in windows},
    )
