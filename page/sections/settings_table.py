"""The settings that the services run with, and the machine they run on."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from page import formatting, status
from page.status import ServiceStatus
from pipeline.durations import json_duration
from pipeline.settings import Settings, setting_text

HOW_TO_READ = (
    "The settings that each service and this page run with. ≠ marks a setting that does not have "
    "the same value everywhere."
)


def in_use(services: Mapping[str, ServiceStatus], settings: Settings) -> Settings:
    """Return the page's settings, with the values that the stream publishes where there are any.

    The page shows files of the stream: the stream's window and thresholds apply to them.
    """
    published = services[status.STREAM].part("settings")
    read = {
        name: found
        for name, parse in (
            ("product_id", lambda text: text if isinstance(text, str) else None),
            ("window", _window),
            ("volatility_range", _decimal),
            ("sentiment_ratio", _decimal),
            ("spike_volume", _decimal),
        )
        if (found := parse(published.get(name))) is not None
    }
    return settings.model_copy(update=read)


def setting_rows(
    services: Mapping[str, ServiceStatus], settings: Settings
) -> list[tuple[str, str, str]]:
    """Return each setting, its value (by service where they differ), and its meaning."""
    published = {
        **{name: service.part("settings") for name, service in services.items()},
        "this page": settings.model_dump(mode="json"),
    }
    return [
        (
            name.upper(),
            _by_value(published, name, lambda value: formatting.text(setting_text(value))),
            (described.description or "").replace("`", ""),
        )
        for name, described in Settings.model_fields.items()
    ]


def machine_rows(services: Mapping[str, ServiceStatus]) -> list[tuple[str, str]]:
    """Return the machine and the versions, as the services publish them."""
    published = {name: service.part("machine") for name, service in services.items()}
    names = dict.fromkeys(name for machine in published.values() for name in machine)
    rows = [(str(name), _by_value(published, name, formatting.text)) for name in names]
    java = services[status.STREAM].text("java")
    return [*rows, ("Java", java)] if rows else []


def _by_value(
    published: Mapping[str, Mapping[str, Any]], name: str, write: Callable[[object], str]
) -> str:
    """Return the one value of all services; or ≠, and each value with its services."""
    services_of: dict[str, list[str]] = {}
    for service, values in published.items():
        if name in values:
            services_of.setdefault(write(values[name]), []).append(service)
    if len(services_of) == 1:
        return next(iter(services_of))
    found = "; ".join(f"{text} ({', '.join(names)})" for text, names in services_of.items())
    return f"≠ {found}" if found else formatting.DASH


def _window(value: object) -> timedelta | None:
    """Return a window length of 1 s to 1 day; None for anything else."""
    found = json_duration(value)
    return found if found and found <= timedelta(days=1) else None


def _decimal(text: object) -> Decimal | None:
    try:
        found = Decimal(str(text))
    except InvalidOperation:
        return None
    return found if found.is_finite() and found > 0 else None
