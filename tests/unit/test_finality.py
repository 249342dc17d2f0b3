"""When a window is final: the rule against a brute-force model of a stream, and crashes."""

import csv
import itertools
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import Row

from pipeline import alerts, histogram, outputs, text_files, times
from pipeline.data_dir import DataDir
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stream import finality
from pipeline.stream.file_watch import FileWatch
from pipeline.stream.final_rows import DeletedError
from pipeline.stream.finality import (
    MAX_GROWTH_ENTRIES,
    State,
    StateError,
    Window,
    apply_micro_batch,
    closes_in_next_micro_batch,
    from_json,
    to_json,
)
from pipeline.stream.micro_batches import Recorder
from pipeline.stream.windows import WindowPublisher
from pipeline.stream_offsets import read_offset_ranges
from tests.unit.test_micro_batches import CHECKPOINT, TOPIC_ID, log_entry, start_of

MINUTE = 60_000_000
SECOND = 1_000_000


def row(minute: int, last_second: float, **cells: str) -> Window:
    """A window of one minute; its newest trade is this many seconds after the epoch."""
    start = minute * MINUTE
    return Window(start, start + MINUTE, round(last_second * SECOND), cells)


def apply_all(*batches: list[Window]) -> tuple[State, list[list[int]]]:
    """The state after these micro-batches, and the minutes that each of them made final."""
    state, finals = State(), []
    for number, rows in enumerate(batches):
        state, final = apply_micro_batch(state, number, rows, MINUTE)
        finals.append([window.start // MINUTE for window in final])
    return state, finals


def test_the_next_micro_batch_closes_a_window_once_a_trade_after_its_watermark_was_seen() -> None:
    state, _ = apply_micro_batch(State(), 0, [row(0, 5)], MINUTE)
    assert not closes_in_next_micro_batch(state, MINUTE)
    state, _ = apply_micro_batch(state, 1, [row(1, 119.999999)], MINUTE)
    assert not closes_in_next_micro_batch(state, MINUTE)
    state, _ = apply_micro_batch(state, 2, [row(2, 120)], MINUTE)
    assert closes_in_next_micro_batch(state, MINUTE)
    state, final = apply_micro_batch(state, 3, [], MINUTE)
    assert (len(final), closes_in_next_micro_batch(state, MINUTE)) == (1, False)


def test_a_state_that_lacks_a_micro_batch_is_refused() -> None:
    state, _ = apply_micro_batch(State(), 0, [row(0, 5)], MINUTE)
    with pytest.raises(StateError, match=r"is of micro-batch 0, but Spark is at 2$"):
        apply_micro_batch(state, 2, [row(0, 6)], MINUTE)
    with pytest.raises(StateError):
        apply_micro_batch(State(), 57, [], MINUTE)
    with pytest.raises(StateError):  # Spark lost its newest files, for example in a power cut
        apply_micro_batch(replace(state, micro_batch=5), 4, [row(0, 6)], MINUTE)


def test_the_growth_of_a_long_window_stays_bounded() -> None:
    state = State()
    for number in range(3 * MAX_GROWTH_ENTRIES):
        grown = Window(0, MINUTE, SECOND, {}, ((number, number + 1),))
        state, _ = apply_micro_batch(state, number, [grown], MINUTE)
        assert len(state.open[0].growth) <= MAX_GROWTH_ENTRIES + 1
    assert state.open[0].growth[-1] == (3 * MAX_GROWTH_ENTRIES - 1, 3 * MAX_GROWTH_ENTRIES)


def test_a_window_keeps_when_it_grew_and_by_how_much() -> None:
    def grown(at: int, count: int) -> Window:
        return Window(0, MINUTE, SECOND, {}, ((at, count),))

    state, _ = apply_micro_batch(State(), 0, [grown(100, 3)], MINUTE)
    state, _ = apply_micro_batch(state, 1, [grown(200, 5)], MINUTE)
    state, _ = apply_micro_batch(
        from_json(json.loads(json.dumps(to_json(state)))), 1, [grown(250, 5)], MINUTE
    )
    assert state.open[0].growth == ((100, 3), (200, 5))  # applying a micro-batch again adds nothing


# --- the rule -------------------------------------------------------------------------------


def test_a_window_is_final_once_an_earlier_micro_batch_saw_its_end_plus_the_watermark() -> None:
    state, finals = apply_all([row(0, 5)], [row(2, 120)], [])
    assert finals == [[], [], [0]]
    assert [start // MINUTE for start in state.open] == [2]


def test_a_microsecond_before_its_end_plus_the_watermark_it_is_still_open() -> None:
    _, finals = apply_all([row(0, 5)], [row(1, 119.999999)], [])
    assert finals == [[], [], []]


def test_the_micro_batch_that_moves_the_watermark_makes_nothing_final_itself() -> None:
    _, finals = apply_all([row(0, 5)], [row(9, 599)])
    assert finals == [[], []]


def test_a_late_row_right_after_the_watermark_moved_is_still_in_the_final_window() -> None:
    state, _ = apply_all([row(0, 5, trade_count="1")], [row(2, 120)])
    _, final = apply_micro_batch(state, 2, [row(0, 5, trade_count="2")], MINUTE)
    assert [window.cells["trade_count"] for window in final] == ["2"]


def test_a_window_whose_first_trade_is_late_is_final_at_once() -> None:
    state, _ = apply_all([row(5, 300)])
    _, final = apply_micro_batch(state, 1, [row(0, 5)], MINUTE)
    assert [window.start for window in final] == [0]


def test_nothing_is_final_before_the_second_micro_batch() -> None:
    state, final = apply_micro_batch(State(), 0, [row(0, 5), row(60, 3600)], MINUTE)
    assert final == []
    assert state.max_event_time_before is None
    assert state.max_event_time == 3600 * SECOND


def test_final_windows_come_in_the_order_of_their_starts() -> None:
    _, finals = apply_all([row(1, 61), row(0, 5), row(2, 119.5)], [row(9, 599), row(0, 7)], [])
    assert finals == [[], [], [0, 1, 2]]


def test_without_new_trades_the_last_windows_stay_open() -> None:
    state, finals = apply_all([row(0, 5)], [], [], [])
    assert finals == [[], [], [], []]
    assert list(state.open) == [0]


def test_the_watermark_may_be_longer_than_the_window() -> None:
    state, _ = apply_micro_batch(State(), 0, [row(0, 5)], 5 * MINUTE)
    for number, (minute, second) in enumerate([(5, 359.9), (6, 360), (6, 360)], 1):
        state, final = apply_micro_batch(state, number, [row(minute, second)], 5 * MINUTE)
        assert bool(final) == (number == 3)


def test_applying_the_newest_micro_batch_again_changes_nothing() -> None:
    before, _ = apply_all([row(0, 5)], [row(2, 120)])
    rows = [row(2, 130), row(0, 6)]
    once, _ = apply_micro_batch(before, 2, rows, MINUTE)
    twice, final_again = apply_micro_batch(once, 2, rows, MINUTE)
    assert twice == once
    assert [window.start for window in final_again] == [0]


# --- against a brute-force model ------------------------------------------------------------

#: A trade is its event time in whole seconds. Spark drops a trade whose window it has closed.
trades = st.lists(st.lists(st.integers(0, 600), max_size=6), max_size=12)
watermarks = st.sampled_from([30, 60, 150])


class Stream:
    """The part of Spark, by brute force: it reads every trade of every micro-batch again."""

    def __init__(self, batches: list[list[int]], watermark: int) -> None:
        self.watermark = watermark
        self.seen: list[list[int]] = []  # the trades taken, by micro-batch
        self.batches = [self._take(batch) for batch in batches]

    def _greatest(self, batches: list[list[int]]) -> int:
        return max((second for batch in batches for second in batch), default=-1)

    def closed(self, minute: int, number: int) -> bool:
        """Whether the micro-batches before this one reached the end of the window + watermark."""
        return (minute + 1) * 60 + self.watermark <= self._greatest(self.seen[:number])

    def _take(self, batch: list[int]) -> list[Window]:
        number = len(self.seen)
        # A window is closed for good at the end of the first micro-batch that may close it.
        dead = {m for m in range(11) if number and self.closed(m, number - 1)}
        taken = [second for second in batch if second // 60 not in dead]
        self.seen.append(taken)
        return [self.window(minute, number) for minute in sorted({s // 60 for s in taken})]

    def window(self, minute: int, number: int) -> Window:
        """The whole window after a micro-batch."""
        inside = [s for batch in self.seen[: number + 1] for s in batch if s // 60 == minute]
        return row(minute, max(inside), trade_count=str(len(inside)))

    def final_after(self, number: int) -> dict[int, Window]:
        minutes = {s // 60 for batch in self.seen[: number + 1] for s in batch}
        final = {m for m in minutes if self.closed(m, number)}
        return {m * MINUTE: self.window(m, number) for m in final}

    def open_after(self, number: int) -> dict[int, Window]:
        minutes = {s // 60 for batch in self.seen[: number + 1] for s in batch}
        still = {m for m in minutes if not self.closed(m, number)}
        return {m * MINUTE: self.window(m, number) for m in still}


@settings(max_examples=80, deadline=None)
@given(trades, watermarks)
def test_final_and_open_windows_are_those_of_the_model_after_every_micro_batch(
    batches: list[list[int]], watermark: int
) -> None:
    stream = Stream(batches, watermark)
    state, final = State(), {}
    for number, rows in enumerate(stream.batches):
        state, now_final = apply_micro_batch(state, number, rows, watermark * SECOND)
        for window in now_final:
            assert window.start not in final, "final twice"
            final[window.start] = window
        assert final == stream.final_after(number)
        assert state.open == stream.open_after(number)


@settings(max_examples=80, deadline=None)
@given(trades, watermarks)
def test_a_repeated_micro_batch_changes_nothing_whenever_it_comes(
    batches: list[list[int]], watermark: int
) -> None:
    stream = Stream(batches, watermark)
    state = State()
    for number, rows in enumerate(stream.batches):
        state, final = apply_micro_batch(state, number, rows, watermark * SECOND)
        again, final_again = apply_micro_batch(state, number, rows, watermark * SECOND)
        assert again == state
        changed = {window.start for window in rows}
        assert final_again == [window for window in final if window.start in changed]


@given(trades, watermarks)
def test_a_state_survives_json_unchanged(batches: list[list[int]], watermark: int) -> None:
    state = State()
    for number, rows in enumerate(Stream(batches, watermark).batches):
        state, _ = apply_micro_batch(state, number, rows, watermark * SECOND)
        assert finality.from_json(json.loads(json.dumps(finality.to_json(state)))) == state


def test_no_state_file_is_the_state_before_the_first_micro_batch() -> None:
    assert finality.from_json({}) == State()


# --- windows that another checkpoint left open ----------------------------------------------


def left_open(state: State, *windows: Window) -> State:
    return replace(state, left_open={window.start: window for window in windows})


def test_a_window_left_open_becomes_final_at_the_time_of_its_end_and_moves_no_watermark() -> None:
    state = left_open(State(), row(0, 5, trade_count="3"), row(90, 5400, trade_count="2"))
    for number, rows in enumerate([[row(1, 61)], [row(2, 120)]]):
        state, final = apply_micro_batch(state, number, rows, MINUTE)
        assert final == []
    assert state.max_event_time == 120 * SECOND
    assert list(state.shown()) == [0, 90 * MINUTE, MINUTE, 2 * MINUTE]
    state, final = apply_micro_batch(state, 2, [], MINUTE)
    assert [window.cells["trade_count"] for window in final] == ["3"]
    assert list(state.left_open) == [90 * MINUTE]


@pytest.mark.parametrize(
    ("left", "computed", "kept"), [("3", "2", "3"), ("3", "3", "new"), ("3", "5", "new")]
)
def test_of_two_versions_of_a_window_the_one_with_more_trades_becomes_final_once(
    left: str, computed: str, kept: str
) -> None:
    state = left_open(State(), row(0, 5, trade_count=left))
    state, _ = apply_micro_batch(state, 0, [row(0, 7, trade_count=computed)], MINUTE)
    assert state.shown()[0].cells["trade_count"] == max(left, computed)
    state, _ = apply_micro_batch(state, 1, [row(2, 120)], MINUTE)
    state, final = apply_micro_batch(state, 2, [], MINUTE)
    assert [w.last_trade_time for w in final] == [(5 if kept == left else 7) * SECOND]
    assert apply_micro_batch(state, 3, [], MINUTE)[1] == []


# --- crashes between the writings -----------------------------------------------------------


def as_row(window: Window) -> Row:
    """Its price range and its volume are its number of trades."""
    trades = int(window.cells["trade_count"])
    return Row(
        window_start=window.start,
        window_end=window.end,
        trade_count=trades,
        max_price=Decimal(1 + trades),
        last_trade_time=window.last_trade_time,
        first_trade_time=window.start,
        last_receipt_time=window.last_trade_time,
        buy_count=0,
        total_volume=Decimal(trades),
        **dict.fromkeys(("min_price", "open_price", "close_price", "price_sum"), Decimal(1)),
        **dict.fromkeys(("buy_volume", "turnover"), Decimal(1)),
    )


class Crash(Exception):  # noqa: N818 - the process would end here
    """A kill at this moment."""


class Runner:
    """The publication of the stream, as a process that can be killed between any two files."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, high: Decimal = Decimal(50)
    ) -> None:
        self.settings = Settings(data_dir=folder, trigger_seconds=0.001, volatility_range=high)
        self.data = DataDir(folder)
        self.state_file = folder / "state" / "open_windows.json"
        self.query = self.state_file.with_name("query")
        self._real = text_files.write_atomically
        self._left: int | None = None
        monkeypatch.setattr(text_files, "write_atomically", self._write)
        self.start()

    def start(self) -> None:
        recorder = Recorder(self.data, self.query, self.settings, TOPIC_ID)
        service = Service("spark_processor", self.settings)
        self._counters = service.counters
        self.query.mkdir(parents=True, exist_ok=True)
        (self.query / "metadata").write_text(json.dumps({"id": CHECKPOINT}))
        files = FileWatch(self.data, self.state_file.parent)
        self._windows = WindowPublisher(service, self.state_file.parent, recorder, files)

    def _write(self, path: Path, text: str, *, durable: bool = True) -> None:
        if self._left is not None:
            if self._left == 0:
                raise Crash
            self._left -= 1
        self._real(path, text, durable=durable)

    def log_offsets(self, batches: list[list[int]]) -> None:
        """Writes Spark's offset log of these micro-batches; the watermark plays no part here."""
        start_of(self.query, 0)
        ends = itertools.accumulate(len(batch) for batch in batches)
        for number, end in enumerate(ends):
            log_entry(self.query, number, end, 1000 * number)

    def micro_batch(self, number: int, rows: list[Window], crash_before: int | None) -> bool:
        """Whether it completed; `crash_before` is the number of files written before the crash."""
        self._left = crash_before
        try:
            self._windows.publish([as_row(window) for window in rows], number)
        except Crash:
            return False
        finally:
            self._left = None
        return True

    def complete(self, batches: list[list[Window]]) -> None:
        """Publish these micro-batches, from the first number on, without a crash."""
        for number, rows in enumerate(batches):
            assert self.micro_batch(number, rows, None)

    @property
    def final_windows(self) -> int:
        """The counter since the newest start."""
        return self._counters["final_windows"]

    def files(self) -> dict[str, list[dict[str, str]]]:
        """The rows of the outputs without `written_at`."""
        paths = [*outputs.stream_files(self.data), self.data.stream_live]
        return {
            path.name: [
                {name: cell for name, cell in row.items() if name != "written_at"}
                for row in csv.DictReader(path.read_text().splitlines())
            ]
            for path in paths
        }

    def alerts(self) -> list[tuple[str, str, str]]:
        """The published alerts, in order: window, value and newest trade."""
        found = alerts.read(self.data.alerts_stream)
        return [(row["window_start"], row["value"], row["newest_trade"]) for row in found]

    def scores(self) -> list[tuple[str, str]]:
        """Of the final windows and then the open ones, by start."""
        rows = [row for rows in self.files().values() for row in rows]
        return [(row.get("range_z", ""), row.get("volume_z", "")) for row in rows]


def test_written_at_of_a_final_row_is_when_it_became_final_not_when_it_was_last_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = Runner(tmp_path, monkeypatch)
    for number, rows in enumerate(Stream([[5], [120], []], 60).batches):
        clock = datetime(2025, 12, 2, 5, number, tzinfo=UTC)
        monkeypatch.setattr(times, "now", lambda clock=clock: clock)
        assert runner.micro_batch(number, rows, None)
    (path,) = outputs.stream_files(runner.data)
    (written,) = csv.DictReader(path.read_text().splitlines())
    assert written["written_at"] == "2025-12-02T05:02:00Z"
    noted = runner.data.stream_latency.read_text().splitlines()
    assert json.dumps({histogram.bucket(120): 1}) in noted[1].replace('""', '"')
    capsys.readouterr()


def test_a_micro_batch_after_a_deletion_does_not_create_the_deleted_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    runner = Runner(tmp_path, monkeypatch)
    *first, last = Stream([[5], [120], [180], []], 60).batches
    runner.complete(first)
    (path,) = outputs.stream_files(runner.data)
    path.unlink()
    with pytest.raises(DeletedError):
        runner.micro_batch(3, last, None)
    assert not path.exists()


def test_a_deletion_during_a_micro_batch_is_noticed_when_its_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    runner = Runner(tmp_path, monkeypatch)
    *first, last = Stream([[5], [120], [240], [360], [480], []], 60).batches
    runner.complete(first)
    (path,) = outputs.stream_files(runner.data)
    assert len(runner.files()[path.name]) > 1
    monkeypatch.setattr(FileWatch, "check", lambda _: path.unlink())  # after its check
    with pytest.raises(DeletedError, match=rf"^stream_csv/{path.name} was deleted"):
        runner.micro_batch(5, last, None)


def test_a_window_that_a_file_already_has_is_not_counted_as_a_new_final_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    runner = Runner(tmp_path, monkeypatch)
    batches = Stream([[5], [120], [240], [360], []], 60).batches
    runner.complete(batches)
    (path,) = outputs.stream_files(runner.data)
    assert runner.final_windows == len(runner.files()[path.name]) > 1
    runner.state_file.unlink()  # as after damage: the topic is read again
    runner.start()
    runner.complete(batches)
    assert runner.final_windows == 0


@pytest.fixture
def quiet(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    capsys.readouterr()


@pytest.mark.parametrize("crash_before", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("twice", [False, True])
def test_a_crash_before_any_file_of_any_micro_batch_leads_to_the_same_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quiet: None,
    crash_before: int,
    twice: bool,
) -> None:
    batches = [[5, 30, 61], [62, 119], [120, 180], [59, 185], [], [240, 241], [], [400, 10], [], []]
    stream = Stream(batches, 60)
    smooth = Runner(tmp_path / "smooth", monkeypatch, high=Decimal(1))
    smooth.log_offsets(batches)
    for number, rows in enumerate(stream.batches):
        assert smooth.micro_batch(number, rows, None)
    crashing = Runner(tmp_path / "crashing", monkeypatch, high=Decimal(1))
    crashing.log_offsets(batches)
    crashes = 0
    for number, rows in enumerate(stream.batches):
        for _ in range(1 + twice):
            if crashing.micro_batch(number, rows, crash_before):
                break  # fewer files were written
            crashes += 1
            crashing.start()  # reads the state file, as a new process does
        crashing.micro_batch(number, rows, None)
    assert crashes > 1
    assert crashing.files() == smooth.files()
    assert crashing.alerts() == smooth.alerts()  # each once
    assert len(smooth.alerts()) == len({start for start, *_ in smooth.alerts()}) > 3
    values = {
        row["window_start"]: Decimal(row["price_range"])
        for rows in smooth.files().values()
        for row in rows
    }
    assert all(Decimal(value) <= values[start] for start, value, _ in smooth.alerts())
    assert {start for start, *_ in smooth.alerts()} == {s for s, v in values.items() if v > 1}
    for runner in (smooth, crashing):
        by_day = {
            path.stem: len(outputs.read_window_cells(path))
            for path in outputs.stream_files(runner.data)
        }
        assert json.loads(runner.state_file.with_name("final_rows.json").read_text()) == by_day
    recorded = read_offset_ranges(smooth.data)
    assert read_offset_ranges(crashing.data) == recorded
    assert [offset_range.dropped for offset_range in recorded] == [1, 0]  # 10 came late
    final = [row["window_start"] for row in smooth.files()["1970-01-01.csv"]]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    expected = sorted(stream.final_after(len(batches) - 1))
    assert final == [times.iso(epoch + timedelta(microseconds=start)) for start in expected]
    assert len(final) == 5


# --- z-scores of the stream -----------------------------------------------------------------

#: Trades in each minute from 23:30 on, so that the hour before reaches into the day before.
FIRST = 23 * 60 + 30
COUNTS = random.Random(5).choices(range(1, 9), k=90)


def trades_of_minutes(first: int, last: int) -> list[int]:
    return [(FIRST + n) * 60 + second for n in range(first, last) for second in range(COUNTS[n])]


def expected_scores(counts: list[int]) -> list[tuple[str, str]]:
    """By the definition: against the sixty minutes before, at least ten of them."""
    found = []
    for number, count in enumerate(counts):
        hour = counts[max(0, number - 60) : number]
        if len(hour) < 10:
            found.append(("", ""))
            continue
        z = (count - statistics.mean(hour)) / statistics.stdev(hour)
        cell = format(Decimal(str(round(z, 6) + 0.0)).normalize(), "f")
        found.append((cell, cell))
    return found


@pytest.mark.parametrize("minutes", [1, 7, 45, 90])
def test_each_window_is_scored_against_those_before_it_however_many_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None, minutes: int
) -> None:
    runner = Runner(tmp_path, monkeypatch)
    batches = [trades_of_minutes(n, min(n + minutes, 90)) for n in range(0, 90, minutes)]
    for number, rows in enumerate(Stream([*batches, []], 60).batches):
        assert runner.micro_batch(number, rows, None)
    assert list(runner.files()) == ["1970-01-01.csv", "1970-01-02.csv", "stream_live.csv"]
    assert len(runner.files()["stream_live.csv"]) == 2
    assert runner.scores() == expected_scores(COUNTS)


@pytest.mark.parametrize("crash_before", range(4))
def test_a_crash_before_any_file_changes_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None, crash_before: int
) -> None:
    runner = Runner(tmp_path, monkeypatch)
    batches = [trades_of_minutes(n, n + 3) for n in range(0, 90, 3)]
    crashes = 0
    for number, rows in enumerate(Stream([*batches, []], 60).batches):
        if not runner.micro_batch(number, rows, crash_before):
            crashes += 1
            runner.start()
        assert runner.micro_batch(number, rows, None)
    assert crashes >= (1 if crash_before == 3 else 29)  # a fourth file: on the two days' border
    assert runner.scores() == expected_scores(COUNTS)


def test_an_open_window_is_scored_again_when_one_before_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    runner = Runner(tmp_path, monkeypatch)
    *early, late_trade = trades_of_minutes(0, 12)
    (place,) = [n for n, second in enumerate(early) if second == (FIRST + 10) * 60]
    in_minute_10 = early.pop(place)
    for number, rows in enumerate(Stream([early, [late_trade], [in_minute_10]], 60).batches):
        assert runner.micro_batch(number, rows, None)
    assert runner.scores() == expected_scores(COUNTS[:12])


def test_a_new_checkpoint_over_a_topic_cut_at_its_beginning_changes_no_final_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    runner = Runner(tmp_path, monkeypatch)
    for number, rows in enumerate(Stream([trades_of_minutes(0, 90), []], 60).batches):
        assert runner.micro_batch(number, rows, None)
    before = runner.files()
    runner.state_file.unlink()
    runner.start()
    half_minute = trades_of_minutes(20, 90)[COUNTS[20] // 2 :]
    for number, rows in enumerate(Stream([half_minute, []], 60).batches):
        assert runner.micro_batch(number, rows, None)
    assert runner.files() == before


def test_a_folder_of_a_version_without_scores_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    """Its rows stay without scores. The rows after them are scored against them."""
    runner = Runner(tmp_path, monkeypatch)
    stream = Stream([trades_of_minutes(0, 40), [], trades_of_minutes(40, 60), []], 60)
    for number, rows in enumerate(stream.batches[:2]):
        assert runner.micro_batch(number, rows, None)
    old_columns = outputs.WINDOW_COLUMNS[:-2]
    for path in [*outputs.stream_files(runner.data), runner.data.stream_live]:
        rows_before = csv.DictReader(path.read_text().splitlines())
        path.write_text(text_files.to_csv(old_columns, rows_before))
    state = json.loads(runner.state_file.read_text())
    for window in state["open"]:
        window[3] = {name: window[3][name] for name in old_columns}
    runner.state_file.write_text(json.dumps(state))
    runner.start()
    for number, rows in enumerate(stream.batches[2:], 2):
        assert runner.micro_batch(number, rows, None)
    scores, expected = runner.scores(), expected_scores(COUNTS[:60])
    assert len(scores) == 60
    assert scores[:38] == [("", "")] * 38
    assert scores[38:] == expected[38:]


# --- another topic --------------------------------------------------------------------------


def counts_of(runner: Runner) -> dict[str, str]:
    """The trades of each final window."""
    return {
        start: row["trade_count"]
        for path in outputs.stream_files(runner.data)
        for start, row in outputs.read_window_cells(path).items()
    }


def on_another_topic(runner: Runner, batches: list[list[int]]) -> None:
    """Run the stream with a new checkpoint: the folder of the old one stays elsewhere."""
    runner.state_file.unlink()
    runner.start()
    for number, rows in enumerate(Stream(batches, 60).batches):
        assert runner.micro_batch(number, rows, None)


def test_windows_open_at_the_change_to_another_topic_become_final_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None
) -> None:
    runner = Runner(tmp_path, monkeypatch)
    for number, rows in enumerate(Stream([[5, 6, 61, 62, 119], [180, 181]], 60).batches):
        assert runner.micro_batch(number, rows, None)
    assert list(counts_of(runner).values()) == []
    on_another_topic(runner, [[182, 241], [400], []])
    # Minute 3 had two trades in the old topic and has one in the new one: they are not added up.
    assert list(counts_of(runner).values()) == ["2", "3", "2", "1"]
    (replaced,) = csv.DictReader(runner.data.stream_versions.read_text().splitlines())
    assert replaced["window_start"] == "1970-01-01T00:03:00Z"
    assert replaced["trade_count"] == "1"


@pytest.mark.parametrize("first", [0, 3, 7])
def test_a_topic_that_is_filled_again_with_the_same_trades_or_the_later_ones_changes_no_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: None, first: int
) -> None:
    trades = [5, 6, 61, 62, 121, 180, 181, 182, 241, 242, 300, 400, 401]
    expected = Runner(tmp_path / "one topic", monkeypatch)
    for number, rows in enumerate(Stream([trades, []], 60).batches):
        assert expected.micro_batch(number, rows, None)
    runner = Runner(tmp_path / "two topics", monkeypatch)
    for number, rows in enumerate(Stream([trades[:9], []], 60).batches):
        assert runner.micro_batch(number, rows, None)
    on_another_topic(runner, [trades[first:], []])
    assert counts_of(runner) == counts_of(expected)
