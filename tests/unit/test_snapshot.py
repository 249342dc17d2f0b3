"""A batch run reads one database file from its start to its end."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import TemporaryError
from pipeline.stores import sqlite


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "crypto_prices.db"
    sqlite.open_writer(path).close()
    return path


def replace_by_a_copy(path: Path) -> None:
    Path(shutil.copy(path, path.with_name("copy.db"))).replace(path)


def delete_and_create(path: Path) -> None:
    """Without an open file, the new one could get the inode of the deleted one."""
    path.unlink()
    sqlite.open_writer(path).close()


@pytest.mark.parametrize("change", [replace_by_a_copy, delete_and_create, Path.unlink])
def test_a_replaced_database_fails_the_run(database: Path, change: Callable[[Path], None]) -> None:
    with (
        pytest.raises(TemporaryError, match=r"crypto_prices\.db was replaced during the run"),
        sqlite.SqliteStore(database).unchanged(),
    ):
        change(database)


def test_a_database_that_the_consumer_writes_to_is_not_replaced(database: Path) -> None:
    with sqlite.SqliteStore(database).unchanged():
        connection = sqlite.open_writer(database)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()


def test_an_error_of_the_run_is_kept(database: Path) -> None:
    with pytest.raises(FileNotFoundError), sqlite.SqliteStore(database).unchanged():
        (database.parent / "missing").unlink()
