"""What the comparison's section says, as sentences and plain HTML: pure, all data escaped."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from page import agreement_strip as strip
from page import formatting as words
from page import markup, tables
from page.background import STALE_SECONDS, Compared, rest
from page.digest import Digest
from page.formatting import DASH
from pipeline.compare.agreement import EQUAL, VERDICTS
from pipeline.compare.comparison import (
    BATCH,
    LEGS,
    STREAM_FINAL,
    STREAM_OPEN,
    Freshness,
    Steadiness,
)
from pipeline.compare.summary import QUESTIONS, Answer

# --- the verdict ----------------------------------------------------------------------------


def verdict(found: Compared, now: datetime) -> str:
    """The questions at the top, what the comparison answers, and how old that is."""
    waiting = "…" if found.asked_at else DASH
    made = found.digest.answers if found.digest else _unanswered(waiting)
    tiles = "".join(
        f'<div class="p-answer p-kind-{answer.kind}">'
        f"<h4>{escape(answer.question)}</h4><b>{escape(answer.short)}</b>"
        f"<p>{escape(answer.sentence)}</p></div>"
        for answer in made
    )
    problem = f'<div class="p-problem">! {escape(_problem(found, now))}</div>'
    return (
        f'<section class="p-verdict" aria-label="Verdict"><div class="p-answers">{tiles}</div>'
        f'<div class="{"p-problem" if _is_old(found, now) else "p-when"}">'
        f"{escape(_age_said(found, now))}</div>"
        f"{problem if found.problem else ''}</section>"
    )


def _unanswered(short: str) -> Iterable[Answer]:
    return (Answer(question, short, "") for question in QUESTIONS)


def _age_said(found: Compared, now: datetime) -> str:
    if found.digest is None:
        return _awaited(found, now)
    old = " A newer one follows." if _is_old(found, now) else ""
    return f"Compared {words.ago(found.digest.made_at, now)}.{old}"


def _is_old(found: Compared, now: datetime) -> bool:
    made = found.digest
    return made is not None and (now - made.made_at).total_seconds() > STALE_SECONDS


def _awaited(found: Compared, now: datetime) -> str:
    if found.problem:
        return "There is no comparison."
    waited = words.age(max(0.0, words.seconds_since(found.asked_at, now) or 0.0))
    return f"The two paths are being compared for the first time, for {waited} so far."


def _problem(found: Compared, now: datetime) -> str:
    newer = "no newer comparison: " if found.digest else ""
    return f"{newer}{words.text(found.problem)} (tried {words.ago(found.tried_at, now)})"


def section_said(found: Compared, now: datetime) -> str:
    """What stands below the section's heading: what it rests on, or why there is nothing."""
    if found.digest is None:
        why = f" {_problem(found, now)}" if found.problem else ""
        return _awaited(found, now) + why
    return (
        "From what both paths wrote, the same windows held against each other to the last digit. "
        f"{when(found, now)}{f' ! {_problem(found, now)}' if found.problem else ''}"
    )


def when(found: Compared, now: datetime) -> str:
    """How old the comparison is and over which time it is."""
    made = found.digest
    if made is None:
        return ""
    over = ""
    if made.span:
        over = " ages and legs from {} to {} UTC;".format(*map(words.day_and_clock, made.span))
    soonest = words.age(rest(made.cpu_s))
    return (
        f"Compared {words.ago(made.made_at, now)};{over} the next one {soonest} later at the "
        f"earliest, as each costs {made.cpu_s:.1f} s of CPU."
    )


# --- agreement ------------------------------------------------------------------------------


def agreement_said(found: Digest) -> str:
    """How to read the strip."""
    shape = found.layout
    each = words.length(shape.cell)
    if found.cells.empty:
        return "No window yet on either path."
    grouping = ""
    if shape.cell > found.window:
        grouping = " and shows the worst verdict among its windows; no window is left out"
    return (
        f"Each cell is {each} of event time{grouping}; a row is {words.length(shape.row)}. Point "
        "at a cell for both counts, what differs, and the cause."
    )


