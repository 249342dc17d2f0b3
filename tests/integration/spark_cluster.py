"""A real Spark standalone cluster on this machine: a master and two workers, each a process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import spark
from tests.conftest import Running, free_port, listens, wait_until

#: Each worker can run both jobs alone.
WORKERS = 2
#: The classes of the master and the worker, as the scripts of Spark start them.
MASTER = "org.apache.spark.deploy.master.Master"
WORKER = "org.apache.spark.deploy.worker.Worker"


class SparkCluster:
    """A master and its workers. The master keeps its state in a directory, so it can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._state = folder / "master"
        self.master: Running | None = None
        self.workers: list[Running] = []

    @property
    def address(self) -> str:
        return f"spark://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the master, wait until it accepts connections, then start the workers."""
        self.start_master()
        while len(self.workers) < WORKERS:
            self.start_worker()

    def start_master(self) -> None:
        self._state.mkdir(exist_ok=True)
        options = (
            f"-Dspark.deploy.recoveryMode=FILESYSTEM -Dspark.deploy.recoveryDirectory={self._state}"
        )
        self.master = self._start(
            MASTER, options, "--host", "127.0.0.1", "--port", str(self.port), "--webui-port", "0"
        )
        wait_until(lambda: listens(self.port), 60, "the start of the Spark master", self.master)

    def start_worker(self) -> None:
        """Start one more worker."""
        work = self.folder / f"work{len(self.workers)}"
        resources = ("--cores", "4", "--memory", "4g", "--work-dir", str(work))
        where = ("--host", "127.0.0.1", "--webui-port", "0")
        self.workers.append(self._start(WORKER, "", *where, *resources, self.address))

    def _start(self, name: str, options: str, *arguments: str) -> Running:
        """Start one of Spark's processes with the program that also finds its Java and jars."""
        environment = {
            "PATH": os.environ["PATH"],
            "SPARK_HOME": str(spark.SPARK_HOME),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": f"-XX:+UseSerialGC -XX:TieredStopAtLevel=1 {options}",
        }
        command = [str(spark.SPARK_HOME / "bin" / "spark-class"), name, *arguments]
        log = self.folder / f"{name.rsplit('.', 1)[-1].lower()}-{len(self.workers)}.log"
        return Running(command, log, environment)

    def kill(self) -> None:
        """Kill every process of the cluster, the executors included."""
        for process in (*self.workers, *([self.master] if self.master else [])):
            process.kill()


@contextmanager
def started_spark_cluster(folder: Path) -> Iterator[SparkCluster]:
    """Start a cluster, yield it, and kill it at the end."""
    cluster = SparkCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
