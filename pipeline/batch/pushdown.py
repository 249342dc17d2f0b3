"""The mode `pushdown`: SQLite adds up groups of trades, on several connections at once."""

import json
from datetime import timedelta

from pyspark.sql import SparkSession

from pipeline.batch import jdbc
from pipeline.batch.snapshot import Ranges
from pipeline.ingest import store
from pipeline.metrics import unit_sums
from pipeline.settings import Settings

#: Without this clause, SQLite merges a subquery into the query around it and computes the columns
#: of the subquery again for each use.
_COMPUTE_ONCE = "LIMIT -1 OFFSET 0"
#: Each range is cut into chunks of ids. A group is a part of a chunk.
_CHUNKS = (
    "chunk(part, first, last, until) AS ("  # noqa: S608 - constants
    f"SELECT part, first, min(last, first + {unit_sums.GROUP_TRADES - 1}), last FROM given "
    f"UNION ALL SELECT part, last + 1, min(until, last + {unit_sums.GROUP_TRADES}), until "
    "FROM chunk WHERE last < until)"
)
_TRADES = (
    f"SELECT trade_id, time, side = 'buy' AS buy, {unit_sums.units('price')} AS price, "  # noqa: S608
    f"{unit_sums.units('last_size')} AS size, max(price, last_size) < 1e7 AS small "
    f"FROM btc_prices WHERE trade_id BETWEEN chunk.first AND chunk.last {_COMPUTE_ONCE}"
)
#: SQLite computes a half for each use faster than it passes it through a subquery.
_HALVES = {
    f"{amount}_{half}": f"({amount} {operator} {unit_sums.HALF})"
    for amount in ("price", "size")
    for half, operator in (("high", "/"), ("low", "%"))
}


def query(window_s: int) -> str:
    """Return the SQL for `jdbc.read`: a JSON array of the groups of each chunk."""
    sums = ", ".join(f"{sql} AS {name}" for name, sql in unit_sums.GROUP_SUMS.items())
    for half, sql in _HALVES.items():
        sums = sums.replace(half, sql)
    groups = (
        f"SELECT {sums}, min(time) AS first_time, max(time) AS last_time FROM ({_TRADES}) "  # noqa: S608
        f"GROUP BY CASE WHEN small THEN {jdbc.TIME_S} / {window_s} ELSE -trade_id END"
    )
    values = ", ".join(
        [
            *unit_sums.GROUP_SUMS,
            unit_sums.units("opening.price"),
            unit_sums.units("closing.price"),
            store.TIME_US.replace("time", "first_time"),
            store.TIME_US.replace("time", "last_time"),
        ]
    )
    return (
        f", {_CHUNKS} SELECT part, (SELECT json_group_array(json_array({values})) "  # noqa: S608
        f"FROM ({groups}) JOIN btc_prices AS opening ON opening.trade_id = first_trade_id "
        "JOIN btc_prices AS closing ON closing.trade_id = last_trade_id) AS groups FROM chunk"
    )


def add_up(
    session: SparkSession, settings: Settings, ranges: Ranges
) -> tuple[dict[int, unit_sums.UnitSums], float | None]:
    """Return the sums of each window over the rows of these ranges, and `jdbc.read_seconds`."""
    sql = query(settings.window // timedelta(seconds=1))
    chunks = jdbc.read(session, settings, ranges, sql, ["groups STRING"]).select("groups")
    groups = (
        unit_sums.of_group(group) for row in chunks.collect() for group in json.loads(row.groups)
    )
    windows = unit_sums.by_window(groups, settings.window // timedelta(microseconds=1))
    return windows, jdbc.read_seconds(chunks)
