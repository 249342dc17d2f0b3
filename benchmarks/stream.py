"""CPU time of the stream at a steady rate, and the delay of its windows.

The set-up is a re-timed replay, the producer of the pipeline, a broker, and one of the two streams.
Only the processes of the stream count.
"""

import csv
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks import inputs
from benchmarks.catch_up import kafka_jars
from benchmarks.processes import BASELINE, Bench, Open, Running
from benchmarks.results import Mark, Result, per_minute, percentile
from benchmarks.sizes import Sizes
from pipeline.data_dir import DataDir
from pipeline.processes import tree_cost

TOPIC = "raw_prices"
#: Length of the replayed recording, seconds. The replay repeats it.
RECORDED_SECONDS = 600
#: Seconds of the feed that are in the topic when the stream starts, so that its state is full.
BACKLOG = 120
WATERMARK = 60
#: Seconds between two reads of the outputs, and of the CPU time.
READ_SECONDS = 0.05
CPU_SECONDS = 5.0
#: Seconds after the first output. Final windows that are due earlier do not count, because they
#: measure the start.
SETTLED_SECONDS = 10
START_TIMEOUT = 180
#: Seconds from the last message until the CPU of a silent feed is measured.
QUIET_SECONDS = 15

_LAST_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) *\|$", re.MULTILINE)


@dataclass
class Measured:
    """The measurements of one stream, seconds."""

    #: (time since the start of the stream, CPU seconds of all its processes).
    cpu: list[tuple[float, float]] = field(default_factory=list)
    #: At each read: now minus the newest event time shown.
    ages: list[float] = field(default_factory=list)
    #: From a window's end until its final row could be read.
    delays: list[float] = field(default_factory=list)


def measure(open_bench: Open, sizes: Sizes) -> Iterator[Result]:
    """Yield the results for the stream, each as soon as it is measured."""
    with open_bench("stream") as bench:
        ours, silent = watch_ours(bench, sizes)
    begin = sizes.stream_cpu_from
    rate = f"stream, {inputs.PER_SECOND} messages/s"
    our_cpu = per_minute(ours.cpu, begin, sizes.stream_seconds)
    yield Result(f"{rate}: CPU", "s a minute", our_cpu, None, Mark(at_most=22))
    yield Result("stream, silent feed: CPU", "s a minute", silent, None, Mark(at_most=3))
    with open_bench("stream-baseline") as bench:
        baseline = watch_baseline(bench, sizes)
    baseline_cpu = per_minute(baseline.cpu, begin, sizes.stream_baseline_seconds)
    third = Mark(at_most=1 / 3, of_ratio=True)
    yield Result(f"{rate}: CPU", "s a minute", our_cpu, baseline_cpu, third)
    yield Result(
        "stream: time from a window's end until its final row is readable, median",
        "s",
        median(ours.delays) if ours.delays else None,
        median(baseline.delays) if baseline.delays else None,
    )
    yield Result(
        "stream: time from a window's end until its final row is readable, longest of "
        f"{len(ours.delays)} (plain job: {len(baseline.delays)})",
        "s",
        max(ours.delays, default=None),
        max(baseline.delays, default=None),
        Mark(at_most=61.5),
    )
    for name, percent, mark in (("median", 50, None), ("95th percentile", 95, Mark(at_most=1.6))):
        yield Result(
            f"stream: age of the open view, {name}",
            "s",
            percentile(ours.ages, percent),
            percentile(baseline.ages, percent),
            mark,
        )


def watch_ours(bench: Bench, sizes: Sizes) -> tuple[Measured, float | None]:
    """Measure the stream of the pipeline, then its CPU seconds a minute without any message."""
    servers, producer = feed_topic(bench)
    data = DataDir(bench.folder)
    stream = bench.service("spark_processor", servers, TOPIC)
    live = LiveFile(data.stream_live)
    measured = watch(bench, stream, live, data.stream_csv, sizes.stream_seconds)
    bench.log(f"{bench.folder.name}: the feed is silent for {sizes.silent_seconds:.0f} s")
    producer.stop()
    time.sleep(QUIET_SECONDS)
    stream.check()
    began, before = time.monotonic(), tree_cost(stream.pid)[0]
    time.sleep(sizes.silent_seconds)
    stream.check()
    after, ended = tree_cost(stream.pid)[0], time.monotonic()
    return measured, (after - before) / (ended - began) * 60


