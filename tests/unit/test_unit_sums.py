"""Sums in whole numbers are exact for every valid trade, also at the bounds of 64-bit numbers.

SQLite computes the sums. Expected values are computed with Python's decimals and fractions.
"""

import json
import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import times
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.metrics import unit_sums
from pipeline.metrics.unit_sums import UnitSums
from pipeline.stores import common_queries, sqlite
from pipeline.stores.sqlite_queries import _WHOLE, QUERIES

BEGAN = datetime(2025, 12, 2, 5, tzinfo=UTC)
DAY_S = 86_400
GREATEST = "9999999999.99999"  # of 15 digits
#: The greatest amount below the bound of a group, and the amounts around it.
BOUND = ("9999999.99999999", "10000000", "10000000.0000001")


def trade(number: int, price: str, size: str, side: str = "buy", ms: int = 7) -> Trade:
    at = BEGAN + timedelta(milliseconds=ms * number)
    return Trade(number, price, None, None, side, at, size)  # type: ignore[arg-type]


def sums_in_sqlite(trades: Sequence[Trade], path: Path, window_s: int) -> dict[int, UnitSums]:
    """Store the trades and return the sums of each window, as a pushdown run computes them."""
    with closing(sqlite.open_writer(path)) as connection:
        batch = store.Batch(0, len(trades) - 1, len(trades), 0, BEGAN, BEGAN, trades)
        store.store(connection, batch, BEGAN)
        parts = common_queries.split_ranges(common_queries.stored_ranges(connection), 2)
        query = QUERIES.over_ranges(parts, QUERIES.groups(window_s))
        chunks = connection.execute(f"SELECT groups FROM ({query})").fetchall()  # noqa: S608
    groups = (unit_sums.of_group(group) for (text,) in chunks for group in json.loads(text))
    return unit_sums.by_window(groups, window_s * 1_000_000)


def units(amount: str) -> int:
    value = Fraction(Decimal(amount)) * 10**8
    assert value.denominator == 1
    return int(value)


def expected(trades: Iterable[Trade]) -> UnitSums:
    ordered = sorted(trades, key=lambda one: one.trade_id)
    prices = [units(one.price) for one in ordered]
    sizes = [units(one.last_size) for one in ordered]
    buys = [place for place, one in enumerate(ordered) if one.side == "buy"]
    moments = [times.epoch_micros(one.time) for one in ordered]
    return UnitSums(
        trade_count=len(ordered),
        buy_count=len(buys),
        price_sum=sum(prices),
        total_volume=sum(sizes),
        buy_volume=sum(sizes[place] for place in buys),
        turnover=sum(price * size for price, size in zip(prices, sizes, strict=True)),
        max_price=max(prices),
        min_price=min(prices),
        first_trade_id=ordered[0].trade_id,
        last_trade_id=ordered[-1].trade_id,
        open_price=prices[0],
        close_price=prices[-1],
        first_trade_time=min(moments),
        last_trade_time=max(moments),
    )


# --- units ------------------------------------------------------------------------------------


def hard_decimals(rng: random.Random) -> Iterator[Decimal]:
    """Yield valid amounts with any number of digits before and after the point, up to 15."""
    for whole in range(11):
        for places in range(max(0, 1 - whole), min(8, 15 - whole) + 1):
            yield Decimal(10 ** (whole + places) - 1).scaleb(-places)
            yield Decimal(10 ** (whole + places - 1)).scaleb(-places)
            for _ in range(200):
                yield Decimal(rng.randrange(1, 10 ** (whole + places))).scaleb(-places)


def test_a_stored_real_gives_the_units_of_every_valid_amount() -> None:
    amounts = [format(one, "f") for one in hard_decimals(random.Random(7))]
    amounts += [*BOUND, "99999999.9999999", "100000000", "999999999.999999", "1000000000", GREATEST]
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE amounts (number INTEGER PRIMARY KEY, amount REAL)")
        rows = [(number, float(amount)) for number, amount in enumerate(amounts)]
        connection.executemany("INSERT INTO amounts VALUES (?, ?)", rows)
        found = connection.execute(
            f"SELECT {unit_sums.units('amount', _WHOLE)} FROM amounts ORDER BY number"  # noqa: S608
        ).fetchall()
    assert len(amounts) > 10_000
    assert [unit for (unit,) in found] == [units(amount) for amount in amounts]


# --- groups in SQLite -------------------------------------------------------------------------

