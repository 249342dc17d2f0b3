"""The comparison's pure functions, against brute force and constructed cases."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import histogram as latency
from pipeline.compare import agreement
from pipeline.compare import comparison as compare
from pipeline.compare import inputs as tables
from pipeline.compare.inputs import Evidence, Ingested
from pipeline.outputs import (
    BATCH_COLUMNS,
    WINDOW_COLUMNS,
    DataDir,
    to_csv,
    write_final_windows,
)

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


def stored_time(at: float) -> str:
    return seconds(at).isoformat(timespec="microseconds")[:26] + "Z"


def trades(*rows: tuple[int, float, str, float]) -> pd.DataFrame:
    """Of (id, seconds after noon, side, size); the price is a hundred and the id's hundredths."""
    return pd.DataFrame(
        [
            (number, stored_time(at), side, float(100 + Decimal(number) / 100), size)
            for number, at, side, size in rows
        ],
        columns=["trade_id", "time", "side", "price", "last_size"],
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


def evidence(**frames: Any) -> Evidence:
    none: dict[str, Any] = {name: trades() for name in ("late", "after_snapshot", "conflicts")}
    return Evidence(**none | {"gaps": gaps()} | frames)


def verdicts(
    final: pd.DataFrame, still_open: pd.DataFrame, batch: pd.DataFrame, newest: str | None
) -> list[str]:
    return list(agreement.agreement(final, still_open, batch, newest, evidence())["verdict"])


def test_each_verdict_in_a_constructed_case() -> None:
    final = frame(window(0), window(1), window(2), window(5))
    still_open = frame(window(6))
    batch = frame(window(0), window(1, trade_count="6"), window(3), window(6))
    found = agreement.agreement(final, still_open, batch, "2025-06-01T12:04:30Z", evidence())
    assert list(found["verdict"]) == [
        agreement.EQUAL,
        agreement.DIFFERS,
        agreement.ONLY_STREAM,
        agreement.ONLY_BATCH,
        agreement.NOT_YET_IN_A_BATCH,
        agreement.NOT_YET_FINAL,
    ]
    assert list(found["columns"]) == ["", "trade_count", "", "", "", ""]


def test_a_window_that_the_stream_has_not_come_to_is_not_yet_final() -> None:
    batch = frame(window(0), window(1))
    assert verdicts(frame(), frame(), batch, LAST) == [agreement.NOT_YET_FINAL] * 2
    assert verdicts(frame(window(0)), frame(), batch, LAST) == [
        agreement.EQUAL,
        agreement.NOT_YET_FINAL,
    ]


def test_a_run_whose_newest_trade_lies_in_the_second_after_a_window_covers_it() -> None:
    final, batch = frame(window(0)), frame(window(0, trade_count="2"))
    assert verdicts(final, frame(), batch, "2025-06-01T12:01:00.400000Z") == [agreement.DIFFERS]


def test_a_window_that_the_run_saw_in_part_is_not_yet_in_a_batch() -> None:
    final, batch = frame(window(0)), frame(window(0, trade_count="2"))
    assert verdicts(final, frame(), batch, "2025-06-01T12:00:30Z") == [agreement.NOT_YET_IN_A_BATCH]
    assert verdicts(final, frame(), batch, "2025-06-01T12:01:00Z") == [agreement.DIFFERS]


def test_time_of_receipt_and_of_writing_are_no_difference() -> None:
    final = frame(window(0, written_at="a", last_receipt_time="b"))
    assert verdicts(final, frame(), frame(window(0)), "2025-06-01T13:00:00Z") == [agreement.EQUAL]


def test_ids_that_never_came_are_counted_once_wherever_the_windows_are_cut() -> None:
    """A gap over the turn of a minute belongs to both windows; one that was filled to none."""
    shown = frame(window(1), window(2))
    open_gaps = gaps((10, 19, False, 50, 70), (30, 34, True, 80, 90), (5, 8, False, 10, 20))
    assert compare._missing(open_gaps, shown) == 10
    assert compare._missing(open_gaps, frame(window(0))) == 14
    assert compare._missing(open_gaps, frame()) == 0


def priced(minute: int, count: int, average: str, high: str) -> dict[str, str]:
    numbers = {"avg_price": average, "max_price": high, "min_price": "1", "open_price": "2"}
    numbers |= {"close_price": high, "sell_count": f"{count - 3}", "volume_imbalance": "0.5"}
    return window(minute, trade_count=f"{count}", vwap=average, **numbers)


def test_both_paths_are_rolled_up_over_the_very_same_windows() -> None:
    """What one of them alone holds, or holds in part, is left out; by hand: 5 + 10 and 5 + 11."""
    stream = frame(priced(0, 5, "10", "20"), priced(1, 10, "40", "50"), priced(2, 9, "1", "99"))
    batch = frame(priced(0, 5, "10", "20"), priced(1, 11, "40", "60"), priced(3, 9, "1", "99"))
    judged = agreement.agreement(stream, frame(), batch, LAST, evidence())
    found = compare.shared(tables.typed(stream), tables.typed(batch), judged)
    by_metric = {row[0]: row[1:] for row in found.totals.itertuples(index=False, name=None)}
    assert (found.windows, found.differing) == (2, 1)
    assert by_metric["trade_count"] == (15, 16, -1)
    assert by_metric["avg_price"] == (30.0, 30.625, -0.625)
    assert by_metric["max_price"] == (50, 60, -10)
    assert by_metric["price_range"] == (49, 59, -10)
    assert by_metric["total_volume"] == (3.0, 3.0, 0.0)
    assert by_metric["sell_count"] == (9, 10, -1)


def test_without_shared_windows_nothing_is_rolled_up() -> None:
    nothing = tables.typed(frame())
    judged = agreement.agreement(frame(), frame(), frame(), None, evidence())
    assert compare.shared(nothing, nothing, judged).windows == 0


def test_totals_over_an_unknown_part_are_unknown_not_0() -> None:
    rows = frame(priced(0, 5, "10", "20"), priced(1, 10, "40", "50") | {"buy_count": ""})
    found = compare.totals(tables.typed(rows))
    assert np.isnan(found["buy_count"])
    assert np.isnan(found["buy_sell_ratio"])
    assert found["trade_count"] == 15
    empty = compare.totals(tables.typed(frame(priced(0, 5, "10", "20") | {"total_volume": "0"})))
    assert np.isnan(empty["vwap"])


def test_without_anything_there_is_nothing_to_compare() -> None:
    assert verdicts(frame(), frame(), frame(), None) == []


# --- causes ---------------------------------------------------------------------------------


def cause(stream: dict[str, str] | None, batch: dict[str, str] | None, **frames: Any) -> str:
    # A later minute, which both have: the stream has come past the one in question.
    final, batched = (frame(*([row] if row else []), window(5)) for row in (stream, batch))
    found = agreement.agreement(final, frame(), batched, LAST, evidence(**frames))
    assert list(found["verdict"][1:]) == [agreement.EQUAL]
    assert found["verdict"][0] != agreement.EQUAL
    return str(found["cause"][0])


def test_a_late_trade_that_accounts_for_all_of_the_difference_is_its_cause() -> None:
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    dropped = (7, 30.5, "buy", 0.25)
    assert cause(stream, batch, late=trades(dropped)) == agreement.LATE
    elsewhere = trades((7, 60, "buy", 0.25))
    assert cause(stream, batch, late=elsewhere) == agreement.UNEXPLAINED
    other = trades((7, 30.5, "sell", 0.25))
    assert cause(stream, batch, late=other) == agreement.UNEXPLAINED
    assert cause(stream, batch) == agreement.UNEXPLAINED


def test_late_trades_that_were_counted_all_the_same_do_not_hide_the_dropped_one() -> None:
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    noted = [(6, 10, "buy", 0.125), (7, 30.5, "buy", 0.25), (8, 31, "sell", 0.5)]
    assert cause(stream, batch, late=trades(*noted)) == agreement.LATE
    many = [(number, 30, "sell", 1.0) for number in range(100, 140)] + [(7, 30.5, "buy", 0.25)]
    assert cause(stream, batch, late=trades(*many)) == agreement.LATE


def test_a_window_of_late_trades_alone_is_only_in_the_batch() -> None:
    batch = window(0, trade_count="2", buy_count="1", total_volume="0.3")
    dropped = trades((7, 1, "buy", 0.1), (8, 2, "sell", 0.2))
    assert cause(None, batch, late=dropped) == agreement.LATE


def test_a_trade_that_fills_a_gap_too_late_is_recovered() -> None:
    stream, batch = window(0), window(0, trade_count="6", total_volume="1.75")
    dropped = trades((7, 30.5, "sell", 0.25))
    assert cause(stream, batch, late=dropped, recovered=frozenset({7})) == agreement.RECOVERED
    assert cause(stream, batch, late=dropped, recovered=frozenset({8})) == agreement.LATE


def test_what_was_stored_after_the_snapshot_is_not_in_the_batch() -> None:
    batch = window(0, trade_count="4", buy_count="2", total_volume="1.25")
    after = trades((9, 59.5, "buy", 0.25))
    assert cause(window(0), batch, after_snapshot=after) == agreement.AFTER_SNAPSHOT
    whole = trades(*((n, n, "buy" if n < 3 else "sell", 0.3) for n in range(5)))
    assert cause(window(0), None, after_snapshot=whole) == agreement.AFTER_SNAPSHOT


def test_a_repeat_that_the_stream_no_longer_knew_counts_twice_there() -> None:
    stream = window(0, trade_count="6", buy_count="3", total_volume="2")
    again = trades((3, 12, "sell", 0.5))
    assert cause(stream, window(0), conflicts=again) == agreement.CONFLICT


def test_several_causes_are_all_named() -> None:
    stream = window(0, trade_count="6", buy_count="3", total_volume="2")
    batch = window(0, trade_count="6", buy_count="4", total_volume="1.75")
    found = cause(
        stream, batch, late=trades((7, 1, "buy", 0.25)), conflicts=trades((3, 12, "sell", 0.5))
    )
    assert set(found.split("; ")) == {agreement.LATE, agreement.CONFLICT}


def test_a_late_trade_that_the_stream_kept_may_be_stored_after_the_snapshot() -> None:
    both = trades((7, 30.5, "buy", 0.25))
    stream = window(0, trade_count="6", buy_count="4", total_volume="1.75")
    assert cause(stream, window(0), late=both, after_snapshot=both) == agreement.AFTER_SNAPSHOT


Trade = tuple[int, float, str, float]


def window_of(*rows: Trade) -> dict[str, str]:
    """The window of these trades, by its definitions; prices as in `trades`."""
    of = [
        (number, at, side, 100 + Decimal(number) / 100, Decimal(str(size)))
        for number, at, side, size in rows
    ]
    prices, sizes = [row[3] for row in of], [row[4] for row in of]
    volume, bought = sum(sizes), sum(row[4] for row in of if row[2] == "buy")
    turnover = sum(price * size for price, size in zip(prices, sizes, strict=True))
    numbers: dict[str, object] = {
        "avg_price": round(sum(prices) / len(of), 10),
        "max_price": max(prices),
        "min_price": min(prices),
        "price_range": max(prices) - min(prices),
        "total_volume": volume,
        "trade_count": len(of),
        "buy_count": sum(row[2] == "buy" for row in of),
        "vwap": round(turnover / volume, 10),
        "open_price": min(of)[3],
        "close_price": max(of)[3],
        "volume_imbalance": round((2 * bought - volume) / volume, 10),
    }
    cells = {name: str(value) for name, value in numbers.items()}
    return window(0, **cells, last_trade_time=stored_time(max(row[1] for row in of)))


#: Ids in disorder, so that any of them may be the first, the last, the dearest or the cheapest.
some_trades = st.lists(
    st.tuples(
        st.integers(1, 900),
        st.integers(0, 59),
        st.sampled_from(["buy", "sell"]),
        st.integers(1, 10**6).map(lambda size: size / 10**4),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row[0],
)


@settings(deadline=None, max_examples=50)
@given(some_trades, st.data())
def test_any_trades_that_one_path_lacks_are_found_and_any_wrong_price_beside_them_is_not_explained(
    rows: list[Trade], data: st.DataObject
) -> None:
    kinds = data.draw(st.lists(st.sampled_from("blake"), min_size=len(rows), max_size=len(rows)))
    by_kind: dict[str, list[Trade]] = {
        kind: [row for row, drawn in zip(rows, kinds, strict=True) if drawn == kind]
        for kind in "blake"
    }
    # b: both; l: late, dropped; a: after the snapshot; k: late, kept; e: a repeat counted again
    repeats = [(number, at + 0.5, side, size) for number, at, side, size in by_kind["e"]]
    in_stream = [*by_kind["b"], *by_kind["a"], *by_kind["k"], *by_kind["e"], *repeats]
    in_batch = [*by_kind["b"], *by_kind["l"], *by_kind["k"], *by_kind["e"]]
    noted = {
        "late": trades(*by_kind["l"], *by_kind["k"]),
        "after_snapshot": trades(*by_kind["a"]),
        "conflicts": trades(*repeats),
    }
    stream, batch = (window_of(*own) if own else None for own in (in_stream, in_batch))
    if stream == batch:
        return
    expected = {
        name
        for name, own in (
            (agreement.LATE, by_kind["l"]),
            (agreement.AFTER_SNAPSHOT, by_kind["a"]),
            (agreement.CONFLICT, repeats),
        )
        if own
    }
    assert set(cause(stream, batch, **noted).split("; ")) == expected
    if stream:
        name = data.draw(st.sampled_from(["max_price", "min_price", "avg_price", "vwap"]))
        wrong = stream | {name: str(Decimal(stream[name]) + Decimal("1234.5"))}
        assert cause(wrong, batch, **noted) == agreement.UNEXPLAINED


def test_many_late_trades_dropped_here_and_there_are_told() -> None:
    rng = np.random.default_rng(4)
    rows: list[Trade] = [(n, n, "buy", round(float(rng.uniform(1, 9)), 8)) for n in range(1, 27)]
    kept, dropped = rows[1::2], rows[::2]
    began = time.monotonic()
    found = cause(window_of(*kept), window_of(*rows), late=trades(*rows))
    assert found == agreement.LATE
    assert time.monotonic() - began < 5
    assert dropped


def test_of_very_many_late_trades_the_few_that_were_dropped_are_told() -> None:
    rng = np.random.default_rng(4)
    rows: list[Trade] = [(n, n, "buy", round(float(rng.uniform(1, 9)), 8)) for n in range(1, 51)]
    for dropped in ({7, 31}, {7, 8, 9, 20}, set(range(1, 51)) - {3, 40}):
        kept = [row for row in rows if row[0] not in dropped]
        assert cause(window_of(*kept), window_of(*rows), late=trades(*rows)) == agreement.LATE


def test_of_very_many_late_trades_those_that_came_latest_are_told() -> None:
    rng = np.random.default_rng(4)
    rows: list[Trade] = [(n, n, "buy", round(float(rng.uniform(1, 9)), 8)) for n in range(1, 51)]
    behind = rng.permutation(np.linspace(60, 130, 50))
    dropped = {int(n) + 1 for n in np.argsort(behind)[-20:]}
    kept = [row for row in rows if row[0] not in dropped]
    late = trades(*rows).assign(behind_s=behind)
    assert cause(window_of(*kept), window_of(*rows), late=late) == agreement.LATE


def test_trades_that_are_all_alike_are_no_reason_to_search_for_minutes() -> None:
    alike: list[Trade] = [(number, 30, "buy", 0.001) for number in range(1, 27)]
    lost: Trade = (900, 31, "buy", 0.001)
    began = time.monotonic()
    found = cause(window_of(*alike), window_of(*alike, lost), late=trades(*alike))
    assert found == agreement.UNEXPLAINED
    assert time.monotonic() - began < 20


def test_what_follows_from_other_columns_must_do_so_beside_a_proved_cause_too() -> None:
    rows: list[Trade] = [(1, 1, "buy", 0.5), (2, 2, "sell", 0.25), (3, 3, "buy", 0.125)]
    stream, batch = window_of(*rows[:2]), window_of(*rows)
    late = trades(rows[2])
    assert cause(stream, batch, late=late) == agreement.LATE
    for wrong in ({"sell_count": "2"}, {"sell_count": "1", "buy_sell_ratio": "123"}):
        assert cause(stream | wrong, batch, late=late) == agreement.UNEXPLAINED


def test_a_gap_between_trades_out_of_order_belongs_to_their_windows() -> None:
    windows = frame(window(0), window(1))
    found = agreement.agreement(
        windows, frame(), windows, LAST, evidence(gaps=gaps((5, 5, False, 60.2, 59.9)))
    )
    assert list(found["cause"]) == [agreement.GAP] * 2


def test_minutes_around_ids_never_seen_are_marked_though_both_paths_agree() -> None:
    windows = frame(window(0), window(1), window(2))
    missing = gaps((5, 7, False, 30, 61), (20, 20, True, 5, 6))
    found = agreement.agreement(windows, frame(), windows, LAST, evidence(gaps=missing))
    assert list(found["verdict"]) == [agreement.EQUAL] * 3
    assert list(found["cause"]) == [agreement.GAP, agreement.GAP, ""]
    assert list(found["missing"]) == [3, 3, 0]


def test_missing_ids_that_came_in_rejected_messages_are_told_from_those_that_never_came() -> None:
    windows = frame(window(0), window(1), window(2))
    missing = gaps((5, 7, False, 30, 31), (20, 20, False, 70, 71), (25, 25, False, 130, 131))
    refused = frozenset({6, 20, 99})
    noted = evidence(gaps=missing, rejected=refused)
    found = agreement.agreement(windows, frame(), windows, LAST, noted)
    both = f"{agreement.GAP}; {agreement.REJECTED}"
    assert list(found["cause"]) == [both, agreement.REJECTED, agreement.GAP]
    assert list(found["missing"]) == [3, 1, 1]


def test_of_a_window_that_differs_and_misses_ids_both_causes_are_named() -> None:
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    dropped = trades((7, 30.5, "buy", 0.25))
    missing = gaps((5, 6, False, 30, 31))
    found = cause(stream, batch, late=dropped, gaps=missing)
    assert found == f"{agreement.LATE}; {agreement.GAP}"
    assert cause(stream, batch, gaps=missing) == f"{agreement.UNEXPLAINED}; {agreement.GAP}"


# --- completeness ---------------------------------------------------------------------------

counts = st.integers(0, 10**6)


def judged(late: int = 0, doubled: int = 0, unexplained: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"late": [late], "doubled": [doubled], "unexplained": [unexplained]})


@given(st.tuples(*[counts] * 10))
def test_each_stage_of_the_funnel_and_its_losses_add_up_to_what_it_draws_from(
    numbers: tuple[int, ...],
) -> None:
    stored, missing, repeated, rejected, late, behind, others, published, doubled, lag = numbers
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
    status: dict[str, dict[str, Any]] = {
        "producer": {"counters": producer},
        "consumer": {"lag": lag},
    }
    in_stream = stored - late - behind + doubled
    found = compare.funnel(ingested, status, in_stream, judged(late, doubled), stored - behind)
    assert len(found) == 6
    if stored + missing:
        losses = found[list(compare.LOSSES)].fillna(0).astype(int).sum(axis="columns")
        assert list(found["count"] + losses) == list(found["drawn_from"])
        assert list(found["not_yet"].dropna()) == [0, lag, behind, behind]
        assert found["drawn_from"].iloc[0] == published + rejected  # repeats are no loss


def test_what_is_lost_for_no_known_reason_is_not_what_is_not_yet_counted() -> None:
    ingested = Ingested(150, 150, 0, 0, 160, 10)
    found = compare.funnel(ingested, NOBODY, 147, judged(unexplained=3), 150, refused=4)
    stream, ids = (found[found["stage"].str.contains(text)].iloc[0] for text in ("stream", "ids"))
    assert (stream["unexplained"], stream["not_yet"]) == (3, 0)
    assert (ids["missing"], ids["rejected"]) == (6, 4)
    assert list(found["of_received"].dropna()) == pytest.approx([150 / 154, 147 / 154, 150 / 154])


NOBODY: dict[str, dict[str, int]] = {"producer": {}, "consumer": {}}


def test_the_funnel_of_nothing_is_empty_and_without_a_run_the_batch_has_no_row() -> None:
    assert compare.funnel(None, NOBODY, 0, judged(), None).empty
    found = compare.funnel(Ingested(5, 4, 1, 0, 8, 4), NOBODY, 3, judged(1), None)
    assert list(found["stage"].str.contains("batch")) == [False] * 3
    assert list(found["of_issued"].dropna()) == [4 / 8, 3 / 8]
    assert list(found["of_received"].dropna()) == [1, 3 / 4]
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
    assert found.rows_low is not None
    assert found.rows_high is not None
    assert found.rows_at_limit == pytest.approx(limit, rel=0.1)
    assert found.rows_low <= found.rows_at_limit <= found.rows_high
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
        (run_times(40, 5, 3, 0.1), None, "rate the table grows is unknown"),
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


def test_a_batch_that_no_longer_fits_into_its_interval_is_told_so() -> None:
    """At 5 s and 10 s more with each million, 20 s are reached at 1.5 of 3 million rows."""
    runs = run_times(30, base=5.0, slope=10.0, noise=0.1)
    found = compare.growth(runs, 20, rows_per_s=100, now=NOON)
    assert found is not None
    assert found.refusal == compare.TOO_SLOW_ALREADY
    assert found.at_limit is None
    assert found.rows_at_limit == pytest.approx(1.5e6, rel=0.1)


def test_growth_of_what_does_not_depend_on_the_table_is_no_growth_of_the_batch() -> None:
    rng = np.random.default_rng(5)
    runs = run_times(40, 8, 3, 0.1)
    steady = runs.assign(start_s=4 + rng.normal(0, 0.2, 40))
    found = compare.growth(steady, 600, 6, NOON)
    assert found is not None
    assert found.refusal == ""
    slower = runs.assign(start_s=4 + np.linspace(0, 3, 40) + rng.normal(0, 0.2, 40))
    found = compare.growth(slower, 600, 6, NOON)
    assert found is not None
    assert "start" in found.refusal
    assert found.at_limit is None


def test_runs_over_one_size_tell_nothing_of_growth() -> None:
    assert compare.growth(run_times(3, 5, 3, 0.1).assign(rows=7), 600, 6, NOON) is None
    assert compare.growth(run_times(0, 5, 3, 0.1), 600, 6, NOON) is None


# --- the stream's micro-batches ------------------------------------------------------------


def micro_batches(count: int, slope: float) -> pd.DataFrame:
    """Twenty a minute, a thousand trades each; slope: milliseconds with each million trades."""
    rng = np.random.default_rng(3)
    read = np.arange(count) * 1000
    return pd.DataFrame(
        {
            "published_at": pd.to_datetime([seconds(3 * n) for n in range(count)], utc=True),
            "rows": 1000,
            "duration_ms": 400 + slope * read / 1e6 + rng.normal(0, 20, count),
        }
    )


def test_micro_batches_that_stay_flat_are_told_from_those_that_grow() -> None:
    flat, grown = (compare.steadiness(micro_batches(1000, slope)) for slope in (0, 300))
    assert flat is not None
    assert grown is not None
    assert flat.low is not None
    assert flat.high is not None
    assert flat.low < 0 < flat.high
    assert grown.change_ms == pytest.approx(300, rel=0.1)
    assert (grown.micro_batches, grown.trades) == (1000, 1_000_000)


def test_of_few_minutes_no_change_of_the_micro_batches_is_told() -> None:
    few = compare.steadiness(micro_batches(100, 0))
    assert few is not None
    assert few.change_ms is None
    assert few.median_ms == pytest.approx(400, rel=0.05)
    assert compare.steadiness(micro_batches(0, 0)) is None


# --- a batch run's time -----------------------------------------------------------------------


def test_the_parts_of_a_run_add_up_to_its_time_and_what_is_unknown_stays_so() -> None:
    log = pd.DataFrame(
        {
            "status": ["ok"] * 3 + ["failed"],
            "wall_s": [10.0, 11.0, 12.0, 99.0],
            "start_s": [4.0, 4.0, 4.0, 1.0],
            "logic_s": [5.0, 5.5, 6.0, 1.0],
            "read_s": [2.0, 2.0, 2.0, 1.0],
            "write_s": [0.5, 0.5, 0.5, 1.0],
        }
    )
    found = compare.run_parts(log)
    assert list(found["part"]) == list(compare.RUN_PARTS)
    assert list(found["seconds"]) == [4, 2, 3.5, 0.5, 1]
    assert found["share"].sum() == pytest.approx(1)
    old = compare.run_parts(log.drop(columns=["read_s", "write_s"]))
    assert list(old["seconds"].isna()) == [False, True, False, True, False]
    assert old["seconds"].sum() == pytest.approx(11)
    assert compare.run_parts(log[:0])["seconds"].isna().all()


# --- cost -----------------------------------------------------------------------------------


def minutes(*rows: tuple[float, float, int | None]) -> pd.DataFrame:
    """Of (CPU seconds, MiB, records read: None while it starts), a minute each, from noon on."""
    return pd.DataFrame(
        [
            (60.0, cpu, mib, json.dumps({} if read is None else {"rows": read}))
            for cpu, mib, read in rows
        ],
        columns=["seconds", "cpu_s", "rss_mib", "counters"],
    ).assign(at=moments(*(60 * (n + 1) for n in range(len(rows)))))


def test_cost_is_by_hour_by_answer_and_by_million_trades_over_the_time_that_is_recorded() -> None:
    stream = minutes((30, 800, 1000), (30, 900, 1000), (3, 850, 0))
    log = pd.DataFrame(
        {
            "started": moments(5, 60, 125, 175),
            "status": ["ok", "failed", "ok", "ok"],
            "rows": [1000.0, None, 3000.0, 9000.0],
            "wall_s": [10.0, 10.0, 10.0, 10.0],  # the last one ends when the record has ended
            "peak_mib": [400, 9, 500, 600],
        }
    )
    services = {
        "spark_processor": stream,
        "batch_scheduler": minutes((12, 40, None), (0, 40, None), (0, 40, None)),
    }
    finals = moments(-1, 10, 20, 179, 181)
    found = compare.cost(services, log, finals).set_index("path")
    assert found["cpu_s_per_hour"].to_dict() == {"stream": 63 / 180 * 3600, "batch": 240}
    assert found["peak_mib"].to_dict() == {"stream": 900, "batch": 500}
    assert found["answers"].to_dict() == {"stream": 3, "batch": 2}
    assert found["cpu_s_per_answer"].to_dict() == {"stream": 21, "batch": 6}
    assert found["cpu_s_per_million"].to_dict() == {"stream": 31_500, "batch": 3_000}
    assert found["idle_cpu_s_per_hour"]["stream"] == pytest.approx(180)


def test_a_minute_in_which_the_stream_starts_is_not_idle() -> None:
    log = pd.DataFrame(
        {"started": moments(), "status": [], "rows": [], "wall_s": [], "peak_mib": []}
    )
    starting = minutes((30, 800, None), (30, 900, 1000))
    found = compare.cost({"spark_processor": starting}, log, moments())
    assert found["idle_cpu_s_per_hour"].isna().all()


def test_without_a_record_of_minutes_the_cost_is_unknown_and_the_answers_are_counted() -> None:
    log = pd.DataFrame(
        {
            "started": moments(1, 2),
            "status": ["ok", "ok"],
            "rows": [1.0, 2.0],
            "wall_s": [1.0, 1.0],
            "peak_mib": [1.0, 2.0],
        }
    )
    found = compare.cost({}, log, moments(1, 2, 3))
    assert found[["cpu_s_per_hour", "cpu_s_per_answer", "cpu_s_per_million"]].isna().all().all()
    assert list(found["answers"]) == [3, 2]


# --- the metrics' interpretation ------------------------------------------------------------


def test_flags_are_counted_beside_the_windows_that_stand_out_of_their_hour() -> None:
    windows = pd.DataFrame(
        {
            "volatility_flag": ["High", "High", "Normal"],
            "volume_spike": ["Normal"] * 3,
            "market_sentiment": ["Bullish", "Neutral", "Bearish"],
            "range_z": [np.nan, 2.5, -3],
            "volume_z": [np.nan, 2.0, 2.1],
            "volume_imbalance": [0.5, -0.25, 0.125],
        }
    )
    found = compare.flags({"stream": windows, "batch": windows[:0]}).set_index("path")
    assert found.loc["stream"].to_dict() == {
        "windows": 3,
        "high": 2,
        "spike": 0,
        "bullish": 1,
        "bearish": 1,
        "scored": 2,
        "range_stands_out": 1,
        "volume_stands_out": 1,
        "imbalance": 0.25,
    }
    assert found["windows"]["batch"] == 0


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
    assert "Both paths agree on all 1 compared minute from" in done.stdout
    assert json.loads(command(tmp_path, "--json").stdout)["unexplained"] == 0


def test_an_unexplained_difference_is_status_1_and_loud(tmp_path: Path) -> None:
    both_paths(tmp_path, "6")
    done = command(tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("UNEXPLAINED: 1 window differs for no known reason!")
    assert "agree on 0 of 1 compared minute " in done.stdout
    found = json.loads(command(tmp_path, "--json").stdout)
    assert found["unexplained"] == 1
    assert found["agreement"][0]["columns"] == "trade_count"


def test_of_the_last_minutes_an_unexplained_difference_of_old_event_times_is_not_hidden(
    tmp_path: Path,
) -> None:
    both_paths(tmp_path, "6")
    assert command(tmp_path, "--minutes", "5").returncode == 1


def no_constant(name: str) -> None:
    raise AssertionError(name)


def test_for_programs_what_is_unknown_or_without_bound_is_null(tmp_path: Path) -> None:
    both_paths(tmp_path, "5")
    lines = [
        f"started=2025-06-01T12:0{n}:00Z run=r status=ok exit=0 rows={10 * n} wall_s={n}.5"
        for n in range(1, 4)
    ]
    DataDir(tmp_path).batch_log.write_text("\n".join(lines) + "\n")
    found = json.loads(command(tmp_path, "--json").stdout, parse_constant=no_constant)
    assert found["growth"]["runs"] == 3
    assert found["growth"]["low"] is None


@pytest.mark.parametrize(
    ("column", "wrong"), [("avg_price", "abc"), ("trade_count", "5.5"), ("window_end", "noon")]
)
def test_a_cell_that_is_no_number_is_named_in_one_sentence_with_status_2(
    tmp_path: Path, column: str, wrong: str
) -> None:
    both_paths(tmp_path, "5")
    (path,) = DataDir(tmp_path).stream_csv.glob("*.csv")
    table = pd.read_csv(path, dtype=str)
    table[column] = wrong
    table.to_csv(path, index=False)
    done = command(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{column} of the window 2025-06-01T12:00:00Z is '{wrong}'" in done.stderr


def test_a_database_without_the_consumers_tables_is_said_in_one_sentence(tmp_path: Path) -> None:
    both_paths(tmp_path, "5")
    with sqlite3.connect(DataDir(tmp_path).database) as other:
        other.execute("CREATE TABLE something (else_ INTEGER)")
    done = command(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "has not the tables of this version" in done.stderr


def test_lines_that_were_cut_off_in_the_records_are_left_out(tmp_path: Path) -> None:
    both_paths(tmp_path, "5")
    data = DataDir(tmp_path)
    data.status.mkdir()
    whole = '2025-06-01T12:01:00Z,60.0,30.0,500,"{""rows"": 5}"'
    data.minutes_of("spark_processor").write_text(
        f"at,seconds,cpu_s,rss_mib,counters\n{whole}\n2025-06-01T12:02:00Z,60.0,3\n"
    )
    data.stream_latency.write_text(
        "window_start,leg,counts\n2025-06-01T12:00:00Z,open_to_final\n"
        '2025-06-01T12:00:00Z,open_to_final,"{""5"": 7}"\n'
    )
    written = tables.read_written(data)
    assert list(written.minutes["spark_processor"]["cpu_s"]) == [30.0]
    assert list(written.window_latencies["counts"]) == ['{"5": 7}']
    assert command(tmp_path).returncode == 0
