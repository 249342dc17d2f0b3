"""The independent computation: checked by hand, and against the pipeline's rules."""

import csv
import json
import sqlite3
import statistics
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feed import recording, retime
from pipeline.ingest import trade
from tests import golden
from tests.golden import run as golden_run
from tests.golden import run_settings
from tests.golden.__main__ import main
from tests.golden.run_settings import Period, RefusedError

NOW = datetime(2025, 7, 1, tzinfo=UTC)
MESSAGE: dict[str, object] = {
    "type": "ticker",
    "sequence": 1,
    "product_id": "BTC-USD",
    "price": "100.5",
    "best_bid": "100.49",
    "best_ask": "100.51",
    "side": "buy",
    "time": "2025-06-30T23:30:01.25Z",
    "trade_id": 7,
    "last_size": "0.5",
}


def frame(**changes: object) -> bytes:
    message = MESSAGE | changes
    return json.dumps({key: value for key, value in message.items() if value != "absent"}).encode()


def trades(*rows: tuple[str, str, str]) -> list[golden.Trade]:
    return [
        golden.Trade(number, Decimal(price), None, None, side, number, Decimal(size))
        for number, (price, side, size) in enumerate(rows, 1)
    ]


def test_the_metrics_equal_those_worked_out_by_hand():
    found = golden.metrics(
        trades(
            ("100", "buy", "1"), ("151", "buy", "2"), ("101", "sell", "0.5"), ("102", "buy", "0.5")
        )
    )
    assert found["avg_price"] == Decimal("113.5")
    assert (found["min_price"], found["max_price"]) == (100, 151)
    assert (found["price_range"], found["volatility_flag"]) == (51, "High")
    assert (found["total_volume"], found["volume_spike"]) == (4, "Normal")
    assert (found["trade_count"], found["buy_count"], found["sell_count"]) == (4, 3, 1)
    assert (found["open_price"], found["close_price"]) == (100, 102)
    assert found["vwap"] == Decimal("125.875")
    assert found["volume_imbalance"] == Decimal("0.75")
    assert found["market_sentiment"] == "Bullish"
    assert abs(Decimal(str(found["buy_sell_ratio"])) - Decimal("2.99997000029999700003")) < Decimal(
        "1e-19"
    )


@pytest.mark.parametrize(
    ("buys", "sells", "mood"),
    [
        *((12, 10, "Neutral"), (13, 10, "Bullish"), (10, 12, "Neutral"), (10, 13, "Bearish")),
        *((6, 5, "Neutral"), (1, 0, "Bullish"), (0, 1, "Bearish"), (1, 1, "Neutral")),
    ],
)
def test_sentiment_at_its_threshold(buys, sells, mood):
    rows = [("1", "buy", "1")] * buys + [("1", "sell", "1")] * sells
    assert golden.metrics(trades(*rows))["market_sentiment"] == mood


def test_exactly_at_a_threshold_is_normal():
    found = golden.metrics(trades(("100", "buy", "99.99999999"), ("150", "buy", "0.00000001")))
    assert (found["volatility_flag"], found["volume_spike"]) == ("Normal", "Normal")
    found = golden.metrics(trades(("100", "buy", "100"), ("150.01", "buy", "0.00000001")))
    assert (found["volatility_flag"], found["volume_spike"]) == ("High", "Spike")


def test_the_message_used_here_is_a_valid_trade():
    found = golden.trade_in(frame(), NOW)
    assert (found.trade_id, found.price, found.size) == (7, Decimal("100.5"), Decimal("0.5"))
    assert found.time == 1_751_326_201_250_000
    assert golden.trade_in(frame(best_bid=None, best_ask="absent"), NOW).best_ask is None


