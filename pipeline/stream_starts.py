"""The record of the offset at which each checkpoint of the stream began.

The stream writes it. The comparison and the consumer read it: it shows which records Kafka had
deleted before the stream read them.
"""

import contextlib
import uuid
from dataclasses import asdict, dataclass

from pipeline import outputs

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


COLUMNS = tuple(Start.__annotations__)


def append(data: outputs.DataDir, start: Start) -> None:
    """Add a checkpoint to the record."""
    outputs.append_csv(data.stream_starts, COLUMNS, asdict(start), RECORD_BYTES)


def read(data: outputs.DataDir) -> list[Start]:
    """Return the record, oldest first, without incomplete lines.

    Raises:
        OutputError: the record cannot be read.
    """
    found = []
    for row in outputs.read_record(data.stream_starts):
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            offsets = int(row["read_before"]), int(row["first_offset"])
            found.append(Start(row["topic"], *offsets, str(uuid.UUID(row["checkpoint"]))))
    return found


def position(data: outputs.DataDir) -> tuple[str, int] | None:
    """Return the topic that the stream reads, and the offset after the last one that it has read.

    Returns:
        None if the stream has not read a record yet.

    Raises:
        OutputError: the file with the position cannot be read.
    """
    for row in outputs.read_record(data.stream_position):
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            uuid.UUID(row["checkpoint"])
            return row["topic"], int(row["end_offset"])
    return None
