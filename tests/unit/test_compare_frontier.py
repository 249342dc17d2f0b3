"""Freshness against cost: the model agrees with a batch that is simulated run by run."""

import math
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare.decision import Choice, cheapest
from pipeline.compare.freshness import (
    BATCH,
    STREAM_FINAL,
    STREAM_OPEN,
    Freshness,
    freshness,
    sawtooth,
)
from pipeline.compare.frontier import BatchModel, Frontier, curve, frontier
from pipeline.compare.modes import modes

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODEL = BatchModel("full", rows=1e6, duration_s=6.0, cpu_s=10.0, published_age_s=4.0)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@settings(max_examples=25)
@given(
    st.floats(1, 100), st.floats(0.5, 30), st.floats(0, 0.9), st.floats(0, 2), st.floats(0.1, 60)
)
def test_the_model_gives_age_and_cost_of_a_batch_that_is_simulated(
    interval: float, duration: float, start_share: float, lag: float, cpu_s: float
) -> None:
    """Runs follow each other at the interval, or back to back if they take longer."""
    start, runs = 0.0, []
    for _ in range(60):
        snapshot = start + start_share * duration
        published = start + duration
        runs.append((at(published), at(snapshot - lag)))
        start = max(start + interval, published)
    table = pd.DataFrame(runs, columns=["at", "newest"])
    measured = freshness(sawtooth(table, runs[0][0], runs[-1][0]))
    hours = (runs[-1][0] - runs[0][0]).total_seconds() / 3600
    model = BatchModel("full", 1, duration, cpu_s, (1 - start_share) * duration + lag)
    assert measured is not None
    assert model.age_s(interval) == pytest.approx(measured.median, abs=1e-3)
    assert model.cpu_s_per_hour(interval) == pytest.approx(59 * cpu_s / hours, rel=1e-3)


@given(st.floats(6, 3600))
def test_an_interval_follows_from_its_cost_and_from_its_age(interval: float) -> None:
    cost, age = MODEL.cpu_s_per_hour(interval), MODEL.age_s(interval)
    assert MODEL.interval_for_cost(cost) == pytest.approx(interval)
    assert MODEL.interval_for_age(age) == pytest.approx(interval)


def test_a_run_cannot_start_before_the_last_one_has_ended() -> None:
    assert MODEL.age_s(1) == MODEL.age_s(6) == 7
    assert MODEL.cpu_s_per_hour(1) == MODEL.cpu_s_per_hour(6) == 6000
    assert MODEL.interval_for_cost(6001) is None
    assert MODEL.interval_for_age(6.9) is None
    assert MODEL.interval_for_age(1e9) == 3600


def test_the_curve_reaches_from_back_to_back_runs_to_an_hour() -> None:
    found = curve(MODEL)
    assert (found["interval_s"].iloc[0], found["interval_s"].iloc[-1]) == pytest.approx((6, 3600))
    assert found["age_s"].is_monotonic_increasing
    assert found["cpu_s_per_hour"].is_monotonic_decreasing
    slow = curve(BatchModel("full", 1, 5000, 9000, 4000))
    assert slow["age_s"].tolist() == pytest.approx([6500] * len(slow))


def measured(open_age: float, final_age: float, batch_age: float) -> pd.DataFrame:
    rows = [(STREAM_OPEN, open_age, 1000.0), (STREAM_FINAL, final_age, 1000.0)]
    rows += [(BATCH, batch_age, 600.0)]
    return pd.DataFrame(rows, columns=["result", "age_s", "cpu_s_per_hour"])


@settings(max_examples=60)
@given(
    st.floats(0.5, 3000),
    st.lists(st.tuples(st.floats(1, 60), st.floats(1, 99), st.floats(0, 30)), max_size=3),
)
def test_the_cheapest_result_is_the_same_as_that_of_a_search_over_all_results(
    accepted: float, batches: list[tuple[float, float, float]]
) -> None:
    models = tuple(BatchModel(str(n), 1, *batch) for n, batch in enumerate(batches))
    found = cheapest(Frontier(models, {}, measured(1.5, 92, 33), 60), accepted)
    costs = [1000.0] if accepted >= 1.5 else []
    for model in models:
        costs += [
            model.cpu_s_per_hour(interval)
            for interval in [model.duration_s, *range(1, 3601)]
            if interval >= model.duration_s and model.age_s(interval) <= accepted
        ]
    if found is None:
        assert costs == []
        return
    assert found.age_s <= accepted + 1e-9
    assert found.cpu_s_per_hour <= min(costs) + 1e-9
    # An interval in whole seconds costs a little more.
    assert found.cpu_s_per_hour >= min(costs) * (1 - 1 / (found.interval_s or math.inf)) - 1e-9


def test_the_open_windows_are_chosen_among_the_results_of_the_stream() -> None:
    found = cheapest(Frontier((), {}, measured(1.5, 92, 33), 60), 1800)
    assert found == Choice(STREAM_OPEN, None, None, 1.5, 1000.0)
    assert cheapest(Frontier((), {}, measured(1.5, 92, 33), 60), 1) is None


