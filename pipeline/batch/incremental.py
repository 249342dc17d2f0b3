"""The mode `incremental`: add what was stored since an earlier run to the sums of that run."""

from datetime import timedelta
from functools import partial

from pyspark.sql import SparkSession

from pipeline.batch import full, kept_sums, pushdown
from pipeline.batch.jdbc import Added
from pipeline.batch.kept_sums import KeptSums, UnusableError
from pipeline.batch.snapshot import Ranges, Snapshot, has_transaction, read_store
from pipeline.data_dir import DataDir
from pipeline.metrics import unit_sums
from pipeline.settings import Settings
from pipeline.stores.interface import Store


def add_up(session: SparkSession, settings: Settings, store: Store, snapshot: Snapshot) -> Added:
    """Return the sums of each window over all rows of the snapshot.

    Without usable sums of an earlier run, this is a full run.

    Raises:
        TemporaryError: the database cannot be read now.
    """
    try:
        kept = usable(settings, store, snapshot)
    except UnusableError as why:
        added = full.add_up(session, settings, store, snapshot.ranges)
        return added._replace(reason=f"read the whole table: {why}")
    new = difference(snapshot.ranges, kept.ranges)
    if not new:
        return Added(kept.windows, None, "incremental")
    added = pushdown.add_up(session, settings, store, new)
    window_us = settings.window // timedelta(microseconds=1)
    merged = unit_sums.by_window(added.windows.values(), window_us, kept.windows)
    return Added(merged, added.read_s, "incremental")


def usable(settings: Settings, store: Store, snapshot: Snapshot) -> KeptSums:
    """Return the kept sums, if the rows of this snapshot include all rows that they cover.

    Raises:
        UnusableError: they are missing or damaged, or belong to another database or window length.
    """
    data = DataDir(settings.data_dir)
    kept = kept_sums.read(data.batch_sums, settings.window)
    if not read_store(store, partial(has_transaction, transaction=kept.newest)):
        raise UnusableError(f"the database was replaced or restored since run {kept.run}")
    if difference(kept.ranges, snapshot.ranges):
        raise UnusableError(f"the database lacks rows that run {kept.run} read")
    return kept


def keep(settings: Settings, run: str, snapshot: Snapshot, added: Added) -> None:
    """Keep the sums for the next run. A database without a record of its transactions has none."""
    if snapshot.newest is not None:
        kept = KeptSums(run, settings.window, snapshot.ranges, snapshot.newest, added.windows)
        kept_sums.write(DataDir(settings.data_dir).batch_sums, kept)


def difference(ranges: Ranges, others: Ranges) -> Ranges:
    """Return the ids that are in these ranges and in none of the others, as ranges.

    Args:
        ranges: ranges of ids, ascending.
        others: other ranges, ascending.
    """
    found: Ranges = []
    place = 0
    for first, last in ranges:
        start = first
        while place < len(others) and others[place][1] < start:
            place += 1
        at = place
        while at < len(others) and others[at][0] <= last:
            if others[at][0] > start:
                found.append((start, others[at][0] - 1))
            start = others[at][1] + 1
            at += 1
        if start <= last:
            found.append((start, last))
    return found
