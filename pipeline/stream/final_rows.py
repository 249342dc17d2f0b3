"""How many final windows each file of `stream_csv/` has, so that a lost file or row is noticed.

The numbers are in `final_rows.json` beside the checkpoint: a new checkpoint begins without them.
"""

import contextlib
import json
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

from pipeline import outputs

#: Days. Kafka keeps the trades of a week. The windows of older ones cannot be computed again.
DAYS = 7


class FinalRows:
    """The number of rows by day, in a file of the checkpoint.

    Args:
        checkpoint: the directory of the checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._path = checkpoint / "final_rows.json"
        self._rows: dict[str, int] = {}
        with contextlib.suppress(outputs.OutputError):  # the next `record` replaces a damaged file
            read = outputs.read_json(self._path)
            self._rows = {day: n for day, n in read.items() if isinstance(n, int)}

    def record(self, written: Mapping[str, int]) -> None:
        """Record how many rows the files have that were just written.

        A number never decreases: if a file was deleted while the stream runs, the next start
        notices it.
        """
        rows = {day: max(n, self._rows.get(day, 0)) for day, n in written.items()}
        rows = {**self._rows, **rows}
        oldest = (date.fromisoformat(max(rows)) - timedelta(days=DAYS)).isoformat()
        rows = {day: n for day, n in sorted(rows.items()) if day >= oldest}
        if rows != self._rows:
            self._rows = rows
            outputs.write_atomically(self._path, json.dumps(rows) + "\n")

    def missing(self, found: Mapping[str, int]) -> dict[str, int]:
        """Return how many rows are missing in each file that lacks some.

        Args:
            found: the number of rows in each file, by day.
        """
        lacking = {day: n - found.get(day, 0) for day, n in self._rows.items()}
        return {day: n for day, n in lacking.items() if n > 0}
