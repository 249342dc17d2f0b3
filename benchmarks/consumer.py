"""Throughput of the consumer: messages per second from a filled topic to SQLite.

An empty poll loop on the same topic shows the limit of kafka-python. `consumer.py` also decodes,
checks and stores each record.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from benchmarks import inputs
from benchmarks.processes import BASELINE, Bench, Open
from benchmarks.results import Mark, Result, rate
from benchmarks.sizes import Sizes
from pipeline.data_dir import DataDir
from pipeline.stores import common_queries, sqlite

TOPIC = "raw_prices"
#: Longest run of each side, seconds.
TIMEOUT = 900


def measure(open_bench: Open, sizes: Sizes) -> Iterator[Result]:
    """Yield the results for the consumer, each as soon as it is measured."""
    with open_bench("consumer") as bench:
        servers = fill(bench, sizes.consumer_rows)
        limit = poll_rate(bench, servers, sizes.consumer_rows)
        ours = our_rate(bench, servers, sizes.consumer_rows)
    with open_bench("consumer-baseline") as bench:
        baseline = baseline_rate(bench, sizes.consumer_baseline_rows)
    yield Result("consumer", "messages/s", ours, baseline, Mark(at_least=40, of_ratio=True))
    mark = Mark(at_least=0.7, of_ratio=True)
    yield Result("consumer", "messages/s", ours, limit, mark, "empty poll loop")


def poll_rate(bench: Bench, servers: str, rows: int) -> float:
    """Return the records per second of an empty poll loop."""
    bench.log(f"{bench.folder.name}: polling the messages")
    loop = bench.python("poll", "-m", "benchmarks.scripts.poll", servers, TOPIC, rows)
    seconds, count = bench.output(loop, TIMEOUT, "the end of the poll loop").split()
    return int(count) / float(seconds)


def our_rate(bench: Bench, servers: str, rows: int) -> float | None:
    """Return messages per second, from the first to the last commit time in table `ingest`."""
    bench.log(f"{bench.folder.name}: storing the messages")
    consumer = bench.service("consumer", servers, TOPIC)
    database = DataDir(bench.folder).database
    bench.wait(
        lambda: stored(database) >= rows, TIMEOUT, f"{rows} rows in SQLite", consumer, every=0.5
    )
    with closing(sqlite.open_reader(database)) as connection:
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
    bench.log(f"{bench.folder.name}: storing the messages")
    return (rows - 1) / float(bench.output(consumer, TIMEOUT, "the end of the baseline"))


def fill(bench: Bench, rows: int) -> str:
    """Start a broker and fill its topic with messages; return its address."""
    servers = bench.broker(TOPIC)
    bench.log(f"{bench.folder.name}: filling a topic with {rows:,} messages")
    inputs.fill_topic(servers, TOPIC, rows)
    return servers


def stored(database: Path) -> int:
    """Return the number of rows in the table; 0 while there is no table."""
    try:
        with closing(sqlite.open_reader(database)) as connection:
            return common_queries.total_rows(connection)
    except sqlite3.OperationalError:
        return 0
