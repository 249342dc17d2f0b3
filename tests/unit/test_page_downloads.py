"""The downloads of the page: windows and report."""

import io
import time
import zipfile
from datetime import UTC, datetime, timedelta

import pytest

from page import downloads, worker_process
from page.downloads import Reports, windows_csv, windows_in_own_process
from page.worker_process import WorkerError
from pipeline import outputs, times
from pipeline.data_dir import DataDir
from tests import page_data


def test_the_download_has_the_lines_of_the_files_and_the_state_of_each_window(tmp_path) -> None:
    data, noon = DataDir(tmp_path), datetime(2026, 3, 1, 0, 2, 30, tzinfo=UTC)
    page_data.live(data, noon)
    lines = [line for path in outputs.stream_files(data) for line in path.read_text().split()]
    header = lines[0]
    finals = [line for line in lines if line != header]
    opened = data.stream_live.read_text().split()[1:]
    data.stream_live.write_text("\n".join([header, finals[-1] + "9", *opened]))  # just closed
    with outputs.stream_files(data)[-1].open("ab") as file:
        file.write(b"garbage\xff,1,2\n2026-03-01T00:05:00Z,2026-03-01T0")  # cut off

    def lines_since(start: datetime) -> list[str]:
        return windows_csv(data, times.iso(start)).split()

    expected = [
        f"{header},state",
        *(f"{line},final" for line in finals[-4:]),
        *(f"{line},open" for line in opened),
    ]
    assert lines_since(noon - timedelta(minutes=5, seconds=30)) == expected
    assert expected[1].startswith("2026-02-28T23:57:00Z")
    from_child = windows_in_own_process(data, noon - timedelta(minutes=5, seconds=30))
    assert from_child.decode().split() == expected
    assert len(lines_since(noon - timedelta(days=9))) == 1 + 180 + 2
    assert lines_since(noon + timedelta(days=9)) == [f"{header},state"]


def test_a_report_changes_no_file(tmp_path, monkeypatch) -> None:
    data = DataDir(tmp_path)
    page_data.disputed(data, times.now())
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.csv")}
    made = Reports()
    html = made.html(timedelta(minutes=15)).decode()
    assert "windows differ, cause unknown" not in html  # the windows that differ are older
    archive = zipfile.ZipFile(io.BytesIO(made.archive(timedelta(minutes=15))))
    figures = [name for name in archive.namelist() if name.endswith(".svg")]
    assert {*archive.namelist()} == {"report.html", "report.md", *figures}
    assert len(figures) >= 6
    for name in figures:
        assert archive.read(name).startswith(b"<?xml")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.csv")} == before
    assert not data.report.exists()
    assert "2 windows differ, cause unknown" in made.html(None).decode()
    assert made.problem is None


def test_a_second_click_within_15_seconds_uses_the_same_report(monkeypatch) -> None:
    """The time counts from when the report was ready."""
    clock, calls = [0.0], []

    def run(*asked: str, timeout_s: float) -> bytes:
        calls.append(asked)
        clock[0] += 2 * downloads.KEPT_SECONDS
        return b"zip"

    monkeypatch.setattr(worker_process, "run", run)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    made = Reports()
    assert (made.archive(None), made.archive(None)) == (b"zip", b"zip")
    assert len(calls) == 1
    made.archive(timedelta(hours=1))
    assert calls[1] == ("report.__main__", "--zip", "--minutes", "60")
    clock[0] += downloads.KEPT_SECONDS
    made.archive(timedelta(hours=1))
    assert len(calls) == 3


def test_a_failed_report_shows_its_cause_for_five_minutes(monkeypatch, tmp_path) -> None:
    """Streamlit itself shows only that the download failed."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    (tmp_path / "stream_live.csv").write_text("a,b\n1,2\n")
    made = Reports()
    with pytest.raises(WorkerError):
        made.html(None)
    said = downloads.failure(made.problem, times.now())
    assert said.startswith("Report failed 0")
    assert "Move it away" in said
    assert "s ago: stream_live.csv has no column window_start" in said
    assert downloads.failure(None, times.now()) == ""
    assert downloads.failure(made.problem, times.now() + timedelta(minutes=6)) == ""
