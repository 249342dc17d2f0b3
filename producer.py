"""Read the exchange's ticker messages from its WebSocket and publish them to Kafka."""

from contextlib import ExitStack

from pipeline.ingest.kafka import Publisher
from pipeline.ingest.publisher import Producer
from pipeline.service import Service, run


def produce(service: Service, resources: ExitStack) -> None:
    publisher = Publisher(service)
    resources.callback(publisher.close)
    producer = Producer(service, publisher)
    service.retrying("Kafka")(producer.remember_published)
    producer.run()


if __name__ == "__main__":
    run("producer", produce)
