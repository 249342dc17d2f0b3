"""The sections that help to choose: which path, interval and watermark."""

import math
from dataclasses import dataclass
from datetime import timedelta

from pipeline.compare.comparison import Comparison
from pipeline.compare.detection import Detection
from pipeline.compare.formatting import UNKNOWN, count, length, number, of_a_core, seconds
from pipeline.compare.freshness import BATCH, MIN_AGE_SECONDS, STREAM_OPEN
from pipeline.compare.frontier import LARGER, BatchModel, Frontier
from pipeline.compare.inputs import MAX_ALERTS
from pipeline.compare.modes import RECENT_RUNS, Mode
from pipeline.compare.section import Section, Table
from pipeline.compare.summary import (
    FULL_MINUTE,
    NO_AGES,
    NO_COST,
    all_windows,
    cost_sentence,
    differences,
    freshness,
)
from pipeline.compare.watermark import Watermarks
from pipeline.ingest.lags import LONGEST
from pipeline.metrics.definitions import HIGH, SPIKE

#: Accepted ages for which the cheapest result is listed, in seconds.
ACCEPTED_AGES = (2, 5, 10, 30, 60, 120, 300, 600, 1800)
#: The accepted age for which a sentence names the cheapest result.
ACCEPTED_AGE_SECONDS = 30
#: Intervals for which the model of the batch is listed, in seconds.
INTERVALS = (10, 30, 60, 120, 300, 600, 1800, 3600)


@dataclass(frozen=True)
class Choice:
    """The cheapest result with an accepted age."""

    result: str
    #: The mode and the interval of the batch. None: it is a result of the stream.
    mode: str | None
    interval_s: float | None
    age_s: float
    cpu_s_per_hour: float


def cheapest(found: Frontier, accepted_age_s: float) -> Choice | None:
    """Return the cheapest result whose median age is accepted; None if every result is older."""
    choices = [
        Choice(result, None, None, age_s, cost)
        for result, age_s, cost in found.measured.itertuples(index=False)
        if result != BATCH and age_s <= accepted_age_s
    ]
    # The stream's results cost the same: the open windows are fresher.
    choices = [choice for choice in choices if choice.result == STREAM_OPEN] or choices
    for model in found.today:
        interval = model.interval_for_age(accepted_age_s)
        if interval is not None:
            costs = model.cpu_s_per_hour(interval)
            choices.append(Choice(BATCH, model.mode, interval, model.age_s(interval), costs))
    return min(choices, key=lambda choice: choice.cpu_s_per_hour, default=None)


def headline(comparison: Comparison) -> str:
    """Return whether the paths agree, which one is fresher, and at what cost."""
    if comparison.span is None:
        return "Nothing to compare yet."
    return " ".join(filter(None, [_agreement(comparison), _fresher(comparison)]))


def _agreement(comparison: Comparison) -> str:
    windows = comparison.compared
    if not windows:
        return "No window is final and in a batch result yet."
    if comparison.differing.empty:
        return f"Both paths agree on {all_windows(windows)}."
    return f"{differences(comparison)}."


def _fresher(comparison: Comparison) -> str:
    """Return which path is fresher and what it costs; empty if the ages are unknown."""
    text = freshness(comparison).short
    if text == UNKNOWN:
        return ""
    stream, batch = _stream_point(comparison.frontier), comparison.frontier.point(BATCH)
    if not (stream and batch and batch[1] > 0):
        return f"{text}."
    return f"{text}. {cost_sentence(stream[1], batch[1], 'the batch')}"


