"""Find the innermost cause of an error in Java: the last `Caused by:` of its stack trace."""

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


def cause(error: Exception) -> str:
    """Return why something failed, on one line: for an error in Java, the innermost cause."""
    trace = stack_trace(error)
    return innermost(trace) if trace else sentence(error)


def innermost(trace: str) -> str:
    """Return the innermost cause in a Java stack trace: its class without package, and its text."""
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
