"""From a snapshot of the files to what each part of the page says: pure, without Streamlit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import pandas as pd

from page import formatting as words
from page import markup, status, windows
from page.files import Snapshot
from pipeline.compare.comparison import Shared
from pipeline.settings import Settings

#: Rows sent to the browser at most; the downloads have all.
MOST_WINDOW_ROWS = 1440
MOST_RUN_ROWS = 500
#: Statuses of runs that ended as they should.
GOOD_RUNS = ("ok", "no_data")
REPORT_SAID = (
    "The comparison of the chosen span as a document to take along: made when you click, from what "
    "the files hold then, in a few seconds."
)
#: For how long the failure of a report is told.
SAID_FOR = timedelta(minutes=5)
SETTINGS_SAID = (
    "What each service says that it runs with; nothing can be changed here. ≠ marks what is not "
    "the same in all of them."
)
#: Bars in the chart of batch durations.
MOST_RUN_BARS = 60


@dataclass(frozen=True)
class Market:
    """The candles of the chosen span, the newest ones still forming."""

    candles: pd.DataFrame
    width: timedelta
    forming_starts: frozenset[pd.Timestamp]
    #: The end of the newest window, from which the span counts back; None without windows.
    end: pd.Timestamp | None
    covered: timedelta
    first_price: float | None
    last_price: float | None


def thresholds(settings: Settings) -> windows.Thresholds:
    return windows.Thresholds(
        settings.volatility_range, settings.sentiment_ratio, settings.spike_volume
    )


def as_run(services: Mapping[str, status.Service], settings: Settings) -> Settings:
    """The page's settings with what the stream says that it runs with: the files are its own."""
    said = services[status.STREAM].part("settings")
    read = {
        name: found
        for name, how in (
            ("product_id", lambda text: text if isinstance(text, str) else None),
            ("window", _duration),
            ("volatility_range", _decimal),
            ("sentiment_ratio", _decimal),
            ("spike_volume", _decimal),
        )
        if (found := how(said.get(name))) is not None
    }
    return settings.model_copy(update=read)


def market(snapshot: Snapshot, span_name: str, settings: Settings) -> Market:
    """What the chart of the span shows, made once for all parts and viewers."""
    return snapshot.open_windows.made(
        ("market", span_name), settings, lambda _live: _market(snapshot, span_name, settings)
    )


def _market(snapshot: Snapshot, span_name: str, settings: Settings) -> Market:
    span = windows.SPANS[span_name]
    finals, live = snapshot.finals, snapshot.live
    end = windows.newest_end(finals.frame, live)
    if end is None:
        nothing = windows.coarser(live, settings.window)
        return Market(nothing, settings.window, frozenset(), None, timedelta(0), None, None)
    first = min(frame["window_start"].iloc[0] for frame in (finals.frame, live) if len(frame))
    covered = end - first if span is None else min(span, end - first)
    width = windows.candle_width(covered, settings.window)
    ratio = settings.sentiment_ratio
    closed = finals.made(
        ("candles", span_name),
        (end, width, ratio),
        lambda frame: windows.coarser(windows.since(frame, span, end), width, ratio),
    )
    opened = windows.since(live, span, end)
    candles = joined(closed, windows.since(finals.frame, span, end), opened, width, ratio)
    return Market(
        candles=candles,
        width=width,
        forming_starts=frozenset(opened["window_start"].dt.floor(pd.Timedelta(width))),
        end=end,
        covered=covered,
        first_price=words.number(candles["open_price"].iloc[0]) if len(candles) else None,
        last_price=words.number(candles["close_price"].iloc[-1]) if len(candles) else None,
    )


