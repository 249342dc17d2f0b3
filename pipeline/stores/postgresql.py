"""The PostgreSQL database: its connections and its errors.

Transactions of the consumer exclude each other by an advisory lock. Readers never wait.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg.types.numeric import IntLoader

from pipeline import setting_files
from pipeline.addresses import tls_parameters
from pipeline.errors import (
    Family,
    OperationalError,
    RestartError,
    TemporaryError,
    family_of,
    sentence,
)
from pipeline.postgresql_errors import action_of, retried
from pipeline.settings import Settings
from pipeline.stores import common_queries, postgresql_queries
from pipeline.stores.interface import (
    BUSY_SECONDS,
    RELATED_TABLES,
    SCHEMA_VERSION,
    TRANSACTION,
    Connection,
    Content,
    Cursor,
    JdbcSource,
    MissingTablesError,
    StoreError,
)
from pipeline.stores.postgresql_schema import DROPPED_PARTS, SCHEMA

T = TypeVar("T")

#: Seconds to wait for a connection, and for a machine that no longer answers.
_CONNECT_SECONDS, _NETWORK_SECONDS = 10, 30
#: The key of the advisory lock of a transaction of the consumer. Only the consumer uses it.
_LOCK = 7_306_932_401

#: One statement for all rows of a transaction: 2.5 times as fast as a statement for each.
_INSERT_TRADES = """
INSERT INTO btc_prices (trade_id, price, best_bid, best_ask, side, time, last_size)
SELECT * FROM unnest(%b::bigint[], %b::double precision[], %b::double precision[],
    %b::double precision[], %b::text[], %b::text[], %b::double precision[])
ON CONFLICT (trade_id) DO NOTHING
"""
_NEWEST_TRANSACTION = f"SELECT {TRANSACTION} {common_queries.NEWEST}"
#: The options of each connection. They do not depend on the configuration of the server:
#: - Floating point numbers are exact, and a statement does not wait forever for a lock.
#: - A transaction that has waited for the lock sees what the transaction before it has stored.
#: - The server closes a connection whose machine is lost. By default it takes two hours to notice
#:   the loss, and an unfinished transaction keeps its lock.
_OPTIONS = (
    f"-c extra_float_digits=1 -c lock_timeout={BUSY_SECONDS * 1000:.0f} -c timezone=UTC "
    r"-c default_transaction_isolation=read\ committed "
    f"-c tcp_keepalives_idle={_NETWORK_SECONDS // 3} "
    f"-c tcp_keepalives_interval={_NETWORK_SECONDS // 3} -c tcp_keepalives_count=2"
)


@cache
def _translated(sql: str) -> str:
    """Return SQL with the parameters of psycopg. No SQL of this project has a `?` in a text."""
    return sql.replace("%", "%%").replace("?", "%s")


class PostgresqlConnection:
    """A connection that accepts the same SQL as one to SQLite."""

    def __init__(self, raw: "psycopg.Connection[Any]", name: str) -> None:
        self._raw = raw
        self._name = name
        # PostgreSQL returns the sum of a column of whole numbers as a decimal.
        raw.adapters.register_loader("numeric", IntLoader)

    def execute(self, sql: str, parameters: Sequence[object] = (), /) -> Cursor:
        """Execute a statement.

        Raises:
            RestartError: the connection is lost.
        """
        return self._execute(_translated(sql), parameters)

    def _execute(self, sql: str, parameters: Sequence[object]) -> Cursor:
        with self._noticing_loss():
            cursor: Cursor = self._raw.execute(sql, parameters)
        return cursor

    def executemany(self, sql: str, rows: Iterable[Sequence[object]], /) -> None:
        """Execute a statement for each of these rows.

        Raises:
            RestartError: the connection is lost.
        """
        with self._noticing_loss(), self._raw.cursor() as cursor:
            cursor.executemany(_translated(sql), rows)

    def close(self) -> None:
        self._raw.close()

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        """Turn an error into a RestartError if the connection cannot be used any more."""
        try:
            yield
        except psycopg.Error as error:
            if self._raw.closed:
                raise RestartError(
                    f"the connection to {self._name} is lost. The service connects again. "
                    f"Cause: {sentence(error)}"
                ) from error
            raise


class PostgresqlWriter(PostgresqlConnection):
    """The connection of the consumer.

    It remembers the newest transaction. If another program stores records or restores a backup, the
    next transaction fails and the consumer continues after the newest stored record.
    """

    def __init__(self, raw: "psycopg.Connection[Any]", name: str) -> None:
        super().__init__(raw, name)
        self._newest = self._newest_transaction()

    def _newest_transaction(self) -> tuple[object, ...] | None:
        """Return what identifies the newest transaction.

        Its number is not enough: after a restored backup, another transaction can have the same
        number.
        """
        found: tuple[object, ...] | None = self.execute(_NEWEST_TRANSACTION).fetchone()
        return found

    def check(self) -> None:
        """Check that no other program has changed the bookkeeping.

        Raises:
            RestartError: another program has changed it, or the connection is lost.
        """
        try:
            found = self._newest_transaction()
        except psycopg.errors.UndefinedTable as error:
            raise RestartError(
                f"tables of {self._name} were dropped. The consumer opens the database again"
            ) from error
        if found != self._newest:
            raise RestartError(
                f"another program changed {self._name}. The consumer continues after the newest "
                f"stored record. Newest transaction (number, time, topic, offset, rows): {found}, "
                f"expected: {self._newest}"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Call `check`, then commit what the block writes, or nothing after an error."""
        self.execute("BEGIN")
        try:
            self.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            self.check()
            yield
            newest = self._newest_transaction()
            self.execute("COMMIT")
            self._newest = newest
        except BaseException:
            if not self._raw.closed:
                self.execute("ROLLBACK")
            raise

    def stored_trades(self, ids: Sequence[int]) -> dict[int, Content]:
        """Return the stored trades of these ids."""
        rows = self.execute(
            "SELECT trade_id, time, side, price, last_size FROM btc_prices "
            "WHERE trade_id = ANY(CAST(? AS bigint[]))",
            (list(ids),),
        )
        return {row[0]: row[1:] for row in rows}

    def insert_trades(self, rows: Iterable[tuple[object, ...]]) -> None:
        """Insert rows of `btc_prices`, except those whose trade id is stored."""
        columns = list(map(list, zip(*rows, strict=True)))
        if columns:
            self._execute(_INSERT_TRADES, columns)


