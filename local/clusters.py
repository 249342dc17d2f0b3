"""Commands of a Kafka cluster and a Spark cluster whose nodes are processes of this machine.

The tests and `make bench-scale` start them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from local import kafka
from pipeline import spark

#: The classes of the master and the worker, as the scripts of Spark start them.
_MASTER = "org.apache.spark.deploy.master.Master"
_WORKER = "org.apache.spark.deploy.worker.Worker"
#: SPARK_WORKER_OPTS of a worker. Each application leaves the jars of the driver, 23 MB, in its work
#: directory. It is removed if no executor of the application runs and nothing in it is newer than
#: 60 s. The default is 7 days.
WORKER_OPTIONS = (
    "-Dspark.worker.cleanup.enabled=true -Dspark.worker.cleanup.interval=30 "
    "-Dspark.worker.cleanup.appDataTtl=60"
)


@dataclass(frozen=True)
class KafkaNode:
    """A broker and controller in one process. The nodes of a cluster have the numbers from 1 on."""

    number: int
    #: The directory of its files.
    folder: Path
    port: int
    controller_port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def configuration(self) -> Path:
        return self.folder / "server.properties"

    def properties(self, nodes: Sequence["KafkaNode"]) -> str:
        """Return the content of its configuration file. All internal topics are on all nodes."""
        voters = ",".join(f"{node.number}@127.0.0.1:{node.controller_port}" for node in nodes)
        copies = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        replaced = {
            "node.id": self.number,
            "controller.quorum.voters": voters,
            "default.replication.factor": len(nodes),
            "min.insync.replicas": len(nodes) - 1,
            **{f"{name}.replication.factor": len(nodes) for name in copies},
            "log.dirs": self.folder / "log",
        }
        own = "".join(f"{name}={value}\n" for name, value in replaced.items())
        # If two lines have the same name, the last one counts.
        return kafka.server_properties(self.port, self.controller_port) + own

    def format_command(self, cluster_id: str) -> list[str]:
        """Return the command that makes its empty storage. The configuration file must exist."""
        options = ["--cluster-id", cluster_id, "--config", str(self.configuration)]
        return [*kafka.java_command(), "kafka.tools.StorageTool", "format", *options]

    def command(self) -> list[str]:
        """Return the command that runs it. It accepts connections when enough nodes run."""
        return [*kafka.java_command(), "kafka.Kafka", str(self.configuration)]


class Program(NamedTuple):
    """A command and the variables that it needs."""

    command: list[str]
    environment: dict[str, str]


def spark_master(port: int, state: Path) -> Program:
    """Return the program of a master. It keeps its workers and jobs in the directory `state`."""
    options = f"-Dspark.deploy.recoveryMode=FILESYSTEM -Dspark.deploy.recoveryDirectory={state}"
    where = ("--host", "127.0.0.1", "--port", str(port), "--webui-port", "0")
    return _spark_program(options, _MASTER, *where)


def spark_worker(master: str, folder: Path, cores: int, memory: str) -> Program:
    """Return the program of a worker.

    Args:
        master: the address of the master, `spark://host:port`.
        folder: the directory for the logs and the jars of its executors.
        cores: the number of cores that its executors may use.
        memory: the Java heaps that its executors may use, `4g`.
    """
    where = ("--host", "127.0.0.1", "--webui-port", "0", "--work-dir", str(folder))
    size = ("--cores", str(cores), "--memory", memory)
    return _spark_program(WORKER_OPTIONS, _WORKER, *where, *size, master)


def _spark_program(java_options: str, *arguments: str) -> Program:
    """Return one of Spark's programs. `spark-class` finds its Java and its jars."""
    environment = {
        "SPARK_HOME": str(spark.SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_DAEMON_JAVA_OPTS": f"-XX:+UseSerialGC -XX:TieredStopAtLevel=1 {java_options}",
    }
    return Program([str(spark.SPARK_HOME / "bin" / "spark-class"), *arguments], environment)
