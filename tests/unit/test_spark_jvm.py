"""The private names of PySpark that the pipeline uses still exist."""

import inspect
import subprocess
from types import SimpleNamespace

import pytest
from pyspark import SparkContext, java_gateway
from pyspark.errors.exceptions.captured import CapturedException
from pyspark.sql.classic.dataframe import DataFrame

from pipeline import spark_jvm


def test_the_private_names_of_pyspark_exist() -> None:
    """The tests with Spark use all of them. This one names what is missing."""
    for name in ("_ensure_initialized", "_gateway", "_jvm"):
        assert hasattr(SparkContext, name), name
    assert "self._jdf" in inspect.getsource(DataFrame.__init__)
    assert "gateway.proc = proc" in inspect.getsource(java_gateway.launch_gateway)
    assert "self._stackTrace = " in inspect.getsource(CapturedException.__init__)


def test_without_a_session_there_is_nothing_to_kill() -> None:
    spark_jvm.kill()


def test_the_exit_status_of_java_is_known_once_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert spark_jvm.exit_status(0) is None
    with subprocess.Popen(["sh", "-c", "read line; exit 52"], stdin=subprocess.PIPE) as process:
        monkeypatch.setattr(SparkContext, "_gateway", SimpleNamespace(proc=process))
        assert spark_jvm.exit_status(0.01) is None
        assert process.stdin
        process.stdin.close()
        assert spark_jvm.exit_status(10) == 52
