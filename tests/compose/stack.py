"""A stack of this project that Docker Compose runs: its containers, volumes and results."""

import csv
import json
import os
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from feed.sample import SAMPLE
from local.ports import free_port
from tests import golden
from tests.conftest import KEPT, require

ROOT = Path(__file__).resolve().parents[2]
RECORDING = Path(os.environ.get("RECORDING") or SAMPLE).absolute()
#: The mode of the batch runs in all tests: `BATCH_MODE=incremental make test-compose`.
BATCH_MODE = os.environ.get("BATCH_MODE") or "full"
#: Replay speed. The sample takes three minutes, long enough to kill services during the replay.
SPEED = 20
#: Seconds that the Compose files give a service to stop.
GRACE = 20
#: Prints the pid of each Java process that it kills. The image has no program for that. The Java
#: process that prints the command of another one is not the driver.
KILL_JAVA = """for process in /proc/[0-9]*; do
    if grep -qs '^java$' $process/comm && ! grep -qs launcher.Main $process/cmdline; then
        kill -9 ${process#/proc/} && echo $process
    fi
done; true"""
BUILD_SECONDS = 1800
START_SECONDS = 240


class Stack:
    """A Compose project with its own name, port and volumes.

    Args:
        folder: for copies of the results.
        files: the Compose files, the first one first.
    """

    def __init__(self, folder: Path, *files: str) -> None:
        self._files = [word for file in files for word in ("-f", file)]
        self.project = f"svb-test-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self._folder = folder
        self._copies = 0
        password = folder / "store_password"
        password.write_text(f"{uuid.uuid4().hex}\n", encoding="utf-8")
        kept = {n: v for n, v in os.environ.items() if n in KEPT or n.startswith("DOCKER_")}
        self.environment = kept | {
            "DASHBOARD_PORT": str(self.port),
            "RECORDING": str(RECORDING),
            "RETIME": "0",
            "SPEED": str(SPEED),
            "BATCH_INTERVAL_SECONDS": "20",
            "BATCH_MODE": BATCH_MODE,
            # Variables that a host may have set, and that must not reach the containers.
            "DATA_DIR": "/nowhere",
            "JAVA_HOME": "/nowhere",
            "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1",
            "STORE_URL": "postgresql://nobody@nowhere:1/nothing",
            "STORE_PASSWORD_FILE": str(password),
        }

    def compose(
        self, *arguments: str, timeout: float = 120, statuses: Collection[int] = (0,)
    ) -> str:
        """Run `docker compose` and return its output. Fail the test on another exit status."""
        command = ["docker", "compose", "-p", self.project, *self._files, *arguments]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode not in statuses:
            logs = "" if arguments[0] == "logs" else self.compose("logs", "--tail", "15")
            pytest.fail(f"{' '.join(arguments)}: {done.stderr[-3000:]}\n{logs}", pytrace=False)
        return done.stdout

    def states(self) -> dict[str, Any]:
        """Return the state of each service's container."""
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return {state["Service"]: state for state in map(json.loads, lines)}

    def all_healthy(self) -> bool:
        states = self.states()
        topics = states.pop("topics")
        ready = {name for name, state in states.items() if state["Health"] == "healthy"}
        return ready == set(states) and (topics["State"], topics["ExitCode"]) == ("exited", 0)

    def status(self, service: str) -> dict[str, Any]:
        """Return a service's status file, or {} before it exists."""
        text = self.compose(
            "exec", "-T", "dashboard", "sh", "-c", f"cat data/status/{service}.json;:"
        )
        status: dict[str, Any] = json.loads(text or "{}")
        return status

    def kill(self, service: str) -> None:
        """Send SIGKILL to every process of a container except its init."""
        # 137: the container ended before this shell, which was killed with it.
        self.compose("exec", "-T", service, "sh", "-c", "kill -9 -1", statuses=(0, 137))

    def kill_java(self, service: str) -> bool:
        """Send SIGKILL to Spark's Java process in a container; return whether it was running."""
        killed = self.compose("exec", "-T", service, "sh", "-c", KILL_JAVA)
        return bool(killed.strip())

    def results(self) -> Path:
        """Copy the data volume, and the trades in PostgreSQL if there are any; return the copy."""
        self._copies += 1
        copy = self._folder / f"results-{self._copies}"
        self.compose("cp", "dashboard:/app/data", str(copy))
        if "postgres" in self.states():
            self._copy_trades(copy)
        return copy

    def _copy_trades(self, copy: Path) -> None:
        """Write the trades to a database in the copy, where the check can read them."""
        columns = "trade_id, price, best_bid, best_ask, side, time, last_size"
        rows = self._rows(f"SELECT {columns} FROM btc_prices")  # noqa: S608
        gaps = self._rows("SELECT first_trade_id, last_trade_id, filled_at FROM gaps")
        with closing(sqlite3.connect(copy / "crypto_prices.db")) as table, table:
            table.execute(
                "CREATE TABLE btc_prices (trade_id INTEGER, price REAL, best_bid REAL, "
                "best_ask REAL, side TEXT, time TEXT, last_size REAL)"
            )
            insert = "INSERT INTO btc_prices VALUES (?, ?, ?, ?, ?, ?, ?)"
            table.executemany(insert, map(_stored, rows))
            table.execute("CREATE TABLE gaps (first_trade_id, last_trade_id, filled_at)")
            known = ((int(first), int(last), filled or None) for first, last, filled in gaps)
            table.executemany("INSERT INTO gaps VALUES (?, ?, ?)", known)
        path = copy / "status" / "consumer.json"
        status = json.loads(path.read_text(encoding="utf-8"))
        status["settings"]["store_url"] = "sqlite"
        path.write_text(json.dumps(status), encoding="utf-8")

    def _rows(self, query: str) -> list[list[str]]:
        """Return the rows of a query in PostgreSQL."""
        copy = f"COPY ({query}) TO STDOUT (FORMAT csv)"
        access = ("--username", "prices", "--dbname", "prices", "--command", copy)
        answer = self.compose("exec", "-T", "postgres", "psql", *access)
        return list(csv.reader(answer.splitlines()))

    def batch_log(self) -> list[str]:
        """Return the lines of batch_log.txt, read with the README's command."""
        command = ("exec", "-T", "batch-scheduler", "cat", "data/batch_log.txt")
        return self.compose(*command).splitlines()

    def settle(self, timeout: float) -> list[str]:
        """Wait until every trade is processed. Return the remaining differences."""
        await_(lambda: self.status("producer").get("state") == "ended", timeout, self, "the end")
        end = time.monotonic() + 180
        while (problems := golden.verify(RECORDING, self.results())) and time.monotonic() < end:
            time.sleep(5)
        return problems


