"""Memory of the whole local stack, as `make demo` starts it, with somebody looking at the page.

The proportional set size is taken: a page that several processes share counts once in all.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Self

import psutil
import websocket
from streamlit.proto.BackMsg_pb2 import BackMsg

from benchmarks import inputs
from benchmarks.consumer import stored
from benchmarks.processes import Bench, BenchmarkError, Open, Running, free_port
from benchmarks.results import Goal, Result
from benchmarks.sizes import Sizes
from feed.sample import SAMPLE
from pipeline.outputs import DataDir, stream_files

SAMPLE_SECONDS = 0.5
#: Seconds until the stack is full, and for the rest of what it is waited for.
FULL_TIMEOUT = 240
TIMEOUT = 900
#: Seconds between two new runs of the page for its viewer.
VIEW_SECONDS = 3.0
MIB = 1024 * 1024
LIMIT_MIB = 3 * 1024
#: A service with less than this is only counted in the whole.
SMALL_MIB = 30


@dataclass
class Samples:
    """MiB of the stack, sample by sample: in all, and by service."""

    totals: list[float] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)

    def add(self, by_service: dict[str, float]) -> None:
        self.totals.append(sum(by_service.values()))
        for name, mib in by_service.items():
            self.peaks[name] = max(self.peaks.get(name, 0.0), mib)


def measure(open_bench: Open, sizes: Sizes) -> Iterator[Result]:
    with open_bench("memory") as bench:
        samples = steady(bench, sizes)
    yield from told("memory, re-timed demo", samples)
    with open_bench("memory-max") as bench:
        samples = flooded(bench, sizes.replayed_messages)
    yield from told(f"memory, {sizes.replayed_messages:,} messages at SPEED=max", samples)


def told(name: str, samples: Samples) -> Iterator[Result]:
    yield Result(f"{name}: whole stack, median", "MiB", median(samples.totals))
    goal = Goal(at_most=LIMIT_MIB)
    yield Result(f"{name}: whole stack, peak", "MiB", max(samples.totals), None, goal)
    for service, peak in sorted(samples.peaks.items(), key=lambda item: -item[1]):
        if peak >= SMALL_MIB:
            yield Result(f"{name}: peak of {service}", "MiB", peak)


def steady(bench: Bench, sizes: Sizes) -> Samples:
    """The demo on the sample, from when it is full, two batch runs among it."""
    data = DataDir(bench.folder / "data")
    stack, page = start(bench, SAMPLE)
    with Viewer(page) as viewer:
        bench.say("memory: the demo starts and fills")
        bench.wait(
            lambda: stream_files(data) and data.batch_windows.exists(),
            FULL_TIMEOUT,
            "final windows and a batch result",
            stack,
        )
        end = time.monotonic() + sizes.memory_seconds
        runs = batch_runs(data) + sizes.memory_batch_runs
        bench.say(f"memory: sampling it for {sizes.memory_seconds:.0f} s or more")
        samples = sample(bench, stack, lambda: time.monotonic() >= end and batch_runs(data) >= runs)
    viewer.check()
    return samples


def flooded(bench: Bench, count: int) -> Samples:
    """From the start on, a recording comes as fast as it is taken, until all have worked it up."""
    data = DataDir(bench.folder / "data")
    recording = bench.folder / "synthetic.jsonl"
    inputs.write_recording(recording, count)
    stack, page = start(bench, recording, "--retime", "0", "--speed", "max")
    bench.say(f"memory: {count:,} messages at full speed")
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
    """Starts the whole stack on free ports; returns it and the page's port."""
    names = ("kafka", "controller", "feed", "dashboard")
    ports = {name: free_port() for name in names}
    where = [part for name, port in ports.items() for part in (f"--{name}-port", port)]
    what = ("--data-dir", bench.folder / "data", "--recording", recording)
    stack = bench.python("stack", "-m", "local.start", "demo", *what, *where, *options)
    return stack, ports["dashboard"]


def sample(bench: Bench, stack: Running, done: Callable[[], bool]) -> Samples:
    samples = Samples()

    def look() -> bool:
        samples.add(memory(stack.pid))
        return done()

    bench.wait(look, TIMEOUT, "the end of the sampling", stack, every=SAMPLE_SECONDS)
    return samples


def memory(supervisor: int) -> dict[str, float]:
    """MiB by service; what a scheduler started is a batch run, the rest is its service's."""
    found: defaultdict[str, float] = defaultdict(float)
    root = psutil.Process(supervisor)
    for process in [root, *root.children(recursive=True)]:
        try:
            name = process.environ().get("SUPERVISOR_PROCESS_NAME", "supervisor")
            if name == "batch_scheduler" and process.ppid() != supervisor:
                name = "a batch run"
            found[name] += process.memory_full_info().pss / MIB
        except psutil.NoSuchProcess:
            continue
    return dict(found)


def batch_runs(data: DataDir) -> int:
    return _text(data.batch_log).count("status=ok")


def final_rows(data: DataDir) -> int:
    return sum(_text(path).count("\n") - 1 for path in stream_files(data))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


class Viewer:
    """One viewer of the page, who lets it run again every few seconds (a context manager)."""

    def __init__(self, port: int) -> None:
        self._url = f"ws://127.0.0.1:{port}/_stcore/stream"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.messages = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def check(self) -> None:
        """Raises BenchmarkError when the page has shown nothing."""
        if not self.messages:
            raise BenchmarkError("the page has shown its viewer nothing")

    def _look(self) -> None:
        while not self._stop.wait(1):
            try:
                with closing(websocket.create_connection(self._url, timeout=1)) as page:
                    self._read(page)
            except (websocket.WebSocketException, OSError):
                continue

    def _read(self, page: websocket.WebSocket) -> None:
        run_again = BackMsg()
        run_again.rerun_script.query_string = ""
        due = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= due:
                due = time.monotonic() + VIEW_SECONDS
                page.send_binary(run_again.SerializeToString())
            try:
                page.recv()
                self.messages += 1
            except websocket.WebSocketTimeoutException:
                continue
