"""Sizes of the measurements: large enough for reliable numbers, or a quick test."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The size of each measurement, in seconds, rows or messages."""

    producer_messages: int
    producer_baseline_messages: int
    consumer_rows: int
    consumer_baseline_rows: int
    #: Duration of each side. The CPU counts from `stream_cpu_from` after the start.
    stream_seconds: float
    stream_baseline_seconds: float
    stream_cpu_from: float
    #: How long the CPU of the stream is measured after the feed has stopped.
    silent_seconds: float
    catch_up_messages: int
    #: (rows in the table, runs of each side). The result is the median of the runs.
    batches: tuple[tuple[int, int], ...]
    memory_seconds: float
    memory_batch_runs: int
    replayed_messages: int


FULL = Sizes(
    producer_messages=200_000,
    producer_baseline_messages=50_000,
    consumer_rows=300_000,
    consumer_baseline_rows=10_000,
    stream_seconds=200,
    stream_baseline_seconds=130,
    stream_cpu_from=30,
    silent_seconds=45,
    catch_up_messages=2_102_048,
    batches=((20_000, 3), (1_000_000, 3), (10_000_000, 1)),
    memory_seconds=120,
    memory_batch_runs=2,
    replayed_messages=200_000,
)
QUICK = Sizes(
    producer_messages=50_000,
    producer_baseline_messages=10_000,
    consumer_rows=100_000,
    consumer_baseline_rows=3_000,
    stream_seconds=100,
    stream_baseline_seconds=60,
    stream_cpu_from=30,
    silent_seconds=20,
    catch_up_messages=100_000,
    batches=((20_000, 1), (300_000, 1)),
    memory_seconds=20,
    memory_batch_runs=1,
    replayed_messages=20_000,
)
