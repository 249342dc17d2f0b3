"""The parts of the page that are plain HTML. Everything that comes from data is escaped here."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from page import formatting as words
from page import status, tables
from page.formatting import DASH

#: Symbols beside the words, for those who cannot tell the colours apart.
SYMBOLS: Mapping[str, str] = {
    "LIVE": "●",
    "REPLAY": "▶",
    "WAITING": "…",
    "STALE": "!",
    "DOWN": "✕",
    "ENDED": "■",
}
_CONDITIONS: Mapping[str, tuple[str, str]] = {
    "ok": ("●", "good"),
    "starting": ("…", "plain"),
    "trouble": ("!", "bad"),
    "silent": ("✕", "bad"),
    "stopped": ("■", "bad"),
    "absent": (DASH, "plain"),
    "unreadable": ("?", "bad"),
}


@dataclass(frozen=True)
class Top:
    """What stands at the top of the page."""

    product: str
    price: float | None
    change: tuple[float, float] | None
    span: str
    verdict: status.Verdict
    feed: status.Feed
    age: str
    now: datetime
    troubles: Sequence[str]
    #: Alternates from refresh to refresh; restarts the browser's own watch over the page's age.
    beat: bool


def top(state: Top) -> str:
    word = state.verdict.word
    source = []
    if state.feed.kind and word != "LIVE":
        source.append("live feed" if state.feed.kind == "live" else "REPLAY")
    if word == "REPLAY":
        source.clear()
    if state.feed.synthetic:
        source.append("SYNTHETIC")
    chips = _chip(f"{SYMBOLS[word]} {word}", f"word {word.lower()}") + "".join(
        _chip(name, "source") for name in source
    )
    old = "" if word in ("LIVE", "REPLAY") else " p-old"
    cause = f" · cause: {state.verdict.cause}" if state.verdict.cause else ""
    others = [trouble for trouble in state.troubles if trouble not in state.verdict.reason]
    # On one line: what stands still at the top must leave room for the rest.
    said = escape(" · ".join(others))
    troubles = f'<div class="p-trouble">! {said}</div>' if others else ""
    return (
        f'<div class="p-top" role="region" aria-label="State of the feed"><div class="p-line">'
        f'<span class="p-product">{escape(state.product)}</span>'
        f'<span class="p-price{old}" title="last price">{words.price(state.price)}</span>'
        f"{_change(state)}"
        f'<span class="p-chips">{chips}</span>'
        f'<span class="p-age">{escape(state.age)}</span>'
        f'<span class="p-clock">{words.clock(state.now)} UTC</span></div>'
        f'<div class="p-reason">{escape(state.verdict.reason)}{escape(cause)}</div>{troubles}'
        f'<div class="p-watch p-beat{int(state.beat)}">This page has not been refreshed for a '
        "while: what it shows may be old. Its server may be down.</div></div>"
    )


def _chip(text: str, kind: str) -> str:
    return f'<span class="p-chip p-{" p-".join(kind.split())}">{escape(text)}</span>'


def _change(state: Top) -> str:
    if state.change is None:
        return f'<span class="p-change">{DASH}</span>'
    difference, share = state.change
    arrow, kind = ("▲", "up") if difference > 0 else ("▼", "down") if difference < 0 else ("=", "")
    return (
        f'<span class="p-change p-{kind}" title="from the first price shown to the last">{arrow} '
        f"{words.price(difference, sign=True)} ({words.percent(share)}) over {escape(state.span)}"
        "</span>"
    )


def anchor(title: str) -> str:
    """Where the section of this title stands, in the page's address."""
    return "-".join(re.findall("[a-z]+", title.lower()))


def navigation(sections: Mapping[str, str]) -> str:
    """Links to sections: the word of each, by its title."""
    links = "".join(
        f'<a href="#{anchor(title)}" target="_self">{escape(word)}</a>'
        for word, title in sections.items()
    )
    return f'<nav class="p-nav" aria-label="Sections of this page">{links}</nav>'


