"""Wall and CPU seconds of a batch run, the whole of it: spark-submit and all below."""

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
from pipeline.batch import archive
from pipeline.batch import scheduler as batch_scheduler
from pipeline.settings import Settings

#: Seconds that a run may take.
TIMEOUT = 900
#: Rows from which on the settings for small tables are no longer the ones to use.
MANY_ROWS = 10_000_000
#: Goals by rows: our wall time over the baseline's. With many rows, over that of other tunings:
#: the baseline does less there (three columns, 32-bit floats, one row out, no windows).
GOALS = {20_000: 0.5, 1_000_000: 0.8}
#: Two runs of one minute differ by this much for no reason.
NOISE = 1.05


@dataclass(frozen=True)
class Cost:
    """Of one run, in seconds."""

    wall: float
    cpu: float


def measure(open_bench: Open, sizes: Sizes) -> Iterator[Result]:
    with open_bench("batch") as bench:
        data = outputs.DataDir(bench.folder)
        settings = Settings(data_dir=bench.folder)
        archive.make_archive(settings)  # as `make demo` does before anything starts
        table = inputs.Table(data.database)
        for rows, runs in sizes.batches:
            bench.say(f"batch: a table of {rows:,} rows")
            table.grow(rows)
            bench.say(f"batch: {rows:,} rows, {runs} run(s) of each side")
            tuned = spark.batch_configuration(settings, rows)
            ours, baseline = [], []
            for _ in range(runs):
                baseline.append(run_baseline(bench))
                ours.append(run_ours(bench, tuned, rows))
            our_cost, baseline_cost = middle(ours), middle(baseline)
            name = f"batch over {rows:,} rows"
            goal = Goal(at_most=GOALS[rows], of_ratio=True) if rows in GOALS else None
            yield Result(f"{name}: wall", "s", our_cost.wall, baseline_cost.wall, goal)
            yield Result(f"{name}: CPU", "s", our_cost.cpu, baseline_cost.cpu)
            if rows >= MANY_ROWS:
                yield from other_tunings(bench, settings, rows, our_cost.wall)


def middle(costs: list[Cost]) -> Cost:
    return Cost(median(cost.wall for cost in costs), median(cost.cpu for cost in costs))


def other_tunings(bench: Bench, settings: Settings, rows: int, ours: float) -> Iterator[Result]:
    """What our job takes when it is tuned otherwise: picking by size must not lose."""
    archive = spark.archive_path(settings)
    for what, options in (
        ("our job tuned for small tables (C1 only)", spark.java_options(archive, c1_only=True)),
        ("our job on a JVM without any tuning", "-Dnothing=tuned"),
    ):
        bench.say(f"batch: {rows:,} rows, {what}")
        config = spark.configuration(settings, settings.batch_memory, options)
        other = run_ours(bench, config, rows)
        name = f"batch over {rows:,} rows: wall, baseline = {what}"
        yield Result(name, "s", ours, other.wall, Goal(at_most=NOISE, of_ratio=True))


def run_ours(bench: Bench, config: dict[str, str], rows: int) -> Cost:
    """The scheduler's very command; what it made must cover all rows."""
    started = datetime.fromtimestamp(time.time(), UTC)
    run = outputs.run_id(started)
    arguments = ("--run", run, "--began", str(started.timestamp()))
    command = spark.submit_command(config, batch_scheduler.SCRIPT, *arguments)
    cost = cost_of(bench, command)
    told = outputs.read_json(outputs.DataDir(bench.folder).batch_run)
    if told.get("run") != run or told.get("rows") != rows:
        raise BenchmarkError(f"the batch run covers {told.get('rows')} of {rows} rows")
    return cost


def run_baseline(bench: Bench) -> Cost:
    submit = Path(sys.executable).with_name("spark-submit")
    jar = next(jar for jar in spark.jars() if jar.name.startswith("sqlite-jdbc"))
    database = outputs.DataDir(bench.folder).database
    script = BASELINE / "batch.py"
    command = [submit, "--jars", jar, script, database, bench.folder]
    path = f"{submit.parent}{os.pathsep}{os.environ['PATH']}"  # as in an activated environment
    return cost_of(bench, [str(part) for part in command], PATH=path)


def cost_of(bench: Bench, command: list[str], **environment: object) -> Cost:
    """Runs a command to its end and counts it with all that it started and waited for."""
    began = time.monotonic()
    running = bench.start("batch", command, DATA_DIR=bench.folder, **environment)
    deadline = began + TIMEOUT
    while True:
        pid, status, usage = os.wait4(running.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            raise BenchmarkError(f"a batch run took over {TIMEOUT} s:\n{running.tail()}")
        time.sleep(0.01)
    wall = time.monotonic() - began
    running.process.returncode = os.waitstatus_to_exitcode(status)
    if running.process.returncode != 0:
        raise BenchmarkError(f"a batch run failed:\n{running.tail()}")
    return Cost(wall, usage.ru_utime + usage.ru_stime)
