"""What every service shares: backoff, status file, counters, signals, waiting."""

import csv
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

import pytest

from pipeline import outputs, service, times
from pipeline.data_dir import DataDir
from pipeline.health import health, heartbeat
from pipeline.service import Service, backoff, only_one
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 12, 2, 5, 10, tzinfo=UTC)


@pytest.fixture
def running(tmp_path: Path) -> Service:
    return Service("producer", Settings(data_dir=tmp_path))


def status_of(one: Service) -> dict[str, object]:
    return outputs.read_status(one.data, one.name)


# --- backoff --------------------------------------------------------------------------------


def test_the_backoff_doubles_up_to_its_maximum() -> None:
    limits = [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    for _ in range(200):
        for delay, limit in zip(itertools.islice(backoff(), 10), limits, strict=True):
            assert 0.25 <= delay <= limit


def test_the_backoff_has_jitter_over_its_whole_range() -> None:
    tenth = [next(itertools.islice(backoff(), 9, None)) for _ in range(500)]
    assert min(tenth) < 5
    assert max(tenth) > 25


def test_the_backoff_never_ends() -> None:
    assert all(0.25 <= delay <= 30 for delay in itertools.islice(backoff(), 5000))


def test_the_backoff_can_begin_with_a_longer_delay() -> None:
    delays = list(itertools.islice(backoff(first=2), 50))
    assert min(delays) >= 1
    assert delays[0] <= 2
    assert 15 < max(delays) <= 30


# --- status ---------------------------------------------------------------------------------


def test_a_status_has_the_name_state_counters_details_and_last_error(running: Service) -> None:
    running.counters["published"] += 3
    running.details["lag"] = 7
    running.error("the exchange sent an error: no")
    running.report("running", "publishing", healthy=True)
    status = status_of(running)
    assert (status["service"], status["state"], status["healthy"]) == ("producer", "running", True)
    assert status["message"] == "publishing"
    assert status["pid"] == os.getpid()
    assert status["counters"] == {"published": 3}
    assert status["lag"] == 7
    assert isinstance(status["last_error"], dict)
    assert status["last_error"]["text"] == "the exchange sent an error: no"
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


def test_a_change_of_the_clock_changes_no_age_of_a_heartbeat(running: Service) -> None:
    running.report("running", "publishing", healthy=True)
    for hours in (-1, 1):
        assert health(running.data, "producer", times.now() + timedelta(hours=hours)) is None


def test_a_heartbeat_is_never_in_the_future() -> None:
    for _ in range(1000):
        assert heartbeat()["monotonic_s"] <= time.monotonic()


def test_a_tick_writes_the_status_only_when_it_is_due(
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


def test_the_status_counts_the_starts(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        one = Service("producer", Settings(data_dir=tmp_path))
        one.tick(at_once=True)
        assert status_of(one)["starts"] == number


@pytest.mark.parametrize("content", ["", "{", "[]", '{"starts": "many"}', '{"starts": null}'])
def test_a_broken_status_of_an_earlier_run_is_ignored(tmp_path: Path, content: str) -> None:
    path = DataDir(tmp_path).status_of("producer")
    path.parent.mkdir()
    path.write_text(content)
    one = Service("producer", Settings(data_dir=tmp_path))
    one.tick(at_once=True)
    assert status_of(one)["starts"] == 1


def test_a_status_that_cannot_be_written_does_not_stop_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "status").write_text("a file in the place of the folder")
    one = Service("producer", Settings(data_dir=tmp_path))
    with caplog.at_level(logging.WARNING):
        one.tick(at_once=True)
    assert "cannot write" in caplog.text
    assert "producer.json" in caplog.text


def test_the_log_has_a_limited_number_of_warnings_about_messages_and_counts_the_others(
    running: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        caplog.clear()
        for number in range(1000):
            running.warn_about_message(f"rejected a message: {number} %s")
        running.log_counters()
        assert len(caplog.records) == service.MESSAGE_WARNINGS + 1
        assert caplog.messages[0] == "rejected a message: 0 %s"
    assert "unlogged_warnings 1880 (+940)" in caplog.messages[-1]


def test_the_log_line_of_the_counters_has_totals_and_increases(
    running: Service, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        running.log_counters()
        running.counters["published"] = 5
        running.counters["rejected"] = 1
        running.log_counters()
        running.counters["published"] = 7
        running.log_counters()
    texts = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert texts == [
        "nothing yet",
        "published 5 (+5), rejected 1 (+1)",
        "published 7 (+2), rejected 1 (+0)",
    ]


def test_a_record_that_could_not_be_written_is_part_of_the_next_one(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no time and no count is missing after a full disk."""
    began = time.monotonic()
    moments = iter([began + 60, began + 120, began + 180])
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    path = running.data.minutes_of("producer")
    path.mkdir(parents=True)
    for count in (5, 9):
        running.counters["published"] = count
        running.log_counters()
    path.rmdir()
    running.counters["published"] = 12
    running.log_counters()
    (row,) = csv.DictReader(path.read_text().splitlines())
    assert float(row["seconds"]) == pytest.approx(180, abs=5)
    assert json.loads(row["counters"]) == {"published": 12}


def test_a_tick_logs_the_counters_when_they_are_due(
    running: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO):
        running.tick()
        assert "totals" not in caplog.text
        later = time.monotonic() + outputs.RECORD_SECONDS
        monkeypatch.setattr(time, "monotonic", lambda: later)
        running.tick()
    assert "totals (increase since the last line)" in caplog.text


def test_a_closed_service_is_stopped_and_not_healthy(
    running: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    running.report("running", "publishing", healthy=True)
    running.close()
    assert status_of(running)["state"] == "stopped"
    assert status_of(running)["healthy"] is False
    last = caplog.records[-1]
    assert (last.levelname, last.message) == ("INFO", "stopped on request")


# --- signals --------------------------------------------------------------------------------

STUBBORN = """
import time
from pipeline.service import Service
service = Service.start("stubborn")
print("ready", flush=True)
while True:
    if service.stop.wait(0.01):
        print("asked to stop", flush=True)
        for _ in range(1200):  # a signal just before a long sleep would not interrupt it
            time.sleep(0.05)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_to_stop_and_the_second_one_ends_at_once(
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


def test_a_signal_in_the_middle_of_a_wait_for_the_stop_does_not_hang(running: Service) -> None:
    with vars(running.stop)["_cond"]:  # the main thread holds it in parts of `stop.wait`
        running._on_signal(signal.SIGTERM, None)
    assert running.stop.wait(5)


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
def test_a_temporary_error_is_retried_and_logged_as_an_error_after_a_while(
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


def test_any_other_error_is_not_retried(running: Service) -> None:
    with pytest.raises(KeyError):
        running.retrying("the database")(dict.__getitem__, {}, "x")


def test_a_service_that_was_asked_to_stop_does_not_retry(running: Service) -> None:
    def locked() -> None:
        raise sqlite3.OperationalError("database is locked")

    running.stop.set()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        running.retrying("the database")(locked)


def test_the_status_has_the_cost_of_the_service(running: Service) -> None:
    running.tick(at_once=True)
    cost = status_of(running)["cost"]
    assert isinstance(cost, dict)
    assert cost["cpu_s"] > 0
    assert cost["peak_mib"] >= cost["rss_mib"] > 5


SECOND = 'from pipeline import service; service.run("producer", lambda *_: None)'


def test_a_second_process_of_a_service_is_refused_and_changes_no_file(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    Service("producer", Settings(data_dir=tmp_path)).report("running", "first", healthy=True)
    before = data.status_of("producer").read_bytes()
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SECOND]
    with only_one(data, "producer"):
        second = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    assert second.returncode == 2
    (line,) = (line for line in second.stdout.splitlines() if " ERROR " in line)
    start = "another producer uses this DATA_DIR. Stop it, or set another DATA_DIR."
    assert line.partition("producer: ")[2].startswith(start)
    assert data.status_of("producer").read_bytes() == before
    assert not data.minutes_of("producer").exists()
    assert subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
