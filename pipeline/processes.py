"""Processes: start one, list its tree, measure what it costs, end it."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

MIB = 1024 * 1024
#: Seconds. A process younger than this that has its parent's command line is a fork of it.
FORK_SECONDS = 2.0


def start_in_background(
    command: list[str], log: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start a command of this project in a process group of its own, with its output in a file.

    Args:
        command: the command. It starts in the directory of the project.
        log: the file to which its output is appended.
        environment: its environment variables; PYTHONUNBUFFERED is added.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=Path(__file__).parent.parent,
            env={"PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def age() -> float:
    """Return how long this process has been running, seconds.

    On Linux it is measured on the clock since boot, to 0.01 s, so a change of the wall clock has no
    effect. `psutil` returns the start on the wall clock, to one second.
    """
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5)
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, AttributeError):
        return max(0.0, time.time() - psutil.Process().create_time())


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and all processes below it; an empty list if it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tree_of(child: psutil.Popen) -> list[psutil.Process]:
    """Return a child of this process and all processes below it.

    `end` then stores the exit status in the child itself. A `subprocess.Popen` would report 0,
    because psutil has collected the status.
    """
    try:
        return [child, *child.children(recursive=True)]
    except psutil.NoSuchProcess:
        return [child]


def tree_cost(pid: int) -> tuple[float, int]:
    """Return the CPU seconds and the resident bytes of a process and all processes below it.

    The CPU seconds include children that have ended. The resident bytes are an upper bound,
    because memory pages that several processes share count once for each of them. A fork that has
    not yet started another program does not count: the JVM forks to run a command, and the fork
    would count the memory of the JVM twice.
    """
    cpu_s, rss = 0.0, 0
    for process in tree(pid):
        try:
            with process.oneshot():
                cpu_s += sum(process.cpu_times()[:4])
                if process.pid == pid or not is_fork(process):
                    rss += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return cpu_s, rss


def is_fork(process: psutil.Process) -> bool:
    """Return whether a process seems to be a fork that has not yet started another program.

    It is younger than FORK_SECONDS and has the command line of its parent.
    """
    if time.time() - process.create_time() >= FORK_SECONDS:
        return False
    parent = process.parent()
    return parent is not None and process.cmdline() == parent.cmdline()


def cpu_of_ended_children() -> float:
    """Return the CPU seconds of all ended children of this process, descendants included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def end(processes: Iterable[psutil.Process], wait_seconds: float) -> None:
    """Send SIGTERM to processes, wait, then send SIGKILL to those that still run.

    psutil collects the exit status of a child of this process: see `tree_of`.

    Args:
        processes: what to end. `tree(pid)` gives a process with all its descendants.
        wait_seconds: how long to wait after each of the two signals.
    """
    alive = list(processes)
    for send in (psutil.Process.terminate, psutil.Process.kill):
        for process in alive:
            try:
                send(process)
            except psutil.NoSuchProcess:
                continue
        alive = wait(alive, wait_seconds)


def wait(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait at most this many seconds until processes have ended; return those that still run.

    While Linux removes an ended process, `pidfd_open` fails with EINVAL, or with ENOENT since Linux
    6.15. psutil 7.2.2 does not handle this: https://github.com/giampaolo/psutil/issues/2715.
    """
    alive, end_at = list(processes), time.monotonic() + seconds
    while True:
        try:
            _, alive = psutil.wait_procs(alive, timeout=max(0.0, end_at - time.monotonic()))
        except OSError:
            time.sleep(0.01)
            alive = [process for process in alive if process.is_running()]
            if time.monotonic() < end_at:
                continue
        return alive


def exit_on_sigterm() -> None:
    """Turn SIGTERM into SystemExit, for a program that starts others.

    Python would otherwise end at once, and leave child processes and temporary files.
    """
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
