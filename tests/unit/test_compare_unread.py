"""Trades that Kafka deleted before the stream read them, in constructed topics."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline import times
from pipeline.compare import agreement, causes, database
from pipeline.compare.inputs import Evidence
from pipeline.compare.lateness import NOTHING_CONSUMED, Record
from pipeline.compare.unread import Reading, readings
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.outputs import WINDOW_COLUMNS
from pipeline.stores import sqlite
from pipeline.stream_offsets import OffsetRange, Start
from tests.unit import memory_store

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TOPIC = "topic"
LAST = "2025-06-01T13:00:00Z"


def trade(
    number: int, second: float, side: Literal["buy", "sell"] = "buy", size: str = "0.25"
) -> Trade:
    price = str(100 + Decimal(number) / 100)
    return Trade(number, price, None, None, side, NOON + timedelta(seconds=second), size)


def text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def windows(trades: Iterable[Trade]) -> dict[str, dict[str, str]]:
    """Return the windows of these trades, by their definitions."""
    by_minute: dict[datetime, list[Trade]] = {}
    for each in trades:
        by_minute.setdefault(each.time.replace(second=0, microsecond=0), []).append(each)
    found = {}
    for start, own in by_minute.items():
        prices, sizes = [Decimal(t.price) for t in own], [Decimal(t.last_size) for t in own]
        volume = sum(sizes)
        bought = sum(Decimal(t.last_size) for t in own if t.side == "buy")
        turnover = sum(price * size for price, size in zip(prices, sizes, strict=True))
        cells: dict[str, object] = {
            "window_start": text(start),
            "window_end": text(start + MINUTE),
            "avg_price": round(sum(prices) / len(own), 10),
            "max_price": max(prices),
            "min_price": min(prices),
            "price_range": max(prices) - min(prices),
            "total_volume": volume,
            "trade_count": len(own),
            "buy_count": sum(t.side == "buy" for t in own),
            "vwap": round(turnover / volume, 10),
            "volume_imbalance": round((2 * bought - volume) / volume, 10),
            "last_trade_time": times.time_text(max(t.time for t in own)),
        }
        found[text(start)] = dict.fromkeys(WINDOW_COLUMNS, "") | {
            name: str(value) for name, value in cells.items()
        }
    return found


@dataclass
class Folder:
    """A topic that the consumer has read as a whole, and checkpoints that each read a part."""

    trades: Sequence[Trade]
    polls: Sequence[int] = (7,)
    #: First offset, and the offset after the last one.
    parts: Sequence[tuple[int, int]] = ()

    def store(self, connection: sqlite.SqliteWriter) -> None:
        first = place = 0
        while first < len(self.trades):
            own = self.trades[first : first + self.polls[place % len(self.polls)]]
            last = first + len(own) - 1
            offsets = range(first, last + 1)
            batch = store.Batch(
                first, last, len(own), 0, NOON, NOON, own, (), TOPIC, tuple(offsets)
            )
            store.store(connection, batch, NOON, MINUTE)
            first, place = last + 1, place + 1

    @property
    def offset_ranges(self) -> list[OffsetRange]:
        return [
            OffsetRange(TOPIC, 60.0, 0, first, end, end, NOON - timedelta(hours=9), 0, f"c{number}")
            for number, (first, end) in enumerate(self.parts)
        ]

    @property
    def starts(self) -> list[Start]:
        ends = [0, *(end for _, end in self.parts)]
        return [
            Start(TOPIC, ends[number], first, f"c{number}")
            for number, (first, _) in enumerate(self.parts)
        ]

    def evidence(self) -> Evidence:
        starts = self.starts
        with closing(memory_store.open_writer()) as connection:
            self.store(connection)
            records = [Record(*row) for row in database.evidence(connection)]
            placed = [
                found
                for start in starts
                for found in database.placed_trades(connection, start, MINUTE, MINUTE)
            ]
        return Evidence(
            records,
            pd.DataFrame(columns=["trade_id", "time", "side", "price", "last_size"]),
            pd.DataFrame(columns=["first_trade_id", "last_trade_id", "filled", "after", "before"]),
            backfilled=frozenset(),
            rejected=frozenset(),
            offset_ranges=self.offset_ranges,
            reported={},
            consumed=NOTHING_CONSUMED,
            starts=starts,
            placed=placed,
            replaced={},
            stream_thresholds=(),
            batch_thresholds=(),
        )

    def published(self) -> dict[str, dict[str, str]]:
        """Return the version of each window with the most trades, or the later one."""
        shown: dict[str, dict[str, str]] = {}
        for first, end in self.parts:
            for start, row in windows(self.trades[first:end]).items():
                before = shown.get(start, row)
                shown[start] = max(row, before, key=lambda r: int(r["trade_count"]))
        return shown

    def causes(self, shown: dict[str, dict[str, str]]) -> dict[str, str]:
        """Return the causes of the windows that differ, by minute."""
        stream, batch = (
            pd.DataFrame([*rows.values()], columns=list(WINDOW_COLUMNS), dtype=str)
            for rows in (shown, windows(self.trades))
        )
        none = stream.head(0)
        found = agreement.agreement(stream, none, batch, LAST, self.evidence())
        differ = found[found["status"].isin(agreement.DIFFERENCES)]
        return dict(zip(differ["window_start"].str[11:16], differ["cause"], strict=True))


def steady(count: int, every_s: float = 5) -> list[Trade]:
    """Return trades in order, as a feed sends them. Some ids are missing."""
    return [
        trade(n + n // 7, n * every_s, "sell" if n % 3 else "buy", f"0.{n % 8 + 1}")
        for n in range(1, count + 1)
    ]


def test_every_window_with_a_deleted_record_has_that_cause() -> None:
    # 12 trades a minute; the first checkpoint ends in 12:02, the second one starts in 12:05.
    folder = Folder(steady(120), parts=[(0, 30), (65, 120)])
    found = folder.causes(folder.published())
    assert found == dict.fromkeys(["12:02", "12:03", "12:04", "12:05"], causes.DELETED)


def test_the_number_of_deleted_trades_is_counted() -> None:
    folder = Folder(steady(120), parts=[(0, 30), (65, 120)])
    stream, batch = (
        pd.DataFrame([*rows.values()], columns=list(WINDOW_COLUMNS), dtype=str)
        for rows in (folder.published(), windows(folder.trades))
    )
    evidence = folder.evidence()
    found = agreement.agreement(stream, stream.head(0), batch, LAST, evidence)
    assert found["deleted"].sum() == 65 - 30
    assert found["late"].sum() == found["unexplained"].sum() == 0


def test_records_deleted_before_the_first_start_of_the_stream_have_that_cause() -> None:
    folder = Folder(steady(60), parts=[(40, 60)])
    found = folder.causes(folder.published())
    assert found == dict.fromkeys(["12:00", "12:01", "12:02", "12:03"], causes.DELETED)


@pytest.mark.parametrize("change", ["a price", "a trade", "a volume"])
def test_another_difference_in_such_a_window_is_not_explained(change: str) -> None:
    folder = Folder(steady(120), parts=[(0, 30), (65, 120)])
    shown = folder.published()
    if change == "a trade":  # the stream has lost one that it could read
        less = [t for n, t in enumerate(folder.trades[:30]) if n != 25]
        shown["2025-06-01T12:02:00Z"] = windows(less)["2025-06-01T12:02:00Z"]
    else:
        name = {"a price": "avg_price", "a volume": "total_volume"}[change]
        row = shown["2025-06-01T12:02:00Z"]
        row[name] = str(Decimal(row[name]) + 1)
    found = folder.causes(shown)
    assert found.pop("12:02") == causes.UNEXPLAINED
    assert set(found.values()) == {causes.DELETED}


def test_a_window_that_a_later_checkpoint_read_completely_is_not_explained() -> None:
    folder = Folder(steady(120), parts=[(0, 30), (10, 120)])
    shown = folder.published()
    assert folder.causes(shown) == {}
    shown["2025-06-01T12:02:00Z"] = windows(folder.trades[:30])["2025-06-01T12:02:00Z"]
    assert folder.causes(shown) == {"12:02": causes.UNEXPLAINED}


def test_a_window_that_an_earlier_checkpoint_read_completely_is_not_explained() -> None:
    # The second checkpoint starts with the first record of 12:03. The row of 12:02 is lost.
    folder = Folder(steady(120), parts=[(0, 120), (35, 120)])
    shown = folder.published()
    assert folder.causes(shown) == {}
    del shown["2025-06-01T12:02:00Z"]
    assert folder.causes(shown) == {"12:02": causes.UNEXPLAINED}


def test_a_window_that_an_earlier_checkpoint_left_open_is_not_explained() -> None:
    # The first checkpoint ends with the last record of 12:02. The next one makes 12:02 final.
    folder = Folder(steady(120), parts=[(0, 35), (65, 120)])
    shown = folder.published()
    del shown["2025-06-01T12:02:00Z"]
    found = folder.causes(shown)
    assert found.pop("12:02") == causes.UNEXPLAINED
    assert found == dict.fromkeys(["12:03", "12:04", "12:05"], causes.DELETED)


def test_a_late_trade_that_a_later_checkpoint_dropped_was_not_deleted() -> None:
    # The first checkpoint made 12:03 final. Its trade came after that checkpoint, and Kafka had
    # deleted the other records of the window before the second one.
    trades = steady(140)
    late = trade(47, 3 * 60 + 22)  # a missing id
    folder = Folder([*trades[:110], late, *trades[110:]], parts=[(0, 100), (60, 141)])
    ranges = folder.offset_ranges
    dropping = replace(ranges[1], counted_from=60, first_offset=60, dropped=1, end_offset=111)
    after = replace(ranges[1], micro_batch=1, counted_from=111, first_offset=141)
    watermark = NOON + timedelta(minutes=8)
    evidence = replace(
        folder.evidence(),
        offset_ranges=[ranges[0], replace(dropping, first_offset=110, watermark=watermark), after],
    )
    stream, batch = (
        pd.DataFrame([*rows.values()], columns=list(WINDOW_COLUMNS), dtype=str)
        for rows in (windows(trades), windows(folder.trades))
    )
    found = agreement.agreement(stream, stream.head(0), batch, LAST, evidence)
    row = found.set_index("window_start").loc["2025-06-01T12:03:00Z"]
    assert (row["cause"], row["late"], row["deleted"]) == (causes.LATE, 1, 0)


def test_a_checkpoint_that_was_continued_after_another_one_is_the_newest() -> None:
    one, other = (
        OffsetRange(TOPIC, 60.0, 0, 0, end, end, NOON, 0, checkpoint)
        for end, checkpoint in ((30, "c0"), (50, "c1"))
    )
    again = replace(one, end_offset=60)
    found = readings([one, other, again], [])
    assert [(each.checkpoint, each.end, each.is_newest) for each in found] == [
        ("c1", 50, False),
        ("c0", 60, True),
    ]


def test_only_trades_of_complete_windows_are_placed() -> None:
    """A recovered trade has a low id, so many other trades have an id between those of its poll."""
    live = steady(240)
    recovered = trade(7, 36.5)  # one of the missing ids
    folder = Folder([*live[:125], recovered, *live[125:]], polls=[5], parts=[(0, 60), (127, 241)])
    evidence = folder.evidence()
    (placed,) = evidence.placed
    outside = [t.time for t in placed.trades if not placed.since <= t.time < placed.until]
    assert outside == []


def test_the_offsets_of_a_poll_with_a_late_trade_are_a_range() -> None:
    """The late trade has the least id of its poll and the last offset."""
    late = trade(7, 36.5)
    trades = [*steady(118), *(trade(300 + n, 600 + n) for n in (1, 2)), late]
    folder = Folder(trades, polls=[118, 3], parts=[(0, 60), (120, 121)])
    (placed,) = folder.evidence().placed
    found = {t.trade_id: (t.first_offset, t.last_offset) for t in placed.trades}
    assert late.trade_id not in found
    assert found[301] == found[302] == (118, 120)


def test_nothing_is_placed_if_the_consumer_read_the_topic_twice() -> None:
    """After a power cut of the broker's host, new records can have the offsets of lost ones."""
    folder = Folder(steady(120), parts=[(0, 30), (65, 120)])
    with closing(memory_store.open_writer()) as connection:
        folder.store(connection)
        first, second = folder.starts
        assert database.placed_trades(connection, second, MINUTE, MINUTE)
        folder.store(connection)
        assert database.placed_trades(connection, second, MINUTE, MINUTE) == []
        assert database.placed_trades(connection, first, MINUTE, MINUTE) == []


