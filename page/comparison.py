"""The comparison section: its texts and tables."""

import math
from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import Any

from page import agreement_strip, formatting
from page.comparison_data import ComparisonData
from page.comparison_worker import OLD_SECONDS, LatestComparison
from page.elements import Level
from page.formatting import DASH, TIMES
from pipeline.compare.agreement import EQUAL, VERDICTS
from pipeline.compare.freshness import BATCH, STREAM_FINAL, STREAM_OPEN, Freshness
from pipeline.compare.growth import Steadiness
from pipeline.compare.summary import TITLES as ANSWER_TITLES
from pipeline.compare.summary import Finding

#: The colour of an answer's box.
LEVELS: Mapping[str, Level] = {"fine": "info", "note": "warning", "alarm": "error"}


# --- answers --------------------------------------------------------------------------------


def answers(latest: LatestComparison) -> tuple[Finding, ...]:
    """Return the answers to the questions about the two paths, or placeholders."""
    if latest.data is not None:
        return latest.data.answers
    waiting = "…" if latest.asked_at else DASH
    return tuple(Finding(question, waiting, "") for question in ANSWER_TITLES)


def age(latest: LatestComparison, now: datetime) -> str:
    """Return how old the comparison is, or for how long the first one has been running."""
    if latest.data is not None:
        old = " A newer one follows." if is_old(latest, now) else ""
        return f"Compared {formatting.ago(latest.data.made_at, now)}.{old}"
    if latest.problem:
        return ""
    waited = max(0.0, formatting.seconds_since(latest.asked_at, now) or 0.0)
    return f"First comparison running ({formatting.age(waited)})."


def is_old(latest: LatestComparison, now: datetime) -> bool:
    """Return whether the newest comparison is too old to describe the present."""
    found = latest.data
    return found is not None and (now - found.made_at).total_seconds() > OLD_SECONDS


def problem(latest: LatestComparison, now: datetime) -> str:
    """Return why there is no comparison or no newer one; empty if the last attempt succeeded."""
    if not latest.problem:
        return ""
    which = "No newer comparison" if latest.data else "No comparison"
    why = formatting.text(latest.problem)
    return f"{which}: {why} (last attempt {formatting.ago(latest.tried_at, now)})."


def section_caption(latest: LatestComparison, now: datetime) -> str:
    """Return what the comparison covers and how old it is."""
    found = latest.data
    if found is None:
        return problem(latest, now) or age(latest, now)
    over = ""
    if found.span:
        start, end = map(formatting.day_and_clock, found.span)
        over = f" Ages and latencies: {start} to {end} UTC."
    return f"Same windows from both paths, compared digit by digit. {age(latest, now)}{over}"


# --- agreement ------------------------------------------------------------------------------


def agreement_caption(found: ComparisonData) -> str:
    """Return how to read the agreement strip."""
    shape = found.layout
    if found.cells.empty:
        return "No window yet. The first trade opens a window."
    grouping = ""
    if shape.cell > found.window:
        grouping = " It shows the worst verdict among its windows."
    return (
        f"Each cell covers {formatting.duration(shape.cell)} of event time, each row "
        f"{formatting.duration(shape.row)}.{grouping} Hover over a cell for counts, differences "
        "and cause."
    )


def legend(found: ComparisonData, colors: Mapping[str, str]) -> str:
    """Return the legend of the agreement strip as HTML.

    Hand-made: a legend of the chart could not count windows without a new drawing each time.
    """
    items = [
        (colors[name], agreement_strip.SYMBOLS[name], name, found.counts.get(name))
        for name in reversed(VERDICTS)
    ]
    if found.equal_but_missing:
        label = "of them, trades missing in both"
        items.insert(1, (colors[EQUAL], agreement_strip.MISSING, label, found.equal_but_missing))
    html = "".join(
        f'<li><span class="p-cell" style="background:{color}">{symbol}</span>'
        f"{escape(label)} <b>{formatting.count(count)}</b></li>"
        for color, symbol, label, count in items
    )
    return f'<ul class="p-legend">{html}</ul>'


