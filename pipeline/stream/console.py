"""The console output of the stream: the newest windows of each micro-batch, below a header."""

from collections.abc import Mapping

from pipeline.logs import show
from pipeline.metrics.definitions import LABELS
from pipeline.stream.finality import Cells

#: Maximum number of windows printed for one micro-batch.
CONSOLE_WINDOWS = 5
#: The columns of the console and their widths.
_WIDTHS = {
    "window_start": 20,
    "trade_count": 7,
    "avg_price": 16,
    "price_range": 12,
    "total_volume": 14,
    "volatility_flag": 10,
    "market_sentiment": 9,
    "volume_spike": 12,
}
#: Rows after which the header of the console is printed again.
CONSOLE_ROWS = 50


class Console:
    """Prints the newest windows of each micro-batch, below a header."""

    def __init__(self) -> None:
        #: Rows since the last header.
        self._rows = CONSOLE_ROWS

    def print(self, kind: str, windows: list[Cells]) -> None:
        """Print the newest windows of a micro-batch.

        Args:
            kind: `open` or `FINAL`.
            windows: their cells, as text.
        """
        if not windows:
            return
        if self._rows >= CONSOLE_ROWS:
            self._rows = 0
            show(_line("state", LABELS))
        for line in console_lines(kind, windows):
            show(line)
            self._rows += 1


def console_lines(kind: str, windows: list[Cells]) -> list[str]:
    """Return a line for each of the newest windows, oldest first."""
    found = []
    if (omitted := len(windows) - CONSOLE_WINDOWS) > 0:
        found.append(f"{kind:<5} (earlier windows omitted: {omitted})")
    newest = sorted(windows, key=lambda cells: cells["window_start"])[-CONSOLE_WINDOWS:]
    return found + [_line(kind, cells) for cells in newest]


def _line(first: str, cells: Mapping[str, str]) -> str:
    return f"{first:<5} " + " ".join(f"{cells[name]:>{size}}" for name, size in _WIDTHS.items())
