"""The comparison as a list of sections, which the terminal, the report and the page render.

Sections hold only text, so they can be stored as JSON (`dataclasses.asdict`). Their size is
bounded: a long list is cut, and its title gives the number of all entries.
"""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.compare.agreement import EQUAL, STATUSES, rejected_ids
from pipeline.compare.agreement_grid import (
    MISSING,
    SYMBOLS,
    differing_values,
    grid_layout,
    symbol_of,
)
from pipeline.compare.comparison import Comparison
from pipeline.compare.completeness import LOSSES, STORED_OF_ISSUED
from pipeline.compare.decision import detection_section, frontier_section, watermark_section
from pipeline.compare.formatting import (
    UNKNOWN,
    confidence_interval,
    count,
    length,
    number,
    percent,
    seconds,
    window_time,
)
from pipeline.compare.modes import READS
from pipeline.compare.section import Section, Table
from pipeline.compare.summary import NO_AGES, NO_AGES_YET, forecast
from pipeline.compare.totals import UNUSUAL_Z
from pipeline.compare.tradeoffs import aspects
from pipeline.metrics.definitions import BEARISH, BULLISH, HIGH, LABELS, SPIKE
from pipeline.settings import units_text

#: Maximum number of windows or gaps in a table.
MAX_LISTED = 50


def sections(comparison: Comparison) -> tuple[Section, ...]:
    """Return what the comparison found."""
    return (
        frontier_section(comparison),
        _overview(comparison),
        _agreement(comparison),
        _freshness(comparison),
        _latency(comparison),
        detection_section(comparison),
        watermark_section(comparison),
        _completeness(comparison),
        _cost(comparison),
        _growth(comparison),
        _micro_batches(comparison),
        _metrics(comparison),
    )


def _overview(comparison: Comparison) -> Section:
    table = aspects(comparison)
    return Section(
        key="overview",
        title="Overview",
        how_to_read=(
            "The table gives the measured values for seven common aspects of the choice between "
            "stream and batch."
        ),
        tables=(Table("", tuple(table.columns), _texts(table), text_columns=4),),
    )


def _agreement(comparison: Comparison) -> Section:
    windows, noteworthy = comparison.agreement, comparison.noteworthy
    counts = windows["status"].value_counts()
    rows = [(SYMBOLS[name], name, f"{int(counts.get(name, 0)):,}") for name in STATUSES]
    lacking = int(((windows["status"] == EQUAL) & (windows["cause"] != "")).sum())
    if lacking:
        rows.append(
            (MISSING, f"{EQUAL}, but both paths lack trades (included above)", f"{lacking:,}")
        )
    tables = [Table("Windows by status", ("symbol", "status", "windows"), tuple(rows), 2)]
    lines, note = [], ""
    if comparison.compared and noteworthy.empty:
        lines.append("No differences and no missing trades.")
    if len(noteworthy):
        tables.append(_noteworthy_windows(comparison))
    if len(windows):
        shape = grid_layout(windows, comparison.window)
        note = (
            f"A cell covers {length(shape.cell)} of event time. A row covers {length(shape.row)}."
        )
        if shape.cell > comparison.window:
            note += " A cell shows the worst status among its windows."
        if lacking:
            note += f" {MISSING} marks an equal window for which both paths lack trades."
    return Section(
        key="agreement",
        title="Agreement",
        how_to_read=(
            "The windows of both paths are compared digit by digit. Every window has one status. "
            "A cause is named only if individual trades, or different thresholds of the two paths, "
            "account for the whole difference."
        ),
        lines=tuple(lines),
        tables=tuple(tables),
        figure_note=note,
        figure_alt="One cell per window, coloured by status",
    )


#: Columns of the agreement that count trades, and their labels.
_TRADES = (
    ("late", "dropped as late"),
    ("doubled", "counted twice"),
    ("deleted", "deleted in Kafka"),
    ("missing", "missing in both"),
)


