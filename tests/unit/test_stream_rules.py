"""The rules of the streaming path: records, windows, pace, progress, and which checkpoint fits."""

import gc
import json
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from pyspark.sql import Row

from pipeline import outputs, text_files
from pipeline.metrics import definitions
from pipeline.settings import Settings
from pipeline.stream import checkpoint
from pipeline.stream.console import CONSOLE_ROWS, CONSOLE_WINDOWS, Console
from pipeline.stream.progress import (
    PROGRESS_COLUMNS,
    Silence,
    is_completed,
    progress_row,
    stalled,
)
from pipeline.stream.records import PARSED, parse_batches, parse_record
from pipeline.stream.trigger import Trigger, next_due
from pipeline.stream.windows import (
    Publication,
    to_window,
)

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


# --- records --------------------------------------------------------------------------------


def test_a_valid_record_becomes_its_fields() -> None:
    fields = parse_record(json.dumps(GOOD).encode(), START_US, "BTC-USD")
    assert fields == (7, "86321.55", "0.25", "buy", START_US - 999_999, None)


@pytest.mark.parametrize("raw", [None, b"", b"{", b"\xff", json.dumps(GOOD | {"side": 1}).encode()])
def test_an_invalid_record_becomes_its_reason(raw: bytes | None) -> None:
    *fields, reason = parse_record(raw, START_US, "BTC-USD")
    assert fields == [None] * 5
    assert reason


@pytest.mark.parametrize("micros", [-(10**18), 2**63 - 1, -(2**63)])
def test_a_record_with_an_impossible_timestamp_does_not_stop_the_query(micros: int) -> None:
    reason = parse_record(json.dumps(GOOD).encode(), micros, "BTC-USD")[-1]
    assert reason is None or reason.startswith("time: ")


def test_a_trade_is_not_newer_than_the_receipt_of_its_record() -> None:
    raw = json.dumps(GOOD | {"time": "2025-12-02T05:01:00Z"}).encode()
    assert parse_record(raw, START_US, "BTC-USD")[-1] is None
    assert parse_record(raw, START_US - 1, "BTC-USD")[-1].startswith("time: ")


def records(values: list[bytes | None]) -> pa.RecordBatch:
    """Return Kafka records as Spark sends them; every second one is backfilled."""
    count = len(values)
    backfilled = [number % 2 == 1 for number in range(count)]
    receipts = [None if flag else START_US for flag in backfilled]
    return pa.record_batch(
        {
            "value": pa.array(values, pa.binary()),
            "timestamp_us": pa.array([START_US] * count, pa.int64()),
            "received": pa.array(receipts, pa.timestamp("us", "UTC")),
            "backfilled": pa.array(backfilled, pa.bool_()),
        }
    )


def test_each_batch_of_records_keeps_its_order_and_its_invalid_records() -> None:
    other = json.dumps(GOOD | {"trade_id": 8, "price": "1e-8", "side": "sell"}).encode()
    values = [json.dumps(GOOD).encode(), None, other, b"\xff"]
    batches = [records(values), records([]), records(values[2:])]
    parsed = list(parse_batches(batches, "BTC-USD"))
    assert [batch.num_rows for batch in parsed] == [4, 0, 2]
    assert all(batch.schema == parsed[0].schema for batch in parsed)
    for batch, read in zip(parsed, (values, [], values[2:]), strict=True):
        rows = [tuple(row.values()) for row in batch.to_pylist()]
        assert [row[:6] for row in rows] == [parse_record(v, START_US, "BTC-USD") for v in read]
    assert parsed[0].column("backfilled").to_pylist() == [False, True, False, True]
    assert parsed[0].column("received").to_pylist() == [START, None, START, None]
    names = [part.split()[0] for part in PARSED.split(", ")]
    assert parsed[0].schema.names == names


def test_only_the_objects_before_the_first_batch_are_exempt_from_garbage_collection() -> None:
    list(parse_batches([records([])], "BTC-USD"))
    exempt = gc.get_freeze_count()
    assert exempt > 0
    list(parse_batches([records([json.dumps(GOOD).encode()] * 100)], "BTC-USD"))
    assert gc.get_freeze_count() <= exempt


