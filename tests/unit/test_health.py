"""The health check: from the status file to one sentence and an exit status."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline import http_health, outputs, times
from pipeline.data_dir import DataDir
from pipeline.health import full_disk, health, heartbeat
from tests.conftest import fill_disk

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 12, 2, 5, 10, tzinfo=UTC)
FULL = "No space left on device: free space on the disk of DATA_DIR"
QUIET = "no heartbeat from consumer for 31 s. Check that it runs, and read its log"


def written(tmp_path: Path, **status: object) -> DataDir:
    data = DataDir(tmp_path)
    good = {"updated": NOW, "healthy": True, "state": "running", "message": "all is well"}
    outputs.write_status(data, "consumer", good | status)
    return data


def test_a_service_with_a_new_and_healthy_status_is_healthy(tmp_path: Path) -> None:
    data = written(tmp_path)
    assert health(data, "consumer", NOW + timedelta(seconds=1)) is None
    assert health(data, "consumer", NOW + timedelta(seconds=30)) is None
    assert health(data, "consumer", NOW - timedelta(seconds=5)) is None  # the clock was set back


def test_a_service_without_a_status_is_unhealthy(tmp_path: Path) -> None:
    sentence = health(DataDir(tmp_path), "consumer", NOW)
    assert sentence == "consumer has no readable status file. Check that the service runs"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"updated": 5}', '{"updated": "soon"}'])
def test_a_service_with_an_unreadable_status_is_unhealthy(tmp_path: Path, content: str) -> None:
    data = written(tmp_path)
    data.status_of("consumer").write_text(content)
    sentence = health(data, "consumer", NOW)
    assert sentence == "consumer has no readable status file. Check that the service runs"


def test_a_status_time_without_a_time_zone_is_unhealthy(tmp_path: Path) -> None:
    data = written(tmp_path, updated="2025-12-02T05:10:00")
    assert health(data, "consumer", NOW) is not None


def test_a_service_with_an_old_status_is_unhealthy(tmp_path: Path) -> None:
    data = written(tmp_path)
    sentence = health(data, "consumer", NOW + timedelta(seconds=30.6))
    assert sentence == QUIET


def test_a_full_disk_is_the_reason_of_a_service_without_a_new_status(small_disk: Path) -> None:
    """No service can write its status then."""
    data = written(small_disk)
    later = NOW + timedelta(seconds=31)
    assert health(data, "consumer", later) == QUIET
    fill_disk(small_disk / "filler")
    with pytest.raises(OSError, match="No space left on device"):
        written(small_disk, updated=later)
    assert health(data, "consumer", later) == f"{FULL} (no heartbeat from consumer for 31 s)"
    no_file = f"{FULL} (producer has no readable status file)"
    assert health(data, "producer", later) == no_file
    assert health(data, "consumer", NOW) is None  # its status is new
    (small_disk / "filler").unlink()
    assert health(data, "consumer", later) == QUIET


def test_a_disk_that_can_hold_no_more_files_is_full(small_disk: Path) -> None:
    assert full_disk(small_disk) is None
    with contextlib.suppress(OSError):
        for number in range(60):
            (small_disk / str(number)).touch()
    assert full_disk(small_disk) == (
        "No inodes left on device: delete files on the disk of DATA_DIR"
    )


def test_a_directory_that_does_not_exist_is_not_on_a_full_disk(tmp_path: Path) -> None:
    assert full_disk(tmp_path / "nowhere") is None


def test_a_service_that_hangs_is_unhealthy_although_the_clock_was_set_back(
    tmp_path: Path,
) -> None:
    data = written(tmp_path, heartbeat=beat(seconds_ago=31))
    an_hour_back = NOW - timedelta(hours=1)
    assert health(data, "consumer", an_hour_back) == QUIET


def test_a_service_is_healthy_although_the_clock_was_set_ahead(tmp_path: Path) -> None:
    data = written(tmp_path, heartbeat=beat(seconds_ago=1))
    assert health(data, "consumer", NOW + timedelta(hours=1)) is None


@pytest.mark.parametrize(
    "other",
    [
        {"clock": "another boot"},
        {"clock": None},
        {"monotonic_s": "soon"},
        {"monotonic_s": None},
        {"monotonic_s": float("nan")},
        {"monotonic_s": 1e300},
    ],
)
def test_a_heartbeat_on_another_clock_is_judged_by_the_wall_clock(
    tmp_path: Path, other: dict[str, object]
) -> None:
    """It comes from another machine, or from this machine before a restart."""
    data = written(tmp_path, heartbeat=beat(seconds_ago=0) | other)
    assert health(data, "consumer", NOW + timedelta(seconds=1)) is None
    assert health(data, "consumer", NOW + timedelta(seconds=31)) is not None
    sentence = health(data, "consumer", NOW - timedelta(seconds=90))
    assert str(sentence).startswith(
        "consumer hangs, or the clock was set back: its newest heartbeat is 90 s in the future"
    )


def beat(seconds_ago: float) -> dict[str, object]:
    """Return the heartbeat of a service on this machine."""
    now = heartbeat()
    return now | {"monotonic_s": now["monotonic_s"] - seconds_ago}


def test_a_heartbeat_has_the_clock_that_all_processes_share() -> None:
    code = "import json, pipeline.health; print(json.dumps(pipeline.health.heartbeat()))"
    before = heartbeat()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    other, after = json.loads(done.stdout), heartbeat()
    assert other["clock"] == before["clock"]
    assert before["monotonic_s"] <= other["monotonic_s"] <= after["monotonic_s"]


def test_an_unhealthy_status_gives_its_state_and_message(tmp_path: Path) -> None:
    data = written(tmp_path, healthy=False, state="waiting for Kafka", message="no answer")
    assert health(data, "consumer", NOW) == "consumer (waiting for Kafka): no answer"


def health_check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.health", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_the_command_ends_with_an_exit_status_and_a_sentence(tmp_path: Path) -> None:
    written(tmp_path, updated=times.now())
    healthy = health_check("consumer", tmp_path)
    missing = health_check("producer", tmp_path)
    assert (healthy.returncode, healthy.stdout, healthy.stderr) == (0, "", "")
    assert missing.returncode == 1
    assert missing.stderr == "producer has no readable status file. Check that the service runs\n"


def test_the_command_prints_its_usage() -> None:
    assert "usage: python -m pipeline.health NAME DATA_DIR" in health_check("consumer").stderr


def test_the_command_does_not_import_slow_modules() -> None:
    """It runs every few seconds in every container."""
    code = "import sys, pipeline.health; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"pydantic", "pandas", "pyspark", "psutil", "kafka"} & set(done.stdout.split())


# --- servers ----------------------------------------------------------------------------------


class Answer(BaseHTTPRequestHandler):
    """Answers /200 with status 200 and so on."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_server_is_healthy_if_it_answers_with_status_200(port: int) -> None:
    assert http_health.problem(port, "/200") is None
    assert http_health.problem(port, "/503") == (
        f"http://127.0.0.1:{port}/503 answers with status 503. Read the log of this container"
    )


def test_a_server_that_does_not_listen_is_unhealthy(port: int) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        free = closed.getsockname()[1]
    assert str(http_health.problem(free, "/")).startswith(
        f"no answer from http://127.0.0.1:{free}/. Read the log of this container. Cause: "
    )


def test_the_check_of_a_server_uses_no_proxy(port: int) -> None:
    proxy = "http://127.0.0.1:9"  # nothing listens there
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.http_health", str(port), "/200"],
        cwd=ROOT,
        env=os.environ | {"http_proxy": proxy, "HTTP_PROXY": proxy, "all_proxy": proxy},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