def joined(
    closed: pd.DataFrame,
    finals: pd.DataFrame,
    opened: pd.DataFrame,
    width: timedelta,
    ratio: Decimal,
) -> pd.DataFrame:
    """The candles of these final windows and of open ones; one of both is made of its windows."""
    if opened.empty:
        return closed
    start = opened["window_start"].iloc[0].floor(pd.Timedelta(width))
    begun = finals.iloc[int(finals["window_start"].searchsorted(start)) :]
    newest = opened
    if len(begun):
        newest = pd.concat([begun, opened]).sort_values("window_start", kind="stable")
    candles = windows.coarser(newest, width, ratio)
    whole = closed[closed["window_start"] < start]
    return pd.concat([whole, candles], ignore_index=True) if len(whole) else candles


def batch_counts(snapshot: Snapshot, span_name: str, shown: Market) -> pd.DataFrame:
    """The batch's trade counts, in windows as wide as the candles shown, over the same span."""
    span, end = windows.SPANS[span_name], shown.end
    return snapshot.batch_windows.made(
        ("counts", span_name),
        (end, shown.width),
        lambda frame: windows.counts(
            frame if end is None else windows.since(frame, span, end), shown.width
        ),
    )


# --- the top --------------------------------------------------------------------------------


def top(snapshot: Snapshot, shown: Market, settings: Settings, *, beat: bool) -> markup.Top:
    now = snapshot.looked
    producer = snapshot.services[status.PRODUCER]
    feed = status.feed_of(producer, snapshot.source)
    trade = status.last_trade(producer, feed, now)
    price = trade.price if trade.price is not None else shown.last_price
    return markup.Top(
        product=settings.product_id,
        price=price,
        change=windows.change(shown.first_price, price),
        span=words.age(shown.covered.total_seconds()),
        verdict=status.verdict(snapshot.services, snapshot.source, now),
        feed=feed,
        age=status.age_words(trade),
        now=now,
        troubles=status.troubles(snapshot.services, now),
        beat=beat,
    )


# --- waiting --------------------------------------------------------------------------------


def _since(snapshot: Snapshot) -> str:
    waited = words.age(words.seconds_since(snapshot.first_look, snapshot.looked))
    return f"awaited since this page began to look, {waited} ago"


def awaited_windows(snapshot: Snapshot) -> str:
    """Why no window is shown; empty when there are some."""
    if len(snapshot.finals.frame) or len(snapshot.live):
        return ""
    if snapshot.loading:
        return f"Reading {', '.join(snapshot.loading)} …"
    waits = [
        status.sentence(snapshot.services[name], snapshot.looked)
        for name in (status.PRODUCER, status.STREAM)
        if status.condition(snapshot.services[name], snapshot.looked) != "ok"
    ]
    why = "; ".join(waits) or "the stream runs and waits for the first trade"
    return (
        f"No window yet ({_since(snapshot)}): {why}. The forming window appears with the first "
        "trade; it is final once a later trade has moved the watermark past its end."
    )


def awaited_batch(snapshot: Snapshot) -> str:
    """Why no batch result is shown; empty when there is one."""
    if snapshot.batch_run:
        return ""
    if snapshot.batch_problem:
        return f"The newest batch result is there, but: {snapshot.batch_problem}"
    scheduler = snapshot.services[status.SCHEDULER]
    state = status.condition(scheduler, snapshot.looked)
    if state != "ok":
        why = status.sentence(scheduler, snapshot.looked)
    elif scheduler.fields.get("running"):
        why = f"run {scheduler.said('running')} is going on"
    elif (due := scheduler.moment("next_run")) is not None:
        why = f"the next run is due at {words.clock(due)} UTC"
    else:
        why = "the first run starts when btc_prices holds rows"
    return f"No batch result yet ({_since(snapshot)}): {why}."


# --- the paths side by side -----------------------------------------------------------------


def _row(frame: pd.DataFrame) -> Mapping[str, Any]:
    return {str(name): value for name, value in frame.iloc[-1].items()} if len(frame) else {}


