"""The services section: a card for each service, and the rejected messages."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

import pandas as pd

from page import formatting, status
from page.formatting import DASH
from page.status import ServiceStatus
from pipeline import outputs
from pipeline.compare.formatting import seconds

Color = Literal["green", "gray", "red"]
#: The heading of the column that holds raw messages.
MESSAGE = "message (beginning)"
#: A healthy service whose last error is older than this has recovered from it.
PAST_ERROR = timedelta(minutes=10)
#: The counters of the status files that a card shows under another name.
_COUNTERS: Mapping[str, str] = {
    "control": "control messages",
    "repeated": "duplicates",
    "unparsable": "rejected",
    outputs.RUN_OK: "successful runs",
    outputs.RUN_NO_DATA: "runs without data",
    outputs.RUN_FAILED: "failed runs",
    outputs.RUN_TIMEOUT: "timed-out runs",
    outputs.RUN_STOPPED: "stopped runs",
}
#: Symbol, and a colour of Streamlit's badges, for each condition of a service.
_BADGES: Mapping[str, tuple[str, Color]] = {
    "ok": ("●", "green"),
    "starting": ("…", "gray"),
    "unhealthy": ("!", "red"),
    "silent": ("✕", "red"),
    "stopped": ("■", "red"),
    "absent": (DASH, "gray"),
    "unreadable": ("?", "red"),
}


def state(service: ServiceStatus, now: datetime) -> str:
    """Return the state of a service in one or two words."""
    found = status.condition(service, now)
    own_words = {
        "absent": "not started",
        "unreadable": "unreadable",
        "silent": "no heartbeat",
    }
    return own_words.get(found) or service.text("state")


def badge(service: ServiceStatus, now: datetime) -> tuple[str, Color]:
    """Return a symbol and a colour for the condition of a service."""
    return _BADGES[status.condition(service, now)]


def card_rows(service: ServiceStatus, now: datetime) -> list[tuple[str, str]]:
    """Return the labels and values of a service's card."""
    condition = status.condition(service, now)
    message = service.text("message")
    if condition == "unreadable":
        message = formatting.text(service.problem)
    starts = service.number("starts")
    return [
        ("last message", message),
        ("heartbeat", formatting.ago(service.moment("updated"), now)),
        ("started", _started(service, now)),
        ("restarts", DASH if starts is None else formatting.count(max(starts - 1, 0))),
        ("counters", _counters(service)),
        *_rate(service, now),
        *_details(service, condition),
        ("resources", _resources(service)),
        ("last error", _last_error(service, now)),
    ]


def _started(service: ServiceStatus, now: datetime) -> str:
    started = service.moment("started")
    if started is None:
        return DASH
    return f"{formatting.day_and_clock(started)} UTC ({formatting.ago(started, now)})"


def _counters(service: ServiceStatus) -> str:
    counters = service.part("counters")
    written = (
        f"{_COUNTERS.get(str(name)) or str(name).replace('_', ' ')} {formatting.count(n)}"
        for name, n in counters.items()
    )
    return ", ".join(written) or DASH


def _rate(service: ServiceStatus, now: datetime) -> list[tuple[str, str]]:
    if service.name == status.SCHEDULER:
        return []
    found = status.rate(service, now)
    if found is None:
        return [("rate", DASH)]
    per_second = f"{found.counter}: {found.per_second:,.1f} per second"
    return [("rate", f"{per_second} in the minute before {formatting.clock(found.until)} UTC")]


def _resources(service: ServiceStatus) -> str:
    cost = service.part("cost")
    cpu, now, peak = (
        formatting.number(cost.get(name)) for name in ("cpu_s", "rss_mib", "peak_mib")
    )
    if cpu is None:
        return DASH
    memory = f"{formatting.count(now)} MiB (peak {formatting.count(peak)} MiB)"
    return f"{formatting.many(cpu, 'CPU second')} since the start; resident memory {memory}"


def _last_error(service: ServiceStatus, now: datetime) -> str:
    error = service.part("last_error")
    if not error:
        return "none" if service.fields else DASH
    at = formatting.moment(error.get("time"))
    text = f"{formatting.text(error.get('text'))} ({formatting.ago(at, now)})"
    healthy = status.condition(service, now) == "ok"
    is_past = healthy and at is not None and now - at > PAST_ERROR
    return f"resolved: {text}" if is_past else text


def _details(service: ServiceStatus, condition: str) -> list[tuple[str, str]]:
    """Return what only this service publishes."""
    # The lag of a silent service is old: it has grown since.
    known = service.number("lag") if condition in ("ok", "starting") else None
    lag = ("lag", DASH if known is None else formatting.many(known, "record"))
    match service.name:
        case status.CONSUMER:
            gaps = service.part("gaps")
            missing = formatting.many(gaps.get("missing"), "missing id")
            found = formatting.many(gaps.get("open"), "gap")
            return [
                ("rows in btc_prices", formatting.count(service.number("rows"))),
                lag,
                ("gaps", f"{missing} in {found}" if gaps else DASH),
            ]
        case status.STREAM:
            last = formatting.count(service.number("micro_batch_ms"))
            return [
                lag,
                ("Spark start-up", seconds(service.number("start_s"))),
                ("query start-up", seconds(service.number("query_s"))),
                ("micro-batches", formatting.count(service.number("micro_batch"))),
                ("last micro-batch", formatting.with_unit(last, "ms")),
            ]
        case status.SCHEDULER:
            running = service.fields.get("running")
            unknown = DASH if "running" not in service.fields else "none"
            stopped = service.fields.get("state") == outputs.SERVICE_STOPPED
            due = None if stopped else service.moment("next_run")
            return [
                ("next run", formatting.with_unit(formatting.day_and_clock(due), "UTC")),
                ("run in progress", formatting.text(running) if running else unknown),
            ]
    return []


# --- rejected messages ----------------------------------------------------------------------


def rejected_caption(services: Mapping[str, ServiceStatus]) -> str:
    """Return how many messages the services rejected since they started, by reason."""
    if not any("rejected" in service.fields for service in services.values()):
        return "No count of rejected messages: no service has reported one yet."
    reasons = status.rejected_by_reason(services)
    if not reasons:
        return "No message rejected since the services started."
    counted = ", ".join(f"{reason} {formatting.count(n)}" for reason, n in reasons.items())
    return (
        f"Messages rejected since the services started, by reason: {counted}. The table shows the "
        "latest ones. The Kafka topic whose name ends in _rejected keeps all of them for its "
        "retention time."
    )


def rejected_rows(services: Mapping[str, ServiceStatus]) -> pd.DataFrame:
    """Return the latest rejected messages, newest first."""
    rows = [
        {
            "received (UTC)": formatting.day_and_clock(one.received),
            "service": one.service,
            "reason": one.reason,
            MESSAGE: one.message,
            "bytes": formatting.count(one.size),
        }
        for one in status.latest_rejected(services)
    ]
    return pd.DataFrame(rows)
