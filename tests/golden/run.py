"""Compare the output files of any run of a replay with the results computed in `tests/golden`.

Product, window, watermark and thresholds come from the status files of the data directory. A
re-timed run has no end. Its expected trades are those that the replay has issued from the first
stored trade on. The table is compared up to the newest stored trade, and each batch result up to
the newest trade that it covers. Open windows, and the windows after the newest final one, are not
compared.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from feed import recording, retime
from tests import golden
from tests.golden import Golden, Rules

#: The setting of each rule.
_SETTINGS = {
    "product": "product_id",
    "window": "window",
    "watermark": "watermark",
    "range": "volatility_range",
    "ratio": "sentiment_ratio",
    "spike": "spike_volume",
}
#: The services whose results are compared.
_SERVICES = ("spark_processor", "batch_scheduler")


class RefusedError(Exception):
    """The data directory cannot be compared with the recording. The text is one sentence."""


def verify(path: Path, data_dir: Path, now: datetime | None = None) -> list[str]:
    """Return the differences between the output files of a run and the results of its recording.

    Raises:
        RefusedError: the data directory holds another feed, or its services had other settings
            than each other.
        RecordingError: the recording cannot be read.
    """
    rules = rules_of(data_dir)
    source = _json(data_dir / "source.json")
    _check_source(source, path, data_dir)
    if not source.get("retimed"):
        return golden.differences(golden.compute(path, now, rules), data_dir)
    first, last = _stored_ids(data_dir)
    issued = golden.compute_frames(_issued(path, first, now), now, rules)
    batch = _up_to(issued, _newest_of_batch(data_dir))
    final = {start for start in issued.windows if _in_stream_csv(data_dir, start)}
    expected = _without_unfinished(issued, final)
    found = [
        *golden.bounded(golden.check_table(_up_to(issued, last), data_dir)),
        *golden.bounded(_of_final_windows(golden.check_stream(expected, data_dir, final))),
    ]
    if batch.trades:
        found += [
            *golden.bounded(golden.check_batch_windows(batch, data_dir / "batch_windows.csv")),
            *golden.bounded(golden.check_batch_total(batch, data_dir / "batch_output")),
        ]
    return found


def rules_of(data_dir: Path) -> Rules:
    """Return the rules of a run, from the settings in its status files.

    Raises:
        RefusedError: the services ran with different settings.
    """
    found: dict[str, Any] = {}
    for name, setting in _SETTINGS.items():
        values = {
            str(settings[setting])
            for service in _SERVICES
            for settings in [_json(data_dir / "status" / f"{service}.json").get("settings")]
            if isinstance(settings, dict) and setting in settings
        }
        if len(values) > 1:
            raise RefusedError(
                f"{setting.upper()} differs between the stream and the batch: "
                f"{' and '.join(sorted(values))}. Run both with one value. DATA_DIR={data_dir}"
            )
        for value in values:
            found[name] = _rule(name, value)
    return Rules(**found)


def _rule(name: str, value: str) -> object:
    if name in ("window", "watermark"):
        return pd.Timedelta(value) // timedelta(microseconds=1)
    return value if name == "product" else Decimal(value)


def _check_source(source: Mapping[str, Any], path: Path, data_dir: Path) -> None:
    """Refuse a data directory that another feed has filled."""
    if source.get("kind") == "live":
        raise RefusedError(
            f"DATA_DIR holds the live feed {source.get('url')}, not a recording. Record the feed "
            f"with `python -m feed.record` and replay the recording. DATA_DIR={data_dir}"
        )
    held = source.get("fingerprint")
    with path.open("rb") as file:
        given = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if held is not None and held != given:
        raise RefusedError(
            f"DATA_DIR holds a replay of {source.get('recording')} with other content than "
            f"{path.name}. Give the recording that was replayed. DATA_DIR={data_dir}"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# --- a run that was re-timed ------------------------------------------------------------------


def _stored_ids(data_dir: Path) -> tuple[int, int]:
    """Return the lowest and the highest stored trade id."""
    try:
        query = "SELECT min(trade_id), max(trade_id) FROM btc_prices"
        ((first, last),) = golden.query_table(data_dir, query)
    except golden.TableError as error:
        raise RefusedError(
            f"The stored trades cannot be read, so nothing can be compared: {error}. "
            f"DATA_DIR={data_dir}"
        ) from error
    if first is None:
        raise RefusedError(f"btc_prices has no row yet. Wait for the first trades: {data_dir}")
    return first, last


def _issued(path: Path, first: int, now: datetime | None) -> Iterator[bytes]:
    """Yield the messages of a re-timed recording from a trade id on, up to now."""
    until = round((now or datetime.now(UTC)).timestamp() * retime.SECOND)
    latest = retime.survey(recording.read(path), until + retime.MINUTE)[1]
    tiles = retime.tile(recording.read(path), latest)
    tile = (first - tiles.trade_ids.first) // len(tiles.trade_ids)
    for position in range(tile * tiles.count, tiles.first_after(until)):
        frame = tiles.frame(position)
        number = golden.number_in(frame)
        if number is None or number >= first:
            yield frame


def _up_to(issued: Golden, last: int) -> Golden:
    """Return the results of the trades up to an id."""
    found = Golden(issued.rules, {n: t for n, t in issued.trades.items() if n <= last})
    golden.aggregate(found)
    return found


def _newest_of_batch(data_dir: Path) -> int:
    """Return the highest trade id that the newest batch run covers; 0 without a run."""
    files = sorted((data_dir / "batch_output").glob("*.csv"))
    if not files:
        return 0
    with files[-1].open(encoding="utf-8", newline="") as text:
        return int(next(csv.DictReader(text))["last_trade_id"])


def _in_stream_csv(data_dir: Path, start: int) -> bool:
    text = golden.iso(start)
    path = data_dir / "stream_csv" / f"{text[:10]}.csv"
    return path.is_file() and f"\n{text}," in path.read_text(encoding="utf-8")


def _without_unfinished(issued: Golden, final: set[int]) -> Golden:
    """Return the expected results without the windows after the newest final one."""
    newest = max(final, default=-1)
    windows = {start: of for start, of in issued.windows.items() if start <= newest}
    return Golden(issued.rules, issued.trades, windows, issued.total)


def _of_final_windows(problems: list[str]) -> list[str]:
    """Return the differences without those of open windows, which are still incomplete."""
    return [text for text in problems if not text.startswith("stream_live.csv ")]
