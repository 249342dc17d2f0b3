"""The cells of the agreement figure: every window counts, the worst one is shown."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import times
from pipeline.compare import agreement_grid as grid
from pipeline.compare.agreement import COLUMNS, DIFFERS, EQUAL, NOT_YET_FINAL, STATUSES
from pipeline.compare.causes import UNEXPLAINED

MINUTE = timedelta(minutes=1)
START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday


def compared(*rows: tuple[int, str, str]) -> pd.DataFrame:
    """Return windows, given as (minute, status, cause)."""
    return pd.DataFrame(
        [
            {
                "window_start": times.iso(START + n * MINUTE),
                "status": status,
                "columns": "close_price" if cause else "",
                "cause": cause,
            }
            for n, status, cause in rows
        ],
        columns=list(COLUMNS),
    )


def counted(*rows: tuple[int, int]) -> pd.DataFrame:
    """Return windows as text cells, given as (minute, trades)."""
    return pd.DataFrame(
        [
            {
                "window_start": times.iso(START + n * MINUTE),
                "window_end": times.iso(START + (n + 1) * MINUTE),
                "trade_count": str(trades),
                "close_price": f"{n}.5",
            }
            for n, trades in rows
        ],
        columns=["window_start", "window_end", "trade_count", "close_price"],
    )


@pytest.mark.parametrize(
    "window_s", [1, 7, 10, 60, 300, 420, 600, 1500, 3600, 7200, 10800, 14400, 43200]
)
@settings(deadline=None)
@given(windows=st.integers(1, 3_000_000))
def test_any_span_fits_into_the_grid_and_cells_hold_whole_windows(window_s, windows) -> None:
    window = timedelta(seconds=window_s)
    shape = grid.layout(windows * window, window)
    assert shape.cell % window == timedelta(0)
    assert shape.row % shape.cell == timedelta(0)
    assert windows * window <= shape.row * grid.MAX_ROWS
    names = shape.columns
    assert len(set(names)) == len(names) <= 60


@pytest.mark.parametrize("window_s", [1, 10, 60, 300, 600, 1500, 3600, 14400, 43200])
@settings(deadline=None, max_examples=60)
@given(windows=st.integers(1, 200_000), place=st.integers(0, 59), row=st.integers(0, 20))
def test_the_label_of_a_column_is_the_time_at_which_its_cells_begin(
    window_s, windows, place, row
) -> None:
    """Its label is a time of day, or an offset into its row."""
    window = timedelta(seconds=window_s)
    shape = grid.layout(windows * window, window)
    names = shape.columns
    name = names[place % len(names)]
    begin = datetime(1970, 1, 5, tzinfo=UTC) + row * shape.row + place % len(names) * shape.cell
    into = place % len(names) * shape.cell
    if name.startswith("day "):
        clock = "" if shape.cell % timedelta(days=1) == timedelta(0) else f" {begin:%H:%M}"
        assert name == f"day {into.days + 1}{clock}"
    elif name.startswith("+"):
        first, second = map(int, name[1:].split(":"))
        unit = timedelta(hours=1) if window_s >= 60 else timedelta(minutes=1)
        assert first * unit + second * unit / 60 == into
    else:
        clock = name.split(" ")[-1].removeprefix(":")
        assert clock in (f"{begin:%H:%M}", f"{begin:%M}", f"{begin:%M:%S}")


def test_up_to_one_day_each_window_has_its_own_cell() -> None:
    for hours in (1, 6, 24):
        shape = grid.layout(timedelta(hours=hours), MINUTE)
        assert (shape.cell, shape.row) == (MINUTE, timedelta(hours=1))
    assert grid.layout(timedelta(days=7), MINUTE).cell == timedelta(minutes=30)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5000), st.sampled_from(STATUSES)),
        min_size=1,
        max_size=60,
        unique_by=lambda row: row[0],
    )
)
def test_a_cell_counts_all_its_windows_and_shows_the_worst(rows) -> None:
    table = compared(*((n, status, "") for n, status in sorted(rows)))
    shape = grid.Layout(timedelta(minutes=30), timedelta(days=1))
    cells = grid.group(grid.rank(table, counted(), counted()), shape)
    expected: dict[datetime, list[str]] = {}
    for n, status in rows:
        expected.setdefault(START + n // 30 * 30 * MINUTE, []).append(status)
    assert list(cells["begins"]) == sorted(expected)
    for cell in cells.to_dict("records"):
        statuses = expected[cell["begins"]]
        assert cell["windows"] == len(statuses)
        assert cell["status"] == min(statuses, key=STATUSES.index)
        assert cell["of_each"] == Counter(statuses)
        assert cell["row"] == cell["begins"].floor("D")
        assert cell["row"] + cell["place"] * shape.cell == cell["begins"]


def test_within_a_status_an_unexplained_window_is_the_worst() -> None:
    table = compared((0, DIFFERS, "late"), (1, DIFFERS, UNEXPLAINED), (2, DIFFERS, "late"))
    shape = grid.Layout(timedelta(minutes=30), timedelta(days=1))
    cells = grid.group(grid.rank(table, counted(), counted()), shape)
    assert list(cells["cause"]) == [UNEXPLAINED]


def test_the_tooltip_of_a_cell_names_both_counts_the_status_and_the_cause() -> None:
    table = compared((0, EQUAL, ""), (1, DIFFERS, "late trades"), (2, NOT_YET_FINAL, ""))
    stream, batch = counted((0, 5), (1, 6), (2, 1)), counted((0, 5), (1, 7))
    shape = grid.layout(3 * MINUTE, MINUTE)
    worst = grid.group(grid.rank(table, stream, batch), shape)
    drawn = grid.describe(worst, shape, {times.iso(START + MINUTE): "close_price 1 / 2"})
    assert list(drawn["symbol"]) == ["=", "≠", "…"]
    assert list(drawn["column"]) == [":00", ":01", ":02"]
    assert list(zip(drawn["stream"], drawn["batch"], strict=True)) == [
        ("5", "5"),
        ("6", "7"),
        ("1", "–"),  # noqa: RUF001
    ]
    second = drawn.iloc[1]
    assert second["when"] == "2026-03-02 00:01"
    assert (second["description"], second["values"], second["cause"]) == (
        DIFFERS,
        "close_price 1 / 2",
        "late trades",
    )


def test_a_cell_of_many_windows_counts_them_by_status_and_adds_their_trades() -> None:
    table = compared(*((n, EQUAL, "") for n in range(29)), (29, DIFFERS, UNEXPLAINED))
    windows = counted(*((n, 10) for n in range(30)))
    shape = grid.Layout(timedelta(minutes=30), timedelta(days=1))
    worst = grid.group(grid.rank(table, windows, windows), shape)
    [cell] = grid.describe(worst, shape, {}).to_dict("records")
    assert cell["description"] == "differs (worst of 30 windows: 1 differs, 29 equal)"
    assert (cell["stream"], cell["batch"]) == ("300", "300")


def test_a_column_that_differs_is_listed_with_both_values() -> None:
    left, right = counted((1, 6)), counted((1, 7)).assign(close_price="9.25")
    values = grid.differing_values(compared((1, DIFFERS, "late")), left, right)
    assert values == ["close_price 1.5 / 9.25"]
