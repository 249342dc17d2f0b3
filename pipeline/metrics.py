"""What each metric means: Spark column expressions used by both jobs.

Input: one row a trade, `trade_id` BIGINT, `price` and `size` DECIMAL(18,8), `side` STRING,
`event_time` TIMESTAMP. First `sums()` over any grouping, then `derived()` on the sums. The sums of
several groups add up to the sums of all (`merged_sums()`), exactly, as all are decimals.
"""

from decimal import Decimal

from pyspark.sql import Column
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows

from pipeline.settings import Settings

#: Prices and sizes; 10 digits before the point and 8 after it.
DECIMAL = "decimal(18,8)"
#: A volume that is divided by: narrow enough that the quotient keeps its digits.
_VOLUME = "decimal(20,8)"
#: Digits after the point of means and ratios.
_ROUND = 10


def sums() -> list[Column]:
    """What is added up over the trades of a group."""
    bought = F.col("side") == "buy"
    return [
        F.count("*").alias("trade_count"),
        F.count_if(bought).alias("buy_count"),
        F.sum("price").alias("price_sum"),
        F.max("price").alias("max_price"),
        F.min("price").alias("min_price"),
        F.sum("size").alias("total_volume"),
        F.sum(F.when(bought, F.col("size"))).alias("buy_volume"),
        # try_sum: a turnover beyond DECIMAL(38,16) is unknown, not the end of the query
        F.try_sum(F.col("price") * F.col("size")).alias("turnover"),
        F.min("trade_id").alias("first_trade_id"),
        F.max("trade_id").alias("last_trade_id"),
        F.min_by("price", "trade_id").alias("open_price"),
        F.max_by("price", "trade_id").alias("close_price"),
        F.min("event_time").alias("first_trade_time"),
        F.max("event_time").alias("last_trade_time"),
    ]


def merged_sums() -> list[Column]:
    """The sums of all trades, from the sums of groups of them."""
    added = ("trade_count", "buy_count", "price_sum", "total_volume", "buy_volume")
    return [
        *(F.sum(name).alias(name) for name in added),
        F.try_sum("turnover").alias("turnover"),
        F.max("max_price").alias("max_price"),
        F.min("min_price").alias("min_price"),
        F.min_by("open_price", "first_trade_id").alias("open_price"),
        F.max_by("close_price", "last_trade_id").alias("close_price"),
        F.min("first_trade_id").alias("first_trade_id"),
        F.max("last_trade_id").alias("last_trade_id"),
        F.min("first_trade_time").alias("first_trade_time"),
        F.max("last_trade_time").alias("last_trade_time"),
    ]


def derived(settings: Settings) -> list[Column]:
    """The metrics of DESIGN's contract, from the sums; times in microseconds since 1970."""
    count, buys = F.col("trade_count"), F.col("buy_count")
    sells = count - buys
    volume = F.col("total_volume")
    bought = F.coalesce(F.col("buy_volume"), F.lit(0).cast(_VOLUME)).try_cast(_VOLUME)
    traded = volume.try_cast(_VOLUME)
    price_range = F.col("max_price") - F.col("min_price")
    ratio = _exact(settings.sentiment_ratio)
    return [
        _quotient(F.col("price_sum").cast("decimal(28,8)"), count.cast("decimal(12,0)")).alias(
            "avg_price"
        ),
        F.col("max_price"),
        F.col("min_price"),
        price_range.alias("price_range"),
        F.when(price_range > _exact(settings.volatility_range), "High")
        .otherwise("Normal")
        .alias("volatility_flag"),
        volume.alias("total_volume"),
        count.alias("trade_count"),
        (buys.cast("double") / (sells.cast("double") + F.lit(1e-5))).alias("buy_sell_ratio"),
        F.when(buys > ratio * sells, "Bullish")
        .when(sells > ratio * buys, "Bearish")
        .otherwise("Neutral")
        .alias("market_sentiment"),
        F.when(volume > _exact(settings.spike_volume), "Spike")
        .otherwise("Normal")
        .alias("volume_spike"),
        buys.alias("buy_count"),
        sells.alias("sell_count"),
        _quotient(F.col("turnover").try_cast("decimal(32,16)"), traded).alias("vwap"),
        F.col("open_price"),
        F.col("close_price"),
        _quotient((bought + bought - traded).try_cast(_VOLUME), traded).alias("volume_imbalance"),
        F.unix_micros("first_trade_time").alias("first_trade_time"),
        F.unix_micros("last_trade_time").alias("last_trade_time"),
    ]


def _exact(value: Decimal) -> Column:
    return F.lit(value)


def _quotient(dividend: Column, divisor: Column) -> Column:
    return F.round(dividend / divisor, _ROUND)
