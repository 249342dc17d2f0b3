"""Shared by all tests: a real Kafka broker, the services as processes, and waiting."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import psutil
import pytest
from kafka import KafkaConsumer, TopicPartition

from local import prerequisites, topics
from local.ports import free_ports, listens
from pipeline import processes

ROOT = Path(__file__).resolve().parent.parent
#: The only variables that a test's processes inherit: a developer's settings must not reach them.
KEPT = ("PATH", "HOME", "JAVA_HOME", "LANG", "TMPDIR", "TZ")
#: The class of Spark's Java process, and of the one that prints its command before.
SUBMIT, LAUNCHER = "org.apache.spark.deploy.SparkSubmit", "org.apache.spark.launcher.Main"
T = TypeVar("T")

# A busy machine makes any example slow: the time that one takes says nothing about the code.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")


def pytest_configure() -> None:
    """End the tests on SIGTERM as on Ctrl-C, so that fixtures end the processes they started.

    A terminal sends SIGINT to all workers of pytest-xdist, but `kill` reaches only one process.
    """
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.disable()


def pytest_collection_finish() -> None:
    """Start garbage collection without the imported objects: a pass over them takes 0.3 CPU s."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def keep_sigpipe_ignored() -> Iterator[None]:
    """Undo what a program for the terminal sets: SIGPIPE would end all tests of this process."""
    before = signal.getsignal(signal.SIGPIPE)
    yield
    signal.signal(signal.SIGPIPE, before)


def fill_disk(path: Path) -> None:
    """Write a file until its disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 512)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB with 50 files at most, which is mounted in another name space."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare, to mount a disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    script = 'mount -t tmpfs -o size=2m,nr_inodes=50 none "$1" && echo mounted && exec sleep 600'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            if process.stdout.readline() != "mounted\n":
                pytest.skip("no mount is possible here")
            yield Path(f"/proc/{process.pid}/root{folder}")
        finally:
            process.kill()


def require(what: str, present: object) -> None:
    """Skip the test if something is missing on this machine. With CI set, fail instead."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it", pytrace=False)
    pytest.skip(f"{what} is missing")


@cache
def _has_java() -> bool:
    return prerequisites.java_problem() is None


def require_java() -> None:
    require("Java 17 or 21", _has_java())


def require_jars(which: str) -> None:
    """Require Java and the jars of `spark` or `kafka` (`make jars`)."""
    require_java()
    require(f"jars/{which}/lib (make jars)", any((ROOT / "jars" / which / "lib").glob("*.jar")))


