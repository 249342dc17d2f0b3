"""Removes what runs have made: `python -m local.clean --data-dir DIR`.

Only what is known by name goes; `sample/` and whatever else lies there stays.
"""

import argparse
import shutil
from pathlib import Path

from local import stack
from pipeline.outputs import DataDir


def outputs_in(data: DataDir) -> list[Path]:
    """Everything below the folder that a run has made; `source.json`, the claim to it, last."""
    database = data.database
    known = [
        *(database.with_name(database.name + end) for end in ("", "-wal", "-shm", "-journal")),
        data.stream_csv,
        data.stream_live,
        data.batch_output,
        data.batch_windows,
        data.batch_log,
        data.checkpoints,
        data.status,
        data.report,
        *(data.root / name for name in ("kafka", "logs", "run")),
        *data.root.glob(".*.tmp"),
        data.source,
    ]
    return [path for path in known if path.exists()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.clean", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the folder of the outputs")
    data = DataDir(parser.parse_args().data_dir.absolute())
    found = outputs_in(data)
    if not found:
        print(f"{data.root} holds no outputs: nothing to clean")
        return
    if stack.is_running(data.root):
        stack.refuse(f"a stack runs on {data.root}: stop it first (Ctrl-C where it was started)")
    if data.source not in found:
        stack.refuse(
            f"{data.root} has no source.json, so it was not filled by this project: look into it "
            "and remove what you do not need by hand"
        )
    stack.end(stack.left_over(data.root), wait_seconds=5)
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    print(f"removed the outputs in {data.root}")


if __name__ == "__main__":
    main()
