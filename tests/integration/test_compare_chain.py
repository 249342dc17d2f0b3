"""The status of each window of a real chain, as the command prints it; every cause is real."""

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest

from pipeline import times
from pipeline.compare import database
from pipeline.compare.agreement import (
    DIFFERS,
    EQUAL,
    NOT_YET_FINAL,
    NOT_YET_IN_A_BATCH,
    ONLY_BATCH,
    ONLY_STREAM,
)
from pipeline.compare.causes import (
    AFTER_SNAPSHOT,
    BACKFILLED,
    CONFLICT,
    GAP,
    LATE,
    REJECTED,
    UNEXPLAINED,
)
from pipeline.compare.completeness import LOSSES
from pipeline.compare.watermark import watermarks
from pipeline.data_dir import DataDir
from pipeline.stores import sqlite
from pipeline.stream_offsets import read_offset_ranges
from tests.conftest import Broker, Run, running, wait_until
from tests.integration.chain import Chain, new_chain
from tests.integration.made_trades import Topic, counts, message

COMMAND_SECONDS = 60


@dataclass(frozen=True)
class Judged:
    """The output of `python -m pipeline.compare --json` for a folder."""

    status: int
    found: dict[str, Any]

    def __getitem__(self, minute: str) -> tuple[str, str, int]:
        """Return status, cause and number of missing ids of the window that starts then."""
        (row,) = (row for row in self.found["agreement"] if row["window_start"][11:16] == minute)
        return row["verdict"], row["cause"], row["missing"]

    def minutes(self, *statuses: str) -> list[str]:
        """Return the starts of the windows with these statuses."""
        rows = self.found["agreement"]
        return [row["window_start"][11:16] for row in rows if row["verdict"] in statuses]

    def but(self, *minutes: str) -> list[dict[str, Any]]:
        """Return the rows of all other minutes."""
        rows = self.found["agreement"]
        return [row for row in rows if row["window_start"][11:16] not in minutes]

    def stage(self, words: str) -> dict[str, Any]:
        (row,) = (row for row in self.found["funnel"] if words in row["stage"])
        return dict(row)


def judge(run: Run, folder: Path) -> Judged:
    command = run("pipeline.compare", "--json", DATA_DIR=folder)
    status = command.process.wait(COMMAND_SECONDS)
    return Judged(status, json.loads(command.text()))


def trade(number: int, at: str, *, other: int = 0, backfilled: bool = False) -> bytes:
    """A trade so many minutes and seconds after noon: of its id alone, or with another content.

    All sizes differ, so that no trade can account for another one's absence.
    """
    minutes, seconds = at.split(":")
    second = 60 * int(minutes) + float(seconds)
    return trade_at(number, second, other=other, backfilled=backfilled)


def trade_at(number: int, second: float, *, other: int = 0, backfilled: bool = False) -> bytes:
    content = number + 1000 * other
    return message(
        number,
        second,
        price=f"{100 + content / 100:.2f}",
        side="buy" if content % 3 else "sell",
        size=f"{content / 1000}",
        backfilled=backfilled,
    )


