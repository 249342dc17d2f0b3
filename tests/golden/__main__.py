"""Compare the output files of a run with its recording: `python -m tests.golden`."""

import argparse
import signal
import sys
from pathlib import Path

from feed import recording
from tests.golden import run
from tests.golden.run_settings import RefusedError, UnknownSettingsError


def main(arguments: list[str] | None = None) -> None:
    """Print the differences. Exit with 0 if there are none, 1 if there are, 2 if it is refused."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden",
        description="Compare the output files in a data directory with a recording.",
    )
    parser.add_argument("recording", type=Path, help="recording that was replayed")
    parser.add_argument("data_dir", type=Path, help="data directory that it was replayed into")
    options = parser.parse_args(arguments)
    try:
        checked = run.verify(options.recording, options.data_dir)
    except (recording.RecordingError, RefusedError) as error:
        advice = ""
        if isinstance(error, UnknownSettingsError):
            advice = " Run the replay again in an empty data directory."
            advice += f" DATA_DIR={options.data_dir}"
        sys.stderr.write(f"{error}{advice}\n")
        sys.exit(2)
    for problem in checked.problems:
        print(problem)
    if checked.problems:
        print("Stop the stack before the check: a result that is written meanwhile can differ.")
    print(
        f"Compared: {checked.trades:,} trades, {checked.final_windows:,} final windows, and a "
        f"batch run over {checked.trades_of_batch:,} trades."
    )
    if checked.without_quotes:
        print(
            f"Stored trades without bid and ask: {checked.without_quotes:,} (recovered trades "
            "have none)."
        )
    count = len(checked.problems)
    verdict = f"{count} lines of differences" if count else "no differences"
    print(f"{options.recording.name} and {options.data_dir}: {verdict}")
    sys.exit(1 if count else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    main()
