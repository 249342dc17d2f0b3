"""Work of this project in processes of their own, which end with this one whatever ends it."""

import os
import subprocess
import sys
from pathlib import Path

from page import formatting as words

_ROOT = Path(__file__).resolve().parent.parent
#: Imported, not run as `__main__`: what it pickles belongs to the module then. Its input closes
#: when the server is gone, killed or not. What is measured goes before what looks at it: `nice`.
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


class ChildError(Exception):
    """It did not do its work; the text says what it did instead: `ended with status 1, …`."""


def run(module: str, *arguments: str, patience_s: float) -> bytes:
    """What `main()` of a module writes, called with these arguments.

    Raises:
        ChildError: it ended with another status than 0, or took longer than `patience_s`.
    """
    start = _START.format(root=str(_ROOT), module=module)
    its_end, our_end = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", start, *arguments],
            stdin=its_end,
            capture_output=True,
            timeout=patience_s,
            check=False,
        )
    except OSError as error:
        raise ChildError(f"could not be started: {error}") from error
    except subprocess.TimeoutExpired:
        raise ChildError(f"took longer than {words.age(patience_s)}") from None
    finally:
        os.close(its_end)
        os.close(our_end)
    if done.returncode:
        last_line = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        why = ": ".join(last_line) or "without a word"
        raise ChildError(words.text(f"ended with status {done.returncode}, {why}"))
    return done.stdout
