"""Running without containers: the checks before a start, the programs, the cleaning."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from supervisor import events
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates

from local import announce, clean, kafka, prerequisites, programs, stack, start, supervise
from pipeline import java, processes
from pipeline.outputs import DataDir
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample" / "synthetic_btcusd.jsonl.gz"


def refusal(capsys: pytest.CaptureFixture[str], call, *arguments) -> str:
    """Return the one sentence with which a call ends the process, status 2."""
    with pytest.raises(SystemExit) as ended:
        call(*arguments)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.count("\n") == 1
    return printed


# --- prerequisites ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_401"', 8),
        ('openjdk version "25-ea" 2025-09-16', 25),
        ("Error: could not find libjava.so", None),
    ],
)
def test_the_java_version_is_read_from_the_output_of_java(output: str, version: int | None) -> None:
    assert java.version(output) == version


@pytest.mark.parametrize("version", ["11.0.2", "25.0.3"])
def test_another_java_than_17_or_21_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    fake = tmp_path / "bin" / "java"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    fake.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert f"is Java {version[:2]}. Install Java 17 or 21" in str(prerequisites.java_problem())


def test_a_missing_java_or_maven_is_reported_with_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No java on the PATH. Install Java 17 or 21" in str(prerequisites.java_problem())
    assert "No mvn (Maven) on the PATH. Install it" in str(prerequisites.maven_problem())


def test_java_home_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert f"No java in JAVA_HOME={tmp_path}. Install" in str(prerequisites.java_problem())


def test_the_prerequisites_need_no_installed_package(tmp_path: Path) -> None:
    """`make` checks them before the virtual environment exists; -S hides all packages."""
    path = os.environ | {"PATH": str(tmp_path), "JAVA_HOME": ""}
    command = [sys.executable, "-S", "-m", "local.prerequisites", "java"]
    done = subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("No java on the PATH.")) == (2, True)


# --- checks before the start ------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "abc", "80", "65536", "-9092", "9092.0"])
def test_a_port_is_a_number_from_1024_to_65535(text: str, capsys) -> None:
    assert refusal(capsys, start.parse_port, "KAFKA_PORT", "Kafka", text).startswith(
        f"KAFKA_PORT={text} is not a port"
    )


def test_a_port_in_use_is_reported_with_its_process_and_its_variable(
    capsys,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = start.Port("FEED_PORT", "the replay", server.getsockname()[1])
        printed = refusal(capsys, start.check_ports, [port])
    assert f"Port {port.number} (the replay) is in use by " in printed
    assert f"(pid {os.getpid()})" in printed
    assert "with FEED_PORT=" in printed


def test_two_services_on_one_port_are_refused(capsys) -> None:
    ports = [start.Port("KAFKA_PORT", "a", 45000), start.Port("FEED_PORT", "b", 45000)]
    assert "KAFKA_PORT and FEED_PORT are both 45000" in refusal(capsys, start.check_ports, ports)


@pytest.mark.parametrize(
    ("replay", "named"),
    [
        ((SAMPLE, "1", "2", "1800"), "SPEED=2 needs RETIME=0"),
        ((SAMPLE, "1", "max", "1800"), "SPEED=max needs RETIME=0"),
        ((SAMPLE, "0", "fast", "1800"), "SPEED=fast is not valid"),
        ((SAMPLE, "0", "-1", "1800"), "SPEED=-1 is not valid"),
        ((SAMPLE, "yes", "1", "1800"), "RETIME must be 1 (times shifted to the present) or 0"),
        ((SAMPLE, "1", "1", "-5"), "BACKLOG must be seconds, from 0 to 864000"),
        ((ROOT / "nowhere.gz", "1", "1", "1800"), "nowhere.gz"),
        ((ROOT, "1", "1", "1800"), "not a file"),
    ],
)
def test_a_replay_that_cannot_start_is_refused(replay, named: str, capsys) -> None:
    assert named in refusal(capsys, start.check_replay, *replay)


def test_a_recording_without_any_time_is_refused_before_the_start(tmp_path: Path, capsys) -> None:
    path = tmp_path / "text.txt"
    path.write_text("no message\nat all\n")
    assert "RETIME=0" in refusal(capsys, start.check_replay, path, "1", "1", "1800")
    start.check_replay(path, "0", "1", "1800")  # with its own timestamps it can be sent


@pytest.mark.parametrize("speed", ["1", "1.0", "60", "max"])
def test_without_re_timing_every_speed_is_allowed(speed: str) -> None:
    start.check_replay(SAMPLE, "0", speed, "0")


def test_a_folder_of_another_feed_is_refused(tmp_path: Path, capsys) -> None:
    start.prepare(DataDir(tmp_path), Settings(), {"kind": "live", "url": "wss://one"}, "")
    other = {"kind": "live", "url": "wss://two"}
    printed = refusal(capsys, start.prepare, DataDir(tmp_path), Settings(), other, "")
    assert "DATA_DIR=" in printed
    assert "make clean" in printed


def test_the_demo_runs_the_batch_every_minute_unless_the_user_sets_another_interval() -> None:
    data, kafka = DataDir(Path("/d")), start.Port("KAFKA_PORT", "Kafka", 9092)
    feed = programs.Feed(SAMPLE, retimed=True, speed="1", backlog="1800", port=8765)
    demo = start.environment(data, kafka, feed, batch_interval=None)
    assert demo["BATCH_INTERVAL_SECONDS"] == "60"
    assert demo["FEED_URL"] == "ws://127.0.0.1:8765"
    assert demo["DATA_DIR"] == "/d"
    assert start.environment(data, kafka, feed, batch_interval="7")["BATCH_INTERVAL_SECONDS"] == "7"
    live = start.environment(data, kafka, None, batch_interval=None)
    assert {"FEED_URL", "BATCH_INTERVAL_SECONDS"}.isdisjoint(live)


# --- the programs -----------------------------------------------------------------------------


def configured(data_dir: Path, feed: programs.Feed | None) -> ServerOptions:
    """Return the configuration as supervisor parses it."""
    text = programs.configuration(
        DataDir(data_dir),
        kafka_port=1111,
        controller_port=2222,
        dashboard_port=3333,
        feed=feed,
        product="BTC-USD",
    )
    for folder in (stack.run_folder(data_dir), stack.logs(data_dir)):
        folder.mkdir(parents=True)
    stack.configuration(data_dir).write_text(text)
    options = ServerOptions()
    options.realize(["-c", str(stack.configuration(data_dir))])
    return options


def commands(options: ServerOptions) -> dict[str, list[str]]:
    return {
        process.name: shlex.split(process.command)
        for group in options.process_group_configs
        for process in group.process_configs
    }


def test_every_path_reaches_the_programs_unchanged(tmp_path: Path) -> None:
    data_dir = tmp_path / """it's "mine", $HOME;\\#1"""
    recording = tmp_path / "my 'rec'.gz"
    feed = programs.Feed(recording, retimed=False, speed="max", backlog="0", port=4444)
    started = commands(configured(data_dir, feed))
    assert str(recording) in started["feed"]
    assert "--no-retime" in started["feed"]
    assert str(data_dir / "kafka") in started["kafka"]


