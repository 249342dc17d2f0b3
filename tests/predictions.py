"""Check the predictions of the comparison against runs: `python -m tests.predictions RECORDING`.

Frontier: the stack runs with one batch interval. The model predicts age and CPU time at other
intervals. Then the stack runs with these intervals. During each run, an observer polls the result
files. The times at which it finds High and Spike windows are compared with those of the alerts and
of the final rows.

Watermark: the stack runs with short watermarks while many trades come late. The drops that Spark
counts are compared with the bound and the estimate.

It takes about half an hour and needs a machine that does nothing else. The exit status is 1 if a
prediction is off by more than its limit, if the stream drops more trades than the bound or fewer
than 100, if the results disagree with the observer, if a path has fewer than 3 results to compare,
or if an alert is false.
"""

import argparse
import csv
import math
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pandas as pd

from faults.servers import Late
from faults.stack import Stack
from pipeline import times
from pipeline.compare import database
from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.detection import KEY
from pipeline.compare.formatting import count
from pipeline.compare.freshness import BATCH, STREAM_FINAL, STREAM_OPEN
from pipeline.compare.frontier import BatchModel, Frontier
from pipeline.compare.inputs import read_outputs
from pipeline.compare.output_files import read_batch_log
from pipeline.compare.watermark import watermarks
from pipeline.data_dir import DataDir
from pipeline.metrics.definitions import HIGH, SPIKE
from pipeline.outputs import read_status, stream_files
from pipeline.stores import sqlite

#: What was predicted, at which setting, the predicted and the measured value, and the limit.
Row = tuple[str, float, float, float, float]
#: The start of a window, and HIGH or SPIKE.
Key = tuple[str, str]
#: What each path is called in a message.
PATHS = {
    "stream": "the stream's open windows",
    "final": "the stream's final windows",
    "batch": "the batch",
}
#: The flag of a window that has each kind.
FLAGS = {"volatility_flag": HIGH, "volume_spike": SPIKE}
#: How far a prediction may be off.
AGE_LIMIT, CPU_LIMIT, DROPS_LIMIT = 0.15, 0.25, 0.15
#: How far the time of an alert may be from the time at which the observer sees the result, and how
#: often the observer looks, in seconds.
SEEN_LIMIT, POLL_SECONDS = 1.0, 0.1
#: With fewer results to compare on a path in all runs, the check proves nothing.
LEAST_ALERTS = 3
#: With fewer dropped trades, the run proves nothing.
LEAST_DROPS = 100
#: Every second trade comes late, by up to this multiple of the watermark.
LATE_EVERY, LATEST = 2, 3.0
#: Seconds in which both paths read what is already in the topic.
SETTLE_SECONDS = 10.0
#: Seconds for the start of the stack, besides the batch runs.
START_SECONDS = 300.0


@contextmanager
def running(recording: Path, folder: Path, environment: Mapping[str, str]) -> Iterator[Stack]:
    """Run the whole stack on a recording that is shifted to the present."""
    folder.mkdir()
    with Stack(folder, recording, 1.0, environment, due=(0.0,)) as stack:
        stack.start()
        stack.wait_until_healthy()
        yield stack
        stack.stop()


class Observer(threading.Thread):
    """Polls the results of both paths and notes when it first sees a High or Spike window."""

    def __init__(self, data: DataDir) -> None:
        super().__init__(daemon=True)
        self._data = data
        self._ended = threading.Event()
        #: By path, window and kind.
        self.seen: dict[tuple[str, str, str], datetime] = {}
        self.began = times.now()

    def run(self) -> None:
        known: dict[Path, int] = {}
        while not self._ended.wait(POLL_SECONDS):
            for path, file in (
                ("stream", self._data.stream_live),
                ("batch", self._data.batch_windows),
                *(("final", file) for file in stream_files(self._data)),
            ):
                with suppress(FileNotFoundError):
                    changed = file.stat().st_mtime_ns
                    if known.get(file) != changed:
                        known[file] = changed
                        self._look(path, file)

    def _look(self, path: str, file: Path) -> None:
        now = times.now()
        for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
            for flag, kind in FLAGS.items():
                if row[flag] == kind:
                    self.seen.setdefault((path, row["window_start"], kind), now)

    def end(self) -> None:
        self._ended.set()
        self.join()

    def of(self, path: str) -> dict[Key, datetime]:
        """Return when the observer first saw each High and Spike window of a path."""
        return {(start, kind): at for (of, start, kind), at in self.seen.items() if of == path}


