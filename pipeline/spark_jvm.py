"""What PySpark has no public interface for: the Java process of a session.

Only this module, `pipeline.java_errors` and `pipeline.batch.jdbc` use private names of PySpark.
They were checked with PySpark 4.2.0. `tests/unit/test_spark_jvm.py` fails if PySpark changes them.
"""

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession


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


def kill() -> None:
    """Kill the Java process of this process's session. It may be suspended and not answer."""
    process = getattr(SparkContext._gateway, "proc", None)  # noqa: SLF001
    if process is not None:
        process.kill()
