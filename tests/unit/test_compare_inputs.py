"""Reading the outputs: typed, sorted, and never a crash."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from pipeline import outputs, text_files
from pipeline.compare import inputs, output_files
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError
from pipeline.stores.sqlite import SqliteStore

NOW = datetime(2025, 12, 2, 5, 10, tzinfo=UTC)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


def window(start: datetime) -> dict[str, str]:
    row = {
        "window_start": start,
        "window_end": start + timedelta(minutes=1),
        "avg_price": Decimal("86321.55"),
        "volatility_flag": "High",
        "trade_count": 3,
        "vwap": None,
        "written_at": NOW,
    }
    return text_files.cells(outputs.WINDOW_COLUMNS, row)


def batch_row(run: str) -> str:
    row = {"avg_price": Decimal("1.5"), "rows": 7, "run": run, "snapshot_at": NOW}
    return text_files.to_csv(outputs.BATCH_COLUMNS, [row])


def test_final_windows_of_several_days_are_typed_and_sorted(data: DataDir) -> None:
    starts = [datetime(2025, 12, day, 23, 59, tzinfo=UTC) for day in (3, 1, 2)]
    outputs.write_final_windows(data, map(window, starts))
    table = output_files.read_windows(*outputs.stream_files(data))
    assert list(table.columns) == list(outputs.WINDOW_COLUMNS)
    assert [start.to_pydatetime() for start in table["window_start"]] == sorted(starts)
    assert str(table["window_start"].dt.tz) == "UTC"
    assert table["avg_price"].tolist() == [86321.55] * 3
    assert table["trade_count"].sum() == 9
    assert table["volatility_flag"].tolist() == ["High"] * 3
    assert table["vwap"].isna().all()
    assert table["last_receipt_time"].isna().all()


def test_times_with_and_without_fractions_are_read(data: DataDir) -> None:
    rows = [
        window(NOW) | {"last_trade_time": "2025-12-02T05:10:00Z"},
        window(NOW + timedelta(minutes=1)) | {"last_trade_time": "2025-12-02T05:11:00.000001Z"},
    ]
    data.stream_live.write_text(text_files.to_csv(outputs.WINDOW_COLUMNS, rows))
    times = output_files.read_windows(data.stream_live)["last_trade_time"]
    assert times[1] - times[0] == pd.Timedelta(minutes=1, microseconds=1)


def test_an_empty_folder_gives_empty_tables_with_all_columns_and_types(data: DataDir) -> None:
    final, live = (
        output_files.read_windows(*outputs.stream_files(data)),
        output_files.read_windows(data.stream_live),
    )
    runs, log = output_files.read_batch_runs(data), output_files.read_batch_log(data)
    assert list(final.columns) == list(live.columns) == list(outputs.WINDOW_COLUMNS)
    assert list(runs.columns) == list(outputs.BATCH_COLUMNS)
    assert list(log.columns) == list(outputs.LOG_FIELDS)
    for table in (final, live, runs, log):
        assert len(table) == 0
    for table in (final, live):
        assert str(table["window_start"].dt.tz) == "UTC"
        assert pd.isna(table["avg_price"].max())


def test_a_file_without_rows_is_an_empty_table(data: DataDir) -> None:
    data.stream_live.write_bytes(b"window_start")
    assert len(output_files.read_windows(data.stream_live)) == 0


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_a_file_without_a_header_is_an_error_and_not_an_empty_table(
    data: DataDir, content: bytes
) -> None:
    """As an empty table it would mean that a path has no window."""
    data.batch_windows.write_bytes(content)
    with pytest.raises(OutputError, match=r"batch_windows.csv is empty because it was cut off"):
        output_files.read_windows(data.batch_windows)


def test_a_file_cut_off_anywhere_is_read_or_reported_and_never_a_crash(data: DataDir) -> None:
    starts = [NOW, NOW + timedelta(minutes=1)]
    whole = text_files.to_csv(outputs.WINDOW_COLUMNS, map(window, starts)).encode()
    for end in range(0, len(whole), 23):
        data.stream_live.write_bytes(whole[:end])
        try:
            table = output_files.read_windows(data.stream_live)
        except OutputError as error:
            assert "stream_live.csv" in str(error)  # noqa: PT017 - either way is right
        else:
            assert len(table) <= 2
            assert list(table.columns) == list(outputs.WINDOW_COLUMNS)


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b"\x00\x01\x02",
        b"\xff\xfe\x00w",
        b"PK\x03\x04\x14\x00",
        b'window_start,"avg',
        b"window_start\n1,2\n3,4,5,6\n",
        b"<html></html>\n",
    ],
)
def test_a_foreign_file_is_an_error_that_names_it(data: DataDir, content: bytes) -> None:
    data.stream_live.write_bytes(content)
    with pytest.raises(OutputError, match=r"stream_live\.csv"):
        output_files.read_windows(data.stream_live)


def test_a_row_with_too_many_cells_does_not_shift_the_others(data: DataDir) -> None:
    start, end = "2025-12-02T05:10:00Z", "2025-12-02T05:11:00Z"
    data.stream_live.write_text(f"window_start,window_end\n{start},{end},1\n")
    try:
        table = output_files.read_windows(data.stream_live)
    except OutputError:
        return
    assert table["window_start"].tolist() == [pd.Timestamp(start)]


def test_a_folder_in_place_of_a_file_is_an_error_that_names_it(data: DataDir) -> None:
    data.stream_live.mkdir()
    with pytest.raises(OutputError, match=r"stream_live\.csv"):
        output_files.read_windows(data.stream_live)


def test_cells_that_are_not_numbers_or_times_are_unknown(data: DataDir) -> None:
    row = window(NOW) | {"avg_price": "dear", "trade_count": "", "window_end": "later"}
    data.stream_live.write_text(text_files.to_csv(outputs.WINDOW_COLUMNS, [row]))
    table = output_files.read_windows(data.stream_live)
    assert table[["avg_price", "trade_count", "window_end"]].isna().all(axis=None)


def test_columns_of_a_later_version_are_ignored(data: DataDir) -> None:
    columns = [*outputs.WINDOW_COLUMNS, "invented_later"]
    data.stream_live.write_text(text_files.to_csv(columns, [window(NOW)]))
    table = output_files.read_windows(data.stream_live)
    assert list(table.columns) == list(outputs.WINDOW_COLUMNS)
    assert table["trade_count"].tolist() == [3]


def test_a_text_like_na_stays_a_text(data: DataDir) -> None:
    row = window(NOW) | {"volatility_flag": "NA"}
    data.stream_live.write_text(text_files.to_csv(outputs.WINDOW_COLUMNS, [row]))
    assert output_files.read_windows(data.stream_live)["volatility_flag"].tolist() == ["NA"]


def test_batch_runs_are_sorted_oldest_first(data: DataDir) -> None:
    for run in ("20251203T000000Z", "20251202T051000Z"):
        text_files.write_atomically(data.batch_output / f"{run}.csv", batch_row(run))
    (data.batch_output / "notes.csv").write_text("mine")
    table = output_files.read_batch_runs(data)
    assert table["run"].tolist() == ["20251202T051000Z", "20251203T000000Z"]
    assert table["rows"].tolist() == [7, 7]
    assert table["snapshot_at"].tolist() == [pd.Timestamp(NOW)] * 2


def test_the_batch_log_is_typed_and_malformed_lines_are_ignored(data: DataDir) -> None:
    good = {"started": NOW, "run": "a", "status": "ok", "exit": 0, "rows": 38126, "wall_s": 6.41}
    outputs.append_batch_log(data, good)
    with data.batch_log.open("ab") as file:
        file.write(b"\n   \nhello there\nstarted=2025-12-02T05:20:00Z run=torn\n\xff\xfe=\xff\n")
    outputs.append_batch_log(data, {"started": NOW, "run": "b", "status": "no_data"})
    with data.batch_log.open("a") as file:
        file.write("started=2025-12-02T05:30:00Z run=c status=ok exit=0 rows=38")  # 38126
    log = output_files.read_batch_log(data)
    assert log["run"].tolist() == ["a", "b"]
    assert log["started"].tolist() == [pd.Timestamp(NOW)] * 2
    assert log["mode"].tolist() == ["full"] * 2  # lines of an older version have none
    assert log["rows"].tolist()[0] == 38126
    assert log["wall_s"].tolist()[0] == 6.41
    unknown = log[["exit", "rows", "wall_s", "peak_mib"]].isna()
    assert unknown.all(axis=1).tolist() == [False, True]


def test_the_mode_is_the_last_field_of_a_line_in_the_batch_log(data: DataDir) -> None:
    reason = "read the whole table: batch_sums.json does not exist"
    fields = {"started": NOW, "run": "a", "status": "ok", "mode": "full", "reason": reason}
    outputs.append_batch_log(data, fields)
    outputs.append_batch_log(data, fields | {"run": "b", "mode": "pushdown", "reason": None})
    assert [line.rsplit(" ", 1)[-1] for line in data.batch_log.read_text().splitlines()] == [
        "mode=full",
        "mode=pushdown",
    ]
    log = output_files.read_batch_log(data)
    assert log["mode"].tolist() == ["full", "pushdown"]
    assert log["reason"].tolist()[0] == reason


@pytest.mark.parametrize(
    "reason",
    [
        "the Java heap is full. Set BATCH_MEMORY above 1g. Cause: OutOfMemoryError: Java heap",
        "the Java process has ended. Change BATCH_MEMORY=1g. Cause: Connection refused",
        "timed out after 540 s. Increase BATCH_TIMEOUT_SECONDS or set BATCH_MODE=incremental",
        "PostgreSQL stopped the run. Check its server and STORE_URL. The next run starts",
        "it was killed (SIGKILL). Free memory on this machine, or decrease BATCH_MEMORY. The Java",
        "Increase the limit of threads: `ulimit -u` of this user, or `pids_limit` of the container",
        "crypto_prices.db is damaged. Cause: SQLiteException: [SQLITE_CORRUPT] The database disk",
        "No space left on device: free space on the disk of /data/batch_windows.csv",
        "no result in status/batch_processor.json. The next run starts at its usual time.",
    ],
)
def test_a_reason_in_the_batch_log_keeps_the_names_of_settings_and_files(
    reason: str, data: DataDir
) -> None:
    """The log has an underscore for each space. The reader must keep the other underscores."""
    run = {"started": NOW, "run": "20251202", "status": "failed", "exit": 1, "reason": reason}
    outputs.append_batch_log(data, run)
    assert output_files.read_batch_log(data)["reason"].tolist() == [reason]


def test_one_more_number_in_the_batch_log_changes_no_other_field(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = (*outputs.LOG_FIELDS, "spill_mib")
    for module in (outputs, output_files):
        monkeypatch.setattr(module, "LOG_FIELDS", fields)
    run = {"started": NOW, "run": "20251202", "status": "failed", "exit": 1, "spill_mib": 7}
    outputs.append_batch_log(data, run | {"reason": "the disk is full", "mode": "full"})
    log = output_files.read_batch_log(data).iloc[0]
    assert (log["run"], log["status"], log["mode"]) == ("20251202", "failed", "full")
    assert log["reason"] == "the disk is full"
    assert (log["exit"], log["spill_mib"]) == (1, 7)


def test_a_batch_log_that_is_a_folder_is_an_error_that_names_it(data: DataDir) -> None:
    data.batch_log.mkdir()
    with pytest.raises(OutputError, match=r"batch_log\.txt"):
        output_files.read_batch_log(data)


@pytest.mark.parametrize(
    ("source", "as_recorded"),
    [
        ('{"kind": "replay", "retimed": false}', True),
        ('{"kind": "replay", "retimed": true}', False),
        ('{"kind": "live", "retimed": false}', False),
    ],
)
def test_only_a_replay_with_its_original_timestamps_counts_as_recorded(
    data: DataDir, source: str, as_recorded: bool
) -> None:
    data.source.write_text(source)
    assert inputs.read_outputs(data, SqliteStore(data.database)).replayed_as_recorded is as_recorded
