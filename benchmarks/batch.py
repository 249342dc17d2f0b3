"""Wall time and CPU seconds of a batch run: spark-submit and all its child processes."""

import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from benchmarks import cost, inputs
from benchmarks.cost import Cost
from benchmarks.processes import BASELINE, Bench, BenchmarkError, Open
from benchmarks.results import Mark, Result
from benchmarks.sizes import Sizes
from pipeline import outputs, spark, text_files
from pipeline.batch import archive, scheduler
from pipeline.data_dir import DataDir
from pipeline.settings import Settings, load

#: Longest run, seconds.
TIMEOUT = 900
MODES = ("full", "pushdown", "incremental")
#: Marks by mode and rows: wall time divided by that of the plain job.
MARKS = {
    ("full", 20_000): 0.48,
    ("full", 1_000_000): 0.6,
    ("full", 10_000_000): 0.9,
    ("pushdown", 10_000_000): 0.5,
}
#: The mark of the mode `incremental`: how many seconds more a run on the largest table may take
#: than one on the smallest table.
SLOWER = 1.0
#: Rows that are new in a run in the mode `incremental`: ten minutes of the feed.
ADDED_ROWS = 600 * inputs.PER_SECOND
#: Two equal runs of one minute differ by up to this factor.
NOISE = 1.05


def measure(open_bench: Open, sizes: Sizes) -> Iterator[Result]:
    """Yield the results for the batch run in each mode, each as soon as it is measured."""
    with open_bench("batch") as bench:
        settings, table = prepare(bench)
        incremental: dict[int, float] = {}
        failures = []
        for rows, runs in sizes.batches:
            grow(bench, table, rows)
            bench.log(f"batch: {rows:,} rows, {runs} runs in each mode and of the plain job")
            full, plain = [], []
            for _ in range(runs):
                plain.append(run_baseline(bench))
                full.append(run_ours(bench, settings, "full", rows))
            baseline = median_cost(plain)
            yield from compare("full", rows, median_cost(full), baseline)
            for mode in MODES[1:]:
                try:
                    cost_ = median_cost(run_mode(bench, settings, table, mode, runs))
                except BenchmarkError as error:  # the other modes continue
                    failures.append(f"{rows:,} rows, {mode}: {error}")
                    bench.log(failures[-1])
                    continue
                yield from compare(mode, rows, cost_, baseline)
                if mode == "incremental":
                    incremental[rows] = cost_.wall
        small, large = sizes.batches[0][0], sizes.batches[-1][0]
        if {small, large} <= incremental.keys():
            slower = incremental[large] - incremental[small]
            name = f"batch, incremental: wall with {large:,} rows minus that with {small:,} rows"
            yield Result(name, "s", slower, None, Mark(at_most=SLOWER))
        if failures:
            raise BenchmarkError("; ".join(failures))


def prepare(bench: Bench) -> tuple[Settings, inputs.Table]:
    """Return the settings of the runs and an empty table. Make the class-data archive."""
    settings = load().model_copy(update={"data_dir": bench.folder})
    archive.make_archive(settings)  # as `make demo` does before the start
    return settings, inputs.Table(DataDir(bench.folder).database)


def grow(bench: Bench, table: inputs.Table, rows: int) -> None:
    """Fill the table up to a number of rows."""
    bench.log(f"batch: a table of {rows:,} rows")
    table.grow(rows)


def run_mode(
    bench: Bench, settings: Settings, table: inputs.Table, mode: str, runs: int
) -> list[Cost]:
    """Return the cost of each run in a mode.

    In the mode `incremental`, one run is not measured: it reads everything, and keeps the sums.
    Then some rows are added before each run.
    """
    bench.log(f"batch: {table.rows:,} rows, mode {mode}")
    if mode != "incremental":
        return [run_ours(bench, settings, mode, table.rows) for _ in range(runs)]
    run_ours(bench, settings, mode, table.rows, first=True)
    costs = []
    for _ in range(runs):
        table.grow(table.rows + ADDED_ROWS)
        costs.append(run_ours(bench, settings, mode, table.rows))
    return costs