CHANGES: list[tuple[str, list[object]]] = [
    ("price", ["0", "-1", "1e5", "1E-8", "1e-9", "0.123456789", "9999999999", "10000000000"]),
    ("price", ["9999999.12345678", "99999999.12345678", "1.50000000000", "NaN", "Infinity", ""]),
    (
        "price",
        [" 1", "1 ", "+1", "1_0", "01", ".5", "5.", "\u0661", 100.5, 100, None, "absent", []],
    ),
    ("price", ["0.00000001", "0.000000001", "1e400", "1e-400", "0e5", "1" * 400, "0x10"]),
    ("last_size", ["0", "0.00000001", "1e1", {}, None, "absent", True]),
    ("best_bid", ["0", "x", None, "absent", 1, "1.5", "-0"]),
    ("best_ask", ["", None, "absent", [], "2"]),
    ("side", ["sell", "SELL", "", None, "absent", 1]),
    ("trade_id", [0, -1, 2**63 - 1, 2**63, "7", None, "absent", 7.5, True, 10**30]),
    ("product_id", ["ETH-USD", "", None, "absent", 5]),
    ("type", ["match", "heartbeat", None, "absent", ["ticker"]]),
    ("sequence", [None, "absent", "x", -5]),
    ("time", ["2025-06-30T23:30:01Z", "2025-06-30T23:30:01+02:00", "2025-06-30T23:30:01-0230"]),
    ("time", ["2025-06-30T23:30:01", "2025-06-30", "", None, "absent", 1751326201, "20250630"]),
    ("time", ["2011-12-31T23:59:59.999999Z", "2012-01-01T00:00:00Z", "2025-07-01T00:01:00Z"]),
    ("time", ["2025-07-01T00:01:00.000001Z", "2025-06-31T00:00:00Z", "2025-06-30T24:00:00Z"]),
    ("time", ["2025-06-30T23:30:60Z", "2025-06-30T23:30Z", "2025-06-30t23:30:01z"]),
    ("time", ["2025-06-30 23:30:01Z", "2025-06-30T23:30:01.1234567Z", "0000-01-01T00:00:00Z"]),
    (
        "time",
        ["2012-01-01T01:00:00+02:00", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+10:00"],
    ),
]
RAW = [
    b"",
    b"{",
    b"[]",
    b"7",
    b"null",
    frame() + b"x",
    b"\xef\xbb\xbf" + frame(),
    frame().replace(b"100.49", b"100\xff"),
    frame().replace(b'"sequence": 1', b'"sequence": NaN'),
    frame().replace(b'"sequence": 1', b'"sequence": 1e999'),
    frame().replace(b'"sequence": 1', b'"sequence": 01'),
    frame().replace(b'"sequence": 1', b'"price": "100.5"'),
    frame().replace(b'"sequence": 1', b'"x": {"a": 1, "a": 1}'),
    frame().replace(b'"sequence": 1', b'"x": [{"a": 1}, {"a": 1}]'),
    frame().replace(b'"sequence": 1', rb'"pr\u0069ce": "100.5"'),
    frame().replace(b'"sequence": 1', rb'"x": "\ud800"'),
    frame().replace(b'"sequence": 1', rb'"x": "\ud83d\ude00"'),
    frame().replace(b'"sequence": 1', b'"x": "\t"'),
    frame().replace(b'"trade_id": 7', b'"trade_id": 7.0'),
    frame().replace(b'"trade_id": 7', b'"trade_id": 7e0'),
    frame().replace(b'"trade_id": 7', b'"trade_id": -0'),
    b" \n" + frame() + b"\r\n",
]


def verdict(message: bytes) -> golden.Trade | None:
    try:
        return golden.trade_in(message, NOW)
    except golden.InvalidError:
        return None


def pipelines_verdict(message: bytes) -> golden.Trade | None:
    try:
        found = trade.decode(message, "BTC-USD", NOW)
    except trade.InvalidTradeError:
        return None
    return golden.Trade(
        found.trade_id,
        Decimal(found.price),
        None if found.best_bid is None else Decimal(found.best_bid),
        None if found.best_ask is None else Decimal(found.best_ask),
        found.side,
        (found.time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1),
        Decimal(found.last_size),
    )


@pytest.mark.parametrize(
    "message", [frame(**{field: value}) for field, values in CHANGES for value in values] + RAW
)
def test_pipeline_and_golden_agree_on_what_a_valid_trade_is(message):
    assert verdict(message) == pipelines_verdict(message)


DIGITS = st.text("0123456789", max_size=12)


@settings(max_examples=300)
@given(whole=DIGITS, places=DIGITS, exponent=st.none() | st.integers(-20, 20))
def test_pipeline_and_golden_agree_on_what_a_number_is(whole, places, exponent):
    text = whole + (f".{places}" if places else "") + ("" if exponent is None else f"e{exponent}")
    message = frame(price=text)
    assert verdict(message) == pipelines_verdict(message)


@settings(max_examples=300)
@given(st.binary(max_size=3), st.integers(0, len(frame()) - 1), st.integers(0, 3))
def test_pipeline_and_golden_agree_on_damaged_messages(noise, position, cut):
    message = frame()[:position] + noise + frame()[position + cut :]
    assert verdict(message) == pipelines_verdict(message)


# --- the verifier ---------------------------------------------------------------------------

RECORDING = [
    *(
        frame(
            trade_id=100 + n,
            time=f"2025-06-30T23:{minute}:0{n % 7}.5Z",
            price=f"{90000 + n}.5",
            side="sell" if n % 3 else "buy",
            best_bid=None if n == 4 else "1.5",
        )
        for n, minute in enumerate([58, 58, 58, 59, 59, 59, 59])
    ),
    b"garbage",
    frame(trade_id=100, time="2025-06-30T23:58:00.5Z", price="1"),
    frame(trade_id=200, time="2025-07-01T00:00:10Z", price="90100"),
    frame(trade_id=201, time="2025-07-01T00:01:10Z", price="90200"),
    frame(trade_id=202, time="2025-07-01T00:01:10Z", price="90201"),
]
LATER = datetime(2025, 8, 1, tzinfo=UTC)
TABLES = """
CREATE TABLE btc_prices (trade_id INTEGER PRIMARY KEY, price REAL, best_bid REAL, best_ask REAL,
    side TEXT, time TEXT, last_size REAL);
CREATE TABLE gaps (first_trade_id INTEGER, last_trade_id INTEGER, filled_at TEXT);
"""


@pytest.fixture
def recording_path(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\n".join(RECORDING) + b"\n")
    return path


def rows_of(found: golden.Golden) -> list[dict[str, object]]:
    """Return the rows of the windows, as the output files have them."""
    return [
        {
            "window_start": golden.iso(start),
            "window_end": golden.iso(start + golden.MINUTE),
            **window,
            "last_trade_time": golden.iso(int(str(window["last_trade_time"]))),
        }
        for start, window in found.windows.items()
    ]


@pytest.fixture
def right(recording_path, tmp_path):
    """A data directory with the right results, written by hand."""
    found = golden.compute(recording_path, LATER)
    data = tmp_path / "data"
    (data / "stream_csv").mkdir(parents=True)
    (data / "batch_output").mkdir()
    rows = rows_of(found)
    write_csv(data / "stream_csv" / "2025-06-30.csv", rows[:2])
    write_csv(data / "stream_live.csv", rows[2:])
    write_csv(data / "batch_windows.csv", rows)
    total = {
        **found.total,
        "rows": 10,
        "first_trade_time": golden.iso(int(str(found.total["first_trade_time"]))),
        "last_trade_time": golden.iso(int(str(found.total["last_trade_time"]))),
    }
    write_csv(data / "batch_output" / "20250701T000200Z.csv", [total])
    write_csv(data / "batch_output" / "20250701T000100Z.csv", [total | {"rows": 3}])
    with sqlite3.connect(data / "crypto_prices.db") as connection:
        connection.executescript(TABLES)
        for t in found.trades.values():
            bid, ask = (None if x is None else float(x) for x in (t.best_bid, t.best_ask))
            row = (float(t.price), bid, ask, t.side, golden.iso(t.time), float(t.size))
            connection.execute(
                "INSERT INTO btc_prices VALUES (?, ?, ?, ?, ?, ?, ?)", (t.trade_id, *row)
            )
    connection.close()
    (data / "source.json").write_text(json.dumps(recording.identity(recording_path, None)))
    statuses(data)
    return data


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def test_each_message_is_counted_once_and_the_first_valid_one_of_an_id_is_its_trade(recording_path):
    found = golden.compute(recording_path, LATER)
    assert (found.valid, found.repeated, found.other) == (10, 1, 1)
    assert found.trades[100].price == Decimal("90000.5")
    starts = [golden.iso(start)[11:16] for start in found.windows]
    assert starts == ["23:58", "23:59", "00:00", "00:01"]
    assert [golden.iso(start)[11:16] for start in golden.final_windows(found)] == starts[:2]


def test_the_right_outputs_pass(recording_path, right, capsys):
    assert golden.verify(recording_path, right, LATER) == []
    with pytest.raises(SystemExit) as end:
        main([str(recording_path), str(right)])
    assert end.value.code == 0
    assert "no differences" in capsys.readouterr().out


SQL = {
    "DELETE FROM btc_prices WHERE trade_id = 103": "trade_id 103: missing",
    "UPDATE btc_prices SET trade_id = 999 WHERE trade_id = 103": "999: not in the recording",
    "UPDATE btc_prices SET price = price + 1e-9 WHERE trade_id = 103": "103: price is",
    "UPDATE btc_prices SET best_bid = 1.5 WHERE trade_id = 104": "104: best_bid is 1.5, not None",
    "UPDATE btc_prices SET side = 'sell' WHERE trade_id = 103": "103: side is",
    "UPDATE btc_prices SET time = '2025-06-30T23:59:03.6Z' WHERE trade_id = 103": "103: time is",
    "UPDATE btc_prices SET last_size = 1 WHERE trade_id = 103": "103: last_size is",
}


@pytest.mark.parametrize(("statement", "problem"), SQL.items())
def test_a_wrong_row_is_found(recording_path, right, statement, problem):
    with sqlite3.connect(right / "crypto_prices.db") as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()
    problems = golden.verify(recording_path, right, LATER)
    assert problem in "\n".join(problems)
    assert len(problems) <= 2


def test_a_recovered_trade_that_was_read_with_its_neighbours_may_lack_its_quotes(
    recording_path, right, capsys
):
    """The consumer sorts the ids of a poll, so it records no gap."""
    with closing(sqlite3.connect(right / "crypto_prices.db")) as connection, connection:
        assert connection.execute("SELECT count(*) FROM gaps").fetchone() == (0,)
        connection.execute(
            "UPDATE btc_prices SET best_bid = NULL, best_ask = NULL WHERE trade_id = 103"
        )
    assert golden.verify(recording_path, right, LATER) == []
    with pytest.raises(SystemExit) as end:
        main([str(recording_path), str(right)])
    assert end.value.code == 0
    assert (
        "Stored trades without bid and ask: 1 (recovered trades have none)."
        in capsys.readouterr().out
    )


def test_a_trade_with_only_one_quote_is_a_difference(recording_path, right):
    with closing(sqlite3.connect(right / "crypto_prices.db")) as connection, connection:
        connection.execute("UPDATE btc_prices SET best_bid = NULL WHERE trade_id = 103")
    (problem,) = golden.verify(recording_path, right, LATER)
    assert "103: best_bid is None" in problem


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "change_", "problem"),
    [
        (
            "stream_csv/2025-06-30.csv",
            (",90001.5,", ",90001.500001,"),
            "avg_price is '90001.500001'",
        ),
        ("stream_csv/2025-06-30.csv", (",Normal,", ",High,"), "volatility_flag is 'High'"),
        ("stream_csv/2025-06-30.csv", (",3,", ",4,"), "trade_count is '4', not 3"),
        ("stream_csv/2025-06-30.csv", (",Bearish,", ",,"), "market_sentiment is ''"),
        ("stream_csv/2025-06-30.csv", ("23:59:00Z", "23:59:30Z"), "window_end is"),
        ("stream_csv/2025-06-30.csv", (",90001.5,", ",nan,"), "avg_price is 'nan'"),
        ("stream_csv/2025-06-30.csv", (",90001.5,", ",,"), "avg_price is ''"),
        ("stream_csv/2025-06-30.csv", ("2025-06-30T23:58:00Z", "2025-06-30T23:57:00Z"), "no such"),
        ("stream_live.csv", ("2025-07-01T00:00:10Z", "2025-07-01T00:00:11Z"), "last_trade_time is"),
        ("batch_windows.csv", (",0.5,", ",0.6,"), "total_volume is '0.6'"),
        ("batch_output/20250701T000200Z.csv", ("Z,10\n", "Z,11\n"), "rows is '11', not 10"),
        ("batch_output/20250701T000200Z.csv", (",5,10,", ",5.1,10,"), "total_volume is '5.1'"),
    ],
)
def test_a_wrong_cell_is_found(recording_path, right, name, change_, problem):
    change(right / name, *change_)
    problems = golden.verify(recording_path, right, LATER)
    assert problem in "\n".join(problems)