def detection_problems(
    found: Comparison, observer: Observer, until: datetime
) -> tuple[list[str], Counter[str]]:
    """Return what does not agree between a comparison and the observer.

    Args:
        found: the comparison.
        observer: it has ended after the files of the comparison were read.
        until: when the files were read.

    Returns:
        One line for each problem, and the number of results that were compared, by path.
    """
    outputs = found.outputs
    final = [
        (row.window_start, kind, row.written_at)
        for row in outputs.final.itertuples()
        for flag, kind in FLAGS.items()
        if getattr(row, flag) == kind
    ]
    recorded = {path: times_of(of[[*KEY, "raised_at"]]) for path, of in outputs.alerts.items()}
    recorded["final"] = times_of(pd.DataFrame(final, columns=[*KEY, "at"]))
    events = times_of(found.detection.events)
    problems: list[str] = []
    compared: Counter[str] = Counter()
    for path, result in (("stream", STREAM_OPEN), ("final", STREAM_FINAL), ("batch", BATCH)):
        seen, known = observer.of(path), recorded[path]
        problems += disagreements(path, known, seen, observer.began, until)
        observed = median_s(events, {key: at for key, at in seen.items() if key in known})
        problems += off_median(result, found.detection.median(result), observed)
        compared[path] = sum(at > observer.began for at in known.values())
    return problems, compared


def times_of(table: pd.DataFrame) -> dict[Key, datetime]:
    """Return the times in a table with the columns of KEY and a time."""
    return {
        (start, kind): pd.Timestamp(at).to_pydatetime()
        for start, kind, at in table.dropna().itertuples(index=False)
    }


def disagreements(
    path: str,
    recorded: Mapping[Key, datetime],
    seen: Mapping[Key, datetime],
    began: datetime,
    until: datetime,
) -> list[str]:
    """Return what does not agree between the recorded and the observed times of one path.

    Args:
        path: its name.
        recorded: when the path recorded that a window is High or a Spike.
        seen: when the observer first saw it.
        began: when the observer began. What was recorded earlier is not compared.
        until: when the records were read. What was seen just before it can have no record yet.
    """
    watched = {key: at for key, at in recorded.items() if at > began}
    off = [abs((seen[key] - at).total_seconds()) for key, at in watched.items() if key in seen]
    say(comparison_text(path, off))
    latest = until - timedelta(seconds=SEEN_LIMIT)
    found = [
        f"{path}: the observer did not see {window_text(key)}" for key in watched if key not in seen
    ]
    found += [
        f"{path}: no record of {window_text(key)}, which the observer saw"
        for key, at in seen.items()
        if key not in recorded and at < latest
    ]
    if off and max(off) > SEEN_LIMIT:
        found.append(
            f"{path}: largest difference from the observer {max(off):.2f} s, "
            f"limit {SEEN_LIMIT:.2f} s"
        )
    return found


def comparison_text(path: str, off: Sequence[float]) -> str:
    """Return how many results of a path were compared, and the largest difference.

    Args:
        path: its name.
        off: the difference of each result from the observer's time, in seconds.
    """
    name = PATHS[path]
    if not off:
        return f"No result of {name} to compare"
    results = count(len(off), "result")
    return f"Compared {results} of {name}: largest difference from the observer {max(off):.2f} s"


def window_text(key: Key) -> str:
    """Return a window with its kind: `the High window 2026-03-01T12:00:00Z`."""
    start, kind = key
    return f"the {kind} window {start}"


