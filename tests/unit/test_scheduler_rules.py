"""The rules of the scheduler: when the next run is due, when one is ended, and its status."""

import errno
import json
import subprocess
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import java, processes, spark, times
from pipeline.batch.job import EXIT_NO_DATA
from pipeline.batch.scheduler import (
    SCRIPT,
    Scheduler,
    end_processes,
    must_end,
    next_due,
    reason_of,
    status_of,
)
from pipeline.data_dir import DataDir
from pipeline.errors import TemporaryError
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.outputs import append_batch_log, batch_files, read_status, run_id
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stores import sqlite
from pipeline.text_files import write_atomically

#: Returns the command of a run. Its arguments: settings, configuration, name and start of the run.
COMMAND_OF_RUN = "pipeline.batch.scheduler.command_of_run"
#: Quarters of a second: floats hold them exactly.
quarters = st.integers(0, 4 * 10**9).map(lambda n: n / 4)
intervals = st.integers(1, 40_000).map(lambda n: n / 4)


def test_the_next_run_is_one_interval_after_the_last_one_was_due() -> None:
    assert next_due(due=1000, interval=600, now=1006.41) == 1600


def test_due_moments_that_passed_during_a_long_run_are_skipped() -> None:
    assert next_due(due=1000, interval=600, now=2900) == 3400


def test_a_run_that_ends_exactly_when_the_next_is_due_is_followed_at_once() -> None:
    assert next_due(due=1000, interval=600, now=1600) == 1600
    assert next_due(due=1000, interval=600, now=2200) == 2200


@given(due=quarters, interval=intervals, took=quarters)
def test_the_next_run_is_due_at_the_first_moment_of_the_fixed_rate_that_has_not_passed(
    due: float, interval: float, took: float
) -> None:
    now = due + took
    following = next_due(due, interval, now)
    steps = Fraction(following - due) / Fraction(interval)
    assert steps.denominator == 1
    assert steps >= 1
    assert following >= now
    assert steps == 1 or following - interval < now


@given(interval=intervals, runs=st.lists(quarters.map(lambda q: q % 5000), max_size=30))
def test_the_rate_never_drifts_however_long_the_runs_take(
    interval: float, runs: list[float]
) -> None:
    due = began = 1_764_651_600.25
    for took in runs:
        due = next_due(due, interval, due + took)
    assert (Fraction(due) - Fraction(began)) % Fraction(interval) == 0


OK, NOTHING = {"status": "ok", "run": "r"}, {"status": "no_data", "run": "r"}


@pytest.mark.parametrize(
    ("exit_code", "ended_as", "result", "status"),
    [
        (0, None, OK, "ok"),
        (0, "stopped", OK, "ok"),  # it had completed before the signal
        (0, "timeout", OK, "ok"),
        (0, None, {}, "failed"),  # it reported nothing, so it published nothing
        (0, None, NOTHING, "failed"),
        (EXIT_NO_DATA, None, NOTHING, "no_data"),
        (EXIT_NO_DATA, None, {}, "failed"),
        (EXIT_NO_DATA, None, OK, "failed"),
        (1, None, {}, "failed"),
        (1, None, OK, "failed"),
        (-9, None, {}, "failed"),  # killed by another process
        (143, None, {}, "failed"),
        (-15, "stopped", {}, "stopped"),
        (143, "stopped", {}, "stopped"),
        (1, "stopped", {}, "stopped"),
        (-9, "timeout", {}, "timeout"),
        (137, "timeout", OK, "timeout"),
    ],
)
def test_the_status_of_a_run_follows_from_its_exit_status_its_result_and_who_ended_it(
    exit_code: int, ended_as: str | None, result: dict[str, str], status: str
) -> None:
    assert status_of(exit_code, ended_as, result) == status


