"""How the processes of a running stack are: `python -m local.status --data-dir DIR`."""

import argparse
import contextlib
from pathlib import Path

from supervisor.supervisorctl import main as supervisorctl

from local import stack


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.status", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of the outputs")
    data_dir = parser.parse_args().data_dir.absolute()
    if not stack.is_running(data_dir):
        stack.refuse(f"no stack runs on {data_dir}: start one with make demo or make run")
    # Its own status says "not all run", which the topics, once created, never do.
    with contextlib.suppress(SystemExit):
        supervisorctl(["-c", str(stack.configuration(data_dir)), "status"])


if __name__ == "__main__":
    main()
