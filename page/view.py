"""The script that Streamlit runs for each viewer: header, findings, market, a tab for each part.

Only this module, `parts.py` and `elements.py` write to the page. The other modules return what to
write.
"""

from datetime import datetime
from pathlib import Path

import streamlit as st

from page import candles, elements, status
from page.charts import market as market_charts
from page.comparison_data import refusal
from page.comparison_worker import LatestComparison, comparer_of
from page.files import Reader, Snapshot, reader_of
from page.formatting import number
from page.pace import Pace
from page.parts import PARTS, Sources, interval_of
from page.sections import answers, header, market, settings_table
from page.sections import comparison as comparison_texts
from page.spans import chosen_span, latest_comparison
from pipeline import stores
from pipeline.data_dir import DataDir
from pipeline.settings import Settings, load

_STYLE = Path(__file__).parent / "style.css"
#: Where the session keeps the open tab (also in the address), and whether to scroll to it.
PART, SCROLL = "part", "scroll to part"
#: Streamlit has no function that scrolls. After a jump to an anchor, the header would cover the top
#: of the tabs: it stays in view, and its height depends on the number of problems.
_SCROLL = (
    "<script>{ const boxOf = name => document.querySelector(name).getBoundingClientRect();"
    " document.querySelector('[data-testid=stMain]').scrollTop +="
    " boxOf('.st-key-part').top - boxOf('.p-top').bottom } // NUMBER</script>"
)


def main(pace: Pace | None = None) -> None:
    """Write the page and let its fragments refresh themselves."""
    pace = pace or Pace()
    st.set_page_config(page_title="Stream and batch", page_icon="📈", layout="wide")
    st.html(_STYLE)
    settings = load()
    reader = reader_of(settings.data_dir, pace, stores.store_of(settings))
    comparer = comparer_of(settings.data_dir, float(settings.batch_interval_seconds), pace)
    sources = Sources(settings, reader, comparer)
    paused = bool(st.session_state.get("paused"))

    def every(seconds: float) -> float | None:
        return None if paused else seconds

    with st.container(key="header"):
        st.fragment(write_header, run_every=every(pace.header))(settings, reader, paused=paused)
    write_choices()
    st.fragment(write_answers, run_every=every(pace.results))(sources)
    tabs = st.tabs(list(PARTS), key=PART, on_change="rerun", bind="query-params")
    for (part, write), tab in zip(PARTS.items(), tabs, strict=True):
        with tab:
            if tab.open:
                st.fragment(write, run_every=every(interval_of(part, pace)))(sources)
    write_scroll()


def write_header(settings: Settings, reader: Reader, *, paused: bool) -> None:
    """Write the header. It stays in view."""
    snapshot = reader.snapshot()
    settings = settings_table.in_use(snapshot.services, settings)
    shown = market.market(snapshot, chosen_span(), settings)
    st.session_state["beat"] = not st.session_state.get("beat")
    found = header.header(
        snapshot, shown, settings, beat=None if paused else st.session_state["beat"]
    )
    st.html(header.html(found))


def write_choices() -> None:
    """Write the buttons for the time range and the switch that pauses the page."""
    with st.container(horizontal=True, vertical_alignment="center", key="choices"):
        st.segmented_control(
            "Time range (event time)",
            list(candles.SPANS),
            default=candles.DEFAULT_SPAN,
            key="span",
            required=True,
            label_visibility="collapsed",
            bind="query-params",
            width="content",
        )
        st.toggle("Pause", key="paused", help="Stop the refreshes of the page", width="content")


# Each part always writes the same elements in the same order, empty ones too: see `elements`.


def write_answers(sources: Sources) -> None:
    """Write the findings of the comparison, and the market."""
    snapshot, settings = sources.reader.snapshot(), sources.settings
    refused = refusal(DataDir(settings.data_dir), settings)
    settings = settings_table.in_use(snapshot.services, settings)
    problems = (status.unusable_feed(snapshot.services), refused, *snapshot.problems)
    elements.alert("  \n".join(filter(None, problems)), "error")
    elements.caption(snapshot.reading)
    write_findings(latest_comparison(sources.comparer), snapshot.taken_at)
    write_market(snapshot, market.market(snapshot, chosen_span(), settings), settings)


def write_findings(latest: LatestComparison, now: datetime) -> None:
    """Write a card for each finding of the comparison, and how old they are."""
    found = comparison_texts.findings(latest)
    with st.container(key="findings"):
        for column, finding in zip(st.columns(len(found), gap="small"), found, strict=True):
            part = answers.PART_OF[finding.title]
            key = f"answer-{elements.anchor(finding.title)}"
            with column, st.container(key=key, height="stretch"):
                pressed = st.button(
                    f"{finding.title} :material/arrow_downward:",
                    type="tertiary",
                    key=f"open-{elements.anchor(part)}",
                    help=f"Open the tab {part}",
                    on_click=open_part,
                    args=(part,),
                )
                st.html(answers.html(finding))
                if pressed:
                    st.rerun()
    with st.container(horizontal=True, vertical_alignment="center", key="choice"):
        st.html(answers.choice_html(comparison_texts.choice(latest)))
        elements.caption(comparison_texts.age(latest, now), width="content")
    elements.alert(comparison_texts.problem(latest, now), "warning")


def open_part(part: str) -> None:
    """Open the tab of a part. The next run of the script scrolls to it."""
    st.session_state[PART] = part
    st.session_state[SCROLL] = st.session_state.get(SCROLL, 0) + 1


def write_scroll() -> None:
    """Write a script that scrolls to the tabs, once after a card was pressed."""
    pressed = st.session_state.get(SCROLL, 0)
    if pressed > st.session_state.get("scrolled", 0):
        st.session_state["scrolled"] = pressed
        st.html(_SCROLL.replace("NUMBER", str(pressed)), unsafe_allow_javascript=True)
    else:
        st.empty()


def write_market(snapshot: Snapshot, shown: market.Market, settings: Settings) -> None:
    """Write the price chart."""
    elements.section("Market (stream)", tip=market.MOUSE)
    average = number(snapshot.batch_run.get("avg_price"))
    elements.alert(market.empty_state(snapshot))
    elements.caption(market.how_to_read(shown, average, settings))
    with st.container():
        if shown.candles.empty:
            return
        chart = market_charts.price_chart(
            shown.candles,
            shown.width,
            shown.open_starts,
            average,
            settings.product_id,
            seams=shown.seams,
        )
        # `on_select` makes Streamlit keep the zoom when the data changes.
        st.vega_lite_chart(
            chart.with_data,
            key="price",
            on_select="rerun",
            selection_mode=market_charts.ZOOM,
            height=market_charts.CHART_HEIGHT,
            alt="Price candles with volume, sentiment and flags",
        )


if __name__ == "__main__":
    main()
