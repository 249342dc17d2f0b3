"""A SQLite store in memory: property tests open hundreds of them."""

import sqlite3

from pipeline.stores import sqlite, sqlite_schema


class _MemoryWriter(sqlite.SqliteWriter):
    def check(self) -> None:
        """Do nothing: a database in memory has no files."""


def open_writer() -> sqlite.SqliteWriter:
    """Return a connection to an empty database with the tables of this version."""
    connection = sqlite3.connect(":memory:", isolation_level=None, factory=_MemoryWriter)
    connection.executescript(sqlite_schema.SCHEMA)
    return connection
