"""Alerts: each path publishes each one once, also after a restart or with a cut-off file."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import alerts, text_files
from pipeline.alerts import COLUMNS, AlertLog
from pipeline.settings import Settings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def window(number: int, price_range: str = "1", volume: str = "1") -> dict[str, object]:
    return {
        "window_start": NOON + number * MINUTE,
        "price_range": Decimal(price_range),
        "volatility_flag": "High" if Decimal(price_range) > 50 else "Normal",
        "total_volume": Decimal(volume),
        "volume_spike": "Spike" if Decimal(volume) > 100 else "Normal",
    }


def path_of(folder: Path) -> Path:
    return folder / "alerts_stream.csv"


def publish(
    folder: Path, *windows: dict[str, object], shown: list[str] | None = None
) -> list[tuple[str, str]]:
    """Publish by a new process; return the alerts as (minute, kind)."""
    log = AlertLog(path_of(folder), Settings(), ([] if shown is None else shown).append)
    new = log.publish(windows, NOON + 90 * timedelta(seconds=1), NOON + 2 * MINUTE)
    return [(alert["window_start"][11:16], alert["kind"]) for alert in new]


def stored(folder: Path) -> list[tuple[str, str]]:
    return [(alert["window_start"][11:16], alert["kind"]) for alert in alerts.read(path_of(folder))]


def test_an_alert_has_the_value_and_the_threshold_and_a_line_in_the_log(tmp_path: Path) -> None:
    shown: list[str] = []
    publish(tmp_path, window(0, "61.23"), window(1, "50", "100.5"), shown=shown)
    assert path_of(tmp_path).read_text() == (
        "window_start,kind,value,threshold,newest_trade,raised_at\n"
        "2026-03-01T12:00:00Z,High,61.23,50,2026-03-01T12:01:30Z,2026-03-01T12:02:00Z\n"
        "2026-03-01T12:01:00Z,Spike,100.5,100,2026-03-01T12:01:30Z,2026-03-01T12:02:00Z\n"
    )
    assert shown == [
        "ALERT High, window 2026-03-01 12:00:00 UTC: price range 61.23 USD, threshold 50 USD",
        "ALERT Spike, window 2026-03-01 12:01:00 UTC: volume 100.5 BTC, threshold 100 BTC",
    ]


def test_each_alert_is_published_once_also_by_another_process(tmp_path: Path) -> None:
    assert publish(tmp_path, window(0, "60")) == [("12:00", "High")]
    assert publish(tmp_path, window(0, "61", "200"), window(1, "60")) == [
        ("12:00", "Spike"),
        ("12:01", "High"),
    ]
    assert publish(tmp_path, window(0, "61", "200"), window(1, "70")) == []
    assert len(stored(tmp_path)) == len(set(stored(tmp_path))) == 3


def test_a_file_that_was_cut_off_at_any_byte_loses_no_alert_and_repeats_none(
    tmp_path: Path,
) -> None:
    windows = [window(0, "60"), window(1, "60", "200")]
    publish(tmp_path, *windows)
    whole = path_of(tmp_path).read_bytes()
    for size in range(len(whole) + 1):
        path_of(tmp_path).write_bytes(whole[:size])
        before = stored(tmp_path)
        new = publish(tmp_path, *windows)
        assert len(before) + len(new) == 3
        assert path_of(tmp_path).read_bytes() == whole


@pytest.mark.parametrize(
    "header",
    [b"", b"\n", b"window_start,kind\n", b"window_st\x00rt,\xff,value\n", b"\x00" * 58 + b"\n"],
    ids=["none", "empty", "cut off", "other bytes", "zeros"],
)
def test_a_damaged_header_loses_no_alert_and_repeats_none(tmp_path: Path, header: bytes) -> None:
    windows = [window(0, "60"), window(1, "60", "200")]
    publish(tmp_path, *windows, window(2, "60"))
    whole = path_of(tmp_path).read_bytes()
    path_of(tmp_path).unlink()
    publish(tmp_path, *windows)
    good = path_of(tmp_path).read_bytes().partition(b"\n")[2]
    path_of(tmp_path).write_bytes(header + good)
    assert len(stored(tmp_path)) == 3
    assert publish(tmp_path, *windows) == []
    assert publish(tmp_path, *windows, window(2, "60")) == [("12:02", "High")]
    assert path_of(tmp_path).read_bytes() == whole
    assert publish(tmp_path, *windows, window(2, "60")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["alerts_stream.csv"]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(40, 60)), max_size=12), st.integers(0, 12))
def test_no_alert_is_false_and_none_is_missing(made: list[tuple[int, int]], restart: int) -> None:
    """A range only grows, so each window that was High is High in the end."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[alerts.Alert] = []
        patch.setattr(alerts, "append", lambda _, new: lines.extend(new))
        patch.setattr(alerts, "read", lambda _: list(lines))
        ranges: dict[int, int] = {}
        log = AlertLog(Path("unused"), Settings(), lambda _: None)
        for place, (number, size) in enumerate(made):
            if place == restart:
                log = AlertLog(Path("unused"), Settings(), lambda _: None)
            ranges[number] = max(size, ranges.get(number, 0))
            log.publish([window(number, str(ranges[number]))], None, NOON)
    raised = sorted(alert["window_start"] for alert in lines)
    high = [NOON + number * MINUTE for number, size in sorted(ranges.items()) if size > 50]
    assert raised == [f"{start:%Y-%m-%dT%H:%M:%SZ}" for start in high]


