"""The configuration of Spark: jars, JVM options, the class-data archive, spark-submit."""

import contextlib
import mmap
import os
import pwd
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pyspark
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from pipeline import environment, java, spark_jvm
from pipeline.data_dir import DataDir
from pipeline.errors import OperationalError
from pipeline.settings import NAMES, Settings

ROOT = Path(__file__).parent.parent
SPARK_HOME = Path(pyspark.__file__).parent
#: The configuration of the log of the Java process. Spark's own one adds ten lines to each start.
LOG_CONFIG = ROOT / "pipeline" / "log4j2.properties"

#: C2 compiles a method after ten times as many calls and loops as by default. It then compiles only
#: the loops over the rows, not the code of Spark's start.
_C2_FOR_HOT_LOOPS = (
    "-XX:Tier4InvocationThreshold=50000",
    "-XX:Tier4MinInvocationThreshold=6000",
    "-XX:Tier4CompileThreshold=150000",
    "-XX:Tier4BackEdgeThreshold=400000",
)
#: No output of the JVM itself, apart from errors.
_QUIET = "-Xlog:disable -Xlog:all=error:stderr"
#: Writes a checkpoint file with a rename in Java. The default starts a process for each file.
_CHECKPOINT_MANAGER = (
    "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
)
#: The maximum size of a batch of records that Java sends to Python. The bytes bound its memory:
#: a message may be as long as MAX_MESSAGE_BYTES. Smaller batches let both work at the same time.
_ARROW_BATCH = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": "2000",
    "spark.sql.execution.arrow.maxBytesPerBatch": "4m",
}
#: The jars without which a job fails, by the beginning of their names. A batch run needs one more:
#: the driver of its store.
_NEEDED_JARS = (
    *("spark-sql-kafka-0-10", "spark-token-provider-kafka-0-10", "kafka-clients", "commons-pool2"),
)
_EMPTY: Mapping[str, str] = MappingProxyType({})


class SetupError(OperationalError):
    """Something that a person has to install is missing. The text names it and the command."""


def jars() -> list[Path]:
    """Return the jars of this project, which Spark needs beside its own.

    Raises:
        SetupError: a jar is missing.
    """
    for name in _NEEDED_JARS:
        require_jar(name)
    return sorted(_jar_folder().glob("*.jar"))


def require_jar(name: str) -> None:
    """Check that there is a jar whose name begins with this text.

    Raises:
        SetupError: there is none.
    """
    folder = _jar_folder()
    if not any(folder.glob(f"{name}*.jar")):
        raise SetupError(
            f"No {name} jar. Run `rm -rf jars/spark/lib; make jars`. Searched in {folder}"
        )


def _jar_folder() -> Path:
    return ROOT / "jars" / "spark" / "lib"


def class_path() -> list[Path]:
    """Return every jar in a fixed order. A class-data archive is valid for exactly one list.

    Spark appends its own jars to this list, and one of them twice. Their order is that of the
    directory, which differs from disk to disk. Java 21 therefore refuses an archive unless all
    jars are listed.

    Raises:
        SetupError: a jar or a program of Spark is missing.
    """
    of_spark = sorted(
        (SPARK_HOME / "jars").glob("*.jar"),
        key=lambda jar: (not jar.name.startswith("slf4j-api"), jar.name),  # the order of Spark
    )
    submit = [SPARK_HOME / "bin" / name for name in ("spark-submit", "spark-class")]
    broken = [str(path) for path in submit if not os.access(path, os.X_OK)]
    if broken or not of_spark:
        what = f"execute {broken[0]}" if broken else f"find jars in {SPARK_HOME / 'jars'}"
        raise SetupError(
            f"Spark is incomplete. Install it again: `rm -rf .venv; make venv`. Cannot {what}"
        )
    return [*jars(), *of_spark]


def archive_path(settings: Settings) -> Path:
    """Return the path of the class-data archive for this JVM and class path; it may not exist.

    Raises:
        JavaError: there is no Java of a version that Spark runs on.
        SetupError: a jar or a program of Spark is missing.
    """
    return java.archive_path(java.check(settings.java_home), class_path())


def java_options(archive: Path | None, *, c1_only: bool) -> str:
    """Return the JVM options of a job, with the class-data archive if it exists."""
    compiler = ("-XX:TieredStopAtLevel=1",) if c1_only else _C2_FOR_HOT_LOOPS
    log = java.quoted(f"-Dlog4j2.configurationFile={LOG_CONFIG}")
    options = ["-XX:+UseSerialGC", _QUIET, *compiler, log]
    if archive is not None and archive.exists():
        options.append(java.quoted(f"-XX:SharedArchiveFile={archive}"))
    return " ".join(options)


def library_folder(settings: Settings) -> Path:
    """Return a directory for temporary files in which Java can unpack a library and load it.

    The temporary directory of many machines has no right to execute (mount option `noexec`).

    Raises:
        SetupError: there is no such directory.
    """
    ours = DataDir(settings.data_dir).temporary
    candidates = [Path("/var/tmp"), ours]  # noqa: S108
    with contextlib.suppress(FileNotFoundError):  # Python can write to no temporary directory
        candidates.insert(0, Path(tempfile.gettempdir()))
    reasons = []
    for folder in candidates:
        try:
            if folder == ours:
                ours.mkdir(parents=True, exist_ok=True)
            _load_from(folder)
        except OSError as error:
            reasons.append(f"{folder} ({error.strerror})")
        else:
            return folder
    raise SetupError(
        "Java cannot load a library. Set TMPDIR to a directory that is not mounted noexec. Tried: "
        f"{', '.join(reasons)}"
    )