@pytest.mark.parametrize(
    ("exit_code", "result", "reason"),
    [
        (
            -9,
            {},
            (
                "it was killed (SIGKILL). Free memory on this machine, or decrease BATCH_MEMORY. "
                "The Java process was killed, and not by the scheduler. If memory ran out, the "
                "system log has a line 'Out of memory'"
            ),
        ),
        (
            137,
            {"reason": "no answer"},
            (
                "it was killed (SIGKILL). Free memory on this machine, or decrease BATCH_MEMORY. "
                "The Python process was killed"
            ),
        ),
        (
            -6,
            {},
            (
                "SIGABRT ended the Java process. The next run starts at its usual time. The "
                "scheduler did not send this signal (6)"
            ),
        ),
        (134, {}, "SIGABRT ended the Python process. The next run"),
        # Java ends itself with this status after the signal.
        (143, {}, "SIGTERM ended the Java or Python process. The next run"),
        (2, {"reason": "the disk is full"}, "the disk is full"),
        (0, {}, "no result in status/batch_processor.json. The next run starts at its usual time."),
        (52, {}, "the Java heap is full. Increase BATCH_MEMORY. "),
        (52, {"reason": "the Java process has ended"}, "the Java heap is full. "),
        (1, {}, "exit status 1. Read the error in the log of the scheduler"),
        (255, {}, "exit status 255. Read the error in the log of the scheduler"),
    ],
)
def test_the_reason_of_a_failed_run_is_a_signal_or_what_the_run_reported(
    exit_code: int, result: dict[str, str], reason: str
) -> None:
    assert reason_of(exit_code, result).startswith(reason)


def test_a_run_is_ended_when_the_service_stops_or_after_its_deadline() -> None:
    assert must_end(now=99, deadline=100, stopping=False) is None
    assert must_end(now=100, deadline=100, stopping=False) is None
    assert must_end(now=100.25, deadline=100, stopping=False) == "timeout"
    assert must_end(now=99, deadline=100, stopping=True) == "stopped"
    assert must_end(now=101, deadline=100, stopping=True) == "stopped"


def test_no_run_continues_after_a_fault_of_its_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service("batch_scheduler", Settings(data_dir=tmp_path))
    scheduler = Scheduler(service)
    monkeypatch.setattr(scheduler, "_rows", lambda: 1)
    monkeypatch.setattr(COMMAND_OF_RUN, lambda *_: ["sh", "-c", "sleep 60 & wait"])
    monkeypatch.setattr(processes, "tree_cost", lambda _pid: 1 / 0)
    before = set(psutil.Process().children(recursive=True))  # other tests of this worker have some
    with pytest.raises(ZeroDivisionError):
        scheduler.run()
    assert set(psutil.Process().children(recursive=True)) <= before


# --- a scheduler whose runs are other programs -----------------------------------------------


