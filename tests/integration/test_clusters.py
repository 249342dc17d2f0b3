"""The pipeline on a Spark cluster and a replicated Kafka: exact when parts of it are killed."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from feed.sample import SAMPLE
from tests import golden
from tests.conftest import Run, wait_until
from tests.integration.chain import Chain, new_chain
from tests.integration.conftest import has_ended
from tests.integration.kafka_cluster import KafkaCluster, started_kafka_cluster
from tests.integration.spark_cluster import SparkCluster, started_spark_cluster

#: The longest wait. On two cores that other programs use too, a driver starts in two minutes.
SECONDS = 300


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
@pytest.mark.timeout(1500)
def test_results_are_exact_when_parts_of_the_clusters_and_the_drivers_are_killed(
    chain: Chain, brokers: KafkaCluster, spark: SparkCluster
) -> None:
    """The leading broker, a worker, and the Java processes of the stream and of a batch run."""
    ended = spark.folder / "worker-1" / "app-ended"
    ended.mkdir(parents=True)
    os.utime(ended, (0, 0))
    chain.start("consumer", "spark_processor")
    runs = lambda: chain.status("spark_processor").get("state") == "running"  # noqa: E731
    wait_until(runs, SECONDS, "a running stream", *chain.running.values())
    chain.feed(SAMPLE, "30")  # a minute of event time in two seconds
    chain.start("producer")
    alive = list(chain.running.values())
    wait_until(lambda: chain.rows() > 1000, SECONDS, "1,000 rows", *alive)
    brokers.leader(chain.topic).kill()
    wait_until(chain.final_windows, SECONDS, "a final window", *alive)
    spark.workers[0].kill()
    final = len(chain.final_windows())
    wait_until(lambda: len(chain.final_windows()) > final, SECONDS, "a new window", *alive)
    kill_driver_of_stream(chain)
    kill_driver_of_batch_run(chain)
    expected = chain.settle(SAMPLE, SECONDS)
    assert golden.differences(expected, chain.data) == []
    assert not ended.exists()  # the worker has removed it


def kill_driver_of_stream(chain: Chain) -> None:
    """Kill the driver's Java process alone, and start the service again as a supervisor does."""
    stream = chain.running["spark_processor"]
    stream.java().kill()
    assert stream.process.wait(SECONDS) == 2
    (line,) = stream.errors()
    assert "The Java process of the stream has ended." in line
    chain.start("spark_processor")


def kill_driver_of_batch_run(chain: Chain) -> None:
    """Kill the Java process of a run alone: the run fails, and none of its processes continues."""
    chain.start("batch_scheduler")
    scheduler = chain.running.pop("batch_scheduler")
    java = scheduler.java()
    python = wait_until(
        lambda: next((child for child in java.children() if is_python(child)), None),
        SECONDS,
        "the Python process of the run",
        scheduler,
    )
    python.suspend()  # without an end by the scheduler, it would stay
    java.kill()
    log = chain.data / "batch_log.txt"
    wait_until(log.exists, SECONDS, "the line of the run", scheduler)
    assert " status=failed exit=-9 " in log.read_text(encoding="utf-8")
    assert has_ended(python, 10)
    assert scheduler.terminate() == 0


def is_python(process: psutil.Process) -> bool:
    """Return whether this is Python: Java also starts other programs, and forks before it does."""
    try:
        return process.name().startswith("python")
    except psutil.NoSuchProcess:
        return False
