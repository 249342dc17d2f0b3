"""Parse Kafka records in Python by the rules of `ingest.trade`. Spark sends Arrow batches.

Spark can also call a function for each row. Serializing rows with pickle costs as much as parsing
them.
"""

import gc
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from pipeline import times
from pipeline.ingest import trade

#: The columns that `parse_batches` reads, as expressions of Spark's SQL.
COLUMNS = ("value", "unix_micros(timestamp) AS timestamp_us", "received", "backfilled")
#: The columns that it returns, as a Spark schema. A record with a `reason` is no valid trade, and
#: the columns before it are null.
PARSED = (
    "trade_id long, price string, size string, side string, time_us long, reason string, "
    "received timestamp, backfilled boolean"
)
#: The first columns of PARSED: what `parse_record` returns.
_FIELDS = {
    "trade_id": pa.int64(),
    "price": pa.string(),
    "size": pa.string(),
    "side": pa.string(),
    "time_us": pa.int64(),
    "reason": pa.string(),
}


def parse_batches(batches: Iterable[pa.RecordBatch], product: str) -> Iterator[pa.RecordBatch]:
    """Yield each batch of Kafka records with the columns of PARSED, in the same order."""
    exempt_modules_from_collection()
    for batch in batches:
        values, receipts = (batch.column(name).to_pylist() for name in ("value", "timestamp_us"))
        parsed = [parse_record(*pair, product) for pair in zip(values, receipts, strict=True)]
        columns = zip(*parsed, strict=True) if parsed else [()] * len(_FIELDS)
        arrays = [pa.array(*pair) for pair in zip(columns, _FIELDS.values(), strict=True)]
        kept = ["received", "backfilled"]
        yield pa.RecordBatch.from_arrays(
            [*arrays, *(batch.column(name) for name in kept)], names=[*_FIELDS, *kept]
        )


@cache
def exempt_modules_from_collection() -> None:
    """Exempt the objects of this process from garbage collection, once: they are its modules.

    Spark's Python process collects garbage after each micro-batch, which takes 9 ms with them.
    """
    gc.freeze()


def parse_record(raw: bytes | None, received: int, product: str) -> tuple[Any, ...]:
    """Return a Kafka record as the first columns of PARSED.

    Args:
        raw: the value of the record.
        received: time of receipt, microseconds since 1970: no trade is newer than that.
        product: the product that the trade must be of.
    """
    moment = times.from_epoch_millis(received // 1000)
    try:
        valid = trade.decode(raw or b"", product, moment)
    except trade.InvalidTradeError as refusal:
        return None, None, None, None, None, str(refusal)
    time_us = times.epoch_micros(valid.time)
    return valid.trade_id, valid.price, valid.last_size, valid.side, time_us, None