@pytest.mark.parametrize("name", ["100%", "a ;b", "a #b", "a\nb"])
def test_a_path_that_supervisor_cannot_parse_is_refused(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        start.supervisor_path("DATA_DIR", Path("/d") / name)
    assert ended.value.code == 2
    assert "is not usable" in capsys.readouterr().err


def test_all_programs_but_kafka_stop_together_and_before_it(tmp_path: Path) -> None:
    first, second = sorted(
        configured(tmp_path, None).process_group_configs, key=lambda group: group.priority
    )
    assert [process.name for process in first.process_configs] == ["kafka"]
    assert {"producer", "consumer", "spark_processor", "batch_scheduler", "dashboard"} <= {
        process.name for process in second.process_configs
    }


def test_a_live_stack_has_no_replay(tmp_path: Path) -> None:
    assert "feed" not in commands(configured(tmp_path, None))


def test_an_orderly_stop_takes_at_most_ten_seconds(tmp_path: Path) -> None:
    waits = [
        max(process.stopwaitsecs for process in group.process_configs)
        for group in configured(tmp_path, None).process_group_configs
    ]
    assert sum(waits) <= 8


def test_the_socket_of_a_folder_with_a_long_path_has_a_short_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80) / ("e" * 80)
    assert len(str(stack.socket_path(deep))) < 100
    assert stack.socket_path(deep) != stack.socket_path(deep / "other")
    assert stack.socket_path(Path("/short")).is_relative_to("/short")


def test_processes_that_a_killed_stack_leaves_are_found_and_ended(
    tmp_path: Path,
) -> None:
    mark = {"SUPERVISOR_SERVER_URL": f"unix://{stack.socket_path(tmp_path)}"}
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours = subprocess.Popen(sleeping, env=os.environ | mark)
    other = subprocess.Popen(sleeping)
    try:
        found = stack.leftovers(tmp_path)
        assert [process.pid for process in found] == [ours.pid]
        processes.end(found, wait_seconds=5)
        assert not psutil.pid_exists(ours.pid)
        assert other.poll() is None
    finally:
        other.kill()
        ours.kill()


