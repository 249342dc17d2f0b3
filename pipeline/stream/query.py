"""The streaming query: it reads Kafka, parses the records and aggregates the trades by window."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the usual name

from pipeline import kafka_security, spark_jvm
from pipeline.ingest import trade
from pipeline.metrics import spark_sums
from pipeline.settings import Settings
from pipeline.stream.checkpoint import QUERY
from pipeline.stream.code_generation import CodeGeneration
from pipeline.stream.records import COLUMNS, PARSED, parse_batches

#: Receives the windows that a micro-batch changed, and the number of the micro-batch.
MicroBatchFunction = Callable[[DataFrame, int], None]
#: Spark recognizes an interrupted function by this text in its error. It looks for the text with
#: `calling((.|\\r\\n|\\r|\\n)*)(`, which overflows the stack on the traceback of such a function.
_INTERRUPTED = (
    "py4j.protocol.Py4JJavaError: An error occurred while calling collect: "
    "java.lang.InterruptedException"
)
#: Records per poll of Spark's Kafka client; its default is 500. After each poll, Spark asks for the
#: offsets of the topic and seeks. The client then discards the records that it has fetched ahead.
POLL_RECORDS = 5000
#: Seconds that Spark has to stop the query.
STOP_SECONDS = 5.0


class MicroBatchError(Exception):
    """The function for micro-batches failed. Spark gets this; `has_ended` raises the cause."""


class Query:
    """The running query. It ends with the error that its function for micro-batches raised.

    Spark wraps such an error in one of its own, whose text starts with a long traceback.
    """

    def __init__(
        self,
        windows: DataFrame,
        checkpoint: Path,
        process: MicroBatchFunction,
        records_in: Callable[[int], int],
    ) -> None:
        self._process = process
        self._records_in = records_in
        self._code_generation = CodeGeneration()
        self._error: Exception | None = None
        self._stopping = False
        self.spark = (
            windows.writeStream.outputMode("update")
            .foreachBatch(self._on_micro_batch)
            .option("checkpointLocation", str(checkpoint / QUERY))
            .start()
        )

    def _on_micro_batch(self, changed: DataFrame, micro_batch: int) -> None:
        try:
            self._process(changed, micro_batch)
            self._code_generation.follow(changed.sparkSession, self._records_in(micro_batch))
        except Exception as error:  # noqa: BLE001 - `has_ended` raises it
            self._error = error
            # Spark logs the traceback several times, and the service the cause once.
            text = _INTERRUPTED if self._stopping else type(error).__name__
            raise MicroBatchError(text) from None

    def has_ended(self, wait_s: float) -> bool:
        """Wait and return whether the query has ended.

        Raises:
            Exception: the error that the function raised.
            StreamingQueryException: the query failed for another reason.
        """
        try:
            return bool(self.spark.awaitTermination(wait_s))
        except StreamingQueryException as error:
            if self._error is not None:
                raise self._error from error
            raise

    def stop(self) -> None:
        """Stop the query. If Java does not answer, end it: a repeated micro-batch is harmless."""
        self._stopping = True
        stopping = threading.Thread(target=self._stop, daemon=True)
        stopping.start()
        stopping.join(STOP_SECONDS)
        if stopping.is_alive():
            spark_jvm.kill()

    def _stop(self) -> None:
        with contextlib.suppress(Exception):  # Java has ended
            self.spark.stop()


def start_query(
    session: SparkSession,
    settings: Settings,
    checkpoint: Path,
    process: MicroBatchFunction,
    records_in: Callable[[int], int],
) -> Query:
    """Start the query in update mode.

    One query serves the final windows, the open windows and the console: Kafka is read once, and
    repeated trades are removed once.

    Args:
        session: the Spark session.
        settings: the settings of the service.
        checkpoint: the directory of the checkpoint.
        process: called after each micro-batch. Spark starts the next one when it returns.
        records_in: returns the number of records in a micro-batch.
    """
    trades = parse(read_kafka(session, settings), settings.product_id)
    return Query(aggregate(trades, settings), checkpoint, process, records_in)


def read_kafka(session: SparkSession, settings: Settings) -> DataFrame:
    """Return the records of the topic, from its oldest one on, as Spark's Kafka source does."""
    return (
        session.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka_bootstrap_servers)
        .option("subscribe", settings.kafka_topic)
        .option("startingOffsets", "earliest")
        .option("includeHeaders", "true")
        .option("maxOffsetsPerTrigger", settings.max_offsets_per_trigger)
        .option("kafka.max.poll.records", POLL_RECORDS)
        .option("kafka.default.api.timeout.ms", 20_000)
        .option("kafka.request.timeout.ms", 10_000)
        .options(**kafka_security.spark_options(settings))
        .load()
    )


def parse(records: DataFrame, product: str) -> DataFrame:
    """Return the valid trades in Kafka records.

    The observed metric `input` counts the records, the invalid ones (`unparsable`) and the
    backfilled ones, and holds the times of the first and the last receipt. A backfilled trade has
    no time of receipt, because it is older than the receipt of its record.
    """
    is_backfilled = F.coalesce(
        F.exists("headers", lambda header: header["key"] == trade.BACKFILL_HEADER), F.lit(False)
    )
    parsed = (
        records.withColumn("backfilled", is_backfilled)
        .withColumn("received", F.when(~F.col("backfilled"), F.col("timestamp")))
        .selectExpr(*COLUMNS)
        .mapInArrow(lambda batches: parse_batches(batches, product), PARSED)
    )
    return (
        parsed.observe(
            "input",
            F.count("*").alias("rows"),
            F.count("reason").alias("unparsable"),
            F.count_if("backfilled").alias("backfilled"),
            F.unix_micros(F.min("received")).alias("first_receipt"),
            F.unix_micros(F.max("received")).alias("last_receipt"),
        )
        .where("reason is null")
        .select(
            "trade_id",
            F.col("price").cast(spark_sums.AMOUNT),
            F.col("size").cast(spark_sums.AMOUNT),
            "side",
            "time_us",
            F.timestamp_micros("time_us").alias("event_time"),
            "received",
        )
    )


def aggregate(trades: DataFrame, settings: Settings) -> DataFrame:
    """Return the sums of the windows that changed; times in microseconds since 1970."""
    window = f"{settings.window.total_seconds():.0f} seconds"
    watermark = f"{settings.watermark.total_seconds():.0f} seconds"
    return (
        trades.withWatermark("event_time", watermark)
        .dropDuplicatesWithinWatermark(["trade_id"])
        .groupBy(F.window("event_time", window))
        .agg(*spark_sums.trade_sums(), F.unix_micros(F.max("received")).alias("last_receipt_time"))
        .withColumn("window_start", F.unix_micros("window.start"))
        .withColumn("window_end", F.unix_micros("window.end"))
        .drop("window")
    )
