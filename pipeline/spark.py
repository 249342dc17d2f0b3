"""The configuration of Spark: jars, JVM options, the class-data archive, spark-submit."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pyspark
from pyspark.sql import SparkSession

from pipeline import java
from pipeline.errors import OperationalError
from pipeline.settings import Settings

ROOT = Path(__file__).parent.parent
SPARK_HOME = Path(pyspark.__file__).parent
ARCHIVES = ROOT / "jars" / "archive"

#: Below this number of rows the C1 compiler alone is faster, as it starts faster.
C1_ROWS = 2_000_000
#: No output of the JVM itself, apart from errors.
_QUIET = "-Xlog:disable -Xlog:all=error:stderr"
#: Writes a checkpoint file with a rename in Java. The default starts a process for each file.
_CHECKPOINT_MANAGER = (
    "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
)


class SetupError(OperationalError):
    """Something that a person has to install is missing. The text says what and how."""


def jars() -> list[Path]:
    """Return the jars of this project, which Spark needs beside its own."""
    found = sorted((ROOT / "jars" / "spark" / "lib").glob("*.jar"))
    if not found:
        raise SetupError("the jars for Spark are missing: run `make jars`")
    return found


def class_path() -> list[Path]:
    """Return every jar in a fixed order. A class-data archive is valid for exactly one list.

    Spark appends its own jars to this list: in the order of the folder, which differs from disk to
    disk, and one of them twice. Java 21 therefore refuses an archive unless all jars are listed.
    """
    of_spark = sorted(
        (SPARK_HOME / "jars").glob("*.jar"),
        key=lambda jar: (not jar.name.startswith("slf4j-api"), jar.name),  # the order of Spark
    )
    return [*jars(), *of_spark]


def archive_path(settings: Settings) -> Path:
    """Return the path of the class-data archive for this JVM and class path; it may not exist.

    Raises:
        SetupError: Java or a jar is missing.
    """
    command = java.find(settings.java_home)
    if command is None:
        raise SetupError(f"Java is missing. {java.HOW_TO_INSTALL}")
    version = subprocess.run([command, "-version"], capture_output=True, check=True).stderr
    key = hashlib.sha256(version)
    for jar in class_path():
        stat = jar.stat()
        key.update(f"{jar} {stat.st_size} {int(stat.st_mtime)}\n".encode())
    return ARCHIVES / f"{key.hexdigest()[:16]}.jsa"


def java_options(archive: Path | None, *, c1_only: bool) -> str:
    """Return the JVM options of a job, with the class-data archive if it exists."""
    # -Xss: the expression with which Spark prints an interrupted plan recurses deeply.
    options = ["-XX:+UseSerialGC", "-Xss32m", _QUIET]
    if c1_only:
        options.append("-XX:TieredStopAtLevel=1")
    if archive is not None and archive.exists():
        options.append(f'"-XX:SharedArchiveFile={archive}"')  # the path may hold a space
    return " ".join(options)


def configuration(settings: Settings, memory: str, options: str) -> dict[str, str]:
    """Return the configuration that both jobs share, with a heap size and JVM options."""
    return {
        "spark.master": settings.spark_master,
        "spark.driver.memory": memory,
        "spark.driver.extraJavaOptions": options,
        "spark.driver.extraClassPath": ":".join(map(str, class_path())),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "WARN",
        "spark.executorEnv.PYTHONPATH": str(ROOT),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.adaptive.enabled": "false",  # costs planning time, and has nothing to adapt
        "spark.sql.ansi.enabled": "true",
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
        "spark.sql.streaming.checkpointFileManagerClass": _CHECKPOINT_MANAGER,
        "spark.sql.streaming.pollingDelay": "200ms",  # how often an idle query asks Kafka
    }


def stream_configuration(settings: Settings) -> dict[str, str]:
    """Return the configuration of the streaming query."""
    options = java_options(archive_path(settings), c1_only=True)
    return configuration(settings, settings.stream_memory, options)


def batch_configuration(settings: Settings, rows: int) -> dict[str, str]:
    """Return the configuration of a batch run over this number of rows."""
    options = java_options(archive_path(settings), c1_only=rows < C1_ROWS)
    return configuration(settings, settings.batch_memory, options)


def session(name: str, config: dict[str, str]) -> SparkSession:
    os.environ["PYSPARK_PYTHON"] = sys.executable  # Spark starts its workers with this Python
    builder = SparkSession.builder.appName(name)
    for key, value in config.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def java_version(session: SparkSession) -> str:
    jvm = session.sparkContext._jvm  # noqa: SLF001 - no public way
    return str(jvm.System.getProperty("java.version"))


def submit_command(config: dict[str, str], script: Path, *arguments: str) -> list[str]:
    """Return the spark-submit command that runs a script of this project."""
    command = [
        "env",
        f"SPARK_HOME={SPARK_HOME}",
        f"PYSPARK_PYTHON={sys.executable}",
        "SPARK_LAUNCHER_OPTS=-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        str(SPARK_HOME / "bin" / "spark-submit"),
    ]
    for key, value in config.items():
        command += ["--conf", f"{key}={value}"]
    return [*command, str(script), *arguments]
