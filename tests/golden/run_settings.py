"""The settings of a run, as its data directory records them, or the reason why they are unknown.

Product, window and watermark are in the status files. Thresholds may change at any restart. Each
path records them in `status/<service>_thresholds.csv`, one row for each period.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tests import golden
from tests.golden import Rules

CONSUMER, STREAM = "consumer", "spark_processor"
#: The batch has two programs. The scheduler writes the status file. Each run records its
#: thresholds.
SCHEDULER, BATCH = "batch_scheduler", "batch_processor"

#: The member of `Rules` for each setting.
_SETTINGS = {"product_id": "product", "window": "window", "watermark": "watermark"}
_THRESHOLDS = {"volatility_range": "range", "sentiment_ratio": "ratio", "spike_volume": "spike"}


class RefusedError(Exception):
    """The data directory cannot be compared with the recording. The text is the reason."""


class UnknownSettingsError(RefusedError):
    """The data directory does not record the settings that a comparison needs."""


class Period(NamedTuple):
    """The rules of a path from a time on (microseconds since 1970)."""

    since: int
    rules: Rules


def periods_of_stream(data_dir: Path) -> list[Period]:
    """Return the rules of the stream, oldest first.

    Raises:
        RefusedError: the settings are unknown, or differ between the stream and the batch.
    """
    # Refuse a run without the settings of the consumer, which name the store.
    _settings(data_dir, CONSUMER)
    settings = _settings(data_dir, STREAM)
    if _status_path(data_dir, SCHEDULER).exists():
        batch = _settings(data_dir, SCHEDULER)
        for name in _SETTINGS:
            if _value(settings, name) != _value(batch, name):
                raise RefusedError(
                    f"{name.upper()} differs between the stream and the batch: {settings[name]} "
                    f"and {batch[name]}. Run both with one value."
                )
    return _periods(data_dir, STREAM, settings)


def periods_of_batch(data_dir: Path) -> list[Period]:
    """Return the rules of the batch runs, oldest first.

    Raises:
        RefusedError: the settings are unknown.
    """
    recorded = _record_path(data_dir, BATCH).exists()
    settings = _settings(data_dir, STREAM if recorded else SCHEDULER)
    return _periods(data_dir, BATCH, settings)


def has_one_checkpoint(data_dir: Path) -> bool:
    """Return whether the stream had one checkpoint only, so it computed no final row again."""
    path = data_dir / "status" / "stream_starts.csv"
    return not path.exists() or len(_text(path).split("\n")) <= 3  # header, row, end of file


def candidates(periods: Sequence[Period], earliest: int | None, latest: int | None) -> list[Rules]:
    """Return the rules that may have decided the flags of a row.

    Args:
        periods: the periods of its path, oldest first.
        earliest: the row was computed at this time or later; None: unknown.
        latest: the row was computed at this time or earlier; None: unknown.
    """
    ends: list[int | None] = [period.since for period in periods[1:]]
    return [
        period.rules
        for period, end in zip(periods, [*ends, None], strict=True)
        if (latest is None or period.since <= latest)
        and (end is None or earliest is None or earliest < end)
    ]


def with_flags(
    name: str, metrics: Mapping[str, object], possible: Sequence[Rules]
) -> dict[str, object]:
    """Return expected metrics with the flags of the rules that the path used.

    Args:
        name: the row, for the error.
        metrics: the expected metrics of the row.
        possible: the rules that may have decided the flags.

    Raises:
        UnknownSettingsError: the flags are not known exactly.
    """
    found = [golden.with_flags(metrics, rules) for rules in possible]
    if not found:
        raise UnknownSettingsError(
            f"The thresholds of {name} are unknown: the row is older than the record of the "
            "thresholds."
        )
    if any(other != found[0] for other in found):
        raise UnknownSettingsError(
            f"The thresholds of {name} are unknown. They changed at a restart, and the old and new "
            "thresholds give different flags. The files do not show which thresholds the row was "
            "computed with."
        )
    return found[0]


def _periods(data_dir: Path, service: str, settings: Mapping[str, Any]) -> list[Period]:
    rules = Rules(**{rule: _value(settings, name) for name, rule in _SETTINGS.items()})
    path = _record_path(data_dir, service)
    if not path.exists():
        if settings["starts"] != 1:
            raise UnknownSettingsError(
                f"status/{path.name} is missing, so the thresholds of earlier starts are unknown."
            )
        return [Period(0, _with_thresholds(rules, settings))]
    header, *lines = _text(path).split("\n")
    names = header.split(",")
    found = []
    for line in filter(None, lines):
        row = dict(zip(names, line.split(","), strict=False))
        since = golden.cell_time(row.get("since", ""))
        if since is None:
            raise UnknownSettingsError(f"status/{path.name} has a damaged line: {line!r}.")
        found.append(Period(since, _with_thresholds(rules, row)))
    if not found:
        raise UnknownSettingsError(f"status/{path.name} has no row, so the thresholds are unknown.")
    return found


def _with_thresholds(rules: Rules, values: Mapping[str, Any]) -> Rules:
    return rules._replace(**{rule: _value(values, name) for name, rule in _THRESHOLDS.items()})


def _settings(data_dir: Path, service: str) -> dict[str, Any]:
    """Return the settings in a status file, with the number of starts as `starts`."""
    path = _status_path(data_dir, service)
    if not path.exists():
        raise RefusedError(
            f"status/{path.name} is missing, so the settings of the run are unknown. Give the data "
            f"directory of a run. DATA_DIR={data_dir}"
        )
    status = read_object(path)
    settings = status.get("settings")
    if not isinstance(settings, dict):
        raise UnknownSettingsError(
            f"status/{path.name} has no field `settings`, so the settings of the run are unknown."
        )
    return {**settings, "starts": status.get("starts")}


def _value(values: Mapping[str, Any], name: str) -> Any:
    """Return a setting as `Rules` has it."""
    text = values.get(name)
    try:
        if not isinstance(text, str):
            raise TypeError
        if name in ("window", "watermark"):
            return pd.Timedelta(text) // timedelta(microseconds=1)
        return text if name == "product_id" else Decimal(text)
    except (ValueError, TypeError, InvalidOperation) as error:
        raise UnknownSettingsError(
            f"{name.upper()} of the run is unknown: the data directory records {text!r}."
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        RefusedError: the file cannot be read, or does not hold an object.
    """
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise UnknownSettingsError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(found, dict):
        raise UnknownSettingsError(f"{path} does not hold a JSON object.")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RefusedError(f"{path} cannot be read: {error}.") from error


def _status_path(data_dir: Path, service: str) -> Path:
    return data_dir / "status" / f"{service}.json"


def _record_path(data_dir: Path, service: str) -> Path:
    return data_dir / "status" / f"{service}_thresholds.csv"
