"""What child processes inherit, and what this project does to its own process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import environment, spark, times
from pipeline.batch import scheduler
from pipeline.data_dir import DataDir
from pipeline.settings import NAMES, Settings
from tests import page_data
from tests.conftest import ROOT

OF_OTHER_PROGRAMS = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONWARNINGS", "IPYTHON"),
    *("SPARK_HOME", "SPARK_CONF_DIR", "SPARK_REMOTE", "PYSPARK_DRIVER_PYTHON", "HADOOP_CONF_DIR"),
    *("PYSPARK_SUBMIT_ARGS", "MASTER", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"),
    *("CLASSPATH", "KAFKA_OPTS", "KAFKA_HEAP_OPTS", "BASH_ENV", "CDPATH", "STREAMLIT_SERVER_PORT"),
)


def test_a_child_inherits_no_variable_of_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OF_OTHER_PROGRAMS:
        monkeypatch.setenv(name, "anything")
    assert not environment.inherited(*NAMES).keys() & set(OF_OTHER_PROGRAMS)


def test_a_child_inherits_the_settings_and_what_programs_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = ("HOME", "https_proxy", "SSL_CERT_FILE", "LD_LIBRARY_PATH", "SUPERVISOR_SERVER_URL")
    for name in (*needed, *NAMES):
        monkeypatch.setenv(name, "anything")
    assert {*needed, *NAMES} <= environment.inherited(*NAMES).keys()


def test_a_user_without_a_name_gets_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert Path(environment.inherited()["HOME"]).is_dir()


def test_a_batch_run_gets_exactly_the_environment_of_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`env -i` removes the environment of the process that starts the command."""
    monkeypatch.setenv("SPARK_REMOTE", "sc://elsewhere")
    monkeypatch.setenv("DATA_DIR", "relative")
    monkeypatch.setenv("STORE_URL", "postgresql://other@host/prices")
    monkeypatch.setenv("BATCH_MODE", "pushdown")
    secret = Path("/srv/secret")
    settings = Settings(data_dir=Path("/srv/data"), store_password_file=secret)
    command = spark.submit_command(settings, {}, Path("job.py"))
    submit = next(place for place, word in enumerate(command) if word.endswith("/spark-submit"))
    shown = subprocess.run([*command[:submit], "env"], capture_output=True, text=True, check=True)
    variables = dict(line.split("=", 1) for line in shown.stdout.splitlines())
    assert "SPARK_REMOTE" not in variables
    assert variables["DATA_DIR"] == "/srv/data"
    assert variables["STORE_URL"] == "sqlite"
    assert variables["BATCH_MODE"] == "full"
    assert Path(variables["STORE_PASSWORD_FILE"]) == secret
    assert variables["TZ"] == "UTC"
    assert variables["PYSPARK_DRIVER_PYTHON"] == sys.executable


def python(code: str, **variables: object) -> subprocess.CompletedProcess[bytes]:
    """Run code that imports from this project."""
    texts = {name: str(value) for name, value in variables.items()}
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        env={"PATH": os.environ["PATH"]} | texts,
        capture_output=True,
        check=False,
        timeout=60,
    )


def test_the_installed_packages_come_before_those_on_pythonpath(tmp_path: Path) -> None:
    (tmp_path / "msgspec").mkdir()
    (tmp_path / "msgspec" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "only_here.py").write_text("")
    done = python("import pipeline.ingest.trade, only_here", PYTHONPATH=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8", "cp1252:strict"])
def test_any_text_can_be_printed_whatever_the_encoding_of_the_terminal(encoding: str) -> None:
    code = "import pipeline; print('\\u2192 \\u2026 \\udcff')"
    done = python(code, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == "\u2192 \u2026 \\udcff\n".encode()  # to a pipe: UTF-8


def test_time_zone_and_language_change_nothing_in_the_comparison(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    page_data.sample(data, times.now())
    code = "sys.argv[1:] = ['--json']; from pipeline.compare.__main__ import main; main()"
    plain = python(code, DATA_DIR=data.root)
    other = python(
        code,
        DATA_DIR=data.root,
        TZ="Asia/Kolkata",
        LC_ALL="tr_TR.UTF-8",
        PYTHONIOENCODING="latin-1",
    )
    assert plain.returncode == other.returncode
    assert json.loads(plain.stdout)["compared"]
    assert plain.stdout == other.stdout


# --- the folder for Java's libraries ----------------------------------------------------------


def test_java_unpacks_its_libraries_in_the_temporary_folder_if_it_may_execute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert spark.library_folder(Settings(data_dir=tmp_path / "data")) == tmp_path
    assert not (tmp_path / "data").exists()


def test_without_a_folder_that_may_execute_the_error_names_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path)

    def refuse(_folder: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(spark, "_load_from", refuse)
    monkeypatch.setattr("tempfile.tempdir", "/first")
    with pytest.raises(spark.SetupError) as error:
        spark.library_folder(settings)
    text = str(error.value)
    assert text.startswith("Java cannot load a library. Set TMPDIR to a directory ")
    assert "Tried: /first (Operation not permitted), " in text
    assert f"{settings.data_dir / 'tmp'} (Operation not permitted)" in text


# --- what Spark needs -------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with empty files for everything that Spark needs."""
    jars = ("spark-sql-kafka-0-10_2.13", "spark-token-provider-kafka-0-10_2.13", "kafka-clients")
    for name in (*jars, "commons-pool2", "sqlite-jdbc", "postgresql"):
        path = tmp_path / "jars" / "spark" / "lib" / f"{name}-1.0.jar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("bin/spark-submit", "bin/spark-class", "jars/spark-core.jar"):
        path = tmp_path / "pyspark" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
    monkeypatch.setattr(spark, "ROOT", tmp_path)
    monkeypatch.setattr(spark, "SPARK_HOME", tmp_path / "pyspark")
    return tmp_path


def test_a_complete_installation_has_a_class_path(installed: Path) -> None:
    assert len(spark.class_path()) == 7


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("jars/spark/lib/kafka-clients-1.0.jar", r"^No kafka-clients jar\. Run "),
        ("pyspark/jars/spark-core.jar", "Cannot find jars in "),
        (
            "pyspark/bin/spark-class",
            "Spark is incomplete. Install it again: .* Cannot execute .*spark-class",
        ),
    ],
)
def test_a_part_that_is_missing_is_named(installed: Path, missing: str, text: str) -> None:
    (installed / missing).unlink()
    with pytest.raises(spark.SetupError, match=text):
        spark.class_path()


@pytest.mark.parametrize(
    ("store_url", "driver"),
    [("sqlite", "sqlite-jdbc"), ("postgresql://user@host:5432/prices", "postgresql")],
)
def test_a_batch_run_needs_the_driver_of_its_store(
    installed: Path, store_url: str, driver: str
) -> None:
    (installed / "jars" / "spark" / "lib" / f"{driver}-1.0.jar").unlink()
    with pytest.raises(spark.SetupError, match=rf"^No {driver} jar\. Run "):
        scheduler.configuration(Settings(store_url=store_url), rows=1)


def test_a_spark_submit_that_cannot_be_executed_is_named(installed: Path) -> None:
    (installed / "pyspark" / "bin" / "spark-submit").chmod(0o644)
    with pytest.raises(spark.SetupError, match=r"Cannot execute .*bin/spark-submit"):
        spark.class_path()