def note(text: str, kind: str = "plain") -> str:
    """A sentence. `kind` is `plain`, `bad` or `quiet`; empty text holds the place."""
    empty = "" if text else " p-nothing"
    return f'<div class="p-note p-{kind}{empty}">{escape(text)}</div>'


def notes(texts: Iterable[str], kind: str = "plain") -> str:
    return "".join(note(text, kind) for text in texts)


# --- the paths side by side -----------------------------------------------------------------

#: Metric, its name on the page, how it is written.
METRICS = (
    ("avg_price", "average price", words.price),
    ("vwap", "average by volume", words.price),
    ("open_price", "open", words.price),
    ("max_price", "highest", words.price),
    ("min_price", "lowest", words.price),
    ("close_price", "close", words.price),
    ("price_range", "range", words.price),
    ("volatility_flag", "volatility", words.text),
    ("total_volume", "volume", words.amount),
    ("volume_spike", "volume spike", words.text),
    ("trade_count", "trades", words.count),
    ("buy_count", "buys", words.count),
    ("sell_count", "sells", words.count),
    ("buy_sell_ratio", "buys / sells", words.ratio),
    ("volume_imbalance", "volume imbalance", words.ratio),
    ("market_sentiment", "sentiment", words.text),
)
_MARKS = {"High": "◆ High", "Spike": "★ Spike", "Bullish": "▲ Bullish", "Bearish": "▼ Bearish"}


@dataclass(frozen=True)
class Column:
    """One result among those held side by side."""

    path: str
    title: str
    #: What it covers, in event time: from and to.
    first: str
    last: str
    #: How old it is: its newest trade, and when it was written.
    newest_trade: str
    written: str
    metrics: Mapping[str, Any]


def metrics_table(columns: Sequence[Column], difference: Column) -> str:
    """Results side by side, and how two of them differ: written by who knows how, text."""

    def heads(name: str, attribute: str, kind: str) -> str:
        cells = (getattr(column, attribute) for column in (*columns, difference))
        joined = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in cells)
        return f'<tr class="p-{kind}"><th>{escape(name)}</th>{joined}</tr>'

    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td>{_value(column.metrics.get(metric), write)}</td>" for column in columns)
        + f"<td>{_value(difference.metrics.get(metric), words.text)}</td></tr>"
        for metric, name, write in METRICS
    )
    return (
        '<div class="p-scroll"><table class="p-table p-metrics"><thead>'
        + heads("", "path", "path")
        + heads("", "title", "title")
        + heads("from, UTC", "first", "small")
        + heads("to, UTC", "last", "small")
        + heads("newest trade", "newest_trade", "small")
        + heads("written", "written", "small")
        + f"</thead><tbody>{body}</tbody></table></div>"
    )


def _value(value: object, write: Any) -> str:
    if not words.is_known(value):
        return DASH
    written = write(value)
    return escape(_MARKS.get(written, written))


# --- services and settings ------------------------------------------------------------------


def service_cards(services: Iterable[status.Service], now: datetime) -> str:
    cards = "".join(_card(service, now) for service in services)
    return f'<div class="p-cards">{cards}</div>'


def _card(service: status.Service, now: datetime) -> str:
    state = status.condition(service, now)
    symbol, kind = _CONDITIONS[state]
    said = {
        "absent": "no status yet",
        "unreadable": "status unreadable",
        "silent": "not heard of",
    }.get(state, service.said("state"))
    rows = [
        ("says", _says(service, state)),
        ("status written", words.ago(service.moment("updated"), now)),
        ("starts", words.count(service.number("starts"))),
        ("started", _started(service, now)),
        ("counters", _counters(service)),
        *_rate(service, now),
        *_details(service, state),
        ("cost", _cost(service)),
        ("last error", _last_error(service, now)),
    ]
    body = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return (
        f'<section class="p-card"><h4>{escape(service.name)} '
        f'<span class="p-state p-{kind}">{symbol} {escape(said)}</span></h4>'
        f"<dl>{body}</dl></section>"
    )


def _says(service: status.Service, state: str) -> str:
    if state == "unreadable":
        return words.text(service.problem)
    return service.said("message")


