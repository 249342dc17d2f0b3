"""The record of micro-batches: reading Spark's offset log, and the record after a kill."""

import contextlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import stream_offsets, text_files
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError
from pipeline.settings import Settings
from pipeline.stream import micro_batches
from pipeline.stream.micro_batches import MicroBatch, Recorder, extend, read_micro_batch
from pipeline.stream_offsets import OffsetRange, Start, read_offset_ranges

TOPIC_ID = "9a4a0b56-1111-2222-3333-444455556666"
CHECKPOINT = "0b8b7a7e-aaaa-bbbb-cccc-ddddeeeeffff"
IDENTITY: dict[str, Any] = {"checkpoint": CHECKPOINT, "topic": TOPIC_ID, "delay_s": 60.0}
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def start_of(folder: Path, offset: int) -> None:
    """Write the file with the first offset of a checkpoint, as Spark 4.2.0 does."""
    (folder / "sources" / "0").mkdir(parents=True)
    text = "\0v1\n" + json.dumps({"raw_prices": {"0": offset}})
    (folder / "sources" / "0" / "0").write_text(text)


def log_entry(folder: Path, number: int, end: int, watermark_ms: int, version: str = "v1") -> None:
    """An entry of the offset log, as Spark 4.2.0 writes it."""
    metadata = {"batchWatermarkMs": watermark_ms, "batchTimestampMs": 1, "conf": {}}
    text = "\n".join([version, json.dumps(metadata), json.dumps({"raw_prices": {"0": end}})])
    (folder / "offsets").mkdir(parents=True, exist_ok=True)
    (folder / "offsets" / str(number)).write_text(text)
    (folder / "metadata").write_text(json.dumps({"id": CHECKPOINT}))


def test_a_micro_batch_applies_the_watermark_of_the_one_before(tmp_path: Path) -> None:
    log_entry(tmp_path, 6, 40, 1_748_779_200_123)
    log_entry(tmp_path, 7, 55, 1_748_779_300_000)
    watermark = datetime(2025, 6, 1, 12, 0, 0, 123_000, tzinfo=UTC)
    assert read_micro_batch(tmp_path, "raw_prices", 7) == MicroBatch(7, 40, 55, watermark)


def test_the_first_micro_batch_drops_nothing_as_late(tmp_path: Path) -> None:
    log_entry(tmp_path, 0, 40, 0)
    start_of(tmp_path, 0)
    assert read_micro_batch(tmp_path, "raw_prices", 0) == MicroBatch(
        0, 0, 40, datetime(1970, 1, 1, tzinfo=UTC)
    )


def test_the_first_micro_batch_starts_at_the_oldest_record_that_kafka_has(tmp_path: Path) -> None:
    log_entry(tmp_path, 0, 40, 0)
    assert read_micro_batch(tmp_path, "raw_prices", 0) is None  # unknown
    start_of(tmp_path, 25)
    found = read_micro_batch(tmp_path, "raw_prices", 0)
    assert found is not None
    assert (found.first_offset, found.end_offset) == (25, 40)


@pytest.mark.parametrize(
    "text", ["", "\0v2\n{}", "\0v1\n[]", '\0v1\n{"raw_prices":{"1":7}}', "\0v1\n{"]
)
def test_a_start_of_another_form_is_unknown(tmp_path: Path, text: str) -> None:
    start_of(tmp_path, 25)
    (tmp_path / "sources" / "0" / "0").write_text(text)
    assert micro_batches.start_offset(tmp_path, "raw_prices") is None


def test_the_start_of_each_checkpoint_is_recorded_once(tmp_path: Path) -> None:
    """This includes a checkpoint that an older version began."""
    data, folder = DataDir(tmp_path / "data"), tmp_path / "query"
    start_of(folder, 25)
    for number, end in enumerate([40, 50, 60, 70], 6):
        log_entry(folder, number, end, 0)
    for number in (7, 8):
        Recorder(data, folder, Settings(), TOPIC_ID).record(number, 10)
    expected = Start(TOPIC_ID, 0, 25, CHECKPOINT)
    assert stream_offsets.read_starts(data) == [expected]
    data.stream_starts.write_text(data.stream_starts.read_text()[:-3])  # cut off
    assert stream_offsets.read_starts(data) == []
    Recorder(data, folder, Settings(), TOPIC_ID).record(9, 10)
    assert stream_offsets.read_starts(data) == [expected]


