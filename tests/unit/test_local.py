"""Running without containers: the checks before a start, the programs, the cleaning."""

import errno
import fcntl
import importlib.metadata
import json
import os
import pwd
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import psutil
import pytest
from kafka import errors
from supervisor import events, loggers
from supervisor.options import ServerOptions
from supervisor.process import Subprocess
from supervisor.states import ProcessStates

from feed.sample import SAMPLE
from local import (
    announce,
    clean,
    kafka,
    prerequisites,
    programs,
    stack,
    start,
    status,
    supervise,
    terminal,
    variables,
)
from local.ports import free_port, free_ports
from local.topics import CONFIGURATION, create_from
from pipeline import java, outputs, processes, text_files, times
from pipeline.data_dir import DataDir
from pipeline.errors import OperationalError, TemporaryError
from pipeline.settings import Settings, load
from tests.conftest import fill_disk

ROOT = Path(__file__).resolve().parents[2]
#: The sentence of the services about a full disk.
FULL = "No space left on device: free space on the disk of DATA_DIR"
TMP = Path("/tmp")  # noqa: S108 - the last place for a socket


def refusal(capsys: pytest.CaptureFixture[str], call, *arguments) -> str:
    """Return the one sentence with which a call ends the process, status 2."""
    with pytest.raises(SystemExit) as ended:
        call(*arguments)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.count("\n") == 1
    return printed


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove the settings that the tests' own environment may have."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


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


# --- the variables ----------------------------------------------------------------------------


def given(**options: object) -> variables.Variables:
    """Return the variables of `make demo` with the sample, in /d, after these changes."""
    chosen = {"data_dir": "/d", "recording": SAMPLE} | options
    words = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    return variables.read("test", ["demo", *words])


@pytest.mark.parametrize("text", ["", "abc", "80", "65536", "-9092", "9092.0", "²²²²"])
def test_a_port_is_a_number_from_1024_to_65535(text: str, capsys) -> None:
    assert refusal(capsys, variables.parse_port, "KAFKA_PORT", "Kafka", text).startswith(
        f"KAFKA_PORT={text} is not valid: choose a port from 1024 to 65535"
    )


def test_two_services_on_one_port_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        given(kafka_port=45000, feed_port=45000)
    assert "KAFKA_PORT and FEED_PORT are both 45000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"speed": "2"}, "SPEED=2 needs RETIME=0"),
        ({"speed": "max"}, "SPEED=max needs RETIME=0"),
        ({"retime": "0", "speed": "fast"}, "SPEED=fast is not valid"),
        ({"retime": "0", "speed": "-1"}, "SPEED=-1 is not valid"),
        ({"retime": "0", "speed": "nan"}, "SPEED=nan is not valid"),
        ({"retime": "yes"}, "RETIME must be 1 (times shifted to the present) or 0"),
        ({"backlog": "-5"}, "BACKLOG must be seconds, from 0 to 864000"),
        ({"recording": "nowhere.gz"}, "RECORDING=nowhere.gz does not exist"),
        ({"recording": ROOT}, "is a directory and not a file"),
        ({"recording": "/dev/full"}, "RECORDING=/dev/full is not a file"),
        ({"recording": ""}, "RECORDING is empty"),
        ({"data_dir": ""}, "DATA_DIR is empty"),
        ({"data_dir": SAMPLE}, f"Set DATA_DIR to a directory: {SAMPLE.name} is a file. DATA_DIR=/"),
        ({"data_dir": SAMPLE / "below"}, f"{SAMPLE.name} is a file. DATA_DIR={SAMPLE}/below. The "),
        ({"data_dir": ROOT}, "is the directory of this project"),
        ({"data_dir": "/"}, "is a system directory"),
        (
            {"data_dir": "/etc"},
            "DATA_DIR=/etc is a system directory. Set DATA_DIR to another ",
        ),
        ({"data_dir": "/etc/ssl"}, "DATA_DIR=/etc/ssl is a system directory."),
        ({"data_dir": "/bin"}, "DATA_DIR=/bin is a system directory."),
        ({"data_dir": "/root"}, "DATA_DIR=/root is a system directory."),
        ({"data_dir": "~nobody-has-this-name/x"}, "Give the full path"),
        ({"data_dir": "x" * 5000}, "name too long"),
    ],
)
def test_a_variable_that_cannot_work_is_refused_with_its_value(options, named: str, capsys) -> None:
    assert named in refusal(capsys, lambda: given(**options))


def test_an_empty_recording_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").touch()
    printed = refusal(capsys, lambda: given(recording=tmp_path / "empty"))
    assert "is an empty file. Set RECORDING to a recording." in printed


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path, capsys) -> None:
    tmp_path.chmod(0o500)
    printed = refusal(capsys, lambda: given(data_dir=tmp_path / "new"))
    assert f"Cannot write to DATA_DIR={tmp_path / 'new'}: no permission" in printed


@pytest.mark.parametrize("name", ["100%", "a ;b", "a #b", "a\nb"])
def test_a_path_that_supervisor_cannot_parse_is_refused(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        given(data_dir=Path("/d") / name)
    assert ended.value.code == 2
    assert "is not usable" in capsys.readouterr().err


@pytest.mark.parametrize("speed", ["1", "1.0", "60", "max"])
def test_without_re_timing_every_speed_is_allowed(speed: str) -> None:
    assert given(retime="0", speed=speed, backlog="0").replay


def test_a_tilde_that_the_shell_left_in_a_path_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my.gz").write_text("x")
    read = given(data_dir="~/x", recording="~/my.gz")
    assert read.data_dir == tmp_path / "x"
    assert read.replay
    assert read.replay.recording == tmp_path / "my.gz"
    root = Path(pwd.getpwuid(0).pw_dir)
    assert given(data_dir="~root/x").data_dir == root.resolve() / "x"


def test_make_checks_its_variables_before_it_installs_anything(tmp_path: Path) -> None:
    """On a copy of the sources without virtual environment and jars; -S hides all packages."""
    for name in ("Makefile", "local", "feed", "pipeline", "jars/spark/pom.xml", "requirements.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    names = ("KAFKA_PORT", "CONTROLLER_PORT", "FEED_PORT", "DASHBOARD_PORT")
    ports = [f"{name}={port}" for name, port in zip(names, free_ports(4), strict=True)]
    for java_home, options, named in (
        ("", ["RECORDING=missing.gz"], "RECORDING=missing.gz does not exist"),
        ("", [f"RECORDING={SAMPLE}", "FEED_PORT=x"], "FEED_PORT=x is not valid"),
        ("/nowhere", [f"RECORDING={SAMPLE}", *ports], "No java in JAVA_HOME=/nowhere."),
    ):
        command = ["make", "demo", "-j4", f"PYTHON={sys.executable} -S", *options]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"JAVA_HOME": java_home},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.startswith(named)
        assert "Installing" not in done.stdout
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    "variable", ["PYTHONHASHSEED", "PYTHONMALLOC", "PYTHONIOENCODING", "PYTHONTRACEMALLOC"]
)
def test_a_variable_that_keeps_python_from_starting_has_no_effect_in_make(variable: str) -> None:
    done = subprocess.run(
        ["make", "need-python", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], variable: "abc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_python_that_does_not_start_is_not_called_old(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Fatal Python error: no module encodings' >&2\nexit 1\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "need-python", f"PYTHON={python}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "Fatal Python error: no module encodings\n"
        f"{python} does not start. The lines above give the cause. Correct it, or set PYTHON to "
        "another Python\n"
    )


