"""All modes of the batch write the same results, in real Spark over real databases.

`tests.golden` computes the expected results independently.
"""

import csv
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from pipeline import outputs, processes, spark, stores, times
from pipeline.batch import failures, jdbc, job, scheduler
from pipeline.data_dir import DataDir
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.settings import Settings
from pipeline.stores import common_queries
from tests import golden
from tests.conftest import require_jars, wait_until
from tests.postgresql import PostgresqlServer, running_server

MODES = ("full", "pushdown", "incremental")
BEGAN = datetime(2025, 12, 2, 5, tzinfo=UTC)
#: Columns that differ from run to run.
OF_THE_RUN = {"run", "snapshot_at", "written_at"}
GREATEST = "9999999999.99999"
#: The greatest amount of a trade that shares a group with others.
BOUND = "9999999.99999999"


@pytest.fixture(scope="module")
def session() -> Iterator[SparkSession]:
    require_jars("spark")
    settings = Settings(spark_master="local[2]")
    options = spark.java_options(spark.archive_path(settings), c1_only=True)
    kept = dict(os.environ)
    one = spark.session(
        settings, "test_batch_modes", spark.configuration(settings, "640m", options)
    )
    os.environ.update(kept)  # pytest needs its own variables
    yield one
    one.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with running_server() as server:
        yield server


class Table:
    """A database that grows step by step, as the consumer fills it."""

    def __init__(self, folder: Path, **store_settings: Any) -> None:
        self.data = DataDir(folder)
        self.trades: dict[int, Trade] = {}
        self._runs = 0
        self._settings = {"spark_master": "local[2]", "data_dir": folder, **store_settings}

    def put(self, *trades: Trade) -> None:
        """Store trades in one transaction. A trade with a stored id is a repeat."""
        settings = Settings.model_validate(self._settings)
        with closing(stores.store_of(settings).open_writer()) as connection:
            first = common_queries.next_offset(connection) or 0
            last = first + len(trades) - 1
            batch = store.Batch(first, last, len(trades), 0, BEGAN, BEGAN, trades)
            store.store(connection, batch, times.now())
        self.trades = {trade.trade_id: trade for trade in trades} | self.trades

    def next_run(self) -> str:
        self._runs += 1
        return outputs.run_id(BEGAN + timedelta(seconds=self._runs))

    def run(self, session: SparkSession, mode: str, **settings: Any) -> dict[str, Any]:
        """Execute a run and return what the log shows about it."""
        given = self._settings | {"batch_mode": mode} | settings
        return job.process(session, Settings.model_validate(given), self.next_run())

    def results(self) -> list[list[dict[str, str]]]:
        """Return the rows of the newest results, without what differs from run to run."""
        found = []
        for path in (outputs.batch_files(self.data)[-1], self.data.batch_windows):
            with path.open() as file:
                rows = list(csv.DictReader(file))
            found.append([{k: v for k, v in row.items() if k not in OF_THE_RUN} for row in rows])
        return found

    def problems(self, rules: golden.Rules = golden.CONTRACT) -> list[str]:
        """Return how the newest results differ from the independent computation."""
        trades = {number: right(trade) for number, trade in self.trades.items()}
        expected = golden.Golden(rules, trades)
        golden.aggregate(expected)
        return [
            *golden.check_batch_total(expected, self.data.batch_output),
            *golden.check_batch_windows(expected, self.data.batch_windows),
        ]


def right(trade: Trade) -> golden.Trade:
    moment = times.epoch_micros(trade.time)
    price, size = Decimal(trade.price), Decimal(trade.last_size)
    return golden.Trade(trade.trade_id, price, None, None, trade.side, moment, size)


def made(ids: Sequence[int], begin_s: float, seconds: float, rng: random.Random) -> list[Trade]:
    """Return trades in random order of their times, many of them around the end of a minute."""
    trades = []
    for trade_id in ids:
        at = BEGAN + timedelta(seconds=begin_s + rng.random() * seconds)
        if rng.random() < 0.2:
            micros = rng.choice([999_499, 999_500, 999_999, 0, 1])
            at = at.replace(second=0 if micros < 2 else 59, microsecond=micros)
        price = f"{90_000 + rng.randrange(100)}.{rng.randrange(100):02}"
        size = rng.choice(["0.00000001", "12.5", "9999999.99999999", "10000000.5", "0.1234"])
        trades.append(
            Trade(
                trade_id=trade_id,
                price=price if rng.random() < 0.9 else "10000000",
                best_bid=None,
                best_ask=None,
                side=rng.choice(["buy", "sell"]),
                time=at,
                last_size=size,
            )
        )
    return trades


def run_all(table: Table, session: SparkSession, **settings: Any) -> list[dict[str, Any]]:
    """Run all modes and check that their results are the same; return what they logged."""
    logged, results = [], []
    for mode in MODES:
        logged.append(table.run(session, mode, **settings))
        results.append(table.results())
    assert results[1] == results[0]
    assert results[2] == results[0]
    return logged


def rows_read(session: SparkSession) -> int:
    """Return how many rows the stages of the session have read from databases."""
    jvm: Any = session.sparkContext._jvm
    no_quantiles = session.sparkContext._gateway.new_array(jvm.double, 0)
    any_task = jvm.java.util.ArrayList()
    store = session.sparkContext._jsc.sc().statusStore()
    stages = store.stageList(None, False, False, no_quantiles, any_task)
    return sum(stages.apply(n).inputRecords() for n in range(stages.length()))


