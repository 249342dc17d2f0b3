"""Starts the processes that are measured, in a folder of their own, and ends them all."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import psutil

from local import topics
from pipeline.settings import Settings
from pipeline.spark import ROOT

BASELINE = Path(__file__).with_name("baseline")
ENDING = {signal.SIGTERM, signal.SIGINT}
T = TypeVar("T")


class BenchmarkError(Exception):
    """A measurement could not be made; the text says why."""


class Running:
    """One process, in a process group of its own; its output goes to a file."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raises BenchmarkError when the process has ended by itself."""
        if self.process.poll() is not None:
            raise BenchmarkError(f"{self.log.stem} ended unasked; its last lines:\n{self.tail()}")

    def tail(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-15:])

    def stop(self, wait_seconds: float = 12) -> None:
        """Asks it to end; what is left of it and of all below it after a while is killed."""
        tree = self._tree()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(tree, timeout=wait_seconds)
        for process in {*alive, *self._tree()}:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Bench:
    """One measurement's folder, processes and progress; ends them all when it is left.

    Attributes:
        folder: for whatever is made on the way.
        say: tells the user how far it is.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.say = say
        self._running: list[Running] = []
        folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # An impatient second Ctrl-C comes when all has ended.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            for running in reversed(self._running):
                running.stop()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def environment(self, **own: object) -> dict[str, str]:
        """The user's environment without any setting of the pipeline, but with these."""
        settings = {name.upper() for name in Settings.model_fields} - {"JAVA_HOME"}
        kept = {name: value for name, value in os.environ.items() if name not in settings}
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        folders = {"TMPDIR": str(temporary), "SPARK_LOCAL_DIRS": str(temporary)}
        texts = {name: str(value) for name, value in own.items()}
        return kept | {"PYTHONUNBUFFERED": "1"} | folders | texts

    def start(self, name: str, command: list[str], **environment: object) -> Running:
        log = self.folder / f"{name}.log"
        running = Running(command, log, self.environment(**environment))
        self._running.append(running)
        return running

    def python(self, name: str, *arguments: object, **environment: object) -> Running:
        """Starts Python with these arguments."""
        return self.start(name, [sys.executable, *map(str, arguments)], **environment)

    def broker(self, topic: str) -> str:
        """Starts a broker with a new topic (and its `_rejected`); returns its address."""
        port, controller_port = free_port(), free_port()
        where = ("--data-dir", self.folder / "kafka")
        ports = ("--port", port, "--controller-port", controller_port)
        self.python("kafka", "-m", "local.kafka", *where, *ports)
        address = f"127.0.0.1:{port}"
        topics.create(address, topic, f"{topic}_rejected")
        return address

    def feed(self, recording: Path, *options: object) -> str:
        """Starts a replay of a recording; returns its address."""
        port = free_port()
        replay = self.python("feed", "-m", "feed.replay", recording, *options, "--port", port)
        self.wait(lambda: _listens(port), 120, "the feed's start", replay)
        return f"ws://127.0.0.1:{port}"

    def wait(
        self,
        condition: Callable[[], T | None],
        seconds: float,
        what: str,
        *processes: Running,
        every: float = 0.1,
    ) -> T:
        """What the condition gives once it is true.

        Raises:
            BenchmarkError: it is not after so long, or one of the processes has ended.
        """
        end = time.monotonic() + seconds
        while True:
            if value := condition():
                return value
            for running in processes:
                running.check()
            if time.monotonic() > end:
                tails = "".join(f"\n{p.log.stem}:\n{p.tail()}" for p in processes)
                raise BenchmarkError(f"{what}: not within {seconds:g} s{tails}")
            time.sleep(every)


#: Opens a measurement of this name.
Open = Callable[[str], Bench]


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