def chromium() -> str:
    """Return the path of the browser, which the test requires."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    found = found or shutil.which("google-chrome")
    require("Chromium", found)
    return str(found)


def wait_until(
    condition: Callable[[], T | None], timeout: float, what: str, *processes: "Running"
) -> T:
    """Return the condition's value once it is true.

    Fail with `what` and the last lines of the processes after `timeout` seconds, or as soon as one
    of the processes has ended.
    """
    end = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        took = time.monotonic() - began
        ended = [p for p in processes if p.process.poll() is not None]
        if ended or time.monotonic() > end:
            why = "a process ended" if ended else f"not within {timeout:g} s"
            tails = "".join(f"\n--- {p.name}:\n{p.tail()}" for p in processes)
            pytest.fail(f"{what}: {why}{tails}", pytrace=False)
        # A condition that reads files uses at most a tenth of a core.
        time.sleep(max(0.05, min(0.5, 9 * took)))


class Running:
    """A process of the project, in a process group of its own, its output in a file."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        self.name = log.stem
        self.log = log
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        self.process = processes.start_in_background(arguments, log, kept | environment)

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tail(self, lines: int = 25) -> str:
        return "\n".join(self.text().splitlines()[-lines:])

    def errors(self) -> list[str]:
        """Return the errors that the service logged; Spark logs others."""
        name = self.name.partition("-")[2]
        return [line for line in self.text().splitlines() if f" ERROR   {name}: " in line]

    def tree(self) -> list[psutil.Process]:
        """Return the process and its descendants that are running."""
        return processes.tree(self.pid)

    def java(self) -> psutil.Process:
        """Wait until the process has started Spark's Java process, and return that one."""

        def find() -> psutil.Process | None:
            for process in self.tree():
                with suppress(psutil.NoSuchProcess):
                    command = process.cmdline() if process.name() == "java" else []
                    if SUBMIT in command and LAUNCHER not in command:
                        return process
            return None

        return wait_until(find, 60, "Spark's Java process", self)

    def terminate(self, timeout: float = 15) -> int:
        """Send SIGTERM and return the exit status. Fail if the process does not end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name} did not stop within {timeout} s:\n{self.tail()}")

    def kill(self) -> None:
        """Send SIGKILL to the process and its descendants."""
        for process in self.tree():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(10)


Run = Callable[..., Running]


@contextmanager
def running(folder: Path) -> Iterator[Run]:
    """Give a function that starts a script or module: `run("consumer.py", DATA_DIR=..., ...)`.

    A name without `.py` is a module (`run("feed.replay", "--port", "1")`). Processes still running
    at the end are killed. The logs are in the folder.
    """
    started: list[Running] = []

    def start(what: str, *arguments: str, **environment: object) -> Running:
        target = [what] if what.endswith(".py") else ["-m", what]
        log = folder / f"{len(started):02d}-{what.removesuffix('.py')}.log"
        texts = {name: str(value) for name, value in environment.items()}
        process = Running([sys.executable, *target, *arguments], log, texts)
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """The function of `running`, for one test."""
    with running(tmp_path) as start:
        yield start


def _is_stopped(process: psutil.Process) -> bool:
    """Return whether no thread of the process runs; on other systems than Linux, True."""
    for thread in Path(f"/proc/{process.pid}/task").glob("*/status"):
        with suppress(OSError):  # the thread has ended
            if "State:\tT" not in thread.read_text():
                return False
    return True


class Broker:
    """A real Kafka broker with its own ports and folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.controller_port = free_ports(2)
        self._running: Running | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def security(self) -> dict[str, Any]:
        """How a client of kafka-python logs in; nothing here."""
        return {}

    @property
    def client_options(self) -> dict[str, Any]:
        """The options with which a client of kafka-python connects."""
        return {"bootstrap_servers": self.address, **self.security}

    def start(self) -> "Broker":
        """Start the broker and wait until its port accepts connections."""
        ports = ["--port", str(self.port), "--controller-port", str(self.controller_port)]
        command = [sys.executable, "-m", "local.kafka", "--data-dir", str(self.folder / "kafka")]
        started = Running([*command, *ports], self.folder / "kafka.log", {})
        self._running = started
        wait_until(lambda: listens(self.port), 60, "the broker's start", started)
        return self

    def stop(self) -> None:
        """Stop the broker. Its records are kept for the next `start`."""
        if self._running:
            self._running.terminate()
            self._running = None

    def kill(self) -> None:
        """Send SIGKILL to the broker. Its records are kept for the next `start`."""
        if self._running:
            self._running.kill()
            self._running = None

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to every process of the broker. Wait until SIGSTOP has suspended it."""
        assert self._running is not None
        for process in self._running.tree():
            process.send_signal(signum)
            if signum == signal.SIGSTOP:
                stopped = partial(_is_stopped, process)
                wait_until(stopped, 10, f"{process.name()} has stopped", self._running)

    def records(self, topic: str) -> list[Any]:
        """Return every record that a topic holds now."""
        consumer = KafkaConsumer(**self.client_options, enable_auto_commit=False)
        partition = TopicPartition(topic, 0)
        found: list[Any] = []
        try:
            consumer.assign([partition])
            consumer.seek_to_beginning(partition)
            end = consumer.end_offsets([partition])[partition]
            while consumer.position(partition) < end:
                found += consumer.poll(1000).get(partition, [])
        finally:
            consumer.close()
        return found

    def new_topic(self) -> str:
        """Create a topic and its dead-letter topic as the stack does, and return its name."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        topics.create(self.address, name, f"{name}_rejected", security=self.security)
        return name


AnyBroker = TypeVar("AnyBroker", bound=Broker)


@contextmanager
def started_broker(broker: AnyBroker) -> Iterator[AnyBroker]:
    """Start a broker, give it and kill it at the end."""
    require_jars("kafka")
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker shared by all tests. To stop or kill a broker, use `own_kafka`."""
    with started_broker(Broker(tmp_path_factory.mktemp("kafka"))) as broker:
        yield broker


@pytest.fixture(scope="module")
def module_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of one module. A test may suspend or restart it, and leaves it running."""
    with started_broker(Broker(tmp_path_factory.mktemp("kafka"))) as broker:
        yield broker


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Broker]:
    """A started broker for one test, which may stop, kill and restart it."""
    with started_broker(Broker(tmp_path)) as broker:
        yield broker


@pytest.fixture
def topic(kafka: Broker) -> str:
    """A new topic on the shared broker, with its dead-letter topic."""
    return kafka.new_topic()