def off_median(result: str, reported: float, observed: float) -> list[str]:
    """Return a problem if a reported median time to detection is not the observer's.

    Both are unknown if the run has no High or Spike window with a known decisive trade.
    """
    if math.isnan(reported) and math.isnan(observed):
        return []
    if abs(reported - observed) <= SEEN_LIMIT:  # False if one of them is unknown
        return []
    return [f"{result}: reported median {reported:.2f} s, observed {observed:.2f} s"]


def median_s(crossed: Mapping[Key, datetime], seen: Mapping[Key, datetime]) -> float:
    """Return the median time from the crossing to the observation, in seconds; NaN without one."""
    off = [(at - crossed[key]).total_seconds() for key, at in seen.items() if key in crossed]
    return statistics.median(off) if off else math.nan


def model_of(found: Frontier, mode: str) -> BatchModel | None:
    """Return the model of a mode of the batch."""
    return next((model for model in found.today if model.mode == mode), None)


def wait_for_runs(data: DataDir, count: int, interval_s: float) -> None:
    """Wait until this number of batch runs has succeeded."""
    end = time.monotonic() + START_SECONDS + 2 * count * interval_s
    while (read_batch_log(data)["status"] == "ok").sum() < count:
        if time.monotonic() > end:
            sys.exit(f"The batch has not made {count} runs. Read the logs in {data.root}/logs.")
        time.sleep(1)


def measured(
    recording: Path, folder: Path, interval_s: float, runs: int
) -> tuple[Comparison, list[str], Counter[str]]:
    """Run the batch with an interval.

    Returns:
        The comparison, and what `detection_problems` returns.
    """
    say(f"a batch every {interval_s:g} s, {runs} runs")
    environment = {"BATCH_INTERVAL_SECONDS": f"{interval_s:g}"}
    observer = Observer(DataDir(folder / "data"))
    observer.start()  # before the stack, so it sees each result
    try:
        with running(recording, folder, environment) as stack:
            # Ages and costs count from the first result of both paths on.
            wait_for_runs(stack.data, runs + 2, interval_s)
            until = times.now()
            outputs = read_outputs(stack.data, sqlite.SqliteStore(stack.data.database))
            found = compare(outputs, interval_s)
    finally:
        observer.end()
    problems, compared = detection_problems(found, observer, until)
    if found.detection.false:
        problems.append(count(found.detection.false, "false alert"))
    for problem in problems:
        say(problem)
    return found, problems, compared


def check_frontier(
    recording: Path, folder: Path, base_s: float, intervals: list[float], runs: int
) -> bool:
    """Print predicted and measured ages and costs; return whether all are within their limits."""
    base, problems, compared = measured(recording, folder / f"every-{base_s:g}", base_s, runs)
    model = model_of(base.frontier, base.mode)
    if model is None:
        sys.exit("The first run has no model: it lacks ages or CPU times.")
    rows: list[Row] = []
    for interval_s in intervals:
        where = folder / f"every-{interval_s:g}"
        found, more_problems, more_compared = measured(recording, where, interval_s, runs)
        problems += more_problems
        compared += more_compared
        point = found.frontier.point(BATCH)
        if point is None:
            sys.exit(f"The run with an interval of {interval_s:g} s has no age or no cost.")
        rows += [
            ("age, s", interval_s, model.age_s(interval_s), point[0], AGE_LIMIT),
            ("CPU s per hour", interval_s, model.cpu_s_per_hour(interval_s), point[1], CPU_LIMIT),
        ]
    for path in PATHS:
        if compared[path] < LEAST_ALERTS:
            results = count(compared[path], "result")
            say(f"{path}: only {results} to compare in all runs, {LEAST_ALERTS} are needed")
            problems.append(path)
    title = f"Frontier, predicted from a batch every {base_s:g} s"
    return show(title, "interval, s", rows) and not problems


