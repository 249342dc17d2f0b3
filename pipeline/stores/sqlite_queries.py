"""The SQL of batch runs in SQLite."""

import json

from pipeline.metrics import unit_sums
from pipeline.stores.interface import Parts, Queries

#: SQL for `time` in microseconds since 1970. Parsing it in Spark takes three times as long.
#: `unixepoch` gets whole seconds only: SQLite before 3.51 rounds the last half millisecond up.
TIME_US = "unixepoch(substr(time, 1, 19)) * 1000000 + substr(time, 21, 6)"
#: The same for the JDBC driver, which contains a newer SQLite. It takes half the time.
_DRIVER_TIME_S = "unixepoch(time)"
_DRIVER_TIME_US = f"{_DRIVER_TIME_S} * 1000000 + substr(time, 21, 6)"

#: A cast truncates here. PostgreSQL rounds.
_WHOLE = "CAST({} + 0.5 AS INTEGER)"
_PRICE, _SIZE = (unit_sums.units(column, _WHOLE) for column in ("price", "last_size"))

#: Four whole numbers for each row. Reading a value by JDBC takes longer than adding it up, so the
#: side is the sign of the size: a negative size is a sale.
_TRADES = (
    f"SELECT part, trade_id, {_PRICE} AS price, "  # noqa: S608 - constants
    f"(CASE side WHEN 'buy' THEN 1 ELSE -1 END) * ({_SIZE}) AS signed_size, "
    f"{_DRIVER_TIME_US} AS time_us "
    "FROM given CROSS JOIN btc_prices ON trade_id BETWEEN first AND last"
)

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
_TRADES_OF_CHUNK = (
    f"SELECT trade_id, time, side = 'buy' AS buy, {_PRICE} AS price, "  # noqa: S608
    f"{_SIZE} AS size, max(price, last_size) < {unit_sums.SMALL_AMOUNT} AS small "
    f"FROM btc_prices WHERE trade_id BETWEEN chunk.first AND chunk.last {_COMPUTE_ONCE}"
)
#: SQLite computes a half for each use faster than it passes it through a subquery.
_HALVES = {
    f"{amount}_{half}": f"({amount} {operator} {unit_sums.HALF})"
    for amount in ("price", "size")
    for half, operator in (("high", "/"), ("low", "%"))
}


def _over_ranges(parts: Parts, query: str) -> str:
    """Return the query with its table `given(part, first, last)`."""
    given = json.dumps([(part, *ids) for part, group in enumerate(parts) for ids in group])
    return (
        "WITH RECURSIVE given(part, first, last) AS (SELECT json_extract(value, '$[0]'), "  # noqa: S608
        f"json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each('{given}')) "
        f"{query}"
    )


def _groups(window_s: int) -> str:
    """Return the query for the sums over groups of trades: a JSON array for each chunk."""
    sums = ", ".join(f"{sql} AS {name}" for name, sql in unit_sums.GROUP_SUMS.items())
    for half, sql in _HALVES.items():
        sums = sums.replace(half, sql)
    groups = (
        f"SELECT {sums}, min(time) AS first_time, max(time) AS last_time FROM ({_TRADES_OF_CHUNK}) "  # noqa: S608
        f"GROUP BY CASE WHEN small THEN {_DRIVER_TIME_S} / {window_s} ELSE -trade_id END"
    )
    values = ", ".join(
        [
            *unit_sums.GROUP_SUMS,
            unit_sums.units("opening.price", _WHOLE),
            unit_sums.units("closing.price", _WHOLE),
            TIME_US.replace("time", "first_time"),
            TIME_US.replace("time", "last_time"),
        ]
    )
    return (
        f", {_CHUNKS} SELECT part, (SELECT json_group_array(json_array({values})) "  # noqa: S608
        f"FROM ({groups}) JOIN btc_prices AS opening ON opening.trade_id = first_trade_id "
        "JOIN btc_prices AS closing ON closing.trade_id = last_trade_id) AS groups FROM chunk"
    )


QUERIES = Queries(_over_ranges, _TRADES, _groups)
