"""The replay stack, built and run by Docker Compose: `make test-compose`.

The tests are the steps of one scenario and run in this order. They use the bundled sample, or the
recording of `make test-compose RECORDING=path`.
"""

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compose.stack import (
    BATCH_MODE,
    BUILD_SECONDS,
    GRACE,
    START_SECONDS,
    Stack,
    await_,
    started,
)

FILES = ("docker-compose.yml", "docker-compose.replay.yml")

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with started(tmp_path_factory.mktemp("compose"), *FILES) as stack:
        yield stack


def test_all_services_become_healthy(stack: Stack) -> None:
    await_(stack.all_healthy, START_SECONDS, stack, "all healthy")


def test_the_page_runs_and_answers_at_its_port(stack: Stack) -> None:
    address = f"http://127.0.0.1:{stack.port}/_stcore/script-health-check"
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.read() == b"ok"


def test_settings_come_from_the_host_except_folder_broker_and_java(
    stack: Stack,
) -> None:
    code = "from pipeline.settings import load; print(load().model_dump_json())"
    settings = json.loads(stack.compose("exec", "-T", "batch-scheduler", "python", "-c", code))
    assert settings["batch_interval_seconds"] == 20
    assert settings["data_dir"] == "/app/data"
    assert settings["kafka_bootstrap_servers"] == "kafka:9092"
    assert settings["java_home"] is None
    assert settings["feed_url"] == "ws://feed:8765"


def test_the_jvm_maps_the_class_data_archive(stack: Stack) -> None:
    # The JVM maps it only if it was made for this Java and this class path.
    code = "grep -l /app/jars/archive/ /proc/[0-9]*/maps"
    assert stack.compose("exec", "-T", "spark-processor", "sh", "-c", code)


def test_no_service_runs_as_root(stack: Stack) -> None:
    for service in set(stack.states()) - {"topics"}:
        assert stack.compose("exec", "-T", service, "id", "-u").strip() != "0"


def test_killed_services_are_restarted(stack: Stack) -> None:
    for service in ("consumer", "spark-processor", "batch-scheduler", "kafka", "dashboard"):
        stack.kill(service)
    await_(stack.all_healthy, START_SECONDS, stack, "all healthy again")


def test_the_results_equal_an_independent_computation(stack: Stack) -> None:
    assert stack.settle(timeout=1200) == []


def test_batch_log_can_be_printed_and_names_the_mode(stack: Stack) -> None:
    """The first incremental run reads everything, so its line says `full`."""
    succeeded = [line for line in stack.batch_log() if "status=ok exit=0 rows=" in line]
    assert any(f" mode={BATCH_MODE}" in line for line in succeeded)


def compared(stack: Stack) -> dict[str, Any]:
    """Return the comparison of the README's command. Fail if its exit status is not 0."""
    command = ("exec", "-T", "dashboard", "python", "-m", "pipeline.compare", "--json")
    found: dict[str, Any] = json.loads(stack.compose(*command))
    return found


def test_the_comparison_works_with_and_without_a_running_consumer(
    stack: Stack,
) -> None:
    assert compared(stack)["unexplained"] == 0
    stack.compose("stop", "consumer")
    found = compared(stack)
    assert found["compared"] > 0
    assert {"stage", "drawn_from", "count"} <= found["funnel"][-1].keys()
    stack.compose("start", "consumer")


def test_the_report_is_made_by_its_service(stack: Stack) -> None:
    said = stack.compose("run", "--rm", "-T", "report", timeout=BUILD_SECONDS)
    assert said.splitlines()[-1].startswith("/app/data/report/report.html (took ")
    made = stack.results() / "report"
    assert "<h2>Agreement</h2>" in (made / "report.html").read_text(encoding="utf-8")
    assert (made / "figures" / "agreement.svg").exists()


def test_all_services_stop_within_their_grace_period(stack: Stack) -> None:
    began = time.monotonic()
    stack.compose("stop")
    assert time.monotonic() - began < GRACE
    codes = {name: state["ExitCode"] for name, state in stack.states().items()}
    # Java and Streamlit exit with 143 after SIGTERM.
    expected = dict.fromkeys(codes, 0) | {"kafka": 143, "dashboard": 143}
    assert codes == expected


def test_after_down_and_up_the_stack_continues_and_duplicates_nothing(stack: Stack) -> None:
    runs = len((stack.results() / "batch_log.txt").read_text(encoding="utf-8").splitlines())
    stack.compose("down")
    stack.environment["SPEED"] = "max"
    stack.compose("up", "--detach", timeout=START_SECONDS)
    await_(stack.all_healthy, START_SECONDS, stack, "all healthy")
    await_(lambda: len(stack.batch_log()) > runs, START_SECONDS, stack, "another batch run")
    assert stack.settle(timeout=600) == []
