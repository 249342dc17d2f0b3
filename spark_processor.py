"""The streaming path: 1-minute tumbling windows over the trades in Kafka, as they come.

One query in update mode serves the final windows (`stream_csv/`), the open ones
(`stream_live.csv`) and the console: Kafka is read once, and repeated trades are removed from all.
"""

import csv
import json
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import psutil
from kafka.errors import KafkaError
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import StreamingQuery, StreamingQueryListener
from pyspark.sql.streaming.listener import (
    QueryIdleEvent,
    QueryProgressEvent,
    QueryStartedEvent,
    QueryTerminatedEvent,
)

from pipeline import finality, outputs, spark, stream, topics, trade
from pipeline.service import Service

#: Windows printed to the console for one micro-batch, at most.
CONSOLE_WINDOWS = 5
#: The progress record is halved when it is longer than this, in bytes.
PROGRESS_BYTES = 4_000_000


class Windows:
    """What each micro-batch does to the outputs."""

    def __init__(self, service: Service, state_file: Path) -> None:
        self._service = service
        self._data = service.data
        self._state_file = state_file
        self._watermark = service.settings.watermark // timedelta(microseconds=1)
        self._state = finality.from_json(outputs.read_json(state_file))

    def write(self, changed: DataFrame, micro_batch: int) -> None:
        """Repeating a micro-batch changes nothing: final windows first, then what is open."""
        rows = changed.collect()
        now = outputs.now()
        laid = [stream.window_of(row, self._service.settings, now) for row in rows]
        state, final = finality.lay(self._state, micro_batch, laid, self._watermark)
        outputs.write_final_windows(self._data, (window.cells for window in final))
        state_text = json.dumps(finality.to_json(state))
        outputs.write_atomically(self._state_file, state_text, durable=bool(final))
        still_open = (state.open[start].cells for start in sorted(state.open))
        live = outputs.to_csv(outputs.WINDOW_COLUMNS, still_open)
        outputs.write_atomically(self._data.stream_live, live, durable=False)
        self._state = state
        self._service.counters["final_windows"] += len(final)
        if state.greatest is not None:
            self._service.details["newest_trade"] = trade.from_epoch_micros(state.greatest)
        self._service.details["open_windows"] = len(state.open)
        print_windows("open ", [w.cells for w in laid if w.start in state.open])
        print_windows("FINAL", [w.cells for w in final])


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


class Progress(StreamingQueryListener):  # type: ignore[misc]
    """Counts what the query says of itself, and keeps the latest of it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._path = service.data.stream_progress
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def onQueryStarted(self, event: QueryStartedEvent) -> None:  # noqa: N802
        pass

    def onQueryProgress(self, event: QueryProgressEvent) -> None:  # noqa: N802
        row = stream.progress_row(json.loads(event.progress.json))
        counters = self._service.counters
        for name in ("rows", "unparsable", "duplicates", "late"):
            counters[name] += row[name]
        self._service.details |= {
            "micro_batch": row["micro_batch"],
            "micro_batch_ms": row["duration_ms"],
            "lag": row["lag"],
        }
        self._append(row)

    def onQueryIdle(self, event: QueryIdleEvent) -> None:  # noqa: N802
        pass

    def onQueryTerminated(self, event: QueryTerminatedEvent) -> None:  # noqa: N802
        pass

    def _append(self, row: Mapping[str, object]) -> None:
        header, line = outputs.to_csv(stream.PROGRESS_COLUMNS, [row]).splitlines()
        new = not self._path.exists()
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(f"{header}\n{line}\n" if new else f"{line}\n")
            long = file.tell() > PROGRESS_BYTES
        if long:
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [header, *lines[len(lines) // 2 :]]
            outputs.write_atomically(self._path, "\n".join(kept) + "\n", durable=False)


def start_query(service: Service, session: SparkSession, folder: Path) -> StreamingQuery:
    settings = service.settings
    windows = Windows(service, folder / "open_windows.json")
    trades = stream.trades_of(stream.read_kafka(session, settings), settings.product_id)
    return (
        stream.windows_of(trades, settings)
        .writeStream.outputMode("update")
        .foreachBatch(windows.write)
        .option("checkpointLocation", str(folder / "query"))
        .trigger(processingTime=f"{settings.trigger_seconds * 1000:.0f} milliseconds")
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
    session.streams.addListener(Progress(service))
    start_s = time.time() - began
    service.log.info("session ready after %.2f s", start_s)
    service.retrying("Kafka", KafkaError)(topics.check_topic, settings)
    making = time.time()
    query = start_query(service, session, stream.checkpoint_folder(settings))
    query_s = time.time() - making
    service.details |= {"start_s": round(start_s, 2), "query_s": round(query_s, 2)}
    service.log.info("streaming aggregation logic time: %.2f s", query_s)
    service.report("running", "reads Kafka and writes windows", healthy=True)
    while not service.stop.is_set() and not query.awaitTermination(1):
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
    except (PySparkException, Py4JError, KafkaError, OSError) as error:
        if not service.stop.is_set():
            service.log.debug("the query failed", exc_info=error)
            service.error(f"the query failed: {str(error)[:1500]}")
            service.close("failed", str(error)[:200])
            sys.exit(1)
    service.close()


if __name__ == "__main__":
    main()
