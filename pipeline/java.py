"""The Java runtime that Spark and Kafka run on, and the class-data archives for it.

This module imports only the standard library, because `local.prerequisites` uses it before the
virtual environment exists.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline import environment
from pipeline.errors import Family, OperationalError, family_of, sentence

#: The versions with long-term support that both Spark 4.2 and Kafka 4.3 run on.
VERSIONS = (17, 21)
_ARCHIVES = Path(__file__).resolve().parent.parent / "jars" / "archive"
HOW_TO_INSTALL = (
    "Install Java 17 or 21 (Debian: apt-get install openjdk-17-jre-headless; "
    "macOS: brew install openjdk@21), or set JAVA_HOME."
)


class JavaError(OperationalError):
    """There is no usable Java. The text gives the reason and the action."""


class ArchiveError(OperationalError):
    """A class-data archive cannot be made. Everything works without it, but starts slower."""


def find(home: str | Path | None) -> Path | None:
    """Return the `java` command in a JAVA_HOME, or without one the first on the PATH."""
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    return Path(found).absolute() if found else None


def version(output: str) -> int | None:
    """Return the feature version that `java -version` printed; None if there is none."""
    match = re.search(r'version "(?:1\.)?([0-9]+)', output)
    return int(match[1]) if match else None


def check(home: str | Path | None) -> str:
    """Return what the `java -version` of a usable Java prints.

    Raises:
        JavaError: there is no Java of one of the VERSIONS.
    """
    command = find(home)
    if command is None:
        where = f"in JAVA_HOME={home}" if home else "on the PATH"
        raise JavaError(f"No java {where}. {HOW_TO_INSTALL}")
    try:
        done = subprocess.run(
            [command, "-version"],
            env=environment.inherited() | environment.JAVA,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JavaError(f"Cannot run {command}. {HOW_TO_INSTALL} Cause: {error}") from error
    if done.returncode:
        cause = " ".join((done.stderr + done.stdout).split()) or f"exit status {done.returncode}"
        raise JavaError(f"Cannot run {command}. {HOW_TO_INSTALL} Cause: {cause}")
    found = version(done.stderr + done.stdout)
    if found not in VERSIONS:
        raise JavaError(f"{command} is Java {found or 'of an unknown version'}. {HOW_TO_INSTALL}")
    return done.stderr


def problem(home: str | Path | None) -> str | None:
    """Return why there is no usable Java, with what to do; None if there is one."""
    try:
        check(home)
    except JavaError as error:
        return str(error)
    return None


def quoted(text: str) -> str:
    """Return a text in quotes, in the form that JVM options and a JAAS configuration need."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def archive_path(version_text: str, class_path: Iterable[Path]) -> Path:
    """Return the path of the class-data archive for one JVM and one class path.

    The JVM refuses an archive if a jar has another path, size or modification time.

    Args:
        version_text: what `java -version` prints.
        class_path: all jars, in their order.
    """
    key = hashlib.sha256(version_text.encode())
    for jar in class_path:
        stat = jar.stat()
        key.update(f"{jar} {stat.st_size} {int(stat.st_mtime)}\n".encode())
    return _ARCHIVES / f"{key.hexdigest()[:16]}.jsa"


@contextlib.contextmanager
def new_archive(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a new class-data archive.

    If the block succeeds, move the archive to `path`. After an error, remove the temporary file.
    First remove the temporary files of processes that have ended.

    Raises:
        ArchiveError: the block raised an expected error, or the archive cannot be written.
    """
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(path.parent)
        yield temporary
        temporary.replace(path)
    except Exception as error:
        if family_of(error) is Family.FAULT:
            raise
        raise ArchiveError(
            "Starts are slower without the class-data archive. Correct the cause and run `make "
            f"archive`. Everything else works. Cause: {sentence(error)}. The archive: {path}"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the file system is read-only
            temporary.unlink(missing_ok=True)


def _remove_unfinished(folder: Path) -> None:
    """Remove the files of processes that have ended. Each file has up to 128 MB."""
    for path in folder.glob("*.tmp"):
        *_, pid, _ = path.name.split(".")
        if not (pid.isdecimal() and _is_running(int(pid))):
            path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends no signal
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
