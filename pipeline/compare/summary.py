"""What the comparison says in words, for the terminal, the report and the page.

`python -m pipeline.compare` is its command. What is unknown is called so.
"""

import argparse
import json
import math
import signal
import sys
import textwrap
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import pandas as pd

from pipeline.compare import comparison as compare
from pipeline.compare.agreement import DIFFERENCES, EQUAL, VERDICTS
from pipeline.compare.comparison import (
    BATCH,
    STREAM_FINAL,
    STREAM_OPEN,
    Comparison,
    Freshness,
    Growth,
)
from pipeline.compare.inputs import read_written
from pipeline.outputs import DataDir, OutputError
from pipeline.settings import load
from pipeline.times import iso

UNKNOWN = "unknown"
#: What `answers` answers.
QUESTIONS = (
    "Do the paths agree?",
    "Which is fresher?",
    "What does each cost?",
    "When is the batch too slow?",
)
#: Costs that differ by less than this factor are alike.
ALIKE = 1.05
#: Columns of the table of aspects.
ASPECTS = ("aspect", "stream", "batch", "what it means")


@dataclass(frozen=True)
class Answer:
    """One of the questions that the comparison is made for, and what it found."""

    question: str
    #: In a few words.
    short: str
    #: The same as a sentence, with its numbers.
    sentence: str
    #: `fine`, `note` (something is to be known) or `alarm` (something is wrong).
    kind: Literal["fine", "note", "alarm"] = "fine"


def in_words(found: Comparison) -> str:
    """A paragraph that says what the numbers say, and nothing that they do not."""
    return " ".join(answer.sentence for answer in answers(found) if answer.sentence)


def answers(found: Comparison) -> tuple[Answer, ...]:
    """What everybody asks of the two paths, always in this order."""
    if found.span is None:
        awaited = "There is nothing to compare yet: one of the two paths has no answer."
        return tuple(
            Answer(question, UNKNOWN, awaited if question == QUESTIONS[0] else "")
            for question in QUESTIONS
        )
    return (_agree(found), _fresher(found), _costs(found), _too_slow(found))


def _agree(found: Comparison) -> Answer:
    compared = found.decided
    question = QUESTIONS[0]
    if compared.empty:
        return Answer(question, UNKNOWN, "No window can be compared yet.")
    count, equal = len(compared), int((compared["verdict"] == EQUAL).sum())
    sentence = _agreement_in_words(found, compared)
    if found.missing:
        sentence += f" {_many(found.missing, 'trade')} that the exchange issued: in neither."
    if found.unexplained:
        what = "window differs" if found.unexplained == 1 else "windows differ"
        sentence = f"UNEXPLAINED: {found.unexplained:,} {what} for no known reason! {sentence}"
        short = f"Not explained in {_units(found, found.unexplained)}"
        return Answer(question, short, sentence, "alarm")
    short = "Yes, in all" if equal == count else f"In {equal:,} of"
    fine = equal == count and not found.missing
    return Answer(question, f"{short} {_units(found, count)}", sentence, "fine" if fine else "note")


def _fresher(found: Comparison) -> Answer:
    """The ages of all answers in the median, the freshest first."""
    known = [
        (fresh.median, name.removeprefix("stream, "))
        for name, fresh in found.freshness.items()
        if fresh is not None
    ]
    ages = ", ".join(
        f"{name} {median:,.{1 if median < 10 else 0}f} s" for median, name in sorted(known)
    )
    short = f"{ages[0].upper()}{ages[1:]}" if len(known) > 1 else UNKNOWN
    return Answer(QUESTIONS[1], short, _ages_in_words(found))


def _costs(found: Comparison) -> Answer:
    stream, batch = found.cost["cpu_s_per_hour"]
    if not (stream > 0 and batch > 0):
        awaited = "What each costs is unknown yet: it takes a whole minute on record of each path."
        return Answer(QUESTIONS[2], UNKNOWN, awaited)
    against = f"{stream:,.0f} against {batch:,.0f} CPU seconds an hour."
    times = max(stream, batch) / min(stream, batch)
    if times < ALIKE:
        said = f"Stream and batch used about as much CPU, {against}"
        return Answer(QUESTIONS[2], "About the same CPU", said)
    return Answer(
        QUESTIONS[2],
        f"{'Stream' if stream >= batch else 'Batch'}: {times:.1f} times the CPU",
        f"The stream used {stream / batch:.1f} times the CPU of the batch, {against}",
    )


