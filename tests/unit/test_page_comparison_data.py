"""What the page keeps of a comparison: everything it shows, in a bounded size."""

import pickle
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from page import comparison_data
from pipeline import times
from pipeline.compare.comparison import compare
from pipeline.compare.inputs import read_outputs
from pipeline.compare.sections import sections
from pipeline.compare.summary import findings
from pipeline.data_dir import DataDir
from pipeline.settings import Settings
from pipeline.source import claim
from pipeline.stores import sqlite
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def data(tmp_path) -> DataDir:
    return DataDir(tmp_path / "data")


def loaded(data: DataDir, last: timedelta | None = None) -> comparison_data.ComparisonData:
    found = comparison_data.load(data, sqlite.SqliteStore(data.database), last, 60)
    assert isinstance(found, comparison_data.ComparisonData), found
    return found


def test_the_data_are_those_of_the_comparison(data) -> None:
    page_data.disputed(data, NOW)
    comparison = compare(read_outputs(data, sqlite.SqliteStore(data.database)), 60)
    found = loaded(data)
    assert found.findings == findings(comparison)
    assert found.sections == sections(comparison)
    assert len(found.figures.agreement.cells) == len(comparison.agreement)
    assert found.shared.windows == comparison.shared.windows
    assert comparison.unexplained == 2


def test_a_span_limits_the_windows(data) -> None:
    page_data.sample(data, NOW)
    assert len(loaded(data, timedelta(hours=1)).figures.agreement.cells) == 60
    assert len(loaded(data).figures.agreement.cells) == 182


def test_the_data_of_20000_windows_are_small(data) -> None:
    page_data.full(data, NOW, page_data.LIVE, minutes=20_000)
    found = loaded(data)
    assert len(found.figures.agreement.cells) <= 60 * 32
    assert len(pickle.dumps(found)) < 300_000


@pytest.mark.parametrize("scenario", ["empty", "starting", "ended", "stale", "down"])
def test_every_state_of_a_folder_can_be_compared(data, scenario) -> None:
    page_data.SCENARIOS[scenario](data, NOW)
    loaded(data)


def test_an_unreadable_file_gives_a_sentence(data) -> None:
    page_data.foreign(data, NOW)
    found = comparison_data.load(data, sqlite.SqliteStore(data.database), None, 60)
    assert isinstance(found, str)
    assert ".csv" in found


def test_a_locked_or_foreign_database_gives_a_sentence(data, monkeypatch) -> None:
    """The lock is real: another connection holds it."""
    page_data.disputed(data, NOW)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(data.database, isolation_level=None)) as keeper:
        keeper.execute("PRAGMA locking_mode = EXCLUSIVE")
        keeper.execute("BEGIN IMMEDIATE")
        said = comparison_data.load(data, sqlite.SqliteStore(data.database), None, 60)
    assert said == (
        "Cannot read crypto_prices.db: another program has locked it. Stop that program. The file: "
        f"{data.database}"
    )
    data.database.write_bytes(b"not a database, but long enough to look like one" * 30)
    assert comparison_data.load(data, sqlite.SqliteStore(data.database), None, 60) == (
        "Cannot read crypto_prices.db: file is not a database. Restore a backup, or move the file "
        f"away: the consumer fills a new one from Kafka. The file: {data.database}"
    )


def test_the_time_of_a_comparison_is_when_the_files_were_read(data, monkeypatch) -> None:
    page_data.sample(data, NOW)
    monkeypatch.setattr(times, "now", lambda: NOW)
    assert loaded(data).made_at == NOW


def test_a_folder_of_another_product_is_not_compared(data: DataDir) -> None:
    claim(data, Settings(product_id="ETH-USD"))
    assert comparison_data.refusal(data, Settings()) is None  # the viewer named no product
    said = comparison_data.refusal(data, Settings(product_id="BTC-USD"))
    assert said
    assert said.startswith(
        "PRODUCT_ID is BTC-USD, but the data directory holds the product ETH-USD"
    )
