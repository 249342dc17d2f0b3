"""Throughput of the producer: messages per second from a WebSocket at full speed to Kafka.

An empty send loop shows the limit of kafka-python. `producer.py` also reads, checks and counts each
message.
"""

from collections.abc import Iterator
from contextlib import closing

from kafka import KafkaConsumer
from kafka.structs import TopicPartition

from benchmarks import inputs
from benchmarks.processes import BASELINE, CONNECT_MS, Bench, Open
from benchmarks.results import Mark, Result
from benchmarks.sizes import Sizes

TOPIC = "raw_prices"
#: Longest run of each side, seconds.
TIMEOUT = 900


def measure(open_bench: Open, sizes: Sizes) -> Iterator[Result]:
    """Yield the results for the producer, each as soon as it is measured."""
    with open_bench("producer") as bench:
        ours = rate(bench, sizes.producer_messages, baseline=False)
    with open_bench("producer-baseline") as bench:
        baseline = rate(bench, sizes.producer_baseline_messages, baseline=True)
    yield Result("producer", "messages/s", ours, baseline)
    with open_bench("producer-limit") as bench:
        limit = send_rate(bench, sizes.producer_messages)
    mark = Mark(at_least=0.7, of_ratio=True)
    yield Result("producer", "messages/s", ours, limit, mark, "empty send loop")


def rate(bench: Bench, count: int, *, baseline: bool) -> float:
    """Return messages per second, from the receipt of the first one until all are in Kafka."""
    recording = bench.folder / "synthetic.jsonl"
    inputs.write_recording(recording, count)
    servers = bench.broker(TOPIC)
    feed = bench.feed(recording, "--no-retime", "--speed", "max")
    bench.log(f"{bench.folder.name}: {count:,} messages")
    if baseline:
        producer = bench.python("producer", BASELINE / "producer.py", feed, servers, TOPIC)
    else:
        producer = bench.service("producer", servers, TOPIC, FEED_URL=feed)
    place = TopicPartition(TOPIC, 0)
    client = {"bootstrap_servers": servers, "bootstrap_timeout_ms": CONNECT_MS}
    with closing(KafkaConsumer(**client, enable_auto_commit=False)) as kafka:
        kafka.assign([place])

        def end_ms() -> int | None:
            """Return the time if the broker has all of them."""
            return inputs.now_ms() if kafka.end_offsets([place])[place] >= count else None

        end = bench.wait(end_ms, TIMEOUT, f"{count} messages in Kafka", producer)
        kafka.seek_to_beginning(place)
        first: int = kafka.poll(timeout_ms=10_000, max_records=1)[place][0].timestamp
    return count / (end - first) * 1000


def send_rate(bench: Bench, count: int) -> float:
    """Return the messages per second of an empty send loop, until all are acknowledged."""
    servers = bench.broker(TOPIC)
    sample = bench.folder / "message.json"
    sample.write_bytes(inputs.message(next(inputs.walk())))
    bench.log(f"{bench.folder.name}: sending {count:,} messages")
    loop = bench.python("send", "-m", "benchmarks.scripts.send", servers, TOPIC, sample, count)
    return count / float(bench.output(loop, TIMEOUT, "the end of the send loop"))
