"""The class-data archives of a Java runtime."""

import os
import subprocess
from pathlib import Path

import pytest

from local import prerequisites
from pipeline import java, spark
from pipeline.settings import load


def test_an_archive_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "archives" / "a.jsa"
    with java.new_archive(path) as temporary:
        temporary.write_bytes(b"classes")
        assert not path.exists()
    assert [*path.parent.iterdir()] == [path]


def test_an_archive_with_an_error_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsa"

    def fail() -> None:
        with java.new_archive(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [*tmp_path.iterdir()] == []


def test_only_the_files_of_ended_processes_are_removed(tmp_path: Path) -> None:
    """Another stack of the same checkout may be making an archive."""
    with subprocess.Popen(["true"]) as ended:
        pass
    left, used = (tmp_path / f"b.{pid}.tmp" for pid in (ended.pid, os.getppid()))
    for path in (left, used):
        path.write_bytes(b"half")
    with java.new_archive(tmp_path / "a.jsa") as temporary:
        temporary.write_bytes(b"classes")
    assert {*tmp_path.iterdir()} == {used, tmp_path / "a.jsa"}


def test_the_java_of_a_relative_java_home_is_found_from_every_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "jdk" / "bin" / "java"
    command.parent.mkdir(parents=True)
    command.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    assert java.find("jdk") == command


def test_spark_submit_gets_a_relative_java_home_as_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has another working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAVA_HOME", "jdk")
    command = spark.submit_command(load(), {}, Path("job.py"))
    assert f"JAVA_HOME={tmp_path}/jdk" in command
    assert "JAVA_HOME=jdk" not in command


def test_a_folder_of_archives_that_cannot_be_written_is_reported_with_its_cause() -> None:
    """/proc refuses new directories, also to root."""

    def make() -> None:
        with java.new_archive(Path("/proc/archives/a.jsa")):
            pass

    with pytest.raises(java.ArchiveError, match=r"Everything else works\. Cause: .*/proc/archives"):
        make()


def test_a_java_that_cannot_start_is_not_called_an_unknown_version(tmp_path: Path) -> None:
    """As with `ulimit -v`. The text is that of Java 17."""
    reason = "Could not reserve enough space for 6291456KB object heap"
    command = tmp_path / "bin" / "java"
    command.parent.mkdir()
    command.write_text(
        f"#!/bin/sh\necho 'Error occurred during initialization of VM\n{reason}'\nexit 1"
    )
    command.chmod(0o755)
    with pytest.raises(java.JavaError, match=f"Cannot run {command}.*VM {reason}"):
        java.check(tmp_path)


@pytest.mark.parametrize("slow", [True, False])
def test_the_check_before_a_start_shows_that_it_waits_for_a_slow_java(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], slow: bool
) -> None:
    command = tmp_path / "bin" / "java"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\nsleep 0.5\necho 'openjdk version \"21.0.1\"'\n")
    command.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr(prerequisites, "SLOW_SECONDS", 0.05 if slow else 60.0)
    assert prerequisites.java_problem() is None
    assert capsys.readouterr().out == f"Waiting for `{command} -version` to end\n" * slow


def test_a_java_that_ends_without_output_is_named_with_its_exit_status(tmp_path: Path) -> None:
    command = tmp_path / "bin" / "java"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\nexit 3\n")
    command.chmod(0o755)
    with pytest.raises(java.JavaError, match=r"Cause: exit status 3$"):
        java.check(str(tmp_path))
