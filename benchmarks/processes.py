"""Start the processes of a measurement in a directory of their own, and end all of them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from kafka.errors import KafkaError

from local import topics
from local.ports import free_port, free_ports, listens
from pipeline.errors import TemporaryError
from pipeline.processes import end, start_in_background, tree
from pipeline.settings import NAMES, rejected_topic_of

BASELINE = Path(__file__).with_name("baseline")
SCRIPTS = Path(__file__).with_name("scripts")
ENDING = {signal.SIGTERM, signal.SIGINT}
T = TypeVar("T")
#: Seconds for the orderly end of a process.
STOP_SECONDS = 12
#: Seconds for the start of a broker, and how often it is started if it ends.
BROKER_SECONDS = 120
BROKER_ATTEMPTS = 3
#: Milliseconds for a client to reach the broker. A busy machine needs longer than the default.
CONNECT_MS = 120_000


class BenchmarkError(Exception):
    """A measurement failed. The text gives the reason."""


class Running:
    """One process in a process group of its own, with its output in a file."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.log = log
        self.process = start_in_background(command, log, environment)

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raise BenchmarkError if the process has ended."""
        if self.process.poll() is not None:
            raise BenchmarkError(f"{self.log.stem} ended; its last lines:\n{self.tail()}")

    def tail(self) -> str:
        """Return the last lines of the output."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-15:])

    def stop(self) -> None:
        """Send it SIGTERM, wait for it, then end what is left of its process tree."""
        started = tree(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        end({*started, *tree(self.pid)}, wait_seconds=1)
        self.process.wait()


class Bench:
    """One measurement: its directory and its processes, which end with the `with` block.

    Attributes:
        folder: the directory of all its files.
        log: prints a line about the progress.
        running: the processes, in the order of their start.
    """

    def __init__(self, folder: Path, log: Callable[[str], None]) -> None:
        self.folder = folder
        self.log = log
        self.running: list[Running] = []
        folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A second Ctrl-C takes effect after all processes have ended.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            for running in reversed(self.running):
                running.stop()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def environment(self, **own: object) -> dict[str, str]:
        """Return the environment of the user without settings of the pipeline, plus these."""
        settings = {*NAMES} - {"JAVA_HOME"}
        kept = {name: value for name, value in os.environ.items() if name not in settings}
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        folders = {"TMPDIR": str(temporary), "SPARK_LOCAL_DIRS": str(temporary)}
        texts = {name: str(value) for name, value in own.items()}
        return kept | folders | texts

    def start(self, name: str, command: list[str], **environment: object) -> Running:
        """Start a command; the `with` block ends it."""
        log = self.folder / f"{name}.log"
        running = Running(command, log, self.environment(**environment))
        self.running.append(running)
        return running

    def python(self, name: str, *arguments: object, **environment: object) -> Running:
        """Start Python with these arguments."""
        return self.start(name, [sys.executable, *map(str, arguments)], **environment)

    def service(self, name: str, servers: str, topic: str, **environment: object) -> Running:
        """Start a service of the pipeline, with the directory of this measurement as DATA_DIR."""
        settings = {"KAFKA_BOOTSTRAP_SERVERS": servers, "KAFKA_TOPIC": topic}
        script = f"{name}.py"
        return self.python(name, script, DATA_DIR=self.folder, **settings, **environment)

    def broker(self, *topics_: str) -> str:
        """Start a broker and create topics, each with its `_rejected` topic; return its address.

        A broker that ends at its start is started again with other ports: another program can have
        taken a port since it was chosen.

        Raises:
            BenchmarkError: no broker started.
        """
        for attempt in range(1, BROKER_ATTEMPTS + 1):
            self.log(f"{self.folder.name}: starting the Kafka broker")
            port, controller_port = free_ports(2)
            where = ("--data-dir", self.folder / f"kafka-{attempt}")
            ports = ("--port", port, "--controller-port", controller_port)
            kafka = self.python("kafka", "-m", "local.kafka", *where, *ports)
            address = f"127.0.0.1:{port}"
            try:
                what = "the start of the Kafka broker"
                self.wait(lambda port=port: listens(port), BROKER_SECONDS, what, kafka)  # type: ignore[misc]
                names = [name for topic in topics_ for name in (topic, rejected_topic_of(topic))]
                topics.create(address, *names)
            except (BenchmarkError, KafkaError, TemporaryError) as error:
                if attempt == BROKER_ATTEMPTS:
                    raise BenchmarkError(
                        f"no Kafka broker: {error}. Its last lines:\n{kafka.tail()}"
                    ) from error
                self.log(f"starting the Kafka broker again: {str(error).splitlines()[0]}")
                kafka.stop()
            else:
                return address
        raise AssertionError

    def feed(self, recording: Path, *options: object) -> str:
        """Start a replay of a recording; return its address."""
        port = free_port()
        replay = self.python("feed", "-m", "feed.replay", recording, *options, "--port", port)
        self.wait(lambda: listens(port), 120, "the start of the feed", replay)
        return f"ws://127.0.0.1:{port}"

    def output(self, running: Running, seconds: float, what: str) -> str:
        """Wait for the end of a process; return the last line of its output.

        Raises:
            BenchmarkError: it takes too long, or its exit status is not 0.
        """
        self.wait(lambda: running.process.poll() is not None, seconds, what)
        if running.process.returncode != 0:
            running.check()
        return running.tail().splitlines()[-1]

    def wait(
        self,
        condition: Callable[[], T | None],
        seconds: float,
        what: str,
        *processes: Running,
        every: float = 0.1,
    ) -> T:
        """Return the first true value of a condition.

        Args:
            condition: the function to call.
            seconds: how long to wait.
            what: what the condition means, for the error message.
            processes: the processes that have to run meanwhile.
            every: seconds between two calls.

        Raises:
            BenchmarkError: the time is over, or one of the processes has ended.
        """
        end = time.monotonic() + seconds
        while True:
            if value := condition():
                return value
            for running in processes:
                running.check()
            if time.monotonic() > end:
                tails = "".join(f"\n{p.log.stem}:\n{p.tail()}" for p in processes)
                raise BenchmarkError(f"waited {seconds:g} s for {what}{tails}")
            time.sleep(every)


#: Opens the measurement of a name.
Open = Callable[[str], Bench]
