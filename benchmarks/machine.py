"""Describe the machine, the cores and the versions of a measurement."""

import importlib.metadata
import os
import subprocess

import psutil

from local import prerequisites
from pipeline import machine
from pipeline.spark import ROOT

CORES = 2
#: The only part of the description that differs between two runs on one machine.
LOAD = "load before the start"
#: A one-minute load above this before the start means that other programs use the machine.
QUIET_LOAD = 0.5


def pin() -> str:
    """Restrict this process and its children to the first two cores; return which."""
    process = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        return "not pinned: the system does not support it"
    cores = sorted(process.cpu_affinity())[:CORES]
    process.cpu_affinity(cores)
    return f"pinned to cores {', '.join(map(str, cores))}"


def describe() -> dict[str, str]:
    """Return a description of the machine, and every version by name."""
    jars = {
        "Kafka broker": _jar_version("kafka", "kafka_2.13-"),
        "Kafka connector of Spark": _jar_version("spark", "spark-sql-kafka-0-10_2.13-"),
        "sqlite-jdbc": _jar_version("spark", "sqlite-jdbc-"),
        "PostgreSQL JDBC driver": _jar_version("spark", "postgresql-"),
    }
    return {
        **machine.describe(),
        LOAD: f"{os.getloadavg()[0]:.2f}",
        "Java": _java(),
        **jars,
        "websockets": importlib.metadata.version("websockets"),
    }


def _java() -> str:
    command = prerequisites.find_java()
    if command is None:
        return "none"
    done = subprocess.run([command, "-version"], capture_output=True, text=True, check=False)
    return done.stderr.partition("\n")[0].strip()


def _jar_version(folder: str, prefix: str) -> str:
    found = sorted((ROOT / "jars" / folder / "lib").glob(f"{prefix}*.jar"))
    return found[0].stem.removeprefix(prefix) if found else "none"
