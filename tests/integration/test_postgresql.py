"""PostgreSQL as the store: the same tables, results and guarantees as with SQLite."""

import json
import random
import select
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest

from feed.sample import SAMPLE
from pipeline import stores, times
from pipeline.batch.snapshot import has_transaction, snapshot
from pipeline.compare import database
from pipeline.data_dir import DataDir
from pipeline.errors import (
    Family,
    OperationalError,
    RestartError,
    TemporaryError,
    family_of,
    sentence,
)
from pipeline.ingest import retention, store, transactions
from pipeline.ingest.trade import Trade
from pipeline.metrics import unit_sums
from pipeline.metrics.definitions import HIGH, SPIKE
from pipeline.settings import NAMES, Settings
from pipeline.stores.common_queries import (
    id_span,
    newest_event_time,
    newest_receipt,
    newest_topic,
    next_offset,
    open_gaps,
    split_ranges,
    stored_ranges,
    total_rows,
)
from pipeline.stores.interface import Connection, Store, StoreError, Writer
from pipeline.stream_offsets import Start
from tests import golden
from tests.conftest import Broker, Run, wait_until
from tests.integration.chain import new_chain
from tests.postgresql import PASSWORD, PostgresqlServer, running_server
from tests.unit.test_store import BAD_NUMBERS, GOOD_ROW
from tests.unit.test_unit_sums import CASES, DAY_S, expected, hard_decimals, trade, units

