"""Shift the wall clock of the services, each by its own number of seconds."""

import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
#: The services whose clock can be shifted: supervisor's name, and the name in texts.
SERVICES = {
    "producer": "the producer",
    "consumer": "the consumer",
    "spark_processor": "the stream",
    "batch_scheduler": "the batch scheduler and its runs",
}
#: A shift in a file, as `clock.c` reads it.
SHIFT = struct.Struct("q")


class Clocks:
    """The clocks of the services of one stack.

    Args:
        folder: the directory for the library and the files with the shifts. It must exist.

    Raises:
        OSError, subprocess.CalledProcessError: the library cannot be compiled.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._library = folder / "clock.so"
        command = ["cc", "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(self._library)]
        subprocess.run(command, check=True, capture_output=True)
        for service in SERVICES:
            self._path(service).write_bytes(SHIFT.pack(0))

    def _path(self, service: str) -> Path:
        return self._folder / service

    @property
    def environment(self) -> Mapping[str, str]:
        """Return the environment variables that each service starts with."""
        return {"LD_PRELOAD": str(self._library), "FAKETIME_FOLDER": str(self._folder)}

    def shift(self, service: str, seconds: int) -> None:
        """Set the clock of a service to this number of seconds after the real time."""
        with self._path(service).open("r+b", buffering=0) as file:
            file.write(SHIFT.pack(seconds))


@cache
def problem() -> str | None:
    """Return why this machine cannot shift clocks; None if it can."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            clocks = Clocks(Path(folder))
        except (OSError, subprocess.CalledProcessError):
            return "a wrong clock needs a C compiler (`cc`) and Linux with glibc"
        clocks.shift("producer", 3600)
        code = "import time; time.sleep(0.01); print(time.time())"
        environment = {**clocks.environment, "SUPERVISOR_PROCESS_NAME": "producer"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=False
        )
        works = done.returncode == 0 and float(done.stdout) - time.time() > 3000
    return None if works else "the clock of a process cannot be shifted on this system"