def _noteworthy_windows(comparison: Comparison) -> Table:
    noteworthy = comparison.noteworthy
    shown = noteworthy.head(MAX_LISTED)
    values = differing_values(shown, comparison.stream_windows, comparison.outputs.batch)
    rows = [
        (
            window_time(row["window_start"]),
            f"{symbol_of(row['status'], row['cause'])} {row['status']}",
            row["cause"] or UNKNOWN,
            ", ".join(f"{row[name]:,} {label}" for name, label in _TRADES if row[name]) or UNKNOWN,
            value,
        )
        for row, value in zip(shown.to_dict("records"), values, strict=True)
    ]
    return Table(
        _cut("Windows that differ or lack trades, most severe first", len(shown), len(noteworthy)),
        (LABELS["window_start"], "status", "cause", "trades affected", "values (stream / batch)"),
        tuple(rows),
        text_columns=5,
    )


def _freshness(comparison: Comparison) -> Section:
    lines = []
    if comparison.replayed_as_recorded:
        lines.append(NO_AGES)
    elif not any(comparison.freshness.values()):
        lines.append(NO_AGES_YET)
    elif comparison.span:
        lines.append(
            f"Measured from {comparison.span[0]:%Y-%m-%d %H:%M:%S} to "
            f"{comparison.span[1]:%Y-%m-%d %H:%M:%S} UTC, while both paths had results."
        )
    names = ("median", "mean", "p99", "maximum", "known_seconds")
    rows = [
        (name, *(seconds(getattr(found, of, None)) for of in names))
        for name, found in comparison.freshness.items()
    ]
    return Section(
        key="freshness",
        title="Freshness",
        how_to_read=(
            "The age of the newest trade visible to a reader. It rises by one second per second "
            "until the next result arrives. Lower is fresher. An age that includes time in which "
            "a service of its path was stopped is left out. The mean and the percentiles are "
            "weighted by time: an age that lasts two seconds counts twice as much as one that "
            "lasts one second."
        ),
        lines=tuple(lines),
        tables=(
            Table("", ("result", "median", "mean", "p99", "maximum", "measured over"), tuple(rows)),
        ),
        figure_note="Logarithmic scale. A line is interrupted where its ages are left out.",
        figure_alt="Age of the newest trade in each result over time",
    )


def _latency(comparison: Comparison) -> Section:
    rows = [
        (leg, seconds(median), seconds(p99), f"{trades:,}" if trades else UNKNOWN)
        for leg, trades, median, p99 in comparison.waterfall.itertuples(index=False)
    ]
    ends = [
        (result, seconds(median), seconds(p99), f"{trades:,}" if trades else UNKNOWN)
        for result, trades, median, p99 in comparison.end_to_end.itertuples(index=False)
    ]
    return Section(
        key="latency",
        title="Latency",
        how_to_read=(
            "The time that a trade spends in each step. Event times come from the exchange's "
            "clock. A negative first step means that the exchange's clock is ahead of the clock of "
            "this machine. A negative last step means that the batch had the trades before their "
            "window was final. When a service has stopped, latencies are left out until every "
            "result contains a trade that is newer than the stop. Percentiles of the steps come "
            "from a histogram and are accurate to within 12 %. End to end, the trades between two "
            "publications are assumed to be evenly spread."
        ),
        tables=(
            Table("Steps", ("step", "median", "p99", "trades"), tuple(rows)),
            Table(
                "End to end: from the event to each result",
                ("result", "median", "p99", "trades"),
                tuple(ends),
            ),
        ),
        figure_note=(
            "A bar starts where the bar of the step before it ends. Both steps that begin with "
            "“received” start at the same place. The length of a bar is the median. The thin line "
            "ends at the p99."
        ),
        figure_alt="The steps of a trade as bars, one after the other",
    )


