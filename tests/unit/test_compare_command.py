"""The command `python -m pipeline.compare`."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from pipeline.compare import inputs
from pipeline.compare.__main__ import main
from pipeline.compare.arguments import minutes
from pipeline.compare.comparison import missing_ids
from pipeline.data_dir import DataDir
from pipeline.outputs import BATCH_COLUMNS, WINDOW_COLUMNS, write_final_windows
from pipeline.stores.sqlite import SqliteStore
from pipeline.text_files import to_csv
from tests.unit.test_compare_agreement import frame, gaps, seconds, window

ROOT = Path(__file__).resolve().parents[2]


def test_missing_ids_of_a_gap_across_two_windows_count_once() -> None:
    """A gap over the turn of a minute belongs to both windows; one that was filled to none."""
    shown = frame(window(1), window(2))
    open_gaps = gaps((10, 19, False, 50, 70), (30, 34, True, 80, 90), (5, 8, False, 10, 20))
    assert missing_ids(open_gaps, shown) == 10
    assert missing_ids(open_gaps, frame(window(0))) == 14
    assert missing_ids(open_gaps, frame()) == 0
    ends_in_the_first_second = gaps((10, 19, False, 59, 60.5))
    assert missing_ids(ends_in_the_first_second, shown) == 10


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Give the command as a function in this process. A process of its own takes a second more."""

    def run(folder: Path, *arguments: str) -> Done:
        monkeypatch.setenv("DATA_DIR", str(folder))
        monkeypatch.setattr(sys, "argv", ["pipeline.compare", *arguments])
        on_broken_pipe = signal.getsignal(signal.SIGPIPE)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGPIPE, on_broken_pipe)
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    return run


