"""Inject faults into the real local stack and print what they did: `python -m faults`.

Each fault has one row in the table. The exit status is 0 if no row failed, else 1.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from faults import results, verdict
from faults.catalogue import QUICK, catalogue
from faults.lab import Fault, Run
from faults.results import Results, log
from faults.stack import LabError
from faults.verdict import Row
from feed.replay import Arguments

#: Multiple of the recorded speed. A window is then final about 20 seconds after its begin.
SPEED = 6.0


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
    rows = [
        verdict.skipped(fault.name, fault.claim, reason)
        for fault in faults
        if (reason := reasons[fault.name])
    ]
    left = [fault for fault in faults if not reasons[fault.name]]
    for name in dict.fromkeys(fault.stack for fault in left):
        of_stack = [fault for fault in left if fault.stack == name]
        log(f"stack {name}: {sum(fault.times for fault in of_stack)} injections")
        run = Run(
            written.new_folder(name),
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


def _arguments() -> argparse.Namespace:
    parser = Arguments(
        prog="python -m faults",
        description="Injects faults into the real local stack and compares every result.",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", default=[], help="only these faults (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="a few faults, once each: a minute")
    parser.add_argument("--times", type=int, help="injections of each fault (default: its own)")
    results.add_options(parser)
    parser.add_argument("--list", action="store_true", help="list the faults and exit")
    parser.add_argument("--keep", action="store_true", help="keep the directories of the stacks")
    options = parser.parse_args()
    known = {fault.name: fault for fault in catalogue()}
    if options.list:
        for fault in known.values():
            print(f"{fault.name:24} {fault.times:3} times  {fault.claim}")
        sys.exit(0)
    if unknown := set(options.only) - known.keys():
        parser.error(f"unknown fault {', '.join(sorted(unknown))}: --list shows all of them")
    chosen = options.only or (QUICK if options.quick else known)
    times = options.times or (1 if options.quick else None)
    faults = [fault for fault in known.values() if fault.name in chosen]
    options.faults = [replace(fault, times=times) for fault in faults] if times else faults
    return options


if __name__ == "__main__":
    results.run(main)
