"""The report that the page makes when it is asked for."""

import io
import sys
import zipfile
from datetime import timedelta

import pytest

from page import taken
from page.taken import Reports
from pipeline import outputs
from pipeline.outputs import DataDir
from tests import page_data


def test_a_report_is_made_of_what_is_there_and_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    """The data folder is as it was: the page only reads."""
    data = DataDir(tmp_path)
    page_data.disputed(data, outputs.now())
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}
    made = Reports()
    html = made.html(timedelta(minutes=15)).decode()
    assert "UNEXPLAINED" not in html  # the windows that differ are older
    archive = zipfile.ZipFile(io.BytesIO(made.figures(timedelta(minutes=15))))
    assert len(archive.namelist()) >= 6
    for name in archive.namelist():
        assert archive.read(name).startswith(b"<?xml")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.csv")} == before
    assert not data.report.exists()
    assert "UNEXPLAINED: 2 windows differ" in made.html(None).decode()


def test_a_second_click_soon_after_costs_no_second_report(monkeypatch) -> None:
    calls: list[object] = []

    def make(*asked: object) -> tuple[bytes, bytes]:
        calls.append(asked)
        return b"text", b"zip"

    monkeypatch.setattr(taken, "_make", make)
    made = Reports()
    assert (made.html(None), made.figures(None)) == (b"text", b"zip")
    assert len(calls) == 1
    made.html(timedelta(hours=1))
    assert len(calls) == 2
    monkeypatch.setattr(taken, "KEPT_SECONDS", 0.0)
    made.html(timedelta(hours=1))
    assert len(calls) == 3


def test_a_report_that_cannot_be_made_says_why(monkeypatch) -> None:
    failing = [sys.executable, "-c", "raise SystemExit('the database is locked')"]
    monkeypatch.setattr(taken, "command", lambda *_: failing)
    with pytest.raises(OSError, match="no report: the database is locked"):
        Reports().html(None)
