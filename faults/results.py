"""The files of a run, its machine and its options: shared by `faults` and `faults.soak`."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from benchmarks import machine
from benchmarks.parts import log
from faults import verdict
from faults.stack import ROOT
from faults.verdict import Row
from feed import recording as recordings
from feed.recording import RecordingError
from feed.sample import SAMPLE
from local import prerequisites

#: Directory of the results. The stacks run in temporary directories here.
FOLDER = ROOT / "data" / "faults"
#: Problems of one row that the Markdown file lists. The JSON file has all of them.
SHOWN = 10


class Results:
    """The results of one run. Its directories stay if a row failed or the run was interrupted.

    Args:
        name: the name of the two files in FOLDER with the newest results. Two files with the name
            of this run's directory have the same content.
        recording: what is replayed.
        speed: multiple of the recorded speed.
        seed: of all random choices.
        keep: whether the directories are kept in any case.
    """

    def __init__(
        self, name: str, recording: Path, speed: float, seed: int, *, keep: bool = False
    ) -> None:
        self._name = name
        self._title = f"{'Soak' if name == 'soak' else 'Faults'}, seed {seed}"
        self._keep = keep
        self._succeeded = False
        self._began = datetime.now(UTC)
        FOLDER.mkdir(parents=True, exist_ok=True)
        prefix = f"{self._began:%Y%m%dT%H%M%S}-"
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=FOLDER))
        self._described = machine.describe() | {
            "recording": _described(recording),
            "speed": f"{speed:g} times the recorded speed",
            "seed": str(seed),
        }

    def new_folder(self, name: str) -> Path:
        """Create the directory of a stack."""
        folder = self.folder / name
        folder.mkdir()
        return folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._succeeded and not self._keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            log(f"the directories of the stacks: {self.folder}")

    def write(
        self,
        rows: Sequence[Row],
        more: Sequence[str] = (),
        further: Mapping[str, object] | None = None,
    ) -> int:
        """Print the results, write them as Markdown and JSON, and return the exit status."""
        status = verdict.exit_status(rows)
        self._succeeded = status == 0
        text = self._text(rows, more)
        content = {
            "began": self._began.isoformat(timespec="seconds"),
            "machine": self._described,
            "rows": verdict.as_json(rows),
            **(further or {}),
        }
        values = json.dumps(content, indent=1)
        for name in (self._name, self.folder.name):
            (FOLDER / f"{name}.md").write_text(text + "\n", encoding="utf-8")
            (FOLDER / f"{name}.json").write_text(values + "\n", encoding="utf-8")
        print(text)
        log(f"the results as files: {FOLDER / self.folder.name}.md and .json")
        return status

    def _text(self, rows: Sequence[Row], more: Sequence[str]) -> str:
        took = (datetime.now(UTC) - self._began).total_seconds() / 60
        problems = [
            f"- {row.fault}: {problem}"
            for row in rows
            if row.verdict == verdict.FAILED
            for problem in row.problems[:SHOWN]
        ]
        lines = [
            f"## {self._title}, {self._began:%Y-%m-%d %H:%M} UTC",
            "",
            f"- duration: {took:.0f} minutes",
            *(f"- {name}: {value}" for name, value in self._described.items()),
            "",
            verdict.table(rows),
            "",
            verdict.summary(rows),
            *(["", *problems] if problems else []),
            *more,
        ]
        return "\n".join(lines)


def _described(path: Path) -> str:
    """Return the size and fingerprint of a recording, but not its name, which can be private."""
    messages = sum(1 for _ in recordings.read(path))
    fingerprint = recordings.identity(path, None)["fingerprint"]
    return f"{messages:,} messages, SHA-256 begins with {fingerprint}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both programs have."""
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices (1)")
    parser.add_argument(
        "--recording", type=Path, default=SAMPLE, help="recording to replay (the sample)"
    )


def run(main: Callable[[], None]) -> None:
    """Run a program of the lab. An error of the user is printed as one sentence."""
    if problem := prerequisites.java_problem():
        sys.exit(problem)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except RecordingError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
