"""What it was measured on: the machine, the cores, the versions."""

import importlib.metadata
import os
import subprocess

import psutil

from local import prerequisites
from pipeline import machine
from pipeline.spark import ROOT

CORES = 2
#: A one-minute load above this before the start means that something else uses the machine.
QUIET_LOAD = 0.5


def pin() -> str:
    """Holds this process, and all that it starts, to the first two cores; says which."""
    process = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        return "not pinned: this system cannot"
    cores = sorted(process.cpu_affinity())[:CORES]
    process.cpu_affinity(cores)
    return f"pinned to cores {', '.join(map(str, cores))}"


def describe() -> dict[str, str]:
    """The machine and the versions, in words."""
    jars = {
        "Kafka broker": _jar_version("kafka", "kafka_2.13-"),
        "Kafka connector of Spark": _jar_version("spark", "spark-sql-kafka-0-10_2.13-"),
        "sqlite-jdbc": _jar_version("spark", "sqlite-jdbc-"),
    }
    return {
        **machine.describe(),
        "load before the start": f"{os.getloadavg()[0]:.2f}",
        "Java": _java(),
        **jars,
        "websockets": importlib.metadata.version("websockets"),
    }


def _java() -> str:
    command = prerequisites.java()
    if command is None:
        return "none"
    told = subprocess.run([command, "-version"], capture_output=True, text=True, check=False)
    return told.stderr.partition("\n")[0].strip()


def _jar_version(folder: str, prefix: str) -> str:
    found = sorted((ROOT / "jars" / folder / "lib").glob(f"{prefix}*.jar"))
    return found[0].stem.removeprefix(prefix) if found else "none"