def check_watermarks(recording: Path, folder: Path, seconds: list[int], length_s: float) -> bool:
    """Print predicted and measured drops; return whether all are within their limits."""
    rows: list[Row] = []
    bounds = True
    for watermark_s in seconds:
        say(f"a watermark of {watermark_s} s, {length_s:g} s with late trades")
        late_by = late_up_to(watermark_s)
        environment = {"WATERMARK": f"{watermark_s} seconds"}
        where = folder / f"watermark-{watermark_s}"
        with running(recording, where, environment) as stack:
            stack.proxy.behave(Late(LATE_EVERY, late_by))
            time.sleep(length_s)
            stack.feed.stop()
            time.sleep(SETTLE_SECONDS)
        dropped, at_most, estimate = drops(DataDir(where / "data"), watermark_s)
        say(f"dropped {dropped}, at most {at_most}, estimate {estimate}")
        bounds &= LEAST_DROPS <= dropped <= at_most
        rows.append(("dropped trades", watermark_s, estimate, dropped, DROPS_LIMIT))
    if not bounds:
        say(f"More trades were dropped than the bound, or fewer than {LEAST_DROPS}")
    return show("Watermark", "watermark, s", rows) and bounds


def late_up_to(watermark_s: float) -> Callable[[], float]:
    """Return a function that draws how late a trade is, in seconds."""
    random = Random(watermark_s)
    return lambda: random.uniform(0, LATEST * watermark_s)


def drops(data: DataDir, watermark_s: int) -> tuple[int, int, float]:
    """Return how many trades the stream dropped as late, the bound, and the estimate."""
    with closing(sqlite.open_reader(data.database)) as connection:
        lags = pd.DataFrame(database.lags(connection, None), columns=["behind", "bucket", "count"])
    row = watermarks(lags, {}, None, is_live_pace=True).row(watermark_s) or {}
    progress = pd.read_csv(data.stream_progress)
    counted = read_status(data, "spark_processor").get("counters", {})
    dropped = max(int(progress["late"].sum()), int(counted.get("late", 0)))
    return dropped, int(row["at_most"]), float(row["estimate"])


def show(title: str, column: str, rows: list[Row]) -> bool:
    """Print predicted and measured values; return whether all are within their limits."""
    print(f"\n| {column} | {title} | predicted | measured | off | limit |")
    print("|--:|---|--:|--:|--:|--:|")
    within = True
    for name, setting, predicted, real, limit in rows:
        off = abs(predicted - real) / real if real else float("inf") if predicted else 0.0
        within &= off <= limit
        print(
            f"| {setting:g} | {name} | {predicted:,.1f} | {real:,.1f} | {off:.0%} | {limit:.0%} |"
        )
    print(flush=True)
    return within


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.predictions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recording", type=Path, help="recording to replay")
    parser.add_argument(
        "--only", choices=("frontier", "watermark"), help="check only one of the two"
    )
    parser.add_argument(
        "--base",
        type=float,
        default=60,
        metavar="SECONDS",
        help="batch interval of the run from which the others are predicted (60)",
    )
    parser.add_argument(
        "--intervals",
        type=float,
        nargs="+",
        default=[30, 120],
        metavar="SECONDS",
        help="batch intervals to predict (30 120)",
    )
    parser.add_argument("--runs", type=int, default=5, help="batch runs at each interval (5)")
    parser.add_argument(
        "--watermarks",
        type=int,
        nargs="+",
        default=[5, 15],
        metavar="SECONDS",
        help="watermarks to check (5 15)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=300,
        metavar="SECONDS",
        help="length of each run with late trades (300)",
    )
    given = parser.parse_args()
    recording = given.recording.absolute()
    folder = Path(tempfile.mkdtemp(prefix="predictions-"))
    try:
        held = []
        if given.only != "frontier":
            held.append(check_watermarks(recording, folder, given.watermarks, given.seconds))
        if given.only != "watermark":
            held.append(check_frontier(recording, folder, given.base, given.intervals, given.runs))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
