"""The output files: formats, atomic writes, and which feed a data directory belongs to."""

import os
import threading
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import data_dir, outputs, text_files, times
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError

NOW = datetime(2025, 12, 2, 5, 10, tzinfo=UTC)
#: DESIGN.md, "Contracts".
DESIGN_COLUMNS = (
    "window_start, window_end, avg_price, max_price, min_price, price_range, volatility_flag, "
    "total_volume, trade_count, buy_sell_ratio, market_sentiment, volume_spike"
)
DESIGN_LOG_LINE = (
    "started=2025-12-02T05:10:00Z run=20251202T051000Z status=ok exit=0 rows=38126 windows=132 "
    "wall_s=6.41 start_s=3.20 logic_s=2.61 cpu_s=9.80 peak_mib=412"
)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data")


def window(start: datetime, **cells: object) -> dict[str, str]:
    row: dict[str, object] = {
        "window_start": start,
        "window_end": start + timedelta(minutes=1),
        "avg_price": Decimal("86321.5500000000"),
        "trade_count": 3,
        "written_at": NOW,
    }
    return text_files.cells(outputs.WINDOW_COLUMNS, row | cells)


def minute(number: int, day: int = 2) -> datetime:
    return datetime(2025, 12, day, tzinfo=UTC) + timedelta(minutes=number)


# --- directories of the system ----------------------------------------------------------------


@pytest.mark.parametrize(
    "folder",
    ["/", "/etc", "/etc/ssh", "/home", "/root", "/usr/local", "/var", "/var/log", "/lib64"],
)
def test_a_directory_of_the_system_is_recognised(folder: str) -> None:
    assert data_dir.is_of_system(Path(folder))


@pytest.mark.parametrize(
    "folder",
    [
        *("/data", "/app/data", "/home/anna/prices", "/root/data", "/mnt", "/dev/shm/x"),  # noqa: S108
        *("/usr/src/app/data", "/usr/local/prices", "/var/lib/prices", "/opt/prices", "/tmp/etc"),  # noqa: S108
    ],
)
def test_a_directory_of_a_user_is_not_one_of_the_system(folder: str) -> None:
    assert not data_dir.is_of_system(Path(folder))


def test_a_link_to_a_directory_of_the_system_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr/local")
    assert data_dir.is_of_system(tmp_path / "link")