def compare(mode: str, rows: int, ours: Cost, baseline: Cost) -> Iterator[Result]:
    """Return the results of one mode at one size of the table."""
    name = f"batch, {mode}, {rows:,} rows"
    limit = MARKS.get((mode, rows))
    mark = None if limit is None else Mark(at_most=limit, of_ratio=True)
    yield Result(f"{name}: wall", "s", ours.wall, baseline.wall, mark)
    yield Result(f"{name}: CPU", "s", ours.cpu, baseline.cpu)
    yield Result(f"{name}: peak memory", "MiB", ours.peak_mib, baseline.peak_mib)


def median_cost(costs: list[Cost]) -> Cost:
    """Return the median of the wall times, of the CPU times and of the peaks."""
    return Cost(
        median(cost.wall for cost in costs),
        median(cost.cpu for cost in costs),
        median(cost.peak_mib for cost in costs),
    )


def measure_tunings(open_bench: Open, sizes: Sizes) -> Iterator[Result]:
    """Measure the full run on a large table with other JVM options.

    The options that are chosen by the size of the table must not be slower.
    """
    with open_bench("tunings") as bench:
        settings, table = prepare(bench)
        rows = sizes.batches[-1][0]
        grow(bench, table, rows)
        ours = run_ours(bench, settings, "full", rows)
        made = spark.archive_path(settings)
        for what, options in (
            ("only the C1 compiler", spark.java_options(made, c1_only=True)),
            ("default JVM options", "-Dnothing=tuned"),
        ):
            bench.log(f"tunings: {rows:,} rows, {what}")
            config = spark.configuration(settings, settings.batch_memory, options)
            other = run_ours(bench, settings, "full", rows, config)
            mark = Mark(at_most=NOISE, of_ratio=True)
            name = f"batch, full, {rows:,} rows: wall"
            yield Result(name, "s", ours.wall, other.wall, mark, what)


def run_ours(
    bench: Bench,
    settings: Settings,
    mode: str,
    rows: int,
    config: dict[str, str] | None = None,
    *,
    first: bool = False,
) -> Cost:
    """Run the command of the scheduler; the result must cover all rows, in the right mode.

    Args:
        bench: the measurement.
        settings: the settings of the run.
        mode: the value of `BATCH_MODE`.
        rows: the number of rows in the table.
        config: the configuration of Spark; None: that of the scheduler.
        first: the first run in the mode `incremental`, which reads everything.

    Raises:
        BenchmarkError: the run failed, does not cover all rows, or was in another mode.
    """
    run = outputs.run_id(datetime.now(UTC))
    chosen = settings.model_copy(update={"batch_mode": mode})
    config = config or scheduler.configuration(chosen, rows)
    command = scheduler.command_of_run(chosen, config, run, time.monotonic())
    measured = cost.cost_of(bench, "batch", command, TIMEOUT)
    result = text_files.read_json(DataDir(bench.folder).batch_run)
    if result.get("run") != run or result.get("rows") != rows:
        raise BenchmarkError(f"the batch run covers {result.get('rows')} of {rows} rows")
    found = result.get("mode", "full")
    if found != mode and not first:
        reason = result.get("reason") or "no reason"
        raise BenchmarkError(f"the batch run was in the mode {found}, not {mode}: {reason}")
    return measured


def run_baseline(bench: Bench) -> Cost:
    """Run the job of the baseline on the same table."""
    submit = Path(sys.executable).with_name("spark-submit")
    jar = next(jar for jar in spark.jars() if jar.name.startswith("sqlite-jdbc"))
    database = DataDir(bench.folder).database
    script = BASELINE / "batch.py"
    command = [str(part) for part in (submit, "--jars", jar, script, database, bench.folder)]
    path = f"{submit.parent}{os.pathsep}{os.environ['PATH']}"  # as in an activated environment
    return cost.cost_of(bench, "plain-batch", command, TIMEOUT, DATA_DIR=bench.folder, PATH=path)
