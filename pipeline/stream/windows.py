"""Publication of the stream's results: what each micro-batch does to the files.

Final windows go to `stream_csv/`, open windows to `stream_live.csv`, both to the console.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from pyspark.sql import Row

from pipeline import histogram, outputs, text_files, thresholds, times, window_files
from pipeline.alerts import AlertLog
from pipeline.metrics import definitions
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stream import checkpoint, finality, micro_batches
from pipeline.stream.console import Console
from pipeline.stream.file_watch import FileWatch
from pipeline.stream.final_rows import FinalRows
from pipeline.stream.finality import Cells, State, Window

#: `stream_latency.csv`, like `stream_versions.csv`, loses its older half above this size, bytes:
#: more than a month of windows.
LATENCY_BYTES = 16_000_000


@dataclass(frozen=True)
class Publication:
    """What a micro-batch published."""

    published_at: datetime
    newest_trade: datetime | None


class WindowPublisher:
    """Publishes the windows that each micro-batch changed. Repeating one changes nothing."""

    def __init__(
        self,
        service: Service,
        folder: Path,
        recorder: micro_batches.Recorder,
        files: FileWatch,
    ) -> None:
        self._service = service
        self._console = Console()
        self._recorder = recorder
        self._files = files
        self._data = service.data
        self._state_file = folder / checkpoint.OPEN_WINDOWS
        self._final_rows = FinalRows(folder)
        self._alerts = AlertLog(self._data.alerts_stream, service.settings, service.log.info)
        thresholds.record(
            self._data.thresholds_of(service.name), service.settings, service.before.get("settings")
        )
        self._watermark = service.settings.watermark // timedelta(microseconds=1)
        self._state = self._with_windows_left_open(
            finality.from_json(text_files.read_json(self._state_file))
        )
        #: The final windows of the hour before the oldest open window, and its start.
        self._trailing: dict[str, Cells] = {}
        self._trailing_of: int | None = None

    def _with_windows_left_open(self, state: State) -> State:
        """Return the state with the windows that another checkpoint left open.

        They become final as they are, or as the new checkpoint computes them, whichever has more
        trades. After a normal restart there are none: every window in `stream_live.csv` is open in
        the state as well, or already final.
        """
        live = window_files.scan(self._data.stream_live, self._service.settings.window)
        rows = [dict(zip(live.header, row, strict=True)) for row in live.rows]
        rows = [row for row in rows if row["last_trade_time"]]
        if not rows:
            return state
        edges = [datetime.fromisoformat(row["window_start"]) for row in rows]
        final = outputs.read_final_windows(self._data, min(edges), max(edges))
        left = [
            window
            for row in rows
            if (window := from_cells(row)).start not in state.open
            and int(final.get(row["window_start"], {}).get("trade_count", 0))
            < int(row["trade_count"])
        ]
        left_open = {**state.left_open, **{window.start: window for window in left}}
        return replace(state, left_open=left_open)

    @property
    def closes_in_next_micro_batch(self) -> bool:
        """Return whether the next micro-batch makes a window final, whatever trades it holds.

        Such a micro-batch starts at once.
        """
        return finality.closes_in_next_micro_batch(self._state, self._watermark)

    def publish(self, rows: Iterable[Row], micro_batch: int) -> Publication:
        """Publish the windows that changed in a micro-batch.

        The final windows are written before the state: after a crash between the two, Spark
        repeats the micro-batch, and the same windows become final again.

        Raises:
            DeletedError: files of the stream were deleted.
        """
        self._files.check()  # before this function creates a deleted file again
        now = times.now()
        changed = [to_window(row, self._service.settings, now) for row in rows]
        state, final = finality.apply_micro_batch(
            self._state, micro_batch, changed, self._watermark
        )
        repeated = micro_batch == self._state.micro_batch
        # The offsets are recorded first, so the record covers every published window.
        self._recorder.record(micro_batch, None if repeated else added_trades(self._state, changed))
        computed = {**self._state.open, **{window.start: window for window in changed}}
        versions = (self._state.left_open, computed)
        final_cells = self._write_final(final, versions, now)
        if not repeated:
            for window in final:
                self._record_latency(window, now)
        self._write_state(state, durable=bool(final))
        self._write_open(state, trailing_changed=bool(final))
        newest = None
        if state.max_event_time is not None:
            newest = times.from_epoch_micros(state.max_event_time)
        publication = Publication(times.now(), newest)
        self._alerts.publish([w.cells for w in changed], newest, publication.published_at)
        self._state = state
        self._service.details["newest_trade"] = newest
        self._service.details["open_windows"] = len(state.open)
        self._console.print("open", [w.cells for w in changed if w.start in state.open])
        self._console.print("FINAL", final_cells)
        return publication

    def _write_final(
        self, windows: list[Window], versions: Iterable[Mapping[int, Window]], now: datetime
    ) -> list[Cells]:
        """Write final windows with z-scores, which depend on what the files hold.

        Writing the same windows again therefore gives the same scores, also after a restart.
        """
        if not windows:
            return []
        # `written_at` is when a window became final, not when its row was last computed.
        rows = [window.cells | {"written_at": times.iso(now)} for window in windows]
        first, last = (times.from_epoch_micros(windows[place].start) for place in (0, -1))
        before = outputs.read_final_windows(self._data, first - definitions.TRAILING, last)
        merged = outputs.upsert_windows(before, rows)
        known = [v[w.start].cells for v in versions for w in windows if w.start in v]
        known += [before[row["window_start"]] for row in rows if row["window_start"] in before]
        new = [row for row in rows if row["window_start"] not in before]
        self._service.counters["final_windows"] += len(new)
        self._record_replaced([*rows, *known], merged)
        scored = with_z_scores(before, [merged[row["window_start"]] for row in rows])
        self._final_rows.record(outputs.write_final_windows(self._data, scored))
        return scored

    def _record_replaced(self, versions: Iterable[Cells], kept: Mapping[str, Cells]) -> None:
        """Record the versions of windows that are not kept. There are some after a topic changed.

        From them, the comparison finds windows whose trades are partly in each topic.
        """
        for version in versions:
            row = {name: version[name] for name in finality.VERSION_COLUMNS}
            if row != {
                name: kept[version["window_start"]][name] for name in finality.VERSION_COLUMNS
            }:
                text_files.append_csv(
                    self._data.stream_versions, finality.VERSION_COLUMNS, row, LATENCY_BYTES
                )

    def _write_state(self, state: State, *, durable: bool) -> None:
        text = json.dumps(finality.to_json(state))
        text_files.write_atomically(self._state_file, text, durable=durable)

    def _write_open(self, state: State, *, trailing_changed: bool) -> None:
        oldest = min(state.shown(), default=None)
        if oldest is not None and (trailing_changed or oldest != self._trailing_of):
            start = times.from_epoch_micros(oldest)
            self._trailing = outputs.read_final_windows(
                self._data, start - definitions.TRAILING, start
            )
        self._trailing_of = oldest
        rows = with_z_scores(self._trailing, [window.cells for window in state.shown().values()])
        text = text_files.to_csv(outputs.WINDOW_COLUMNS, rows)
        text_files.write_atomically(self._data.stream_live, text, durable=False)

    def _record_latency(self, window: Window, final_at: datetime) -> None:
        row = {
            "window_start": window.cells["window_start"],
            "leg": histogram.OPEN_TO_FINAL,
            "counts": json.dumps(open_to_final(window, final_at)),
        }
        path = self._data.stream_latency
        text_files.append_csv(path, outputs.LATENCY_COLUMNS, row, LATENCY_BYTES)


def to_window(row: Row, settings: Settings, written_at: datetime) -> Window:
    """Return a row of the query as a window with its metrics."""
    sums = row.asDict()
    fields = (
        definitions.compute(sums, settings) | outputs.moments(sums) | {"written_at": written_at}
    )
    return Window(
        start=row.window_start,
        end=row.window_end,
        last_trade_time=row.last_trade_time,
        cells=text_files.cells(outputs.WINDOW_COLUMNS, fields),
        growth=((times.epoch_micros(written_at), row.trade_count),),
    )


def from_cells(cells: Cells) -> Window:
    """Return a row of `stream_live.csv` as a window."""
    start, end, last = (
        times.epoch_micros(datetime.fromisoformat(cells[name]))
        for name in ("window_start", "window_end", "last_trade_time")
    )
    return Window(start, end, last, cells)


def with_z_scores(before: Mapping[str, Cells], windows: Iterable[Cells]) -> list[Cells]:
    """Return these windows with z-scores, sorted by start.

    Args:
        before: final windows by `window_start`. A version in `windows` takes precedence.
        windows: the windows to score. Each is compared with all known windows before it.
    """
    scored = {cells["window_start"]: cells for cells in windows}
    known = {**before, **scored}
    starts = sorted(known)
    scores = definitions.z_scores(_amounts(known[start]) for start in starts)
    return [
        scored[start] | text_files.cells(definitions.Z_SCORES, score)
        for start, score in zip(starts, scores, strict=True)
        if start in scored
    ]


def _amounts(cells: Cells) -> definitions.WindowAmounts:
    return definitions.WindowAmounts(
        times.epoch_micros(datetime.fromisoformat(cells["window_start"])),
        Decimal(cells["price_range"]),
        Decimal(cells["total_volume"]),
    )


def open_to_final(window: Window, final_at: datetime) -> Counter[int]:
    """Return how long the trades of a final window were visible as open: their number by bucket."""
    moment = times.epoch_micros(final_at)
    counts = [count for _, count in window.growth]
    added = [count - before for count, before in zip(counts, [0, *counts], strict=False)]
    return histogram.count(
        ((moment - at) / 1e6, count) for (at, _), count in zip(window.growth, added, strict=True)
    )


def added_trades(before: State, changed: Iterable[Window]) -> int:
    """Return how many trades a micro-batch added to the windows that it changed."""
    return sum(
        int(window.cells["trade_count"])
        - (
            int(before.open[window.start].cells["trade_count"])
            if window.start in before.open
            else 0
        )
        for window in changed
    )
