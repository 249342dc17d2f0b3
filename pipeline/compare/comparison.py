"""The comparison of the two paths: everything that is measured, in one object."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from pipeline.compare.agreement import DIFFERENCES, EQUAL, agreement, rejected_ids
from pipeline.compare.agreement_grid import ONE_MINUTE
from pipeline.compare.causes import NOT_RECORDED, UNEXPLAINED
from pipeline.compare.completeness import Backfill, backfill, funnel
from pipeline.compare.cost import cost, run_parts
from pipeline.compare.detection import Detection, detection
from pipeline.compare.end_to_end import end_to_end, of_micro_batches, of_runs, of_windows
from pipeline.compare.freshness import (
    BATCH,
    RESULTS,
    SERVICES_OF,
    STREAM_FINAL,
    STREAM_OPEN,
    Freshness,
    freshness,
    publications,
    sawtooth,
)
from pipeline.compare.frontier import Frontier, frontier
from pipeline.compare.growth import (
    Growth,
    Steadiness,
    by_minute,
    growth,
    rows_per_second,
    steadiness,
)
from pipeline.compare.inputs import PipelineOutputs
from pipeline.compare.latency import waterfall
from pipeline.compare.modes import FULL, Mode, modes, of_mode
from pipeline.compare.output_files import typed, window_length
from pipeline.compare.stops import gaps, overlap, stops, without_stops
from pipeline.compare.totals import SharedTotals, flags, shared_totals, shared_windows
from pipeline.compare.watermark import Watermarks, watermarks
from pipeline.compare.window_difference import comparable_time
from pipeline.outputs import RUN_OK, part
from pipeline.settings import is_cluster
from pipeline.times import iso


@dataclass(frozen=True)
class Comparison:
    """Everything that is measured about the two paths."""

    #: What the comparison was made from.
    outputs: PipelineOutputs
    #: The time over which ages and latencies are measured. None: one path has no result yet.
    span: tuple[datetime, datetime] | None
    #: The feed replays old trades with their original timestamps, so ages are unknown.
    replayed_as_recorded: bool
    #: The stream runs on a Spark cluster, whose executors the services cannot measure.
    on_cluster: bool
    #: Seconds from the start of one batch run to the start of the next.
    interval_s: float
    agreement: pd.DataFrame
    #: Trade ids around these windows that were never stored: not received, or rejected.
    missing: int
    backfill: Backfill
    #: By result. None: unknown.
    freshness: dict[str, Freshness | None]
    #: By result, as `sawtooth` returns them, without stopped time.
    teeth: dict[str, pd.DataFrame]
    waterfall: pd.DataFrame
    #: From the event of a trade to each result: `result`, `trades`, `median`, `p99`.
    end_to_end: pd.DataFrame
    watermarks: Watermarks
    funnel: pd.DataFrame
    cost: pd.DataFrame
    run_parts: pd.DataFrame
    #: The mode of the newest successful run, and the successful runs of this mode: `started`,
    #: `rows`, `wall_s`, ….
    mode: str
    runs: pd.DataFrame
    detection: Detection
    #: The modes of the batch that have run.
    modes: tuple[Mode, ...]
    #: What each result costs and how old it is.
    frontier: Frontier
    growth: Growth | None
    micro_batches: pd.DataFrame
    steadiness: Steadiness | None
    flags: pd.DataFrame
    #: Over the windows of the selected time range that both paths have.
    shared: SharedTotals
    #: The stream's final windows, typed.
    windows: pd.DataFrame

    @property
    def stream_windows(self) -> pd.DataFrame:
        """Return the windows of the stream as the text of their cells, final ones first."""
        return pd.concat([self.outputs.final, self.outputs.still_open], ignore_index=True)

    @property
    def window(self) -> timedelta:
        """Return the length of the windows; one minute if there is none."""
        outputs = self.outputs
        return window_length(outputs.batch, outputs.final, outputs.still_open) or ONE_MINUTE

    @property
    def unexplained(self) -> int:
        """Return the number of windows that differ for an unknown reason."""
        return int(self.agreement["cause"].str.contains(UNEXPLAINED, regex=False).sum())

    @property
    def in_recovery(self) -> int:
        """Return how many of the missing trade ids the producer recovers now."""
        return min(self.missing, self.backfill.in_progress or 0)

    @property
    def decided(self) -> pd.DataFrame:
        """Return the windows that both paths have finished: equal or different."""
        return self.agreement[self.agreement["status"].isin([EQUAL, *DIFFERENCES])]

    @property
    def differing(self) -> pd.DataFrame:
        """Return the windows that both paths have finished and that differ."""
        return self.agreement[self.agreement["status"].isin(DIFFERENCES)]

    @property
    def unrecorded(self) -> int:
        """Return the number of windows that differ and whose evidence was not recorded."""
        return int(self.differing["cause"].str.contains(NOT_RECORDED, regex=False).sum())

    @property
    def compared(self) -> int:
        """Return the number of windows that both paths have finished."""
        return len(self.decided)

    @property
    def noteworthy(self) -> pd.DataFrame:
        """Return the windows that differ or lack trades, in the order a reader needs.

        First those without a known cause, then the other differences, then windows whose missing
        trades neither path has; the newest first in each group.
        """
        differ = self.agreement["status"].isin(DIFFERENCES)
        newest_first = self.agreement[differ | (self.agreement["cause"] != "")].iloc[::-1]
        unexplained = newest_first["cause"].str.contains(UNEXPLAINED, regex=False)
        rank = 2 - 2 * unexplained - 1 * newest_first["status"].isin(DIFFERENCES)
        return newest_first.loc[rank.sort_values(kind="stable").index]


def batch_interval_s(status: Mapping[str, Mapping[str, Any]], default: float) -> float:
    """Return the interval of the batch runs, in seconds.

    Args:
        status: The services' status files. The scheduler's holds the interval it runs with.
        default: The interval by this process's settings, used if the scheduler's is unknown.
    """
    interval = part(status["batch_scheduler"], "settings").get("batch_interval_seconds")
    return float(interval) if isinstance(interval, int | float) and interval > 0 else default


def _on_cluster(status: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the stream runs on a Spark cluster, according to its status file."""
    master = part(status["spark_processor"], "settings").get("spark_master")
    return isinstance(master, str) and is_cluster(master)


