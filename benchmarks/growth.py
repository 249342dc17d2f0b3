"""Measure how the cost grows with the data: `python -m benchmarks.growth`.

A batch run in each mode against the number of rows, and a catch-up of the stream against the number
of messages. The results are a table and a figure in `data/bench/`.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks import batch, catch_up, growth_figure, inputs, parts, record
from benchmarks.cost import Cost
from benchmarks.processes import Bench
from feed.arguments import Arguments, parse_count

Row = dict[str, Any]
FILE = parts.FOLDER / "growth.json"
ROWS = (20_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
MESSAGES = (30_000, 131_378, 525_512, 2_102_048)
#: With at least this number of rows, each mode runs once. With fewer rows, it runs three times.
MANY_ROWS = 3_000_000
PLAIN = "plain job"


def main() -> None:
    """Measure the chosen sizes, and write the table and the figure."""
    parser = Arguments(
        prog="python -m benchmarks.growth",
        description="Measures how the cost of a batch run and of a catch-up grows with the data.",
    )
    for name, what, default in (
        ("rows", "table sizes of the batch runs", ROWS),
        ("messages", "backlogs of the stream", MESSAGES),
    ):
        parser.add_argument(
            f"--{name}",
            nargs="*",
            metavar="N",
            type=parse_count,
            default=default,
            help=f"{what} (default: {' '.join(map(str, default))})",
        )
    parser.add_argument("--keep", action="store_true", help="keep the temporary files")
    arguments = parser.parse_args()
    parts.check(parser, "kafka", "spark")
    with parts.session(keep=arguments.keep) as session:
        about = session.about(input=inputs.DESCRIPTION, **described())

        rows = record.Rows(FILE, about, ("measurement", "rows or messages", "mode"))

        def add(measured: Iterator[Row]) -> None:
            for row in measured:
                rows.add(row)
                growth_figure.write(FILE.with_suffix(".png"), rows.rows())

        if arguments.rows:
            with session.part("batch"), session.open("batch") as bench:
                add(batch_rows(session, bench, sorted(arguments.rows)))
        for messages in sorted(arguments.messages):
            name = f"catch-up-{messages}"
            with session.part(name), session.open(name) as bench:
                add(catch_up_rows(bench, messages))
        text = rows.write(session.failures)
    parts.finish(session, text, FILE)


def described() -> dict[str, object]:
    """Return what the results depend on, by name."""
    return {
        "batch": f"median of 3 runs (1 run for {MANY_ROWS:,} rows or more). An incremental run "
        f"reads {batch.ADDED_ROWS:,} new rows",
        "catch-up": "from the start of spark_processor.py until all closed windows are written",
    }


def batch_rows(session: parts.Session, bench: Bench, sizes: list[int]) -> Iterator[Row]:
    """Measure the batch run in each mode, and the plain job, on a table that grows."""
    settings, table = batch.prepare(bench)
    for size in sizes:
        batch.grow(bench, table, size)
        runs = 1 if size >= MANY_ROWS else 3
        bench.log(f"batch: {table.rows:,} rows, {PLAIN}")
        with session.part(f"{size:,} rows, {PLAIN}"):
            costs = [batch.run_baseline(bench) for _ in range(runs)]
            yield row("batch", PLAIN, size, batch.median_cost(costs))
        for mode in batch.MODES:
            with session.part(f"{size:,} rows, {mode}"):
                costs = batch.run_mode(bench, settings, table, mode, runs)
                yield row("batch", mode, size, batch.median_cost(costs))


def catch_up_rows(bench: Bench, messages: int) -> Iterator[Row]:
    """Measure the stream with a backlog of messages."""
    backlog = catch_up.fill(bench, catch_up.write_deliveries(bench, messages))
    run = catch_up.run_ours(bench, backlog)
    yield row("catch-up", "stream", messages, run.cost)


def row(path: str, mode: str, size: int, cost: Cost) -> Row:
    """Return a row of the table."""
    return {
        "measurement": path,
        "mode": mode,
        "rows or messages": size,
        "wall, s": round(cost.wall, 2),
        "CPU, s": round(cost.cpu, 2),
        "peak memory, MiB": round(cost.peak_mib),
    }


if __name__ == "__main__":
    parts.run_program(main)