class Market:
    """A chain whose trades the test hands out, and what it has handed out so far."""

    def __init__(self, run: Run, chain: Chain, topic: Topic) -> None:
        self._run = run
        self._chain = chain
        self._topic = topic
        self._ids: set[int] = set()
        self._runs = 0

    def send(self, *trades: bytes, recovered: bool = False) -> None:
        self._topic.send(*trades, recovered=recovered)
        self._ids |= {json.loads(value)["trade_id"] for value in trades}

    def send_garbage(self, *values: bytes) -> None:
        self._topic.send(*values)

    def final(self, minute: str) -> None:
        """Waits until a minute is final: what comes now is judged by the watermark behind it."""
        alive = self._chain.running["spark_processor"], self._chain.running["consumer"]
        wait_until(lambda: minute in counts(self._chain), 60, f"{minute} is final", *alive)
        self.stored()

    def stored(self) -> None:
        consumer = self._chain.running["consumer"]
        wait_until(lambda: self._chain.rows() == len(self._ids), 30, "all stored", consumer)

    def batch(self) -> None:
        """One run over all that was sent."""
        self.stored()
        self._runs += 1
        self._chain.start("batch_scheduler")
        scheduler = self._chain.running["batch_scheduler"]
        wait_until(lambda: self._done() == self._runs, 60, "the batch run", scheduler)
        scheduler.terminate()

    def _done(self) -> int:
        log = self._chain.data / "batch_log.txt"
        return log.read_text().count("status=ok") if log.exists() else 0

    def crash(self, service: str) -> None:
        """Kill -9 of a service while it works, and a new start."""
        self._chain.restart(service)

    def read(self) -> None:
        """Waits until both paths have read all that was sent."""
        self.stored()
        stream = self._chain.running["spark_processor"]
        wait_until(lambda: self._position() == self._topic.written, 60, "all read", stream)
        # The consumer measures its lag every 3 s: the last value may be from before the end.
        consumer = self._chain.running["consumer"]
        stored = times.now()
        wait_until(lambda: self._lag_since(stored) == 0, 30, "a lag of 0 is reported", consumer)

    def _lag_since(self, moment: datetime) -> int | None:
        """Return the consumer's lag, if its status was written after this moment."""
        status = self._chain.status("consumer")
        return status["lag"] if datetime.fromisoformat(status["updated"]) > moment else None

    def _position(self) -> int:
        offset_ranges = read_offset_ranges(DataDir(self._chain.data))
        return offset_ranges[-1].end_offset if offset_ranges else 0

    def judge(self) -> Judged:
        self.read()
        return judge(self._run, self._chain.data)


@dataclass
class Story:
    """The output of the command at each moment."""

    #: After a batch run, when trades of a minute that it covers have come out of order.
    before_next_run: Judged
    #: After the next run, when trades of an empty minute have come out of order.
    after_next_run: Judged
    #: The services' files; all have ended.
    data: Path
    run: Run = field(repr=False)

    def copy(self, name: str) -> Path:
        """A copy of the folder."""
        shutil.copytree(self.data, folder := self.data.parent / name)
        return folder


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, kafka: Broker) -> Iterator[Story]:
    """An afternoon with one incident a minute, on one running chain."""
    folder = tmp_path_factory.mktemp("compare")
    with running(folder) as run:
        new = new_chain(run, folder, kafka, TRIGGER_SECONDS=0.3)
        with new as chain, closing(Topic(chain)) as topic:
            chain.start("consumer", "spark_processor")
            before, after = play(Market(run, chain, topic))
            for name in ("spark_processor", "consumer"):
                chain.running[name].terminate()
            yield Story(before, after, chain.data, run)


