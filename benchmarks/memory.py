"""Memory and CPU of the whole local stack, as `make demo` starts it, with one viewer of the page.

The memory is the proportional set size: a memory page that several processes share counts once.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from benchmarks import inputs
from benchmarks.consumer import stored
from benchmarks.cost import own_memory
from benchmarks.processes import Bench, Open, Running
from benchmarks.results import Mark, Result
from benchmarks.sizes import Sizes
from benchmarks.viewer import Viewer
from feed.sample import SAMPLE
from local.ports import free_ports
from pipeline.data_dir import DataDir
from pipeline.outputs import stream_files
from pipeline.processes import tree

SAMPLE_SECONDS = 0.5
#: Longest wait for the first results, and for everything else, seconds.
FULL_TIMEOUT = 240
TIMEOUT = 900
LIMIT_MIB = 1.5 * 1024
FLOODED_LIMIT_MIB = 3 * 1024
#: A service with less memory than this has no row of its own in the results.
SMALL_MIB = 30


@dataclass
class Samples:
    """Samples of the stack.

    Attributes:
        totals: the memory of all processes in each sample, MiB.
        peaks: the peak of each service, MiB.
        cpu: the CPU seconds of each service, from the first sample to the last.
        seconds: the time from the first sample to the last.
    """

    totals: list[float] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, by_service: dict[str, float]) -> None:
        """Add one sample of the memory."""
        self.totals.append(sum(by_service.values()))
        for name, mib in by_service.items():
            self.peaks[name] = max(self.peaks.get(name, 0.0), mib)


def measure(open_bench: Open, sizes: Sizes) -> Iterator[Result]:
    """Yield the results for the memory, each as soon as it is measured."""
    with open_bench("memory") as bench:
        samples = steady(bench, sizes)
    yield from results("memory, re-timed demo", samples, LIMIT_MIB)
    yield from cpu_results("CPU, re-timed demo", samples)
    with open_bench("memory-max") as bench:
        samples = flooded(bench, sizes.replayed_messages)
    name = f"memory, {sizes.replayed_messages:,} messages at SPEED=max"
    yield from results(name, samples, FLOODED_LIMIT_MIB)


def results(name: str, samples: Samples, limit_mib: float) -> Iterator[Result]:
    """Return the rows of the table for one measurement."""
    yield Result(f"{name}: whole stack, median", "MiB", median(samples.totals))
    mark = Mark(at_most=limit_mib)
    yield Result(f"{name}: whole stack, peak", "MiB", max(samples.totals), None, mark)
    for service, peak in sorted(samples.peaks.items(), key=lambda item: -item[1]):
        if peak >= SMALL_MIB:
            yield Result(f"{name}: peak of {service}", "MiB", peak)


def cpu_results(name: str, samples: Samples) -> Iterator[Result]:
    """Return the CPU seconds a minute of the stack and of each service."""
    minutes = samples.seconds / 60
    total = sum(samples.cpu.values()) / minutes
    yield Result(f"{name}: whole stack", "s a minute", total)
    for service, cpu in sorted(samples.cpu.items(), key=lambda item: -item[1]):
        yield Result(f"{name}: {service}", "s a minute", cpu / minutes)


def steady(bench: Bench, sizes: Sizes) -> Samples:
    """Sample the demo from its first results on, for at least two batch runs."""
    data = DataDir(bench.folder / "data")
    stack, page = start(bench, SAMPLE)
    with Viewer(page) as viewer:
        bench.log("memory: starting the demo")
        bench.wait(
            lambda: stream_files(data) and data.batch_windows.exists(),
            FULL_TIMEOUT,
            "final windows and a batch result",
            stack,
        )
        end = time.monotonic() + sizes.memory_seconds
        runs = batch_runs(data) + sizes.memory_batch_runs
        bench.log(f"memory: sampling for at least {sizes.memory_seconds:.0f} s")
        samples = sample(bench, stack, lambda: time.monotonic() >= end and batch_runs(data) >= runs)
    viewer.check()
    return samples


def flooded(bench: Bench, count: int) -> Samples:
    """Sample a replay at full speed from its start until all services have processed it."""
    data = DataDir(bench.folder / "data")
    recording = bench.folder / "synthetic.jsonl"
    inputs.write_recording(recording, count)
    stack, page = start(bench, recording, "--retime", "0", "--speed", "max")
    bench.log(f"memory: {count:,} messages at full speed")
    minutes = -(-count // (60 * inputs.PER_SECOND))

    def settled() -> bool:
        return (
            stored(data.database) >= count
            and final_rows(data) >= minutes - 3
            and f" rows={count} " in _text(data.batch_log)
        )

    with Viewer(page) as viewer:
        samples = sample(bench, stack, settled)
    viewer.check()
    return samples


def start(bench: Bench, recording: Path, *options: object) -> tuple[Running, int]:
    """Start the whole stack on free ports; return it and the port of the page."""
    names = ("kafka", "controller", "feed", "dashboard")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    where = [part for name, port in ports.items() for part in (f"--{name}-port", port)]
    what = ("--data-dir", bench.folder / "data", "--recording", recording)
    stack = bench.python("stack", "-m", "local.start", "demo", *what, *where, *options)
    return stack, ports["dashboard"]


def sample(bench: Bench, stack: Running, done: Callable[[], bool]) -> Samples:
    """Sample the memory of the stack until `done` returns True."""
    samples = Samples()
    began, before = time.monotonic(), cpu(stack.pid)

    def sample_once() -> bool:
        samples.add(memory(stack.pid))
        return done()

    bench.wait(sample_once, TIMEOUT, "the end of the sampling", stack, every=SAMPLE_SECONDS)
    samples.seconds = time.monotonic() - began
    after = cpu(stack.pid)
    samples.cpu = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    return samples


def cpu(supervisor: int) -> dict[str, float]:
    """Return the CPU seconds of each service since its start, with those of its ended children.

    A service is a child of the supervisor. A batch run belongs to the scheduler that starts it.
    """
    found: defaultdict[str, float] = defaultdict(float)
    for process in tree(supervisor):
        try:
            found[service_name(process)] += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return dict(found)


def service_name(process: psutil.Process) -> str:
    """Return the name under which the supervisor started a process or its ancestor."""
    return process.environ().get("SUPERVISOR_PROCESS_NAME", "supervisor")


def memory(supervisor: int) -> dict[str, float]:
    """Return the MiB of each service. A child of the scheduler counts as "a batch run"."""
    found: defaultdict[str, float] = defaultdict(float)
    for process in tree(supervisor):
        try:
            name = service_name(process)
            if name == "batch_scheduler" and process.ppid() != supervisor:
                name = "a batch run"
            found[name] += own_memory(process)
        except psutil.NoSuchProcess:
            continue
    return dict(found)


def batch_runs(data: DataDir) -> int:
    """Return the number of successful batch runs."""
    return _text(data.batch_log).count("status=ok")


def final_rows(data: DataDir) -> int:
    """Return the number of final windows."""
    return sum(_text(path).count("\n") - 1 for path in stream_files(data))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