NOON = datetime(2025, 12, 2, 12, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
TABLES = (
    *("btc_prices", "ingest", "ingest_totals", "gaps", "evidence", "latency", "lags"),
    "lag_position",
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with running_server() as server:
        yield server


def settings_of(server: PostgresqlServer, folder: Path, **changed: Any) -> Settings:
    own = {
        "data_dir": folder,
        "store_url": server.new_database(),
        "store_password_file": server.password_file,
    }
    return Settings.model_validate(own | changed)


@pytest.fixture
def settings(server: PostgresqlServer, tmp_path: Path) -> Settings:
    return settings_of(server, tmp_path)


@pytest.fixture
def writer(settings: Settings) -> Iterator[Writer]:
    with closing(stores.store_of(settings).open_writer()) as connection:
        yield connection


def put(connection: Writer, ids: Sequence[int], offset: int = 0) -> None:
    trades = [Trade(n, "86321.55", "86321.54", None, "buy", NOON, "0.25") for n in ids]
    end = offset + len(trades) - 1
    offsets = range(offset, end + 1)
    batch = store.Batch(
        *(offset, end, len(trades), 0, NOON, NOON, trades), topic="topic", offsets=offsets
    )
    store.store(connection, batch, NOON)


def ids_in(settings: Settings) -> list[int]:
    def query(connection: Connection) -> list[int]:
        return [n for (n,) in connection.execute("SELECT trade_id FROM btc_prices ORDER BY 1")]

    return stores.store_of(settings).read(query) or []


# --- the same content and the same results as SQLite ------------------------------------------


def made_batches(source: random.Random) -> Iterator[store.Batch]:
    """Yield transactions with holes, late, repeated, conflicting and backfilled trades.

    The second topic begins with trades that the first one had too.
    """
    seen: list[Trade] = []
    number = 1_000
    for topic in ("one", "two"):
        offset = 3
        for place in range(60):
            trades: list[Trade] = []
            for _ in range(source.randrange(40)):
                number += source.choice([1] * 30 + [2, 5])
                at = NOON + number * SECOND - source.choice([0] * 20 + [30, 61, 300]) * SECOND
                price = f"{93_000 + source.randrange(100)}.{source.randrange(100):02}"
                bid = price if source.random() < 0.9 else None
                side: Any = source.choice(["buy", "sell"])
                trades.append(
                    Trade(number, price, bid, None, side, at, source.choice(["0.1", "7"]))
                )
            for old in source.sample(seen, min(len(seen), 3)):
                again = old if source.random() < 0.5 else trade(old.trade_id, "1.5", "2")
                trades.insert(source.randrange(len(trades) + 1), again)
            if place % 7 == 6:  # a gap is filled
                missing = set(range(1_001, number)) - {one.trade_id for one in [*seen, *trades]}
                trades += [
                    Trade(one, "93000", None, None, "buy", NOON + one * SECOND, "1")
                    for one in sorted(missing)[:5]
                ]
            seen += trades
            receipts: list[datetime | None] = [
                one.time + timedelta(milliseconds=source.randrange(2000))
                if source.random() < 0.95
                else None
                for one in trades
            ]
            at = NOON + number * SECOND
            yield store.Batch(
                *(offset, offset + len(trades), len(trades) + 1, 1, at, at, trades),
                *(receipts, topic, range(offset, offset + len(trades))),
            )
            offset += len(trades) + 1


def everything(connection: Connection) -> dict[str, Any]:
    """Return the result of every query of the pipeline."""
    found: dict[str, Any] = {
        query.__name__: query(connection)
        for query in (
            *(next_offset, newest_topic, newest_receipt, total_rows),
            *(newest_event_time, id_span, stored_ranges, open_gaps),
            *(database.ingest_counts, database.evidence, database.consumed_offsets),
            *(database.backfilled, snapshot),
        )
    }
    newest = found["snapshot"].newest
    low, high = found["id_span"]
    middle = (low + high) // 2
    before = times.time_text(NOON + high * SECOND)
    alerts = [
        (f"{NOON + (low // 60 + n) * MINUTE:%Y-%m-%dT%H:%M:%SZ}", kind, threshold)
        for n in range(40)
        for kind, threshold in ((HIGH, 95.5), (SPIKE, 50.1))
    ]
    found |= {
        "tables": [
            connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - constants
            for table in TABLES
            if table != "evidence"
        ],
        "has": [has_transaction(connection, t) for t in (newest, (*newest[:-1], 7), (99_999, 1))],
        "gaps": database.gaps_with_neighbours(connection),
        "after": [
            database.stored_after(connection, (low, middle), rows, before)
            for rows in (0, found["total_rows"] // 2, found["total_rows"])
        ],
        "latencies": [
            database.latencies(connection, since, left_out)
            for since in (None, NOON + 30 * MINUTE)
            for left_out in ([], [(NOON + 31 * MINUTE, NOON + 35 * MINUTE)])
        ],
        "lags": [database.lags(connection, since) for since in (None, NOON + 30 * MINUTE)],
        "crossings": database.crossings(connection, alerts, MINUTE),
        "numbers": [transactions.numbers_of(connection, topic) for topic in ("one", "two", "x")],
        "once": [transactions.is_read_once(connection, topic) for topic in ("one", "two", "x")],
        "around": [
            transactions.around(connection, topic, offsets, MINUTE, MINUTE)
            for topic in ("one", "two", "x")
            for offsets in ((0, 20), (100, 300), (200, None))
        ],
        "placed": [
            database.placed_trades(connection, Start("two", first, first + 40, "c"), MINUTE, MINUTE)
            for first in (3, 200, 500)
        ],
    }
    return {name: ordered(value) for name, value in found.items()}


def ordered(value: Any) -> Any:
    """Return a result whose rows have an order. Without ORDER BY, they have none."""
    if isinstance(value, list) and not isinstance(value, str):
        return sorted(map(ordered, value), key=repr)
    return tuple(value) if isinstance(value, tuple) else value


def test_both_stores_have_the_same_rows_and_give_the_same_results(
    settings: Settings, tmp_path: Path
) -> None:
    """Also after retention has deleted old bookkeeping."""
    both: list[Store] = [stores.store_of(Settings(data_dir=tmp_path)), stores.store_of(settings)]
    made = list(made_batches(random.Random(5)))
    results = []
    for each in both:
        with closing(each.open_writer()) as connection:
            stored = [store.store(connection, one, one.last_receipt + SECOND) for one in made]
            found = each.read(everything)
            now = made[-1].last_receipt + timedelta(days=3)
            deleted = retention.delete_expired(
                connection, DataDir(tmp_path), Settings(retention_days=1), now
            )
            results.append((stored, found, deleted, each.read(everything)))
    assert results[1] == results[0]
    counts, before = results[0][:2]
    assert before is not None
    assert min(sum(one.repeated for one in counts), sum(one.stored for one in counts)) > 100
    empty = [name for name, value in before.items() if not value]
    assert empty == []


def test_units_are_exact_for_every_valid_amount(writer: Writer) -> None:
    from pipeline.stores.postgresql_queries import _WHOLE

    amounts = [format(one, "f") for one in hard_decimals(random.Random(7))]
    writer.execute("CREATE TEMP TABLE amounts (number bigint, amount double precision)")
    rows = [(number, float(amount)) for number, amount in enumerate(amounts)]
    writer.executemany("INSERT INTO amounts VALUES (?, ?)", rows)
    found = writer.execute(
        f"SELECT {unit_sums.units('amount', _WHOLE)} FROM amounts ORDER BY number"  # noqa: S608
    ).fetchall()
    assert [unit for (unit,) in found] == [units(amount) for amount in amounts]


@pytest.mark.parametrize("name", CASES)
def test_sums_are_exact_at_the_bounds(settings: Settings, writer: Writer, name: str) -> None:
    trades = [trade(number, *values) for number, values in enumerate(CASES[name], 1)]
    store.store(writer, store.Batch(0, 0, 1, 0, NOON, NOON, trades), NOON)
    queries = stores.store_of(settings).queries
    parts = split_ranges(stored_ranges(writer), 2)
    for window_s in (1, 60, DAY_S):
        query = queries.over_ranges(parts, queries.groups(window_s))
        rows = writer.execute(f"SELECT groups FROM ({query}) AS found").fetchall()  # noqa: S608
        groups = (unit_sums.of_group(group) for (text,) in rows for group in json.loads(text))
        length = window_s * 1_000_000
        windows: dict[int, list[Trade]] = {}
        for one in trades:
            micros = int((one.time - datetime.fromtimestamp(0, UTC)) / timedelta(microseconds=1))
            windows.setdefault(micros // length * length, []).append(one)
        assert unit_sums.by_window(groups, length) == {
            start: expected(members) for start, members in windows.items()
        }


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *((c, v) for c in ("price", "best_bid", "last_size") for v in (*BAD_NUMBERS, float("nan"))),
        *((column, None) for column in ("price", "last_size", "side", "time")),
        *(("side", value) for value in ("BUY", "")),
        *(("time", v) for v in ("2025-12-02 05:00:00", "2025-12-02T05:00:00+00:00", "yesterday")),
        *(("trade_id", value) for value in (0, -1)),
    ],
)
def test_impossible_values_fail_the_checks(
    shared_writer: Writer, column: str, value: object
) -> None:
    insert = f"INSERT INTO btc_prices VALUES ({', '.join('?' * len(GOOD_ROW))})"  # noqa: S608
    with pytest.raises(psycopg.IntegrityError) as error:
        shared_writer.execute(insert, [*(GOOD_ROW | {column: value}).values()])
    assert family_of(error.value) is Family.FAULT


@pytest.fixture(scope="module")
def shared_writer(
    server: PostgresqlServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Writer]:
    settings = settings_of(server, tmp_path_factory.mktemp("shared"))
    with closing(stores.store_of(settings).open_writer()) as connection:
        yield connection


# --- transactions -----------------------------------------------------------------------------


def test_a_second_writer_makes_the_first_one_start_again(settings: Settings) -> None:
    """Both continue after the newest stored record, so no trade is lost or stored twice."""
    chosen = stores.store_of(settings)
    with ExitStack() as stack:
        first, second = (stack.enter_context(closing(chosen.open_writer())) for _ in range(2))
        put(first, [1, 2])
        with pytest.raises(RestartError, match="another program changed PostgreSQL at"):
            put(second, [2, 3], 1)
        put(first, [3], 2)
        first.check()
    assert ids_in(settings) == [1, 2, 3]


def test_a_restored_backup_with_as_many_transactions_is_noticed(
    settings: Settings, writer: Writer
) -> None:
    """The transaction of the writer is gone, and another one has its number."""
    put(writer, [1])
    put(writer, [2], 1)
    with closing(stores.store_of(settings).open_writer()) as other:
        other.execute("DELETE FROM btc_prices WHERE trade_id = 2")
        other.execute("DELETE FROM ingest WHERE number = 2")
    with closing(stores.store_of(settings).open_writer()) as other:
        put(other, [3, 4], 1)
    with pytest.raises(RestartError, match="another program changed PostgreSQL at"):
        put(writer, [5], 3)
    assert ids_in(settings) == [1, 3, 4]


def put_rows(connection: Writer, ids: Sequence[int]) -> None:
    for number in ids:
        connection.insert_trades([tuple((GOOD_ROW | {"trade_id": number}).values())])


def test_a_transaction_that_fails_stores_nothing(settings: Settings, writer: Writer) -> None:
    put(writer, [1])
    with pytest.raises(psycopg.errors.CheckViolation), writer.transaction():
        put_rows(writer, [5, 0])
    put(writer, [2], 1)
    assert ids_in(settings) == [1, 2]


@contextmanager
def cut_at_commit(server: PostgresqlServer, *, forwards: bool) -> Iterator[tuple[int, Event]]:
    """Yield the port of a proxy for one connection, and an event that arms it.

    The armed proxy closes the connection at a COMMIT. It forwards the COMMIT to the server before
    that, and waits for the answer, or it does not.
    """
    armed = Event()

    def serve() -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", server.port)) as target:
            other = {client: target, target: client}
            while True:
                for source in select.select([client, target], [], [])[0]:
                    data = source.recv(65_536)
                    is_cut = armed.is_set() and source is client and b"COMMIT" in data
                    if not data or (is_cut and not forwards):
                        return
                    other[source].sendall(data)
                    if is_cut:
                        target.recv(65_536)
                        return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], armed
        thread.join(10)


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_lost_answer_to_a_commit_loses_and_doubles_nothing(
    server: PostgresqlServer, settings: Settings, is_stored: bool
) -> None:
    """The consumer does not know whether the transaction is stored. The next start reads it."""
    ids = [1, 2, 2, 3, 4, 5]
    with cut_at_commit(server, forwards=is_stored) as (port, armed):
        url = settings.store_url.replace(f":{server.port}/", f":{port}/") + "?sslmode=disable"
        through_proxy = stores.store_of(settings.model_copy(update={"store_url": url}))
        with closing(through_proxy.open_writer()) as connection:
            put(connection, ids[:2])
            armed.set()
            with pytest.raises(RestartError, match=r"the connection to PostgreSQL at .* is lost"):
                put(connection, ids[2:5], 2)
    with closing(stores.store_of(settings).open_writer()) as again:
        offset = next_offset(again)
        assert offset == (5 if is_stored else 2)
        put(again, ids[offset:], offset)
        totals = again.execute("SELECT records, stored, repeated FROM ingest_totals").fetchall()
    assert totals == [(6, 5, 1)]
    assert ids_in(settings) == [1, 2, 3, 4, 5]


def test_dropped_tables_are_created_again(settings: Settings, writer: Writer) -> None:
    put(writer, [1])
    tables = ", ".join([*TABLES, "store_version"])
    writer.execute(f"DROP TABLE {tables}")
    with pytest.raises(RestartError, match="were dropped"):
        writer.check()
    with closing(stores.store_of(settings).open_writer()) as again:
        assert next_offset(again) is None


def test_a_dropped_table_of_measurements_or_index_is_created_at_the_next_start(
    settings: Settings, writer: Writer
) -> None:
    names = [*TABLES[-3:], "open_gaps"]
    for offset, name in enumerate(names):
        writer.execute(f"DROP {'TABLE' if name in TABLES else 'INDEX'} {name}")
        with closing(stores.store_of(settings).open_writer()) as again:
            found = again.execute("SELECT CAST(to_regclass(?) AS text)", (name,)).fetchone()
            assert found == (name,)
            put(again, [offset + 1], offset)
    assert ids_in(settings) == list(range(1, len(names) + 1))


@pytest.mark.parametrize("table", TABLES[:-3])
def test_a_dropped_table_of_trades_or_bookkeeping_is_named_and_nothing_is_created(
    table: str, settings: Settings, writer: Writer
) -> None:
    """The consumer would continue at the last offset, or count the rows from 0."""
    put(writer, [1, 2, 5])
    writer.execute(f"DROP TABLE {table}")
    with pytest.raises(StoreError, match=f"The table {table} was dropped. Drop the other tables"):
        stores.store_of(settings).open_writer()
    assert writer.execute("SELECT to_regclass(?)", (table,)).fetchone() == (None,)


def test_a_database_with_tables_of_another_program_is_refused_and_not_changed(
    settings: Settings,
) -> None:
    with psycopg.connect(settings.store_url, password=PASSWORD, autocommit=True) as other:
        other.execute("CREATE TABLE gaps (something integer)")
        with pytest.raises(StoreError, match="has tables of another program"):
            stores.store_of(settings).open_writer()
        assert other.execute("SELECT to_regclass('btc_prices')").fetchone() == (None,)


def test_a_reader_sees_one_snapshot_and_cannot_write(settings: Settings, writer: Writer) -> None:
    put(writer, [1])

    def query(connection: Connection) -> tuple[int, int]:
        before = total_rows(connection)
        put(writer, [2], 1)
        return before, total_rows(connection)

    chosen = stores.store_of(settings)
    assert chosen.read(query) == (1, 1)
    assert chosen.read(total_rows) == 2
    with pytest.raises(TemporaryError, match="read-only"):
        chosen.read(lambda connection: connection.execute("DELETE FROM gaps"))


def test_a_replaced_table_fails_the_run(settings: Settings, writer: Writer) -> None:
    put(writer, [1])
    chosen = stores.store_of(settings)
    with chosen.unchanged():
        put(writer, [2], 1)
    with pytest.raises(TemporaryError, match="was replaced during the run"), chosen.unchanged():
        writer.execute("TRUNCATE btc_prices")


@pytest.mark.parametrize(
    ("name", "of_server", "own"),
    [
        ("synchronous_commit", "off", "on"),  # a commit waits for the disk
        # A transaction sees everything that was stored while it waited for the lock.
        ("default_transaction_isolation", "repeatable read", "read committed"),
        ("tcp_keepalives_idle", "7200", "10"),  # a lost machine does not keep the lock
    ],
)
def test_the_guarantees_do_not_depend_on_the_configuration_of_the_server(
    server: PostgresqlServer, settings: Settings, name: str, of_server: str, own: str
) -> None:
    database_name = settings.store_url.rpartition("/")[2]
    with psycopg.connect(server.url(), password=PASSWORD, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {database_name} SET {name} = '{of_server}'")
    with closing(stores.store_of(settings).open_writer()) as writer:
        assert writer.execute(f"SHOW {name}").fetchone() == (own,)


# --- refusals and errors ----------------------------------------------------------------------


def test_an_empty_database_has_no_trades(settings: Settings) -> None:
    chosen = stores.store_of(settings)
    assert chosen.read(total_rows) is None
    assert chosen.missing() is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("version = 6", "has schema version 6, not 5. Set STORE_URL to another database"),
        ("product = 'ETH-USD'", "holds trades of ETH-USD, not BTC-USD. Set STORE_URL"),
    ],
)
def test_a_newer_schema_and_another_product_are_refused(
    settings: Settings, writer: Writer, change: str, words: str
) -> None:
    writer.execute(f"UPDATE store_version SET {change}")  # noqa: S608 - constants
    chosen = stores.store_of(settings.model_copy(update={"product_id": "BTC-USD"}))
    for use in (chosen.open_writer, lambda: chosen.read(total_rows)):
        with pytest.raises(StoreError, match=words):
            use()


