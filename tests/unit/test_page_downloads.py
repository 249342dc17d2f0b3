"""The report that the page makes when it is asked for."""

import io
import time
import zipfile
from datetime import UTC, datetime, timedelta

import pytest

from page import child, present
from page import downloads as taken
from page.child import ChildError
from page.downloads import Reports, windows_apart, windows_csv
from pipeline import outputs, times
from pipeline.outputs import DataDir
from tests import page_data


def test_windows_are_taken_along_letter_by_letter(tmp_path) -> None:
    """The lines of the files from the start on, and whether each is final."""
    data, noon = DataDir(tmp_path), datetime(2026, 3, 1, 0, 2, 30, tzinfo=UTC)
    page_data.live(data, noon)
    lines = [line for path in outputs.stream_files(data) for line in path.read_text().split()]
    header = lines[0]
    finals = [line for line in lines if line != header]
    opened = data.stream_live.read_text().split()[1:]
    data.stream_live.write_text("\n".join([header, finals[-1] + "9", *opened]))  # just closed
    with outputs.stream_files(data)[-1].open("ab") as file:
        file.write(b"garbage\xff,1,2\n")

    def taken_since(start: datetime) -> list[str]:
        return windows_csv(data, times.iso(start)).split()

    expected = [
        f"{header},state",
        *(f"{line},final" for line in finals[-4:]),
        *(f"{line},open" for line in opened),
    ]
    assert taken_since(noon - timedelta(minutes=5, seconds=30)) == expected
    assert expected[1].startswith("2026-02-28T23:57:00Z")
    apart = windows_apart(data, noon - timedelta(minutes=5, seconds=30))
    assert apart.decode().split() == expected
    assert len(taken_since(noon - timedelta(days=9))) == 1 + 180 + 2
    assert taken_since(noon + timedelta(days=9)) == [f"{header},state"]


def test_a_report_is_made_of_what_is_there_and_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    """The data folder is as it was: the page only reads."""
    data = DataDir(tmp_path)
    page_data.disputed(data, times.now())
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}
    made = Reports()
    html = made.html(timedelta(minutes=15)).decode()
    assert "UNEXPLAINED" not in html  # the windows that differ are older
    archive = zipfile.ZipFile(io.BytesIO(made.archive(timedelta(minutes=15))))
    figures = [name for name in archive.namelist() if name.endswith(".svg")]
    assert {*archive.namelist()} == {"report.html", "report.md", *figures}
    assert len(figures) >= 6
    for name in figures:
        assert archive.read(name).startswith(b"<?xml")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.csv")} == before
    assert not data.report.exists()
    assert "UNEXPLAINED: 2 windows differ" in made.html(None).decode()
    assert made.problem is None


def test_a_second_click_soon_after_costs_no_second_report(monkeypatch) -> None:
    """Counted from when it was ready, however long it took."""
    clock, calls = [0.0], []

    def run(*asked: str, patience_s: float) -> bytes:
        calls.append(asked)
        clock[0] += 2 * taken.KEPT_SECONDS
        return b"zip"

    monkeypatch.setattr(child, "run", run)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    made = Reports()
    assert (made.archive(None), made.archive(None)) == (b"zip", b"zip")
    assert len(calls) == 1
    made.archive(timedelta(hours=1))
    assert calls[1] == ("report.__main__", "--zip", "--minutes", "60")
    clock[0] += taken.KEPT_SECONDS
    made.archive(timedelta(hours=1))
    assert len(calls) == 3


def test_a_report_that_cannot_be_made_says_why(monkeypatch, tmp_path) -> None:
    """Streamlit tells the reader only that it failed: the sentence stands beside the button."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    (tmp_path / "stream_live.csv").write_text("a,b\n1,2\n")
    made = Reports()
    with pytest.raises(ChildError):
        made.html(None)
    said = present.failure_said(made.problem, times.now())
    assert said.startswith("No report 0")
    assert "no report can be made" in said
    assert "has no column window_start" in said
    assert present.failure_said(None, times.now()) == ""
    assert present.failure_said(made.problem, times.now() + timedelta(minutes=6)) == ""
