"""The content of the Compose files and the Dockerfile, read without a Docker engine."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.clusters import WORKER_OPTIONS
from local.kafka import server_properties
from local.start import DEMO_BATCH_SECONDS
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
LIVE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
REPLAY = yaml.safe_load((ROOT / "docker-compose.replay.yml").read_text(encoding="utf-8"))
CLUSTER = yaml.safe_load((ROOT / "docker-compose.cluster.yml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")

FEED: dict[str, Any] = REPLAY["services"]["feed"]
#: The nodes of the Spark cluster.
SPARK: dict[str, dict[str, Any]] = {
    name: service for name, service in CLUSTER["services"].items() if "build" in service
}
#: Every service that a file describes completely.
SERVICES: dict[str, dict[str, Any]] = {
    **LIVE["services"],
    "feed": FEED,
    **SPARK,
    "postgres": CLUSTER["services"]["postgres"],
}
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
#: The services that end when their work is done.
ONE_SHOT = {"topics", "report"}
LONG_RUNNING = {name: s for name, s in SERVICES.items() if name not in ONE_SHOT}
#: The services that read the settings.
CONFIGURED = {name: s for name, s in OURS.items() if name not in {"feed", *SPARK}}

#: The host does not set these: they are fixed for every container.
NOT_PASSED = {
    *("DATA_DIR", "JAVA_HOME", "KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SECURITY_PROTOCOL"),
    *("KAFKA_SASL_MECHANISM", "KAFKA_CREDENTIALS_FILE", "KAFKA_CA_FILE"),
    *("STORE_URL", "STORE_PASSWORD_FILE"),
}


def defaults(service: dict[str, Any]) -> dict[str, str]:
    """Return the defaults of `${NAME:-default}` in the environment of a service."""
    found = (
        re.fullmatch(r"\$\{(\w+):-(.*)\}", str(value))
        for value in (service.get("environment") or {}).values()
    )
    return {match[1]: match[2] for match in found if match}


def conditions(name: str, *files: dict[str, Any]) -> dict[str, str]:
    """Return the services that a service waits for with the files, and their conditions."""
    waits = {}
    for file in files:
        for other, how in (file["services"].get(name, {}).get("depends_on") or {}).items():
            waits[other] = how["condition"]
    return waits


def test_the_services_are_those_of_the_design() -> None:
    expected = "kafka topics producer consumer spark-processor batch-scheduler dashboard report"
    assert set(LIVE["services"]) == set(expected.split())


def test_only_the_services_that_use_the_store_of_the_cluster_get_its_password() -> None:
    """The password is no environment variable, and each service has the address of the store."""
    services = CLUSTER["services"]
    readers = {name for name, service in services.items() if "secrets" in service}
    assert readers == {"postgres", "consumer", "batch-scheduler", "dashboard", "report"}
    ours = {name for name in services if name in CONFIGURED}
    assert {services[name]["environment"]["STORE_URL"] for name in ours} == {
        "postgresql://prices@postgres:5432/prices"
    }
    assert not re.search(r"PASSWORD:", (ROOT / "docker-compose.cluster.yml").read_text())


def test_there_is_no_obsolete_version_key() -> None:
    for file in (LIVE, REPLAY, CLUSTER):
        assert "version" not in file


def test_each_form_is_a_project_of_its_own_so_its_volumes_never_mix() -> None:
    files = (LIVE, REPLAY, CLUSTER)
    assert len({file["name"] for file in files}) == len(files)
    for file in (LIVE, CLUSTER):
        assert all(not volume for volume in file["volumes"].values()), "a volume is named by hand"


@pytest.mark.parametrize("name", sorted(CONFIGURED))
def test_every_setting_comes_from_the_host_and_has_no_other_default(name: str) -> None:
    environment = CONFIGURED[name]["environment"]
    passed = {setting for setting, value in environment.items() if value is None}
    settings = {field.upper() for field in Settings.model_fields} - NOT_PASSED
    further = {"STY"}  # with it, a WINDOW of GNU screen is recognised
    if name == "dashboard":
        further |= {"STREAMLIT_SERVER_ENABLE_CORS", "STREAMLIT_SERVER_ENABLE_XSRF_PROTECTION"}
    assert passed == settings | further


@pytest.mark.parametrize("name", sorted(CONFIGURED))
def test_the_containers_use_their_own_broker_data_folder_and_java(name: str) -> None:
    environment = CONFIGURED[name]["environment"]
    fixed = {setting: value for setting, value in environment.items() if value is not None}
    assert fixed == {"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}
    assert re.search(r"^ENV DATA_DIR=/app/data$", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_has_few_rights_and_a_memory_limit(name: str) -> None:
    service = SERVICES[name]
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert "privileged" not in service
    # A volume belongs to the image's user. The image of PostgreSQL starts as root and changes it.
    assert service.get("user") == {"postgres": "postgres"}.get(name)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_logs_are_rotated(name: str) -> None:
    logging = SERVICES[name]["logging"]
    assert logging["driver"] == "json-file"
    assert logging["options"]["max-size"]
    assert int(logging["options"]["max-file"]) > 1


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_that_ends_is_restarted_unless_its_work_is_done(name: str) -> None:
    assert SERVICES[name]["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_every_long_running_service_has_a_health_check(name: str) -> None:
    check = LONG_RUNNING[name]["healthcheck"]
    assert check["test"]
    assert {"interval", "timeout", "retries", "start_period", "start_interval"} <= set(check)


@pytest.mark.parametrize("name", ["producer", "consumer", "spark-processor", "batch-scheduler"])
def test_the_health_check_of_a_service_reads_its_own_status(name: str) -> None:
    script = name.replace("-", "_")
    assert LONG_RUNNING[name]["healthcheck"]["test"] == (
        f"python -m pipeline.health {script} /app/data"
    )
    assert LONG_RUNNING[name]["command"] == f"python {script}.py"
    assert (ROOT / f"{script}.py").is_file()


def test_the_health_check_of_a_server_uses_no_proxy() -> None:
    """Docker sets `http_proxy` in every container if its user has one."""
    checks = {name: str(s.get("healthcheck", {}).get("test")) for name, s in OURS.items()}
    assert not any("urllib" in check or "curl" in check for check in checks.values())
    assert checks["feed"] == "python -m pipeline.http_health 8765 /health"
    assert checks["dashboard"].startswith("python -m pipeline.http_health 8501 /_stcore/")


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_containers_write_only_to_their_volume_and_tmp(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    mounts = [v["target"] if isinstance(v, dict) else v for v in service.get("volumes", [])]
    own = "spark-master:/app/spark-master" if name == "spark-master" else "data:/app/data"
    for mount in mounts if name != "feed" else []:
        assert mount == own


def test_spark_can_load_the_library_that_its_driver_unpacks_into_tmp() -> None:
    for name in ("spark-processor", "batch-scheduler", "spark-worker-1", "spark-worker-2"):
        (tmp,) = SERVICES[name]["tmpfs"]
        assert tmp.startswith("/tmp:")  # noqa: S108
        assert "exec" in tmp.partition(":")[2].split(",")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_waits_only_for_conditions_that_can_be_met(name: str) -> None:
    for other, condition in conditions(name, LIVE, REPLAY, CLUSTER).items():
        assert other in {*SERVICES, *CLUSTER["services"]}
        if condition == "service_healthy":
            assert "healthcheck" in SERVICES.get(other, SERVICES["kafka"])
        elif condition == "service_completed_successfully":
            assert other in ONE_SHOT
        else:
            assert condition == "service_started"


def test_every_user_of_kafka_waits_for_the_topics() -> None:
    assert conditions("topics", LIVE) == {"kafka": "service_healthy"}
    for name in ("producer", "consumer", "spark-processor"):
        assert conditions(name, LIVE)["topics"] == "service_completed_successfully"


def test_the_producer_waits_for_the_replay() -> None:
    assert conditions("producer", REPLAY)["feed"] == "service_healthy"


def test_only_the_page_is_reachable_and_only_from_this_machine() -> None:
    published = {name: s["ports"] for name, s in SERVICES.items() if s.get("ports")}
    assert published == {"dashboard": ["127.0.0.1:${DASHBOARD_PORT:-8501}:8501"]}
    assert "--server.port=8501" in SERVICES["dashboard"]["command"]


def test_image_tags_are_pinned_and_have_no_digest() -> None:
    images = [s["image"] for s in SERVICES.values() if "image" in s]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert images
    for image in images:
        assert re.fullmatch(r"[a-z/]+:[0-9][\w.-]*", image), image


def versions(pom: str) -> dict[str, str]:
    """Return the versions of the artifacts in a POM file of `jars/`."""
    text = (ROOT / "jars" / pom / "pom.xml").read_text(encoding="utf-8")
    spark = dict(re.findall(r"<(spark\.version)>(.+)</", text))
    found = re.findall(r"<artifactId>(.+)</artifactId>\s+<version>(.+)</version>", text)
    return {name: spark.get(version.strip("${}"), version) for name, version in found}


def test_the_jars_have_the_versions_of_pyspark_and_of_the_broker_in_a_container() -> None:
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    (pyspark,) = re.findall(r"^pyspark==(\S+)", required, re.MULTILINE)
    spark = versions("spark")
    assert spark["spark-sql-kafka-0-10_2.13"] == pyspark
    assert spark["spark-token-provider-kafka-0-10_2.13"] == pyspark
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{versions('kafka')['kafka_2.13']}"


def test_the_broker_has_a_complete_configuration() -> None:
    kafka = SERVICES["kafka"]
    set_here = kafka["environment"]
    assert set_here["KAFKA_PROCESS_ROLES"] == "broker,controller"
    assert set_here["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://kafka:9092"
    needed = "NODE_ID CONTROLLER_QUORUM_VOTERS LISTENERS CONTROLLER_LISTENER_NAMES "
    needed += "LISTENER_SECURITY_PROTOCOL_MAP OFFSETS_TOPIC_REPLICATION_FACTOR "
    needed += "TRANSACTION_STATE_LOG_REPLICATION_FACTOR TRANSACTION_STATE_LOG_MIN_ISR "
    needed += (
        "SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR"
    )
    assert {f"KAFKA_{name}" for name in needed.split()} <= set(set_here)
    assert kafka["volumes"] == ["kafka:/var/lib/kafka/data"]
    assert set_here["KAFKA_LOG_DIRS"].startswith("/var/lib/kafka/data/")
    local = dict(line.split("=", 1) for line in server_properties(1, 2).splitlines())
    for name in ("broker.heartbeat.interval.ms", "broker.session.timeout.ms"):
        assert str(set_here["KAFKA_" + name.upper().replace(".", "_")]) == local[name]
    assert set_here["KAFKA_LOG_RETENTION_HOURS"] == 7 * 24
    assert "KAFKA_LOG4J_ROOT_LOGLEVEL" not in set_here, "it silences the broker's log"


def test_the_cluster_has_three_brokers_of_which_two_acknowledge_every_record() -> None:
    brokers = {n: s for n, s in CLUSTER["services"].items() if n.startswith("kafka")}
    assert sorted(brokers) == ["kafka", "kafka-2", "kafka-3"]
    voters = ",".join(f"{1 + place}@{name}:9093" for place, name in enumerate(sorted(brokers)))
    for place, (name, broker) in enumerate(sorted(brokers.items())):
        merged = LIVE["services"]["kafka"]["environment"] | broker["environment"]
        assert merged["KAFKA_NODE_ID"] == 1 + place
        assert merged["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{name}:9092"
        assert merged["KAFKA_CONTROLLER_QUORUM_VOTERS"] == voters
        copies = {key for key in merged if key.endswith("REPLICATION_FACTOR")}
        assert len(copies) == 4
        assert {merged[key] for key in copies} == {3}
        assert {merged[key] for key in merged if key.endswith(("MIN_ISR", "REPLICAS"))} == {2}


@pytest.mark.parametrize("name", sorted(CONFIGURED.keys() - {"report"}))
def test_every_service_of_the_cluster_uses_all_its_brokers_and_spark(name: str) -> None:
    own = CLUSTER["services"][name]["environment"]
    assert own["KAFKA_BOOTSTRAP_SERVERS"] == "kafka:9092,kafka-2:9092,kafka-3:9092"
    assert (own["KAFKA_REPLICATION_FACTOR"], own["KAFKA_MIN_INSYNC_REPLICAS"]) == (3, 2)
    assert own["SPARK_MASTER"] == "spark://spark-master:7077"
    if name in {"spark-processor", "batch-scheduler"}:
        assert own["SPARK_DRIVER_HOST"] == name


def test_the_workers_remove_what_ended_applications_leave_in_their_memory() -> None:
    """With the options that tests/integration/test_clusters.py checks on real workers."""
    for name in ("spark-worker-1", "spark-worker-2"):
        environment = SPARK[name]["environment"]
        assert environment["SPARK_WORKER_OPTS"] == WORKER_OPTIONS
        assert environment["SPARK_WORKER_DIR"].startswith(SPARK[name]["tmpfs"][0].split(":")[0])


@pytest.mark.parametrize("name", sorted(CONFIGURED.keys() - ONE_SHOT))
def test_the_replay_file_configures_every_service(name: str) -> None:
    service = REPLAY["services"][name]
    assert service["environment"]["FEED_URL"] == "ws://feed:8765"
    assert service["environment"]["FEED_REST_URL"] == "http://feed:8765"
    assert defaults(service) == {"BATCH_INTERVAL_SECONDS": str(DEMO_BATCH_SECONDS)}


def test_the_variables_of_a_replay_have_the_defaults_of_make_demo() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    of_make = dict(
        re.findall(r"^(RECORDING|SPEED|RETIME|BACKLOG) \?= (.*)$", makefile, re.MULTILINE)
    )
    recording = FEED["environment"]["RECORDING"].removeprefix("/mnt/")
    of_feed = defaults({"environment": {**FEED["environment"], "RECORDING": recording}})
    assert {name: of_feed[name] for name in of_make} == of_make
    assert (ROOT / of_make["RECORDING"]).is_file()
    assert of_feed["PRODUCT_ID"] == Settings.model_fields["product_id"].default


def test_the_recording_is_mounted_read_only_with_its_own_name_and_must_exist() -> None:
    (mount,) = FEED["volumes"]
    assert mount["read_only"] is True
    assert mount["bind"]["create_host_path"] is False
    assert mount["target"] == FEED["environment"]["RECORDING"]
    assert mount["target"] == f"/mnt/{mount['source']}"


def test_all_code_that_runs_is_in_the_image() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    kept = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    assert {"*.py", "requirements.txt", "jars/spark/pom.xml"} <= kept
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {
        "tests",
        "benchmarks",
        "faults",
    }
    assert packages | {".streamlit"} <= kept


def test_the_files_of_the_image_are_readable_whatever_the_umask_of_the_clone(
    tmp_path: Path,
) -> None:
    """The file with the requirements is read as root. Only the stage `code` copies the others."""
    *_, code, image = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)
    assert code.startswith("FROM python:3.13-slim-trixie AS code\n")
    copied = re.findall(r"^COPY (.*)$", image, re.MULTILINE)
    assert [copy for copy in copied if "--from=" not in copy] == ["requirements.txt ./"]
    (command,) = re.findall(r"^RUN (.*)$", code, re.MULTILINE)
    package, module = tmp_path / "package", tmp_path / "package" / "module.py"
    package.mkdir()
    module.touch()
    module.chmod(0o600)
    package.chmod(0o700)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert [oct(path.stat().st_mode & 0o777) for path in (package, module)] == ["0o755", "0o644"]


def test_the_services_do_not_run_as_root() -> None:
    lines = DOCKERFILE.splitlines()
    assert [line for line in lines if line.startswith("USER")] == ["USER app"]
    assert lines[-1] == "USER app"