def _started(service: status.Service, now: datetime) -> str:
    started = service.moment("started")
    if started is None:
        return DASH
    return f"{words.day_and_clock(started)} ({words.ago(started, now)})"


def _counters(service: status.Service) -> str:
    counters = service.part("counters")
    return (
        ", ".join(f"{str(name).replace('_', ' ')} {words.count(n)}" for name, n in counters.items())
        or DASH
    )


def _rate(service: status.Service, now: datetime) -> list[tuple[str, str]]:
    if service.name == status.SCHEDULER:
        return []
    found = status.rate(service, now)
    if found is None:
        return [("rate", DASH)]
    a_second = f"{found.counter} {found.per_second:,.1f} a second"
    return [("rate", f"{a_second}, in the minute until {words.clock(found.until)}")]


def _cost(service: status.Service) -> str:
    cost = service.part("cost")
    cpu, now, peak = (words.number(cost.get(name)) for name in ("cpu_s", "rss_mib", "peak_mib"))
    if cpu is None:
        return DASH
    return f"{cpu:,.0f} s of CPU, {words.count(now)} MiB, peak {words.count(peak)} MiB"


def _last_error(service: status.Service, now: datetime) -> str:
    error = service.part("last_error")
    if not error:
        return "none" if service.fields else DASH
    return f"{words.text(error.get('text'))} ({words.ago(words.moment(error.get('time')), now)})"


def _details(service: status.Service, state: str) -> list[tuple[str, str]]:
    """What only this service knows."""
    # Of one that is silent nobody knows how much has piled up since.
    lag = status.lag(service) if state in ("ok", "starting") else None
    match service.name:
        case status.CONSUMER:
            gaps = service.part("gaps")
            missing, runs = words.count(gaps.get("missing")), words.count(gaps.get("open"))
            return [
                ("rows in btc_prices", words.count(service.number("rows"))),
                (
                    "not stored yet",
                    words.with_unit(words.count(lag), "records (lag)"),
                ),
                ("gaps", words.with_unit(missing, f"trade ids in {runs} runs")),
            ]
        case status.STREAM:
            return [
                (
                    "not read yet",
                    words.with_unit(words.count(lag), "records (lag)"),
                ),
                ("start took", words.seconds(service.number("start_s"))),
                ("making the query took", words.seconds(service.number("query_s"))),
                ("micro-batches", words.count(service.number("micro_batch"))),
                (
                    "newest took",
                    words.with_unit(words.count(service.number("micro_batch_ms")), "ms"),
                ),
            ]
        case status.SCHEDULER:
            running = service.fields.get("running")
            unknown = DASH if "running" not in service.fields else "none"
            due = None if service.fields.get("state") == "stopped" else service.moment("next_run")
            return [
                ("next run", words.day_and_clock(due)),
                ("running now", words.text(running) if running else unknown),
            ]
    return []


def rejected(services: Mapping[str, status.Service]) -> str:
    """The latest refused messages, why each was refused, and how many by reason."""
    if not any("rejected" in service.fields for service in services.values()):
        return note(f"Rejected messages: {DASH}", "quiet")
    reasons = status.reasons(services)
    if not reasons:
        return note("No message was rejected since the services started.", "quiet")
    counted = ", ".join(f"{words.count(n)} for {reason}" for reason, n in reasons.items())
    rows = [
        (
            words.day_and_clock(one.received),
            one.service,
            one.reason,
            one.message,
            words.count(one.size),
        )
        for one in status.rejections(services)
    ]
    said = (
        f"Rejected since the services started: {counted}. The latest {len(rows)}, as they came; "
        "all of them lie in Kafka, in the topic whose name ends with _rejected."
    )
    heads = ("received, UTC", "by", "reason", "message, its beginning", "bytes")
    return note(said, "quiet") + tables.table(heads, rows, "Rejected messages", "p-texts p-tall")


def settings_table(rows: Iterable[tuple[str, str, str]]) -> str:
    return tables.table(("setting", "what runs", "meaning"), rows, "Settings", "p-settings")


def machine_table(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return note(f"Machine and versions: {DASH}", "quiet")
    return tables.table(("machine and versions", ""), rows, "Machine and versions", "p-settings")
