"""The place where the trades are stored: SQLite, or PostgreSQL if STORE_URL names it.

`interface.py` is what all other modules use. `sqlite.py` and `postgresql.py` open the databases.
`sqlite_schema.py` and `postgresql_schema.py` are the SQL of their tables, and `sqlite_queries.py`
and `postgresql_queries.py` that of batch runs.
`common_queries.py` has the queries that several services need.
"""

from pipeline.data_dir import DataDir
from pipeline.settings import Settings
from pipeline.stores import sqlite
from pipeline.stores.interface import Store


def store_of(settings: Settings) -> Store:
    """Return the store that the settings name. This opens nothing."""
    if settings.store_url == "sqlite":
        return sqlite.SqliteStore(DataDir(settings.data_dir).database)
    # The import of the client takes a tenth of a second. Only this store needs it.
    from pipeline.stores import postgresql  # noqa: PLC0415

    return postgresql.PostgresqlStore(settings)
