"""The stack on clusters, built and run by Docker Compose: `make test-compose`.

The tests are the steps of one scenario and run in this order.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.stack import BUILD_SECONDS, START_SECONDS, Stack, await_, started

FILES = ("docker-compose.yml", "docker-compose.replay.yml", "docker-compose.cluster.yml")
#: What is killed during the replay, one after another.
KILLED = (
    *("spark-worker-1", "spark-master", "kafka", "kafka-2", "postgres"),
    *("spark-processor", "batch-scheduler", "consumer", "producer"),
)

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with started(tmp_path_factory.mktemp("cluster"), *FILES) as stack:
        yield stack


def test_all_services_become_healthy(stack: Stack) -> None:
    await_(stack.all_healthy, START_SECONDS, stack, "all healthy")


@pytest.mark.parametrize("service", KILLED)
def test_a_killed_part_comes_back_and_the_pipeline_goes_on(stack: Stack, service: str) -> None:
    stack.kill(service)
    await_(stack.all_healthy, START_SECONDS, stack, f"all healthy after kill -9 of {service}")


@pytest.mark.parametrize("service", ["spark-processor", "batch-scheduler"])
def test_the_pipeline_goes_on_after_the_java_process_of_a_driver_was_killed(
    stack: Stack, service: str
) -> None:
    await_(lambda: stack.kill_java(service), START_SECONDS, stack, f"a driver of {service}")
    await_(stack.all_healthy, START_SECONDS, stack, f"all healthy after kill -9 in {service}")


def test_the_results_equal_an_independent_computation(stack: Stack) -> None:
    assert stack.settle(timeout=1200) == []


def test_the_comparison_reads_the_store(stack: Stack) -> None:
    compare = ("python", "-m", "pipeline.compare", "--json")
    found = json.loads(stack.compose("exec", "-T", "dashboard", *compare))
    assert found["unexplained"] == 0
    assert found["compared"] > 0


def test_no_log_and_no_file_has_the_password_of_the_store(stack: Stack) -> None:
    password = Path(stack.environment["STORE_PASSWORD_FILE"]).read_text(encoding="utf-8").strip()
    assert password not in stack.compose("logs")
    files = [path for path in stack.results().rglob("*") if path.is_file()]
    assert [path for path in files if password.encode() in path.read_bytes()] == []
