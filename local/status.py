"""Show the state of each process of a running stack: `python -m local.status --data-dir DIR`."""

import argparse
import contextlib

from supervisor.supervisorctl import main as supervisorctl

from local import stack
from local.terminal import refuse
from local.variables import absolute_path


def main() -> None:
    """Print what supervisor reports."""
    parser = argparse.ArgumentParser(prog="python -m local.status", description=__doc__)
    parser.add_argument("--data-dir", required=True, help="data directory")
    data_dir = absolute_path("DATA_DIR", parser.parse_args().data_dir)
    if not stack.is_running(data_dir):
        if left := stack.leftovers(data_dir):
            pids = " ".join(str(process.pid) for process in left)
            refuse(
                f"The supervisor of {data_dir} was killed. The next `make demo` or `make run` ends "
                f"{len(left)} of its processes that still run (pids {pids})"
            )
        refuse(f"No stack runs on {data_dir}: start one with `make demo` or `make run`")
    print(f"DATA_DIR={data_dir} ({stack.holder(data_dir)})", flush=True)
    # Its exit status means "not all of them run". The topics program ends by design.
    with contextlib.suppress(SystemExit):
        supervisorctl(["-c", str(stack.configuration(data_dir)), "status"])


if __name__ == "__main__":
    main()
