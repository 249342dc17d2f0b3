"""What the page keeps of a comparison: everything it shows, in a bounded size."""

import pickle
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from page import comparison_data
from pipeline import times
from pipeline.compare.agreement import DIFFERS, ONLY_BATCH, UNEXPLAINED
from pipeline.compare.comparison import compare
from pipeline.compare.inputs import read_outputs
from pipeline.ingest import store
from pipeline.outputs import DataDir
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def data(tmp_path) -> DataDir:
    return DataDir(tmp_path / "data")


def made(data: DataDir, last: timedelta | None = None) -> comparison_data.ComparisonData:
    found = comparison_data.load(data, last, 60)
    assert isinstance(found, comparison_data.ComparisonData), found
    return found


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=500),
    st.integers(1, 60),
)
def test_thinned_points_keep_the_extremes_of_every_place(values, bins) -> None:
    points = pd.DataFrame({"x": np.arange(len(values)), "y": values})
    kept = comparison_data.thinned(points, "x", "y", bins)
    assert len(kept) <= max(2 * bins, 1) + 2
    assert kept["x"].is_monotonic_increasing
    assert (kept["x"].iloc[0], kept["x"].iloc[-1]) == (0, len(values) - 1)
    for place in range(bins):
        inside = [
            value
            for n, value in enumerate(values)
            if min(int(n / max(len(values) - 1, 1) * bins), bins - 1) == place
        ]
        left = set(kept["y"])
        assert not inside or {min(inside), max(inside)} <= left


def test_each_rise_of_an_age_has_points_between_its_ends() -> None:
    """On a logarithmic axis a rise is no straight line."""
    at = pd.to_datetime([NOW, NOW + timedelta(seconds=60)], utc=True)
    teeth = pd.DataFrame({"from": at[:1], "to": at[1:], "age_from": [4.0], "age_to": [64.0]})
    points = comparison_data._points({"batch": teeth})
    ages = points["age"].tolist()
    assert (ages[0], ages[-1], len(ages)) == (4.0, 64.0, comparison_data.RISE_POINTS)
    assert points["at"].tolist()[:: len(ages) - 1] == list(at)
    # each point lies where the age is the time gone by
    gone = (points["at"] - at[0]).dt.total_seconds()
    np.testing.assert_allclose(gone, points["age"] - 4.0, atol=1e-6)
    # and the steps between them are equal on that axis
    np.testing.assert_allclose(np.diff(np.log(ages)), np.log(16) / (len(ages) - 1))


def test_an_age_that_starts_at_or_below_zero_is_drawn() -> None:
    """Clocks differ: an age may be negative."""
    at = pd.to_datetime([NOW, NOW + timedelta(seconds=3)], utc=True)
    teeth = pd.DataFrame({"from": at[:1], "to": at[1:], "age_from": [-1.0], "age_to": [2.0]})
    ages = comparison_data._points({"batch": teeth})["age"].tolist()
    assert (ages[0], ages[-1]) == (-1.0, 2.0)
    assert ages == sorted(ages)


def test_the_data_equal_those_of_the_comparison(data) -> None:
    page_data.disputed(data, NOW)
    written = read_outputs(data)
    found = compare(written, 60)
    said = made(data)
    assert said.counts == {
        name: int((found.agreement["verdict"] == name).sum()) for name in said.counts
    }
    assert said.counts[DIFFERS] == 2
    assert said.counts[ONLY_BATCH] == 1
    assert (said.compared, said.unexplained) == (found.compared, 2)
    assert len(said.cells) == len(found.agreement)
    assert said.freshness == found.freshness
    pd.testing.assert_frame_equal(said.cost, found.cost)
    pd.testing.assert_frame_equal(said.waterfall, found.waterfall)
    assert said.growth == found.growth
    assert list(said.funnel["count"]) == list(found.funnel["count"])
    first = said.differing.iloc[0]
    assert (first["verdict"], first["cause"]) == (ONLY_BATCH, UNEXPLAINED)
    assert said.differing["values"].str.contains("/ 1.0").sum() == 1
    [gap] = said.gaps[~said.gaps["filled"]].to_dict("records")
    assert (gap["first"], gap["last"], gap["ids"]) == (43, 48, 6)


def test_a_span_limits_the_windows(data) -> None:
    page_data.sample(data, NOW)
    assert len(made(data, timedelta(hours=1)).cells) == 60
    assert len(made(data).cells) == 182


def test_the_data_of_20000_windows_are_small(data) -> None:
    page_data.full(data, NOW, page_data.LIVE, minutes=20_000)
    said = made(data)
    assert sum(said.counts.values()) == 20_002
    assert len(said.cells) <= 60 * 32
    assert len(said.teeth) <= 3 * (2 * comparison_data.BINS + 2)
    assert len(pickle.dumps(said)) < 300_000


@pytest.mark.parametrize("scenario", ["empty", "starting", "ended", "stale", "down"])
def test_every_state_of_a_folder_can_be_compared(data, scenario) -> None:
    page_data.SCENARIOS[scenario](data, NOW)
    made(data)


def test_an_unreadable_file_gives_a_sentence(data) -> None:
    page_data.foreign(data, NOW)
    found = comparison_data.load(data, None, 60)
    assert isinstance(found, str)
    assert ".csv" in found


def test_a_locked_or_foreign_database_gives_a_sentence(data, monkeypatch) -> None:
    """The lock is real: another connection holds it."""
    page_data.disputed(data, NOW)
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(data.database, isolation_level=None)) as keeper:
        keeper.execute("PRAGMA locking_mode = EXCLUSIVE")
        keeper.execute("BEGIN IMMEDIATE")
        said = comparison_data.load(data, None, 60)
    locked = f"{data.database} is locked: another program keeps it for itself, end that one"
    assert said == locked
    data.database.write_bytes(b"not a database, but long enough to look like one" * 30)
    cannot = f"{data.database} cannot be read: file is not a database"
    assert comparison_data.load(data, None, 60) == cannot


def test_the_time_of_a_comparison_is_when_the_files_were_read(data, monkeypatch) -> None:
    page_data.sample(data, NOW)
    monkeypatch.setattr(times, "now", lambda: NOW)
    assert made(data).made_at == NOW
