"""Process trees: what they cost, and their end."""

import errno
import os
import subprocess
import sys
import time

import psutil
import pytest

from pipeline import processes
from pipeline.processes import FORK_SECONDS, cpu_of_ended_children, tree, tree_cost

PARENT = """
import subprocess, sys
burn = "import time, sys; b = bytearray(64 << 20); t = time.process_time()\\n"
burn += "while time.process_time() - t < 0.3: pass\\n"
child = subprocess.Popen([sys.executable, "-c", burn + "print(1, flush=True); time.sleep(60)"])
subprocess.run([sys.executable, "-c", burn], check=True)
print("ended", flush=True)
child.wait()
"""


def test_the_cost_of_a_tree_includes_running_and_ended_children() -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = {process.stdout.readline(), process.stdout.readline()}
        assert lines == {"1\n", "ended\n"}
        cpu_s, rss = tree_cost(process.pid)
        assert 0.6 <= cpu_s < 5
        assert 64 << 20 <= rss < 300 << 20
    finally:
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.stdout.close()
        process.wait(5)


def test_the_age_of_a_process_counts_from_its_start() -> None:
    code = "import time; time.sleep(0.3); from pipeline import processes; print(processes.age())"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.29 <= float(done.stdout) <= time.monotonic() - began + 0.01


def test_an_ended_process_costs_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert tree_cost(process.pid) == (0.0, 0)


FORKS = """
import os, sys, time
held = bytearray(os.urandom(1)) * 200_000_000
time.sleep(float(sys.argv[1]))
if os.fork() == 0:
    time.sleep(9)
print("forked", flush=True)
time.sleep(9)
"""


def test_a_fork_that_is_still_a_copy_of_its_parent_is_not_counted_twice() -> None:
    command = [sys.executable, "-c", FORKS, str(FORK_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        _, rss = tree_cost(parent.pid)
        for process in psutil.Process(parent.pid).children():
            process.kill()
        parent.kill()
    assert 200e6 < rss < 300e6


# --- ending ---------------------------------------------------------------------------------

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("ready", flush=True)
time.sleep(60)
"""


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; an ended orphan may wait for the machine's init."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_tree_is_ended_although_its_root_ignores_sigterm() -> None:
    command = [sys.executable, "-c", STUBBORN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as root:
        assert root.stdout is not None
        assert root.stdout.readline() == "ready\n"
        found = tree(root.pid)
        assert len(found) == 2
        began = time.monotonic()
        processes.end(found, wait_seconds=1)
        assert time.monotonic() - began < 5
        assert not any(map(is_alive, found))
    assert tree(root.pid) == []


def test_ending_an_ended_process_does_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as one:
        found = tree(one.pid)
        one.kill()
        one.wait(5)
        processes.end(found, wait_seconds=1)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOENT])
def test_a_process_that_is_being_removed_is_waited_for(monkeypatch, number) -> None:
    """Linux refuses to open it for a moment."""
    opened, refusals = os.pidfd_open, iter([number, number])

    def refuse_at_first(pid: int, flags: int = 0) -> int:
        for refusal in refusals:
            raise OSError(refusal, os.strerror(refusal))
        return opened(pid, flags)

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as one:
        found = tree(one.pid)
        monkeypatch.setattr(os, "pidfd_open", refuse_at_first)
        try:
            assert processes.wait(found, 0.1) == found
            processes.end(found, wait_seconds=5)
            assert not any(map(is_alive, found))
        finally:
            one.kill()


def test_the_cpu_of_ended_children_grows_when_a_child_ends() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    before = cpu_of_ended_children()
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert 0.3 <= cpu_of_ended_children() - before < 3