@pytest.mark.parametrize("number", [1, 6, 8])
def test_nothing_is_placed_if_a_transaction_around_the_start_was_deleted(number: int) -> None:
    """Retention can have deleted it before the checkpoint began."""
    folder = Folder(steady(120), polls=[10], parts=[(0, 30), (65, 120)])
    with closing(memory_store.open_writer()) as connection:
        folder.store(connection)
        start = folder.starts[1]
        (placed,) = database.placed_trades(connection, start, MINUTE, MINUTE)
        assert len(placed.trades) >= 65 - 30
        if number > 1:
            connection.execute("DELETE FROM ingest WHERE number = ?", (number,))
        else:  # all up to the end of the range
            connection.execute("DELETE FROM ingest WHERE number < 10")
        assert database.placed_trades(connection, start, MINUTE, MINUTE) == []


def test_without_the_start_of_the_checkpoint_nothing_is_proved() -> None:
    folder = Folder(steady(120), parts=[(0, 30), (65, 120)])
    evidence = replace(folder.evidence(), starts=folder.starts[:1])
    stream, batch = (
        pd.DataFrame([*rows.values()], columns=list(WINDOW_COLUMNS), dtype=str)
        for rows in (folder.published(), windows(folder.trades))
    )
    found = agreement.agreement(stream, stream.head(0), batch, LAST, evidence)
    assert not found["cause"].str.contains(causes.DELETED).any()


