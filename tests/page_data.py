"""Prepared data directories for the page: made-up data from the writers of pipeline/outputs.py.

`python -m tests.page_data SCENARIO FOLDER` makes one. `--keep-going` then rewrites status files and
open windows each second, as the services do.
"""

import argparse
import csv
import math
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline import alerts, histogram, outputs, text_files, times
from pipeline.data_dir import DataDir
from pipeline.ingest import store
from pipeline.ingest.trade import Trade
from pipeline.settings import Settings
from pipeline.source import claim
from pipeline.stores import sqlite
from pipeline.stream_offsets import OFFSET_COLUMNS, OffsetRange

MINUTE = timedelta(minutes=1)
#: Kafka's id of the topic.
TOPIC_ID = "9a4a0b56-1111-2222-3333-444455556666"
#: A file name with markup, of which nothing may be rendered.
NASTY_NAME = "*bold* <b>tag</b> [link](http://example.invalid) `code` $x$ :red[no].jsonl.gz"


def window(start: datetime, number: int, *, trades: int | None = None) -> dict[str, Any]:
    """Return a made-up window, the same for the same number. Prices are around 93,000."""
    source = random.Random(number)

    def price(n: float) -> float:
        waves = ((5_000, 21_000), (1_900, 4_700), (700, 911), (330, 97), (110, 23), (35, 0.6))
        return 93_000 + sum(height * math.sin(n / length) for height, length in waves)

    opening, closing = round(price(number), 2), round(price(number + 1), 2)
    highest = round(max(opening, closing) + source.expovariate(1 / 12), 2)
    lowest = round(min(opening, closing) - source.expovariate(1 / 12), 2)
    count = source.randint(120, 620) if trades is None else trades
    buys = round(count * min(max(source.gauss(0.5 + (closing - opening) / 900, 0.08), 0), 1))
    volume = round(count * source.uniform(0.008, 0.035) * (12 if number % 97 == 0 else 1), 8)
    average = round((opening + closing + highest + lowest) / 4, 8)
    sentiment = (
        "Bullish"
        if buys * 5 > (count - buys) * 6
        else "Bearish"
        if (count - buys) * 5 > buys * 6
        else "Neutral"
    )
    end = start + MINUTE
    return {
        "window_start": start,
        "window_end": end,
        "avg_price": average,
        "max_price": highest,
        "min_price": lowest,
        "price_range": round(highest - lowest, 2),
        "volatility_flag": "High" if highest - lowest > 50 else "Normal",
        "total_volume": volume,
        "trade_count": count,
        "buy_sell_ratio": buys / (count - buys + 1e-5),
        "market_sentiment": sentiment,
        "volume_spike": "Spike" if volume > 100 else "Normal",
        "buy_count": buys,
        "sell_count": count - buys,
        "vwap": round(average + source.uniform(-1, 1), 8),
        "open_price": opening,
        "close_price": closing,
        "volume_imbalance": round(2 * buys / count - 1, 6) if count else None,
        "last_trade_time": end - timedelta(milliseconds=source.randint(20, 900)),
        "last_receipt_time": end - timedelta(milliseconds=5),
        "written_at": end + timedelta(seconds=61),
        "range_z": round(2 * math.sin(number), 6),
        "volume_z": None,
    }


