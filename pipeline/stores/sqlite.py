"""The SQLite database: its connections and its errors.

Only the connection of the consumer writes; all others are read-only. SQLite before 3.51.3 can
corrupt the write-ahead log if two connections write at once.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from pipeline.errors import Family, RestartError, TemporaryError, family_of
from pipeline.stores import sqlite_queries, sqlite_schema
from pipeline.stores.interface import (
    BUSY_SECONDS,
    RELATED_TABLES,
    SCHEMA_VERSION,
    Connection,
    Content,
    JdbcSource,
    MissingTablesError,
    StoreError,
)

T = TypeVar("T")

_INSERT_TRADE = """
INSERT INTO btc_prices (trade_id, price, best_bid, best_ask, side, time, last_size)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (trade_id) DO NOTHING
"""


#: What a person can do about a damaged file.
_REPLACE = "Restore a backup, or move the file away: the consumer fills a new one from Kafka"
#: What a person can do about a file that cannot be written, by the primary result code of SQLite.
_WRITE_ACTIONS = {
    **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), "stop the program that locks it"),
    sqlite3.SQLITE_FULL: "free space on its disk",
    **dict.fromkeys(
        (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN),
        # SQLite gives its other two files, `-wal` and `-shm`, the rights of the database.
        "give this user write access to {0}* and their directory",
    ),
}
#: The codes of errors that only a person can correct. Other codes can be temporary: too many open
#: files (SQLITE_CANTOPEN), or a recovery by another connection (SQLITE_READONLY_RECOVERY).
_NO_RIGHTS = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_READONLY_DIRECTORY, sqlite3.SQLITE_PERM)


def damaged(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    """Return the error for a file that is not a database, or is damaged."""
    return StoreError(
        f"Cannot open {path.name}: {error}. {_REPLACE}. Or choose another directory "
        f"(DATA_DIR=DIRECTORY). The file: {path}"
    )


class SqliteWriter(sqlite3.Connection):
    """The writing connection. It can check that its files are still at their paths.

    SQLite writes into files that were deleted or replaced, without an error.
    """

    #: The database, its write-ahead log and its shared memory.
    _paths: tuple[Path, ...] = (Path(),)
    _files: tuple[tuple[int, int], ...] = ()
    _bytes = 0

    def remember_files(self, path: Path) -> None:
        """Record which files this connection has opened."""
        self._paths = (path, *_companions(path))
        self._files, self._bytes = _identities(self._paths)

    def check(self) -> None:
        """Check that the files at the paths are the open ones. This takes some microseconds.

        Raises:
            RestartError: a file was deleted, replaced or truncated. The database has to be opened
                again. What it then lacks is read again from Kafka.
        """
        path = self._paths[0]
        try:
            files, size = _identities(self._paths)
        except OSError as error:
            name = Path(error.filename or path).name
            raise RestartError(
                f"{name} was deleted while it was open. The consumer opens it again and reads "
                f"missing records from Kafka. The database: {path}"
            ) from error
        if files != self._files:
            raise RestartError(
                f"{path.name} was replaced while it was open. The consumer opens it again and "
                f"reads missing records from Kafka. The database: {path}"
            )
        if size < self._bytes:  # SQLite never makes it shorter: nothing here runs VACUUM
            raise RestartError(
                f"{path.name} was truncated while it was open. The consumer opens it again. Its "
                f"size was {self._bytes} bytes and is {size} bytes. The database: {path}"
            )
        self._bytes = size

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Call `check`, then commit what the block writes, or nothing after an error.

        Raises:
            TemporaryError: the database is locked or full, or cannot be written now.
            StoreError: this user may not write the file.
        """
        self.check()
        with _explained(self._paths[0]):
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                if self.in_transaction:  # on a full disk, SQLite has already rolled back
                    self.execute("ROLLBACK")
                raise

    def stored_trades(self, ids: Sequence[int]) -> dict[int, Content]:
        """Return the stored trades of these ids."""
        rows = self.execute(
            "SELECT trade_id, time, side, price, last_size "
            "FROM json_each(?) CROSS JOIN btc_prices ON trade_id = value",
            (json.dumps(ids),),
        )
        return {row[0]: row[1:] for row in rows}

    def insert_trades(self, rows: Iterable[tuple[object, ...]]) -> None:
        """Insert rows of `btc_prices`, except those whose trade id is stored."""
        self.executemany(_INSERT_TRADE, rows)


def _companions(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))


