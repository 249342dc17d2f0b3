"""Send the content of a file many times, with the options of the producer.

`python -m benchmarks.scripts.send SERVERS TOPIC FILE COUNT` prints the seconds until all messages
are acknowledged.
"""

import sys
import time
from pathlib import Path

from kafka import KafkaProducer

from pipeline.ingest.kafka import SEND_OPTIONS
from pipeline.settings import Settings


def main() -> None:
    servers, topic, file, count = sys.argv[1:]
    message = Path(file).read_bytes()
    producer = KafkaProducer(
        bootstrap_servers=servers, bootstrap_timeout_ms=120_000, **SEND_OPTIONS
    )
    producer.partitions_for(topic)
    limit = Settings().max_unacknowledged
    began = time.perf_counter()
    for number in range(int(count)):
        future = producer.send(
            topic, message, key=b"BTC-USD", partition=0, timestamp_ms=time.time_ns() // 1_000_000
        )
        if number % limit == limit - 1:
            future.get(120)
    producer.flush()
    print(time.perf_counter() - began)
    producer.close()


if __name__ == "__main__":
    main()
