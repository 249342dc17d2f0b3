"""Read the exchange's ticker messages from its WebSocket and publish them to Kafka."""

from contextlib import ExitStack

from pipeline.ingest.exchange_connection import Feed
from pipeline.ingest.kafka import Sender
from pipeline.ingest.publisher import Publisher
from pipeline.service import Service, run


def publish(service: Service, resources: ExitStack) -> None:
    """Publish until the service is asked to stop."""
    sender = Sender(service)
    resources.callback(sender.close)
    publisher = Publisher(service, sender)
    resources.callback(publisher.close)
    service.retrying("Kafka")(publisher.restore_published)
    Feed(service, publisher).run()


if __name__ == "__main__":
    run("producer", publish)