def test_a_difference_within_the_tolerance_is_accepted(recording_path, right):
    change(right / "batch_windows.csv", ",90001.5,", ",90001.5000000009,")
    change(right / "batch_windows.csv", ",1.5,", ",1500000000.9e-9,")
    assert golden.verify(recording_path, right, LATER) == []


def test_a_window_in_two_rows_or_in_the_wrong_order_is_found(recording_path, right):
    file, live = right / "stream_csv" / "2025-06-30.csv", right / "stream_live.csv"
    lines, open_lines = file.read_text().splitlines(), live.read_text().splitlines()
    cases = {
        "also in 2025-06-30.csv": ([*lines, lines[-1]], open_lines),
        "is final, and belongs in stream_csv": (lines[:-1], [*open_lines, lines[-1]]),
        "00:01:00Z: missing": (lines, open_lines[:-1]),
        "cannot be final": ([*lines, open_lines[1]], [open_lines[0], open_lines[2]]),
        "in the wrong file or order": ([lines[0], lines[2], lines[1]], open_lines),
    }
    for problem, (final_text, live_text) in cases.items():
        file.write_text("\n".join(final_text) + "\n")
        live.write_text("\n".join(live_text) + "\n")
        assert problem in "\n".join(golden.verify(recording_path, right, LATER))


