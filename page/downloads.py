"""The downloads: the windows of the chosen span, and the report. A click makes them.

Child processes do the work, so that the server stays small. Nothing is written to disk.
"""

import sys
import threading
import time
import zipfile
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import streamlit as st

from page import formatting, worker_process
from page.worker_process import WorkerError
from pipeline import outputs, text_files, times, window_files
from pipeline.data_dir import DataDir
from pipeline.errors import exit_on_error

HOW_TO_READ = (
    "Download the comparison of the selected time range. A click makes the report from the current "
    "files. This takes a few seconds."
)
#: For how long the failure of a report is shown.
SHOWN_FOR = timedelta(minutes=5)
#: Seconds for which a report serves further clicks, as on the archive after the HTML.
KEPT_SECONDS = 15.0
#: Seconds after which a download is given up.
TIMEOUT_SECONDS = 600.0


def windows_csv(data: DataDir, since: str) -> str:
    """Return the windows from this start on, oldest first, with the cells as in the files.

    A window that is both open and final appears once, as final. Damaged rows are left out.

    Raises:
        OutputError: a file cannot be read.
    """
    days = [path for path in outputs.stream_files(data) if path.stem >= since[:10]]
    found: dict[str, dict[str, str]] = {}
    for path, state in [(data.stream_live, "open"), *((day, "final") for day in days)]:
        file = window_files.scan(path)
        for row in file.rows:
            if row[0] >= since:
                found[row[0]] = {**dict(zip(file.header, row, strict=True)), "state": state}
    rows = (row for _, row in sorted(found.items()))
    return text_files.to_csv([*outputs.WINDOW_COLUMNS, "state"], rows)


def windows_in_own_process(data: DataDir, since: datetime) -> bytes:
    """Return `windows_csv` from a child process: 90 days take seconds and memory.

    Raises:
        WorkerError: the child process failed.
    """
    arguments = (str(data.root), times.iso(since))
    return worker_process.run("page.downloads", *arguments, timeout_s=TIMEOUT_SECONDS)


def main() -> None:
    """Write `windows_csv` of a data directory and a start, for `windows_in_own_process`."""
    root, since = sys.argv[1:]
    with exit_on_error():
        sys.stdout.write(windows_csv(DataDir(Path(root)), since))


class Reports:
    """Makes reports of the data directory named in the environment, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The newest report: its span, its time (monotonic) and its ZIP archive.
        self._newest: tuple[timedelta | None, float, bytes] | None = None
        #: Why the last attempt failed, and when. Streamlit shows only that a download failed.
        self.problem: tuple[str, datetime] | None = None

    def html(self, last: timedelta | None) -> bytes:
        """Return the report over this span (None: everything) as one HTML file.

        Raises:
            WorkerError: the child process failed.
        """
        return zipfile.ZipFile(BytesIO(self.archive(last))).read("report.html")

    def archive(self, last: timedelta | None) -> bytes:
        """Return the report and its figures as a ZIP archive. Raises as `html`."""
        with self._lock:
            newest = self._newest
            if newest and newest[0] == last and time.monotonic() - newest[1] < KEPT_SECONDS:
                return newest[2]
            span = [] if last is None else ["--minutes", f"{last / timedelta(minutes=1):g}"]
            try:
                packed = worker_process.run(
                    "report.__main__", "--zip", *span, timeout_s=TIMEOUT_SECONDS
                )
            except WorkerError as error:
                self.problem = (str(error), times.now())
                raise
            self._newest, self.problem = (last, time.monotonic(), packed), None
            return packed


@st.cache_resource(show_spinner=False)
def reports() -> Reports:
    """Return the one maker of reports in this server."""
    return Reports()


def failure(problem: tuple[str, datetime] | None, now: datetime) -> str:
    """Return why the last report failed; empty if it succeeded or the failure is old."""
    if problem is None or now - problem[1] > SHOWN_FOR:
        return ""
    return f"Report failed {formatting.ago(problem[1], now)}: {problem[0]}"
