"""The pipeline in the environments of other programs, and over TLS with a login.

One chain tests both. The results stay the same.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from feed.sample import SAMPLE
from tests import golden
from tests.conftest import Broker, Run, Running, require_jars, started_broker, wait_until
from tests.integration.chain import SCRIPTS, Chain, new_chain
from tests.integration.secure_broker import PASSWORD, USER, SecureBroker

#: Seconds for a service to report that it cannot connect.
SECONDS = 90

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


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Give a folder in which every user may write. The folders of pytest belong to one user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


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


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    with started_broker(SecureBroker(tmp_path_factory.mktemp("kafka"))) as broker:
        yield broker


@pytest.fixture(scope="module")
def hostile(folder: Path, secure: SecureBroker) -> Iterator[Chain]:
    """Give a chain that has processed the sample in a hostile environment, over TLS and a login."""
    require_jars("spark")
    with (
        running_hostile(folder) as run,
        new_chain(run, folder, secure, **secure.settings) as chain,
    ):
        chain.feed(SAMPLE, "max", "--hold")
        chain.start()
        chain.settle(SAMPLE, 150)
        yield chain


def test_no_variable_of_another_program_and_no_secured_connection_changes_a_result(
    hostile: Chain,
) -> None:
    assert golden.verify(SAMPLE, hostile.data) == []


def test_the_password_is_in_no_log_and_no_file(folder: Path, hostile: Chain) -> None:
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert {hostile.running[name].log for name in SCRIPTS} < files
    for path in files:
        assert PASSWORD.encode() not in path.read_bytes(), path


def test_the_first_batch_run_succeeds_in_a_hostile_environment(hostile: Chain) -> None:
    log = (hostile.data / "batch_log.txt").read_text().splitlines()
    runs = [line for line in log if "status=no_data" not in line]
    assert "status=ok" in runs[0]


def test_the_window_of_gnu_screen_is_named_once_in_each_log(hostile: Chain) -> None:
    for name in ("producer", "consumer", "spark_processor", "batch_scheduler"):
        assert hostile.running[name].text().count("WINDOW=0 is ignored") == 1


def test_the_broker_starts_in_a_hostile_environment(folder: Path) -> None:
    require_jars("kafka")
    own = folder / "broker"
    own.mkdir(mode=0o777)
    own.chmod(0o777)
    with running_hostile(own) as run:
        broker = Broker(own)
        ports = ("--port", str(broker.port), "--controller-port", str(broker.controller_port))
        run("local.kafka", "--data-dir", str(own / "kafka"), *ports)
        assert broker.new_topic()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("KAFKA_CREDENTIALS_FILE", "Check the login in KAFKA_CREDENTIALS_FILE"),
        ("KAFKA_CA_FILE", "Check KAFKA_CA_FILE"),
    ],
)
def test_a_wrong_password_or_certificate_is_named_by_every_service(
    run: Run, tmp_path: Path, secure: SecureBroker, wrong: str, words: str
) -> None:
    credentials, other = tmp_path / "credentials", tmp_path / "other.pem"
    credentials.write_text(f"{USER}\nwrong\n", encoding="utf-8")
    trustme.CA().cert_pem.write_to_path(str(other))
    files = {"KAFKA_CREDENTIALS_FILE": credentials, "KAFKA_CA_FILE": other}
    services = ("producer", "consumer", "spark_processor")
    with new_chain(run, tmp_path, secure, **secure.settings | {wrong: files[wrong]}) as chain:
        chain.start(*services)
        logs = [chain.running[service] for service in services]
        wait_until(
            lambda: all(re.search(words, log.text()) for log in logs),
            SECONDS,
            f"every service names {wrong}",
        )
        assert not [log.name for log in logs if "Traceback" in log.text()]
