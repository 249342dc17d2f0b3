"""Detection: how long after the decisive trade each path shows that a window is High or a Spike."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from pipeline.alerts import KINDS
from pipeline.compare.freshness import BATCH, STREAM_FINAL, STREAM_OPEN
from pipeline.source import has_seam

#: An alert, in all tables: the start of its window as text, and its kind.
KEY = ["window_start", "kind"]
#: Columns of `Detection.table`.
COLUMNS = ("result", "detected", "median", "p99", "longest")


@dataclass(frozen=True)
class Detection:
    """When each result first showed the windows that are High or a Spike."""

    #: The alerts that are measured, KEY and `crossed_at`: those with a known decisive trade, in
    #: windows in which no recording started again.
    events: pd.DataFrame
    #: One row per result, with COLUMNS: how many of the events it has shown, and how long after the
    #: decisive trade, in seconds. NaN: it has shown none.
    table: pd.DataFrame
    #: Of the events that both paths have shown: how many, and how many the stream showed first.
    by_both: int
    stream_first: int
    #: How many alerts have a result for their window on the same path, and how many of these alerts
    #: have a greater value than the result.
    checked: int
    false: int

    def median(self, result: str) -> float:
        """Return the median time to detection of a result, in seconds; NaN if unknown."""
        return float(self.table.set_index("result")["median"].get(result, float("nan")))


def detection(
    alerts: Mapping[str, pd.DataFrame],
    crossings: pd.DataFrame,
    regular: pd.DataFrame,
    results: Mapping[str, pd.DataFrame],
    source: Mapping[str, Any],
) -> Detection:
    """Return how long each result took to show that a window is High or a Spike.

    Args:
        alerts: The alerts of `stream` and `batch`: KEY, `value` (float), `raised_at`.
        crossings: The event time of the trade that made a window High or a Spike: KEY,
            `crossed_at`.
        regular: The final windows of the time in which all services ran: `window_start` as text,
            `window_end`, `written_at`. Alerts of other windows are late because a service was
            stopped.
        results: The windows of `stream` (final) and `batch`, typed, with `window_start` as text.
        source: The content of `source.json`: when a re-timed recording started again.
    """
    events = crossings[crossings["window_start"].isin(regular["window_start"])]
    events = events.merge(regular[["window_start", "window_end", "written_at"]], on="window_start")
    events = _without_seams(events, source)
    for path, raised in alerts.items():
        named = raised[[*KEY, "raised_at"]].rename(columns={"raised_at": path})
        events = events.merge(named, on=KEY, how="left")
    rows = [
        (result, *_times((events[column] - events["crossed_at"]).dt.total_seconds()))
        for result, column in (
            (STREAM_OPEN, "stream"), (STREAM_FINAL, "written_at"), (BATCH, "batch"),
        )
    ]  # fmt: skip
    both = events.dropna(subset=["stream", "batch"])
    checked = [_checked(alerts[path], results[path]) for path in ("stream", "batch")]
    return Detection(
        events=events[[*KEY, "crossed_at"]],
        table=pd.DataFrame(rows, columns=list(COLUMNS)),
        by_both=len(both),
        stream_first=int((both["stream"] < both["batch"]).sum()),
        checked=sum(count for count, _ in checked),
        false=sum(false for _, false in checked),
    )


def _without_seams(events: pd.DataFrame, source: Mapping[str, Any]) -> pd.DataFrame:
    """Return the events of windows in which no recording started again."""
    jumps = [
        has_seam(source, datetime.fromisoformat(start), end)
        for start, end in zip(events["window_start"], events["window_end"], strict=True)
    ]
    return events[~pd.Series(jumps, index=events.index, dtype=bool)]


def _times(seconds: pd.Series) -> tuple[int, float, float, float]:
    known = seconds.dropna()
    median, p99, longest = (float(known.quantile(share)) for share in (0.5, 0.99, 1.0))
    return len(known), median, p99, longest


def _checked(alerts: pd.DataFrame, windows: pd.DataFrame) -> tuple[int, int]:
    """Return how many alerts have their window in the table, and how many of these are false.

    Range and volume of a window only grow while trades arrive.
    """
    count = false = 0
    for kind in KINDS:
        found = alerts[alerts["kind"] == kind.name].merge(
            windows[["window_start", kind.value]], on="window_start"
        )
        count += len(found)
        false += int((found[kind.value] < found["value"]).sum())
    return count, false
