"""Compute 1-minute windows, as tutorials do: `python stream.py JARS SERVERS TOPIC FOLDER`.

Two queries (a CSV sink and the console), doubles, 200 shuffle partitions, the default trigger.
"""

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the usual name

jars, servers, topic, folder = sys.argv[1:]

spark = SparkSession.builder.appName("baseline").config("spark.jars", jars).getOrCreate()
spark.sparkContext.setLogLevel("WARN")

records = (
    spark.readStream.format("kafka")
    .option("kafka.bootstrap.servers", servers)
    .option("subscribe", topic)
    .option("startingOffsets", "earliest")
    .load()
)
schema = "price string, last_size string, side string, time string, trade_id long"
ticker = F.from_json(F.col("value").cast("string"), schema)
trades = records.select(ticker.alias("ticker")).select(
    F.col("ticker.price").cast("double").alias("price"),
    F.col("ticker.last_size").cast("double").alias("size"),
    F.col("ticker.side").alias("side"),
    F.to_timestamp("ticker.time").alias("event_time"),
)
buys = F.sum(F.when(F.col("side") == "buy", 1).otherwise(0))
sells = F.sum(F.when(F.col("side") == "sell", 1).otherwise(0))
windows = (
    trades.withWatermark("event_time", "1 minute")
    .groupBy(F.window("event_time", "1 minute"))
    .agg(
        F.avg("price").alias("avg_price"),
        F.max("price").alias("max_price"),
        F.min("price").alias("min_price"),
        F.sum("size").alias("total_volume"),
        F.count("*").alias("trade_count"),
        (buys / (sells + F.lit(1e-5))).alias("buy_sell_ratio"),
        F.max("event_time").alias("last_trade_time"),
    )
    .select(
        F.col("window.start").alias("window_start"),
        F.col("window.end").alias("window_end"),
        "avg_price",
        "max_price",
        "min_price",
        (F.col("max_price") - F.col("min_price")).alias("price_range"),
        "total_volume",
        "trade_count",
        "buy_sell_ratio",
        "last_trade_time",
    )
)

(
    windows.writeStream.outputMode("append")
    .format("csv")
    .option("header", "true")
    .option("path", f"{folder}/windows")
    .option("checkpointLocation", f"{folder}/checkpoint_csv")
    .start()
)
(
    windows.writeStream.outputMode("update")
    .format("console")
    .option("truncate", "false")
    .option("checkpointLocation", f"{folder}/checkpoint_console")
    .start()
)
spark.streams.awaitAnyTermination()