def test_only_files_written_since_the_start_are_announced(tmp_path: Path) -> None:
    file = tmp_path / "2026-01-01.csv"
    assert not announce.written_since([file], 0.0)
    file.touch()
    os.utime(file, (1000, 1000))
    assert announce.written_since([file], 1000.0)
    assert not announce.written_since([file], 1000.5)


def test_a_signal_ends_the_wait_of_supervisor_at_once() -> None:
    """With supervisor's own event loop and poller, for the signal that an ended child sends."""
    received = threading.Event()
    before = signal.signal(signal.SIGCHLD, lambda *_: received.set())
    poller = ServerOptions().poller
    wakeup = supervise.SignalWakeup()
    try:
        poller.register_readable(wakeup.fileno())
        assert poller.poll(30)[0] == [wakeup.fileno()]  # so the programs start at once
        wakeup.handle_read_event()
        assert poller.poll(0)[0] == []
        began = time.monotonic()
        subprocess.Popen(["sleep", "0.1"])
        assert poller.poll(30)[0] == [wakeup.fileno()]
        assert time.monotonic() - began < 15
        assert received.is_set()
        assert wakeup.fileno() in ServerOptions().get_socket_map()
        assert not wakeup.writable()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, before)
        wakeup.del_channel()
        os.close(wakeup.fileno())


def test_a_program_that_keeps_failing_is_retried_at_least_every_30_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With supervisor's own program and events: it adds a second to the wait for each failure."""
    supervisor = supervise.Stack(configured(tmp_path, None))
    group = supervisor.options.process_group_configs[0].make_group()
    program = next(iter(group.processes.values()))
    events.subscribe(events.ProcessStateBackoffEvent, supervisor._on_early_exit)
    waits = []
    try:
        for _ in range(50):
            program.state = ProcessStates.STARTING
            began = time.time()
            program.change_state(ProcessStates.BACKOFF)
            waits.append(round(program.delay - began))
    finally:
        events.clear()
    assert waits == [*range(1, 31), *[30] * 20]
    assert "ended soon after its start; next try in 2 s" in capsys.readouterr().out


# --- cleaning ---------------------------------------------------------------------------------


def run_clean(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["clean", "--data-dir", str(folder)])
    clean.main()


def fill(folder: Path) -> None:
    for name in ("crypto_prices.db", "crypto_prices.db-wal", "batch_log.txt", "logs/kafka.log"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_clean_removes_the_outputs_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path)
    (tmp_path / "source.json").write_text("{}")
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "s.gz").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    run_clean(monkeypatch, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "sample"]
    assert (tmp_path / "sample" / "s.gz").exists()


def test_clean_refuses_a_folder_without_source_json(tmp_path: Path, monkeypatch, capsys) -> None:
    fill(tmp_path)
    assert "source.json" in refusal(capsys, run_clean, monkeypatch, tmp_path)
    assert (tmp_path / "crypto_prices.db").exists()


def test_clean_follows_no_link_to_another_folder(tmp_path: Path, monkeypatch) -> None:
    outside, data = tmp_path / "outside", tmp_path / "data"
    outside.mkdir()
    (outside / "precious").write_text("x")
    data.mkdir()
    (data / "source.json").write_text("{}")
    (data / "logs").symlink_to(outside)
    run_clean(monkeypatch, data)
    assert (outside / "precious").exists()
    assert list(data.iterdir()) == []


# --- make help ------------------------------------------------------------------------------


def test_help_names_every_target_and_variable_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = (ROOT / "local" / "help.txt").read_text()
    variables = re.findall(r"^([A-Z_]+) \?= (.+)$", makefile, re.MULTILINE)
    assert len(variables) > 8
    for name, default in variables:
        assert f"{name}={default}" in text
    phony = re.search(r"^\.PHONY: (.+(?:\\\n.+)*)$", makefile, re.MULTILINE)
    assert phony
    targets = set(phony[1].replace("\\\n", " ").split())
    for target in targets - {"help", "venv-dev", "need-python", "need-java"}:
        assert f"make {target}" in text


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    ids = [kafka.cluster_id() for _ in range(1000)]  # one random id in 64 begins with a dash
    assert not [one for one in ids if one.startswith("-")]
    assert {len(one) for one in ids} == {22}