DIFFERING_HEADS = ("window (UTC)", "verdict", "stream / batch", "cause")


def differing_caption(found: ComparisonData) -> str:
    """Return how many windows differ or miss trades."""
    if not found.all_differing:
        return "No differences, no missing trades." if found.compared else ""
    explained = (
        f"{found.unexplained:,} without a known cause" if found.unexplained else "all explained"
    )
    which = f"{formatting.many(found.all_differing, 'window')} with differences or missing trades"
    newest = ""
    if len(found.differing) < found.all_differing:
        newest = f" The table shows the newest {len(found.differing)}."
    return f"{which}, {explained}.{newest}"


def differing_rows(found: ComparisonData) -> list[tuple[str, str, str, str]]:
    """Return the newest windows that differ or miss trades."""
    return [
        (
            _time(row["window"]),
            f"{agreement_strip.SYMBOLS[row['verdict']]} {row['verdict']}",
            row["values"],
            row["cause"] or DASH,
        )
        for row in found.differing.to_dict("records")
    ]


# --- freshness, latency, completeness, cost -------------------------------------------------


def ages_caption(found: ComparisonData) -> str:
    """Return how to read the chart of ages, or why there is none."""
    if found.replayed_as_recorded:
        return "Not measured: this replay keeps the recording's original timestamps."
    if found.span is None:
        return "No ages yet. They appear after the second result of each path."
    return (
        "How old the newest visible trade is. It rises until the next result arrives. The scale is "
        "logarithmic."
    )


AGES_HEADS = ("result", "median", "mean", "p99", "maximum")


def ages_rows(found: ComparisonData) -> list[tuple[str, ...]]:
    """Return the age of the newest visible trade in each result."""
    return [
        (
            name,
            *(_age(found.freshness.get(name), of) for of in ("median", "mean", "p99", "maximum")),
        )
        for name in (STREAM_OPEN, STREAM_FINAL, BATCH)
    ]


def _age(fresh: Freshness | None, name: str) -> str:
    return formatting.age(getattr(fresh, name) if fresh else None)


STEPS_CAPTION = (
    "Time that a trade spends in each step (bar: median, line: p99). A bar to the left: the batch "
    "had the trades before their window was final."
)
STEPS_HEADS = ("step", "median", "p99", "trades")


def steps_rows(found: ComparisonData) -> list[tuple[str, ...]]:
    """Return the latency of each step."""
    return [
        (
            str(row["leg"]),
            formatting.latency(formatting.number(row["median"])),
            formatting.latency(formatting.number(row["p99"])),
            formatting.count(row["trades"]),
        )
        for row in found.waterfall.to_dict("records")
    ]


STAGES_CAPTION = "How many trades survive each step. A full bar means that none is lost."
STAGES_HEADS = ("stage", "share", "trades")


def stages_rows(found: ComparisonData) -> list[tuple[str, ...]]:
    """Return how many trades survive each stage."""
    rows: list[tuple[str, ...]] = []
    for row in found.funnel.to_dict("records"):
        count, of = formatting.number(row["count"]), formatting.number(row["drawn_from"])
        share = kept_share(int(count), int(of)) if count is not None and of else DASH
        rows.append((str(row["stage"]), share, str(row["said"])))
    return rows


def kept_share(count: int, of: int) -> str:
    """Return a share in percent, rounded down: 100 % are all of them."""
    return f"{10_000 * count // of / 100:.2f} %"


COST_CAPTION = (
    "CPU and memory of each path with its JVM, in the minutes since both paths had results. A "
    "result is one final window (stream) or one run (batch). Producer, Kafka and consumer are "
    "excluded."
)
COST_HEADS = ("resource", "stream", "batch", "stream / batch")
_COSTS = (
    ("cpu_s_per_hour", "CPU seconds per hour", ",.0f"),
    ("cpu_s_per_answer", "CPU seconds per result", ",.1f"),
    ("cpu_s_per_million", "CPU seconds per million rows read", ",.0f"),
    ("idle_cpu_s_per_hour", "CPU seconds per hour when idle", ",.0f"),
    ("peak_mib", "peak memory, MiB", ",.0f"),
    ("answers", "results", ",.0f"),
)


