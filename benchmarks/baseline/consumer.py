"""Store Kafka records in SQLite, as tutorials do: `python consumer.py SERVERS TOPIC DATABASE ROWS`.

Only the measurement is added: it ends after ROWS rows and prints the seconds between the first and
the last of them.
"""

import json
import sqlite3
import sys
import time

from kafka import KafkaConsumer

servers, topic, database, rows = sys.argv[1:]

connection = sqlite3.connect(database)
cursor = connection.cursor()
cursor.execute(
    """CREATE TABLE IF NOT EXISTS btc_prices (
        trade_id INTEGER PRIMARY KEY, price REAL, best_bid REAL, best_ask REAL,
        side TEXT, time TEXT, last_size REAL)"""
)

consumer = KafkaConsumer(
    topic,
    bootstrap_servers=servers,
    group_id="baseline",
    auto_offset_reset="earliest",
    value_deserializer=lambda value: json.loads(value.decode("utf-8")),
)

first = 0.0
for count, message in enumerate(consumer, 1):
    data = message.value
    cursor.execute(
        "INSERT OR IGNORE INTO btc_prices VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            data["trade_id"],
            float(data["price"]),
            float(data["best_bid"]),
            float(data["best_ask"]),
            data["side"],
            data["time"],
            float(data["last_size"]),
        ),
    )
    connection.commit()
    if count == 1:
        first = time.perf_counter()
    if count == int(rows):
        print(time.perf_counter() - first)
        break
consumer.close()
