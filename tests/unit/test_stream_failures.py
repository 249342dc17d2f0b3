"""Failures of the query: the innermost cause, the family, and what to do, in 100 characters."""

import re

import pytest
from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark.errors import PySparkRuntimeError

from pipeline import spark_jvm
from pipeline.errors import Family, family_of
from pipeline.settings import Settings
from pipeline.stream.checkpoint import DamagedCheckpointError
from pipeline.stream.failures import RULES, Rule, explain, explain_text
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
WRAPPER = (
    "org.apache.spark.sql.streaming.StreamingQueryException: [STREAM_FAILED] Query [id = "
    "67dae9fb-e0a8-4b7a-909c-7cb6b2020eb3, runId = 11111111-0000-4b7a-909c-7cb6b2020eb3] "
    "terminated with exception: Job aborted due to stage failure: Task 0 in stage 9.0 failed\n"
    "\tat org.apache.spark.sql.execution.streaming.StreamExecution.runStream(S.scala:1)\n"
    "Caused by: org.apache.spark.SparkException: Job aborted due to stage failure\n"
    "\tat org.apache.spark.scheduler.DAGScheduler.abortStage(D.scala:2)\n"
)
#: Every task of the query runs below this class, whatever fails in it.
FRAMES = (
    "\tat a.b.C.d(E.java:7)\n"
    + "\tat java.base/java.util.Iterator.next(Iterator.java:1)\n" * 20
    + "\tat org.apache.spark.sql.execution.streaming.state.StateStoreRDD.compute(S.scala:7)\n"
    "\t... 42 more\n"
)
TEMPORARY, OPERATIONAL, FAULT = Family.TEMPORARY, Family.OPERATIONAL, Family.FAULT


def caused_by(cause: str) -> str:
    return f"{WRAPPER}Caused by: {cause}\n{FRAMES}"


CASES = [
    (
        "java.lang.IllegalStateException: [KAFKA_DATA_LOSS.PARTITION_OFFSET_CHANGED] Some data",
        OPERATIONAL,
        "Kafka lost records that the checkpoint expects. Delete the directory `checkpoints`",
    ),
    (
        "org.apache.kafka.common.errors.TimeoutException: Timeout of 20000ms expired before the",
        TEMPORARY,
        "Kafka does not answer the stream. Check that its brokers run.",
    ),
    (
        "org.apache.kafka.common.config.ConfigException: No resolvable bootstrap urls given",
        TEMPORARY,
        "Kafka does not answer the stream. Check that its brokers run.",
    ),
    (
        "org.apache.kafka.common.errors.SaslAuthenticationException: Authentication failed",
        OPERATIONAL,
        "Kafka refuses this client. Check its credentials and rights.",
    ),
    (
        "org.apache.kafka.common.errors.UnknownTopicOrPartitionException: This server does not",
        TEMPORARY,
        "Kafka has no topic raw_prices. The stream waits for it.",
    ),
    (
        "java.io.IOException: No space left on device",
        TEMPORARY,
        "No space left on device. Free disk space for ",
    ),
    (
        (
            "org.apache.spark.SparkException: [CANNOT_LOAD_STATE_STORE.UNCATEGORIZED] An error\n"
            "Caused by: java.io.FileNotFoundException: /x/state/0/0/7.delta (Too many open files)"
        ),
        TEMPORARY,
        "Too many open files. Increase the limit: `ulimit -n` of this user.",
    ),
    (
        "java.lang.OutOfMemoryError: Java heap space",
        OPERATIONAL,
        "The Java heap of the stream is full. Set STREAM_MEMORY above 640m",
    ),
    (
        "java.lang.OutOfMemoryError: unable to create native thread: possibly out of memory or",
        OPERATIONAL,
        "The stream cannot start another thread. Increase the limit of threads: `ulimit -u`",
    ),
    (
        "java.lang.NoSuchMethodError: 'void org.apache.kafka.clients.A.b()'",
        OPERATIONAL,
        "A jar of Spark is missing or damaged. Run `rm -rf jars/spark/lib; make jars`.",
    ),
    (
        "org.apache.spark.SparkException: [CANNOT_LOAD_STATE_STORE.UNCATEGORIZED] An error",
        TEMPORARY,
        "The checkpoint is damaged or of another Spark version.",
    ),
    (
        "java.lang.IllegalStateException: [MALFORMED_LOG_FILE] Log file was malformed",
        TEMPORARY,
        "The checkpoint is damaged or of another Spark version.",
    ),
    (
        "org.apache.hadoop.fs.ChecksumException: Checksum error: file:/x/state/0/0/7.delta",
        TEMPORARY,
        "The checkpoint is damaged or of another Spark version.",
    ),
    (
        "java.io.FileNotFoundException: /x/checkpoints/1.tmp (Permission denied)",
        OPERATIONAL,
        "The stream cannot write its checkpoint. Give this user write access to ",
    ),
    (
        "java.lang.IllegalStateException: [CONCURRENT_STREAM_LOG_UPDATE] Concurrent update",
        OPERATIONAL,
        "Another stream uses this checkpoint. Stop one of them",
    ),
    ("java.lang.ArithmeticException: / by zero", FAULT, "ArithmeticException: / by zero"),
]


