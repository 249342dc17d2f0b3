"""A description of the machine and of the installed versions, for status files and reports."""

import importlib.metadata
import platform
import sqlite3
from pathlib import Path

import psutil

_LIBRARIES = (
    *("kafka-python", "crc32c", "websocket-client", "msgspec"),
    *("pyspark", "pandas", "streamlit", "psutil"),
)


def describe() -> dict[str, str]:
    """Return the machine and the versions by label."""
    return {
        "processor": _processor(),
        "cores of the machine": str(psutil.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "system": platform.platform(),
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
