"""Recompute what the pipeline must have produced and find every difference.

It is independent of the pipeline: the trades come from the recording, and `tests/golden/`
computes the metrics in plain Python. Nothing here imports `pipeline/`. Which micro-batches dropped
records, with their limits and watermarks, comes from the stream: no other process records it. A
dropped trade must also be late by the recording.

- The trades: every trade that the feed issued between the first and the last stored id.
- The windows and the batch rows: over the trades in Kafka, in the order of their offsets. A trade
  that never reached Kafka counts as lost, and not as a wrong window as well.
"""

import csv
import json
import sqlite3
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from feed import recording
from tests import golden

#: The watermark of the stream, microseconds. The lab runs with the default settings.
WATERMARK = golden.MINUTE


class Slice(NamedTuple):
    """A part of the run that belongs to one fault.

    Attributes:
        fault: its name.
        first: the line of the recording that the feed sent first in it.
        began: its begin, Unix seconds.
    """

    fault: str
    first: int
    began: float


class Record(NamedTuple):
    """A record of the topic of trades."""

    value: bytes
    received: float  # Unix seconds
    backfilled: bool
    offset: int = 0


class MicroBatch(NamedTuple):
    """A micro-batch that dropped records, as the stream recorded it.

    Attributes:
        checkpoint: Spark's id of its checkpoint.
        first: its first offset.
        end: the offset after its last one.
        watermark: it dropped the trades whose event time is at or before this, microseconds.
    """

    checkpoint: str
    first: int
    end: int
    watermark: int


@dataclass
class Outcome:
    """The trades and results that belong to one fault.

    Attributes:
        offered: trades that the feed issued.
        acknowledged: of those, the trades in Kafka.
        stored: of those, the rows in the database.
        lost: trades that are not in the database.
        doubled: trades that a result counts more than once.
        right: windows that are right.
        late: windows that lack only backfilled or late trades, which arrived after the watermark.
        wrong: windows with any other difference.
        missing: windows that the stream does not have.
        batch_right: batch runs with the right row.
        batch_wrong: all other batch runs.
        problems: one line for each difference.
    """

    offered: int = 0
    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    doubled: int = 0
    right: int = 0
    late: int = 0
    wrong: int = 0
    missing: int = 0
    batch_right: int = 0
    batch_wrong: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class Issued:
    """The trades of a recording: each once, with the line that issued it first."""

    trades: dict[int, golden.Trade] = field(default_factory=dict)
    lines: dict[int, int] = field(default_factory=dict)


def issued(path: Path, rewritten: Mapping[int, bytes], now: datetime) -> Issued:
    """Return the trades that the feed issues from a recording.

    Args:
        path: the recording.
        rewritten: the messages that the lab changed on their way, by trade id.
        now: no trade is newer than this.
    """
    found = Issued()
    for number, line in enumerate(recording.read(path)):
        try:
            trade = golden.trade_in(line.frame, now)
            if trade.trade_id in rewritten:
                trade = golden.trade_in(rewritten[trade.trade_id], now)
        except golden.InvalidError:
            continue
        if trade.trade_id not in found.trades:
            found.trades[trade.trade_id] = trade
            found.lines[trade.trade_id] = number
    return found


@dataclass
class Topic:
    """What the topic of trades holds.

    Attributes:
        order: the valid trades in the order of their offsets, each once.
        backfilled: ids whose first record was recovered by backfill.
        late: the trades that the stream may drop: by id, how long before the watermark their event
            time was when they arrived, microseconds.
        offsets: by id, the offset of the first record.
    """

    order: list[golden.Trade] = field(default_factory=list)
    backfilled: set[int] = field(default_factory=set)
    late: dict[int, float] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)


