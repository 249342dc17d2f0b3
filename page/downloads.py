"""What can be taken along: the windows of the files, and the report, both made at the click.

The report is made by its own command in a process of its own, so that the server stays small;
nothing is written anywhere.
"""

import csv
import re
import sys
import threading
import time
import zipfile
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache
from io import BytesIO
from pathlib import Path

from page import child
from page.child import ChildError
from pipeline import outputs, times
from pipeline.outputs import DataDir

#: Seconds for which a report serves another click: on its figures after its text.
KEPT_SECONDS = 15.0
#: What is made at a click is given up after so long, seconds.
PATIENCE_SECONDS = 600.0

_START = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def windows_csv(data: DataDir, since: str) -> str:
    """The windows from this start on (as the files write it), oldest first, cell by cell.

    Of a window that is in both, the final row.
    """
    days = [path for path in outputs.stream_files(data) if path.stem >= since[:10]]
    found: dict[str, dict[str, str]] = {}
    for path, state in [(data.stream_live, "open"), *((day, "final") for day in days)]:
        with suppress(FileNotFoundError), path.open(errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                start = row.get("window_start") or ""
                if start >= since and _START.fullmatch(start):
                    found[start] = {**row, "state": state}
    rows = (row for _, row in sorted(found.items()))
    return outputs.to_csv([*outputs.WINDOW_COLUMNS, "state"], rows)


def windows_apart(data: DataDir, since: datetime) -> bytes:
    """The same, made in a process of its own: 90 days take seconds and memory.

    Raises:
        ChildError: it could not be made; the text says why.
    """
    asked = (str(data.root), times.iso(since))
    return child.run("page.downloads", *asked, patience_s=PATIENCE_SECONDS)


def main() -> None:
    """`windows_csv` of a folder and a start, for `windows_apart`."""
    root, since = sys.argv[1:]
    sys.stdout.write(windows_csv(DataDir(Path(root)), since))


class Reports:
    """Makes reports of the data folder that the environment names, as for the page itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The newest one: of which span, when it was made (monotonic), as a ZIP archive.
        self._newest: tuple[timedelta | None, float, bytes] | None = None
        #: Why the newest try gave none, and when that was: Streamlit shows only that it failed.
        self.problem: tuple[str, datetime] | None = None

    def html(self, last: timedelta | None) -> bytes:
        """The report over the last so long (None: everything), its figures in it.

        Raises:
            ChildError: it could not be made; the text says why.
        """
        return zipfile.ZipFile(BytesIO(self.archive(last))).read("report.html")

    def archive(self, last: timedelta | None) -> bytes:
        """The same with its figures as files of their own, as ZIP; raises as `html`."""
        with self._lock:  # one at a time, whoever clicks
            newest = self._newest
            if newest and newest[0] == last and time.monotonic() - newest[1] < KEPT_SECONDS:
                return newest[2]
            span = [] if last is None else ["--minutes", f"{last / timedelta(minutes=1):g}"]
            try:
                packed = child.run("report.__main__", "--zip", *span, patience_s=PATIENCE_SECONDS)
            except ChildError as error:
                self.problem = (str(error), times.now())
                raise
            self._newest, self.problem = (last, time.monotonic(), packed), None
            return packed


@cache
def reports() -> Reports:
    """The one maker of reports in this server."""
    return Reports()
