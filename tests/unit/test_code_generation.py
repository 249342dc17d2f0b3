"""Which micro-batches Spark compiles."""

import pytest

from pipeline.stream.code_generation import COMPILE, INTERPRET, mode_for


@pytest.mark.parametrize(
    ("records", "mode"), [(0, INTERPRET), (6, INTERPRET), (1_999, INTERPRET), (2_000, COMPILE)]
)
def test_only_large_micro_batches_are_compiled(records: int, mode: str) -> None:
    assert mode_for(records) == mode
