"""The mode `pushdown`: the store adds up groups of trades, on several connections at once."""

import json
from datetime import timedelta

from pyspark.sql import SparkSession

from pipeline.batch import jdbc
from pipeline.batch.snapshot import Ranges
from pipeline.metrics import unit_sums
from pipeline.settings import Settings
from pipeline.stores.interface import Store


def add_up(session: SparkSession, settings: Settings, store: Store, ranges: Ranges) -> jdbc.Added:
    """Return the sums of each window over the rows of these ranges."""
    sql = store.queries.groups(settings.window // timedelta(seconds=1))
    columns, connections = ["groups STRING"], settings.batch_partitions
    found = jdbc.read(session, store, ranges, sql, columns, connections=connections)
    read = found.select("groups")
    groups = (
        unit_sums.of_group(group) for row in read.collect() for group in json.loads(row.groups)
    )
    windows = unit_sums.by_window(groups, settings.window // timedelta(microseconds=1))
    return jdbc.Added(windows, jdbc.read_seconds(read), "pushdown")
