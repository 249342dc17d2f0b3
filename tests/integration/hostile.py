"""The environments of other programs: variables, packages, a user and a machine of their own."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Run, Running

#: Packages of other versions, as on another program's PYTHONPATH.
OTHER_PACKAGES = (
    "pyspark",
    "py4j",
    "kafka",
    "pydantic",
    "pandas",
    "psutil",
    "msgspec",
    "websocket",
)
#: A user id without a name and without a home folder. It may read the files of the test.
NAMELESS = (
    *("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"),
    *("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override", "--"),
)
#: A machine whose name does not resolve, and temporary folders without the right to execute.
MACHINE = """
hostname nobody-knows-7731
case "$TMPDIR" in /var/tmp/*) other= ;; *) other=/var/tmp ;; esac
for folder in "$TMPDIR" $other; do mount -t tmpfs -o noexec,mode=1777 tmpfs "$folder"; done
exec "$@"
"""


def hostile_variables(folder: Path) -> dict[str, object]:
    """Return variables that users' shells hold for other programs."""
    for name in OTHER_PACKAGES:
        package = folder / "packages" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("__version__ = '0.1'\n")
    conf = folder / "conf"
    conf.mkdir()
    (conf / "spark-defaults.conf").write_text("spark.master yarn\n")
    (conf / "spark-env.sh").write_text("exit 3\n")
    (conf / "core-site.xml").write_text(
        "<configuration><property><name>fs.defaultFS</name><value>hdfs://nowhere:1</value>"
        "</property></configuration>"
    )
    temporary = folder / "noexec"
    temporary.mkdir()
    return {
        "PYSPARK_DRIVER_PYTHON": "jupyter",
        "PYSPARK_DRIVER_PYTHON_OPTS": "notebook",
        "PYSPARK_PYTHON": "/nowhere/python",
        "PYSPARK_SUBMIT_ARGS": "--master local[2]",
        "PYSPARK_GATEWAY_PORT": 1,
        "IPYTHON": 1,
        "MASTER": "yarn",
        "SPARK_HOME": "/opt/spark-3.5.1-bin-hadoop3",
        "SPARK_REMOTE": "sc://localhost:15002",
        "SPARK_CONF_DIR": conf,
        "HADOOP_CONF_DIR": conf,
        "YARN_CONF_DIR": conf,
        "SPARK_LOCAL_DIRS": "/nowhere",
        "SPARK_LOCAL_IP": "203.0.113.1",
        "SPARK_SUBMIT_OPTS": "-XX:+Nonsense",
        "SPARK_DIST_CLASSPATH": "/nowhere/*",
        "SPARK_API_MODE": "connect",
        "SPARK_CONNECT_MODE_ENABLED": 1,
        "SPARK_TESTING": 1,
        "PYTHONPATH": folder / "packages",
        "PYTHONIOENCODING": "ascii",
        "JAVA_TOOL_OPTIONS": "-XX:+UseG1GC",
        "_JAVA_OPTIONS": "-Xmx16m",
        "JDK_JAVA_OPTIONS": "-XX:+Nonsense",
        "CLASSPATH": "/nowhere.jar",
        "KAFKA_OPTS": "-XX:+Nonsense",
        "KAFKA_HEAP_OPTS": "-Xmx1m",
        "BASH_ENV": conf / "spark-env.sh",
        "CDPATH": folder,
        "POSIXLY_CORRECT": 1,
        "TZ": "Asia/Kolkata",
        "LANG": "tr_TR.UTF-8",
        "LC_ALL": "tr_TR.UTF-8",
        "STY": "4711.pts-0.host",
        "WINDOW": 0,
        "HOME": "/nowhere",
        "TMPDIR": temporary,
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }


def wrapper() -> list[str]:
    """Return the command that changes the machine and the user; [] without the right to."""
    isolate = ["unshare", "--mount", "--uts"]
    needed = all(map(shutil.which, ("unshare", "setpriv", "hostname", "mount")))
    if not needed or subprocess.run([*isolate, "true"], check=False).returncode:
        return []
    return [*isolate, "sh", "-c", MACHINE, "sh", *NAMELESS]  # sh does not read BASH_ENV


@contextmanager
def running_hostile(folder: Path) -> Iterator[Run]:
    """Give the function of `tests.conftest.running`, for processes in a hostile environment."""
    variables, prefix = hostile_variables(folder), wrapper()
    started: list[Running] = []

    def start(what: str, *arguments: str, **environment: object) -> Running:
        target = [what] if what.endswith(".py") else ["-m", what]
        log = folder / f"{len(started):02d}-{what.removesuffix('.py')}.log"
        texts = {name: str(value) for name, value in {**variables, **environment}.items()}
        started.append(Running([*prefix, sys.executable, *target, *arguments], log, texts))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
