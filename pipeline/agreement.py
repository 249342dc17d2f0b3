"""Whether the two paths agree, window by window, and what a difference comes from: pure functions.

A cause is proved by trades that account for all of a difference. Times are the text of cells.
"""

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import pandas as pd

from pipeline.outputs import FURTHER, METRICS
from pipeline.tables import Evidence

#: Verdicts on a window, in the order in which a reader should look at them.
DIFFERS = "differs"
ONLY_STREAM = "only stream"
ONLY_BATCH = "only batch"
NOT_YET_FINAL = "not yet final"
NOT_YET_IN_A_BATCH = "not yet in a batch"
EQUAL = "equal"
VERDICTS = (DIFFERS, ONLY_STREAM, ONLY_BATCH, NOT_YET_FINAL, NOT_YET_IN_A_BATCH, EQUAL)
DIFFERENCES = (DIFFERS, ONLY_STREAM, ONLY_BATCH)

#: Causes of a difference, each proved by trades that account for all of it.
LATE = "late trades dropped by the watermark"
RECOVERED = "trades recovered after a gap, too late for the stream"
AFTER_SNAPSHOT = "trades stored after the batch's snapshot"
CONFLICT = "a repeated trade id with another content, which the stream no longer knew"
UNEXPLAINED = "unexplained"
#: Of a window on whose trades both agree, though the exchange issued more.
GAP = "a gap at the producer"

#: What both paths must agree on, to the last digit.
COMPARED = (*METRICS, *FURTHER, "last_trade_time")
COLUMNS = ("window_start", "verdict", "columns", "cause", "late", "doubled", "missing")
#: Trades of which it must be tried out whether the stream has them, at most: each doubles the work.
_TRIED = 14


def agreement(
    final: pd.DataFrame,
    still_open: pd.DataFrame,
    batch: pd.DataFrame,
    newest_in_batch: str | None,
    evidence: Evidence,
) -> pd.DataFrame:
    """One verdict for each window that either path knows, and the cause of each difference.

    Args:
        final: the stream's final windows, as the text of their cells.
        still_open: its open ones.
        batch: the newest run's windows.
        newest_in_batch: time of the newest trade in that run; None without a run.
        evidence: what the consumer noted.

    Returns:
        A row a window, sorted: `window_start`, `verdict`, `columns` (which differ, as text),
        `cause` (of a difference, or of trades that both paths miss), `late` and `doubled` (trades
        that the stream dropped, or counted twice), `missing` (ids never seen around this window,
        at most). A window is `not yet in a batch` as long as the run has seen no trade after its
        end.
    """
    streamed = final.set_index("window_start")
    batched = batch.set_index("window_start")
    opened = set(still_open["window_start"]) - set(streamed.index)
    starts = sorted(set(streamed.index) | opened | set(batched.index))
    common = streamed.index.intersection(batched.index)
    left = streamed.loc[common, list(COMPARED)]
    unequal = left.ne(batched.loc[common, list(COMPARED)])
    differing = {
        start: ", ".join(unequal.columns[row])
        for start, row in zip(common, unequal.to_numpy(), strict=True)
        if row.any()
    }
    ends: dict[str, str] = {}
    for known in (batched, streamed):
        ends.update(zip(known.index, known["window_end"], strict=True))
    in_stream, in_batch = set(streamed.index), set(batched.index)
    missing = _missing(evidence.gaps, starts, ends)
    newest_in_stream = max([*in_stream, *opened], default="")
    newest = None if newest_in_batch is None else _comparable(newest_in_batch)
    rows = []
    for start in starts:
        end = ends.get(start)
        covered = newest is not None and end is not None and newest >= _comparable(end)
        columns, proof = differing.get(start, ""), _NO_CAUSE
        if start in opened or start > newest_in_stream:  # it has not come so far
            verdict = NOT_YET_FINAL
        elif start not in in_stream:
            verdict = ONLY_BATCH
        elif columns == "" and start in in_batch:
            verdict = EQUAL
        elif not covered:
            verdict = NOT_YET_IN_A_BATCH
        else:
            verdict = DIFFERS if start in in_batch else ONLY_STREAM
        if verdict in DIFFERENCES:
            proof = _proof(
                start,
                ends[start],
                _counted(streamed.loc[start]) if start in in_stream else _NOTHING,
                _counted(batched.loc[start]) if start in in_batch else _NOTHING,
                evidence,
            )
        elif start in missing:
            proof = Proof(GAP)
        found = (proof.cause, proof.late, proof.doubled, missing.get(start, 0))
        rows.append((start, verdict, columns, *found))
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True)
class Proof:
    """The cause of a difference, and by how many trades of which kind."""

    cause: str
    #: Dropped by the stream, as late.
    late: int = 0
    #: Counted twice by the stream: repeats with another content.
    doubled: int = 0


