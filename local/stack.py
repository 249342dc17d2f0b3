"""One stack on one `DATA_DIR`: its paths, its lock, its socket, and what a killed one leaves."""

import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from local.terminal import refuse
from pipeline.data_dir import DataDir

ROOT = Path(__file__).resolve().parent.parent
#: The program that supervises a stack.
SUPERVISE = "local.supervise"
#: The signals that end a stack. `local.start` blocks them before it becomes the supervisor, which
#: then handles those that have arrived meanwhile. Without this, a Ctrl-C could be lost.
STOP_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}
#: The path of a Unix socket can have about 100 bytes, and supervisor first appends its pid.
SOCKET_PATH_BYTES = 90
#: Names of the sockets in `run/` and elsewhere. `leftovers` finds processes by them, so they must
#: not be the names that other installations of supervisor use.
SOCKET, SOCKET_ELSEWHERE = "stack.sock", "stream-vs-batch-"
#: How often, and how many seconds apart, a start tries to lock a folder: `is_running` locks it for
#: a moment, and the process that has locked it writes its name into the file.
LOCK_TRIES, LOCK_SECONDS = 5, 0.1


def logs(data_dir: Path) -> Path:
    """Return the directory of all logs."""
    return DataDir(data_dir).logs


def run_folder(data_dir: Path) -> Path:
    """Return the directory of supervisor's own files and of the lock."""
    return DataDir(data_dir).run


def configuration(data_dir: Path) -> Path:
    """Return the path of supervisor's configuration file."""
    return run_folder(data_dir) / "supervisord.conf"


def has_run_on(data_dir: Path) -> bool:
    """Return whether a stack has run on this directory. If not, another program may have filled it.

    If `source.json` is damaged, the user moves it away and the next start writes it again.
    """
    return DataDir(data_dir).source.exists() or configuration(data_dir).exists()


# --- the lock ---------------------------------------------------------------------------------


def lock_path(data_dir: Path) -> Path:
    """Return the file whose lock means that a stack runs on this directory."""
    return run_folder(data_dir) / "lock"


def lock(data_dir: Path, what: str) -> None:
    """Lock the directory until this process ends, or exit with one sentence about the holder.

    The kernel locks the file and not its path: a symbolic link and a bind mount lead to the same
    lock, and it ends with the process, however the process ends. The program that this process
    becomes (`exec`) keeps it.

    Args:
        data_dir: the directory.
        what: what this process does, for the sentence that another process prints.
    """
    for _ in range(LOCK_TRIES):
        descriptor = _lock_now(lock_path(data_dir))
        if descriptor is not None and _supervisor(data_dir) is None:
            os.set_inheritable(descriptor, True)
            now = datetime.now(UTC)
            text = f"{what}, pid {os.getpid()}, since {now:%Y-%m-%d %H:%M:%S} UTC"
            with contextlib.suppress(OSError):  # a full disk: the lock itself needs no space
                os.ftruncate(descriptor, 0)
                os.write(descriptor, text.encode())
            return
        if descriptor is not None:
            os.close(descriptor)
        time.sleep(LOCK_SECONDS)
    refuse(
        "A stack already runs on DATA_DIR: stop it with Ctrl-C or `kill` and its pid, or set "
        f"another DATA_DIR. DATA_DIR={data_dir} ({holder(data_dir)})"
    )


def _lock_now(path: Path) -> int | None:
    """Return the descriptor of the locked file; None if another process has locked it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        refuse(
            f"Cannot write to DATA_DIR={path.parent.parent}: {error.strerror}. "
            "Set DATA_DIR to another directory."
        )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # locked, or removed by `make clean` meanwhile
        pass
    except OSError as error:
        refuse(
            f"Cannot lock {path}: {error.strerror}. Set DATA_DIR to a directory on a local disk."
        )
    os.close(descriptor)
    return None


def holder(data_dir: Path) -> str:
    """Return what the process that locked the directory does, its pid and since when."""
    try:
        text = lock_path(data_dir).read_text(encoding="utf-8")
    except OSError:
        text = ""
    if not text and (supervisor := _supervisor(data_dir)):
        text = f"pid {supervisor.pid}"
    return text or "its process is unknown"


def is_running(data_dir: Path) -> bool:
    """Return whether a stack runs on this directory, or `make clean` has locked it."""
    try:
        descriptor = os.open(lock_path(data_dir), os.O_RDONLY)
    except OSError:
        return _supervisor(data_dir) is not None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return _supervisor(data_dir) is not None


def _supervisor(data_dir: Path) -> psutil.Process | None:
    """Return the running supervisor of this directory. It is found also if its lock was deleted."""
    for process in leftovers(data_dir):
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            if parent is not None and SUPERVISE in parent.cmdline():
                return parent
    return None


# --- the socket -------------------------------------------------------------------------------


def socket_path(data_dir: Path) -> Path:
    """Return where supervisor can open its socket: in `DATA_DIR`, else in a temporary directory.

    It cannot be in `DATA_DIR` if the path is too long, or if the file system has no Unix sockets or
    no hard links, which supervisor needs to replace an old socket.
    """
    name = SOCKET_ELSEWHERE + hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    temporary = f"{name}-{os.getuid()}.sock"
    candidates = (
        run_folder(data_dir) / SOCKET,
        Path(tempfile.gettempdir()) / temporary,
        Path("/tmp") / temporary,  # noqa: S108 - its name has the user's id, its mode is 0700
    )
    usable = next(filter(_can_hold_a_socket, candidates), None)
    if usable is None:
        refuse(
            "No directory for the supervisor's socket. Set TMPDIR to a directory with a short path "
            f"on a local disk. Neither {candidates[0].parent} nor {candidates[1].parent} can hold "
            "the socket."
        )
    return usable


def _can_hold_a_socket(path: Path) -> bool:
    """Try what supervisor does: bind a socket to a name with its pid, then link it to its place."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        return False
    first, second = (path.with_name(f"{path.name}.{os.getpid()}{end}") for end in ("", "l"))
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(first))
        second.hardlink_to(first)
    except OSError:
        return False
    finally:
        for made in (first, second):
            with contextlib.suppress(OSError):
                made.unlink()
    return True


# --- what a killed stack leaves ---------------------------------------------------------------


def leftovers(data_dir: Path) -> list[psutil.Process]:
    """Return the running processes that a supervisor on this directory started.

    Every program has the address of its supervisor and `DATA_DIR` in its environment, and a child
    inherits both.
    """
    found = []
    for process in psutil.process_iter():
        try:
            variables = process.environ()
        except (psutil.Error, OSError):  # of another user, or ended meanwhile
            continue
        name = Path(variables.get("SUPERVISOR_SERVER_URL", "")).name
        if name == SOCKET or name.startswith(SOCKET_ELSEWHERE):
            folder = variables.get("DATA_DIR", "")
            if _is_same_folder(folder, data_dir) and process.pid != os.getpid():
                found.append(process)
    return found


def _is_same_folder(text: str, data_dir: Path) -> bool:
    try:
        return Path(text).samefile(data_dir)
    except OSError:  # one of them was deleted
        return text == str(data_dir)