def floor(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def windows_until(end: datetime, count: int) -> list[dict[str, Any]]:
    """Return `count` final windows, numbered by their minute. The last one ends at `end`."""
    first = end - count * MINUTE
    return [window(first + n * MINUTE, _number(first + n * MINUTE)) for n in range(count)]


def _number(start: datetime) -> int:
    return int(start.timestamp() // 60)


def write_days(data: DataDir, windows: list[dict[str, Any]]) -> None:
    """Write final windows into the files of their days, replacing these files."""
    by_day: dict[str, list[dict[str, Any]]] = {}
    for row in windows:
        by_day.setdefault(times.iso(row["window_start"])[:10], []).append(row)
    for day, rows in by_day.items():
        text = text_files.to_csv(outputs.WINDOW_COLUMNS, rows)
        text_files.write_atomically(data.stream_csv / f"{day}.csv", text, durable=False)


def write_live(data: DataDir, now: datetime, *, seconds: float = 25) -> None:
    """Write two open windows, the newest one `seconds` old."""
    start = floor(now)
    fresh = {"written_at": now, "last_receipt_time": now}
    before = window(start - MINUTE, _number(start - MINUTE)) | {"written_at": now}
    newest = window(start, _number(start), trades=max(1, round(seconds * 6)))
    rows = [before, newest | fresh | {"last_trade_time": now}]
    text_files.write_atomically(
        data.stream_live, text_files.to_csv(outputs.WINDOW_COLUMNS, rows), durable=False
    )


def write_batch(data: DataDir, windows: list[dict[str, Any]], at: datetime) -> None:
    """Write a batch result over these windows, made at `at`: by window and in one row."""
    rows = [row | {"last_receipt_time": None, "written_at": at} for row in windows]
    text_files.write_atomically(
        data.batch_windows, text_files.to_csv(outputs.WINDOW_COLUMNS, rows), durable=False
    )
    count = sum(row["trade_count"] for row in windows)
    buys = sum(row["buy_count"] for row in windows)
    highest = max(row["max_price"] for row in windows)
    lowest = min(row["min_price"] for row in windows)
    volume = round(sum(row["total_volume"] for row in windows), 8)
    run = outputs.run_id(at)
    total = {
        "avg_price": sum(row["avg_price"] * row["trade_count"] for row in windows) / count,
        "max_price": highest,
        "min_price": lowest,
        "price_range": round(highest - lowest, 2),
        "volatility_flag": "High" if highest - lowest > 50 else "Normal",
        "total_volume": volume,
        "trade_count": count,
        "buy_sell_ratio": buys / (count - buys + 1e-5),
        "market_sentiment": "Neutral",
        "volume_spike": "Spike" if volume > 100 else "Normal",
        "rows": count,
        "first_trade_time": windows[0]["window_start"] + timedelta(milliseconds=210),
        "last_trade_time": windows[-1]["last_trade_time"],
        "run": run,
        "buy_count": buys,
        "sell_count": count - buys,
        "vwap": sum(row["vwap"] * row["total_volume"] for row in windows) / volume,
        "open_price": windows[0]["open_price"],
        "close_price": windows[-1]["close_price"],
        "volume_imbalance": 0.0123,
        "snapshot_at": at - timedelta(seconds=5),
        "written_at": at,
        "first_trade_id": 1,
        "last_trade_id": 10_000,
    }
    text = text_files.to_csv(outputs.BATCH_COLUMNS, [total])
    text_files.write_atomically(data.batch_output / f"{run}.csv", text, durable=False)


def write_earlier_runs(data: DataDir, newest: datetime, count: int) -> None:
    """Write the one-row results of `count` runs before the newest one."""
    for number in range(count):
        started = newest - (count - number) * MINUTE
        row = {
            "run": outputs.run_id(started),
            "rows": 360 * (number + 1),
            "snapshot_at": started + timedelta(seconds=3),
            "last_trade_time": started + timedelta(seconds=2.7),
            "written_at": started + timedelta(seconds=6),
            "first_trade_id": 1,
            "last_trade_id": 360 * (number + 1),
        }
        text = text_files.to_csv(outputs.BATCH_COLUMNS, [row])
        text_files.write_atomically(data.batch_output / f"{row['run']}.csv", text, durable=False)


def write_work(data: DataDir, now: datetime, finals: list[dict[str, Any]]) -> None:
    """Write what the services record over the last half hour: progress, cost, latencies."""
    source = random.Random(3)
    begin = now - timedelta(minutes=30)
    progress = [
        {
            "micro_batch": number,
            "published_at": begin + timedelta(seconds=2 * number),
            "newest_trade": begin + timedelta(seconds=2 * number - source.uniform(0.6, 1.5)),
            "rows": 12,
            "first_receipt": begin + timedelta(seconds=2 * number - 2.6),
            "last_receipt": begin + timedelta(seconds=2 * number - 0.6),
            "duration_ms": round(source.gauss(330, 25)),
        }
        for number in range(900)
    ]
    columns = tuple(progress[0])
    text_files.write_atomically(data.stream_progress, text_files.to_csv(columns, progress))
    waited = {"leg": histogram.OPEN_TO_FINAL, "counts": f'{{"{histogram.bucket(91)}": 300}}'}
    rows = [{"window_start": row["window_start"], **waited} for row in finals[-40:]]
    text = text_files.to_csv(("window_start", "leg", "counts"), rows)
    text_files.write_atomically(data.stream_latency, text)
    for service, cpu_s, counters in (
        ("producer", 0.5, '{"received": 420}'),
        ("consumer", 0.6, '{"records": 360}'),
        ("spark_processor", 24.0, '{"rows": 354}'),
        ("batch_scheduler", 8.0, '{"ok": 1}'),
    ):
        minutes = [
            {
                "at": now - (29 - n) * MINUTE - timedelta(seconds=10),
                "seconds": 60.0,
                "cpu_s": cpu_s,
                "rss_mib": 500.0,
                "counters": counters,
            }
            for n in range(30)
        ]
        text = text_files.to_csv(outputs.MINUTE_COLUMNS, minutes)
        text_files.write_atomically(data.minutes_of(service), text)


def write_database(data: DataDir, now: datetime, late_in: dict[str, Any], trades: int) -> Trade:
    """Write a database with a gap, and with a trade two minutes late for the window `late_in`.

    The bookkeeping counts `trades`; the table has only some of them. Returns the late trade.
    """

    def trade(number: int, when: datetime, price: str = "93000.00") -> Trade:
        return Trade(number, price, None, None, "buy", when, "0.5")

    price = f"{late_in['avg_price']:.2f}"  # within the window's range
    late = trade(42, late_in["window_start"] + timedelta(seconds=50), price)
    recent = [trade(trades - 53 + n, now - timedelta(seconds=60 - n)) for n in range(60)]
    recent.insert(0, trade(trades - 54, floor(now) - 3 * MINUTE + timedelta(seconds=20)))
    recent.append(recent.pop(56))  # it comes four seconds behind the newest trade
    before = [trade(n + 1, late_in["window_start"] - timedelta(seconds=60 - n)) for n in range(41)]
    batches = (
        [*before, trade(49, late_in["window_end"] + timedelta(minutes=2))],
        [late],
        recent,
    )
    connection = sqlite.open_writer(data.database)
    for number, stored in enumerate(batches):
        first = 100 * number
        receipts = [one.time + timedelta(milliseconds=90) for one in stored]
        seen = store.Batch(
            *(first, first + len(stored) - 1, len(stored), 0, min(receipts), max(receipts)),
            trades=stored,
            receipts=receipts,
            topic=TOPIC_ID,
            offsets=range(first, first + len(stored)),
        )
        store.store(connection, seen, max(receipts) + timedelta(milliseconds=250))
    connection.execute("DELETE FROM gaps WHERE first_trade_id > 43")
    more = trades - 104
    connection.execute(
        "UPDATE ingest_totals SET records = records + ?, stored = stored + ?", (more, more)
    )
    connection.close()
    dropped = OffsetRange(
        topic=TOPIC_ID,
        delay_s=60.0,
        micro_batch=50,
        counted_from=0,
        first_offset=100,
        end_offset=101,
        watermark=late_in["window_end"] + timedelta(minutes=1),
        dropped=1,
        checkpoint="0b8b7a7e-aaaa-bbbb-cccc-ddddeeeeffff",
    )
    position = replace(dropped, counted_from=101, first_offset=1000, end_offset=1000, dropped=0)
    for path, row in ((data.stream_drops, dropped), (data.stream_position, position)):
        text_files.write_atomically(path, text_files.to_csv(OFFSET_COLUMNS, [vars(row)]))
    return late


def write_alerts(data: DataDir, finals: list[dict[str, Any]], now: datetime) -> None:
    """Write alerts of both paths for the latest windows. One has its trade in the database."""
    in_database = {"volume_spike": "Spike", "total_volume": 0.5}
    windows = [*finals[-30:-2], finals[-2] | in_database]
    settings = Settings(spike_volume=Decimal("0.25"))
    for path, after in ((data.alerts_stream, 21), (data.alerts_batch, 70)):
        found = [
            alert
            | {
                "newest_trade": times.iso(row["window_start"] + timedelta(seconds=after - 1)),
                "raised_at": times.iso(row["window_start"] + timedelta(seconds=after)),
            }
            for row in windows
            for alert in alerts.alerts_in(row, settings)
            if row["window_start"] + timedelta(seconds=after) <= now
        ]
        alerts.append(path, found)


def write_runs(
    data: DataDir, newest: datetime, count: int, *, failed: tuple[int, ...] = ()
) -> None:
    """Write the log lines of `count` runs, one per minute. Those numbered in `failed` failed."""
    source = random.Random(7)
    for number in range(count):
        started = newest - (count - 1 - number) * MINUTE
        wall = 5.2 + 0.01 * number + source.uniform(-0.3, 0.3)
        fields: dict[str, object] = {"started": started, "run": outputs.run_id(started)}
        if number in failed:
            fields |= {"status": "timeout" if number % 2 else "failed", "exit": 1}
            fields |= {"wall_s": round(wall * 2, 2)}
        else:
            fields |= {
                "status": "ok",
                "exit": 0,
                "rows": 360 * (number + 1),
                "windows": number + 1,
                "wall_s": round(wall, 2),
                "start_s": 2.71,
                "logic_s": round(wall - 3.4, 2),
                "cpu_s": round(wall * 1.7, 2),
                "peak_mib": 412,
                "read_s": 0.31,
                "write_s": 0.02,
            }
        outputs.append_batch_log(data, fields)


# --- status ---------------------------------------------------------------------------------


def common(service: str, now: datetime, **more: Any) -> dict[str, Any]:
    return {
        "service": service,
        "state": "running",
        "healthy": True,
        "message": "storing trades",
        "pid": 4242,
        "starts": 1,
        "started": now - timedelta(minutes=31),
        "updated": now,
        "counters": {},
        "cost": {"cpu_s": 12.5, "rss_mib": 61.2, "peak_mib": 64.0},
        "last_error": None,
    } | more


def replay(**more: Any) -> dict[str, Any]:
    return {
        "kind": "replay",
        "url": "ws://127.0.0.1:8765",
        "recording": "data/sample/synthetic_btcusd.jsonl.gz",
        "synthetic": True,
        "retimed": True,
        "speed": 1,
        "state": "playing",
    } | more


#: The repetition of the bundled sample, which starts again each hour.
HOURLY = replay(repeat_from="2025-01-01T00:00:01Z", repeat_s=3600)
LIVE = {"kind": "live", "url": "wss://ws-feed.exchange.coinbase.com", "state": "playing"}


def _message(feed: Mapping[str, Any] | None) -> str:
    """Return what a healthy producer reports."""
    if feed is None:
        return "waiting for the first answer from wss://ws-feed.exchange.coinbase.com"
    if feed.get("kind") == "live":
        return f"LIVE from {feed['url']}"
    label = "SYNTHETIC REPLAY" if feed.get("synthetic") else "REPLAY"
    return f"{label} of {feed.get('recording')}"


def statuses(
    now: datetime, feed: Mapping[str, Any] | None, *, trade_time: datetime | None = None
) -> dict[str, dict[str, Any]]:
    """Return the status of every healthy service. The last trade is of now or of `trade_time`."""
    time_of_trade = trade_time or now - timedelta(milliseconds=320)
    price = f"{window(floor(time_of_trade), _number(floor(time_of_trade)))['close_price']:.2f}"
    return {
        "producer": common(
            "producer",
            now,
            message=_message(feed),
            counters={
                "reconnects": 2,
                "received": 11_932,
                "published": 10_921,
                "repeated": 1,
                "rejected": 2,
            }
            | {"control": 1_008, "ignored": 0},
            feed=feed,
            connected=True,
            last_trade={
                "trade_id": 912_345_678,
                "price": price,
                "time": time_of_trade,
                "received": now - timedelta(milliseconds=120),
            },
        ),
        "consumer": common(
            "consumer",
            now,
            message="storing trades",
            counters={"records": 10_921, "stored": 10_921, "repeated": 0, "rejected": 0},
            rows=10_921,
            lag=3,
            last_trade={"trade_id": 912_345_675, "time": time_of_trade},
            gaps={"open": 1, "missing": 4},
        ),
        "spark_processor": common(
            "spark_processor",
            now,
            message="reading Kafka and writing windows",
            counters={"rows": 10_918, "late": 0, "duplicates": 1, "unparsable": 0}
            | {"final_windows": 29},
            start_s=4.1,
            query_s=1.3,
            micro_batch=1874,
            micro_batch_ms=310,
            newest_trade=time_of_trade,
            lag=5,
            cost={"cpu_s": 801.0, "rss_mib": 912.0, "peak_mib": 958.3},
        ),
        "batch_scheduler": common(
            "batch_scheduler",
            now,
            message="waiting for the next run",
            counters={"ok": 28, "failed": 2},
            next_run=now + timedelta(seconds=40),
            running=None,
            settings={"batch_interval_seconds": 60},
        ),
    }


def write_statuses(data: DataDir, found: Mapping[str, Mapping[str, Any]]) -> None:
    for service, fields in found.items():
        outputs.write_status(data, service, fields)


# --- scenarios ------------------------------------------------------------------------------


def full(data: DataDir, now: datetime, feed: Mapping[str, Any], *, minutes: int = 180) -> None:
    """All services run and have results."""
    finals = windows_until(floor(now) - MINUTE, minutes)
    write_days(data, finals)
    write_live(data, now)
    write_earlier_runs(data, now - timedelta(seconds=54), 29)
    write_batch(data, finals, now - timedelta(seconds=48))
    write_runs(data, now - timedelta(seconds=54), 30, failed=(11, 20))
    write_work(data, now, finals)
    write_statuses(data, statuses(now, feed))
    sqlite.open_writer(data.database).close()


def empty(data: DataDir, now: datetime) -> None:
    data.root.mkdir(parents=True, exist_ok=True)


def starting(data: DataDir, now: datetime) -> None:
    """Services have just started: trades arrive, the stream is starting, no result yet."""
    found = statuses(now, replay())
    ago = now - timedelta(seconds=7)
    young = {"started": ago}
    found["spark_processor"] = common(
        "spark_processor", now, state="starting", healthy=False, message="starting", **young
    )
    for service in ("producer", "consumer"):
        found[service] |= young
    del found["batch_scheduler"]
    write_statuses(data, found)


def live(data: DataDir, now: datetime) -> None:
    full(data, now, LIVE)


def sample(data: DataDir, now: datetime) -> None:
    full(data, now, HOURLY)


def stale(data: DataDir, now: datetime) -> None:
    """Connected, but no trade for two minutes."""
    before = now - timedelta(seconds=127)
    full(data, before, LIVE)
    write_statuses(data, statuses(now, LIVE, trade_time=before))


def wrong(data: DataDir, now: datetime) -> None:
    """Every message is for another product than PRODUCT_ID."""
    found = statuses(now, LIVE)
    text = (
        "No usable trade: 8,551 messages are for BTC-USD, but PRODUCT_ID is ETH-USD. "
        "Correct PRODUCT_ID or FEED_URL"
    )
    found["producer"] |= {"last_trade": None, "unusable": {"text": text, "messages": 8551}}
    write_statuses(data, found)


def down(data: DataDir, now: datetime) -> None:
    """The producer has died; the consumer cannot reach Kafka."""
    full(data, now - timedelta(seconds=95), LIVE)
    found = statuses(now - timedelta(seconds=95), LIVE)
    del found["spark_processor"], found["batch_scheduler"]
    error = (
        "no connection to Kafka. Check KAFKA_BOOTSTRAP_SERVERS, and that the broker runs. "
        "Cause: Connection refused (localhost:9092)"
    )
    found["consumer"] = common(
        "consumer",
        now,
        state="waiting for Kafka",
        healthy=False,
        message=error,
        starts=4,
        rows=10_921,
        lag=None,
        last_error={"time": now - timedelta(seconds=3), "text": f"waiting for Kafka: {error}"},
    )
    write_statuses(data, found)
    later = statuses(now, LIVE)
    write_statuses(data, {name: later[name] for name in ("spark_processor", "batch_scheduler")})


RECORDED_END = datetime(2025, 12, 2, 5, 7, 17, tzinfo=UTC)


def ended(data: DataDir, now: datetime) -> None:
    """A replay with original timestamps has ended. The recording's name holds markup."""
    feed = replay(recording=NASTY_NAME, synthetic=False, retimed=False, speed="max", state="ended")
    full(data, RECORDED_END, feed)
    names = ("kind", "recording", "retimed")
    claim(data, Settings(), {name: feed[name] for name in names})
    found = statuses(now, feed, trade_time=RECORDED_END)
    found["producer"]["last_trade"]["received"] = now - timedelta(minutes=12)
    found["producer"] |= {"state": "ended", "message": f"the replay of {NASTY_NAME} has ended"}
    write_statuses(data, found)


def foreign(data: DataDir, now: datetime) -> None:
    """Broken files among good ones."""
    sample(data, now)
    day = times.iso(now - timedelta(days=1))[:10]
    (data.stream_csv / f"{day}.csv").write_text("a,b\n1,2\n")
    data.batch_windows.write_bytes(b"\x00\xff\xfe not a table")
    newest = outputs.run_id(now + timedelta(seconds=5))
    (data.batch_output / f"{newest}.csv").write_text("avg_price,rows\n1\n")
    data.status_of("consumer").write_text('{"service": "consumer", "upd')
    data.status_of("batch_scheduler").write_text('["not", "an", "object"]')


#: Columns that the first version of the window files did not have.
NEWER = ("buy_count", "sell_count", "vwap", "volume_imbalance", "open_price", "range_z", "volume_z")


def older(data: DataDir, now: datetime) -> None:
    """The final windows are of an older version, which wrote fewer columns."""
    full(data, now, replay())
    columns = tuple(name for name in outputs.WINDOW_COLUMNS if name not in NEWER)
    for path in outputs.stream_files(data):
        with path.open(newline="") as file:
            rows = [{name: row[name] for name in columns} for row in csv.DictReader(file)]
        text_files.write_atomically(path, text_files.to_csv(columns, rows), durable=False)


def stopped_stream(data: DataDir, now: datetime) -> None:
    """The feed is live, but the stream has died."""
    full(data, now - timedelta(minutes=3), LIVE)
    found = statuses(now, LIVE)
    found["spark_processor"] |= {"updated": now - timedelta(minutes=3)}
    write_statuses(data, found)


REJECTED_LATEST = [
    {
        "reason": "price: 'abc' is not a positive decimal",
        "received": "2026-03-01T11:58:00Z",
        "bytes": 160,
        "message": '{"type":"ticker","price":"abc","x":"<b>*no*</b>"}',
    },
    {
        "reason": "not JSON: trailing characters (byte 7)",
        "received": "2026-03-01T11:59:00Z",
        "bytes": 70_000,
        "message": "{} and <script>alert(1)</script>",
    },
]
REJECTED = {"reasons": {"price": 2, "not JSON": 1}, "latest": REJECTED_LATEST}


def count_in(window: dict[str, Any], trade: Trade) -> None:
    """Add a bought trade, within the price range, to a window."""
    price, size = Decimal(trade.price), Decimal(trade.last_size)
    count, volume = window["trade_count"], Decimal(str(window["total_volume"]))
    sums = {
        "avg_price": (count, count + 1, price),
        "vwap": (volume, volume + size, price * size),
        "volume_imbalance": (volume, volume + size, size),
    }
    for name, (weight, after, more) in sums.items():
        window[name] = float(round((Decimal(str(window[name])) * weight + more) / after, 10))
    buys = window["buy_count"] + 1
    window |= {"trade_count": count + 1, "buy_count": buys}
    window["buy_sell_ratio"] = buys / (window["sell_count"] + 1e-5)
    window["total_volume"] = float(volume + size)


def disputed(data: DataDir, now: datetime) -> None:
    """The paths differ: a late trade, an unexplained value, and a window of the batch alone."""
    sample(data, now)
    finals = windows_until(floor(now) - MINUTE, 180)
    late_in = finals[-40]
    counted = sum(row["trade_count"] for row in finals) + 900
    late = write_database(data, now, late_in, counted)
    write_alerts(data, finals, now)
    batch = [dict(row) for row in finals]
    count_in(batch[-40], late)
    batch[-30]["close_price"] = 1.0
    write_days(data, finals[:-20] + finals[-19:])  # one is in the batch alone
    write_batch(data, batch, now - timedelta(seconds=48))
    found = statuses(now, replay())
    found["producer"]["rejected"] = REJECTED
    found["producer"]["backfill"] = {
        "gaps": 1,
        "missing": 2,
        "recovered": 340,
        "not_served": 5,
        "last_error": {"time": now, "text": f"http://127.0.0.1:1: {NASTY_NAME}"},
    }
    found["consumer"]["rejected"] = {"reasons": {}, "latest": []}
    write_statuses(data, found)


def days90(data: DataDir, now: datetime) -> None:
    """129,600 windows on both paths."""
    full(data, now, LIVE, minutes=129_600)


SCENARIOS = {
    made.__name__: made
    for made in (
        empty,
        starting,
        live,
        sample,
        stale,
        wrong,
        down,
        ended,
        foreign,
        older,
        stopped_stream,
        disputed,
        days90,
    )
}


def refresh(data: DataDir, now: datetime, feed: Mapping[str, Any]) -> None:
    """Write what the services rewrite each second: status files and open windows."""
    write_live(data, now, seconds=(now - floor(now)).total_seconds())
    final = window(floor(now) - 2 * MINUTE, _number(floor(now) - 2 * MINUTE))
    path = data.stream_csv / f"{times.iso(final['window_start'])[:10]}.csv"
    if times.iso(final["window_start"]) not in path.read_text():
        outputs.write_final_windows(data, [text_files.cells(outputs.WINDOW_COLUMNS, final)])
    write_statuses(data, statuses(now, feed))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.page_data", description=__doc__)
    parser.add_argument("scenario", choices=sorted(SCENARIOS), help="what the page shows")
    parser.add_argument("folder", type=Path, help="data directory to fill")
    parser.add_argument(
        "--keep-going", action="store_true", help="keep adding data until it is stopped"
    )
    given = parser.parse_args()
    data = DataDir(given.folder)
    SCENARIOS[given.scenario](data, times.now())
    while given.keep_going:
        time.sleep(1)
        refresh(data, times.now(), LIVE if given.scenario in ("live", "days90") else HOURLY)


if __name__ == "__main__":
    main()
