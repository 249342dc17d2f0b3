"""The report: for folders of every size, reproducible, and safe for any content."""

import base64
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from pipeline import outputs, text_files, times
from pipeline.compare.freshness import RESULTS
from pipeline.data_dir import DataDir
from pipeline.durations import parse_duration
from pipeline.outputs import BATCH_COLUMNS, WINDOW_COLUMNS, write_final_windows
from pipeline.settings import Settings
from pipeline.stores.sqlite import SqliteStore
from pipeline.text_files import to_csv
from report import __main__ as making
from report import figures
from tests import page_data

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
SECTIONS = (
    "Which path and interval",
    "Overview",
    "Agreement",
    "Freshness",
    "Latency",
    "Detection",
    "Watermark",
    "Completeness",
    "Cost",
    "Batch run time",
    "Micro-batch duration",
    "Metrics",
    "Environment",
    "Reproduction",
)


def window(minute: int, length: int = 1) -> dict[str, str]:
    start = NOON + timedelta(minutes=minute * length)
    known: dict[str, object] = {
        "window_start": start,
        "window_end": start + timedelta(minutes=length),
        "price_range": 10 + minute % 7,
        "volatility_flag": "Normal",
        "total_volume": 1.5,
        "trade_count": 5,
        "market_sentiment": "Bullish",
        "volume_spike": "Normal",
        "buy_count": 3,
        "sell_count": 2,
        "volume_imbalance": 0.25,
        "last_trade_time": start + timedelta(seconds=59),
        "written_at": start + timedelta(seconds=121),
        "range_z": (minute % 7 - 3) if minute >= 10 else None,
        "volume_z": (minute % 5 - 2) if minute >= 10 else None,
    }
    return text_files.cells(WINDOW_COLUMNS, known)


def filled(folder: Path, minutes: int, every: int = 10) -> DataDir:
    """Fill a folder with `minutes` windows and a batch run every `every` minutes."""
    data = DataDir(folder)
    windows = [window(minute) for minute in range(minutes)]
    write_final_windows(data, windows)
    data.batch_output.mkdir()
    log = []
    for minute in range(max(1, minutes % every), minutes + 1, every):
        began = NOON + timedelta(minutes=minute, seconds=5)
        run = {
            "rows": 5 * minute,
            "run": outputs.run_id(began),
            "last_trade_time": NOON + timedelta(minutes=minute - 1, seconds=59),
            "snapshot_at": began,
            "written_at": began + timedelta(seconds=8),
            "first_trade_id": 1,
            "last_trade_id": 5 * minute,
        }
        path = data.batch_output / f"{run['run']}.csv"
        path.write_text(to_csv(BATCH_COLUMNS, [run]))
        log.append(
            f"started={times.iso(began)} run={run['run']} status=ok exit=0 rows={run['rows']} "
            f"windows={minute} wall_s={6 + minute / 5000:.2f} start_s=3.00 logic_s=2.00 "
            f"cpu_s=9.00 peak_mib=400\n"
        )
    data.batch_log.write_text("".join(log))
    write_batch_windows(data, windows)
    return data


def write_batch_windows(data: DataDir, windows: list[dict[str, str]]) -> None:
    """Write the windows of the newest run, later than all runs, so that all of them count."""
    now = times.iso(times.now())
    rows = [{**row, "written_at": now} for row in windows]
    data.batch_windows.write_text(to_csv(WINDOW_COLUMNS, rows))


def made(data: DataDir) -> tuple[str, str]:
    making.write(making.make(data, SqliteStore(data.database), 600, None), data.report)
    html, markdown = ((data.report / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert re.findall(r"<h2>(.*)</h2>", html) == list(SECTIONS)
    assert re.findall(r"^## (.*)$", markdown, re.MULTILINE) == list(SECTIONS)
    return html, markdown


def test_the_report_of_an_empty_folder_names_what_is_missing(tmp_path: Path) -> None:
    html, markdown = made(DataDir(tmp_path))
    assert "Nothing to compare yet" in html
    assert "Nothing to compare yet" in markdown
    assert "<img" not in html
    assert "nan" not in html.lower().replace("nancy", "")


def test_a_data_directory_that_does_not_exist_is_refused_and_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "typo"))
    monkeypatch.setattr(sys, "argv", ["report"])
    with pytest.raises(SystemExit) as ended:
        making.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"DATA_DIR={tmp_path / 'typo'} does not exist. ")
    assert list(tmp_path.iterdir()) == []


