"""Stops: when a service did not run, and what is left out because of them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare.comparison import compare
from pipeline.compare.freshness import BATCH, STREAM_FINAL, STREAM_OPEN, freshness, sawtooth
from pipeline.compare.inputs import catching_up, read_outputs
from pipeline.compare.stops import gaps, overlap, stops, union, without_stops
from pipeline.data_dir import DataDir
from pipeline.stores.sqlite import SqliteStore
from tests import page_data
from tests.unit.test_compare_freshness import NOON, publications, seconds


def records(*rows: tuple[float, float]) -> pd.DataFrame:
    """Return a per-minute record, given as (end, length) in seconds."""
    return pd.DataFrame(
        {
            "at": pd.to_datetime([seconds(at) for at, _ in rows], utc=True),
            "seconds": [float(length) for _, length in rows],
        }
    )


def stopped(found: pd.DataFrame, *, started: float | None = None) -> list[tuple[float, float]]:
    """Return the stops of a service with this per-minute record, in seconds after noon."""
    status = {} if started is None else {"started": seconds(started).isoformat()}
    rows = stops(["batch_scheduler"], {"batch_scheduler": found}, {"batch_scheduler": status})
    start, end = ((rows[name] - NOON).dt.total_seconds() for name in ("start", "end"))
    return list(zip(start, end, strict=True))


FOREVER = (pd.Timestamp.max.tz_localize("UTC") - NOON).total_seconds()


def test_a_service_is_stopped_from_its_last_record_to_the_start_of_its_next_process() -> None:
    found = stopped(records((60, 60.2), (85, 25), (260, 60), (320, 60)), started=200)
    assert found == [(85, 200), (410, FOREVER)]


def test_after_a_kill_the_first_90_seconds_do_not_count_as_stopped() -> None:
    assert stopped(records((60, 60), (560, 60), (620, 60)), started=500) == [
        (150, 500),
        (710, FOREVER),
    ]
    assert stopped(records((60, 60), (180, 60), (200, 20)), started=120) == [(200, FOREVER)]


def test_a_new_process_without_a_record_ends_the_stop() -> None:
    assert stopped(records((60, 60), (80, 20)), started=300) == [(80, 300)]
    assert stopped(records()) == []


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 100), st.integers(0, 60)), min_size=1, max_size=12, unique=True
    ),
    st.lists(st.tuples(st.integers(-60, 110), st.integers(1, 40)), max_size=4),
)
def test_ages_that_include_stopped_time_are_left_out_as_in_brute_force_sampling(
    published: list[tuple[int, int]], times_stopped: list[tuple[int, int]]
) -> None:
    pairs = [(at, at - age) for at, age in published]
    pauses = [(start, start + length) for start, length in times_stopped]
    frame = pd.DataFrame(
        {
            "start": pd.to_datetime([seconds(start) for start, _ in pauses], utc=True),
            "end": pd.to_datetime([seconds(end) for _, end in pauses], utc=True),
        }
    )
    teeth = without_stops(sawtooth(publications(*pairs), seconds(0), seconds(100)), union(frame))
    ages = []
    for moment in np.arange(0.05, 100, 0.1):
        visible = [trade for at, trade in pairs if at <= moment]
        if visible and not any(max(visible) < end and start < moment for start, end in pauses):
            ages.append(moment - max(visible))
    found = freshness(teeth)
    if not ages:
        assert found is None
        return
    assert found is not None
    assert found.known_seconds == pytest.approx(len(ages) / 10, abs=0.01)
    assert found.mean == pytest.approx(np.mean(ages), abs=0.01)
    assert found.maximum == pytest.approx(max(ages), abs=0.06)


def period_table(*found: tuple[float, float]) -> pd.DataFrame:
    """Return periods, given as (start, end) in seconds after noon."""
    return pd.DataFrame(
        {
            "start": pd.to_datetime([seconds(start) for start, _ in found], utc=True),
            "end": pd.to_datetime([seconds(end) for _, end in found], utc=True),
        }
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=6),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), min_size=1, max_size=6),
)
def test_overlaps_with_the_union_of_periods_are_those_of_sets_of_seconds(
    found: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    merged = union(period_table(*((start, start + length) for start, length in found)))
    covered = {second for start, length in found for second in range(start, start + length)}
    lengths = (merged["end"] - merged["start"]).dt.total_seconds()
    assert lengths.sum() == len(covered)
    assert (merged["start"].iloc[1:].to_numpy() >= merged["end"].iloc[:-1].to_numpy()).all()
    # Between full seconds, so that no end of one touches the start of another.
    begins, ends = (
        pd.Series(pd.to_datetime([seconds(at) for at in moments], utc=True))
        for moments in (
            [start + 0.2 for start, _ in asked],
            [start + length + 0.8 for start, length in asked],
        )
    )
    assert list(overlap(begins, ends, merged)) == [
        bool(covered & set(range(start, start + length + 1))) for start, length in asked
    ]


def test_a_gap_lasts_from_the_stop_to_the_first_result_with_newer_trades() -> None:
    teeth = sawtooth(publications((0, -10), (30, 20), (70, 25), (80, 75)), seconds(0), seconds(100))
    left = without_stops(teeth, period_table((40, 60)))
    found = gaps({"batch": left, "stream": teeth[:0]}, seconds(100))
    assert found.equals(period_table((40, 80)))
    assert gaps({"batch": teeth}, seconds(100)).empty
    still_stopped = without_stops(teeth, period_table((90, 9_999)))
    assert gaps({"batch": still_stopped}, seconds(100)).equals(period_table((90, 100)))


def test_trades_that_arrive_in_a_stop_or_in_the_minute_after_it_are_catching_up() -> None:
    stopped = period_table((70, 125), (200, 9_999))
    assert catching_up(stopped, seconds(250)) == [
        (seconds(60), seconds(360)),
    ]
    assert catching_up(stopped, seconds(150)) == [(seconds(60), seconds(240))]
    assert catching_up(stopped, seconds(60)) == []


def test_the_cost_of_catching_up_after_a_stop_is_left_out(tmp_path: Path) -> None:
    """The stream is stopped from 20 to 10 minutes before the end, then it is busy for a minute."""
    now = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
    data = DataDir(tmp_path)
    page_data.live(data, now)
    before = compare(read_outputs(data, SqliteStore(data.database)), 60)
    path = data.minutes_of("spark_processor")
    table = pd.read_csv(path)
    age = now - pd.to_datetime(table["at"])
    table = table[(age > timedelta(minutes=20)) | (age < timedelta(minutes=10))]
    age = age[table.index]
    last, first = (
        age[age > timedelta(minutes=20)].idxmin(),
        age[age < timedelta(minutes=10)].idxmax(),
    )
    table.loc[last, ["seconds", "cpu_s"]] = [30.0, 12.0]
    table.loc[first, "cpu_s"] = 500.0
    path.write_text(table.to_csv(index=False))
    after = compare(read_outputs(data, SqliteStore(data.database)), 60)
    stream = after.cost.set_index("path").loc["stream"]
    assert stream["cpu_s_per_hour"] == before.cost["cpu_s_per_hour"].iloc[0] == 24 * 60
    assert stream["answers"] < before.cost["answers"].iloc[0] - 10
    for name in (STREAM_OPEN, STREAM_FINAL):
        with_all, without = before.freshness[name], after.freshness[name]
        assert with_all is not None
        assert without is not None
        assert without.known_seconds < with_all.known_seconds - 600
        assert without.maximum <= with_all.maximum
    assert after.freshness[BATCH] == before.freshness[BATCH]
    assert len(after.micro_batches) < len(before.micro_batches) - 10
