"""Wall time and CPU seconds of a batch run: spark-submit and all its child processes."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks import inputs
from benchmarks.processes import BASELINE, Bench, BenchmarkError, Open
from benchmarks.results import Goal, Result
from benchmarks.sizes import Sizes
from pipeline import outputs, spark
from pipeline.batch import archive, scheduler
from pipeline.settings import Settings, load

#: Longest run, seconds.
TIMEOUT = 900
#: From this number of rows on, the benchmark compares other JVM options too.
MANY_ROWS = 10_000_000
#: Goals by rows: wall time divided by that of the baseline. A large table has none, because there
#: the baseline does less: three columns, 32-bit floats, one row of output, no windows.
GOALS = {20_000: 0.5, 1_000_000: 0.8}
#: Two equal runs of one minute differ by up to this factor.
NOISE = 1.05


@dataclass(frozen=True)
class Cost:
    """The wall time and CPU time of one run, seconds."""

    wall: float
    cpu: float


def measure(open_bench: Open, sizes: Sizes) -> Iterator[Result]:
    """Yield the results for the batch run, each as soon as it is measured."""
    with open_bench("batch") as bench:
        data = outputs.DataDir(bench.folder)
        settings = load().model_copy(update={"data_dir": bench.folder})
        archive.make_archive(settings)  # as `make demo` does before the start
        table = inputs.Table(data.database)
        for rows, runs in sizes.batches:
            bench.log(f"batch: a table of {rows:,} rows")
            table.grow(rows)
            bench.log(f"batch: {rows:,} rows, {runs} runs of each side")
            tuned = spark.batch_configuration(settings, rows)
            ours, baseline = [], []
            for _ in range(runs):
                baseline.append(run_baseline(bench))
                ours.append(run_ours(bench, tuned, rows))
            our_cost, baseline_cost = median_cost(ours), median_cost(baseline)
            name = f"batch over {rows:,} rows"
            goal = Goal(at_most=GOALS[rows], of_ratio=True) if rows in GOALS else None
            yield Result(f"{name}: wall", "s", our_cost.wall, baseline_cost.wall, goal)
            yield Result(f"{name}: CPU", "s", our_cost.cpu, baseline_cost.cpu)
            if rows >= MANY_ROWS:
                yield from other_tunings(bench, settings, rows, our_cost.wall)


def median_cost(costs: list[Cost]) -> Cost:
    """Return the median of the wall times and of the CPU times."""
    return Cost(median(cost.wall for cost in costs), median(cost.cpu for cost in costs))


def other_tunings(bench: Bench, settings: Settings, rows: int, ours: float) -> Iterator[Result]:
    """Measure the batch run with other JVM options: the choice by size must not be slower."""
    made = spark.archive_path(settings)
    for what, options in (
        (
            "our job with the options for small tables (C1 only)",
            spark.java_options(made, c1_only=True),
        ),
        ("our job with the default JVM options", "-Dnothing=tuned"),
    ):
        bench.log(f"batch: {rows:,} rows, {what}")
        config = spark.configuration(settings, settings.batch_memory, options)
        other = run_ours(bench, config, rows)
        name = f"batch over {rows:,} rows: wall, baseline = {what}"
        yield Result(name, "s", ours, other.wall, Goal(at_most=NOISE, of_ratio=True))


def run_ours(bench: Bench, config: dict[str, str], rows: int) -> Cost:
    """Run the command of the scheduler; the result must cover all rows."""
    run = outputs.run_id(datetime.now(UTC))
    arguments = ("--run", run, "--began", str(time.monotonic()))
    command = spark.submit_command(config, scheduler.SCRIPT, *arguments)
    cost = cost_of(bench, command)
    result = outputs.read_json(outputs.DataDir(bench.folder).batch_run)
    if result.get("run") != run or result.get("rows") != rows:
        raise BenchmarkError(f"the batch run covers {result.get('rows')} of {rows} rows")
    return cost


def run_baseline(bench: Bench) -> Cost:
    """Run the job of the baseline on the same table."""
    submit = Path(sys.executable).with_name("spark-submit")
    jar = next(jar for jar in spark.jars() if jar.name.startswith("sqlite-jdbc"))
    database = outputs.DataDir(bench.folder).database
    script = BASELINE / "batch.py"
    command = [submit, "--jars", jar, script, database, bench.folder]
    path = f"{submit.parent}{os.pathsep}{os.environ['PATH']}"  # as in an activated environment
    return cost_of(bench, [str(part) for part in command], PATH=path)


def cost_of(bench: Bench, command: list[str], **environment: object) -> Cost:
    """Run a command; return its cost with that of all child processes it waited for."""
    began = time.monotonic()
    running = bench.start("batch", command, DATA_DIR=bench.folder, **environment)
    deadline = began + TIMEOUT
    while True:
        pid, status, usage = os.wait4(running.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            raise BenchmarkError(f"a batch run took more than {TIMEOUT} s:\n{running.tail()}")
        time.sleep(0.01)
    wall = time.monotonic() - began
    running.process.returncode = os.waitstatus_to_exitcode(status)
    if running.process.returncode != 0:
        raise BenchmarkError(f"a batch run failed:\n{running.tail()}")
    return Cost(wall, usage.ru_utime + usage.ru_stime)