class PostgresqlStore:
    """The PostgreSQL database that STORE_URL names."""

    queries = postgresql_queries.QUERIES
    driver = "postgresql"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        parts = urlsplit(settings.store_url)
        self._user, self._host = parts.username, parts.hostname
        self._port, self._database = parts.port, parts.path[1:]
        #: The parameters of TLS. They have the same names in psycopg and JDBC.
        self._tls = dict(tls_parameters(settings.store_url.partition("?")[2]))
        #: For messages.
        self._name = f"PostgreSQL at {self._host}:{self._port}/{self._database}"

    def open_writer(self) -> PostgresqlWriter:
        """Open the writing connection of the consumer; create the tables in an empty database.

        Raises:
            StoreError: the database has another schema version, trades of another product, or only
                a part of the tables.
            OperationalError: it cannot be opened. The text names the action.
            TemporaryError: the server does not answer.
        """
        raw = self._connect()
        try:
            with self._explained():
                # A server may not wait for its disk by default.
                raw.execute(
                    "SELECT set_config('synchronous_commit', 'on', false) "
                    "WHERE current_setting('synchronous_commit') = 'off'"
                )
                with raw.transaction():
                    raw.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                    if raw.execute("SELECT to_regclass('store_version')").fetchone() == (None,):
                        raw.execute(SCHEMA)  # one statement for each table, all or none of them
                        raw.execute(
                            "INSERT INTO store_version VALUES (%s, %s)",
                            (SCHEMA_VERSION, self._settings.product_id),
                        )
                    self._check_version(raw, is_writer=True)
                    self._check_tables(raw)
                    raw.execute(DROPPED_PARTS)
                return PostgresqlWriter(raw, self._name)
        except BaseException:
            raw.close()
            raise

    def _check_version(self, raw: "psycopg.Connection[Any]", *, is_writer: bool) -> None:
        version, product = raw.execute("SELECT version, product FROM store_version").fetchone() or (
            None,
            None,
        )
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{self._name} has schema version {version}, not {SCHEMA_VERSION}. Set STORE_URL "
                "to another database."
            )
        chosen = "product_id" in self._settings.model_fields_set
        if product != self._settings.product_id and (chosen or is_writer):
            raise StoreError(
                f"{self._name} holds trades of {product}, not {self._settings.product_id}. Set "
                "STORE_URL to another database."
            )

    def _check_tables(self, raw: "psycopg.Connection[Any]") -> None:
        for table in RELATED_TABLES:
            if raw.execute("SELECT to_regclass(%s)", (table,)).fetchone() == (None,):
                raise StoreError(
                    f"The table {table} was dropped. Drop the other tables of the consumer too: it "
                    f"then creates all of them and fills them from Kafka. The tables: "
                    f"{', '.join((*RELATED_TABLES, 'store_version'))} in {self._name}"
                )

    def read(self, query: Callable[[Connection], T]) -> T | None:
        """Return the result of a query over one snapshot; None if there are no tables yet.

        Raises:
            TemporaryError: the database cannot be read now.
            MissingTablesError: it has no tables of this version.
            OperationalError: it cannot be read. The text names the action.
        """
        with closing(self._connect()) as raw, self._explained():
            raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if raw.execute("SELECT to_regclass('store_version')").fetchone() == (None,):
                return None
            self._check_version(raw, is_writer=False)
            return query(PostgresqlConnection(raw, self._name))

    def missing(self) -> None:
        """Return None: the database is not a file."""

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Check after the block that the table of the trades is the one that it was before.

        Raises:
            TemporaryError: it was dropped, truncated or restored.
        """
        before = self.read(_table_identity)
        yield
        if self.read(_table_identity) != before:
            raise TemporaryError(
                f"{self._name} was replaced during the run. The next run reads the new one"
            )

    def jdbc(self) -> JdbcSource:
        """Return how Spark reads the database.

        Raises:
            OperationalError: the file with the password cannot be read.
        """
        password = self._password()
        host = f"[{self._host}]" if ":" in (self._host or "") else self._host
        return JdbcSource(
            f"jdbc:postgresql://{host}:{self._port}/{self._database}",
            {
                "user": self._user or "",
                "connectTimeout": str(_CONNECT_SECONDS),
                "options": _OPTIONS,
                **self._tls,
                **({} if password is None else {"password": password}),
            },
        )

    def _connect(self) -> "psycopg.Connection[Any]":
        password = self._password()
        with self._explained():
            return psycopg.connect(
                host=self._host,
                port=self._port,
                user=self._user,
                dbname=self._database,
                password=password,
                **self._tls,
                options=_OPTIONS,
                client_encoding="UTF8",
                connect_timeout=_CONNECT_SECONDS,
                tcp_user_timeout=_NETWORK_SECONDS * 1000,
                keepalives_idle=_NETWORK_SECONDS // 3,
                keepalives_interval=_NETWORK_SECONDS // 3,
                keepalives_count=2,
                application_name="stream-vs-batch",
                autocommit=True,
            )

    def _password(self) -> str | None:
        """Return the password, the only line of its file; None if no file is set."""
        path = self._settings.store_password_file
        if path is None:
            return None
        lines = setting_files.read_text("STORE_PASSWORD_FILE", path).splitlines()
        if len(lines) != 1 or not lines[0]:
            raise OperationalError(f"STORE_PASSWORD_FILE={path} must have one line: the password")
        return lines[0]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn expected errors of the client into errors of this project, with a sentence."""
        try:
            yield
        except psycopg.errors.UndefinedTable as error:
            raise MissingTablesError(
                f"{self._name} lacks tables of this version. Start the consumer, which creates "
                f"them, or set STORE_URL to another database. Cause: {sentence(error)}"
            ) from error
        except psycopg.Error as error:
            match family_of(error):
                case Family.TEMPORARY:
                    text = sentence(error)
                    if action_of(error) is None:
                        text = f"{retried(error)}. Cause: {text}"
                    raise TemporaryError(f"{text} ({self._name})") from error
                case Family.OPERATIONAL:
                    raise StoreError(f"{sentence(error)} ({self._name})") from error
            raise


def _table_identity(connection: Connection) -> object:
    return connection.execute(
        "SELECT oid, relfilenode FROM pg_class WHERE oid = to_regclass('btc_prices')"
    ).fetchone()