def test_missing_outputs_are_found_and_the_list_is_short(tmp_path):
    path = tmp_path / "r"
    path.write_bytes(
        b"\n".join(
            frame(trade_id=n + 1, time=f"2025-06-30T{n // 60:02}:{n % 60:02}:00Z")
            for n in range(300)
        )
    )
    problems = golden.verify(path, tmp_path / "none", LATER)
    assert "crypto_prices.db: missing" in problems
    assert "batch_windows.csv: missing" in problems
    assert "batch_output: no file" in problems
    assert "... and 281 more like these" in problems
    assert len(problems) < 30


# --- z-scores -------------------------------------------------------------------------------


def test_a_z_score_equals_the_one_worked_out_by_hand():
    """Of 1 to 10 the mean is 5.5 and the sample variance 55 / 6."""
    values = [Decimal(n) for n in range(1, 11)]
    assert f"{golden.z_score(Decimal(11), values):.10f}" == "1.8165902125"
    assert golden.z_score(Decimal(11), values[1:]) is None
    assert golden.z_score(Decimal(11), values[:1] * 10) is None


@pytest.fixture
def scored(tmp_path):
    """Fifteen windows of one trade each, as the batch writes them, with their z-scores."""
    path = tmp_path / "long.jsonl"
    sizes = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]
    path.write_bytes(
        b"\n".join(
            frame(trade_id=100 + n, time=f"2025-06-30T23:{10 + n}:00Z", last_size=f"{size}")
            for n, size in enumerate(sizes)
        )
    )
    found = golden.compute(path, LATER)
    rows = []
    for number, (start, window) in enumerate(found.windows.items()):
        before = sizes[:number]
        z: object = ""
        if number >= 10:
            z = round((sizes[number] - statistics.mean(before)) / statistics.stdev(before), 6)
        times: dict[str, object] = {
            "window_start": golden.iso(start),
            "window_end": golden.iso(start + golden.MINUTE),
            "last_trade_time": golden.iso(int(str(window["last_trade_time"]))),
        }
        rows.append({**window, **times, "range_z": "", "volume_z": z})  # ranges are all 0
    file = tmp_path / "batch_windows.csv"
    write_csv(file, rows)
    return found, file, rows