def play(market: Market) -> tuple[Judged, Judged]:
    """The incidents; the greatest event time so far less a minute is the watermark."""
    play_crash(market)
    market.send(
        *(trade(101, "00:10"), trade(102, "00:20"), trade(102, "00:20"), trade(103, "00:40")),
        *(trade(104, "01:10"), trade(105, "01:40")),
        *(trade(106, "03:05"), trade(107, "03:30")),
    )
    market.final("12:01")
    # Too late for 12:01; and 12:02, of which nothing has come so far.
    market.send(trade(108, "01:50"), trade(109, "02:10"), trade(110, "02:20"))
    # Out of order by 8 s, by 5 s into the minute before, by 59 s.
    market.send(
        *(trade(111, "03:50"), trade(112, "03:42"), trade(113, "04:03"), trade(114, "03:58")),
        *(trade(115, "04:40"), trade(116, "03:41")),
    )
    # Repeats: of a trade of long ago; with another content, at once and a while later.
    market.send(trade(103, "00:40"), trade(117, "04:45"), trade(117, "04:46", other=1))
    market.send(trade(118, "05:10"), trade(117, "05:12", other=2))
    market.send(trade(119, "05:40"), trade(120, "06:10"))
    market.final("12:04")
    # The stream no longer keeps the id 113: the watermark is more than a minute past it.
    market.send(trade(113, "05:30", other=1))
    # 122 and 124 never come, 123 is no valid trade; 127 and 128 do, when 12:07 is final.
    market.send_garbage(trade(123, "06:30").replace(b'"side": "', b'"side": "no '))
    market.send(trade(121, "06:20"), trade(125, "06:40"), trade(126, "07:10"), trade(129, "07:30"))
    market.send(trade(130, "08:20"), trade(131, "08:40"), trade(132, "09:10"))
    market.final("12:07")
    recovered = (trade(127, "07:15", backfilled=True), trade(128, "07:20", backfilled=True))
    market.send(*recovered, recovered=True)
    # 12:08 is open. One trade is too late for it, and the stream no longer keeps the id 115.
    market.send(trade(133, "08:05"), trade(115, "08:50", other=1))
    market.send(trade(134, "10:10"), trade(135, "10:20"), trade(137, "10:40"), trade(138, "11:05"))
    market.final("12:09")
    market.batch()
    # 12:10 is covered by that run, and open: a new id, and one that was left out, count.
    market.send(trade(139, "10:50"), trade(136, "10:30"))
    market.send(trade(140, "11:20"), trade(141, "13:05"))
    market.final("12:11")
    before = market.judge()
    market.batch()
    # 12:12, covered and without any trade so far, is open.
    market.send(trade(142, "12:30"), trade(143, "13:20"), trade(144, "15:05"))
    market.final("12:13")
    return before, market.judge()


#: Event times up to a microsecond from the watermark 11:41:30, in seconds after noon. By
#: definition, the stream drops those at or before it.
WATERMARK = -19 * 60 + 30
AROUND = [round(WATERMARK + step, 6) for step in (*range(-18, 18), -1e-6, 0, 1e-6, 20)]
DROPPED = sum(second <= WATERMARK for second in AROUND)


def play_crash(market: Market) -> None:
    """Late trades around the watermark, of which some are dropped; the driver is killed once.

    Duplicates of 58 and 59 with different content arrive. The watermark is over a minute past 58,
    so the stream no longer keeps the id 58. It still keeps the id 59.
    """
    market.send(trade(58, "-20:10"), trade(59, "-18:30"))
    market.final("11:40")
    late = [trade_at(60 + place, second) for place, second in enumerate(AROUND)]
    Random(3).shuffle(late)
    market.send(*late[:15], late[0], trade(58, "-19:35", other=1))
    market.crash("spark_processor")
    market.send(*late[15:30], trade(59, "-18:20", other=1))
    market.read()
    market.send(*late[30:], *late[:20])
    market.read()
    market.send(trade(100, "-16:00"))
    market.final("11:42")


#: What the incidents come to: ids 58 to 144 without three, ….
TRADES = 144 - 57 - 3
MISSING = 3
TOO_LATE = DROPPED + 3 + 2 + 1
FORGOTTEN = 1 + 2
REPEATED = 1 + 20 + 1 + 1 + 1 + 2 + FORGOTTEN
GARBAGE = 1
RECOVERED = 2


def test_trades_that_came_behind_the_watermark_are_named_as_the_cause(story: Story) -> None:
    for judged in (story.before_next_run, story.after_next_run):
        assert judged["12:01"] == (DIFFERS, LATE, 0)
        assert judged["12:02"] == (ONLY_BATCH, LATE, 0)


def test_of_late_events_around_the_watermark_exactly_those_that_were_dropped_are_proved(
    story: Story,
) -> None:
    """Though the driver was killed among them, and some of them came twice."""
    for judged in (story.before_next_run, story.after_next_run):
        (row,) = (row for row in judged.found["agreement"] if row["window_start"][11:16] == "11:41")
        assert (row["late"], row["doubled"], row["unexplained"]) == (DROPPED, 1, 0)
        assert (row["verdict"], set(row["cause"].split("; "))) == (DIFFERS, {LATE, CONFLICT})