def test_a_directory_of_the_system_that_holds_outputs_can_be_used_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version accepted it."""
    monkeypatch.setattr(data_dir, "_SHARED_FOLDERS", (tmp_path,))
    assert data_dir.is_of_system(tmp_path)
    (tmp_path / "source.json").write_text("{}")
    assert not data_dir.is_of_system(tmp_path)


# --- formats --------------------------------------------------------------------------------


def test_the_columns_are_in_the_order_of_the_design() -> None:
    assert ", ".join(outputs.WINDOW_COLUMNS[:12]) == DESIGN_COLUMNS
    assert outputs.BATCH_COLUMNS[:10] == outputs.WINDOW_COLUMNS[2:12]
    assert outputs.BATCH_COLUMNS[10:14] == ("rows", "first_trade_time", "last_trade_time", "run")
    for further in ("buy_count", "sell_count", "vwap", "open_price", "close_price"):
        assert further in outputs.WINDOW_COLUMNS[12:]
    for further in ("volume_imbalance", "last_receipt_time", "written_at"):
        assert further in outputs.WINDOW_COLUMNS[12:]
    for columns in (outputs.WINDOW_COLUMNS, outputs.BATCH_COLUMNS):
        assert len(set(columns)) == len(columns)


def test_the_files_have_the_paths_of_the_design() -> None:
    data = DataDir(Path("/d"))
    paths = (data.database, data.stream_csv, data.stream_live, data.batch_output)
    assert [str(path) for path in paths] == [
        "/d/crypto_prices.db",
        "/d/stream_csv",
        "/d/stream_live.csv",
        "/d/batch_output",
    ]
    others = (data.batch_windows, data.batch_log, data.checkpoints, data.status)
    assert [str(path) for path in others] == [
        "/d/batch_windows.csv",
        "/d/batch_log.txt",
        "/d/checkpoints",
        "/d/status",
    ]
    assert str(data.status_of("producer")) == "/d/status/producer.json"


def test_a_row_of_csv_has_plain_numbers_utc_times_and_empty_cells_for_the_unknown() -> None:
    row = {
        "price": Decimal("86321.50000000"),
        "small": Decimal("1E-8"),
        "large": Decimal("9.99999999999999E+9"),
        "zero": Decimal("0E-8"),
        "count": 12,
        "flag": "High",
        "time": datetime(2025, 12, 2, 6, 10, tzinfo=timezone(timedelta(hours=1))),
        "micros": datetime(2025, 12, 2, 5, 10, 0, 1, tzinfo=UTC),
        "unknown": None,
        "not asked for": 1,
    }
    columns = ["price", "small", "large", "zero", "count", "flag", "time", "micros"]
    text = text_files.to_csv([*columns, "unknown", "missing"], [row])
    header, line = text.splitlines()
    assert header == ",".join([*columns, "unknown", "missing"])
    assert line == (
        "86321.5,0.00000001,9999999999.99999,0,12,High,"
        "2025-12-02T05:10:00Z,2025-12-02T05:10:00.000001Z,,"
    )
    assert text.endswith("\n")
    assert "\r" not in text


@given(st.decimals(0, 10**10, places=8))
def test_a_decimal_is_written_with_every_digit_and_without_an_exponent(value: Decimal) -> None:
    cell = text_files.cells(["x"], {"x": value})["x"]
    assert Decimal(cell) == value
    assert set(cell) <= set("0123456789.")


def test_the_name_of_a_run_is_its_start_in_utc() -> None:
    start = datetime(2025, 12, 2, 0, 10, 0, 999_999, tzinfo=timezone(timedelta(hours=-5)))
    assert outputs.run_id(start) == "20251202T051000Z"


def test_the_name_of_a_run_sorts_after_that_of_the_newest_one_although_the_clock_was_set_back() -> (
    None
):
    start = datetime(2025, 12, 2, 5, 10, tzinfo=UTC)
    assert outputs.run_id(start, "20251202T050959Z") == "20251202T051000Z"
    assert outputs.run_id(start, "20251202T051000Z") == "20251202T051001Z"
    assert outputs.run_id(start, "20251231T235959Z") == "20260101T000000Z"


def test_the_newest_run_has_a_file_or_a_line_in_the_log(data: DataDir) -> None:
    """A failed run has only a line."""
    assert outputs.newest_run(data) is None
    outputs.append_batch_log(data, log_fields(run="20251202T051000Z", reason="a run=b"))
    outputs.append_batch_log(data, log_fields(run="20251202T041000Z"))
    assert outputs.newest_run(data) == "20251202T051000Z"
    data.batch_output.mkdir()
    for name in ("20251202T052000Z", "20251202T042000Z", "99Z", "99991231T235959Z"):
        (data.batch_output / f"{name}.csv").touch()
    assert outputs.newest_run(data) == "20251202T052000Z"


# --- atomic replacement ---------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole_and_no_temporary_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    for text in ("first\n", "secönd\r\n", ""):
        text_files.write_atomically(path, text)
        assert path.read_bytes() == text.encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    texts = {letter * size for letter, size in (("a", 100_000), ("b", 10), ("c", 300_000))}
    text_files.write_atomically(path, min(texts), durable=False)
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        for text in texts:
            text_files.write_atomically(path, text, durable=False)
    done.set()
    reader.join()
    assert seen <= texts
    assert len(seen) > 1


def test_after_a_failed_write_the_old_file_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    text_files.write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        text_files.write_atomically(path, "new, but broken: \ud800")
    assert path.read_text() == "old"


def test_a_temporary_file_does_not_count_as_an_output(data: DataDir) -> None:
    data.stream_csv.mkdir(parents=True)
    (data.stream_csv / ".2025-12-02.csv.77.tmp").write_text("window_st")
    (data.stream_csv / "notes.txt").write_text("mine")
    assert outputs.stream_files(data) == []


# --- final windows --------------------------------------------------------------------------


def lines(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


def test_final_windows_are_sorted_in_the_file_of_the_utc_day_of_their_start(
    data: DataDir,
) -> None:
    starts = [minute(1439), minute(5), minute(0, day=3), minute(4)]
    outputs.write_final_windows(data, map(window, starts))
    outputs.write_final_windows(data, [window(minute(3))])
    first, second = outputs.stream_files(data)
    assert (first.name, second.name) == ("2025-12-02.csv", "2025-12-03.csv")
    assert lines(first)[0] == list(outputs.WINDOW_COLUMNS)
    assert [row[0] for row in lines(first)[1:]] == [
        "2025-12-02T00:03:00Z",
        "2025-12-02T00:04:00Z",
        "2025-12-02T00:05:00Z",
        "2025-12-02T23:59:00Z",
    ]
    assert [row[:2] for row in lines(second)[1:]] == [
        ["2025-12-03T00:00:00Z", "2025-12-03T00:01:00Z"]
    ]


def test_writing_final_windows_again_changes_nothing(data: DataDir) -> None:
    outputs.write_final_windows(data, map(window, [minute(1), minute(2)]))
    (path,) = outputs.stream_files(data)
    before = path.read_bytes()
    later = NOW + timedelta(hours=1)
    outputs.write_final_windows(data, [window(minute(2), written_at=later)])
    assert path.read_bytes() == before


def test_nothing_final_writes_nothing(data: DataDir) -> None:
    outputs.write_final_windows(data, [])
    assert not data.stream_csv.exists()


@settings(max_examples=15, deadline=None)
@given(writes=st.lists(st.lists(st.integers(1430, 1450), max_size=5), max_size=6))
def test_each_window_has_exactly_one_row_however_often_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, writes: list[list[int]]
) -> None:
    data = DataDir(tmp_path_factory.mktemp("final"))
    for numbers in writes:
        outputs.write_final_windows(data, [window(minute(number)) for number in numbers])
    rows = [row[0] for path in outputs.stream_files(data) for row in lines(path)[1:]]
    expected = sorted({number for numbers in writes for number in numbers})
    assert rows == [times.iso(minute(number)) for number in expected]


def test_a_foreign_file_with_the_name_of_a_day_is_refused_and_kept(data: DataDir) -> None:
    data.stream_csv.mkdir(parents=True)
    path = data.stream_csv / "2025-12-02.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(OutputError, match=r"2025-12-02\.csv has other columns .* Move it away"):
        outputs.write_final_windows(data, [window(minute(1))])
    assert path.read_text() == "a,b\n1,2\n"


def test_a_day_of_a_version_with_fewer_columns_is_continued(data: DataDir) -> None:
    """The columns that the version did not have stay empty."""
    old_columns = outputs.WINDOW_COLUMNS[:-2]
    data.stream_csv.mkdir(parents=True)
    path = data.stream_csv / "2025-12-02.csv"
    path.write_text(text_files.to_csv(old_columns, [window(minute(1))]))
    before = lines(path)[1]
    outputs.write_final_windows(data, [window(minute(2), range_z=Decimal("-1.5"))])
    header, old_row, new_row = lines(path)
    assert header == [*old_columns, "range_z", "volume_z"]
    assert old_row == [*before, "", ""]
    assert new_row[-2:] == ["-1.5", ""]


@pytest.mark.parametrize(
    "columns",
    [
        (),
        outputs.WINDOW_COLUMNS[:2],
        outputs.WINDOW_COLUMNS[1:],
        outputs.WINDOW_COLUMNS[::-1],
        (*outputs.WINDOW_COLUMNS, "invented_later"),
    ],
)
def test_a_day_with_other_columns_is_refused_and_kept(
    data: DataDir, columns: tuple[str, ...]
) -> None:
    data.stream_csv.mkdir(parents=True)
    path = data.stream_csv / "2025-12-02.csv"
    path.write_text(text := text_files.to_csv(columns, [window(minute(1))]))
    with pytest.raises(OutputError, match="Move it away"):
        outputs.write_final_windows(data, [window(minute(2))])
    assert path.read_text() == text


def test_final_windows_are_read_by_their_starts_across_midnight(data: DataDir) -> None:
    starts = [minute(1380), minute(1381), minute(1439), minute(0, day=3), minute(1, day=3)]
    assert outputs.read_final_windows(data, starts[0], starts[-1]) == {}
    outputs.write_final_windows(data, map(window, starts))
    found = outputs.read_final_windows(data, starts[1], starts[3])
    assert found == {times.iso(start): window(start) for start in starts[1:4]}


# --- the log of the batch runs --------------------------------------------------------------


def log_fields(**changed: object) -> dict[str, object]:
    """The fields of the run in the example of the design."""
    return {
        "started": NOW,
        "run": "20251202T051000Z",
        "status": "ok",
        "exit": 0,
        "rows": 38126,
        "windows": 132,
        "wall_s": 6.41,
        "start_s": 3.2,
        "logic_s": 2.61,
        "cpu_s": 9.8,
        "peak_mib": 412,
        "read_s": None,
    } | changed


def test_a_line_of_the_batch_log_has_the_format_of_the_design(data: DataDir) -> None:
    outputs.append_batch_log(data, log_fields())
    following = log_fields(run="20251202T051001Z", read_s=1.2, write_s=0.0)
    outputs.append_batch_log(data, following)
    assert data.batch_log.read_text().splitlines() == [
        DESIGN_LOG_LINE,
        f"{DESIGN_LOG_LINE} read_s=1.20 write_s=0.00".replace("T051000Z", "T051001Z"),
    ]


def test_unknown_fields_of_a_run_are_omitted_and_zero_is_not_unknown(data: DataDir) -> None:
    outputs.append_batch_log(data, {"started": NOW, "run": "q", "status": "no_data"})
    unknown = dict.fromkeys(("rows", "windows", "logic_s"))
    failed = {"started": NOW, "run": "r", "status": "failed", "exit": 0, "foreign": 1}
    outputs.append_batch_log(data, failed | unknown)
    assert data.batch_log.read_text().splitlines() == [
        "started=2025-12-02T05:10:00Z run=q status=no_data",
        "started=2025-12-02T05:10:00Z run=r status=failed exit=0",
    ]


def test_an_unfinished_last_line_is_replaced_by_the_next_one(data: DataDir) -> None:
    """As after a power cut, or a full disk on which the line of the same run is repeated."""
    outputs.append_batch_log(data, {"started": NOW, "run": "a", "status": "ok"})
    with data.batch_log.open("a") as file:
        file.write("started=2025-12-02T05:10:00Z run=b status=ok exit=0 rows=38")
    for run in ("b", "c"):
        outputs.append_batch_log(data, {"started": NOW, "run": run, "status": "ok", "rows": 38126})
    assert data.batch_log.read_text().splitlines() == [
        "started=2025-12-02T05:10:00Z run=a status=ok",
        "started=2025-12-02T05:10:00Z run=b status=ok rows=38126",
        "started=2025-12-02T05:10:00Z run=c status=ok rows=38126",
    ]


def test_a_run_that_is_in_the_log_is_not_logged_again(data: DataDir) -> None:
    """The system can report an error after it has written the whole line."""
    for run, status in (("ab", "ok"), ("a", "failed"), ("ab", "stopped"), ("b", "ok")):
        outputs.append_batch_log(data, {"started": NOW, "run": run, "status": status})
    assert data.batch_log.read_text().splitlines() == [
        "started=2025-12-02T05:10:00Z run=ab status=ok",
        "started=2025-12-02T05:10:00Z run=a status=failed",
        "started=2025-12-02T05:10:00Z run=b status=ok",
    ]


# --- status ---------------------------------------------------------------------------------


def test_a_status_is_read_as_it_was_written(data: DataDir) -> None:
    status = {"at": NOW, "price": Decimal("1.50"), "counters": {"a": 1}, "none": None, "on": True}
    outputs.write_status(data, "producer", status)
    assert outputs.read_status(data, "producer") == {
        "at": "2025-12-02T05:10:00Z",
        "price": "1.5",
        "counters": {"a": 1},
        "none": None,
        "on": True,
    }


def test_a_missing_json_file_is_an_empty_object(tmp_path: Path) -> None:
    assert text_files.read_json(tmp_path / "none.json") == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"[]", b"1", b"\xff\xfe", b"null"])
def test_a_cut_off_or_foreign_json_file_is_an_error_that_names_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"status\.json"):
        text_files.read_json(path)


def test_a_folder_with_the_name_of_a_json_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=tmp_path.name):
        text_files.read_json(tmp_path)


def test_two_processes_use_different_temporary_files(tmp_path: Path) -> None:
    other = tmp_path / f".file.txt.{os.getpid() + 1}.tmp"
    other.write_text("another process is writing here")
    text_files.write_atomically(tmp_path / "file.txt", "ours")
    assert other.read_text() == "another process is writing here"


def test_a_final_window_is_never_replaced_by_one_with_fewer_trades(tmp_path: Path) -> None:
    """A new checkpoint computes one if Kafka has deleted the beginning of the topic."""
    data = DataDir(tmp_path)
    start = {"window_start": "2025-12-02T05:00:00Z"}
    whole, cut, same = (
        text_files.cells(outputs.WINDOW_COLUMNS, start | {"trade_count": count, "written_at": at})
        for count, at in ((100, "first"), (3, "second"), (100, "third"))
    )
    for window in (whole, cut, same):
        outputs.write_final_windows(data, [window])
        text = (data.stream_csv / "2025-12-02.csv").read_text()
        assert text == text_files.to_csv(outputs.WINDOW_COLUMNS, [whole])


def test_a_row_is_appended_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "status" / "record.csv"
    for number in (1, 2):
        text_files.append_csv(path, ("a", "b"), {"a": number, "b": "x"}, 1000)
    path.write_text(path.read_text() + "3,")
    text_files.append_csv(path, ("a", "b"), {"a": 4, "b": "x"}, 1000)
    assert path.read_text() == "a,b\n1,x\n2,x\n3,\n4,x\n"


def test_an_appended_file_stays_bounded_and_starts_again_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "record.csv"
    for number in range(200):
        text_files.append_csv(path, ("number",), {"number": number}, 100)
        assert path.stat().st_size <= 110
    lines = path.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("number", "199")
    text_files.append_csv(path, ("other",), {"other": 1}, 100)
    assert path.read_text() == "other\n1\n"


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        text_files.write_atomically(folder, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
