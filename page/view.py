"""What stands where on the page: the script that Streamlit runs for each viewer.

Only Streamlit calls; what they show is made by the other modules.
"""

from pathlib import Path

import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from page import comparison as compared
from page import formatting as words
from page import markup, present, windows
from page.background import Compared, Comparer, comparer_of
from page.charts import comparison as graphs
from page.charts import market as charts
from page.digest import Digest
from page.downloads import reports, windows_apart
from page.files import Reader, Snapshot, reader_of
from pipeline import times
from pipeline.outputs import DataDir
from pipeline.settings import Settings, load

#: Seconds between two refreshes of the top, of both paths' results, of counts and tables.
TOP_SECONDS = 1.0
BODY_SECONDS = 2.0
RECORDS_SECONDS = 4.0
#: The comparison is made every 10 s at most.
COMPARISON_SECONDS = 5.0

_TIME = "YYYY-MM-DD HH:mm:ss"


def _time(label: str) -> ColumnConfig:
    return st.column_config.DatetimeColumn(label, format=_TIME, timezone="UTC")


def _number(label: str, pattern: str, meaning: str | None = None) -> ColumnConfig:
    return st.column_config.NumberColumn(label, format=pattern, help=meaning)


def _z_score(label: str, what: str) -> ColumnConfig:
    meaning = (
        f"How unusual the {what} is: its distance from the mean of the windows in the hour before, "
        "in their standard deviations. Unknown with fewer than ten of them."
    )
    return _number(label, "%.2f", meaning)


WINDOW_TABLE: dict[str, ColumnConfig | str] = {
    "window_start": _time("window, UTC"),
    "state": "state",
    "open_price": _number("open", "%.2f"),
    "max_price": _number("highest", "%.2f"),
    "min_price": _number("lowest", "%.2f"),
    "close_price": _number("close", "%.2f"),
    "avg_price": _number("average", "%.2f"),
    "price_range": _number("range", "%.2f"),
    "volatility_flag": "volatility",
    "total_volume": _number("volume", "%.4f"),
    "volume_spike": "spike",
    "trade_count": _number("trades", "%d"),
    "buy_count": _number("buys", "%d"),
    "sell_count": _number("sells", "%d"),
    "buy_sell_ratio": _number("buys / sells", "%.3f"),
    "market_sentiment": "sentiment",
    "vwap": _number("average by volume", "%.2f"),
    "volume_imbalance": _number("imbalance", "%.3f"),
    "range_z": _z_score("range z", "range"),
    "volume_z": _z_score("volume z", "volume"),
    "last_trade_time": _time("last trade"),
    "written_at": _time("written"),
}
RUN_TABLE: dict[str, ColumnConfig | str] = {
    "started": _time("started, UTC"),
    "run": "run",
    "status": "status",
    "exit": _number("exit", "%d"),
    "rows": _number("rows", "localized"),
    "windows": _number("windows", "localized"),
    "wall_s": _number("wall, s", "%.2f"),
    "start_s": _number("start-up, s", "%.2f"),
    "logic_s": _number("logic, s", "%.2f"),
    "cpu_s": _number("CPU, s", "%.2f"),
    "peak_mib": _number("peak, MiB", "%d"),
    "read_s": _number("reading, s", "%.2f"),
    "write_s": _number("writing, s", "%.2f"),
}

#: Where on the page one can go at once: a word, and the section's title.
SECTIONS = {
    "Market": "Market, by the stream",
    "Comparison": "Comparison",
    "Windows": "Windows of the stream",
    "Runs": "Batch runs",
    "Services": "Services",
    "Report": "Report",
}
_STYLE = Path(__file__).parent / "style.css"


def span() -> str:
    chosen = st.session_state.get("span")
    return chosen if chosen in windows.SPANS else windows.DEFAULT_SPAN


@st.fragment(run_every=TOP_SECONDS)
def top(settings: Settings, reader: Reader) -> None:
    snapshot = reader.look()
    settings = present.as_run(snapshot.services, settings)
    shown = present.market(snapshot, span(), settings)
    st.session_state["beat"] = not st.session_state.get("beat")
    st.html(markup.top(present.top(snapshot, shown, settings, beat=st.session_state["beat"])))


def section(title: str) -> None:
    st.subheader(title, anchor=markup.anchor(title))


def choices() -> None:
    """What is looked at, and where on the page."""
    with st.container(horizontal=True, vertical_alignment="center", key="choices"):
        st.segmented_control(
            "Span of event time",
            list(windows.SPANS),
            default=windows.DEFAULT_SPAN,
            key="span",
            required=True,
            label_visibility="collapsed",
            bind="query-params",
            width="content",
        )
        st.html(markup.navigation(SECTIONS), width="content")


