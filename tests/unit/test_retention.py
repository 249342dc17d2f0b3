"""What retention deletes, and that the comparison counts the same afterwards."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import outputs, stream_offsets, text_files, times
from pipeline.batch.retention import expired
from pipeline.compare import causes
from pipeline.compare.__main__ import as_json
from pipeline.compare.comparison import compare
from pipeline.compare.inputs import read_outputs
from pipeline.data_dir import DataDir
from pipeline.ingest import retention, store, transactions
from pipeline.ingest.trade import Trade
from pipeline.outputs import BATCH_COLUMNS, WINDOW_COLUMNS
from pipeline.settings import Settings
from pipeline.stores import sqlite
from pipeline.stores.common_queries import newest_event_time, newest_topic, next_offset, total_rows
from pipeline.stores.sqlite import SqliteStore
from pipeline.stream_offsets import OffsetRange, Start
from tests.unit.test_compare_unread import NOON, trade, windows

TOPIC = "9a4a0b56-1111-2222-3333-444455556666"
CHECKPOINTS = [f"0b8b7a7e-aaaa-bbbb-cccc-ddddeeeeff0{number}" for number in range(2)]
DAY = timedelta(days=1)
DAYS = 12
#: Trades of a day, five seconds apart.
PER_DAY = 60
#: The records between these offsets were deleted in Kafka: from the third day to the fourth.
SKIPPED = (2 * PER_DAY + 20, 3 * PER_DAY + 30)
#: The offset of a trade that the stream dropped as late, and how late it is.
LATE, LATE_BY = PER_DAY + 50, timedelta(seconds=90)
NOW = NOON + DAYS * DAY


def made_trades() -> list[Trade]:
    found = []
    for number in range(DAYS * PER_DAY):
        day, place = divmod(number, PER_DAY)
        made = trade(number + 1, place * 5, "sell" if number % 3 else "buy", f"0.{number % 8 + 1}")
        moment = made.time + day * DAY - (LATE_BY if number == LATE else timedelta())
        content = (made.price, None, None, made.side, moment, made.last_size)
        found.append(Trade(made.trade_id, *content))
    return found


def rows_of(trades: list[Trade], written_at: datetime) -> list[dict[str, Any]]:
    written = {"buy_sell_ratio": "", "written_at": times.iso(written_at)}
    return [row | written for row in windows(trades).values()]


@pytest.fixture(scope="module", name="original")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> DataDir:
    """Make a data directory of twelve days, with a difference of each cause that offsets prove."""
    data, trades = DataDir(tmp_path_factory.mktemp("original") / "data"), made_trades()
    data.status.mkdir(parents=True)
    with closing(sqlite.open_writer(data.database)) as connection:
        for first in range(0, len(trades), 7):
            own = trades[first : first + 7]
            at = NOON + ((first + 6) // PER_DAY) * DAY + timedelta(minutes=10)
            offsets = range(first, first + len(own))
            receipts = [each.time + timedelta(seconds=0.1) for each in own]
            batch = store.Batch(
                *(first, offsets[-1], len(own), 0, min(receipts), max(receipts), own),
                *(receipts, TOPIC, offsets),
            )
            store.store(connection, batch, at)
    read = [t for n, t in enumerate(trades) if n != LATE and not SKIPPED[0] <= n < SKIPPED[1]]
    outputs.write_final_windows(data, rows_of(read, NOON))
    batch_rows = rows_of(trades, NOW)
    text_files.write_atomically(data.batch_windows, text_files.to_csv(WINDOW_COLUMNS, batch_rows))
    write_runs(data, trades)
    write_positions(data, len(trades))
    return data


@pytest.fixture
def folder(original: DataDir, tmp_path: Path) -> DataDir:
    return DataDir(shutil.copytree(original.root, tmp_path / "data"))


def write_runs(data: DataDir, trades: list[Trade]) -> None:
    """Write a run for each day, twenty minutes after noon."""
    for day in range(DAYS):
        at = NOON + day * DAY + timedelta(minutes=20)
        own = trades[: (day + 1) * PER_DAY]
        row = {
            "rows": len(own),
            "run": outputs.run_id(at),
            "first_trade_id": 1,
            "last_trade_id": len(own),
            "last_trade_time": max(each.time for each in own),
            "snapshot_at": at,
            "written_at": at,
        }
        text = text_files.to_csv(BATCH_COLUMNS, [row])
        text_files.write_atomically(data.batch_output / f"{row['run']}.csv", text)
        fields = {"started": at, "run": row["run"], "status": "ok", "rows": len(own), "wall_s": 1.0}
        outputs.append_batch_log(data, fields)


def write_positions(data: DataDir, end: int) -> None:
    """Write what the stream records: two checkpoints, and the micro-batch that dropped a trade."""
    watermark = NOON + DAY + timedelta(seconds=(LATE % PER_DAY) * 5 - 62)
    dropped = OffsetRange(TOPIC, 60.0, 3, 0, LATE, LATE + 1, watermark, 1, CHECKPOINTS[0])
    ended = OffsetRange(TOPIC, 60.0, 4, LATE + 1, SKIPPED[0], SKIPPED[0], NOW, 0, CHECKPOINTS[0])
    reads = OffsetRange(TOPIC, 60.0, 9, SKIPPED[1], end, end, NOW, 0, CHECKPOINTS[1])
    for path, rows in ((data.stream_drops, [dropped, ended]), (data.stream_position, [reads])):
        cells = [vars(row) for row in rows]
        text_files.write_atomically(path, text_files.to_csv(stream_offsets.OFFSET_COLUMNS, cells))
    stream_offsets.append_start(data, Start(TOPIC, 0, 0, CHECKPOINTS[0]))
    stream_offsets.append_start(data, Start(TOPIC, *SKIPPED, CHECKPOINTS[1]))


def totals(data: DataDir) -> dict[str, Any]:
    """Return every count of the comparison. Ages, latencies and costs cover only the kept days."""
    found = json.loads(as_json(compare(read_outputs(data, SqliteStore(data.database)), 600)))
    names = ("agreement", "unexplained", "compared", "missing", "funnel", "flags", "shared")
    return {name: found[name] for name in (*names, "growth", "runs", "windows") if name in found}


def settings(days: int | None) -> Settings:
    return Settings(retention_days=days)


def delete(data: DataDir, days: int | None, now: datetime = NOW) -> Iterator[int]:
    """Delete step by step; yield how many rows each step deleted."""
    with closing(sqlite.open_writer(data.database)) as connection:
        while deleted := retention.delete_expired(connection, data, settings(days), now):
            yield deleted


def numbers(data: DataDir) -> list[int]:
    with closing(sqlite.open_reader(data.database)) as connection:
        return [n for (n,) in connection.execute("SELECT number FROM ingest ORDER BY number")]


def test_the_comparison_counts_the_same_after_every_step_of_retention(
    folder: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed consumer can leave the data directory in the state after any step."""
    before = totals(folder)
    found = {row["cause"] for row in before["agreement"]} - {""}
    assert found == {causes.DELETED, causes.LATE}
    assert before["unexplained"] == 0
    monkeypatch.setattr(retention, "CHUNK", 40)
    first = numbers(folder)
    for _ in delete(folder, 2):
        assert totals(folder) == before
    assert len(numbers(folder)) < len(first) / 2
    old = expired(outputs.batch_files(folder), NOW, 2)
    for number, path in enumerate(old):
        path.unlink()
        if number in {0, len(old) - 1}:
            assert totals(folder) == before
    assert [path.stem[:8] for path in outputs.batch_files(folder)] == ["20250611", "20250612"]


