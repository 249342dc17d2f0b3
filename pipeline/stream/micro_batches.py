"""Which offsets each micro-batch read, and by which watermark Spark dropped late events in it.

The comparison proves from this which late events the stream dropped, and which duplicates it
counted. Only micro-batches that dropped a record need a row, as in all others every record counts.
"""

import contextlib
import csv
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import outputs, times
from pipeline.settings import Settings

#: The record is halved when it is longer than this, in bytes: about 100,000 micro-batches.
RECORD_BYTES = 16_000_000


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch as Spark's offset log describes it."""

    number: int
    #: It read the records from this offset up to, but not including, the next one.
    first_offset: int
    end_offset: int
    #: Spark drops events with an event time at or before this: the watermark of the micro-batch
    #: before. Whole milliseconds.
    watermark: datetime


@dataclass(frozen=True)
class Stretch:
    """Consecutive offsets that one checkpoint read: a row of the record.

    In `counted_from` to `first_offset` every record was counted. In `first_offset` to `end_offset`,
    a micro-batch that dropped some, the watermark decides.
    """

    #: Kafka's id of the topic.
    topic: str
    #: Seconds by which the watermark lies behind the greatest event time.
    delay_s: float
    micro_batch: int
    counted_from: int
    first_offset: int
    end_offset: int
    watermark: datetime
    #: Records dropped in the micro-batch as late, duplicate or invalid. None: not known.
    dropped: int | None
    #: Spark's id of the checkpoint. In the last column: a line that is cut off has no whole one.
    checkpoint: str


COLUMNS = tuple(Stretch.__annotations__)


def read(query_folder: Path, topic: str, number: int) -> MicroBatch | None:
    """Return a micro-batch from the offset log of a checkpoint.

    Args:
        query_folder: the folder of Spark's checkpoint.
        topic: the name of the topic.
        number: of a micro-batch that runs now. Its entry and the one before are always there.

    Returns:
        None if an entry has another form than Spark 4.2.0 writes.
    """
    if number == 0:
        entry = _entry(query_folder, topic, 0)
        return entry and MicroBatch(0, 0, entry[1], times.from_epoch_millis(0))
    before, entry = (_entry(query_folder, topic, n) for n in (number - 1, number))
    if before is None or entry is None:
        return None
    return MicroBatch(number, before[1], entry[1], times.from_epoch_millis(before[0]))


def _entry(query_folder: Path, topic: str, number: int) -> tuple[int, int] | None:
    """Return the watermark in milliseconds and the end offset of an entry of the offset log."""
    try:
        lines = (query_folder / "offsets" / str(number)).read_text(encoding="utf-8").splitlines()
        version, metadata, offsets = lines
        if version != "v1":
            return None
        ends = json.loads(offsets)[topic]
        if list(ends) != ["0"]:  # the topic has one partition
            return None
        return int(json.loads(metadata)["batchWatermarkMs"]), int(ends["0"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def checkpoint_id(query_folder: Path) -> str:
    """Return the id that Spark gave the checkpoint; "" if there is none."""
    try:
        return str(outputs.read_json(query_folder / "metadata").get("id", ""))
    except outputs.OutputError:
        return ""


def extend(
    last: Stretch | None,
    micro_batch: MicroBatch,
    counted: int | None,
    identity: Mapping[str, Any],
) -> tuple[list[Stretch], Stretch]:
    """Return the rows that a micro-batch adds to the record, and the stretch that is still open.

    Args:
        last: the open stretch before this micro-batch; None if nothing was recorded so far.
        micro_batch: the one that runs now.
        counted: how many trades more the windows have by it; None if that is not known.
        identity: `checkpoint`, `topic` and `delay_s`.

    Returns:
        Repeating a micro-batch returns no rows and the same open stretch.
    """
    rows: list[Stretch] = []
    if last is not None and any(getattr(last, name) != identity[name] for name in identity):
        rows.append(last)
        last = None
    if last is not None and last.micro_batch >= micro_batch.number:
        return rows, last
    if last is not None and last.end_offset != micro_batch.first_offset:  # some are not recorded
        rows.append(last)
        last = None
    records = micro_batch.end_offset - micro_batch.first_offset
    # The first micro-batch begins at the oldest record that Kafka still has: not always at 0.
    dropped = None if counted is None or micro_batch.number == 0 else records - counted
    read_now = Stretch(
        **identity,
        micro_batch=micro_batch.number,
        counted_from=last.counted_from if last else micro_batch.first_offset,
        first_offset=micro_batch.first_offset,
        end_offset=micro_batch.end_offset,
        watermark=micro_batch.watermark,
        dropped=dropped,
    )
    if dropped != 0:
        rows.append(read_now)
        read_now = replace(read_now, counted_from=read_now.end_offset, dropped=0)
    return rows, replace(read_now, first_offset=read_now.end_offset)


class Recorder:
    """Keeps the record in the data directory: finished stretches in a table, the open one beside.

    Both are written before the windows that follow from a micro-batch, so that a final window
    never shows more than the record explains.
    """

    def __init__(
        self, data: outputs.DataDir, query_folder: Path, settings: Settings, topic_id: str
    ) -> None:
        self._data = data
        self._query_folder = query_folder
        self._topic = settings.kafka_topic
        self._identity = {"topic": topic_id, "delay_s": settings.watermark.total_seconds()}
        self._open = next(iter(_stretches(data.stream_position)), None)

    def record(self, number: int, counted: int | None) -> None:
        """Record a micro-batch that runs now. Repeating it changes nothing.

        Args:
            number: of the micro-batch.
            counted: how many trades more the windows have by it; None if that is not known.
        """
        micro_batch = read(self._query_folder, self._topic, number)
        checkpoint = checkpoint_id(self._query_folder)
        if micro_batch is None or not checkpoint:
            return
        identity = {"checkpoint": checkpoint, **self._identity}
        rows, still_open = extend(self._open, micro_batch, counted, identity)
        for row in rows:
            outputs.append_csv(self._data.stream_drops, COLUMNS, asdict(row), RECORD_BYTES)
        if still_open != self._open:
            text = outputs.to_csv(COLUMNS, [asdict(still_open)])
            outputs.write_atomically(self._data.stream_position, text, durable=False)
            self._open = still_open


def read_stretches(data: outputs.DataDir) -> list[Stretch]:
    """Return the whole record, each row once, oldest first, the open stretch last."""
    # The open one first: what it becomes meanwhile is then in the table as well.
    still_open = _stretches(data.stream_position)
    return list(dict.fromkeys([*_stretches(data.stream_drops), *still_open]))


def _stretches(path: Path) -> list[Stretch]:
    """Return the rows of a file; lines that are cut off are left out."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (FileNotFoundError, csv.Error, UnicodeDecodeError):
        return []
    found = []
    for row in rows:
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            found.append(
                Stretch(
                    checkpoint=str(uuid.UUID(row["checkpoint"])),
                    topic=row["topic"],
                    delay_s=float(row["delay_s"]),
                    micro_batch=int(row["micro_batch"]),
                    counted_from=int(row["counted_from"]),
                    first_offset=int(row["first_offset"]),
                    end_offset=int(row["end_offset"]),
                    watermark=datetime.fromisoformat(row["watermark"]),
                    dropped=int(row["dropped"]) if row["dropped"] else None,
                )
            )
    return found
