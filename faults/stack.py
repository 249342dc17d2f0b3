"""The real local stack in its own directory: start it, find its processes, read its results."""

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from faults.servers import Proxy
from faults.truth import Record
from local import announce
from local import stack as local_stack
from local.ports import free_ports
from pipeline import http_health, processes, times
from pipeline.data_dir import DataDir
from pipeline.health import health
from pipeline.outputs import SERVICES
from pipeline.settings import rejected_topic_of

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
TOPIC = "raw_prices"
REJECTED_TOPIC = rejected_topic_of(TOPIC)
TOPICS = (TOPIC, REJECTED_TOPIC)
#: The only variables that the stack inherits: settings of the user must not reach it.
KEPT = ("PATH", "HOME", "JAVA_HOME", "LANG", "TMPDIR")
#: A word of the command line of each program that supervisor starts.
PROGRAMS = {
    "producer": "producer.py",
    "consumer": "consumer.py",
    "spark_processor": "spark_processor.py",
    "batch_scheduler": "batch_scheduler.py",
    "dashboard": "dashboard.py",
    "kafka": "kafka.Kafka",
}
#: The processes below a program that are targets of their own, and the program.
CHILDREN = {"stream_jvm": "spark_processor", "batch_run": "batch_scheduler"}
#: Short timeouts and intervals, so that a fault shows its effect soon.
SETTINGS = {
    "BATCH_INTERVAL_SECONDS": "12",
    "HEARTBEAT_TIMEOUT_SECONDS": "6",
    "TICK_TIMEOUT_SECONDS": "12",
}
START_SECONDS = 300.0
STOP_SECONDS = 30.0


class LabError(Exception):
    """The lab itself cannot continue. The text is one sentence."""


def wait_for(condition: Callable[[], T | None], seconds: float, what: str) -> T:
    """Return the value of the condition as soon as it is true.

    Raises:
        LabError: it was not true in time.
    """
    end = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise LabError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


class Feed:
    """The stand-in for the exchange: `feed.replay` as a process. No fault touches it.

    Args:
        recording: what it replays.
        speed: multiple of the recorded speed.
        port: where it listens.
        log: its output.
        due: if the recording is shifted to the present, when each line is due, Unix seconds.
    """

    def __init__(
        self, recording: Path, speed: float, port: int, log: Path, due: Sequence[float] = ()
    ) -> None:
        options = ["--no-retime", "--speed", f"{speed:g}"]
        if due:
            options = ["--retime", "--backlog", "0"]
        command = [sys.executable, "-m", "feed.replay", str(recording), *options]
        command += ["--port", str(port)]
        self.port = port
        self._due = due
        self._process = _spawn(command, log, {})
        try:
            wait_for(self._is_ready, 30, "the start of the feed")
        except BaseException:
            self.stop()
            raise

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise LabError("the feed ended at its start")
        with contextlib.suppress(OSError, ValueError):
            return bool(self._state())
        return False

    def _state(self) -> dict[str, Any]:
        return json.loads(_get(self.port, "/health"))  # type: ignore[no-any-return]

    def position(self) -> int:
        """Return how many lines of the recording the feed has issued.

        Raises:
            LabError: the feed does not answer.
        """
        if self._due:
            return bisect(self._due, time.time())
        try:
            state = self._state()
        except (OSError, ValueError) as error:
            raise LabError(f"the feed does not answer: {error}") from error
        return int(state["handed"]) + int(state["lost"])

    def stop(self) -> None:
        processes.end(processes.tree(self._process.pid), wait_seconds=5)


