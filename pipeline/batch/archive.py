"""Make the class-data archive of the batch job, which halves a small run's start.

`python -m pipeline.batch.archive` makes it by a real batch run over a few trades.
"""

import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.outputs import DataDir
from pipeline.settings import Settings, load
from pipeline.spark import (
    ROOT,
    SetupError,
    archive_path,
    configuration,
    java_options,
    submit_command,
)
from pipeline.times import now


def make_archive(settings: Settings) -> Path:
    """Makes the class-data archive by a real batch run over a few trades, if there is none yet.

    Raises:
        SetupError: the run failed; everything works without the archive, slower.
    """
    path = archive_path(settings)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        data = DataDir(Path(folder))
        connection = store.open_writer(data.database)
        store.store(connection, _few_trades(), now())
        connection.close()
        half_made = path.with_suffix(f".{os.getpid()}.tmp")
        options = f"{java_options(None, c1_only=True)} -XX:ArchiveClassesAtExit={half_made}"
        config = configuration(settings, settings.batch_memory, options)
        script = ROOT / "batch_processor.py"
        command = submit_command(config, script, "--run", "archive", "--began", str(time.time()))
        run = subprocess.run(
            ["env", f"DATA_DIR={folder}", *command], cwd=ROOT, capture_output=True, check=False
        )
        if run.returncode != 0 or not half_made.exists():
            half_made.unlink(missing_ok=True)
            said = run.stderr.decode(errors="replace")[-2000:]
            raise SetupError(f"the class-data archive could not be made: {said}")
    half_made.replace(path)
    return path


def _few_trades() -> store.Batch:
    began = datetime(2025, 1, 1, tzinfo=UTC)
    trades = [
        Trade(
            trade_id=number,
            price=f"9{number:04}.01",
            best_bid=None,
            best_ask=None,
            side="buy" if number % 3 else "sell",
            time=began + timedelta(seconds=number),
            last_size="0.01",
        )
        for number in range(1, 1000)
    ]
    return store.Batch(0, len(trades) - 1, len(trades), 0, began, began, trades)


def main() -> None:
    """`python -m pipeline.batch.archive`."""
    try:
        print(f"class-data archive: {make_archive(load())}")
    except SetupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
