"""Run the stack for a long time with a random fault each minute: `python -m faults.soak`.

It prints the same table as `python -m faults`, and how memory, descriptors, threads, disk and lag
changed over time. It draws them as a figure.
"""

import argparse
import contextlib
import csv
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

import psutil
from matplotlib.figure import Figure

from benchmarks.parts import log
from faults import results
from faults.catalogue import catalogue
from faults.lab import KILLS, MAIN, Fault, Run
from faults.stack import PROGRAMS, LabError, Stack
from faults.verdict import UNKNOWN
from feed.arguments import Arguments
from pipeline import processes

#: Multiple of the recorded speed.
SPEED = 20.0
#: Seconds between the beginnings of two faults.
FAULT_SECONDS = 60.0
#: A fault that takes longer is not part of the choice, seconds.
LONGEST_FAULT = 40.0
#: Seconds between two samples.
SAMPLE_SECONDS = 5.0
#: Part of the samples that is left out at the beginning: the services warm up.
WARM_UP = 1 / 6
#: Values are compared at the same age of a service, in steps of AGE_SECONDS. All ages above
#: WARM_SECONDS count as the same age, because Spark's thread pools have then reached their size.
AGE_SECONDS, WARM_SECONDS = 30.0, 300.0
#: An increase above this counts as growth.
GROWTH = 0.10
MEASURES = ("memory, MiB", "descriptors", "threads")
LAG = "trades issued and not yet stored"
DISK = "disk, MiB"


class Sample(NamedTuple):
    """One value of one series.

    Attributes:
        at: seconds since the start of the soak.
        measure: what was measured, with its unit.
        of: the service or directory.
        value: the value.
        age_s: seconds since the start of the service; 0 for a value that belongs to no service.
    """

    at: float
    measure: str
    of: str
    value: float
    age_s: float = 0.0


