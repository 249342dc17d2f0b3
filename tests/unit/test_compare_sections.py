"""The sections of the comparison: complete, bounded, and text only."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pandas as pd
import pytest

from pipeline.compare import sections as module
from pipeline.compare.agreement import COLUMNS, DIFFERS, EQUAL, NOT_YET_FINAL, STATUSES
from pipeline.compare.causes import GAP, LATE, UNEXPLAINED
from pipeline.compare.comparison import Comparison, compare
from pipeline.compare.completeness import Backfill
from pipeline.compare.figures import Figures, figures
from pipeline.compare.formatting import (
    UNKNOWN,
    confidence_interval,
    count,
    length,
    number,
    of_a_core,
    percent,
    seconds,
)
from pipeline.compare.growth import Growth, Steadiness
from pipeline.compare.inputs import IngestCounts, read_outputs
from pipeline.compare.modes import READS
from pipeline.compare.reproduction import run_sections
from pipeline.compare.section import Section
from pipeline.compare.sections import MAX_LISTED, sections
from pipeline.data_dir import DataDir
from pipeline.outputs import LOG_FIELDS, WINDOW_COLUMNS
from pipeline.stores.sqlite import SqliteStore
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def disputed(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    data = DataDir(tmp_path_factory.mktemp("disputed"))
    page_data.disputed(data, NOW)
    return compare(read_outputs(data, SqliteStore(data.database)), 60)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    data = DataDir(tmp_path_factory.mktemp("nothing"))
    return compare(read_outputs(data, SqliteStore(data.database)), 60)


def section(comparison: Comparison, key: str) -> Section:
    (found,) = (one for one in sections(comparison) if one.key == key)
    return found


def test_sections_are_text_that_json_can_express(disputed: Comparison, nothing: Comparison) -> None:
    for comparison in (disputed, nothing):
        found = [asdict(one) for one in (*sections(comparison), *run_sections(comparison))]
        text = json.dumps(found, ensure_ascii=False, allow_nan=False)
        assert "nan" not in text.lower()
        for one in found:
            assert one["title"]
            assert one["how_to_read"]
            for table in one["tables"]:
                assert {len(row) for row in table["rows"]} <= {len(table["header"])}
                assert all(isinstance(cell, str) for row in table["rows"] for cell in row)


def test_each_figure_belongs_to_one_section(disputed: Comparison) -> None:
    with_figure = [one.key for one in sections(disputed) if one.figure_alt]
    assert sorted(with_figure) == sorted(Figures.__dataclass_fields__)


def test_the_windows_of_every_status_are_counted(disputed: Comparison) -> None:
    rows = section(disputed, "agreement").tables[0].rows
    assert [(name, n) for _, name, n in rows[: len(STATUSES)]] == [
        ("differs", "2"),
        ("only stream", "0"),
        ("only batch", "1"),
        ("not yet final", "2"),
        ("not yet in a batch", "0"),
        ("equal", "177"),
    ]


def agreement(*windows: tuple[str, str]) -> pd.DataFrame:
    """Return windows, one per minute, given as (status, cause)."""
    rows = [
        dict.fromkeys(("late", "doubled", "deleted", "unexplained", "missing"), 0)
        | {"window_start": f"2026-03-01T{n // 60:02}:{n % 60:02}:00Z", "columns": ""}
        | {"status": status, "cause": cause}
        for n, (status, cause) in enumerate(windows)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_the_note_about_the_cells_is_that_of_the_figure_before_any_window_is_final(
    nothing: Comparison,
) -> None:
    row = {"window_start": "2026-03-01T00:00:00Z", "window_end": "2026-03-01T00:05:00Z"}
    still_open = pd.DataFrame([dict.fromkeys(WINDOW_COLUMNS, "1") | row], dtype=str)
    outputs = replace(nothing.outputs, still_open=still_open)
    found = replace(nothing, outputs=outputs, agreement=agreement((NOT_YET_FINAL, "")))
    note = "A cell covers 5 minutes of event time. A row covers 5 hours."
    assert section(found, "agreement").figure_note == note
    assert figures(found).agreement.layout.cell == timedelta(minutes=5)


def test_unexplained_windows_are_listed_first_then_differences_then_missing_trades(
    nothing: Comparison,
) -> None:
    windows = [(EQUAL, GAP), (DIFFERS, UNEXPLAINED), (DIFFERS, LATE), (EQUAL, ""), (DIFFERS, LATE)]
    whole = section(replace(nothing, agreement=agreement(*windows)), "agreement")
    lacking = ("!", "equal, but both paths lack trades (included above)", "1")
    assert whole.tables[0].rows[-1] == lacking
    assert whole.figure_note.endswith("! marks an equal window for which both paths lack trades.")
    found = whole.tables[1]
    assert found.title == "Windows that differ or lack trades, most severe first: 4"
    assert found.rows[-1][1] == "! equal"
    assert [(row[0][-8:], row[2]) for row in found.rows] == [
        ("00:01:00", UNEXPLAINED),
        ("00:04:00", LATE),
        ("00:02:00", LATE),
        ("00:00:00", GAP),
    ]


def test_a_long_list_is_cut_and_its_title_has_both_numbers(nothing: Comparison) -> None:
    many = agreement(*[(DIFFERS, LATE)] * (MAX_LISTED + 12))
    found = section(replace(nothing, agreement=many), "agreement").tables[1]
    assert len(found.rows) == MAX_LISTED
    title = "Windows that differ or lack trades, most severe first"
    assert found.title == f"{title}: first {MAX_LISTED} of 62"


def test_both_values_of_a_difference_are_listed(disputed: Comparison) -> None:
    rows = section(disputed, "agreement").tables[1].rows
    assert any(row[-1].startswith("close_price ") and row[-1].endswith(" / 1.0") for row in rows)


def test_unknown_values_are_dashes(nothing: Comparison) -> None:
    assert section(nothing, "latency").tables[0].rows[0][1:] == (UNKNOWN, UNKNOWN, UNKNOWN)
    assert section(nothing, "freshness").tables[0].rows[2][1:] == (UNKNOWN,) * 5
    assert section(nothing, "cost").tables[0].rows[0][1:] == (UNKNOWN,) * 3
    classified = {row[0]: row[1:] for row in section(nothing, "metrics").tables[1].rows}
    assert classified["windows with a z-score"] == ("0", "0")
    assert classified["unusual range"] == classified["unusual volume"] == (UNKNOWN,) * 2
    aspects = {row[0]: row[1:] for row in section(nothing, "overview").tables[0].rows}
    assert aspects["interpretation"][0].endswith("No window has enough history for a z-score.")
    assert aspects["completeness"][2] == "No window to compare yet."


def test_the_units_of_the_totals_are_those_of_the_product(nothing: Comparison) -> None:
    outputs = replace(nothing.outputs, source={"product": "ETH-EUR"})
    lines = section(replace(nothing, outputs=outputs), "metrics").lines
    assert lines == ("Prices are in EUR, volumes in ETH.",)
    assert section(nothing, "metrics").lines == ()


def test_an_empty_section_names_what_will_fill_it(nothing: Comparison) -> None:
    for key, text in (
        ("freshness", "They need a result from each path, and then one more result."),
        ("completeness", "They appear when the producer receives a trade."),
        ("growth", "It needs batch runs"),
        ("micro_batches", "appears when the stream reads a trade."),
    ):
        assert text in section(nothing, key).lines[0]


@pytest.mark.parametrize(
    ("low", "high", "line"),
    [
        (-3.0, 9.0, "No significant trend."),
        (2.0, 9.0, "The duration of micro-batches increases."),
        (-9.0, -2.0, "The duration of micro-batches decreases."),
        (None, None, "No trend yet. It needs more minutes of data."),
    ],
)
def test_micro_batches_change_only_if_the_interval_excludes_0(
    nothing: Comparison, low: float | None, high: float | None, line: str
) -> None:
    steady = Steadiness(900, 300.0, 410.0, 5000, low and 4.0, low, high)
    found = section(replace(nothing, steadiness=steady), "micro_batches")
    assert found.lines == (line,)


@pytest.mark.parametrize(
    ("filled", "refused", "state"),
    [
        (True, 0, "received later"),
        (False, 0, "missing"),
        (False, 2, "missing, 2 of them rejected"),
        (False, 5, "messages rejected"),
    ],
)
def test_the_state_of_a_gap_is_what_became_of_its_ids(
    filled: bool, refused: int, state: str
) -> None:
    gaps = pd.DataFrame(
        [(10, 14, filled, "2026-03-01T12:00:00.5Z", None)],
        columns=["first_trade_id", "last_trade_id", "filled", "after", "before"],
    )
    rejected = frozenset(range(10, 10 + refused)) | {99}
    assert module._gaps(gaps, rejected).rows == (
        ("10 to 14", state, "2026-03-01 12:00:00", UNKNOWN, "5"),
    )


def missing_trades(nothing: Comparison, found: Backfill) -> Section:
    """Return the section for 5 open ids, of which 1 was rejected, and 3 ids that came later."""
    gaps = pd.DataFrame(
        [
            (10, 14, False, "2026-03-01T12:00:00Z", "2026-03-01T12:01:00Z"),
            (20, 22, True, "2026-03-01T12:01:00Z", "2026-03-01T12:02:00Z"),
        ],
        columns=["first_trade_id", "last_trade_id", "filled", "after", "before"],
    )
    evidence = replace(nothing.outputs.evidence, gaps=gaps, rejected=frozenset({11, 99}))
    outputs = replace(
        nothing.outputs, evidence=evidence, ingest_counts=IngestCounts(9, 9, 0, 0, 14, 5)
    )
    return section(replace(nothing, outputs=outputs, backfill=found), "completeness")


@pytest.mark.parametrize(
    ("found", "numbers"),
    [
        (Backfill(3, 340, 5), ["5", "3", "1", "1", "3", "340", "5"]),
        (Backfill(900, 0, 0), ["5", "4", "1", "0", "3", "0", "0"]),
        (Backfill(), ["5", UNKNOWN, "1", UNKNOWN, "3", UNKNOWN, UNKNOWN]),
    ],
)
def test_the_states_of_missing_trades_add_up_and_unknown_ones_are_dashes(
    nothing: Comparison, found: Backfill, numbers: list[str]
) -> None:
    table = missing_trades(nothing, found).tables[1]
    assert table.title == "Missing trades"
    assert [value for _, value in table.rows] == numbers


def test_the_last_error_of_the_recovery_is_shown_with_its_time(nothing: Comparison) -> None:
    error = Backfill(last_error="refused", last_error_time="2026-03-01T12:00:00Z")
    line = "Last error while recovering trades (2026-03-01 12:00:00 UTC): refused"
    assert missing_trades(nothing, error).lines[-1] == line
    assert line not in missing_trades(nothing, Backfill()).lines


def test_the_section_about_detection_names_the_windows_that_are_left_out(
    disputed: Comparison,
) -> None:
    text = section(disputed, "detection").how_to_read
    assert "windows in which a replayed recording starts again are left out." in text


def test_losses_are_named_with_their_reason_and_gains_as_such() -> None:
    losses = dict.fromkeys(("missing", "rejected", "deleted", "unexplained"), 0)
    lost = losses | {"repeated": 3, "late": 1, "unexplained": 4, "not_yet": 12}
    assert module.losses_text(lost) == (
        "3 duplicates, 1 dropped as late, 4 with unknown cause, 12 not yet processed"
    )
    gained = losses | {"repeated": -2, "late": None, "unexplained": -1, "not_yet": -5}
    assert module.losses_text(gained) == (
        "2 counted twice, 1 more than the input (cause unknown), 5 not yet in the input"
    )


# --- text -----------------------------------------------------------------------------------


def test_a_share_is_rounded_down_so_that_only_all_are_100_percent() -> None:
    assert percent(999_997, 1_000_000) == "99.99 %"
    assert percent(5, 4) == "125.00 %"
    assert percent(0, 0) == UNKNOWN
    for whole in (100, 1000):
        for part in range(whole + 1):
            assert percent(part, whole) == f"{float(100 * Fraction(part, whole)):.2f} %"


def test_a_number_that_is_rounded_to_zero_has_no_minus() -> None:
    assert seconds(-0.004) == "0.00 s"
    assert number(-0.4, "+,.0f", " ms") == "+0 ms"
    assert confidence_interval(-0.4, 0.4, "+,.0f", " ms") == "+0 to +0 ms"


def test_a_share_of_a_core_is_never_rounded_to_zero() -> None:
    shares = [of_a_core(cpu_s) for cpu_s in (3600, 324, 36, 18, 1.44, 0)]
    assert shares == ["100 %", "9 %", "1 %", "0.5 %", "0.04 %", "0 %"]


def test_numbers_have_a_unit_and_unknown_ones_are_dashes() -> None:
    assert number(1234.5, ",.1f", " s") == "1,234.5 s"
    assert [seconds(value) for value in (0.434, -5.21, 1204.2)] == ["0.43 s", "-5.2 s", "1,204 s"]
    assert [seconds(value) for value in (0.996, 9.96)] == ["1.0 s", "10 s"]
    for unknown in (None, float("nan"), float("inf"), "text"):
        assert number(unknown, ".1f") == UNKNOWN
    assert (count(1, "window"), count(1440, "window")) == ("1 window", "1,440 windows")


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(minutes=1), "1 minute"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(hours=2), "2 hours"),
        (timedelta(days=1), "1 day"),
        (timedelta(seconds=90), "90 seconds"),
        (timedelta(days=28), "28 days"),
    ],
)
def test_a_length_has_its_largest_whole_unit(span: timedelta, text: str) -> None:
    assert length(span) == text


def test_the_forecast_uses_the_runs_of_the_newest_mode_only(disputed: Comparison) -> None:
    """Full runs get slower with the table. The incremental runs between them do not."""
    rows = [100_000.0 * number for number in range(1, 21)]
    full = pd.DataFrame({"rows": rows, "wall_s": [5 + row / 1e5 for row in rows], "mode": "full"})
    other = full.assign(wall_s=5.0, mode="incremental", rows=full["rows"] + 50_000)
    log = pd.concat([full, other]).sort_values("rows", ignore_index=True)
    log = log.assign(started=pd.Timestamp(NOW), status="ok", run=log.index.astype(str))
    log = log.reindex(columns=list(LOG_FIELDS))
    both = disputed.outputs
    newest_is_incremental = compare(replace(both, log=log), 60)
    newest_is_full = compare(replace(both, log=log[:-1]), 60)
    for comparison, mode, slope in (
        (newest_is_incremental, "incremental", 0),
        (newest_is_full, "full", 10),
    ):
        assert (comparison.mode, len(comparison.runs)) == (mode, 20)
        assert comparison.growth is not None
        assert comparison.growth.s_per_million == pytest.approx(slope)
        assert READS[mode] in section(comparison, "growth").how_to_read
        assert ("batch mode", mode) in section(comparison, "growth").tables[0].rows


def test_run_times_without_a_trend_have_no_slope(disputed: Comparison) -> None:
    runs_of_one_size = Growth(
        runs=4,
        base_s=66.6,
        s_per_million=-5368.0,
        low=-9000.0,
        high=3000.0,
        rows_at_limit=None,
        rows_low=None,
        rows_high=None,
        at_limit=None,
        refusal="a forecast needs 8 batch runs, and there are 4",
    )
    without = replace(disputed, growth=runs_of_one_size)
    (table,) = section(without, "growth").tables
    assert [value for _, value in table.rows] == ["full", "4", UNKNOWN, UNKNOWN, UNKNOWN]
    assert "Growth per million rows" not in processing_time_of_the_batch(without)


def processing_time_of_the_batch(comparison: Comparison) -> str:
    rows = section(comparison, "overview").tables[0].rows
    return next(batch for aspect, _, batch, _ in rows if aspect == "processing time")


def test_a_trend_without_a_forecast_is_also_in_the_table_of_aspects(disputed: Comparison) -> None:
    growth = Growth(9, 5.0, 0.03, 0.02, 1234.5, None, None, None, None, "the table is not growing")
    assert processing_time_of_the_batch(replace(disputed, growth=growth)).endswith(
        " Growth per million rows: +0.03 s (95 % confidence interval: +0.02 to +1,234.50 s)."
    )