def _too_slow(found: Comparison) -> Answer:
    grown = found.growth
    said = growth_in_words(grown, found.interval_s)
    walls = found.runs["wall_s"].dropna()
    newest = float(walls.iloc[-1]) if len(walls) else math.nan
    now = f"{newest:.1f} s of {found.interval_s:g} s now"
    if newest > found.interval_s or (grown and grown.refusal == compare.TOO_SLOW_ALREADY):
        return Answer(QUESTIONS[3], f"Already: {now}", said, "alarm")
    if grown is None:
        return Answer(QUESTIONS[3], UNKNOWN, said)
    when = f"About {grown.at_limit:%Y-%m-%d}" if grown.at_limit else "Not forecast"
    return Answer(QUESTIONS[3], f"{when}; {now}", said)


def _agreement_in_words(found: Comparison, compared: pd.DataFrame) -> str:
    differ = compared[compared["verdict"].isin(DIFFERENCES)]
    first, last = (compared["window_start"].iloc[place] for place in (0, -1))
    of = f"{windows_in_words(found, len(compared))} from {_minute(first)} to {_minute(last)} UTC"
    if differ.empty:
        return f"Both paths agree on all {of}."
    causes = Counter(cause for text in differ["cause"] for cause in text.split("; "))
    named = ", ".join(f"{cause} in {count:,}" for cause, count in causes.most_common())
    return f"The paths agree on {len(compared) - len(differ):,} of {of}: {named}."


def windows_in_words(found: Comparison, count: int) -> str:
    """`188 compared minutes`, or windows where they are of another length."""
    return _units(found, count, "compared ")


def _units(found: Comparison, count: int, kind: str = "") -> str:
    lengths = found.windows["window_end"] - found.windows["window_start"]
    unit = "minute" if (lengths == timedelta(minutes=1)).all() else "window"
    return _many(count, f"{kind}{unit}")


def _minute(start: str) -> str:
    return f"{start[:10]} {start[11:16]}"


def _ages_in_words(found: Comparison) -> str:
    if found.replayed_as_recorded:
        return (
            "How old the answers were is unknown: the trades are of long ago, replayed as they "
            "were recorded."
        )
    final, opened, batch = (found.freshness[name] for name in (STREAM_FINAL, STREAM_OPEN, BATCH))
    if found.span is None or not final or not batch:
        return "How old the answers were is unknown yet: it takes further answers to tell."
    over = f"Over {_long(*found.span)} until {found.span[1]:%Y-%m-%d %H:%M} UTC the stream's"
    if opened:
        ours = f"open windows were in the median {opened.median:.1f} s, its final ones"
    else:
        ours = "final windows were in the median"
    return f"{over} {ours} {final.median:.0f} s, the batch's answer {batch.median:.0f} s old."


def growth_in_words(grown: Growth | None, interval_s: float) -> str:
    """When the batch will be too slow, or why that is not forecast."""
    if grown is None:
        return "Nothing can be said of the batch's growth yet."
    if grown.refusal == compare.TOO_SLOW_ALREADY and grown.rows_at_limit is not None:
        return (
            f"By the line through its runs, a batch run takes longer than its interval of "
            f"{interval_s:.0f} s from {grown.rows_at_limit / 1e6:,.1f} million trades on, and "
            "there are more than that."
        )
    if grown.refusal or grown.rows_at_limit is None or grown.at_limit is None:
        return f"When the batch will be too slow is not forecast: {grown.refusal}."
    few, most = (
        UNKNOWN if rows is None else "no bound" if math.isinf(rows) else f"{rows / 1e6:,.1f}"
        for rows in (grown.rows_low, grown.rows_high)
    )
    return (
        f"A batch run takes {grown.s_per_million:.1f} s more with each million trades; it will "
        f"take longer than its interval of {interval_s:.0f} s at "
        f"{grown.rows_at_limit / 1e6:,.1f} million trades (95 %: {few} to {most}), which is about "
        f"{grown.at_limit:%Y-%m-%d} at the last hour's rate."
    )


