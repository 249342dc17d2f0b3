"""The Compose tests run only when named on the command line, as `make test-compose` does."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave them out of a plain `pytest`: they build images and run for minutes."""
    return None if any("tests/compose" in argument for argument in config.args) else True