def cost_rows(found: ComparisonData) -> list[tuple[str, ...]]:
    """Return the cost of each path."""
    by_path = found.cost.set_index("path")
    rows = []
    for name, label, pattern in _COSTS:
        stream, batch = (formatting.number(by_path.at[path, name]) for path in ("stream", "batch"))
        factor = f"{stream / batch:,.1f}{TIMES}" if stream and batch else DASH
        written = (DASH if value is None else format(value, pattern) for value in (stream, batch))
        rows.append((label, *written, factor))
    return rows


# --- growth ---------------------------------------------------------------------------------


def growth_caption(found: ComparisonData) -> str:
    """Return when the batch will be too slow, and how to read the chart."""
    how = "Point: a run"
    if found.growth_is_drawn:
        how += ". Line: trend of all runs"
        limit = found.growth.rows_at_limit if found.growth else None
        if limit is not None and limit > found.most_rows:
            how += (
                ". Dashed: forecast"
                if found.forecast_is_drawn
                else ". The forecast is too far away"
            )
    if found.limit_is_drawn:
        how += ". Red: interval"
    return f"{found.growth_said} {how}."


def micro_batches_caption(steady: Steadiness | None) -> str:
    """Return whether the stream's micro-batches become slower."""
    if steady is None:
        return "No micro-batch recorded yet. The stream writes its first record after one minute."
    text = (
        f"Duration of a micro-batch: median {steady.median_ms:,.0f} ms, p99 "
        f"{steady.p99_ms:,.0f} ms. "
    )
    change, low, high = steady.change_ms, steady.low, steady.high
    if change is None or low is None or high is None or not math.isfinite(low + high):
        text += "Too few minutes for a trend. "
    else:
        trend = "No significant trend" if low <= 0 <= high else "Significant trend"
        text += (
            f"{trend}: {change:+,.0f} ms over {steady.trades:,} trades "
            f"(95 % interval {low:+,.0f} to {high:+,.0f} ms). "
        )
    return text + "Flat: no slowdown as data grows."


# --- aspects and gaps -----------------------------------------------------------------------

ASPECTS_CAPTION = "Stream and batch in seven aspects, as measured here."
GAP_HEADS = ("trade ids", "count", "previous trade (UTC)", "next trade (UTC)", "state")


def gaps_caption(found: ComparisonData | None) -> str:
    """Return how many gaps in the trade ids there are."""
    if found is None:
        return "Gaps: available after the first comparison."
    if found.all_gaps is None:
        return f"Gaps: {DASH}. The consumer finds them when it stores trades."
    if not found.all_gaps:
        return "No missing trade ids."
    newest = (
        ""
        if len(found.gaps) == found.all_gaps
        else f" The table shows the newest {len(found.gaps)}."
    )
    return f"{formatting.many(found.all_gaps, 'gap')} in the trade ids.{newest}"


def gap_rows(found: ComparisonData | None) -> list[tuple[str, ...]]:
    """Return the newest gaps in the trade ids."""
    return [
        (
            f"{row['first']} to {row['last']}" if row["ids"] > 1 else f"{row['first']}",
            formatting.count(row["ids"]),
            _time(row["after"]),
            _time(row["before"]),
            _gap_state(row),
        )
        for row in (found.gaps.to_dict("records") if found and found.all_gaps else ())
    ]


def _gap_state(gap: Mapping[Any, Any]) -> str:
    if gap["filled"]:
        return "● filled later"
    if gap["rejected"] == gap["ids"]:
        return "✕ rejected messages"
    more = f", {formatting.count(gap['rejected'])} in rejected messages" if gap["rejected"] else ""
    return f"✕ missing{more}"


def _time(text: object) -> str:
    return formatting.day_and_clock(formatting.moment(text))
