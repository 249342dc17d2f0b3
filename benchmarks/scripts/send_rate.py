"""Send made-up trades at a rate that can change: `python send_rate.py JARS SERVERS TOPIC FILE`.

FILE has the number of messages per second. The time of a trade is the moment at which it is sent,
as in a live feed, and its id is its number. Spark makes and sends the messages: kafka-python needs
several times the CPU time, which the stream on the same cores would then lack.
"""

import sys
import time
from pathlib import Path

from pyspark.sql import SparkSession

jars, servers, topic, file = sys.argv[1:]
#: Seconds between two chunks of messages. A chunk costs 0.05 CPU s, however small it is.
TICK = 0.5
#: `ticker` messages of the exchange. A chunk has `count` of them, from the id `first` on. Their
#: times are spread over `span` µs from `begun` on. The hash of the id is a random number.
MESSAGES = """
SELECT 'BTC-USD' AS key, concat(
    '{"type":"ticker","sequence":', 90000000001 + 3 * id, ',"product_id":"BTC-USD",',
    '"price":"', dollars, '.', cents, '","open_24h":"89487.67",',
    '"volume_24h":"11873.2354199","low_24h":"88789.65","high_24h":"90960.8",',
    '"volume_30d":"301442.1031885","best_bid":"', dollars, '.', cents, '",',
    '"best_bid_size":"0.03974704","best_ask":"', dollars + 1, '.', cents, '",',
    '"best_ask_size":"0.02368726","side":"', if(random %% 2 = 0, 'buy', 'sell'), '",',
    '"time":"', date_format(timestamp_micros(us), "yyyy-MM-dd'T'HH:mm:ss.SSSSSS"), 'Z",',
    '"trade_id":', id, ',"last_size":"0.', 10000000 + random %% 1048576, '"}'
) AS value
FROM (SELECT *, 90000 + random %% 100 AS dollars, 10 + random %% 90 AS cents
FROM (SELECT *, pmod(xxhash64(id), 1073741824) AS random
FROM (SELECT first + i AS id, begun + i * span DIV count AS us
FROM (SELECT *, explode(sequence(0L, count - 1)) AS i
FROM VALUES (%dL, %dL, %dL, %dL) AS chunk(first, count, begun, span)))))
"""

spark = (
    SparkSession.builder.appName("send")
    .master("local[1]")
    .config("spark.jars", jars)
    .config("spark.ui.enabled", "false")
    .config("spark.ui.showConsoleProgress", "false")
    .config("spark.sql.adaptive.enabled", "false")
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.driver.extraJavaOptions", "-XX:+UseSerialGC")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")


def send(first: int, count: int, begun: float, ended: float) -> None:
    """Send a chunk of messages, and wait until all in-sync replicas have them."""
    begun_us, ended_us = int(begun * 1e6), int(ended * 1e6)
    # The numbers are a row, not literals. So all chunks have the same generated code.
    (
        spark.sql(MESSAGES % (first, count, begun_us, ended_us - begun_us))
        .write.format("kafka")
        .option("kafka.bootstrap.servers", servers)
        .option("topic", topic)
        # As the producer sends.
        .option("kafka.acks", "all")
        .option("kafka.compression.type", "lz4")
        .option("kafka.linger.ms", "5")
        .option("kafka.batch.size", "131072")
        .save()
    )


sent, owed, last = 1, 0.0, time.time()
while True:
    time.sleep(max(0.0, last + TICK - time.time()))
    now = time.time()
    owed += float(Path(file).read_text(encoding="utf-8")) * (now - last)
    if count := int(owed):
        send(sent, count, last, now)
        sent += count
        owed -= count
    last = now
