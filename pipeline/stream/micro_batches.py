"""Record the offsets that each micro-batch read, and the watermark that it applied.

The comparison uses this record to find the late events that the stream dropped and the duplicates
that it counted. Only a micro-batch that dropped a record has a row of its own. In the others, every
record was counted.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import outputs, stream_offsets, text_files, times
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError
from pipeline.settings import Settings
from pipeline.stream_offsets import OFFSET_COLUMNS, OffsetRange, read_offset_ranges

#: The file of a checkpoint's query with the id that Spark gave it.
METADATA = "metadata"
#: The record loses its older half above this size, bytes: about 100,000 micro-batches.
RECORD_BYTES = 16_000_000


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch in Spark's offset log."""

    number: int
    #: The first offset that it read, and the offset after the last one.
    first_offset: int
    end_offset: int
    #: The watermark of the micro-batch before, in whole milliseconds. Spark drops events with an
    #: event time at or before it.
    watermark: datetime


def read_micro_batch(query_folder: Path, topic: str, number: int) -> MicroBatch | None:
    """Return a micro-batch from the offset log of a checkpoint.

    Args:
        query_folder: the directory of Spark's checkpoint.
        topic: the name of the topic.
        number: the number of the running micro-batch. The log always holds its entry and the one
            before.

    Returns:
        None if an entry does not have the format of Spark 4.2.0.
    """
    if number == 0:
        entry, first = _entry(query_folder, topic, 0), start_offset(query_folder, topic)
        if entry is None or first is None:
            return None
        return MicroBatch(0, first, entry[1], times.from_epoch_millis(0))
    before, entry = (_entry(query_folder, topic, n) for n in (number - 1, number))
    if before is None or entry is None:
        return None
    return MicroBatch(number, before[1], entry[1], times.from_epoch_millis(before[0]))


def _entry(query_folder: Path, topic: str, number: int) -> tuple[int, int] | None:
    """Return the watermark in milliseconds and the end offset in an entry of the offset log."""
    try:
        lines = (query_folder / "offsets" / str(number)).read_text(encoding="utf-8").splitlines()
        version, metadata, offsets = lines
        if version != "v1":
            return None
        return int(json.loads(metadata)["batchWatermarkMs"]), _offset(offsets, topic)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def start_offset(query_folder: Path, topic: str) -> int | None:
    """Return the first offset that a checkpoint read: the oldest record that Kafka then had.

    Args:
        query_folder: the directory of Spark's checkpoint. Spark writes the file that holds the
            offset before the first micro-batch, and never deletes it.
        topic: the name of the topic.

    Returns:
        None if the file does not have the format of Spark 4.2.0.
    """
    try:
        text = (query_folder / "sources" / "0" / "0").read_text(encoding="utf-8")
        version, offsets = text.lstrip("\0").splitlines()
        return _offset(offsets, topic) if version == "v1" else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _offset(text: str, topic: str) -> int:
    """Return the offset in Spark's JSON object of a topic with one partition."""
    (only,) = json.loads(text)[topic].items()
    if only[0] != "0":
        raise ValueError(text)
    return int(only[1])


def checkpoint_id(query_folder: Path) -> str:
    """Return the id that Spark gave the checkpoint; "" if there is none."""
    try:
        return str(text_files.read_json(query_folder / METADATA).get("id", ""))
    except OutputError:
        return ""


