"""Check that Java and Maven are installed: `python3 -m local.prerequisites java mvn`.

Prints one sentence about the first one that is missing and exits with status 2. This module imports
only the standard library, because it runs before the virtual environment exists.
"""

import os
import shutil
import sys
import threading
from pathlib import Path

from pipeline import java

#: Seconds after which a check of Java prints what it waits for. It usually takes under a second.
SLOW_SECONDS = 3.0


def find_java() -> Path | None:
    """Return the `java` command that the whole stack uses."""
    return java.find(os.environ.get("JAVA_HOME"))


def java_problem() -> str | None:
    """Return why there is no usable Java, with what to do; None if there is one."""
    text = f"Waiting for `{find_java()} -version` to end"
    slow = threading.Timer(SLOW_SECONDS, print, [text], {"flush": True})
    slow.daemon = True
    slow.start()
    try:
        return java.problem(os.environ.get("JAVA_HOME"))
    finally:
        slow.cancel()


def maven_problem() -> str | None:
    """Return why Maven cannot be used, with what to do; None if it can."""
    if shutil.which("mvn") is None:
        return (
            "No mvn (Maven) on the PATH. "
            "Install it (Debian: apt-get install maven; macOS: brew install maven)."
        )
    return None


PROBLEMS = {"java": java_problem, "mvn": maven_problem}


def main() -> None:
    """Check every prerequisite named on the command line."""
    for name in sys.argv[1:]:
        if problem := PROBLEMS[name]():
            print(problem, file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main()