REFUSALS: dict[str, tuple[Callable[[Settings, Path], dict[str, Any]], str]] = {
    "a wrong password": (
        lambda _, folder: {"store_password_file": written(folder / "wrong", "wrong\n")},
        "PostgreSQL refuses the login. Check the user in STORE_URL and the password in STORE_PASS",
    ),
    "no password": (lambda *_: {"store_password_file": None}, "PostgreSQL refuses the login"),
    "an unknown user": (
        lambda settings, _: {"store_url": settings.store_url.replace("pipeline@", "nobody@")},
        "PostgreSQL refuses the login",
    ),
    "no database": (
        lambda settings, _: {"store_url": f"{settings.store_url}_x"},
        "PostgreSQL has no such database. Create it, or correct STORE_URL",
    ),
    "no file with a password": (
        lambda _, folder: {"store_password_file": folder / "missing"},
        "cannot read STORE_PASSWORD_FILE: No such file or directory. Set it to a file that",
    ),
    "an empty file with a password": (
        lambda _, folder: {"store_password_file": written(folder / "empty", "")},
        "must have one line: the password",
    ),
}


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_one_sentence_with_what_to_do(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    changed, words = REFUSALS[name]
    check_refusal(settings.model_copy(update=changed(settings, tmp_path)), words)


def check_refusal(settings: Settings, words: str) -> None:
    """Check that the writer and a reader are refused with one line that has these words."""
    chosen = stores.store_of(settings)
    for use in (chosen.open_writer, lambda: chosen.read(total_rows)):
        with pytest.raises(OperationalError) as error:
            use()
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert PASSWORD not in str(error.value)


def test_the_certificate_of_the_server_is_verified(
    server: PostgresqlServer, settings: Settings, tmp_path: Path
) -> None:
    url = settings.store_url
    encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    for parameters, is_encrypted in ((server.verified(), True), ("?sslmode=disable", False)):
        right = settings.model_copy(update={"store_url": url + parameters})
        with closing(stores.store_of(right).open_writer()) as connection:
            assert connection.execute(encrypted).fetchone() == (is_encrypted,)
    no_fit = "The certificate of PostgreSQL does not match sslrootcert or the host in STORE_URL. "
    no_file = "Cannot read the certificates to trust. Correct sslrootcert in STORE_URL"
    for wrong, words in (
        (url + server.verified(server.other_authority_file), no_fit),
        (url.replace("127.0.0.1", "localhost") + server.verified(), no_fit),
        (url + server.verified(tmp_path / "missing"), no_file),
        (url + server.verified(server.password_file), no_file),
    ):
        check_refusal(settings.model_copy(update={"store_url": wrong}), words)


def test_a_user_without_rights_is_refused(server: PostgresqlServer, settings: Settings) -> None:
    with psycopg.connect(server.url(), password=PASSWORD, autocommit=True) as admin:
        secret = psycopg.sql.Literal(PASSWORD)
        admin.execute(psycopg.sql.SQL("CREATE ROLE guest LOGIN PASSWORD {}").format(secret))
    url = settings.store_url.replace("pipeline@", "guest@")
    chosen = stores.store_of(settings.model_copy(update={"store_url": url}))
    with pytest.raises(OperationalError, match="Make the user in STORE_URL the owner"):
        chosen.open_writer()


def test_a_lock_of_another_program_is_temporary(settings: Settings, writer: Writer) -> None:
    put(writer, [1])
    with closing(stores.store_of(settings).open_writer()) as other:
        other.execute("SET lock_timeout = 100")
        writer.execute("BEGIN")
        writer.execute("LOCK TABLE btc_prices IN EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable) as error:
            put(other, [2], 1)
        writer.execute("ROLLBACK")
        assert family_of(error.value) is Family.TEMPORARY
        put(other, [2], 1)
    assert ids_in(settings) == [1, 2]


def test_a_killed_server_is_temporary_until_it_has_recovered(
    server: PostgresqlServer, settings: Settings
) -> None:
    chosen = stores.store_of(settings)
    with closing(chosen.open_writer()) as writer:
        put(writer, [1])
        server.stop(signal.SIGKILL)
        with pytest.raises(RestartError, match=r"connection to PostgreSQL at .* is lost"):
            put(writer, [2], 1)
        with pytest.raises(RestartError):
            writer.check()
    for use in (chosen.open_writer, lambda: chosen.read(total_rows)):
        with pytest.raises(TemporaryError, match="Connection refused"):
            use()
    server.start()
    wait_until(lambda: has_recovered(settings), 30, "the recovery of PostgreSQL")
    assert ids_in(settings) == [1]


def has_recovered(settings: Settings) -> bool:
    try:
        ids_in(settings)
    except TemporaryError:
        return False
    return True


#: Errors of the client of PostgreSQL: the family, and the beginning of the sentence. The error of a
#: refused connection has no SQLSTATE.
POSTGRESQL: list[tuple[psycopg.Error, Family, str]] = [
    (psycopg.errors.DiskFull("full"), Family.TEMPORARY, "The disk of PostgreSQL is full"),
    (psycopg.errors.TooManyConnections("53300"), Family.TEMPORARY, "PostgreSQL has too many"),
    (psycopg.errors.LockNotAvailable("late"), Family.TEMPORARY, "Another program has locked"),
    (psycopg.errors.AdminShutdown("terminating"), Family.TEMPORARY, "terminating"),
    (psycopg.errors.CannotConnectNow("starting"), Family.TEMPORARY, "starting"),
    (psycopg.errors.DeadlockDetected("deadlock"), Family.TEMPORARY, "deadlock"),
    (psycopg.errors.ReadOnlySqlTransaction("standby"), Family.TEMPORARY, "standby"),
    (psycopg.errors.IoError("disk"), Family.TEMPORARY, "disk"),
    (psycopg.OperationalError("Connection refused"), Family.TEMPORARY, "Connection refused"),
    (
        psycopg.OperationalError("FATAL:  the database system is starting up"),
        Family.TEMPORARY,
        "FATAL: the database system",
    ),
    (
        psycopg.OperationalError('FATAL:  no pg_hba.conf entry for host "10.0.0.1"'),
        Family.OPERATIONAL,
        "PostgreSQL refuses this client. Allow it in pg_hba.conf",
    ),
    (
        psycopg.OperationalError("server does not support SSL, but SSL was required"),
        Family.OPERATIONAL,
        "PostgreSQL does not accept TLS. Set ssl = on in postgresql.conf of the server, or correct",
    ),
    (
        psycopg.errors.InsufficientPrivilege("denied"),
        Family.OPERATIONAL,
        "PostgreSQL refuses access. Make the user in STORE_URL the owner",
    ),
    (psycopg.errors.DataCorrupted("page"), Family.OPERATIONAL, "PostgreSQL reports damaged data"),
    (
        psycopg.errors.DuplicateTable('relation "gaps" already exists'),
        Family.OPERATIONAL,
        "The database has tables of another program. Set STORE_URL to an empty database",
    ),
    (psycopg.errors.SyntaxError("SELEKT"), Family.FAULT, "SELEKT"),
    (psycopg.errors.UndefinedColumn("does not exist"), Family.FAULT, "does not exist"),
    (psycopg.errors.CheckViolation("violated"), Family.FAULT, "violated"),
    (psycopg.ProgrammingError("wrong number of parameters"), Family.FAULT, "wrong number"),
]


@pytest.mark.parametrize(("error", "family", "words"), POSTGRESQL, ids=str)
def test_an_error_of_postgresql_has_a_family_and_an_action(
    error: psycopg.Error, family: Family, words: str
) -> None:
    assert family_of(error) is family
    assert sentence(error).startswith(words)


# --- the whole pipeline -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_pipeline_is_exact_although_consumer_and_server_are_killed(
    run: Run, tmp_path: Path, kafka: Broker, server: PostgresqlServer
) -> None:
    """All readers find the trades: batch, comparison and report. The password is nowhere."""
    access = {
        "STORE_URL": server.new_database() + server.verified(),
        "STORE_PASSWORD_FILE": server.password_file,
    }
    with new_chain(run, tmp_path, kafka, **access, BATCH_MODE="pushdown") as chain:
        chain.feed(SAMPLE, "600")
        chain.start()
        alive = list(chain.running.values())
        wait_until(lambda: chain.rows() > 500, 60, "500 rows", *alive)
        chain.restart("consumer")
        wait_until(lambda: chain.rows() > 2000, 60, "2,000 rows", chain.running["consumer"])
        server.stop(signal.SIGKILL)
        server.start()
        expected = chain.settle(SAMPLE, 90)
        assert golden.differences(expected, chain.data) == []
        exposed = [
            process
            for name in ("consumer", "batch_scheduler")
            for process in chain.running[name].tree()
            if PASSWORD in repr((process.cmdline(), process.environ()))
        ]
        assert exposed == []
        settings = {name: value for name, value in chain.environment.items() if name in NAMES}
        compared = run("pipeline.compare", "--json", **settings)
        report = run("report", **settings)
        assert (compared.process.wait(60), report.process.wait(60)) == (0, 0)
        found = json.loads(compared.text())
        assert (found["compared"], found["unexplained"]) == (len(chain.final_windows()), 0)
        assert found["missing"] == len(chain.ids()[1])
    written_files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [p for p in written_files if PASSWORD.encode() in p.read_bytes()] == []
