"""Show the state of each process of a running stack: `python -m local.status --data-dir DIR`."""

import argparse
import contextlib
from pathlib import Path

from supervisor.supervisorctl import main as supervisorctl

from local import stack


def main() -> None:
    """Print what supervisor reports."""
    parser = argparse.ArgumentParser(prog="python -m local.status", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of all outputs")
    data_dir = parser.parse_args().data_dir.absolute()
    if not stack.is_running(data_dir):
        stack.refuse(f"No stack runs on {data_dir}: start one with `make demo` or `make run`")
    # Its exit status means "not all of them run". The topics program ends by design.
    with contextlib.suppress(SystemExit):
        supervisorctl(["-c", str(stack.configuration(data_dir)), "status"])


if __name__ == "__main__":
    main()
