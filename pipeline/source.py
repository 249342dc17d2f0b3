"""What a data directory holds: one feed, one product, one Kafka topic, windows of one length.

`source.json` records the feed, the product and the topic. Each service calls `claim` before its
work. The comparison, the report and the page only read, and call `check`.
"""

import contextlib
import csv
import fcntl
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from pipeline import data_dir, outputs, text_files
from pipeline.data_dir import DataDir
from pipeline.durations import duration_text
from pipeline.errors import OutputError
from pipeline.settings import Settings

#: The members of `source.json` that are settings, and the setting of each.
_SETTINGS = {"product": "product_id", "topic": "kafka_topic"}
#: Kafka's id of the topic. A topic that is created again has another id and is read from its
#: beginning, so this member is replaced, not compared.
_TOPIC_ID = "topic_id"
#: The members about a re-timed recording: the time of its first start, and the seconds from one
#: start to the next.
REPETITION = ("repeat_from", "repeat_s")
#: How many rows of a file decide the length of its windows.
_WINDOWS_READ = 20


def claim(data: DataDir, settings: Settings, feed: Mapping[str, object] | None = None) -> None:
    """Record what this data directory holds, or refuse a directory that holds something else.

    A directory of an older version has no product and no topic in `source.json`. The settings in
    its status files are recorded. Call this before writing a status file.

    Args:
        data: the data directory.
        settings: the settings of the service.
        feed: the identity of the feed; None: not known to this service.

    Raises:
        OutputError: the directory holds another product, topic or feed.
    """
    with _lock(data):
        before = _read(data)
        wanted = {name: getattr(settings, field) for name, field in _SETTINGS.items()}
        recorded = {**wanted, **_held(data, before)}
        if feed is not None and "kind" not in before:
            recorded = {**feed, **recorded}
        elif feed is not None and _repeats_whole_minutes(_feed(before), feed):
            recorded |= {name: feed[name] for name in REPETITION}
        if recorded != before:
            text_files.write_atomically(data.source, json.dumps(recorded, indent=1) + "\n")
    for name, value in wanted.items():
        _compare(data, name, recorded[name], value)
    if feed is not None and (found := _feed(recorded)) != dict(feed):
        raise OutputError(
            f"DATA_DIR holds another feed: {data_dir.ANOTHER_FOLDER}. "
            f"{data.root} holds {_feed_name(found)}, not {_feed_name(feed)}"
        )


def check(data: DataDir, settings: Settings) -> None:
    """Refuse a data directory whose content does not match the settings of the user.

    A program that only reads has no use for the product, the topic and the length of the windows.
    It therefore compares only the settings that the user gave, not their defaults.

    Raises:
        OutputError: the directory holds another product, topic or length of windows.
    """
    held: dict[str, Any] = {}
    with contextlib.suppress(OutputError):  # the reader of the file reports the error
        held = _held(data, text_files.read_json(data.source))
    for name, field in _SETTINGS.items():
        if name in held and field in settings.model_fields_set:
            _compare(data, name, held[name], getattr(settings, field))
    if "window" in settings.model_fields_set:
        check_window(data, settings.window)


def check_window(data: DataDir, window: timedelta) -> None:
    """Check that the final windows in this data directory have this length.

    Windows of two lengths would count trades twice.

    Raises:
        OutputError: the directory holds windows of another length.
    """
    held = _window_length(data)
    if held is not None and held != window:
        raise OutputError(
            f"WINDOW is {duration_text(window)}, but the data directory holds windows of "
            f"{duration_text(held)}. Set WINDOW='{duration_text(held)}', or "
            f"{data_dir.ANOTHER_FOLDER}: {data.root}"
        )


def record_topic_id(data: DataDir, topic_id: str) -> None:
    """Record Kafka's id of the topic that fills this data directory."""
    with _lock(data):
        before = _read(data)
        if before.get(_TOPIC_ID) != topic_id:
            text = json.dumps(before | {_TOPIC_ID: topic_id}, indent=1)
            text_files.write_atomically(data.source, text + "\n")


