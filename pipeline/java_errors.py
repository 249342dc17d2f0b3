"""Read the stack trace of an error in Java: its messages, and its innermost cause."""

import re

from py4j.protocol import Py4JError
from pyspark.errors.exceptions.captured import CapturedException

from pipeline.errors import sentence

#: An exception in a stack trace: `Caused by: a.b.C: text`. Py4J begins the first one with `: `.
_CAUSE = re.compile(
    r"^(?:Caused by: |: |\t*)((?:[a-z_$][\w$]*\.)+[A-Z][\w$.]*)(?:: (.*))?$", re.MULTILINE
)
#: Maximum length of a text that is not a stack trace, in characters.
_CHARACTERS = 300
#: The pattern and the text of a failure that the stream and the batch report in the same way.
WRONG_JAR = (
    "NoClassDefFoundError|ClassNotFoundException|NoSuchMethodError|NoSuchFieldError"
    "|IncompatibleClassChangeError|UnsupportedClassVersionError|ZipException"
    "|Failed to find (?:the )?data source|AbstractMethodError"
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
