"""The report as something to take along: made when it is asked for, by its own command.

In a process of its own, so that the server stays small; and nothing is written anywhere.
"""

import threading
import time
import zipfile
from datetime import datetime, timedelta
from functools import cache
from io import BytesIO

from page import child
from page.child import ChildError
from pipeline import outputs

#: Seconds for which a report serves another click: on its figures after its text.
KEPT_SECONDS = 15.0
#: A report is given up after so long, seconds.
PATIENCE_SECONDS = 600.0


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
                self.problem = (str(error), outputs.now())
                raise
            self._newest, self.problem = (last, time.monotonic(), packed), None
            return packed


@cache
def reports() -> Reports:
    """The one maker of reports in this server."""
    return Reports()
