"""Measure the pipeline and print a table: `python -m benchmarks [--quick] [--keep] [PART ...]`.

It takes about half an hour, with --quick about six minutes. Run nothing else meanwhile.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import batch, consumer, inputs, machine, memory, producer, stream
from benchmarks.processes import ENDING, Bench, Open
from benchmarks.results import Result, table
from benchmarks.sizes import FULL, QUICK, Sizes
from feed.replay import Arguments
from local import prerequisites
from pipeline.spark import ROOT

Part = Callable[[Open, Sizes], Iterator[Result]]
PARTS: dict[str, Part] = {
    "producer": producer.measure,
    "consumer": consumer.measure,
    "stream": stream.measure,
    "batch": batch.measure,
    "memory": memory.measure,
}
JARS = ("kafka", "spark")
#: Directory of the results. The measurements create temporary directories here.
FOLDER = ROOT / "data" / "bench"


def main() -> None:
    """Run the chosen parts, print the table and write it as JSON."""
    arguments = _arguments()
    for signum in ENDING:
        signal.signal(signum, _stop)
    began = datetime.now(UTC)
    described = machine.describe() | {"cores used": machine.pin()}
    if os.getloadavg()[0] > machine.QUIET_LOAD:
        _log(f"the machine is busy (load {os.getloadavg()[0]:.1f}): the numbers are not reliable")
    sizes = QUICK if arguments.quick else FULL
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=FOLDER))
    results: dict[str, list[Result]] = {}
    failures: dict[str, str] = {}
    try:
        for name in arguments.parts:
            results[name] = []
            failure = measure(PARTS[name], folder, sizes, results[name])
            if failure:
                failures[name] = failure
                _log(f"{name} FAILED: {failure}")
    finally:
        if arguments.keep:
            _log(f"the temporary files are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    report = {
        "began": began.isoformat(timespec="seconds"),
        "quick": arguments.quick,
        "machine": described,
        "inputs": inputs.DESCRIPTION,
        "sizes": asdict(sizes),
        "results": {
            name: [
                asdict(result) | {"ratio": result.ratio, "reached": result.reached}
                for result in of_part
            ]
            for name, of_part in results.items()
        },
        "failures": failures,
    }
    latest = FOLDER / "latest.json"
    latest.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(text(began, described, sizes, results, failures))
    _log(f"the same as JSON: {latest}")
    sys.exit(1 if failures else 0)


def measure(part: Part, folder: Path, sizes: Sizes, results: list[Result]) -> str | None:
    """Add the results of a part one by one; return the reason if it failed.

    The results before a failure are kept.
    """
    try:
        for result in part(lambda place: Bench(folder / place, _log), sizes):
            results.append(result)
            _log(table([result]).splitlines()[-1])
    except Exception as error:  # noqa: BLE001 - the other parts continue
        return f"{type(error).__name__}: {error}"
    return None


def text(
    began: datetime,
    described: dict[str, str],
    sizes: Sizes,
    results: dict[str, list[Result]],
    failures: dict[str, str],
) -> str:
    """Return the whole report as Markdown."""
    lines = [
        f"Measured {began:%Y-%m-%d %H:%M} UTC.",
        "",
        *(f"- {name}: {value}" for name, value in described.items()),
        f"- input: {inputs.DESCRIPTION}",
        *(f"- {name.replace('_', ' ')}: {value}" for name, value in asdict(sizes).items()),
        "",
        table([result for of_part in results.values() for result in of_part]),
        *(f"\n{name} FAILED: {why}" for name, why in failures.items()),
    ]
    return "\n".join(lines)


def _stop(_signum: int, _frame: object) -> None:
    for signum in ENDING:
        signal.signal(signum, signal.SIG_IGN)  # one signal is enough: the processes are being ended
    _log("stopping")
    raise KeyboardInterrupt


def _log(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = Arguments(
        prog="python -m benchmarks",
        description="Measures the pipeline against a plain baseline and prints a table.",
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"part to measure (default all): {', '.join(PARTS)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="use smaller inputs, about six minutes"
    )
    parser.add_argument("--keep", action="store_true", help="keep the temporary files")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    missing = prerequisites.java_problem()
    if missing is None and not all(
        any((ROOT / "jars" / jars / "lib").glob("*.jar")) for jars in JARS
    ):
        missing = "the jars are missing: run `make jars`"
    if missing:
        parser.error(missing)
    arguments.parts = arguments.parts or list(PARTS)
    return arguments


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
