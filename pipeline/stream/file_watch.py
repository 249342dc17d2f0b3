"""Watch that the checkpoint and the final windows are not deleted while the stream runs.

Without this check, a deletion causes no error: Spark and the stream create the directories again,
without their old files. Only a restart computes the lost windows again.
"""

from pathlib import Path

from pipeline.data_dir import DataDir
from pipeline.stream.checkpoint import QUERY
from pipeline.stream.final_rows import DeletedError, FinalRows
from pipeline.stream.micro_batches import METADATA


class FileWatch:
    """Checks that the files of a checkpoint and of its final windows exist.

    Args:
        data: the data directory.
        checkpoint: the directory of the checkpoint.
    """

    def __init__(self, data: DataDir, checkpoint: Path) -> None:
        self._data = data
        self._checkpoint = checkpoint
        # Spark writes this file once, when the query of a new checkpoint starts.
        self._metadata = checkpoint / QUERY / METADATA
        self._has_metadata = self._metadata.exists()

    def check(self) -> None:
        """Check that nothing was deleted since the query has started. It takes 0.1 ms.

        Raises:
            DeletedError: the checkpoint or a file of final windows was deleted.
        """
        self._has_metadata = True
        self.check_after_failure()

    def check_after_failure(self) -> None:
        """Check that nothing was deleted. Perhaps the query has not started.

        Raises:
            DeletedError: the checkpoint or a file of final windows was deleted.
        """
        if deleted := self._deleted():
            raise DeletedError(deleted)

    def _deleted(self) -> str | None:
        if self._has_metadata and not self._metadata.exists():
            return "The checkpoint in checkpoints/"
        folder = self._data.stream_csv
        missing = [
            day for day in FinalRows(self._checkpoint).days if not (folder / f"{day}.csv").exists()
        ]
        if not missing:
            return None
        return f"stream_csv/{missing[0]}.csv" if folder.exists() else "stream_csv/"
