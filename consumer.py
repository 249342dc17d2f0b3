"""Store the trades of the Kafka topic `raw_prices` in SQLite or PostgreSQL."""

from contextlib import ExitStack, closing

from pipeline import stores
from pipeline.ingest.dead_letters import DeadLetters
from pipeline.ingest.kafka import Sender
from pipeline.ingest.loader import Loader
from pipeline.service import Service, run


def load(service: Service, resources: ExitStack) -> None:
    """Store trades until the service is asked to stop."""
    connect = service.retrying("the database")
    connection = resources.enter_context(
        closing(connect(stores.store_of(service.settings).open_writer))
    )
    sender = Sender(service)
    resources.callback(sender.close)
    loader = Loader(service, connection, DeadLetters(service, sender))
    resources.callback(loader.close)
    loader.run()


if __name__ == "__main__":
    run("consumer", load)
