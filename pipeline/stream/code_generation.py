"""Whether Spark compiles the expressions of a micro-batch or interprets them.

Spark compiles conditions and projections to bytecode. Some conditions contain the watermark as a
constant, so Spark compiles them again in each micro-batch. This costs more CPU time than
interpreting the few records of a live feed.
"""

from pyspark.sql import SparkSession

#: An internal setting, checked with Spark 4.2.0. `tests/integration/test_metrics.py` fails if Spark
#: changes it.
_SETTING = "spark.sql.codegen.factoryMode"
#: Spark's default, and the interpreter.
COMPILE, INTERPRET = "FALLBACK", "NO_CODEGEN"
#: From this number of records on, compiling costs less. Compiling takes about 0.1 CPU s for each
#: micro-batch, and interpreting 46 µs more for each record.
MANY_RECORDS = 2_000


def mode_for(records: int) -> str:
    """Return COMPILE or INTERPRET for a micro-batch with this number of records."""
    return COMPILE if records >= MANY_RECORDS else INTERPRET


class CodeGeneration:
    """Sets the mode of the next micro-batch by the size of the one before it."""

    def __init__(self) -> None:
        self._mode = COMPILE

    def follow(self, session: SparkSession, records: int) -> None:
        """Choose the mode of the next micro-batch.

        Args:
            session: the session of the query, which is not the one that started it.
            records: the number of records in this micro-batch.
        """
        mode = mode_for(records)
        if mode != self._mode:
            session.conf.set(_SETTING, mode)
            self._mode = mode
