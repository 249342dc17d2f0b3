"""How the benchmarks check the windows of an engine, and the inputs of that check."""

import itertools
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from benchmarks import flink, inputs, windows
from benchmarks.windows import Check
from tests import golden

MINUTE = 60_000_000
START = int(inputs.BEGIN.timestamp()) * 1_000_000


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deliveries") / "deliveries.jsonl"
    inputs.write_recording(path, 2000, inputs.deliveries())
    return path


@pytest.fixture(scope="module")
def expected(recording: Path) -> windows.Expected:
    return windows.expected(recording, repeats=True)


def test_deliveries_repeat_one_message_in_ten_and_some_are_out_of_order():
    numbers = [trade.number for trade in itertools.islice(inputs.deliveries(), 20_000)]
    repeated = len(numbers) - len(set(numbers))
    assert 0.09 < repeated / len(numbers) < 0.11
    newest = list(itertools.accumulate(numbers, max))
    lags = [high - number for high, number in zip(newest, numbers, strict=True)]
    assert sum(lag > 0 for lag in lags) > 2000
    assert 60 < max(lags) <= inputs.LONGEST_DELAY
    assert len(set(numbers)) > max(numbers) - inputs.LONGEST_DELAY


def test_the_expected_windows_are_the_golden_ones(recording: Path, expected: windows.Expected):
    assert expected.distinct == golden.compute(recording).windows
    assert expected.messages == 2000


def test_without_deduplication_each_delivery_counts(expected: windows.Expected):
    counted, distinct = (
        sum(int(str(window["trade_count"])) for window in of.values())
        for of in (expected.repeated, expected.distinct)
    )
    assert counted == 2000
    assert distinct < 2000


def test_the_windows_without_deduplication_are_computed_on_request(
    recording: Path, expected: windows.Expected
):
    found = windows.expected(recording, repeats=False)
    assert found.distinct == expected.distinct
    assert found.repeated == {}


def test_a_window_is_closed_a_minute_after_its_end():
    rows: windows.Windows = {START: {}, START + MINUTE: {}}
    at = windows.Expected(rows, rows, START + 2 * MINUTE, 0)
    assert at.closed() == {START}
    before = windows.Expected(rows, rows, START + 2 * MINUTE - 1, 0)
    assert before.closed() == set()


def row(**changed: object) -> dict[str, object]:
    values = {"trade_count": 3, "buy_count": 1, "avg_price": Decimal("90000.123456789")}
    amounts = {"max_price": Decimal(90001), "min_price": Decimal(90000)}
    return {**values, **amounts, "total_volume": Decimal("0.12345678"), **changed}


@pytest.mark.parametrize(
    ("changed", "right"),
    [
        ({}, True),
        ({"trade_count": "3", "avg_price": "90000.1234567892"}, True),
        ({"avg_price": "90000.123456791"}, False),
        ({"total_volume": "0.12345679"}, False),
        ({"trade_count": "4"}, False),
        ({"buy_count": "2"}, False),
    ],
)
def test_an_exact_window_differs_by_rounding_only(changed, right):
    checked = windows.check({START: row(**changed)}, {START: row()}, {START}, Decimal(0))
    assert checked == Check(int(right), int(not right), 0)


def test_sums_of_doubles_may_differ_in_the_last_digits():
    found = {START: row(avg_price="90000.12345685")}
    assert windows.check(found, {START: row()}, {START}, windows.DOUBLES).right == 1
    assert windows.check(found, {START: row()}, {START}, Decimal(0)).wrong == 1


def test_missing_windows_count_if_they_are_closed_and_unknown_ones_are_wrong():
    right = {START: row(), START + MINUTE: row(), START + 2 * MINUTE: row()}
    found = {START: row(), START + 9 * MINUTE: row()}
    checked = windows.check(found, right, {START, START + MINUTE}, Decimal(0))
    assert checked == Check(right=1, wrong=1, missing=1)


def test_rows_are_counted_without_headers_and_again_after_a_change(tmp_path: Path):
    counter = windows.RowCounter(tmp_path)
    assert counter.count() == 0
    (tmp_path / "a.csv").write_text("head\n1\n2\n")
    (tmp_path / "b.csv").write_text("")
    assert counter.count() == 2
    (tmp_path / "b.csv").write_text("head\n1\n")
    assert counter.count() == 3


def test_a_row_that_is_cut_off_is_no_window(tmp_path: Path):
    text = "window_start,trade_count\n2025-06-01T00:00:00Z,3\n2025-06-01T00:01"
    (tmp_path / "part-0.csv").write_text(text)
    assert windows.read_csv(tmp_path).keys() == {START}


def test_the_windows_of_flink_are_read_from_complete_files(tmp_path: Path):
    cells = "2025-06-01 00:00:00,3,1,270000.3,90001,90000,0.12345678,11111.1\n"
    (tmp_path / "part-0").write_text(cells)
    (tmp_path / ".part-1.inprogress").write_text("2025-06-01 00:01:0")
    found = flink.read_windows(tmp_path)
    assert found.keys() == {START}
    assert found[START]["avg_price"] == Decimal("90000.1")
    assert found[START]["buy_count"] == "1"


@pytest.mark.parametrize("way", flink.DEDUPLICATIONS)
def test_each_way_to_deduplicate_ends_with_the_insert(way: str, tmp_path: Path):
    statements = flink.statements("127.0.0.1:9", "prices", tmp_path, way)
    assert "'prices'" in statements[0]
    assert tmp_path.as_uri() in statements[1]
    assert statements[-1].strip().startswith("INSERT INTO windows")
    assert "{" not in "".join(statements)
    assert all(f"{name} " in statements[1] for name in flink.COLUMNS)


def test_times_are_read_with_and_without_a_zone():
    assert windows.micros("2025-06-01 00:00:00") == START
    assert windows.micros("2025-06-01T00:00:00Z") == START
    assert datetime.fromtimestamp(START / 1e6, UTC) == inputs.BEGIN
