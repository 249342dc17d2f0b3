"""The innermost cause of an error in Java, and its messages."""

from pipeline.java_errors import innermost, messages

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


def test_the_messages_of_a_stack_trace_have_no_names_of_calls() -> None:
    assert "DAGScheduler" not in messages(TRACE)
    assert messages(TRACE).splitlines()[-1].startswith("Caused by: org.sqlite.SQLiteException")