def test_no_more_trades_were_dropped_than_the_bound_of_the_watermark(story: Story) -> None:
    with closing(sqlite.open_reader(DataDir(story.data).database)) as connection:
        rows = database.lags(connection, None)
    found = watermarks(
        pd.DataFrame(rows, columns=["behind", "bucket", "count"]), {}, None, is_live_pace=True
    )
    minute, longer = (found.row(seconds) or {} for seconds in (60, 600))
    live, dropped = TRADES - RECOVERED, TOO_LATE - RECOVERED
    assert found.trades == live
    assert longer["at_most"] < dropped <= minute["at_most"] < live


def test_trades_out_of_order_within_the_watermark_change_nothing(story: Story) -> None:
    assert story.before_next_run["12:03"] == (EQUAL, "", 0)
    assert story.before_next_run["12:04"] == (EQUAL, "", 0)


def test_repeats_change_nothing_while_the_stream_keeps_the_id_or_drops_them_as_late(
    story: Story,
) -> None:
    judged = story.before_next_run
    assert judged["12:00"] == judged["12:04"] == (EQUAL, "", 0)


def test_a_duplicate_with_different_content_after_the_state_expired_is_named(
    story: Story,
) -> None:
    assert story.before_next_run["12:05"] == (DIFFERS, CONFLICT, 0)


def test_ids_that_never_came_or_were_rejected_are_counted_and_change_no_status(
    story: Story,
) -> None:
    for judged in (story.before_next_run, story.after_next_run):
        status, cause, missing = judged["12:06"]
        assert (status, set(cause.split("; ")), missing) == (EQUAL, {GAP, REJECTED}, MISSING)
        assert [GAP in row["cause"] for row in judged.found["agreement"]].count(True) == 1


def test_ids_that_came_when_their_minute_was_final_are_named_as_recovered(story: Story) -> None:
    assert story.before_next_run["12:07"] == (DIFFERS, BACKFILLED, 0)


def test_a_micro_batch_with_recovered_trades_has_no_time_of_receipt(story: Story) -> None:
    """They were received when they were recovered, long after the event."""
    with DataDir(story.data).stream_progress.open() as file:
        micro_batches = list(csv.DictReader(file))
    rows = {True: 0, False: 0}
    for row in micro_batches:
        rows[row["first_receipt"] != ""] += int(row["rows"])
    assert rows[False] >= RECOVERED
    assert 0 < rows[True] <= TRADES + REPEATED + GARBAGE - RECOVERED


def test_two_causes_in_one_minute_are_both_named(story: Story) -> None:
    status, cause, _ = story.before_next_run["12:08"]
    assert (status, set(cause.split("; "))) == (DIFFERS, {CONFLICT, LATE})


def test_trades_that_came_after_the_snapshot_are_named_until_the_next_run_has_them(
    story: Story,
) -> None:
    before, after = story.before_next_run, story.after_next_run
    assert before["12:10"] == (DIFFERS, AFTER_SNAPSHOT, 0)
    assert after["12:10"] == (EQUAL, "", 0)
    assert after["12:12"] == (ONLY_STREAM, AFTER_SNAPSHOT, 0)


def test_minutes_that_one_path_has_not_come_to_are_no_difference(story: Story) -> None:
    before, after = story.before_next_run, story.after_next_run
    assert before["12:11"] == (NOT_YET_IN_A_BATCH, "", 0)
    assert before["12:13"] == (NOT_YET_FINAL, "", 0)
    assert after["12:11"] == (EQUAL, "", 0)
    assert after["12:13"] == (NOT_YET_IN_A_BATCH, "", 0)
    assert after["12:15"] == (NOT_YET_FINAL, "", 0)