def _completeness(comparison: Comparison) -> Section:
    stages = comparison.funnel.set_index("stage")
    wholes = {"of_issued": 0, "of_received": 0}
    if STORED_OF_ISSUED in stages.index:
        of_issued: Any = stages.loc[STORED_OF_ISSUED]
        wholes["of_issued"] = of_issued["drawn_from"]
        wholes["of_received"] = of_issued["count"] + of_issued["rejected"]
    rows = [
        (
            str(stage),
            losses_text(row),
            f"{row['drawn_from']:,}",
            f"{row['count']:,}",
            percent(row["count"], row["drawn_from"]),
            *(
                UNKNOWN if pd.isna(row[name]) else percent(row["count"], whole)
                for name, whole in wholes.items()
            ),
        )
        for stage, row in stages.to_dict("index").items()
    ]
    lines = [] if rows else ["No counts yet. They appear when the producer receives a trade."]
    tables = [
        Table(
            "",
            (
                *("step", "not kept", "input", "kept"),
                *("share of input", "share of issued ids", "share of received ids"),
            ),
            tuple(rows),
            text_columns=2,
        )
    ]
    gaps = comparison.outputs.evidence.gaps
    if comparison.outputs.ingest_counts is None:
        lines.append("Gaps in the trade ids are unknown until the first trade is stored.")
    elif gaps.empty:
        lines.append("No trade id is missing.")
    else:
        tables.append(_missing_trades(comparison))
        tables.append(_gaps(gaps, comparison.outputs.evidence.rejected))
    found = comparison.backfill
    if found.last_error:
        when = window_time(found.last_error_time)
        lines.append(f"Last error while recovering trades ({when} UTC): {found.last_error}")
    return Section(
        key="completeness",
        title="Completeness",
        how_to_read=(
            "The number of trades that each step keeps. In each row, the input equals the trades "
            "kept plus those not kept. The exchange numbers its trades without gaps, so an id "
            "that lies between two stored ids and never arrived is missing. The counts cover all "
            "stored trades, not only those of the selected time range. The first row covers only "
            "the time since the last start of the producer."
        ),
        lines=tuple(lines),
        tables=tuple(tables),
        figure_note="A full bar means that the step kept its whole input.",
        figure_alt="The share of its input that each step kept",
    )


def _missing_trades(comparison: Comparison) -> Table:
    """Return how many trade ids are missing, and how many are in each state of the recovery."""
    found, gaps = comparison.backfill, comparison.outputs.evidence.gaps
    ids = gaps["last_trade_id"] - gaps["first_trade_id"] + 1
    filled = gaps["filled"].astype(bool)
    missing, rejected = int(ids[~filled].sum()), rejected_ids(comparison.outputs.evidence)
    in_recovery = found.in_progress and min(found.in_progress, missing - rejected)
    not_in_recovery = None if in_recovery is None else missing - rejected - in_recovery
    since = "since the last start of the producer"
    rows = [
        ("missing", missing),
        ("missing: being recovered", in_recovery),
        ("missing: messages rejected", rejected),
        ("missing: not being recovered", not_in_recovery),
        ("received later", int(ids[filled].sum())),
        (f"recovered over REST {since}", found.recovered),
        (f"too old or not served by the exchange {since}", found.not_served),
    ]
    return Table(
        "Missing trades",
        ("state", "trade ids"),
        tuple((name, number(value, ",.0f")) for name, value in rows),
    )


#: The labels of the losses that have another name.
_LOSSES = {
    "repeated": "duplicates",
    "late": "dropped as late",
    "deleted": "deleted in Kafka",
    "unexplained": "with unknown cause",
    "not_yet": "not yet processed",
}
#: The label of a negative loss: the stage counted more trades than its input has.
_GAINS = {"not_yet": "not yet in the input", "repeated": "counted twice"}
_GAIN = "more than the input (cause unknown)"


def losses_text(row: Mapping[Any, Any]) -> str:
    """Return the losses of a stage as text: `3 duplicates, 12 not yet processed`."""
    parts = []
    for name in LOSSES:
        value = row[name]
        if pd.isna(value) or not value:
            continue
        reason = _GAINS.get(name, _GAIN) if value < 0 else _LOSSES.get(name, name)
        parts.append(f"{abs(value):,.0f} {reason}")
    return ", ".join(parts) or "none"


