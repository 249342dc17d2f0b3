"""The metrics in real Spark: thresholds, edge cases, exact sums, and REAL columns read by JDBC.

Expected values are computed with Python's decimals from the definitions.
"""

import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from pyspark.errors import IllegalArgumentException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the usual name

from pipeline import spark
from pipeline.batch import full, jdbc
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.metrics import definitions, spark_sums
from pipeline.settings import Settings
from pipeline.stores import common_queries, sqlite, store_of
from pipeline.stream.code_generation import COMPILE, INTERPRET, CodeGeneration
from tests.conftest import require_jars

SETTINGS = Settings(spark_master="local[1]")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = 1_764_651_600_000_000  # 2025-12-02T05:00:00Z, microseconds
GREATEST = "9999999999.99999"  # of 15 digits
ZERO = Decimal(0)


class T(NamedTuple):
    """A trade. A trade_id or time of 0 is replaced by the next number."""

    price: str
    size: str = "1"
    side: str = "buy"
    trade_id: int = 0
    time: int = 0


def buys_and_sells(buys: int, sells: int) -> list[T]:
    return [T("100")] * buys + [T("100", side="sell")] * sells


CASES: dict[str, list[T]] = {
    "one trade": [T("86321.55", "0.00012345", "sell")],
    "range exactly 50": [T("100"), T("150")],
    "range just above 50": [T("100"), T("150.00000001")],
    "range of 50 in large prices": [T("9999999949.99999"), T(GREATEST)],
    "all prices equal": [T("86321.55", "0.1"), T("86321.55", "0.2"), T("86321.55", "0.3", "sell")],
    "6 buys, 5 sells": buys_and_sells(6, 5),
    "5 buys, 6 sells": buys_and_sells(5, 6),
    "12 buys, 10 sells": buys_and_sells(12, 10),
    "13 buys, 10 sells": buys_and_sells(13, 10),
    "10 buys, 12 sells": buys_and_sells(10, 12),
    "10 buys, 13 sells": buys_and_sells(10, 13),
    "120 buys, 100 sells": buys_and_sells(120, 100),
    "121 buys, 100 sells": buys_and_sells(121, 100),
    "as many buys as sells": buys_and_sells(7, 7),
    "no sells": buys_and_sells(3, 0),
    "no buys": buys_and_sells(0, 3),
    "volume exactly 100": [T("100", "99.99999999"), T("100", "0.00000001", "sell")],
    "volume just above 100": [T("100", "99.99999999"), T("100", "0.00000002")],
    "a thousand times 0.1": [T("1", "0.1")] * 1000,
    "a mean with endless digits": [T("1"), T("1"), T("2")],
    "a mean that rounds up": [T("1")] * 5 + [T("2")],
    "the smallest amounts": [T("0.00000001", "0.00000001"), T("0.00000003", "0.00000001", "sell")],
    "the largest amounts": [T(GREATEST, GREATEST), T(GREATEST, GREATEST, "sell")],
    "largest and smallest amounts": [T(GREATEST, "0.00000001"), T("0.00000001", GREATEST, "sell")],
    "a turnover above DECIMAL(38,16)": [T(GREATEST, GREATEST, "sell")] * 150 + [T("100", "0.1")],
    "ids in another order than times": [
        T("105", trade_id=3, time=START),
        T("101", trade_id=1, time=START + 5),
        T("103", trade_id=2, time=START + 9),
    ],
    "equal times": [T("102", trade_id=8, time=START), T("101", trade_id=7, time=START)],
    "an id above 32 bits": [T("2", trade_id=2**31 + 5, time=START), T("1", trade_id=2**63 - 1)],
    "times in microseconds": [T("1", time=START + 1), T("1", time=START + 999_999)],
}


@pytest.fixture(scope="module")
def session() -> Iterator[SparkSession]:
    require_jars("spark")
    options = spark.java_options(spark.archive_path(SETTINGS), c1_only=True)
    kept = dict(os.environ)
    one = spark.session(SETTINGS, "test_metrics", spark.configuration(SETTINGS, "640m", options))
    os.environ.update(kept)  # pytest needs its own variables
    yield one
    one.stop()


