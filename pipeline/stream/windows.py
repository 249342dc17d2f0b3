"""The streaming path: 1-minute tumbling windows over the trades in Kafka, as they come.

One query in update mode serves the final windows (`stream_csv/`), the open ones
(`stream_live.csv`) and the console: Kafka is read once, and repeated trades are removed from all.
"""

import csv
import json
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import psutil
from kafka.errors import KafkaError
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import StreamingQuery
from pyspark.sql.streaming.listener import StreamingQueryProgress

from pipeline import histogram as latency
from pipeline import metrics, outputs, spark, times
from pipeline.errors import TemporaryError
from pipeline.ingest import kafka as topics
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stream import finality
from pipeline.stream import query as stream

#: Windows printed to the console for one micro-batch, at most.
CONSOLE_WINDOWS = 5
#: The records of progress and of latencies are halved when they are longer than this, in bytes:
#: over a day of micro-batches, a month of windows.
RECORD_BYTES = 16_000_000
#: A micro-batch that takes longer than this, in seconds, hangs.
HUNG_SECONDS = 120.0


class Windows:
    """What each micro-batch does to the outputs."""

    def __init__(self, service: Service, state_file: Path) -> None:
        self._service = service
        self._data = service.data
        self._state_file = state_file
        self._watermark = service.settings.watermark // timedelta(microseconds=1)
        self._state = finality.from_json(outputs.read_json(state_file))
        #: The final windows of the hour before the oldest open one, and the start of that one.
        self._hour: dict[str, finality.Cells] = {}
        self._oldest: int | None = None
        self._due = 0.0
        #: What was published by micro-batch, until its progress is recorded.
        self.views: dict[int, stream.View] = {}

    def write(self, changed: DataFrame, micro_batch: int) -> None:
        """Repeating a micro-batch changes nothing: final windows first, then what is open."""
        rows = changed.collect()
        now = times.now()
        laid = [stream.window_of(row, self._service.settings, now) for row in rows]
        state, final = finality.lay(self._state, micro_batch, laid, self._watermark)
        # Final now, not when its row was last computed.
        rows_final = [window.cells | {"written_at": times.iso(now)} for window in final]
        rows_final = self._write_final(rows_final)
        if micro_batch != self._state.micro_batch:  # not when Spark repeats one
            for window in final:
                self._note_latency(window, now)
        state_text = json.dumps(finality.to_json(state))
        outputs.write_atomically(self._state_file, state_text, durable=bool(final))
        still_open = self._scored_open(state, anew=bool(final))
        live = outputs.to_csv(outputs.WINDOW_COLUMNS, still_open)
        outputs.write_atomically(self._data.stream_live, live, durable=False)
        newest = None if state.greatest is None else times.from_epoch_micros(state.greatest)
        published_at = times.now()
        self._state = state
        self._service.counters["final_windows"] += len(final)
        self._service.details["newest_trade"] = newest
        self._service.details["open_windows"] = len(state.open)
        print_windows("open ", [w.cells for w in laid if w.start in state.open])
        print_windows("FINAL", rows_final)
        self.views[micro_batch] = stream.View(published_at, newest, self._wait())

    def _write_final(self, rows: list[finality.Cells]) -> list[finality.Cells]:
        """Scored against what then stands in the files: the same, however often it is written."""
        if not rows:
            return []
        starts = [datetime.fromisoformat(row["window_start"]) for row in rows]
        before = outputs.read_final_cells(self._data, min(starts) - metrics.TRAILING, max(starts))
        laid = outputs.laid_over(before, rows)
        scored = stream.with_z_scores(before, [laid[row["window_start"]] for row in rows])
        outputs.write_final_windows(self._data, scored)
        return scored

    def _scored_open(self, state: finality.State, *, anew: bool) -> list[finality.Cells]:
        """The open windows; the hour before them is read back when it may have changed."""
        oldest = min(state.open, default=None)
        if oldest is not None and (anew or oldest != self._oldest):
            start = times.from_epoch_micros(oldest)
            self._hour = outputs.read_final_cells(self._data, start - metrics.TRAILING, start)
        self._oldest = oldest
        return stream.with_z_scores(self._hour, [window.cells for window in state.open.values()])

    def _wait(self) -> float:
        """Keeps the pace, in place of a trigger: a window about to close is not kept waiting."""
        now = time.time()
        if finality.closing(self._state, self._watermark):
            return 0.0
        pace = self._service.settings.trigger_seconds
        self._service.stop.wait(min(max(0.0, self._due - now), pace))  # clocks may be set back
        self._due = stream.next_due(time.time(), pace)
        return time.time() - now

    def _note_latency(self, window: finality.Window, final_at: datetime) -> None:
        counts = stream.open_to_final(window, final_at)
        row = {
            "window_start": window.cells["window_start"],
            "leg": latency.OPEN_TO_FINAL,
            "counts": json.dumps(counts),
        }
        outputs.append_csv(self._data.stream_latency, stream.LATENCY_COLUMNS, row, RECORD_BYTES)


