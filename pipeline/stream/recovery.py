"""Start of the stream: continue the checkpoint, or start a new one if something is damaged."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import SparkSession

from pipeline import outputs, spark, text_files, times, window_files
from pipeline.errors import OutputError, TemporaryError
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stream import checkpoint, finality
from pipeline.stream.checkpoint import DamagedCheckpointError
from pipeline.stream.failures import DAMAGED, StreamError, explain
from pipeline.stream.file_watch import FileWatch
from pipeline.stream.final_rows import FinalRows
from pipeline.stream.finality import StateError
from pipeline.stream.topic_watch import TopicWatch

#: Seconds to ask Kafka about the topic after the query failed.
CONFIRM_AFTER_FAILURE_SECONDS = 5.0


def start_session(settings: Settings) -> SparkSession:
    """Start Spark for the stream.

    Raises:
        Exception: it cannot start. The text names the cause and the action.
    """
    try:
        return spark.session(settings, "stream", spark.stream_configuration(settings))
    except Exception as error:
        raise explain(error, settings) from error


def prepare(service: Service, topic_id: str) -> Path:
    """Return the directory of the checkpoint to continue, or to create if it does not exist.

    A damaged checkpoint is set aside. So is one whose final windows are damaged: a new checkpoint
    computes them again. The undamaged rows stay.
    """
    service.data.checkpoints.mkdir(parents=True, exist_ok=True)
    checkpoint.adopt_unbound(service.settings, topic_id)
    folder = checkpoint.folder(service.settings, topic_id)
    rows, damaged = final_windows(service)
    if found := _damage(service, folder, rows, damaged):
        service.error(
            "Nothing to do: the stream reads the topic again from its oldest record. "
            f"Damaged: {'; '.join(found)}"
        )
        checkpoint.set_aside(folder)
    # The checkpoint goes first: after a crash between the two, the next start finds the damage.
    for path, file in damaged.items():
        repair(path, file)
    return folder


def _damage(
    service: Service,
    folder: Path,
    rows: Mapping[str, int],
    damaged: Mapping[Path, window_files.WindowFile],
) -> list[str]:
    """Return what is damaged in the checkpoint and in the final windows, a text for each."""
    found = [window_files.description(path, file.damage) for path, file in damaged.items()]
    if reason := checkpoint.problem(folder):
        return [f"checkpoint ({reason})", *found]
    if found:
        return found
    missing_rows = FinalRows(folder).missing(rows)
    if missing_rows:
        return [f"stream_csv/{day}.csv (missing rows: {n})" for day, n in missing_rows.items()]
    window = missing_window(service, folder)
    return [f"stream_csv (the final window {window} is missing)"] if window else []


def missing_window(service: Service, folder: Path) -> str | None:
    """Return the newest final window of a checkpoint if `stream_csv/` has no row of it."""
    state = finality.from_json(text_files.read_json(folder / checkpoint.OPEN_WINDOWS))
    if state.newest_final is None:
        return None
    start = times.from_epoch_micros(state.newest_final)
    path = service.data.stream_csv / f"{start:%Y-%m-%d}.csv"
    rows = window_files.scan(path, service.settings.window).rows
    return None if times.iso(start) in {row[0] for row in rows} else times.iso(start)


def final_windows(
    service: Service,
) -> tuple[dict[str, int], dict[Path, window_files.WindowFile]]:
    """Return the number of rows of each day, and the damaged files.

    The rows of undamaged files are not kept in memory: the rows of a year take a gigabyte.

    Raises:
        OutputError: a newer version wrote one of the files.
    """
    rows: dict[str, int] = {}
    damaged = {}
    for path in outputs.stream_files(service.data):
        file = window_files.scan(path, service.settings.window)
        if file.newer:
            raise OutputError(
                f"A newer version wrote {text_files.short(path)}. Use that version, or move the "
                "file away. Its columns differ from those of this version."
            )
        rows[path.stem] = len(file.rows)
        if file.damage:
            damaged[path] = file
    return rows, damaged


def repair(path: Path, file: window_files.WindowFile) -> None:
    """Replace a file of final windows by its undamaged rows. The old file stays as `*.damaged`."""
    shutil.copy2(path, path.with_name(f"{path.name}.damaged"))
    rows = [dict(zip(file.header, cells, strict=True)) for cells in sorted(file.rows)]
    text_files.write_atomically(path, text_files.to_csv(file.header, rows))


@contextmanager
def explaining(service: Service, folder: Path, topic: TopicWatch) -> Iterator[FileWatch]:
    """Turn a failure of the query into an error that names its cause and the action.

    Yield the watch on the files of the stream, because a deletion can be the cause.

    Raises:
        DeletedError: files of the stream were deleted. The next attempt computes the windows again.
        TopicChangedError: the topic is another one now. The next attempt reads that one.
        DamagedCheckpointError: the checkpoint is damaged, and was set aside.
        Exception: the query failed for another reason.
    """
    continued = folder.exists()
    files = FileWatch(service.data, folder)
    try:
        yield files
    except Exception as error:
        if service.stop.is_set():
            raise
        files.check_after_failure()
        _check_topic(topic, error)
        found = explain(error, service.settings)
        if isinstance(found, StateError):
            found = DamagedCheckpointError(DAMAGED.format(cause=found))
        if not isinstance(found, DamagedCheckpointError):
            raise found from error
        if not continued:  # another new checkpoint would fail again
            cause = str(found).partition("Cause: ")[2]
            raise StreamError(
                f"Spark cannot read the checkpoint that it has just written. Check the disk of "
                f"{service.data.root}. Cause: {cause}"
            ) from error
        checkpoint.set_aside(folder)
        raise found from error


def _check_topic(topic: TopicWatch, error: Exception) -> None:
    """Check whether the query failed because the topic is another one, or does not exist.

    Raises:
        TopicChangedError: it is another one.
        TemporaryError: it does not exist.
    """
    try:
        topic.confirm(CONFIRM_AFTER_FAILURE_SECONDS)
    except TemporaryError as cause:
        raise cause from error
    except Exception:  # noqa: BLE001 - Kafka does not answer: the failure names that itself
        return
