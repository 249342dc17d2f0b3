"""Inject faults into the real local stack and print what they did: `python -m faults`.

Each fault has one row in the table. The exit status is 0 if no row failed, else 1.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine
from faults import verdict
from faults.catalogue import catalogue
from faults.lab import Fault, Run
from faults.stack import ROOT, LabError, remove
from faults.verdict import Row
from feed.recording import RecordingError
from feed.replay import Arguments
from local import prerequisites

SAMPLE = ROOT / "data" / "sample" / "synthetic_btcusd.jsonl.gz"
#: Folder of the results. The stacks run in temporary folders here.
FOLDER = ROOT / "data" / "faults"
#: Multiple of the recorded speed. A window is then final about 20 seconds after its begin.
SPEED = 6.0


def main() -> None:
    """Run the chosen faults, print the table, and write it as Markdown and JSON."""
    options = _arguments()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    began = datetime.now(UTC)
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{began:%Y%m%dT%H%M%S}-", dir=FOLDER))
    described = machine.describe() | {
        "recording": options.recording.name,
        "speed": f"{SPEED:g} times the recorded speed",
        "seed": str(options.seed),
    }
    rows = run_all(options.faults, folder, options)
    text = report(began, described, rows)
    (FOLDER / "latest.md").write_text(text + "\n", encoding="utf-8")
    values = {
        "began": began.isoformat(timespec="seconds"),
        "machine": described,
        "rows": verdict.as_json(rows),
    }
    (FOLDER / "latest.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(text)
    log(f"the same as files: {FOLDER}/latest.md and {FOLDER}/latest.json")
    status = verdict.exit_status(rows)
    if status or options.keep:
        log(f"the folders of the stacks: {folder}")
    else:
        remove(folder)
    sys.exit(status)


def run_all(faults: Sequence[Fault], folder: Path, options: argparse.Namespace) -> list[Row]:
    """Run each stack with its faults; return the rows of all."""
    reasons = {fault.name: fault.missing() for fault in faults}
    rows = [
        verdict.skipped(fault.name, fault.claim, reason)
        for fault in faults
        if (reason := reasons[fault.name])
    ]
    left = [fault for fault in faults if not reasons[fault.name]]
    for name in dict.fromkeys(fault.stack for fault in left):
        of_stack = [fault for fault in left if fault.stack == name]
        log(f"stack {name}: {sum(fault.times for fault in of_stack)} injections")
        place = folder / name
        place.mkdir()
        run = Run(
            place,
            of_stack,
            source=options.recording,
            speed=SPEED,
            seed=options.seed,
            log=log,
        )
        try:
            rows += run.run()
        except LabError as error:
            log(f"stack {name} FAILED: {error}")
            rows += [verdict.broken(fault.name, fault.claim, str(error)) for fault in of_stack]
    return rows


def report(began: datetime, described: dict[str, str], rows: Sequence[Row]) -> str:
    """Return the whole result as Markdown."""
    took = (datetime.now(UTC) - began).total_seconds() / 60
    failed = [row for row in rows if row.verdict == verdict.FAILED]
    lines = [
        f"Run on {began:%Y-%m-%d %H:%M} UTC, {took:.0f} minutes.",
        "",
        *(f"- {name}: {value}" for name, value in described.items()),
        "",
        verdict.table(rows),
        "",
        verdict.summary(rows),
        *(f"\n{row.fault}: {problem}" for row in failed for problem in row.problems[:10]),
    ]
    return "\n".join(lines)


def log(text: str) -> None:
    """Print one line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = Arguments(
        prog="python -m faults",
        description="Injects faults into the real local stack and compares every result.",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", default=[], help="only these faults (default: all)"
    )
    parser.add_argument("--times", type=int, help="injections of each fault (default: its own)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices (1)")
    parser.add_argument(
        "--recording", type=Path, default=SAMPLE, help="recording to replay (the sample)"
    )
    parser.add_argument("--list", action="store_true", help="list the faults and exit")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the stacks")
    options = parser.parse_args()
    known = {fault.name: fault for fault in catalogue()}
    if options.list:
        for fault in known.values():
            print(f"{fault.name:24} {fault.times:3} times  {fault.claim}")
        sys.exit(0)
    if unknown := set(options.only) - known.keys():
        parser.error(f"unknown fault {', '.join(sorted(unknown))}: --list shows all of them")
    options.faults = [fault for fault in known.values() if fault.name in (options.only or known)]
    if options.times:
        options.faults = [replace(fault, times=options.times) for fault in options.faults]
    if problem := prerequisites.java_problem():
        parser.error(problem)
    return options


if __name__ == "__main__":
    try:
        main()
    except RecordingError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
