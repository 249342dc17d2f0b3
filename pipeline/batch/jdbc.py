"""Read the store by Spark's JDBC source, over several connections at once."""

from collections.abc import Iterable
from typing import NamedTuple

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession

from pipeline import spark_jvm
from pipeline.batch.snapshot import Ranges
from pipeline.metrics.unit_sums import UnitSums
from pipeline.stores.common_queries import split_ranges
from pipeline.stores.interface import Store

#: Metrics of Spark's JDBC scan, nanoseconds, summed over all tasks: the query up to its first row,
#: then each fetch of a row from the store into Spark's format.
_METRICS = ("queryExecutionTime", "fetchAndTransformToInternalRowsNs")


class Added(NamedTuple):
    """What a run added up, in any mode."""

    #: The sums of each window.
    windows: dict[int, UnitSums]
    #: See `read_seconds`. None: unknown, or nothing was read.
    read_s: float | None
    #: How: `full`, `pushdown` or `incremental`.
    mode: str
    #: Why an incremental run read the whole table, as a full one. None: it did not.
    reason: str | None = None


def read(
    session: SparkSession,
    store: Store,
    ranges: Ranges,
    query: str,
    columns: Iterable[str],
    *,
    connections: int,
) -> DataFrame:
    """Return the result of a query over exactly the rows of these ranges of ids.

    The connections share no snapshot. The ranges have no holes, so rows that are stored during the
    read are outside of them.

    Args:
        session: the session.
        store: the store.
        ranges: the ranges of ids.
        query: SQL over the table `given(part, first, last)`: the ranges, split into parts of equal
            size. Its first column is `part`: each connection reads one part.
        columns: the further columns of the query, with the type of each in Spark.
        connections: the number of connections.
    """
    parts = split_ranges(ranges, connections)
    url, access = store.jdbc()
    schema = {"customSchema": ", ".join(["part INT", *columns]), "fetchsize": "10000"}
    return session.read.jdbc(
        url,
        f"({store.queries.over_ranges(parts, query)}) AS found",
        predicates=[f"part = {part}" for part in range(len(parts))],
        properties={**access, **schema},
    )


def read_seconds(collected: DataFrame) -> float | None:
    """Return how long the store and JDBC took in a collected query, wall seconds.

    Reading and aggregating are one pass. Spark measures the fetch of each row, summed over the
    tasks. The tasks have equally many rows, so the sum divided by the number of parallel tasks is
    the time of one task. None: the plan or the metrics of this Spark version are different.
    """
    try:
        node = spark_jvm.executed_plan(collected)
        while not node.children().isEmpty():
            node = node.children().head()
        spent = sum(node.metrics().apply(name).value() for name in _METRICS)
        tasks = node.rdd().getNumPartitions()
    except (AttributeError, Py4JError):
        return None
    at_once = min(tasks, collected.sparkSession.sparkContext.defaultParallelism)
    return float(spent / at_once / 1e9)
