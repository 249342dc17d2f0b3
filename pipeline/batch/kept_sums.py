"""The file with the sums that an incremental run starts from.

The file holds the sums of each window, the ranges of trade ids that they cover, the newest
transaction of the database at that time and the run that wrote it. It is replaced as a whole, so
these values always belong together. A checksum finds damage.
"""

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from pipeline import text_files
from pipeline.batch.snapshot import Ranges, Transaction
from pipeline.durations import duration_text
from pipeline.metrics.unit_sums import UnitSums

#: The version of this format and of the meaning of the sums.
_VERSION = 1


class KeptSums(NamedTuple):
    """The sums of all windows after a run, and the rows that they cover."""

    run: str
    window: timedelta
    ranges: Ranges
    #: The newest transaction of the database: `snapshot.has_transaction`.
    newest: Transaction
    #: By the start of the window, microseconds since 1970.
    windows: dict[int, UnitSums]


class UnusableError(Exception):
    """A run cannot continue from the kept sums. The text is the reason."""


def write(path: Path, kept: KeptSums) -> None:
    """Replace the file with the sums after a run.

    Raises:
        OSError: the file cannot be written.
    """
    content = {
        "version": _VERSION,
        "run": kept.run,
        "window_s": kept.window // timedelta(seconds=1),
        "newest": kept.newest,
        "ranges": kept.ranges,
        "windows": list(kept.windows.items()),
    }
    text = json.dumps(content, separators=(",", ":"))
    text_files.write_atomically(path, f"{_checksum(text)}\n{text}\n")


def read(path: Path, window: timedelta) -> KeptSums:
    """Return the sums that an earlier run kept.

    Raises:
        UnusableError: there is no such file, it is damaged, or it has another version or windows of
            another length.
    """
    try:
        checksum, _, text = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    except FileNotFoundError:
        raise UnusableError(f"{path.name} does not exist") from None
    except OSError as error:
        raise UnusableError(f"{path.name} cannot be read: {error.strerror}") from error
    text = text.removesuffix("\n")
    if checksum != _checksum(text):
        raise UnusableError(f"{path.name} is damaged")
    content = json.loads(text)
    if content["version"] != _VERSION:
        raise UnusableError(f"{path.name} has version {content['version']}, not {_VERSION}")
    kept_window = timedelta(seconds=content["window_s"])
    if kept_window != window:
        raise UnusableError(
            f"{path.name} has windows of {duration_text(kept_window)}, not {duration_text(window)}"
        )
    ranges: Ranges = [(first, last) for first, last in content["ranges"]]
    return KeptSums(
        run=content["run"],
        window=kept_window,
        ranges=ranges,
        newest=tuple(content["newest"]),
        windows={start: UnitSums(*sums) for start, sums in content["windows"]},
    )


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