_NO_CAUSE = Proof("")


#: Trades, buys and volume of a window or of some trades: what a set of trades must account for.
_Amount = tuple[int, int, Decimal]
_NOTHING: _Amount = (0, 0, Decimal(0))


def _counted(window: "pd.Series[str]") -> _Amount:
    return int(window["trade_count"]), int(window["buy_count"]), Decimal(window["total_volume"])


def _plus(one: _Amount, other: _Amount, sign: int = 1) -> _Amount:
    return one[0] + sign * other[0], one[1] + sign * other[1], one[2] + sign * other[2]


def _proof(start: str, end: str, stream: _Amount, batch: _Amount, evidence: Evidence) -> Proof:
    """Which trades account for the whole difference, to the last digit.

    Trades that came late may have been dropped by the stream or not, and a repeat may have been
    forgotten or not: that is tried out. What was stored after the snapshot is no question.
    """
    late = _trades_of(evidence.late, start, end)
    after = _trades_of(evidence.after_snapshot, start, end)
    conflicts = _trades_of(evidence.conflicts, start, end)
    # Batch less stream: what the stream dropped, less what came after the snapshot, less repeats.
    wanted = _plus(batch, stream, -1)
    for amount in after.values():
        wanted = _plus(wanted, amount)
    questions = [(LATE, number, amount, 1) for number, amount in late.items()]
    questions += [(CONFLICT, number, amount, -1) for number, amount in conflicts.items()]
    for answers in _answers(len(questions)):
        reached = _NOTHING
        for question, answer in zip(questions, answers, strict=True):
            if answer:
                reached = _plus(reached, question[2], question[3])
        if reached == wanted:
            taken = [
                question for question, answer in zip(questions, answers, strict=True) if answer
            ]
            return _summed_up(taken, set(after), evidence.gaps)
    return Proof(UNEXPLAINED)


def _summed_up(
    taken: Sequence[tuple[str, int, _Amount, int]], after: set[int], gaps: pd.DataFrame
) -> Proof:
    dropped = [number for kind, number, _, _ in taken if kind == LATE]
    doubled = [number for kind, number, _, _ in taken if kind == CONFLICT]
    causes = {RECOVERED if _was_recovered(gaps, number) else LATE for number in dropped}
    if doubled:
        causes.add(CONFLICT)
    if after - {*dropped, *doubled}:
        causes.add(AFTER_SNAPSHOT)
    cause = "; ".join(sorted(causes)) or UNEXPLAINED
    return Proof(cause, len(dropped), len(doubled))


def _answers(questions: int) -> Iterator[Sequence[bool]]:
    """Which of so many trades to take: all of them first; every choice as long as there are few."""
    yield [True] * questions
    if questions <= _TRIED:
        yield from itertools.product([True, False], repeat=questions)
        return
    # Late trades are dropped from a moment on: those that came first may still have counted.
    for kept in range(1, questions + 1):
        yield [False] * kept + [True] * (questions - kept)


def _trades_of(trades: pd.DataFrame, start: str, end: str) -> dict[int, _Amount]:
    lower, upper = _comparable(start), _comparable(end)
    inside = trades[(trades["time"] >= lower) & (trades["time"] < upper)]
    return {
        number: (1, int(side == "buy"), size)
        for number, side, size in zip(
            inside["trade_id"], inside["side"], map(_decimal, inside["last_size"]), strict=True
        )
    }


def _comparable(cell: str) -> str:
    """A window's edge as the table writes times, with six decimals."""
    return cell if "." in cell else f"{cell[:-1]}.000000Z"


def _decimal(size: float) -> Decimal:
    return Decimal(repr(size))


def _was_recovered(gaps: pd.DataFrame, number: int) -> bool:
    inside = (gaps["first_trade_id"] <= number) & (gaps["last_trade_id"] >= number)
    return bool((inside & gaps["filled"]).any())


def _missing(gaps: pd.DataFrame, starts: Sequence[str], ends: Mapping[str, str]) -> dict[str, int]:
    """How many ids were never seen around each window: they lie between two stored trades."""
    found: Counter[str] = Counter()
    edges = [_comparable(start) for start in starts]
    unfilled = gaps[~gaps["filled"].astype(bool)]
    names = ["first_trade_id", "last_trade_id", "after", "before"]
    for first, last, after, before in unfilled[names].itertuples(index=False):
        for place in range(max(0, bisect_right(edges, after) - 1), bisect_right(edges, before)):
            if starts[place] in ends and _comparable(ends[starts[place]]) > after:
                found[starts[place]] += last - first + 1
    return dict(found)
