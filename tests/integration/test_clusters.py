"""The pipeline on a Spark cluster and a replicated Kafka: exact when parts of them are killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import golden
from tests.conftest import Run, wait_until
from tests.integration.chain import SAMPLE, Chain, new_chain
from tests.integration.kafka_cluster import KafkaCluster, started_kafka_cluster
from tests.integration.spark_cluster import SparkCluster, started_spark_cluster


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[KafkaCluster]:
    with started_kafka_cluster(tmp_path) as brokers:
        yield brokers


@pytest.fixture
def spark(tmp_path: Path) -> Iterator[SparkCluster]:
    with started_spark_cluster(tmp_path) as spark:
        yield spark


@pytest.fixture
def chain(run: Run, tmp_path: Path, brokers: KafkaCluster, spark: SparkCluster) -> Iterator[Chain]:
    """A chain on both clusters, with nothing started."""
    with new_chain(run, tmp_path, brokers, SPARK_MASTER=spark.address) as chain:
        yield chain


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_results_are_exact_when_the_leading_broker_and_a_worker_are_killed(
    chain: Chain, brokers: KafkaCluster, spark: SparkCluster
) -> None:
    chain.feed(SAMPLE, "600")
    chain.start()
    alive = list(chain.running.values())
    wait_until(lambda: chain.rows() > 1000, 60, "1,000 rows", *alive)
    brokers.leader(chain.topic).kill()
    wait_until(chain.final_windows, 120, "a final window", *alive)
    spark.workers[0].kill()
    expected = chain.settle(SAMPLE, 180)
    assert golden.differences(expected, chain.data) == []
