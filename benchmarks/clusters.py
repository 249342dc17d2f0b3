"""Start a Kafka cluster and a Spark cluster on this machine, in the directory of a measurement."""

import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.processes import BROKER_SECONDS, Bench, Running
from local import clusters, kafka
from local.ports import free_port, free_ports, listens

NODES = 3
WORKERS = 2


class Cluster(NamedTuple):
    """A running cluster."""

    #: For Kafka `host:port,host:port`, for Spark `spark://host:port`.
    address: str
    processes: Sequence[Running]


def start_kafka(bench: Bench) -> Cluster:
    """Start NODES brokers."""
    bench.log(f"{bench.folder.name}: starting {NODES} Kafka brokers")
    nodes, ports = [], iter(free_ports(2 * NODES))
    for number in range(1, 1 + NODES):
        folder = bench.folder / f"kafka-{number}"
        folder.mkdir()
        nodes.append(clusters.KafkaNode(number, folder, next(ports), next(ports)))
    cluster_id, started = kafka.cluster_id(), []
    for node in nodes:
        node.configuration.write_text(node.properties(nodes), encoding="utf-8")
        subprocess.run(node.format_command(cluster_id), check=True, capture_output=True)
        started.append(bench.start(f"kafka-{node.number}", node.command()))
    for node in nodes:
        bench.wait(lambda node=node: listens(node.port), BROKER_SECONDS, "a broker", *started)  # type: ignore[misc]
    return Cluster(",".join(node.address for node in nodes), started)


def start_spark(bench: Bench, memory: str) -> Cluster:
    """Start a master, and WORKERS workers with one core and this memory for an executor."""
    bench.log(f"{bench.folder.name}: starting a Spark master and {WORKERS} workers")
    port, state = free_port(), bench.folder / "master"
    state.mkdir()
    started = [_start(bench, "spark-master", clusters.spark_master(port, state))]
    bench.wait(lambda: listens(port), BROKER_SECONDS, "the Spark master", *started)
    address = f"spark://127.0.0.1:{port}"
    for number in range(WORKERS):
        program = clusters.spark_worker(address, bench.folder / f"work-{number}", 1, memory)
        started.append(_start(bench, f"spark-worker-{number}", program))
    return Cluster(address, started)


def _start(bench: Bench, name: str, program: clusters.Program) -> Running:
    return bench.start(name, program.command, **program.environment)