def test_the_report_of_one_window_makes_no_forecast(tmp_path: Path) -> None:
    html, _ = made(filled(tmp_path, 1))
    assert "identical results for the 1 window compared" in html
    assert "No forecast" in html


def test_the_report_of_a_week_takes_seconds_and_has_a_bounded_size(tmp_path: Path) -> None:
    data = filled(tmp_path, 7 * 1440)
    began = time.monotonic()
    html, markdown = made(data)
    assert time.monotonic() - began < 20
    assert f"identical results for all {7 * 1440:,} windows compared" in html
    drawn = {path.stem for path in (data.report / "figures").glob("*.svg")}
    assert {"agreement", "freshness", "growth", "metrics"} <= drawn
    assert set(re.findall(r"figures/(\w+)\.svg", markdown)) == drawn
    assert len(html) < 3_000_000


def test_two_reports_of_the_same_data_differ_only_in_their_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = filled(tmp_path, 90)
    first = made(data)
    svgs = {path.name: path.read_bytes() for path in (data.report / "figures").iterdir()}
    real = times.now()
    monkeypatch.setattr(times, "now", lambda: real + timedelta(days=3))
    second = made(data)
    for before, after in zip(first, second, strict=True):
        lines = zip(before.splitlines(), after.splitlines(), strict=True)
        differing = [old for old, new in lines if old != new]
        assert len(differing) == 1
        assert "Made" in differing[0]
    assert {path.name: path.read_bytes() for path in (data.report / "figures").iterdir()} == svgs