def aspects(found: Comparison) -> pd.DataFrame:
    """The seven aspects in which stream and batch are commonly compared, each as measured.

    Returns:
        A row an aspect, with the columns `ASPECTS`, as text.
    """
    return pd.DataFrame(
        [
            _latency(found),
            _granularity(found),
            _processing(found),
            _resources(found),
            _use_cases(found),
            _consistency(found),
            _interpretation(found),
        ],
        columns=list(ASPECTS),
    )


def _latency(found: Comparison) -> tuple[str, str, str, str]:
    legs = found.waterfall.set_index("leg")

    def median(place: int, pattern: str) -> str:
        return known(legs["median"].iloc[place], pattern, " s")

    def reach(place: int, pattern: str) -> str:
        return f"(99 %: {known(legs['p99'].iloc[place], pattern, ' s')})"

    return (
        "latency",
        (
            f"{median(2, '.1f')} from receipt to an open window {reach(2, '.1f')}, "
            f"{median(3, '.0f')} more until it is final {reach(3, '.0f')}"
        ),
        f"{median(4, '.0f')} from the final window to a batch result with it {reach(4, '.0f')}",
        "a negative time is one at which the batch had the trades before the window was final",
    )


def _granularity(found: Comparison) -> tuple[str, str, str, str]:
    answers = found.cost.set_index("path")["answers"]
    return (
        "granularity",
        (
            f"{_many(answers['stream'], 'final window')}, one for each with trades; the open ones "
            f"{known(found.steadiness and found.steadiness.micro_batches, ',')} times"
        ),
        (
            f"{_many(answers['batch'], 'run')}, the newest over {_rows_of(found)} trades, in all "
            "and by minute"
        ),
        "the same windows on both paths: what differs is when they can be read",
    )


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _rows_of(found: Comparison) -> str:
    return UNKNOWN if found.runs.empty else f"{int(found.runs['rows'].iloc[-1]):,}"


def _processing(found: Comparison) -> tuple[str, str, str, str]:
    steady, grown = found.steadiness, found.growth
    stream = UNKNOWN
    if steady:
        stream = f"{steady.median_ms:,.0f} ms a micro-batch (99 %: {steady.p99_ms:,.0f} ms)"
        if steady.change_ms is not None and steady.low is not None and steady.high is not None:
            stream += (
                f"; over {steady.trades:,} trades it changed by {steady.change_ms:+,.0f} ms "
                f"(95 %: {steady.low:+,.0f} to {steady.high:+,.0f})"
            )
    batch = UNKNOWN
    if len(found.runs):
        last, median = found.runs["wall_s"].iloc[-1], found.runs["wall_s"].median()
        batch = (
            f"{last:.1f} s for the last run, over {_rows_of(found)} rows; {median:.1f} s in the "
        )
        batch += "median of all runs"
        if grown and not grown.refusal:
            batch += (
                f"; with each million rows {grown.s_per_million:+.1f} s "
                f"(95 %: {grown.low:+.1f} to {grown.high:+.1f})"
            )
    return (
        "processing time and scalability",
        stream,
        batch,
        growth_in_words(grown, found.interval_s),
    )


def _resources(found: Comparison) -> tuple[str, str, str, str]:
    costs = found.cost.set_index("path").to_dict("index")

    def said(path: str) -> str:
        row = costs[path]
        return (
            f"{known(row['cpu_s_per_hour'], ',.0f')} CPU seconds an hour, "
            f"{known(row['cpu_s_per_answer'], ',.1f')} an answer, "
            f"{known(row['cpu_s_per_million'], ',.0f')} a million rows read; "
            f"{known(row['peak_mib'], ',.0f')} MiB at most"
        )

    return (
        "resource usage",
        said("stream"),
        said("batch"),
        "whole process trees, with their JVMs; the batch reads each trade anew in each run",
    )


