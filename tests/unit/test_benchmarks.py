"""The arithmetic and the inputs of the benchmarks, and their viewer of the page."""

import itertools
import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks import inputs, stream, viewer
from benchmarks.processes import Bench, BenchmarkError
from benchmarks.results import Mark, Result, per_minute, percentile, rate, shown, table
from local.ports import free_port
from pipeline.ingest import store, trade
from pipeline.stores import common_queries, sqlite


def messages(count: int) -> list[bytes]:
    return [inputs.message(made) for made in itertools.islice(inputs.walk(), count)]


def test_every_made_up_message_is_a_valid_trade_with_its_own_id():
    now = datetime.now(UTC)
    trades = [trade.decode(raw, "BTC-USD", now) for raw in messages(2000)]
    assert len({valid.trade_id for valid in trades}) == 2000
    assert {valid.side for valid in trades} == {"buy", "sell"}


def test_trades_come_six_a_second_without_a_silence():
    times = [datetime.fromisoformat(json.loads(raw)["time"]) for raw in messages(3600)]
    assert times == sorted(times)
    assert all(
        (times[index] - inputs.BEGIN) // timedelta(seconds=1) == index // 6 for index in range(3600)
    )


def test_the_walk_is_the_same_each_time():
    assert messages(500) == messages(500)


def test_a_grown_table_equals_one_that_the_consumer_filled(tmp_path: Path):
    table_ = inputs.Table(tmp_path / "grown.db")
    table_.grow(300)
    table_.grow(700)
    trades = [trade.decode(raw, "BTC-USD", datetime.now(UTC)) for raw in messages(700)]
    with closing(sqlite.open_writer(tmp_path / "stored.db")) as connection:
        batch = store.Batch(0, 699, 700, 0, inputs.BEGIN, inputs.BEGIN, trades)
        store.store(connection, batch, datetime.now(UTC))
        expected = connection.execute(
            "SELECT trade_id, price, side, time, last_size FROM btc_prices"
        ).fetchall()
    with closing(sqlite.open_reader(table_.path)) as connection:
        rows = connection.execute(
            "SELECT trade_id, price, side, time, last_size FROM btc_prices"
        ).fetchall()
        assert common_queries.total_rows(connection) == 700
        assert common_queries.stored_ranges(connection) == [
            (inputs.FIRST_ID, inputs.FIRST_ID + 699)
        ]
        assert common_queries.next_offset(connection) == 700
    assert rows == expected


@pytest.mark.parametrize(
    ("mark", "ours", "baseline", "reached"),
    [
        (Mark(at_least=10), 10, None, True),
        (Mark(at_least=10), 9.99, None, False),
        (Mark(at_most=62), 62.01, 93, False),
        (Mark(at_least=40, of_ratio=True), 4000, 100, True),
        (Mark(at_least=40, of_ratio=True), 3999, 100, False),
        (Mark(at_most=1 / 3, of_ratio=True), 33, 99, True),
        (Mark(at_most=1 / 3, of_ratio=True), 34, 99, False),
        (Mark(at_most=0.5, of_ratio=True), 1, None, None),
        (Mark(at_most=62), None, 93, None),
        (None, 5, 10, None),
    ],
)
def test_a_mark_is_reached_at_its_limit_and_unknown_without_a_value(mark, ours, baseline, reached):
    assert Result("", "", ours, baseline, mark).reached is reached


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (52_300.4, "52,300"),
        (100, "100"),
        (61.74, "61.7"),
        (10, "10"),
        (1.014, "1.01"),
        (0.01234, "0.0123"),
        (-13.5, "-13.5"),
    ],
)
def test_numbers_have_three_digits_and_unknown_values_are_a_dash(value, text):
    assert shown(value) == text


def test_the_table_shows_which_marks_were_missed():
    lines = table(
        [
            Result("a", "s", 4, 10, Mark(at_most=0.5, of_ratio=True)),
            Result("b", "s", 6, 10, Mark(at_most=0.5, of_ratio=True)),
            Result("c", "s", None),
        ]
    ).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0] == ["a", "s", "4", "plain job", "10", "0.4", "ratio ≤ 0.5", "reached"]
    assert cells[1][-1] == "NOT reached"
    assert cells[2] == ["c", "s", "-", "", "", "", "", ""]
    assert len({len(line) for line in lines}) == 1


def test_a_percentile_is_by_nearest_rank():
    values = [float(value) for value in range(1, 21)]
    assert percentile(values, 95) == 19
    assert percentile(values, 50) == 10
    assert percentile([3.0], 95) == 3
    assert percentile([], 95) is None


def test_a_rate_ignores_the_items_before_its_first_time():
    assert rate([(10.0, 5000), (11.0, 300), (12.0, 100)]) == 200
    assert rate([(10.0, 5000)]) is None


def test_cpu_per_minute_counts_only_between_two_times():
    samples = [(0.0, 0.0), (20.0, 50.0), (30.0, 60.0), (60.0, 70.0), (90.0, 80.0), (120.0, 500.0)]
    assert per_minute(samples, 30, 90) == 20
    assert per_minute(samples, 80, 100) is None


def test_the_newest_time_is_read_from_a_growing_console_log(tmp_path: Path):
    log = tmp_path / "stream.log"
    line = "|2025-06-01 00:00:00|2025-06-01 00:01:00|90000.1|17|2025-06-01 00:00:{:02}.5  |\n"
    log.write_text("-----\nBatch: 1\n" + line.format(7) + line.format(3))
    console = stream.Console(log)
    local = datetime.fromisoformat("2025-06-01 00:00:07.5").astimezone()
    assert console() == local
    with log.open("a") as file:
        file.write(line.format(9)[:-12])
    assert console() == local
    with log.open("a") as file:
        file.write(line.format(9)[-12:])
    assert console() == local + timedelta(seconds=2)


def test_a_final_window_is_returned_once(tmp_path: Path):
    windows = tmp_path / "windows"
    finals = stream.FinalWindows(windows)
    assert finals.new_ends() == []
    windows.mkdir()
    row = "2025-06-01T00:00:00Z,2025-06-01T00:01:00Z\n"
    (windows / "part-0.csv").write_text(f"window_start,window_end\n{row}")
    (windows / ".part-1.csv.crc").write_text("no window")
    end = datetime(2025, 6, 1, 0, 1, tzinfo=UTC).timestamp()
    assert finals.new_ends() == [end]
    later = row.replace("00:01", "00:02").replace("00:00:00", "00:01:00", 1)
    (windows / "part-0.csv").write_text(f"window_start,window_end\n{row}{later}")
    assert finals.new_ends() == [end + 60]
    assert finals.new_ends() == []


def test_the_viewer_makes_a_real_streamlit_server_run_its_page(tmp_path: Path):
    """Fails when Streamlit changes the private protocol that `benchmarks/viewer.py` uses."""
    page = tmp_path / "page.py"
    mark = tmp_path / "mark"
    page.write_text(f"import streamlit as st\nopen({str(mark)!r}, 'w')\nst.write('ready')\n")
    port = free_port()
    options = ("--server.headless=true", "--browser.gatherUsageStats=false")
    with Bench(tmp_path / "bench", print) as bench:
        server = bench.python(
            "page", "-m", "streamlit", "run", page, f"--server.port={port}", *options
        )
        with viewer.Viewer(port) as watching:
            bench.wait(lambda: mark.exists() and watching.messages, 60, "messages", server)
        watching.check()
    assert server.process.returncode is not None


def test_a_viewer_that_saw_nothing_fails_the_measurement():
    with pytest.raises(BenchmarkError, match="sent nothing"):
        viewer.Viewer(free_port()).check()
