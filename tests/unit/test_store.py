"""The SQLite database: schema, transactions, readers, gaps and evidence."""

import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import histogram
from pipeline.compare import database
from pipeline.errors import RestartError, TemporaryError
from pipeline.ingest import store, transactions
from pipeline.ingest.trade import Trade
from pipeline.stores import common_queries, sqlite, sqlite_queries, sqlite_schema
from pipeline.stores.interface import StoreError
from pipeline.stream_offsets import Start
from tests import old_folder, page_data

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 12, 2, 5, tzinfo=UTC)
#: The id of the user `nobody`.
NOBODY = 65534


def make(trade_id: int, price: str = "86321.55") -> Trade:
    return Trade(trade_id, price, "86321.54", None, "buy", NOW, "0.25")


def batch(ids: list[int], first_offset: int = 0, rejected: int = 0) -> store.Batch:
    trades = [make(trade_id) for trade_id in ids]
    records = len(trades) + rejected
    return store.Batch(
        first_offset, first_offset + max(records, 1) - 1, records, rejected, NOW, NOW, trades
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "crypto_prices.db"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite.SqliteWriter]:
    writer = sqlite.open_writer(path)
    writer.execute("PRAGMA synchronous = OFF")  # no power cut is tested here
    yield writer
    writer.close()


#: A row of `btc_prices` that every check accepts.
GOOD_ROW = {
    "trade_id": 1,
    "price": 86321.55,
    "best_bid": 86321.54,
    "best_ask": None,
    "side": "buy",
    "time": "2025-12-02T05:00:00.000000Z",
    "last_size": 0.25,
}