class Sampler(threading.Thread):
    """Samples a running stack until it is stopped."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._stack = stack
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        began = time.monotonic()
        while not self._stopped.wait(SAMPLE_SECONDS):
            at = time.monotonic() - began
            self.samples += self._of_programs(round(at, 1))
            for measure, of, value in (*self._of_disk(), *self._of_lag()):
                self.samples.append(Sample(round(at, 1), measure, of, value))

    def _of_programs(self, at: float) -> list[Sample]:
        found: list[Sample] = []
        for name in PROGRAMS:
            with contextlib.suppress(psutil.Error):
                program = self._stack.process(name)
                whole_tree = processes.tree(program.pid) if program else []
                tree = [process for process in whole_tree if not processes.is_fork(process)]
                values = (
                    sum(process.memory_info().rss for process in tree) / processes.MIB,
                    sum(process.num_fds() for process in tree),
                    sum(process.num_threads() for process in tree),
                )
                if program and tree:
                    age_s = round(time.time() - program.create_time(), 1)
                    found += [
                        Sample(at, measure, name, value, age_s)
                        for measure, value in zip(MEASURES, values, strict=True)
                    ]
        return found

    def _of_disk(self) -> list[tuple[str, str, float]]:
        sizes: dict[str, float] = {}
        root = self._stack.data.root
        for folder, _, files in os.walk(root):
            inside = Path(folder).relative_to(root).parts
            for file in files:
                with contextlib.suppress(OSError):
                    part = inside[0] if inside else "database and files"
                    size = (Path(folder) / file).stat().st_blocks * 512 / processes.MIB
                    sizes[part] = sizes.get(part, 0.0) + size
        return [(DISK, part, size) for part, size in sizes.items()]

    def _of_lag(self) -> list[tuple[str, str, float]]:
        rows = self._stack.status("consumer").get("rows")
        with contextlib.suppress(LabError, KeyError):
            if rows is not None:
                return [(LAG, "consumer", max(0, self._stack.feed.position() - rows))]
        return []


def choose(faults: Sequence[Fault], random: Random, count: int) -> list[Fault]:
    """Return random faults that take less than a minute and can share one stack."""
    usable = [
        fault
        for fault in faults
        if fault.stack in (MAIN, KILLS) and fault.seconds <= LONGEST_FAULT and not fault.missing()
    ]
    return [random.choice(usable) for _ in range(count)]


def series(samples: Sequence[Sample]) -> dict[tuple[str, str], list[Sample]]:
    """Return the samples of each series."""
    found: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        found.setdefault((sample.measure, sample.of), []).append(sample)
    return found


def growth(samples: Sequence[Sample]) -> tuple[float, float] | None:
    """Return the typical value in the first and in the last third after the warm-up.

    Memory and threads of a service grow in its first minutes, and the faults restart it at random
    times. Therefore values are compared only at the same age of the service: the result is the
    mean, over the ages that both thirds have, of the median at each age.

    Returns:
        None if the thirds have no age in common.
    """
    steady = samples[int(len(samples) * WARM_UP) :]
    third = max(1, len(steady) // 3)
    first, last = _by_age(steady[:third]), _by_age(steady[-third:])
    weights = {age: min(len(first[age]), len(last[age])) for age in first.keys() & last.keys()}
    if not weights:
        return None
    total = sum(weights.values())

    def mean(of: Mapping[int, Sequence[float]]) -> float:
        return sum(median(of[age]) * weight for age, weight in weights.items()) / total

    return mean(first), mean(last)


def _by_age(samples: Sequence[Sample]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for sample in samples:
        age = int(min(sample.age_s, WARM_SECONDS) / AGE_SECONDS)
        found.setdefault(age, []).append(sample.value)
    return found


def statements(samples: Sequence[Sample]) -> list[str]:
    """Return the rows of a Markdown table: each series at the beginning and at the end."""
    lines = [
        "| measure | service or directory | first third | last third | change |",
        "|---|---|--:|--:|--:|",
    ]
    for (measure, of), of_series in sorted(series(samples).items()):
        compared = growth(of_series)
        if compared is None:
            lines.append(f"| {measure} | {of} | {UNKNOWN} | {UNKNOWN} | {UNKNOWN} |")
            continue
        before, after = compared
        change = f"{(after - before) / before:+.0%}" if before else "0"
        grows = measure != DISK and before and after > before * (1 + GROWTH)
        mark = " grows" if grows else ""
        lines.append(f"| {measure} | {of} | {before:,.0f} | {after:,.0f} | {change}{mark} |")
    return lines


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Draw one panel for each measure."""
    by_series = series(samples)
    measures = (*MEASURES, DISK, LAG)
    figure = Figure(figsize=(9, 13))
    panels = figure.subplots(len(measures), 1, sharex=True)
    for panel, measure in zip(panels, measures, strict=True):
        for (of_measure, of), points in by_series.items():
            if of_measure == measure:
                minutes = [sample.at / 60 for sample in points]
                panel.plot(minutes, [sample.value for sample in points], label=of)
        panel.set_title(measure, loc="left", fontsize=10)
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=7, ncols=3, loc="upper left")
    panels[-1].set_xlabel("minutes since the start")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def write_samples(samples: Sequence[Sample], path: Path) -> None:
    """Write the samples as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Sample._fields)
        writer.writerows(samples)


def main() -> None:
    """Run the soak, print the table and write all results."""
    options = _arguments()
    count = max(1, round(options.minutes * 60 / FAULT_SECONDS))
    faults = choose(catalogue(), Random(options.seed), count)
    samplers: list[Sampler] = []

    def watch(stack: Stack) -> None:
        samplers.append(Sampler(stack))
        samplers[0].start()

    with results.Results("soak", options.recording, SPEED, options.seed) as written:
        run = Run(
            written.new_folder("soak"),
            list(dict.fromkeys(faults)),
            source=options.recording,
            speed=SPEED,
            seed=options.seed,
            log=log,
            order=faults,
            every_s=FAULT_SECONDS,
            watch=watch,
        )
        try:
            rows = run.run()
        except LabError as error:
            sys.exit(f"The soak failed: {error}. The files are in {written.folder}.")
        finally:
            for sampler in samplers:
                sampler.stop()
        samples = samplers[0].samples
        write_samples(samples, results.FOLDER / "soak.csv")
        draw(samples, results.FOLDER / "soak.png")
        further: Mapping[str, object] = {"samples": "soak.csv", "figure": "soak.png"}
        status = written.write(rows, ["", *statements(samples)], further)
    sys.exit(status)


def _arguments() -> argparse.Namespace:
    parser = Arguments(
        prog="python -m faults.soak",
        description="Runs the stack for a long time with a random fault each minute.",
    )
    parser.add_argument("--minutes", type=float, default=60, help="duration in minutes (60)")
    results.add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    results.run(main)