def extend(
    last: OffsetRange | None,
    micro_batch: MicroBatch,
    counted: int | None,
    identity: Mapping[str, Any],
) -> tuple[list[OffsetRange], OffsetRange]:
    """Return the rows that a micro-batch adds to the record, and the open range of offsets.

    Args:
        last: the open range before this micro-batch; None if nothing is recorded yet.
        micro_batch: the running micro-batch.
        counted: the number of trades that it adds to the windows; None if unknown.
        identity: `checkpoint`, `topic` and `delay_s`.

    Returns:
        The rows and the open range. A repeated micro-batch adds no rows and keeps the open range.
    """
    rows: list[OffsetRange] = []
    if last is not None and any(getattr(last, name) != identity[name] for name in identity):
        rows.append(last)
        last = None
    if last is not None and last.micro_batch >= micro_batch.number:
        return rows, last
    # A micro-batch between the two is not recorded.
    if last is not None and last.end_offset != micro_batch.first_offset:
        rows.append(last)
        last = None
    records = micro_batch.end_offset - micro_batch.first_offset
    dropped = None if counted is None else records - counted
    current = OffsetRange(
        **identity,
        micro_batch=micro_batch.number,
        counted_from=last.counted_from if last else micro_batch.first_offset,
        first_offset=micro_batch.first_offset,
        end_offset=micro_batch.end_offset,
        watermark=micro_batch.watermark,
        dropped=dropped,
    )
    if dropped != 0:
        rows.append(current)
        current = replace(current, counted_from=current.end_offset, dropped=0)
    return rows, replace(current, first_offset=current.end_offset)


class Recorder:
    """Writes the record: finished ranges to one file, the open range to another.

    Both files are written before the windows of a micro-batch. The record therefore covers every
    window that is published.
    """

    def __init__(
        self, data: DataDir, query_folder: Path, settings: Settings, topic_id: str
    ) -> None:
        self._data = data
        self._query_folder = query_folder
        self._topic = settings.kafka_topic
        self._topic_id = topic_id
        self._delay_s = settings.watermark.total_seconds()
        self._open = stream_offsets.read_position(data)
        self._started = {
            (start.checkpoint, start.topic) for start in stream_offsets.read_starts(data)
        }

    def records_in(self, number: int) -> int:
        """Return the number of records in a micro-batch; 0 if Spark has not planned it yet."""
        micro_batch = read_micro_batch(self._query_folder, self._topic, number)
        return 0 if micro_batch is None else micro_batch.end_offset - micro_batch.first_offset

    def record(self, number: int, counted: int | None) -> None:
        """Record the running micro-batch. A repeated micro-batch changes nothing.

        Args:
            number: the number of the micro-batch.
            counted: the number of trades that it adds to the windows; None if unknown.
        """
        micro_batch = read_micro_batch(self._query_folder, self._topic, number)
        checkpoint = checkpoint_id(self._query_folder)
        if micro_batch is None or not checkpoint:
            return
        identity = {"checkpoint": checkpoint, "topic": self._topic_id, "delay_s": self._delay_s}
        self._record_start(checkpoint)
        rows, still_open = extend(self._open, micro_batch, counted, identity)
        for row in rows:
            text_files.append_csv(
                self._data.stream_drops, OFFSET_COLUMNS, asdict(row), RECORD_BYTES
            )
        if still_open != self._open:
            text = text_files.to_csv(OFFSET_COLUMNS, [asdict(still_open)])
            text_files.write_atomically(self._data.stream_position, text, durable=False)
            self._open = still_open

    def _record_start(self, checkpoint: str) -> None:
        """Record the first offset of a checkpoint once, even if an older version began it."""
        if (checkpoint, self._topic_id) in self._started:
            return
        first = start_offset(self._query_folder, self._topic)
        if first is None:
            return
        earlier = [each for each in read_offset_ranges(self._data) if each.checkpoint != checkpoint]
        ends = (each.end_offset for each in earlier if each.topic == self._topic_id)
        read_before = max(ends, default=0)
        # Final windows without a record come from an older version, or the record was deleted. The
        # offsets that their checkpoint read are unknown, so they must not count as skipped.
        if not earlier and outputs.stream_files(self._data):
            read_before = first
        start = stream_offsets.Start(self._topic_id, read_before, first, checkpoint)
        stream_offsets.append_start(self._data, start)
        self._started.add((checkpoint, self._topic_id))