def _use_cases(found: Comparison) -> tuple[str, str, str, str]:
    opened, final, batch = (found.freshness[name] for name in (STREAM_OPEN, STREAM_FINAL, BATCH))
    stream = []
    if opened:
        stream.append(f"what must see trades within {opened.p99:.1f} s (open windows)")
    if final:
        stream.append(f"what can wait {final.p99:.0f} s for what never changes again (final ones)")
    return (
        "use cases",
        "; ".join(stream) or UNKNOWN,
        f"what may be {batch.p99:.0f} s old, and asks of the whole history" if batch else UNKNOWN,
        "ages that the answers kept within at 99 % of all moments of the span",
    )


def _consistency(found: Comparison) -> tuple[str, str, str, str]:
    stages = found.funnel.set_index("stage")["of_issued"]

    def share(path: str) -> str:
        rows = stages[stages.index.str.startswith(f"counted by the {path}")]
        counted = UNKNOWN if rows.empty else f"{rows.iloc[0]:.4%}"
        return f"{counted} of the trades that the exchange issued are counted"

    equal = int((found.agreement["verdict"] == EQUAL).sum())
    return (
        "consistency and completeness",
        share("stream"),
        share("batch"),
        (
            f"{equal:,} of {windows_in_words(found, found.compared)} equal to the last digit; "
            f"differences that nothing explains: {found.unexplained:,}"
        ),
    )


def _interpretation(found: Comparison) -> tuple[str, str, str, str]:
    rows = found.flags.set_index("path").to_dict("index")

    def said(path: str) -> str:
        row = rows[path]
        scored = f"{row['scored']:,}" if row["scored"] else "no"
        return (
            f"of {row['windows']:,} windows {row['high']:,} are High, {row['spike']:,} Spike, "
            f"{row['bullish']:,} Bullish, {row['bearish']:,} Bearish; of {scored} windows with a "
            f"trailing hour the range stands out in {row['range_stands_out']:,}, the volume in "
            f"{row['volume_stands_out']:,}"
        )

    return (
        "interpretation of metrics",
        said("stream"),
        said("batch"),
        (
            "fixed thresholds fit the market they were set for; a z-score above "
            f"{compare.STANDS_OUT:g} says that a window is unlike the hour before it"
        ),
    )


def known(value: object, pattern: str, unit: str = "") -> str:
    """A number in a format, with its unit; `unknown` for None and NaN."""
    if not isinstance(value, int | float) or math.isnan(value):
        return UNKNOWN
    return format(value, pattern) + unit


def _long(start: datetime, end: datetime) -> str:
    minutes = round((end - start) / timedelta(minutes=1))
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"


# --- the command ----------------------------------------------------------------------------


def interval_of(status: Mapping[str, Mapping[str, Any]], otherwise: float) -> float:
    """The interval of the batch runs, as the scheduler that made them says it."""
    said = status["batch_scheduler"].get("settings")
    interval = said.get("batch_interval_seconds") if isinstance(said, Mapping) else None
    return float(interval) if isinstance(interval, int | float) and interval > 0 else otherwise


def main() -> None:
    """`python -m pipeline.compare [--json] [--minutes N]`: verdict and tables.

    Status 0: each difference is explained; 1: one is not; 2: there is nothing to compare, or
    something else lies in the folder.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    parser = argparse.ArgumentParser(prog="python -m pipeline.compare", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--minutes",
        type=minutes,
        help="only the last minutes, so many (completeness and growth stay of all)",
    )
    arguments = parser.parse_args()
    settings = load()
    try:
        written = read_written(DataDir(settings.data_dir), arguments.minutes)
        found = compare.compare(
            written, interval_of(written.status, settings.batch_interval_seconds)
        )
        print(to_json(found) if arguments.json else in_text(found))
    except OutputError as error:
        print(f"{settings.data_dir} cannot be compared: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception:  # noqa: BLE001 - Python's own status of a fault would say "unexplained"
        traceback.print_exc()
        sys.exit(3)
    sys.exit(2 if not found.compared else 1 if found.unexplained else 0)


def minutes(text: str) -> timedelta:
    """So many minutes, as a command's argument; at most some 19,000 years."""
    value = float(text)
    if not 0 < value < 1e10:
        raise ValueError(text)
    return timedelta(minutes=value)


