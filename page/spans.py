"""The time range that the viewer has chosen, and the comparison of it."""

import streamlit as st

from page import candles
from page.comparison_worker import Comparer, LatestComparison

#: Where the session keeps the last time range that had a comparison.
_COMPARED = "compared span"


def chosen_span() -> str:
    """Return the name of the span that the viewer has chosen."""
    chosen = st.session_state.get("span")
    return chosen if chosen in candles.SPANS else candles.DEFAULT_SPAN


def latest_comparison(comparer: Comparer) -> LatestComparison:
    """Return the newest comparison of the chosen span.

    Until there is one, the comparison of the previous span stays on the page.
    """
    span = chosen_span()
    latest = comparer.latest(span)
    if latest.data is not None or latest.problem:
        st.session_state[_COMPARED] = span
        return latest
    before = st.session_state.get(_COMPARED)
    return (before and comparer.kept(before, span)) or latest
