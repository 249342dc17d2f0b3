"""Inject faults into the real local stack and print what they did: `python -m faults`.

Each fault has one row in the table. The exit status is 0 if no row failed, else 1.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks.parts import log
from faults import parallel, results, verdict
from faults.catalogue import QUICK, catalogue
from faults.lab import MAIN, Fault, Run
from faults.results import Results
from faults.stack import LabError
from faults.verdict import Row
from feed.arguments import Arguments

#: Multiple of the recorded speed. At this speed, a window is final about 20 s after its start.
SPEED = 6.0
#: Stacks that run at the same time: one of them uses about two thirds of a core.
JOBS = 2
#: The stack of `--quick`.
QUICK_STACK = "quick"
#: Settings of a stack. Batch runs use most of the CPU time of a stack. In these two stacks, few
#: faults concern batch runs, so the stacks start fewer of them.
ENVIRONMENT = {
    MAIN: {"BATCH_INTERVAL_SECONDS": "30"},
    QUICK_STACK: {"BATCH_INTERVAL_SECONDS": "300"},
}
#: Seconds for the start of a stack and for the comparison of its results at the end.
STACK_SECONDS = 100.0


def main() -> None:
    """Run the chosen faults, print the table, and write it as Markdown and JSON."""
    options = _arguments()
    recording, seed = options.recording, options.seed
    with Results("latest", recording, SPEED, seed, keep=options.keep) as written:
        status = written.write(run_all(options.faults, written, options))
    sys.exit(status)


def run_all(faults: Sequence[Fault], written: Results, options: argparse.Namespace) -> list[Row]:
    """Run each stack with its faults; return the rows of all."""
    reasons = {fault.name: fault.missing() for fault in faults}
    left = [fault for fault in faults if not reasons[fault.name]]
    stacks = by_stack(left)
    for name, of_stack in stacks.items():
        log(f"[{name}] {sum(fault.times for fault in of_stack)} injections")
    log(f"planned duration: {planned_seconds(left, options.jobs) / 60:.0f} minutes")
    works = {name: partial(_run, name, of, written, options) for name, of in stacks.items()}
    rows = [
        verdict.skipped(fault.name, fault.claim, reason)
        for fault in faults
        if (reason := reasons[fault.name])
    ]
    found = dict(parallel.run(works, options.jobs))
    for name, of_stack in stacks.items():
        of_name = found[name] or _broken(
            of_stack, "the process that ran the stack ended without a result"
        )
        rows += [_named(row, name) for row in of_name] if len(stacks) > 1 else of_name
    return rows


def _named(row: Row, stack: str) -> Row:
    """Return the row. The row of the time without a fault gets the name of its stack."""
    return replace(row, fault=f"{row.fault}, {stack}") if row.fault == verdict.NO_FAULT else row


def by_stack(faults: Sequence[Fault]) -> dict[str, list[Fault]]:
    """Return the faults of each stack, in the order in which the stacks start."""
    names = dict.fromkeys(fault.stack for fault in faults)
    return {name: [fault for fault in faults if fault.stack == name] for name in names}


def planned_seconds(faults: Sequence[Fault], jobs: int) -> float:
    """Return the duration of a run, seconds, if each injection takes its time in the catalogue."""
    ends = [0.0] * jobs
    for of_stack in by_stack(faults).values():
        earliest = ends.index(min(ends))
        ends[earliest] += STACK_SECONDS + sum(fault.times * fault.seconds for fault in of_stack)
    return max(ends)


def _run(
    name: str, faults: Sequence[Fault], written: Results, options: argparse.Namespace
) -> list[Row]:
    run = Run(
        written.new_folder(name),
        faults,
        source=options.recording,
        speed=SPEED,
        seed=options.seed,
        log=lambda text: log(f"[{name}] {text}"),
        environment=ENVIRONMENT.get(name, {}),
    )
    try:
        return run.run()
    except LabError as error:
        log(f"[{name}] FAILED: {error}")
        return _broken(faults, str(error))


def _broken(faults: Sequence[Fault], reason: str) -> list[Row]:
    return [verdict.broken(fault.name, fault.claim, reason) for fault in faults]


def _arguments() -> argparse.Namespace:
    parser = Arguments(
        prog="python -m faults",
        description="Injects faults into the real local stack and compares every result.",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", default=[], help="only these faults (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="a few faults, once each: 2 minutes")
    parser.add_argument(
        "--times", type=int, help="injections of each fault (default: as in the catalogue)"
    )
    parser.add_argument(
        "--jobs", type=int, default=JOBS, help=f"stacks that run at the same time (default {JOBS})"
    )
    results.add_options(parser)
    parser.add_argument("--list", action="store_true", help="list the faults and exit")
    parser.add_argument("--keep", action="store_true", help="keep the directories of the stacks")
    options = parser.parse_args()
    known = {fault.name: fault for fault in catalogue()}
    if options.list:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
        for fault in known.values():
            print(f"{fault.name:24} {fault.times:3} times  {fault.claim}")
        sys.exit(0)
    if unknown := set(options.only) - known.keys():
        parser.error(f"unknown fault {', '.join(sorted(unknown))}: --list shows all of them")
    chosen = options.only or (QUICK if options.quick else known)
    times = options.times or (1 if options.quick else None)
    faults = [fault for fault in known.values() if fault.name in chosen]
    if times:
        faults = [replace(f, times=1 if f.starts_stack else times) for f in faults]
    if options.quick:  # one stack needs the least time for a few faults
        faults = [replace(fault, stack=QUICK_STACK) for fault in faults]
    options.faults = faults
    return options


if __name__ == "__main__":
    results.run(main)