def legend(found: Digest, colors: dict[str, str]) -> str:
    rows = [
        (colors[name], strip.SYMBOLS[name], name, found.counts.get(name))
        for name in reversed(VERDICTS)
    ]
    if found.equal_but_missing:
        said = "of them with trades missing in both"
        rows.insert(1, (colors[EQUAL], strip.MISSING, said, found.equal_but_missing))
    items = "".join(
        f'<li><span class="p-cell" style="background:{color}">{symbol}</span>'
        f"{escape(said)} <b>{words.count(count)}</b></li>"
        for color, symbol, said, count in rows
    )
    return f'<ul class="p-legend">{items}</ul>'


def differing(found: Digest) -> str:
    """The newest windows that differ or miss trades, each with its cause."""
    if not found.all_differing:
        text = "No window differs, and none misses trades." if found.compared else ""
        return markup.note(text, "quiet")
    shown = len(found.differing)
    more = (
        f"The newest {shown} of {found.all_differing:,}" if shown < found.all_differing else "The"
    )
    unexplained = (
        f"{found.unexplained:,} of them without a known cause"
        if found.unexplained
        else "each with a proved cause"
    )
    rows = [
        (_time(row["window"]), _marked(row["verdict"]), row["values"], row["cause"] or DASH)
        for row in found.differing.to_dict("records")
    ]
    said = f"{more} windows that differ or miss trades, {unexplained}:"
    return markup.note(said, "quiet") + tables.table(
        ("window, UTC", "verdict", "stream / batch", "cause"),
        rows,
        "Windows that differ",
        "p-texts p-tall",
    )


def _marked(name: str) -> str:
    return f"{strip.SYMBOLS[name]} {name}"


# --- freshness ------------------------------------------------------------------------------


def ages_said(found: Digest) -> str:
    """How to read the sawtooth."""
    if found.replayed_as_recorded:
        return "Ages are unknown: the trades are of long ago, replayed as they were recorded."
    if found.teeth.empty:
        return "Ages are unknown until both paths have published an answer."
    return (
        "A line is the age of the newest trade that a reader finds: it grows by a second a second "
        "and falls with each new answer. Lower is fresher; each line on the axis is ten times the "
        "one below."
    )


def ages_legend(answers: Mapping[str, tuple[str, Sequence[int]]]) -> str:
    """The line of each answer, by its colour and its dash."""
    kinds: dict[Sequence[int], str] = {(1, 0): "solid", (6, 3): "dashed", (2, 2): "dotted"}
    items = "".join(
        f'<li><span class="p-line-of" style="border-top:3px {kinds[tuple(dash)]} {color}"></span>'
        f"{escape(name)}</li>"
        for name, (color, dash) in answers.items()
    )
    return f'<ul class="p-legend">{items}</ul>'


def ages(found: Digest) -> str:
    rows = [
        (answer, *(_age(fresh, name) for name in ("median", "mean", "p99", "maximum")))
        for answer, fresh in _in_order(found)
    ]
    return tables.table(("age of", "median", "mean", "99 %", "oldest"), rows, "Age of the answers")


def _in_order(found: Digest) -> Iterable[tuple[str, Freshness | None]]:
    return ((name, found.freshness.get(name)) for name in (STREAM_OPEN, STREAM_FINAL, BATCH))


def _age(fresh: Freshness | None, name: str) -> str:
    return words.age(getattr(fresh, name) if fresh else None)


# --- latency --------------------------------------------------------------------------------

LEGS_SAID = (
    "How long a trade takes from stamp to stamp, the medians laid end to end along its way: the "
    "bar is the median, the thin line reaches to what 99 % stay below. A bar to the left is a "
    "batch that had the trades before their window was final."
)
#: After which leg a leg begins.
_AFTER = {1: 0, 2: 0, 3: 2, 4: 3}


