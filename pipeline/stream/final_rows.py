"""Record how many final windows each file of `stream_csv/` has, so that a loss is noticed.

The numbers are in `final_rows.json` beside the checkpoint. A new checkpoint starts without numbers.
"""

import contextlib
import json
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

from pipeline import text_files
from pipeline.errors import OutputError, TemporaryError


class DeletedError(TemporaryError):
    """Files of the stream were deleted. The next attempt computes the windows again.

    Args:
        what: what was deleted.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} was deleted while the stream ran. The stream reads the topic again from its "
            "oldest record"
        )


#: Days. Kafka keeps the trades of a week. Older windows cannot be computed again.
DAYS = 7


class FinalRows:
    """The number of rows by day, in a file of the checkpoint.

    Args:
        checkpoint: the directory of the checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._path = checkpoint / "final_rows.json"
        self._rows: dict[str, int] = {}
        with contextlib.suppress(OutputError):  # the next `record` replaces a damaged file
            read = text_files.read_json(self._path)
            self._rows = {day: n for day, n in read.items() if isinstance(n, int)}

    @property
    def days(self) -> list[str]:
        """Return the days whose files must exist."""
        return list(self._rows)

    def record(self, written: Mapping[str, int]) -> None:
        """Record the number of rows in the files that were just written.

        Raises:
            DeletedError: a file has fewer rows than before, so it was deleted before it was
                written.
        """
        for day, n in written.items():
            if n < self._rows.get(day, 0):
                raise DeletedError(f"stream_csv/{day}.csv")
        rows = {**self._rows, **written}
        oldest = (date.fromisoformat(max(rows)) - timedelta(days=DAYS)).isoformat()
        rows = {day: n for day, n in sorted(rows.items()) if day >= oldest}
        if rows != self._rows:
            self._rows = rows
            text_files.write_atomically(self._path, json.dumps(rows) + "\n")

    def missing(self, found: Mapping[str, int]) -> dict[str, int]:
        """Return the number of missing rows of each file that lacks rows.

        Args:
            found: the number of rows in each file, by day.
        """
        lacking = {day: n - found.get(day, 0) for day, n in self._rows.items()}
        return {day: n for day, n in lacking.items() if n > 0}
