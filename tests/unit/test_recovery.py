"""The start of the stream after damage between two runs: what is kept and what is set aside."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import outputs, text_files, times
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError, is_temporary
from pipeline.outputs import WINDOW_COLUMNS
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stream import checkpoint, finality, recovery
from pipeline.stream.checkpoint import DamagedCheckpointError
from pipeline.stream.failures import StreamError
from pipeline.stream.file_watch import FileWatch
from pipeline.stream.final_rows import DeletedError, FinalRows
from pipeline.stream.finality import StateError
from tests.unit.test_checkpoint import TOPIC, made
from tests.unit.test_window_files import START, text, window

DAY = "2025-12-02.csv"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """With an undamaged checkpoint and three final windows."""
    service = Service("spark_processor", Settings(data_dir=tmp_path))
    folder = made(checkpoint.folder(service.settings, TOPIC))
    state = finality.from_json(text_files.read_json(folder / "open_windows.json"))
    newest = times.epoch_micros(START) + 2 * 60_000_000
    changed = finality.to_json(replace(state, newest_final=newest))
    (folder / "open_windows.json").write_text(json.dumps(changed))
    service.data.stream_csv.mkdir()
    (service.data.stream_csv / DAY).write_text(text(window(0), window(1), window(2)))
    return service


def is_continued(service: Service) -> bool:
    folder = recovery.prepare(service, TOPIC)
    assert folder == checkpoint.folder(service.settings, TOPIC)
    assert folder.exists() != (service.data.checkpoints / "damaged").exists()
    return folder.exists()


def test_without_damage_the_checkpoint_is_continued_and_no_file_changes(service: Service) -> None:
    day = service.data.stream_csv / DAY
    before = day.read_bytes()
    assert is_continued(service)
    assert day.read_bytes() == before
    assert [path.name for path in service.data.stream_csv.iterdir()] == [DAY]


def test_the_undamaged_rows_stay_and_the_damaged_file_is_kept_beside_them(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    day = service.data.stream_csv / DAY
    header, first, _, third = day.read_text().splitlines()
    damaged = f"{header}\n{first}\ngarbage\n{third}\n"
    day.write_text(damaged)
    assert not is_continued(service)
    assert day.read_text() == f"{header}\n{first}\n{third}\n"
    assert day.with_name(f"{DAY}.damaged").read_text() == damaged
    assert outputs.stream_files(service.data) == [day]
    (message,) = (record.getMessage() for record in caplog.records)
    assert message == (
        "Nothing to do: the stream reads the topic again from its oldest record. "
        f"Damaged: stream_csv/{DAY} (row 3)"
    )
    assert recovery.prepare(service, TOPIC)  # once: the next start finds no damage
    assert len(caplog.records) == 1


def test_the_message_about_damage_asks_for_nothing(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    (checkpoint.folder(service.settings, TOPIC) / "open_windows.json").write_text("{")
    assert not is_continued(service)
    (message,) = (record.getMessage() for record in caplog.records)
    assert message == (
        "Nothing to do: the stream reads the topic again from its oldest record. "
        "Damaged: checkpoint (open_windows.json is not valid JSON)"
    )


class SameTopic:
    def confirm(self, seconds: float) -> None:
        """Do nothing: it is the same topic."""


def failing(service: Service, folder: Path, error: Exception) -> str:
    """Return the text of what `explaining` makes of an error."""
    topic: Any = SameTopic()
    with (
        pytest.raises((DamagedCheckpointError, StreamError)) as raised,
        recovery.explaining(service, folder, topic),
    ):
        raise error
    return f"{type(raised.value).__name__} {raised.value}"


def test_open_windows_of_another_micro_batch_start_a_new_checkpoint(service: Service) -> None:
    folder = checkpoint.folder(service.settings, TOPIC)
    reason = "micro-batch in open_windows.json: 6, Spark continues at 8"
    assert failing(service, folder, StateError(reason)) == (
        "DamagedCheckpointError The checkpoint is damaged or of another Spark version. The stream "
        f"starts a new one and reads the topic from its oldest record. Cause: {reason}"
    )
    assert not folder.exists()


def test_a_new_checkpoint_that_is_damaged_at_once_is_blamed_on_the_disk(service: Service) -> None:
    folder = service.data.checkpoints / "new"
    assert failing(service, folder, StateError("x is of another form")) == (
        "StreamError Spark cannot read the checkpoint that it has just written. Check the disk of "
        f"{service.data.root}. Cause: x is of another form"
    )


def test_an_empty_file_becomes_a_table_without_rows(service: Service) -> None:
    day = service.data.stream_csv / DAY
    day.write_text("")
    assert not is_continued(service)
    assert day.read_text() == ",".join(WINDOW_COLUMNS) + "\n"


@pytest.mark.parametrize("left", [None, text(window(0), window(1))])
def test_final_windows_that_are_gone_are_computed_again(service: Service, left: str | None) -> None:
    day = service.data.stream_csv / DAY
    day.unlink()
    if left:
        day.write_text(left)
    assert not is_continued(service)


BEFORE = "2025-12-01.csv"


@pytest.mark.parametrize(
    ("left", "missing"), [(None, 2), (text(window(-60)), 1), (text(window(-60), window(-61)), 0)]
)
def test_an_older_file_that_lost_rows_is_computed_again(
    service: Service, caplog: pytest.LogCaptureFixture, left: str | None, missing: int
) -> None:
    """A file without its last row, and a deleted file, do not look damaged by themselves."""
    folder = checkpoint.folder(service.settings, TOPIC)
    FinalRows(folder).record({BEFORE[:10]: 2, DAY[:10]: 3})
    if left:
        (service.data.stream_csv / BEFORE).write_text(left)
    assert is_continued(service) == (missing == 0)
    if missing:
        (message,) = (record.getMessage() for record in caplog.records)
        assert f"stream_csv/{BEFORE} (missing rows: {missing})" in message
    caplog.clear()
    recovery.prepare(service, TOPIC)  # the new checkpoint has recorded no rows yet
    assert not caplog.records


def test_the_rows_of_a_week_are_recorded(tmp_path: Path) -> None:
    FinalRows(tmp_path).record({"2025-11-24": 1440, "2025-11-25": 1440, "2025-12-01": 700})
    FinalRows(tmp_path).record({"2025-12-02": 5, "2025-12-01": 701})
    assert FinalRows(tmp_path).missing({"2025-12-02": 5}) == {"2025-11-25": 1440, "2025-12-01": 701}


def test_a_file_with_fewer_rows_than_before_was_deleted_and_the_number_does_not_decrease(
    tmp_path: Path,
) -> None:
    rows = FinalRows(tmp_path)
    rows.record({"2025-12-01": 700})
    with pytest.raises(DeletedError, match=r"^stream_csv/2025-12-01.csv was deleted"):
        rows.record({"2025-12-01": 1})
    assert FinalRows(tmp_path).missing({"2025-12-01": 1}) == {"2025-12-01": 699}


@pytest.mark.parametrize("content", ["", "[]", '{"2025-12-01": "many"}'])
def test_a_damaged_record_of_the_rows_is_ignored_and_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "final_rows.json").write_text(content)
    assert FinalRows(tmp_path).missing({}) == {}
    FinalRows(tmp_path).record({"2025-12-02": 5})
    assert FinalRows(tmp_path).missing({}) == {"2025-12-02": 5}


# --- files that are deleted while the stream runs -----------------------------------------------


@pytest.fixture
def files(service: Service) -> FileWatch:
    """After a check that found all files of two days."""
    (service.data.stream_csv / BEFORE).write_text(text(window(-60)))
    FinalRows(checkpoint.folder(service.settings, TOPIC)).record({BEFORE[:10]: 1, DAY[:10]: 3})
    files = watch(service)
    files.check()
    return files


def watch(service: Service) -> FileWatch:
    return FileWatch(service.data, checkpoint.folder(service.settings, TOPIC))


@pytest.mark.parametrize(
    ("deleted", "named"),
    [
        ("stream_csv", "stream_csv/"),
        (f"stream_csv/{BEFORE}", f"stream_csv/{BEFORE}"),
        ("checkpoints", "The checkpoint in checkpoints/"),
    ],
)
def test_a_deletion_under_the_running_stream_is_a_temporary_error_that_names_it(
    service: Service, files: FileWatch, deleted: str, named: str
) -> None:
    path = service.data.root / deleted
    path.unlink() if path.suffix else shutil.rmtree(path)
    with pytest.raises(DeletedError) as raised:
        files.check()
    assert is_temporary(raised.value)
    assert str(raised.value) == (
        f"{named} was deleted while the stream ran. The stream reads the topic again from its "
        "oldest record"
    )
    assert not is_continued_after(service)


def is_continued_after(service: Service) -> bool:
    """Return whether the next attempt continues the checkpoint and finds nothing deleted."""
    folder = recovery.prepare(service, TOPIC)
    FileWatch(service.data, folder).check_after_failure()
    return folder.exists()


def test_a_checkpoint_that_was_created_again_is_not_the_deleted_one(
    service: Service, files: FileWatch
) -> None:
    """Spark and the stream continue to write offsets, the open windows and the number of rows."""
    folder = checkpoint.folder(service.settings, TOPIC)
    kept = [folder / "open_windows.json", folder / "query" / "offsets" / "7"]
    texts = [path.read_text() for path in kept]
    shutil.rmtree(service.data.checkpoints)
    for path, content in zip(kept, texts, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    FinalRows(folder).record({DAY[:10]: 3})
    with pytest.raises(DeletedError, match=r"^The checkpoint in checkpoints/ was deleted"):
        files.check()
    assert not is_continued_after(service)


def test_a_new_checkpoint_is_not_a_deleted_one(tmp_path: Path) -> None:
    """Before its first start, and between its creation and its first final window."""
    files = FileWatch(DataDir(tmp_path), tmp_path / "checkpoints" / "new")
    files.check_after_failure()
    made(tmp_path / "checkpoints" / "new")
    files.check()


@pytest.mark.parametrize("continued", [True, False])
def test_a_deletion_before_the_first_check_is_noticed(tmp_path: Path, *, continued: bool) -> None:
    """The file exists as soon as the query has started."""
    folder = tmp_path / "checkpoints" / "new"
    if continued:
        made(folder)
    files = FileWatch(DataDir(tmp_path), folder)
    if not continued:
        made(folder)
    shutil.rmtree(folder.parent)
    (folder / "query" / "offsets").mkdir(parents=True)
    with pytest.raises(DeletedError, match=r"^The checkpoint in checkpoints/ was deleted"):
        files.check()


def test_an_error_after_a_deletion_is_reported_as_the_deletion(
    service: Service, files: FileWatch
) -> None:
    """A file is written with a rename, which fails if its directory was deleted meanwhile."""
    shutil.rmtree(service.data.stream_csv)
    with pytest.raises(DeletedError, match=r"^stream_csv/ was deleted"):
        failing(service, checkpoint.folder(service.settings, TOPIC), FileNotFoundError(DAY))


def test_a_file_of_a_newer_version_is_refused_and_nothing_is_set_aside(service: Service) -> None:
    columns = (*WINDOW_COLUMNS, "invented_later")
    (service.data.stream_csv / DAY).write_text(text(window(0), columns=columns))
    with pytest.raises(OutputError, match=f"^A newer version wrote stream_csv/{DAY}"):
        recovery.prepare(service, TOPIC)
    assert checkpoint.folder(service.settings, TOPIC).exists()


def test_a_file_in_the_place_of_the_checkpoints_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(FileExistsError):
        recovery.prepare(Service("spark_processor", Settings(data_dir=tmp_path)), TOPIC)
