"""Creates the topics if they are not there yet: `python -m local.topics`.

Where and which, the settings say. Waits for the broker; done again, it changes nothing.
"""

import logging
import sys
import time

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from pipeline.settings import load

#: How long the broker is waited for, seconds.
WAIT_SECONDS = 120.0
#: A topic's configuration, whatever the broker's own is.
CONFIGURATION = {
    "message.timestamp.type": "CreateTime",  # the moment of receipt, as the producer gives it
    "message.timestamp.before.max.ms": str(2**63 - 1),  # no record is refused for its time
    # Ten years ahead: Spark stops at a time whose microseconds do not fit 64 bits.
    "message.timestamp.after.max.ms": str(10 * 365 * 24 * 3600 * 1000),
    "retention.ms": str(7 * 24 * 3600 * 1000),
}


def create(servers: str, *names: str, wait_seconds: float = WAIT_SECONDS) -> None:
    """Creates these topics, one partition each: what comes in order is read in order.

    Raises:
        KafkaError: no broker answered in time, or it refused.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            _create_missing(servers, names)
        except KafkaError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _create_missing(servers: str, names: tuple[str, ...]) -> None:
    admin = KafkaAdminClient(
        bootstrap_servers=servers.split(","),
        bootstrap_timeout_ms=2_000,
        reconnect_backoff_max_ms=500,  # not up to 30 s: the broker is just starting
    )
    try:
        for name in names:
            topic = {"num_partitions": 1, "replication_factor": 1, "configs": CONFIGURATION}
            try:
                admin.create_topics({name: topic}, wait_for_metadata=True)
            except TopicAlreadyExistsError:
                continue
    finally:
        admin.close()


def main() -> None:
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it is waited for: no tracebacks
    settings = load()
    names = (settings.kafka_topic, settings.rejected_topic)
    try:
        create(settings.kafka_bootstrap_servers, *names)
    except KafkaError as error:
        sys.exit(f"topics {', '.join(names)} could not be created: {error}")
    print(f"topics {', '.join(names)} are there")


if __name__ == "__main__":
    main()
