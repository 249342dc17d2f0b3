"""Read the database by Spark's JDBC source, over several connections at once."""

import json
from collections.abc import Iterable

from py4j.protocol import Py4JError
from pyspark.sql import DataFrame, SparkSession

from pipeline import outputs
from pipeline.batch.snapshot import Ranges
from pipeline.ingest import store
from pipeline.settings import Settings

#: SQL for `time` in whole seconds, and in microseconds, since 1970. SQLite before 3.51 rounds the
#: last half millisecond of a second up. The driver contains a newer one. `store.TIME_US` is right
#: in all versions, but takes twice as long.
TIME_S = "unixepoch(time)"
TIME_US = f"{TIME_S} * 1000000 + substr(time, 21, 6)"
#: Metrics of Spark's JDBC scan, nanoseconds, summed over all tasks: the query up to its first row,
#: then each fetch of a row from SQLite into Spark's format.
_METRICS = ("queryExecutionTime", "fetchAndTransformToInternalRowsNs")


def read(
    session: SparkSession,
    settings: Settings,
    ranges: Ranges,
    query: str,
    columns: Iterable[str],
) -> DataFrame:
    """Return the result of a query over exactly the rows of these ranges of ids.

    The connections share no snapshot. The ranges have no holes, so rows that are stored during the
    read are outside of them.

    Args:
        session: the session.
        settings: `batch_partitions` is the number of connections.
        ranges: the ranges of ids.
        query: SQL over the table `given(part, first, last)`: the ranges, split into parts of equal
            size. Its first column is `part`: each connection reads one part.
        columns: the further columns of the query, with the type of each in Spark.
    """
    parts = store.split_ranges(ranges, settings.batch_partitions)
    database = outputs.DataDir(settings.data_dir).database
    return session.read.jdbc(
        f"jdbc:sqlite:{database.as_uri()}?mode=ro",
        f"({over_ranges(parts, query)})",
        predicates=[f"part = {part}" for part in range(len(parts))],
        properties={"customSchema": ", ".join(["part INT", *columns]), "fetchsize": "10000"},
    )


def over_ranges(parts: list[Ranges], query: str) -> str:
    """Return the query with its table `given(part, first, last)`."""
    given = json.dumps([(part, *ids) for part, group in enumerate(parts) for ids in group])
    return (
        "WITH RECURSIVE given(part, first, last) AS (SELECT json_extract(value, '$[0]'), "  # noqa: S608
        f"json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each('{given}')) "
        f"{query}"
    )


def read_seconds(collected: DataFrame) -> float | None:
    """Return how long SQLite and JDBC took in a collected query, wall seconds.

    Reading and aggregating are one pass. Spark measures the fetch of each row, summed over the
    tasks. The tasks have equally many rows, so the sum divided by the number of parallel tasks is
    the time of one task. None: the plan or the metrics of this Spark version are different.
    """
    try:
        node = collected._jdf.queryExecution().executedPlan()  # noqa: SLF001 - no public way
        while not node.children().isEmpty():
            node = node.children().head()
        spent = sum(node.metrics().apply(name).value() for name in _METRICS)
        tasks = node.rdd().getNumPartitions()
    except (AttributeError, Py4JError):
        return None
    at_once = min(tasks, collected.sparkSession.sparkContext.defaultParallelism)
    return float(spent / at_once / 1e9)
