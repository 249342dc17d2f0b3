"""Run the official Kafka broker without a container: `python -m local.kafka --data-dir DIR`.

One node (KRaft, broker and controller in one process), on 127.0.0.1 only. The first start formats
its storage. Then this process becomes the broker itself (`exec`), so it receives all signals.
"""

import argparse
import os
import subprocess
import sys
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from local.prerequisites import find_java
from local.terminal import refuse
from pipeline import environment, java
from pipeline.errors import exit_on_error

ROOT = Path(__file__).resolve().parent.parent
JARS = ROOT / "jars" / "kafka"
#: Java heap. Measured: 128 MiB are enough for 300,000 messages in and out at full speed. The
#: resident memory is 190 MB.
HEAP = "160m"
#: A small broker that starts fast. One feed is too little work for the optimising compiler.
JAVA_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xss512k",
    "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={(JARS / 'log4j2.properties').as_uri()}",
)


def server_properties(port: int, controller_port: int) -> str:
    """Return the complete configuration file of the broker."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": "log",  # relative: Kafka would split an absolute path at a comma
        "auto.create.topics.enable": "false",
        "log.retention.hours": 7 * 24,
        # A week of one feed needs few files. A small cleaner buffer fits the small heap.
        "log.segment.bytes": 256 * 1024 * 1024,
        "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
        "num.network.threads": 2,
        "num.io.threads": 2,
        # One broker: replication is impossible. One consumer group needs one partition.
        "default.replication.factor": 1,
        "min.insync.replicas": 1,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        # After kill -9 the node can register only when its old session has ended: 4 s, not 9.
        # The interval is the default: a heartbeat that waits for half of it is logged as an error.
        "broker.heartbeat.interval.ms": 2000,
        "broker.session.timeout.ms": 4000,
        # The first member of a group does not wait for others.
        "group.initial.rebalance.delay.ms": 0,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def class_path() -> list[Path]:
    """Return every jar in a fixed order. A class-data archive is valid for exactly one list."""
    return sorted((JARS / "lib").glob("*.jar"))


def archive_path() -> Path:
    """Return the path of the class-data archive for this JVM and these jars; it may not exist.

    Raises:
        JavaError: there is no Java of a version that Kafka runs on.
    """
    return java.archive_path(java.check(os.environ.get("JAVA_HOME")), class_path())


def java_command(*options: str, heap: str = HEAP) -> list[str]:
    """Return the command that runs a class of Kafka, without the name of the class.

    It uses the class-data archive if it exists. A start then takes 1.9 CPU seconds, not 3.1.

    Args:
        options: further options of the JVM.
        heap: the maximum size of the Java heap.

    Raises:
        JavaError: there is no Java of a version that Kafka runs on.
    """
    archive = archive_path()
    shared = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
    command = [str(find_java()), f"-Xmx{heap}", *JAVA_OPTIONS, *shared]
    return [*command, *options, "-cp", ":".join(map(str, class_path()))]


def cluster_id() -> str:
    """Return a new random id in Kafka's form."""
    while True:
        new = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not new.startswith("-"):  # kafka-storage would take it for an option
            return new


def format_arguments(configuration: Path) -> list[str]:
    """Return the class and the arguments that format the storage, if it is not formatted yet."""
    options = ["--cluster-id", cluster_id(), "--config", str(configuration)]
    return ["kafka.tools.StorageTool", "format", "--ignore-formatted", *options]


def main() -> None:
    """Format the storage if it is new, then become the broker."""
    arguments = _arguments()
    if not any((JARS / "lib").glob("kafka_*.jar")):
        refuse("The jars of the Kafka broker are missing. Run `rm -rf jars/kafka/lib; make jars`.")
    configuration = Path("server.properties")
    with exit_on_error():
        command = java_command(heap=arguments.heap)
        folder = arguments.data_dir.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        configuration.write_text(
            server_properties(arguments.port, arguments.controller_port), encoding="utf-8"
        )
    variables = environment.inherited("DATA_DIR") | environment.JAVA
    # The formatting writes this file last: without it the storage is new or incomplete.
    if not Path("log/meta.properties").exists():
        formatting = [*command, *format_arguments(configuration)]
        if status := subprocess.run(formatting, env=variables, check=False).returncode:
            refuse(
                "Cannot format the storage of Kafka. If a class is missing, run "
                "`rm -rf jars/kafka/lib; make jars`. Otherwise read the output of Java in the log "
                "of Kafka. "
                f"Exit status: {status}. The storage: {folder}"
            )
    sys.stdout.flush()
    os.execve(command[0], [*command, "kafka.Kafka", str(configuration)], variables)  # noqa: S606 - it becomes the broker


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.kafka", description=__doc__)
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="directory of the broker's storage"
    )
    parser.add_argument("--port", type=int, default=9092, help="port for clients (9092)")
    parser.add_argument(
        "--controller-port", type=int, default=9093, help="port of the controller (9093)"
    )
    parser.add_argument("--heap", default=HEAP, help=f"Java heap ({HEAP})")
    return parser.parse_args()


if __name__ == "__main__":
    main()
