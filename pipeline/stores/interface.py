"""What a store can do: the same for SQLite and PostgreSQL.

The SQL of all other modules is valid for both. A parameter is a `?`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from pipeline.errors import OperationalError

T = TypeVar("T")

SCHEMA_VERSION = 5
#: The tables that belong together: without one of them, the others are wrong. The tables of the
#: measurements (`latency`, `lags`, `lag_position`) can be made again alone.
RELATED_TABLES = ("btc_prices", "ingest", "ingest_totals", "gaps", "evidence")
#: Seconds that a statement waits for the lock of another process before it fails.
BUSY_SECONDS = 5.0
#: The columns of `ingest` that identify a transaction. In a restored backup, a transaction can have
#: the number of another one.
TRANSACTION = "number, committed_at, topic, first_offset, last_offset, total_rows"
#: Groups of ranges of trade ids: the first and the last id of each. One connection reads a group.
Parts = Sequence[Sequence[tuple[int, int]]]
#: The time, side, price and size of a stored trade.
Content = tuple[str, str, float, float]


class StoreError(OperationalError):
    """The store is damaged, belongs to another program, or has another schema version."""


class MissingTablesError(StoreError):
    """The database lacks tables that the consumer of this version creates."""


class Cursor(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection. The one of `Store.read` shows one snapshot."""

    def execute(self, sql: str, parameters: Sequence[object] = ..., /) -> Cursor: ...
    def executemany(self, sql: str, rows: Iterable[Sequence[object]], /) -> object: ...
    def close(self) -> None: ...


class Writer(Connection, Protocol):
    """The connection of the consumer. No other connection writes."""

    def transaction(self) -> AbstractContextManager[None]:
        """Call `check`, then commit what the block writes. After an error, commit nothing.

        Raises:
            RestartError: see `check`.
        """
        ...

    def check(self) -> None:
        """Check that this connection still writes to the database that it opened.

        Raises:
            RestartError: the database was deleted or replaced, or the connection is lost. It has to
                be opened again. What it then lacks is read again from Kafka.
        """
        ...

    def stored_trades(self, ids: Sequence[int]) -> dict[int, Content]:
        """Return the stored trades of these ids."""
        ...

    def insert_trades(self, rows: Iterable[tuple[object, ...]]) -> None:
        """Insert rows of `btc_prices`, except those whose trade id is stored."""
        ...


class Queries(NamedTuple):
    """The SQL of batch runs."""

    #: Returns a query with its table `given(part, first, last)`: the ranges of each part.
    over_ranges: Callable[[Parts, str], str]
    #: The trades in `given`: part, trade_id, price and signed_size in units, time_us.
    trades: str
    #: Returns the query for the sums over the trades in `given`: part, and a JSON array of groups.
    #: Each group has the values of `unit_sums.of_group`. The argument is the length of a window,
    #: seconds.
    groups: Callable[[int], str]


class JdbcSource(NamedTuple):
    """How Spark reads the store."""

    url: str
    #: The user and the password, which must not be logged.
    properties: Mapping[str, str]


class Store(Protocol):
    """A database that holds the trades and the bookkeeping of the consumer."""

    queries: Queries
    #: The beginning of the name of the JDBC driver's jar.
    driver: str

    def open_writer(self) -> Writer:
        """Open the only writing connection; create or migrate the schema.

        Raises:
            StoreError: the database has another schema version, or is damaged.
        """
        ...

    def read(self, query: Callable[[Connection], T]) -> T | None:
        """Return the result of a query over one snapshot; None if there is no database yet.

        Raises:
            TemporaryError: the database cannot be read now.
            MissingTablesError: it has no tables of this version.
            OperationalError: it cannot be read. The text names the action.
        """
        ...

    def missing(self) -> Path | None:
        """Return the file of the database if it does not exist; None if it is not a file.

        The page calls this at each refresh, so it must not connect to a server.
        """
        ...

    def unchanged(self) -> AbstractContextManager[None]:
        """Check after the block that the database is still the one that it was before.

        Raises:
            TemporaryError: it was replaced or deleted.
        """
        ...

    def jdbc(self) -> JdbcSource:
        """Return how Spark reads the store.

        Raises:
            OperationalError: the file with the password cannot be read.
        """
        ...