def _stored(row: list[str]) -> tuple[object, ...]:
    """Return a row of `btc_prices`. Older versions of SQLite read some numbers inexactly."""
    trade_id, price, bid, ask, side, moment, size = row
    numbers = [float(cell) if cell else None for cell in (price, bid, ask)]
    return int(trade_id), *numbers, side, moment, float(size)


def await_(condition: Callable[[], bool], timeout: float, stack: Stack, what: str) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            states = {name: state["Status"] for name, state in stack.states().items()}
            logs = stack.compose("logs", "--tail", "15")
            pytest.fail(f"{what}: not within {timeout:g} s; {states}\n{logs}", pytrace=False)
        time.sleep(2)


def engine_answers() -> bool:
    try:
        for command in (["docker", "version"], ["docker", "compose", "version"]):
            subprocess.run(command, capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


@contextmanager
def started(folder: Path, *files: str) -> Iterator[Stack]:
    """Build and start a stack. Remove its containers, images and volumes at the end."""
    require("a Docker engine with Compose", engine_answers())
    stack = Stack(folder, *files)
    try:
        stack.compose("build", timeout=BUILD_SECONDS)
        stack.compose("up", "--detach", timeout=START_SECONDS)
        yield stack
    finally:
        stack.compose("down", "--volumes", "--rmi", "local", "--remove-orphans")
