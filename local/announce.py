"""Print when the page is ready and when the first results exist, then exit.

`local/supervise.py` shows these lines in the terminal where `make` runs.
"""

import argparse
import time
from pathlib import Path

from pipeline import http_health
from pipeline.outputs import DataDir, stream_files

#: Seconds between two checks.
CHECK_SECONDS = 0.5
#: Number of events to announce: the page, the first final window, the first batch result.
EVENTS = 3


def page_answers(port: int) -> bool:
    """Return whether the page's server reports that it is healthy."""
    return http_health.problem(port, "/_stcore/health", seconds=2) is None


def written_since(paths: list[Path], moment: float) -> bool:
    """Return whether one of these files was written at or after a moment (Unix seconds)."""
    return any(path.exists() and path.stat().st_mtime >= moment for path in paths)


def events(data: DataDir, port: int, start: float) -> list[str]:
    """Return one line for each event that has happened since the start."""
    happened = {
        f"the page: http://127.0.0.1:{port}": page_answers(port),
        f"first new final window of the stream: {data.stream_csv}": written_since(
            stream_files(data), start
        ),
        f"first new batch result: {data.batch_windows}": written_since([data.batch_windows], start),
    }
    return [event for event, is_there in happened.items() if is_there]


def main() -> None:
    """Announce every event once, then exit."""
    parser = argparse.ArgumentParser(prog="python -m local.announce", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="data directory")
    parser.add_argument("--dashboard-port", type=int, required=True, help="port of the page")
    arguments = parser.parse_args()
    start = time.time()
    announced: set[str] = set()
    while len(announced) < EVENTS:
        for event in events(DataDir(arguments.data_dir), arguments.dashboard_port, start):
            if event not in announced:
                announced.add(event)
                print(f"{event} ({time.time() - start:.0f} s after the start)", flush=True)
        time.sleep(CHECK_SECONDS)


if __name__ == "__main__":
    main()
