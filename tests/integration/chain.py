"""The pipeline as real processes on one data directory, for tests that run all of it or a part."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from feed import recording
from local.ports import free_port
from tests import golden
from tests.conftest import Broker, Run, Running, require_jars, wait_until

#: The services that process a trade as it comes; a batch run starts with `batch_scheduler`.
CONTINUOUS = ("producer", "consumer", "spark_processor")
SCRIPTS = (*CONTINUOUS, "batch_scheduler")


class Chain:
    """All services on one data directory. Each is a process that a test can kill and restart."""

    def __init__(self, run: Run, folder: Path, broker: Broker, **environment: object) -> None:
        require_jars("spark")
        self._run = run
        self.data = folder / "data"
        self.topic = broker.new_topic()
        self.broker = broker
        self.feed_port = free_port()
        self.environment: dict[str, object] = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.address,
            "KAFKA_TOPIC": self.topic,
            "FEED_URL": f"ws://127.0.0.1:{self.feed_port}",
            "DATA_DIR": self.data,
            "BATCH_INTERVAL_SECONDS": 3600,
            **environment,
        }
        self.running: dict[str, Running] = {}

    def feed(self, recording: Path, speed: str, *options: str) -> None:
        arguments = [str(recording), "--no-retime", "--speed", speed, *options]
        self.running["feed"] = self._run("feed.replay", *arguments, "--port", str(self.feed_port))
        wait_until(lambda: "REPLAY" in self.running["feed"].text(), 20, "the feed's start")

    def start(self, *names: str) -> None:
        """Start these services; by default those that run continuously."""
        for name in names or CONTINUOUS:
            self.running[name] = self._run(f"{name}.py", **self.environment)

    def kill(self, name: str) -> None:
        """Send SIGKILL to the service's own process. The processes it started keep running."""
        process = self.running[name].process
        process.kill()
        process.wait(10)

    def restart(self, name: str) -> None:
        self.kill(name)
        self.start(name)

    def status(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.data / "status" / f"{name}.json").read_text()))
        except FileNotFoundError:
            return {}

    def counter(self, service: str, name: str) -> int:
        return int(self.status(service).get("counters", {}).get(name, 0))

    def open_windows(self) -> list[dict[str, str]]:
        with (self.data / "stream_live.csv").open() as file:
            return list(csv.DictReader(file))

    def rows(self) -> int:
        try:
            return int(golden.query_table(self.data, "SELECT count(*) FROM btc_prices")[0][0])
        except golden.TableError:
            return 0

    def final_windows(self) -> list[dict[str, str]]:
        rows = []
        for path in sorted((self.data / "stream_csv").glob("*.csv")):
            with path.open() as file:
                rows += list(csv.DictReader(file))
        return rows

    def batch_rows(self) -> int:
        """Return the number of rows that the newest batch run read."""
        for path in sorted((self.data / "batch_output").glob("*.csv"))[-1:]:
            with path.open() as file:
                return int(next(csv.DictReader(file))["rows"])
        return 0

    def batch_windows(self) -> list[dict[str, str]]:
        if not (self.data / "batch_windows.csv").exists():
            return []
        with (self.data / "batch_windows.csv").open() as file:
            return list(csv.DictReader(file))

    def ids(self) -> tuple[set[int], set[int]]:
        """Return the ids of the stored trades, and the ids in open gaps."""
        rows = golden.query_table(self.data, "SELECT trade_id FROM btc_prices")
        open_gaps = "SELECT first_trade_id, last_trade_id FROM gaps WHERE filled_at IS NULL"
        gaps = golden.query_table(self.data, open_gaps)
        return {row[0] for row in rows}, {
            number for first, last in gaps for number in range(first, last + 1)
        }

    def settle(self, recording: Path, timeout: float) -> golden.Golden:
        """Wait until both paths have processed every trade, and return the expected results.

        The scheduler starts when all rows are stored, so one batch run has them all.
        """
        expected = golden.compute(recording)
        rows, final = len(expected.trades), len(golden.final_windows(expected))
        alive = list(self.running.values())
        wait_until(lambda: self.rows() >= rows, timeout, f"{rows} rows stored", *alive)
        self.start("batch_scheduler")
        alive.append(self.running["batch_scheduler"])
        wait_until(
            lambda: len(self.final_windows()) >= final, timeout, f"{final} final windows", *alive
        )
        wait_until(lambda: self.batch_rows() >= rows, timeout, "a batch run over every row", *alive)
        return expected

    def records(self, topic: str) -> list[Any]:
        """Return every record that the topic holds now."""
        return self.broker.records(topic)


@contextmanager
def new_chain(run: Run, folder: Path, broker: Broker, **environment: object) -> Iterator[Chain]:
    """Give a chain with nothing started. At the end, kill what a killed service left running."""
    chain = Chain(run, folder, broker, **environment)
    try:
        yield chain
    finally:
        for process in psutil.process_iter():
            try:
                if process.environ().get("DATA_DIR") == str(chain.data):
                    process.kill()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue


def frames(path: Path) -> list[bytes]:
    """Return the messages of a recording."""
    return [line.frame for line in recording.read(path)]
