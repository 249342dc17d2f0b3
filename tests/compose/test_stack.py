"""The replay stack, built and run by Docker Compose: `make test-compose`.

The tests are the parts of one story and run in their order. The recording is the sample; another
one is taken with `make test-compose RECORDING=path`.
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
#: Times the recorded pace: the sample takes three minutes, so what works on it can be killed.
SPEED = 20
#: Seconds: the grace that the Compose files give a service to stop.
GRACE = 20
BUILD_SECONDS = 1800
START_SECONDS = 240

pytestmark = pytest.mark.timeout(BUILD_SECONDS)


class Stack:
    """One Compose project of the test's own."""

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
            # What a host may have set and what must not get in.
            "DATA_DIR": "/nowhere",
            "JAVA_HOME": "/nowhere",
            "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1",
        }

    def compose(self, *arguments: str, timeout: float = 120) -> str:
        """What `docker compose` prints; the test fails when it fails."""
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
        """What Compose says of each service's container."""
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return {state["Service"]: state for state in map(json.loads, lines)}

    def all_healthy(self) -> bool:
        states = self.states()
        topics = states.pop("topics")
        ready = {name for name, state in states.items() if state["Health"] == "healthy"}
        return ready == set(states) and (topics["State"], topics["ExitCode"]) == ("exited", 0)

    def status(self, service: str) -> dict[str, Any]:
        """A service's own status file; {} while there is none."""
        text = self.compose(
            "exec", "-T", "dashboard", "sh", "-c", f"cat data/status/{service}.json;:"
        )
        status: dict[str, Any] = json.loads(text or "{}")
        return status

    def kill(self, service: str) -> None:
        """Kills all processes of a container but its init, at once."""
        self.compose("exec", "-T", service, "sh", "-c", "kill -9 -1")

    def results(self) -> Path:
        """A copy of the data volume."""
        self._copies += 1
        copy = self._folder / f"results-{self._copies}"
        self.compose("cp", "dashboard:/app/data", str(copy))
        return copy

    def batch_log(self) -> list[str]:
        """The lines of the log, by the command that the README gives."""
        command = ("exec", "-T", "batch-scheduler", "cat", "data/batch_log.txt")
        return self.compose(*command).splitlines()

    def settle(self, timeout: float) -> list[str]:
        """Waits until the results are those of the whole recording; what is wrong at the end."""
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
    """The stack, started; afterwards nothing of it is left."""
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


def test_the_settings_are_the_hosts_but_folder_broker_and_java_are_the_stacks(
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
    # It does only when the archive was made for this very Java and class path.
    code = "grep -l /app/jars/archive/ /proc/[0-9]*/maps"
    assert stack.compose("exec", "-T", "spark-processor", "sh", "-c", code)


def test_no_service_runs_as_root(stack: Stack) -> None:
    for service in set(stack.states()) - {"topics"}:
        assert stack.compose("exec", "-T", service, "id", "-u").strip() != "0"


def test_what_is_killed_comes_back(stack: Stack) -> None:
    for service in ("consumer", "spark-processor", "batch-scheduler", "kafka", "dashboard"):
        stack.kill(service)
    await_(stack.all_healthy, START_SECONDS, stack, "all healthy again")


def test_the_results_are_those_of_an_independent_computation(stack: Stack) -> None:
    assert stack.settle(timeout=1200) == []


def test_batch_log_can_be_printed(stack: Stack) -> None:
    assert any("status=ok exit=0 rows=" in line for line in stack.batch_log())


def compared(stack: Stack) -> dict[str, Any]:
    """What the README's command says of the two paths; it fails where its status is not 0."""
    command = ("exec", "-T", "dashboard", "python", "-m", "pipeline.compare", "--json")
    found: dict[str, Any] = json.loads(stack.compose(*command))
    return found


def test_the_paths_are_compared_where_the_page_runs_whether_or_not_the_consumer_does(
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
    assert said.splitlines()[-1].startswith("/app/data/report/report.html (made in ")
    made = stack.results() / "report"
    assert "Do they agree?" in (made / "report.html").read_text(encoding="utf-8")
    assert (made / "figures" / "agreement.svg").exists()


def test_all_stop_in_order_within_the_grace(stack: Stack) -> None:
    began = time.monotonic()
    stack.compose("stop")
    assert time.monotonic() - began < GRACE
    codes = {name: state["ExitCode"] for name, state in stack.states().items()}
    # 143 is what Java and Streamlit end with when asked to.
    expected = dict.fromkeys(codes, 0) | {"kafka": 143, "dashboard": 143}
    assert codes == expected


def test_down_and_up_again_goes_on_and_doubles_nothing(stack: Stack) -> None:
    runs = len((stack.results() / "batch_log.txt").read_text(encoding="utf-8").splitlines())
    stack.compose("down")
    stack.environment["SPEED"] = "max"
    stack.compose("up", "--detach", timeout=START_SECONDS)
    await_(stack.all_healthy, START_SECONDS, stack, "all healthy")
    await_(lambda: len(stack.batch_log()) > runs, START_SECONDS, stack, "another batch run")
    assert stack.settle(timeout=600) == []
