"""Reading the data directory: only changed files, and no file stops the page."""

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from page import files
from page.files import Reader
from page.pace import Pace
from pipeline import outputs, text_files, times
from pipeline.compare import output_files
from pipeline.data_dir import DataDir
from pipeline.stores.sqlite import SqliteStore
from tests import page_data
from tests.conftest import fill_disk

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
#: A new snapshot at every call.
ALWAYS = Pace(snapshot=0)


@pytest.fixture
def data(tmp_path) -> DataDir:
    return DataDir(tmp_path / "data")


def reader_of(data: DataDir, pace: Pace = ALWAYS) -> Reader:
    return Reader(data, SqliteStore(data.database), pace)


@pytest.fixture
def patient(monkeypatch):
    """Every snapshot waits until all files are read."""
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 20)


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that were read, in order."""
    names = []
    true_read = files._read

    def counted(path, signature, how):
        names.append(path.name)
        return true_read(path, signature, how)

    monkeypatch.setattr(files, "_read", counted)
    return names


def test_a_full_disk_is_read_with_the_status_files(small_disk: Path, patient) -> None:
    reader = reader_of(DataDir(small_disk))
    assert {found.full_disk for found in reader.snapshot().services.values()} == {None}
    fill_disk(small_disk / "filler")
    full = "No space left on device: free space on the disk of DATA_DIR"
    assert {found.full_disk for found in reader.snapshot().services.values()} == {full}


def test_the_fast_reader_reads_the_same_values_as_the_pipelines_reader(data) -> None:
    """Also unknown cells."""
    rows = page_data.windows_until(NOW.replace(second=0), 50)
    rows[3] |= {"vwap": None, "last_receipt_time": None}
    rows[4] |= {"last_trade_time": rows[4]["last_trade_time"].replace(microsecond=123456)}
    page_data.write_days(data, rows)
    [path] = outputs.stream_files(data)
    fast, own = files.read_windows(path).frame, output_files.read_windows(path)
    pd.testing.assert_frame_equal(fast, own, check_dtype=False)
    assert fast["vwap"].isna().sum() == 1


@pytest.mark.usefixtures("patient")
def test_an_empty_or_missing_folder_is_no_problem(data) -> None:
    for _ in range(2):
        seen = reader_of(data).snapshot()
        assert len(seen.finals.frame) == len(seen.live) == len(seen.runs.frame) == 0
        assert seen.batch_run == {}
        assert seen.problems == seen.loading == ()
        data.root.mkdir(exist_ok=True)


@pytest.mark.usefixtures("patient")
def test_only_changed_files_are_read_again(data, reads) -> None:
    page_data.sample(data, NOW)
    reader = reader_of(data)
    reader.snapshot()
    assert "2026-03-01.csv" in reads
    assert "batch_windows.csv" in reads
    reads.clear()
    reader.snapshot()
    assert reads == []
    page_data.write_live(data, NOW + timedelta(seconds=1))
    seen = reader.snapshot()
    assert reads == ["stream_live.csv"]
    assert seen.live["written_at"].max() == NOW + timedelta(seconds=1)


@pytest.mark.usefixtures("patient")
def test_a_file_replaced_within_the_same_clock_tick_is_noticed(data) -> None:
    """Same size, same modification time: the inode differs."""
    outputs.write_status(data, "producer", {"starts": 1})
    path = data.status_of("producer")
    before = path.stat()
    reader = reader_of(data)
    assert reader.snapshot().services["producer"].fields == {"starts": 1}
    outputs.write_status(data, "producer", {"starts": 2})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reader.snapshot().services["producer"].fields == {"starts": 2}


@pytest.mark.usefixtures("patient")
def test_new_days_and_runs_appear_and_deleted_ones_disappear(data) -> None:
    page_data.write_days(data, page_data.windows_until(NOW.replace(second=0), 5))
    reader = reader_of(data)
    assert len(reader.snapshot().finals.frame) == 5
    midnight = NOW.replace(hour=0, minute=0, second=0)
    page_data.write_days(data, page_data.windows_until(midnight, 7))
    page_data.write_batch(data, page_data.windows_until(midnight, 7), NOW)
    seen = reader.snapshot()
    assert len(seen.finals.frame) == 12
    assert seen.finals.frame["window_start"].is_monotonic_increasing
    assert seen.batch_run["run"] == outputs.run_id(NOW)
    for path in outputs.stream_files(data):
        path.unlink()
    assert len(reader.snapshot().finals.frame) == 0


@pytest.mark.usefixtures("patient")
def test_a_window_that_has_just_become_final_is_not_open_as_well(data) -> None:
    page_data.write_live(data, NOW)
    final = page_data.window(NOW.replace(second=0) - timedelta(minutes=1), 1)
    outputs.write_final_windows(data, [text_files.cells(outputs.WINDOW_COLUMNS, final)])
    seen = reader_of(data).snapshot()
    assert len(seen.live) == 1
    assert seen.live["window_start"].iloc[0] == NOW.replace(second=0)


@pytest.mark.usefixtures("patient")
def test_foreign_and_broken_files_are_named_and_the_rest_is_shown(data) -> None:
    page_data.foreign(data, NOW)
    seen = reader_of(data).snapshot()
    assert len(seen.finals.frame) == 180
    assert len(seen.live) == 2
    named = " ".join(seen.problems)
    assert "2026-02-28.csv" in named
    assert "batch_windows.csv" in named
    assert "batch_output" in str(seen.batch_problem)
    assert "consumer.json" in str(seen.services["consumer"].problem)
    assert seen.services["producer"].problem is None


@pytest.mark.usefixtures("patient")
def test_a_file_of_an_older_version_is_read_as_far_as_it_goes(data) -> None:
    data.stream_csv.mkdir(parents=True)
    text = "window_start,window_end,avg_price\n2026-03-01T11:00:00Z,2026-03-01T11:01:00Z,93000.5\n"
    (data.stream_csv / "2026-03-01.csv").write_text(text)
    seen = reader_of(data).snapshot()
    [problem] = seen.problems
    assert "2026-03-01.csv is from an older version and has no max_price, min_price" in problem
    assert seen.finals.frame["avg_price"].tolist() == [93000.5]
    assert seen.finals.frame["trade_count"].isna().all()


@pytest.mark.usefixtures("patient")
def test_rows_without_a_window_start_are_left_out_and_reported(data) -> None:
    page_data.sample(data, times.now())
    day = outputs.stream_files(data)[-1]
    before = len(reader_of(data).snapshot().finals.frame)
    day.write_text(day.read_text() + "garbage\n")
    seen = reader_of(data).snapshot()
    assert len(seen.finals.frame) == before
    assert seen.problems == (f"{day} has 1 row without a window start. The page ignores such rows",)


@pytest.mark.parametrize("damage", ["1,2,3" * 60, "\0" * 500, '"'])
@pytest.mark.usefixtures("patient")
def test_a_damaged_row_hides_no_other_row(data, damage: str) -> None:
    page_data.sample(data, times.now())
    day = outputs.stream_files(data)[-1]
    before = reader_of(data).snapshot().finals.frame
    lines = day.read_text().splitlines()
    day.write_text("\n".join([*lines[:-1], damage, lines[-1]]) + "\n")
    seen = reader_of(data).snapshot()
    assert len(seen.finals.frame) == len(before)
    assert list(seen.finals.frame["trade_count"]) == list(before["trade_count"])
    [problem] = seen.problems
    assert problem.endswith("The page ignores such rows")
    assert day.name in problem


@pytest.mark.usefixtures("patient")
def test_an_unreadable_cell_is_reported(data) -> None:
    page_data.sample(data, times.now())
    day = outputs.stream_files(data)[-1]
    row = day.read_text().splitlines()[-1]
    day.write_text(day.read_text().replace(row, row.replace(",", ",abc", 3)))
    [problem] = reader_of(data).snapshot().problems
    assert problem.startswith(f"{day} has unreadable cells. They are shown as unknown: ")


@pytest.mark.usefixtures("patient")
def test_files_with_the_same_problem_share_one_sentence(data) -> None:
    page_data.older(data, datetime(2026, 3, 1, 1, 0, 30, tzinfo=UTC))  # two days
    first, last = outputs.stream_files(data)
    [problem] = reader_of(data).snapshot().problems
    assert problem.startswith(f"{last} (and 1 more) is from an older version and has no ")
    assert str(first) not in problem


@pytest.mark.usefixtures("patient")
def test_a_missing_database_is_reported(data) -> None:
    page_data.sample(data, times.now())
    data.database.touch()
    assert reader_of(data).snapshot().problems == ()
    data.database.unlink()
    assert reader_of(data).snapshot().problems == (
        f"{data.database} is missing. Check that the consumer runs: it fills a new one from Kafka",
    )


def test_a_refresh_does_not_wait_for_a_slow_file(data, monkeypatch) -> None:
    """It shows the other files, and names the one that is being read."""
    page_data.sample(data, NOW)
    true_read, released = files._read, threading.Event()

    def slow(path, signature, how):
        if path.name == "batch_windows.csv":
            released.wait(20)
        return true_read(path, signature, how)

    monkeypatch.setattr(files, "_read", slow)
    monkeypatch.setattr(
        files, "PATIENCE_SECONDS", 0.5
    )  # enough to read the other files on a busy machine
    reader = reader_of(data)
    began = time.monotonic()
    seen = reader.snapshot()
    assert time.monotonic() - began < 10
    assert seen.loading == ("batch_windows.csv",)
    released.set()
    end = time.monotonic() + 20
    while (seen := reader.snapshot()).loading and time.monotonic() < end:
        pass
    assert len(seen.batch_windows.frame) == 180


@pytest.mark.usefixtures("patient")
def test_viewers_share_a_snapshot(data, monkeypatch) -> None:
    page_data.sample(data, NOW)
    reader = reader_of(data, Pace(snapshot=60))
    assert reader.snapshot() is reader.snapshot()


def test_a_derived_value_is_computed_once() -> None:
    table = files.Table(pd.DataFrame({"a": [1, 2]}))
    made = [table.derived("list", 7, lambda frame: list(frame["a"])) for _ in range(3)]
    assert made[0] == [1, 2]
    assert made[0] is made[1] is made[2]


def test_a_table_keeps_only_the_newest_value_of_each_name() -> None:
    """A batch may be down for days while the span moves on each minute."""
    table = files.Table(pd.DataFrame({"a": [1, 2]}))
    for minute in range(1000):
        for span in ("1 h", "everything"):
            table.derived(("counts", span), minute, lambda frame: list(frame["a"]))
    assert len(table._derived) == 2


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("name", "content"),
    [("consumer_minutes.csv", b"at,sec\ronds\n1,2\n"), ("consumer.json", b"[" * 100_000)],
)
def test_no_broken_status_file_stops_the_page(data, name, content) -> None:
    page_data.sample(data, times.now())
    (data.root / "status" / name).write_bytes(content)
    snapshot = reader_of(data).snapshot()
    assert len(snapshot.finals.frame) == 180


@pytest.mark.usefixtures("patient")
def test_a_clock_that_is_set_back_does_not_freeze_the_page(data, monkeypatch) -> None:
    page_data.sample(data, times.now())
    reader = reader_of(data)
    earlier = reader.snapshot().taken_at - timedelta(hours=1)
    monkeypatch.setattr(times, "now", lambda: earlier)
    assert reader.snapshot().taken_at == earlier


@pytest.mark.usefixtures("patient")
def test_the_newest_row_of_long_per_minute_records_is_read(data) -> None:
    columns = ("at", "seconds", "cpu_s", "rss_mib", "counters")
    for n in range(100):
        row = {"at": n, "seconds": 60, "counters": f'{{"received": {n}, "x": "{"y" * 90}"}}'}
        text_files.append_csv(data.minutes_of("producer"), columns, row, 10**6)
    minute = reader_of(data).snapshot().services["producer"].minute
    assert minute["at"] == "99"
    assert minute["counters"].startswith('{"received": 99,')
