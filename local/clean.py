"""Remove the outputs of all runs: `python -m local.clean --data-dir DIR`.

It removes only files and directories of known names. `sample/` and everything else stays.
"""

import argparse
import shutil
from pathlib import Path

from local import stack
from local.terminal import refuse
from local.variables import absolute_path
from pipeline import processes
from pipeline.data_dir import DataDir
from pipeline.outputs import part, status_or_empty


def outputs_in(data: DataDir) -> list[Path]:
    """Return everything in the directory that a run made, `source.json` last.

    `source.json` marks it as a directory of this project. If the removal is interrupted, the next
    one still finds it.
    """
    database = data.database
    known = [
        *(database.with_name(database.name + end) for end in ("", "-wal", "-shm", "-journal")),
        data.stream_csv,
        data.stream_live,
        data.batch_output,
        data.batch_windows,
        data.batch_sums,
        data.batch_log,
        data.alerts_stream,
        data.alerts_batch,
        data.checkpoints,
        data.status,
        data.report,
        data.broker,
        data.logs,
        data.run,
        data.temporary,
        *data.root.glob(".*.tmp"),
        data.source,
    ]
    return [path for path in known if path.exists()]


def has_only_a_report(data: DataDir, found: list[Path]) -> bool:
    """Return whether `make report` has written the only outputs: it needs no earlier run."""
    return found == [data.report] and (data.report / "report.md").is_file()


def store_url_of(data: DataDir) -> str:
    """Return the setting STORE_URL of the consumer that filled the directory."""
    return str(part(status_or_empty(data, "consumer"), "settings").get("store_url", "sqlite"))


def main() -> None:
    """Remove the outputs, unless a stack runs on them or another program made them."""
    parser = argparse.ArgumentParser(prog="python -m local.clean", description=__doc__)
    parser.add_argument("--data-dir", required=True, help="data directory")
    data = DataDir(absolute_path("DATA_DIR", parser.parse_args().data_dir))
    found = outputs_in(data)
    if not found:
        print(f"Nothing to clean: {data.root} has no outputs")
        return
    if stack.is_running(data.root):
        refuse(
            "A stack runs on DATA_DIR: stop it first with Ctrl-C or `kill` and its pid. "
            f"DATA_DIR={data.root} ({stack.holder(data.root)})"
        )
    if not stack.has_run_on(data.root) and not has_only_a_report(data, found):
        refuse(
            "DATA_DIR has no source.json, so another program may have filled it. Check it and "
            f"delete it yourself. DATA_DIR={data.root}"
        )
    stack.lock(data.root, "make clean")
    processes.end(stack.leftovers(data.root), wait_seconds=5)
    store_url = store_url_of(data)
    for path in outputs_in(data):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            refuse(
                f"Cannot remove {path.name}: {error.strerror}. Give this user access to it. Then "
                f"run `make clean` again. The path: {error.filename or path}"
            )
    print(f"Removed the outputs in {data.root}")
    if store_url != "sqlite":
        print(
            f"The trades in {store_url} are kept. To start without them, set STORE_URL to an empty "
            "database."
        )


if __name__ == "__main__":
    main()
