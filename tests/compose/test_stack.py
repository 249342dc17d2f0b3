"""The replay stack, built and run by Docker Compose: `make test-compose`.

The tests are the steps of one scenario and run in this order. They use the bundled sample, or the
recording of `make test-compose RECORDING=path`.
"""

import json
import os
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import golden
from tests.conftest import KEPT, free_port, require

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "data" / "sample" / "synthetic_btcusd.jsonl.gz"
RECORDING = Path(os.environ.get("RECORDING") or SAMPLE).absolute()
FILES = ("-f", "docker-compose.yml", "-f", "docker-compose.replay.yml")
#: Replay speed. The sample takes three minutes, long enough to kill services during the replay.
SPEED = 20
#: Seconds that the Compose files give a service to stop.
GRACE = 20
BUILD_SECONDS = 1800
START_SECONDS = 240

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


class Stack:
    """A Compose project with its own name, port and volumes."""

    def __init__(self, folder: Path) -> None:
        self.project = f"svb-test-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self._folder = folder
        self._copies = 0
        kept = {n: v for n, v in os.environ.items() if n in KEPT or n.startswith("DOCKER_")}
        self.environment = kept | {
            "DASHBOARD_PORT": str(self.port),
            "RECORDING": str(RECORDING),
            "RETIME": "0",
            "SPEED": str(SPEED),
            "BATCH_INTERVAL_SECONDS": "20",
            # Variables that a host may have set, and that must not reach the containers.
            "DATA_DIR": "/nowhere",
            "JAVA_HOME": "/nowhere",
            "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1",
        }

    def compose(self, *arguments: str, timeout: float = 120) -> str:
        """Run `docker compose` and return its output. Fail the test if the command fails."""
        command = ["docker", "compose", "-p", self.project, *FILES, *arguments]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            logs = "" if arguments[0] == "logs" else self.compose("logs", "--tail", "15")
            pytest.fail(f"{' '.join(arguments)}: {done.stderr[-3000:]}\n{logs}", pytrace=False)
        return done.stdout

    def states(self) -> dict[str, Any]:
        """Return the state of each service's container."""
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return {state["Service"]: state for state in map(json.loads, lines)}

    def all_healthy(self) -> bool:
        states = self.states()
        topics = states.pop("topics")
        ready = {name for name, state in states.items() if state["Health"] == "healthy"}
        return ready == set(states) and (topics["State"], topics["ExitCode"]) == ("exited", 0)

    def status(self, service: str) -> dict[str, Any]:
        """Return a service's status file, or {} before it exists."""
        text = self.compose(
            "exec", "-T", "dashboard", "sh", "-c", f"cat data/status/{service}.json;:"
        )
        status: dict[str, Any] = json.loads(text or "{}")
        return status

    def kill(self, service: str) -> None:
        """Send SIGKILL to every process of a container except its init."""
        self.compose("exec", "-T", service, "sh", "-c", "kill -9 -1")

    def results(self) -> Path:
        """Copy the data volume and return the copy."""
        self._copies += 1
        copy = self._folder / f"results-{self._copies}"
        self.compose("cp", "dashboard:/app/data", str(copy))
        return copy

    def batch_log(self) -> list[str]:
        """Return the lines of batch_log.txt, read with the README's command."""
        command = ("exec", "-T", "batch-scheduler", "cat", "data/batch_log.txt")
        return self.compose(*command).splitlines()

    def settle(self, timeout: float) -> list[str]:
        """Wait until every trade is processed. Return the remaining differences."""
        await_(lambda: self.status("producer").get("state") == "ended", timeout, self, "the end")
        end = time.monotonic() + 180
        while (problems := golden.verify(RECORDING, self.results())) and time.monotonic() < end:
            time.sleep(5)
        return problems


def await_(condition: Callable[[], bool], timeout: float, stack: Stack, what: str) -> None:
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            states = {name: state["Status"] for name, state in stack.states().items()}
            logs = stack.compose("logs", "--tail", "15")
            pytest.fail(f"{what}: not within {timeout:g} s; {states}\n{logs}", pytrace=False)
        time.sleep(2)


def engine_answers() -> bool:
    try:
        for command in (["docker", "version"], ["docker", "compose", "version"]):
            subprocess.run(command, capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The started stack. Its containers, images and volumes are removed at the end."""
    require("a Docker engine with Compose", engine_answers())
    stack = Stack(tmp_path_factory.mktemp("compose"))
    try:
        stack.compose("build", timeout=BUILD_SECONDS)
        stack.compose("up", "--detach", timeout=START_SECONDS)
        yield stack
    finally:
        stack.compose("down", "--volumes", "--rmi", "local", "--remove-orphans")


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


def test_batch_log_can_be_printed(stack: Stack) -> None:
    assert any("status=ok exit=0 rows=" in line for line in stack.batch_log())


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