def store_and_read_in_another_topic(data: DataDir) -> None:
    """The topic is created again, and every service continues for four days."""
    topic = TOPIC.replace("9", "8")
    with closing(sqlite.open_writer(data.database)) as connection:
        for offset in range(4):
            at = NOW + (1 + offset) * DAY
            own = [trade(DAYS * PER_DAY + 1 + offset, (at - NOON).total_seconds())]
            batch = store.Batch(offset, offset, 1, 0, at, at, own, [at], topic, [offset])
            store.store(connection, batch, at)
            (data.batch_output / f"{outputs.run_id(at)}.csv").touch()
    position = OffsetRange(topic, 60.0, 4, 0, 4, 4, NOW, 0, CHECKPOINTS[0])
    text = text_files.to_csv(stream_offsets.OFFSET_COLUMNS, [vars(position)])
    text_files.write_atomically(data.stream_position, text)


@pytest.mark.parametrize("is_created_again", [False, True])
def test_what_is_needed_around_a_start_stays_the_same(
    is_created_again: bool, folder: DataDir
) -> None:
    if is_created_again:
        store_and_read_in_another_topic(folder)

    def found() -> transactions.Surroundings | None:
        with closing(sqlite.open_reader(folder.database)) as connection:
            minute = timedelta(minutes=1)
            return transactions.around(connection, TOPIC, SKIPPED, minute, minute)

    before = found()
    assert before
    assert before.is_complete
    assert sum(delete(folder, 1, NOW + 5 * DAY)) > 0
    assert found() == before


