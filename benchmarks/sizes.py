"""Sizes of the measurements: large enough for reliable numbers, or a quick test."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The size of each measurement, in seconds, rows or messages."""

    producer_messages: int
    producer_baseline_messages: int
    consumer_rows: int
    consumer_baseline_rows: int
    #: Duration of each side. The CPU counts between the two times after the start.
    stream_seconds: float
    stream_cpu_from: float
    stream_cpu_to: float
    #: (rows in the table, runs of each side). The result is the median of the runs.
    batches: tuple[tuple[int, int], ...]
    memory_seconds: float
    memory_batch_runs: int
    replayed_messages: int


FULL = Sizes(
    producer_messages=300_000,
    producer_baseline_messages=50_000,
    consumer_rows=500_000,
    consumer_baseline_rows=10_000,
    stream_seconds=300,
    stream_cpu_from=30,
    stream_cpu_to=120,
    batches=((20_000, 3), (1_000_000, 3), (10_000_000, 1)),
    memory_seconds=120,
    memory_batch_runs=2,
    replayed_messages=500_000,
)
QUICK = Sizes(
    producer_messages=50_000,
    producer_baseline_messages=10_000,
    consumer_rows=100_000,
    consumer_baseline_rows=3_000,
    stream_seconds=100,
    stream_cpu_from=30,
    stream_cpu_to=100,
    batches=((20_000, 1), (1_000_000, 1)),
    memory_seconds=20,
    memory_batch_runs=1,
    replayed_messages=20_000,
)
