"""Compare the stream with Flink SQL and a plain Spark job: `python -m benchmarks.peers`.

All of them read the same topic and compute the same windows. `make bench-peers` downloads Flink
from Maven Central first.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import catch_up, flink, inputs, parts, record
from benchmarks.catch_up import Backlog, Engine, Run
from benchmarks.cost import Cost
from benchmarks.processes import Bench
from feed.arguments import Arguments, parse_count

Row = dict[str, Any]

#: Numbers of messages: as many as in a recording of one week, and four times as many.
SIZES = (525_512, 2_102_048)
FILE = parts.FOLDER / "peers.json"
OURS = "spark_processor.py"
PLAIN = "plain Spark job, two queries"


def engines() -> dict[str, Callable[[Bench, Backlog], Run]]:
    """Return every engine by name, in the order of measurement."""
    ways = {f"Flink SQL, {way}": partial(run_flink, way=way) for way in flink.DEDUPLICATIONS}
    return {OURS: catch_up.run_ours, PLAIN: catch_up.run_baseline, **ways}


def main() -> None:
    """Measure the chosen sizes and print the table."""
    parser = Arguments(
        prog="python -m benchmarks.peers",
        description="Compares the stream with Flink SQL and a plain Spark job.",
    )
    parser.add_argument(
        "sizes",
        nargs="*",
        metavar="MESSAGES",
        type=parse_count,
        help=f"number of synthetic messages (default: {' and '.join(map(str, SIZES))})",
    )
    parser.add_argument("--recording", type=Path, help="measure with this recording instead")
    parser.add_argument("--keep", action="store_true", help="keep the temporary files")
    arguments = parser.parse_args()
    parts.check(parser, "kafka", "spark", "flink")
    with parts.session(keep=arguments.keep) as session:
        about = session.about(**described(arguments.recording))
        rows = record.Rows(FILE, about, ("messages", "engine"))
        for name, write in inputs_of(arguments.sizes or SIZES, arguments.recording).items():
            with session.part(name), session.open(name) as bench:
                for row in compare(session, bench, write(bench)):
                    rows.add(row)
        text = rows.write(session.failures)
    parts.finish(session, text, FILE)


def inputs_of(sizes: Sequence[int], recording: Path | None) -> dict[str, Callable[[Bench], Path]]:
    """Return the inputs by name: functions that return the path of a recording."""
    if recording:
        path = recording.absolute()
        return {path.name: lambda _bench: path}
    return {f"peers-{size}": partial(catch_up.write_deliveries, messages=size) for size in sizes}


def described(recording: Path | None) -> dict[str, object]:
    """Return what the results depend on, by name."""
    made_up = (
        f"{inputs.DESCRIPTION}; one message in ten is a repeated delivery, one in "
        f"{inputs.DISORDERED} is out of order, by at most 20 s"
    )
    settings = [f"{name}={value}" for name, value in flink.CONFIGURATION.items()]
    settings += [*flink.JAVA_OPTIONS, "no checkpoints", "bounded source"]
    return {
        "input": recording.name if recording else made_up,
        **flink.versions(),
        "settings of Flink": ", ".join(settings),
    }


def compare(session: parts.Session, bench: Bench, recording: Path) -> Iterator[Row]:
    """Measure every engine on one topic. An engine that fails does not stop the others."""
    backlog = catch_up.fill(bench, recording, repeats=True)
    ours: Cost | None = None
    for name, run in engines().items():
        with session.part(f"{backlog.expected.messages:,} messages, {name}"):
            measured = run(bench, backlog)
            ours = measured.cost if name == OURS else ours
            yield table_row(backlog.expected.messages, name, measured, ours)


def table_row(messages: int, name: str, run: Run, ours: Cost | None) -> Row:
    """Return the row of an engine.

    The ratios are the values of the pipeline divided by those of the engine. They are None if the
    pipeline failed.
    """
    return {
        "messages": messages,
        "engine": name,
        "wall, s": round(run.cost.wall, 2),
        "CPU, s": round(run.cost.cpu, 2),
        "wall, this project / engine": ours and round(ours.wall / run.cost.wall, 3),
        "CPU, this project / engine": ours and round(ours.cpu / run.cost.cpu, 3),
        "peak memory, MiB": round(run.cost.peak_mib),
        "windows right / wrong / missing": str(run.check),
        "windows right / wrong / missing if repeats count": str(run.check_repeated),
        "finished": "yes" if run.complete else f"no, ended after {catch_up.TIMEOUT} s",
    }


def run_flink(bench: Bench, backlog: Backlog, way: str) -> Run:
    """Measure Flink SQL with one way to remove repeated deliveries."""
    folder = bench.folder / "flink"
    shutil.rmtree(folder, ignore_errors=True)
    engine = Engine(
        f"Flink SQL, {way}",
        lambda: flink.start(bench, backlog.servers, catch_up.TOPIC, way),
        lambda: flink.read_windows(folder),
    )
    return catch_up.run(bench, engine, backlog)


if __name__ == "__main__":
    parts.run_program(main)
