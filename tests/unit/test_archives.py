"""How the class-data archives of Spark and Kafka are made, and what happens if this fails."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline import spark
from pipeline.batch import archive
from pipeline.errors import TemporaryError
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_the_archive_is_made_on_this_machine_also_with_a_cluster_and_postgresql(
    tmp_path: Path,
) -> None:
    settings = Settings(
        spark_master="spark://nowhere.invalid:7077", store_url="postgresql://me@nowhere.invalid/x"
    )
    own = archive.settings_of_run(settings, tmp_path)
    assert spark.configuration(own, "1g", "")["spark.master"].startswith("local[")
    assert (own.store_url, own.data_dir) == ("sqlite", tmp_path)


def test_a_run_that_hangs_is_ended_with_its_children() -> None:
    began = time.monotonic()
    with pytest.raises(TemporaryError, match=r"did not end within 0\.3 s"):
        archive.run(["sh", "-c", "sleep 47.11 & wait"], 0.3)
    assert time.monotonic() - began < 15
    commands = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert ["sleep", "47.11"] not in commands


def archives_with_a_java_that_fails(
    tmp_path: Path, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m local.archives` with a Java that can only print its version."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(
        '#!/bin/sh\n[ "$1" = -version ] && echo "openjdk version \\"17.0.99-test\\"" >&2 && exit\n'
        "echo no heap for you >&2; exit 1\n"
    )
    java.chmod(0o755)
    return subprocess.run(
        [sys.executable, "-m", "local.archives"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "JAVA_HOME": str(tmp_path)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_archives_that_cannot_be_made_are_warnings_with_their_cause(tmp_path: Path) -> None:
    """`make demo` and `make run` continue."""
    done = archives_with_a_java_that_fails(tmp_path)
    assert done.returncode == 0, done.stderr
    warnings = done.stderr.splitlines()
    assert len(warnings) == 2
    todo = (
        "Warning: Starts are slower without the class-data archive. Correct the cause and run "
        "`make archive`. Everything else works. Cause: The b"
    )
    assert all(line.startswith(todo) for line in warnings)
    assert all("no heap for you" in line for line in warnings)


def test_the_window_number_of_gnu_screen_is_not_reported_here(tmp_path: Path) -> None:
    """`local.start` reports it in the same terminal."""
    done = archives_with_a_java_that_fails(tmp_path, STY="4711.pts-0.host", WINDOW="0")
    assert done.returncode == 0, done.stderr
    assert "WINDOW" not in done.stderr
