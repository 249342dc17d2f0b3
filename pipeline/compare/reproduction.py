"""The sections about the run: its machine and settings, and how to process the same feed again."""

import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.compare.comparison import Comparison
from pipeline.compare.formatting import UNKNOWN
from pipeline.compare.section import Section, Table
from pipeline.outputs import part
from pipeline.settings import Settings, setting_text
from pipeline.source import is_as_recorded


def run_sections(comparison: Comparison) -> tuple[Section, ...]:
    """Return what ran: machine, versions, settings, and how to run it again."""
    return _environment(comparison), _reproduction(comparison)


def _environment(comparison: Comparison) -> Section:
    status = comparison.outputs.status
    machine, settings = (_first_reported(status, name) for name in ("machine", "settings"))
    java = status["spark_processor"].get("java", UNKNOWN)
    return Section(
        key="environment",
        title="Environment",
        how_to_read="The services reported these values.",
        tables=(
            Table(
                "Machine and versions",
                ("item", "value"),
                (*((name, str(value)) for name, value in machine.items()), ("Java", str(java))),
                text_columns=2,
            ),
            Table(
                "Settings",
                ("setting", "value"),
                tuple((name.upper(), setting_text(value)) for name, value in settings.items()),
                text_columns=2,
            ),
        ),
    )


def _first_reported(status: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next(filter(None, (part(fields, name) for fields in status.values())), {})


#: The settings that change a result. The command of the reproduction sets them.
_OF_RESULTS = (
    "product_id",
    "window",
    "watermark",
    "batch_interval_seconds",
    "batch_mode",
    "volatility_range",
    "sentiment_ratio",
    "spike_volume",
)


def _reproduction(comparison: Comparison) -> Section:
    source, status = comparison.outputs.source, comparison.outputs.status
    before = "".join(f"{text} " for text in _settings_of_results(status))
    if source.get("kind") == "live":
        run = (
            f"`{before}make run` follows the live exchange. The exchange now issues other trades, "
            "so the results will differ."
        )
    elif source.get("kind") == "replay":
        feed = status["producer"].get("feed") or {}
        path = feed.get("path") or source.get("recording")
        recording = shlex.quote(str(path).replace("`", "'"))
        pace = f" RETIME=0 SPEED={feed.get('speed', 'max')}" if is_as_recorded(source) else ""
        command = f"{before}make demo RECORDING={recording} DATA_DIR=data-again{pace}"
        run = f"`{command}` replays the same recording."
        if "path" not in feed:
            run += " Set RECORDING to the path of the file."
    else:
        run = "The source of this data is unknown."
    return Section(
        key="reproduction",
        title="Reproduction",
        how_to_read="How to process the same feed again. Settings are environment variables.",
        lines=(
            run,
            "`make report DATA_DIR=…` writes this report.",
            (
                "`python -m pipeline.compare` prints the same sections. Its exit status is 1 if "
                "a difference has the cause `cause unknown`, 2 if there is nothing to compare or "
                "a file cannot be read, 3 after an internal error, and 0 otherwise."
            ),
        ),
    )


def _settings_of_results(status: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the settings that change results and differ from their defaults, for a shell.

    The interval of the batch is always one of them: `make demo` has another default.
    """
    found = []
    for name in _OF_RESULTS:
        values = (part(fields, "settings") for fields in status.values())
        value = next((of[name] for of in values if name in of), None)
        text = setting_text(value)
        default = setting_text(Settings.model_fields[name].default)
        if value is not None and (text != default or name == "batch_interval_seconds"):
            found.append(f"{name.upper()}={shlex.quote(text.replace('`', chr(39)))}")
    return found
