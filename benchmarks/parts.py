"""Run the parts of a benchmark one after the other. A part that fails does not stop the others."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine, record
from benchmarks.processes import ENDING, Bench, Open
from benchmarks.record import Part, Record
from benchmarks.results import Result, table
from local import prerequisites
from pipeline.spark import ROOT

#: Measures one part: it yields each result as soon as it is measured.
Measure = Callable[[Open], Iterator[Result]]
#: Directory of the results. The measurements create temporary directories here.
FOLDER = ROOT / "data" / "bench"


@dataclass
class Session:
    """One run of a benchmark program.

    Attributes:
        folder: the directory of the temporary files.
        cores: which cores are used.
        failures: the reason of each failed step, by the name of the part.
    """

    folder: Path
    cores: str
    failures: dict[str, str] = field(default_factory=dict)
    _step: str = "the start"

    def open(self, place: str) -> Bench:
        """Return a new measurement with a directory of its own."""
        return Bench(self.folder / place, self.log)

    def log(self, what: str) -> None:
        """Print a line about the progress: the step that begins now."""
        self._step = what
        log(what)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Keep an error from ending the program: record it with the step at which it occurred."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the other parts continue
            self.failures[name] = f'at "{self._step}": {type(error).__name__}: {error}'
            log(f"{name} FAILED {self.failures[name]}")

    def about(self, **more: object) -> dict[str, str]:
        """Return what the results depend on: the machine, the versions, and what is passed."""
        texts = {name.replace("_", " "): str(value) for name, value in more.items()}
        return machine.describe() | {"cores used": self.cores} | texts


@contextmanager
def session(*, keep: bool) -> Iterator[Session]:
    """Prepare the process for measurements, and a directory that is removed unless `keep`."""
    for signum in ENDING:
        signal.signal(signum, _stop)
    cores = machine.pin()
    if os.getloadavg()[0] > machine.QUIET_LOAD:
        log(f"the machine is busy (load {os.getloadavg()[0]:.1f}): the numbers are not reliable")
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=FOLDER))
    try:
        yield Session(folder, cores)
    finally:
        if keep:
            log(f"the temporary files are in {folder}")
        else:
            # A Ctrl-C takes effect after all files are removed.
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
            shutil.rmtree(folder, ignore_errors=True)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def run(
    session_: Session,
    parts: Mapping[str, Measure],
    names: Iterable[str],
    about: Mapping[str, str],
    file: Path,
) -> Record:
    """Measure parts, and write all results to a JSON file and a Markdown file after each of them.

    Args:
        session_: the run.
        parts: every part by name.
        names: the parts to measure. The file keeps the results of the others.
        about: what the results depend on.
        file: the JSON file. The Markdown file is beside it.
    """
    older = record.read(file)
    new = everything = Record(dict(about))
    for name in names:
        part = new.parts[name] = Part(datetime.now(UTC).isoformat(timespec="seconds"))
        began = time.monotonic()
        with session_.part(name):
            for result in parts[name](session_.open):
                part.results.append(result)
                log(table([result]).splitlines()[-1])
        part.failure = session_.failures.get(name)
        part.seconds = time.monotonic() - began
        everything = new.merged(older, parts)
        record.write(file, everything)
    return everything


def check(parser: argparse.ArgumentParser, *jars: str) -> None:
    """End the program if Java or a folder of jars is missing."""
    missing = prerequisites.java_problem()
    if missing is None:
        for name in jars:
            if not any((ROOT / "jars" / name / "lib").glob("*.jar")):
                missing = f"the jars in jars/{name} are missing: run `make jars/{name}/lib/.made`"
    if missing:
        parser.error(missing)


def finish(session_: Session, text: str, file: Path) -> None:
    """Print the results and exit: with status 1 if a part failed."""
    print(text)
    log(f"the same as JSON and as Markdown: {file} and {file.with_suffix('.md')}")
    sys.exit(1 if session_.failures else 0)


def run_program(main: Callable[[], None]) -> None:
    """Run a benchmark program. Ctrl-C and SIGTERM end it with status 130."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)


def log(what: str) -> None:
    """Print a line about the progress."""
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


def _stop(_signum: int, _frame: object) -> None:
    for signum in ENDING:
        signal.signal(signum, signal.SIG_IGN)  # one signal is enough: the processes are being ended
    log("stopping")
    raise KeyboardInterrupt
