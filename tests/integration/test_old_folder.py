"""Data directories of thirty days and of a year: every start, the comparison and the report."""

import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline import outputs
from pipeline.data_dir import DataDir
from pipeline.ingest import retention, store
from pipeline.ingest.trade import Trade
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stores import common_queries, sqlite
from pipeline.stream import recovery
from tests import old_folder
from tests.conftest import ROOT
from tests.old_folder import Rates

#: Days, and trades and transactions a day. A year has as many windows and runs as in reality, but
#: seven million trades and transactions: 154 and 40 million would take 20 GB.
AGES = ((30, Rates()), (365, Rates(20_000, 20_000)))


@pytest.fixture(scope="module", params=AGES, ids=lambda age: f"{age[0]}-days")
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DataDir:
    made = os.environ.get(f"OLD_FOLDER_{request.param[0]}")  # one that was made before
    if made:
        return DataDir(Path(made))
    data = DataDir(tmp_path_factory.mktemp("old") / "data")
    old_folder.write(data, request.param[0], datetime.now(UTC), request.param[1])
    return data


def cpu_s(part: str, work: Callable[[], object]) -> float:
    """Run something in this process and return its CPU time, which other programs change little."""
    began, used = time.monotonic(), time.process_time()
    work()
    used = time.process_time() - used
    print(f"{part}: {used:.2f} s of CPU, {time.monotonic() - began:.2f} s")
    return used


def command(part: str, *arguments: str, data: DataDir) -> tuple[float, float]:
    """Run a command; return its CPU time and the peak memory of all commands until now, MiB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(data.root)}
    subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = after.ru_maxrss / 1024
    print(f"{part}: {used:.1f} s of CPU, up to {peak:.0f} MiB")
    return used, peak


def start_of_consumer(data: DataDir) -> None:
    with closing(sqlite.open_writer(data.database)) as connection:
        common_queries.next_offset(connection)
        common_queries.newest_topic(connection)
        common_queries.total_rows(connection)
        common_queries.open_gaps(connection)


def start_of_stream(data: DataDir) -> None:
    settings = Settings(data_dir=data.root)
    rows, damaged = recovery.final_windows(Service("spark_processor", settings))
    assert sum(rows.values()) == 1440 * round(sum(rows.values()) / 1440)
    assert damaged == {}


@pytest.mark.slow
def test_the_services_start_fast_in_an_old_folder(old: DataDir) -> None:
    assert cpu_s("start of the consumer", lambda: start_of_consumer(old)) < 0.5
    assert cpu_s("start of the scheduler", lambda: outputs.newest_run(old)) < 3
    assert cpu_s("start of the stream", lambda: start_of_stream(old)) < 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_year_of_two_transactions_per_second_slows_no_start_and_no_commit(
    tmp_path: Path,
) -> None:
    """Sixty million rows of `ingest`. They take 10 GB on the disk."""
    data, count, now = DataDir(tmp_path), 60_000_000, datetime.now(UTC)
    sqlite.open_writer(data.database).close()
    with closing(sqlite3.connect(data.database, isolation_level=None)) as connection:
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
        old_folder.write_transactions(connection, count, now)
    assert cpu_s("start of the consumer", lambda: start_of_consumer(data)) < 0.5
    rows = cpu_s("rows, as the scheduler reads them", lambda: store_rows(data, count))
    assert rows < 0.1
    trade = Trade(count + 1, "93000.25", "93000.24", None, "buy", now, "0.25")
    batch = store.Batch(count + 1, count + 1, 1, 0, now, now, [trade], [now], topic=None)
    with closing(sqlite.open_writer(data.database)) as connection:
        commit = cpu_s("commit", lambda: store.store(connection, batch, now))
        assert commit < 0.1
        settings = Settings(data_dir=tmp_path, retention_days=10)
        for part in ("first", "second"):
            step = cpu_s(
                f"{part} step of retention",
                lambda: retention.delete_expired(connection, data, settings, now),
            )
            assert step < 0.5


def store_rows(data: DataDir, count: int) -> None:
    with closing(sqlite.open_reader(data.database)) as connection:
        assert common_queries.total_rows(connection) == count


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_comparison_and_report_end_in_an_old_folder(old: DataDir) -> None:
    windows = sum(1 for _ in outputs.stream_files(old)) * 1440
    limit = 10 + windows / 5_000
    assert command("comparison", "pipeline.compare", data=old)[0] < limit
    assert command("report", "report", "--zip", data=old)[0] < 2 * limit


@pytest.mark.slow
def test_a_step_of_retention_does_not_delay_the_consumer(old: DataDir) -> None:
    settings = Settings(data_dir=old.root, retention_days=10)
    with closing(sqlite.open_writer(old.database)) as connection:

        def step() -> None:
            found = retention.delete_expired(connection, old, settings, datetime.now(UTC))
            assert found == 2 * retention.CHUNK

        assert cpu_s("first step of retention", step) < 0.5
        assert cpu_s("second step of retention", step) < 0.5
