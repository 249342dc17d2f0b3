"""Damaged files of windows: every undamaged row is kept, and each damaged one is named."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import text_files
from pipeline.errors import OutputError
from pipeline.outputs import WINDOW_COLUMNS
from pipeline.window_files import FIRST_COLUMNS, description, scan

MINUTE = timedelta(minutes=1)
START = datetime(2025, 12, 2, 5, tzinfo=UTC)


def window(number: int, **changed: object) -> dict[str, object]:
    start = START + number * MINUTE
    numbers = dict.fromkeys(("avg_price", "max_price", "min_price", "total_volume"), "86321.55")
    return {
        **numbers,
        "window_start": start,
        "window_end": start + MINUTE,
        "price_range": "0",
        "volatility_flag": "Normal",
        "trade_count": 3,
        "buy_sell_ratio": str(2 / (1 + 1e-5)),
        "market_sentiment": "Bullish",
        "volume_spike": "Normal",
        "buy_count": 2,
        "sell_count": 1,
        "last_trade_time": start,
        "written_at": start + 2 * MINUTE,
        "range_z": "-1.25",
        **changed,
    }


def text(*rows: dict[str, object], columns: tuple[str, ...] = WINDOW_COLUMNS) -> str:
    return text_files.to_csv(columns, rows)


def scanned(folder: Path, content: bytes) -> tuple[list[str], tuple[str, ...]]:
    """The starts of the undamaged rows (MM), and the damage."""
    path = folder / "2025-12-02.csv"
    path.write_bytes(content)
    found = scan(path, MINUTE)
    return [row[0][14:16] for row in found.rows], found.damage


WHOLE = text(window(0), window(1), window(2))


def test_an_undamaged_file_is_read_whole(tmp_path: Path) -> None:
    assert scanned(tmp_path, WHOLE.encode()) == (["00", "01", "02"], ())
    old = text(window(0), window(1), columns=FIRST_COLUMNS)
    assert scanned(tmp_path, old.encode()) == (["00", "01"], ())
    assert scanned(tmp_path, text().encode()) == ([], ())
    assert scan(tmp_path / "missing.csv").damage == ()


@pytest.mark.parametrize(
    "row",
    [
        "garbage",
        "",
        ",".join(["x"] * len(WINDOW_COLUMNS)),
        "2025-12-02T05:07:00Z,2025-12-02T05:08:00Z,863",
        "\0" * 200,
        text(window(7, trade_count="3.5")).splitlines()[1],
        text(window(7, trade_count="")).splitlines()[1],
        text(window(7, max_price="NaN")).splitlines()[1],
        text(window(7, window_end=START + 12 * MINUTE)).splitlines()[1],
        text(window(7)).splitlines()[1].replace("2025-12-02", "2025-02-31"),
        text(window(7)).splitlines()[1] + ",7",
        text(window(0)).splitlines()[1],  # the window of the first row again
    ],
)
def test_a_damaged_row_is_named_and_the_others_are_kept(tmp_path: Path, row: str) -> None:
    first, *others = WHOLE.splitlines()[1:]
    lines = [WHOLE.splitlines()[0], first, row, *others]
    found = scanned(tmp_path, ("\n".join(lines) + "\n").encode())
    assert found == (["00", "01", "02"], ("row 3",))


def test_bytes_that_are_no_text_damage_only_their_row(tmp_path: Path) -> None:
    broken = WHOLE.encode().replace(b"05:01:00Z,2025-12-02T05:02", b"05:01:\xff\xfeZ,2", 1)
    assert scanned(tmp_path, broken) == (["00", "02"], ("row 3",))


@pytest.mark.parametrize("content", [b"", b"\n", b"a,b\n1,2\n", b"\0" * 4096])
def test_a_file_without_a_header_has_no_rows(tmp_path: Path, content: bytes) -> None:
    rows, damage = scanned(tmp_path, content)
    assert rows == []
    assert damage[0] == "header"


def test_the_rows_below_a_damaged_header_are_kept(tmp_path: Path) -> None:
    _, *rows = WHOLE.splitlines()
    content = "\n".join(["window_sta\0\0", *rows]) + "\n"
    assert scanned(tmp_path, content.encode()) == (["00", "01", "02"], ("header",))


def test_columns_of_a_newer_version_are_left_out(tmp_path: Path) -> None:
    columns = (*WINDOW_COLUMNS, "invented_later")
    path = tmp_path / "2025-12-02.csv"
    path.write_text(text(window(0, invented_later="x"), window(1), columns=columns) + "garbage\n")
    found = scan(path, MINUTE)
    assert found.newer
    assert (found.header, found.damage) == (WINDOW_COLUMNS, ("row 4",))
    assert list(found.rows) == [tuple(line.split(",")) for line in WHOLE.splitlines()[1:3]]


def test_a_folder_in_the_place_of_a_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "stream_live.csv"
    path.mkdir()
    with pytest.raises(
        OutputError, match=r"^Cannot read stream_live.csv. .*Move the directory away"
    ):
        scan(path)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_that_was_cut_off_anywhere_keeps_its_whole_rows(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    rows, damage = scanned(tmp_path_factory.mktemp("cut"), WHOLE[:length].encode())
    whole_lines = WHOLE[:length].count("\n")
    complete = len(rows) + 1 == len(WHOLE[:length].splitlines())  # only the line end is missing
    assert rows == ["00", "01", "02"][: len(rows)]
    assert len(rows) >= whole_lines - 1
    assert complete or damage


def test_a_phrase_names_the_file_and_its_damaged_rows(tmp_path: Path) -> None:
    path = tmp_path / "stream_csv" / "2025-12-02.csv"
    phrase = description(path, ("row 3", "row 7"))
    assert phrase == "stream_csv/2025-12-02.csv (row 3, row 7)"
    many = tuple(f"row {number}" for number in range(2, 12))
    assert description(path, many).endswith("(row 2, row 3, row 4 and 7 more)")
