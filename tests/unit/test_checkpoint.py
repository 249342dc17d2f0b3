"""A checkpoint: which one belongs to a topic, what counts as damage, and what is set aside."""

import errno
import json
from pathlib import Path

import pytest

from pipeline import stream_offsets, text_files
from pipeline.data_dir import DataDir
from pipeline.settings import Settings
from pipeline.stream import checkpoint, micro_batches
from pipeline.stream.finality import State, Window, to_json
from tests.unit.test_micro_batches import CHECKPOINT, IDENTITY, at, log_entry

TOPIC, OTHER = IDENTITY["topic"], "11111111-2222-3333-4444-555566667777"


def made(folder: Path, micro_batch: int = 7, committed: int = 7) -> Path:
    """A checkpoint in Spark's form, after these micro-batches."""
    query = folder / "query"
    for number in (micro_batch - 1, micro_batch):
        log_entry(query, number, 10 * number, 1000 * number)
    (query / "commits").mkdir()
    for number in range(committed - 1, committed + 1):
        (query / "commits" / str(number)).write_text('v1\n{"nextBatchWatermarkMs":5}')
    (query / "sources" / "0").mkdir(parents=True)
    (query / "sources" / "0" / "0").write_text('\0v1\n{"raw_prices":{"0":0}}')
    window = Window(0, 60, 7, {"window_start": "1970-01-01T00:00:00Z"}, ((1, 2),))
    state = State(micro_batch, 50, 60, {0: window}, {})
    (folder / "open_windows.json").write_text(json.dumps(to_json(state)))
    return folder


def test_an_undamaged_checkpoint_is_continued(tmp_path: Path) -> None:
    assert checkpoint.problem(tmp_path / "missing") is None
    assert checkpoint.problem(made(tmp_path / "between two micro-batches")) is None
    assert checkpoint.problem(made(tmp_path / "killed before the commit", committed=6)) is None


def test_what_spark_wrote_after_the_checkpoint_was_deleted_is_damage(tmp_path: Path) -> None:
    """Spark itself finds this only after it has started the query."""
    (tmp_path / "query" / "state" / "0").mkdir(parents=True)
    assert checkpoint.problem(tmp_path) == "metadata: No such file or directory"


def test_a_first_start_that_ended_before_spark_wrote_anything_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "query").mkdir()
    (tmp_path / "query" / ".metadata.1.tmp").touch()
    assert checkpoint.problem(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"micro_batch": "x", "open": []}', "\0\0"])
def test_open_windows_of_another_form_are_damage(tmp_path: Path, text: str) -> None:
    made(tmp_path)
    (tmp_path / "open_windows.json").write_text(text)
    assert "open_windows.json" in str(checkpoint.problem(tmp_path))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_open_windows_that_cannot_be_read_are_an_error_and_not_damage(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path)
    error = OSError(number, "x", "open_windows.json")

    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(OSError, match=r"open_windows\.json") as raised:
        checkpoint.problem(tmp_path)
    assert raised.value is error


def test_a_directory_in_place_of_the_open_windows_is_damage(tmp_path: Path) -> None:
    path = made(tmp_path) / "open_windows.json"
    path.unlink()
    path.mkdir()
    assert checkpoint.problem(tmp_path) == "open_windows.json: Is a directory"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("open", None),
        ("open", [[1, 2, 3]]),
        ("open", [[0, 60, 7, {"window_start": 1}, []]]),
        ("open", [["0", 60, 7, {}, []]]),
        ("open", [[0, 60, 7, {}, [[1]]]]),
        ("greatest", "soon"),
        ("greatest_before", [1]),
        ("micro_batch", True),
        ("micro_batch", 5),
        ("micro_batch", 9),
    ],
)
def test_open_windows_with_a_value_of_another_kind_are_damage(
    tmp_path: Path, name: str, value: object
) -> None:
    path = made(tmp_path) / "open_windows.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    assert "open_windows.json" in str(checkpoint.problem(tmp_path))


def test_missing_open_windows_are_damage_once_spark_has_run_a_micro_batch(tmp_path: Path) -> None:
    (made(tmp_path) / "open_windows.json").unlink()
    assert checkpoint.problem(tmp_path) == (
        "micro-batch in open_windows.json: none, Spark continues at 8"
    )


@pytest.mark.parametrize("name", ["offsets/7", "offsets/6", "commits/7", "sources/0/0", "metadata"])
@pytest.mark.parametrize(
    "content", [b"", b"v1", b"v1\n", b"v1\n{\n{", b"\0" * 99, b"\xff\xfe", None]
)
def test_a_file_of_spark_that_is_empty_cut_off_or_missing_is_damage(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = made(tmp_path) / "query" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    if (name, content) == ("commits/7", None):  # as after a kill before the commit
        assert checkpoint.problem(tmp_path) is None
    else:
        assert checkpoint.problem(tmp_path)


@pytest.mark.parametrize("name", ["offsets", "commits", "sources"])
def test_a_folder_of_spark_that_is_missing_is_damage(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path) / "query" / name
    folder.rename(tmp_path / "elsewhere")
    assert checkpoint.problem(tmp_path)
    folder.write_text("a file")
    assert checkpoint.problem(tmp_path)


def test_a_checkpoint_that_was_set_aside_replaces_the_one_before(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "stream").mkdir()
        (tmp_path / "stream" / str(number)).touch()
        checkpoint.set_aside(tmp_path / "stream")
    checkpoint.set_aside(tmp_path / "stream")  # there is none
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["2"]


# --- checkpoints of a version whose path does not contain the topic's id ---------------------


def unbound(settings: Settings) -> Path:
    folder = (
        settings.data_dir
        / "checkpoints"
        / "stream-v2-window60s-watermark60s-partitions1-raw_prices"
    )
    return made(folder)


def record(settings: Settings, topic: str) -> None:
    data = DataDir(settings.data_dir)
    _, last = micro_batches.extend(None, at(5, 10, 20), 10, IDENTITY | {"topic": topic})
    text_files.write_atomically(
        data.stream_position, text_files.to_csv(stream_offsets.OFFSET_COLUMNS, [vars(last)])
    )


@pytest.mark.parametrize("recorded", [None, TOPIC])
def test_the_checkpoint_of_an_older_version_is_continued(
    tmp_path: Path, recorded: str | None
) -> None:
    settings = Settings(data_dir=tmp_path)
    old = unbound(settings)
    if recorded:
        record(settings, recorded)
    checkpoint.adopt_unbound(settings, TOPIC)
    assert not old.exists()
    assert checkpoint.problem(checkpoint.folder(settings, TOPIC)) is None
    assert micro_batches.checkpoint_id(checkpoint.folder(settings, TOPIC) / "query") == CHECKPOINT


def test_the_checkpoint_of_an_older_version_is_not_continued_on_another_topic(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path)
    old = unbound(settings)
    record(settings, OTHER)
    checkpoint.adopt_unbound(settings, TOPIC)
    assert old.exists()
    assert not checkpoint.folder(settings, TOPIC).exists()
