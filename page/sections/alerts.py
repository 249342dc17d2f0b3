"""The alerts section: windows that are High or a Spike, and when each path first showed them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from page.formatting import DASH
from pipeline.alerts import Alert, unit_of
from pipeline.compare.formatting import window_time
from pipeline.metrics.definitions import LABELS
from pipeline.settings import Settings
from pipeline.source import has_seam

#: Maximum number of windows in the list.
LISTED = 20
#: An alert is marked as new for this long.
NEW = timedelta(minutes=10)
HEADER = (
    *("mark", LABELS["window_start"], "kind", "value", "threshold"),
    *("shown by stream (UTC)", "shown by batch (UTC)"),
)
EMPTY = "No alert yet. One appears when a window is High or a Spike."
#: The mark of a window in which a re-timed recording starts again.
_SEAM = "restart"


def rows(
    stream: Iterable[Alert],
    batch: Iterable[Alert],
    now: datetime,
    repetition: Mapping[str, Any],
    settings: Settings,
) -> list[tuple[str, ...]]:
    """Return a row for each window and kind with an alert, the newest window first.

    Args:
        stream: the alerts of the stream.
        batch: the alerts of the batch.
        now: the current time.
        repetition: when a re-timed recording starts again.
        settings: the settings of the stream: the length of a window, and the product.
    """
    found: dict[tuple[str, str], dict[str, Alert]] = {}
    for path, raised in (("stream", stream), ("batch", batch)):
        for alert in raised:
            found.setdefault((alert["window_start"], alert["kind"]), {})[path] = alert
    shown = []
    for key, by_path in sorted(found.items(), reverse=True)[:LISTED]:
        start = datetime.fromisoformat(key[0])
        is_seam = has_seam(repetition, start, start + settings.window)
        shown.append(_row(key, by_path, now, settings.product_id, is_seam=is_seam))
    return shown


def _row(
    key: tuple[str, str],
    by_path: Mapping[str, Alert],
    now: datetime,
    product: str,
    *,
    is_seam: bool,
) -> tuple[str, ...]:
    first = min(by_path.values(), key=lambda alert: alert["raised_at"])
    is_new = now - datetime.fromisoformat(first["raised_at"]) < NEW
    marks = ("● new" if is_new else "", _SEAM if is_seam else "")
    start, kind = key
    unit = unit_of(kind, product)
    return (
        ", ".join(filter(None, marks)),
        window_time(start),
        kind,
        f"{Decimal(first['value']):,f} {unit}",
        f"{Decimal(first['threshold']):,f} {unit}",
        *(
            by_path[path]["raised_at"][11:19] if path in by_path else DASH
            for path in ("stream", "batch")
        ),
    )


def how_to_read(shown: Sequence[Sequence[str]]) -> str:
    """Return how to read the rows, or why there are no rows."""
    if not shown:
        return EMPTY
    text = (
        f"The table lists the newest alerts, at most {LISTED}, newest first. An alert is a window "
        "that is High or a Spike. The table shows the time (UTC) at which each path first showed "
        "it. ● new: first shown within the last 10 minutes."
    )
    if any(row[0].endswith(_SEAM) for row in shown):
        text += (
            f" {_SEAM}: the recording starts again in this window. The jump of the price or the "
            "volume there is not a market movement."
        )
    return text
