"""Delete the result files of old batch runs.

The age of a run is measured from the newest trade or from the clock of this machine, whichever is
earlier. Therefore a clock that is years ahead deletes nothing. The name of a file is the start of
its run, except after a change of the clock: see `outputs.start_of`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pipeline import outputs
from pipeline.data_dir import DataDir


def delete_expired(data: DataDir, newest_trade: datetime, now: datetime, days: int) -> int:
    """Delete the files of the runs that are older than this number of days; return their number."""
    old = expired(outputs.batch_files(data), min(now, newest_trade), days)
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def expired(runs: Sequence[Path], now: datetime, days: int) -> list[Path]:
    """Return the files of the runs that are too old. The newest files always stay.

    Args:
        runs: the files of all runs, oldest first.
        now: the current time.
        days: the maximum age of a file.
    """
    oldest = now - timedelta(days=days)
    starts = ((path, outputs.started(path, now)) for path in runs[: -outputs.KEPT_RUNS])
    return [path for path, start in starts if start is not None and start < oldest]
