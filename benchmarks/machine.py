"""What it was measured on: the machine, the cores, the versions."""

import importlib.metadata
import os
import platform
import sqlite3
import subprocess
from pathlib import Path

import psutil

from local import needs
from pipeline.spark import ROOT

CORES = 2
#: A one-minute load above this before the start means that something else uses the machine.
QUIET_LOAD = 0.5
_LIBRARIES = (
    *("kafka-python", "crc32c", "websocket-client", "websockets", "msgspec"),
    *("pyspark", "pandas", "streamlit", "psutil"),
)


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
        "processor": _processor(),
        "cores of the machine": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": platform.platform(),
        "load before the start": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        "Java": _java(),
        "SQLite": sqlite3.sqlite_version,
        **jars,
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _java() -> str:
    command = needs.java()
    if command is None:
        return "none"
    told = subprocess.run([command, "-version"], capture_output=True, text=True, check=False)
    return told.stderr.partition("\n")[0].strip()


def _jar_version(folder: str, prefix: str) -> str:
    found = sorted((ROOT / "jars" / folder / "lib").glob(f"{prefix}*.jar"))
    return found[0].stem.removeprefix(prefix) if found else "none"
