"""What a run reads: the rows that were stored when it began, and its read-only queries."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from pipeline.stores import common_queries
from pipeline.stores.interface import TRANSACTION, Connection, MissingTablesError, Store

T = TypeVar("T")

#: Ranges of trade ids: the first and the last id of each, in ascending order.
Ranges = list[tuple[int, int]]
#: The values of `TRANSACTION`.
Transaction = tuple[object, ...]


class Snapshot(NamedTuple):
    """The rows at one moment. Rows that are stored later are outside of the ranges."""

    #: The ids in these ranges are stored, every one of them.
    ranges: Ranges
    #: The newest transaction. None: the database has no record of its transactions.
    newest: Transaction | None


def read_store(store: Store, query: Callable[[Connection], T]) -> T | None:
    """Return the result of a query over one snapshot; None if there is no table yet.

    Raises:
        TemporaryError: the database cannot be read now.
        OperationalError: it cannot be read. The text names the action.
    """
    try:
        return store.read(query)
    except MissingTablesError:
        return None


def snapshot(connection: Connection) -> Snapshot:
    """Return what is stored now. Call it in a transaction: both values are of one moment."""
    newest = connection.execute(f"SELECT {TRANSACTION} {common_queries.NEWEST}").fetchone()
    return Snapshot(common_queries.stored_ranges(connection), newest)


def has_transaction(connection: Connection, transaction: Transaction) -> bool:
    """Return whether the database still has this transaction, the newest one of an earlier run.

    If so, it has all rows of that time, unchanged: the consumer only inserts rows. A database that
    was restored from an older backup, or filled again from Kafka, does not have it.
    """
    found = connection.execute(
        f"SELECT {TRANSACTION} FROM ingest WHERE number = ?",  # noqa: S608 - a constant
        transaction[:1],
    ).fetchone()
    return bool(found == transaction)
