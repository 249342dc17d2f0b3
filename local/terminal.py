"""What the local stack prints. It imports only the standard library.

A full disk, a closed pipe (`make demo | head`) or a closed terminal loses lines. It never ends the
process that prints them.
"""

import contextlib
import io
import sys
from typing import NoReturn


def write_through() -> None:
    """Write standard output without a buffer, so that a lost line is not written again at the end.

    Python would otherwise report it at the exit, and change the exit status.
    """
    raw = io.FileIO(1, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)


def say(text: str) -> None:
    """Print one line. If the terminal is gone, print nothing."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def refuse(sentence: str) -> NoReturn:
    """Print one sentence about a mistake of the user and exit with status 2."""
    with contextlib.suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)
    sys.exit(2)
