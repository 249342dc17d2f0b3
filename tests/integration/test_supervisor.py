"""What keeps the services alive survives a full disk and a closed terminal.

With the real supervisor of the stack on a program that prints a line 20 times a second.
"""

import contextlib
import errno
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local import programs, stack
from tests.conftest import KEPT, ROOT, fill_disk, wait_until

PROGRAM = "while :; do echo line; sleep 0.05; done"
SUPERVISE = [sys.executable, "-m", stack.SUPERVISE]


def configuration(folder: Path) -> str:
    """Return supervisor's configuration of the one program, with the options of all programs."""
    common = programs.COMMON | {"stopwaitsecs": 1}
    options = "".join(f"{name}={value}\n" for name, value in common.items())
    return (
        f"[supervisord]\nnodaemon=true\nsilent=true\nlogfile={folder}/logs/supervisord.log\n"
        f"logfile_maxbytes=20KB\npidfile={folder}/run/supervisord.pid\n"
        f"[unix_http_server]\nfile={folder}/run/{stack.SOCKET}\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory ="
        " supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[program:chatty]\ncommand=sh -c '{PROGRAM}'\n{options}"
        f"stdout_logfile={folder}/logs/chatty.log\n"
    )


def environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"DATA_DIR": str(folder)}


def prepared(folder: Path) -> Path:
    """Make the folders of a stack and its configuration."""
    for name in ("run", "logs"):
        (folder / name).mkdir()
    stack.configuration(folder).write_text(configuration(folder))
    return folder


@contextlib.contextmanager
def ended_at_last(process: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
    """Kill the process and its children at the end, if they still run."""
    seen = psutil.Process(process.pid)
    try:
        yield seen
    finally:
        left = [seen, *seen.children(recursive=True)] if seen.is_running() else []
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(10)


def program_of(supervisor: psutil.Process) -> psutil.Process | None:
    """Return the running program."""
    for child in supervisor.children():
        with contextlib.suppress(psutil.Error):
            if child.cmdline() == ["sh", "-c", PROGRAM] and child.status() != "zombie":
                return child
    return None


def restarted(supervisor: psutil.Process, before: psutil.Process) -> psutil.Process:
    """Kill the program and return the one that replaces it."""
    before.kill()

    def other() -> psutil.Process | None:
        assert supervisor.status() != psutil.STATUS_ZOMBIE, "the supervisor has ended"
        found = program_of(supervisor)
        return found if found and found.pid != before.pid else None

    return wait_until(other, 15, "another program") or before


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare, to mount a disk")
def test_a_full_disk_under_all_its_output_does_not_end_the_supervisor(tmp_path: Path) -> None:
    """It restarts the program meanwhile, and all output continues when there is space."""
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "conf").write_text(configuration(folder))
    script = (
        'mount -t tmpfs -o size=160k none "$DATA_DIR" || exit 77; cd "$DATA_DIR"; mkdir run logs;'
        'cp ../conf run/supervisord.conf; cd "$1"; shift; exec "$@" > "$DATA_DIR/out.log" 2>&1'
    )
    command = ["unshare", "-rm", "sh", "-c", script, "sh", str(ROOT), *SUPERVISE]
    process = subprocess.Popen(command, env=environment(folder), start_new_session=True)
    with ended_at_last(process) as supervisor:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        if process.returncode in (1, 77):
            pytest.skip("no mount is possible here")
        first = wait_until(lambda: program_of(supervisor), 15, "the program")
        assert first
        disk = Path(f"/proc/{supervisor.pid}/root{folder}")  # in the supervisor's name space
        wait_until((disk / "logs" / "chatty.log").exists, 5, "the log of the program")
        fill_disk(disk / "filler")
        time.sleep(1.5)
        second = restarted(supervisor, first)
        with pytest.raises(OSError) as full:  # noqa: PT011 - the number is checked
            (disk / "still-full").write_bytes(b"x" * 8192)
        assert full.value.errno == errno.ENOSPC

        (disk / "filler").unlink()
        (disk / "still-full").unlink(missing_ok=True)
        printed = (disk / "out.log").stat().st_size
        size = (disk / "logs" / "chatty.log").stat().st_size
        restarted(supervisor, second)
        wait_until(
            lambda: (disk / "logs" / "chatty.log").stat().st_size > size, 5, "lines in the log"
        )
        text = (disk / "out.log").read_text()
        assert len(text) > printed
        assert "chatty was killed soon after its start" in text[printed:]
        assert "Traceback" not in text
        process.terminate()
        assert process.wait(10) == 0


