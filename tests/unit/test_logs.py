"""Output never fails: not on a terminal without the characters, and not on a full disk."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = """
import logging
from pipeline import logs
from pipeline.outputs import WINDOW_COLUMNS
from pipeline.stream.console import Console
logs.log_to_stdout("INFO")
logging.getLogger("stream").info("caf\\u00e9 \\u2192")
Console().print("FINAL", [dict.fromkeys(WINDOW_COLUMNS, "\\u2192")])
logs.show("\\U0001f642")
Path = __import__("pathlib").Path
Path("reached").touch()
"""


def run(
    folder: Path, encoding: str, output: int | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE if output is None else output,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_the_characters_fails_no_micro_batch(
    tmp_path: Path, encoding: str
) -> None:
    shown, terminal = os.openpty()
    done = run(tmp_path, encoding, terminal)
    os.close(terminal)
    text = os.read(shown, 100_000)
    os.close(shown)
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.search(rb"FINAL +\\u2192", text)
    assert (tmp_path / "reached").exists()


def test_a_file_gets_the_characters_in_utf_8(tmp_path: Path) -> None:
    assert "café →" in run(tmp_path, "ascii").stdout.decode()


JAVA_ENDS = """
from types import SimpleNamespace
from py4j.java_gateway import GatewayClient
from py4j.protocol import Py4JNetworkError
from pipeline import logs

class Ended(GatewayClient):
    def _get_connection(self):
        return SimpleNamespace(send_command=self._fail, close=lambda reset: None)

    def _fail(self, command):
        raise Py4JNetworkError("Answer from Java side is empty")

logs.log_to_stdout("DEBUG")
print("answer:", Ended().send_command("c"), flush=True)
"""


def test_py4j_logs_no_traceback_when_java_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", JAVA_ENDS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("answer: x\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full of Linux")
def test_lines_that_cannot_be_written_are_lost_without_a_traceback(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(tmp_path, "utf-8", full.fileno())
    assert (tmp_path / "reached").exists()
    assert b"Traceback" not in done.stderr