@contextlib.contextmanager
def lock(data: DataDir, name: str, *, wait: bool) -> Iterator[None]:
    """Hold the lock `status/NAME.lock`. The kernel releases it when the process ends.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
    """
    data.status.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(data.status / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _lock(data: DataDir) -> contextlib.AbstractContextManager[None]:
    """Let one process at a time read and write `source.json`: all services start together."""
    return lock(data, "source", wait=True)


def _read(data: DataDir) -> dict[str, Any]:
    try:
        return text_files.read_json(data.source)
    except OutputError as error:
        again = "Move it away: the next start writes it again."
        raise OutputError(str(error).replace("Move it away.", again)) from error


def _held(data: DataDir, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `source.json` holds, completed by the settings in status files."""
    held = dict(recorded)
    for service in outputs.SERVICES if _SETTINGS.keys() - held.keys() else ():
        used = outputs.part(outputs.status_or_empty(data, service), "settings")
        for name, field in _SETTINGS.items():
            if isinstance(used.get(field), str):
                held.setdefault(name, used[field])
    return held


def _compare(data: DataDir, name: str, held: object, wanted: object) -> None:
    if held != wanted:
        variable = _SETTINGS[name].upper()
        raise OutputError(
            f"{variable} is {wanted}, but the data directory holds the {name} {held}. Set "
            f"{variable}={held}, or {data_dir.ANOTHER_FOLDER}: {data.root}"
        )


def _window_length(data: DataDir) -> timedelta | None:
    """Return the length of the final windows; None if there are none or no file can be read.

    A damaged row must not look like a window of another length, so the most frequent one counts.
    """
    for path in reversed(outputs.stream_files(data)):
        lengths: Counter[timedelta] = Counter()
        with (
            contextlib.suppress(OSError, ValueError, csv.Error),
            path.open(encoding="utf-8", newline="") as file,
        ):
            for row in itertools.islice(csv.DictReader(file), _WINDOWS_READ):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    start, end = (
                        datetime.fromisoformat(row[f"window_{edge}"]) for edge in ("start", "end")
                    )
                    lengths[end - start] += 1
        if lengths:
            return lengths.most_common(1)[0][0]
    return None


def _feed(recorded: Mapping[str, Any]) -> dict[str, Any]:
    others = {*_SETTINGS, _TOPIC_ID}
    return {name: value for name, value in recorded.items() if name not in others}


def _repeats_whole_minutes(held: Mapping[str, object], feed: Mapping[str, object]) -> bool:
    """Return whether an older version filled the directory with the messages of this replay.

    It repeated each recording after whole minutes, and did not record the repetition.
    """
    every_s = feed.get("repeat_s")
    if not isinstance(every_s, int) or every_s % 60:
        return False
    return held == {name: value for name, value in feed.items() if name not in REPETITION}


def seams(source: Mapping[str, Any], first: datetime, last: datetime, most: int) -> list[datetime]:
    """Return when a re-timed recording started again: price and volume jump there.

    Args:
        source: the content of `source.json`. A feed that is not re-timed has no seams.
        first: the earliest time to return.
        last: the latest time to return.
        most: maximum number of times to return. The latest ones are returned.
    """
    every_s, start = source.get("repeat_s"), source.get("repeat_from")
    if not isinstance(every_s, int) or every_s <= 0 or not isinstance(start, str):
        return []
    try:
        began = datetime.fromisoformat(start)
        every = timedelta(seconds=every_s)
        until = (last - began) // every
        since = max(-((began - first) // every), 0, until - most + 1)
    except (ValueError, TypeError, OverflowError):
        return []
    return [began + n * every for n in range(since, until + 1)]


def has_seam(source: Mapping[str, Any], start: datetime, end: datetime) -> bool:
    """Return whether a re-timed recording started again inside a window, but not at its start.

    Price and volume jump there, which is not a market movement.

    Args:
        source: the content of `source.json`.
        start: the start of the window.
        end: its end.
    """
    return any(start < moment < end for moment in seams(source, start, end, 2))


def is_as_recorded(feed: Mapping[str, object]) -> bool:
    """Return whether a feed replays a recording with its original timestamps."""
    return feed.get("kind") == "replay" and feed.get("retimed") is False


def feed_description(feed: Mapping[str, object]) -> str:
    """Return a feed in a few words; "" if its kind is unknown.

    Examples are `live feed wss://…` and `replay of a.gz, re-timed to the present`.
    """
    match feed.get("kind"):
        case "live":
            return f"live feed {feed.get('url', 'of unknown address')}"
        case "replay":
            how = "re-timed to the present"
            if is_as_recorded(feed):
                how = "with its original timestamps"
            return f"replay of {feed.get('recording', 'an unknown recording')}, {how}"
    return ""


def _feed_name(feed: Mapping[str, object]) -> str:
    if feed.get("kind") == "live":
        return f"the live feed {feed.get('url')}"
    retimed = "as recorded" if is_as_recorded(feed) else "re-timed"
    if "repeat_s" in feed:
        retimed += f", repeated every {feed['repeat_s']} s"
    return f"a replay of {feed.get('recording')} ({retimed})"
