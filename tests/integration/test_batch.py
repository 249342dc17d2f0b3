"""The batch path alone: the scheduler and real spark-submit runs over a real SQLite table."""

import csv
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from pipeline import java, outputs, spark, times
from pipeline.batch.archive import make_archive
from pipeline.data_dir import DataDir
from pipeline.health import health
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.settings import load
from pipeline.stores import sqlite
from tests.conftest import ROOT, Run, Running, require_jars, running, wait_until
from tests.integration.conftest import has_ended

BEGAN = datetime(2025, 6, 1, 12, tzinfo=UTC)


def trade(number: int, trade_id: int) -> Trade:
    return Trade(
        trade_id=trade_id,
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


def fill(data: DataDir, ids: Sequence[int]) -> None:
    """Store trades of these ids, four per second of event time."""
    connection = sqlite.open_writer(data.database)
    trades = [trade(place, trade_id) for place, trade_id in enumerate(ids, 1)]
    batch = store.Batch(0, len(trades) - 1, len(trades), 0, BEGAN, BEGAN, trades)
    store.store(connection, batch, BEGAN)
    connection.close()


def lines(data: DataDir) -> list[dict[str, str]]:
    if not data.batch_log.exists():
        return []
    text = data.batch_log.read_text()
    return [dict(part.split("=", 1) for part in line.split()) for line in text.splitlines()]


# --- one scheduler, from no table to the first result ----------------------------------------

#: Ids with a hole, and one far away from all others.
IDS = [*range(1, 801), *range(1001, 1201), 9_000_000_000]


@dataclass(frozen=True)
class Runs:
    """The runs of one scheduler for which four things were wrong, one after another."""

    data: DataDir
    log: str
    #: The newest line of batch_log.txt in each situation.
    no_table: dict[str, str]
    not_a_database: dict[str, str]
    no_java: dict[str, str]
    #: What the health check said about the service without Java.
    unhealthy: str | None
    no_output_folder: dict[str, str]
    repaired: dict[str, str]
    #: The exit status and the output of a second scheduler, started beside the first.
    second_status: int
    second_log: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    require_jars("spark")
    folder = tmp_path_factory.mktemp("batch")
    data = DataDir(folder / "data")
    with running(folder) as run:
        java_home = folder / "java"
        java_home.symlink_to(Path(str(java.find(None))).resolve().parents[1])
        scheduler = run(
            "batch_scheduler.py",
            DATA_DIR=data.root,
            BATCH_INTERVAL_SECONDS=1,
            JAVA_HOME=java_home,
        )

        def line_with(what: str, **fields: str | None) -> dict[str, str]:
            found = lambda: [line for line in lines(data) if fields.items() <= line.items()]  # noqa: E731
            return wait_until(found, 90, what, scheduler)[-1]

        def reason_line(what: str, reason: str) -> dict[str, str]:
            found = lambda: [n for n in lines(data) if n.get("reason", "").startswith(reason)]  # noqa: E731
            return wait_until(found, 90, what, scheduler)[-1]

        def sick(reason: str) -> str | None:
            text = health(data, "batch_scheduler", times.now())
            return text if text and reason in text else None

        no_table = line_with("a run without a table", status="no_data")
        second = run("batch_scheduler.py", DATA_DIR=data.root)
        second_status = second.process.wait(20)
        data.database.write_bytes(b"no database at all, but long enough to be looked at" * 100)
        not_a_database = line_with("a run on a broken database", status="failed")
        data.batch_output.write_text("a file where the folder should be")
        data.database.unlink()
        java_home.rename(folder / "other")
        fill(data, IDS)
        no_java = reason_line("a run without Java", "No_java_in_JAVA_HOME=")
        unhealthy = wait_until(lambda: sick("No java"), 10, "an unhealthy status", scheduler)
        (folder / "other").rename(java_home)
        no_output_folder = line_with("a run that fails", status="failed", exit="2")
        data.batch_output.unlink()
        repaired = line_with("a run that succeeds", status="ok")
        scheduler.terminate()
        log = scheduler.text()
    lines_logged = (no_table, not_a_database, no_java, unhealthy, no_output_folder, repaired)
    return Runs(data, log, *lines_logged, second_status, second.text())


def test_a_run_without_a_table_has_no_data_and_no_exit_status(runs: Runs) -> None:
    assert "exit" not in runs.no_table  # no process ran


def test_a_database_that_cannot_be_read_is_a_failed_run_not_an_empty_table(runs: Runs) -> None:
    assert "exit" not in runs.not_a_database
    assert "file is not a database" in runs.log


def test_a_run_without_java_is_a_failed_run_of_a_scheduler_that_goes_on(runs: Runs) -> None:
    assert (runs.no_java["status"], runs.no_java.get("exit")) == ("failed", None)
    assert "Install_Java_17_or_21" in runs.no_java["reason"]
    assert str(runs.unhealthy).startswith("batch_scheduler (last run failed): No java in JAVA_HOME")


def test_a_failed_run_logs_its_own_reason(runs: Runs) -> None:
    assert "File_exists" in runs.no_output_folder["reason"]


def test_after_a_failed_run_the_next_one_succeeds(runs: Runs) -> None:
    written = lines(runs.data)
    assert written.index(runs.no_output_folder) < written.index(runs.repaired)


def test_a_run_counts_every_stored_row_however_the_ids_are_spread(runs: Runs) -> None:
    line = runs.repaired
    assert (line["exit"], line["rows"]) == ("0", str(len(IDS)))
    assert line["windows"] == "5"  # 1,001 trades, four per second: 250 s


def test_a_run_logs_how_long_each_part_took(runs: Runs) -> None:
    line = runs.repaired
    assert {"wall_s", "start_s", "logic_s", "cpu_s", "peak_mib"} <= line.keys()
    assert list(line)[-4:] == ["peak_mib", "read_s", "write_s", "mode"]
    assert line["mode"] == "full"
    parts = {name: float(line[name]) for name in ("start_s", "logic_s", "read_s", "write_s")}
    assert 0 <= parts["read_s"] < parts["logic_s"]  # reading is a part of the logic
    assert parts["write_s"] >= 0
    assert parts["start_s"] + parts["logic_s"] + parts["write_s"] < float(line["wall_s"])


def test_a_run_publishes_the_exact_metrics_of_the_table(runs: Runs) -> None:
    with (runs.data.batch_output / f"{runs.repaired['run']}.csv").open() as file:
        (row,) = csv.DictReader(file)
    trades = [trade(place, number) for place, number in enumerate(IDS, 1)]
    assert Decimal(row["total_volume"]) == sum(Decimal(t.last_size) for t in trades)
    assert Decimal(row["max_price"]) == max(Decimal(t.price) for t in trades)
    mean = sum((Decimal(t.price) for t in trades), Decimal()) / len(trades)
    assert abs(Decimal(row["avg_price"]) - mean) < Decimal("1e-9")
    assert row["first_trade_time"] == "2025-06-01T12:00:00.250000Z"


# --- runs that are ended ---------------------------------------------------------------------


@pytest.fixture
def schedule(run: Run, data: DataDir) -> Callable[..., Running]:
    def start(**settings: object) -> Running:
        return run("batch_scheduler.py", DATA_DIR=data.root, BATCH_INTERVAL_SECONDS=600, **settings)

    return start


def test_a_run_over_its_time_limit_is_ended_with_all_its_processes(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    fill(data, IDS[:10])
    scheduler = schedule(BATCH_TIMEOUT_SECONDS=1.5)
    wait_until(lambda: lines(data), 60, "the line", scheduler)
    assert lines(data)[0]["status"] == "timeout"
    assert [process.name() for process in scheduler.tree()][1:] == []


def processes_of_a_run(scheduler: Running) -> list[psutil.Process]:
    """Wait until a run has started its Java process, and return all its processes."""
    scheduler.java()
    return scheduler.tree()[1:]


def test_a_run_is_ended_as_stopped_by_sigterm_and_after_a_kill_by_the_next_scheduler(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    """The first run starts with the first row."""
    scheduler = schedule()
    note = data.status / "batch_scheduler.json"
    wait_until(note.exists, 20, "the scheduler's start", scheduler)
    fill(data, IDS[:10])
    abandoned = processes_of_a_run(scheduler)
    scheduler.process.kill()
    scheduler.process.wait(10)
    assert not all(has_ended(process, 0) for process in abandoned)
    scheduler = schedule()
    (line,) = wait_until(lambda: lines(data), 20, "the end of the abandoned run", scheduler)
    assert line["status"] == "stopped"
    assert all(has_ended(process, 1) for process in abandoned)
    ended = processes_of_a_run(scheduler)
    assert scheduler.terminate(8) == 0
    assert [line["status"] for line in lines(data)] == ["stopped", "stopped"]
    assert not any(process.is_running() for process in ended)


def test_a_run_whose_database_is_replaced_fails_and_publishes_nothing(
    schedule: Callable[..., Running], data: DataDir
) -> None:
    """As a restored backup does. The parts of the run could be from two files."""
    fill(data, IDS[:10])
    scheduler = schedule()

    def replace_until_logged() -> list[dict[str, str]]:
        copy = data.root / "copy.db"
        shutil.copy(data.database, copy)
        copy.replace(data.database)
        return lines(data)

    (line,) = wait_until(replace_until_logged, 60, "the end of the run", scheduler)
    assert (line["status"], line["exit"]) == ("failed", "1")
    assert f"{data.database.name} was replaced during the run" in scheduler.text()
    assert not outputs.batch_files(data)


def test_two_schedulers_never_work_on_one_folder(runs: Runs) -> None:
    assert runs.second_status == 2
    assert "another batch_scheduler uses this DATA_DIR. Stop it" in runs.second_log


# --- the JVM ---------------------------------------------------------------------------------


def test_the_jvm_really_uses_the_class_data_archive() -> None:
    """With -Xshare:on the JVM refuses to start on an archive that does not fit."""
    require_jars("spark")
    settings = load()
    archive = make_archive(settings)
    options = spark.java_options(archive, c1_only=True)
    assert str(archive) in options
    config = spark.configuration(settings, "512m", f"{options} -Xshare:on")
    command = spark.submit_command(settings, config, ROOT / "batch_processor.py", "--help")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    broken = config | {
        "spark.driver.extraJavaOptions": f"-XX:SharedArchiveFile={os.devnull} -Xshare:on"
    }
    command = spark.submit_command(settings, broken, ROOT / "batch_processor.py", "--help")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
