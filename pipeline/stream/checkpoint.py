"""The checkpoint of the stream: its path, whether it is undamaged, and how a new one begins.

A checkpoint belongs to one shape of the query and to one Kafka topic. It holds Spark's own files in
`query/` and the open windows in `open_windows.json`. The two must match: the open windows are the
state before or after the micro-batch that Spark runs next.

A damaged checkpoint is not repaired. It is set aside, and the stream reads the topic again from its
oldest record. This is exact as far as Kafka has the records, because final windows with more trades
stay.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline import stream_offsets, text_files
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError, TemporaryError
from pipeline.settings import Settings
from pipeline.stream import finality, micro_batches

#: Incremented with each change of the query that an old checkpoint cannot continue.
QUERY_VERSION = 2
#: The directory of Spark's own files in a checkpoint, and the file of the open windows.
QUERY, OPEN_WINDOWS = "query", "open_windows.json"
#: The directory below `checkpoints/` of the last checkpoint that was set aside.
DAMAGED = "damaged"
#: Spark's directories below `query/` that hold one file for each micro-batch.
OFFSETS, COMMITS = "offsets", "commits"


class DamagedCheckpointError(TemporaryError):
    """The checkpoint is damaged. The next attempt starts a new one."""


def folder(settings: Settings, topic_id: str) -> Path:
    """Return the directory of the checkpoint for this shape of the query and this topic."""
    # The name of a topic may have 200 characters, and that of a directory 255.
    name = f"{_shape(settings)}-{settings.kafka_topic[:100]}-{topic_id}"
    return DataDir(settings.data_dir).checkpoints / name


def _shape(settings: Settings) -> str:
    return (
        f"stream-v{QUERY_VERSION}-window{settings.window.total_seconds():.0f}s"
        f"-watermark{settings.watermark.total_seconds():.0f}s"
        f"-partitions{settings.shuffle_partitions}"
    )


def adopt_unbound(settings: Settings, topic_id: str) -> None:
    """Continue the checkpoint of an older version, whose path does not contain the topic's id.

    The record of offsets shows which topic it read. Without a record, it belongs to this topic.
    """
    data = DataDir(settings.data_dir)
    unbound = data.checkpoints / f"{_shape(settings)}-{settings.kafka_topic}"
    bound = folder(settings, topic_id)
    if bound.exists() or not unbound.is_dir():
        return
    checkpoint = micro_batches.checkpoint_id(unbound / QUERY)
    recorded = stream_offsets.read_offset_ranges(data)
    topics = {record.topic for record in recorded if record.checkpoint == checkpoint}
    if topics <= {topic_id}:
        unbound.rename(bound)


def problem(checkpoint: Path) -> str | None:
    """Return what is damaged in a checkpoint; None if it can be continued or does not exist.

    Spark itself finds damage in its state store: `failures`.

    Raises:
        OSError: the files cannot be read by this user.
    """
    query = checkpoint / QUERY
    try:
        offsets, commits = (_newest(query / name) for name in (OFFSETS, COMMITS))
        state = _open_windows(checkpoint)
        if offsets is not None:
            for number in range(max(0, offsets - 1), offsets + 1):  # Spark reads both
                _check(query / OFFSETS / str(number), lines=3)
            if commits is not None:
                _check(query / COMMITS / str(commits), lines=2)
            _check(query / "sources" / "0" / "0", lines=2)
        if query.exists() and any(not path.name.startswith(".") for path in query.iterdir()):
            _check(query / micro_batches.METADATA, lines=1)
    except OutputError as error:
        return str(error).partition(". ")[0]  # the rest asks a person to act: the stream does
    except (finality.StateError, _Damage) as error:
        return str(error)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    newest, ended = (-1 if number is None else number for number in (offsets, commits))
    if ended not in (newest - 1, newest):
        return f"newest micro-batch in offsets: {_name(newest)}, in commits: {_name(ended)}"
    running = newest if ended < newest else newest + 1
    if not finality.continues(state, running):
        found = _name(state.micro_batch)
        return f"micro-batch in open_windows.json: {found}, Spark continues at {running}"
    return None


def _name(micro_batch: int) -> str:
    return "none" if micro_batch < 0 else str(micro_batch)


def _open_windows(checkpoint: Path) -> finality.State:
    """Return the open windows of a checkpoint.

    Raises:
        OutputError, finality.StateError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        return finality.from_json(text_files.read_json(checkpoint / OPEN_WINDOWS))
    except OutputError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise


class _Damage(Exception):  # noqa: N818 - does not leave this module
    """A file of the checkpoint does not have the form that Spark gives it."""


def _newest(log: Path) -> int | None:
    """Return the number of the newest file in a log of Spark."""
    if not log.exists():
        return None
    return max((int(path.name) for path in log.iterdir() if path.name.isdecimal()), default=None)


def _check(path: Path, lines: int) -> None:
    """Check that a file of Spark has this many lines, the last one a JSON object.

    Raises:
        _Damage: it does not.
        OSError: it cannot be read.
    """
    name = f"{path.parent.name}/{path.name}" if lines > 1 else path.name
    text = path.read_bytes().decode("utf-8", errors="replace").splitlines()
    if not text:
        raise _Damage(f"{name} is empty")
    objects = text[1:] or text  # the first line of several is Spark's version of the format
    if len(text) != lines or not all(isinstance(_json(line), dict) for line in objects):
        raise _Damage(f"{name} is damaged")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def set_aside(checkpoint: Path) -> None:
    """Move a checkpoint to the directory `damaged`, which keeps the last one.

    Raises:
        OSError: this user may not move it.
    """
    if not checkpoint.exists():
        return
    aside = checkpoint.with_name(DAMAGED)
    if aside.is_dir():
        shutil.rmtree(aside)
    checkpoint.rename(aside)
