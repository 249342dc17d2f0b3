"""What a run reads: the rows that were stored when it began, and its read-only queries."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipeline.errors import TemporaryError
from pipeline.ingest import store

T = TypeVar("T")

#: Ranges of trade ids: the first and the last id of each, in ascending order.
Ranges = list[tuple[int, int]]
#: A transaction of the consumer: the values of _TRANSACTION. No other one has the same values.
Transaction = tuple[object, ...]
_TRANSACTION = "number, committed_at, first_offset, last_offset, total_rows"


class Snapshot(NamedTuple):
    """The rows at one moment. Rows that are stored later are outside of the ranges."""

    #: The ids in these ranges are stored, every one of them.
    ranges: Ranges
    #: The newest transaction. None: the database has no record of its transactions.
    newest: Transaction | None


def read_store(database: Path, query: Callable[[sqlite3.Connection], T]) -> T | None:
    """Return the result of a query in one transaction; None if there is no table yet.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    if not database.exists():
        return None
    with closing(store.open_reader(database)) as connection:
        try:
            connection.execute("BEGIN")
            return query(connection)
        except sqlite3.OperationalError as error:
            if store.no_table_yet(error):
                return None
            raise


def snapshot(connection: sqlite3.Connection) -> Snapshot:
    """Return what is stored now. Call it in a transaction: both values are of one moment."""
    newest = connection.execute(
        f"SELECT {_TRANSACTION} FROM ingest ORDER BY number DESC LIMIT 1"  # noqa: S608 - a constant
    ).fetchone()
    return Snapshot(store.stored_ranges(connection), newest)


def has_transaction(connection: sqlite3.Connection, transaction: Transaction) -> bool:
    """Return whether the database still has this transaction, the newest one of an earlier run.

    If so, it has all rows of that time, unchanged: the consumer only inserts rows. A database that
    was restored from an older backup, or filled again from Kafka, does not have it.
    """
    found = connection.execute(
        f"SELECT {_TRANSACTION} FROM ingest WHERE number = ?",  # noqa: S608 - a constant
        transaction[:1],
    ).fetchone()
    return bool(found == transaction)


@contextmanager
def not_replaced(database: Path) -> Iterator[None]:
    """Check after the block that the database is still the file that it was before.

    The file stays open, so no other file can get its inode.

    Raises:
        TemporaryError: it was replaced or deleted.
    """
    with database.open("rb") as opened:
        yield
        if not database.exists() or not os.path.samestat(
            os.fstat(opened.fileno()), database.stat()
        ):
            raise TemporaryError(
                f"{database.name} was replaced during the run. The next run reads the new one"
            )
