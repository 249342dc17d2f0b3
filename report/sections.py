"""What the report says: sections of words, a figure and tables, the same for both of its forms."""

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from pipeline.compare import summary as verdict
from pipeline.compare.agreement import UNEXPLAINED, VERDICTS
from pipeline.compare.comparison import LOSSES, STANDS_OUT, Comparison
from pipeline.compare.inputs import Written
from pipeline.compare.summary import UNKNOWN, known

#: Windows that differ are listed up to this many.
MOST_LISTED = 50


def said(text: str) -> str:
    """A paragraph, whatever its line ends."""
    return " ".join(text.split())


@dataclass(frozen=True)
class Table:
    """Rows of text below a header."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    #: So many columns are words; those after them are numbers, and stand to the right.
    words: int = 1


@dataclass(frozen=True)
class Section:
    """A part of the report. `figure` is the name of one of `figures.DRAWINGS`, or empty."""

    title: str
    #: How to read it, and what it says, a paragraph each.
    words: list[str]
    tables: list[Table]
    figure: str = ""
    #: What the figure shows, for those who do not see it.
    alt: str = ""


@dataclass(frozen=True)
class Report:
    title: str
    made: str
    #: What was replayed or followed, and over which span.
    about: str
    verdict: str
    sections: list[Section]


def report(found: Comparison, written: Written, made: datetime) -> Report:
    """Everything that the report says, from what was compared."""
    return Report(
        title="Stream or batch: one market feed, processed both ways",
        made=f"{made:%Y-%m-%d %H:%M} UTC",
        about=f"{_feed(written.source)}; {_span(found)}",
        verdict=verdict.in_words(found),
        sections=[
            _aspects(found),
            _agreement(found),
            _freshness(found),
            _latency(found),
            _completeness(found),
            _cost(found),
            _growth(found),
            _metrics(found),
            _what_ran(written),
            _reproduce(written),
        ],
    )


def _feed(source: Mapping[str, Any]) -> str:
    if source.get("kind") == "live":
        return f"The live feed {source.get('url', UNKNOWN)}"
    if source.get("kind") == "replay":
        pace = "re-timed as if it came live" if source.get("retimed") else "as it was recorded"
        return f"A replay of {source.get('recording', UNKNOWN)}, {pace}"
    return "A feed that nobody has noted"


def _span(found: Comparison) -> str:
    if found.span is None:
        return "no span that both paths cover yet"
    start, end = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in found.span)
    return f"answers from {start} to {end} UTC"


def _aspects(found: Comparison) -> Section:
    rows = verdict.aspects(found)
    return Section(
        "In short",
        ["The aspects in which streaming and batch are usually compared, each as measured here."],
        [Table(tuple(rows.columns), [tuple(row) for row in rows.itertuples(index=False)], 4)],
    )


def _agreement(found: Comparison) -> Section:
    counts, listed = found.agreement["verdict"].value_counts(), found.noteworthy
    order = [
        (not cause.startswith(UNEXPLAINED), VERDICTS.index(name))
        for cause, name in zip(listed["cause"], listed["verdict"], strict=True)
    ]
    listed = listed.iloc[sorted(range(len(order)), key=order.__getitem__)]  # what is worst first
    words = [
        said(
            """Each window that either path knows has one verdict: the stream's final row against
            the batch's row of the same window, every metric to the last digit. Each difference has
            a cause, and a cause counts only where single trades account for all of it. A dot marks
            a window with a cause, a cross one that nothing explains."""
        )
    ]
    tables = [
        Table(
            ("verdict", "windows"), [(name, f"{int(counts.get(name, 0)):,}") for name in VERDICTS]
        )
    ]
    if len(listed):
        shown = listed.head(MOST_LISTED)
        if len(shown) < len(listed):
            words.append(f"The first {len(shown)} of {len(listed):,} windows with a cause:")
        tables.append(
            Table(
                ("window, UTC", "verdict", "cause", "late", "doubled", "missing"),
                [
                    (
                        f"{row['window_start'][:10]}\N{NO-BREAK SPACE}{row['window_start'][11:19]}",
                        *(str(row[name]) for name in ("verdict", "cause")),
                        *(f"{row[name]:,}" for name in ("late", "doubled", "missing")),
                    )
                    for row in shown.to_dict("records")
                ],
                words=3,
            )
        )
    return Section(
        "Do they agree?",
        words,
        tables,
        "agreement",
        "Each window as a cell, its colour the verdict",
    )


def _freshness(found: Comparison) -> Section:
    words = [
        said(
            """How old is the newest trade in what a reader finds, at each moment? Both paths are
            asked the same question at the same time: an answer ages by a second a second until
            the next one. Mean, median, 99th percentile and maximum are over time, computed
            exactly from the moments at which files became readable, with no sampling."""
        )
    ]
    if found.replayed_as_recorded:
        words.append("Unknown here: the trades are of long ago, replayed as they were recorded.")
    table = verdict.ages(found)
    header = ("answer", "mean, s", "median, s", "99 %, s", "maximum, s", "known over, s")
    return Section(
        "How fresh is each answer?",
        words,
        [_table(header, table.itertuples(index=False), [".1f", ".1f", ".1f", ".1f", ",.0f"])],
        "freshness",
        "The age of the newest trade in each answer over time, as sawteeth",
    )


def _latency(found: Comparison) -> Section:
    words = [
        said(
            """The way of a trade, leg by leg, by the clocks of those who stamped it. The exchange's
            clock is not ours: a first leg below zero is two clocks that differ. The last leg is
            below zero where the batch had the trades before their window was final. Quantiles
            come from fixed buckets and are within 12 %."""
        )
    ]
    return Section(
        "How long does a trade take?",
        words,
        [
            _table(
                ("leg", "trades", "median, s", "99 %, s"),
                found.waterfall.itertuples(index=False),
                [",d", ",.3f", ",.3f"],
            )
        ],
        "latency",
        "The legs of a trade's way as bars, one after the other",
    )


def _completeness(found: Comparison) -> Section:
    words = [
        said(
            """What each stage kept of what it drew from; each row adds up: kept and lost are all
            there was. The exchange numbers its trades without holes, so an id between two stored
            ones that never came is missing. The counts are of all that was ever stored, not of
            the span alone."""
        )
    ]
    shown = [name for name in LOSSES if found.funnel[name].notna().any()]
    rows = found.funnel[["stage", "drawn_from", "count", *shown, "of_issued", "of_received"]]
    header = ("stage", "drawn from", "kept", *(name.replace("_", " ") for name in shown))
    return Section(
        "Is anything lost?",
        words,
        [
            _table(
                (*header, "of those issued", "of those received"),
                rows.itertuples(index=False),
                [",d", ",d", *[",.0f"] * len(shown), ".4%", ".4%"],
                absent="",
            )
        ],
        "completeness",
        "Of each stage, the share that was kept, and what became of the rest",
    )


def _cost(found: Comparison) -> Section:
    words = [
        said(
            """Processor time and memory of each path's whole process tree, with its JVM: the
            stream's service, and the scheduler with its runs. A final window is an answer of the
            stream, a run one of the batch, whose peak is that of a run. The batch reads each
            trade anew in each run. Memory that processes share is counted in each of them."""
        )
    ]
    return Section(
        "What does each cost?",
        words,
        [
            _table(
                (
                    "path",
                    "CPU s an hour",
                    "peak MiB",
                    "answers",
                    "CPU s an answer",
                    "CPU s a million rows read",
                    "idle, CPU s an hour",
                ),
                found.cost.itertuples(index=False),
                [",.0f", ",.0f", ",d", ",.2f", ",.0f", ",.0f"],
            ),
            _table(
                ("of a batch run, median", "seconds", "share"),
                found.run_parts.itertuples(index=False),
                [".2f", ".0%"],
            ),
        ],
        "cost",
        "CPU seconds an hour and peak memory of both paths as bars",
    )


def _growth(found: Comparison) -> Section:
    grown, steady = found.growth, found.steadiness
    words = [
        said(
            """The batch reads everything at each run, so a run grows with the table; the stream
            keeps sums, so a micro-batch should not. The line through the runs is robust
            (Theil-Sen); the dotted ones are the 95 % interval of its slope."""
        ),
        verdict.growth_in_words(grown, found.interval_s),
    ]
    rows: list[tuple[str, ...]] = []
    if grown and not grown.refusal:
        rows += [
            ("runs", f"{grown.runs:,}"),
            ("a run over an empty table, s", f"{grown.base_s:.2f}"),
            ("s more with each million rows", f"{grown.s_per_million:.2f}"),
            ("its 95 % interval", _interval(grown.low, grown.high, ".2f")),
        ]
    if steady:
        rows += [
            ("micro-batches", f"{steady.micro_batches:,}"),
            ("median, ms", f"{steady.median_ms:,.0f}"),
            ("99 %, ms", f"{steady.p99_ms:,.0f}"),
            (f"change over {steady.trades:,} trades, ms", known(steady.change_ms, "+,.0f")),
            ("its 95 % interval", _interval(steady.low, steady.high, "+,.0f")),
        ]
    return Section(
        "What happens as the data grows?",
        words,
        [Table(("measure", "value"), rows)] if rows else [],
        "growth",
        "Batch runs against rows in the table, and micro-batches over time",
    )


def _interval(low: float | None, high: float | None, pattern: str) -> str:
    if low is None or high is None or math.isinf(low) or math.isinf(high):
        return UNKNOWN
    return f"{low:{pattern}} to {high:{pattern}}"


def _metrics(found: Comparison) -> Section:
    words = [
        said(
            f"""The fixed thresholds were set for another market, and stay as they are. Beside them
            stand measures that fit any market: the z-score of a window's range and volume against
            the windows of the hour before it (above {STANDS_OUT:g} it stands out), the mean price
            by volume, and the imbalance of bought and sold volume. Both paths use the same
            definitions."""
        )
    ]
    return Section(
        "What do the metrics say?",
        words,
        [
            _table(
                (
                    "path",
                    "windows",
                    "High",
                    "Spike",
                    "Bullish",
                    "Bearish",
                    "with a z-score",
                    "range stands out",
                    "volume stands out",
                    "median |imbalance|",
                ),
                found.flags.itertuples(index=False),
                [*[",d"] * 8, ".3f"],
            )
        ],
        "metrics",
        "z-scores of range and volume by window",
    )


def _what_ran(written: Written) -> Section:
    machine, settings = (
        _said_by_services(written, "machine"),
        _said_by_services(written, "settings"),
    )
    java = written.status["spark_processor"].get("java", UNKNOWN)
    return Section(
        "What ran",
        ["As the services say it themselves."],
        [
            Table(
                ("machine and versions", ""),
                [*((name, str(value)) for name, value in machine.items()), ("Java", str(java))],
                words=2,
            ),
            Table(
                ("setting", "value"),
                [
                    (name.upper(), "-" if value is None else str(value))
                    for name, value in settings.items()
                ],
                words=2,
            ),
        ],
    )


def _said_by_services(written: Written, part: str) -> dict[str, Any]:
    found = (status[part] for status in written.status.values() if part in status)
    return next(found, {})


def _reproduce(written: Written) -> Section:
    source = written.source
    settings = written.status["batch_scheduler"].get("settings", {})
    interval = settings.get("batch_interval_seconds")
    before = "" if interval is None else f"BATCH_INTERVAL_SECONDS={interval:g} "
    if source.get("kind") == "live":
        begin = (
            f"`{before}make run` follows the live exchange; what it trades now is not what it "
            "traded then."
        )
    elif source.get("kind") == "replay":
        recording = shlex.quote(str(source.get("recording")).replace("`", "'"))
        feed = written.status["producer"].get("feed") or {}
        speed = feed.get("speed", "max")
        pace = "" if source.get("retimed") else f" RETIME=0 SPEED={speed}"
        command = f"{before}make demo RECORDING={recording} DATA_DIR=data-again{pace}"
        begin = f"`{command}` replays it."
    else:
        begin = "Nobody has noted which feed filled this folder."
    return Section(
        "How to reproduce it",
        [
            begin + " Settings are environment variables, as in the table above.",
            said(
                """`make report DATA_DIR=…` makes this report; `python -m pipeline.compare` prints
                the verdict and the tables, and its status tells whether each difference is
                explained."""
            ),
        ],
        [],
    )


def _table(
    header: tuple[str, ...],
    rows: Iterable[tuple[Any, ...]],
    patterns: list[str],
    absent: str = UNKNOWN,
) -> Table:
    return Table(
        header,
        [
            (
                str(first),
                *(
                    _cell(value, pattern, absent)
                    for value, pattern in zip(values, patterns, strict=True)
                ),
            )
            for first, *values in rows
        ],
    )


def _cell(value: Any, pattern: str, absent: str) -> str:
    if value is None or pd.isna(value):
        return absent
    return format(int(value) if pattern.endswith("d") else float(value), pattern)
