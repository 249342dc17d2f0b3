"""Failures of a batch run: what the first 100 characters of each line about it say."""

import errno
import signal
from typing import Any

import pytest
from py4j.protocol import Py4JError, Py4JNetworkError

from pipeline.batch.failures import explain
from pipeline.batch.scheduler import reason_of, why_failed
from pipeline.errors import OperationalError
from pipeline.settings import Settings

#: What the code puts before a reason: in the log of the scheduler, and in its state.
PREFIXES = ("run failed: ", "last run failed: ")
TRACE = (
    "An error occurred while calling o112.collectToPython.\n"
    ": org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 0.0\n"
    "\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:1)\n"
    "Caused by: {}\n"
    "\tat org.sqlite.core.DB.newSQLException(DB.java:1179)\n"
    "\t... 42 more\n"
)


def java(cause: str) -> Py4JError:
    return Py4JError(TRACE.format(cause))


CASES: list[tuple[Exception, str]] = [
    (
        java("java.lang.OutOfMemoryError: Java heap space"),
        "the Java heap is full. Set BATCH_MEMORY above 1g.",
    ),
    (
        java("java.lang.OutOfMemoryError: unable to create native thread: possibly out of memory"),
        "Increase the limit of threads: `ulimit -u`",
    ),
    (
        java("org.sqlite.SQLiteException: [SQLITE_CORRUPT] The database disk image is malformed"),
        "crypto_prices.db is damaged. Restore a backup, or move it away",
    ),
    (
        java("org.sqlite.SQLiteException: [SQLITE_IOERR] Some kind of disk I/O error occurred"),
        "cannot read crypto_prices.db. Check its disk",
    ),
    (
        java("org.postgresql.util.PSQLException: FATAL: sorry, too many clients already"),
        "PostgreSQL stopped the run. Check its server and STORE_URL.",
    ),
    (
        java("org.sqlite.SQLiteException: [SQLITE_FULL] Insertion failed because database is full"),
        "No space left on device. Free disk space for ",
    ),
    (
        java("java.io.FileNotFoundException: /tmp/blockmgr-1/0c/temp (Too many open files)"),
        "Too many open files. Increase the limit: `ulimit -n` of this user.",
    ),
    (
        java("java.lang.ClassNotFoundException: org.postgresql.Driver"),
        "Run `rm -rf jars/spark/lib; make jars`.",
    ),
    (
        java("java.sql.SQLException: No suitable driver"),
        "Run `rm -rf jars/spark/lib; make jars`.",
    ),
    (
        java("java.lang.ClassNotFoundException: org.sqlite.JDBC"),
        "Run `rm -rf jars/spark/lib; make jars`.",
    ),
    (
        java("java.io.IOException: No space left on device"),
        "No space left on device. Free disk space for ",
    ),
    (
        java("java.io.FileNotFoundException: /tmp/blockmgr-1/0c/temp (Permission denied)"),
        "Give this user access to it.",
    ),
    (
        java("java.nio.file.FileSystemException: /tmp/blockmgr-1/0c: Operation not permitted"),
        "Give this user access to it.",
    ),
    (
        Py4JNetworkError("Answer from Java side is empty"),
        "the Java process has ended. Free memory on this machine",
    ),
    (
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        "the Java process has ended. Free memory on this machine",
    ),
    (
        Py4JError("An error occurred while calling o112.collectToPython"),
        "the Java process has ended. Free memory on this machine",
    ),
    (
        java("java.lang.ArithmeticException: / by zero"),
        "Report it if the next run fails, too.",
    ),
    (KeyError("price"), "Report it if the next run fails, too."),
    (
        OSError(errno.ENOSPC, "No space left on device", "/data/batch_windows.csv"),
        "No space left on device: free space on the disk of /data/",
    ),
    (OperationalError("Set STORE_URL to an empty database."), "Set STORE_URL to an empty database"),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("error", "action"), CASES)
def test_the_first_100_characters_about_a_failed_run_name_the_action(
    error: Exception, action: str, prefix: str
) -> None:
    reason = explain(error, Settings())
    assert action in f"{prefix}{reason}"[:100]
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (java("java.lang.OutOfMemoryError: Java heap space"), "OutOfMemoryError: Java heap space"),
        (java("java.lang.ArithmeticException: / by zero"), "ArithmeticException: / by zero"),
        (KeyError("price"), "KeyError: 'price'"),
    ],
)
def test_the_reason_of_a_failed_run_ends_with_the_cause(error: Exception, cause: str) -> None:
    assert explain(error, Settings()).endswith(f" Cause: {cause}")


LARGE, INCREMENTAL = Settings(batch_timeout_seconds=1800), {"batch_mode": "incremental"}
#: A run as in the log, the settings, and what is to be done about it.
RUNS: list[tuple[dict[str, Any], Settings, str]] = [
    (
        {"status": "timeout", "exit": 143},
        LARGE,
        "timed out after 1800 s. Increase BATCH_TIMEOUT_SECONDS or set BATCH_MODE=incre",
    ),
    (
        {"status": "timeout", "exit": 143},
        LARGE.model_copy(update=INCREMENTAL),
        "timed out after 1800 s. Increase BATCH_TIMEOUT_SECONDS",
    ),
    (
        {"status": "failed", "reason": reason_of(-signal.SIGKILL, {})},
        LARGE,
        "it was killed (SIGKILL). Free memory on this machine, or decrease BATCH_ME",
    ),
    (
        {"status": "failed", "reason": reason_of(128 + signal.SIGABRT, {})},
        LARGE,
        "SIGABRT ended the Python process. The next run starts at its usual time.",
    ),
    (
        {"status": "failed", "reason": reason_of(1, {})},
        LARGE,
        "exit status 1. Read the error in the log of the scheduler",
    ),
    (
        {"status": "failed", "reason": reason_of(0, {})},
        LARGE,
        "no result in status/batch_processor.json. The next run starts at its usual time",
    ),
    (
        {"status": "failed", "reason": reason_of(52, {})},
        LARGE,
        "the Java heap is full. Increase BATCH_MEMORY.",
    ),
    ({"status": "failed", "reason": None, "exit": 1}, LARGE, "exit status 1"),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("run", "settings", "action"), RUNS)
def test_the_first_100_characters_about_a_run_that_was_ended_name_the_action(
    run: dict[str, Any], settings: Settings, action: str, prefix: str
) -> None:
    assert f"{prefix}{why_failed(run, settings)}"[:100].startswith(f"{prefix}{action}")


def test_the_reason_of_a_failed_run_has_no_full_stop_because_other_text_follows() -> None:
    run = {"status": "failed", "reason": "No space left on device. Free disk space."}
    assert why_failed(run, LARGE) == "No space left on device. Free disk space"


def test_incremental_runs_are_not_advised_to_be_incremental() -> None:
    run = {"status": "timeout", "exit": 143}
    assert "BATCH_MODE" not in why_failed(run, LARGE.model_copy(update=INCREMENTAL))
