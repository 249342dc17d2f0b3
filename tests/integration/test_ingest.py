"""The loader with a real broker that stops."""

import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

from kafka import KafkaProducer

from pipeline.ingest import kafka, store
from pipeline.ingest.dead_letters import DeadLetters
from pipeline.ingest.loader import Loader
from pipeline.service import Service
from pipeline.settings import Settings
from tests.conftest import Broker, wait_until

GOOD = (
    b'{"type":"ticker","product_id":"BTC-USD","trade_id":%d,"price":"86321.55","side":"buy",'
    b'"time":"2025-12-02T04:59:59.000001Z","last_size":"0.25"}'
)


def test_nothing_is_stored_until_kafka_has_the_dead_letters_before_it(
    own_kafka: Broker, tmp_path: Path
) -> None:
    """The stored offset decides where the next start continues: after a lost dead letter."""
    topic = own_kafka.new_topic()
    write(own_kafka, topic, GOOD % 1, b"not JSON", GOOD % 2)
    settings = Settings(
        data_dir=tmp_path / "data", kafka_bootstrap_servers=own_kafka.address, kafka_topic=topic
    )
    service = Service("consumer", settings)
    with ExitStack() as resources:
        path = service.data.database
        connection = resources.enter_context(closing(store.open_writer(path)))
        sender = kafka.Sender(service)
        resources.callback(sender.close)
        loader = Loader(service, connection, DeadLetters(service, sender))
        resources.callback(loader.close)
        loader.load(wait_until(loader.poll, 20, "the first records"))
        assert (store.total_rows(connection), store.next_offset(connection)) == (2, 3)

        write(own_kafka, topic, b"not JSON either", GOOD % 3)
        records = wait_until(loader.poll, 20, "the next records")
        own_kafka.kill()
        stop = threading.Timer(2, service.stop.set)
        stop.start()
        began = time.monotonic()
        loader.load(records)
        assert time.monotonic() - began > 1.5  # it waited for Kafka
        assert (store.total_rows(connection), store.next_offset(connection)) == (2, 3)

        own_kafka.start()
        service.stop.clear()
        loader.load(records)
        assert (store.total_rows(connection), store.next_offset(connection)) == (3, 5)


def write(broker: Broker, topic: str, *values: bytes) -> None:
    """Write all of these records, so that one poll finds them."""
    writer = KafkaProducer(bootstrap_servers=broker.address, linger_ms=500)
    for value in values:
        writer.send(topic, value=value)
    writer.close()