def test_right_scores_pass(scored):
    found, file, _ = scored
    assert list(golden.check_batch_windows(found, file)) == []


@pytest.mark.parametrize(
    ("number", "column", "cell"),
    [
        (12, "volume_z", ""),
        (12, "volume_z", "nan"),
        (12, "range_z", "0"),
        (9, "volume_z", "0.1"),
    ],
)
def test_a_wrong_score_is_found(scored, number, column, cell):
    found, file, rows = scored
    rows[number][column] = cell
    write_csv(file, rows)
    (problem,) = golden.check_batch_windows(found, file)
    assert f"{10 + number}:00Z: {column} is '{cell}', not " in problem


def test_a_z_score_off_by_a_millionth_is_found(scored):
    found, file, rows = scored
    rows[11]["volume_z"] = round(rows[11]["volume_z"] + 1e-6, 6)
    write_csv(file, rows)
    assert len(list(golden.check_batch_windows(found, file))) == 1


def test_a_window_that_lacks_a_trade_is_reported_without_the_scores_of_later_windows(scored):
    """The later scores are right for the windows of that path."""
    found, file, rows = scored
    rows[12]["total_volume"] = 8
    sizes = [row["total_volume"] for row in rows]
    for number in (12, 13, 14):
        before = [float(size) for size in sizes[:number]]
        z = (float(sizes[number]) - statistics.mean(before)) / statistics.stdev(before)
        rows[number]["volume_z"] = round(z, 6)
    write_csv(file, rows)
    (problem,) = golden.check_batch_windows(found, file)
    assert "total_volume is '8'" in problem


# --- any run of a replay ----------------------------------------------------------------------

DEFAULTS = {
    "product_id": "BTC-USD",
    "window": "PT1M",
    "watermark": "PT1M",
    "volatility_range": "50",
    "sentiment_ratio": "1.2",
    "spike_volume": "100",
}


def statuses(data: Path, starts: int = 1, **settings: str) -> None:
    """Write the status files of a run with these settings and the default ones."""
    (data / "status").mkdir(exist_ok=True)
    for service in ("consumer", "spark_processor", "batch_scheduler"):
        status = {"starts": starts, "settings": DEFAULTS | settings}
        (data / "status" / f"{service}.json").write_text(json.dumps(status))


def test_the_settings_of_the_run_are_used(recording_path, right, capsys):
    """Other thresholds and another window change the expected results."""
    statuses(right, window="PT1M", watermark="PT1M", volatility_range="50", spike_volume="100")
    assert golden_run.verify(recording_path, right, LATER).problems == []
    statuses(right, volatility_range="1.5", sentiment_ratio="99")
    problems = "\n".join(golden_run.verify(recording_path, right, LATER).problems)
    assert "volatility_flag is 'Normal', not High" in problems
    assert "market_sentiment is 'Bearish', not Neutral" in problems
    statuses(right, window="PT2M")
    problems = "\n".join(golden_run.verify(recording_path, right, LATER).problems)
    assert "no such window in the recording" in problems
    assert "window_end is '2025-06-30T23:59:00Z'" in problems
    assert run_settings.periods_of_stream(right)[-1].rules.window == 2 * golden.MINUTE


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"kind": "live", "url": "wss://x"}, "holds the live feed wss://x, not a recording"),
        (
            {"kind": "replay", "recording": "q.gz", "fingerprint": "ab", "retimed": False},
            "holds a replay of q.gz with other content than r.jsonl",
        ),
    ],
)
def test_a_directory_of_another_feed_is_refused_with_the_reason(
    recording_path, right, capsys, source, reason
):
    (right / "source.json").write_text(json.dumps(source))
    with pytest.raises(SystemExit) as end:
        main([str(recording_path), str(right)])
    assert end.value.code == 2
    assert reason in capsys.readouterr().err