def test_old_rows_of_a_topic_that_was_read_twice_are_deleted(folder: DataDir) -> None:
    """Its offsets prove nothing, so no count depends on them."""
    own = made_trades()[-7:]
    batch = store.Batch(0, 6, 7, 0, NOW, NOW, own, [NOW] * 7, TOPIC, range(7))
    with closing(sqlite.open_writer(folder.database)) as connection:
        store.store(connection, batch, NOW)
    before, rows = totals(folder), len(numbers(folder))
    assert {row["cause"] for row in before["agreement"]} & {causes.DELETED} == set()
    assert sum(delete(folder, 2)) > 0
    assert len(numbers(folder)) < rows / 2
    assert totals(folder) == before


def test_rows_younger_than_the_retention_stay(folder: DataDir) -> None:
    before = numbers(folder)
    assert list(delete(folder, 30)) == []
    assert sum(delete(folder, 5)) > 0
    with closing(sqlite.open_reader(folder.database)) as connection:
        oldest = times.time_text(NOW - 5 * DAY)
        kept = connection.execute("SELECT count(*) FROM ingest WHERE committed_at >= ?", (oldest,))
        assert kept.fetchone()[0] == -(-5 * PER_DAY // 7)
        minutes = connection.execute("SELECT min(minute) FROM latency").fetchone()[0]
        # The newest trade is a day older than the clock of this machine.
        assert minutes >= times.minute_text(made_trades()[-1].time - 5 * DAY)
    assert numbers(folder)[-1] == before[-1]


def test_without_the_setting_nothing_is_deleted(folder: DataDir) -> None:
    assert list(delete(folder, None, NOW + 1000 * DAY)) == []


def test_a_clock_that_is_years_ahead_deletes_nothing(folder: DataDir) -> None:
    before = numbers(folder)
    assert list(delete(folder, 30, NOW + 3650 * DAY)) == []
    assert numbers(folder) == before
    # The age is then measured from the newest trade.
    assert sum(delete(folder, 5, NOW + 3650 * DAY)) > 0
    with closing(sqlite.open_reader(folder.database)) as connection:
        newest = newest_event_time(connection)
        assert newest == made_trades()[-1].time
        oldest = connection.execute("SELECT min(minute) FROM latency").fetchone()[0]
        assert oldest >= times.minute_text(newest - 5 * DAY)


def test_transactions_that_the_stream_has_not_read_stay(folder: DataDir) -> None:
    before = numbers(folder)
    folder.stream_position.unlink()
    folder.stream_starts.unlink()
    list(delete(folder, 1, NOW + 100 * DAY))
    assert numbers(folder) == before
    position = OffsetRange(TOPIC, 60.0, 4, 0, 77, 77, NOW, 0, CHECKPOINTS[0])
    text = text_files.to_csv(stream_offsets.OFFSET_COLUMNS, [vars(position)])
    text_files.write_atomically(folder.stream_position, text)
    list(delete(folder, 1, NOW + 100 * DAY))
    # Offset 77 is in the second minute of the second day. The windows that are then open stay.
    kept = numbers(folder)
    assert kept == before[before.index(kept[0]) :]
    with closing(sqlite.open_reader(folder.database)) as connection:
        first = connection.execute("SELECT min(first_offset) FROM ingest").fetchone()[0]
    assert 77 - 24 - 7 <= first <= 77 - 12


def test_the_transaction_that_the_newest_run_has_read_last_stays(folder: DataDir) -> None:
    """It is the evidence for trades that were stored after the run."""
    for path in outputs.batch_files(folder)[4:]:
        path.unlink()  # the batch has not run for a week
    list(delete(folder, 1))
    with closing(sqlite.open_reader(folder.database)) as connection:
        kept = connection.execute(
            "SELECT total_rows FROM ingest WHERE first_offset > 250"
        ).fetchall()
    assert kept[0][0] <= 5 * PER_DAY


def test_a_deletion_that_is_interrupted_deletes_nothing(folder: DataDir) -> None:
    before = numbers(folder)
    with closing(sqlite.open_writer(folder.database)) as connection:
        connection.execute(
            "CREATE TEMP TRIGGER broken BEFORE DELETE ON main.latency "
            "BEGIN SELECT raise(ABORT, 'broken'); END"
        )
        with pytest.raises(sqlite3.IntegrityError, match="broken"):
            retention.delete_expired(connection, folder, settings(1), NOW)
    assert numbers(folder) == before
    assert sum(delete(folder, 1)) > 0


def test_the_consumer_continues_after_the_newest_record(folder: DataDir) -> None:
    list(delete(folder, 1, NOW + 1000 * DAY))
    with closing(sqlite.open_reader(folder.database)) as connection:
        assert next_offset(connection) == total_rows(connection) == DAYS * PER_DAY
        assert newest_topic(connection) == TOPIC


def test_the_files_of_the_two_newest_runs_stay_at_any_age(folder: DataDir) -> None:
    runs = outputs.batch_files(folder)
    assert expired(runs, NOW + 1000 * DAY, 1) == runs[:-2]
    assert expired(runs[-2:], NOW + 1000 * DAY, 1) == expired([], NOW, 1) == []
    assert outputs.newest_batch_files(folder, 2) == runs[:-3:-1]
    (folder.batch_output / "copyZ.csv").touch()  # no run wrote it
    assert outputs.newest_batch_files(folder, 2) == runs[:-3:-1]
    assert outputs.newest_batch_files(DataDir(folder.root / "other"), 2) == []
    other = folder.batch_output / "20250599T000000Z.csv"  # no run has this name
    assert expired([other, *runs], NOW + 1000 * DAY, 1) == runs[:-2]


def test_one_run_with_a_clock_far_ahead_does_not_end_the_retention_of_later_runs(
    tmp_path: Path,
) -> None:
    """Each later name is one second after the newest one. Only the time of the file is right."""
    ahead = NOW + 4000 * DAY
    runs = [tmp_path / f"{outputs.run_id(ahead + timedelta(seconds=n))}.csv" for n in range(8)]
    for path, modified in zip(
        runs, [ahead, *(NOW - n * DAY for n in range(7, 0, -1))], strict=True
    ):
        path.touch()
        os.utime(path, (modified.timestamp(), modified.timestamp()))
    assert expired(runs, NOW, 3) == runs[1:5]  # 7, 6, 5 and 4 days old


@pytest.mark.parametrize(
    ("started", "modified", "found"),
    [
        (NOW - DAY, NOW, NOW - DAY),  # restored from a backup
        (NOW, NOW - DAY, NOW),
        (NOW + DAY, NOW - DAY, NOW - DAY),
    ],
)
def test_the_age_of_a_run_is_that_of_its_file_only_if_its_name_is_in_the_future(
    started: datetime, modified: datetime, found: datetime
) -> None:
    assert outputs.start_of(started, modified, NOW) == found


def test_needed_parts_are_cut_out_of_the_numbers() -> None:
    needed = [range(8, 12), range(3, 5), range(4, 6), range(1), range(20, 20)]
    free = [n for part in retention.between(needed, range(1, 15)) for n in part]
    assert free == [1, 2, 6, 7, 12, 13, 14]
    assert retention.between([], range(0)) == []