def test_micro_batches_are_due_0_3_seconds_after_each_whole_interval() -> None:
    assert next_due(100.0, 1) == pytest.approx(100.3)
    assert next_due(100.31, 1) == pytest.approx(101.3)
    assert next_due(103.0, 5) == pytest.approx(105.3)


def test_a_row_of_the_query_becomes_a_window_with_times_in_utc() -> None:
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
    window = to_window(row, Settings(), START + MINUTE)
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
        "vwap": "",  # the turnover exceeds the decimal type: unknown
        **dict.fromkeys(("open_price", "close_price"), "86321.55"),
        "volume_imbalance": "0.3333333333",
        "last_trade_time": "2025-12-02T05:00:00.000001Z",
        "last_receipt_time": "2025-12-02T05:00:02Z",
        "written_at": "2025-12-02T05:01:00Z",
        **dict.fromkeys(definitions.Z_SCORES, ""),  # depend on the windows before it
    }


# --- checkpoints and folders ----------------------------------------------------------------


def test_each_form_of_the_query_has_its_own_checkpoint(tmp_path: Path) -> None:
    forms: list[dict[str, Any]] = [
        {},
        {"window": 2 * MINUTE},
        {"watermark": 2 * MINUTE},
        {"shuffle_partitions": 2},
        {"kafka_topic": "other"},
    ]
    folders = [checkpoint.folder(Settings(data_dir=tmp_path, **form), "id-1") for form in forms]
    folders.append(checkpoint.folder(Settings(data_dir=tmp_path), "id-2"))  # created again
    assert len(set(folders)) == len(folders)
    assert {folder.parent for folder in folders} == {tmp_path / "checkpoints"}


def test_other_settings_keep_the_checkpoint(tmp_path: Path) -> None:
    same = Settings(
        data_dir=tmp_path, volatility_range=Decimal(7), stream_memory="1g", trigger_seconds=5
    )
    assert checkpoint.folder(same, "id") == checkpoint.folder(Settings(data_dir=tmp_path), "id")


def test_the_path_of_a_checkpoint_is_short_enough_for_the_longest_name_of_a_topic(
    tmp_path: Path,
) -> None:
    longest = Settings(
        data_dir=tmp_path,
        kafka_topic="t" * 200,
        window=timedelta(days=1),
        watermark=timedelta(days=1),
        shuffle_partitions=64,
    )
    checkpoint.folder(longest, str(uuid.uuid4())).mkdir(parents=True)


def test_the_console_shows_the_newest_windows_of_a_long_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    windows = [
        text_files.cells(outputs.WINDOW_COLUMNS, {"window_start": START + n * MINUTE})
        for n in range(CONSOLE_WINDOWS + 2)
    ]
    console = Console()
    console.print("open", [])
    console.print("FINAL", windows[::-1])
    header, *printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "FINAL (earlier windows omitted: 2)"
    shown = [line.split()[1] for line in printed[1:]]
    assert shown == [window["window_start"] for window in windows[2:]]
    assert header.split()[:2] == ["state", "window"]
    assert "average price" in header
    # Each value ends below the end of its heading.
    start = windows[-1]["window_start"]
    assert printed[-1].index(start) + len(start) == header.index("(UTC)") + len("(UTC)")


def test_the_console_prints_its_header_again_after_some_rows(capsys) -> None:
    console = Console()
    window = text_files.cells(outputs.WINDOW_COLUMNS, {"window_start": START})
    for _ in range(2 * CONSOLE_ROWS + 1):
        console.print("open", [window])
    printed = capsys.readouterr().out.splitlines()
    headers = [n for n, line in enumerate(printed) if line.startswith("state")]
    assert headers == [0, CONSOLE_ROWS + 1, 2 * (CONSOLE_ROWS + 1)]


# --- trigger and progress -------------------------------------------------------------------


def test_the_trigger_waits_for_the_next_due_moment_and_returns_how_long() -> None:
    trigger = Trigger(0.2, threading.Event())
    assert trigger.wait() < 0.1  # the first micro-batch is not delayed
    began = time.time()
    waited = trigger.wait()
    ended = time.time()
    assert waited <= ended - began
    assert next_due(began, 0.2) <= ended < next_due(began, 0.2) + 0.15


def test_a_stop_ends_the_wait_at_once() -> None:
    stop = threading.Event()
    trigger = Trigger(60, stop)
    trigger.wait()
    stop.set()
    assert trigger.wait() < 1