def test_a_session_keeps_the_handler_of_sigint(session: SparkSession) -> None:
    """The handler of SparkContext ends the stream with a traceback after Ctrl-C."""
    assert session.sparkContext
    handler = signal.getsignal(signal.SIGINT)
    assert getattr(handler, "__module__", "") != "pyspark.core.context"


def test_spark_has_the_setting_of_code_generation_and_its_two_modes(session: SparkSession) -> None:
    """Spark returns a default only for its own settings, and rejects an unknown mode."""
    own, name = session.newSession(), "spark.sql.codegen.factoryMode"
    assert own.conf.get(name) == COMPILE
    CodeGeneration().follow(own, 1)
    assert own.conf.get(name) == INTERPRET
    with pytest.raises(IllegalArgumentException):
        own.conf.set(name, "another mode")


def frame(session: SparkSession, groups: dict[str, list[T]], extra: list[str] | None = None) -> Any:
    """Return the trades with the columns that both jobs pass to the metrics, and their group."""
    numbers = count(1)
    rows = []
    for name, trades in groups.items():
        for trade in trades:
            number = next(numbers)
            rows.append(
                (
                    name,
                    trade.trade_id or number,
                    trade.price,
                    trade.size,
                    trade.side,
                    trade.time or START + number,
                )
            )
    schema = "name string, trade_id long, price string, size string, side string, time_us long"
    return session.createDataFrame(rows, schema).select(
        "name",
        "trade_id",
        F.col("price").cast(spark_sums.AMOUNT),
        F.col("size").cast(spark_sums.AMOUNT),
        "side",
        "time_us",
    )


def by_name(trades: DataFrame, settings: Settings = SETTINGS) -> dict[str, SimpleNamespace]:
    """Return the sums and metrics of each group."""
    rows = [row.asDict() for row in trades.groupBy("name").agg(*spark_sums.trade_sums()).collect()]
    return {
        row["name"]: SimpleNamespace(**row | definitions.compute(row, settings)) for row in rows
    }


@pytest.fixture(scope="module")
def results(session: SparkSession) -> dict[str, SimpleNamespace]:
    return by_name(frame(session, CASES))


# --- every case, compared with decimals -------------------------------------------------------


def rounded(value: Decimal) -> Decimal:
    return value.quantize(Decimal("1e-10"), ROUND_HALF_UP)


def expected(trades: list[T]) -> dict[str, object]:
    """Return the exact metrics by their definitions. Means and ratios have ten places."""
    with localcontext(prec=100):
        prices = [Decimal(trade.price) for trade in trades]
        sizes = [Decimal(trade.size) for trade in trades]
        volume = sum(sizes, ZERO)
        turnover = sum((p * s for p, s in zip(prices, sizes, strict=True)), ZERO)
        bought = sum((Decimal(trade.size) for trade in trades if trade.side == "buy"), ZERO)
        buys = sum(trade.side == "buy" for trade in trades)
        sells = len(trades) - buys
        spread = max(prices) - min(prices)
        five_buys, five_sells, six_buys, six_sells = 5 * buys, 5 * sells, 6 * buys, 6 * sells
        mood = "Neutral"
        if five_buys > six_sells:  # buys > 1.2 * sells, in whole numbers
            mood = "Bullish"
        elif five_sells > six_buys:
            mood = "Bearish"
        return {
            "avg_price": rounded(sum(prices, ZERO) / len(prices)),
            "max_price": max(prices),
            "min_price": min(prices),
            "price_range": spread,
            "volatility_flag": "High" if spread > 50 else "Normal",
            "total_volume": volume,
            "trade_count": len(trades),
            "market_sentiment": mood,
            "volume_spike": "Spike" if volume > 100 else "Normal",
            "buy_count": buys,
            "sell_count": sells,
            "vwap": rounded(turnover / volume),
            "volume_imbalance": rounded((2 * bought - volume) / volume),
        }


