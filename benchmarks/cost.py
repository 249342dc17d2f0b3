"""What a command costs: wall seconds, CPU seconds and memory of its whole process tree."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from benchmarks.processes import Bench, BenchmarkError, Running
from pipeline.processes import MIB, cpu_of_ended_children, is_fork, tree, tree_cost

#: Seconds between two samples of CPU time and memory. One sample of a JVM takes 10 to 20 ms.
SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Cost:
    """The wall time and the CPU time of one run, seconds, and its peak memory.

    The memory is the proportional set size: a memory page that several processes share counts once.
    """

    wall: float
    cpu: float
    peak_mib: float = 0.0


def memory(pid: int) -> float:
    """Return the proportional set size of a process and all processes below it, MiB."""
    return sum(map(own_memory, tree(pid)))


def own_memory(process: psutil.Process) -> float:
    """Return the proportional set size of one process, MiB; 0 if it has ended or is a fork.

    The JVM starts each command by a fork, which has the memory of the JVM until the command begins.
    With the fork, this memory would count twice.
    """
    try:
        return 0.0 if is_fork(process) else process.memory_full_info().pss / MIB
    except psutil.NoSuchProcess:
        return 0.0


def cost_until(
    start: Callable[[], Running],
    done: Callable[[], bool] | None,
    seconds: float,
    what: str,
) -> tuple[Cost, bool]:
    """Start a process and measure it until a condition is true, or until it ends by itself.

    Args:
        start: starts the process.
        done: the condition; None: the end of the process with exit status 0.
        seconds: the longest duration.
        what: what the condition means, for the error message.

    Returns:
        The cost, and whether the condition was met within `seconds`.

    Raises:
        BenchmarkError: the process ended before the condition was met, or failed.
    """
    ended_before = cpu_of_ended_children()
    began = time.monotonic()
    running = start()
    peak, next_sample, cpu = 0.0, began, 0.0
    while True:
        ended = running.process.poll() is not None
        now = time.monotonic()
        if ended:
            cpu = cpu_of_ended_children() - ended_before
            if running.process.returncode != 0 or done is not None:
                raise BenchmarkError(f"{what}: {running.log.stem} ended:\n{running.tail()}")
            return Cost(now - began, cpu, peak), True
        if done is not None and done():
            now = time.monotonic()
            return Cost(now - began, tree_cost(running.pid)[0], peak), True
        if now - began > seconds:
            return Cost(now - began, tree_cost(running.pid)[0], peak), False
        if now >= next_sample:
            peak = max(peak, memory(running.pid))
            next_sample = now + SAMPLE_SECONDS
        time.sleep(0.05 if done is None else 0.2)


def cost_of(
    bench: Bench, name: str, command: list[str], seconds: float, **environment: object
) -> Cost:
    """Run a command to its end; return its cost with that of all child processes.

    Raises:
        BenchmarkError: it failed, or took longer than `seconds`.
    """
    cost, in_time = cost_until(
        lambda: bench.start(name, command, **environment),
        None,
        seconds,
        f"the end of {name}",
    )
    if not in_time:
        raise BenchmarkError(f"{name} took more than {seconds:g} s")
    return cost
