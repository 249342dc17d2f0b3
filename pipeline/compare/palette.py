"""Colours of every figure of the page and of the report.

The comparison uses the colours of Okabe and Ito, which colour-blind readers can distinguish. The
market uses the colours that readers of price charts expect. Each colour comes with a symbol, a
dash or a place, so that no figure depends on colour alone.
"""

from pipeline.compare.agreement import (
    DIFFERS,
    EQUAL,
    NOT_YET_FINAL,
    NOT_YET_IN_A_BATCH,
    ONLY_BATCH,
    ONLY_STREAM,
)
from pipeline.compare.freshness import BATCH, STREAM_FINAL, STREAM_OPEN

GREEN, VERMILION, BLUE, ORANGE = "#009E73", "#D55E00", "#0072B2", "#E69F00"
PURPLE, SKY, GREY, PALE = "#CC79A7", "#56B4E9", "#666666", "#CCCCCC"

#: By status of a window.
WINDOW_STATUS = {
    DIFFERS: VERMILION,
    ONLY_STREAM: PURPLE,
    ONLY_BATCH: ORANGE,
    NOT_YET_FINAL: PALE,
    NOT_YET_IN_A_BATCH: SKY,
    EQUAL: GREEN,
}
#: By result: the colour and the dash of its line (lengths of stroke and space).
RESULT_LINES = {
    STREAM_OPEN: (GREEN, (1, 0)),
    STREAM_FINAL: (BLUE, (6, 3)),
    BATCH: (VERMILION, (2, 2)),
}
#: The marker of each result's points: its name in Altair, and its name in matplotlib.
RESULT_MARKERS = {
    STREAM_OPEN: ("circle", "o"),
    STREAM_FINAL: ("triangle-up", "^"),
    BATCH: ("square", "s"),
}
STREAM_COLOUR, BATCH_COLOUR = BLUE, VERMILION
#: The modes of the batch, the newest run's mode first.
MODE_COLOURS = (VERMILION, ORANGE, PURPLE)
#: Symbols on the cells of the agreement.
INK = "#000000"
#: Grid lines of the report.
GRID = "#E5E5E5"
#: Labels and secondary lines. They must be readable on a light and on a dark page.
QUIET = "#8a94a0"

# --- market ---------------------------------------------------------------------------------

#: Rising and falling candles, bullish and bearish windows.
UP, DOWN = "#26a69a", "#ef5350"
#: The average price of the batch.
AVERAGE = "#f59e0b"
HIGH_RANGE, VOLUME_SPIKE = "#f59e0b", "#8e6bd8"

# --- batch runs -----------------------------------------------------------------------------

#: Start-up, reading and aggregation, other.
RUN_PARTS = (QUIET, "#4f8fd9", "#c3c9d0")
FAILED, STOPPED = DOWN, ORANGE