# Each part always writes the same elements in the same order, empty ones too: an element
# that came and went would move those below it, and the browser would draw them anew.


@st.fragment(run_every=BODY_SECONDS)
def results(settings: Settings, reader: Reader, comparer: Comparer) -> None:
    """What both paths say now."""
    snapshot = reader.look()
    settings = present.as_run(snapshot.services, settings)
    reading = f"Still reading: {', '.join(snapshot.loading)}" if snapshot.loading else ""
    st.html(markup.notes(snapshot.problems, "bad") + markup.note(reading, "quiet"))
    found = comparer.latest(span())
    st.html(compared.verdict(found, snapshot.looked))
    shown = present.market(snapshot, span(), settings)
    left, right = st.columns([11, 9], gap="medium")
    with left:
        market(snapshot, shown, settings)
    with right:
        paths(snapshot, settings, found)


@st.fragment(run_every=COMPARISON_SECONDS)
def comparison(comparer: Comparer) -> None:
    """How they stand against each other."""
    found = comparer.latest(span())
    section("Comparison")
    st.html(markup.note(compared.section_said(found, times.now()), "quiet"))
    with st.container():
        if found.digest is not None:
            compared_parts(found.digest)


def compared_parts(found: Digest) -> None:
    part("Do they agree?", compared.agreement_said(found))
    st.html(compared.legend(found, graphs.VERDICT_COLORS))
    drawing(None if found.cells.empty else graphs.strip_chart(found), "strip", "Verdicts over time")
    st.html(compared.differing(found))
    left, right = st.columns(2, gap="medium")
    with left:
        part("How old is each answer?", compared.ages_said(found))
        st.html(compared.ages_legend(graphs.ANSWERS))
        teeth = found.teeth
        drawing(None if teeth.empty else graphs.ages_chart(teeth), "ages", "Age of each answer")
        st.html(compared.ages(found))
        part("What does each cost?", compared.COST_SAID)
        st.html(compared.cost(found))
    with right:
        part("Where does the time go?", compared.LEGS_SAID)
        st.html(compared.waterfall(found))
        part("Is anything lost?", compared.FUNNEL_SAID)
        st.html(compared.funnel(found))
    left, right = st.columns(2, gap="medium")
    with left:
        part("When will the batch be too slow?", compared.growth_said(found))
        grown = None if found.runs.empty else graphs.growth_chart(found)
        drawing(grown, "growth", "Batch duration against rows")
    with right:
        part("Does the stream slow down?", compared.steady_said(found.steadiness))
        minutes = found.micro_batches
        drawn = None if minutes.empty else graphs.micro_chart(minutes)
        drawing(drawn, "micro", "Time of the micro-batches by minute")
    part("All in all", compared.ASPECTS_SAID)
    st.html(compared.aspects(found))


def report() -> None:
    """The report and its figures, as files to take along."""
    section("Report")
    failed = present.failure_said(reports().problem, times.now())
    st.html(markup.note(present.REPORT_SAID, "quiet") + markup.note(failed, "bad"))
    last = windows.SPANS[span()]
    with st.container(horizontal=True):
        st.download_button(
            "Make and download the report, HTML",
            data=lambda: reports().html(last),
            file_name="report.html",
            mime="text/html",
            key="report",
            on_click="ignore",
        )
        st.download_button(
            "Make and download it with its figures as files, ZIP",
            data=lambda: reports().archive(last),
            file_name="report.zip",
            mime="application/zip",
            key="figures",
            on_click="ignore",
        )


def part(title: str, said: str) -> None:
    st.html(f"<h4>{title}</h4>" + markup.note(said, "quiet"))


def drawing(chart: charts.Chart | None, key: str, alt: str) -> None:
    with st.container(key=f"{key}-drawn"):
        if chart is not None:
            st.vega_lite_chart(chart.spec, key=key, alt=alt)


@st.fragment(run_every=RECORDS_SECONDS)
def records(settings: Settings, reader: Reader, comparer: Comparer) -> None:
    """What was counted, written and done, in detail."""
    snapshot = reader.look()
    run_with = present.as_run(snapshot.services, settings)
    shown = present.market(snapshot, span(), run_with)
    left, right = st.columns(2, gap="medium")
    with left:
        counts(snapshot, shown)
    with right:
        durations(snapshot)
    window_table(snapshot, settings)
    runs_table(snapshot)
    section("Services")
    st.html(markup.service_cards(snapshot.services.values(), snapshot.looked))
    section("Gaps and rejected messages")
    st.html(compared.gaps(comparer.latest(span()).digest))
    st.html(markup.rejected(snapshot.services))
    report()
    with st.expander("Settings, machine and versions"):
        st.html(markup.note(present.SETTINGS_SAID, "quiet"))
        st.html(markup.settings_table(present.setting_rows(snapshot.services, settings)))
        st.html(markup.machine_table(present.machine_rows(snapshot.services)))


