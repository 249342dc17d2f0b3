"""Compare the output files of any run of a replay with the results computed in `tests/golden`.

The settings come from the data directory: see `tests/golden/run_settings.py`. A re-timed run has no
end. Its expected trades are those that the replay has issued from the first stored trade on. The
table is compared up to the newest stored trade, and each batch result up to the newest trade that
it covers. Open windows, and the windows after the newest final one, are not compared.

Two things are not checked in a re-timed run:

- The shift of the times. `feed.retime` shifts both the expected trades and those of the replay.
  `tests/unit/test_feed_retime.py` checks `feed.retime` itself.
- When a window becomes final. `stream_csv/` decides which windows are compared as final, so a
  window that became final too early is no difference.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from feed import recording, retime
from tests import golden
from tests.golden import Golden, run_settings
from tests.golden.run_settings import Period, RefusedError


class Checked(NamedTuple):
    """What was compared, and what differs."""

    problems: list[str]
    #: How many trades, final windows, and trades of the newest batch run were expected.
    trades: int
    final_windows: int
    trades_of_batch: int
    #: How many stored trades have no bid and ask, although their message has.
    without_quotes: int


def verify(path: Path, data_dir: Path, now: datetime | None = None) -> Checked:
    """Compare the output files of a run with the results of its recording.

    Raises:
        RefusedError: the data directory holds another feed, its settings are unknown, or a path
            has no result to compare.
        RecordingError: the recording cannot be read.
    """
    retimed = _is_retimed(path, data_dir)
    periods = run_settings.periods_of_stream(data_dir)
    rules = periods[-1].rules
    final = None
    if not retimed:
        table = stream = batch = golden.compute(path, now, rules)
    else:
        first, last = _stored_ids(data_dir)
        issued = golden.compute_frames(_issued(path, first, now), now, rules)
        table, batch = _up_to(issued, last), _up_to(issued, _newest_of_batch(data_dir))
        final = {start for start in issued.windows if _in_stream_csv(data_dir, start)}
        if not final or not batch.trades:
            missing = "batch run" if final else "final window"
            raise RefusedError(f"There is no {missing} to compare yet. DATA_DIR={data_dir}")
        stream = _without_unfinished(issued, final)
    stream = _with_flags_of_stream(stream, data_dir, periods)
    batch = _with_flags_of_batch(batch, data_dir)
    problems = [
        *golden.bounded(golden.check_table(table, data_dir)),
        *golden.bounded(golden.check_stream(stream, data_dir, final)),
        *golden.bounded(golden.check_batch_windows(batch, data_dir / "batch_windows.csv")),
        *golden.bounded(golden.check_batch_total(batch, data_dir / "batch_output")),
    ]
    return Checked(
        problems,
        len(table.trades),
        len(golden.final_windows(stream) if final is None else final),
        len(batch.trades),
        golden.without_quotes(table, data_dir),
    )


def _is_retimed(path: Path, data_dir: Path) -> bool:
    """Return whether the replay was re-timed.

    Raises:
        RefusedError: another feed than a replay of this recording filled the data directory.
    """
    file = data_dir / "source.json"
    if not file.exists():
        raise RefusedError(
            "source.json is missing, so the feed of the run is unknown. Give the data directory of "
            f"a run. DATA_DIR={data_dir}"
        )
    source = run_settings.read_object(file)
    if source.get("kind") == "live":
        raise RefusedError(
            f"DATA_DIR holds the live feed {source.get('url')}, not a recording. Record the feed "
            f"with `python -m feed.record` and replay the recording. DATA_DIR={data_dir}"
        )
    held, retimed = source.get("fingerprint"), source.get("retimed")
    if held is None or not isinstance(retimed, bool):
        raise RefusedError(
            "source.json does not name a recording, so the feed of the run is unknown. Run a "
            f"replay with an empty data directory. DATA_DIR={data_dir}"
        )
    if held != recording.identity(path, None)["fingerprint"]:
        raise RefusedError(
            f"DATA_DIR holds a replay of {source.get('recording')} with other content than "
            f"{path.name}. Give the recording that was replayed. DATA_DIR={data_dir}"
        )
    return retimed


# --- thresholds that changed during the run ---------------------------------------------------

#: Returns the earliest and the latest time at which a row can have been computed; None: unknown.
ComputationTimes = Callable[[Mapping[str, str]], tuple[int | None, int | None]]


def _with_flags_of_stream(found: Golden, data_dir: Path, periods: Sequence[Period]) -> Golden:
    """Return the results with the flags of the thresholds that the stream used for each window."""
    windows = dict(found.windows)
    once = run_settings.has_one_checkpoint(data_dir)

    def of_final(row: Mapping[str, str]) -> tuple[int | None, int | None]:
        # `written_at` is when the window became final. Its flags are as old as its newest trade, or
        # newer. A row that another checkpoint computed again keeps the first `written_at`.
        return _time(row, "last_receipt_time"), _time(row, "written_at") if once else None

    for file in sorted((data_dir / "stream_csv").glob("*.csv")):
        _use_flags(windows, file, periods, of_final)
    live = data_dir / "stream_live.csv"
    if live.is_file():
        _use_flags(windows, live, periods, _when_written)
    return replace(found, windows=windows)


def _with_flags_of_batch(found: Golden, data_dir: Path) -> Golden:
    """Return the results with the flags of the thresholds that the newest batch run used."""
    file, totals = data_dir / "batch_windows.csv", sorted((data_dir / "batch_output").glob("*.csv"))
    if not file.is_file() and not totals:
        return found
    periods = run_settings.periods_of_batch(data_dir)
    windows, total = dict(found.windows), found.total
    if file.is_file():
        _use_flags(windows, file, periods, _when_written)
    for row in golden.read_rows(totals[-1], []) if totals and total else []:
        possible = run_settings.candidates(periods, *_when_written(row))
        total = run_settings.with_flags(f"batch_output/{totals[-1].name}", total, possible)
    return replace(found, windows=windows, total=total)


def _use_flags(
    windows: dict[int, dict[str, object]],
    file: Path,
    periods: Sequence[Period],
    of: ComputationTimes,
) -> None:
    """Set the flags of the windows in a file to those of the thresholds of its rows."""
    for row in golden.read_rows(file, []):
        start = _time(row, "window_start")
        if start is not None and start in windows:
            name = f"window {golden.iso(start)} in {file.name}"
            possible = run_settings.candidates(periods, *of(row))
            windows[start] = run_settings.with_flags(name, windows[start], possible)


def _when_written(row: Mapping[str, str]) -> tuple[int | None, int | None]:
    written = _time(row, "written_at")
    return written, written


def _time(row: Mapping[str, str], column: str) -> int | None:
    return golden.cell_time(row.get(column, ""))


# --- a run that was re-timed ------------------------------------------------------------------


def _stored_ids(data_dir: Path) -> tuple[int, int]:
    """Return the lowest and the highest stored trade id."""
    try:
        query = "SELECT min(trade_id), max(trade_id) FROM btc_prices"
        ((first, last),) = golden.query_table(data_dir, query)
    except golden.TableError as error:
        raise RefusedError(
            f"The stored trades cannot be read, so nothing can be compared: {error}. "
            f"DATA_DIR={data_dir}"
        ) from error
    if first is None:
        raise RefusedError(f"btc_prices has no row yet. Wait for the first trades: {data_dir}")
    return first, last


def _issued(path: Path, first: int, now: datetime | None) -> Iterator[bytes]:
    """Yield the messages of a re-timed recording from a trade id on, up to now."""
    until = round((now or datetime.now(UTC)).timestamp() * retime.SECOND)
    latest = retime.survey(recording.read(path), until + retime.MINUTE)[1]
    tiles = retime.tile(recording.read(path), latest)
    tile = (first - tiles.trade_ids.first) // len(tiles.trade_ids)
    for position in range(tile * tiles.count, tiles.first_after(until)):
        frame = tiles.frame(position)
        number = golden.number_in(frame)
        if number is None or number >= first:
            yield frame


def _up_to(issued: Golden, last: int) -> Golden:
    """Return the results of the trades up to an id."""
    found = Golden(issued.rules, {n: t for n, t in issued.trades.items() if n <= last})
    golden.aggregate(found)
    return found


def _newest_of_batch(data_dir: Path) -> int:
    """Return the highest trade id that the newest batch run covers; 0 without a run."""
    files = sorted((data_dir / "batch_output").glob("*.csv"))
    if not files:
        return 0
    problems: list[str] = []
    cells = [row.get("last_trade_id", "") for row in golden.read_rows(files[-1], problems)]
    if len(cells) != 1 or not cells[0].isdecimal():
        problems.append(f"{files[-1].name}: must have one row with a last_trade_id")
    if problems:
        raise RefusedError(f"The newest batch run is damaged: {problems[0]}. DATA_DIR={data_dir}")
    return int(cells[0])


def _in_stream_csv(data_dir: Path, start: int) -> bool:
    text = golden.iso(start)
    path = data_dir / "stream_csv" / f"{text[:10]}.csv"
    return path.is_file() and f"\n{text},".encode() in path.read_bytes()


def _without_unfinished(issued: Golden, final: set[int]) -> Golden:
    """Return the expected results without the windows after the newest final one."""
    newest = max(final, default=-1)
    windows = {start: of for start, of in issued.windows.items() if start <= newest}
    return Golden(issued.rules, issued.trades, windows, issued.total)
