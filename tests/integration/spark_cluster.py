"""A real Spark standalone cluster on this machine: a master and two workers, each a process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local import clusters
from local.ports import free_port, listens
from tests.conftest import Running, wait_until

#: Each worker can run both jobs alone.
WORKERS = 2


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
        self.master = self._start("master", clusters.spark_master(self.port, self._state))
        wait_until(lambda: listens(self.port), 60, "the start of the Spark master", self.master)

    def start_worker(self) -> None:
        """Start one more worker."""
        name = f"worker-{len(self.workers)}"
        program = clusters.spark_worker(self.address, self.folder / name, cores=4, memory="4g")
        self.workers.append(self._start(name, program))

    def _start(self, name: str, program: clusters.Program) -> Running:
        return Running(program.command, self.folder / f"{name}.log", program.environment)

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
