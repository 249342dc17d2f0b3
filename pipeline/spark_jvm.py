"""What PySpark has no public interface for: the Java process of a session, and its plans.

Only this module and `pipeline.java_errors` use private names of PySpark. They were checked with
PySpark 4.2.0. `tests/unit/test_spark_jvm.py` fails if PySpark changes them.
"""

import subprocess
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.sql import DataFrame, SparkSession

#: The exit status of Java after an OutOfMemoryError in a task: `SparkExitCode.OOM`.
EXIT_OUT_OF_MEMORY = 52


def log_in(conf: SparkConf, user: str) -> None:
    """Start Java, and give Hadoop the name of the user.

    Hadoop reads the name from the system, and fails if there is none.
    """
    SparkContext._ensure_initialized(conf=conf)  # noqa: SLF001
    users = SparkContext._jvm.org.apache.hadoop.security.UserGroupInformation  # noqa: SLF001
    users.setLoginUser(users.createRemoteUser(user))


def version(session: SparkSession) -> str:
    """Return the version of Java, such as `17.0.18`."""
    return str(session.sparkContext._jvm.System.getProperty("java.version"))  # noqa: SLF001


def executed_plan(frame: DataFrame) -> Any:
    """Return the physical plan of a query, an object of Java."""
    return frame._jdf.queryExecution().executedPlan()  # noqa: SLF001


def exit_status(wait_s: float) -> int | None:
    """Wait for the Java process of this process's session, and return its exit status.

    Returns:
        None if it still runs, or if there is none.
    """
    process = getattr(SparkContext._gateway, "proc", None)  # noqa: SLF001
    if process is None:
        return None
    try:
        return int(process.wait(wait_s))
    except subprocess.TimeoutExpired:
        return None


def kill() -> None:
    """Kill the Java process of this process's session. It may be suspended and not answer."""
    process = getattr(SparkContext._gateway, "proc", None)  # noqa: SLF001
    if process is not None:
        process.kill()
