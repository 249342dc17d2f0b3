"""Print what the start waits for, when the page is ready and the first results exist, then exit.

`local/supervise.py` shows these lines in the terminal where `make` runs.
"""

import argparse
import time
from collections.abc import Collection
from pathlib import Path

from pipeline import http_health
from pipeline.data_dir import DataDir
from pipeline.outputs import SERVICE_STOPPED, part, status_or_empty, stream_files

#: Seconds between two checks.
CHECK_SECONDS = 0.5
#: Seconds between two lines about what the start waits for.
PROGRESS_SECONDS = 3.0
#: Seconds from the start after which these lines become rare, and the seconds between them then.
RARE_AFTER_SECONDS, RARE_SECONDS = 30.0, 30.0
#: A word in the state of a service that waits for Kafka, and the states before a service runs. The
#: status file of an earlier run has the state `SERVICE_STOPPED`.
KAFKA = "Kafka"
NOT_RUNNING = ("", "starting", SERVICE_STOPPED)
#: Where Streamlit answers whether its server works.
HEALTH_PATH = "/_stcore/health"
#: Number of events to announce: the page, the first final window, the first batch result.
EVENTS = 3
#: The beginnings of the first two.
PAGE, FINAL = "page ready", "first new final window of the stream"


def page_answers(port: int) -> bool:
    """Return whether the page's server reports that it is healthy."""
    return http_health.problem(port, HEALTH_PATH, seconds=2) is None


def written_since(paths: list[Path], moment: float) -> bool:
    """Return whether one of these files was written at or after a moment (Unix seconds)."""
    return any(path.exists() and path.stat().st_mtime >= moment for path in paths)


def events(data: DataDir, port: int, start: float) -> list[str]:
    """Return one line for each event that has happened since the start."""
    final = written_since(stream_files(data), start) and has_final_window(data)
    happened = {
        f"{PAGE}: http://127.0.0.1:{port}": page_answers(port),
        f"{FINAL}: {data.stream_csv}": final,
        f"first new batch result: {data.batch_windows}": written_since([data.batch_windows], start),
    }
    return [event for event, is_there in happened.items() if is_there]


def has_final_window(data: DataDir) -> bool:
    """Return whether the stream reports a final window. Its files can also come from a repair."""
    counters = part(status_or_empty(data, "spark_processor"), "counters")
    return bool(counters.get("final_windows"))


def waiting_for(data: DataDir, announced: Collection[str]) -> str:
    """Return what the start waits for now.

    Args:
        data: the data directory.
        announced: the lines of `events` that are printed.
    """
    states = {
        name: str(status_or_empty(data, name).get("state", ""))
        for name in ("producer", "spark_processor")
    }
    if KAFKA in states["producer"] or states["producer"] in NOT_RUNNING:
        return "waiting for Kafka"
    if states["spark_processor"] in NOT_RUNNING:
        return "starting Spark"
    if not any(line.startswith(PAGE) for line in announced):
        return "starting the page"
    if not any(line.startswith(FINAL) for line in announced):
        return "waiting for the first final window"
    return "waiting for the first batch result"


class Progress:
    """Decides when to print what the start waits for: after each change, else at intervals."""

    def __init__(self) -> None:
        self._what = ""
        self._next = 0.0

    def line(self, what: str, seconds: float) -> str:
        """Return the line to print now, or nothing.

        Args:
            what: what the start waits for.
            seconds: seconds since the start.
        """
        if what == self._what and seconds < self._next:
            return ""
        pause = PROGRESS_SECONDS if seconds < RARE_AFTER_SECONDS else RARE_SECONDS
        self._what, self._next = what, seconds + pause
        return f"{what} ({seconds:.0f} s after the start)"


def main() -> None:
    """Announce every event once, then exit."""
    parser = argparse.ArgumentParser(prog="python -m local.announce", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="data directory")
    parser.add_argument("--dashboard-port", type=int, required=True, help="port of the page")
    arguments = parser.parse_args()
    data = DataDir(arguments.data_dir)
    start_time, start_monotonic = time.time(), time.monotonic()
    announced: set[str] = set()
    progress = Progress()
    while len(announced) < EVENTS:
        for event in events(data, arguments.dashboard_port, start_time):
            if event not in announced:
                announced.add(event)
                seconds = time.monotonic() - start_monotonic
                print(f"{event} ({seconds:.0f} s after the start)", flush=True)
        if len(announced) < EVENTS and (
            line := progress.line(waiting_for(data, announced), time.monotonic() - start_monotonic)
        ):
            print(line, flush=True)
        time.sleep(CHECK_SECONDS)


if __name__ == "__main__":
    main()
