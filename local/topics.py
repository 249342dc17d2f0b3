"""Create the two topics of the settings if they do not exist: `python -m local.topics`.

It waits for the broker. A second run changes nothing.
"""

import argparse
import logging
import time
from collections.abc import Mapping
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.errors import (
    InvalidReplicationFactorError,
    KafkaError,
    TopicAlreadyExistsError,
)

from pipeline import kafka_security
from pipeline.errors import (
    OperationalError,
    TemporaryError,
    exit_on_error,
    is_temporary,
    sentence,
)
from pipeline.ingest.kafka_connection import connected
from pipeline.settings import Settings, load

#: Seconds to wait for the broker.
WAIT_SECONDS = 120.0
#: Milliseconds to reach the broker in one attempt.
CONNECT_MS = 2_000
#: Configuration of each topic. It replaces the defaults of the broker.
CONFIGURATION = {
    "message.timestamp.type": "CreateTime",  # the time of receipt, set by the producer
    "message.timestamp.before.max.ms": str(2**63 - 1),  # accept records of any age
    # Ten years ahead: Spark fails on a time whose microseconds do not fit 64 bits.
    "message.timestamp.after.max.ms": str(10 * 365 * 24 * 3600 * 1000),
    "retention.ms": str(7 * 24 * 3600 * 1000),
}


def create(
    servers: str,
    *names: str,
    wait_seconds: float = WAIT_SECONDS,
    security: dict[str, Any] | None = None,
    replicas: int = 1,
    in_sync: int = 1,
) -> None:
    """Create topics, one partition each, so that records are read in the order of their arrival.

    Args:
        servers: the brokers, host:port, separated by commas.
        names: the topics.
        wait_seconds: how long to wait for a broker.
        security: options of `pipeline.kafka_security.client_options`.
        replicas: number of brokers that keep each record.
        in_sync: number of brokers that must have a record before it counts as written.

    Raises:
        TemporaryError: not enough brokers answered in time.
        KafkaError: the broker refused.
    """
    topic = {
        "num_partitions": 1,
        "replication_factor": replicas,
        "configs": CONFIGURATION | {"min.insync.replicas": str(in_sync)},
    }
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            _create_missing(servers, dict.fromkeys(names, topic), security or {})
        except (KafkaError, TemporaryError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _create_missing(
    servers: str, topics: Mapping[str, dict[str, Any]], security: dict[str, Any]
) -> None:
    admin, _ = connected(
        KafkaAdminClient,
        bootstrap_servers=servers.split(","),
        bootstrap_timeout_ms=CONNECT_MS,
        reconnect_backoff_max_ms=500,  # the default is 30 s, and the broker starts in a few
        **security,
    )
    try:
        for name, topic in topics.items():
            try:
                admin.create_topics({name: topic}, wait_for_metadata=True)
            except TopicAlreadyExistsError:
                continue
    finally:
        admin.close()


def create_from(settings: Settings) -> tuple[str, str]:
    """Create the two topics of the settings; return their names.

    Raises:
        OperationalError: the settings do not fit each other, or the broker refused.
        TemporaryError: not enough brokers answered in time.
    """
    replicas, in_sync = settings.kafka_replication_factor, settings.kafka_min_insync_replicas
    if in_sync > replicas:
        raise OperationalError(
            f"KAFKA_MIN_INSYNC_REPLICAS={in_sync} must not be above "
            f"KAFKA_REPLICATION_FACTOR={replicas}"
        )
    security = kafka_security.client_options(settings)
    servers, names = (
        settings.kafka_bootstrap_servers,
        (settings.kafka_topic, settings.rejected_topic),
    )
    try:
        create(servers, *names, security=security, replicas=replicas, in_sync=in_sync)
    except (KafkaError, TemporaryError) as error:
        family = TemporaryError if is_temporary(error) else OperationalError
        text = f"Cannot create the topics. {sentence(error)}"
        if isinstance(error, InvalidReplicationFactorError):  # more brokers can start
            family = TemporaryError
            text = (
                "Kafka has too few brokers for the topics. Start more, or decrease "
                f"KAFKA_REPLICATION_FACTOR={replicas}. Cause: {sentence(error)}"
            )
        elif isinstance(error, KafkaError) and is_temporary(error):
            text = f"Cannot create the topics. Check that Kafka runs. Cause: {sentence(error)}"
        raise family(f"{text.rstrip('.')}. The topics: {', '.join(names)} on {servers}") from error
    return names


def main() -> None:
    """Create the topics, or exit with one sentence."""
    argparse.ArgumentParser(prog="python -m local.topics", description=__doc__).parse_args()
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # no tracebacks while it waits
    settings = load()
    with exit_on_error():
        print(f"topics ready: {', '.join(create_from(settings))}")


if __name__ == "__main__":
    main()
