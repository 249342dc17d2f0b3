"""Whether a service does its job, as its status file says."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline import outputs, times
from pipeline.health import health
from pipeline.outputs import DataDir

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 12, 2, 5, 10, tzinfo=UTC)


def written(tmp_path: Path, **status: object) -> DataDir:
    data = DataDir(tmp_path)
    good = {"updated": NOW, "healthy": True, "state": "running", "message": "all is well"}
    outputs.write_status(data, "consumer", good | status)
    return data


def test_a_fresh_and_healthy_status_is_health(tmp_path: Path) -> None:
    data = written(tmp_path)
    assert health(data, "consumer", NOW + timedelta(seconds=1)) is None
    assert health(data, "consumer", NOW + timedelta(seconds=30)) is None
    assert health(data, "consumer", NOW - timedelta(seconds=5)) is None  # the clock was set back


def test_no_status_is_no_health(tmp_path: Path) -> None:
    said = health(DataDir(tmp_path), "consumer", NOW)
    assert said == "consumer has not written a status that can be read"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"updated": 5}', '{"updated": "soon"}'])
def test_a_status_that_cannot_be_read_is_no_health(tmp_path: Path, content: str) -> None:
    data = written(tmp_path)
    data.status_of("consumer").write_text(content)
    said = health(data, "consumer", NOW)
    assert said == "consumer has not written a status that can be read"


def test_a_status_without_a_zone_cannot_be_judged(tmp_path: Path) -> None:
    data = written(tmp_path, updated="2025-12-02T05:10:00")
    assert health(data, "consumer", NOW) is not None


def test_an_old_status_is_no_health_however_good_it_was(tmp_path: Path) -> None:
    data = written(tmp_path)
    said = health(data, "consumer", NOW + timedelta(seconds=30.6))
    assert said == "consumer has not been heard of for 31 s"


def test_a_service_that_cannot_do_its_job_is_unhealthy_and_says_why(tmp_path: Path) -> None:
    data = written(tmp_path, healthy=False, state="waiting for Kafka", message="no answer")
    assert health(data, "consumer", NOW) == "consumer is waiting for Kafka: no answer"


def health_check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.health", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_the_health_check_is_a_command_with_a_status_and_a_sentence(tmp_path: Path) -> None:
    written(tmp_path, updated=times.now())
    healthy = health_check("consumer", tmp_path)
    missing = health_check("producer", tmp_path)
    assert (healthy.returncode, healthy.stdout, healthy.stderr) == (0, "", "")
    assert missing.returncode == 1
    assert missing.stderr == "producer has not written a status that can be read\n"


def test_the_health_check_says_how_it_is_used() -> None:
    assert "usage: python -m pipeline.health NAME DATA_DIR" in health_check("consumer").stderr


def test_the_health_check_does_not_load_what_costs_most() -> None:
    """It runs every few seconds in every container."""
    code = "import sys, pipeline.health; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"pydantic", "pandas", "pyspark", "psutil"} & set(done.stdout.split())
