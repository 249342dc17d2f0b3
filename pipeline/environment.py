"""What the processes of this project inherit from the user's environment.

A shell holds variables for other programs: another Spark, options for every JVM, a Jupyter driver.
Python, Java, Spark and bash read them all. A child process gets only the variables listed here and
those that are set for it.

This module imports only the standard library, because `pipeline.java` runs before the virtual
environment exists.
"""

import io
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

#: Variables that the programs need, and variables that cannot change a result.
_KEPT = {
    # The user, the directories and the programs.
    *("HOME", "USER", "LOGNAME", "PATH", "TMPDIR", "JAVA_HOME"),
    # The terminal. Java gets JAVA instead, whose effects are the same on every machine.
    *("TERM", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
    # The way to the exchange, with the proxies below.
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    # Set in the Dockerfile.
    *("PYTHONUNBUFFERED", "MPLCONFIGDIR"),
    # The page behind a proxy that forwards another address.
    *("STREAMLIT_SERVER_ENABLE_CORS", "STREAMLIT_SERVER_ENABLE_XSRF_PROTECTION"),
}
#: Prefixes: the loader of programs, which Python itself may need, and supervisor's variables.
_KEPT_PREFIXES = ("LD_", "DYLD_", "FAKETIME", "SUPERVISOR_")
#: For every JVM. In a Turkish locale Java changes `I` to a dotless `i`. Times must be in UTC.
JAVA = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}


def inherited(*further: str) -> dict[str, str]:
    """Return the variables that a child process inherits.

    Streamlit needs a home directory. A user id without a name has none.

    Args:
        further: names of variables of this project, such as the settings.
    """
    home = {}
    try:
        Path.home()
    except RuntimeError:
        home["HOME"] = os.environ.get("TMPDIR", "/tmp")  # noqa: S108
    return home | {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT
        or name in further
        or name.startswith(_KEPT_PREFIXES)
        or name.lower().endswith("_proxy")
    }


def replace(variables: Mapping[str, str]) -> None:
    """Give this process another environment, for a library that reads its own variables."""
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()


def prepare_this_process() -> None:
    """Prefer the installed packages to `PYTHONPATH`, and make every text printable.

    The packages on `PYTHONPATH` may be other versions. They stay importable, after all others. A
    character that the terminal's encoding lacks is printed as an escape sequence. Output to a file
    or pipe is UTF-8.
    """
    last = {
        str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(":") if path
    }
    ours = str(Path(__file__).parent.parent)
    sys.path.sort(key=lambda path: path != ours and path in last)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
