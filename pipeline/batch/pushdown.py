"""The mode `pushdown`: the store adds up groups of trades, on several connections at once."""

import json
from datetime import timedelta

from pyspark.sql import SparkSession

from pipeline import stores
from pipeline.batch import jdbc
from pipeline.batch.snapshot import Ranges
from pipeline.metrics import unit_sums
from pipeline.settings import Settings


def add_up(
    session: SparkSession, settings: Settings, ranges: Ranges
) -> tuple[dict[int, unit_sums.UnitSums], float | None]:
    """Return the sums of each window over the rows of these ranges, and `jdbc.read_seconds`."""
    sql = stores.store_of(settings).queries.groups(settings.window // timedelta(seconds=1))
    read = jdbc.read(session, settings, ranges, sql, ["groups STRING"]).select("groups")
    groups = (
        unit_sums.of_group(group) for row in read.collect() for group in json.loads(row.groups)
    )
    windows = unit_sums.by_window(groups, settings.window // timedelta(microseconds=1))
    return windows, jdbc.read_seconds(read)
