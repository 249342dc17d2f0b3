"""Write synthetic data directories of any age, in the format of the services.

`python -m tests.old_folder FOLDER --days 365` makes one. Its windows, runs, transactions and
records in `status/` have the numbers that the README gives for a day. Fewer trades save time and
disk space, and only batch runs read all of them.
"""

import argparse
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline import histogram, outputs, text_files, times
from pipeline.data_dir import DataDir
from pipeline.stores import sqlite
from pipeline.stream_offsets import OFFSET_COLUMNS, OffsetRange
from tests import page_data

RUNS_PER_DAY = 144
#: Latencies of a minute: two legs in three buckets each.
BUCKETS = 3

_TRADES = """
WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
INSERT INTO btc_prices SELECT n, 93000 + (n * 37 % 1000) / 100.0, 92999.99, 93000.01,
iif(n % 2, 'buy', 'sell'),
strftime('%Y-%m-%dT%H:%M:%S', :since + n * :step, 'unixepoch') || printf('.%06dZ', n % 1000000),
(n % 5000 + 1) / 100000.0 FROM n
"""
_TRANSACTIONS = """
WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
INSERT INTO ingest SELECT n, n, n, 1, last - before, 1 - last + before, 0,
iif(last > before, before + 1, last), last, at, at, at, last, at, :topic FROM (
SELECT n, (n - 1) * :trades / :count AS before, n * :trades / :count AS last,
strftime('%Y-%m-%dT%H:%M:%S.000000Z', :since + n * :step, 'unixepoch') AS at FROM n)
"""
_LATENCIES = """
WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
INSERT INTO latency SELECT strftime('%Y-%m-%dT%H:%MZ', :since + n * 60, 'unixepoch'),
leg.value, bucket.value, 100 FROM n, json_each(:legs) AS leg, json_each(:buckets) AS bucket
"""


@dataclass(frozen=True)
class Rates:
    """The number of trades and of transactions in a day."""

    trades: int = 421_000
    transactions: int = 110_000


def write(data: DataDir, days: int, now: datetime, rates: Rates) -> None:
    """Write a data directory in which all services have run for some days."""
    feed = page_data.replay()
    page_data.full(data, now, feed, minutes=days * 1440)
    write_runs(data, days, now, rates.trades)
    newest = outputs.batch_files(data)[-1]
    header, cells = newest.read_text().splitlines()
    row = dict(zip(header.split(","), cells.split(","), strict=True))
    covered: dict[str, object] = {
        "rows": days * rates.trades,
        "last_trade_id": days * rates.trades,
    }
    newest.write_text(text_files.to_csv(outputs.BATCH_COLUMNS, [{**row, **covered}]))
    write_position(data, days * rates.transactions, now)
    with closing(sqlite.open_writer(data.database)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        with connection.transaction():
            write_rows(connection, days, now, rates)


def write_runs(data: DataDir, days: int, now: datetime, trades_per_day: int) -> None:
    """Write the files and log lines of a run every ten minutes; the last ones exist already."""
    fields = {"status": "ok", "exit": 0, "windows": 1, "start_s": 3.2, "logic_s": 2.6}
    fields |= {"cpu_s": 9.8, "peak_mib": 412, "read_s": 0.31, "write_s": 0.02}
    lines = []
    trades = trades_per_day // RUNS_PER_DAY
    for number in range(days * RUNS_PER_DAY):
        started = now - timedelta(days=days) + number * timedelta(minutes=10)
        run, rows = outputs.run_id(started), trades * (number + 1)
        row = {
            "run": run,
            "rows": rows,
            "snapshot_at": started + timedelta(seconds=3),
            "last_trade_time": started,
            "written_at": started + timedelta(seconds=6),
            "first_trade_id": 1,
            "last_trade_id": rows,
        }
        text = text_files.to_csv(outputs.BATCH_COLUMNS, [row])
        (data.batch_output / f"{run}.csv").write_text(text)
        line = {"started": started, "run": run} | fields | {"rows": rows, "wall_s": 6 + rows / 1e6}
        lines.append(" ".join(f"{name}={text_files.cell(value)}" for name, value in line.items()))
    data.batch_log.write_text("\n".join([*lines, data.batch_log.read_text()]))


def write_position(data: DataDir, end: int, now: datetime) -> None:
    """Write that the stream has read all records."""
    checkpoint = "0b8b7a7e-aaaa-bbbb-cccc-ddddeeeeffff"
    read = OffsetRange(page_data.TOPIC_ID, 60.0, 0, 0, end + 1, end + 1, now, 0, checkpoint)
    text = text_files.to_csv(OFFSET_COLUMNS, [vars(read)])
    text_files.write_atomically(data.stream_position, text)


def write_transactions(connection: sqlite3.Connection, count: int, now: datetime) -> None:
    """Write transactions of one trade each, two per second until now. Write only two trades."""
    values = {"count": count, "trades": count, "since": now.timestamp() - count / 2, "step": 0.5}
    connection.execute(_TRANSACTIONS, values | {"topic": page_data.TOPIC_ID})
    for number in (1, count):
        connection.execute(
            "INSERT INTO btc_prices VALUES (?, 93000, NULL, NULL, 'buy', ?, 1)",
            (number, times.time_text(now)),
        )
    totals = "INSERT INTO ingest_totals VALUES (?, 1, 1, ?, ?, 0, 0)"
    connection.execute(totals, (page_data.TOPIC_ID, count, count))


def write_rows(connection: sqlite3.Connection, days: int, now: datetime, rates: Rates) -> None:
    """Write trades, transactions, latencies and totals."""
    since = (now - timedelta(days=days)).timestamp()
    trades, transactions = days * rates.trades, days * rates.transactions
    length, topic = days * 86_400, page_data.TOPIC_ID
    connection.execute(_TRADES, {"count": trades, "since": since, "step": length / trades})
    per_row = {"count": transactions, "since": since, "step": length / transactions}
    connection.execute(_TRANSACTIONS, per_row | {"trades": trades, "topic": topic})
    legs = f'["{histogram.EVENT_TO_RECEIPT}", "{histogram.RECEIPT_TO_STORED}"]'
    buckets = f"{list(range(20, 20 + BUCKETS))}"
    minutes = {"count": days * 1440, "since": since, "legs": legs, "buckets": buckets}
    connection.execute(_LATENCIES, minutes)
    connection.execute(
        "INSERT INTO ingest_totals SELECT ?, 1, 1, sum(records), sum(stored), sum(repeated), 0 "
        "FROM ingest",
        (topic,),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.old_folder",
        description="Write a synthetic data directory of any age.",
    )
    parser.add_argument("folder", type=Path, help="data directory to fill")
    parser.add_argument("--days", type=int, default=30, help="number of days (30)")
    for name in ("trades", "transactions"):
        parser.add_argument(
            f"--{name}-per-day",
            type=int,
            metavar="N",
            default=getattr(Rates, name),
            help=f"number of {name} in a day",
        )
    options = parser.parse_args()
    began = time.monotonic()
    rates = Rates(options.trades_per_day, options.transactions_per_day)
    write(DataDir(options.folder), options.days, datetime.now(UTC), rates)
    print(f"{options.days} days in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
