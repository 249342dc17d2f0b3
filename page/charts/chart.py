"""What all charts share: a Vega-Lite specification with its data, the time axis, the renderer.

Altair makes each specification once. A refresh replaces only the named data sets, so the browser
keeps the chart on the page, with its zoom, scroll position and selection.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import pandas as pd

#: With more rows than this the browser draws on a canvas.
MAX_SVG_ROWS = 400

Spec = Mapping[str, Any]
Data = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Chart:
    """A specification and its data sets, by the names that the specification uses."""

    specification: Spec
    data: Data

    @property
    def with_data(self) -> dict[str, Any]:
        return {**self.specification, "datasets": dict(self.data)}


#: Times in 24 hours, and the date where it changes.
_TIME_FORMAT = {
    "seconds": "%H:%M:%S",
    "minutes": "%H:%M",
    "hours": "%H:%M",
    "day": "%b %d",
    "date": "%b %d",
    "week": "%b %d",
    "month": "%b %d",
    "quarter": "%b %d",
    "year": "%Y",
}


def x_time(field: str) -> Any:
    """Return a time axis in UTC, whatever the time zone of the browser."""
    axis = alt.Axis(grid=False, labelOverlap=True, format=_TIME_FORMAT, tickCount=8)
    return alt.X(f"{field}:T", scale=alt.Scale(type="utc"), title=None, axis=axis)


def milliseconds(times: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return times as milliseconds since 1970, as Vega expects them."""
    return times.astype("int64") / 1e6


def renderer_of(rows: pd.DataFrame) -> str:
    """Return the renderer: SVG is sharper, and slow with many rows."""
    return "svg" if len(rows) <= MAX_SVG_ROWS else "canvas"


def specification(
    chart: Any,
    height: Any,
    renderer: str,
    *,
    right: int = 24,
    fit: Literal["fit", "fit-x"] = "fit-x",
) -> Spec:
    """Return the Vega-Lite specification of a chart without its data.

    Args:
        chart: the chart.
        height: its height.
        renderer: `svg` or `canvas`.
        right: the space at its right edge, pixels.
        fit: whether the height includes the axes and can grow (`fit`).
    """
    built: Spec = (
        chart.properties(
            height=height,
            usermeta={"embedOptions": {"renderer": renderer}},
            autosize=alt.AutoSizeParams(type=fit, contains="padding"),
            padding={"left": 4, "top": 14, "right": right, "bottom": 4},
        )
        .configure_axis(labelFontSize=11, titleFontSize=11)
        .configure_legend(labelFontSize=11)
        .configure_view(strokeWidth=0)
        .to_dict()
    )
    return built
