"""The stack in containers: collected only when asked for by name, as `make test-compose` does."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """It builds images and runs for minutes: a plain `pytest` leaves it out."""
    return None if any("tests/compose" in argument for argument in config.args) else True
