"""Poll records and do nothing with them, with the options of the consumer.

`python -m benchmarks.scripts.poll SERVERS TOPIC ROWS` prints the seconds from the first record to
the last, and the number of records after the first poll.
"""

import sys
import time

from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from pipeline.ingest.kafka import READ_OPTIONS
from pipeline.settings import Settings


def main() -> None:
    servers, topic, rows = sys.argv[1:]
    consumer = KafkaConsumer(
        bootstrap_servers=servers,
        bootstrap_timeout_ms=120_000,
        max_poll_records=Settings().poll_max_records,
        **READ_OPTIONS,
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


if __name__ == "__main__":
    main()