def test_a_range_of_offsets_at_a_bound_is_unknown() -> None:
    reading = Reading("c", TOPIC, start=10, end=20)
    assert [reading.never_reads(*each) for each in ((0, 9), (20, 25), (10, 19))] == [1, 1, 0]
    assert [reading.never_reads(*each) for each in ((9, 10), (19, 20), (5, 25))] == [None] * 3
    newest = replace(reading, is_newest=True)
    assert newest.never_reads(19, 25) is False
    without_start = replace(reading, start=None)
    assert [without_start.never_reads(*each) for each in ((0, 0), (10, 19))] == [None, None]
    assert without_start.never_reads(20, 20) is True


#: Steps between trades, polls of the consumer, and three bounds of two checkpoints.
gaps = st.lists(st.sampled_from([0.0, 0.5, 7.0, 20.0, 61.0]), min_size=20, max_size=60)
polls = st.lists(st.integers(1, 9), min_size=1, max_size=5)


@settings(max_examples=30, deadline=None)
@given(gaps, polls, st.lists(st.integers(0, 60), min_size=3, max_size=3))
def test_whatever_was_deleted_every_difference_is_explained_by_it(
    steps: list[float],
    polled: list[int],
    bounds: list[int],
) -> None:
    moment, trades = 0.0, []
    for number, step in enumerate(steps, 1):
        moment += step
        trades.append(trade(number * 2, moment, "sell" if number % 3 else "buy"))
    end, start, first = sorted(min(bound, len(trades) - 1) for bound in bounds)
    folder = Folder(trades, polled, parts=[(0, end), (max(start, first), len(trades))])
    shown = folder.published()
    incomplete = {
        start[11:16]
        for start, row in windows(trades).items()
        if shown.get(start) != row and start <= max(shown)
    }
    assert folder.causes(shown) == dict.fromkeys(incomplete, causes.DELETED)


