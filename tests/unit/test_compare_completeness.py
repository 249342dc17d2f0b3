"""The funnel: each stage adds up."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compare.completeness import (
    IN_STREAM,
    LOSSES,
    STORED_OF_ISSUED,
    Backfill,
    backfill,
    funnel,
)
from pipeline.compare.inputs import IngestCounts

counts = st.integers(0, 10**6)


def judged(late: int = 0, doubled: int = 0, deleted: int = 0, unexplained: int = 0) -> pd.DataFrame:
    counted = {"late": late, "doubled": doubled, "deleted": deleted, "unexplained": unexplained}
    return pd.DataFrame([counted])


@given(st.tuples(*[counts] * 11))
def test_each_stage_plus_its_losses_equals_its_input(
    numbers: tuple[int, ...],
) -> None:
    stored, missing, repeated, rejected, late, behind, others, published, doubled, *more = numbers
    lag, deleted = more
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
    in_stream = stored - late - deleted - behind + doubled
    losses_of = judged(late, doubled, deleted)
    found = funnel(ingest_counts, status, in_stream, losses_of, stored - behind, rejected_ids=0)
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
    assert funnel(None, NOBODY, 0, judged(), None, rejected_ids=0).empty
    found = funnel(IngestCounts(5, 4, 1, 0, 8, 4), NOBODY, 3, judged(1), None, rejected_ids=0)
    assert list(found["stage"].str.contains("batch")) == [False] * 3
    assert list(found["of_issued"].dropna()) == [4 / 8, 3 / 8]
    assert list(found["of_received"].dropna()) == [1, 3 / 4]
    assert found["late"].isna().iloc[0]  # unknown there, not 0


UPDATED = "2026-03-01T12:00:30Z"
REPORTED = {"gaps": 2, "missing": 12, "recovered": 340, "not_served": 5, "last_error": None}


def producer(**changes: object) -> dict[str, dict[str, Any]]:
    fields = {"state": "running", "updated": UPDATED, "backfill": REPORTED}
    return {"producer": fields | changes, "consumer": {"updated": UPDATED}}


def test_the_producer_reports_the_trades_that_it_recovers() -> None:
    assert backfill(producer()) == Backfill(12, 340, 5)
    error = {"text": "refused", "time": "2026-03-01T12:00:00Z"}
    found = backfill(producer(backfill=REPORTED | {"last_error": error}))
    assert (found.last_error, found.last_error_time) == ("refused", "2026-03-01T12:00:00Z")


@pytest.mark.parametrize(
    "changes",
    [{"state": "stopped"}, {"updated": "2026-03-01T11:59:00Z"}, {"updated": None}],
)
def test_a_producer_that_does_not_run_recovers_no_known_number_of_trades(
    changes: dict[str, object],
) -> None:
    assert backfill(producer(**changes)) == Backfill(None, 340, 5)


@pytest.mark.parametrize("reported", [None, [], {}, {"missing": "12", "last_error": 5}])
def test_what_the_producer_does_not_report_about_recovered_trades_is_unknown(
    reported: object,
) -> None:
    assert backfill(producer(backfill=reported)) == Backfill()
    off = producer(backfill=reported, settings={"backfill_seconds": 0.0})
    assert backfill(off) == Backfill(in_progress=0)
    assert backfill({"producer": {}, "consumer": {}}) == Backfill()
