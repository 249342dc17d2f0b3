"""The pure rules of consumer and stream: where to start, what a record is, which folder fits."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import Row

from pipeline import metrics, outputs
from pipeline.ingest.loader import start_offset
from pipeline.outputs import DataDir, OutputError
from pipeline.settings import Settings
from pipeline.stream.query import checkpoint_folder, judge, next_due, window_of
from pipeline.stream.windows import CONSOLE_WINDOWS, check_window_length, print_windows

MINUTE = timedelta(minutes=1)
START = datetime(2025, 12, 2, 5, tzinfo=UTC)
START_US = 1_764_651_600_000_000
GOOD: dict[str, Any] = {
    "type": "ticker",
    "product_id": "BTC-USD",
    "trade_id": 7,
    "price": "86321.55",
    "best_bid": "86321.54",
    "best_ask": "86321.55",
    "side": "buy",
    "time": "2025-12-02T04:59:59.000001Z",
    "last_size": "0.25",
}


# --- where the consumer starts --------------------------------------------------------------


def test_the_first_run_starts_at_the_beginning() -> None:
    assert start_offset(stored=None, committed=None, end=0) is None
    assert start_offset(stored=None, committed=None, end=500) is None


def test_a_lost_database_is_filled_from_the_beginning_whatever_was_committed() -> None:
    assert start_offset(stored=None, committed=500, end=500) is None


def test_what_is_stored_and_not_yet_committed_is_not_read_again() -> None:
    assert start_offset(stored=500, committed=400, end=900) == 500
    assert start_offset(stored=500, committed=500, end=500) == 500


def test_an_older_database_than_the_committed_offset_is_filled_up() -> None:
    assert start_offset(stored=300, committed=500, end=500) == 300


def test_a_new_topic_is_read_from_its_beginning() -> None:
    assert start_offset(stored=500, committed=None, end=900) is None
    assert start_offset(stored=500, committed=20, end=20) is None


@given(
    stored=st.none() | st.integers(0, 50),
    committed=st.none() | st.integers(0, 50),
    end=st.integers(0, 50),
)
def test_nothing_is_ever_skipped_beyond_what_is_stored(
    stored: int | None, committed: int | None, end: int
) -> None:
    start = start_offset(stored, committed, end)
    assert start is None or start == stored
    assert start is None or start <= end


# --- what the stream makes of a record ------------------------------------------------------


def test_a_valid_record_becomes_its_fields() -> None:
    fields = judge(json.dumps(GOOD).encode(), START_US, "BTC-USD")
    assert fields == (7, "86321.55", "0.25", "buy", START_US - 999_999, None)


@pytest.mark.parametrize("raw", [None, b"", b"{", b"\xff", json.dumps(GOOD | {"side": 1}).encode()])
def test_any_other_record_becomes_its_reason(raw: bytes | None) -> None:
    *fields, reason = judge(raw, START_US, "BTC-USD")
    assert fields == [None] * 5
    assert reason


@pytest.mark.parametrize("micros", [-(10**18), 2**63 - 1, -(2**63)])
def test_a_record_with_an_absurd_timestamp_ends_nothing(micros: int) -> None:
    reason = judge(json.dumps(GOOD).encode(), micros, "BTC-USD")[-1]
    assert reason is None or reason.startswith("time: ")


def test_a_record_is_judged_by_the_moment_of_its_receipt() -> None:
    raw = json.dumps(GOOD | {"time": "2025-12-02T05:01:00Z"}).encode()
    assert judge(raw, START_US, "BTC-USD")[-1] is None
    assert judge(raw, START_US - 1, "BTC-USD")[-1].startswith("time: ")


def test_micro_batches_are_due_a_little_after_each_whole_interval() -> None:
    assert next_due(100.0, 1) == pytest.approx(100.3)
    assert next_due(100.31, 1) == pytest.approx(101.3)
    assert next_due(103.0, 5) == pytest.approx(105.3)


def test_a_row_of_spark_becomes_a_window_with_times_in_utc() -> None:
    price, size = Decimal("86321.55"), Decimal("0.2")
    sums = {
        **dict.fromkeys(("max_price", "min_price", "open_price", "close_price"), price),
        "trade_count": 3,
        "buy_count": 2,
        "price_sum": 3 * price,
        "turnover": None,
        "total_volume": 3 * size,
        "buy_volume": 2 * size,
    }
    row = Row(
        **sums,
        window_start=START_US,
        window_end=START_US + 60_000_000,
        last_trade_time=START_US + 1,
        first_trade_time=START_US,
        last_receipt_time=START_US + 2_000_000,
    )
    window = window_of(row, Settings(), START + MINUTE)
    assert (window.start, window.end) == (START_US, START_US + 60_000_000)
    assert window.last_trade_time == START_US + 1
    assert tuple(window.cells) == outputs.WINDOW_COLUMNS
    assert window.cells == {
        "window_start": "2025-12-02T05:00:00Z",
        "window_end": "2025-12-02T05:01:00Z",
        **dict.fromkeys(("avg_price", "max_price", "min_price"), "86321.55"),
        "price_range": "0",
        "volatility_flag": "Normal",
        "total_volume": "0.6",
        "trade_count": "3",
        "buy_sell_ratio": str(2 / (1 + 1e-5)),
        "market_sentiment": "Bullish",
        "volume_spike": "Normal",
        "buy_count": "2",
        "sell_count": "1",
        "vwap": "",  # a turnover beyond all decimals: unknown
        **dict.fromkeys(("open_price", "close_price"), "86321.55"),
        "volume_imbalance": "0.3333333333",
        "last_trade_time": "2025-12-02T05:00:00.000001Z",
        "last_receipt_time": "2025-12-02T05:00:02Z",
        "written_at": "2025-12-02T05:01:00Z",
        **dict.fromkeys(metrics.Z_SCORES, ""),  # follow from the windows before it
    }


# --- which folder fits ----------------------------------------------------------------------


def test_a_checkpoint_is_of_one_shape_of_the_query(tmp_path: Path) -> None:
    shapes: list[dict[str, Any]] = [
        {},
        {"window": 2 * MINUTE},
        {"watermark": 2 * MINUTE},
        {"shuffle_partitions": 2},
        {"kafka_topic": "other"},
    ]
    folders = [checkpoint_folder(Settings(data_dir=tmp_path, **shape)) for shape in shapes]
    assert len(set(folders)) == len(shapes)
    assert {folder.parent for folder in folders} == {tmp_path / "checkpoints"}


def test_what_does_not_change_the_query_keeps_its_checkpoint(tmp_path: Path) -> None:
    same = Settings(
        data_dir=tmp_path, volatility_range=Decimal(7), stream_memory="1g", trigger_seconds=5
    )
    assert checkpoint_folder(same) == checkpoint_folder(Settings(data_dir=tmp_path))


def final_window(length: timedelta) -> dict[str, str]:
    times = {"window_start": START, "window_end": START + length}
    return outputs.cells(outputs.WINDOW_COLUMNS, times)


def test_windows_of_another_length_in_the_folder_are_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    data = DataDir(tmp_path)
    check_window_length(data, MINUTE)
    outputs.write_final_windows(data, [final_window(MINUTE)])
    check_window_length(data, MINUTE)
    with pytest.raises(OutputError, match=r"holds windows of 0:01:00.*DATA_DIR=.*make clean"):
        check_window_length(data, 5 * MINUTE)


def test_the_console_shows_the_newest_windows_of_a_long_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    windows = [
        outputs.cells(outputs.WINDOW_COLUMNS, {"window_start": START + n * MINUTE})
        for n in range(CONSOLE_WINDOWS + 2)
    ]
    print_windows("FINAL", windows[::-1])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "FINAL … and 2 windows before these"
    shown = [line.split()[1] for line in said[1:]]
    assert shown == [window["window_start"] for window in windows[2:]]