class Stop(threading.Event):
    """A request to stop that comes when the service has waited this often."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self._left = waits

    def wait(self, timeout: float | None = None) -> bool:
        self._left -= 1
        if self._left < 0:
            self.set()
        return super().wait(timeout)


def scheduler_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Scheduler:
    one = Scheduler(Service("batch_scheduler", Settings(data_dir=tmp_path, **settings)))
    monkeypatch.setattr(one, "_rows", lambda: 1)
    return one


def logged(tmp_path: Path) -> list[dict[str, str]]:
    text = DataDir(tmp_path).batch_log.read_text()
    return [dict(part.split("=", 1) for part in line.split()) for line in text.splitlines()]


def store_trade(data: DataDir, at: datetime) -> None:
    trades = [Trade(1, "100", None, None, "buy", at, "1")]
    with closing(sqlite.open_writer(data.database)) as connection:
        store.store(connection, store.Batch(0, 0, 1, 0, at, at, trades), at)


def run_once(scheduler: Scheduler) -> None:
    scheduler._run_once(datetime.now(UTC))


def test_a_run_that_the_scheduler_ends_is_logged_with_its_own_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = scheduler_of(tmp_path, monkeypatch, batch_timeout_seconds=1)
    monkeypatch.setattr(COMMAND_OF_RUN, lambda *_: ["sleep", "60"])
    run_once(scheduler)
    (line,) = logged(tmp_path)
    assert (line["status"], line["exit"]) == ("timeout", "-15")
    assert "reason" not in line
    todo = "timed out after 1 s. Increase BATCH_TIMEOUT_SECONDS or set BATCH_MODE=incremental"
    assert f"run failed: {todo}. Run: {line['run']}" in caplog.messages
    scheduler._report("waiting for the next run")
    message = read_status(DataDir(tmp_path), "batch_scheduler")["message"]
    assert message == f"{todo}; waiting for the next run"


@pytest.mark.parametrize("change", [timedelta(days=1), timedelta(days=-1)])
def test_a_change_of_the_clock_neither_ends_a_run_nor_counts_as_its_time(
    change: timedelta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(tmp_path, monkeypatch)
    monkeypatch.setattr(COMMAND_OF_RUN, lambda *_: ["sleep", "0.5"])
    scheduler._run_once(datetime.now(UTC) - change)  # it started before the change
    (line,) = logged(tmp_path)
    assert line["exit"] == "0"
    assert 0.4 < float(line["wall_s"]) < 30


def test_a_run_after_the_clock_was_set_back_has_a_name_of_its_own_that_sorts_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the scheduler was restarted in between."""
    start = datetime(2025, 12, 2, 5, 10, tzinfo=UTC)
    for moments in ((start, start), (start - timedelta(hours=1), start)):
        scheduler = scheduler_of(tmp_path, monkeypatch)
        monkeypatch.setattr(COMMAND_OF_RUN, lambda *_: ["true"])
        for moment in moments:
            scheduler._run_once(moment)
    names = [line["run"] for line in logged(tmp_path)]
    assert names == [f"20251202T05100{number}Z" for number in range(4)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (spark.SetupError("No sqlite-jdbc jar. Run `make jars`."), "No_sqlite-jdbc_jar._Run_"),
        (java.JavaError("java is Java 11. Install 17"), "java_is_Java_11._Install_17"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot_allocate_memory"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/bin/env"),
            "Permission_denied:_give_",
        ),
        (TemporaryError("Cannot read crypto_prices.db: disk I/O error"), "Cannot_read_"),
    ],
)
def test_a_run_that_cannot_start_is_logged_as_failed_with_the_reason_and_the_service_goes_on(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    scheduler = scheduler_of(tmp_path, monkeypatch)
    monkeypatch.setattr(COMMAND_OF_RUN, fail)
    run_once(scheduler)
    (line,) = logged(tmp_path)
    assert line["status"] == "failed"
    assert line["reason"].startswith(reason)
    assert "exit" not in line
    scheduler._report("waiting")
    status = read_status(DataDir(tmp_path), "batch_scheduler")
    assert (status["state"], status["healthy"]) == ("last run failed", False)
    assert reason.replace("_", " ")[:20] in status["message"]


#: A shell that starts a process with the command line of a run, then kills only itself.
KILLED = 'sh -c "echo; sleep 60; :" "$0" --run "$1" | { read _; kill -9 $$; }'


def test_a_killed_run_is_logged_as_killed_and_no_process_of_it_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGKILL of the Java process: it is the parent of the Python process.

    The run of another stack that began in the same second has the same name, and continues.
    """
    scheduler = scheduler_of(tmp_path, monkeypatch)
    others: list[subprocess.Popen[bytes]] = []

    def command(_settings: object, _config: object, run: str, _began: float) -> list[str]:
        waiting = ["sh", "-c", "read _", str(SCRIPT), "--run", run]
        own = {"DATA_DIR": str(tmp_path / "other")}
        others.append(subprocess.Popen(waiting, stdin=subprocess.PIPE, env=own))
        return ["env", f"DATA_DIR={tmp_path}", "sh", "-c", KILLED, str(SCRIPT), run]

    monkeypatch.setattr(COMMAND_OF_RUN, command)
    run_once(scheduler)
    (line,) = logged(tmp_path)
    assert (line["status"], line["exit"]) == ("failed", "-9")
    assert line["reason"].startswith("it_was_killed_(SIGKILL)._Free_memory_on_this_machine,")
    named = [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if line["run"] in (process.info["cmdline"] or ())
        and str(tmp_path) in (process.info["environ"] or {}).get("DATA_DIR", "")
    ]
    (other,) = others
    with other:
        other.kill()
    assert [process.pid for process in named] == [other.pid]


def test_a_full_disk_is_the_reason_of_a_run_that_could_not_report_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(tmp_path, monkeypatch)
    monkeypatch.setattr(COMMAND_OF_RUN, lambda *_: ["false"])
    monkeypatch.setattr("pipeline.batch.scheduler.full_disk", {tmp_path: "the disk is full"}.get)
    run_once(scheduler)
    (line,) = logged(tmp_path)
    assert (line["status"], line["reason"]) == ("failed", "the_disk_is_full")


#: Ends of a run that has published its row: the rest of a shell script, and the logged status.
ENDS = {
    "kill -9 $$": "failed",
    "sleep 60": "timeout",
    'echo "{\\"run\\": \\"$2\\", \\"status\\": \\"ok\\"}" > "$1"': "ok",
}


@pytest.mark.parametrize("end", ENDS)
def test_only_a_successful_run_leaves_its_row(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run publishes its row before its windows and its result."""
    limit = 1 if ENDS[end] == "timeout" else 60
    scheduler = scheduler_of(tmp_path, monkeypatch, batch_timeout_seconds=limit)
    data = DataDir(tmp_path)
    earlier = data.batch_output / "20250101T000000Z.csv"
    write_atomically(earlier, "of an earlier run")

    def command(_settings: object, _config: object, run: str, _began: float) -> list[str]:
        row, script = data.batch_output / f"{run}.csv", f'echo row > "$0"; {end}'
        return ["sh", "-c", script, str(row), str(data.batch_run), run]

    monkeypatch.setattr(COMMAND_OF_RUN, command)
    run_once(scheduler)
    (line,) = logged(tmp_path)
    assert line["status"] == ENDS[end]
    own = [data.batch_output / f"{line['run']}.csv"] if ENDS[end] == "ok" else []
    assert batch_files(data) == [earlier, *own]


@pytest.mark.parametrize(("of_windows", "left"), [("12:00:01", True), ("11:50:00", False)])
def test_a_killed_run_leaves_its_row_only_with_its_windows(
    of_windows: str, left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run writes the same `written_at` into its row and its windows."""
    scheduler = scheduler_of(tmp_path, monkeypatch)
    data = DataDir(tmp_path)
    write_atomically(data.batch_windows, f"window_start,written_at\n11:49,{of_windows}\n")

    def command(_settings: object, _config: object, run: str, _began: float) -> list[str]:
        row = data.batch_output / f"{run}.csv"
        script = 'mkdir -p "$0"; printf "rows,written_at\\n7,12:00:01\\n" > "$1"; kill -9 $$'
        return ["sh", "-c", script, str(row.parent), str(row)]

    monkeypatch.setattr(COMMAND_OF_RUN, command)
    run_once(scheduler)
    (line,) = logged(tmp_path)
    assert line["status"] == "failed"
    assert bool(batch_files(data)) == left


def test_a_row_that_cannot_be_deleted_is_an_error_in_the_log_of_a_scheduler_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A directory cannot be deleted as a file, not even by root."""
    scheduler = scheduler_of(tmp_path, monkeypatch)
    rows = DataDir(tmp_path).batch_output
    monkeypatch.setattr(
        COMMAND_OF_RUN, lambda _s, _c, run, _b: ["mkdir", "-p", rows / f"{run}.csv"]
    )
    run_once(scheduler)
    (line,) = logged(tmp_path)
    assert line["status"] == "failed"
    assert f"Cannot delete the row of run {line['run']}." in caplog.text


@pytest.mark.parametrize("reported", [True, False])
def test_an_abandoned_run_leaves_its_row_only_if_it_had_succeeded(
    reported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(tmp_path, monkeypatch)
    data, run = DataDir(tmp_path), "20250101T000000Z"
    write_atomically(data.batch_output / f"{run}.csv", "row")
    if reported:
        write_atomically(data.batch_run, json.dumps({"run": run, "status": "ok"}))
    write_atomically(scheduler._run_file, json.dumps({"run": run, "started": "2025-01-01T00:00Z"}))
    scheduler.end_abandoned_run()
    (line,) = logged(tmp_path)
    assert line["status"] == ("ok" if reported else "stopped")
    assert len(batch_files(data)) == int(reported)


def test_a_database_that_is_gone_is_a_failed_run_if_an_earlier_run_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(tmp_path, monkeypatch)
    monkeypatch.setattr(scheduler, "_rows", lambda: 0)
    run_once(scheduler)
    DataDir(tmp_path).batch_windows.write_text("of an earlier run")
    run_once(scheduler)
    first, second = logged(tmp_path)
    assert first["status"] == "no_data"
    assert second["status"] == "failed"
    assert "crypto_prices.db_is_missing" in second["reason"]


def test_after_an_error_the_next_run_keeps_its_place_in_the_fixed_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service calls the scheduler again after a temporary error."""
    scheduler = scheduler_of(tmp_path, monkeypatch, batch_interval_seconds=600)

    def fail(_started: datetime) -> NoReturn:
        raise TemporaryError("the disk is full")

    monkeypatch.setattr(scheduler, "_run_once", fail)
    began = time.time()
    with pytest.raises(TemporaryError):
        scheduler.run()
    again = Scheduler(scheduler._service)
    runs: list[datetime] = []
    monkeypatch.setattr(again, "_run_once", runs.append)
    monkeypatch.setattr(scheduler._service, "stop", Stop(waits=2))
    again.run()
    assert runs == []
    due = scheduler._service.details["next_run"].timestamp()
    assert 599 < due - began < 602


@pytest.mark.parametrize("change_s", [-5000, -500, 500, 5000])
@pytest.mark.parametrize("moment_s", [605, 700, 1199.5])
def test_a_change_of_the_clock_neither_delays_a_run_nor_starts_one_early(
    moment_s: float, change_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is set during the second run or after it. Here only `pass_time` takes time."""
    scheduler = scheduler_of(tmp_path, monkeypatch, batch_interval_seconds=600)
    passed_s, starts = 0.0, []

    def pass_time(seconds: float) -> None:
        nonlocal passed_s
        passed_s += seconds

    def wall_clock() -> float:
        return 1_764_651_600 + passed_s + (change_s if passed_s >= moment_s else 0)

    def run(_started: datetime) -> None:
        starts.append(passed_s)
        pass_time(20)
        if len(starts) == 4:
            scheduler._service.stop.set()

    monkeypatch.setattr(scheduler, "_run_once", run)
    monkeypatch.setattr(scheduler._service, "sleep", pass_time)
    monkeypatch.setattr(time, "time", wall_clock)
    monkeypatch.setattr(times, "now", lambda: datetime.fromtimestamp(wall_clock(), UTC))
    monkeypatch.setattr(time, "clock_gettime", lambda _clock: passed_s)
    scheduler.run()
    assert starts == [0, 600, 1200, 1800]


@pytest.mark.parametrize("clock_ahead", [timedelta(), timedelta(days=3650)])
def test_the_files_of_old_runs_are_deleted_after_a_run(
    clock_ahead: timedelta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(tmp_path, monkeypatch, retention_days=30)
    store_trade(DataDir(tmp_path), datetime.now(UTC))
    ahead = datetime.now(UTC) + clock_ahead
    monkeypatch.setattr(times, "now", lambda: ahead)
    runs = DataDir(tmp_path).batch_output
    runs.mkdir()
    days_ago = [datetime.now(UTC) - timedelta(days=days) for days in (400, 31, 29, 1, 0)]
    for started in days_ago:
        (runs / f"{run_id(started)}.csv").touch()
    monkeypatch.setattr(scheduler, "_run_once", lambda _: None)
    monkeypatch.setattr(scheduler._service, "stop", Stop(waits=1))
    scheduler.run()
    assert sorted(path.stem for path in runs.iterdir()) == [*map(run_id, days_ago[2:])]


def test_without_a_stored_trade_no_file_of_a_run_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(tmp_path, monkeypatch, retention_days=1)
    runs = DataDir(tmp_path).batch_output
    runs.mkdir()
    for year in (2020, 2021, 2022):
        (runs / f"{year}0101T000000Z.csv").touch()
    DataDir(tmp_path).database.write_text("no database")
    scheduler._delete_expired_runs()
    assert len([*runs.iterdir()]) == 3


@pytest.mark.parametrize("running", [True, False])
def test_an_abandoned_run_is_stopped_if_it_still_runs_and_failed_if_it_had_failed(
    running: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(tmp_path, monkeypatch)
    run = f"20250101T{int(running):06}Z"
    report = {"run": run, "status": "failed", "reason": "the JVM does not answer"}
    write_atomically(DataDir(tmp_path).batch_run, json.dumps(report))
    note = {"run": run, "started": "2025-01-01T00:00:00Z"}
    write_atomically(scheduler._run_file, json.dumps(note))
    words = ("sleep 60 & wait", str(SCRIPT), "--run", run) if running else ("true",)
    process = psutil.Popen(["sh", "-c", *words], env={"DATA_DIR": str(tmp_path)})
    if not running:
        process.wait(10)
    scheduler.end_abandoned_run()
    assert not process.is_running()
    (line,) = logged(tmp_path)
    assert line["status"] == ("stopped" if running else "failed")
    assert ("reason" in line) != running


def test_a_run_is_logged_once_although_its_scheduler_was_killed_after_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(tmp_path, monkeypatch)
    started, run = datetime(2025, 1, 1, tzinfo=UTC), "20250101T000000Z"
    append_batch_log(DataDir(tmp_path), {"started": started, "run": run, "status": "timeout"})
    write_atomically(scheduler._run_file, json.dumps({"run": run, "started": str(started)}))
    scheduler.end_abandoned_run()
    assert [line["status"] for line in logged(tmp_path)] == ["timeout"]
    assert scheduler._service.counters == {}
    assert not scheduler._run_file.exists()


def test_a_run_without_a_data_directory_in_its_environment_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty DATA_DIR is not the current directory, here the data directory of the scheduler."""
    monkeypatch.chdir(tmp_path)
    command = ["sh", "-c", "read _", str(SCRIPT), "--run", "20250102T000000Z"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={}) as process:
        assert not end_processes("20250102T000000Z", tmp_path)
        assert process.poll() is None
        process.kill()
