"""The record of thresholds: one row for each period, and what is left of it after damage."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from pipeline import thresholds
from pipeline.settings import Settings
from pipeline.thresholds import Thresholds

WINDOW = {"price_range": "50.5", "buy_count": "12", "sell_count": "10", "total_volume": "99.9"}
DEFAULT = Thresholds(Decimal(50), Decimal("1.2"), Decimal(100))


def test_only_a_change_adds_a_row(tmp_path: Path) -> None:
    path = tmp_path / "status" / "stream_thresholds.csv"
    for limit in (50, 50, 60, 60, 50):
        thresholds.record(path, Settings(volatility_range=Decimal(limit)))
    found = [period.thresholds.volatility_range for period in thresholds.read(path)]
    assert found == [50, 60, 50]


def test_the_settings_of_the_last_start_begin_the_record_of_an_older_folder(
    tmp_path: Path,
) -> None:
    path = tmp_path / "stream_thresholds.csv"
    before = Settings(volatility_range=Decimal(7)).model_dump(mode="json")
    thresholds.record(path, Settings(), before)
    thresholds.record(path, Settings(), before)
    first, second = thresholds.read(path)
    assert first.since == datetime(1970, 1, 1, tzinfo=UTC)
    assert (first.thresholds.volatility_range, second.thresholds) == (Decimal(7), DEFAULT)


def test_damaged_lines_and_settings_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "stream_thresholds.csv"
    assert thresholds.read(path) == []
    thresholds.record(path, Settings(), {"volatility_range": "x"})
    with path.open("ab") as file:
        file.write(b"2025-12-02T05:00:00Z,1\n\0\xff\nnoon,1,2,3\n2025-12-02T05:0")
    assert [period.thresholds for period in thresholds.read(path)] == [DEFAULT]


def test_the_flags_of_a_window_follow_from_its_thresholds() -> None:
    assert DEFAULT.flags(WINDOW) == {
        "volatility_flag": "High",
        "market_sentiment": "Neutral",  # 12 = 1.2 * 10, exactly
        "volume_spike": "Normal",
    }
    other = Thresholds(Decimal("50.5"), Decimal("1.19"), Decimal("99.8"))
    assert list(other.flags(WINDOW).values()) == ["Normal", "Bullish", "Spike"]