def test_all_other_minutes_are_equal(story: Story) -> None:
    equal = ["11:40", "11:42", "11:44", "12:00", "12:03", "12:04", "12:06", "12:09"]
    assert story.before_next_run.minutes(EQUAL) == equal
    assert story.after_next_run.minutes(EQUAL) == [*equal, "12:10", "12:11"]


def test_the_status_is_0_as_long_as_each_difference_is_explained(story: Story) -> None:
    for judged in (story.before_next_run, story.after_next_run):
        assert (judged.status, judged.found["unexplained"]) == (0, 0)


def test_each_row_of_the_funnel_adds_up(story: Story) -> None:
    for judged in (story.before_next_run, story.after_next_run):
        for row in judged.found["funnel"]:
            losses = sum(row[name] or 0 for name in LOSSES)
            assert row["drawn_from"] == row["count"] + losses, row


def test_the_funnel_counts_what_was_missing_repeated_and_late(story: Story) -> None:
    judged = story.after_next_run
    kafka = judged.stage("in Kafka")
    assert (kafka["drawn_from"], kafka["count"]) == (TRADES + REPEATED + GARBAGE,) * 2
    records = judged.stage("read by the consumer → stored")
    assert (records["drawn_from"], records["count"]) == (kafka["count"], TRADES)
    assert (records["repeated"], records["rejected"]) == (REPEATED, GARBAGE)
    ids = judged.stage("issued by the exchange")
    assert (ids["drawn_from"], ids["count"]) == (144 - 57, TRADES)
    assert (ids["missing"], ids["rejected"]) == (MISSING - GARBAGE, GARBAGE)
    stream = judged.stage("by the stream")
    assert stream["count"] == TRADES - TOO_LATE + FORGOTTEN
    assert (stream["late"], stream["repeated"], stream["not_yet"]) == (TOO_LATE, -FORGOTTEN, 0)
    batch = judged.stage("by the batch")
    assert (batch["count"], batch["not_yet"]) == (TRADES - 3, 3)


def test_one_wrong_digit_in_a_final_row_is_unexplained_and_the_status_1(story: Story) -> None:
    judged = judge(story.run, with_wrong_digits(story, {"12:03": "trade_count"}))
    assert (judged.status, judged.found["unexplained"]) == (1, 1)
    assert judged["12:03"] == (DIFFERS, UNEXPLAINED, 0)
    assert judged.but("12:03") == story.after_next_run.but("12:03")


def test_a_wrong_digit_in_any_column_is_unexplained_also_in_a_minute_with_a_proved_cause(
    story: Story,
) -> None:
    wrong = {"12:01": "min_price", "12:03": "vwap", "12:04": "last_trade_time"}
    assert story.after_next_run["12:01"] == (DIFFERS, LATE, 0)
    judged = judge(story.run, with_wrong_digits(story, wrong))
    assert (judged.status, judged.found["unexplained"]) == (1, 3)
    assert [judged[minute] for minute in wrong] == [(DIFFERS, UNEXPLAINED, 0)] * 3
    assert judged.but(*wrong) == story.after_next_run.but(*wrong)


def with_wrong_digits(story: Story, columns: dict[str, str]) -> Path:
    """Return a copy of the data directory with another last digit in one cell of these minutes."""
    folder = story.copy(f"wrong-{'-'.join(columns.values())}")
    (file,) = (folder / "stream_csv").glob("*.csv")
    with file.open() as text:
        rows = list(csv.DictReader(text))
    for minute, column in columns.items():
        (row,) = (row for row in rows if row["window_start"][11:16] == minute)
        row[column] = with_another_last_digit(row[column])
    with file.open("w", newline="") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def with_another_last_digit(cell: str) -> str:
    place = max(index for index, character in enumerate(cell) if character.isdigit())
    return f"{cell[:place]}{(int(cell[place]) + 1) % 10}{cell[place + 1 :]}"
