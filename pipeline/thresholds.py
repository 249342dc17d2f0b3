"""The thresholds that windows were computed with: a record per path, one row for each period.

The thresholds are settings and may change at any time. The rows of windows do not contain them.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Any

from pipeline import text_files, times
from pipeline.metrics import definitions
from pipeline.settings import Settings

#: The record loses its older half above this size, bytes.
RECORD_BYTES = 1_000_000


@dataclass(frozen=True)
class Thresholds:
    """The settings that decide the flags of a window."""

    volatility_range: Decimal
    sentiment_ratio: Decimal
    spike_volume: Decimal

    def flags(self, window: Mapping[str, str]) -> dict[str, str | None]:
        """Return the flags of a window (as cells) with these thresholds."""
        buys, sells = int(window["buy_count"]), int(window["sell_count"])
        return {
            "volatility_flag": definitions.volatility_flag(
                Decimal(window["price_range"]), self.volatility_range
            ),
            "market_sentiment": definitions.market_sentiment(buys, sells, self.sentiment_ratio),
            "volume_spike": definitions.volume_spike(
                Decimal(window["total_volume"]), self.spike_volume
            ),
        }


@dataclass(frozen=True)
class Period:
    """Thresholds, and since when a path used them."""

    since: datetime
    thresholds: Thresholds


NAMES = tuple(field.name for field in fields(Thresholds))
COLUMNS = ("since", *NAMES)
#: The setting that decides each flag.
SETTING_OF = dict(zip(("volatility_flag", "market_sentiment", "volume_spike"), NAMES, strict=True))


def of(settings: Settings) -> Thresholds:
    return Thresholds(*(getattr(settings, name) for name in NAMES))


def record(path: Path, settings: Settings, before: Mapping[str, Any] | None = None) -> None:
    """Record the thresholds if they differ from the newest ones in the record.

    Args:
        path: the record.
        settings: the settings in use from now on.
        before: the settings of the last start, which begin the record; None: unknown.
    """
    periods = read(path)
    newest = periods[-1].thresholds if periods else None
    if newest is None and before is not None:
        with contextlib.suppress(KeyError, TypeError, DecimalException):
            newest = Thresholds(*(Decimal(before[name]) for name in NAMES))
            _append(path, Period(times.from_epoch_millis(0), newest))
    if newest != of(settings):
        _append(path, Period(times.now(), of(settings)))


def _append(path: Path, period: Period) -> None:
    row = {"since": period.since, **asdict(period.thresholds)}
    text_files.append_csv(path, COLUMNS, row, RECORD_BYTES)


def read(path: Path) -> list[Period]:
    """Return the periods in a record, oldest first, without damaged lines.

    Raises:
        OutputError: the record cannot be read.
    """
    found = []
    for row in text_files.read_record(path):
        with contextlib.suppress(KeyError, TypeError, ValueError, DecimalException):
            since = datetime.fromisoformat(row["since"])
            thresholds = Thresholds(*(Decimal(row[name]) for name in NAMES))
            if since.tzinfo is not None:
                found.append(Period(since, thresholds))
    return found