def compared(row: SimpleNamespace, trades: list[T]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the computed and the expected metrics. A turnover above DECIMAL(38,16) has no VWAP."""
    wanted = expected(trades)
    turnover = sum((Decimal(trade.price) * Decimal(trade.size) for trade in trades), ZERO)
    if row.vwap is None and turnover >= 10**22:
        wanted["vwap"] = None
    return {name: vars(row)[name] for name in wanted}, wanted


@pytest.mark.parametrize("name", CASES)
def test_every_metric_equals_its_computation_with_decimals(
    results: dict[str, SimpleNamespace], name: str
) -> None:
    got, wanted = compared(results[name], CASES[name])
    assert got == wanted


@pytest.mark.parametrize("name", CASES)
def test_the_buy_sell_ratio_follows_its_definition(
    results: dict[str, SimpleNamespace], name: str
) -> None:
    buys = sum(trade.side == "buy" for trade in CASES[name])
    sells = len(CASES[name]) - buys
    ratio = Decimal(buys) / (Decimal(sells) + Decimal("1e-5"))
    assert results[name].buy_sell_ratio == pytest.approx(float(ratio), rel=1e-14)


# --- expected values written by hand ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("range exactly 50", "Normal"),
        ("range just above 50", "High"),
        ("range of 50 in large prices", "Normal"),
        ("one trade", "Normal"),
        ("all prices equal", "Normal"),
    ],
)
def test_volatility_is_high_above_a_range_of_50_and_not_at_it(
    results: dict[str, SimpleNamespace], name: str, flag: str
) -> None:
    assert results[name].volatility_flag == flag


@pytest.mark.parametrize(
    ("name", "mood"),
    [
        ("6 buys, 5 sells", "Neutral"),
        ("5 buys, 6 sells", "Neutral"),
        ("12 buys, 10 sells", "Neutral"),
        ("10 buys, 12 sells", "Neutral"),
        ("120 buys, 100 sells", "Neutral"),
        ("as many buys as sells", "Neutral"),
        ("13 buys, 10 sells", "Bullish"),
        ("121 buys, 100 sells", "Bullish"),
        ("10 buys, 13 sells", "Bearish"),
        ("no sells", "Bullish"),
        ("no buys", "Bearish"),
    ],
)
def test_sentiment_is_neutral_at_exactly_1_2_times_as_many(
    results: dict[str, SimpleNamespace], name: str, mood: str
) -> None:
    assert results[name].market_sentiment == mood


@pytest.mark.parametrize(
    ("name", "spike", "volume"),
    [
        ("volume exactly 100", "Normal", "100"),
        ("a thousand times 0.1", "Normal", "100"),
        ("volume just above 100", "Spike", "100.00000001"),
    ],
)
def test_a_volume_of_exactly_100_is_not_a_spike(
    results: dict[str, SimpleNamespace], name: str, spike: str, volume: str
) -> None:
    assert results[name].volume_spike == spike
    assert results[name].total_volume == Decimal(volume)


def test_without_sells_the_ratio_is_the_buys_divided_by_1e_5(
    results: dict[str, SimpleNamespace],
) -> None:
    assert results["no sells"].buy_sell_ratio == pytest.approx(300_000, rel=1e-12)
    assert results["no buys"].buy_sell_ratio == 0


def test_of_one_trade_all_prices_are_its_price(
    results: dict[str, SimpleNamespace],
) -> None:
    row = results["one trade"]
    price = Decimal("86321.55")
    same = (row.open_price, row.close_price, row.avg_price, row.vwap, row.max_price, row.min_price)
    assert set(same) == {price}
    assert (row.price_range, row.trade_count, row.volume_imbalance) == (0, 1, -1)
    assert row.first_trade_time == row.last_trade_time


def test_open_and_close_are_the_prices_of_the_smallest_and_largest_trade_id(
    results: dict[str, SimpleNamespace],
) -> None:
    row = results["ids in another order than times"]
    assert (row.open_price, row.close_price) == (101, 105)
    assert (row.first_trade_time, row.last_trade_time) == (START, START + 9)
    row = results["equal times"]
    assert (row.open_price, row.close_price) == (101, 102)
    row = results["an id above 32 bits"]
    assert (row.open_price, row.close_price) == (2, 1)


def test_times_keep_their_microseconds(results: dict[str, SimpleNamespace]) -> None:
    row = results["times in microseconds"]
    assert (row.first_trade_time, row.last_trade_time) == (START + 1, START + 999_999)


def test_a_mean_with_endless_digits_is_rounded_to_ten_places(
    results: dict[str, SimpleNamespace],
) -> None:
    assert results["a mean with endless digits"].avg_price == Decimal("1.3333333333")
    assert results["a mean that rounds up"].avg_price == Decimal("1.1666666667")


def test_the_largest_amounts_fail_no_job_and_leave_only_the_vwap_unknown(
    results: dict[str, SimpleNamespace],
) -> None:
    row = results["a turnover above DECIMAL(38,16)"]
    assert row.total_volume == 150 * Decimal(GREATEST) + Decimal("0.1")
    assert row.max_price == Decimal(GREATEST)
    assert row.vwap is None
    assert results["largest and smallest amounts"].vwap is not None


def test_thresholds_come_from_the_settings(session: SparkSession) -> None:
    own = Settings(
        spark_master="local[1]",
        volatility_range=Decimal("0.5"),
        sentiment_ratio=Decimal(2),
        spike_volume=Decimal("0.00000001"),
    )
    trades = {
        "at": [T("1", "0.00000001")],
        "above": [T("1"), T("1.50000001"), T("1", side="sell")],
        "more above": [T("1"), T("1.5"), T("1"), T("1", side="sell")],
    }
    rows = by_name(frame(session, trades), own)
    flags = {
        name: (row.volatility_flag, row.market_sentiment, row.volume_spike)
        for name, row in rows.items()
    }
    assert flags == {
        "at": ("Normal", "Bullish", "Normal"),
        "above": ("High", "Neutral", "Spike"),
        "more above": ("Normal", "Bullish", "Spike"),
    }


# --- sums -------------------------------------------------------------------------------------


def random_trades(rng: random.Random, number: int) -> list[T]:
    def amount() -> str:
        whole = rng.randint(1, 10)
        places = rng.randint(0, min(8, 15 - whole))
        return str(Decimal(rng.randrange(1, 10 ** (whole + places))).scaleb(-places))

    def price() -> str:
        return rng.choice([amount(), f"{rng.uniform(80_000, 90_000):.2f}"])

    def size() -> str:
        return rng.choice([amount(), f"0.{rng.randrange(1, 10**8):08}"])

    return [T(price(), size(), rng.choice(["buy", "sell"])) for _ in range(number)]


def test_the_sums_of_parts_add_up_exactly_to_the_sums_of_the_whole(
    session: SparkSession,
) -> None:
    rng = random.Random(11)
    groups = {f"case {n}": random_trades(rng, rng.randint(1, 60)) for n in range(60)}
    # The turnover of this group is too large for DECIMAL(38,16).
    groups["too large"] = [T(GREATEST, GREATEST)] * 120 + random_trades(rng, 20)
    trades = frame(session, groups).withColumn(
        "part", F.expr("cast(xxhash64(trade_id) % 5 as int)")
    )
    at_once = trades.groupBy("name").agg(*spark_sums.trade_sums()).collect()
    parts = [
        row.asDict()
        for row in trades.groupBy("name", "part").agg(*spark_sums.trade_sums()).collect()
    ]
    assert len(at_once) == 61
    for row in at_once:
        of_group = [part for part in parts if part["name"] == row["name"]]
        assert len(of_group) > 1 or row["trade_count"] < 5
        merged = {"name": row["name"], **definitions.merge_sums(of_group)}
        if row["turnover"] is None:  # too large in total, though each part may fit
            merged["turnover"] = None
        assert merged == row.asDict()
    assert any(row["turnover"] is None for row in at_once)


def test_the_order_and_partitions_of_the_rows_change_no_digit(
    session: SparkSession,
) -> None:
    rng = random.Random(12)
    groups = {f"case {n}": random_trades(rng, 200) for n in range(8)}
    trades = frame(session, groups).cache()
    wanted = by_name(trades)
    for seed in (1, 2):
        order = F.xxhash64(F.lit(seed), "trade_id")
        shuffled = trades.orderBy(order).repartition(1 + 6 * seed, order)
        assert by_name(shuffled) == wanted
    for name, listed in groups.items():
        got, right = compared(wanted[name], listed)
        assert got == right
    trades.unpersist()


# --- the time spent reading -------------------------------------------------------------------

#: SQLite returns the first row at once, and the second after it has counted two million rows.
SLOW = """(
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2000000)
    SELECT 0 AS part, 0 AS n UNION ALL SELECT 1, count(*) FROM numbers
)"""


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_time_that_sqlite_needs_for_a_row_counts_as_reading(
    session: SparkSession, tmp_path: Path, tasks: int
) -> None:
    """The session has one core, so its tasks run one after the other."""
    database = tmp_path / "empty.db"
    with sqlite3.connect(database) as connection:
        began = time.thread_time()  # other programs can take the processor meanwhile
        connection.execute(f"SELECT * FROM {SLOW}").fetchall()  # noqa: S608 - a constant
        alone = time.thread_time() - began
    connection.close()
    frame = session.read.jdbc(
        f"jdbc:sqlite:{database.as_uri()}",
        SLOW,
        predicates=["part < 2"] * tasks,
        properties={"customSchema": "part INT, n LONG"},
    )
    began = time.monotonic()
    assert len(frame.collect()) == 2 * tasks
    wall = time.monotonic() - began
    read = jdbc.read_seconds(frame)
    assert read is not None
    assert 0.3 * tasks * alone < read < wall


def test_without_a_table_scan_the_time_spent_reading_is_unknown(session: SparkSession) -> None:
    frame = session.range(3)
    frame.collect()
    assert jdbc.read_seconds(frame) is None


# --- REAL -------------------------------------------------------------------------------------


def hard_decimals(rng: random.Random) -> Iterator[Decimal]:
    """Yield decimals of up to 15 digits that fit DECIMAL(18,8), most of them with 15 digits."""
    for whole in range(11):
        for places in range(max(0, 1 - whole), min(8, 15 - whole) + 1):
            yield Decimal(10 ** (whole + places) - 1).scaleb(-places)
            for _ in range(30):
                yield Decimal(rng.randrange(1, 10 ** (whole + places))).scaleb(-places)
    for _ in range(2000):
        yield Decimal(rng.randrange(10**14, 10**15)).scaleb(-5)  # 10 integer digits
        yield Decimal(rng.randrange(10**14, 10**15)).scaleb(-rng.randint(6, 8))


def test_a_real_column_read_by_jdbc_gives_the_units_of_the_decimal_that_was_stored(
    session: SparkSession, tmp_path: Path
) -> None:
    decimals = list(hard_decimals(random.Random(13)))
    began = EPOCH + timedelta(microseconds=START)
    trades = [
        Trade(
            trade_id=2**40 + number,
            price=format(decimal, "f"),
            best_bid=None,
            best_ask=None,
            side="sell" if number % 3 else "buy",
            time=began + timedelta(microseconds=number * 7),
            last_size=format(decimals[-number], "f"),
        )
        for number, decimal in enumerate(decimals)
    ]
    settings = Settings(
        spark_master="local[1]", data_dir=tmp_path / "odd name é", batch_partitions=3
    )
    connection = sqlite.open_writer(settings.data_dir / "crypto_prices.db")
    batch = store.Batch(0, len(trades) - 1, len(trades), 0, began, began, trades)
    store.store(connection, batch, began)
    ranges = common_queries.stored_ranges(connection)
    rows = full.read_trades(session, settings, store_of(settings), ranges).collect()
    read = {row.trade_id: (row.price, row.signed_size, row.time_us) for row in rows}
    connection.close()
    assert len(decimals) > 5000
    assert read == {
        trade.trade_id: (
            int(Decimal(trade.price).scaleb(8)),
            int(Decimal(trade.last_size).scaleb(8)) * (1 if trade.side == "buy" else -1),
            START + 7 * number,
        )
        for number, trade in enumerate(trades)
    }
