"""One stack on one `DATA_DIR`: its folders, whether it runs, and what a killed one leaves."""

import hashlib
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import psutil

ROOT = Path(__file__).resolve().parent.parent
#: The path of a Unix socket can have about 100 bytes, and supervisor first appends its pid.
SOCKET_PATH_BYTES = 90


def refuse(sentence: str) -> NoReturn:
    """Print one sentence about a mistake of the user and exit with status 2."""
    print(sentence, file=sys.stderr)
    sys.exit(2)


def logs(data_dir: Path) -> Path:
    """Return the folder of all logs."""
    return data_dir / "logs"


def run_folder(data_dir: Path) -> Path:
    """Return the folder of supervisor's own files."""
    return data_dir / "run"


def configuration(data_dir: Path) -> Path:
    """Return the path of supervisor's configuration file."""
    return run_folder(data_dir) / "supervisord.conf"


def socket_path(data_dir: Path) -> Path:
    """Return the socket of the stack's supervisor: in the folder, or elsewhere if too long."""
    path = run_folder(data_dir) / "supervisor.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"stream-vs-batch-{os.getuid()}-{name}.sock"


def is_running(data_dir: Path) -> bool:
    """Return whether a stack runs on this folder now, that is, its supervisor answers."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(socket_path(data_dir)))
        except OSError:
            return False
    return True


def leftovers(data_dir: Path) -> list[psutil.Process]:
    """Return the running processes that a supervisor on this folder started.

    Supervisor sets its own address in the environment of every program, and a child inherits it.
    """
    mark = f"unix://{socket_path(data_dir)}"
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SUPERVISOR_SERVER_URL") == mark:
                found.append(process)
        except (psutil.Error, OSError):  # of another user, or ended meanwhile
            continue
    return [process for process in found if process.pid != os.getpid()]
