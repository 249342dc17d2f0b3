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
from pipeline.batch import scheduler
from pipeline.errors import OperationalError, TemporaryError, exit_on_error
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.settings import Settings, load

#: Maximum time of the run. On a busy machine with two cores it took 127 s.
_RUN_SECONDS = 600


def make_archive(settings: Settings) -> Path:
    """Make the class-data archive with a real batch run over a few trades, if there is none yet.

    The run is always on this machine, with a database of its own.

    Raises:
        ArchiveError: the run failed. Everything also works without the archive, but starts slower.
        JavaError, SetupError: Java or a part of Spark is missing.
    """
    path = spark.archive_path(settings)
    if path.exists():
        return path
    with java.new_archive(path) as temporary, tempfile.TemporaryDirectory() as folder:
        settings = settings_of_run(settings, Path(folder))
        with closing(stores.store_of(settings).open_writer()) as connection:
            store.store(connection, _few_trades(), times.now())
        print("Making the class-data archive. This takes up to a minute, once.", flush=True)
        options = spark.java_options(None, c1_only=True)
        options = f"{options} -XX:ArchiveClassesAtExit={temporary}"
        config = spark.configuration(settings, settings.batch_memory, options)
        command = scheduler.command_of_run(settings, config, "archive", time.monotonic())
        status, errors = run(command, _RUN_SECONDS)
        if status != 0 or not temporary.exists():
            output = errors.decode(errors="replace")[-2000:]
            raise OperationalError(
                f"The batch run failed or wrote no archive (status {status}): {output}"
            )
    return path


def settings_of_run(settings: Settings, folder: Path) -> Settings:
    """Return the settings of the run that makes the archive, with this data directory."""
    master = Settings.model_fields["spark_master"].default
    return settings.model_copy(
        update={"data_dir": folder, "store_url": "sqlite", "spark_master": master}
    )


def run(command: list[str], seconds: float) -> tuple[int, bytes]:
    """Run a command; return its exit status and what it wrote to standard error.

    All its processes end with this one, also when `make` is killed meanwhile.

    Raises:
        TemporaryError: it did not end in time.
    """
    with subprocess.Popen(
        command, cwd=spark.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            _, errors = process.communicate(timeout=seconds)
        except BaseException as error:
            processes.end(processes.tree(process.pid), wait_seconds=2)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TemporaryError(f"The batch run did not end within {seconds} s") from error
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
