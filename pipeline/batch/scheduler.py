"""Runs batch_processor.py by spark-submit at a fixed rate, one at a time, and logs every run."""

import contextlib
import fcntl
import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import psutil

from pipeline import outputs, spark, times
from pipeline.ingest import store
from pipeline.processes import MIB, tree_cost
from pipeline.service import Service

SCRIPT = spark.ROOT / "batch_processor.py"
#: Status of `batch_processor.py` when the table is empty or missing.
NO_DATA = 3
#: Seconds between two looks at a run; it has so long to end when asked before it is killed.
LOOK_SECONDS = 0.25
END_SECONDS = 3.0


def next_due(due: float, interval: float, now: float) -> float:
    """The next moment of the fixed rate after now; moments that passed are left out."""
    return due + interval * max(1, -(-(now - due) // interval))


def status_of(exit_code: int, ended_as: str | None, result: Mapping[str, Any]) -> str:
    """The status of a run that has ended.

    Args:
        exit_code: of spark-submit.
        ended_as: `timeout` or `stopped` when the scheduler ended it.
        result: what the run says of itself; {} when it says nothing.
    """
    if exit_code == 0 and result.get("status") == "ok":
        return "ok"
    if exit_code == NO_DATA and result.get("status") == "no_data":
        return "no_data"
    return ended_as or "failed"


class Scheduler:
    """Starts runs, watches them, and writes their lines."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._data = service.data
        self._run_file = self._data.status / "batch_scheduler_run.json"
        service.details |= {"next_run": None, "running": None, "last_run": None}

    def run(self) -> None:
        """Until the service is asked to stop; the first run is due when there is data."""
        interval = self._settings.batch_interval_seconds
        self._end_orphan()
        due = time.time()
        self._report("awaits the first trades")
        while not self._service.stop.is_set() and time.time() < due + interval:
            with contextlib.suppress(sqlite3.Error):  # the first run will say it
                if self._rows():
                    break
            self._service.sleep(0.5)
        due = time.time()
        while not self._service.stop.is_set():
            self._one_run(datetime.fromtimestamp(time.time(), UTC))
            due = next_due(due, interval, time.time())
            self._service.details["next_run"] = datetime.fromtimestamp(due, UTC)
            self._report("awaits the next run")
            # In slices: a clock that is set back must not put the next run off.
            while not self._service.stop.is_set() and 0 < due - time.time() <= interval:
                self._service.sleep(min(due - time.time(), 1.0))
            due = min(due, time.time())

    def _report(self, message: str) -> None:
        last = self._service.details["last_run"]
        healthy = last is None or last["status"] in {"ok", "no_data", "stopped"}
        state = "running" if healthy else "last run failed"
        self._service.report(state, message, healthy=healthy)

    def _rows(self) -> int:
        """Rows in the table; 0 when there is none yet.

        Raises:
            sqlite3.Error: the database cannot be read.
        """
        if not self._data.database.exists():
            return 0
        with contextlib.closing(store.open_reader(self._data.database)) as connection:
            try:
                return store.total_rows(connection)
            except sqlite3.OperationalError as error:
                if store.no_table_yet(error):
                    return 0
                raise

    def _one_run(self, started: datetime) -> None:
        run = outputs.run_id(started)
        try:
            rows = self._rows()
        except sqlite3.Error as error:
            self._service.error(f"the table cannot be read: {error}")
            self._log({"started": started, "run": run, "status": "failed"})
            return
        if not rows:
            self._log({"started": started, "run": run, "status": "no_data"})
            return
        # First of all: whoever comes after a killed scheduler must find the run.
        note = {"run": run, "started": times.iso(started)}
        self._service.retrying("room for the run's note")(
            outputs.write_atomically, self._run_file, json.dumps(note) + "\n"
        )
        self._service.details |= {"running": run, "next_run": None}
        self._report(f"run {run} over {rows} rows")
        command = spark.submit_command(
            spark.batch_configuration(self._settings, rows),
            SCRIPT,
            *("--run", run, "--began", str(started.timestamp())),
        )
        cpu_before = _cpu_of_children()
        process = subprocess.Popen(command, cwd=spark.ROOT)
        ended_as, peak = self._watch(process, started)
        wall_s = time.time() - started.timestamp()
        result = self._result(run)
        self._log(
            result
            | {
                "started": started,
                "run": run,
                "status": status_of(process.returncode, ended_as, result),
                "exit": process.returncode,
                "wall_s": round(wall_s, 2),
                "cpu_s": round(_cpu_of_children() - cpu_before, 2),
                "peak_mib": round(peak / MIB),
            }
        )
        self._run_file.unlink(missing_ok=True)

    def _watch(self, process: subprocess.Popen[bytes], started: datetime) -> tuple[str | None, int]:
        """Waits for the run's end; returns how it was ended, if it was, and its peak bytes."""
        deadline = started.timestamp() + self._settings.batch_timeout_seconds
        peak = 0
        while True:
            try:
                process.wait(LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                peak = max(peak, tree_cost(process.pid)[1])
                self._service.tick()
            else:
                return None, peak
            if self._service.stop.is_set() or time.time() > deadline:
                ended_as = "stopped" if self._service.stop.is_set() else "timeout"
                end_tree([psutil.Process(process.pid)])
                process.wait()
                return ended_as, peak

    def _result(self, run: str) -> dict[str, Any]:
        try:
            result = outputs.read_json(self._data.batch_run)
        except outputs.OutputError as error:
            self._service.error(str(error))
            return {}
        return result if result.get("run") == run else {}

    def _log(self, fields: dict[str, Any]) -> None:
        fields["started"] = fields["started"].replace(microsecond=0)
        self._service.retrying("room for batch_log.txt")(
            outputs.append_batch_log, self._data, fields
        )
        status = fields["status"]
        self._service.counters[status] += 1
        shown = {name: fields.get(name) for name in outputs.LOG_FIELDS}
        self._service.details |= {"last_run": shown, "running": None}
        if status in {"failed", "timeout"}:
            self._service.error(f"run {fields['run']}: {status}, exit {fields.get('exit')}")
        else:
            self._service.log.info("run %s: %s", fields["run"], status)

    def _end_orphan(self) -> None:
        """Ends the run that a killed scheduler left behind, and logs it."""
        try:
            note = outputs.read_json(self._run_file)
        except outputs.OutputError as error:
            self._service.error(str(error))
            note = {}
        if not note:
            return
        run = note["run"]
        orphans = [
            process
            for process in psutil.process_iter(["cmdline"])
            if {str(SCRIPT), "--run", run} <= set(process.info["cmdline"] or ())
        ]
        self._service.log.warning("ending run %s, left by a scheduler before this one", run)
        end_tree(orphans)
        result = self._result(run)
        status = result.get("status") or "stopped"
        started = datetime.fromisoformat(note["started"])
        self._log(result | {"started": started, "run": run, "status": status})
        self._run_file.unlink(missing_ok=True)


def end_tree(roots: list[psutil.Process]) -> None:
    """Asks these processes and all below them to end; kills what has not after a few seconds."""
    processes = []
    for root in roots:
        try:
            processes += [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
    for process in alive:
        _signal(process.kill)
    psutil.wait_procs(alive, timeout=END_SECONDS)


def _signal(send: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        send()


def _cpu_of_children() -> float:
    """CPU seconds of all children that have ended, with all below them."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def only_one(data: outputs.DataDir) -> int:
    """Holds the lock of the one scheduler of this folder, until the process ends.

    Raises:
        OutputError: another scheduler holds it.
    """
    data.status.mkdir(parents=True, exist_ok=True)
    lock = os.open(data.status / "batch_scheduler.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise outputs.OutputError(
            f"another batch scheduler works on {data.root}: stop it, or choose another DATA_DIR"
        ) from None
    return lock


def main() -> None:
    service = Service.start("batch_scheduler")
    try:
        only_one(service.data)
        Scheduler(service).run()
    except (outputs.OutputError, spark.SetupError) as error:
        service.error(str(error))
        service.close("failed", str(error))
        sys.exit(2)
    service.close()