def compare(outputs: PipelineOutputs, default_interval_s: float) -> Comparison:
    """Compare the two paths.

    Args:
        outputs: What the services wrote.
        default_interval_s: The batch interval, used if the scheduler's status file lacks it.
    """
    runs, log = outputs.runs, _started_since(outputs.log, outputs.since)
    final, still_open, batch = map(typed, (outputs.final, outputs.still_open, outputs.batch))
    newest = None if runs.empty else iso(runs["last_trade_time"].iloc[-1])
    all_windows = agreement(
        outputs.final, outputs.still_open, outputs.batch, newest, outputs.evidence
    )
    since = _first_window(outputs, final, still_open, batch)
    shown, shown_final = _selected(all_windows, final, since)
    shared = shared_windows(final, batch, shown)
    teeth = _teeth(outputs)
    ages = {name: freshness(teeth[name]) if teeth else None for name in RESULTS}
    final_age = ages[STREAM_FINAL]
    regular = _regular_work(outputs, final, log, teeth)
    costs = cost(regular.minutes, regular.log, regular.publications)
    starts = outputs.final.loc[regular.final.index, "window_start"]
    interval_s = batch_interval_s(outputs.status, default_interval_s)
    succeeded = outputs.log[outputs.log["status"] == RUN_OK]
    found_modes = modes(succeeded)
    mode = found_modes[0].name if found_modes else FULL
    of_one_mode = of_mode(succeeded, mode)
    return Comparison(
        outputs=outputs,
        span=outputs.span,
        replayed_as_recorded=outputs.replayed_as_recorded,
        on_cluster=_on_cluster(outputs.status),
        interval_s=interval_s,
        agreement=shown,
        missing=missing_ids(outputs.evidence.gaps, shown),
        backfill=backfill(outputs.status),
        freshness=ages,
        teeth=teeth,
        waterfall=waterfall(
            outputs.latencies,
            regular.micro_batches,
            regular.window_latencies,
            regular.final,
            runs,
            replayed_as_recorded=outputs.replayed_as_recorded,
        ),
        end_to_end=end_to_end(
            {
                STREAM_OPEN: of_micro_batches(regular.micro_batches),
                STREAM_FINAL: of_windows(regular.final),
                BATCH: regular.runs,
            }
            if teeth
            else {}
        ),
        watermarks=watermarks(
            outputs.lags,
            outputs.status,
            None if final_age is None else final_age.median,
            is_live_pace=not outputs.replayed_as_recorded,
        ),
        funnel=funnel(
            outputs.ingest_counts,
            outputs.status,
            _trades_in_stream(final, still_open),
            all_windows,
            None if runs.empty else int(runs["rows"].iloc[-1]),
            rejected_ids=rejected_ids(outputs.evidence),
        ),
        cost=costs,
        run_parts=run_parts(of_mode(log, mode)),
        mode=mode,
        runs=of_one_mode,
        detection=detection(
            outputs.alerts,
            outputs.crossings,
            regular.final.assign(window_start=starts),
            {
                "stream": final.assign(window_start=outputs.final["window_start"]),
                "batch": batch.assign(window_start=outputs.batch["window_start"]),
            },
            outputs.source,
        ),
        modes=found_modes,
        frontier=frontier(
            found_modes, succeeded, runs, ages=ages, cost=costs, interval_s=interval_s
        ),
        growth=growth(of_one_mode, interval_s, rows_per_second(runs), runs["written_at"].max()),
        micro_batches=by_minute(regular.micro_batches),
        steadiness=steadiness(regular.micro_batches),
        flags=flags(shared),
        shared=shared_totals(shared, shown),
        windows=shown_final,
    )


