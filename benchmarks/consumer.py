"""Throughput of the consumer: messages per second from a filled topic to SQLite."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from benchmarks import inputs
from benchmarks.processes import BASELINE, Bench, Open
from benchmarks.results import Goal, Result, rate
from benchmarks.sizes import Sizes
from pipeline.ingest import store
from pipeline.outputs import DataDir

TOPIC = "raw_prices"
#: Longest run of each side, seconds.
TIMEOUT = 900


def measure(open_bench: Open, sizes: Sizes) -> Iterator[Result]:
    """Yield the results for the consumer, each as soon as it is measured."""
    with open_bench("consumer") as bench:
        ours = our_rate(bench, sizes.consumer_rows)
    with open_bench("consumer-baseline") as bench:
        baseline = baseline_rate(bench, sizes.consumer_baseline_rows)
    goal = Goal(at_least=40, of_ratio=True)
    yield Result("consumer", "messages/s", ours, baseline, goal)


def our_rate(bench: Bench, rows: int) -> float | None:
    """Return messages per second, from the first to the last commit time in table `ingest`."""
    servers = fill(bench, rows)
    consumer = bench.service("consumer", servers, TOPIC)
    database = DataDir(bench.folder).database
    bench.wait(
        lambda: stored(database) >= rows, TIMEOUT, f"{rows} rows in SQLite", consumer, every=0.5
    )
    with closing(store.open_reader(database)) as connection:
        commits = connection.execute(
            "SELECT committed_at, stored FROM ingest ORDER BY first_offset"
        ).fetchall()
    return rate([(datetime.fromisoformat(at).timestamp(), count) for at, count in commits])


def baseline_rate(bench: Bench, rows: int) -> float:
    """Return messages per second, from the duration that the baseline prints."""
    servers = fill(bench, rows)
    script = BASELINE / "consumer.py"
    database = bench.folder / "baseline.db"
    consumer = bench.python("consumer", script, servers, TOPIC, database, rows)
    bench.wait(lambda: consumer.process.poll() is not None, TIMEOUT, "the end of the baseline")
    if consumer.process.returncode != 0:
        consumer.check()
    return (rows - 1) / float(consumer.tail().splitlines()[-1])


def fill(bench: Bench, rows: int) -> str:
    """Start a broker and fill its topic with messages; return its address."""
    servers = bench.broker(TOPIC)
    bench.log(f"{bench.folder.name}: filling a topic with {rows:,} messages")
    inputs.fill_topic(servers, TOPIC, rows)
    bench.log(f"{bench.folder.name}: storing the messages")
    return servers


def stored(database: Path) -> int:
    """Return the number of rows in the table; 0 while there is no table."""
    try:
        with closing(store.open_reader(database)) as connection:
            return store.total_rows(connection)
    except sqlite3.OperationalError:
        return 0