def ids_in(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT trade_id FROM btc_prices ORDER BY 1")]


def insert(connection: sqlite.SqliteWriter, **changed: object) -> None:
    connection.execute(
        "INSERT INTO btc_prices VALUES "
        "(:trade_id, :price, :best_bid, :best_ask, :side, :time, :last_size)",
        GOOD_ROW | changed,
    )


# --- a table of bookkeeping that grows for years ----------------------------------------------


def sqlite_steps(connection: sqlite.SqliteWriter, work: Callable[[], object]) -> int:
    """Return how many tens of instructions SQLite runs. A busy machine does not change it."""
    tens = itertools.count()
    connection.set_progress_handler(lambda: next(tens) < 0, 10)
    try:
        work()
    finally:
        connection.set_progress_handler(None, 0)
    return next(tens)


def steps_after(path: Path, count: int) -> list[int]:
    """Return the steps of a start, of reading the totals and of a commit after transactions."""
    topic = page_data.TOPIC_ID
    queries = (
        common_queries.next_offset,
        common_queries.newest_topic,
        common_queries.newest_receipt,
        common_queries.newest_event_time,
        common_queries.total_rows,
        common_queries.open_gaps,
        common_queries.stored_ranges,
    )
    with closing(sqlite.open_writer(path)) as connection:
        old_folder.write_transactions(connection, count, NOW)

        def start() -> None:
            for query in queries:
                query(connection)

        def read_totals() -> None:
            assert transactions.numbers_of(connection, topic) == range(1, count + 1)
            assert transactions.is_read_once(connection, topic)

        def commit() -> None:
            assert store.store(connection, batch([count + 1]), NOW).total_rows == count + 1

        return [sqlite_steps(connection, work) for work in (start, read_totals, commit)]


def test_a_start_and_a_commit_cost_the_same_after_many_transactions_as_after_few(
    tmp_path: Path,
) -> None:
    few, many = (steps_after(tmp_path / f"{count}.db", count) for count in (1_000, 50_000))
    assert max(many) < 200
    assert many == pytest.approx(few, abs=5)


# --- schema ---------------------------------------------------------------------------------


def test_the_columns_are_those_of_the_design(connection: sqlite.SqliteWriter) -> None:
    columns = connection.execute("PRAGMA table_info(btc_prices)").fetchall()
    assert [(name, kind, primary) for _, name, kind, _, _, primary in columns] == [
        ("trade_id", "INTEGER", 1),
        ("price", "REAL", 0),
        ("best_bid", "REAL", 0),
        ("best_ask", "REAL", 0),
        ("side", "TEXT", 0),
        ("time", "TEXT", 0),
        ("last_size", "REAL", 0),
    ]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_writer_syncs_every_commit(path: Path) -> None:
    writer = sqlite.open_writer(path)
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    writer.close()


def test_a_valid_row_passes_the_checks(connection: sqlite.SqliteWriter) -> None:
    insert(connection)
    insert(connection, trade_id=2**63 - 1, price=9999999999.99999, best_bid=None, side="sell")
    assert ids_in(connection) == [1, 2**63 - 1]


BAD_NUMBERS = [float("inf"), float("-inf"), -1.0, 0.0, 1e10]


@pytest.mark.parametrize("column", ["price", "best_bid", "best_ask", "last_size"])
@pytest.mark.parametrize("value", BAD_NUMBERS)
def test_infinity_zero_and_values_out_of_range_fail_the_checks(
    connection: sqlite.SqliteWriter, column: str, value: float
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        insert(connection, **{column: value})


@pytest.mark.parametrize("column", ["price", "last_size"])
def test_nan_fails_the_checks_because_sqlite_stores_it_as_null(
    connection: sqlite.SqliteWriter, column: str
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
        insert(connection, **{column: float("nan")})


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("price", None),
        ("last_size", None),
        ("side", None),
        ("time", None),
        ("side", "BUY"),
        ("side", ""),
        ("time", "2025-12-02 05:00:00"),
        ("time", "2025-12-02T05:00:00+00:00"),
        ("time", "yesterday"),
        ("trade_id", 0),
        ("trade_id", -1),
        ("price", "dear"),
        ("price", b"\x00"),
    ],
)
def test_other_impossible_values_fail_the_checks(
    connection: sqlite.SqliteWriter, column: str, value: object
) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        insert(connection, **{column: value})


def test_a_database_of_another_version_is_an_error_with_what_to_do(path: Path) -> None:
    sqlite.open_writer(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 7")
    other.close()
    with pytest.raises(StoreError, match=r"version 7, not 5\. .*DATA_DIR="):
        sqlite.open_writer(path)


def test_opening_again_keeps_the_stored_trades(path: Path) -> None:
    for offset, trade_id in enumerate([5, 6]):
        writer = sqlite.open_writer(path)
        store.store(writer, batch([trade_id], offset), NOW)
        writer.close()
    reader = sqlite.open_reader(path)
    assert ids_in(reader) == [5, 6]
    reader.close()


# --- storing --------------------------------------------------------------------------------


def test_a_batch_is_stored_with_its_bookkeeping(connection: sqlite.SqliteWriter) -> None:
    later = NOW + timedelta(seconds=1, microseconds=5)
    trades = [make(11), make(10), make(11)]
    result = store.store(connection, store.Batch(40, 44, 5, 2, NOW, later, trades), later)
    assert result == store.StoreResult(stored=2, repeated=1, total_rows=2)
    assert ids_in(connection) == [10, 11]
    row = connection.execute("SELECT * FROM btc_prices WHERE trade_id = 10").fetchone()
    assert row == (10, 86321.55, 86321.54, None, "buy", "2025-12-02T05:00:00.000000Z", 0.25)
    now, late = "2025-12-02T05:00:00.000000Z", "2025-12-02T05:00:01.000005Z"
    assert connection.execute("SELECT * FROM ingest").fetchall() == [
        (1, 40, 44, 5, 2, 1, 2, 10, 11, now, late, late, 2, now, None)
    ]
    assert common_queries.next_offset(connection) == 45
    assert common_queries.total_rows(connection) == 2
    assert common_queries.id_span(connection) == (10, 11)


def test_an_empty_database_has_no_offset_no_rows_and_no_ids(
    connection: sqlite.SqliteWriter,
) -> None:
    assert common_queries.next_offset(connection) is None
    assert common_queries.total_rows(connection) == 0
    assert common_queries.id_span(connection) is None
    assert common_queries.stored_ranges(connection) == []
    assert common_queries.open_gaps(connection) == (0, 0)


def test_the_first_of_two_trades_with_one_id_is_stored(connection: sqlite.SqliteWriter) -> None:
    trades = [make(1, "100"), make(1, "200")]
    store.store(connection, store.Batch(0, 1, 2, 0, NOW, NOW, trades), NOW)
    store.store(connection, store.Batch(2, 2, 1, 0, NOW, NOW, [make(1, "300")]), NOW)
    assert connection.execute("SELECT price FROM btc_prices").fetchall() == [(100.0,)]


def test_a_batch_of_rejected_messages_only_moves_the_offset(
    connection: sqlite.SqliteWriter,
) -> None:
    result = store.store(connection, batch([], 7, rejected=3), NOW)
    assert result == store.StoreResult(0, 0, 0)
    assert common_queries.next_offset(connection) == 10
    assert connection.execute("SELECT first_trade_id, rejected FROM ingest").fetchall() == [
        (None, 3)
    ]


def test_storing_a_batch_again_changes_no_row(connection: sqlite.SqliteWriter) -> None:
    store.store(connection, batch([1, 2, 5]), NOW)
    store.store(connection, batch([6, 9], 3), NOW)
    gaps = connection.execute("SELECT * FROM gaps").fetchall()
    again = store.store(connection, batch([6, 9], 3), NOW + timedelta(hours=1))
    assert again == store.StoreResult(stored=0, repeated=2, total_rows=5)
    assert ids_in(connection) == [1, 2, 5, 6, 9]
    assert connection.execute("SELECT * FROM gaps").fetchall() == gaps
    assert common_queries.next_offset(connection) == 5


def test_a_repeated_id_is_the_only_violation_that_is_ignored(
    connection: sqlite.SqliteWriter,
) -> None:
    store.store(connection, batch([1]), NOW)
    bad = Trade(2, "1e10", None, None, "buy", NOW, "1")  # no validated trade has this price
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        store.store(connection, store.Batch(1, 2, 2, 0, NOW, NOW, [make(3), bad]), NOW)
    assert ids_in(connection) == [1]
    assert common_queries.next_offset(connection) == 1


def test_total_rows_is_correct_after_a_new_topic_starts_at_offset_0(
    connection: sqlite.SqliteWriter,
) -> None:
    store.store(connection, batch([1, 2, 3], 1000), NOW)
    for number in range(3):
        moment = NOW + timedelta(minutes=1 + number)
        store.store(connection, batch([10 + number], number), moment)
    assert len(ids_in(connection)) == 6
    assert common_queries.total_rows(connection) == 6


def test_the_next_offset_is_the_one_of_the_newest_topic(
    connection: sqlite.SqliteWriter,
) -> None:
    store.store(connection, batch([1, 2, 3], 1000), NOW)
    store.store(connection, batch([4, 5], 0), NOW + timedelta(minutes=1))
    assert common_queries.next_offset(connection) == 2


# --- one transaction ------------------------------------------------------------------------


def test_an_error_in_a_transaction_stores_nothing(connection: sqlite.SqliteWriter) -> None:
    store.store(connection, batch([1, 5]), NOW)
    connection.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON ingest BEGIN SELECT raise(ABORT, 'broken'); END"
    )
    with pytest.raises(sqlite3.IntegrityError, match="broken"):
        store.store(connection, batch([3, 9], 2), NOW)
    connection.execute("DROP TRIGGER broken")
    assert ids_in(connection) == [1, 5]
    assert common_queries.open_gaps(connection) == (1, 3)
    assert common_queries.next_offset(connection) == 2
    assert store.store(connection, batch([3, 9], 2), NOW).total_rows == 4


KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from pipeline.ingest import store
from pipeline.stores import sqlite
from tests.unit.test_store import NOW, batch
connection = sqlite.open_writer(Path(sys.argv[1]))
connection.create_function("kill", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
connection.execute("CREATE TEMP TRIGGER t AFTER INSERT ON main.ingest BEGIN SELECT kill(); END")
store.store(connection, batch(list(range(3, 3000)), 2), NOW)
"""


def test_a_kill_before_the_commit_stores_nothing(path: Path) -> None:
    writer = sqlite.open_writer(path)
    store.store(writer, batch([1, 2]), NOW)
    writer.close()
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False, timeout=30
    )
    assert run.returncode == -signal.SIGKILL
    writer = sqlite.open_writer(path)
    assert ids_in(writer) == [1, 2]
    assert common_queries.next_offset(writer) == 2
    assert store.store(writer, batch([3], 2), NOW) == store.StoreResult(1, 0, 3)
    assert writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    writer.close()


def test_a_transaction_commits_everything_or_nothing(connection: sqlite.SqliteWriter) -> None:
    def insert_two(first: int, second: int) -> None:
        with connection.transaction():
            insert(connection, trade_id=first)
            insert(connection, trade_id=second)

    insert_two(1, 2)
    with pytest.raises(sqlite3.IntegrityError):
        insert_two(3, 1)
    assert ids_in(connection) == [1, 2]


# --- locks and readers -----------------------------------------------------------------------


def test_a_transaction_notices_that_the_file_is_gone(
    connection: sqlite.SqliteWriter, path: Path
) -> None:
    """SQLite itself would write into the deleted file without an error."""
    path.unlink()
    with pytest.raises(RestartError, match="was deleted while it was open"):
        store.store(connection, batch([1]), NOW)


def test_a_locked_database_raises_an_error_and_loses_nothing(
    connection: sqlite.SqliteWriter, path: Path
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    connection.execute("PRAGMA busy_timeout = 50")
    with pytest.raises(TemporaryError) as error:
        store.store(connection, batch([1]), NOW)
    assert str(error.value) == (
        "Cannot write crypto_prices.db: stop the program that locks it. Cause: "
        f"database is locked. The file: {path}"
    )
    other.execute("ROLLBACK")
    other.close()
    assert store.store(connection, batch([1]), NOW) == store.StoreResult(1, 0, 1)


def test_a_full_database_raises_an_error_and_loses_nothing(
    connection: sqlite.SqliteWriter,
) -> None:
    store.store(connection, batch([1]), NOW)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    many = batch(list(range(2, 20_000)), 1)
    with pytest.raises(
        TemporaryError,
        match=r"^Cannot write crypto_prices\.db: free space on its disk",
    ):
        store.store(connection, many, NOW)
    assert ids_in(connection) == [1]
    connection.execute("PRAGMA max_page_count = 1000000")
    assert store.store(connection, many, NOW).total_rows == 19_999


@pytest.fixture
def folder_of_another_user() -> Iterator[Path]:
    """Become a user without the rights of root, with a directory of its own."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        if root:
            os.chown(name, NOBODY, -1)
            os.seteuid(NOBODY)
        yield Path(name)
        if root:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("mode", "kind", "cause"),
    [
        (0o444, StoreError, "attempt to write a readonly database"),
        (0, TemporaryError, "unable to open database file"),
    ],
)
def test_a_file_that_this_user_cannot_write_is_named_with_the_action_in_100_characters(
    folder_of_another_user: Path, mode: int, kind: type[Exception], cause: str
) -> None:
    """The second error is temporary: too many open files also cause it."""
    path = folder_of_another_user / "crypto_prices.db"
    sqlite.open_writer(path).close()
    path.chmod(mode)
    with pytest.raises(kind) as error:
        sqlite.open_writer(path)
    action = (
        "Cannot write crypto_prices.db: give this user write access to crypto_prices.db* and "
        "their directory."
    )
    assert str(error.value) == f"{action} Cause: {cause}. The file: {path}"
    for file in folder_of_another_user.iterdir():
        file.chmod(0o644)
    sqlite.open_writer(path).close()


def test_a_wrong_statement_in_a_transaction_stays_a_fault_of_the_program(
    connection: sqlite.SqliteWriter,
) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"), connection.transaction():
        connection.execute("DELETE FROM missing")


def test_a_reader_cannot_write(connection: sqlite.SqliteWriter, path: Path) -> None:
    store.store(connection, batch([1]), NOW)
    reader = sqlite.open_reader(path)
    assert ids_in(reader) == [1]
    for statement in ("DELETE FROM btc_prices", "PRAGMA user_version = 9", "CREATE TABLE t (x)"):
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute(statement)
    reader.close()


def test_a_reader_does_not_create_a_database(path: Path) -> None:
    path.parent.mkdir()
    with pytest.raises(sqlite3.OperationalError):
        sqlite.open_reader(path).execute("SELECT 1 FROM btc_prices")
    assert not path.exists()


def test_a_reader_opens_a_path_with_special_characters(tmp_path: Path) -> None:
    path = tmp_path / "a b?c#d%20é" / "crypto_prices.db"
    writer = sqlite.open_writer(path)
    store.store(writer, batch([1]), NOW)
    reader = sqlite.open_reader(path)
    assert ids_in(reader) == [1]
    reader.close()
    writer.close()


def test_a_reader_sees_only_whole_batches(connection: sqlite.SqliteWriter, path: Path) -> None:
    reader = sqlite.open_reader(path)
    store.store(connection, batch([1, 2]), NOW)
    with connection.transaction():
        insert(connection, trade_id=3)
        assert ids_in(reader) == [1, 2]
    assert ids_in(reader) == [1, 2, 3]
    reader.close()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(OSError, match="file"):
        sqlite.open_writer(tmp_path / "file" / "crypto_prices.db")


# --- gaps -----------------------------------------------------------------------------------


def gaps_in(connection: sqlite.SqliteWriter) -> set[int]:
    """Return the missing ids one by one, so that a gap recorded twice changes the count."""
    rows = connection.execute(
        "SELECT first_trade_id, last_trade_id FROM gaps WHERE filled_at IS NULL"
    ).fetchall()
    ids = [trade_id for first, last in rows for trade_id in range(first, last + 1)]
    assert len(ids) == len(set(ids))
    return set(ids)


def test_a_gap_is_found_between_and_within_batches(connection: sqlite.SqliteWriter) -> None:
    store.store(connection, batch([10, 11, 15]), NOW)
    store.store(connection, batch([20], 3), NOW)
    rows = connection.execute("SELECT * FROM gaps ORDER BY 1").fetchall()
    found = "2025-12-02T05:00:00.000000Z"
    assert rows == [(12, 14, found, None), (16, 19, found, None)]
    assert common_queries.open_gaps(connection) == (2, 7)


def test_late_trades_split_a_gap_and_fill_it_at_last(
    connection: sqlite.SqliteWriter,
) -> None:
    found, filled = "2025-12-02T05:00:00.000000Z", "2025-12-02T06:00:00.000000Z"
    store.store(connection, batch([1, 10]), NOW)
    store.store(connection, batch([5], 2), NOW + timedelta(hours=1))
    assert connection.execute("SELECT * FROM gaps ORDER BY 1").fetchall() == [
        (2, 4, found, None),
        (5, 5, found, filled),
        (6, 9, found, None),
    ]
    store.store(connection, batch([2, 3, 4, 6, 7, 8, 9], 3), NOW + timedelta(hours=1))
    assert common_queries.open_gaps(connection) == (0, 0)
    rows = connection.execute("SELECT * FROM gaps").fetchall()
    assert {row[2:] for row in rows} == {(found, filled)}


def test_an_id_below_the_least_one_opens_a_gap_between_them(
    connection: sqlite.SqliteWriter,
) -> None:
    store.store(connection, batch([100]), NOW)
    store.store(connection, batch([90, 91], 1), NOW)
    assert gaps_in(connection) == set(range(92, 100))


def test_the_first_trade_opens_no_gap(connection: sqlite.SqliteWriter) -> None:
    store.store(connection, batch([987_654_321]), NOW)
    assert common_queries.open_gaps(connection) == (0, 0)


def test_a_gap_at_the_end_of_64_bits_is_counted(connection: sqlite.SqliteWriter) -> None:
    store.store(connection, batch([1]), NOW)
    store.store(connection, batch([2**63 - 1], 1), NOW)
    assert common_queries.open_gaps(connection) == (1, 2**63 - 3)
    assert common_queries.stored_ranges(connection) == [(1, 1), (2**63 - 1, 2**63 - 1)]


batches_of_ids = st.lists(st.lists(st.integers(1, 60), max_size=12), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(batches=batches_of_ids)
def test_open_gaps_are_exactly_the_ids_between_the_stored_ones(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]
) -> None:
    connection = sqlite.open_writer(tmp_path_factory.mktemp("gaps") / "crypto_prices.db")
    connection.execute("PRAGMA synchronous = OFF")
    stored: set[int] = set()
    offset = 0
    for ids in batches:
        result = store.store(connection, batch(ids, offset), NOW)
        offset += max(1, len(ids))
        assert result.stored == len(set(ids) - stored)
        assert result.repeated == len(ids) - result.stored
        stored |= set(ids)
        assert result.total_rows == len(stored)
        between = set(range(min(stored), max(stored))) if stored else set()
        missing = between - stored
        assert gaps_in(connection) == missing
        runs, count = common_queries.open_gaps(connection)
        assert count == len(missing)
        assert runs >= sum(trade_id - 1 not in missing for trade_id in missing)
        ranges = common_queries.stored_ranges(connection)
        inside = [number for first, last in ranges for number in range(first, last + 1)]
        assert inside == sorted(stored)
    assert common_queries.next_offset(connection) == offset
    connection.close()


def test_gaps_are_correct_after_thousands_of_ids_in_any_order(
    connection: sqlite.SqliteWriter,
) -> None:
    rng = random.Random(7)
    ids = rng.sample(range(1, 8_000), 3_000)
    for start in range(0, len(ids), 1_000):
        store.store(connection, batch(ids[start : start + 1_000], start), NOW)
    assert gaps_in(connection) == set(range(min(ids), max(ids))) - set(ids)


# --- ranges ---------------------------------------------------------------------------------


@given(st.sets(st.integers(1, 200)))
def test_id_ranges_are_the_longest_ranges_of_consecutive_ids(ids: set[int]) -> None:
    runs = list(store.id_ranges(sorted(ids)))
    assert [n for first, last in runs for n in range(first, last + 1)] == sorted(ids)
    assert all(first - 1 not in ids and last + 1 not in ids for first, last in runs)


@given(ids=st.sets(st.integers(1, 300)), parts=st.integers(1, 9))
def test_ranges_are_split_into_parts_of_equal_size_with_every_id(ids: set[int], parts: int) -> None:
    ordered = sorted(ids)
    ranges = [
        (first, next(n for n in range(first, 302) if n + 1 not in ids))
        for first in ordered
        if first - 1 not in ids
    ]
    split = common_queries.split_ranges(ranges, parts)
    members = [[n for a, b in part for n in range(a, b + 1)] for part in split]
    assert [n for part in members for n in part] == ordered
    assert len(split) <= parts
    size = -(-len(ids) // parts)
    assert all(len(part) == size for part in members[:-1])
    assert all(1 <= len(part) <= size for part in members)


def test_no_ranges_are_split_into_no_parts() -> None:
    assert common_queries.split_ranges([], 4) == []


def test_large_ranges_are_split_in_a_moment() -> None:
    (low,), (high,) = common_queries.split_ranges([(1, 2**62)], 2)
    assert low == (1, 2**61)
    assert high == (2**61 + 1, 2**62)


def test_stored_times_sort_as_the_times_do(
    connection: sqlite.SqliteWriter,
) -> None:
    moments = [NOW, NOW + timedelta(microseconds=1), NOW + timedelta(milliseconds=100)]
    trades = [Trade(n, "1", None, None, "buy", at, "1") for n, at in enumerate(moments, 1)]
    store.store(connection, store.Batch(0, 2, 3, 0, NOW, NOW, trades), NOW)
    texts = [row[0] for row in connection.execute("SELECT time FROM btc_prices ORDER BY time")]
    assert [datetime.fromisoformat(text) for text in texts] == moments
    assert {len(text) for text in texts} == {27}


def test_a_file_that_is_not_a_database_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "crypto_prices.db"
    path.write_text("this is a letter, and long enough to have a header of a hundred bytes" * 4)
    with pytest.raises(
        StoreError, match=r"^Cannot open .*: file is not a database\. Restore a backup"
    ):
        sqlite.open_writer(path)


# --- evidence -------------------------------------------------------------------------------


def timed(trade_id: int, second: float, size: str = "0.25") -> Trade:
    moment = NOW + timedelta(seconds=second)
    return Trade(trade_id, "86321.55", None, None, "buy", moment, size)


def put(
    connection: sqlite.SqliteWriter,
    *trades: Trade,
    offset: int | None = None,
    topic: str = "topic",
    receipts: Sequence[datetime] = (),
) -> store.StoreResult:
    first = (common_queries.next_offset(connection) or 0) if offset is None else offset
    offsets = range(first, first + len(trades))
    one = store.Batch(
        first, offsets[-1], len(trades), 0, NOW, NOW, trades, receipts, topic, offsets
    )
    return store.store(connection, one, NOW + timedelta(seconds=2), timedelta(seconds=60))


def recorded(connection: sqlite.SqliteWriter, columns: str) -> list[tuple[Any, ...]]:
    rows = connection.execute(f"SELECT {columns} FROM evidence ORDER BY number")  # noqa: S608
    return rows.fetchall()


def test_records_a_watermark_before_the_newest_are_recorded_as_late(
    connection: sqlite.SqliteWriter,
) -> None:
    """Spark drops an event at or before the watermark of the micro-batch before its own."""
    put(connection, timed(1, 0), timed(2, 100), timed(3, 40.000001), timed(4, 40))
    put(connection, timed(5, 39), timed(6, 161), timed(7, 100))
    put(connection, timed(4, 40), timed(8, 0))
    assert recorded(connection, "kafka_offset, trade_id, kind, lateness_s") == [
        (3, 4, "stored", 60.0),
        (4, 5, "stored", 61.0),
        (6, 7, "stored", 61.0),
        (7, 4, "repeat", 121.0),
        (8, 8, "stored", 161.0),
    ]


def test_each_record_with_the_id_of_a_stored_trade_and_another_content_is_recorded(
    connection: sqlite.SqliteWriter,
) -> None:
    put(connection, timed(1, 0), timed(1, 0), timed(1, 0, size="0.5"))
    result = put(connection, timed(1, 7), timed(1, 7), timed(2, 8))
    assert result == store.StoreResult(stored=1, repeated=2, total_rows=2)
    assert recorded(
        connection, "topic, kafka_offset, trade_id, time, last_size, kind, lateness_s"
    ) == [
        ("topic", 2, 1, "2025-12-02T05:00:00.000000Z", 0.5, "conflict", None),
        ("topic", 3, 1, "2025-12-02T05:00:07.000000Z", 0.25, "conflict", None),
        ("topic", 4, 1, "2025-12-02T05:00:07.000000Z", 0.25, "conflict", None),
    ]
    stored = {row[-1] for row in database.evidence(connection)}
    assert stored == {"2025-12-02T05:00:00.000000Z"}


def test_a_topic_that_is_read_again_gives_the_same_evidence(
    connection: sqlite.SqliteWriter,
) -> None:
    records = [timed(1, 0), timed(2, 100), timed(3, 5), timed(2, 101), timed(4, 130)]
    put(connection, *records)
    before = recorded(connection, "*")
    assert len(before) == 2
    for place, record in enumerate(records):
        put(connection, record, offset=place)
    assert recorded(connection, "*") == before


def test_the_lateness_in_a_new_topic_counts_from_its_own_event_times(
    connection: sqlite.SqliteWriter,
) -> None:
    put(connection, timed(1, 0), timed(2, 100))
    put(connection, timed(3, 10), timed(4, 80), timed(5, 20), offset=0, topic="other")
    put(connection, timed(6, 30), offset=9, topic="third")
    assert recorded(connection, "topic, kafka_offset, trade_id") == [("other", 2, 5)]


def test_the_offsets_read_are_those_of_the_newest_topic(
    connection: sqlite.SqliteWriter,
) -> None:
    assert database.consumed_offsets(connection) == (None, 0, 0)
    put(connection, timed(1, 0), timed(2, 1), offset=7)
    put(connection, timed(3, 2))
    assert database.consumed_offsets(connection) == ("topic", 7, 10)
    put(connection, timed(4, 3), offset=2, topic="other")
    assert database.consumed_offsets(connection) == ("other", 2, 3)


def write_version(version: int, path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as old:
        old.executescript((Path(__file__).parent / f"schema_v{version}.sql").read_text())


def write_version_2(path: Path) -> None:
    """Write a database as version 2 did: late trades by id, conflicting contents once each."""
    write_version(2, path)


#: The totals of `schema_v3.sql`, counted in that file: topic, first number, first offset, records,
#: stored, repeated and rejected.
VERSION_3_TOTALS = [("one", 1, 5, 6, 4, 1, 1), ("two", 3, 0, 4, 3, 1, 0)]


def test_a_database_of_version_3_has_the_same_totals_before_and_after_its_conversion(
    path: Path,
) -> None:
    write_version(3, path)
    for connect in (sqlite.open_reader, sqlite.open_writer, sqlite.open_writer, sqlite.open_reader):
        with closing(connect(path)) as connection:
            totals = connection.execute("SELECT * FROM ingest_totals ORDER BY topic").fetchall()
            assert totals == VERSION_3_TOTALS
            assert database.ingest_counts(connection) == (10, 7, 2, 1)
            assert database.consumed_offsets(connection) == ("two", 0, 4)
    with closing(sqlite.open_writer(path)) as writer:
        put(writer, make(8), make(9), offset=4, topic="two")
        assert database.ingest_counts(writer) == (12, 9, 2, 1)
        assert database.consumed_offsets(writer) == ("two", 0, 6)


def test_a_conversion_that_is_interrupted_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(3, path)
    statements = sqlite_schema.CONVERT[3].replace("PRAGMA user_version", "SELECT nothing; PRAGMA")
    with monkeypatch.context() as broken:
        broken.setitem(sqlite_schema.CONVERT, 3, statements)
        with pytest.raises(sqlite3.OperationalError, match="nothing"):
            sqlite.open_writer(path)
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (3,)
        assert not plain.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'ingest_totals'"
        ).fetchall()


def test_totals_are_the_sums_over_all_transactions(connection: sqlite.SqliteWriter) -> None:
    for offset, (ids, rejected) in enumerate([([1, 2], 0), ([2, 3], 1), ([], 2)]):
        store.store(connection, batch(ids, 10 * offset, rejected=rejected), NOW)
    assert (
        database.ingest_counts(connection)
        == connection.execute(
            "SELECT sum(records), sum(stored), sum(repeated), sum(rejected) FROM ingest"
        ).fetchone()
    )


def add_transactions(connection: sqlite.SqliteWriter, first: int, last: int) -> None:
    """Add transactions as the consumer does: one trade each, one transaction per second."""
    with connection.transaction():
        connection.execute(
            "WITH RECURSIVE n(n) AS (SELECT ? UNION ALL SELECT n + 1 FROM n WHERE n < ?) "
            "INSERT INTO ingest SELECT n, n, n, 1, 1, 0, 0, n, n, '-', '-', "
            "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1764651600 + n, 'unixepoch'), n, "
            "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1764651600 + n, 'unixepoch'), 'topic' FROM n",
            (first, last),
        )


def steps_of(
    connection: sqlite.SqliteWriter, query: Callable[[sqlite.SqliteWriter], object]
) -> int:
    """Return how many steps SQLite's virtual machine takes for a query, in tens."""
    steps = itertools.count()
    connection.set_progress_handler(lambda: next(steps) < 0, 10)
    query(connection)
    connection.set_progress_handler(None, 0)
    return next(steps)


#: What start-up and comparison read from `ingest`.
QUERIES: dict[str, Callable[[sqlite.SqliteWriter], object]] = {
    "counts": database.ingest_counts,
    "consumed offsets": database.consumed_offsets,
    "next offset": common_queries.next_offset,
    "rows": common_queries.total_rows,
    "topic": common_queries.newest_topic,
    "receipt": common_queries.newest_receipt,
    "after a snapshot": lambda connection: database.stored_after(
        connection, (1, 1), common_queries.total_rows(connection) - 5, "3"
    ),
    "around a start": lambda connection: database.placed_trades(
        connection, Start("topic", 50, 60, "checkpoint"), *[timedelta(minutes=1)] * 2
    ),
}


def test_no_query_at_a_start_or_in_the_comparison_reads_more_of_an_older_table_of_transactions(
    connection: sqlite.SqliteWriter,
) -> None:
    put(connection, make(1), topic="topic")
    add_transactions(connection, 2, 500)
    before = {name: steps_of(connection, query) for name, query in QUERIES.items()}
    add_transactions(connection, 501, 20_000)
    after = {name: steps_of(connection, query) for name, query in QUERIES.items()}
    # A scan takes 3,000 to 20,000 steps more. The binary search takes six more lookups.
    more = {name: after[name] - before[name] for name in QUERIES}
    assert more.pop("around a start") <= 60
    assert max(more.values()) <= 2


def test_a_reader_shows_a_database_of_version_2_before_the_consumer_has_converted_it(
    path: Path,
) -> None:
    write_version_2(path)
    with closing(sqlite.open_reader(path)) as reader:
        before = database.evidence(reader)
        assert database.consumed_offsets(reader) == (None, 0, 0)
        assert (common_queries.next_offset(reader), common_queries.total_rows(reader)) == (3, 2)
        assert database.backfilled(reader) == set()
    sqlite.open_writer(path).close()
    with closing(sqlite.open_reader(path)) as reader:
        assert database.evidence(reader) == before
    assert [(row[0], row[2], row[7]) for row in before] == [
        (None, 2, store.STORED),
        (None, 1, store.CONFLICT),
    ]


def test_a_database_of_version_2_keeps_its_evidence_without_offsets(path: Path) -> None:
    write_version_2(path)
    with closing(sqlite.open_writer(path)) as writer:
        assert writer.execute("PRAGMA user_version").fetchone() == (5,)
        assert recorded(writer, "topic, kafka_offset, trade_id, last_size, kind, lateness_s") == [
            (None, None, 2, 0.25, "stored", 75.5),
            (None, None, 1, 0.5, "conflict", None),
        ]
        assert database.backfilled(writer) == set()
        assert common_queries.next_offset(writer) == 3
        assert database.consumed_offsets(writer) == (None, 0, 0)
        names = {row[0] for row in writer.execute("SELECT name FROM sqlite_master")}
        assert not names & {"late", "conflicts"}
        # It goes on where it was: 3 s behind the newest trade, and 60.
        put(writer, timed(4, 97), timed(5, 40))
        assert recorded(writer, "trade_id, kafka_offset")[2:] == [(5, 4)]
        assert database.consumed_offsets(writer) == ("topic", 3, 5)
    sqlite.open_writer(path).close()


def test_a_late_trade_is_backfilled_if_it_filled_a_gap_and_has_no_quotes(
    connection: sqlite.SqliteWriter,
) -> None:
    late = NOW - timedelta(minutes=5)
    quoted = Trade(3, "86321.55", "86321.54", "86321.56", "buy", late, "0.25")
    unquoted = Trade(4, "86321.55", None, None, "buy", late, "0.25")
    newest = Trade(11, "86321.55", None, None, "buy", late, "0.25")  # late, but fills no gap
    put(connection, make(1), make(2), make(6), make(10))
    put(connection, quoted, unquoted, newest)
    assert [row[0] for row in recorded(connection, "trade_id")] == [3, 4, 11]
    assert database.backfilled(connection) == {4}


def test_latencies_of_stored_trades_are_counted_by_minute_and_leg(
    connection: sqlite.SqliteWriter,
) -> None:
    trades = [timed(number, number / 10) for number in range(1, 4)]
    receipts = [trade.time + timedelta(seconds=0.3) for trade in trades]
    put(connection, *trades, receipts=receipts)
    put(connection, *trades, receipts=receipts)  # repeats count nothing
    rows = connection.execute("SELECT minute, leg, bucket, count FROM latency").fetchall()
    assert {row[0] for row in rows} == {"2025-12-02T05:00Z"}
    legs = {leg: {b: n for _, name, b, n in rows if name == leg} for _, leg, _, _ in rows}
    assert legs["event_to_receipt"] == {histogram.bucket(0.3): 3}
    assert sum(legs["receipt_to_stored"].values()) == 3
    # Committed 2 s after NOW, received 0.4, 0.5 and 0.6 s after it.
    assert all(1.25 <= histogram.BOUNDS[number] <= 1.6 for number in legs["receipt_to_stored"])


def test_latencies_are_summed_from_the_first_full_minute_without_the_minutes_left_out(
    connection: sqlite.SqliteWriter,
) -> None:
    rows = [(f"2025-12-02T05:{minute:02}Z", "leg", 7, 10**minute) for minute in range(6)]
    connection.executemany("INSERT INTO latency VALUES (?, ?, ?, ?)", rows)
    noon = datetime(2025, 12, 2, 5, tzinfo=UTC)
    at = [noon + timedelta(minutes=minute) for minute in range(8)]
    assert database.latencies(connection, None, []) == [("leg", 7, 111_111)]
    since = noon + timedelta(seconds=30)
    assert database.latencies(connection, since, []) == [("leg", 7, 111_110)]
    left_out = [(at[0], at[2]), (at[3], at[4]), (at[7], at[7])]
    assert database.latencies(connection, since, left_out) == [("leg", 7, 110_100)]
    assert database.latencies(connection, since, [(at[1], at[6])]) == []


def test_a_repeat_with_a_later_time_moves_the_watermark(
    connection: sqlite.SqliteWriter,
) -> None:
    put(connection, timed(1, 0))
    put(connection, timed(1, 90), timed(2, 20))
    assert recorded(connection, "trade_id, kind") == [(1, "conflict"), (2, "stored")]


def test_event_times_are_exact_to_the_microsecond_in_sql(connection: sqlite.SqliteWriter) -> None:
    """SQLite before 3.51 rounds the last half millisecond of a second up."""
    seconds = [0, 59.9994, 59.9995, 59.999999, 60]
    put(connection, *(timed(number, second) for number, second in enumerate(seconds, 1)))
    query = f"SELECT {sqlite_queries.TIME_US} FROM btc_prices ORDER BY trade_id"  # noqa: S608
    rows = connection.execute(query)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    begin = (NOW - epoch) // timedelta(microseconds=1)
    assert [row[0] - begin for row in rows] == [0, 59999400, 59999500, 59999999, 60000000]


@pytest.mark.parametrize("table", ["btc_prices", "ingest", "ingest_totals", "gaps", "evidence"])
def test_a_database_without_one_of_its_tables_is_refused_with_the_action(
    table: str, tmp_path: Path
) -> None:
    path = tmp_path / "crypto_prices.db"
    with closing(sqlite.open_writer(path)) as writer:
        writer.execute(f"DROP TABLE {table}")
    with pytest.raises(StoreError, match=f"lacks the table {table}. Restore a backup, or move"):
        sqlite.open_writer(path)