def _spawn(
    command: list[str], log: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return processes.start_in_background(command, log, {**kept, **environment})


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.read() if answer.status == http.HTTPStatus.OK else b""
    finally:
        connection.close()


class Stack:
    """The stack on one data directory, with the proxy between it and the feed.

    Args:
        folder: holds the data directory, the recording and the logs.
        recording: what the feed plays.
        speed: multiple of the recorded speed.
        environment: further variables of all services.
        due: see `Feed`.
    """

    def __init__(
        self,
        folder: Path,
        recording: Path,
        speed: float,
        environment: Mapping[str, str],
        due: Sequence[float] = (),
    ) -> None:
        self._due = due
        self.folder = folder
        self.data = DataDir(folder / "data")
        self.recording = recording
        self._speed = speed
        self._feed_port, proxy_port, self._kafka, self._controller, self._page = free_ports(5)
        self.proxy = Proxy(proxy_port, self._feed_port)
        self._environment = {
            **SETTINGS,
            "FEED_URL": f"ws://{HOST}:{proxy_port}",
            "FEED_REST_URL": f"http://{HOST}:{proxy_port}",
            **environment,
        }
        self.feed: Feed
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._starters: list[subprocess.Popen[bytes]] = []

    @property
    def kafka_address(self) -> str:
        return f"{HOST}:{self._kafka}"

    def __enter__(self) -> Self:
        self.data.root.mkdir(parents=True, exist_ok=True)
        log = self.folder / "feed.log"
        with contextlib.ExitStack() as opened:
            self.feed = Feed(self.recording, self._speed, self._feed_port, log, self._due)
            opened.callback(self.feed.stop)
            opened.enter_context(self.proxy)
            opened.callback(self._end_starters)
            opened.callback(self.stop)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()  # each part ends, even if another one fails

    def _end_starters(self) -> None:
        for starter in self._starters:
            starter.wait(30)

    # --- start and stop ---------------------------------------------------------------------

    def start(self) -> None:
        """Start the stack with `local.start run`."""
        ports = ("--kafka-port", self._kafka, "--controller-port", self._controller)
        where = ("--data-dir", self.data.root, "--dashboard-port", self._page)
        command = [sys.executable, "-m", "local.start", "run", *map(str, (*where, *ports))]
        self._supervisor = _spawn(command, self.folder / "stack.log", self._environment)

    def wait_until_healthy(self) -> None:
        wait_for(self.is_healthy, START_SECONDS, f"the start of the stack ({self.folder})")

    def stop(self) -> None:
        """Stop the stack as Ctrl-C does; kill what does not stop."""
        if self._supervisor is not None and self._supervisor.poll() is None:
            self._supervisor.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._supervisor.wait(STOP_SECONDS)
        self.kill_all()

    def kill_all(self) -> None:
        """Send SIGKILL to every process of the stack, the supervisor included."""
        supervisor = self._supervisor
        found = local_stack.leftovers(self.data.root)
        if supervisor is not None and supervisor.poll() is None:
            found += processes.tree(supervisor.pid)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if supervisor is not None:
            supervisor.wait(10)
        processes.wait(found, 10)

    def stop_program(self, program: str) -> None:
        """Stop one program through supervisor and wait for its end."""
        self._supervisorctl("stop", program).wait(60)

    def start_program(self, program: str) -> None:
        """Start one program through supervisor."""
        # supervisorctl itself ends when the program has run for `startsecs`.
        self._starters.append(self._supervisorctl("start", program))

    def _supervisorctl(self, action: str, program: str) -> "subprocess.Popen[bytes]":
        name = program if program == "kafka" else f"pipeline:{program}"
        configuration = local_stack.configuration(self.data.root)
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(configuration)]
        return _spawn([*command, action, name], self.folder / "supervisorctl.log", {})

    # --- processes --------------------------------------------------------------------------

    def process(self, target: str) -> psutil.Process | None:
        """Return the process of a target; None if it does not run now."""
        supervisor = self._supervisor
        word = PROGRAMS[CHILDREN.get(target, target)]
        with contextlib.suppress(psutil.NoSuchProcess):
            for program in psutil.Process(supervisor.pid if supervisor else -1).children():
                if any(part.endswith(word) for part in program.cmdline()):
                    if target not in CHILDREN:
                        return program
                    below = program.children(recursive=True)
                    return next((child for child in below if child.name() == "java"), None)
        return None

    def signal(self, target: str, signum: signal.Signals) -> int:
        """Send a signal to a target as soon as it runs; return its pid."""
        process = wait_for(lambda: self.process(target), 60, f"a running {target}")
        process.send_signal(signum)
        return process.pid

    # --- state ------------------------------------------------------------------------------

    def status(self, service: str) -> dict[str, Any]:
        """Return the status file of a service; {} if there is none."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(self.data.status_of(service).read_text(encoding="utf-8")))
        return {}

    def problems(self) -> list[str]:
        """Return why services are unhealthy."""
        now = times.now()
        found = [health(self.data, name, now) for name in SERVICES]
        return [problem for problem in found if problem]

    def is_healthy(self) -> bool:
        return not self.problems() and self.page_answers()

    def page_answers(self) -> bool:
        return http_health.problem(self._page, announce.HEALTH_PATH, seconds=5) is None

    def stored_up_to(self) -> int:
        """Return the id of the trade that the consumer stored last."""
        return int((self.status("consumer").get("last_trade") or {}).get("trade_id", 0))

    def streamed_up_to(self) -> float:
        """Return the greatest event time in the windows of the stream, Unix seconds."""
        newest = self.status("spark_processor").get("newest_trade")
        return datetime.fromisoformat(newest).timestamp() if newest else 0.0

    def last_run(self) -> dict[str, Any]:
        """Return the newest batch run that the scheduler logged."""
        return dict(self.status("batch_scheduler").get("last_run") or {})

    # --- the store --------------------------------------------------------------------------

    def rows(self) -> int:
        """Return the number of stored trades; 0 without a database."""
        return int(self._query("SELECT count(*) FROM btc_prices")[0][0] or 0)

    def newest_stored(self) -> float:
        """Return the greatest event time in the store, Unix seconds."""
        newest = self._query("SELECT max(time) FROM btc_prices")[0][0]
        return datetime.fromisoformat(newest).timestamp() if newest else 0.0

    def stored_ids(self) -> set[int]:
        """Return the ids of the stored trades."""
        return {row[0] for row in self._query("SELECT trade_id FROM btc_prices")}

    def _query(self, sql: str) -> list[tuple[Any, ...]]:
        address = f"{self.data.database.as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=10)) as connection:
                return connection.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return [(0,)]

    def unexplained_differences(self) -> list[str]:
        """Return what `pipeline.compare` prints about differences without a known cause."""
        command = [sys.executable, "-m", "pipeline.compare"]
        environment = {"DATA_DIR": str(self.data.root), "PATH": os.environ.get("PATH", "")}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return []
        printed = (done.stdout + done.stderr).splitlines()
        unknown = [line.strip() for line in printed if "cause unknown" in line]
        return [f"pipeline.compare ended with status {done.returncode}", *unknown]

    # --- Kafka ------------------------------------------------------------------------------

    def topics(self) -> set[str]:
        """Return the names of the topics; none without a broker."""
        try:
            with self._admin() as admin:
                return set(admin.list_topics())
        except KafkaError:
            return set()

    def delete_topics(self, *names: str) -> None:
        with self._admin() as admin:
            admin.delete_topics(list(names))

    def delete_records(self) -> list[Record]:
        """Delete the records of the topic of trades that the consumer has stored; return them."""
        found = self.records()
        time.sleep(5)  # the consumer stores the newest of them
        with self._admin() as admin:
            admin.delete_records({TopicPartition(TOPIC, 0): found[-1].offset + 1})
        return found

    @contextlib.contextmanager
    def _admin(self) -> Iterator[Any]:
        admin = KafkaAdminClient(bootstrap_servers=self.kafka_address, bootstrap_timeout_ms=3000)
        try:
            yield admin
        finally:
            admin.close()

    def records(self, topic: str = TOPIC) -> list[Record]:
        """Return every record that a topic holds now."""
        return list(self._records(topic))

    def _records(self, topic: str) -> Iterator[Record]:
        consumer = KafkaConsumer(
            bootstrap_servers=self.kafka_address,
            enable_auto_commit=False,
            max_poll_records=20_000,
            max_partition_fetch_bytes=8 << 20,
        )
        try:
            partition = TopicPartition(topic, 0)
            consumer.assign([partition])
            consumer.seek_to_beginning(partition)
            end = consumer.end_offsets([partition])[partition]
            while consumer.position(partition) < end:
                for record in consumer.poll(2000).get(partition, []):
                    headers = {name for name, _ in record.headers}
                    backfilled = "backfill" in headers
                    value, received = record.value or b"", record.timestamp / 1000
                    yield Record(value, received, backfilled, record.offset)
        finally:
            consumer.close()
