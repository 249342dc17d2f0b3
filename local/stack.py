"""One stack on one `DATA_DIR`: its folders, whether it runs, what a killed one has left."""

import hashlib
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import psutil

ROOT = Path(__file__).resolve().parent.parent
#: A unix socket's path may have about 100 bytes; supervisor puts its pid behind it meanwhile.
SOCKET_PATH_BYTES = 90


def refuse(sentence: str) -> NoReturn:
    """Ends the process for a user's mistake: one sentence, status 2."""
    print(sentence, file=sys.stderr)
    sys.exit(2)


def logs(data_dir: Path) -> Path:
    return data_dir / "logs"


def run_folder(data_dir: Path) -> Path:
    return data_dir / "run"


def configuration(data_dir: Path) -> Path:
    return run_folder(data_dir) / "supervisord.conf"


def socket_path(data_dir: Path) -> Path:
    """Where the stack's supervisor listens: below the folder, or where a long path is short."""
    path = run_folder(data_dir) / "supervisor.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"stream-vs-batch-{os.getuid()}-{name}.sock"


def is_running(data_dir: Path) -> bool:
    """Whether a stack runs on this folder now: its supervisor answers."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(socket_path(data_dir)))
        except OSError:
            return False
    return True


def left_over(data_dir: Path) -> list[psutil.Process]:
    """Processes that a stack's supervisor on this folder has started and that live now.

    Supervisor gives its own address to all that it starts, and that is inherited.
    """
    mark = f"unix://{socket_path(data_dir)}"
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SUPERVISOR_SERVER_URL") == mark:
                found.append(process)
        except (psutil.Error, OSError):  # another user's, or already gone
            continue
    return [process for process in found if process.pid != os.getpid()]


def end(processes: list[psutil.Process], wait_seconds: float) -> None:
    """Asks these processes to end and kills those that have not after `wait_seconds`."""
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            try:
                signal(process)
            except psutil.NoSuchProcess:
                continue
        _, processes = psutil.wait_procs(processes, timeout=wait_seconds)
