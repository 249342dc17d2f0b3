"""Child processes that the page starts."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from page import worker_process
from page.worker_process import WorkerError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(tmp_path: Path, monkeypatch) -> Path:
    """The path of a module `work`, to be written by the test."""
    monkeypatch.setattr(worker_process, "_ROOT", tmp_path)
    return tmp_path / "work.py"


def test_returns_the_standard_output_of_the_module(module) -> None:
    module.write_text("import sys\ndef main(): print(*sys.argv[1:])")
    assert worker_process.run("work", "a", "b", timeout_s=30) == b"a b\n"


def test_a_failure_has_the_last_line_of_the_errors_or_how_the_process_ended(module) -> None:
    module.write_text("def main(): raise SystemExit('the disk is full')")
    with pytest.raises(WorkerError, match=r"^the disk is full$"):
        worker_process.run("work", timeout_s=30)
    module.write_text("import os\ndef main(): os._exit(7)")
    with pytest.raises(WorkerError, match=r"^the process ended with status 7 .* Check the free"):
        worker_process.run("work", timeout_s=30)
    module.write_text("import time\ndef main(): time.sleep(60)")
    with pytest.raises(WorkerError, match=r"^the process took longer than 0\.5 s .* Free CPU"):
        worker_process.run("work", timeout_s=0.5)


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_the_child_ends_when_its_parent_ends(module, how) -> None:
    """Also when the parent is killed."""
    pid_file = module.with_suffix(".pid")
    module.write_text(
        f"import os, pathlib, time\n"
        f"def main(): pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    start = (
        f"from page import worker_process; worker_process._ROOT = {str(pid_file.parent)!r};"
        " worker_process.run('work', timeout_s=60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", start], cwd=ROOT)
    end = time.monotonic() + 20
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    started = psutil.Process(int(pid_file.read_text()))
    getattr(parent, how)()
    parent.wait(10)
    _, alive = psutil.wait_procs([started], timeout=10)
    assert not alive
