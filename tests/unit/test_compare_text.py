"""The comparison in a terminal: no line is longer than 80 columns."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.compare.__main__ import WIDTH, as_text, section_as_text
from pipeline.compare.comparison import compare
from pipeline.compare.inputs import read_outputs
from pipeline.compare.section import Section, Table
from pipeline.data_dir import DataDir
from pipeline.stores.sqlite import SqliteStore
from tests import page_data

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "prepare",
    [
        page_data.empty,
        page_data.starting,
        page_data.live,
        page_data.wrong,
        page_data.down,
        page_data.ended,
        page_data.older,
        page_data.stopped_stream,
        page_data.disputed,
    ],
    ids=lambda prepare: prepare.__name__,
)
def test_no_line_of_the_comparison_is_longer_than_80_columns(
    tmp_path: Path, prepare: Callable[[DataDir, datetime], None]
) -> None:
    data = DataDir(tmp_path)
    prepare(data, NOON)
    text = as_text(compare(read_outputs(data, SqliteStore(data.database)), 600))
    assert WIDTH == 80
    assert [line for line in text.splitlines() if len(line) > 80] == []


def test_long_values_causes_and_titles_stay_within_80_columns() -> None:
    cause = "computed with other thresholds: VOLATILITY_RANGE=1234567890.12345678, " * 3
    section = Section(
        key="x",
        title="Agreement",
        how_to_read="A word. " * 40,
        lines=("A sentence with a value of 1,234,567,890,123.45 s. " * 6,),
        tables=(
            Table(
                "A title of a table " * 8, ("window", "cause"), (("a long name " * 9, cause),), 2
            ),
            Table("Short", ("result", *["a long name of a column"] * 6), (("a", *["1" * 20] * 6),)),
        ),
    )
    text = section_as_text(section)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "1234567890.12345678" in text
