"""Store the trades of Kafka's raw_prices in SQLite."""

from contextlib import ExitStack, closing

from pipeline.ingest import store
from pipeline.ingest.loader import Consumer
from pipeline.service import Service, run


def consume(service: Service, resources: ExitStack) -> None:
    connect = service.retrying("the database")
    connection = resources.enter_context(closing(connect(store.open_writer, service.data.database)))
    consumer = Consumer(service, connection)
    resources.callback(consumer.close)
    consumer.run()


if __name__ == "__main__":
    run("consumer", consume)
