"""The format of log lines, the same in every process of the stack."""

import logging
import sys
import time


def log_to_stdout(level: str) -> None:
    """Write log lines of at least this level to standard output, with times in UTC."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=level,
        format="%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stdout,
        force=True,
    )