def frontier_section(comparison: Comparison) -> Section:
    """Return what each result costs and how old it is, and which one to choose."""
    found = comparison.frontier
    header = ("accepted age", "cheapest result", "median age", "CPU s/hour", "share of a core")
    choices = [
        (length(timedelta(seconds=age)), *_choice_cells(found, cheapest(found, age)))
        for age in ACCEPTED_AGES
        if _stream_point(found)
    ]
    model = (
        *("interval", "median age", "CPU s/hour"),
        *(f"median age, {LARGER}x rows", f"CPU s/hour, {LARGER}x rows"),
    )
    tables = (
        Table(
            "The cheapest result by accepted median age", header, tuple(choices), text_columns=2
        ),
        Table(
            "Computed median age and cost of the batch by interval",
            model,
            tuple(_interval_rows(found)),
        ),
        Table(
            "Batch modes: rows of the newest run, medians of the newest "
            f"{RECENT_RUNS} runs or fewer, growth per million rows",
            (
                "mode", "runs", "rows", "run time", "CPU s", "peak MiB", "time growth, s",
                "CPU growth, s",
            ),
            tuple(map(_mode_cells, comparison.modes)),
        ),
    )  # fmt: skip
    lines: tuple[str, ...] = (*frontier_sentences(found), *filter(None, [choice_sentence(found)]))
    if comparison.on_cluster:
        lines = (NO_COST,)
    if comparison.replayed_as_recorded:
        lines = (NO_AGES,)
    return Section(
        key="frontier",
        title="Which path and interval",
        how_to_read=(
            "The chart shows the median age of each result against its CPU cost. Points are "
            "measured. The curve is computed for a batch at every interval, from back-to-back runs "
            "to one hour. Its cost is the CPU time of one run divided by the interval. Its median "
            "age is the age at publication plus half the interval. For a table with "
            f"{LARGER} times the rows, run time and CPU time come from the measured trend. Without "
            "a trend, these values are unknown. One process computes the open and the final "
            "windows, so both have the cost of the whole process."
        ),
        lines=lines,
        tables=tables if found.today else (),
        figure_note=(
            "Lower and further to the left is better. Points are measured"
            f"{', lines are the model' if found.today else ''}. Both scales are logarithmic."
        ),
        figure_alt="Median age of each result against its CPU seconds per hour",
    )


def _batch_name(found: Frontier, mode: str) -> str:
    """Return what a batch is called: with its mode if several have run."""
    return f"{mode} batch" if found.several_modes else "batch"


def _every(interval_s: float) -> str:
    """Return an interval, rounded down so that the result is not older: `36 s`, `3.9 s`."""
    if interval_s >= 10:
        return f"{math.floor(interval_s):,} s"
    return f"{math.floor(10 * interval_s) / 10:.1f} s"


def _choice_cells(found: Frontier, choice: Choice | None) -> tuple[str, str, str, str]:
    if choice is None:
        return "no result is this fresh", UNKNOWN, UNKNOWN, UNKNOWN
    name = choice.result
    if choice.mode is not None and choice.interval_s is not None:
        name = f"{_batch_name(found, choice.mode)} every {_every(choice.interval_s)}"
    cost = choice.cpu_s_per_hour
    return name, seconds(choice.age_s), number(cost, ",.0f"), of_a_core(cost)


def _article(name: str) -> str:
    return "an" if name.startswith("i") else "a"


def _stream_point(found: Frontier) -> tuple[float, float] | None:
    """Return the age and the cost of the open windows; None if one of them is unknown."""
    point = found.point(STREAM_OPEN)
    return point if point is not None and point[1] > 0 else None


def choice_sentence(found: Frontier, accepted_age_s: float = ACCEPTED_AGE_SECONDS) -> str:
    """Return which result to choose if it may have this age; empty if one path is unknown."""
    stream = _stream_point(found)
    if not found.today or stream is None:
        return ""
    choice = cheapest(found, accepted_age_s)
    accepted = seconds(accepted_age_s)
    if choice is None:
        return f"No result has a median age of {accepted} or less."
    name, _, cost, _ = _choice_cells(found, choice)
    name = (
        f"{_article(name)} {name}"
        if choice.mode
        else f"the stream's {name.removeprefix('stream, ')}"
    )
    text = (
        f"For a median age of {accepted} or less, the cheapest choice is {name}. It costs {cost} "
        "CPU seconds per hour."
    )
    if choice.mode:
        text += f" The stream costs {number(stream[1], ',.0f')} CPU seconds per hour."
    return text