def waterfall(found: Digest) -> str:
    legs = found.waterfall.set_index("leg").reindex(list(LEGS))
    medians = [words.number(value) for value in legs["median"]]
    begins: list[float] = [0.0]
    for number in range(1, len(LEGS)):
        before = _AFTER[number]
        begins.append(begins[before] + (medians[before] or 0.0))
    p99s = [words.number(value) for value in legs["p99"]]
    ends = [
        begin + value
        for begin, *values in zip(begins, medians, p99s, strict=True)
        for value in values
        if value is not None
    ]
    low, high = min([0.0, *ends]), max([1e-9, *ends])
    rows = []
    for number, leg in enumerate(LEGS):
        bars = _bar(begins[number], p99s[number], low, high, "p-thin")
        bars += _bar(begins[number], medians[number], low, high, "p-thick")
        rows.append(
            f'<tr><th scope="row">{escape(leg)}</th><td class="p-track"><div>{bars}</div></td>'
            f"<td>{_span(medians[number])}</td><td>{_span(p99s[number])}</td>"
            f"<td>{words.count(legs['trades'].iloc[number])}</td></tr>"
        )
    return tables.framed(("leg", "", "median", "99 %", "trades"), rows, "Latency by leg", "p-bars")


def _span(seconds: float | None) -> str:
    if seconds is None:
        return DASH
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 1 else words.age(seconds)


def _bar(begin: float, length: float | None, low: float, high: float, kind: str) -> str:
    if length is None:
        return ""
    left, right = sorted((begin, begin + length))
    scale = 100 / (high - low)
    return (
        f'<i class="{kind}" style="left:{(left - low) * scale:.2f}%;'
        f'width:{(right - left) * scale:.2f}%"></i>'
    )


# --- completeness ---------------------------------------------------------------------------

FUNNEL_SAID = (
    "From what the exchange issued to what each path has counted: each stage with what it draws "
    "from, and what lies between the two by reason. A full bar is nothing lost."
)


def funnel(found: Digest) -> str:
    rows = []
    for row in found.funnel.to_dict("records"):
        count, drawn_from = words.number(row["count"]), words.number(row["drawn_from"])
        share = int(count) / int(drawn_from) if count is not None and drawn_from else None
        said = DASH
        if count is not None and drawn_from:
            said = _share(int(count), int(drawn_from))
        bar = _bar(0, share and min(1, share), 0, 1, "p-thick")
        rows.append(
            f'<tr><th scope="row">{escape(str(row["stage"]))}</th>'
            f'<td class="p-track"><div>{bar}</div></td>'
            f"<td>{said}</td>"
            f'<td class="p-said">{escape(row["said"])}</td></tr>'
        )
    if not rows:
        return markup.note("Nothing is counted yet.", "quiet")
    return tables.framed(("stage", "", "share", "trades"), rows, "Completeness", "p-bars")


def _share(count: int, of: int) -> str:
    """Rounded down, in whole numbers: 100 % are all of them."""
    return f"{10_000 * count // of / 100:.2f} %"


# --- cost -----------------------------------------------------------------------------------

COST_SAID = (
    "What each path takes of the machine, its whole process tree with the JVM, over the minutes "
    "of the span that its service has on record since both paths had answers. An answer is a "
    "final window of the stream, or a run of the batch. Producer, Kafka and consumer are counted "
    "to neither."
)
_COSTS = (
    ("cpu_s_per_hour", "CPU seconds an hour", ",.0f"),
    ("cpu_s_per_answer", "CPU seconds an answer", ",.1f"),
    ("cpu_s_per_million", "CPU seconds a million rows read", ",.0f"),
    ("idle_cpu_s_per_hour", "CPU seconds an hour, no trades", ",.0f"),
    ("peak_mib", "memory at most, MiB", ",.0f"),
    ("answers", "answers", ",.0f"),
)


