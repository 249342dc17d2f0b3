"""The streaming query: what it reads, what it computes, what it says of itself."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows

from pipeline import histogram as latency
from pipeline import metrics, outputs, spark_metrics, times
from pipeline.ingest import trade
from pipeline.settings import Settings
from pipeline.stream import finality

#: Columns of the record of latencies: counts by bucket, as JSON.
LATENCY_COLUMNS = ("window_start", "leg", "counts")
#: Counts up with each change of the query that an old checkpoint cannot follow.
QUERY_VERSION = 2
#: A micro-batch as it stands in the progress record: when its open view became readable, the
#: newest trade in that, the records it read and when they were received, …
PROGRESS_COLUMNS = (
    "micro_batch",
    "published_at",
    "newest_trade",
    "rows",
    "first_receipt",
    "last_receipt",
    "unparsable",
    "duplicates",
    "late",
    "duration_ms",
    "lag",
    "state_rows",
    "state_bytes",
)


def judge(raw: bytes | None, received: int, product: str) -> tuple[Any, ...]:
    """A Kafka record as the fields of `JUDGED`: by the same rules as producer and consumer."""
    try:
        moment = times.from_epoch_millis(received // 1000)
        valid = trade.decode(raw or b"", product, moment)
    except trade.InvalidTradeError as refusal:
        return None, None, None, None, None, str(refusal)
    time_us = times.epoch_micros(valid.time)
    return valid.trade_id, valid.price, valid.last_size, valid.side, time_us, None


@dataclass(frozen=True)
class View:
    """An open view as a micro-batch published it."""

    published_at: datetime
    newest_trade: datetime | None
    #: How long the micro-batch then waited for the next one's time.
    waited_s: float


#: Micro-batches begin so long after each whole interval: the first trades after a minute's end,
#: which let windows close, are there by then.
PHASE = 0.3
JUDGED = "trade_id long, price string, size string, side string, time_us long, reason string"


def read_kafka(session: SparkSession, settings: Settings) -> DataFrame:
    return (
        session.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka_bootstrap_servers)
        .option("subscribe", settings.kafka_topic)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", settings.max_offsets_per_trigger)
        .option("kafka.default.api.timeout.ms", 20_000)
        .option("kafka.request.timeout.ms", 10_000)
        .load()
    )


def trades_of(records: DataFrame, product: str) -> DataFrame:
    """The valid trades, and the number of records that are none as an observed metric."""
    received = F.least("timestamp", F.current_timestamp())
    judged_by = F.udf(lambda raw, micros: judge(raw, micros, product), JUDGED, useArrow=False)
    judged = records.select(
        judged_by("value", F.unix_micros(received)).alias("judged"),
        F.col("timestamp").alias("received"),
    ).select("judged.*", "received")
    return (
        judged.observe(
            "input",
            F.count("*").alias("rows"),
            F.count("reason").alias("unparsable"),
            F.unix_micros(F.min("received")).alias("first_receipt"),
            F.unix_micros(F.max("received")).alias("last_receipt"),
        )
        .where("reason is null")
        .select(
            "trade_id",
            F.col("price").cast(spark_metrics.AMOUNT),
            F.col("size").cast(spark_metrics.AMOUNT),
            "side",
            "time_us",
            F.timestamp_micros("time_us").alias("event_time"),
            "received",
        )
    )


def windows_of(trades: DataFrame, settings: Settings) -> DataFrame:
    """The sums of the windows that changed; times in microseconds since 1970."""
    window = f"{settings.window.total_seconds():.0f} seconds"
    watermark = f"{settings.watermark.total_seconds():.0f} seconds"
    return (
        trades.withWatermark("event_time", watermark)
        .dropDuplicatesWithinWatermark(["trade_id"])
        .groupBy(F.window("event_time", window))
        .agg(
            *spark_metrics.trade_sums(), F.unix_micros(F.max("received")).alias("last_receipt_time")
        )
        .withColumn("window_start", F.unix_micros("window.start"))
        .withColumn("window_end", F.unix_micros("window.end"))
        .drop("window")
    )


def window_of(row: Row, settings: Settings, written_at: datetime) -> finality.Window:
    sums = row.asDict()
    fields = metrics.compute(sums, settings) | outputs.moments(sums) | {"written_at": written_at}
    return finality.Window(
        start=row.window_start,
        end=row.window_end,
        last_trade_time=row.last_trade_time,
        cells=outputs.cells(outputs.WINDOW_COLUMNS, fields),
        growth=((times.epoch_micros(written_at), row.trade_count),),
    )


def with_z_scores(
    before: Mapping[str, finality.Cells], windows: Iterable[finality.Cells]
) -> list[finality.Cells]:
    """These windows, by start, with their z-scores against those before them and one another.

    `before` are final ones by `window_start`; a window among both counts as in `windows`.
    """
    own = {cells["window_start"]: cells for cells in windows}
    known = {**before, **own}
    starts = sorted(known)
    scores = metrics.z_scores(_scored(known[start]) for start in starts)
    return [
        own[start] | outputs.cells(metrics.Z_SCORES, score)
        for start, score in zip(starts, scores, strict=True)
        if start in own
    ]


def _scored(cells: finality.Cells) -> metrics.WindowAmounts:
    return metrics.WindowAmounts(
        times.epoch_micros(datetime.fromisoformat(cells["window_start"])),
        Decimal(cells["price_range"]),
        Decimal(cells["total_volume"]),
    )


def open_to_final(window: finality.Window, final_at: datetime) -> Counter[int]:
    """How long the trades of a final window stood in the open view before, by bucket."""
    moment = times.epoch_micros(final_at)
    counts = [count for _, count in window.growth]
    came = [count - before for count, before in zip(counts, [0, *counts], strict=False)]
    return latency.count(
        ((moment - at) / 1e6, count) for (at, _), count in zip(window.growth, came, strict=True)
    )


def was_run(progress: Mapping[str, Any]) -> bool:
    """Whether it tells of a micro-batch that was run.

    Of a quiet stream Spark says every 10 seconds that there was none, under the number that the
    next one will have.
    """
    return "addBatch" in progress["durationMs"]


def progress_row(progress: Mapping[str, Any], view: View | None) -> dict[str, Any]:
    """A micro-batch's progress, as Spark reports it, in our columns.

    `view` is what it published; None for a micro-batch that ended before this process began.
    """
    observed = (progress.get("observedMetrics") or {}).get("input") or {}
    operators = progress.get("stateOperators") or []
    lag = (progress["sources"][0].get("metrics") or {}).get("maxOffsetsBehindLatest")
    return {
        "micro_batch": progress["batchId"],
        "published_at": view and view.published_at,
        "newest_trade": view and view.newest_trade,
        "rows": observed.get("rows", 0),
        "first_receipt": _moment(observed.get("first_receipt")),
        "last_receipt": _moment(observed.get("last_receipt")),
        "unparsable": observed.get("unparsable", 0),
        "duplicates": sum(
            operator.get("customMetrics", {}).get("numDroppedDuplicateRows", 0)
            for operator in operators
        ),
        "late": sum(operator["numRowsDroppedByWatermark"] for operator in operators),
        "duration_ms": _duration_ms(progress, view),
        "lag": None if lag is None else int(float(lag)),
        "state_rows": sum(operator["numRowsTotal"] for operator in operators),
        "state_bytes": sum(operator["memoryUsedBytes"] for operator in operators),
    }


def _duration_ms(progress: Mapping[str, Any], view: View | None) -> int | None:
    whole: int | None = progress["durationMs"].get("triggerExecution")
    return None if whole is None or view is None else max(0, whole - round(view.waited_s * 1000))


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else times.from_epoch_micros(micros)


def next_due(now: float, interval: float) -> float:
    """When the next micro-batch is due: `PHASE` after a whole interval since 1970; seconds."""
    return now + interval - (now - PHASE) % interval


def checkpoint_folder(settings: Settings) -> Path:
    """A folder for this shape of the query: an old checkpoint cannot follow another shape."""
    shape = (
        f"stream-v{QUERY_VERSION}-window{settings.window.total_seconds():.0f}s"
        f"-watermark{settings.watermark.total_seconds():.0f}s"
        f"-partitions{settings.shuffle_partitions}-{settings.kafka_topic}"
    )
    return outputs.DataDir(settings.data_dir).checkpoints / shape