def test_make_makes_the_environment_again_after_an_upgrade_of_python(tmp_path: Path) -> None:
    """Then `.venv/bin/python` runs another version, for which .venv has no packages and no pip."""
    for name in ("Makefile", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    calls, python = tmp_path / "calls", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(calls))}\n')
    python.chmod(0o755)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (tmp_path / ".venv" / ".made").touch()

    def make() -> subprocess.CompletedProcess[str]:
        calls.write_text("")
        command = ["make", "venv", f"PYTHON={python}"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    again = "-m venv --clear .venv\n"
    assert "Installing requirements.txt" in make().stdout
    assert again in calls.read_text()
    (packages,) = (tmp_path / ".venv" / "lib").glob("python*/site-packages")
    (packages / "pip.py").touch()
    done = make()
    assert (done.returncode, "Installing" in done.stdout) == (0, False)
    assert again not in calls.read_text()
    (tmp_path / ".venv" / "bin" / "python").unlink()
    make()
    assert again in calls.read_text()


def test_before_the_installation_a_busy_port_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ports = [f"--dashboard-port={port}", "--kafka-port=45001", "--controller-port=45002"]
        monkeypatch.setattr(sys, "argv", ["variables", "run", "--data-dir=/d", *ports])
        variables.main()  # installed: `local.start` checks it
        monkeypatch.setattr(variables, "INSTALLED", Path("/nowhere"))
        printed = refusal(capsys, variables.main)
    assert f"Port {port} (the page) is in use" in printed
    assert "with DASHBOARD_PORT=" in printed


def test_kafka_reports_an_overload_only_after_a_second() -> None:
    """Kafka logs an error when a heartbeat waits for half the interval. It refuses a session that
    is shorter than two intervals."""
    settings = dict(line.split("=", 1) for line in kafka.server_properties(1, 2).splitlines())
    interval = int(settings["broker.heartbeat.interval.ms"])
    assert interval / 2 >= 1000
    assert 2 * interval <= int(settings["broker.session.timeout.ms"])


# --- checks before the start ------------------------------------------------------------------


def test_a_port_in_use_is_reported_with_its_process_and_its_variable(
    capsys,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = variables.Port("FEED_PORT", "the replay", server.getsockname()[1])
        printed = refusal(capsys, start.check_ports, [port])
    assert f"Port {port.number} (the replay) is in use by " in printed
    assert f"(pid {os.getpid()})" in printed
    assert "with FEED_PORT=" in printed


@pytest.mark.parametrize("retime", ["0", "1"])
def test_a_recording_without_a_trade_is_refused_with_what_it_has(
    tmp_path: Path, capsys, retime: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("no message\nat all\n")
    replay = given(recording=path, retime=retime).replay
    assert replay
    printed = refusal(capsys, start.check_recording, replay, "BTC-USD")
    assert "no usable trade of BTC-USD. Choose a recording" in printed
    assert "This recording has only lines of text (2)" in printed
    assert "no usable trade of ETH-USD" in refusal(capsys, start.check_recording, replay, "ETH-USD")


def test_a_folder_of_another_feed_is_refused(tmp_path: Path, capsys) -> None:
    read = given(data_dir=tmp_path)
    socket_path = stack.socket_path(tmp_path)
    start.prepare(read, load(), {"kind": "live", "url": "wss://one"}, socket_path)
    other = {"kind": "live", "url": "wss://two"}
    printed = refusal(capsys, start.prepare, read, load(), other, socket_path)
    assert "DATA_DIR=" in printed
    assert "make clean" in printed
    eth, same = Settings(product_id="ETH-USD"), {"kind": "live", "url": "wss://one"}
    assert "Set PRODUCT_ID=BTC-USD" in refusal(capsys, start.prepare, read, eth, same, socket_path)


def test_a_folder_that_another_program_filled_is_refused(tmp_path: Path, capsys) -> None:
    """`make clean` would remove what it holds."""
    (tmp_path / "logs").mkdir()
    feed = {"kind": "live", "url": "wss://one"}
    socket_path = stack.socket_path(tmp_path)
    printed = refusal(capsys, start.prepare, given(data_dir=tmp_path), load(), feed, socket_path)
    assert printed.startswith("DATA_DIR has logs and no source.json, so another program may have ")
    assert f"Set DATA_DIR to another directory. DATA_DIR={tmp_path}" in printed


def test_a_damaged_source_json_that_the_user_moved_away_is_written_again(tmp_path: Path) -> None:
    """The error message for such a file asks the user to do this."""
    data = DataDir(tmp_path)
    feed: dict[str, object] = {"kind": "live", "url": "wss://one"}
    socket_path = stack.socket_path(tmp_path)
    start.prepare(given(data_dir=tmp_path), load(), feed, socket_path)
    before = data.source.read_text()
    data.source.unlink()
    start.prepare(given(data_dir=tmp_path), load(), feed, socket_path)
    assert data.source.read_text() == before


def test_a_report_from_before_the_first_start_is_no_other_program(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    feed: dict[str, object] = {"kind": "live", "url": "wss://one"}
    data.report.mkdir()
    for name in ("report.md", "report.html"):
        (data.report / name).touch()
    start.prepare(given(data_dir=tmp_path), load(), feed, stack.socket_path(tmp_path))
    assert data.source.exists()


def test_the_demo_runs_the_batch_every_minute_unless_the_user_sets_another_interval(
    no_settings: pytest.MonkeyPatch,
) -> None:
    demo = start.environment(given(kafka_port=9999), load())
    assert demo["BATCH_INTERVAL_SECONDS"] == "60"
    assert demo["FEED_URL"] == "ws://127.0.0.1:8765"
    assert demo["FEED_REST_URL"] == "http://127.0.0.1:8765"  # even if the user set another one
    assert demo["DATA_DIR"] == "/d"
    assert demo["KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:9999"
    live = start.environment(variables.read("test", ["run", "--data-dir=/d"]), load())
    assert {"FEED_URL", "FEED_REST_URL", "BATCH_INTERVAL_SECONDS"}.isdisjoint(live)
    no_settings.setenv("BATCH_INTERVAL_SECONDS", "7")
    assert "BATCH_INTERVAL_SECONDS" not in start.environment(given(), load())  # inherited


def test_the_data_dir_in_the_environment_of_every_process_is_absolute(
    tmp_path: Path, no_settings: pytest.MonkeyPatch
) -> None:
    no_settings.chdir(tmp_path)
    environment = start.environment(given(data_dir="data"), load())
    assert environment["DATA_DIR"] == f"{tmp_path.resolve()}/data"


def test_the_broker_of_the_user_is_used_and_none_is_started(
    tmp_path: Path, no_settings: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as broker:
        servers = f"nowhere.invalid:1,127.0.0.1:{broker.getsockname()[1]}"
        no_settings.setenv("KAFKA_BOOTSTRAP_SERVERS", servers)
        read = given(data_dir=tmp_path)
        assert read.broker is None
        assert [port.variable for port in read.ports] == ["FEED_PORT", "DASHBOARD_PORT"]
        assert start.environment(read, load())["KAFKA_BOOTSTRAP_SERVERS"] == servers
        _, kafka, _ = start.introduction(read, load())
        assert kafka.startswith(f"Kafka: {servers} (KAFKA_BOOTSTRAP_SERVERS is set")
    *_, warning, _ = start.introduction(read, load())
    assert warning == f"No broker answers on {servers} yet. The services wait for it."
    groups = configured(read).process_group_configs
    assert [group.name for group in groups] == ["pipeline"]
    no_settings.setenv("KAFKA_BOOTSTRAP_SERVERS", "")  # an empty setting is no setting
    assert given().broker


def test_ctrl_c_during_the_imports_of_the_start_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`local.start` restores the system's handler before the first import of another package."""
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setitem(sys.modules, "psutil", None)
    try:
        with pytest.raises(ImportError, match="psutil"):
            runpy.run_path(str(start.__file__), run_name="__main__")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, handler)


def test_the_start_blocks_the_stop_signals_only_after_it_looked_for_a_broker(
    tmp_path: Path, no_settings: pytest.MonkeyPatch
) -> None:
    """The supervisor starts with blocked signals. `introduction` looks for the user's broker."""
    blocked, seen = signal.pthread_sigmask(signal.SIG_BLOCK, []), []
    given_variables = variables.read("test", ["run", f"--data-dir={tmp_path}"])

    def blocked_now(*_: object) -> list[str]:
        seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return []

    no_settings.chdir(tmp_path)
    no_settings.setattr(start, "read", lambda _: given_variables)
    for owner, name in ((start, "check_ports"), (terminal, "write_through"), (stack, "lock")):
        no_settings.setattr(owner, name, lambda *_: None)
    no_settings.setattr(start, "introduction", blocked_now)
    no_settings.setattr(os, "execve", blocked_now)
    try:
        start.main()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert seen == [blocked, blocked | stack.STOP_SIGNALS]


# --- the lock of a folder ---------------------------------------------------------------------


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Lock a folder in another process, which then becomes another program; give its pid."""
    code = (
        "import os, sys; from pathlib import Path; from local import stack;"
        "stack.lock(Path(sys.argv[1]), 'make demo'); print(flush=True);"
        "os.execvp('sleep', ['sleep', '60'])"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_folder_is_locked_for_every_path_to_it_until_its_process_is_killed(
    tmp_path: Path, capsys
) -> None:
    folder = tmp_path / ("d" * 60) / ("e" * 60)
    (tmp_path / "link").symlink_to(folder)
    assert not stack.is_running(folder)
    with locked(folder) as pid:
        for path in (folder, tmp_path / "link"):
            assert stack.is_running(path)
            printed = refusal(capsys, stack.lock, path, "make run")
            assert printed.startswith("A stack already runs on DATA_DIR: stop it with Ctrl-C")
            assert f"(make demo, pid {pid}, since 20" in printed
    assert not stack.is_running(folder)
    with locked(folder) as other:
        assert other != pid


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare, to mount a disk")
def test_a_bind_mount_leads_to_the_same_lock(tmp_path: Path) -> None:
    folder, mounted = tmp_path / "folder", tmp_path / "mounted"
    folder.mkdir()
    mounted.mkdir()
    code = "import sys; from pathlib import Path; from local import stack;"
    code += "print(stack.is_running(Path(sys.argv[1])))"
    script = 'mount --bind "$1" "$2" || exit 77; exec "$3" -c "$4" "$2"'
    words = [str(folder), str(mounted), sys.executable, code]
    with locked(folder):
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode in (1, 77):
        pytest.skip(f"no mount is possible here: {done.stderr}")
    assert done.stdout == "True\n", done.stderr


def test_two_starts_at_once_give_one_stack_and_one_sentence(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from local import stack;"
        "stack.lock(Path(sys.argv[1]), 'make demo'); print('locked', flush=True); time.sleep(2)"
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    ended = [(*start.communicate(), start.returncode, start.pid) for start in starts]
    (winner,) = (pid for out, _, _, pid in ended if out == "locked\n")
    for _, printed, exit_status, pid in ended:
        if pid != winner:
            assert exit_status == 2
            assert f"(make demo, pid {winner}, since" in printed
            assert printed.count("\n") == 1


# --- the programs -----------------------------------------------------------------------------


def test_the_installed_supervisor_is_the_checked_version() -> None:
    """After an upgrade: read the classes that `supervise` extends, then change CHECKED_VERSION."""
    assert importlib.metadata.version("supervisor") == supervise.CHECKED_VERSION


def configured(read: variables.Variables) -> ServerOptions:
    """Return the configuration as supervisor parses it."""
    folder = read.data_dir
    for each in (stack.run_folder(folder), stack.logs(folder)):
        each.mkdir(parents=True, exist_ok=True)
    text = programs.configuration(read, stack.socket_path(folder), "BTC-USD")
    stack.configuration(folder).write_text(text)
    options = supervise.Options()
    options.realize(["-c", str(stack.configuration(folder))])
    return options


def live(folder: Path) -> variables.Variables:
    return variables.read("test", ["run", f"--data-dir={folder}"])


def commands(options: ServerOptions) -> dict[str, list[str]]:
    return {
        process.name: shlex.split(process.command)
        for group in options.process_group_configs
        for process in group.process_configs
    }


def test_every_path_reaches_the_programs_unchanged(tmp_path: Path) -> None:
    data_dir = tmp_path / """it's "mine", $HOME;\\#1"""
    recording = tmp_path / "my 'rec'.gz"
    recording.write_text("x")
    read = given(data_dir=data_dir, recording=recording, retime="0", speed="max", backlog="0")
    started = commands(configured(read))
    assert str(recording) in started["feed"]
    assert "--no-retime" in started["feed"]
    assert str(data_dir / "kafka") in started["kafka"]


def test_all_programs_but_kafka_stop_together_and_before_it(tmp_path: Path) -> None:
    first, second = sorted(
        configured(live(tmp_path)).process_group_configs, key=lambda group: group.priority
    )
    assert [process.name for process in first.process_configs] == ["kafka"]
    assert {"producer", "consumer", "spark_processor", "batch_scheduler", "dashboard"} <= {
        process.name for process in second.process_configs
    }


def test_a_live_stack_has_no_replay(tmp_path: Path) -> None:
    assert "feed" not in commands(configured(live(tmp_path)))


def test_an_orderly_stop_takes_at_most_ten_seconds(tmp_path: Path) -> None:
    waits = [
        max(process.stopwaitsecs for process in group.process_configs)
        for group in configured(live(tmp_path)).process_group_configs
    ]
    assert sum(waits) <= 8


def test_the_socket_is_in_the_folder_or_where_a_socket_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    short = Path(tempfile.mkdtemp(prefix="s", dir=TMP))
    deep = tmp_path / ("d" * 80) / ("e" * 80)
    for folder in (short, deep):
        stack.run_folder(folder).mkdir(parents=True)
    assert stack.socket_path(short) == short / "run" / "stack.sock"
    assert list(stack.run_folder(short).iterdir()) == []  # the attempt leaves nothing
    shutil.rmtree(short)
    elsewhere = stack.socket_path(deep)
    assert elsewhere.parent in (Path(tempfile.gettempdir()), TMP)
    assert stack.socket_path(deep / "other") != elsewhere
    # A folder of devices refuses sockets, even from root. So does the one for temporary files.
    monkeypatch.setattr(stack, "run_folder", lambda _: Path("/dev/pts"))
    monkeypatch.setattr(tempfile, "tempdir", "/dev/pts")
    assert stack.socket_path(short).parent == TMP
    monkeypatch.setattr(stack, "SOCKET_PATH_BYTES", 10)
    assert "Set TMPDIR to a directory with a short path" in refusal(
        capsys, stack.socket_path, short
    )


@pytest.mark.parametrize("through_a_link", [False, True])
def test_processes_that_a_killed_stack_leaves_are_found_and_ended(
    tmp_path: Path, through_a_link: bool
) -> None:
    folder, link = tmp_path / "data", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]

    def started(address: str, data_dir: Path) -> subprocess.Popen[bytes]:
        mark = {"SUPERVISOR_SERVER_URL": f"unix://{address}", "DATA_DIR": str(data_dir)}
        return subprocess.Popen(sleeping, env=os.environ | mark)

    ours = started(str(stack.run_folder(folder) / "stack.sock"), folder)
    moved = started(f"{TMP}/stream-vs-batch-0123456789abcdef-0.sock", link)
    others = [
        started("/run/supervisor.sock", folder),  # the user's own supervisor
        started(str(stack.run_folder(folder) / "stack.sock"), tmp_path),
        subprocess.Popen(sleeping),
    ]
    try:
        found = stack.leftovers(link if through_a_link else folder)
        assert {process.pid for process in found} == {ours.pid, moved.pid}
        processes.end(found, wait_seconds=5)
        assert not psutil.pid_exists(ours.pid)
        assert [other.poll() for other in others] == [None] * 3
    finally:
        for process in (ours, moved, *others):
            process.kill()
            process.wait()


def test_the_status_of_a_killed_stack_names_the_processes_that_still_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(sys, "argv", ["status", "--data-dir", str(tmp_path)])
    assert "No stack runs on DATA_DIR: start one with" in refusal(capsys, status.main)
    address = f"unix://{stack.run_folder(tmp_path)}/stack.sock"
    mark = {"SUPERVISOR_SERVER_URL": address, "DATA_DIR": str(tmp_path)}
    with subprocess.Popen(["sleep", "60"], env=os.environ | mark) as left:
        try:
            printed = refusal(capsys, status.main)
        finally:
            left.kill()
    assert "Some of its processes still run." in printed
    assert f"Their pids: {left.pid}." in printed


def test_the_status_names_a_full_disk(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Supervisor reports RUNNING for services that cannot write."""
    monkeypatch.setattr(sys, "argv", ["status", "--data-dir", str(small_disk)])
    monkeypatch.setattr(status, "absolute_path", lambda _, text: Path(text))
    monkeypatch.setattr(stack, "is_running", lambda _: True)
    monkeypatch.setattr(status, "processes", lambda _: [])
    monkeypatch.setattr(status, "write_through", lambda: None)
    status.main()
    (first,) = capsys.readouterr().out.splitlines()
    fill_disk(small_disk / "filler")
    status.main()
    assert capsys.readouterr().out.splitlines() == [first, FULL]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "RUNNING   pid 7, since 2026-03-01 13:05:09 UTC"),
        (
            {"state": 100, "statename": "EXITED"},
            "EXITED    ended 2026-03-01 13:06:10 UTC, exit status 2",
        ),
        ({"state": 0, "statename": "STOPPED", "start": 0}, "STOPPED"),
        (
            {"state": 30, "statename": "BACKOFF"},
            "BACKOFF   fails after its start. Read /logs/consumer.log",
        ),
        (
            {"state": 30, "statename": "BACKOFF", "spawnerr": "unknown error during fork: ENOMEM"},
            "BACKOFF   unknown error during fork: ENOMEM",
        ),
        ({"state": 10, "statename": "STARTING"}, "STARTING"),
    ],
)
def test_a_row_of_the_status_has_its_times_in_utc_with_24_hours(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], text: str
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    process = {"name": "consumer", "state": 20, "statename": "RUNNING", "pid": 7}
    process |= {"start": 1772370309, "stop": 1772370370, "exitstatus": 2}
    process |= {"spawnerr": "Exited too quickly", "logfile": "/logs/consumer.log"}
    try:
        assert status.row(process | changes) == f"{'consumer':<18}{text}"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_supervisor_that_does_not_answer_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(sys, "argv", ["status", "--data-dir", str(tmp_path)])
    stack.lock_path(tmp_path).parent.mkdir()
    with stack.lock_path(tmp_path).open("w") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        assert "The supervisor does not answer" in refusal(capsys, status.main)
        address = f"unix://{stack.run_folder(tmp_path)}/100%.sock".replace("%", "%%")
        stack.configuration(tmp_path).write_text(f"[supervisorctl]\nserverurl={address}\n")
        assert "FileNotFoundError" in refusal(capsys, status.main)


@pytest.mark.parametrize(
    ("states", "announced", "what"),
    [
        ({}, (), "waiting for Kafka"),
        ({"producer": "stopped", "spark_processor": "stopped"}, (), "waiting for Kafka"),
        ({"producer": "waiting for Kafka", "spark_processor": "running"}, (), "waiting for Kafka"),
        ({"producer": "running", "spark_processor": "starting"}, (), "starting Spark"),
        ({"producer": "running", "spark_processor": "running"}, (), "starting the page"),
        (
            {"producer": "running", "spark_processor": "running"},
            ("page ready: x",),
            "waiting for the first final window",
        ),
        (
            {"producer": "running", "spark_processor": "running"},
            ("page ready: x", "first new final window of the stream: x"),
            "waiting for the first batch result",
        ),
    ],
)
def test_a_start_names_what_it_waits_for(
    tmp_path: Path, states: dict[str, str], announced: tuple[str, ...], what: str
) -> None:
    data = DataDir(tmp_path)
    for service, state in states.items():
        outputs.write_status(data, service, {"state": state})
    assert announce.waiting_for(data, announced) == what


def test_the_progress_of_a_start_is_printed_every_few_seconds_and_later_rarely() -> None:
    progress = announce.Progress()
    lines = [progress.line("waiting for Kafka", seconds / 2) for seconds in range(24)]
    printed = [line for line in lines if line]
    assert printed == [f"waiting for Kafka ({n} s after the start)" for n in (0, 3, 6, 9)]
    assert progress.line("starting Spark", 12.0) == "starting Spark (12 s after the start)"
    assert progress.line("starting Spark", 40.0)
    assert not progress.line("starting Spark", 65.0)
    assert progress.line("starting Spark", 70.0)


def test_a_change_of_the_wall_clock_does_not_change_the_seconds_since_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wall clock is set back by an hour while the start waits."""
    wall, seconds = iter([9000.0, *[5400.0] * 99]), iter(range(100, 199))
    clock = SimpleNamespace(
        time=lambda: next(wall), monotonic=lambda: float(next(seconds)), sleep=lambda _: None
    )
    happened = iter([[], ["a"], ["a", "b", "c"]])
    monkeypatch.setattr(announce, "time", clock)
    monkeypatch.setattr(announce, "events", lambda *_: next(happened))
    monkeypatch.setattr(
        sys, "argv", ["announce", "--data-dir", str(tmp_path), "--dashboard-port", "1"]
    )
    announce.main()
    assert capsys.readouterr().out.splitlines() == [
        "waiting for Kafka (1 s after the start)",
        "a (2 s after the start)",
        "b (4 s after the start)",
        "c (5 s after the start)",
    ]


def test_status_into_a_closed_pipe_prints_no_traceback(tmp_path: Path) -> None:
    """As in `make status | head`: the reader ends before the status is printed."""
    folder = tmp_path / "data"
    folder.mkdir()
    reader, writer = os.pipe()
    os.close(reader)
    code = (
        "from local import stack, status\n"
        "stack.is_running = lambda *_: True\n"
        "stack.holder = lambda *_: 'pid 1'\n"
        "process = {'name': 'consumer', 'state': 10, 'statename': 'STARTING'}\n"
        "status.processes = lambda *_: 3 * [process]\n"
        "status.main()\n"
    )
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code, "--data-dir", str(folder)],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_only_files_written_since_the_start_are_announced(tmp_path: Path) -> None:
    file = tmp_path / "2026-01-01.csv"
    assert not announce.written_since([file], 0.0)
    file.touch()
    os.utime(file, (1000, 1000))
    assert announce.written_since([file], 1000.0)
    assert not announce.written_since([file], 1000.5)


@pytest.mark.parametrize(
    ("counters", "announced"),
    [
        ({}, False),
        ({"final_windows": 0}, False),
        ({"final_windows": 1}, True),
        ("damaged", False),
    ],
)
def test_a_repaired_file_of_the_stream_is_not_a_new_final_window(
    tmp_path: Path, counters: object, announced: bool
) -> None:
    data = DataDir(tmp_path)
    outputs.write_status(data, "spark_processor", {"state": "starting", "counters": counters})
    text_files.write_atomically(data.stream_csv / "2026-01-01.csv", "")
    found = announce.events(data, free_port(), 0.0)
    assert found == [f"{announce.FINAL}: {data.stream_csv}"] * announced


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


def test_what_supervisor_refuses_is_one_sentence_without_its_own_options(
    tmp_path: Path, capsys
) -> None:
    options = configured(live(tmp_path))
    options.minfds = 2**40
    printed = refusal(capsys, options.set_rlimits_or_exit)
    todo = "Cannot start the supervisor. Increase the limit: `ulimit -n` for files, "
    assert printed.startswith(todo)
    assert "Cause: The minimum number of file descriptors" in printed


def test_a_supervisor_whose_directories_disappear_names_the_settings(
    tmp_path: Path, capsys
) -> None:
    text = programs.configuration(live(tmp_path), tmp_path / stack.SOCKET, "BTC-USD")
    (tmp_path / "conf").write_text(text)
    options = supervise.Options()
    assert refusal(capsys, options.realize, ["-c", str(tmp_path / "conf")]).startswith(
        "Cannot start the supervisor. Set DATA_DIR and TMPDIR to directories on a local disk. "
        "Cause: "
    )


def test_a_second_supervisor_on_a_data_directory_names_the_first(tmp_path: Path, capsys) -> None:
    options = supervise.Options()
    cause = "Another program is already listening on a port that one of our HTTP servers is"
    assert refusal(capsys, options.usage, cause).startswith(
        "Cannot start the supervisor. Stop the other supervisor on this DATA_DIR. Cause: Another "
    )


def test_a_log_whose_folder_disappears_loses_lines_and_continues_when_it_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in the middle of a rotation, which closes the file before it opens the next one."""
    folder = tmp_path / "logs"
    folder.mkdir()
    written = supervise.Log()
    loggers.handle_file(
        written, str(folder / "a.log"), "%(message)s\n", rotating=True, maxbytes=100, backups=1
    )
    shutil.rmtree(folder)
    for _ in range(30):
        written.info("a line of twenty chars")
    folder.mkdir()
    for number in range(3):
        written.info(f"back {number}")
    assert (folder / "a.log").read_text() == "back 1\nback 2\n"  # the first one opened the file
    written.close()
    assert capsys.readouterr() == ("", "")


def test_a_program_that_keeps_failing_is_retried_at_least_every_30_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With supervisor's own program and events: it adds a second to the wait for each failure."""
    supervisor = supervise.Stack(configured(live(tmp_path)))
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
    named = re.findall(
        r"ended soon after its start\. Next attempt in (\d+) s", capsys.readouterr().out
    )
    assert [int(wait) for wait in named] == waits


Programs = Mapping[str, Subprocess]


@pytest.fixture
def stack_programs(tmp_path: Path) -> Iterator[Programs]:
    """Supervisor's own objects of the programs, whose events the stack receives."""
    supervisor = supervise.Stack(configured(live(tmp_path)))
    supervisor.options.make_logger()
    (group,) = (
        each for each in supervisor.options.process_group_configs if each.name == "pipeline"
    )
    events.subscribe(events.ProcessStateExitedEvent, supervisor._on_exit)
    events.subscribe(events.ProcessStateBackoffEvent, supervisor._on_early_exit)
    events.subscribe(events.ProcessStateRunningEvent, supervisor._on_running)
    stack.logs(tmp_path).mkdir(exist_ok=True)
    yield group.make_group().processes
    events.clear()
    supervisor.options.logger.close()


@pytest.fixture
def topics(stack_programs: Programs) -> Subprocess:
    return stack_programs["topics"]


def end(program: Subprocess, status: int, after_s: float = 0.5) -> None:
    """Let supervisor collect the exit status of a program; below 0: the signal that killed it."""
    early = after_s < program.config.startsecs or program.config.startsecs == 0
    program.state = ProcessStates.STARTING if early else ProcessStates.RUNNING
    program.laststart, program.pid = time.time() - after_s, 4711
    wait_status = -status if status < 0 else status << 8
    program.config.options.wait_status = wait_status
    program.finish(program.pid, wait_status)


def test_topics_that_cannot_be_created_now_are_tried_again_at_growing_intervals(
    topics: Subprocess, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = []
    for _ in range(40):
        began = time.time()
        end(topics, status=1)
        assert topics.state == ProcessStates.BACKOFF
        waits.append(round(topics.delay - began))
    assert waits == [*range(1, 31), *[30] * 10]
    end(topics, status=0)
    assert topics.state == ProcessStates.EXITED
    *failures, last = capsys.readouterr().out.splitlines()
    assert len(failures) == len(waits)
    assert "topics failed. Next attempt in 2 s (log: " in failures[1]
    assert last.endswith("topics has succeeded")


def printed_without_time(capsys: pytest.CaptureFixture[str], program: str) -> str:
    """Return the one line that the stack printed about a program, without its time and name."""
    (line,) = capsys.readouterr().out.splitlines()
    return str(line.partition(f" UTC  {program} ")[2])


def test_topics_that_a_mistake_of_the_user_prevents_are_reported_once_with_the_cause(
    topics: Subprocess, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "KAFKA_MIN_INSYNC_REPLICAS=2 must not be above KAFKA_REPLICATION_FACTOR=1"
    Path(topics.config.stdout_logfile).write_text(f"of an earlier start\n{sentence}\n")
    end(topics, status=2)
    topics.transition()
    assert (topics.state, topics.pid) == (ProcessStates.EXITED, 0)
    line = printed_without_time(capsys, "topics")
    assert line.startswith(f"failed: {sentence}. After the correction, start the stack again (")


#: What a service logs at its end, without the date: {0} is the hour.
LOGGED = """\
2026-03-01T{0}:00:00.000Z INFO    producer: starting; settings that differ from their defaults: 0
2026-03-01T{0}:00:01.000Z ERROR   producer: KAFKA_CREDENTIALS_FILE is not set. Set it to a file.
2026-03-01T{0}:00:01.001Z INFO    producer: totals (increase since the last line): nothing yet
2026-03-01T{0}:00:01.002Z WARNING producer: failed: KAFKA_CREDENTIALS_FILE is not set. Set it to
"""
KAFKA_LOGGED = """\
2026-03-01T12:00:00.000Z INFO    kafka: starting (KafkaRaftServer)
2026-03-01T12:00:01.000Z ERROR   kafka: Exiting Kafka due to fatal exception (Kafka$)
java.lang.IllegalStateException: a cause
\tat kafka.Kafka$.main(Kafka.scala:87)
"""
TOLD = "KAFKA_CREDENTIALS_FILE is not set. Set it to a file."


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (LOGGED.format(12), TOLD),
        (LOGGED.format(12) + "WARNING: a line of Java that comes later\n", TOLD),
        (LOGGED.format(10), ""),  # of an earlier start
        (LOGGED.format(10) + LOGGED.format(12).splitlines()[0], ""),
        (LOGGED.format(10) + "2026-03-01T12:0", ""),  # cut off: the disk is full
        (LOGGED.format(10) + "STORE_URL=x is not valid\n\n", "STORE_URL=x is not valid"),
        (
            KAFKA_LOGGED,
            (
                "Exiting Kafka due to fatal exception (Kafka$). "
                "Cause: java.lang.IllegalStateException: a cause"
            ),
        ),
        (LOGGED.format(12).splitlines()[1] + "\nWARNING: a line of Java\n", TOLD),
        ("", ""),
    ],
)
def test_the_last_error_of_a_log_is_one_that_the_program_wrote_since_its_start(
    text: str, error: str, tmp_path: Path
) -> None:
    start = datetime(2026, 3, 1, 11, tzinfo=UTC).timestamp()
    log = tmp_path / "a.log"
    log.write_text(text)
    assert supervise.last_error(log, start) == error


def test_a_log_that_was_not_written_since_the_start_has_no_error_of_it(tmp_path: Path) -> None:
    """On a full disk, supervisor loses the lines."""
    log = tmp_path / "a.log"
    assert supervise.last_error(log, 0) == ""
    log.write_text("STORE_URL=x is not valid\n")
    written = log.stat().st_mtime
    assert supervise.last_error(log, written) == "STORE_URL=x is not valid"
    assert supervise.last_error(log, written + 0.5) == ""


#: How a program ends, its log, and what the stack prints. {} is the time of a log line.
ENDS = [
    (
        2,
        "{} ERROR   producer: KAFKA_CREDENTIALS_FILE is not set. Set it to a file.\n",
        "failed: KAFKA_CREDENTIALS_FILE is not set. Set it to a file. Next attempt in 1 s (log: /",
    ),
    (1, "{} INFO    producer: starting\n", "ended soon after its start. Next attempt in 1 s"),
    (0, "  Stopping...\n", "ended soon after its start. Next attempt in 1 s (log: /"),
    (-9, "  URL: http://127\n", "was killed soon after its start. Next attempt in 1 s (log: /"),
]


@pytest.mark.parametrize(("status", "text", "line"), ENDS)
def test_a_program_that_fails_early_is_printed_with_its_own_error_first(
    status: int, text: str, line: str, stack_programs: Programs, capsys
) -> None:
    program = stack_programs["producer"]
    Path(program.config.stdout_logfile).write_text(text.format(times.iso(times.now())))
    end(program, status)
    assert printed_without_time(capsys, "producer").startswith(line)


def test_a_program_that_fails_later_is_printed_with_its_own_error_first(
    stack_programs: Programs, capsys
) -> None:
    program = stack_programs["producer"]
    text = f"{times.iso(times.now())} ERROR   producer: the disk of /x is gone. Mount it\n"
    Path(program.config.stdout_logfile).write_text(text)
    end(program, 1, after_s=60)
    line = printed_without_time(capsys, "producer")
    assert line.startswith("failed: the disk of /x is gone. Mount it. Restarting (log: /")


def test_an_error_long_before_the_end_of_a_program_is_not_printed_as_its_cause(
    stack_programs: Programs, capsys
) -> None:
    """Java and the services end with 143 after SIGTERM, and log no error."""
    program = stack_programs["producer"]
    before = times.iso(times.now() - timedelta(minutes=2))
    Path(program.config.stdout_logfile).write_text(f"{before} ERROR   producer: no answer\n")
    end(program, 143, after_s=600)
    line = printed_without_time(capsys, "producer")
    assert line.startswith("ended, status 143. Restarting (log: /")


#: The last lines of Kafka on a full disk, after which it exits with status 1: while it runs, and
#: at a start. {} is the time of a log line.
KAFKA_ON_A_FULL_DISK = [
    (
        """{0} ERROR   kafka: Error while writing to checkpoint file /x/kafka/log/a (LogDirFailure)
java.io.IOException: No space left on device
{0} ERROR   kafka: Shutdown broker because all log dirs in /x/kafka/log have failed (LogManager)
""",
        ". Cause: Shutdown broker because all log dirs in /x",
    ),
    (
        """{0} ERROR   kafka: Encountered fatal fault: caught exception (ProcessTerminatingFault)
java.lang.InternalError: a fault occurred in a recent unsafe memory access operation
""",
        ". Cause: Encountered fatal fault: caught exception",
    ),
    ("", ". Restarting (log: /"),
    (
        "{0} ERROR   kafka: No space left on device: free space on the disk of DATA_DIR\n",
        ". Restar",
    ),
]


@pytest.mark.parametrize(("text", "cause"), KAFKA_ON_A_FULL_DISK)
def test_a_full_disk_is_the_first_cause_of_a_program_that_fails(
    text: str, cause: str, stack_programs: Programs, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = stack_programs["producer"]
    log = Path(program.config.stdout_logfile)
    log.write_text(text.format(times.iso(times.now())))
    monkeypatch.setattr(supervise, "full_disk", {log.parent: FULL}.get)
    end(program, 1, after_s=60)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.partition(" UTC  producer ")[2].startswith(f"failed: {FULL}{cause}")
    assert FULL in line[:100]


def test_a_program_that_the_system_refuses_to_start_is_printed_with_the_reason(
    stack_programs: Programs, capsys
) -> None:
    program = stack_programs["producer"]
    program.state, program.spawnerr = ProcessStates.STARTING, "unknown error during fork: ENOMEM"
    program.change_state(ProcessStates.BACKOFF)
    line = printed_without_time(capsys, "producer")
    assert line.startswith("failed: unknown error during fork: ENOMEM. Next attempt in 1 s (log: /")


#: Why Kafka does not create the topics, and what the first 100 characters of the line contain.
NOT_CREATED = [
    (
        errors.InvalidReplicationFactorError(
            "The target replication factor of 3 cannot be reached because only 1 are registered."
        ),
        TemporaryError,
        "Start more, or decrease KAFKA_REPLICATION_FACTOR=3",
    ),
    (
        errors.TopicAuthorizationFailedError("Authorization failed."),
        OperationalError,
        "Kafka refuses this client. Grant its user access",
    ),
    (
        errors.SaslAuthenticationFailedError("Authentication failed"),
        OperationalError,
        "Kafka refuses the login. Check the user name",
    ),
    (errors.KafkaTimeoutError("Timeout"), TemporaryError, "Check that Kafka runs."),
    (
        TemporaryError("no connection to Kafka. Check KAFKA_BOOTSTRAP_SERVERS, and that it runs"),
        TemporaryError,
        "no connection to Kafka. Check KAFKA_BOOTSTRAP_SERVERS",
    ),
    (
        errors.PolicyViolationError("no topic of this name"),
        OperationalError,
        "A policy of Kafka refuses the topics. Change KAFKA_TOPIC",
    ),
]


@pytest.mark.parametrize(("error", "family", "action"), NOT_CREATED)
def test_topics_that_kafka_does_not_create_are_reported_with_what_to_do(
    error: Exception, family: type[Exception], action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr("local.topics.create", refuse)
    settings = Settings(kafka_bootstrap_servers="kafka:9092", kafka_replication_factor=3)
    with pytest.raises(family) as raised:
        create_from(settings)
    assert action in f"failed: {raised.value}"[:100]
    text = str(raised.value)
    assert text.endswith(". The topics: raw_prices, raw_prices_rejected on kafka:9092")
    assert ".." not in text


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
    (tmp_path / "tmp").mkdir()  # where Java unpacks a library, if no other folder will do
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "s.gz").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    run_clean(monkeypatch, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "sample"]
    assert (tmp_path / "sample" / "s.gz").exists()


def test_clean_reports_that_the_trades_in_postgresql_stay(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    fill(tmp_path)
    (tmp_path / "source.json").write_text("{}")
    address = "postgresql://me@host:5432/prices"
    (tmp_path / "status").mkdir()
    status = json.dumps({"settings": {"store_url": address}})
    (tmp_path / "status" / "consumer.json").write_text(status)
    run_clean(monkeypatch, tmp_path)
    expected = (
        f"The trades in {address} are kept. To start without them, set STORE_URL to an empty "
        "database."
    )
    assert expected in capsys.readouterr().out


def test_clean_refuses_a_folder_without_source_json(tmp_path: Path, monkeypatch, capsys) -> None:
    fill(tmp_path)
    assert "source.json" in refusal(capsys, run_clean, monkeypatch, tmp_path)
    assert (tmp_path / "crypto_prices.db").exists()


def test_clean_accepts_a_folder_of_a_stack_whose_source_json_was_moved_away(
    tmp_path: Path, monkeypatch
) -> None:
    fill(tmp_path)
    configuration = stack.configuration(tmp_path)
    configuration.parent.mkdir()
    configuration.touch()
    run_clean(monkeypatch, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_clean_removes_a_report_that_no_run_preceded(tmp_path: Path, monkeypatch) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.md").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    run_clean(monkeypatch, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_clean_refuses_a_report_folder_of_another_program(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.docx").write_text("x")
    assert "source.json" in refusal(capsys, run_clean, monkeypatch, tmp_path)
    assert (tmp_path / "report" / "report.docx").exists()


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


def test_clean_names_what_it_cannot_remove_and_what_to_do(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    """As with the files of another user."""
    fill(tmp_path)
    (tmp_path / "source.json").write_text("{}")
    inner = str(tmp_path / "logs" / "kafka.log")

    def deny(_path: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", inner)

    monkeypatch.setattr(shutil, "rmtree", deny)
    assert refusal(capsys, run_clean, monkeypatch, tmp_path) == (
        "Cannot remove logs: Permission denied. Give this user access to it. Then run `make clean` "
        f"again. The path: {inner}\n"
    )
    assert (tmp_path / "source.json").exists()


# --- the broker -----------------------------------------------------------------------------


def test_a_broker_without_jars_names_the_command(tmp_path: Path, monkeypatch, capsys) -> None:
    """`make jars` alone does nothing: it has made them once."""
    monkeypatch.setattr(kafka, "JARS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["kafka", "--data-dir", str(tmp_path)])
    assert "Run `rm -rf jars/kafka/lib; make jars`." in refusal(capsys, kafka.main)[:100]


@pytest.mark.parametrize(
    ("java", "text"),
    [
        (
            "false",
            (
                "Cannot format the storage of Kafka. If a class is missing, run "
                "`rm -rf jars/kafka/lib; make jars`. Otherwise read the output of Java in the log "
                "of Kafka. "
                "Exit status: 1. The storage: {folder}/kafka\n"
            ),
        ),
        (None, "Permission denied: give this user access to {folder}/kafka\n"),
    ],
)
def test_a_storage_that_cannot_be_made_is_one_sentence(
    java: str | None, text: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    jars = tmp_path / "jars" / "lib"
    jars.mkdir(parents=True)
    (jars / "kafka_2.13.jar").touch()
    folder = tmp_path / "kafka"
    monkeypatch.chdir(tmp_path)  # and back: the broker changes the directory
    monkeypatch.setattr(kafka, "JARS", jars.parent)
    monkeypatch.setattr(kafka, "java_command", lambda **_: [java or "true"])
    monkeypatch.setattr(sys, "argv", ["kafka", "--data-dir", str(folder)])
    if java is None:

        def refuse(*_: object, **__: object) -> NoReturn:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))

        monkeypatch.setattr(Path, "mkdir", refuse)
    assert refusal(capsys, kafka.main) == text.format(folder=tmp_path)


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
    for target in targets - {"help", "venv-dev"}:
        if target.startswith("need-"):
            continue
        assert f"make {target}" in text


def test_the_broker_and_the_topics_keep_records_for_a_week() -> None:
    assert "log.retention.hours=168" in kafka.server_properties(9092, 9093).splitlines()
    assert CONFIGURATION["retention.ms"] == "604800000"


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    ids = [kafka.cluster_id() for _ in range(1000)]  # one random id in 64 begins with a dash
    assert not [one for one in ids if one.startswith("-")]
    assert {len(one) for one in ids} == {22}