def _gaps(gaps: pd.DataFrame, rejected: frozenset[int]) -> Table:
    newest = gaps.sort_values("first_trade_id", ascending=False).head(MAX_LISTED)
    rows = []
    for gap in newest.to_dict("records"):
        first, last = gap["first_trade_id"], gap["last_trade_id"]
        rejected_here = sum(first <= number <= last for number in rejected)
        rows.append(
            (
                f"{first}" if first == last else f"{first} to {last}",
                _gap_state(filled=gap["filled"], ids=last - first + 1, rejected=rejected_here),
                *(window_time(gap[name]) if gap[name] else UNKNOWN for name in ("after", "before")),
                f"{last - first + 1:,}",
            )
        )
    return Table(
        _cut("Gaps in the trade ids", len(newest), len(gaps)),
        ("trade ids", "state", "previous trade (UTC)", "next trade (UTC)", "ids"),
        tuple(rows),
        text_columns=4,
    )


def _gap_state(*, filled: bool, ids: int, rejected: int) -> str:
    if filled:
        return "received later"
    if rejected == ids:
        return "messages rejected"
    return f"missing, {rejected:,} of them rejected" if rejected else "missing"


#: Rows of the table of costs: column, label with unit, format.
_COSTS = (
    ("cpu_s_per_hour", "CPU seconds per hour", ",.0f"),
    ("cpu_s_per_answer", "CPU seconds per result", ",.2f"),
    ("cpu_s_per_million", "CPU seconds per million rows read", ",.0f"),
    ("idle_cpu_s_per_hour", "CPU seconds per hour when idle", ",.0f"),
    ("peak_mib", "peak memory, MiB", ",.0f"),
    ("answers", "results in the measured time", ",.0f"),
)


def _cost(comparison: Comparison) -> Section:
    costs = comparison.cost.set_index("path")
    rows = []
    for name, label, pattern in _COSTS:
        stream, batch = (float(costs[name][path]) for path in ("stream", "batch"))
        ratio = stream / batch if batch else None
        rows.append((label, number(stream, pattern), number(batch, pattern), number(ratio, ",.1f")))
    parts = [
        (part, number(of, ".2f"), number(share * 100, ".0f", " %"))
        for part, of, share in comparison.run_parts.itertuples(index=False)
    ]
    return Section(
        key="cost",
        title="Cost",
        how_to_read=(
            "The table shows the CPU time and the memory of each path, for its whole process tree "
            "including the JVM. It covers the recorded minutes in which both paths had results. "
            "When a service has stopped, minutes are left out until every result contains a trade "
            "that is newer than the stop. A result is one final window of the stream or one run of "
            f"the batch. {READS[comparison.mode]} Memory that several processes share is counted "
            "once for each process. Producer, Kafka and consumer are excluded."
        ),
        tables=(
            Table("", ("cost", "stream", "batch", "stream ÷ batch"), tuple(rows)),
            Table(
                f"Parts of a batch run (mode {comparison.mode})",
                ("part", "median, s", "share"),
                tuple(parts),
            ),
        ),
        figure_alt="CPU seconds per hour and peak memory of both paths as bars",
    )


def _growth(comparison: Comparison) -> Section:
    growth, rows = comparison.growth, []
    if growth:
        base, slope, interval = UNKNOWN, UNKNOWN, UNKNOWN
        if growth.has_trend:
            base, slope = f"{growth.base_s:,.2f}", f"{growth.s_per_million:,.2f}"
            interval = confidence_interval(growth.low, growth.high, ",.2f")
        rows = [
            ("batch mode", comparison.mode),
            ("runs", f"{growth.runs:,}"),
            ("run time with an empty table (from the trend), s", base),
            ("increase per million rows, s", slope),
            ("95 % confidence interval of the increase, s", interval),
        ]
    return Section(
        key="growth",
        title="Batch run time",
        how_to_read=(
            f"{READS[comparison.mode]} The trend is a robust fit (Theil-Sen) over all successful "
            f"runs of the mode {comparison.mode}, not only those of the selected time range."
        ),
        lines=(forecast(growth, comparison.interval_s),),
        tables=(Table("", ("measure", "value"), tuple(rows)),),
        figure_note=(
            "A point is one run. Solid line: the trend, if there is one. Dashed line: the "
            "forecast. Horizontal line: the interval between runs. A forecast or an interval far "
            "outside of the measured values is not drawn."
        ),
        figure_alt="Run time of each batch run against the rows in the table",
    )


