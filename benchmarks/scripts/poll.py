"""Poll records and do nothing with them: `python poll.py SERVERS TOPIC ROWS`.

It has the options of `pipeline/ingest/loader.py`. It prints the seconds from the first record to
the last, and the number of records after the first poll.
"""

import sys
import time

from kafka import KafkaConsumer
from kafka.structs import TopicPartition

servers, topic, rows = sys.argv[1:]

consumer = KafkaConsumer(
    bootstrap_servers=servers,
    bootstrap_timeout_ms=120_000,
    enable_auto_commit=False,
    auto_offset_reset="earliest",
    max_poll_records=5000,
    max_partition_fetch_bytes=8 * 1024 * 1024,
    metrics_enabled=False,
)
place = TopicPartition(topic, 0)
consumer.assign([place])

count, first, first_count = 0, 0.0, 0
while count < int(rows):
    count += len(consumer.poll(timeout_ms=500).get(place, []))
    if count and not first_count:
        first, first_count = time.perf_counter(), count
print(time.perf_counter() - first, count - first_count)
consumer.close()
