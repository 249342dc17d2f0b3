"""An incremental run continues from kept sums only if they cover rows of this database.

The sums after any sequence of runs equal the sums over all rows.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import times
from pipeline.batch import full, incremental, kept_sums, pushdown, snapshot
from pipeline.batch.incremental import difference
from pipeline.batch.jdbc import Added
from pipeline.batch.kept_sums import KeptSums, UnusableError
from pipeline.batch.snapshot import Ranges, Snapshot
from pipeline.data_dir import DataDir
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.metrics import unit_sums
from pipeline.metrics.unit_sums import UnitSums
from pipeline.settings import Settings
from pipeline.stores import common_queries, sqlite
from pipeline.stores.sqlite import SqliteStore
from tests.unit.test_unit_sums import expected, trade

NOW = datetime(2025, 12, 2, 5, tzinfo=UTC)
WINDOW = timedelta(minutes=1)
MINUTE_US = 60_000_000
id_sets = st.sets(st.integers(1, 60))


def ranges_of(ids: set[int]) -> Ranges:
    return list(store.id_ranges(sorted(ids)))


def ids_in(ranges: Ranges) -> list[int]:
    return [number for first, last in ranges for number in range(first, last + 1)]


# --- ranges -----------------------------------------------------------------------------------


@given(id_sets, id_sets)
@example({2**63 - 1}, set())
@example(set(range(1, 2000)), {1000})
def test_the_difference_has_the_ids_that_only_the_first_ranges_have(
    ids: set[int], others: set[int]
) -> None:
    found = difference(ranges_of(ids), ranges_of(others))
    assert ids_in(found) == sorted(ids - others)


def test_the_difference_of_many_ranges_takes_linear_time() -> None:
    """A quadratic algorithm would need minutes."""
    many = [(10 * number, 10 * number + 7) for number in range(1, 100_000)]
    others = [(10 * number + 3, 10 * number + 4) for number in range(1, 100_000)]
    assert len(difference(many, others)) == 2 * len(many)
    assert difference([(1, 10**9)], many)[0] == (1, 9)


# --- sums after any sequence of runs ----------------------------------------------------------


def windows_of(ids: Iterable[int]) -> dict[int, UnitSums]:
    """Return the sums over the trades of these ids. Ids and times have different orders."""
    trades = [
        Trade(
            trade_id=number,
            price=f"{90_000 + number % 7}.01",
            best_bid=None,
            best_ask=None,
            side="buy" if number % 3 else "sell",
            time=NOW + timedelta(seconds=number * 37 % 240),
            last_size=f"0.{number:08}",
        )
        for number in ids
    ]
    return unit_sums.by_window((expected([one]) for one in trades), MINUTE_US)


def sums_without_spark(*arguments: Any) -> Added:
    """Return the sums over the trades of the ranges that are the last argument."""
    return Added(windows_of(ids_in(arguments[-1])), None, "test")


@settings(deadline=None)
@given(st.lists(st.tuples(id_sets, st.booleans()), min_size=1, max_size=8))
def test_the_sums_after_any_runs_equal_the_sums_over_all_rows(
    steps: list[tuple[set[int], bool]],
) -> None:
    """A step stores rows, late and backfilled ones included. Its run may be killed before it keeps
    its sums, so the next run continues from older ones.
    """
    session: Any = None
    database: Any = None
    stored: set[int] = set()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for mode in (full, pushdown):
            patch.setattr(mode, "add_up", sums_without_spark)
        # The store has the newest transaction.
        patch.setattr(incremental, "read_store", lambda *_: True)
        given_settings = Settings(data_dir=Path(folder), batch_mode="incremental")
        for new, killed in steps:
            stored |= new
            now = Snapshot(ranges_of(stored), (3, times.time_text(NOW), 0, 9, 49))
            added = incremental.add_up(session, given_settings, database, now)
            assert added.windows == windows_of(stored)
            if not killed:
                incremental.keep(given_settings, "20251202T050000Z", now, added)


# --- the file ---------------------------------------------------------------------------------


def kept(ids: Iterable[int] = range(1, 50)) -> KeptSums:
    newest = (3, times.time_text(NOW), 0, 9, 49)
    return KeptSums("20251202T050000Z", WINDOW, ranges_of(set(ids)), newest, windows_of(ids))


def test_kept_sums_are_read_as_they_were_written(tmp_path: Path) -> None:
    kept_sums.write(tmp_path / "sums.json", kept())
    assert kept_sums.read(tmp_path / "sums.json", WINDOW) == kept()


def test_every_damaged_byte_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "sums.json"
    kept_sums.write(path, kept(range(1, 9)))
    sound = path.read_bytes()
    for place in range(0, len(sound) - 1, 7):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(UnusableError, match="is damaged"):
            kept_sums.read(path, WINDOW)
        path.write_bytes(sound[:place])
        with pytest.raises(UnusableError, match="is damaged"):
            kept_sums.read(path, WINDOW)


def test_sums_of_another_version_or_window_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "batch_sums.json"
    with pytest.raises(UnusableError, match=r"batch_sums\.json does not exist"):
        kept_sums.read(path, WINDOW)
    kept_sums.write(path, kept())
    with pytest.raises(UnusableError, match="has windows of 1 minute, not 1 hour"):
        kept_sums.read(path, timedelta(hours=1))
    text = path.read_text().partition("\n")[2].removesuffix("\n")
    other = json.dumps(json.loads(text) | {"version": 2})
    path.write_text(f"{hashlib.sha256(other.encode()).hexdigest()}\n{other}\n")
    with pytest.raises(UnusableError, match="has version 2, not 1"):
        kept_sums.read(path, WINDOW)
    path.unlink()
    path.mkdir()
    with pytest.raises(UnusableError, match="cannot be read: Is a directory"):
        kept_sums.read(path, WINDOW)


# --- the database -----------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


def put(data: DataDir, *ids: int, second: int = 0) -> None:
    """Store trades of these ids in one transaction."""
    at = NOW + timedelta(seconds=second)
    with closing(sqlite.open_writer(data.database)) as connection:
        first = common_queries.next_offset(connection) or 0
        trades = [trade(number, "1", "1") for number in ids]
        batch = store.Batch(first, first + len(ids) - 1, len(ids), 0, at, at, trades)
        store.store(connection, batch, at)


def run(data: DataDir) -> None:
    """Keep the sums as a run does."""
    stored = SqliteStore(data.database).read(snapshot.snapshot)
    assert stored is not None
    settings = Settings(data_dir=data.root, batch_mode="incremental")
    incremental.keep(settings, "20251202T050000Z", stored, Added({}, None, "incremental"))


def new_ids(data: DataDir) -> list[int]:
    """Return the ids that an incremental run would read.

    Raises:
        UnusableError: it would read the whole table.
    """
    database = SqliteStore(data.database)
    stored = database.read(snapshot.snapshot)
    assert stored is not None
    found = incremental.usable(Settings(data_dir=data.root), database, stored)
    return ids_in(difference(stored.ranges, found.ranges))


def test_a_run_reads_only_what_was_stored_since_the_last_one(data: DataDir) -> None:
    put(data, 10, 11, 15)
    run(data)
    assert new_ids(data) == []
    put(data, 16, 11, second=1)  # a new trade and a repeated one
    put(data, 12, 9, second=2)  # in a gap, and before the first id
    assert new_ids(data) == [9, 12, 16]
    run(data)
    assert new_ids(data) == []


def restore_backup(data: DataDir) -> None:
    shutil.copy(data.root / "backup.db", data.database)


def restore_backup_and_continue(data: DataDir) -> None:
    restore_backup(data)
    put(data, 13, second=7)
    put(data, 14, second=8)


def fill_again_from_kafka(data: DataDir) -> None:
    data.database.unlink()
    put(data, 10, 11, second=60)
    put(data, 12, second=61)
    put(data, 13, second=62)


@pytest.mark.parametrize(
    "change", [restore_backup, restore_backup_and_continue, fill_again_from_kafka]
)
def test_another_database_needs_a_full_run(
    data: DataDir, change: Callable[[DataDir], None]
) -> None:
    put(data, 10, 11)
    shutil.copy(data.database, data.root / "backup.db")
    put(data, 12, second=1)
    run(data)
    change(data)
    with pytest.raises(UnusableError, match="the database was replaced or restored since run 2025"):
        new_ids(data)


def test_a_backup_that_was_made_after_the_run_can_be_restored(data: DataDir) -> None:
    put(data, 10, 11)
    run(data)
    put(data, 12, second=1)
    shutil.copy(data.database, data.root / "backup.db")
    put(data, 13, second=2)
    restore_backup(data)
    assert new_ids(data) == [12]


def test_a_database_that_lacks_rows_of_the_last_run_needs_a_full_run(data: DataDir) -> None:
    put(data, 10, 11, 12)
    run(data)
    with closing(sqlite.open_writer(data.database)) as connection:
        connection.execute("DELETE FROM btc_prices WHERE trade_id = 12")
    with pytest.raises(UnusableError, match="the database lacks rows that run 20251202T050000Z"):
        new_ids(data)


def test_old_bookkeeping_can_be_deleted_between_runs(data: DataDir) -> None:
    """Retention keeps the newest transaction that the newest run read."""
    put(data, 10)
    put(data, 11, second=1)
    run(data)
    put(data, 12, second=2)
    with closing(sqlite.open_writer(data.database)) as connection:
        connection.execute("DELETE FROM ingest WHERE number < 2")
    assert new_ids(data) == [12]
    with closing(sqlite.open_writer(data.database)) as connection:
        connection.execute("DELETE FROM ingest WHERE number < 3")
    with pytest.raises(UnusableError, match="was replaced or restored"):
        new_ids(data)


def test_a_database_without_transactions_keeps_no_sums(data: DataDir) -> None:
    put(data, 10)
    with closing(sqlite.open_writer(data.database)) as connection:
        connection.execute("DELETE FROM ingest")
    run(data)
    assert not data.batch_sums.exists()