@pytest.fixture(scope="module")
def all_figures(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return both formats of a report with every figure, on paths that differ."""
    data = DataDir(tmp_path_factory.mktemp("disputed"))
    page_data.disputed(data, times.now())
    return made(data)


def test_the_html_file_refers_to_no_other_file(all_figures: tuple[str, str]) -> None:
    html, _ = all_figures
    assert re.findall(r'(?:src|href)="(?!data:)', html) == []
    drawn = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert len(drawn) == len(figures.DRAWINGS)
    for figure in drawn:
        assert base64.b64decode(figure).startswith(b"<?xml")


def test_every_table_scrolls_in_its_own_box_and_by_keyboard(all_figures: tuple[str, str]) -> None:
    html, _ = all_figures
    boxes = re.findall(
        r'<div class="wide" role="region" aria-label="[^"]+" tabindex="0"><table>', html
    )
    assert len(boxes) == html.count("<table>") > 5
    assert re.search(r"\.wide {[^}]*overflow-x: auto", html)


def test_markup_in_the_data_is_shown_as_text_in_both_formats(tmp_path: Path) -> None:
    data = filled(tmp_path, 3)
    data.source.write_text(
        '{"kind": "replay", "recording": "<script>alert(1)</script>|`x`", "retimed": true}'
    )
    html, markdown = made(data)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "<script>" not in re.sub(r"`[^`\n]*`", "", markdown)


def test_a_figure_without_data_any_more_is_removed(tmp_path: Path) -> None:
    data = filled(tmp_path, 30)
    made(data)
    assert (data.report / "figures" / "freshness.svg").exists()
    data.source.write_text('{"kind": "replay", "recording": "x", "retimed": false}')
    html, _ = made(data)
    assert not (data.report / "figures" / "freshness.svg").exists()
    assert "keeps the original timestamps" in html


def test_a_folder_with_foreign_files_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "batch_windows.csv").write_text("foreign,file\n1,2\n")
    done = subprocess.run(
        [sys.executable, "-m", "report"],
        cwd=ROOT,
        env={"DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "batch_windows.csv has no column window_start" in done.stderr


@pytest.mark.parametrize("length", [5, 7, 25, 300, 2000])
def test_windows_of_any_length_are_drawn(tmp_path: Path, length: int) -> None:
    data = DataDir(tmp_path)
    windows = [window(number, length) for number in range(90)]
    write_final_windows(data, windows)
    data.batch_windows.write_text(to_csv(WINDOW_COLUMNS, windows))
    _, markdown = made(data)
    assert "figures/agreement.svg" in markdown


def test_a_window_of_years_ago_does_not_make_the_report_slow(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    write_final_windows(data, [window(-1440 * 3000), *(window(number) for number in range(60))])
    began = time.monotonic()
    made(data)
    assert time.monotonic() - began < 20


def test_an_unexplained_window_is_listed_first(tmp_path: Path) -> None:
    data = filled(tmp_path, 100)
    rows = [window(minute) for minute in range(100)]
    rows[37]["close_price"] = "7"
    write_batch_windows(data, rows)
    html, _ = made(data)
    assert "1 window differs, cause unknown." in html
    cells = re.findall(r"<td>2025-06-01 (\S+)</td>\s*<td>≠ (\w+)</td>\s*<td>([^<]+)</td>", html)
    assert cells[0] == ("12:37:00", "differs", "cause unknown")


def test_the_report_works_before_the_producer_has_reached_its_feed(tmp_path: Path) -> None:
    data = filled(tmp_path, 3)
    data.source.write_text('{"kind": "replay", "recording": "a b.gz", "retimed": false}')
    outputs.write_status(data, "producer", {"feed": None})
    html, _ = made(data)
    assert "RECORDING=&#39;a b.gz&#39;" in html
    assert "Set RECORDING to the path of the file." in html


def test_the_command_that_runs_it_again_works_when_pasted(tmp_path: Path) -> None:
    """It names the path of the recording, and settings in the form that their variables accept."""
    data = filled(tmp_path, 3)
    data.source.write_text('{"kind": "replay", "recording": "a b.gz", "retimed": true}')
    outputs.write_status(data, "producer", {"feed": {"path": "data/my files/a b.gz"}})
    used = Settings(window=timedelta(minutes=2), batch_interval_seconds=60)
    outputs.write_status(data, "batch_scheduler", {"settings": used.model_dump(mode="json")})
    _, markdown = made(data)
    [command] = re.findall(r"`([A-Z]\S*=.*make demo [^`]*)`", markdown)
    words = shlex.split(command)
    assert words == [
        "WINDOW=2 minutes",
        "BATCH_INTERVAL_SECONDS=60",
        "make",
        "demo",
        "RECORDING=data/my files/a b.gz",
        "DATA_DIR=data-again",
    ]
    given = dict(word.split("=", 1) for word in words[:2])
    assert parse_duration(given["WINDOW"]) == used.window
    assert "PT2M" not in markdown
    assert "Set RECORDING" not in markdown


def test_an_empty_folder_has_nothing_to_report_yet(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["report"])
    with pytest.raises(SystemExit) as ended:
        making.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("Nothing to report yet: DATA_DIR has no window")
    assert list(tmp_path.iterdir()) == []


def test_every_figure_is_drawn_and_belongs_to_a_section(all_figures: tuple[str, str]) -> None:
    _, markdown = all_figures
    assert set(re.findall(r"figures/(\w+)\.svg", markdown)) == set(figures.DRAWINGS)
    numbers = re.findall(r"^Figure (\d+)\. \w.*\.$", markdown, re.MULTILINE)
    assert numbers == [str(number + 1) for number in range(len(figures.DRAWINGS))]


def test_the_ages_of_each_result_have_their_own_dashes() -> None:
    at = pd.to_datetime([NOON, NOON + timedelta(minutes=1)], utc=True)
    ages = pd.concat(
        pd.DataFrame({"result": result, "at": at, "drawn": [1.0, 60.0]}) for result in RESULTS
    )
    figure = figures.freshness(ages)
    assert figure is not None
    drawn = re.findall(r"stroke-dasharray: ([\d.,]+); stroke-dashoffset", figures.svg(figure))
    assert len(set(drawn)) == len(RESULTS) - 1  # one line is solid