@pytest.mark.parametrize(("cause", "family", "start"), CASES)
def test_the_first_100_characters_name_the_cause_and_the_action(
    cause: str, family: Family, start: str
) -> None:
    error = explain_text(caused_by(cause), Settings())
    assert family_of(error) is family
    assert start in str(error)[:100]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern.pattern[:20])
def test_the_readme_lists_the_first_sentence_of_each_failure(rule: Rule) -> None:
    first = re.sub(r"{\w+}", "…", rule.text).partition(". ")[0]
    assert f"*{first}.*" in README


def test_only_damage_of_the_checkpoint_starts_a_new_one() -> None:
    damaged = [
        cause
        for cause, _, _ in CASES
        if isinstance(explain_text(caused_by(cause), Settings()), DamagedCheckpointError)
    ]
    assert len(damaged) == 3
    assert all(
        "STATE_STORE" in cause or "Checksum" in cause or "LOG_FILE" in cause for cause in damaged
    )


@pytest.mark.parametrize(
    "reader", ["OperatorStateMetadataV1", "HDFSBackedStateStoreProvider", "OffsetSeqLog"]
)
def test_an_error_in_the_reader_of_a_checkpoint_file_is_damage(reader: str) -> None:
    frame = f"\tat org.apache.spark.sql.execution.streaming.{reader}.read(X.scala:3)"
    text = caused_by(f"java.io.EOFException\n{frame}")
    assert isinstance(explain_text(text, Settings()), DamagedCheckpointError)


def test_the_end_of_the_java_process_is_named() -> None:
    for error in (
        Py4JNetworkError("Answer from Java side is empty"),
        ConnectionRefusedError(111, "x"),
        Py4JError("An error occurred while calling o112.processAllAvailable"),
    ):
        assert str(explain(error, Settings())).startswith(
            "The Java process of the stream has ended."
        )


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "Connection refused"),
        Py4JError("py4j.reflection does not exist in the JVM"),
        Py4JError(caused_by("java.lang.NullPointerException: dagScheduler() is null")),
    ],
)
def test_if_java_ended_with_sparks_status_for_a_full_heap_the_heap_is_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task had an OutOfMemoryError. These are the errors of other threads while Java ended."""
    monkeypatch.setattr(spark_jvm, "exit_status", lambda _seconds: 52)
    found = explain(error, Settings())
    assert family_of(found) is OPERATIONAL
    assert str(found) == (
        "The Java heap of the stream is full. Set STREAM_MEMORY above 640m, or "
        "MAX_OFFSETS_PER_TRIGGER below 200000."
    )


def test_a_java_process_that_did_not_start_is_named() -> None:
    exited = PySparkRuntimeError(errorClass="JAVA_GATEWAY_EXITED", messageParameters={})
    error = explain(exited, Settings())
    assert family_of(error) is OPERATIONAL
    assert str(error).startswith("Java cannot start. The lines above give the cause. ")
    assert "decrease STREAM_MEMORY=640m" in str(error)[:100]
    assert "*Java cannot start.*" in README


def test_an_expected_error_stays_as_it_is() -> None:
    error = OSError(28, "No space left on device")
    assert explain(error, Settings()) is error
    fault = KeyError("x")
    assert explain(fault, Settings()) is fault
