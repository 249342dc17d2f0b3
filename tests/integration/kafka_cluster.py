"""A real Kafka cluster on this machine: three nodes, each broker and controller."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kafka.admin import KafkaAdminClient

from local import kafka as local_kafka
from local import prerequisites, topics
from tests.conftest import Broker, Running, listens, require_jars, wait_until

NODES = 3


class KafkaNode(Broker):
    """One node of the cluster. A killed node can be started again."""

    def __init__(self, folder: Path, number: int) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.number = number
        self._properties = folder / "server.properties"

    @property
    def _java(self) -> list[str]:
        java = [str(prerequisites.find_java()), "-Xmx160m", *local_kafka.JAVA_OPTIONS]
        return [*java, "-cp", str(local_kafka.JARS / "lib" / "*")]

    def format(self, cluster_id: str, voters: str) -> None:
        """Make the empty storage of the node."""
        copies = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        replaced = {
            "node.id": self.number,
            "controller.quorum.voters": voters,
            "default.replication.factor": NODES,
            "min.insync.replicas": NODES - 1,
            **{f"{name}.replication.factor": NODES for name in copies},
            "log.dirs": self.folder / "log",
        }
        own = "".join(f"{name}={value}\n" for name, value in replaced.items())
        # If two lines have the same name, the last one counts.
        lines = local_kafka.server_properties(self.port, self.controller_port) + own
        self._properties.write_text(lines, encoding="utf-8")
        options = ["--cluster-id", cluster_id, "--config", str(self._properties)]
        command = [*self._java, "kafka.tools.StorageTool", "format", *options]
        subprocess.run(command, check=True, capture_output=True)

    def start(self) -> "KafkaNode":
        """Start the node. It accepts connections when enough nodes run."""
        command = [*self._java, "kafka.Kafka", str(self._properties)]
        self._running = Running(command, self.folder / "kafka.log", {})
        return self


class KafkaCluster(Broker):
    """All nodes. Each record of a topic is on three of them, and is acknowledged by two."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.nodes = [
            KafkaNode(folder / f"kafka{number}", number) for number in range(1, 1 + NODES)
        ]

    @property
    def address(self) -> str:
        return ",".join(node.address for node in self.nodes)

    def start(self) -> "KafkaCluster":
        cluster_id = local_kafka.cluster_id()
        voters = ",".join(f"{node.number}@127.0.0.1:{node.controller_port}" for node in self.nodes)
        for node in self.nodes:
            node.format(cluster_id, voters)
            node.start()
        for node in self.nodes:
            wait_until(partial(listens, node.port), 90, "the start of a node")
        return self

    def new_topic(self) -> str:
        name = f"t-{uuid.uuid4().hex[:12]}"
        names = (name, f"{name}_rejected")
        topics.create(self.address, *names, replicas=NODES, in_sync=NODES - 1)
        return name

    def leader(self, topic: str) -> KafkaNode:
        """Return the node that leads the only partition of a topic."""
        admin = KafkaAdminClient(bootstrap_servers=self.address.split(","))
        try:
            (described,) = admin.describe_topics([topic])
        finally:
            admin.close()
        number = described["partitions"][0]["leader_id"]
        return next(node for node in self.nodes if node.number == number)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()


@contextmanager
def started_kafka_cluster(folder: Path) -> Iterator[KafkaCluster]:
    """Start a cluster, yield it, and kill it at the end."""
    require_jars("kafka")
    cluster = KafkaCluster(folder)
    try:
        yield cluster.start()
    finally:
        cluster.kill()
