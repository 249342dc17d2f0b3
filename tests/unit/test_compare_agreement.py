"""Whether the paths agree in each window, and the causes of differences, in constructed cases."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare import agreement, causes
from pipeline.compare.inputs import Evidence
from pipeline.compare.lateness import NOTHING_CONSUMED, ConsumedOffsets, Record
from pipeline.ingest.store import CONFLICT, STORED
from pipeline.outputs import (
    WINDOW_COLUMNS,
)
from pipeline.stream_offsets import OffsetRange
from pipeline.thresholds import Period, Thresholds

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
LAST = "2025-06-01T13:00:00Z"


def seconds(count: float) -> datetime:
    return NOON + timedelta(seconds=count)


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
    none: dict[str, Any] = {
        "records": [],
        "after_snapshot": trades(),
        "gaps": gaps(),
        "backfilled": frozenset(),
        "rejected": frozenset(),
        "offset_ranges": (),
        "reported": {},
        "consumed": NOTHING_CONSUMED,
        "starts": (),
        "placed": (),
        "replaced": {},
        "stream_thresholds": (),
        "batch_thresholds": (),
    }
    return Evidence(**none | frames)


def statuses(
    final: pd.DataFrame, still_open: pd.DataFrame, batch: pd.DataFrame, newest: str | None
) -> list[str]:
    return list(agreement.agreement(final, still_open, batch, newest, evidence())["status"])


def test_each_status_in_a_constructed_case() -> None:
    final = frame(window(0), window(1), window(2), window(5))
    still_open = frame(window(6))
    batch = frame(window(0), window(1, trade_count="6"), window(3), window(6))
    found = agreement.agreement(final, still_open, batch, "2025-06-01T12:04:30Z", evidence())
    assert list(found["status"]) == [
        agreement.EQUAL,
        agreement.DIFFERS,
        agreement.ONLY_STREAM,
        agreement.ONLY_BATCH,
        agreement.NOT_YET_IN_A_BATCH,
        agreement.NOT_YET_FINAL,
    ]
    assert list(found["columns"]) == ["", "trade_count", "", "", "", ""]


def test_a_window_that_the_stream_has_not_reached_is_not_yet_final() -> None:
    batch = frame(window(0), window(1))
    assert statuses(frame(), frame(), batch, LAST) == [agreement.NOT_YET_FINAL] * 2
    assert statuses(frame(window(0)), frame(), batch, LAST) == [
        agreement.EQUAL,
        agreement.NOT_YET_FINAL,
    ]


def test_a_run_whose_newest_trade_lies_in_the_second_after_a_window_covers_it() -> None:
    final, batch = frame(window(0)), frame(window(0, trade_count="2"))
    assert statuses(final, frame(), batch, "2025-06-01T12:01:00.400000Z") == [agreement.DIFFERS]


def test_a_window_that_the_run_saw_in_part_is_not_yet_in_a_batch() -> None:
    final, batch = frame(window(0)), frame(window(0, trade_count="2"))
    assert statuses(final, frame(), batch, "2025-06-01T12:00:30Z") == [agreement.NOT_YET_IN_A_BATCH]
    assert statuses(final, frame(), batch, "2025-06-01T12:01:00Z") == [agreement.DIFFERS]


def test_time_of_receipt_and_of_writing_are_no_difference() -> None:
    final = frame(window(0, written_at="a", last_receipt_time="b"))
    assert statuses(final, frame(), frame(window(0)), "2025-06-01T13:00:00Z") == [agreement.EQUAL]


def test_without_anything_there_is_nothing_to_compare() -> None:
    assert statuses(frame(), frame(), frame(), None) == []


# --- causes ---------------------------------------------------------------------------------


Trade = tuple[int, float, str, float]
TOPIC, CHECKPOINT = "topic", "checkpoint"


def read_by(
    dropped: Sequence[Trade] = (),
    kept: Sequence[Trade] = (),
    doubled: Sequence[Trade] = (),
    duplicates: Sequence[Trade] = (),
) -> dict[str, Any]:
    """Evidence of late trades that the stream dropped or kept, and of conflicting duplicates.

    Each record is read by a micro-batch of its own, whose watermark decides as it should:
    `doubled` ones come just when Spark has forgotten the stored trade, of 61 s before.
    """
    records: list[Record] = []
    offset_ranges: list[OffsetRange] = []
    kinds = {STORED: (*dropped, *kept), CONFLICT: (*doubled, *duplicates)}
    for kind, rows in kinds.items():
        for number, at, side, size in rows:
            offset = len(records)
            price = float(100 + Decimal(number) / 100)
            stored = stored_time(at - 61 if kind == CONFLICT else at)
            record = Record(TOPIC, offset, number, stored_time(at), side, price, size, kind, stored)
            forgotten = (number, at, side, size) in doubled
            watermark = at if offset < len(dropped) else at - 1 if forgotten else at - 2
            offset_ranges.append(judged_alone(offset, watermark))
            records.append(record)
    return {"records": records, "offset_ranges": offset_ranges}


def judged_alone(offset: int, watermark: float, dropped: int | None = None) -> OffsetRange:
    return OffsetRange(
        topic=TOPIC,
        delay_s=60.0,
        micro_batch=offset,
        counted_from=offset,
        first_offset=offset,
        end_offset=offset + 1,
        watermark=seconds(watermark),
        dropped=dropped,
        checkpoint=CHECKPOINT,
    )


def judged_cause(
    stream: dict[str, str] | None, batch: dict[str, str] | None, **frames: Any
) -> pd.Series:
    # A later minute, which both have: the stream has come past the one in question.
    final, batched = (frame(*([row] if row else []), window(5)) for row in (stream, batch))
    found = agreement.agreement(final, frame(), batched, LAST, evidence(**frames))
    assert list(found["status"][1:]) == [agreement.EQUAL]
    assert found["status"][0] != agreement.EQUAL
    return found.iloc[0]


def cause(stream: dict[str, str] | None, batch: dict[str, str] | None, **frames: Any) -> str:
    return str(judged_cause(stream, batch, **frames)["cause"])


def period(minute: int, *limits: str) -> Period:
    return Period(seconds(60 * minute), Thresholds(*map(Decimal, limits)))


def flagged(written: int, **flags: str) -> dict[str, str]:
    """A window with a range of 55, 3 buys, 2 sells and a volume of 1.5, written at this minute."""
    at = f"{seconds(60 * written):%Y-%m-%dT%H:%M:%SZ}"
    of_all = {"volatility_flag": "High", "market_sentiment": "Bullish", "volume_spike": "Normal"}
    cells = {"price_range": "55", "sell_count": "2", "written_at": at}
    return window(0, **cells, **of_all | flags)


def test_flags_that_follow_from_recorded_thresholds_are_no_unknown_difference() -> None:
    default, other = ("50", "1.2", "100"), ("60", "1.2", "1")
    record = {
        "stream_thresholds": [period(0, *default), period(20, *other)],
        "batch_thresholds": [period(0, *default), period(30, *other)],
    }
    batch = flagged(40, volatility_flag="Normal", volume_spike="Spike")
    assert cause(flagged(5), batch, **record) == (
        f"{causes.THRESHOLDS}: VOLATILITY_RANGE=50, SPIKE_VOLUME=100"
    )
    # Computed again after the change, but with the time of its first version; the batch later.
    again = flagged(5, volatility_flag="Normal", volume_spike="Spike")
    assert cause(again, flagged(25), **record) == (
        f"{causes.THRESHOLDS}: VOLATILITY_RANGE=60, SPIKE_VOLUME=1"
    )


def test_a_window_whose_trades_are_in_two_topics_has_that_cause() -> None:
    prices = {"max_price": "110", "min_price": "90"}
    stream, batch = window(0, **prices), window(0, trade_count="7", buy_count="4", **prices)
    part = {"window_start": stream["window_start"], "trade_count": "2", "buy_count": "1"}
    part |= {"total_volume": "0.25", "max_price": "105", "min_price": "91"}
    batch["total_volume"] = "1.75"
    replaced = {stream["window_start"]: [part | {"trade_count": "1"}, part]}
    assert cause(stream, batch, replaced=replaced) == causes.TWO_TOPICS
    assert cause(stream, batch) == causes.UNEXPLAINED
    for wrong in ({"buy_count": "2"}, {"total_volume": "0.3"}, {"max_price": "111"}):
        others = {stream["window_start"]: [part | wrong]}
        assert cause(stream, batch, replaced=others) == causes.UNEXPLAINED


def test_flags_that_do_not_follow_from_any_recorded_thresholds_have_no_known_cause() -> None:
    record = {
        "stream_thresholds": [period(0, "50", "1.2", "100")],
        "batch_thresholds": [period(0, "60", "1.2", "100")],
    }
    batch = flagged(40, volatility_flag="Normal")
    assert cause(flagged(5), batch, **record).startswith(causes.THRESHOLDS)
    assert cause(flagged(5), batch) == causes.UNEXPLAINED
    wrong = flagged(5, volume_spike="Spike")
    assert cause(wrong, batch, **record) == causes.UNEXPLAINED
    assert cause(flagged(5), batch | {"avg_price": "7"}, **record) == causes.UNEXPLAINED


def test_a_late_trade_that_accounts_for_all_of_the_difference_is_its_cause() -> None:
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    dropped = (7, 30.5, "buy", 0.25)
    assert cause(stream, batch, **read_by([dropped])) == causes.LATE
    elsewhere = (7, 60, "buy", 0.25)
    assert cause(stream, batch, **read_by([elsewhere])) == causes.UNEXPLAINED
    other = (7, 30.5, "sell", 0.25)
    assert cause(stream, batch, **read_by([other])) == causes.UNEXPLAINED
    assert cause(stream, batch) == causes.UNEXPLAINED


def test_a_late_trade_is_no_cause_of_a_flag_that_follows_from_no_recorded_thresholds() -> None:
    default = [period(0, "50", "1.2", "100")]
    record: dict[str, Any] = {"stream_thresholds": default, "batch_thresholds": default}
    batch = flagged(5) | {"trade_count": "6", "buy_count": "4", "total_volume": "1.75"}
    dropped = (7, 30.5, "buy", 0.25)
    assert cause(flagged(5), batch, **read_by([dropped]), **record) == causes.LATE
    for flag in ("volatility_flag", "market_sentiment", "volume_spike"):
        wrong = {flag: "Bearish" if flag == "market_sentiment" else "Other"}
        for one, other in ((flagged(5) | wrong, batch), (flagged(5), batch | wrong)):
            assert cause(one, other, **read_by([dropped]), **record) == causes.UNEXPLAINED
            assert cause(one, other, **read_by([dropped])) == causes.LATE  # no record


def test_a_late_trade_that_the_stream_counted_is_no_cause_though_it_would_account_for_all() -> None:
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    assert cause(stream, batch, **read_by(kept=[(7, 30.5, "buy", 0.25)])) == causes.UNEXPLAINED


def test_late_trades_that_were_counted_all_the_same_do_not_hide_the_dropped_one() -> None:
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    kept = [(6, 10, "buy", 0.125), (8, 31, "sell", 0.5)]
    assert cause(stream, batch, **read_by([(7, 30.5, "buy", 0.25)], kept)) == causes.LATE


def test_a_window_of_late_trades_alone_is_only_in_the_batch() -> None:
    batch = window(0, trade_count="2", buy_count="1", total_volume="0.3")
    dropped: list[Trade] = [(7, 1, "buy", 0.1), (8, 2, "sell", 0.2)]
    assert cause(None, batch, **read_by(dropped)) == causes.LATE


def test_a_trade_that_fills_a_gap_too_late_is_recovered() -> None:
    stream, batch = window(0), window(0, trade_count="6", total_volume="1.75")
    dropped = read_by([(7, 30.5, "sell", 0.25)])
    assert cause(stream, batch, **dropped, backfilled=frozenset({7})) == causes.BACKFILLED
    assert cause(stream, batch, **dropped, backfilled=frozenset({8})) == causes.LATE


def test_what_was_stored_after_the_snapshot_is_not_in_the_batch() -> None:
    batch = window(0, trade_count="4", buy_count="2", total_volume="1.25")
    after = trades((9, 59.5, "buy", 0.25))
    assert cause(window(0), batch, after_snapshot=after) == causes.AFTER_SNAPSHOT
    whole = trades(*((n, n, "buy" if n < 3 else "sell", 0.3) for n in range(5)))
    assert cause(window(0), None, after_snapshot=whole) == causes.AFTER_SNAPSHOT


def test_a_duplicate_that_the_stream_had_forgotten_counts_twice_there() -> None:
    stream = window(0, trade_count="6", buy_count="3", total_volume="2")
    again = (3, 12, "sell", 0.5)
    found = judged_cause(stream, window(0), **read_by(doubled=[again]))
    assert (found["cause"], found["doubled"]) == (causes.CONFLICT, 1)
    assert cause(stream, window(0), **read_by(duplicates=[again])) == causes.UNEXPLAINED


def test_several_causes_are_all_named() -> None:
    stream = window(0, trade_count="6", buy_count="3", total_volume="2")
    batch = window(0, trade_count="6", buy_count="4", total_volume="1.75")
    noted = read_by([(7, 1, "buy", 0.25)], doubled=[(3, 12, "sell", 0.5)])
    found = cause(stream, batch, **noted)
    assert set(found.split("; ")) == {causes.LATE, causes.CONFLICT}


def test_a_late_trade_that_the_stream_kept_may_be_stored_after_the_snapshot() -> None:
    both = (7, 30.5, "buy", 0.25)
    stream = window(0, trade_count="6", buy_count="4", total_volume="1.75")
    noted = read_by(kept=[both]) | {"after_snapshot": trades(both)}
    assert cause(stream, window(0), **noted) == causes.AFTER_SNAPSHOT


def test_a_difference_that_unrecorded_evidence_can_explain_is_not_called_unknown() -> None:
    """Late trades that the consumer recorded before schema version 3 have no offset."""
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    old = read_by([(7, 30.5, "buy", 0.25)])
    (record,) = old["records"]
    unplaced = {"records": [replace(record, topic=None, offset=None)]}
    assert cause(stream, batch, **unplaced) == causes.NOT_RECORDED
    assert (
        cause(stream, batch, **unplaced, offset_ranges=old["offset_ranges"]) == causes.NOT_RECORDED
    )
    for wrong in ({"trade_count": "7"}, {"buy_count": "5"}, {"total_volume": "1.8"}):
        assert cause(stream, batch | wrong, **unplaced) == causes.UNEXPLAINED
    assert cause(stream, stream | {"vwap": "7"}, **unplaced) == causes.UNEXPLAINED
    assert cause(stream, batch | {"trade_count": "4"}, **unplaced) == causes.UNEXPLAINED
    before = [replace(old["offset_ranges"][0], counted_from=5, first_offset=5, end_offset=6)]
    assert cause(stream, batch, records=[record], offset_ranges=before) == causes.NOT_RECORDED


def test_a_window_may_come_from_any_checkpoint() -> None:
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    noted = read_by([(7, 30.5, "buy", 0.25)])
    (first,) = noted["offset_ranges"]
    second = replace(first, checkpoint="another", watermark=seconds(0))
    for offset_ranges in ([first, second], [second, first]):
        found = cause(stream, batch, records=noted["records"], offset_ranges=offset_ranges)
        assert found == causes.LATE


def test_evidence_that_contradicts_the_reports_of_the_stream_is_no_proof() -> None:
    """Spark reports how many records a micro-batch dropped as late; the stream, how many at all."""
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    noted = read_by([(7, 30.5, "buy", 0.25)])
    known = noted | {"consumed": ConsumedOffsets(TOPIC, 0, 1)}
    assert cause(stream, batch, **known, reported={0: (1, 1)}) == causes.LATE
    assert cause(stream, batch, **known, reported={0: (1, 0)}) == causes.UNEXPLAINED
    # Another micro-batch with this number, or records that the consumer has not read yet.
    assert cause(stream, batch, **known, reported={0: (5, 0)}) == causes.LATE
    assert cause(stream, batch, **noted, reported={0: (1, 0)}) == causes.LATE
    for dropped, expected in ((1, causes.LATE), (0, causes.UNEXPLAINED)):
        offset_ranges = [judged_alone(0, 30.5, dropped)]
        found = cause(stream, batch, records=noted["records"], offset_ranges=offset_ranges)
        assert found == expected


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
    noted = read_by(by_kind["l"], by_kind["k"], doubled=repeats)
    noted["after_snapshot"] = trades(*by_kind["a"])
    stream, batch = (window_of(*own) if own else None for own in (in_stream, in_batch))
    if stream == batch:
        return
    expected = {
        name
        for name, own in (
            (causes.LATE, by_kind["l"]),
            (causes.AFTER_SNAPSHOT, by_kind["a"]),
            (causes.CONFLICT, repeats),
        )
        if own
    }
    assert set(cause(stream, batch, **noted).split("; ")) == expected
    if stream:
        name = data.draw(st.sampled_from(["max_price", "min_price", "avg_price", "vwap"]))
        wrong = stream | {name: str(Decimal(stream[name]) + Decimal("1234.5"))}
        assert cause(wrong, batch, **noted) == causes.UNEXPLAINED


def test_500_late_trades_of_which_any_were_dropped_are_explained_in_under_a_second() -> None:
    """Almost all of them are equal, so the sums of a window do not show which ones are missing."""
    rng = np.random.default_rng(4)
    rows: list[Trade] = [(n, n / 10, "buy", 0.001) for n in range(1, 501)]
    dropped = [row for row in rows if rng.random() < 0.5]
    kept = [row for row in rows if row not in dropped]
    noted = read_by(dropped, kept)
    began = time.monotonic()
    found = judged_cause(window_of(*kept), window_of(*rows), **noted)
    assert time.monotonic() - began < 1
    assert (found["cause"], found["late"]) == (causes.LATE, len(dropped))
    one_less = [*kept, dropped[0]]
    assert cause(window_of(*one_less), window_of(*rows), **noted) == causes.UNEXPLAINED


def test_a_wrong_derived_column_has_no_known_cause_although_a_late_trade_is_proved() -> None:
    rows: list[Trade] = [(1, 1, "buy", 0.5), (2, 2, "sell", 0.25), (3, 3, "buy", 0.125)]
    stream, batch = window_of(*rows[:2]), window_of(*rows)
    late = read_by([rows[2]])
    assert cause(stream, batch, **late) == causes.LATE
    for wrong in ({"sell_count": "2"}, {"sell_count": "1", "buy_sell_ratio": "123"}):
        assert cause(stream | wrong, batch, **late) == causes.UNEXPLAINED


def test_a_gap_between_trades_out_of_order_belongs_to_their_windows() -> None:
    windows = frame(window(0), window(1))
    found = agreement.agreement(
        windows, frame(), windows, LAST, evidence(gaps=gaps((5, 5, False, 60.2, 59.9)))
    )
    assert list(found["cause"]) == [causes.GAP] * 2


def test_windows_next_to_missing_ids_are_marked_although_both_paths_agree() -> None:
    windows = frame(window(0), window(1), window(2))
    missing = gaps((5, 7, False, 30, 61), (20, 20, True, 5, 6))
    found = agreement.agreement(windows, frame(), windows, LAST, evidence(gaps=missing))
    assert list(found["status"]) == [agreement.EQUAL] * 3
    assert list(found["cause"]) == [causes.GAP, causes.GAP, ""]
    assert list(found["missing"]) == [3, 3, 0]


def test_ids_in_rejected_messages_and_ids_that_never_arrived_have_different_causes() -> None:
    windows = frame(window(0), window(1), window(2))
    missing = gaps((5, 7, False, 30, 31), (20, 20, False, 70, 71), (25, 25, False, 130, 131))
    refused = frozenset({6, 20, 99})
    noted = evidence(gaps=missing, rejected=refused)
    found = agreement.agreement(windows, frame(), windows, LAST, noted)
    both = f"{causes.GAP}; {causes.REJECTED}"
    assert list(found["cause"]) == [both, causes.REJECTED, causes.GAP]
    assert list(found["missing"]) == [3, 1, 1]


def test_a_window_that_differs_and_lacks_ids_has_both_causes() -> None:
    stream, batch = window(0), window(0, trade_count="6", buy_count="4", total_volume="1.75")
    dropped = read_by([(7, 30.5, "buy", 0.25)])
    missing = gaps((5, 6, False, 30, 31))
    found = cause(stream, batch, **dropped, gaps=missing)
    assert found == f"{causes.LATE}; {causes.GAP}"
    assert cause(stream, batch, gaps=missing) == f"{causes.UNEXPLAINED}; {causes.GAP}"