def columns(snapshot: Snapshot, settings: Settings) -> list[markup.Column]:
    """The stream's newest answers and the batch's, each with what it covers and its age."""
    now = snapshot.looked
    feed = status.feed_of(snapshot.services[status.PRODUCER], snapshot.source)
    forming, final = _row(snapshot.live), _row(snapshot.finals.frame)
    rules = thresholds(settings)
    whole = snapshot.finals.made("roll-up", rules, lambda frame: windows.roll_up(frame, rules))
    run = snapshot.batch_run

    def column(
        path: str, title: str, values: Mapping[str, Any], first: str, last: str
    ) -> markup.Column:
        trade = words.moment(values.get("last_trade_time"))
        return markup.Column(
            path=path,
            title=title,
            first=words.day_and_clock(words.moment(values.get(first))),
            last=words.day_and_clock(words.moment(values.get(last))),
            newest_trade=words.clock(trade) if feed.as_recorded else words.ago(trade, now),
            written=words.ago(words.moment(values.get("written_at")), now),
            metrics=values,
        )

    span = ("window_start", "window_end")
    return [
        column("Stream", "forming window", forming, *span),
        column("Stream", "latest final", final, *span),
        column("Stream", _all_finals(whole), whole, *span),
        column("Batch", "newest run", run, "first_trade_time", "last_trade_time"),
    ]


def _all_finals(whole: Mapping[str, Any]) -> str:
    count = whole.get("windows")
    if count is None:
        return "final windows"
    return f"{count:,} final window" + ("" if count == 1 else "s")


def difference(stream: markup.Column, batch: markup.Column) -> markup.Column:
    """The stream's result less the batch's, as text."""
    values: dict[str, Any] = {}
    for metric, _, write in markup.METRICS:
        ours, theirs = stream.metrics.get(metric), batch.metrics.get(metric)
        if not words.is_known(ours) or not words.is_known(theirs):
            continue
        one, other = words.number(ours), words.number(theirs)
        if one is None or other is None:
            values[metric] = "=" if ours == theirs else "≠"
        else:
            values[metric] = words.difference(round(one - other, 8), write)
    trades, writings = (
        words.apart(*(words.moment(column.metrics.get(name)) for column in (stream, batch)))
        for name in ("last_trade_time", "written_at")
    )
    return markup.Column("Difference", f"{stream.title} - run", "", "", trades, writings, values)


def shared_said(shared: Shared | None) -> str:
    """Whether the paths find the same over the very same windows."""
    if shared is None or not shared.windows:
        return ""
    differences = dict(zip(shared.totals["metric"], shared.totals["difference"], strict=True))
    differing = [
        f"{name} {words.difference(differences[metric], write)}"
        for metric, name, write in markup.METRICS
        if words.is_known(differences.get(metric)) and differences[metric] != 0
    ]
    of = f"Of the {words.count(shared.windows)} windows in both"
    if not shared.differing:
        return f"{of} none differs."
    unknown = shared.totals["difference"].isna().any()
    nothing = "nothing that is known" if unknown else "no difference"
    return (
        f"{of} {words.count(shared.differing)} differ; rolled up: "
        f"{', '.join(differing) or nothing}."
    )


def side_by_side_said(run: Mapping[str, Any], shared: Shared | None) -> str:
    """How to read the difference."""
    if not run:
        return ""
    return (
        "Difference: the stream's final windows less the batch's run, which also holds trades "
        f"that are not in a final window yet. {shared_said(shared)}".rstrip()
    )


def counts_sentence(snapshot: Snapshot) -> str:
    """How many trades each path has taken in."""
    finals, live = snapshot.finals.frame, snapshot.live
    rows = words.count(snapshot.services[status.CONSUMER].number("rows"))
    return (
        f"Stream: {_in_windows(finals, 'final')}, {_in_windows(live, 'open')}. "
        f"Table btc_prices: {words.with_unit(rows, 'rows')}. Batch: {_in_snapshot(snapshot)}."
    )


