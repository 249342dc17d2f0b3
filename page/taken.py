"""The report as something to take along: made when it is asked for, by its own command.

In a process and a folder of their own, so that the page only reads, and the server stays small.
"""

import subprocess
import tempfile
import threading
import time
import zipfile
from datetime import timedelta
from functools import cache
from io import BytesIO
from pathlib import Path

from page.child import command

#: Seconds for which a report serves another click: on its figures after its text.
KEPT_SECONDS = 15.0
#: A report is given up after so long, seconds.
PATIENCE_SECONDS = 600.0


class Reports:
    """Makes reports of the data folder that the environment names, as for the page itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The newest one: of which span, when it was made (monotonic), HTML and figures.
        self._newest: tuple[timedelta | None, float, bytes, bytes] | None = None

    def html(self, last: timedelta | None) -> bytes:
        """The report over the last so long (None: everything), its figures in it.

        Raises:
            OSError: it could not be made; the text says why.
        """
        return self._made(last)[2]

    def figures(self, last: timedelta | None) -> bytes:
        """Its figures, SVG, as a ZIP archive; raises as `html`."""
        return self._made(last)[3]

    def _made(self, last: timedelta | None) -> tuple[timedelta | None, float, bytes, bytes]:
        with self._lock:  # one at a time, whoever clicks
            newest = self._newest
            if newest and newest[0] == last and time.monotonic() - newest[1] < KEPT_SECONDS:
                return newest
            with tempfile.TemporaryDirectory(prefix="report-") as folder:
                self._newest = (last, time.monotonic(), *_make(Path(folder), last))
            return self._newest


def _make(folder: Path, last: timedelta | None) -> tuple[bytes, bytes]:
    span = [] if last is None else ["--minutes", f"{last / timedelta(minutes=1):g}"]
    made = subprocess.run(
        command("report.__main__", "--into", str(folder), *span),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    if made.returncode:
        raise OSError(f"no report: {made.stderr.decode(errors='replace').strip()}")
    return (folder / "report.html").read_bytes(), _zipped(folder / "figures")


def _zipped(folder: Path) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return packed.getvalue()


@cache
def reports() -> Reports:
    """The one maker of reports in this server."""
    return Reports()