def watch_baseline(bench: Bench, sizes: Sizes) -> Measured:
    """Measure the stream of the baseline."""
    servers, _ = feed_topic(bench)
    script = BASELINE / "stream.py"
    stream = bench.python("stream", script, kafka_jars(), servers, TOPIC, bench.folder)
    folder = bench.folder / "windows"
    return watch(bench, stream, Console(stream.log), folder, sizes.stream_baseline_seconds)


def feed_topic(bench: Bench) -> tuple[str, Running]:
    """Start a broker, a replay and a producer; return the broker's address and the producer."""
    recording = bench.folder / "synthetic.jsonl"
    inputs.write_recording(recording, RECORDED_SECONDS * inputs.PER_SECOND)
    servers = bench.broker(TOPIC)
    feed = bench.feed(recording, "--backlog", BACKLOG)
    producer = bench.service("producer", servers, TOPIC, FEED_URL=feed)
    time.sleep(5)  # the producer starts and publishes the backlog
    return servers, producer


def watch(
    bench: Bench,
    stream: Running,
    newest: Callable[[], datetime | None],
    windows: Path,
    seconds: float,
) -> Measured:
    """Read the outputs and the CPU time of a stream until its time is over."""
    measured = Measured()
    finals = FinalWindows(windows)
    begin = time.monotonic()
    bench.wait(newest, START_TIMEOUT, "the first output of the stream", stream)
    ready = time.time() + SETTLED_SECONDS
    bench.log(
        f"{bench.folder.name}: first output after {time.monotonic() - begin:.0f} s, "
        f"measuring until {seconds:.0f} s"
    )
    next_cpu = 0.0
    while (since := time.monotonic() - begin) < seconds:
        now, shown = time.time(), newest()
        if now >= ready and shown is not None:
            measured.ages.append(now - shown.timestamp())
        ends = finals.new_ends()
        now = time.time()
        measured.delays += [now - end for end in ends if end + WATERMARK >= ready]
        if since >= next_cpu:
            next_cpu = since + CPU_SECONDS
            stream.check()
            measured.cpu.append((since, tree_cost(stream.pid)[0]))
        time.sleep(READ_SECONDS)
    return measured


class LiveFile:
    """The newest event time in `stream_live.csv`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int] | None = None
        self._newest: datetime | None = None

    def __call__(self) -> datetime | None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return None
        version = (stat.st_ino, stat.st_mtime_ns)
        if version != self._version:
            self._version = version
            with self._path.open(encoding="utf-8", newline="") as file:
                times = [
                    datetime.fromisoformat(row["last_trade_time"]) for row in csv.DictReader(file)
                ]
            self._newest = max(times, default=self._newest)
        return self._newest


class Console:
    """The newest event time that the baseline printed, in the last column of its tables."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = 0
        self._newest: datetime | None = None

    def __call__(self) -> datetime | None:
        with self._log.open("rb") as file:
            file.seek(self._offset)
            whole, _, _ = file.read().rpartition(b"\n")
        self._offset += len(whole)
        for text in _LAST_TIME.findall(whole.decode(errors="replace")):
            time_shown = datetime.fromisoformat(text).astimezone()  # Spark shows local time
            self._newest = max(time_shown, self._newest or time_shown)
        return self._newest


class FinalWindows:
    """The windows that are new in a directory of CSV files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions: dict[str, int] = {}
        self._ends: set[float] = set()

    def new_ends(self) -> list[float]:
        """Return the end of each window since the last call, Unix seconds."""
        ends = []
        for path in self._changed():
            with path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    end = datetime.fromisoformat(row["window_end"]).timestamp()
                    if end not in self._ends:
                        self._ends.add(end)
                        ends.append(end)
        return ends

    def _changed(self) -> Iterator[Path]:
        try:
            entries = list(os.scandir(self._folder))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.endswith(".csv") and not entry.name.startswith("."):
                version = entry.stat().st_mtime_ns
                if version != self._versions.get(entry.name):
                    self._versions[entry.name] = version
                    yield Path(entry.path)