def test_a_stack_whose_logs_and_lock_were_deleted_restarts_its_programs_and_is_still_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prepared(tmp_path)
    process = subprocess.Popen(SUPERVISE, cwd=ROOT, env=environment(folder), start_new_session=True)
    with ended_at_last(process) as supervisor:
        first = wait_until(lambda: program_of(supervisor), 15, "the program")
        assert first
        for name in ("logs", "run"):
            shutil.rmtree(folder / name)
        restarted(supervisor, first)
        wait_until((folder / "logs" / "chatty.log").exists, 5, "the log of the program")
        assert stack.is_running(folder)
        with pytest.raises(SystemExit):
            stack.lock(folder, "another stack")
        assert f"(pid {supervisor.pid})" in capsys.readouterr().err
        process.terminate()
        process.wait(10)
        assert not stack.is_running(folder)


def test_a_reader_that_closes_its_pipe_does_not_end_the_supervisor(tmp_path: Path) -> None:
    """As in `make demo | head -1`, also with the errors."""
    prepared(tmp_path)
    process = subprocess.Popen(
        SUPERVISE,
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout
    process.stdout.close()
    with ended_at_last(process) as supervisor:
        first = wait_until(lambda: program_of(supervisor), 15, "the program")
        assert first
        restarted(supervisor, first)
        process.terminate()
        assert process.wait(10) == 0


# --- a closed terminal --------------------------------------------------------------------------


def supervisor_in_a_terminal(folder: Path, line: str) -> tuple[int, int, psutil.Process]:
    """Type a line that starts the stack in an interactive shell.

    Returns:
        The shell's pid, the terminal and the supervisor.
    """
    makefile = folder / "makefile"
    makefile.write_text(f".PHONY: run\nrun:\n\t@cd {ROOT} && exec {' '.join(SUPERVISE)}\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= environment(folder)
        # Under `nohup`, the tests and their child processes ignore SIGHUP.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execvp("bash", ["bash", "--norc", "-i"])  # noqa: S606 - a shell is what the test needs
    time.sleep(0.5)
    os.write(terminal, f"{line.format(makefile=makefile)}\n".encode())
    mark = f"unix://{folder}/run/{stack.SOCKET}"
    wait_until(lambda: stack.leftovers(folder), 20, f"a program of {mark}")
    (program, *_) = stack.leftovers(folder)
    supervisor = program.parent()
    while supervisor and "local.supervise" not in supervisor.cmdline():
        supervisor = supervisor.parent()
    assert supervisor
    return pid, terminal, supervisor


@pytest.mark.parametrize(
    "line",
    [
        "nohup make -f {makefile} run > /dev/null 2>&1 &",
        "setsid make -f {makefile} run &",
        "make -f {makefile} run & disown",
    ],
)
def test_a_stack_that_was_detached_survives_its_terminal(tmp_path: Path, line: str) -> None:
    prepared(tmp_path)
    pid, terminal, supervisor = supervisor_in_a_terminal(tmp_path, f"cd {tmp_path}; {line}")
    try:
        program = program_of(supervisor)
        assert program
        os.close(terminal)
        os.waitpid(pid, 0)
        time.sleep(1)
        assert supervisor.is_running()
        assert program.is_running()
        if "nohup" in line:  # also if the signal comes directly
            supervisor.send_signal(signal.SIGHUP)
            program.send_signal(signal.SIGHUP)
        assert restarted(supervisor, program).is_running()
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor.terminate()
            supervisor.wait(10)
    assert stack.leftovers(tmp_path) == []


def test_a_stack_in_the_foreground_stops_in_order_with_its_terminal(tmp_path: Path) -> None:
    prepared(tmp_path)
    pid, terminal, supervisor = supervisor_in_a_terminal(tmp_path, "make -f {makefile} run")
    os.close(terminal)
    os.waitpid(pid, 0)
    supervisor.wait(10)
    assert stack.leftovers(tmp_path) == []
    text = (tmp_path / "logs" / "supervisord.log").read_text()
    assert "SIGHUP" in text


@pytest.mark.parametrize("signum", sorted(stack.STOP_SIGNALS))
def test_a_signal_that_arrives_before_the_supervisor_handles_signals_stops_it(
    tmp_path: Path, signum: signal.Signals
) -> None:
    """`local.start` blocks these signals before it becomes the supervisor."""
    blocked = (
        "import os, signal, sys; from local import stack;"
        # Under `nohup`, the tests and their child processes ignore SIGHUP.
        " signal.signal(signal.SIGHUP, signal.SIG_DFL);"
        " signal.pthread_sigmask(signal.SIG_BLOCK, stack.STOP_SIGNALS);"
        f" os.kill(os.getpid(), {int(signum)}); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", blocked, *SUPERVISE],
        cwd=ROOT,
        env=environment(prepared(tmp_path)),
        stdout=subprocess.PIPE,
    )
    with ended_at_last(process):
        printed, _ = process.communicate(timeout=20)
        assert process.returncode == 0
        assert b"all stopped" in printed
