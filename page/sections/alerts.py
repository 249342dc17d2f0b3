"""The alerts section: windows that are High or a Spike, and when each path first showed them."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from page.formatting import DASH
from pipeline.alerts import Alert
from pipeline.compare.formatting import number, window_time

#: Maximum number of windows in the list.
LISTED = 20
#: An alert is marked as new for this long.
NEW = timedelta(minutes=10)
HEADER = ("", "window (UTC)", "alert", "value", "threshold", "stream", "batch")
HOW_TO_READ = (
    "Windows that are High or a Spike, the newest first, with the time (UTC) at which each path "
    "first showed them. ● new: within the last 10 minutes."
)
EMPTY = "No alert yet. One appears when a window is High or a Spike."


def rows(stream: Iterable[Alert], batch: Iterable[Alert], now: datetime) -> list[tuple[str, ...]]:
    """Return a row for each window and kind with an alert, the newest window first."""
    found: dict[tuple[str, str], dict[str, Alert]] = {}
    for path, raised in (("stream", stream), ("batch", batch)):
        for alert in raised:
            found.setdefault((alert["window_start"], alert["kind"]), {})[path] = alert
    newest = sorted(found.items(), reverse=True)[:LISTED]
    return [_row(key, by_path, now) for key, by_path in newest]


def _row(key: tuple[str, str], by_path: Mapping[str, Alert], now: datetime) -> tuple[str, ...]:
    first = min(by_path.values(), key=lambda alert: alert["raised_at"])
    is_new = now - datetime.fromisoformat(first["raised_at"]) < NEW
    start, kind = key
    return (
        "● new" if is_new else "",
        window_time(start),
        kind,
        number(float(first["value"]), ",.2f"),
        number(float(first["threshold"]), ",g"),
        *(
            by_path[path]["raised_at"][11:19] if path in by_path else DASH
            for path in ("stream", "batch")
        ),
    )