def as_process(folder: Path, *arguments: str) -> Done:
    """Run the command as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.compare", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_with_nothing_to_compare_the_exit_status_is_2_and_the_output_names_the_cause(
    command: Command, tmp_path: Path
) -> None:
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith("Nothing to compare yet: waiting for")
    assert done.stdout.count("\n") <= 2  # one wrapped sentence and no empty sections
    done = command(tmp_path, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["agreement"], found["span"]) == (2, [], None)
    (tmp_path / "batch_windows.csv").write_text("foreign,file\n1,2\n")
    done = command(tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "batch_windows.csv has no column window_start" in done.stderr


def test_a_data_directory_that_does_not_exist_is_refused(command: Command, tmp_path: Path) -> None:
    done = command(tmp_path / "typo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"DATA_DIR={tmp_path / 'typo'} does not exist. ")


def both_paths(folder: Path, batch_count: str) -> None:
    """A data directory with a final window and a run that counted so many trades in it."""
    data = DataDir(folder)
    final = window(0, last_trade_time="2025-06-01T12:00:59Z", written_at="2025-06-01T12:02:01Z")
    write_final_windows(data, [final])
    in_batch = final | {"trade_count": batch_count, "written_at": "2025-06-01T12:04:05Z"}
    data.batch_windows.write_text(to_csv(WINDOW_COLUMNS, [in_batch]))
    run = {"rows": 9, "run": "20250601T120400Z", "first_trade_id": 1, "last_trade_id": 9}
    times = {
        "last_trade_time": seconds(200),
        "snapshot_at": seconds(240),
        "written_at": seconds(245),
    }
    data.batch_output.mkdir()
    path = data.batch_output / "20250601T120400Z.csv"
    path.write_text(to_csv(BATCH_COLUMNS, [run | times]))


def test_if_all_windows_match_the_exit_status_is_0(command: Command, tmp_path: Path) -> None:
    both_paths(tmp_path, "5")
    done = as_process(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "identical results for the 1 window compared" in done.stdout
    assert json.loads(command(tmp_path, "--json").stdout)["unexplained"] == 0


@pytest.mark.parametrize(
    "deleted", [("stream_csv",), ("batch_output",), ("stream_csv", "batch_output")]
)
def test_without_a_result_of_both_paths_the_exit_status_is_2_whatever_other_files_exist(
    command: Command, tmp_path: Path, deleted: tuple[str, ...]
) -> None:
    both_paths(tmp_path, "6")
    live = [window(1, last_trade_time="2025-06-01T12:01:09Z")]
    DataDir(tmp_path).stream_live.write_text(to_csv(WINDOW_COLUMNS, live))
    for name in deleted:
        shutil.rmtree(tmp_path / name)
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith("Nothing to compare yet")


def test_an_unexplained_difference_is_exit_status_1_and_comes_first(
    command: Command, tmp_path: Path
) -> None:
    both_paths(tmp_path, "6")
    done = command(tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("1 window differs, cause unknown.")
    found = json.loads(command(tmp_path, "--json").stdout)
    assert found["unexplained"] == 1
    assert found["agreement"][0]["columns"] == "trade_count"


def test_the_names_that_programs_read_from_json_stay(command: Command, tmp_path: Path) -> None:
    both_paths(tmp_path, "6")
    found = json.loads(command(tmp_path, "--json").stdout)
    assert found["agreement"][0]["verdict"] == "differs"
    assert found["verdict"].startswith("1 window differs, cause unknown.")
    assert [set(answer) for answer in found["answers"]] == [
        {"question", "short", "sentence", "kind"}
    ] * 4


def test_minutes_counts_back_from_the_newest_window_and_not_from_now(
    command: Command,
    tmp_path: Path,
) -> None:
    both_paths(tmp_path, "6")
    assert command(tmp_path, "--minutes", "5").returncode == 1


@pytest.mark.parametrize("wrong", ["x", "0", "-5", "nan", "inf", "1e9"])
def test_minutes_that_are_no_number_of_minutes_are_refused(wrong: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"'{wrong}' is not a number of minutes"):
        minutes(wrong)
    assert minutes("1.5") == timedelta(seconds=90)


def no_constant(name: str) -> None:
    raise AssertionError(name)


def test_json_has_null_for_unknown_and_infinite_numbers(command: Command, tmp_path: Path) -> None:
    both_paths(tmp_path, "5")
    lines = [
        f"started=2025-06-01T12:0{n}:00Z run=r status=ok exit=0 rows={10 * n} wall_s={n}.5"
        for n in range(1, 4)
    ]
    DataDir(tmp_path).batch_log.write_text("\n".join(lines) + "\n")
    found = json.loads(command(tmp_path, "--json").stdout, parse_constant=no_constant)
    assert found["growth"]["runs"] == 3
    assert found["growth"]["low"] is None


INVALID = [("avg_price", "abc"), ("trade_count", "5.5"), ("window_end", "noon")]


def write_invalid(path: Path, column: str, wrong: str) -> None:
    table = pd.read_csv(path, dtype=str)
    table[column] = wrong
    table.to_csv(path, index=False)


@pytest.mark.parametrize(("column", "wrong"), INVALID)
def test_an_invalid_cell_of_the_batch_is_named_in_one_sentence_with_exit_status_2(
    command: Command, tmp_path: Path, column: str, wrong: str
) -> None:
    both_paths(tmp_path, "5")
    write_invalid(DataDir(tmp_path).batch_windows, column, wrong)
    done = command(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{column} of the window 2025-06-01T12:00:00Z is '{wrong}'" in done.stderr


@pytest.mark.parametrize(("column", "wrong"), INVALID)
def test_damaged_rows_of_the_stream_are_left_out_and_named(
    command: Command, tmp_path: Path, column: str, wrong: str
) -> None:
    both_paths(tmp_path, "5")
    (path,) = DataDir(tmp_path).stream_csv.glob("*.csv")
    sound = path.read_text()
    write_invalid(path, column, wrong)
    path.write_text(sound + path.read_text().splitlines()[1] + "\n2025-06-01T12:0")
    (path.parent / "2025-06-02.csv").write_text("")
    done = command(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert (
        "Damaged rows are left out: stream_csv/2025-06-01.csv (row 3, row 4); "
        "stream_csv/2025-06-02.csv (header). The next start of the stream computes them again."
    ) in said
    assert "identical results for the 1 window compared" in said


def test_a_database_without_the_consumers_tables_is_reported_in_one_sentence(
    command: Command, tmp_path: Path
) -> None:
    both_paths(tmp_path, "5")
    with sqlite3.connect(DataDir(tmp_path).database) as other:
        other.execute("CREATE TABLE something (else_ INTEGER)")
    done = command(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "lacks tables of this version" in done.stderr


def test_records_are_read_without_lines_that_were_cut_off(command: Command, tmp_path: Path) -> None:
    both_paths(tmp_path, "5")
    data = DataDir(tmp_path)
    data.status.mkdir()
    whole = '2025-06-01T12:01:00Z,60.0,30.0,500,"{""rows"": 5}"'
    data.minutes_of("spark_processor").write_text(
        f"at,seconds,cpu_s,rss_mib,counters\n{whole}\n2025-06-01T12:02:00Z,60.0,3\n"
    )
    data.stream_latency.write_text(
        "window_start,leg,counts\n2025-06-01T12:00:00Z,open_to_final\n"
        '2025-06-01T12:00:00Z,open_to_final,"{""5"": 7}"\n'
    )
    written = inputs.read_outputs(data, SqliteStore(data.database))
    assert list(written.minutes["spark_processor"]["cpu_s"]) == [30.0]
    assert list(written.window_latencies["counts"]) == ['{"5": 7}']
    assert command(tmp_path).returncode == 0