def test_a_checkpoint_after_another_one_has_the_offsets_between_the_two(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    another = CHECKPOINT.replace("0", "1")
    for checkpoint, start, ends in ((another, 0, [10, 20]), (CHECKPOINT, 25, [40, 50])):
        folder = tmp_path / checkpoint
        start_of(folder, start)
        for number, end in enumerate(ends):
            log_entry(folder, number, end, 0)
            (folder / "metadata").write_text(json.dumps({"id": checkpoint}))
            Recorder(data, folder, Settings(), TOPIC_ID).record(number, None)
    found = stream_offsets.read_starts(data)
    assert found == [Start(TOPIC_ID, 0, 0, another), Start(TOPIC_ID, 20, 25, CHECKPOINT)]
    assert [start.skipped for start in found] == [None, (20, 25)]
    assert Start(TOPIC_ID, 30, 25, CHECKPOINT).skipped == (24, 25)


def test_final_windows_of_an_unrecorded_checkpoint_are_no_proof_of_deleted_records(
    tmp_path: Path,
) -> None:
    """The record of the stream was deleted, but not its windows."""
    data, folder = DataDir(tmp_path / "data"), tmp_path / "query"
    data.stream_csv.mkdir(parents=True)
    (data.stream_csv / "2025-06-01.csv").touch()
    start_of(folder, 25)
    log_entry(folder, 0, 40, 0)
    Recorder(data, folder, Settings(), TOPIC_ID).record(0, None)
    (start,) = stream_offsets.read_starts(data)
    assert start.skipped == (24, 25)  # not from the first record of the topic


def at(number: int, first: int, end: int) -> MicroBatch:
    return MicroBatch(number, first, end, NOON + timedelta(seconds=number))


def extend_all(steps: Sequence[tuple[MicroBatch, int | None]]) -> list[OffsetRange]:
    """All rows after these micro-batches, the open one last."""
    last, rows = None, []
    for micro_batch, counted in steps:
        more, last = extend(last, micro_batch, counted, IDENTITY)
        rows += more
    return [*rows, *([last] if last else [])]


def bounds(offset_ranges: Sequence[OffsetRange]) -> list[tuple[int, int, int, int | None]]:
    return [(s.counted_from, s.first_offset, s.end_offset, s.dropped) for s in offset_ranges]


def test_micro_batches_that_count_every_record_need_no_row() -> None:
    steps = [(at(5, 10, 20), 10), (at(6, 20, 20), 0), (at(7, 20, 50), 30)]
    assert bounds(extend_all(steps)) == [(10, 50, 50, 0)]


def test_a_micro_batch_that_dropped_records_has_a_row_with_its_watermark() -> None:
    steps = [(at(5, 10, 20), 10), (at(6, 20, 24), 3), (at(7, 24, 30), 6)]
    found = extend_all(steps)
    assert bounds(found) == [(10, 20, 24, 1), (24, 30, 30, 0)]
    assert found[0].watermark == at(6, 20, 24).watermark


def test_the_first_micro_batch_has_a_row_only_if_it_dropped_records() -> None:
    assert bounds(extend_all([(at(0, 5, 20), 15)])) == [(5, 20, 20, 0)]
    assert bounds(extend_all([(at(0, 5, 20), 14)])) == [(5, 5, 20, 1), (20, 20, 20, 0)]


def test_micro_batches_that_were_not_recorded_leave_a_hole() -> None:
    steps = [(at(5, 10, 20), 10), (at(7, 35, 40), 5)]
    assert bounds(extend_all(steps)) == [(10, 20, 20, 0), (35, 40, 40, 0)]


def test_another_checkpoint_or_topic_begins_a_range_of_its_own() -> None:
    _, last = extend(None, at(5, 10, 20), 10, IDENTITY)
    other = {**IDENTITY, "checkpoint": "another"}
    rows, again = extend(last, at(1, 20, 30), 10, other)
    assert rows == [last]
    assert bounds([again]) == [(20, 30, 30, 0)]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12),
    st.lists(st.integers(0, 11), max_size=6),
)
def test_every_offset_is_in_one_range_however_often_a_micro_batch_is_repeated(
    sizes: list[tuple[int, int]], repeated: list[int]
) -> None:
    steps, first = [], 100
    for number, (size, dropped) in enumerate(sizes, 3):
        one = (at(number, first, first + size), size - min(dropped, size))
        steps += [one] * (1 + repeated.count(number))
        first += size
    found = extend_all(steps)
    offsets = [o for s in found for o in range(s.counted_from, s.end_offset)]
    assert offsets == list(range(100, first))
    judged = {o for s in found for o in range(s.first_offset, s.end_offset)}
    expected = {
        o
        for one, counted in steps
        for o in range(one.first_offset, one.end_offset)
        if counted != one.end_offset - one.first_offset
    }
    assert judged == expected