def _in_windows(frame: pd.DataFrame, kind: str) -> str:
    if frame.empty:
        return f"no {kind} window"
    trades = words.count(frame["trade_count"].sum(min_count=1))
    return f"{trades} trades in {len(frame):,} {kind} window" + ("s" if len(frame) > 1 else "")


def _in_snapshot(snapshot: Snapshot) -> str:
    run = snapshot.batch_run
    if not run:
        return "no result yet"
    taken = words.moment(run.get("snapshot_at"))
    when = f", taken {words.ago(taken, snapshot.looked)}" if taken else ""
    return f"{words.count(run.get('rows'))} rows in its snapshot{when}"


def reading(shown: Market, average: float | None) -> str:
    """How to read the price chart, and where the batch's average is if out of view."""
    if shown.candles.empty:
        return ""
    each = words.length(shown.width)
    text = f"A candle is {each} of event time, UTC; the pale, dashed one is still forming."
    if average is not None:
        place = windows.place_of(average, shown.candles)
        if place != "within":
            text += f" The batch's average, {words.price(average)}, lies {place} what is shown."
        else:
            text += f" Dashed line: the batch's average price, {words.price(average)}."
    return (
        f"{text} Mood: bullish cells above, bearish below. Drag to pan, Ctrl and wheel to zoom, "
        "double click to reset."
    )


def durations_sentence(runs: pd.DataFrame) -> str:
    """What the newest run took, and how to read the chart of durations."""
    if runs.empty:
        return "No batch run has ended yet."
    newest = runs.iloc[-1]
    wall, rows = words.seconds(newest["wall_s"]), words.count(newest["rows"])
    failed = int((~runs["status"].isin(GOOD_RUNS)).sum())
    shown = min(len(runs), MOST_RUN_BARS)
    many = f"{words.count(len(runs))} run" + ("s" if len(runs) > 1 else "")
    bad = f"{failed} of them not well ended (red, with a cross)" if failed else "all well ended"
    return (
        f"Newest run: {words.text(newest['status'])}, {wall} of wall time, {rows} rows. "
        f"{many}, {bad}. The newest {shown} drawn, the oldest on the left."
    )


def counts_reading(shown: Market) -> str:
    if shown.candles.empty:
        return ""
    return (
        f"Each bar is the stream's count of {words.length(shown.width)}, the line the batch's of "
        "the same time: a line on its bar's top is the same count."
    )


# --- tables ---------------------------------------------------------------------------------

_WINDOW_TABLE = (
    "window_start",
    "state",
    "open_price",
    "max_price",
    "min_price",
    "close_price",
    "avg_price",
    "price_range",
    "volatility_flag",
    "total_volume",
    "volume_spike",
    "trade_count",
    "buy_count",
    "sell_count",
    "buy_sell_ratio",
    "market_sentiment",
    "vwap",
    "volume_imbalance",
    "range_z",
    "volume_z",
    "last_trade_time",
    "written_at",
)


