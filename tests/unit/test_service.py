"""How a service lives: waiting, counters, its status file, its health, its end."""

import itertools
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from pipeline import outputs, service, times
from pipeline.outputs import DataDir
from pipeline.processes import FORK_SECONDS, tree_cost
from pipeline.service import Service, backoff
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 12, 2, 5, 10, tzinfo=UTC)


@pytest.fixture
def running(tmp_path: Path) -> Service:
    return Service("producer", Settings(data_dir=tmp_path))


def status_of(one: Service) -> dict[str, object]:
    return outputs.read_status(one.data, one.name)


# --- backoff --------------------------------------------------------------------------------


def test_backoff_doubles_up_to_its_cap_and_never_leaves_its_bounds() -> None:
    limits = [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    for _ in range(200):
        for delay, limit in zip(itertools.islice(backoff(), 10), limits, strict=True):
            assert 0.25 <= delay <= limit


def test_backoff_is_jittered_over_its_whole_range() -> None:
    tenth = [next(itertools.islice(backoff(), 9, None)) for _ in range(500)]
    assert min(tenth) < 5
    assert max(tenth) > 25


def test_backoff_goes_on_for_ever() -> None:
    assert all(0.25 <= delay <= 30 for delay in itertools.islice(backoff(), 5000))


def test_backoff_takes_its_own_bounds() -> None:
    delays = list(itertools.islice(backoff(first=2, cap=3), 50))
    assert min(delays) >= 1
    assert max(delays) <= 3


# --- status ---------------------------------------------------------------------------------


def test_a_status_says_who_how_since_when_and_what_was_counted(running: Service) -> None:
    running.counters["published"] += 3
    running.details["lag"] = 7
    running.error("the exchange answered: no")
    running.report("running", "all is well", healthy=True)
    status = status_of(running)
    assert (status["service"], status["state"], status["healthy"]) == ("producer", "running", True)
    assert status["message"] == "all is well"
    assert status["pid"] == os.getpid()
    assert status["counters"] == {"published": 3}
    assert status["lag"] == 7
    assert isinstance(status["last_error"], dict)
    assert status["last_error"]["text"] == "the exchange answered: no"
    age = times.now() - datetime.fromisoformat(str(status["updated"]))
    assert timedelta(0) <= age < timedelta(seconds=5)


def test_a_change_of_state_is_written_at_once_and_a_new_message_when_it_is_due(
    running: Service,
) -> None:
    running.report("running", "first", healthy=True)
    running.report("running", "second", healthy=True)
    assert status_of(running)["message"] == "first"
    running.report("running", "third", healthy=False)
    assert status_of(running)["message"] == "third"


def test_a_tick_writes_the_status_when_it_is_due_and_not_before(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "STATUS_SECONDS", 0.2)
    running.tick()
    first = status_of(running)["updated"]
    running.tick()
    assert status_of(running)["updated"] == first
    time.sleep(0.21)
    running.tick()
    assert status_of(running)["updated"] != first


def test_starts_are_counted_over_restarts(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        one = Service("producer", Settings(data_dir=tmp_path))
        one.tick(at_once=True)
        assert status_of(one)["starts"] == number


@pytest.mark.parametrize("content", ["", "{", "[]", '{"starts": "many"}', '{"starts": null}'])
def test_a_broken_status_of_a_former_life_is_no_obstacle(tmp_path: Path, content: str) -> None:
    path = DataDir(tmp_path).status_of("producer")
    path.parent.mkdir()
    path.write_text(content)
    one = Service("producer", Settings(data_dir=tmp_path))
    one.tick(at_once=True)
    assert status_of(one)["starts"] == 1


def test_a_status_that_cannot_be_written_does_not_stop_the_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "status").write_text("a file in the place of the folder")
    one = Service("producer", Settings(data_dir=tmp_path))
    with caplog.at_level(logging.WARNING):
        one.tick(at_once=True)
    assert "cannot write" in caplog.text
    assert "producer.json" in caplog.text


def test_counters_are_logged_with_what_is_new_since_the_last_line(
    running: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        running.log_counters()
        running.counters["published"] = 5
        running.counters["rejected"] = 1
        running.log_counters()
        running.counters["published"] = 7
        running.log_counters()
    said = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert said == [
        "nothing yet",
        "published 5 (+5), rejected 1 (+1)",
        "published 7 (+2), rejected 1 (+0)",
    ]


def test_counters_are_logged_by_a_tick_when_they_are_due(
    running: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        running.tick()
        assert "totals" not in caplog.text
        later = time.monotonic() + service.COUNTERS_SECONDS
        monkeypatch.setattr(time, "monotonic", lambda: later)
        running.tick()
    assert "totals (since last line)" in caplog.text


def test_a_closed_service_is_stopped_and_not_healthy(running: Service) -> None:
    running.report("running", "all is well", healthy=True)
    running.close()
    assert status_of(running)["state"] == "stopped"
    assert status_of(running)["healthy"] is False


# --- its end --------------------------------------------------------------------------------

STUBBORN = """
import time
from pipeline.service import Service
service = Service.start("stubborn")
print("ready", flush=True)
while True:
    if service.stop.wait(0.01):
        print("asked to stop", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_asks_to_stop_and_a_second_one_ends_at_once(
    tmp_path: Path, signum: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        assert any(line == "ready\n" for line in lines)
        process.send_signal(signum)
        assert any(line == "asked to stop\n" for line in lines)
        assert process.poll() is None
        process.send_signal(signum)
        assert process.wait(5) == 128 + signum
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    status = json.loads(DataDir(tmp_path).status_of("stubborn").read_text())
    assert status["state"] == "starting"


# --- waiting --------------------------------------------------------------------------------


def test_a_sleep_ends_when_the_service_is_asked_to_stop(running: Service) -> None:
    running.stop.set()
    began = time.monotonic()
    running.sleep(30)
    assert time.monotonic() - began < 1


def test_a_sleep_keeps_the_status_fresh(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STATUS_SECONDS", 0.1)
    running.tick()
    before = status_of(running)["updated"]
    running.sleep(1.2)
    assert status_of(running)["updated"] != before


@pytest.mark.parametrize("patience", [20.0, 0.0])
def test_what_fails_is_tried_again_and_an_error_only_when_it_takes_long(
    running: Service, monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    monkeypatch.setattr(service, "PATIENCE_SECONDS", patience)
    seen: list[dict[str, object]] = []

    def locked_once() -> str:
        seen.append(status_of(running))
        if len(seen) < 2:
            raise sqlite3.OperationalError("database is locked")
        return "done"

    retrying = running.retrying("the database")
    assert retrying(locked_once) == "done"
    before, after = seen
    assert before == {}
    assert (after["state"], after["healthy"]) == ("waiting for the database", False)
    assert after["message"] == "database is locked"
    if patience:
        assert after["last_error"] is None
    else:
        assert "waiting for the database: database is locked" in str(after["last_error"])


def test_another_error_is_not_tried_again(running: Service) -> None:
    with pytest.raises(KeyError):
        running.retrying("the database")(dict.__getitem__, {}, "x")


def test_a_service_asked_to_stop_tries_no_more(running: Service) -> None:
    def locked() -> None:
        raise sqlite3.OperationalError("database is locked")

    running.stop.set()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        running.retrying("the database")(locked)


# --- cost -----------------------------------------------------------------------------------

PARENT = """
import subprocess, sys
burn = "import time, sys; b = bytearray(64 << 20); t = time.process_time()\\n"
burn += "while time.process_time() - t < 0.3: pass\\n"
child = subprocess.Popen([sys.executable, "-c", burn + "print(1, flush=True); time.sleep(60)"])
subprocess.run([sys.executable, "-c", burn], check=True)
print("ended", flush=True)
child.wait()
"""


def test_the_cost_of_a_tree_counts_its_children_running_and_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = {process.stdout.readline(), process.stdout.readline()}
        assert said == {"1\n", "ended\n"}
        cpu_s, rss = tree_cost(process.pid)
        assert 0.6 <= cpu_s < 5
        assert 64 << 20 <= rss < 300 << 20
    finally:
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.stdout.close()
        process.wait(5)


def test_a_process_that_is_gone_costs_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert tree_cost(process.pid) == (0.0, 0)


def test_the_status_tells_what_the_service_costs(running: Service) -> None:
    running.tick(at_once=True)
    cost = status_of(running)["cost"]
    assert isinstance(cost, dict)
    assert cost["cpu_s"] > 0
    assert cost["peak_mib"] >= cost["rss_mib"] > 5


FORKS = """
import os, sys, time
held = bytearray(os.urandom(1)) * 200_000_000
time.sleep(float(sys.argv[1]))
if os.fork() == 0:
    time.sleep(9)
print("forked", flush=True)
time.sleep(9)
"""


def test_a_fork_that_is_yet_its_parents_copy_is_not_counted_twice() -> None:
    command = [sys.executable, "-c", FORKS, str(FORK_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        _, rss = tree_cost(parent.pid)
        for process in psutil.Process(parent.pid).children():
            process.kill()
        parent.kill()
    assert 200e6 < rss < 300e6