def test_services_with_different_settings_are_refused(recording_path, right):
    statuses(right, window="PT1M")
    path = right / "status" / "batch_scheduler.json"
    path.write_text(json.dumps({"starts": 1, "settings": DEFAULTS | {"window": "PT2M"}}))
    with pytest.raises(RefusedError, match="WINDOW differs between the stream and the"):
        golden_run.verify(recording_path, right, LATER)


def record(data: Path, service: str, *periods: tuple[str, str]) -> None:
    """Write the record of the thresholds: since when, and the threshold of the price range."""
    lines = [f"{since},{limit},1.2,100\n" for since, limit in periods]
    text = "".join(["since,volatility_range,sentiment_ratio,spike_volume\n", *lines])
    (data / "status" / f"{service}_thresholds.csv").write_text(text)


@pytest.fixture
def restarted(recording_path, right):
    """A run whose price range threshold changed from 50 to 1.5 at 12:00.

    The price range is 2 in the window of 23:58, and 3 in the window of 23:59. The first window
    became final before the restart, the second one after it.
    """
    rows = rows_of(golden.compute(recording_path, LATER))
    for row, received, written in zip(
        rows,
        ("11:57:59", "12:01:00", "12:02:00", "12:03:00"),
        ("11:59:59", "12:02:00", "12:02:01", "12:03:01"),
        strict=True,
    ):
        row["last_receipt_time"] = f"2025-08-01T{received}Z"
        row["written_at"] = f"2025-08-01T{written}Z"
    second = rows[1] | {"volatility_flag": "High"}
    write_csv(right / "stream_csv" / "2025-06-30.csv", [rows[0], second])
    write_csv(right / "stream_live.csv", rows[2:])
    statuses(right, starts=2, volatility_range="1.5")
    record(
        right, "spark_processor", ("1970-01-01T00:00:00Z", "50"), ("2025-08-01T12:00:00Z", "1.5")
    )
    # The newest batch run was before the restart.
    for file in (right / "batch_windows.csv", *(right / "batch_output").iterdir()):
        with file.open(newline="") as text:
            old = [row | {"written_at": "2025-08-01T11:59:00Z"} for row in csv.DictReader(text)]
        write_csv(file, old)
    record(right, "batch_processor", ("2025-08-01T11:00:00Z", "50"))
    return right


def test_each_row_is_judged_by_the_thresholds_of_its_period(recording_path, restarted):
    assert golden_run.verify(recording_path, restarted, LATER).problems == []
    change(restarted / "stream_csv" / "2025-06-30.csv", ",High,", ",Normal,")
    change(restarted / "stream_csv" / "2025-06-30.csv", ",Normal,", ",High,")
    problems = golden_run.verify(recording_path, restarted, LATER).problems
    day = "2025-06-30.csv window 2025-06-30T23"
    assert problems == [
        f"{day}:58:00Z: volatility_flag is 'High', not Normal",
        f"{day}:59:00Z: volatility_flag is 'Normal', not High",
    ]


def test_the_batch_is_judged_by_the_thresholds_of_its_newest_run(recording_path, restarted):
    record(
        restarted, "batch_processor", ("2025-08-01T11:00:00Z", "9"), ("2025-08-01T11:30:00Z", "1.5")
    )
    problems = golden_run.verify(recording_path, restarted, LATER).problems
    assert [problem.split(": ")[0] for problem in problems] == [
        "batch_windows.csv window 2025-06-30T23:58:00Z",
        "batch_windows.csv window 2025-06-30T23:59:00Z",
    ]
    record(
        restarted, "batch_processor", ("2025-08-01T11:00:00Z", "1"), ("2025-08-01T11:30:00Z", "999")
    )
    (problem,) = golden_run.verify(recording_path, restarted, LATER).problems
    assert problem == "batch_output/20250701T000200Z.csv: volatility_flag is 'High', not Normal"


def test_a_window_that_was_open_when_its_flags_changed_is_refused(recording_path, restarted):
    """It was computed before or after the restart, but became final after it."""
    file = restarted / "stream_csv" / "2025-06-30.csv"
    change(file, "2025-08-01T12:01:00Z", "2025-08-01T11:59:58Z")
    with pytest.raises(RefusedError, match="of window 2025-06-30T23:59:00Z in"):
        golden_run.verify(recording_path, restarted, LATER)
    # Both thresholds give the same flags.
    record(
        restarted, "spark_processor", ("1970-01-01T00:00:00Z", "50"), ("2025-08-01T12:00:00Z", "40")
    )
    (problem,) = golden_run.verify(recording_path, restarted, LATER).problems
    assert "23:59:00Z: volatility_flag is 'High', not Normal" in problem