def in_span(snapshot: Snapshot, span_name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The final and the open windows of the span, which ends with the newest window."""
    finals, live = snapshot.finals.frame, snapshot.live
    end = windows.newest_end(finals, live)
    if end is None:
        return finals, live
    span = windows.SPANS[span_name]
    return windows.since(finals, span, end), windows.since(live, span, end)


def window_rows(snapshot: Snapshot, span_name: str) -> tuple[pd.DataFrame, int]:
    """The newest windows of the span as the page's table, newest first, and how many there are."""
    finals, live = in_span(snapshot, span_name)
    newest = [finals.tail(MOST_WINDOW_ROWS).assign(state="final"), live.assign(state="open")]
    rows = pd.concat(newest).tail(MOST_WINDOW_ROWS)
    return rows.iloc[::-1][list(_WINDOW_TABLE)], len(finals) + len(live)


def first_of_span(snapshot: Snapshot, span_name: str) -> datetime | None:
    """When the first window of the span starts; None without windows."""
    starts = [frame["window_start"].iloc[0] for frame in in_span(snapshot, span_name) if len(frame)]
    return min(starts, default=None)


def window_table_sentence(shown: int, all_rows: int) -> str:
    if not all_rows:
        return "No window yet."
    return (
        f"The newest {words.count(shown)} of {words.count(all_rows)} windows in the span, times in "
        "UTC. Click a heading to sort; search is at the table's upper right corner."
    )


def run_rows(runs: pd.DataFrame) -> pd.DataFrame:
    """batch_log.txt, the newest run first; a run that did not end well carries a cross."""
    newest = runs.iloc[::-1].head(MOST_RUN_ROWS)
    return newest.assign(
        status=[
            text if (text := words.text(found)) in GOOD_RUNS else f"✕ {text.upper()}"
            for found in newest["status"]
        ]
    )


def runs_sentence(snapshot: Snapshot) -> str:
    if snapshot.runs.frame.empty:
        return "batch_log.txt holds no run yet."
    shown = min(len(snapshot.runs.frame), MOST_RUN_ROWS)
    return (
        f"batch_log.txt, its newest {words.count(shown)} of "
        f"{words.count(len(snapshot.runs.frame))} lines; a cross marks a run that did not end well."
    )


def failure_said(problem: tuple[str, datetime] | None, now: datetime) -> str:
    """Why the newest report could not be made; empty when it could."""
    if problem is None or now - problem[1] > SAID_FOR:
        return ""
    return f"No report {words.ago(problem[1], now)}: it {problem[0]}"


def setting_rows(
    services: Mapping[str, status.Service], settings: Settings
) -> list[tuple[str, str, str]]:
    """Each setting, what runs with it (by service where they differ), and its meaning."""
    said = {
        **{name: service.part("settings") for name, service in services.items()},
        "this page": settings.model_dump(mode="json"),
    }
    return [
        (
            name.upper(),
            _by_value(said, name, _setting_text),
            (described.description or "").replace("`", ""),
        )
        for name, described in Settings.model_fields.items()
    ]


def machine_rows(services: Mapping[str, status.Service]) -> list[tuple[str, str]]:
    """What the services run on: the machine and the versions, as they say it themselves."""
    said = {name: service.part("machine") for name, service in services.items()}
    names = dict.fromkeys(name for machine in said.values() for name in machine)
    rows = [(str(name), _by_value(said, name, words.text)) for name in names]
    java = services[status.STREAM].said("java")
    return [*rows, ("Java", java)] if rows else []


def _by_value(
    said: Mapping[str, Mapping[str, Any]], name: str, write: Callable[[object], str]
) -> str:
    """What all say; or, with a sign, each thing said and who says so."""
    who: dict[str, list[str]] = {}
    for service, values in said.items():
        if name in values:
            who.setdefault(write(values[name]), []).append(service)
    if len(who) == 1:
        return next(iter(who))
    found = "; ".join(f"{text} ({', '.join(services)})" for text, services in who.items())
    return f"≠ {found}" if found else words.DASH


def _setting_text(value: object) -> str:
    """A setting as a service writes it: durations in ISO 8601, numbers, text, null."""
    match value:
        case None:
            return "not set"
        case float():
            return f"{value:g}"
        case str() if value.startswith("P") and (length := _duration(value)):
            return words.length(length)
    return words.text(value)


def _duration(text: object) -> timedelta | None:
    """From ISO 8601, as a service writes it; None for anything else, and for none at all."""
    if not isinstance(text, str):
        return None
    try:
        found = pd.Timedelta(text)
    except ValueError:
        return None
    if not isinstance(found, pd.Timedelta):
        return None
    length = found.to_pytimedelta()
    return length if timedelta(seconds=1) <= length <= timedelta(days=1) else None


def _decimal(text: object) -> Decimal | None:
    try:
        found = Decimal(str(text))
    except InvalidOperation:
        return None
    return found if found.is_finite() and found > 0 else None
