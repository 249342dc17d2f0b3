"""The mode `full`: Spark reads every row and adds up."""

from datetime import timedelta

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the usual name

from pipeline.batch import jdbc
from pipeline.batch.snapshot import Ranges
from pipeline.metrics import unit_sums
from pipeline.settings import Settings
from pipeline.stores.interface import Store

_COLUMNS = ("trade_id LONG", "price LONG", "signed_size LONG", "time_us LONG")


def add_up(session: SparkSession, settings: Settings, store: Store, ranges: Ranges) -> jdbc.Added:
    """Return the sums of each window over the rows of these ranges."""
    # No sum overflows: `unit_sums` has the proof. The check of every addition takes a sixth of the
    # query's CPU time.
    session.conf.set("spark.sql.ansi.enabled", "false")
    window_us = settings.window // timedelta(microseconds=1)
    groups = groups_of(read_trades(session, settings, store, ranges), window_us)
    rows = groups.collect()
    windows = unit_sums.by_window(map(unit_sums.of_group, rows), window_us)
    return jdbc.Added(windows, jdbc.read_seconds(groups), "full")


def read_trades(
    session: SparkSession, settings: Settings, store: Store, ranges: Ranges
) -> DataFrame:
    """Return the trades: `trade_id`, `price` and `signed_size` in units, `time_us`.

    The signed size of a sale is negative.
    """
    query, connections = store.queries.trades, settings.batch_partitions
    found = jdbc.read(session, store, ranges, query, _COLUMNS, connections=connections)
    return found.drop("part")


def groups_of(trades: DataFrame, window_us: int) -> DataFrame:
    """Return the values of `unit_sums.of_group` for groups of trades, each of one window."""
    small = f"price < {unit_sums.SMALL} AND abs(signed_size) < {unit_sums.SMALL}"
    split = trades.selectExpr(
        "trade_id",
        "time_us",
        "price",
        "abs(signed_size) AS size",
        "int(signed_size > 0) AS buy",
        f"CASE WHEN {small} THEN price div {unit_sums.HALF} END AS price_high",
        f"price % {unit_sums.HALF} AS price_low",
        f"abs(signed_size) div {unit_sums.HALF} AS size_high",
        f"abs(signed_size) % {unit_sums.HALF} AS size_low",
    )
    prices = ("min_by(price, trade_id)", "max_by(price, trade_id)")
    times = ("min(time_us)", "max(time_us)")
    ends = dict(zip(unit_sums.GROUP_ENDS, (*prices, *times), strict=True))
    keys = (
        F.expr(f"time_us div {window_us}").alias("window"),
        F.expr(
            f"CASE WHEN price_high IS NULL THEN -trade_id "
            f"ELSE trade_id div {unit_sums.GROUP_TRADES} END"
        ).alias("block"),
    )
    values = {**unit_sums.GROUP_SUMS, **ends}
    grouped = split.groupBy(*keys).agg(*(F.expr(sql).alias(name) for name, sql in values.items()))
    return grouped.drop("window", "block")
