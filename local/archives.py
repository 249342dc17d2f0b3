"""Make the class-data archives of Spark and of the broker, unless they exist.

`make archive` runs `python -m local.archives`, which makes both at the same time.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from local import kafka
from local.ports import free_ports, listens
from pipeline import environment, java, processes
from pipeline.batch.archive import make_archive
from pipeline.errors import OperationalError, exit_on_error
from pipeline.settings import load, remove_window_of_gnu_screen

#: Maximum time of each step of the broker: making its storage, accepting connections, ending.
_STEP_SECONDS = 120


def make_broker_archive() -> Path:
    """Make the class-data archive of the broker with a real start, if there is none yet.

    Raises:
        ArchiveError: the start failed. Everything also works without it, but starts slower.
        JavaError: there is no Java of a version that Kafka runs on.
    """
    path = kafka.archive_path()
    if path.exists():
        return path
    with java.new_archive(path) as temporary, tempfile.TemporaryDirectory() as folder:
        option = f"-XX:ArchiveClassesAtExit={temporary}"
        has_started, output = _start_and_stop_broker(Path(folder), option)
        # A broker that ends before it accepts connections also writes an archive, with few classes.
        if not (has_started and temporary.exists()):
            raise OperationalError(
                f"The broker did not start or wrote no archive: {output[-2000:]}"
            )
    return path


def _start_and_stop_broker(folder: Path, option: str) -> tuple[bool, str]:
    """Start a broker with an option of the JVM and stop it.

    Returns:
        Whether it accepted connections, and its output.
    """
    port, controller_port = free_ports(2)
    configuration = folder / "server.properties"
    properties = kafka.server_properties(port, controller_port)
    configuration.write_text(properties, encoding="utf-8")
    formatting = [*kafka.java_command(), *kafka.format_arguments(configuration)]
    command = [*kafka.java_command(option), "kafka.Kafka", str(configuration)]
    variables = environment.inherited() | environment.JAVA
    log = folder / "output"
    with log.open("wb") as output:
        run = partial(subprocess.Popen, cwd=folder, env=variables, stdout=output, stderr=output)
        with run(formatting) as formatter:
            processes.wait(processes.tree(formatter.pid), _STEP_SECONDS)
            processes.end(processes.tree(formatter.pid), wait_seconds=2)
        has_started = False
        with run(command) as broker:
            end = time.monotonic() + _STEP_SECONDS
            while not (has_started := listens(port)):
                if broker.poll() is not None or time.monotonic() > end:
                    break
                time.sleep(0.05)
            # The JVM writes the archive when it ends.
            processes.end(processes.tree(broker.pid), wait_seconds=_STEP_SECONDS)
        return has_started, log.read_text(encoding="utf-8", errors="replace")


def _warning(make: Callable[[], Path]) -> str | None:
    """Make an archive. If this fails, return why: everything works without the archive."""
    try:
        make()
    except java.ArchiveError as error:
        return f"Warning: {error}"
    return None


def main() -> None:
    """Make both archives. If Java or a part of Spark is missing, end the processes of both."""
    processes.exit_on_sigterm()
    remove_window_of_gnu_screen()  # `local.start` prints the notice about it, once
    with exit_on_error(), ThreadPoolExecutor(2) as pool:
        try:
            archives = (
                pool.submit(_warning, make_broker_archive),
                pool.submit(_warning, partial(make_archive, load())),
            )
            for archive in wait(archives, return_when=FIRST_EXCEPTION).done:
                if warning := archive.result():
                    print(warning, file=sys.stderr)
        except BaseException:
            processes.end(processes.tree(os.getpid())[1:], wait_seconds=2)
            raise


if __name__ == "__main__":
    main()
