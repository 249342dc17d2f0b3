"""Colours of every figure: those of Okabe and Ito, which colour-blind readers can distinguish.

Each colour comes with a symbol, a dash or a place, so that no figure depends on colour alone.
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
STREAM_COLOUR, BATCH_COLOUR = BLUE, VERMILION
