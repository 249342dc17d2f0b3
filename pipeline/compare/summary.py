"""The four findings of the comparison, each with its numbers."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

from pipeline.compare.causes import GAP, NOT_RECORDED, REJECTED, THRESHOLDS, UNEXPLAINED
from pipeline.compare.comparison import Comparison
from pipeline.compare.formatting import (
    UNKNOWN,
    count,
    elapsed,
    number,
    of_a_core,
    seconds,
    window_time,
)
from pipeline.compare.freshness import BATCH, STREAM_OPEN
from pipeline.compare.growth import TOO_SLOW_ALREADY, Growth

#: The titles of the findings, in order.
TITLES = ("Agreement", "Freshness", "CPU cost", "Batch run time")
#: Why no age is known yet. Ages are measured from the time at which both paths have a result until
#: the newest result. With one result from each path, the length of this time is zero.
NO_AGES_YET = "No ages yet. They need a result from each path, and then one more result."
#: Why no section has ages, for a replay with its original timestamps.
NO_AGES = (
    "Ages and times to detection are not measured: this replay keeps the original timestamps of "
    "the recording."
)
#: Why no section has costs, for a stream that runs on a cluster.
NO_COST = "The CPU cost is unknown: the services cannot measure the executors of a Spark cluster."
#: What a comparison of costs waits for.
FULL_MINUTE = "It needs one full minute of data from each path."
#: What a finding is: not measured yet (`waiting`), not measurable here (`unknown`), `fine`, worth
#: knowing (`note`), or wrong (`alarm`).
Kind = Literal["waiting", "unknown", "fine", "note", "alarm"]
#: How many runs decide whether the batch is too slow now. A single one can be slow by chance.
DECIDING_RUNS = 3
#: If the batch will be too slow within this time, the finding is a `note`.
SOON = timedelta(days=30)
#: A forecast within this time is shown with its time of day.
TIME_SHOWN = timedelta(days=2)
#: Below this, one decimal is too coarse: 0.03 s would become 0.0 s, and 42,000 rows 0.0 million.
LEAST_TENTH = 0.1
#: Ages in seconds below which a card shows tenths.
TENTHS_BELOW = 600
#: Costs that differ by less than this factor count as equal.
ALIKE = 1.05


@dataclass(frozen=True)
class Finding:
    """One result of the comparison."""

    title: str
    #: A phrase of a few words.
    short: str
    #: A sentence with the numbers.
    sentence: str
    kind: Kind = "fine"


def summary(comparison: Comparison) -> str:
    """Return the sentences of all findings as one paragraph.

    If there is nothing to compare, return only the first sentence, which gives the reason.
    """
    found = findings(comparison)
    return " ".join(each.sentence for each in (found if comparison.span else found[:1]))


def findings(comparison: Comparison) -> tuple[Finding, ...]:
    """Return the four findings, always in the order of `TITLES`."""
    agreement = _agreement(comparison)
    if comparison.outputs.damaged:
        kind: Kind = "waiting" if comparison.span is None else "alarm"
        sentence = _with_damage(comparison, agreement.sentence)
        agreement = replace(agreement, sentence=sentence, kind=kind)
    return (
        agreement,
        freshness(comparison),
        _cost(comparison),
        _run_time(comparison),
    )


def _with_damage(comparison: Comparison, sentence: str) -> str:
    """Return the sentence with the damaged rows that the comparison leaves out."""
    return (
        f"{sentence} Damaged rows are left out: {'; '.join(comparison.outputs.damaged)}. The next "
        "start of the stream computes them again."
    )


def _waiting(comparison: Comparison) -> str:
    outputs = comparison.outputs
    published = {
        "the first final window of the stream": outputs.final["written_at"].ne("").any(),
        "the first batch result": outputs.runs["written_at"].notna().any(),
    }
    names = " and ".join(name for name, exists in published.items() if not exists)
    return f"Nothing to compare yet: waiting for {names}."


def _agreement(comparison: Comparison) -> Finding:
    title, decided = TITLES[0], comparison.decided
    if comparison.span is None:
        return Finding(title, UNKNOWN, _waiting(comparison), "waiting")
    if decided.empty:
        return Finding(
            title,
            UNKNOWN,
            "No window of the selected time range is final and in a batch result yet.",
            "waiting",
        )
    first, last = (window_time(decided["window_start"].iloc[place])[:16] for place in (0, -1))
    last = last[11:] if first[:10] == last[:10] else last
    span = f"window starts {first} to {last} UTC"
    windows = len(decided)
    differing = comparison.differing
    kind: Kind = "note" if comparison.missing else "fine"
    if differing.empty:
        short = "1 window matches" if windows == 1 else f"All {windows:,} windows match"
        which = all_windows(windows)
        sentence = f"Stream and batch give identical results for {which} compared ({span})."
        if comparison.missing:
            short += f", {count(comparison.missing, 'trade')} missing from both"
    else:
        kind, short = "note", differences(comparison)
        sentence = (
            f"{len(differing):,} of {count(windows, 'compared window')} "
            f"{differ(len(differing))} ({span})."
        )
        if comparison.unexplained:
            kind, sentence = "alarm", f"{short}. {sentence}"
        causes = Counter(cause for text in differing["cause"] for cause in text.split("; "))
        causes = Counter({cause: n for cause, n in causes.items() if cause not in (GAP, REJECTED)})
        other = {c: n for c, n in causes.items() if c.startswith(THRESHOLDS)}
        causes = Counter({cause: n for cause, n in causes.items() if cause not in other})
        named = ", ".join(f"{cause} ({count(n, 'window')})" for cause, n in causes.most_common())
        sentence += f" Causes: {named}." if named else ""
        for cause, n in other.items():
            settings = cause.removeprefix(f"{THRESHOLDS}: ")
            sentence += (
                f" The stream computed {count(n, 'window')} with {settings}, the batch with other "
                "thresholds."
            )
    return Finding(title, short, sentence + _missing_trades(comparison), kind)


def all_windows(windows: int) -> str:
    """Return all compared windows as a phrase: `the 1 window`, `all 1,440 windows`."""
    return "the 1 window" if windows == 1 else f"all {windows:,} windows"


def differences(comparison: Comparison) -> str:
    """Return how many windows differ, and whether the cause of each is known."""
    if unexplained := comparison.unexplained:
        return f"{count(unexplained, 'window')} {differ(unexplained)}, {UNEXPLAINED}"
    windows, unrecorded = len(comparison.differing), comparison.unrecorded
    causes = f"{NOT_RECORDED} for {unrecorded:,}" if unrecorded else "all explained"
    compared = count(comparison.compared, "window")
    return f"{windows:,} of {compared} {differ(windows)}, {causes}"


def differ(windows: int) -> str:
    """Return the verb for a number of windows."""
    return "differs" if windows == 1 else "differ"


def _missing_trades(comparison: Comparison) -> str:
    """Return a sentence about the trade ids that neither path has; empty if there are none."""
    in_recovery = comparison.in_recovery
    never = comparison.missing - in_recovery
    text = ""
    if in_recovery:
        verb = "is" if in_recovery == 1 else "are"
        text += f" {count(in_recovery, 'missing trade id')} {verb} being recovered."
    if never:
        verb, them = ("was", "it") if never == 1 else ("were", "them")
        text += f" {count(never, 'trade id')} {verb} never stored, so neither path has {them}."
    return text


def freshness(comparison: Comparison) -> Finding:
    """Return which path is fresher, and by how much."""
    title = TITLES[1]
    if comparison.replayed_as_recorded:
        return Finding(title, UNKNOWN, NO_AGES, "unknown")
    known = {name: found for name, found in comparison.freshness.items() if found is not None}
    ages = {
        name.replace("stream, ", "stream's "): round(found.median, 1)
        for name, found in known.items()
    }
    if comparison.span is None or BATCH not in ages or len(ages) == 1:
        return Finding(title, UNKNOWN, NO_AGES_YET, "waiting")
    measured_s = max(found.known_seconds for found in known.values())
    oldest = max(ages.values())
    listed = ", ".join(f"{name} {_age(age, oldest)}" for name, age in ages.items())
    stream = next(iter(ages))
    fresher = _age(abs(ages[BATCH] - ages[stream]), oldest)
    batch = _batch_of(comparison)
    change = " Open windows still change." if STREAM_OPEN in known else ""
    short = f"The {stream} are {fresher} fresher than {batch}"
    if ages[BATCH] == ages[stream]:
        short = f"The {stream} and {batch} are equally fresh"
    elif ages[BATCH] < ages[stream]:
        short = f"{_capitalized(batch)} is {fresher} fresher than the {stream}"
    return Finding(
        title,
        short,
        f"Median age over {elapsed(measured_s)} until {comparison.span[1]:%Y-%m-%d %H:%M} UTC: "
        f"{listed}.{change}",
    )


def _age(age_s: float, oldest_s: float) -> str:
    """Return an age with tenths if all ages are short: the reader can subtract them."""
    return f"{age_s:.1f} s" if oldest_s < TENTHS_BELOW else seconds(age_s)


def _cost(comparison: Comparison) -> Finding:
    title = TITLES[2]
    stream, batch = comparison.cost["cpu_s_per_hour"]
    if comparison.on_cluster:
        return Finding(title, UNKNOWN, NO_COST, "unknown")
    if not (stream > 0 and batch > 0):
        return Finding(title, UNKNOWN, f"No CPU cost yet. {FULL_MINUTE}", "waiting")
    short = (
        f"Stream {stream:,.0f} CPU seconds per hour ({of_a_core(stream)} of one core), "
        f"batch {batch:,.0f} ({of_a_core(batch)})"
    )
    return Finding(title, short, cost_sentence(stream, batch, _batch_of(comparison)))


def cost_sentence(stream: float, batch: float, batch_name: str) -> str:
    """Return which path uses more CPU, from the CPU seconds per hour of both paths."""
    paths = ["the stream", batch_name]
    more, less = paths if stream >= batch else reversed(paths)
    factor = max(stream, batch) / min(stream, batch)
    if factor < ALIKE:
        return f"The stream and {batch_name} use about the same CPU."
    return f"{_capitalized(more)} uses {factor:.1f} times the CPU of {less}."


def _batch_of(comparison: Comparison) -> str:
    return f"a batch every {comparison.interval_s:g} s"


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def _run_time(comparison: Comparison) -> Finding:
    """Return how long a batch run takes, and when it will take longer than its interval.

    Only the newest runs decide whether it is too slow now. The trend decides about the future.
    """
    title, growth, interval_s = TITLES[3], comparison.growth, comparison.interval_s
    sentence = forecast(growth, interval_s)
    recent = comparison.runs["wall_s"].dropna().tail(DECIDING_RUNS)
    if recent.empty:
        return Finding(title, UNKNOWN, sentence, "waiting")
    typical = float(recent.median())
    compared = f"a run takes {seconds(typical)}, the interval is {interval_s:g} s"
    measured = f"The last batch run took {seconds(typical)}."
    if len(recent) > 1:
        measured = f"Median of the last {len(recent)} batch runs: {seconds(typical)}."
    if typical > interval_s:
        advice = f"Set BATCH_INTERVAL_SECONDS to more than {math.ceil(typical)}."
        return Finding(title, f"Too slow: {compared}", f"{measured} {advice}", "alarm")
    if growth and growth.at_limit and comparison.span and growth.at_limit > comparison.span[1]:
        left = growth.at_limit - comparison.span[1]
        kind: Kind = "note" if left < SOON else "fine"
        until = f"{growth.at_limit:{'%Y-%m-%d' if left > TIME_SHOWN else '%Y-%m-%d %H:%M UTC'}}"
        short = f"Fast enough until about {until}: {compared}"
        trend = (
            f"Run time grows by {_slope(growth)} per million rows and reaches the interval at "
            f"{_rows(growth.rows_at_limit)} rows."
        )
        return Finding(title, short, f"{measured} {trend}", kind)
    if growth is not None and growth.refusal == TOO_SLOW_ALREADY:
        # The newest runs are fast enough, but the trend exceeds the interval. So the card shows
        # neither "Fast enough" nor "Too slow".
        return Finding(title, _capitalized(compared), f"{measured} {sentence}", "note")
    return Finding(title, f"Fast enough: {compared}", f"{measured} {sentence}")


def _slope(growth: Growth) -> str:
    slope = growth.s_per_million
    return f"{slope:,.1f} s" if slope >= LEAST_TENTH else f"{slope:.1g} s"


def _rows(rows: float | None) -> str:
    if rows is None or rows < LEAST_TENTH * 1e6:
        return number(rows, ",.0f")
    return "no limit" if math.isinf(rows) else f"{rows / 1e6:,.1f} million"


def forecast(growth: Growth | None, interval_s: float) -> str:
    """Return when a batch run will take longer than its interval, or why there is no forecast."""
    if growth is None:
        return (
            "No forecast yet of when runs will be too slow. It needs batch runs over tables of "
            "different sizes."
        )
    if growth.refusal == TOO_SLOW_ALREADY:
        return (
            f"The trend predicts a run time above the {interval_s:g} s interval for tables of more "
            f"than {_rows(growth.rows_at_limit)} rows. The table already has more."
        )
    if growth.refusal or growth.at_limit is None:
        return f"No forecast of when runs will be too slow: {growth.refusal}."
    return (
        f"Run time grows by {_slope(growth)} per million rows. It reaches the {interval_s:g} s "
        f"interval at {_rows(growth.rows_at_limit)} rows (95 % confidence interval: "
        f"{_rows(growth.rows_low)} to {_rows(growth.rows_high)}), around "
        f"{growth.at_limit:%Y-%m-%d} if trades keep arriving at the rate of the last hour."
    )
