"""Compute one row from the whole table, as tutorials do: `spark-submit batch.py DATABASE FOLDER`.

One JDBC partition, 32-bit floats, the default configuration of Spark.
"""

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the usual name

database, folder = sys.argv[1:]

spark = SparkSession.builder.appName("baseline").getOrCreate()

table = (
    spark.read.format("jdbc")
    .option("url", f"jdbc:sqlite:{database}")
    .option("dbtable", "btc_prices")
    .option("driver", "org.sqlite.JDBC")
    .load()
)
trades = table.select(
    F.col("price").cast("float").alias("price"),
    F.col("last_size").cast("float").alias("size"),
    "side",
)
buys = F.sum(F.when(F.col("side") == "buy", 1).otherwise(0))
sells = F.sum(F.when(F.col("side") == "sell", 1).otherwise(0))
total = trades.agg(
    F.avg("price").alias("avg_price"),
    F.max("price").alias("max_price"),
    F.min("price").alias("min_price"),
    (F.max("price") - F.min("price")).alias("price_range"),
    F.sum("size").alias("total_volume"),
    F.count("*").alias("trade_count"),
    (buys / (sells + F.lit(1e-5))).alias("buy_sell_ratio"),
)
total.coalesce(1).write.mode("overwrite").option("header", "true").csv(f"{folder}/baseline_output")
spark.stop()
