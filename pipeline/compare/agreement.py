"""Compare the two paths window by window. Pure. Times are text in the format of the files."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.compare.causes import (
    GAP,
    REJECTED,
    Explanation,
    candidates_by_checkpoint,
    explain,
)
from pipeline.compare.inputs import Evidence
from pipeline.compare.window_difference import comparable_time
from pipeline.metrics.definitions import FURTHER, METRICS

#: The statuses of a window, the most important one first.
DIFFERS = "differs"
ONLY_STREAM = "only stream"
ONLY_BATCH = "only batch"
NOT_YET_FINAL = "not yet final"
NOT_YET_IN_A_BATCH = "not yet in a batch"
EQUAL = "equal"
STATUSES = (DIFFERS, ONLY_STREAM, ONLY_BATCH, NOT_YET_FINAL, NOT_YET_IN_A_BATCH, EQUAL)
DIFFERENCES = (DIFFERS, ONLY_STREAM, ONLY_BATCH)

#: The columns that must be equal on both paths, to the last digit.
COMPARED = (*METRICS, *FURTHER, "last_trade_time")
COLUMNS = (
    "window_start",
    "status",
    "columns",
    "cause",
    "late",
    "doubled",
    "deleted",
    "unexplained",
    "missing",
)


def agreement(
    final: pd.DataFrame,
    still_open: pd.DataFrame,
    batch: pd.DataFrame,
    newest_in_batch: str | None,
    evidence: Evidence,
) -> pd.DataFrame:
    """Return the status of each window of either path, and the cause of each difference.

    Args:
        final: the final windows of the stream, as text cells.
        still_open: the open windows of the stream, as text cells.
        batch: the windows of the newest batch run, as text cells.
        newest_in_batch: the time of the newest trade in that run; None without a run.
        evidence: what the services recorded that can make the paths differ.

    Returns:
        One row per window, sorted by start.

        - `window_start`, `status`.
        - `columns`: the names of the columns that differ, separated by commas.
        - `cause`: the cause of a difference, or of trades that neither path has.
        - `late`: the number of trades that the stream dropped as late.
        - `doubled`: the number of trades that the stream counted twice.
        - `deleted`: the number of trades that Kafka deleted before the stream read them.
        - `unexplained`: trades in the batch minus trades in the stream, if the cause is unknown.
        - `missing`: the number of ids that were never stored in or next to this window. An id
          between two windows counts for both.

        A window is `not yet in a batch` until the run has a trade at or after the end of it.
    """
    streamed, batched = (table.set_index("window_start") for table in (final, batch))
    only_open = set(still_open["window_start"]) - set(streamed.index)
    starts = sorted({*streamed.index, *only_open, *batched.index})
    differing = _differing_columns(streamed, batched)
    ends: dict[str, str] = {}
    for known in (batched, streamed):
        ends.update(zip(known.index, known["window_end"], strict=True))
    progress = _Progress(
        in_stream=frozenset(streamed.index),
        in_batch=frozenset(batched.index),
        only_open=frozenset(only_open),
        newest_in_stream=max([*streamed.index, *only_open], default=""),
        newest_in_batch=None if newest_in_batch is None else comparable_time(newest_in_batch),
    )
    missing = _missing_by_window(evidence, starts, ends)
    candidates = candidates_by_checkpoint(evidence)
    rows = []
    for start in starts:
        columns, explanation = differing.get(start, ""), Explanation("")
        status = progress.status(start, ends.get(start), columns)
        if status in DIFFERENCES:
            explanation = explain(
                (_row(streamed, start), _row(batched, start)),
                columns,
                [each.between(start, ends[start]) for each in candidates],
                evidence,
                evidence.replaced.get(start, ()),
            )
        lost = missing.get(start, _MissingIds())
        causes = [cause for cause in (explanation.cause, lost.cause) if cause]
        numbers = (
            explanation.late,
            explanation.counted_twice,
            explanation.deleted,
            explanation.unexplained,
            lost.ids,
        )
        rows.append((start, status, columns, "; ".join(causes), *numbers))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _differing_columns(streamed: pd.DataFrame, batched: pd.DataFrame) -> dict[str, str]:
    """Return the names of the columns that differ, by the start of each window that differs."""
    common = streamed.index.intersection(batched.index)
    unequal = streamed.loc[common, list(COMPARED)].ne(batched.loc[common, list(COMPARED)])
    return {
        start: ", ".join(unequal.columns[row])
        for start, row in zip(common, unequal.to_numpy(), strict=True)
        if row.any()
    }


def _row(windows: pd.DataFrame, start: str) -> Mapping[str, str] | None:
    if start not in windows.index:
        return None
    return dict(zip(windows.columns, windows.loc[start], strict=True))


@dataclass(frozen=True)
class _Progress:
    """Which windows each path has, by their start."""

    #: Final windows of the stream, and windows of the newest batch run.
    in_stream: frozenset[str]
    in_batch: frozenset[str]
    #: Windows of the stream that are not final.
    only_open: frozenset[str]
    newest_in_stream: str
    #: The time of the newest trade in the batch run, comparable as text. None: no run.
    newest_in_batch: str | None

    def status(self, start: str, end: str | None, differing: str) -> str:
        """Return the status of a window.

        Args:
            start: the start of the window.
            end: the end of the window. None: unknown, because it is only open.
            differing: the columns that differ. Empty: none, or only one path has the window.
        """
        if start in self.only_open or start > self.newest_in_stream:
            return NOT_YET_FINAL
        if start not in self.in_stream:
            return ONLY_BATCH
        if differing == "" and start in self.in_batch:
            return EQUAL
        newest = self.newest_in_batch
        if newest is None or end is None or newest < comparable_time(end):
            return NOT_YET_IN_A_BATCH
        return DIFFERS if start in self.in_batch else ONLY_STREAM


def rejected_ids(evidence: Evidence) -> int:
    """Return the number of ids that were never stored because their messages were rejected."""
    return sum(rejected for _, rejected, _, _ in _never_stored(evidence))


def _never_stored(evidence: Evidence) -> Iterator[tuple[int, int, str, str]]:
    """Yield for each open gap: ids, rejected ids, and the times of the trades around it, sorted."""
    rejected = sorted(evidence.rejected)
    unfilled = evidence.gaps[~evidence.gaps["filled"].astype(bool)]
    names = ["first_trade_id", "last_trade_id", "after", "before"]
    for first, last, *around in unfilled[names].itertuples(index=False):
        earlier, later = sorted(around)  # trade ids and times may be in a different order
        count = bisect_right(rejected, last) - bisect_left(rejected, first)
        yield last - first + 1, count, earlier, later


@dataclass
class _MissingIds:
    """The number of missing ids in or next to a window, and how many of them were rejected."""

    ids: int = 0
    rejected: int = 0

    @property
    def cause(self) -> str:
        causes = [(GAP, self.ids > self.rejected), (REJECTED, self.rejected > 0)]
        return "; ".join(cause for cause, holds in causes if holds)


def _missing_by_window(
    evidence: Evidence, starts: Sequence[str], ends: Mapping[str, str]
) -> dict[str, _MissingIds]:
    """Return the missing ids by window start. A gap counts for each window that it touches."""
    found: dict[str, _MissingIds] = defaultdict(_MissingIds)
    edges = [comparable_time(start) for start in starts]
    for ids, rejected, after, before in _never_stored(evidence):
        for place in range(max(0, bisect_right(edges, after) - 1), bisect_right(edges, before)):
            if starts[place] in ends and comparable_time(ends[starts[place]]) > after:
                found[starts[place]].ids += ids
                found[starts[place]].rejected += rejected
    return found
