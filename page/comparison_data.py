"""The part of the comparison that the page shows, in a bounded size.

`page/comparison_worker.py` runs this module in a child process: a comparison of 90 days takes
seconds of CPU and half a gigabyte of memory, which the process returns when it ends.
"""

import argparse
import pickle
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from page import formatting
from pipeline import settings, stores, times
from pipeline.compare.comparison import compare
from pipeline.compare.decision import choice_sentence
from pipeline.compare.figures import Figures, figures
from pipeline.compare.inputs import read_outputs
from pipeline.compare.section import Section
from pipeline.compare.sections import sections
from pipeline.compare.summary import Finding, findings
from pipeline.compare.totals import SharedTotals
from pipeline.data_dir import DataDir
from pipeline.errors import OutputError
from pipeline.source import check
from pipeline.stores.interface import Store


@dataclass(frozen=True)
class ComparisonData:
    """The part of a comparison that the page shows."""

    #: When the files were read.
    made_at: datetime
    #: The CPU seconds that reading and comparing took.
    cpu_s: float
    findings: tuple[Finding, ...]
    #: Which result to choose; empty if it is not known.
    choice: str
    sections: tuple[Section, ...]
    figures: Figures
    #: Totals over the windows that both paths have.
    shared: SharedTotals


def load(
    data: DataDir, trades: Store, last: timedelta | None, interval_s: float
) -> ComparisonData | str:
    """Read a data directory and compare the paths.

    Args:
        data: the data directory.
        trades: the store of the trades.
        last: the span, counted back from the newest window; None for everything.
        interval_s: the batch interval, if the scheduler has not published its own.

    Returns:
        The data, or a sentence that names the reason why the data directory cannot be compared.
    """
    try:
        made_at = times.now()
        comparison = compare(read_outputs(data, trades, last), interval_s)
    except OutputError as error:
        return formatting.text(str(error))
    return ComparisonData(
        made_at=made_at,
        findings=findings(comparison),
        choice=choice_sentence(comparison.frontier),
        sections=sections(comparison),
        figures=figures(comparison),
        shared=comparison.shared,
        cpu_s=time.process_time(),
    )


def refusal(data: DataDir, given: settings.Settings) -> str | None:
    """Return why a data directory does not fit the settings, in one sentence; None if it fits."""
    try:
        check(data, given)
    except OutputError as error:
        return formatting.text(str(error))
    return None


def main() -> None:
    """Write the pickled result of `load` to standard output."""
    parser = argparse.ArgumentParser(prog="python -m page.comparison_data", description=__doc__)
    parser.add_argument("data_dir", type=Path, help="data directory")
    parser.add_argument(
        "--last", type=float, metavar="SECONDS", help="only this time (default: everything)"
    )
    parser.add_argument(
        "--interval",
        type=float,
        required=True,
        metavar="SECONDS",
        help="interval of the batch runs",
    )
    given = parser.parse_args()
    last = None if given.last is None else timedelta(seconds=given.last)
    data = DataDir(given.data_dir)
    chosen = settings.load().model_copy(update={"data_dir": given.data_dir})
    refused = refusal(data, chosen)
    found = refused or load(data, stores.store_of(chosen), last, given.interval)
    pickle.dump(found, sys.stdout.buffer)


if __name__ == "__main__":
    main()
