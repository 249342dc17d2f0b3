"""Find the cause of a failed query: the first sentence names it, the second one what to do.

Spark wraps an error several times, and its text starts with the wrapper.
"""

import re
from dataclasses import dataclass

from pyspark.errors import PySparkRuntimeError

from pipeline import spark_jvm
from pipeline.errors import Family, OperationalError, TemporaryError, family_of
from pipeline.java_errors import (
    FULL_HEAP,
    NO_ACCESS,
    NO_SPACE,
    NO_SPACE_TEXT,
    NO_THREAD,
    NO_THREAD_TEXT,
    OPEN_FILES,
    OPEN_FILES_TEXT,
    WRONG_JAR,
    WRONG_JAR_TEXT,
    innermost,
    java_has_ended,
    messages,
    stack_trace,
)
from pipeline.settings import Settings
from pipeline.stream.checkpoint import DamagedCheckpointError


class StreamError(OperationalError):
    """The query failed. The text names the cause and the action."""


class KafkaUnavailableError(TemporaryError):
    """Kafka does not serve the query. The text names the cause."""


class QueryFailedError(Exception):
    """The query failed for a reason without a rule in this module."""


@dataclass(frozen=True)
class Rule:
    """How to report a failure whose stack trace contains the pattern."""

    pattern: re.Pattern[str]
    error: type[Exception]
    #: A text with `{cause}` and names of settings in braces.
    text: str


def _rule(pattern: str, error: type[Exception], text: str) -> Rule:
    return Rule(re.compile(pattern), error, text)


#: The text about a damaged checkpoint, with `{cause}`.
DAMAGED = (
    "The checkpoint is damaged or of another Spark version. The stream starts a new one and reads "
    "the topic from its oldest record. Cause: {cause}"
)
#: The text about a full heap.
_HEAP_IS_FULL = (
    "The Java heap of the stream is full. Set STREAM_MEMORY above {stream_memory}, or "
    "MAX_OFFSETS_PER_TRIGGER below {max_offsets_per_trigger}."
)
#: Seconds to wait for the end of Java. After an error in Java, it took up to 0.6 s.
_EXIT_SECONDS = 3.0
#: Spark's readers of checkpoint files. An error inside one of them is damage.
_READERS = re.compile(
    r"\bat [\w.$/]*(?:OperatorStateMetadata|StateSchemaCompatibilityChecker|SchemaHelper"
    r"|HDFSBackedStateStore|OffsetSeqLog|CommitLog|HDFSMetadataLog|StreamMetadata)"
)
#: The number of calls of a stack trace that are near the error.
_NEAR = 15
#: The first rule that matches applies.
RULES = (
    _rule(NO_SPACE, TemporaryError, NO_SPACE_TEXT),
    _rule(NO_THREAD, StreamError, f"The stream cannot start another thread. {NO_THREAD_TEXT}"),
    _rule(FULL_HEAP, StreamError, _HEAP_IS_FULL),
    # Spark can report this as damage of the checkpoint.
    _rule(OPEN_FILES, TemporaryError, OPEN_FILES_TEXT),
    _rule(
        NO_ACCESS,
        StreamError,
        "The stream cannot write its checkpoint. Give this user write access to "
        "{data_dir}/checkpoints. Cause: {cause}",
    ),
    _rule(
        "KAFKA_DATA_LOSS|OffsetOutOfRangeException|RESOLVED_START_OFFSET_GREATER_THAN_END_OFFSET"
        "|[Ss]ome data may have been (?:lost|missed)",
        StreamError,
        "Kafka lost records that the checkpoint expects. Delete the directory `checkpoints` in "
        "{data_dir}: the stream then reads the topic again and keeps the final windows. "
        "Cause: {cause}",
    ),
    _rule(
        "SaslAuthenticationException|SslAuthenticationException|AuthorizationException",
        StreamError,
        "Kafka refuses this client. Check its credentials and rights. Cause: {cause} "
        "({kafka_bootstrap_servers})",
    ),
    _rule(
        "UnknownTopicOrPartitionException|UnknownTopicIdException",
        KafkaUnavailableError,
        "Kafka has no topic {kafka_topic}. The stream waits for it. Create it with "
        "`python -m local.topics`",
    ),
    _rule(WRONG_JAR, StreamError, WRONG_JAR_TEXT),
    _rule(
        "CONCURRENT_STREAM_LOG_UPDATE|Multiple streaming queries are concurrently using",
        StreamError,
        "Another stream uses this checkpoint. Stop one of them, or give it another DATA_DIR.",
    ),
    _rule(
        "STATE_STORE|StateStore|MALFORMED_LOG_FILE|CHECKSUM_VERIFICATION_FAILED|ChecksumException"
        "|STREAMING_CHECKPOINT_MISSING_METADATA_FILE|STREAMING_STATEFUL_OPERATOR"
        "|Incomplete log file|UnsupportedLogVersion|UNSUPPORTED_LOG_VERSION|delta file",
        DamagedCheckpointError,
        DAMAGED,
    ),
    _rule(
        r"org\.apache\.kafka\.common\.errors\.|No resolvable bootstrap urls|KafkaException"
        "|Timed out waiting for a node assignment",
        KafkaUnavailableError,
        "Kafka does not answer the stream. Check that its brokers run. Cause: {cause} "
        "({kafka_bootstrap_servers})",
    ),
)


def explain(error: Exception, settings: Settings) -> Exception:
    """Return the error that names the innermost cause of a failure and what to do.

    Args:
        error: what Spark, Py4J or the function for micro-batches raised.
        settings: the settings of the service.
    """
    if family_of(error) is not Family.FAULT:
        return error
    if java_did_not_start(error):
        return StreamError(
            "Java cannot start. The lines above give the cause. If it is memory, decrease "
            f"STREAM_MEMORY={settings.stream_memory}: it must be below the free memory of this "
            "machine and the limit of memory (`ulimit -v`)."
        )
    ended = java_has_ended(error)
    text = "" if ended else stack_trace(error)
    found = explain_text(text, settings) if text else error
    # While Java ends, it can report other errors. They are not the cause.
    can_follow = ended or isinstance(found, QueryFailedError | DamagedCheckpointError)
    if can_follow and spark_jvm.exit_status(_EXIT_SECONDS) == spark_jvm.EXIT_OUT_OF_MEMORY:
        return StreamError(_HEAP_IS_FULL.format(**settings.model_dump()))
    if ended:
        return StreamError(
            "The Java process of the stream has ended. The service starts again. If this repeats, "
            f"set STREAM_MEMORY above {settings.stream_memory}, or free memory on this machine."
        )
    return found


def explain_text(text: str, settings: Settings) -> Exception:
    """Return the error for a Java stack trace."""
    cause, without_calls, values = innermost(text), messages(text), settings.model_dump()
    for rule in RULES:
        if rule.pattern.search(without_calls):
            return rule.error(rule.text.format(cause=cause, **values))
    lines = text.splitlines()
    last = max((n for n, line in enumerate(lines) if line.startswith("Caused by: ")), default=0)
    if _READERS.search("\n".join(lines[last : last + _NEAR])):
        return DamagedCheckpointError(DAMAGED.format(cause=cause))
    return QueryFailedError(
        f"The query failed: {cause}. The service starts again. If this repeats, report it."
    )


def java_did_not_start(error: Exception) -> bool:
    """Return whether the Java process ended before PySpark could connect to it."""
    return isinstance(error, PySparkRuntimeError) and error.getCondition() == "JAVA_GATEWAY_EXITED"