def _interval_rows(found: Frontier) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for model in found.today:
        larger = found.larger.get(model.mode)
        shortest = math.ceil(model.duration_s)
        for interval in sorted({shortest, *(each for each in INTERVALS if each > shortest)}):
            name = f"{model.mode}, " if found.several_modes else ""
            back_to_back = " (back to back)" if interval == shortest else ""
            rows.append(
                (
                    f"{name}{interval:,} s{back_to_back}",
                    *_model_cells(model, interval),
                    *_model_cells(larger, interval),
                )
            )
    return rows


def _model_cells(model: BatchModel | None, interval_s: float) -> tuple[str, str]:
    if model is None:
        return UNKNOWN, UNKNOWN
    return seconds(model.age_s(interval_s)), number(model.cpu_s_per_hour(interval_s), ",.0f")


def _mode_cells(mode: Mode) -> tuple[str, ...]:
    return (
        mode.name,
        f"{mode.runs:,}",
        number(mode.rows, ",.0f"),
        seconds(mode.wall_s),
        number(mode.cpu_s, ",.1f"),
        number(mode.peak_mib, ",.0f"),
        number(mode.wall_s_per_million, ",.2f"),
        number(mode.cpu_s_per_million, ",.2f"),
    )


def frontier_sentences(found: Frontier) -> tuple[str, ...]:
    """Return for each mode at which interval the batch costs as much as the stream."""
    stream = _stream_point(found)
    if not found.today:
        return ("No cost curve yet. It needs a batch run with a known age and CPU time.",)
    if stream is None:
        return (f"No comparison with the stream yet. {FULL_MINUTE}",)
    age_s, cost = stream
    open_windows = f"The median age of the stream's open windows is {seconds(age_s)} at that cost."
    sentences = []
    for model in found.today:
        name = _batch_name(found, model.mode)
        interval = model.interval_for_cost(cost)
        if interval is None:
            shortest = model.duration_s
            sentences.append(
                f"The {name} always uses less CPU than the stream. Back to back, every "
                f"{shortest:,.1f} s, it would use {number(model.cpu_s_per_hour(shortest), ',.0f')} "
                f"CPU seconds per hour. Its median age would be {seconds(model.age_s(shortest))}. "
                f"The stream uses {number(cost, ',.0f')} CPU seconds per hour. {open_windows}"
            )
        else:
            sentences.append(
                f"{_article(name).capitalize()} {name} every {_every(interval)} would cost as much "
                f"as the stream. Its median age would be {seconds(model.age_s(interval))}. "
                f"{open_windows}"
            )
    return tuple(sentences)


def detection_section(comparison: Comparison) -> Section:
    """Return how long each result took to show a window that is High or a Spike."""
    found = comparison.detection
    rows = [
        (result, f"{detected:,}", seconds(median), seconds(p99), seconds(longest))
        for result, detected, median, p99, longest in found.table.itertuples(index=False)
    ]
    lines = [detection_sentence(found)]
    if comparison.replayed_as_recorded:
        lines = [NO_AGES]
    if found.checked:
        lines.append(
            f"False alerts: {found.false:,} of {found.checked:,}. An alert is false if its value "
            "is higher than the value in the path's result for the same window."
        )
    header = ("result", "alerts", "median", "p99", "maximum")
    return Section(
        key="detection",
        title="Detection",
        how_to_read=(
            "The time from the event time of the trade that crosses the threshold until a result "
            f"shows that the window is {HIGH} or a {SPIKE}. Each path publishes an alert when it "
            f"first shows such a window. The latest {MAX_ALERTS:,} alerts are measured. Windows "
            "of the time before all services ran, windows around a stop of a service, and windows "
            "in which a replayed recording starts again are left out."
        ),
        lines=tuple(lines),
        tables=(Table("", header, () if found.events.empty else tuple(rows)),),
        figure_note=(
            "A point is the median. The line ends at the p99. Logarithmic scale: a time below "
            f"{MIN_AGE_SECONDS} s is drawn at {MIN_AGE_SECONDS} s."
        ),
        figure_alt="Median and p99 of the time to detection of each result",
    )