def cost(found: Digest) -> str:
    by_path = found.cost.set_index("path")
    rows = []
    for name, said, pattern in _COSTS:
        stream, batch = (words.number(by_path.at[path, name]) for path in ("stream", "batch"))
        times = f"{stream / batch:,.1f} times" if stream and batch else DASH
        written = (DASH if value is None else format(value, pattern) for value in (stream, batch))
        rows.append((said, *written, times))
    heads = ("cost", "stream", "batch", "stream / batch")
    return tables.table(heads, rows, "Cost of each path")


# --- growth ---------------------------------------------------------------------------------


def growth_said(found: Digest) -> str:
    """When the batch will be too slow, and how to read the chart."""
    read = "Each point is a run"
    if found.growth_is_drawn:
        read += ", the line is fitted through all of them"
        limit = found.growth.rows_at_limit if found.growth else None
        if limit is not None and limit > found.most_rows:
            near = found.forecast_is_drawn
            read += "; what is dashed is the forecast" if near else "; the forecast is too far away"
    if found.limit_is_drawn:
        read += "; the red line is the interval"
    return f"{found.growth_said} {read}."


def steady_said(steady: Steadiness | None) -> str:
    """Whether the stream's micro-batches stay as quick as they were."""
    if steady is None:
        return "No micro-batch is on record yet."
    text = (
        f"A micro-batch takes {steady.median_ms:,.0f} ms in the median, 99 % at most "
        f"{steady.p99_ms:,.0f} ms. "
    )
    change, low, high = steady.change_ms, steady.low, steady.high
    if change is None or low is None or high is None or not math.isfinite(low + high):
        text += "Whether that stays so cannot be said yet: there are too few minutes. "
    else:
        flat = "No change can be told from its noise" if low <= 0 <= high else "It changes"
        text += (
            f"{flat}: {change:+,.0f} ms over {steady.trades:,} trades "
            f"(95 %: {low:+,.0f} to {high:+,.0f}). "
        )
    return text + "Median and 99 % of each minute; a flat line does not slow down with the table."


# --- aspects and gaps -----------------------------------------------------------------------

ASPECTS_SAID = (
    "The seven aspects in which stream and batch are commonly compared, each as measured here."
)


def aspects(found: Digest) -> str:
    names = list(found.aspects.columns)
    rows = [tuple(row) for row in found.aspects.itertuples(index=False)]
    return tables.table(names, rows, "Aspects", "p-texts")


def gaps(found: Digest | None) -> str:
    """Runs of trade ids that were never seen."""
    if found is None:
        return markup.note("Gaps are known with the first comparison.", "quiet")
    if found.all_gaps is None:
        return markup.note(f"Gaps: {DASH}", "quiet")
    if not found.all_gaps:
        return markup.note("No gap in the trade ids was seen.", "quiet")
    rows = [
        (
            f"{row['first']} to {row['last']}" if row["ids"] > 1 else f"{row['first']}",
            words.count(row["ids"]),
            _time(row["after"]),
            _time(row["before"]),
            _gap_state(row),
        )
        for row in found.gaps.to_dict("records")
    ]
    said = f"Gaps in the trade ids, the newest {len(rows)} of {found.all_gaps:,}:"
    heads = ("trade ids", "how many", "after the trade of, UTC", "before the trade of", "state")
    return markup.note(said, "quiet") + tables.table(heads, rows, "Gaps", "p-texts p-tall")


def _gap_state(gap: Mapping[Any, Any]) -> str:
    """What became of its ids."""
    if gap["filled"]:
        return "● filled later"
    if gap["rejected"] == gap["ids"]:
        return "✕ came in rejected messages"
    more = f", {words.count(gap['rejected'])} in rejected messages" if gap["rejected"] else ""
    return f"✕ missing{more}"


def _time(text: object) -> str:
    return words.day_and_clock(words.moment(text))