def market(snapshot: Snapshot, shown: present.Market, settings: Settings) -> None:
    section("Market, by the stream")
    average = words.number(snapshot.batch_run.get("avg_price"))
    waiting = present.awaited_windows(snapshot)
    st.html(markup.note(waiting) + markup.note(present.reading(shown, average), "quiet"))
    with st.container():
        if shown.candles.empty:
            return
        drawn = charts.price_chart(
            shown.candles, shown.width, shown.forming_starts, average, settings.product_id
        )
        # `on_select` is what makes Streamlit keep the zoom when the data changes.
        st.vega_lite_chart(
            drawn.spec,
            key="price",
            on_select="rerun",
            selection_mode=charts.ZOOM,
            alt="Price as candles, with volume, mood and flags below",
        )


def paths(snapshot: Snapshot, settings: Settings, found: Compared) -> None:
    section("Stream and batch, side by side")
    shared = found.digest.shared if found.digest else None
    said = present.side_by_side_said(snapshot.batch_run, shared)
    st.html(markup.note(present.awaited_batch(snapshot)) + markup.note(said, "quiet"))
    columns = present.columns(snapshot, settings)
    st.html(markup.metrics_table(columns, present.difference(*columns[-2:])))


def counts(snapshot: Snapshot, shown: present.Market) -> None:
    section("Trades counted by each path")
    said = f"{present.counts_sentence(snapshot)} {present.counts_reading(shown)}"
    st.html(markup.note(said, "quiet"))
    batch = present.batch_counts(snapshot, span(), shown)
    with st.container():
        if shown.candles.empty and batch.empty:
            return
        st.vega_lite_chart(
            charts.counts_chart(shown.candles, batch, shown.width).spec,
            key="counts",
            alt="Trades over time in the stream and in the batch",
        )


def durations(snapshot: Snapshot) -> None:
    section("Batch duration")
    st.html(markup.note(snapshot.runs.made("said", None, present.durations_sentence), "quiet"))
    with st.container():
        if snapshot.runs.frame.empty:
            return
        drawn = snapshot.runs.made(
            "chart",
            None,
            lambda runs: charts.duration_chart(runs.tail(present.MOST_RUN_BARS), present.GOOD_RUNS),
        )
        st.vega_lite_chart(drawn.spec, key="durations", alt="Wall time of each batch run, by part")


def window_table(snapshot: Snapshot, settings: Settings) -> None:
    section("Windows of the stream")
    rows, count = present.window_rows(snapshot, span())
    st.html(markup.note(present.window_table_sentence(len(rows), count), "quiet"))
    chosen, first = span(), present.first_of_span(snapshot, span())
    with st.container():
        if rows.empty or first is None:
            return
        st.dataframe(
            rows,
            key="windows",
            hide_index=True,
            height=320,
            column_config=dict(WINDOW_TABLE),
            placeholder=words.DASH,
        )
        st.download_button(
            "Download all windows of the span, CSV",
            data=lambda: windows_apart(DataDir(settings.data_dir), first),
            file_name=f"windows-{chosen.replace(' ', '')}.csv",
            mime="text/csv",
            key="windows-csv",
            on_click="ignore",
        )


def runs_table(snapshot: Snapshot) -> None:
    section("Batch runs")
    rows = snapshot.runs.made("rows", None, present.run_rows)
    st.html(markup.note(present.runs_sentence(snapshot), "quiet"))
    with st.container():
        if rows.empty:
            return
        st.dataframe(
            rows,
            key="runs",
            hide_index=True,
            height=250 if len(rows) > 5 else "content",
            column_config=dict(RUN_TABLE),
            placeholder=words.DASH,
        )


def main() -> None:
    st.set_page_config(page_title="Stream and batch", page_icon="📈", layout="wide")
    st.html(_STYLE)
    settings = load()
    reader = reader_of(settings.data_dir)
    comparer = comparer_of(settings.data_dir, float(settings.batch_interval_seconds))
    with st.container(key="top"):
        top(settings, reader)
    choices()
    results(settings, reader, comparer)
    comparison(comparer)
    records(settings, reader, comparer)


main()