def test_all_modes_write_the_same_results_while_a_table_grows(
    session: SparkSession, server: PostgresqlServer, tmp_path: Path
) -> None:
    """Late, repeated and backfilled trades arrive between the runs, and amounts of any size."""
    access = {"store_url": server.new_database(), "store_password_file": server.password_file}
    tables = (Table(tmp_path / "sqlite"), Table(tmp_path / "postgresql", **access))

    def put(*trades: Trade) -> None:
        for table in tables:
            table.put(*trades)

    def run_on_both(**settings: Any) -> list[dict[str, Any]]:
        logged, other = (run_all(table, session, **settings) for table in tables)
        assert [line["mode"] for line in other] == [line["mode"] for line in logged]
        assert tables[1].results() == tables[0].results()
        return logged

    rng = random.Random(11)
    put(*made([*range(1000, 2600), *range(2700, 3000)], 0, 900, rng))
    logged = run_on_both()
    assert [line["mode"] for line in logged] == ["full", "pushdown", "full"]
    assert logged[2]["reason"] == "read the whole table: batch_sums.json does not exist"
    assert tables[0].problems() == []

    late = made(range(3000, 3100), 100, 300, rng)
    backfilled = made([*range(2600, 2650), 2699], 600, 300, rng)
    greatest = Trade(2**63 - 1, GREATEST, None, None, "buy", BEGAN, GREATEST)
    # The sums of a full group of these trades are the greatest in 64-bit numbers.
    full_group = [Trade(n, BOUND, None, None, "buy", BEGAN, BOUND) for n in range(4000, 5100)]
    put(*late, *list(tables[0].trades.values())[:50])
    put(*backfilled, greatest, *full_group)
    logged = run_on_both()
    assert [line["mode"] for line in logged] == list(MODES)
    assert {line["rows"] for line in logged} == {len(tables[0].trades)}
    assert tables[0].problems() == []

    logged = run_on_both(volatility_range=Decimal("0.5"), spike_volume=Decimal(10**9))
    assert logged[2]["mode"] == "incremental"  # nothing new, and other thresholds


def test_jdbc_verifies_the_certificate_of_postgresql(
    session: SparkSession, server: PostgresqlServer, tmp_path: Path
) -> None:
    url, access = server.new_database(), {"store_password_file": server.password_file}
    table = Table(tmp_path, store_url=url + server.verified(), **access)
    table.put(*made(range(1, 100), 0, 300, random.Random(14)))
    table.run(session, "pushdown")
    assert table.problems() == []
    untrusted = url + server.verified(server.other_authority_file)
    settings = Settings.model_validate(access | {"store_url": untrusted})
    with pytest.raises(AnalysisException) as error:
        jdbc.read(
            session,
            stores.store_of(settings),
            [(1, 99)],
            "SELECT part FROM given",
            [],
            connections=1,
        )
    reason = failures.explain(error.value, settings)
    assert reason.startswith("PostgreSQL stopped the run. Check its server and STORE_URL.")
    assert "unable to find valid certification path" in reason


def test_all_modes_agree_in_windows_of_a_day(session: SparkSession, tmp_path: Path) -> None:
    rng = random.Random(12)
    table = Table(tmp_path)
    table.put(*made(range(1, 1500), 0, 200_000, rng))
    day = timedelta(days=1)
    rules = golden.Rules(window=24 * 60 * golden.MINUTE)
    before = rows_read(session)
    assert table.run(session, "incremental")["mode"] == "full"
    assert rows_read(session) - before == 1499  # it read the table once
    logged = run_all(table, session, window=day)
    assert (logged[2]["mode"], logged[2]["windows"]) == ("full", 3)
    assert "has windows of 1 minute, not 24 hours" in logged[2]["reason"]
    assert table.problems(rules) == []
    table.put(*made(range(2000, 2100), 0, 200_000, rng))
    assert run_all(table, session, window=day)[2]["mode"] == "incremental"
    assert table.problems(rules) == []


def test_after_a_kill_at_any_moment_the_next_incremental_run_is_exact(
    session: SparkSession, tmp_path: Path
) -> None:
    """One run is killed while it publishes. After that, the kept sums are older than the result."""
    rng = random.Random(13)
    table = Table(tmp_path)
    table.put(*made(range(1, 2000), 0, 600, rng))
    table.run(session, "incremental")
    older = table.data.batch_sums.read_bytes()
    table.put(*made(range(2500, 2600), 0, 600, rng))
    killed_run(table)
    assert table.run(session, "incremental")["mode"] == "incremental"
    assert table.problems() == []
    table.data.batch_sums.write_bytes(older)  # a run that was killed before it kept its sums
    table.put(*made(range(2100, 2200), 0, 600, rng))
    assert table.run(session, "incremental")["mode"] == "incremental"
    assert table.problems() == []


def killed_run(table: Table) -> None:
    """Start a run as the scheduler does, and kill it as soon as it has published its first file."""
    settings = Settings(data_dir=table.data.root, spark_master="local[1]", batch_mode="incremental")
    before = set(outputs.batch_files(table.data))
    config = scheduler.configuration(settings, 1)
    command = scheduler.command_of_run(settings, config, table.next_run(), time.monotonic())
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        try:
            new = lambda: set(outputs.batch_files(table.data)) - before  # noqa: E731
            wait_until(new, 60, "the first result of the run")
        finally:
            for process in processes.tree(run.pid):
                process.kill()
