"""The header of the page: product, price, state of the feed, age of the last trade.

Hand-made HTML: Streamlit has no element that stays at the top, and `st.metric` and `st.badge`
need three lines where a phone has room for one. All text from data is escaped here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from page import candles, formatting, status
from page.files import Snapshot
from page.formatting import DASH
from page.sections.market import Market
from pipeline.settings import Settings

#: A symbol beside each word, for readers who cannot tell the colours apart.
SYMBOLS: dict[str, str] = {
    "LIVE": "●",
    "REPLAY": "▶",
    "WAITING": "…",
    "STALE": "!",
    "UNUSABLE": "✕",
    "DOWN": "✕",
    "ENDED": "■",
}


@dataclass(frozen=True)
class Header:
    """What the header shows."""

    product: str
    price: float | None
    #: From the first price of the span to the last: difference, and share of the first.
    change: tuple[float, float] | None
    #: How much event time the change covers.
    covered: str
    state: status.FeedState
    feed: status.Feed
    age: str
    now: datetime
    #: A sentence for each service that does not do its work.
    problems: Sequence[str]
    #: Alternates from refresh to refresh: restarts the countdown in the browser. None: the page
    #: is paused.
    beat: bool | None


def header(snapshot: Snapshot, shown: Market, settings: Settings, *, beat: bool | None) -> Header:
    """Return what the header shows of a snapshot."""
    now = snapshot.taken_at
    producer = snapshot.services[status.PRODUCER]
    feed = status.feed_of(producer, snapshot.source)
    trade = status.last_trade(producer, feed, now)
    price = trade.price if trade.price is not None else shown.last_price
    return Header(
        product=settings.product_id,
        price=price,
        change=candles.change(shown.first_price, price),
        covered=formatting.age(shown.covered.total_seconds()),
        state=status.feed_state(snapshot.services, snapshot.source, now),
        feed=feed,
        age=status.age_of(trade),
        now=now,
        problems=status.problems(snapshot.services, now),
        beat=beat,
    )


def html(shown: Header) -> str:
    """Return the header as HTML."""
    word = shown.state.word
    source = []
    if shown.feed.kind and word not in ("LIVE", "REPLAY"):
        source.append("live feed" if shown.feed.kind == "live" else "REPLAY")
    if shown.feed.synthetic:
        source.append("SYNTHETIC")
    if shown.beat is None:
        source.append("PAGE PAUSED")
    chips = _chip(f"{SYMBOLS[word]} {word}", f"word {word.lower()}") + "".join(
        _chip(name, "source") for name in source
    )
    old = "" if word in ("LIVE", "REPLAY") else " p-old"
    # "producer stopped 5 min ago" names the cause already, and so does "no connection to the feed".
    named = not shown.state.cause or shown.state.cause in shown.state.reason
    cause = "" if named else f" · cause: {shown.state.cause}"
    others = [problem for problem in shown.problems if problem not in shown.state.reason]
    # On one line: the header must leave room for the rest of the page.
    joined = escape(" · ".join(others))
    problems = f'<div class="p-trouble">! {joined}</div>' if others else ""
    beat = "" if shown.beat is None else f" p-beat{int(shown.beat)}"
    return (
        f'<div class="p-top" role="region" aria-label="State of the feed"><div class="p-line">'
        f'<span class="p-product">{escape(shown.product)}</span>'
        f'<span class="p-price{old}" title="last price">{formatting.price(shown.price)}</span>'
        f"{_change(shown)}"
        f'<span class="p-chips">{chips}</span>'
        f'<span class="p-age">{escape(shown.age)}</span>'
        f'<span class="p-clock">{formatting.clock(shown.now)} UTC</span></div>'
        f'<div class="p-reason">{escape(shown.state.reason)}{escape(cause)}</div>{problems}'
        f'<div class="p-watch{beat}">No update from the page\'s server for 12 s. '
        "The values on this page may be old. Check that the dashboard is running.</div></div>"
    )


def _chip(text: str, kind: str) -> str:
    return f'<span class="p-chip p-{" p-".join(kind.split())}">{escape(text)}</span>'


def _change(shown: Header) -> str:
    if shown.change is None:
        return f'<span class="p-change">{DASH}</span>'
    difference, share = shown.change
    arrow, kind = ("▲", "up") if difference > 0 else ("▼", "down") if difference < 0 else ("=", "")
    return (
        f'<span class="p-change p-{kind}" '
        'title="from the first to the last price of the selected time range">'
        f"{arrow} {formatting.price(difference, sign=True)} ({formatting.percent(share)}) "
        f"in {escape(shown.covered)}</span>"
    )