def test_a_window_that_another_checkpoint_may_have_computed_again_is_refused(
    recording_path, restarted
):
    """Such a row keeps the time of its first version."""
    starts = restarted / "status" / "stream_starts.csv"
    starts.write_text("topic,read_before,first_offset,checkpoint\nt,0,0,a\n")
    assert golden_run.verify(recording_path, restarted, LATER).problems == []
    starts.write_text(f"{starts.read_text()}t,9,0,b\n")
    with pytest.raises(RefusedError, match="of window 2025-06-30T23:58:00Z in"):
        golden_run.verify(recording_path, restarted, LATER)


def test_a_row_that_is_older_than_the_record_is_refused(recording_path, restarted):
    record(restarted, "spark_processor", ("2025-08-01T12:00:00Z", "1.5"))
    with pytest.raises(RefusedError, match="older than the record of the thresholds"):
        golden_run.verify(recording_path, restarted, LATER)


@pytest.mark.parametrize(
    ("earliest", "latest", "possible"),
    [
        (None, None, [1, 2, 3]),
        (None, 5, []),
        (5, 10, [1]),
        (12, 19, [1]),
        (12, 20, [1, 2]),
        (20, 25, [2]),
        (12, 31, [1, 2, 3]),
        (31, None, [3]),
        (25, None, [2, 3]),
    ],
)
def test_the_rules_between_two_times(earliest, latest, possible):
    periods = [
        Period(since, golden.Rules(window=number))
        for number, since in enumerate((10, 20, 30), start=1)
    ]
    found = run_settings.candidates(periods, earliest, latest)
    assert [rules.window for rules in found] == possible


STATUS_FILES = [f"status/{name}.json" for name in ("consumer", "spark_processor")]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        *(((name, None), f"{name} is missing, so the settings") for name in STATUS_FILES),
        *(((name, '{"settings": '), "is not valid JSON") for name in STATUS_FILES),
        *(((name, "[]"), "does not hold a JSON object") for name in STATUS_FILES),
        *(((name, '{"starts": 1}'), f"{name} has no field `settings`") for name in STATUS_FILES),
        (("status/batch_scheduler.json", None), "status/batch_scheduler.json is missing"),
        (
            (
                "status/spark_processor.json",
                json.dumps({"starts": 1, "settings": DEFAULTS | {"spike_volume": None}}),
            ),
            "SPIKE_VOLUME of the run is unknown: the data directory records None",
        ),
        (
            (
                "status/spark_processor.json",
                json.dumps({"starts": 1, "settings": DEFAULTS | {"window": "soon"}}),
            ),
            "WINDOW of the run is unknown: the data directory records 'soon'",
        ),
        (
            ("status/spark_processor.json", json.dumps({"starts": 2, "settings": DEFAULTS})),
            "status/spark_processor_thresholds.csv is missing",
        ),
        (("status/spark_processor_thresholds.csv", "since\nx,5\n"), "has a damaged line: 'x,5'"),
        (
            (
                "status/spark_processor_thresholds.csv",
                "since,volatility_range,sentiment_ratio,spike_volume\n2025-08-01T12:00:00Z,5\n",
            ),
            "SENTIMENT_RATIO of the run is unknown",
        ),
        (("status/spark_processor_thresholds.csv", "since\n"), "has no row"),
        (("source.json", None), "source.json is missing, so the feed of the run is unknown"),
        (("source.json", "{"), "is not valid JSON"),
        (("source.json", '{"product": "BTC-USD"}'), "source.json does not name a recording"),
        (("source.json", '{"kind": "replay", "retimed": false}'), "does not name a recording"),
    ],
)
def test_a_run_with_unknown_settings_is_refused_with_the_reason(
    recording_path, right, capsys, file, reason
):
    name, content = file
    path = right / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(SystemExit) as end:
        main([str(recording_path), str(right)])
    assert end.value.code == 2
    written = capsys.readouterr()
    assert reason in written.err
    assert str(right) in written.err
    assert written.err.count("\n") == 1
    assert written.out == ""


