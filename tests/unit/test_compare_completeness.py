"""The funnel: each stage adds up."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compare.completeness import IN_STREAM, LOSSES, STORED_OF_ISSUED, funnel
from pipeline.compare.inputs import IngestCounts

counts = st.integers(0, 10**6)


def judged(late: int = 0, doubled: int = 0, unexplained: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"late": [late], "doubled": [doubled], "unexplained": [unexplained]})


@given(st.tuples(*[counts] * 10))
def test_each_stage_plus_its_losses_equals_its_input(
    numbers: tuple[int, ...],
) -> None:
    stored, missing, repeated, rejected, late, behind, others, published, doubled, lag = numbers
    ingest_counts = IngestCounts(
        stored + repeated + rejected, stored, repeated, rejected, max(1, stored + missing), missing
    )
    producer = {
        "published": published,
        "repeated": repeated,
        "conflicting": 2,
        "rejected": rejected,
        "control": others,
        "ignored": 3,
        "received": published + repeated + 2 + rejected + others + 3,
    }
    status: dict[str, dict[str, Any]] = {
        "producer": {"counters": producer},
        "consumer": {"lag": lag},
    }
    in_stream = stored - late - behind + doubled
    found = funnel(ingest_counts, status, in_stream, judged(late, doubled), stored - behind)
    assert len(found) == 6
    if stored + missing:
        losses = found[list(LOSSES)].fillna(0).astype(int).sum(axis="columns")
        assert list(found["count"] + losses) == list(found["drawn_from"])
        assert list(found["not_yet"].dropna()) == [0, lag, behind, behind]
        assert found["drawn_from"].iloc[0] == published + 2 + rejected  # repeats are no loss


def test_unexplained_losses_are_not_counted_as_not_yet() -> None:
    ingest_counts = IngestCounts(150, 150, 0, 0, 160, 10)
    found = funnel(ingest_counts, NOBODY, 147, judged(unexplained=3), 150, rejected_ids=4)
    by_stage = found.set_index("stage")
    stream, ids = by_stage.loc[IN_STREAM], by_stage.loc[STORED_OF_ISSUED]
    assert (stream["unexplained"], stream["not_yet"]) == (3, 0)
    assert (ids["missing"], ids["rejected"]) == (6, 4)
    assert list(found["of_received"].dropna()) == pytest.approx([150 / 154, 147 / 154, 150 / 154])


NOBODY: dict[str, dict[str, int]] = {"producer": {}, "consumer": {}}


def test_without_data_the_funnel_is_empty_and_without_a_run_it_has_no_batch_stage() -> None:
    assert funnel(None, NOBODY, 0, judged(), None).empty
    found = funnel(IngestCounts(5, 4, 1, 0, 8, 4), NOBODY, 3, judged(1), None)
    assert list(found["stage"].str.contains("batch")) == [False] * 3
    assert list(found["of_issued"].dropna()) == [4 / 8, 3 / 8]
    assert list(found["of_received"].dropna()) == [1, 3 / 4]
    assert found["late"].isna().iloc[0]  # unknown there, not 0
