"""The batch path alone: the scheduler and real spark-submit runs over a real SQLite table."""

import csv
import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from pipeline import spark
from pipeline.batch.archive import make_archive
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.outputs import DataDir
from pipeline.settings import Settings
from tests.conftest import ROOT, Run, Running, require_jars, wait_until

BEGAN = datetime(2025, 6, 1, 12, tzinfo=UTC)


def trade(number: int) -> Trade:
    return Trade(
        trade_id=number,
        price=f"{90_000 + number % 97}.{number % 100:02}",
        best_bid=None,
        best_ask=None,
        side="buy" if number % 3 else "sell",
        time=BEGAN + timedelta(milliseconds=250 * number),
        last_size=f"0.{number % 99_999 + 1:08}",
    )


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    require_jars("spark")
    return DataDir(tmp_path / "data")


def fill(data: DataDir, numbers: range, offset: int = 0) -> None:
    connection = store.open_writer(data.database)
    trades = [trade(number) for number in numbers]
    last = offset + len(trades) - 1
    store.store(connection, store.Batch(offset, last, len(trades), 0, BEGAN, BEGAN, trades), BEGAN)
    connection.close()


def lines(data: DataDir) -> list[dict[str, str]]:
    if not data.batch_log.exists():
        return []
    text = data.batch_log.read_text()
    return [dict(part.split("=", 1) for part in line.split()) for line in text.splitlines()]


@pytest.fixture
def schedule(run: Run, data: DataDir) -> Callable[..., Running]:
    def start(**settings: object) -> Running:
        return run("batch_scheduler.py", DATA_DIR=data.root, **settings)

    return start


def test_a_run_publishes_the_exact_row_its_windows_and_its_line(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    fill(data, range(1, 1001))
    scheduler = schedule(BATCH_INTERVAL_SECONDS=600)
    wait_until(lambda: lines(data), 90, "the first run", scheduler)
    (line,) = lines(data)
    assert (line["status"], line["exit"], line["rows"]) == ("ok", "0", "1000")
    assert line["windows"] == "5"  # 1,000 trades, four a second: 250 s
    assert {"wall_s", "start_s", "logic_s", "cpu_s", "peak_mib"} <= line.keys()
    assert list(line)[-3:] == ["peak_mib", "read_s", "write_s"]
    parts = {name: float(line[name]) for name in ("start_s", "logic_s", "read_s", "write_s")}
    assert 0 <= parts["read_s"] < parts["logic_s"]  # reading is a part of the logic
    assert parts["write_s"] >= 0
    assert parts["start_s"] + parts["logic_s"] + parts["write_s"] < float(line["wall_s"])
    with (data.batch_output / f"{line['run']}.csv").open() as file:
        (row,) = csv.DictReader(file)
    trades = [trade(number) for number in range(1, 1001)]
    assert Decimal(row["total_volume"]) == sum(Decimal(t.last_size) for t in trades)
    assert Decimal(row["max_price"]) == max(Decimal(t.price) for t in trades)
    mean = sum((Decimal(t.price) for t in trades), Decimal()) / 1000
    assert abs(Decimal(row["avg_price"]) - mean) < Decimal("1e-9")
    assert row["first_trade_time"] == "2025-06-01T12:00:00.250000Z"


def test_without_a_table_a_run_is_no_data_and_the_first_with_data_comes_at_once(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    scheduler = schedule(BATCH_INTERVAL_SECONDS=1)
    wait_until(lambda: len(lines(data)) >= 2, 20, "two lines", scheduler)
    assert {line["status"] for line in lines(data)} == {"no_data"}
    assert "exit" not in lines(data)[0]  # no process ran: its exit status is unknown
    fill(data, range(1, 11))
    wait_until(lambda: lines(data)[-1]["status"] == "ok", 90, "a run", scheduler)


def test_a_failing_run_is_logged_with_its_exit_status_and_the_next_one_comes(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    fill(data, range(1, 11))
    data.batch_output.parent.mkdir(exist_ok=True)
    data.batch_output.write_text("a file where the folder should be")
    scheduler = schedule(BATCH_INTERVAL_SECONDS=1)
    wait_until(lambda: lines(data), 90, "the failing run", scheduler)
    assert (lines(data)[0]["status"], lines(data)[0]["exit"]) == ("failed", "1")
    data.batch_output.unlink()
    wait_until(lambda: lines(data)[-1]["status"] == "ok", 90, "the run after", scheduler)


def test_a_database_that_cannot_be_read_is_a_failed_run_not_an_empty_table(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    data.root.mkdir(parents=True)
    data.database.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    scheduler = schedule(BATCH_INTERVAL_SECONDS=1)
    wait_until(lambda: lines(data), 30, "a line", scheduler)
    assert lines(data)[0]["status"] == "failed"
    assert "the table cannot be read: file is not a database" in scheduler.text()


def test_a_run_over_its_time_limit_is_ended_with_all_it_started(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    fill(data, range(1, 11))
    scheduler = schedule(BATCH_INTERVAL_SECONDS=600, BATCH_TIMEOUT_SECONDS=1.5)
    wait_until(lambda: lines(data), 60, "the line", scheduler)
    assert lines(data)[0]["status"] == "timeout"
    assert [process.name() for process in scheduler.tree()][1:] == []


def test_sigterm_ends_the_run_under_way_and_logs_it_as_stopped(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    fill(data, range(1, 11))
    scheduler = schedule(BATCH_INTERVAL_SECONDS=600)
    wait_until(lambda: len(scheduler.tree()) > 1, 30, "the run's start", scheduler)
    time.sleep(1)
    below = scheduler.tree()[1:]
    assert scheduler.terminate(8) == 0
    assert lines(data)[0]["status"] == "stopped"
    assert not any(process.is_running() for process in below)


def test_two_schedulers_never_work_on_one_folder(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    first = schedule(BATCH_INTERVAL_SECONDS=600)
    wait_until(lambda: "awaits" in first.text(), 20, "the first's start", first)
    second = schedule(BATCH_INTERVAL_SECONDS=600)
    assert second.process.wait(20) == 2
    assert "another batch scheduler" in second.text()


def test_a_run_counts_what_was_stored_when_it_began_however_the_ids_lie(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    """Also with holes, and with an id far away from all others."""
    fill(data, range(1, 100))
    fill(data, range(200, 300), offset=99)
    fill(data, range(9_000_000_000, 9_000_000_001), offset=199)
    scheduler = schedule(BATCH_INTERVAL_SECONDS=600)
    wait_until(lambda: lines(data), 90, "the run", scheduler)
    assert (lines(data)[0]["status"], lines(data)[0]["rows"]) == ("ok", "200")


def test_the_class_data_archive_is_really_used() -> None:
    """With -Xshare:on the JVM refuses to start on an archive that does not fit."""
    require_jars("spark")
    settings = Settings()
    archive = make_archive(settings)
    options = spark.java_options(archive, c1_only=True)
    assert str(archive) in options
    config = spark.configuration(settings, "512m", f"{options} -Xshare:on")
    command = spark.submit_command(config, ROOT / "batch_processor.py", "--help")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    broken = config | {
        "spark.driver.extraJavaOptions": f"-XX:SharedArchiveFile={os.devnull} -Xshare:on"
    }
    command = spark.submit_command(broken, ROOT / "batch_processor.py", "--help")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