def _started_since(log: pd.DataFrame, since: datetime | None) -> pd.DataFrame:
    return log if since is None else log[log["started"] >= since]


def _teeth(outputs: PipelineOutputs) -> dict[str, pd.DataFrame]:
    """Return the ages of each result, without stopped time; empty if ages are not measured."""
    if outputs.span is None or outputs.replayed_as_recorded:
        return {}
    return {
        name: without_stops(
            sawtooth(table, *outputs.span),
            stops(SERVICES_OF[name], outputs.minutes, outputs.status),
        )
        for name, table in publications(outputs).items()
    }


@dataclass(frozen=True)
class _RegularWork:
    """What the services did while they ran regularly: the basis of latencies and costs."""

    #: Final windows, typed.
    final: pd.DataFrame
    #: When they were published.
    publications: pd.Series
    micro_batches: pd.DataFrame
    window_latencies: pd.DataFrame
    minutes: Mapping[str, pd.DataFrame]
    #: The batch log.
    log: pd.DataFrame
    #: The publications of the batch: see `end_to_end.of_runs`.
    runs: pd.DataFrame


def _regular_work(
    outputs: PipelineOutputs,
    final: pd.DataFrame,
    log: pd.DataFrame,
    teeth: Mapping[str, pd.DataFrame],
) -> _RegularWork:
    """Return the work within the span, without the time from a stop until newer results.

    Before the span and after a stop, the paths catch up. That work is not part of latencies or
    regular costs. If ages are not measured, all work counts.
    """
    minutes, micro_batches, since = outputs.minutes, outputs.micro_batches, outputs.since
    if since:
        minutes = {name: table[table["at"] >= since] for name, table in minutes.items()}
    span, published = outputs.span, final["written_at"]
    runs = of_runs(outputs.runs)
    if span is None or not teeth:
        return _RegularWork(
            final, published, micro_batches, outputs.window_latencies, minutes, log, runs
        )
    pauses = gaps(teeth, span[1])
    at = micro_batches["published_at"]
    in_pause = overlap(final["window_start"], published, pauses)
    recent = final[(final["window_start"] >= span[0]) & ~in_pause]
    starts = outputs.final.loc[recent.index, "window_start"]
    latencies = outputs.window_latencies
    return _RegularWork(
        final=recent,
        publications=published[published.between(*span)],
        micro_batches=micro_batches[(at >= span[0]) & ~overlap(at, at, pauses)],
        window_latencies=latencies[latencies["window_start"].isin(starts)],
        minutes={name: _within(table, span, pauses) for name, table in minutes.items()},
        log=log[log["started"] >= span[0]],
        runs=runs[(runs["at"] >= span[0]) & ~overlap(runs["oldest"], runs["at"], pauses)],
    )


def _first_window(outputs: PipelineOutputs, *tables: pd.DataFrame) -> datetime | None:
    """Return the start of the selected time range; None: everything.

    It is an event time. If a recording is replayed as recorded, event times differ from the clock.
    """
    if not (outputs.since and outputs.last):
        return None
    newest: datetime = max(table["window_end"].max() for table in tables if len(table))
    return newest - outputs.last


def _selected(
    windows: pd.DataFrame, final: pd.DataFrame, since: datetime | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the windows of the selected time range: of the agreement, and the final ones."""
    if since is None:
        return windows, final
    selected = windows[windows["window_start"] >= iso(since)].reset_index(drop=True)
    return selected, final[final["window_start"] >= since]


def _trades_in_stream(final: pd.DataFrame, still_open: pd.DataFrame) -> int:
    """Return the number of trades in final and open windows."""
    only_open = ~still_open["window_start"].isin(final["window_start"])
    return int(final["trade_count"].sum() + still_open[only_open]["trade_count"].sum())


def missing_ids(gaps: pd.DataFrame, shown: pd.DataFrame) -> int:
    """Return the number of trade ids in the open gaps that reach into the windows shown."""
    if shown.empty or gaps.empty:
        return 0
    reach = gaps["before"].fillna("") >= comparable_time(shown["window_start"].iloc[0])
    missing = gaps[reach & ~gaps["filled"].astype(bool)]
    return int((missing["last_trade_id"] - missing["first_trade_id"] + 1).sum())


def _within(
    minutes: pd.DataFrame, span: tuple[datetime, datetime], pauses: pd.DataFrame
) -> pd.DataFrame:
    """Return the rows of a minute record that began within a span and lie outside of all pauses."""
    if minutes.empty:
        return minutes
    begins = minutes["at"] - pd.to_timedelta(minutes["seconds"], unit="s")
    return minutes[begins.between(*span) & ~overlap(begins, minutes["at"], pauses)]