@pytest.fixture
def retimed(recording_path, tmp_path):
    """A data directory of a re-timed run of three tiles, and the time at which it was stopped."""
    once = [line for line in RECORDING if b'"price": "1"' not in line]
    recording_path.write_bytes(b"\n".join(once) + b"\n")
    lines = list(recording.read(recording_path))
    tiles = retime.tile(lines, int(LATER.timestamp() * retime.SECOND))
    first = tiles.first_after(int(LATER.timestamp() * retime.SECOND)) + 3
    frames = [tiles.frame(position) for position in range(first, first + 3 * tiles.count)]
    stopped = datetime.fromtimestamp(tiles.due(first + 3 * tiles.count) / retime.SECOND, UTC)
    found = golden.compute_frames(frames, stopped)
    data = tmp_path / "retimed"
    (data / "stream_csv").mkdir(parents=True)
    (data / "batch_output").mkdir()
    rows = rows_of(found)
    write_csv(data / "stream_csv" / f"{golden.iso(min(found.windows))[:10]}.csv", rows[:5])
    write_csv(data / "stream_live.csv", [rows[5] | {"trade_count": 0}])
    covered = dict(list(found.trades.items())[:-4])
    batch = golden.Golden(trades=covered)
    golden.aggregate(batch)
    write_csv(
        data / "batch_windows.csv",
        [
            row | batch.windows[start] | {"last_trade_time": golden.iso(last)}
            for row, (start, window) in zip(rows, batch.windows.items(), strict=False)
            for last in [int(str(window["last_trade_time"]))]
        ],
    )
    total = {
        **batch.total,
        "rows": len(covered),
        "last_trade_id": max(covered),
        "first_trade_time": golden.iso(int(str(batch.total["first_trade_time"]))),
        "last_trade_time": golden.iso(int(str(batch.total["last_trade_time"]))),
    }
    write_csv(data / "batch_output" / "20250801T000000Z.csv", [total])
    (data / "source.json").write_text(json.dumps(recording.identity(recording_path, {})))
    statuses(data)
    with sqlite3.connect(data / "crypto_prices.db") as connection:
        connection.executescript(TABLES)
        for t in list(found.trades.values())[:-1]:
            bid, ask = (None if x is None else float(x) for x in (t.best_bid, t.best_ask))
            row = (float(t.price), bid, ask, t.side, golden.iso(t.time), float(t.size))
            connection.execute(
                "INSERT INTO btc_prices VALUES (?, ?, ?, ?, ?, ?, ?)", (t.trade_id, *row)
            )
    connection.close()
    return data, stopped


def test_a_retimed_run_is_compared_as_far_as_each_path_has_read(recording_path, retimed):
    data, stopped = retimed
    assert golden_run.verify(recording_path, data, stopped).problems == []


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("batch_windows.csv", "batch_windows.csv window"),
        ("stream_csv/2025-08-01.csv", "2025-08-01.csv window"),
    ],
)
def test_a_wrong_value_of_a_retimed_run_is_found(recording_path, retimed, file, problem):
    data, stopped = retimed
    path = data / file
    assert ",90006.5," in path.read_text()
    path.write_text(path.read_text().replace(",90006.5,", ",90006.6,"))
    assert problem in "\n".join(golden_run.verify(recording_path, data, stopped).problems)


def test_a_missing_trade_and_a_missing_window_of_a_retimed_run_are_found(recording_path, retimed):
    data, stopped = retimed
    path = next((data / "stream_csv").iterdir())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))
    with sqlite3.connect(data / "crypto_prices.db") as connection:
        [(second,)] = connection.execute("SELECT trade_id FROM btc_prices LIMIT 1 OFFSET 1")
        connection.execute("DELETE FROM btc_prices WHERE trade_id = ?", (second,))
    connection.close()
    problems = golden_run.verify(recording_path, data, stopped).problems
    assert f"btc_prices trade_id {second}: missing" in problems
    missing = lines[2].split(",")[0]
    assert f"stream window {missing}: missing" in problems


@pytest.mark.parametrize(
    ("folder", "missing"), [("stream_csv", "final window"), ("batch_output", "batch run")]
)
def test_a_retimed_run_without_a_result_of_one_path_is_refused(
    recording_path, retimed, folder, missing
):
    data, stopped = retimed
    for file in (data / folder).iterdir():
        file.unlink()
    with pytest.raises(RefusedError, match=f"There is no {missing} to compare yet"):
        golden_run.verify(recording_path, data, stopped)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "last_trade_id\n1,\nx\n", "\xff"])
def test_a_damaged_batch_run_of_a_retimed_run_is_refused(recording_path, retimed, content):
    data, stopped = retimed
    (file,) = (data / "batch_output").iterdir()
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(RefusedError, match=f"The newest batch run is damaged: {file.name}"):
        golden_run.verify(recording_path, data, stopped)


def test_a_window_of_a_retimed_run_that_is_final_and_open_is_found(recording_path, retimed):
    data, stopped = retimed
    (file,) = (data / "stream_csv").iterdir()
    lines = file.read_text().splitlines(keepends=True)
    (data / "stream_live.csv").write_text(lines[0] + lines[3])
    start = lines[3].split(",")[0]
    (problem,) = golden_run.verify(recording_path, data, stopped).problems
    assert problem == f"stream_live.csv window {start}: is final, and belongs in stream_csv"