def print_windows(kind: str, windows: list[dict[str, str]]) -> None:
    if len(windows) > CONSOLE_WINDOWS:
        print(f"{kind} … and {len(windows) - CONSOLE_WINDOWS} windows before these")
    for cells in sorted(windows, key=lambda cells: cells["window_start"])[-CONSOLE_WINDOWS:]:
        print(
            f"{kind} {cells['window_start']} trades {cells['trade_count']:>5} "
            f"avg {cells['avg_price']} range {cells['price_range']} "
            f"volume {cells['total_volume']} {cells['volatility_flag']} "
            f"{cells['market_sentiment']} {cells['volume_spike']}",
            flush=True,
        )


class Progress:
    """Counts what the query says of itself, and keeps the latest of it.

    Asked for, not listened to: a listener in Python costs eight CPU seconds a minute.
    """

    def __init__(self, service: Service, views: dict[int, stream.View]) -> None:
        self._service = service
        self._views = views
        self._seen = -1
        #: When it was last seen that a micro-batch had ended, or that none was under way.
        self.alive = time.monotonic()

    def look(self, query: StreamingQuery) -> None:
        """Takes in the micro-batches since the last look; Spark keeps the latest hundred."""
        last = query.lastProgress
        if not query.status["isTriggerActive"]:
            self.alive = time.monotonic()
        if last is None or last["batchId"] == self._seen:
            return
        for progress in [last] if last["batchId"] == self._seen + 1 else query.recentProgress:
            if progress["batchId"] > self._seen and stream.was_run(progress):
                self.alive = time.monotonic()
                self._seen = progress["batchId"]
                self._take(progress)

    def _take(self, progress: StreamingQueryProgress) -> None:
        view = self._views.pop(progress["batchId"], None)
        row = stream.progress_row(json.loads(progress.json), view)
        counters = self._service.counters
        for name in ("rows", "unparsable", "duplicates", "late"):
            counters[name] += row[name]
        self._service.details |= {
            "micro_batch": row["micro_batch"],
            "micro_batch_ms": row["duration_ms"],
            "lag": row["lag"],
        }
        path = self._service.data.stream_progress
        outputs.append_csv(path, stream.PROGRESS_COLUMNS, row, RECORD_BYTES)


def start_query(session: SparkSession, settings: Settings, windows: Windows) -> StreamingQuery:
    trades = stream.trades_of(stream.read_kafka(session, settings), settings.product_id)
    return (
        stream.windows_of(trades, settings)
        .writeStream.outputMode("update")
        .foreachBatch(windows.write)
        .option("checkpointLocation", str(stream.checkpoint_folder(settings) / "query"))
        .start()
    )


def check_window_length(data: outputs.DataDir, window: timedelta) -> None:
    """Windows of two lengths in one folder would count trades twice.

    Raises:
        OutputError: the folder holds windows of another length.
    """
    for path in outputs.stream_files(data)[-1:]:
        with path.open(encoding="utf-8", newline="") as file:
            first = next(csv.DictReader(file), None)
        if first is None:
            continue
        length = datetime.fromisoformat(first["window_end"]) - datetime.fromisoformat(
            first["window_start"]
        )
        if length != window:
            raise outputs.OutputError(
                f"{data.stream_csv} holds windows of {length}, WINDOW is {window}: "
                f"{outputs.ANOTHER_FOLDER}"
            )


def run(service: Service) -> None:
    settings = service.settings
    began = psutil.Process().create_time()
    archive = spark.archive_path(settings)
    options = spark.java_options(archive, c1_only=True)
    session = spark.session(
        "stream", spark.configuration(settings, settings.stream_memory, options)
    )
    start_s = time.time() - began
    service.log.info("session ready after %.2f s", start_s)
    service.retrying("Kafka")(topics.check_topic, settings)
    making = time.time()
    windows = Windows(service, stream.checkpoint_folder(settings) / "open_windows.json")
    query = start_query(session, settings, windows)
    query_s = time.time() - making
    java = session.sparkContext._jvm.System.getProperty("java.version")  # noqa: SLF001 - no other way
    service.details |= {"start_s": round(start_s, 2), "query_s": round(query_s, 2), "java": java}
    service.log.info("streaming aggregation logic time: %.2f s", query_s)
    service.report("running", "reads Kafka and writes windows", healthy=True)
    progress = Progress(service, windows.views)
    while not service.stop.is_set() and not query.awaitTermination(1):
        progress.look(query)
        silent = time.monotonic() - progress.alive
        if silent > HUNG_SECONDS + settings.trigger_seconds:
            message = f"no micro-batch has ended for {silent:.0f} s"
            service.report("hangs", message, healthy=False)
        else:
            service.report("running", "reads Kafka and writes windows", healthy=True)
        service.tick()
    query.stop()
    session.stop()


def main() -> None:
    service = Service.start("spark_processor")
    try:
        check_window_length(service.data, service.settings.window)
        run(service)
    except (spark.SetupError, outputs.OutputError) as error:
        service.error(str(error))
        service.close("failed", str(error))
        sys.exit(2)
    except (PySparkException, Py4JError, KafkaError, TemporaryError, OSError) as error:
        if not service.stop.is_set():
            service.log.debug("the query failed", exc_info=error)
            service.error(f"the query failed: {str(error)[:1500]}")
            service.close("failed", str(error)[:200])
            sys.exit(1)
    service.close()
