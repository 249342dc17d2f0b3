"""How far trades come behind the newest event time: exact, however the topic is read."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest import lags, store
from pipeline.ingest.lags import LONGEST, MICRO_BATCHES, NEWEST, NOT_BEHIND, Position
from pipeline.ingest.trade import Trade
from pipeline.stores import common_queries, sqlite
from pipeline.times import minute_text
from tests.unit import memory_store
from tests.unit.test_store import write_version

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def lags_of(arrivals: Sequence[tuple[float, float]], interval: float = 1) -> dict[str, list[int]]:
    """Return the sorted buckets of trades, given as seconds of event time and of receipt."""
    counts, _ = lags.count_lags(
        [(at(time), at(received), True) for time, received in arrivals],
        Position(),
        timedelta(seconds=interval),
    )
    found: dict[str, list[int]] = {NEWEST: [], MICRO_BATCHES: []}
    for (_, kind, bucket), count in counts.items():
        found[kind] += [bucket] * count
    return {kind: sorted(buckets) for kind, buckets in found.items()}


def test_a_bucket_includes_its_whole_second_and_excludes_the_next() -> None:
    """So the number of trades at least w seconds behind is exact for each whole w."""
    trades = [100, 100, 99.000001, 99, 98.000001, 98, 100.5]
    assert lags_of([(time, 100) for time in trades])[NEWEST] == [-1, -1, 0, 0, 1, 1, 2]
    assert lags.bucket(timedelta(seconds=LONGEST, microseconds=-1)) == LONGEST - 1
    assert lags.bucket(timedelta(seconds=LONGEST)) == lags.bucket(timedelta(days=9)) == LONGEST


def test_the_second_lag_counts_from_the_micro_batches_before_the_previous_one() -> None:
    #: The event at 100 is received at 100.2. Micro-batches begin at whole seconds.
    for received, behind in ((100.9, NOT_BEHIND), (101.9, NOT_BEHIND), (102, 10), (109, 10)):
        arrivals = [(100, 100.2), (100.1, 101), (90, received)]
        found = lags_of(arrivals if received >= 101 else [arrivals[0], arrivals[2]])
        assert found[MICRO_BATCHES][-1] == behind, received
        assert found[NEWEST][-1] == 10
    # An idle stream advances its watermark in one empty micro-batch.
    assert lags_of([(100, 100.2), (90, 101.9)])[MICRO_BATCHES] == [NOT_BEHIND, NOT_BEHIND]
    assert lags_of([(100, 100.2), (90, 102)])[MICRO_BATCHES] == [NOT_BEHIND, 10]


def test_a_clock_that_is_set_back_does_not_change_the_lags() -> None:
    """Every seventh trade is 10 s late."""
    steady = [(n / 2 - (10 if n % 7 == 0 else 0), n / 2) for n in range(400)]
    for back in (2, 300):
        stepped = [(time, received - back * (received >= 60)) for time, received in steady]
        assert lags_of(stepped) == lags_of(steady), back


TRADES = st.lists(
    st.tuples(
        st.integers(0, 400),  # event time, quarters of a second
        # Since the receipt of the trade before, quarters of a second. Some clocks are set back.
        st.integers(0, 9) | st.integers(0, 9) | st.sampled_from([-1, -20, -300]),
        st.booleans(),  # backfilled
        st.integers(1, 20),  # id: many are repeated
    ),
    max_size=40,
)


@settings(max_examples=40)
@given(TRADES, st.sampled_from([0.5, 1, 2.5]))
def test_lags_are_those_of_a_direct_computation(
    made: list[tuple[int, int, bool, int]], interval: float
) -> None:
    arrivals = made_arrivals(made)
    counts, _ = lags.count_lags(arrivals, Position(), timedelta(seconds=interval))
    assert counts == directly(arrivals, interval)


def made_arrivals(
    made: list[tuple[int, int, bool, int]],
) -> list[tuple[datetime, datetime | None, bool]]:
    moment, arrivals = NOON, []
    seen: set[int] = set()
    for quarters, pause, backfilled, trade_id in made:
        moment += pause * SECOND / 4
        arrivals.append((at(quarters / 4), None if backfilled else moment, trade_id not in seen))
        seen.add(trade_id)
    return arrivals


def directly(
    arrivals: list[tuple[datetime, datetime | None, bool]], interval: float
) -> Counter[tuple[datetime, str, int]]:
    """Compute the lags by their definition: compare each trade with all trades before it."""
    # The micro-batch of each trade. Backfilled trades are in that of the trade before them. When
    # the clock is set back, a new micro-batch begins.
    numbers: list[int] = []
    number = 0
    newest_interval: int | None = None
    for _, received, _ in arrivals:
        if received is not None:
            received_in = int((received - NOON).total_seconds() // interval)
            if newest_interval is not None and received_in != newest_interval:
                number += max(1, received_in - newest_interval)
            newest_interval = received_in
        numbers.append(number)
    counts: Counter[tuple[datetime, str, int]] = Counter()
    for place, (time, received, is_counted) in enumerate(arrivals):
        if received is None or not is_counted:
            continue
        before = [(other, number) for (other, *_), number in zip(arrivals, numbers, strict=True)]
        earlier = [time for time, number in before[:place] if number <= numbers[place] - 2]
        for kind, times in (
            (NEWEST, [other for other, _ in before[:place]]),
            (MICRO_BATCHES, earlier),
        ):
            late = max(times, default=datetime.min.replace(tzinfo=UTC)) - time
            bucket = min(late // SECOND, LONGEST) if late >= timedelta() else NOT_BEHIND
            counts[received.replace(second=0, microsecond=0), kind, bucket] += 1
    return counts


# --- in the database ------------------------------------------------------------------------


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite.SqliteWriter]:
    with closing(sqlite.open_writer(tmp_path / "crypto_prices.db")) as writer:
        writer.execute("PRAGMA synchronous = OFF")
        yield writer


def put(
    connection: sqlite.SqliteWriter,
    records: Sequence[tuple[int, datetime, datetime | None]],
    offset: int,
    topic: str = "topic",
) -> None:
    """Store records: id, event time and time of receipt."""
    trades = [Trade(n, "100.5", None, None, "buy", moment, "0.25") for n, moment, _ in records]
    receipts = [received for _, _, received in records]
    offsets = range(offset, offset + len(records))
    batch = store.Batch(
        offset, offsets[-1], len(records), 0, NOON, NOON, trades, receipts, topic, offsets
    )
    store.store(connection, batch, NOON)


def stored(connection: sqlite.SqliteWriter) -> list[tuple[str, str, int, int]]:
    return connection.execute("SELECT * FROM lags ORDER BY 1, 2, 3").fetchall()


@settings(max_examples=40)
@given(TRADES, st.lists(st.integers(1, 7), min_size=40, max_size=40))
def test_the_counts_do_not_depend_on_transactions_repeats_or_a_second_reading(
    made: list[tuple[int, int, bool, int]], sizes: list[int]
) -> None:
    arrivals = made_arrivals(made)
    records = [
        (trade_id, time, received)
        for (*_, trade_id), (time, received, _) in zip(made, arrivals, strict=True)
    ]
    with closing(memory_store.open_writer()) as connection:
        place = 0
        for size in sizes:
            if records[place : place + size]:
                put(connection, records[place : place + size], place)
            place += size
        expected = Counter(
            {(minute_text(key[0]), *key[1:]): n for key, n in directly(arrivals, 1).items()}
        )
        assert {row[:3]: row[3] for row in stored(connection)} == expected
        before = stored(connection)
        for offset in range(0, len(records), 5):  # from the beginning of the topic
            put(connection, records[offset : offset + 5], offset)
        assert stored(connection) == before


def test_a_transaction_that_fails_counts_nothing(connection: sqlite.SqliteWriter) -> None:
    records: list[tuple[int, datetime, datetime | None]] = [
        (1, at(10), at(10)),
        (2, at(5), at(12)),
    ]
    put(connection, records[:1], 0)
    connection.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON ingest BEGIN SELECT raise(ABORT, 'full'); END"
    )
    before = stored(connection), connection.execute("SELECT * FROM lag_position").fetchall()
    with pytest.raises(sqlite3.IntegrityError, match="full"):
        put(connection, records[1:], 1)
    after = stored(connection), connection.execute("SELECT * FROM lag_position").fetchall()
    assert after == before
    connection.execute("DROP TRIGGER full")
    put(connection, records[1:], 1)
    assert [row[1:] for row in stored(connection)] == [
        (MICRO_BATCHES, NOT_BEHIND, 1),
        (MICRO_BATCHES, 5, 1),
        (NEWEST, NOT_BEHIND, 1),
        (NEWEST, 5, 1),
    ]


def test_a_new_topic_starts_without_a_newest_event_time(connection: sqlite.SqliteWriter) -> None:
    put(connection, [(1, at(100), at(100)), (2, at(101), at(104))], 0)
    put(connection, [(3, at(10), at(106)), (4, at(9), at(110))], 0, topic="other")
    assert [row[2:] for row in stored(connection) if row[1] == NEWEST] == [(NOT_BEHIND, 3), (1, 1)]


def test_a_database_of_version_4_counts_lags_from_its_conversion_on(tmp_path: Path) -> None:
    path = tmp_path / "data" / "crypto_prices.db"
    write_version(4, path)
    with closing(sqlite.open_reader(path)) as reader:
        assert reader.execute("SELECT minute, behind, bucket, count FROM lags").fetchall() == []
    with closing(sqlite.open_writer(path)) as writer:
        assert common_queries.total_rows(writer) == 3
        # The newest trade was 100 s after five o'clock.
        five = datetime(2025, 12, 2, 5, tzinfo=UTC)
        records = [(4, five + 90 * SECOND, five + 110 * SECOND)]
        put(writer, records, 3, "one")
        assert [row[1:] for row in stored(writer)] == [
            (MICRO_BATCHES, NOT_BEHIND, 1),
            (NEWEST, 10, 1),
        ]