def _load_from(folder: Path) -> None:
    """Map a file of the directory into memory as a program, as the loader of libraries does."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(mmap.PAGESIZE)
        protection = mmap.PROT_READ | mmap.PROT_EXEC
        if sys.platform == "linux":  # macOS may refuse this for files without a signature
            mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE, protection).close()


def configuration(settings: Settings, memory: str, options: str) -> dict[str, str]:
    """Return the configuration that both jobs share, with a heap size and JVM options."""
    folder = library_folder(settings)
    own = [f"-Djava.io.tmpdir={folder}"]
    if user := _name_for_nameless_user():
        own += [f"-Duser.name={user}", f"-Duser.home={folder}"]
    return {
        "spark.master": settings.spark_master,
        "spark.driver.memory": memory,
        "spark.driver.extraJavaOptions": " ".join([options, *map(java.quoted, own)]),
        "spark.driver.extraClassPath": ":".join(map(str, class_path())),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.executorEnv.PYTHONPATH": str(ROOT),
        "spark.executorEnv.DATA_DIR": str(settings.data_dir),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.adaptive.enabled": "false",  # costs planning time, and has nothing to adapt
        "spark.sql.ansi.enabled": "true",
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
        "spark.sql.streaming.checkpointFileManagerClass": _CHECKPOINT_MANAGER,
        "spark.sql.streaming.pollingDelay": "200ms",  # how often an idle query polls Kafka
        **(cluster_configuration(settings) if settings.on_cluster else {}),
    }


def cluster_configuration(settings: Settings) -> dict[str, str]:
    """Return what both jobs need in addition on a Spark cluster.

    The driver runs in the service, and the executors run on the workers. Every worker needs this
    project and its Python environment at the same paths, and the data directory.
    """
    return {
        "spark.jars": ",".join(map(str, jars())),  # the driver sends them to the executors
        "spark.driver.host": settings.spark_driver_host,
        "spark.driver.bindAddress": settings.spark_driver_bind_address
        or settings.spark_driver_host,
        "spark.cores.max": str(settings.spark_cores_max),
        "spark.executor.cores": str(settings.spark_executor_cores),
        "spark.executor.memory": settings.spark_executor_memory,
    }


def stream_configuration(settings: Settings) -> dict[str, str]:
    """Return the configuration of the streaming query."""
    options = java_options(archive_path(settings), c1_only=True)
    return configuration(settings, settings.stream_memory, options) | _ARROW_BATCH


def _environment(settings: Settings) -> dict[str, str]:
    """Return the environment of spark-submit and of everything that it starts.

    The script can have another working directory, so the paths of the data directory, of Java and
    of the password are those of the settings: absolute.
    """
    user, password = _name_for_nameless_user(), settings.store_password_file
    java_home = settings.java_home
    return {
        "PATH": os.defpath,
        **environment.inherited(*NAMES),
        **environment.JAVA,
        **({"JAVA_HOME": str(java_home)} if java_home else {}),
        "DATA_DIR": str(settings.data_dir),
        "BATCH_MODE": settings.batch_mode,
        "STORE_URL": settings.store_url,
        **({"STORE_PASSWORD_FILE": str(password)} if password else {}),
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",  # otherwise Spark looks up the name of this machine
        "SPARK_LAUNCHER_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYTHONUNBUFFERED": "1",
        **({"SPARK_USER": user} if user else {}),
    }


def _name_for_nameless_user() -> str | None:
    """Return a name if the system has none for this user id, as in a container; else None."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return f"user-{os.getuid()}"
    return None


def session(settings: Settings, name: str, config: Mapping[str, str]) -> SparkSession:
    """Start Spark in this process, which gets the environment of spark-submit."""
    environment.replace(_environment(settings))
    return submitted_session(name, config)


def submitted_session(name: str, config: Mapping[str, str] = _EMPTY) -> SparkSession:
    """Return the session of a process that spark-submit started; it has its configuration."""
    conf = SparkConf().setAppName(name).setAll(list(config.items()))
    if user := _name_for_nameless_user():
        spark_jvm.log_in(conf, user)
    # SparkContext replaces the handler of SIGINT by one that raises KeyboardInterrupt.
    before = signal.getsignal(signal.SIGINT)
    SparkContext.getOrCreate(conf)
    signal.signal(signal.SIGINT, before)
    return SparkSession.builder.config(conf=conf).getOrCreate()


def submit_command(
    settings: Settings, config: Mapping[str, str], script: Path, *arguments: str
) -> list[str]:
    """Return the command that runs a script of this project by spark-submit.

    It sets the whole environment itself (`env -i`), so it does the same wherever it is started.

    Args:
        settings: they name the data directory and the store of the script.
        config: the configuration of Spark.
        script: the script.
        arguments: the arguments of the script.
    """
    variables = [f"{name}={value}" for name, value in _environment(settings).items()]
    command = ["env", "-i", *variables, str(SPARK_HOME / "bin" / "spark-submit")]
    for key, value in config.items():
        command += ["--conf", f"{key}={value}"]
    return [*command, str(script), *arguments]
