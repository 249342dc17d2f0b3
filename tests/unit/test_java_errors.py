"""The innermost cause of an error in Java."""

import errno

from py4j.protocol import Py4JError

from pipeline.java_errors import cause, innermost

TRACE = """\
org.apache.spark.SparkException: Job aborted due to stage failure
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:1)
Caused by: java.lang.RuntimeException: wrapped
\t... 12 more
Caused by: org.sqlite.SQLiteException: [SQLITE_CORRUPT] The database disk image is malformed
\t... 30 more"""
CAUSE = "SQLiteException: [SQLITE_CORRUPT] The database disk image is malformed"


def test_the_innermost_cause_is_the_last_one_without_its_package() -> None:
    assert innermost(TRACE) == CAUSE
    assert innermost("java.lang.StackOverflowError\n\tat a.b.C") == "StackOverflowError"
    assert innermost("no Java\n here") == "no Java here"


def test_the_cause_of_an_error_of_py4j_or_the_system_is_one_line() -> None:
    calling = "An error occurred while calling o9.collect.\n: "
    assert cause(Py4JError(calling + TRACE)) == CAUSE
    heap = "java.lang.OutOfMemoryError: Java heap space"
    assert cause(Py4JError(calling + heap)) == "OutOfMemoryError: Java heap space"
    assert cause(Py4JError("Answer from Java side is empty")) == "Answer from Java side is empty"
    full = OSError(errno.ENOSPC, "No space left on device", "/x")
    assert cause(full) == "No space left on device: free space on the disk of /x"
