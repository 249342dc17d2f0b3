"""Says when the page answers and when the first results are there, then ends.

`local/supervise.py` shows these lines where make was called.
"""

import argparse
import http.client
import time
from pathlib import Path

from pipeline.outputs import DataDir, stream_files

#: Seconds between two looks.
LOOK_SECONDS = 0.5
#: So many things are told, then it ends.
FINDINGS = 3


def page_answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/_stcore/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def written_since(paths: list[Path], moment: float) -> bool:
    """Whether one of these files was written at or after this moment (Unix seconds)."""
    return any(path.exists() and path.stat().st_mtime >= moment for path in paths)


def found(data: DataDir, port: int, start: float) -> list[str]:
    """What is there by now, each in words."""
    looked_for = {
        f"the page: http://127.0.0.1:{port}": page_answers(port),
        f"the stream's first new final window: {data.stream_csv}": written_since(
            stream_files(data), start
        ),
        f"the first new batch result: {data.batch_windows}": written_since(
            [data.batch_windows], start
        ),
    }
    return [what for what, is_there in looked_for.items() if is_there]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.announce", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--dashboard-port", type=int, required=True)
    arguments = parser.parse_args()
    start = time.time()
    told: set[str] = set()
    while len(told) < FINDINGS:
        for what in found(DataDir(arguments.data_dir), arguments.dashboard_port, start):
            if what not in told:
                told.add(what)
                print(f"{what} ({time.time() - start:.0f} s after the start)", flush=True)
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