@pytest.mark.parametrize("kept", ["none", "rows", "position"])
def test_the_record_is_the_same_after_a_kill_between_its_files(
    tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of micro-batch 8, which dropped a record, no file, the table alone or both were written."""
    data, folder = DataDir(tmp_path / "data"), tmp_path / "query"
    for number, end in enumerate([10, 20, 24, 30]):
        log_entry(folder, number + 6, end, 1000 * number)

    def start() -> Recorder:
        return Recorder(data, folder, Settings(), TOPIC_ID)

    start().record(7, 10)
    with monkeypatch.context() as broken:
        if kept == "none":
            broken.setattr(text_files, "append_csv", crash)
        if kept == "rows":
            broken.setattr(text_files, "write_atomically", crash)
        with contextlib.suppress(Crash):
            start().record(8, 3)
    again = start()
    again.record(8, 3)
    again.record(9, 6)
    found = read_offset_ranges(data)
    assert bounds(found) == [(10, 20, 24, 1), (24, 30, 30, 0)]
    assert found[0] == OffsetRange(
        **IDENTITY,
        micro_batch=8,
        counted_from=10,
        first_offset=20,
        end_offset=24,
        watermark=datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        dropped=1,
    )


class Crash(BaseException):
    """The process is killed here."""


def crash(*_: object, **__: object) -> None:
    raise Crash


def test_a_line_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    rows, _ = extend(None, at(5, 10, 20), 9, IDENTITY)
    text = text_files.to_csv(stream_offsets.OFFSET_COLUMNS, [vars(rows[0])])
    data.status.mkdir()
    line = text.splitlines(keepends=True)[1]
    for length in range(1, len(line) - 1):
        data.stream_drops.write_text(text + line.replace("10,20", "30,40")[:length])
        assert read_offset_ranges(data) == rows


def test_damaged_bytes_in_a_record_lose_only_their_own_line(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    first, second = (Start(TOPIC_ID, 0, start, CHECKPOINT) for start in (10, 20))
    stream_offsets.append_start(data, first)
    for damage in (b"\xff\xfe\n", b"\0" * 200_000 + b"\n", b'"\n', b"\0"):
        with data.stream_starts.open("ab") as file:
            file.write(damage)
    stream_offsets.append_start(data, second)
    assert stream_offsets.read_starts(data) == [first, second]


def test_a_record_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    for path in (data.stream_starts, data.thresholds_of("batch_processor")):
        path.mkdir(parents=True)
        with pytest.raises(OutputError, match=rf"^Cannot read {path.name}\. .*Move the directory"):
            text_files.read_record(path)


def test_without_a_record_nothing_is_known(tmp_path: Path) -> None:
    assert read_offset_ranges(DataDir(tmp_path)) == []
