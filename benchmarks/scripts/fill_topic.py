"""Send each line of a file to a topic: `python fill_topic.py JARS SERVERS TOPIC FILE`.

Spark sends 100,000 messages per second, kafka-python 10,000. One task reads the file, so the order
of the lines is kept.
"""

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the usual name

jars, servers, topic, file = sys.argv[1:]

spark = (
    SparkSession.builder.appName("fill")
    .master("local[1]")
    .config("spark.jars", jars)
    .config("spark.ui.enabled", "false")
    .config("spark.sql.files.maxPartitionBytes", "1t")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
(
    spark.read.text(file)
    .select(F.lit("BTC-USD").alias("key"), "value")
    .write.format("kafka")
    .option("kafka.bootstrap.servers", servers)
    .option("topic", topic)
    # As the producer sends under load.
    .option("kafka.compression.type", "lz4")
    .option("kafka.linger.ms", "5")
    .option("kafka.batch.size", "131072")
    .save()
)
spark.stop()