def to_json(found: Comparison) -> str:
    """All numbers of the comparison, the verdict and the table of aspects."""

    def plain(value: object) -> object:
        if isinstance(value, pd.DataFrame):
            return json.loads(value.to_json(orient="records", date_format="iso"))
        if isinstance(value, compare.Shared):
            return vars(value)
        if isinstance(value, Freshness | Growth | compare.Steadiness):
            return {name: finite(one) for name, one in asdict(value).items()}
        if isinstance(value, datetime):
            return iso(value)
        raise TypeError(type(value))

    apart = ("teeth", "runs", "windows")  # of these the files hold more
    said = {name: value for name, value in vars(found).items() if name not in apart}
    said |= {
        "verdict": in_words(found),
        "answers": [asdict(answer) for answer in answers(found)],
        "unexplained": found.unexplained,
        "compared": found.compared,
        "aspects": aspects(found),
    }
    return json.dumps(said, default=plain, indent=1, allow_nan=False)


def finite(value: object) -> object:
    """The value; None for a number that JSON cannot say."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def ages(found: Comparison) -> pd.DataFrame:
    """The freshness of each answer as a table."""
    names = list(Freshness.__dataclass_fields__)
    rows = [
        (name, *(asdict(fresh).values() if fresh else [math.nan] * len(names)))
        for name, fresh in found.freshness.items()
    ]
    return pd.DataFrame(rows, columns=["answer", *names])


def in_text(found: Comparison) -> str:
    """The verdict and the tables for a terminal; only windows that differ are listed."""
    counts = found.agreement["verdict"].value_counts()
    parts = [
        ("", "\n".join(textwrap.wrap(in_words(found), 98))),
        ("Windows", "\n".join(f"{name}: {counts.get(name, 0):,}" for name in VERDICTS)),
        ("Windows that differ, or that miss trades", _table(found.noteworthy)),
        ("Age of the newest trade in each answer, seconds", _table(ages(found))),
        ("Latency by leg, seconds", _table(found.waterfall)),
        ("Completeness", _funnel(found.funnel)),
        ("Cost", _table(found.cost)),
        ("A batch run's time", _table(found.run_parts)),
        ("Stream and batch", _listed(aspects(found))),
    ]
    return "\n\n".join(f"{title}\n{text}" if title else text for title, text in parts)


def _table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "none"
    return str(frame.to_string(index=False, na_rep=UNKNOWN, float_format=lambda x: f"{x:,.2f}"))


def _funnel(frame: pd.DataFrame) -> str:
    """A line a stage: a loss that there was none of is left out."""
    return "\n".join(stage_in_words(row) for row in frame.to_dict("records")) or "none"


def stage_in_words(row: Mapping[Any, Any]) -> str:
    """`stored, of the records read: 9,837 of 9,840 (3 repeated)`."""
    return f"{row['stage']}: {kept_in_words(row)}"


def kept_in_words(row: Mapping[Any, Any]) -> str:
    """`9,837 of 9,840 (3 repeated)`."""
    lost = ", ".join(
        f"{abs(value):,.0f} {'too many, ' if value < 0 and name != 'not_yet' else ''}"
        f"{name.replace('_', ' ') if value >= 0 or name != 'not_yet' else 'ahead'}"
        for name in compare.LOSSES
        if not math.isnan(value := row[name] or math.nan)
    )
    return f"{row['count']:,} of {row['drawn_from']:,}" + (lost and f" ({lost})")


def _listed(frame: pd.DataFrame) -> str:
    """Rows with long texts, one below the other."""
    lines = []
    for row in frame.to_dict("records"):
        lines.append(row["aspect"])
        for name in ASPECTS[1:]:
            text = f"{name}: {row[name]}"
            lines += textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)
