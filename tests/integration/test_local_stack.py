"""The broker as it runs without containers, and the whole stack started by make."""

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.conftest import Broker


def send(broker: Broker, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.address, acks="all", enable_idempotence=True)
    for value in values:
        producer.send(topic, value, timestamp_ms=1)
    producer.flush()
    producer.close()


def read(broker: Broker, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=broker.address, auto_offset_reset="earliest")
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    values: list[bytes] = []
    while len(values) < count:
        values += [r.value for batch in consumer.poll(1000).values() for r in batch]
    consumer.close()
    return values


def test_what_was_acknowledged_survives_a_killed_broker(own_kafka: Broker) -> None:
    topic = own_kafka.new_topic()
    values = [str(n).encode() for n in range(1000)]
    send(own_kafka, topic, values)
    own_kafka.kill()
    own_kafka.start()
    assert read(own_kafka, topic, len(values)) == values


def test_topics_have_one_partition_and_are_created_once(kafka: Broker) -> None:
    topic = kafka.new_topic()
    from local import topics

    topics.create(kafka.address, topic)
    consumer = KafkaConsumer(bootstrap_servers=kafka.address)
    assert consumer.partitions_for_topic(topic) == {0}
    assert consumer.partitions_for_topic(f"{topic}_rejected") == {0}
    consumer.close()
