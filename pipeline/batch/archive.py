"""Make the class-data archive of the batch job, which halves the start-up time of a small run.

`python -m pipeline.batch.archive` makes it with a real batch run over a few trades.
"""

import subprocess
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline import java, processes, spark, stores, times
from pipeline.errors import exit_on_error
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.settings import Settings, load


def make_archive(settings: Settings) -> Path:
    """Make the class-data archive with a real batch run over a few trades, if there is none yet.

    Raises:
        SetupError: the run failed. Everything also works without the archive, but starts slower.
    """
    path = spark.archive_path(settings)
    if path.exists():
        return path
    with tempfile.TemporaryDirectory() as folder, java.new_archive(path) as temporary:
        # The trades of the run are in a database of their own.
        settings = settings.model_copy(update={"data_dir": Path(folder), "store_url": "sqlite"})
        with closing(stores.store_of(settings).open_writer()) as connection:
            store.store(connection, _few_trades(), times.now())
        print("Making the class-data archive. This takes up to a minute, once.", flush=True)
        options = spark.java_options(None, c1_only=True)
        options = f"{options} -XX:ArchiveClassesAtExit={temporary}"
        config = spark.configuration(settings, settings.batch_memory, options)
        arguments = ("--run", "archive", "--began", str(time.monotonic()))
        script = spark.ROOT / "batch_processor.py"
        command = spark.submit_command(settings, config, script, *arguments)
        status, errors = _run(command)
        if status != 0 or not temporary.exists():
            output = errors.decode(errors="replace")[-2000:]
            raise spark.SetupError(
                "Cannot make the class-data archive in jars/. Correct the cause and run `make "
                f"archive` again. Cause: {output}"
            )
    return path


def _run(command: list[str]) -> tuple[int, bytes]:
    """Run a command; return its exit status and what it wrote to standard error.

    All its processes end with this one, also when `make` is killed meanwhile.
    """
    with subprocess.Popen(
        command, cwd=spark.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            _, errors = process.communicate()
        except BaseException:
            processes.end(processes.tree(process.pid), wait_seconds=2)
            raise
    return process.returncode, errors


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
    """Run `python -m pipeline.batch.archive`."""
    processes.exit_on_sigterm()
    with exit_on_error():
        make_archive(load())


if __name__ == "__main__":
    main()
