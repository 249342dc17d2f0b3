"""Alerts: a window is High or a Spike. Each path publishes each alert once.

The file of a path records which alerts are published. A service reads it when it starts. A power
cut or a full disk can cut off the last line. Then the line is removed, and the alert is published
again.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline import text_files
from pipeline.metrics.definitions import HIGH, LABELS, SPIKE
from pipeline.settings import Settings, currencies

#: Columns of `alerts_stream.csv` and `alerts_batch.csv`: the window, HIGH or SPIKE, its range or
#: volume and the threshold, the newest trade in the update that raised the alert, and when a reader
#: could see it.
COLUMNS = ("window_start", "kind", "value", "threshold", "newest_trade", "raised_at")
#: A window that starts this many windows or more before the window of the newest alert raises no
#: alert: it is history.
HORIZON_WINDOWS = 1440
#: Above this size, bytes, the older half of a file is removed. The other half has all alerts of the
#: newest HORIZON_WINDOWS windows.
FILE_BYTES = 4_000_000
#: Maximum number of log lines for one update. A path that starts late raises many alerts at once.
LOGGED = 5

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z"
_NUMBER = r"\d+(?:\.\d+)?"
_LINE = re.compile(rf"({_TIME}),(?:{HIGH}|{SPIKE}),{_NUMBER},{_NUMBER},({_TIME})?,({_TIME})")

#: The text of each cell, by column.
Alert = dict[str, str]


@dataclass(frozen=True)
class Kind:
    """A kind of alerts: the columns of its flag and its value, and the setting of its threshold."""

    name: str
    flag: str
    value: str
    threshold: str
    #: Whether the value is in the quote currency. Otherwise it is in the base currency.
    in_quote: bool


KINDS = (
    Kind(HIGH, "volatility_flag", "price_range", "volatility_range", in_quote=True),
    Kind(SPIKE, "volume_spike", "total_volume", "spike_volume", in_quote=False),
)


def unit_of(kind: str, product: str) -> str:
    """Return the unit of the value and of the threshold of an alert: a currency of the product."""
    base, quote = currencies(product)
    return quote if _kind_named(kind).in_quote else base


def _kind_named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def alerts_in(window: Mapping[str, object], settings: Settings) -> list[Alert]:
    """Return the alerts of a window, without the columns about the update."""
    return [
        text_files.cells(
            ("window_start", "kind", "value", "threshold"),
            {
                "window_start": window["window_start"],
                "kind": kind.name,
                "value": window[kind.value],
                "threshold": getattr(settings, kind.threshold),
            },
        )
        for kind in KINDS
        if window[kind.flag] == kind.name
    ]


def read(path: Path) -> list[Alert]:
    """Return the alerts in a file, oldest first, without malformed lines.

    Raises:
        OutputError: the file cannot be read.
    """
    return [
        dict(zip(COLUMNS, line.split(","), strict=True))
        for line in _lines(text_files.read_text(path))
    ]


def _lines(text: str) -> list[str]:
    """Return the lines of a file that are alerts."""
    # The text after the last line end is not a whole line.
    return [line for line in text.split("\n")[:-1] if _is_alert(line)]


def _is_alert(line: str) -> bool:
    found = _LINE.fullmatch(line)
    if found is None:
        return False
    try:
        for time in filter(None, found.groups()):
            datetime.fromisoformat(time)
    except ValueError:  # for example the 30th of February
        return False
    return True


class AlertLog:
    """Publishes the alerts of one path."""

    def __init__(self, path: Path, settings: Settings, show: Callable[[str], None]) -> None:
        self._path = path
        self._settings = settings
        self._show = show
        self._published = {(alert["window_start"], alert["kind"]) for alert in read(path)}

    def publish(
        self,
        windows: Iterable[Mapping[str, object]],
        newest_trade: datetime | None,
        now: datetime,
    ) -> list[Alert]:
        """Publish the alerts of these windows that are new, and return them.

        Args:
            windows: windows with their metrics. Times are datetimes or cells.
            newest_trade: the newest trade in the update.
            now: when a reader could see the windows.

        Raises:
            OSError, OutputError: the alerts cannot be written.
        """
        found = [
            alert
            for window in windows
            for alert in alerts_in(window, self._settings)
            if (alert["window_start"], alert["kind"]) not in self._published
        ]
        if not found:  # as in almost every micro-batch
            return []
        starts = [start for start, _ in self._published]
        newest = max([*starts, *(alert["window_start"] for alert in found)])
        horizon = text_files.cells(
            ("start",),
            {"start": datetime.fromisoformat(newest) - HORIZON_WINDOWS * self._settings.window},
        )["start"]
        self._published = {key for key in self._published if key[0] > horizon}
        update = text_files.cells(
            ("newest_trade", "raised_at"), {"newest_trade": newest_trade, "raised_at": now}
        )
        new = [alert | update for alert in found if alert["window_start"] > horizon]
        if new:
            append(self._path, new)
            self._published |= {(alert["window_start"], alert["kind"]) for alert in new}
            self._log(new)
        return new

    def _log(self, alerts: list[Alert]) -> None:
        if (omitted := len(alerts) - LOGGED) > 0:
            self._show(f"ALERT (earlier alerts omitted: {omitted}, see {self._path.name})")
        for alert in alerts[-LOGGED:]:
            self._show(describe(alert, self._settings.product_id))


def describe(alert: Mapping[str, str], product: str) -> str:
    """Return an alert as a line of the log.

    `ALERT High, window 2025-12-02 05:10:00 UTC: price range 61.23 USD, threshold 50 USD`.
    """
    kind = alert["kind"]
    label, unit = LABELS[_kind_named(kind).value], unit_of(kind, product)
    window = alert["window_start"][:19].replace("T", " ")
    return (
        f"ALERT {kind}, window {window} UTC: {label} {alert['value']} {unit}, "
        f"threshold {alert['threshold']} {unit}"
    )


def append(path: Path, alerts: Iterable[Alert]) -> None:
    """Append alerts to a file, so that they survive a power cut.

    A line that was cut off is removed first. If the header is damaged, the function replaces the
    file: it writes the right header and keeps every line that is an alert. Lines with the columns
    of another version are dropped.

    Raises:
        OSError, OutputError: the file cannot be written or read.
    """
    header, *lines = (f"{line}\n" for line in text_files.to_csv(COLUMNS, alerts).splitlines())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        known = file.read()
        if known.startswith(header.encode()) and len(known) <= FILE_BYTES:
            size = known.rfind(b"\n") + 1
            if size < len(known):
                file.truncate(size)
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
            return
    kept = [f"{line}\n" for line in _lines(text_files.read_text(path))]
    if len(known) > FILE_BYTES:
        kept = kept[len(kept) // 2 :]
    text_files.write_atomically(path, "".join([header, *kept, *lines]))
