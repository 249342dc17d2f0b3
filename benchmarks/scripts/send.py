"""Send one message many times: `python send.py SERVERS TOPIC FILE COUNT`, the content of FILE.

It has the options of `pipeline/ingest/kafka.py`, acknowledgement by all replicas and idempotence
among them. It prints the seconds until all of them are acknowledged.
"""

import sys
import time
from pathlib import Path

from kafka import KafkaProducer

servers, topic, file, count = sys.argv[1:]
message = Path(file).read_bytes()

producer = KafkaProducer(
    bootstrap_servers=servers,
    bootstrap_timeout_ms=120_000,
    acks="all",
    enable_idempotence=True,
    compression_type="lz4",
    linger_ms=5,
    batch_size=131_072,
    metrics_enabled=False,
)
producer.partitions_for(topic)
#: Messages that wait for acknowledgement at most, as in the pipeline.
LIMIT = 10_000

began = time.perf_counter()
for number in range(int(count)):
    future = producer.send(
        topic, message, key=b"BTC-USD", partition=0, timestamp_ms=time.time_ns() // 1_000_000
    )
    if number % LIMIT == LIMIT - 1:
        future.get(120)
producer.flush()
print(time.perf_counter() - began)
producer.close()
