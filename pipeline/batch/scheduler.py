"""Start batch runs at a fixed rate, end runs that take too long, and log each run.

Only one run is active at a time. Each run is a process of its own, started by spark-submit.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from pipeline import outputs, processes, source, spark, spark_jvm, stores, text_files, times
from pipeline.batch import job, retention
from pipeline.batch.snapshot import read_store
from pipeline.errors import (
    Family,
    OperationalError,
    OutputError,
    TemporaryError,
    family_of,
    sentence,
)
from pipeline.health import full_disk
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stores import common_queries

#: Below this number of rows the C1 compiler alone is faster, as it starts faster.
C1_ROWS = 2_000_000
SCRIPT = spark.ROOT / "batch_processor.py"
#: Seconds between two checks of a running process.
CHECK_SECONDS = 0.25
#: Seconds that a run has to end after SIGTERM. Then it gets SIGKILL.
END_SECONDS = 3.0
#: The signals after which Java ends itself, with an exit status instead of the signal.
_HANDLED_BY_JAVA = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
#: A clock that is never set and that continues while the machine is suspended. On macOS, the clock
#: CLOCK_MONOTONIC does this, and CLOCK_BOOTTIME does not exist.
_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
#: The statuses of runs that ended as expected.
EXPECTED_STATUSES = {*outputs.SUCCESS_STATUSES, outputs.RUN_STOPPED}


# --- the rules ------------------------------------------------------------------------------


def next_due(due: float, interval: float, now: float) -> float:
    """Return the next moment of the fixed rate that has not passed; at least one interval later."""
    return due + interval * max(1, -(-(now - due) // interval))


def must_end(now: float, deadline: float, *, stopping: bool) -> str | None:
    """Return why a run must be ended now, as its status; None: it may continue."""
    if stopping:
        return outputs.RUN_STOPPED
    return outputs.RUN_TIMEOUT if now > deadline else None


def status_of(exit_code: int, ended_as: str | None, result: Mapping[str, Any]) -> str:
    """Return the status of a run that has ended.

    Args:
        exit_code: the exit status of spark-submit.
        ended_as: `RUN_TIMEOUT` or `RUN_STOPPED` if the scheduler ended the run.
        result: what the run reported; {} if it reported nothing.
    """
    if exit_code == 0 and result.get("status") == outputs.RUN_OK:
        return outputs.RUN_OK
    if exit_code == job.EXIT_NO_DATA and result.get("status") == outputs.RUN_NO_DATA:
        return outputs.RUN_NO_DATA
    return ended_as or outputs.RUN_FAILED


def reason_of(exit_code: int, result: Mapping[str, Any]) -> str:
    """Return why a run failed: the signal that ended it, or the reason that it reported.

    The process of spark-submit is Java, the parent of the Python process. It ends with 128 plus
    the number of a signal if the signal ended the Python process, or if Java itself has handled it.
    A launcher runs before both. If a signal ends it, the status is the same.
    """
    number = -exit_code if exit_code < 0 else exit_code - 128
    if number in set(signal.Signals):
        if exit_code < 0:
            process = "Java"
        else:
            process = "Java or Python" if number in _HANDLED_BY_JAVA else "Python"
        return _reason_of_signal(signal.Signals(number), process)
    if exit_code == spark_jvm.EXIT_OUT_OF_MEMORY:  # a reported reason is a consequence
        return (
            "the Java heap is full. Increase BATCH_MEMORY. The log of the scheduler has the "
            f"OutOfMemoryError (exit status {exit_code})"
        )
    if reported := result.get("reason"):
        return str(reported)
    if exit_code == 0:
        return (
            "no result in status/batch_processor.json. The next run starts at its usual time. "
            "The exit status of the run is 0"
        )
    return f"exit status {exit_code}. Read the error in the log of the scheduler"


def _reason_of_signal(number: signal.Signals, process: str) -> str:
    if number == signal.SIGKILL:
        return (
            "it was killed (SIGKILL). Free memory on this machine, or decrease BATCH_MEMORY. The "
            f"{process} process was killed, and not by the scheduler. If memory ran out, the "
            "system log has a line 'Out of memory'"
        )
    return (
        f"{number.name} ended the {process} process. The next run starts at its usual time. The "
        f"scheduler did not send this signal ({number.value})"
    )


def why_failed(run: Mapping[str, Any], settings: Settings) -> str:
    """Return why a run has no result and what to do, for a person, without a full stop.

    Args:
        run: the fields of its line in the log.
        settings: the settings of the scheduler.
    """
    if run["status"] == outputs.RUN_TIMEOUT:
        faster = "" if settings.batch_mode == "incremental" else " or set BATCH_MODE=incremental"
        seconds = f"{settings.batch_timeout_seconds:g}"
        return f"timed out after {seconds} s. Increase BATCH_TIMEOUT_SECONDS{faster}"
    return str(run.get("reason") or f"exit status {run.get('exit')}").rstrip(".")


def configuration(settings: Settings, rows: int) -> dict[str, str]:
    """Return the configuration of Spark for a run over this number of rows."""
    spark.require_jar(stores.store_of(settings).driver)
    # In the other modes the store adds up the rows, unless an incremental run has no usable sums.
    few = rows < C1_ROWS or settings.batch_mode != "full"
    options = spark.java_options(spark.archive_path(settings), c1_only=few)
    return spark.configuration(settings, settings.batch_memory, options)


def command_of_run(
    settings: Settings, config: Mapping[str, str], run: str, began: float
) -> list[str]:
    """Return the command of a run with this name. It began at this time, monotonic seconds."""
    arguments = ("--run", run, "--began", str(began))
    return spark.submit_command(settings, config, SCRIPT, *arguments)


def steady_seconds() -> float:
    """Return the seconds of the clock that measures the fixed rate of the runs."""
    return time.clock_gettime(_STEADY_CLOCK)


# --- the scheduler --------------------------------------------------------------------------


class Scheduler:
    """Starts the runs, ends those that take too long, and logs each of them."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._data = service.data
        self._store = stores.store_of(service.settings)
        source.check_window(self._data, self._settings.window)
        #: Holds the name of the current run. If this scheduler is killed, the next one reads it.
        self._run_file = self._data.status / "batch_scheduler_run.json"
        self._newest_run: str | None = None
        # The details stay when the service tries again after an error, and so does the fixed rate.
        service.details = {"next_run": None, "last_run": None} | service.details | {"running": None}

    def wait_for_rows(self) -> None:
        """Before the first run, wait until the table has rows, for at most one interval."""
        if self._service.details["next_run"]:
            return
        self._report("waiting for the first trades")
        end = time.monotonic() + self._settings.batch_interval_seconds
        while not self._service.stop.is_set() and time.monotonic() < end:
            with contextlib.suppress(TemporaryError, OperationalError):  # the first run reports it
                if self._rows():
                    return
            self._service.sleep(0.5)

    def run(self) -> None:
        """Start runs at the fixed rate until the service is asked to stop."""
        interval = self._settings.batch_interval_seconds
        due = steady_seconds() + self._seconds_to_planned_run()
        while not self._service.stop.is_set():
            self._report("waiting for the next run")
            # In steps of one second, because a sleep does not count the time of a suspension.
            while not self._service.stop.is_set() and (left := due - steady_seconds()) > 0:
                self._service.sleep(min(left, 1.0))
            if self._service.stop.is_set():
                return
            self._plan(next_due(due, interval, steady_seconds()))  # also if the run raises an error
            self._run_once(times.now())
            self._delete_expired_runs()
            due = next_due(due, interval, steady_seconds())
            self._plan(due)

    def _seconds_to_planned_run(self) -> float:
        """Return the seconds until the run that was planned before an error; 0 without one."""
        planned = self._service.details["next_run"]
        left = (planned - times.now()).total_seconds() if planned else 0.0
        return min(max(left, 0.0), self._settings.batch_interval_seconds)

    def _plan(self, due: float) -> None:
        left = timedelta(seconds=due - steady_seconds())
        self._service.details["next_run"] = times.now() + left

    def _rows(self) -> int:
        return read_store(self._store, common_queries.total_rows) or 0

    def _newest_event_time(self) -> datetime | None:
        with contextlib.suppress(TemporaryError, OperationalError):  # the next run reports it
            return read_store(self._store, common_queries.newest_event_time)
        return None

    def _delete_expired_runs(self) -> None:
        days = self._settings.retention_days
        newest = None if days is None else self._newest_event_time()
        if days is None or newest is None:
            return
        if deleted := retention.delete_expired(self._data, newest, times.now(), days):
            self._service.log.info("runs whose files were deleted (RETENTION_DAYS): %d", deleted)

    def _run_once(self, started: datetime) -> None:
        """Execute one run and log it. A run that cannot start is logged as failed."""
        run = outputs.run_id(started, self._newest_run or outputs.newest_run(self._data))
        self._newest_run = run
        try:
            ended = self._execute(run, started)
        except Exception as error:
            if family_of(error) is Family.FAULT:
                raise
            self._service.log.debug("the traceback of the next error", exc_info=error)
            ended = {"status": outputs.RUN_FAILED, "reason": sentence(error)}
        self._log(ended | {"started": started, "run": run})
        self._run_file.unlink(missing_ok=True)

    def _execute(self, run: str, started: datetime) -> dict[str, Any]:
        """Start a run, wait until it has ended, and return the fields of its log line."""
        rows = self._rows()
        if not rows:
            self._require_database()
            return {"status": outputs.RUN_NO_DATA}
        began = time.monotonic()  # a change of the clock must not end the run
        config = configuration(self._settings, rows)
        command = command_of_run(self._settings, config, run, began)
        # Written first: if this scheduler is killed, the next one must find the process.
        note = json.dumps({"run": run, "started": times.iso(started)})
        self._retrying(text_files.write_atomically, self._run_file, note + "\n")
        self._service.details["running"] = run
        self._report(f"run {run}, rows in the table: {rows:,}")
        cpu_before = processes.cpu_of_ended_children()
        process = psutil.Popen(command, cwd=spark.ROOT)
        try:
            ended_as, peak = self._watch(process, began + self._settings.batch_timeout_seconds)
        except BaseException:  # no run continues without its scheduler
            processes.end(processes.tree_of(process), END_SECONDS)
            raise
        exit_code = int(process.returncode)
        if exit_code:  # Java is the parent of the Python process, which can continue without it
            end_processes(run, self._settings.data_dir)
        result = self._result(run)
        status = status_of(exit_code, ended_as, result)
        reason = result.get("reason")
        if status == outputs.RUN_FAILED:  # a run cannot report that the disk is full
            reason = reason_of(exit_code, result or {"reason": full_disk(self._data.root)})
        cost = {
            "cpu_s": round(processes.cpu_of_ended_children() - cpu_before, 2),
            "peak_mib": round(peak / processes.MIB),
        }
        return {"mode": self._settings.batch_mode, **result} | {
            "status": status,
            "exit": exit_code,
            "wall_s": round(time.monotonic() - began, 2),
            **(cost if self._service.whole_cost else {}),
            "reason": reason,
        }

    def _require_database(self) -> None:
        """Raise an error if an earlier run read a database that is no longer there."""
        if self._data.batch_windows.exists() and (missing := self._store.missing()):
            raise OutputError(
                f"{missing.name} is missing. Check that the consumer runs: it fills a new one from "
                f"Kafka. The file: {missing}"
            )

    def _watch(self, process: psutil.Popen, deadline: float) -> tuple[str | None, int]:
        """Wait until a run ends, or end it; return how it was ended and its peak memory, bytes."""
        peak = 0
        while True:
            try:
                process.wait(CHECK_SECONDS)
            except psutil.TimeoutExpired:
                peak = max(peak, processes.tree_cost(process.pid)[1])
                self._service.tick()
            else:
                return None, peak
            stopping = self._service.stop.is_set()
            if (ended_as := must_end(time.monotonic(), deadline, stopping=stopping)) is not None:
                processes.end(processes.tree_of(process), END_SECONDS)
                process.wait()
                return ended_as, peak

    def end_abandoned_run(self) -> None:
        """End the run of a scheduler that was killed, and log it."""
        try:
            note = text_files.read_json(self._run_file)
        except OutputError as error:
            self._service.error(str(error))
            return
        if not note:
            return
        run = note["run"]
        if outputs.is_logged(self._data, run):  # the scheduler was killed after it wrote the line
            self._run_file.unlink(missing_ok=True)
            return
        self._service.log.warning("ending run %s, whose scheduler was killed", run)
        was_running = end_processes(run, self._settings.data_dir)
        result = self._result(run)
        # A run that failed because this scheduler ended it counts as stopped.
        ended_here = was_running and result.get("status") == outputs.RUN_FAILED
        if not result or ended_here:
            result = {"status": outputs.RUN_STOPPED}
        started = datetime.fromisoformat(note["started"])
        self._log(result | {"started": started, "run": run})
        self._run_file.unlink(missing_ok=True)

    def _result(self, run: str) -> dict[str, Any]:
        """Return what a run reported; {} if it reported nothing."""
        try:
            result = text_files.read_json(self._data.batch_run)
        except OutputError as error:
            self._service.error(str(error))
            return {}
        return result if result.get("run") == run else {}

    def _log(self, fields: dict[str, Any]) -> None:
        fields["started"] = fields["started"].replace(microsecond=0)
        if fields["status"] != outputs.RUN_OK:
            self._delete_row(fields["run"])
        self._retrying(outputs.append_batch_log, self._data, fields)
        status = fields["status"]
        self._service.counters[status] += 1
        shown = {name: fields.get(name) for name in outputs.LOG_FIELDS}
        self._service.details |= {"last_run": shown, "running": None}
        if status in EXPECTED_STATUSES:
            reason = f", {fields['reason']}" if fields.get("reason") else ""
            self._service.log.info("run %s: %s%s", fields["run"], status, reason)
        else:
            why = why_failed(fields, self._settings)
            self._service.error(f"run failed: {why}. Run: {fields['run']}")

    def _delete_row(self, run: str) -> None:
        """Delete the row of a run that ended before it wrote its windows.

        It checks first that the row exists: on a read-only file system, `unlink` fails without one.
        """
        row = outputs.batch_file(self._data, run)
        # `os.path.exists` is False also if this user cannot read the directory.
        if os.path.exists(row) and not outputs.has_windows(self._data, run):  # noqa: PTH110
            try:
                row.unlink()
            except OSError as error:
                self._service.error(f"Cannot delete the row of run {run}. {sentence(error)}")

    def _report(self, message: str) -> None:
        last = self._service.details["last_run"]
        healthy = last is None or last["status"] in EXPECTED_STATUSES
        if healthy:
            self._service.report("running", message, healthy=True)
            return
        why = why_failed(last, self._settings)
        self._service.report("last run failed", f"{why}; {message}", healthy=False)

    def _retrying(self, write: Any, *arguments: Any) -> None:
        self._service.retrying("disk space")(write, *arguments)


def end_processes(run: str, data_dir: Path) -> bool:
    """End all processes of a run; return whether there were any.

    A run of another data directory that began in the same second has the same name. A process
    is not part of this run if its environment cannot be read or has no DATA_DIR.
    """
    found = False
    for process in psutil.process_iter(["cmdline", "environ"]):
        has_name = {str(SCRIPT), "--run", run} <= set(process.info["cmdline"] or ())
        directory = (process.info["environ"] or {}).get("DATA_DIR")
        if has_name and directory and Path(directory).resolve() == data_dir.resolve():
            found = True
            processes.end(processes.tree(process.pid), END_SECONDS)
    return found
