"""The SQL of batch runs in PostgreSQL."""

import json
from datetime import timedelta

from pipeline.metrics import unit_sums
from pipeline.stores.interface import Parts, Queries

#: SQL for `time` in microseconds since 1970. `extract` returns an exact number.
_TIME_US = "CAST(extract(epoch FROM CAST(time AS timestamptz)) * 1000000 AS bigint)"
#: A cast rounds here. SQLite truncates.
_WHOLE = "CAST(floor({} + 0.5) AS bigint)"
_PRICE, _SIZE = (unit_sums.units(column, _WHOLE) for column in ("price", "last_size"))

#: The side is the sign of the size, as in SQLite.
_TRADES = (
    f"SELECT part, trade_id, {_PRICE} AS price, "  # noqa: S608 - constants
    f"(CASE side WHEN 'buy' THEN 1 ELSE -1 END) * ({_SIZE}) AS signed_size, "
    f"{_TIME_US} AS time_us "
    "FROM given JOIN btc_prices ON trade_id BETWEEN first AND last"
)

#: Without this clause, PostgreSQL merges a subquery into the query around it and computes the
#: columns of the subquery again for each use.
_COMPUTE_ONCE = "OFFSET 0"
_VALUES_OF_TRADE = (
    f"SELECT part, trade_id, CASE side WHEN 'buy' THEN 1 ELSE 0 END AS buy, {_PRICE} AS price, "  # noqa: S608
    f"{_SIZE} AS size, {_TIME_US} AS time_us, "
    f"greatest(price, last_size) < {unit_sums.SMALL_AMOUNT} AS small "
    f"FROM given JOIN btc_prices ON trade_id BETWEEN first AND last {_COMPUTE_ONCE}"
)
#: A product of high halves fits a 64-bit number only for small amounts. `unit_sums` does not use
#: the products of other trades.
_HALVES = (
    f"SELECT *, CASE WHEN small THEN price / {unit_sums.HALF} END AS price_high, "  # noqa: S608
    f"price % {unit_sums.HALF} AS price_low, size / {unit_sums.HALF} AS size_high, "
    f"size % {unit_sums.HALF} AS size_low FROM ({_VALUES_OF_TRADE}) AS trade {_COMPUTE_ONCE}"
)


def _over_ranges(parts: Parts, query: str) -> str:
    """Return the query with its table `given(part, first, last)`."""
    given = json.dumps([(part, *ids) for part, group in enumerate(parts) for ids in group])
    values = ", ".join(
        f"CAST(range ->> {place} AS {kind})"
        for place, kind in enumerate(("int", "bigint", "bigint"))
    )
    return (
        f"WITH given(part, first, last) AS (SELECT {values} "  # noqa: S608
        f"FROM json_array_elements('{given}') AS ranges(range)) {query}"
    )


def _groups(window_s: int) -> str:
    """Return the query for the sums over each window: a JSON array of one group.

    A sum of 64-bit numbers has no limit in PostgreSQL, so a group can have any number of trades.
    """
    sums = ", ".join(f"{sql} AS {name}" for name, sql in unit_sums.GROUP_SUMS.items())
    window_us = timedelta(seconds=window_s) // timedelta(microseconds=1)
    groups = (
        f"SELECT part, {sums}, min(time_us) AS first_time, max(time_us) AS last_time "  # noqa: S608
        f"FROM ({_HALVES}) AS halves "
        f"GROUP BY part, CASE WHEN small THEN time_us / {window_us} ELSE -trade_id END"
    )
    ends = (unit_sums.units(f"{end}.price", _WHOLE) for end in ("opening", "closing"))
    values = ", ".join([*unit_sums.GROUP_SUMS, *ends, "first_time", "last_time"])
    return (
        f"SELECT part, CAST(json_build_array(json_build_array({values})) AS text) AS groups "  # noqa: S608
        f"FROM ({groups}) AS found JOIN btc_prices AS opening ON opening.trade_id = first_trade_id "
        "JOIN btc_prices AS closing ON closing.trade_id = last_trade_id"
    )


QUERIES = Queries(_over_ranges, _TRADES, _groups)