def log(count: int, *, mode: str = "full", growth: float = 3.0, first: int = 0) -> pd.DataFrame:
    rows = [
        {
            "run": f"run{first + n}",
            "rows": 1e6 * (1 + n / 10),
            "wall_s": 5 + growth * (1 + n / 10),
            "cpu_s": 8 + 2 * growth * (1 + n / 10),
            "peak_mib": 400.0,
            "mode": mode,
        }
        for n in range(count)
    ]
    return pd.DataFrame(rows)


def runs_of(table: pd.DataFrame, delay: float = 4.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": table["run"],
            "written_at": pd.to_datetime([at(60 * n + delay) for n in range(len(table))]),
            "last_trade_time": pd.to_datetime([at(60 * n) for n in range(len(table))]),
        }
    )


AGES = {
    STREAM_OPEN: Freshness(1.5, 1.5, 3, 9, 600),
    STREAM_FINAL: Freshness(92, 92, 120, 125, 600),
    BATCH: Freshness(33, 33, 66, 70, 600),
}
COST = pd.DataFrame({"path": ["stream", "batch"], "cpu_s_per_hour": [1000.0, 600.0]})


def made(table: pd.DataFrame, ages: dict[str, Freshness | None] | None = None) -> Frontier:
    return frontier(
        modes(table),
        table,
        runs_of(table),
        ages=AGES if ages is None else ages,
        cost=COST,
        interval_s=60,
    )


def test_the_model_is_made_from_the_newest_runs_and_their_trend() -> None:
    """The newest ten tables have 2 to 2.9 million rows, 2.45 in the median."""
    found = made(log(20))
    (today,) = found.today
    assert today.rows == 2.9e6
    assert today.duration_s == pytest.approx(5 + 3 * 2.9)
    assert today.cpu_s == pytest.approx(8 + 6 * 2.9)
    assert today.published_age_s == pytest.approx(4 + 3 * 0.45)
    larger = found.larger["full"]
    assert larger is not None
    assert larger.rows == 29e6
    assert larger.duration_s == pytest.approx(5 + 3 * 29)
    assert larger.cpu_s == pytest.approx(8 + 6 * 29)
    assert larger.published_age_s == pytest.approx(4 + 3 * (29 - 2.45))
    assert found.measured["age_s"].tolist() == [1.5, 92, 33]
    assert found.point(BATCH) == (33, 600)


def test_without_a_trend_a_larger_table_has_no_model() -> None:
    for table in (log(20, growth=0), log(7)):
        assert made(table).larger == {"full": None}


def test_a_trend_with_a_negative_run_time_for_an_empty_table_is_no_trend_of_the_mode() -> None:
    """The section "Batch run time" also gives no forecast from such a trend."""
    table = log(40).assign(wall_s=lambda of: 30 * of["rows"] / 1e6 - 5)
    (mode,) = modes(table)
    assert math.isnan(mode.wall_s_per_million)
    assert mode.cpu_s_per_million == pytest.approx(6)
    assert made(table).larger == {"full": None}


def test_each_mode_has_its_own_model_and_the_newest_one_is_first() -> None:
    table = pd.concat([log(9), log(12, mode="incremental", growth=0, first=9)], ignore_index=True)
    found = made(table)
    assert [model.mode for model in found.today] == ["incremental", "full"]
    assert [model.rows for model in found.today] == [2.1e6, 2.1e6]
    assert [model.duration_s for model in found.today] == pytest.approx([5, 5 + 3 * 2.1])
    assert found.larger["incremental"] is None
    assert found.larger["full"] is not None


@pytest.mark.parametrize(
    ("rows", "modes_"),
    [
        (1.3e6, ["incremental"]),
        (1.4e6, ["incremental", "full"]),
        (3.1e6, ["incremental", "full"]),
        (3.2e6, ["incremental"]),
    ],
)
def test_a_mode_without_a_trend_that_ran_over_a_table_of_another_size_has_no_model(
    rows: float, modes_: list[str]
) -> None:
    """The first run of the mode `incremental` reads everything and counts as `full`."""
    newer = log(12, mode="incremental", growth=0, first=1)
    table = pd.concat([log(1).assign(rows=rows), newer], ignore_index=True)
    assert [model.mode for model in made(table).today] == modes_


def test_a_trend_that_predicts_a_negative_run_time_gives_no_model() -> None:
    """Full runs took 3 s per million rows minus 2 s; the database was then moved away."""
    full = log(12).assign(wall_s=lambda table: 3 * table["rows"] / 1e6 - 2)
    newer = log(1, mode="incremental", first=12).assign(rows=0.5e6)
    table = pd.concat([full, newer], ignore_index=True)
    assert [model.mode for model in made(table).today] == ["incremental"]


def test_without_ages_or_runs_there_is_no_model() -> None:
    assert made(log(20), {BATCH: None, STREAM_OPEN: None, STREAM_FINAL: None}).today == ()
    assert made(log(20), {}).measured.empty
    empty = frontier(
        (), log(1).head(0), runs_of(log(1)).head(0), ages=AGES, cost=COST, interval_s=60
    )  # fmt: skip
    assert empty.today == ()


def test_a_run_without_cpu_time_gives_no_model() -> None:
    assert made(log(3).assign(cpu_s=math.nan)).today == ()
