"""Processes that the page starts."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from page import child
from page.child import ChildError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(tmp_path: Path, monkeypatch) -> Path:
    """A module `work` of the test's own."""
    monkeypatch.setattr(child, "_ROOT", tmp_path)
    return tmp_path / "work.py"


def test_what_it_writes_is_given_back(module) -> None:
    module.write_text("import sys\ndef main(): print(*sys.argv[1:])")
    assert child.run("work", "a", "b", patience_s=30) == b"a b\n"


def test_how_it_failed_is_said_in_a_sentence(module) -> None:
    module.write_text("def main(): raise SystemExit('the disk is full')")
    with pytest.raises(ChildError, match="ended with status 1, the disk is full"):
        child.run("work", patience_s=30)
    module.write_text("import time\ndef main(): time.sleep(60)")
    with pytest.raises(ChildError, match=r"took longer than 0\.5 s"):
        child.run("work", patience_s=0.5)


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_it_ends_with_the_one_who_started_it(module, how) -> None:
    """Also when that one is killed and can do nothing more."""
    said = module.with_suffix(".pid")
    module.write_text(
        f"import os, pathlib, time\n"
        f"def main(): pathlib.Path({str(said)!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    start = (
        f"from page import child; child._ROOT = {str(said.parent)!r};"
        " child.run('work', patience_s=60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", start], cwd=ROOT)
    end = time.monotonic() + 20
    while not (said.exists() and said.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    started = psutil.Process(int(said.read_text()))
    getattr(parent, how)()
    parent.wait(10)
    _, alive = psutil.wait_procs([started], timeout=10)
    assert not alive
