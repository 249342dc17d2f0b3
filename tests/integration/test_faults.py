"""The quick part of the fault lab: some faults on the real stack, every result compared."""

import json
import signal
import subprocess
import sys

import pytest

from faults import results, verdict
from faults.catalogue import QUICK
from tests.conftest import ROOT, require_jars


@pytest.mark.timeout(600)  # a minute on a quiet machine
def test_the_quick_faults_lose_double_and_falsify_nothing() -> None:
    require_jars("kafka")
    require_jars("spark")
    command = [sys.executable, "-m", "faults", "--quick"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as lab:
        try:
            printed, _ = lab.communicate(timeout=570)
        except BaseException:
            lab.send_signal(signal.SIGINT)  # the lab ends its stack
            raise
    assert lab.returncode == 0, printed
    rows = json.loads((results.FOLDER / "latest.json").read_text())["rows"]
    assert {row["fault"] for row in rows} == {*QUICK, verdict.NO_FAULT}
    assert {row["verdict"] for row in rows} == {verdict.OK}, printed
