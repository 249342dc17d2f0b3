"""Run a module in a child process that ends when this process ends, also if it is killed."""

import os
import subprocess
import sys
from pathlib import Path

from page import formatting
from pipeline.environment import inherited
from pipeline.errors import sentence
from pipeline.settings import NAMES

_ROOT = Path(__file__).resolve().parent.parent
#: The module is imported, not run as `__main__`, so that its classes can be unpickled. Standard
#: input closes when the server ends, also if it is killed. `nice`: the pipeline comes first.
_START = """\
import os, sys, threading
def end_with_the_server():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end_with_the_server, daemon=True).start()
os.nice(10)
sys.path.insert(0, {root!r})
from {module} import main
main()
"""


class WorkerError(Exception):
    """The child process failed. The text is the last line of its errors, or how it ended."""


def run(module: str, *arguments: str, timeout_s: float) -> bytes:
    """Return the standard output of a module's `main()`, called with these arguments.

    Raises:
        WorkerError: the process ended with a status other than 0, or ran into the timeout.
    """
    start = _START.format(root=str(_ROOT), module=module)
    its_end, our_end = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", start, *arguments],
            env=inherited(*NAMES),
            stdin=its_end,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        raise WorkerError(f"the process cannot start: {sentence(error)}") from error
    except subprocess.TimeoutExpired:
        raise WorkerError(
            f"the process took longer than {formatting.age(timeout_s)} and was stopped. Free CPU "
            "time on this machine"
        ) from None
    finally:
        os.close(its_end)
        os.close(our_end)
    if done.returncode:
        last_line = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        no_line = (
            f"the process ended with status {done.returncode} and without an error message. Check "
            "the free memory of this machine"
        )
        raise WorkerError(formatting.text(" ".join(last_line) or no_line))
    return done.stdout
