"""A real Kafka cluster on this machine: three nodes, each broker and controller."""

import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kafka.admin import KafkaAdminClient

from local import clusters, topics
from local import kafka as local_kafka
from local.ports import listens
from tests.conftest import Broker, Running, require_jars, wait_until

NODES = 3


class KafkaNode(Broker):
    """One node of the cluster. A killed node can be started again."""

    def __init__(self, folder: Path, number: int) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.node = clusters.KafkaNode(number, folder, self.port, self.controller_port)

    def format(self, cluster_id: str, nodes: Sequence[clusters.KafkaNode]) -> None:
        """Make the empty storage of the node."""
        self.node.configuration.write_text(self.node.properties(nodes), encoding="utf-8")
        subprocess.run(self.node.format_command(cluster_id), check=True, capture_output=True)

    def start(self) -> "KafkaNode":
        """Start the node. It accepts connections when enough nodes run."""
        self._running = Running(self.node.command(), self.folder / "kafka.log", {})
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
        for node in self.nodes:
            node.format(cluster_id, [each.node for each in self.nodes])
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
        return next(node for node in self.nodes if node.node.number == number)

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
