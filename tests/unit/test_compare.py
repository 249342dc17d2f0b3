"""The comparison's pure functions, against brute force and constructed cases."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import compare, latency
from pipeline.outputs import (
    BATCH_COLUMNS,
    WINDOW_COLUMNS,
    DataDir,
    to_csv,
    write_final_windows,
)
from pipeline.tables import Evidence, Ingested

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
LAST = "2025-06-01T13:00:00Z"


def seconds(count: float) -> datetime:
    return NOON + timedelta(seconds=count)


def publications(*pairs: tuple[float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "at": pd.to_datetime([seconds(at) for at, _ in pairs], utc=True),
            "newest": pd.to_datetime([seconds(newest) for _, newest in pairs], utc=True),
        }
    )


def test_an_answer_ages_by_a_second_a_second_until_the_next_one() -> None:
    teeth = compare.sawtooth(publications((0, -10), (60, 30)), seconds(0), seconds(100))
    assert list(teeth["young"]) == [10, 30]
    assert list(teeth["old"]) == [70, 70]
    found = compare.freshness(teeth)
    assert found is not None
    assert found.mean == pytest.approx((40 * 60 + 50 * 40) / 100)
    assert (found.maximum, found.known_seconds) == (70, 100)


def test_before_the_first_answer_the_age_is_unknown() -> None:
    teeth = compare.sawtooth(publications((40, 30)), seconds(0), seconds(100))
    found = compare.freshness(teeth)
    assert found is not None
    assert found.known_seconds == 60
    assert compare.freshness(compare.sawtooth(publications(), seconds(0), seconds(9))) is None


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(-50, 150), st.integers(-300, 50)),
        min_size=1,
        max_size=12,
        unique=True,
    )
)
def test_mean_and_quantiles_agree_with_brute_force_sampling(pairs: list[tuple[int, int]]) -> None:
    found = compare.freshness(compare.sawtooth(publications(*pairs), seconds(0), seconds(100)))
    moments = np.arange(0.005, 100, 0.01)
    newest = np.full(len(moments), -np.inf)
    for at, trade in pairs:
        newest = np.where(moments >= at, np.maximum(newest, trade), newest)
    ages = (moments - newest)[np.isfinite(newest)]
    if not len(ages):
        assert found is None
        return
    assert found is not None
    assert found.mean == pytest.approx(np.mean(ages), abs=0.05)
    assert found.maximum == pytest.approx(max(ages), abs=0.05)
    near = np.sort(ages)
    for share, value in ((0.5, found.median), (0.99, found.p99)):
        # Where no time is spent between two ages, any value between them is a quantile.
        place = share * (len(near) - 1)
        low = near[max(0, int(place) - 2)] - 0.05
        high = near[min(len(near) - 1, int(place) + 3)] + 0.05
        assert low <= value <= high


def window(minute: int, **cells: str) -> dict[str, str]:
    start, end = (NOON + timedelta(minutes=minute + more) for more in (0, 1))
    text = {
        "window_start": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "window_end": f"{end:%Y-%m-%dT%H:%M:%SZ}",
    }
    counts = {"trade_count": "5", "buy_count": "3", "total_volume": "1.5"}
    return dict.fromkeys(WINDOW_COLUMNS, "") | counts | text | cells


def frame(*rows: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(WINDOW_COLUMNS), dtype=str)


def trades(*rows: tuple[int, float, str, float]) -> pd.DataFrame:
    """Of (id, seconds after noon, side, size)."""
    return pd.DataFrame(
        [
            (number, seconds(at).isoformat(timespec="microseconds")[:26] + "Z", side, size)
            for number, at, side, size in rows
        ],
        columns=["trade_id", "time", "side", "last_size"],
    )


def gaps(*rows: tuple[int, int, bool, float, float]) -> pd.DataFrame:
    """Of (first id, last id, filled, seconds of the trade before it, of the trade after it)."""
    return pd.DataFrame(
        [
            (first, last, filled, *(trades((1, at, "buy", 1))["time"][0] for at in around))
            for first, last, filled, *around in rows
        ],
        columns=["first_trade_id", "last_trade_id", "filled", "after", "before"],
    )


def evidence(**frames: pd.DataFrame) -> Evidence:
    none = {name: trades() for name in ("late", "after_snapshot", "conflicts")}
    return Evidence(**none | {"gaps": gaps()} | frames)


def verdicts(
    final: pd.DataFrame, still_open: pd.DataFrame, batch: pd.DataFrame, newest: str | None
) -> list[str]:
    return list(compare.agreement(final, still_open, batch, newest, evidence())["verdict"])


def test_each_verdict_in_a_constructed_case() -> None:
    final = frame(window(0), window(1), window(2), window(5))
    still_open = frame(window(6))
    batch = frame(window(0), window(1, trade_count="6"), window(3), window(6))
    found = compare.agreement(final, still_open, batch, "2025-06-01T12:04:30Z", evidence())
    assert list(found["verdict"]) == [
        compare.EQUAL,
        compare.DIFFERS,
        compare.ONLY_STREAM,
        compare.ONLY_BATCH,
        compare.NOT_YET_IN_A_BATCH,
        compare.NOT_YET_FINAL,
    ]
    assert list(found["columns"]) == ["", "trade_count", "", "", "", ""]


def test_a_window_that_the_stream_has_not_come_to_is_not_yet_final() -> None:
    batch = frame(window(0), window(1))
    assert verdicts(frame(), frame(), batch, LAST) == [compare.NOT_YET_FINAL] * 2
    assert verdicts(frame(window(0)), frame(), batch, LAST) == [
        compare.EQUAL,
        compare.NOT_YET_FINAL,
    ]


def test_a_run_whose_newest_trade_lies_in_the_second_after_a_window_covers_it() -> None:
    final, batch = frame(window(0)), frame(window(0, trade_count="2"))
    assert verdicts(final, frame(), batch, "2025-06-01T12:01:00.400000Z") == [compare.DIFFERS]


def test_a_window_that_the_run_saw_in_part_is_not_yet_in_a_batch() -> None:
    final, batch = frame(window(0)), frame(window(0, trade_count="2"))
    assert verdicts(final, frame(), batch, "2025-06-01T12:00:30Z") == [compare.NOT_YET_IN_A_BATCH]
    assert verdicts(final, frame(), batch, "2025-06-01T12:01:00Z") == [compare.DIFFERS]


def test_time_of_receipt_and_of_writing_are_no_difference() -> None:
    final = frame(window(0, written_at="a", last_receipt_time="b"))
    assert verdicts(final, frame(), frame(window(0)), "2025-06-01T13:00:00Z") == [compare.EQUAL]


def test_without_anything_there_is_nothing_to_compare() -> None:
    assert verdicts(frame(), frame(), frame(), None) == []


# --- causes ---------------------------------------------------------------------------------


def cause(
    stream: dict[str, str] | None, batch: dict[str, str] | None, **frames: pd.DataFrame
) -> str:
    # A later minute, which both have: the stream has come past the one in question.
    final, batched = (frame(*([row] if row else []), window(5)) for row in (stream, batch))
    found = compare.agreement(final, frame(), batched, LAST, evidence(**frames))
    assert list(found["verdict"][1:]) == [compare.EQUAL]
    assert found["verdict"][0] != compare.EQUAL
    return str(found["cause"][0])


def test_a_late_trade_that_accounts_for_all_of_the_difference_is_its_cause() -> None:
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    dropped = (7, 30.5, "buy", 0.25)
    assert cause(stream, batch, late=trades(dropped)) == compare.LATE
    elsewhere = trades((7, 60, "buy", 0.25))
    assert cause(stream, batch, late=elsewhere) == compare.UNEXPLAINED
    other = trades((7, 30.5, "sell", 0.25))
    assert cause(stream, batch, late=other) == compare.UNEXPLAINED
    assert cause(stream, batch) == compare.UNEXPLAINED


def test_late_trades_that_were_counted_all_the_same_do_not_hide_the_dropped_one() -> None:
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    noted = [(6, 10, "buy", 0.125), (7, 30.5, "buy", 0.25), (8, 31, "sell", 0.5)]
    assert cause(stream, batch, late=trades(*noted)) == compare.LATE
    many = [(number, 30, "sell", 1.0) for number in range(100, 140)] + [(7, 30.5, "buy", 0.25)]
    assert cause(stream, batch, late=trades(*many)) == compare.LATE


def test_a_window_of_late_trades_alone_is_only_in_the_batch() -> None:
    batch = window(0, trade_count="2", buy_count="1", total_volume="0.3")
    dropped = trades((7, 1, "buy", 0.1), (8, 2, "sell", 0.2))
    assert cause(None, batch, late=dropped) == compare.LATE


def test_a_trade_that_fills_a_gap_too_late_is_recovered() -> None:
    stream, batch = window(0), window(0, trade_count="6", total_volume="1.75")
    dropped = trades((7, 30.5, "sell", 0.25))
    filled = gaps((5, 9, True, 29, 32))
    assert cause(stream, batch, late=dropped, gaps=filled) == compare.RECOVERED


def test_what_was_stored_after_the_snapshot_is_not_in_the_batch() -> None:
    batch = window(0, trade_count="4", buy_count="2", total_volume="1.25")
    after = trades((9, 59.5, "buy", 0.25))
    assert cause(window(0), batch, after_snapshot=after) == compare.AFTER_SNAPSHOT
    whole = trades(*((n, n, "buy" if n < 3 else "sell", 0.3) for n in range(5)))
    assert cause(window(0), None, after_snapshot=whole) == compare.AFTER_SNAPSHOT


def test_a_repeat_that_the_stream_no_longer_knew_counts_twice_there() -> None:
    stream = window(0, trade_count="6", buy_count="3", total_volume="2")
    again = trades((3, 12, "sell", 0.5))
    assert cause(stream, window(0), conflicts=again) == compare.CONFLICT


def test_several_causes_are_all_named() -> None:
    stream = window(0, trade_count="6", buy_count="3", total_volume="2")
    batch = window(0, trade_count="6", buy_count="4", total_volume="1.75")
    found = cause(
        stream, batch, late=trades((7, 1, "buy", 0.25)), conflicts=trades((3, 12, "sell", 0.5))
    )
    assert set(found.split("; ")) == {compare.LATE, compare.CONFLICT}


def test_a_late_trade_that_the_stream_kept_may_be_stored_after_the_snapshot() -> None:
    both = trades((7, 30.5, "buy", 0.25))
    stream = window(0, trade_count="6", buy_count="4", total_volume="1.75")
    assert cause(stream, window(0), late=both, after_snapshot=both) == compare.AFTER_SNAPSHOT


def test_minutes_around_ids_never_seen_are_marked_though_both_paths_agree() -> None:
    windows = frame(window(0), window(1), window(2))
    missing = gaps((5, 7, False, 30, 61), (20, 20, True, 5, 6))
    found = compare.agreement(windows, frame(), windows, LAST, evidence(gaps=missing))
    assert list(found["verdict"]) == [compare.EQUAL] * 3
    assert list(found["cause"]) == [compare.GAP, compare.GAP, ""]
    assert list(found["missing"]) == [3, 3, 0]


# --- completeness ---------------------------------------------------------------------------

counts = st.integers(0, 10**6)


@given(st.tuples(*[counts] * 8))
def test_each_stage_of_the_funnel_and_its_losses_add_up_to_what_it_draws_from(
    numbers: tuple[int, ...],
) -> None:
    stored, missing, repeated, rejected, late, behind, others, published = numbers
    ingested = Ingested(
        stored + repeated + rejected, stored, repeated, rejected, max(1, stored + missing), missing
    )
    producer = {
        "published": published,
        "repeated": repeated,
        "rejected": rejected,
        "control": others,
        "ignored": 3,
        "received": published + repeated + rejected + others + 3,
    }
    found = compare.funnel(ingested, producer, stored - late - behind, late, stored - behind)
    assert len(found) == 5
    if stored + missing:
        losses = found[list(compare.LOSSES)].fillna(0).astype(int).sum(axis="columns")
        assert list(found["count"] + losses) == list(found["drawn_from"])


def test_the_funnel_of_nothing_is_empty_and_without_a_run_the_batch_has_no_row() -> None:
    assert compare.funnel(None, {}, 0, 0, None).empty
    found = compare.funnel(Ingested(5, 5, 0, 0, 6, 1), {}, 5, 0, None)
    assert list(found["stage"].str.contains("batch")) == [False] * 3
    assert found["of_issued"].iloc[1] == pytest.approx(5 / 6)
    assert found["late"].isna().iloc[0]  # unknown there, not 0


# --- latency --------------------------------------------------------------------------------


def moments(*at: float) -> pd.Series:
    return pd.Series(pd.to_datetime([seconds(second) for second in at], utc=True))


def test_each_leg_of_the_waterfall_is_counted_from_its_two_stamps() -> None:
    noted = pd.DataFrame(
        [("event_to_receipt", latency.bucket(0.2), 9), ("receipt_to_stored", latency.bucket(3), 9)],
        columns=["leg", "bucket", "count"],
    )
    micro_batches = pd.DataFrame(
        {
            "rows": [1, 3, 0],
            "first_receipt": moments(1, 2, 2).where(np.array([True, True, False])),
            "last_receipt": moments(1, 4, 2).where(np.array([True, True, False])),
            "published_at": moments(3, 6, 7),
        }
    )
    windows = pd.DataFrame(
        [("2025-06-01T12:00:00Z", "open_to_final", json.dumps({latency.bucket(70): 5}))],
        columns=["window_start", "leg", "counts"],
    )
    final = pd.DataFrame(
        {
            "last_trade_time": moments(50, 110, 170),
            "written_at": moments(121, 181, 241),
            "trade_count": [4, 5, 6],
        }
    )
    runs = pd.DataFrame({"last_trade_time": moments(55, 115), "written_at": moments(60, 200)})
    found = compare.waterfall(noted, micro_batches, windows, final, runs).set_index("leg")
    assert list(found.index) == list(compare.LEGS)
    assert list(found["trades"]) == [9, 9, 4, 5, 9]  # the third window is in no run yet
    near = [0.2, 3, 2, 70, 19]  # of the last: 4 trades 61 s before, 5 trades 19 s after
    for leg, value in zip(compare.LEGS, near, strict=True):
        assert found["median"][leg] == pytest.approx(value, rel=0.3), leg


def test_a_leg_that_nobody_measured_is_unknown() -> None:
    empty = pd.DataFrame(
        columns=["leg", "bucket", "count", "counts", "rows", "published_at", "first_receipt"]
    )
    times = pd.DataFrame(
        {name: moments() for name in ("published_at", "first_receipt", "last_receipt")}
    ).assign(rows=[])
    final = pd.DataFrame({"last_trade_time": moments(), "written_at": moments(), "trade_count": []})
    found = compare.waterfall(empty, times, empty, final, final)
    assert found["median"].isna().all()
    assert list(found["trades"]) == [0] * 5


# --- growth ---------------------------------------------------------------------------------


def run_times(count: int, base: float, slope: float, noise: float, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = np.linspace(1e5, 3e6, count)
    wall = base + slope * rows / 1e6 + rng.normal(0, noise, count)
    wall[::7] += 20 * noise  # now and then a run is disturbed
    return pd.DataFrame({"rows": rows, "wall_s": wall})


@pytest.mark.parametrize("seed", range(5))
def test_the_forecast_finds_growth_in_noise_with_outliers(seed: int) -> None:
    found = compare.growth(run_times(40, 5, 3, 0.2, seed), 600, 6.0, NOON)
    assert found is not None
    assert found.refusal == ""
    assert found.s_per_million == pytest.approx(3, rel=0.1)
    assert found.low <= 3 <= found.high
    limit = (600 - 5) / 3 * 1e6
    assert found.rows_at_limit is not None
    assert found.rows_at_limit == pytest.approx(limit, rel=0.1)
    assert found.at_limit is not None
    days = (found.at_limit - NOON).total_seconds()
    assert days == pytest.approx((found.rows_at_limit - 3e6) / 6, rel=1e-6)


@pytest.mark.parametrize(
    ("runs", "rate", "why"),
    [
        (run_times(5, 5, 3, 0.1), 6.0, "5 runs are too few"),
        (run_times(40, 5, 0, 0.5), 6.0, "cannot|no growth"),
        (run_times(40, 5, 3, 0.1).assign(rows=lambda t: 1e6 + t["rows"] / 1e3), 6.0, "hardly"),
        (run_times(40, 5, 3, 0.1), 0.0, "does not grow"),
        (run_times(40, 5, 3, 0.1), None, "does not grow"),
        (run_times(40, 5, 3, 0.1), 0.001, "hundred years"),
    ],
)
def test_without_ground_nothing_is_forecast(
    runs: pd.DataFrame, rate: float | None, why: str
) -> None:
    found = compare.growth(runs, 600, rate, NOON)
    assert found is not None
    assert re.search(why, found.refusal)
    assert found.at_limit is None


def test_runs_over_one_size_tell_nothing_of_growth() -> None:
    assert compare.growth(run_times(3, 5, 3, 0.1).assign(rows=7), 600, 6, NOON) is None
    assert compare.growth(run_times(0, 5, 3, 0.1), 600, 6, NOON) is None


# --- cost -----------------------------------------------------------------------------------


def minutes(*rows: tuple[float, float, int]) -> pd.DataFrame:
    """Of (CPU seconds, MiB, records read), a minute each."""
    return pd.DataFrame(
        [(60.0, cpu, mib, json.dumps({"rows": read})) for cpu, mib, read in rows],
        columns=["seconds", "cpu_s", "rss_mib", "counters"],
    )


def test_cost_is_by_hour_by_answer_and_by_million_trades() -> None:
    stream = minutes((30, 800, 1000), (30, 900, 1000), (3, 850, 0))
    log = pd.DataFrame(
        {
            "status": ["ok", "failed", "ok"],
            "rows": [1000.0, None, 3000.0],
            "peak_mib": [400, 9, 500],
        }
    )
    services = {"spark_processor": stream, "batch_scheduler": minutes((12, 40, 0))}
    found = compare.cost(services, log, finals=3).set_index("path")
    assert found["cpu_s_per_hour"]["stream"] == pytest.approx(63 / 180 * 3600)
    assert found["peak_mib"].to_dict() == {"stream": 900, "batch": 500}
    assert found["cpu_s_per_answer"].to_dict() == {"stream": 21, "batch": 6}
    assert found["cpu_s_per_million"].to_dict() == {"stream": 31_500, "batch": 3_000}
    assert compare.idle_cost(stream) == pytest.approx(180)
    assert compare.idle_cost(stream[:2]) is None


def test_without_a_record_of_minutes_the_cost_is_unknown() -> None:
    log = pd.DataFrame({"status": [], "rows": [], "peak_mib": []})
    found = compare.cost({}, log, finals=0)
    assert found[["cpu_s_per_hour", "cpu_s_per_answer", "cpu_s_per_million"]].isna().all().all()


# --- the command ----------------------------------------------------------------------------


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.compare", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_with_nothing_to_compare_the_command_says_so_with_status_2(tmp_path: Path) -> None:
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert "There is nothing to compare yet" in done.stdout
    (tmp_path / "batch_windows.csv").write_text("foreign,file\n1,2\n")
    done = command(tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "batch_windows.csv has no column window_start" in done.stderr


def both_paths(folder: Path, batch_count: str) -> None:
    """A data folder with a final window and a run that counted so many trades in it."""
    data = DataDir(folder)
    final = window(0, last_trade_time="2025-06-01T12:00:59Z", written_at="2025-06-01T12:02:01Z")
    write_final_windows(data, [final])
    in_batch = final | {"trade_count": batch_count, "written_at": "2025-06-01T12:04:05Z"}
    data.batch_windows.write_text(to_csv(WINDOW_COLUMNS, [in_batch]))
    run = {"rows": 9, "run": "20250601T120400Z", "first_trade_id": 1, "last_trade_id": 9}
    times = {
        "last_trade_time": seconds(200),
        "snapshot_at": seconds(240),
        "written_at": seconds(245),
    }
    data.batch_output.mkdir()
    path = data.batch_output / "20250601T120400Z.csv"
    path.write_text(to_csv(BATCH_COLUMNS, [run | times]))


def test_the_command_tells_agreement_by_its_status(tmp_path: Path) -> None:
    both_paths(tmp_path, "5")
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "both paths agree on all 1 shared minutes" in done.stdout
    assert json.loads(command(tmp_path, "--json").stdout)["unexplained"] == 0


def test_an_unexplained_difference_is_status_1_and_loud(tmp_path: Path) -> None:
    both_paths(tmp_path, "6")
    done = command(tmp_path)
    assert done.returncode == 1, done.stderr
    assert "0 of 1 minutes; 1 for unexplained" in done.stdout
    found = json.loads(command(tmp_path, "--json").stdout)
    assert found["unexplained"] == 1
    assert found["agreement"][0]["columns"] == "trade_count"
