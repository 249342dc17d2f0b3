"""The newest results of both paths side by side, with their ages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from page import formatting, status
from page.files import Snapshot
from page.sections.market import waiting_since
from pipeline.compare.summary import differ
from pipeline.compare.totals import SharedTotals
from pipeline.metrics.definitions import BEARISH, BULLISH, HIGH, LABELS, SPIKE
from pipeline.settings import units_text

#: The metrics in the order of the table, and their formats.
FORMATS: dict[str, Callable[[object], str]] = {
    "avg_price": formatting.price,
    "vwap": formatting.price,
    "open_price": formatting.price,
    "max_price": formatting.price,
    "min_price": formatting.price,
    "close_price": formatting.price,
    "price_range": formatting.price,
    "volatility_flag": formatting.text,
    "total_volume": formatting.amount,
    "volume_spike": formatting.text,
    "trade_count": formatting.count,
    "buy_count": formatting.count,
    "sell_count": formatting.count,
    "buy_sell_ratio": formatting.ratio,
    "volume_imbalance": formatting.ratio,
    "market_sentiment": formatting.text,
}
_SYMBOLS = {HIGH: "◆", SPIKE: "★", BULLISH: "▲", BEARISH: "▼"}


@dataclass(frozen=True)
class Column:
    """One result."""

    title: str
    #: The event time that it covers.
    first: str
    last: str
    #: The age of its newest trade, and of the file that holds it.
    newest_trade: str
    written: str
    metrics: Mapping[str, Any]


def columns(snapshot: Snapshot) -> list[Column]:
    """Return the newest results of the stream and of the batch."""
    now = snapshot.taken_at
    feed = status.feed_of(snapshot.services[status.PRODUCER], snapshot.source)
    open_window, final = _last_row(snapshot.live), _last_row(snapshot.finals.frame)

    def column(title: str, values: Mapping[str, Any], first: str, last: str) -> Column:
        trade = formatting.moment(values.get("last_trade_time"))
        return Column(
            title=title,
            first=formatting.day_and_clock(formatting.moment(values.get(first))),
            last=formatting.day_and_clock(formatting.moment(values.get(last))),
            newest_trade=formatting.clock(trade)
            if feed.as_recorded
            else formatting.ago(trade, now),
            written=formatting.ago(formatting.moment(values.get("written_at")), now),
            metrics=values,
        )

    span = ("window_start", "window_end")
    return [
        column("Stream: newest open window", open_window, *span),
        column("Stream: newest final window", final, *span),
        column(
            "Batch: newest run, all trades",
            snapshot.batch_run,
            "first_trade_time",
            "last_trade_time",
        ),
    ]


def _last_row(frame: pd.DataFrame) -> Mapping[str, Any]:
    return {str(name): value for name, value in frame.iloc[-1].items()} if len(frame) else {}


def rows(shown: Sequence[Column]) -> list[list[str]]:
    """Return the cells of the table: a label, and a cell of each result."""
    found = [
        ["from (UTC)", *(column.first for column in shown)],
        ["to (UTC)", *(column.last for column in shown)],
        ["newest trade", *(column.newest_trade for column in shown)],
        ["written", *(column.written for column in shown)],
    ]
    for metric, write in FORMATS.items():
        cells = [_cell(column.metrics.get(metric), write) for column in shown]
        found.append([LABELS[metric], *cells])
    return found


def heads(shown: Sequence[Column]) -> list[str]:
    """Return the headings of the table."""
    return ["Metric", *(column.title for column in shown)]


def _cell(value: object, write: Callable[[object], str]) -> str:
    if not formatting.is_known(value):
        return formatting.DASH
    written = write(value)
    return f"{_SYMBOLS[written]} {written}" if written in _SYMBOLS else written


def empty_state(snapshot: Snapshot) -> str:
    """Return why no batch result is shown and what will fill it; empty when there is one."""
    if snapshot.batch_run:
        return ""
    if snapshot.batch_problem:
        return f"Cannot show the newest batch result: {snapshot.batch_problem}."
    scheduler = snapshot.services[status.SCHEDULER]
    state = status.condition(scheduler, snapshot.taken_at)
    if state != "ok":
        why = status.sentence(scheduler, snapshot.taken_at)
    elif scheduler.fields.get("running"):
        why = f"run {scheduler.text('running')} is in progress"
    elif (due := scheduler.moment("next_run")) is not None:
        why = f"the next run starts at {formatting.clock(due)} UTC"
    else:
        why = "the first run starts when the table btc_prices has rows"
    return f"No batch result yet ({waiting_since(snapshot)}): {why}."


def how_to_read(run: Mapping[str, Any], product: str) -> str:
    """Return what each column covers, and the units."""
    if not run:
        return ""
    return (
        "The first two rows show the event times that each column covers. The selected time range "
        "does not change them. The batch covers all stored trades, so its counts and volume are "
        "larger. "
        f"{units_text(product)} The thresholds of {HIGH} and {SPIKE} are set for one window. For "
        "the whole table, the two flags have no meaning."
    )


def shared_windows(shared: SharedTotals | None) -> str:
    """Return whether both paths have the same results in the windows that both have."""
    if shared is None or not shared.windows:
        return ""
    if not shared.differing and shared.windows == 1:
        return "The 1 window in both paths is identical."
    if not shared.differing:
        return f"All {formatting.count(shared.windows)} windows in both paths are identical."
    differences = dict(zip(shared.totals["metric"], shared.totals["difference"], strict=True))
    differing = [
        f"{LABELS[metric]} {formatting.difference(differences[metric], write)}"
        for metric, write in FORMATS.items()
        if formatting.is_known(differences.get(metric)) and differences[metric] != 0
    ]
    unknown = shared.totals["difference"].isna().any()
    totals = ", ".join(differing) or ("no known difference" if unknown else "no difference")
    return (
        f"{formatting.count(shared.differing)} of "
        f"{formatting.many(shared.windows, 'window')} in both paths "
        f"{differ(shared.differing)}. "
        f"Stream minus batch over all these windows: {totals}."
    )