@settings(max_examples=60, deadline=None)
@given(gaps, polls, st.lists(st.integers(0, 60), min_size=4, max_size=4), st.data())
def test_a_fault_in_a_window_that_the_stream_had_read_is_never_called_deleted(
    steps: list[float], polled: list[int], bounds: list[int], data: st.DataObject
) -> None:
    moment, trades = 0.0, []
    for number, step in enumerate(steps, 1):
        moment += step
        trades.append(trade(number * 2, moment, "sell" if number % 3 else "buy"))
    first, end, start, other = (bound % len(trades) for bound in bounds)
    parts = [(min(first, end), max(first, end) + 1), (start, len(trades)), (other, len(trades))]
    folder = Folder(trades, polled, parts)
    shown, whole = folder.published(), windows(trades)
    start_of = data.draw(st.sampled_from(sorted(whole)))
    assume(shown.get(start_of) == whole[start_of] and start_of < max(shown))
    own = [each for each in trades if [*windows([each])] == [start_of]]
    kept = data.draw(st.lists(st.sampled_from(own), unique=True, max_size=len(own) - 1))
    shown.pop(start_of)
    shown |= windows(sorted(kept, key=lambda each: each.trade_id))
    assert causes.DELETED not in folder.causes(shown)[start_of[11:16]]