CASES: dict[str, list[tuple[str, str, str]]] = {
    "one trade": [("86321.55", "0.00012345", "sell")],
    "the smallest amounts": [("0.00000001", "0.00000001", "buy")] * 3,
    "the greatest amounts": [(GREATEST, GREATEST, "sell")] * 3,
    "the greatest amounts of a full group": [(BOUND[0], BOUND[0], "buy")] * 1500,
    "large and small trades in turn": [
        (price, size, side)
        for price, size in [(p, s) for p in (*BOUND, "0.1", GREATEST) for s in (*BOUND, "0.2")]
        for side in ("buy", "sell")
    ],
    "large sizes only": [("0.00001234", "98765432.1", "sell"), ("0.00001235", "1e8", "buy")] * 9,
    "large prices only": [("1234567890.5", "0.00000001", "sell")] * 9,
    "a size of 15 digits": [("123456789.012345", "99999.99999999", "buy")] * 700,
}


@pytest.mark.parametrize("window_s", [1, 60, DAY_S])
@pytest.mark.parametrize("name", CASES)
def test_sqlite_sums_are_exact_at_the_bounds(tmp_path: Path, name: str, window_s: int) -> None:
    trades = [trade(number, *values) for number, values in enumerate(CASES[name], 1)]
    found = sums_in_sqlite(trades, tmp_path / "crypto_prices.db", window_s)
    length = window_s * 1_000_000
    windows: dict[int, list[Trade]] = {}
    for one in trades:
        windows.setdefault(times.epoch_micros(one.time) // length * length, []).append(one)
    assert found == {start: expected(members) for start, members in windows.items()}


def test_sqlite_sums_are_exact_over_ids_with_holes_up_to_the_greatest_id(tmp_path: Path) -> None:
    rng = random.Random(3)
    ids = sorted({*range(1, 600), *range(700, 705), 2**63 - 600, *range(2**63 - 520, 2**63)})
    trades = [
        Trade(
            trade_id,
            f"{rng.randrange(10**5)}.{rng.randrange(1, 10**8):08}",
            None,
            None,
            rng.choice(["buy", "sell"]),
            BEGAN + timedelta(milliseconds=rng.randrange(100_000) // 10 * 10),
            f"0.{rng.randrange(1, 10**8):08}",
        )
        for trade_id in ids
    ]
    found = sums_in_sqlite(trades, tmp_path / "crypto_prices.db", DAY_S)
    assert list(found.values()) == [expected(trades)]


def test_a_group_of_two_windows_is_refused() -> None:
    group = expected([trade(1, "1", "1"), trade(2, "1", "1", ms=60_000)])
    with pytest.raises(ValueError, match="a group has trades of two windows"):
        unit_sums.by_window([group], 60_000_000)


# --- merged groups ----------------------------------------------------------------------------

amounts = st.sampled_from(["0.00000001", "0.1", "86321.55", *BOUND, GREATEST])
made_trades = st.lists(
    st.builds(trade, st.integers(1, 200), amounts, amounts, st.sampled_from(["buy", "sell"])),
    min_size=1,
    max_size=30,
    unique_by=lambda one: one.trade_id,
)


@given(trades=made_trades, seed=st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_the_groups(trades: list[Trade], seed: random.Random) -> None:
    groups: dict[int, list[Trade]] = {}
    for one in trades:
        groups.setdefault(seed.randrange(5), []).append(one)
    day = unit_sums.by_window((expected(group) for group in groups.values()), DAY_S * 1_000_000)
    assert list(day.values()) == [expected(trades)]


@given(made_trades)
@example([trade(number, GREATEST, GREATEST) for number in range(1, 101)])
@example([trade(number, GREATEST, GREATEST) for number in range(1, 102)])
def test_the_metrics_get_the_exact_decimals_of_the_sums(trades: list[Trade]) -> None:
    """A turnover that does not fit the DECIMAL(38,16) of the stream is unknown."""
    sums = expected(trades)
    (decimals,) = unit_sums.decimal_sums({0: sums}, DAY_S * 1_000_000)
    turnover = sum(Fraction(one.price) * Fraction(one.last_size) for one in trades)
    fits = turnover < 10**22
    assert (decimals["turnover"] is not None) == fits
    if fits:
        assert Fraction(decimals["turnover"]) == turnover
    assert Fraction(decimals["price_sum"]) == sum(Fraction(one.price) for one in trades)
    assert Fraction(decimals["total_volume"]) == sum(Fraction(one.last_size) for one in trades)
    assert decimals["max_price"] == max(Decimal(one.price) for one in trades)
    assert decimals["trade_count"] == len(trades)
    assert (decimals["window_start"], decimals["window_end"]) == (0, DAY_S * 1_000_000)
