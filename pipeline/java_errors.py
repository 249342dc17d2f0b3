"""Read the stack trace of an error in Java: its messages, and its innermost cause."""

import re

from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark.errors.exceptions.captured import CapturedException

from pipeline.errors import sentence

#: An exception in a stack trace: `Caused by: a.b.C: text`. Py4J begins the first one with `: `.
_CAUSE = re.compile(
    r"^(?:Caused by: |: |\t*)((?:[a-z_$][\w$]*\.)+[A-Z][\w$.]*)(?:: (.*))?$", re.MULTILINE
)
#: All that Py4J reports if Java ends before it answers: Py4J drops the cause.
_LOST_ANSWER = re.compile(r"An error occurred while calling \S+")
#: Maximum length of a text that is not a stack trace, in characters.
_CHARACTERS = 300
#: The patterns of failures that the stream and the batch recognize, and the texts that both use.
NO_SPACE = "No space left on device|Disk quota exceeded"
NO_SPACE_TEXT = (
    "No space left on device. Free disk space for {data_dir} and the temporary directory."
)
#: This failure is also an OutOfMemoryError, so its rule comes first.
NO_THREAD = "unable to create (?:new )?native thread"
NO_THREAD_TEXT = (
    "Increase the limit of threads: `ulimit -u` of this user, or `pids_limit` of the container."
)
FULL_HEAP = "OutOfMemoryError|OUT_OF_MEMORY"
OPEN_FILES = "Too many open files"
OPEN_FILES_TEXT = (
    "Too many open files. Increase the limit: `ulimit -n` of this user. Cause: {cause}"
)
NO_ACCESS = (
    "Permission denied|AccessControlException|AccessDeniedException|Read-only file system"
    "|Operation not permitted|Mkdirs failed"
)
WRONG_JAR = (
    "NoClassDefFoundError|ClassNotFoundException|NoSuchMethodError|NoSuchFieldError"
    "|IncompatibleClassChangeError|UnsupportedClassVersionError|ZipException"
    "|Failed to find (?:the )?data source|AbstractMethodError|No suitable driver"
)
WRONG_JAR_TEXT = (
    "A jar of Spark is missing or damaged. Run `rm -rf jars/spark/lib; make jars`. Cause: {cause}"
)


def messages(trace: str) -> str:
    """Return a stack trace without its calls.

    The class of a call, such as StateStore, is not a cause.
    """
    lines = trace.splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("at ", "... ")))


def innermost(trace: str) -> str:
    """Return the innermost cause of an error: the last `Caused by:`, its class without package."""
    found = _CAUSE.findall(trace)
    if not found:
        return " ".join(trace.split())[:_CHARACTERS]
    name, message = found[-1]
    name = name.rsplit(".", 1)[-1]
    return f"{name}: {message}" if message else name


def stack_trace(error: Exception) -> str:
    """Return the Java stack trace behind an error of PySpark; "" if there is none."""
    if isinstance(error, CapturedException):
        return str(error._stackTrace)  # noqa: SLF001 - see `spark_jvm`
    if isinstance(error, Py4JError):
        try:
            return str(error)
        except Exception:  # noqa: BLE001 - the text comes from Java, which may be gone
            return sentence(error.__cause__) if error.__cause__ else ""
    return ""


def java_has_ended(error: Exception) -> bool:
    """Return whether the error shows that the connection to Java is gone."""
    if type(error) is Py4JError:
        return bool(_LOST_ANSWER.fullmatch(str(error)))
    return isinstance(error, Py4JNetworkError | ConnectionError | EOFError)