PROGRESS: dict[str, Any] = {
    "batchId": 7,
    "durationMs": {"addBatch": 900, "triggerExecution": 1200},
    "observedMetrics": {
        "input": {
            "rows": 5,
            "unparsable": 1,
            "first_receipt": START_US,
            "last_receipt": START_US + 1,
        }
    },
    "stateOperators": [
        {"numRowsDroppedByWatermark": 0, "numRowsTotal": 2, "memoryUsedBytes": 10},
        {
            "customMetrics": {"numDroppedDuplicateRows": 3},
            "numRowsDroppedByWatermark": 2,
            "numRowsTotal": 4,
            "memoryUsedBytes": 20,
        },
    ],
    "sources": [{"metrics": {"maxOffsetsBehindLatest": "8"}}],
}


def test_the_progress_of_a_micro_batch_becomes_a_row_without_its_wait() -> None:
    publication = Publication(START, START - MINUTE)
    row = progress_row(PROGRESS, publication, waited_s=0.75)
    assert tuple(row) == PROGRESS_COLUMNS
    assert row == {
        "micro_batch": 7,
        "published_at": START,
        "newest_trade": START - MINUTE,
        "rows": 5,
        "first_receipt": START,
        "last_receipt": START + timedelta(microseconds=1),
        "unparsable": 1,
        "duplicates": 3,
        "late": 2,
        "duration_ms": 450,
        "lag": 8,
        "state_rows": 6,
        "state_bytes": 30,
    }


def test_a_micro_batch_with_backfilled_records_has_no_times_of_receipt() -> None:
    observed = PROGRESS["observedMetrics"]["input"] | {"backfilled": 2}
    row = progress_row(PROGRESS | {"observedMetrics": {"input": observed}}, None, waited_s=0.0)
    assert (row["rows"], row["first_receipt"], row["last_receipt"]) == (5, None, None)


def test_the_duration_of_a_micro_batch_of_an_earlier_process_is_unknown() -> None:
    row = progress_row(PROGRESS, None, waited_s=0.0)
    assert (row["published_at"], row["newest_trade"], row["duration_ms"]) == (None, None, None)


def test_the_progress_of_an_idle_query_is_no_micro_batch() -> None:
    assert is_completed(PROGRESS)
    assert not is_completed(PROGRESS | {"durationMs": {"triggerExecution": 3}})


# --- stalled or slow ------------------------------------------------------------------------


def stall(query_s: float, java_s: float = 0, kafka_s: float = 0, **changed: Any) -> str | None:
    """With micro-batches once a second, as in a live market."""
    how = {"trigger_s": 1.0, "records": 6, "is_first": False} | changed
    return stalled(Silence(query_s, java_s, kafka_s), **how)


def test_a_suspended_process_is_named_after_three_intervals_and_the_margin() -> None:
    assert stall(11) is None
    assert stall(12, java_s=12) == (
        "no micro-batch for 12 s: Java does not answer. Free CPU or memory. If this lasts, restart "
        "the service"
    )
    assert stall(12, kafka_s=12) == (
        "no micro-batch for 12 s: Kafka does not answer. Check that it runs. The stream then "
        "continues"
    )
    assert stall(30, java_s=30, trigger_s=10) is None


def test_a_large_micro_batch_may_take_longer_but_a_suspended_process_is_still_found() -> None:
    assert stall(40, records=50_000) is None
    assert stall(40, records=50_000, java_s=1, kafka_s=3) is None
    assert stall(12, records=50_000, java_s=12) is not None
    assert stall(12, records=50_000, kafka_s=12) is not None
    assert stall(62, records=50_000) == (
        "no micro-batch for 62 s. Free CPU. A micro-batch is still running (records: 50,000)"
    )


def test_a_micro_batch_of_a_few_records_that_never_ends_is_reported() -> None:
    assert stall(12) == (
        "no micro-batch for 12 s. Free CPU. A micro-batch is still running (records: 6)"
    )


def test_the_first_micro_batch_has_time_to_warm_up() -> None:
    assert stall(45, is_first=True) is None
    assert stall(45, is_first=True, java_s=12) is not None
    assert stall(60, is_first=True) is not None


def test_a_query_that_completes_micro_batches_is_not_stalled_although_kafka_does_not_answer() -> (
    None
):
    assert stall(1, kafka_s=60) is None