def _identities(paths: Iterable[Path]) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return the device and inode of each file, and the size of the first."""
    found = [path.stat() for path in paths]
    return tuple((of.st_dev, of.st_ino) for of in found), found[0].st_size


def _discard_log_of_truncated(path: Path) -> None:
    """Delete the write-ahead log of a database that was truncated to 0 bytes.

    SQLite would combine the log and the empty file into a damaged database. SQLite writes the first
    page of a new database before it creates a log, so no sound database is in this state.
    """
    if path.exists() and path.stat().st_size == 0:
        for companion in _companions(path):
            companion.unlink(missing_ok=True)


def open_writer(path: Path) -> SqliteWriter:
    """Open the only writing connection; create or migrate the schema.

    Raises:
        TemporaryError: the database is locked or full, or cannot be opened now.
        StoreError: the file is not a database, has another schema version, or this user may not
            write it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _discard_log_of_truncated(path)
    with _explained(path):
        return _open_writer(path)


def _open_writer(path: Path) -> SqliteWriter:
    connection = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None, factory=SqliteWriter
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # survives a power cut; costs little
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version in sqlite_schema.CONVERT:
            connection.executescript(sqlite_schema.CONVERT[version])
        elif version == SCHEMA_VERSION:
            _check_tables(connection, path)
        elif version != 0:
            raise StoreError(
                f"{path.name} has schema version {version}, not {SCHEMA_VERSION}. Choose another "
                f"directory (DATA_DIR=DIRECTORY). The file: {path}"
            )
        connection.executescript(f"{sqlite_schema.SCHEMA}PRAGMA user_version = {SCHEMA_VERSION};")
        connection.remember_files(path)
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise damaged(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check_tables(connection: sqlite3.Connection, path: Path) -> None:
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    for table in RELATED_TABLES:
        if table not in found:
            raise StoreError(f"{path.name} lacks the table {table}. {_REPLACE}. The file: {path}")


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a read-only connection.

    Raises:
        sqlite3.OperationalError: the database does not exist yet.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version in sqlite_schema.SHOW:
            connection.executescript(sqlite_schema.SHOW[version])
    except BaseException:
        connection.close()
        raise
    return connection


class SqliteStore:
    """The SQLite database of a data directory."""

    queries = sqlite_queries.QUERIES
    driver = "sqlite-jdbc"

    def __init__(self, path: Path) -> None:
        self._path = path

    def open_writer(self) -> SqliteWriter:
        """Open the only writing connection; create or migrate the schema: see `open_writer`."""
        return open_writer(self._path)

    def read(self, query: Callable[[Connection], T]) -> T | None:
        """Return the result of a query over one snapshot; None if there is no database yet.

        Raises:
            TemporaryError: the database cannot be read now.
            MissingTablesError: it has no tables of this version.
            StoreError: it cannot be read. The text names the action.
        """
        if not self._path.exists():
            return None
        try:
            with closing(open_reader(self._path)) as connection:
                connection.execute("BEGIN")
                return query(connection)
        except sqlite3.Error as error:
            raise unreadable(self._path, error) from error

    def missing(self) -> Path | None:
        """Return the file of the database if it does not exist."""
        return None if self._path.exists() else self._path

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Check after the block that the database is still the file that it was before.

        The file stays open, so no other file can get its inode.

        Raises:
            TemporaryError: it was replaced or deleted.
        """
        if not self._path.exists():
            yield
            return
        with self._path.open("rb") as opened:
            yield
            if not self._path.exists() or not os.path.samestat(
                os.fstat(opened.fileno()), self._path.stat()
            ):
                raise TemporaryError(
                    f"{self._path.name} was replaced during the run. The next run reads the new one"
                )

    def jdbc(self) -> JdbcSource:
        """Return how Spark reads the database."""
        return JdbcSource(f"jdbc:sqlite:{self._path.as_uri()}?mode=ro", {})


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise StoreError or TemporaryError for an error of SQLite, except for a wrong statement."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if family_of(error) is Family.FAULT:
            raise
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: sqlite3.OperationalError) -> Exception:
    """Return the error for a database that cannot be written. Its text names the action."""
    action = _WRITE_ACTIONS.get(_primary_code(error), "check its disk").format(path.name)
    kind = StoreError if getattr(error, "sqlite_errorcode", None) in _NO_RIGHTS else TemporaryError
    return kind(f"Cannot write {path.name}: {action}. Cause: {error}. The file: {path}")


def _primary_code(error: sqlite3.Error) -> int:
    """Return the result code of SQLite without its details, which are in the higher bits."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def unreadable(path: Path, error: sqlite3.Error) -> Exception:
    """Return the error for a database that cannot be read. Its text names the action."""
    if "no such table" in str(error):
        return MissingTablesError(
            f"{path.name} lacks tables of this version. Start the consumer, which creates them, or "
            f"use another data directory if the database belongs to another program. The file: "
            f"{path}"
        )
    code = _primary_code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        action = "another program has locked it. Stop that program"
    elif code == sqlite3.SQLITE_CANTOPEN:
        action = f"{error}. Give this user access to it"
    else:
        action = f"{error}. {_REPLACE}"
    kind = TemporaryError if family_of(error) is Family.TEMPORARY else StoreError
    return kind(f"Cannot read {path.name}: {action}. The file: {path}")