def test_a_window_before_the_horizon_raises_no_alert(tmp_path: Path) -> None:
    last = alerts.HORIZON_WINDOWS
    assert len(publish(tmp_path, *(window(n, "60") for n in range(last + 1)))) == last
    assert publish(tmp_path, window(0, "60"), window(-500, "60")) == []
    # A path that reads a topic from its beginning raises them in order.
    assert publish(tmp_path / "other", window(-500, "60")) == [("03:40", "High")]
    assert len(publish(tmp_path / "other", window(0, "60"))) == 1


def test_the_log_names_the_newest_alerts_of_an_update_with_many(tmp_path: Path) -> None:
    shown: list[str] = []
    publish(tmp_path, *(window(n, "60") for n in range(30)), shown=shown)
    assert shown[0] == "ALERT (earlier alerts omitted: 25, see alerts_stream.csv)"
    assert len(shown) == 1 + alerts.LOGGED
    assert "12:29:00" in shown[-1]


def test_a_file_of_bounded_size_keeps_the_newest_alerts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "FILE_BYTES", 3_000)
    monkeypatch.setattr(alerts, "HORIZON_WINDOWS", 10)
    for number in range(100):
        publish(tmp_path, window(number, "60"), window(number - 1, "60"))
    assert path_of(tmp_path).stat().st_size < 3_500
    found = [alert["window_start"] for alert in alerts.read(path_of(tmp_path))]
    assert found == sorted(set(found))
    assert len(found) > 20


def test_malformed_lines_are_left_out(tmp_path: Path) -> None:
    publish(tmp_path, window(0, "60"))
    with path_of(tmp_path).open("ab") as file:
        file.write(b"\x00" * 40 + b"\nnot an alert\n")
        for line in (
            "2026-02-30T12:00:00Z,High,60,50,,2026-03-01T12:00:05Z",
            "2026-03-01T12:00:00Z,High,6.0.1,50,,2026-03-01T12:00:05Z",
            "2026-03-01T12:00:00Z,High,60,50,,2026-03-01T25:00:05Z",
        ):
            file.write(f"{line}\n".encode())
    assert stored(tmp_path) == [("12:00", "High")]
    assert publish(tmp_path, window(1, "60")) == [("12:01", "High")]
    assert stored(tmp_path) == [("12:00", "High"), ("12:01", "High")]


def test_an_alert_that_cannot_be_written_is_published_later(tmp_path: Path) -> None:
    log = AlertLog(path_of(tmp_path), Settings(), lambda _: None)
    path_of(tmp_path).mkdir()
    with pytest.raises(IsADirectoryError):
        log.publish([window(0, "60")], None, NOON)
    path_of(tmp_path).rmdir()
    assert len(log.publish([window(0, "60")], None, NOON)) == 1
    assert log.publish([window(0, "60")], None, NOON) == []


def test_a_window_of_a_file_has_the_same_alerts_as_a_computed_one() -> None:
    made = window(0, "61.230", "100.00000001")
    cells = text_files.cells(tuple(made), made)
    assert alerts.alerts_in(cells, Settings()) == alerts.alerts_in(made, Settings())
    assert COLUMNS[:4] == tuple(alerts.alerts_in(made, Settings())[0])