def detection_sentence(found: Detection) -> str:
    """Return how long the open windows and the batch took, and which of them was first."""
    if found.events.empty:
        return (
            "No time to detection yet. It needs an alert for a window that becomes final while all "
            "services run."
        )
    opened, batch = (seconds(found.median(result)) for result in (STREAM_OPEN, BATCH))
    sentence = f"Median time to detection: the stream's open windows {opened}, the batch {batch}."
    if found.by_both:
        sentence += (
            f" Both paths published {found.by_both:,} of the measured alerts. The stream was first "
            f"for {found.stream_first:,} of them."
        )
    return sentence


def watermark_section(comparison: Comparison) -> Section:
    """Return what other watermarks would have dropped."""
    found = comparison.watermarks
    rows = [
        (
            f"{watermark:g} s" + (" (current)" if watermark == found.current_s else ""),
            f"{at_most:,.0f}",
            _share(at_most, found.trades),
            number(estimate, ",.0f"),
            seconds(age),
        )
        for watermark, at_most, estimate, age in found.listed.itertuples(index=False)
    ]
    dashed = " Dashed line: the estimate." if found.table["estimate"].notna().any() else ""
    header = ("watermark", "at most", "share of trades", "estimate", "age of final windows")
    return Section(
        key="watermark",
        title="Watermark",
        how_to_read=(
            "The stream waits for late trades for the length of its watermark. A longer watermark "
            "drops fewer trades and makes final windows older. The stream can drop a trade only "
            "if the trade is behind the newest event time by at least the watermark. The column "
            '"at most" counts these trades. Spark drops fewer trades, because it compares a trade '
            "with the newest event time of two micro-batches earlier. The estimate does the same. "
            "Ages are medians. Recovered trades are left out."
        ),
        lines=(
            watermark_sentence(found),
            *([NO_AGES] if comparison.replayed_as_recorded and found.trades else []),
        ),
        tables=(Table("Dropped trades by watermark", header, tuple(rows) if found.trades else ()),),
        figure_note=(
            f"Solid line: upper bound of the dropped trades.{dashed} Logarithmic scale. A line "
            "ends where no trade would have been dropped."
        ),
        figure_alt="Share of dropped trades by watermark",
    )


def _share(part: float, whole: int) -> str:
    """Return a share of trades in percent. Only 0 trades are 0 %."""
    if not whole:
        return UNKNOWN
    share = 100 * part / whole
    return "0 %" if not share else "< 0.001 %" if share < 0.001 else f"{share:.3f} %"


def watermark_sentence(found: Watermarks) -> str:
    """Return which watermark would have dropped no trade, and how it changes final windows."""
    if not found.trades:
        return (
            "No trade counted yet. The consumer counts how many seconds each trade is behind the "
            "newest event time."
        )
    trades, current_s, lossless_s = count(found.trades, "trade"), found.current_s, found.lossless_s
    current = None if current_s is None else found.row(current_s)
    if lossless_s is None:
        longest = found.row(LONGEST) or {}
        dropped = f"dropped up to {longest['at_most']:,.0f} of {trades}"
        return f"On this feed, even a watermark of {LONGEST} s could have {dropped}."
    lossless = f"a watermark of {lossless_s} s would have dropped none of {trades}"
    if current_s is None or lossless_s == current_s:
        only = ". A shorter one could have dropped trades" if lossless_s == current_s else ""
        return f"On this feed, {lossless}{only}."
    change = "fresher" if lossless_s < current_s else "older"
    gain = f"made final windows {abs(current_s - lossless_s):g} s {change}"
    sentence = f"On this feed, {lossless} and {gain}."
    if current is not None and current["at_most"]:
        sentence += (
            f" The current one of {current_s:g} s would have dropped at most "
            f"{current['at_most']:,.0f}."
        )
    return sentence
