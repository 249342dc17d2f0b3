"""Standard output: the format of log lines, and lines for a person."""

import contextlib
import logging
import sys
import time


def log_to_stdout(level: str) -> None:
    """Write log lines of at least this level to standard output, with times in UTC.

    Lines of the root logger are left out. Only libraries use it: Py4J logs a traceback there when
    Java ends before it answers, even if Java and this process were asked to stop.
    """
    logging.raiseExceptions = False  # no traceback for a log line that cannot be written
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=level,
        format="%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stdout,
        force=True,
    )
    logging.getLogger().addFilter(lambda _: False)  # it sees no lines of other loggers


def show(text: str) -> None:
    """Print a line for a person. It is lost if it cannot be written: full disk, closed terminal."""
    with contextlib.suppress(OSError, ValueError):
        print(text, flush=True)
