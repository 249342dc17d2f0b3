"""Standard output: the format of log lines, and output that never fails."""

import contextlib
import io
import logging
import sys
import time


def log_to_stdout(level: str) -> None:
    """Write log lines of at least this level to standard output, with times in UTC."""
    safe_output()
    logging.raiseExceptions = False  # no traceback for a log line that cannot be written
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=level,
        format="%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stdout,
        force=True,
    )


def safe_output() -> None:
    """Write characters that the terminal does not have as escapes, instead of failing.

    A terminal in Latin-1 has no arrows and dashes, and one in ASCII no umlauts in a path.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show(text: str) -> None:
    """Print a line for a person. It is lost if it cannot be written: full disk, closed terminal."""
    with contextlib.suppress(OSError, ValueError):
        print(text, flush=True)
