"""The sums over the trades of a group, as Spark columns: the part of the metrics that Spark runs.

The stream uses them. The batch computes the same sums in whole numbers (`unit_sums`). Both are
exact, so they are equal. `pipeline.metrics.definitions` derives the metrics from these sums in
plain Python: the driver collects a few rows, and Spark takes longer to plan the rest than Python
takes to compute it.
"""

from pyspark.sql import Column
from pyspark.sql import functions as F  # noqa: N812 - the usual name

#: The type of prices and sizes: 10 digits before the decimal point, 8 after it.
AMOUNT = "decimal(18,8)"


def trade_sums() -> list[Column]:
    """Return the columns that aggregate the trades of a group.

    The input has the columns `trade_id` BIGINT, `price` and `size` AMOUNT, `side` STRING, and
    `time_us` BIGINT, the event time in microseconds since 1970. Sums of decimals are exact, so
    the result does not depend on the order of the trades.
    """
    bought = F.col("side") == "buy"
    return [
        F.count("*").alias("trade_count"),
        F.count_if(bought).alias("buy_count"),
        F.sum("price").alias("price_sum"),
        F.max("price").alias("max_price"),
        F.min("price").alias("min_price"),
        F.sum("size").alias("total_volume"),
        F.sum(F.when(bought, F.col("size")).otherwise(F.lit(0))).alias("buy_volume"),
        # try_sum: a turnover beyond DECIMAL(38,16) becomes null, where sum would end the query.
        F.try_sum(F.col("price") * F.col("size")).alias("turnover"),
        F.min("trade_id").alias("first_trade_id"),
        F.max("trade_id").alias("last_trade_id"),
        F.min_by("price", "trade_id").alias("open_price"),
        F.max_by("price", "trade_id").alias("close_price"),
        F.min("time_us").alias("first_trade_time"),
        F.max("time_us").alias("last_trade_time"),
    ]
