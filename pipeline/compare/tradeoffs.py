"""The measured values for seven common aspects of the choice between stream and batch."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from pipeline.compare.agreement import EQUAL
from pipeline.compare.comparison import Comparison
from pipeline.compare.completeness import IN_BATCH, IN_STREAM, STORED_OF_ISSUED
from pipeline.compare.formatting import (
    UNKNOWN,
    confidence_interval,
    count,
    number,
    percent,
    seconds,
)
from pipeline.compare.freshness import BATCH, STREAM_FINAL, STREAM_OPEN
from pipeline.compare.latency import STEPS
from pipeline.compare.modes import READS
from pipeline.compare.totals import UNUSUAL_Z
from pipeline.metrics.definitions import BEARISH, BULLISH, HIGH, SPIKE

#: Columns of the table of aspects.
ASPECTS = ("aspect", "stream", "batch", "note")


def aspects(comparison: Comparison) -> pd.DataFrame:
    """Return the measured values for seven common aspects of the choice between stream and batch.

    Returns:
        One row per aspect, with the columns `ASPECTS`, as text.
    """
    rows = [
        _latency_aspect(comparison),
        _granularity_aspect(comparison),
        _processing_aspect(comparison),
        _resource_aspect(comparison),
        _use_case_aspect(comparison),
        _completeness_aspect(comparison),
        _interpretation_aspect(comparison),
    ]
    return pd.DataFrame(rows, columns=list(ASPECTS))


_Aspect = tuple[str, str, str, str]


def _aspect_of_both(
    name: str, table: pd.DataFrame, text: Callable[[Mapping[Any, Any]], str], note: str
) -> _Aspect:
    """Return an aspect whose two texts come from a table with one row per path."""
    rows = table.set_index("path").to_dict("index")
    return name, text(rows["stream"]), text(rows["batch"]), note


def _latency_aspect(comparison: Comparison) -> _Aspect:
    steps = comparison.waterfall.set_index("leg")

    def step(place: int) -> str:
        row = steps.loc[STEPS[place]]
        return f"median {seconds(row['median'])} (p99 {seconds(row['p99'])})"

    return (
        "latency",
        f"Receipt to open window: {step(2)}. Open to final window: {step(3)}.",
        f"Final window to batch result: {step(4)}.",
        "A negative time means that the batch had the trades before the window was final.",
    )


def _granularity_aspect(comparison: Comparison) -> _Aspect:
    return (
        "granularity",
        "One result per window. Each micro-batch replaces the open windows.",
        f"Each run: one result per window and one over the whole table ({_rows(comparison)}).",
        "Both paths produce the same windows. They differ in when a window can be read.",
    )


def _rows(comparison: Comparison) -> str:
    """Return the rows that the newest run covers: `1 row`, `12,000 rows`."""
    rows = UNKNOWN if comparison.runs.empty else number(comparison.runs["rows"].iloc[-1], ",.0f")
    return f"{rows} row" if rows == "1" else f"{rows} rows"


def _processing_aspect(comparison: Comparison) -> _Aspect:
    steady, growth = comparison.steadiness, comparison.growth
    stream = batch = UNKNOWN
    if steady:
        stream = f"Micro-batch: median {steady.median_ms:,.0f} ms (p99 {steady.p99_ms:,.0f} ms)."
        if steady.change_ms is not None:
            interval = confidence_interval(steady.low, steady.high, "+,.0f", " ms")
            stream += (
                f" Change over {steady.trades:,} trades: {steady.change_ms:+,.0f} ms "
                f"(95 % confidence interval: {interval})."
            )
    if len(comparison.runs):
        walls = comparison.runs["wall_s"]
        batch = (
            f"Last run: {number(walls.iloc[-1], '.1f', ' s')} ({_rows(comparison)}, mode "
            f"{comparison.mode}). "
            f"Median: {number(walls.median(), '.1f', ' s')}."
        )
        if growth and growth.has_trend:
            interval = confidence_interval(growth.low, growth.high, "+,.2f", " s")
            batch += (
                f" Growth per million rows: {growth.s_per_million:+,.2f} s "
                f"(95 % confidence interval: {interval})."
            )
    return (
        "processing time",
        stream,
        batch,
        f"{READS[comparison.mode]} A micro-batch reads only new trades.",
    )


def _resource_aspect(comparison: Comparison) -> _Aspect:
    def text(row: Mapping[Any, Any]) -> str:
        return (
            f"CPU seconds: {number(row['cpu_s_per_hour'], ',.0f')} per hour, "
            f"{number(row['cpu_s_per_answer'], ',.1f')} per result, "
            f"{number(row['cpu_s_per_million'], ',.0f')} per million rows read. "
            f"Peak memory: {number(row['peak_mib'], ',.0f', ' MiB')}."
        )

    note = "Each path counts its whole process tree, including the JVM."
    return _aspect_of_both("resource use", comparison.cost, text, note)


def _use_case_aspect(comparison: Comparison) -> _Aspect:
    opened, final, batch = (
        comparison.freshness[name] for name in (STREAM_OPEN, STREAM_FINAL, BATCH)
    )
    stream = []
    if opened:
        stream.append(f"Open windows, if a result may be {seconds(opened.p99)} old.")
    if final:
        stream.append(
            f"Final windows, if a result may be {seconds(final.p99)} old and must not change."
        )
    return (
        "use cases",
        " ".join(stream) or UNKNOWN,
        (
            f"Batch results, if a result may be {seconds(batch.p99)} old and must cover the whole "
            "history."
        )
        if batch
        else UNKNOWN,
        "Each age is the p99 over the selected time range.",
    )


def _completeness_aspect(comparison: Comparison) -> _Aspect:
    stages = comparison.funnel.set_index("stage")
    equal = int((comparison.agreement["status"] == EQUAL).sum())

    def counted(stage: str) -> str:
        share = UNKNOWN
        if stage in stages.index:
            share = percent(stages["count"][stage], stages["drawn_from"][STORED_OF_ISSUED])
        return f"{share} of the issued trades counted."

    return (
        "completeness",
        counted(IN_STREAM),
        counted(IN_BATCH),
        (
            f"{equal:,} of {count(comparison.compared, 'window')} identical to the last digit. "
            f"Differences with unknown cause: {comparison.unexplained:,}."
        )
        if comparison.compared
        else "No window to compare yet.",
    )


def _interpretation_aspect(comparison: Comparison) -> _Aspect:
    def text(row: Mapping[Any, Any]) -> str:
        classified = (
            f"{count(row['windows'], 'window')}: {row['high']:,} {HIGH}, {row['spike']:,} {SPIKE}, "
            f"{row['bullish']:,} {BULLISH}, {row['bearish']:,} {BEARISH}."
        )
        if not row["scored"]:
            return f"{classified} No window has enough history for a z-score."
        return (
            f"{classified} {count(row['scored'], 'window')} with enough history for a z-score: "
            f"unusual range in {row['range_stands_out']:,}, unusual volume in "
            f"{row['volume_stands_out']:,}."
        )

    note = (
        "Fixed thresholds fit the market that they were set for. A z-score above "
        f"{UNUSUAL_Z:g} is unusual compared with the previous hour."
    )
    return _aspect_of_both("interpretation", comparison.flags, text, note)