def _micro_batches(comparison: Comparison) -> Section:
    steady, rows = comparison.steadiness, []
    if steady is None:
        line = "No micro-batch yet. The first one appears when the stream reads a trade."
    else:
        rows = [
            ("micro-batches", f"{steady.micro_batches:,}"),
            ("median, ms", f"{steady.median_ms:,.0f}"),
            ("p99, ms", f"{steady.p99_ms:,.0f}"),
            ("trades", f"{steady.trades:,}"),
            (
                "change of the median over these trades, ms",
                number(steady.change_ms, "+,.0f"),
            ),
            (
                "95 % confidence interval of the change, ms",
                confidence_interval(steady.low, steady.high, "+,.0f"),
            ),
        ]
        line = "No trend yet. It needs more minutes of data."
        if rows[-1][1] != UNKNOWN and steady.low is not None and steady.high is not None:
            flat = steady.low <= 0 <= steady.high
            way = "increase" if steady.low > 0 else "decrease"
            line = "No significant trend." if flat else f"The duration of micro-batches {way}s."
    return Section(
        key="micro_batches",
        title="Micro-batch duration",
        how_to_read=(
            "The stream keeps only the sums of each window, so a micro-batch should not take "
            "longer as the number of trades grows."
        ),
        lines=(line,),
        tables=(Table("", ("measure", "value"), tuple(rows)),),
        figure_note="Median and p99 of each minute. A flat line means no slowdown.",
        figure_alt="Micro-batch duration by minute",
    )


#: Rows of the table of classifications: column, label, format.
_FLAGS = (
    ("windows", "all windows", ",.0f"),
    ("high", f"{LABELS['volatility_flag']}: {HIGH}", ",.0f"),
    ("spike", f"{LABELS['volume_spike']}: {SPIKE}", ",.0f"),
    ("bullish", f"{LABELS['market_sentiment']}: {BULLISH}", ",.0f"),
    ("bearish", f"{LABELS['market_sentiment']}: {BEARISH}", ",.0f"),
    ("scored", "windows with a z-score", ",.0f"),
    ("range_stands_out", "unusual range", ",.0f"),
    ("volume_stands_out", "unusual volume", ",.0f"),
    ("imbalance", "median absolute volume imbalance", ".3f"),
)


def _metrics(comparison: Comparison) -> Section:
    flags = comparison.flags.set_index("path").astype(float)
    flags.loc[flags["scored"] == 0, ["range_stands_out", "volume_stands_out"]] = math.nan
    classified = [
        (label, *(number(flags[name][path], pattern) for path in ("stream", "batch")))
        for name, label, pattern in _FLAGS
    ]
    shared, product = comparison.shared, comparison.outputs.source.get("product")
    totals = [
        (LABELS[metric], *(number(n, ",.10g") for n in values), _difference(difference))
        for metric, *values, difference in shared.totals.itertuples(index=False)
    ]
    return Section(
        key="metrics",
        title="Metrics",
        how_to_read=(
            f"Fixed thresholds ({HIGH}, {SPIKE}, {BULLISH}, {BEARISH}) fit the market that they "
            "were set for. A z-score fits any market: it compares a window's range or volume with "
            f"the windows of the previous hour. A z-score above {UNUSUAL_Z:g} is unusual. Both "
            "paths use the same definitions. The tables cover the windows of the selected time "
            "range that both paths have."
        ),
        lines=(units_text(product),) if isinstance(product, str) else (),
        tables=(
            Table(
                f"All trades of the {count(shared.windows, 'window')} that both paths have",
                ("metric", "stream", "batch", "stream − batch"),  # noqa: RUF001 - a minus is meant
                tuple(totals),
            ),
            Table(
                "Windows by classification",
                ("classification", "stream", "batch"),
                tuple(classified),
            ),
        ),
        figure_note="Triangles mark unusual windows.",
        figure_alt="Z-scores of range and volume by window",
    )


def _difference(value: float) -> str:
    return "=" if value == 0 else number(value, "+,.4g")


def _cut(title: str, shown: int, total: int) -> str:
    """Return the title of a list that may have been cut."""
    return f"{title}: {total:,}" if shown == total else f"{title}: first {shown:,} of {total:,}"


def _texts(table: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(str, row)) for row in table.itertuples(index=False))