def topic(records: Iterable[Record]) -> Topic:
    """Return the trades in Kafka."""
    found = Topic()
    seen: set[int] = set()
    newest = 0
    for record in records:
        try:
            trade = golden.trade_in(record.value, datetime.fromtimestamp(record.received, UTC))
        except golden.InvalidError:
            continue
        if trade.trade_id in seen:
            continue
        seen.add(trade.trade_id)
        found.order.append(trade)
        found.offsets[trade.trade_id] = record.offset
        if record.backfilled:
            found.backfilled.add(trade.trade_id)
        if trade.time <= newest - WATERMARK:
            found.late[trade.trade_id] = newest - WATERMARK - trade.time
        newest = max(newest, trade.time)
    return found


def ids(records: Iterable[Record]) -> set[int]:
    """Return the ids of the valid trades in records."""
    return {trade.trade_id for trade in topic(records).order}


class Judge:
    """Assigns every trade and every result to the fault that it belongs to."""

    def __init__(self, slices: Sequence[Slice], offered: Issued, kafka: Topic) -> None:
        self._lines = [part.first for part in slices]
        self._moments = [part.began for part in slices]
        self._names = [part.fault for part in slices]
        self._offered = offered
        self._kafka = kafka
        self.outcomes: dict[str, Outcome] = {part.fault: Outcome() for part in slices}

    def _of_line(self, line: int) -> Outcome:
        return self.outcomes[self._names[max(0, bisect_right(self._lines, line) - 1)]]

    def _of_moment(self, moment: float) -> Outcome:
        return self.outcomes[self._names[max(0, bisect_right(self._moments, moment) - 1)]]

    def _of_trades(self, trades: Iterable[golden.Trade]) -> Outcome:
        lines = [
            self._offered.lines[t.trade_id] for t in trades if t.trade_id in self._offered.lines
        ]
        return self._of_line(max(lines, default=0))

    # --- the trades -------------------------------------------------------------------------

    def judge_table(self, database: Path) -> None:
        """Compare the stored trades with those that the feed issued."""
        query = "SELECT trade_id, price, best_bid, best_ask, side, time, last_size FROM btc_prices"
        address = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            rows = {row[0]: row for row in connection.execute(query)}
        in_kafka = {trade.trade_id for trade in self._kafka.order}
        # The producer may connect after the first trades and leave before the last ones. It must
        # have had all others, and those that the feed issued before the last fault was over.
        known = (rows.keys() | in_kafka) & self._offered.trades.keys()
        first = min(known, default=0)
        before_end = {i for i, line in self._offered.lines.items() if line < self._lines[-1]}
        last = max(known | before_end, default=-1)
        for trade_id, trade in self._offered.trades.items():
            if not first <= trade_id <= last:
                continue
            outcome = self._of_line(self._offered.lines[trade_id])
            outcome.offered += 1
            outcome.acknowledged += trade_id in in_kafka
            if trade_id not in rows:
                outcome.lost += 1
                where = "not in the database" if trade_id in in_kafka else "not in Kafka"
                outcome.problems.append(f"trade {trade_id} was lost: {where}")
                continue
            outcome.stored += 1
            expected = trade
            if trade_id in self._kafka.backfilled:
                expected = trade._replace(best_bid=None, best_ask=None)
            outcome.problems += golden.row_problems(expected, rows[trade_id])
        for trade_id in sorted(rows.keys() - self._offered.trades.keys()):
            self._of_line(0).problems.append(f"trade {trade_id} is stored and was never issued")

    # --- the stream -------------------------------------------------------------------------

    def judge_windows(
        self,
        rows: Mapping[str, Sequence[Mapping[str, str]]],
        micro_batches: Sequence[MicroBatch],
    ) -> None:
        """Compare the windows of the stream with those of the trades in Kafka.

        Args:
            rows: the rows of all windows, final and open, by `window_start`.
            micro_batches: those that dropped records, as far as the stream recorded them.
        """
        trades: dict[int, list[golden.Trade]] = defaultdict(list)
        for trade in self._kafka.order:
            trades[trade.time // golden.MINUTE * golden.MINUTE].append(trade)
        left = dict(rows)
        right: dict[int, dict[str, object]] = {}
        scored: dict[int, tuple[str, Mapping[str, str]]] = {}
        for start, of_window in trades.items():
            name = golden.iso(start)
            outcome = self._of_trades(of_window)
            found = left.pop(name, [])
            if not found:
                if all(trade.trade_id in self._kafka.late for trade in of_window):
                    outcome.late += 1
                    continue
                outcome.missing += 1
                outcome.problems.append(f"window {name} is missing in the stream")
                continue
            counted = sum(int(row.get("trade_count") or 0) for row in found)
            outcome.doubled += max(0, counted - len(of_window))
            right[start], scored[start] = golden.metrics(of_window), (f"window {name}", found[0])
            problems = golden.window_problems(name, start, right[start], found[0])
            if len(found) > 1:
                problems.append(f"window {name} is in {len(found)} rows")
            if not problems:
                outcome.right += 1
            elif len(found) == 1 and self._lacks_only_late(
                start, of_window, found[0], micro_batches
            ):
                outcome.late += 1
            else:
                outcome.wrong += 1
                outcome.problems += problems
        at_end = self._of_line(2**62)
        for name in left:
            at_end.wrong += 1
            at_end.problems.append(f"window {name} has no trade in Kafka")
        at_end.problems += golden.z_problems(right, scored)  # a score depends on an hour of windows

    def _lacks_only_late(
        self,
        start: int,
        trades: Sequence[golden.Trade],
        row: Mapping[str, str],
        micro_batches: Sequence[MicroBatch],
    ) -> bool:
        """Return whether the row is right without late trades that the stream dropped."""
        for dropped in self._possibly_dropped(trades, micro_batches):
            kept = [trade for trade in trades if trade.trade_id not in dropped]
            if kept and str(len(kept)) == row.get("trade_count"):
                expected = golden.metrics(kept)
                if not golden.window_problems("", start, expected, row):
                    return True
        return False

    def _possibly_dropped(
        self, trades: Sequence[golden.Trade], micro_batches: Sequence[MicroBatch]
    ) -> Iterator[set[int]]:
        """Yield the sets of ids that the stream may have dropped. All of them arrived late.

        A micro-batch drops the trades before its watermark, which is a micro-batch old. If all late
        trades of a window are in one micro-batch, it drops those that are late by more than some
        time. If records were deleted in Kafka, the window lacks the newest instead. If the late
        trades are in several micro-batches, the stream's record of these micro-batches tells which.
        """
        late = [trade for trade in trades if trade.trade_id in self._kafka.late]
        for checkpoint in {each.checkpoint for each in micro_batches}:
            own = [each for each in micro_batches if each.checkpoint == checkpoint]
            yield {
                trade.trade_id
                for trade in late
                for each in own
                if each.first <= self._kafka.offsets[trade.trade_id] < each.end
                and trade.time <= each.watermark
            }
        for key in (lambda trade: -self._kafka.late[trade.trade_id], lambda t: -trades.index(t)):
            ordered = sorted(late, key=key)
            for count in range(1, len(ordered) + 1):
                yield {trade.trade_id for trade in ordered[:count]}

    # --- the batch --------------------------------------------------------------------------

    def judge_batch(self, runs: Iterable[Mapping[str, str]]) -> None:
        """Compare the row of every batch run with the trades that were stored when it began.

        The consumer stores the records in the order of their offsets, so a run over N rows must
        have read the first N trades in Kafka.
        """
        sums, done = golden.Sums(), 0
        order = self._kafka.order
        for row in sorted(runs, key=lambda row: int(row.get("rows") or 0)):
            count = int(row.get("rows") or 0)
            outcome = self._of_moment(_unix(row.get("snapshot_at", "")))
            for trade in order[done:count]:
                sums.add(trade)
            done = max(done, min(count, len(order)))
            if not 0 < count <= len(order):
                problems = [f"batch run {row.get('run')}: {count} rows, {len(order)} in Kafka"]
            else:
                problems = golden.cell_problems(f"batch run {row.get('run')}", sums.metrics(), row)
            outcome.batch_wrong += bool(problems)
            outcome.batch_right += not problems
            outcome.problems += problems

    def judge_log(self, log: str, names: set[str]) -> None:
        """Check that every run that the scheduler logged as successful has its result.

        Args:
            log: the content of `batch_log.txt`.
            names: the runs that have a file in `batch_output/`.
        """
        for line in log.splitlines():
            run = dict(field.partition("=")[::2] for field in line.split())
            if run.get("status") == "ok" and run.get("run") not in names:
                outcome = self._of_moment(_unix(run.get("started", "")))
                outcome.batch_wrong += 1
                outcome.problems.append(f"batch run {run.get('run')} is logged and has no result")


def _unix(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def window_rows(data_dir: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of all windows of the stream, final and open, by `window_start`."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    for path in (*sorted((data_dir / "stream_csv").glob("*.csv")), data_dir / "stream_live.csv"):
        for row in csv_rows(path):
            rows[row["window_start"]].append(row)
    return rows


def micro_batches(data_dir: Path) -> list[MicroBatch]:
    """Return the micro-batches that dropped records, as far as the stream recorded them."""
    found = []
    for row in csv_rows(data_dir / "status" / "stream_drops.csv"):
        watermark = golden.cell_time(row["watermark"] or "")
        if watermark is not None and row["checkpoint"]:
            limits = int(row["first_offset"]), int(row["end_offset"])
            found.append(MicroBatch(row["checkpoint"], *limits, watermark))
    return found


def batch_rows(data_dir: Path) -> list[dict[str, str]]:
    """Return the row of every batch run."""
    return [
        row for path in sorted((data_dir / "batch_output").glob("*.csv")) for row in csv_rows(path)
    ]


def order_problems(data_dir: Path) -> list[str]:
    """Return the files of final windows that are not sorted or hold a window of another day."""
    lines = []
    for path in sorted((data_dir / "stream_csv").glob("*.csv")):
        starts = [row["window_start"] for row in csv_rows(path)]
        if starts != sorted(starts) or {start[:10] for start in starts} - {path.stem}:
            lines.append(f"stream_csv/{path.name} is not sorted, or has windows of another day")
    return lines


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def unexplained_rejections(
    rejected: Iterable[bytes], sent: Iterable[bytes], possible: Iterable[bytes]
) -> list[str]:
    """Compare the dead-letter topic with the invalid messages that were sent to the producer.

    Args:
        rejected: the values of the dead-letter topic.
        sent: the messages that the lab itself sent while the producer was connected.
        possible: the messages of the recording, which the producer may have received.

    Returns:
        One line for each kind of difference.
    """
    expected = _invalid(sent)
    found = Counter(_beginning(str(json.loads(value).get("message"))) for value in rejected)
    lines = []
    if missing := expected - found:
        lines.append(f"{missing.total()} invalid messages have no dead letter: {min(missing)!r}")
    extra = found - expected
    if extra and (extra := extra - _invalid(possible)):
        lines.append(f"{extra.total()} dead letters were not expected: {min(extra)!r}")
    return lines


def _invalid(messages: Iterable[bytes]) -> Counter[str]:
    return Counter(
        _beginning(message.decode("utf-8", "backslashreplace"))
        for message in messages
        if is_invalid(message)
    )


def is_invalid(message: bytes) -> bool:
    """Return whether the producer must reject a message.

    A message of another type than `ticker` is not a trade. It is ignored, valid or not.
    """
    try:
        golden.trade_in(message, datetime.now(UTC))
    except golden.InvalidError:
        pass
    else:
        return False
    try:
        decoded = golden.strict_json(message)
    except golden.InvalidError:
        return True
    kind = decoded.get("type") if isinstance(decoded, dict) else None
    return not isinstance(kind, str) or kind == "ticker"


def _beginning(text: str) -> str:
    """Return the part of a message that its dead letter certainly has."""
    return text[:200]
