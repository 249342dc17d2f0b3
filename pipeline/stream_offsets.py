"""The files with the offsets that the stream read, and with the first offset of each checkpoint.

The stream writes these files. The comparison and the consumer read them. The files show which
records of Kafka the stream dropped, and which ones Kafka deleted before the stream read them.
"""

import contextlib
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from pipeline import text_files
from pipeline.data_dir import DataDir

#: Above this size, the record loses its older half. Bytes: about 10,000 checkpoints.
RECORD_BYTES = 1_000_000


@dataclass(frozen=True)
class Start:
    """A checkpoint and its first offset."""

    #: Kafka's id of the topic.
    topic: str
    #: The offset after the last one that an earlier checkpoint read from this topic; 0: none did.
    read_before: int
    first_offset: int
    #: Spark's id of the checkpoint. It is the last column, so an incomplete line has no valid id.
    checkpoint: str

    @property
    def skipped(self) -> tuple[int, int] | None:
        """Return the first offset that no checkpoint read, and the offset after the last one.

        If an earlier checkpoint read all of them, the range has only the last offset before the
        start: the window of that record can be incomplete in both checkpoints. None: the checkpoint
        began at the first record of the topic.
        """
        if self.first_offset == 0:
            return None
        return min(self.read_before, self.first_offset - 1), self.first_offset


START_COLUMNS = tuple(Start.__annotations__)


def append_start(data: DataDir, start: Start) -> None:
    """Add a checkpoint to the record."""
    text_files.append_csv(data.stream_starts, START_COLUMNS, asdict(start), RECORD_BYTES)


def read_starts(data: DataDir) -> list[Start]:
    """Return the record, oldest first, without incomplete lines.

    Raises:
        OutputError: the record cannot be read.
    """
    found = []
    for row in text_files.read_record(data.stream_starts):
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            offsets = int(row["read_before"]), int(row["first_offset"])
            found.append(Start(row["topic"], *offsets, str(uuid.UUID(row["checkpoint"]))))
    return found


@dataclass(frozen=True)
class OffsetRange:
    """Consecutive offsets that one checkpoint read: a row of the record.

    The stream counted every record from `counted_from` up to `first_offset`. The micro-batch from
    `first_offset` up to `end_offset` dropped records: those that are late by its watermark, and
    duplicates. Both ranges exclude their end.
    """

    #: Kafka's id of the topic.
    topic: str
    #: The delay of the watermark: seconds between the greatest event time and the watermark.
    delay_s: float
    micro_batch: int
    counted_from: int
    first_offset: int
    end_offset: int
    watermark: datetime
    #: Records that the micro-batch dropped as late, duplicate or invalid. None: unknown.
    dropped: int | None
    #: Spark's id of the checkpoint. It is the last column, so an incomplete line has no valid id.
    checkpoint: str


#: Columns of `stream_drops.csv` and `stream_position.csv`.
OFFSET_COLUMNS = tuple(OffsetRange.__annotations__)


def read_offset_ranges(data: DataDir) -> list[OffsetRange]:
    """Return the whole record, each row once, oldest first, the open range last.

    Raises:
        OutputError: a file of the record cannot be read.
    """
    # The open range is read first. If it is finished meanwhile, the table read next holds it.
    still_open = _read_offset_ranges(data.stream_position)
    return list(dict.fromkeys([*_read_offset_ranges(data.stream_drops), *still_open]))


def read_position(data: DataDir) -> OffsetRange | None:
    """Return the open range; None if the stream has not read a record yet.

    Raises:
        OutputError: the file with the position cannot be read.
    """
    return next(iter(_read_offset_ranges(data.stream_position)), None)


def _read_offset_ranges(path: Path) -> list[OffsetRange]:
    """Return the rows of a file without incomplete lines."""
    found = []
    for row in text_files.read_record(path):
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            found.append(
                OffsetRange(
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
