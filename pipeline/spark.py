"""How a Spark session is configured: jars, JVM flags, the class-data archive, submission."""

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

#: The C1 compiler alone starts fast and suits small work; above so many rows C2 pays.
C1_ROWS = 2_000_000
_QUIET = "-Xlog:disable -Xlog:all=error:stderr"
#: Writes a checkpoint file by rename in Java: the default forks a process for each.
_CHECKPOINT_MANAGER = (
    "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
)


class SetupError(OperationalError):
    """Something that a user has to install is missing; the text says what and how."""


def jars() -> list[Path]:
    found = sorted((ROOT / "jars" / "spark" / "lib").glob("*.jar"))
    if not found:
        raise SetupError("the jars for Spark are missing: run `make jars`")
    return found


def class_path() -> list[Path]:
    """Every jar, in a fixed order: the archive holds for exactly this list.

    Spark adds its own again behind: in the folder's order, which differs from disk to disk, and
    one of them twice, for which Java 21 refuses an archive unless all of them stand before.
    """
    sparks = sorted(
        (SPARK_HOME / "jars").glob("*.jar"),
        key=lambda jar: (not jar.name.startswith("slf4j-api"), jar.name),  # as Spark has it
    )
    return [*jars(), *sparks]


def java_command(settings: Settings) -> Path:
    """Return the `java` that Spark uses.

    Raises:
        SetupError: there is none.
    """
    found = java.find(settings.java_home)
    if found is None:
        raise SetupError(f"Java is missing. {java.HOW_TO_INSTALL}")
    return found


def archive_path(settings: Settings) -> Path:
    """Where the class-data archive for this very JVM and class path lies, made or not."""
    command = [str(java_command(settings)), "-version"]
    version = subprocess.run(command, capture_output=True, check=True).stderr
    key = hashlib.sha256(version)
    for jar in class_path():
        stat = jar.stat()
        key.update(f"{jar} {stat.st_size} {int(stat.st_mtime)}\n".encode())
    return ARCHIVES / f"{key.hexdigest()[:16]}.jsa"


def java_options(archive: Path | None, *, c1_only: bool) -> str:
    """JVM flags of a job: small heap work, quick start, the archive when there is one."""
    # -Xss: Spark prints a plan it was interrupted in by a regular expression that recurses
    flags = ["-XX:+UseSerialGC", "-Xss4m", _QUIET]
    if c1_only:
        flags.append("-XX:TieredStopAtLevel=1")
    if archive is not None and archive.exists():
        flags.append(f'"-XX:SharedArchiveFile={archive}"')  # there may be a space in it
    return " ".join(flags)


def configuration(settings: Settings, memory: str, options: str) -> dict[str, str]:
    """Spark's configuration, the same for both jobs but for the heap and the JVM's flags."""
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
        "spark.sql.adaptive.enabled": "false",  # nothing to adapt, and it takes time to plan
        "spark.sql.ansi.enabled": "true",
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
        "spark.sql.streaming.checkpointFileManagerClass": _CHECKPOINT_MANAGER,
        "spark.sql.streaming.pollingDelay": "200ms",  # an idle stream asks Kafka so often
    }


def session(name: str, config: dict[str, str]) -> SparkSession:
    os.environ["PYSPARK_PYTHON"] = sys.executable  # the workers' Python is this one
    builder = SparkSession.builder.appName(name)
    for key, value in config.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def submit_command(config: dict[str, str], script: Path, *arguments: str) -> list[str]:
    """The spark-submit command that runs a script of this project."""
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


def batch_configuration(settings: Settings, rows: int) -> dict[str, str]:
    """The configuration of a batch run over so many rows."""
    options = java_options(archive_path(settings), c1_only=rows < C1_ROWS)
    return configuration(settings, settings.batch_memory, options)
