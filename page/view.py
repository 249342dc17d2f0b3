"""The script that Streamlit runs for each viewer: the sections of the page, from top to bottom.

Only this module and `elements.py` write to the page. The other modules return what to write.
"""

from datetime import datetime
from pathlib import Path

import streamlit as st

from page import candles, downloads, elements, tables
from page.charts import comparison as comparison_charts
from page.charts import market as market_charts
from page.charts.chart import Chart
from page.comparison_data import refusal
from page.comparison_worker import Comparer, LatestComparison, comparer_of
from page.files import Reader, Snapshot, reader_of
from page.formatting import DASH, number
from page.pace import Pace
from page.sections import alerts, header, market, services, settings_table
from page.sections import comparison as comparison_texts
from page.sections import side_by_side as results_table
from pipeline import times
from pipeline.compare.figures import Figures
from pipeline.compare.sections import Section
from pipeline.outputs import DataDir
from pipeline.settings import Settings, load

#: The links at the top: a word, and the title of the section.
SECTIONS = {
    "Market": "Market (stream)",
    "Comparison": "Comparison",
    "Alerts": "Alerts",
    "Windows": "Windows of the stream",
    "Runs": "Batch runs",
    "Services": "Services",
    "Report": "Report",
}
_STYLE = Path(__file__).parent / "style.css"


def main(pace: Pace | None = None) -> None:
    """Write the page and let its fragments refresh themselves."""
    pace = pace or Pace()
    st.set_page_config(page_title="Stream and batch", page_icon="📈", layout="wide")
    st.html(_STYLE)
    settings = load()
    reader = reader_of(settings.data_dir, pace)
    comparer = comparer_of(settings.data_dir, float(settings.batch_interval_seconds), pace)
    with st.container(key="header"):
        st.fragment(write_header, run_every=pace.header)(settings, reader)
    write_choices()
    st.fragment(write_results, run_every=pace.results)(settings, reader, comparer)
    st.fragment(write_comparison, run_every=pace.comparison)(comparer)
    st.fragment(write_records, run_every=pace.records)(settings, reader)


def chosen_span() -> str:
    """Return the name of the span that the viewer has chosen."""
    chosen = st.session_state.get("span")
    return chosen if chosen in candles.SPANS else candles.DEFAULT_SPAN


def write_header(settings: Settings, reader: Reader) -> None:
    """Write the header. It stays in view."""
    snapshot = reader.snapshot()
    settings = settings_table.in_use(snapshot.services, settings)
    shown = market.market(snapshot, chosen_span(), settings)
    st.session_state["beat"] = not st.session_state.get("beat")
    st.html(header.html(header.header(snapshot, shown, settings, beat=st.session_state["beat"])))


def write_choices() -> None:
    """Write the buttons for the time range and the links to the sections."""
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
        elements.links(SECTIONS)


# Each part always writes the same elements in the same order, empty ones too: see `elements`.


# --- results --------------------------------------------------------------------------------


def write_results(settings: Settings, reader: Reader, comparer: Comparer) -> None:
    """Write the newest results of both paths, and the findings of the comparison."""
    snapshot = reader.snapshot()
    refused = filter(None, [refusal(DataDir(settings.data_dir), settings)])
    settings = settings_table.in_use(snapshot.services, settings)
    problems = (*refused, *snapshot.problems)
    elements.alert("  \n".join(problems), "error")
    elements.caption(snapshot.reading)
    latest = comparer.latest(chosen_span())
    write_findings(latest, snapshot.taken_at)
    shown = market.market(snapshot, chosen_span(), settings)
    left, right = st.columns([11, 9], gap="medium")
    with left:
        write_market(snapshot, shown, settings)
    with right:
        write_side_by_side(snapshot, settings, latest)


def write_findings(latest: LatestComparison, now: datetime) -> None:
    """Write a box for each finding of the comparison, and how old they are."""
    findings = comparison_texts.findings(latest)
    with st.container(key="findings"):
        for column, found in zip(st.columns(len(findings), gap="small"), findings, strict=True):
            with column:
                level = comparison_texts.LEVELS[found.kind]
                elements.finding(found.title, found.short, found.sentence, level)
    elements.caption(comparison_texts.age(latest, now))
    elements.alert(comparison_texts.problem(latest, now), "warning")


def write_market(snapshot: Snapshot, shown: market.Market, settings: Settings) -> None:
    """Write the price chart."""
    elements.section("Market (stream)")
    average = number(snapshot.batch_run.get("avg_price"))
    elements.alert(market.empty_state(snapshot))
    elements.caption(market.how_to_read(shown, average))
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


def write_side_by_side(snapshot: Snapshot, settings: Settings, latest: LatestComparison) -> None:
    """Write the newest results of both paths as a table."""
    elements.section("Stream and batch side by side")
    shared = latest.data.shared if latest.data else None
    elements.alert(results_table.empty_state(snapshot))
    elements.caption(results_table.how_to_read(snapshot.batch_run, shared))
    columns = results_table.columns(snapshot, settings)
    minus = results_table.difference(*columns[-2:])
    elements.table(
        results_table.heads(columns, minus),
        results_table.rows(columns, minus),
        "Newest results of both paths",
        key="side-by-side",
    )


# --- comparison -----------------------------------------------------------------------------

#: The sections of the comparison, by their keys: a row of the page each.
ROWS = (
    ("frontier",),
    ("agreement",),
    ("freshness", "latency"),
    ("detection", "watermark"),
    ("completeness",),
    ("growth", "micro_batches"),
    ("cost", "metrics"),
    ("overview",),
)


def write_comparison(comparer: Comparer) -> None:
    """Write the comparison of both paths."""
    latest = comparer.latest(chosen_span())
    elements.section("Comparison")
    elements.caption(comparison_texts.section_caption(latest, times.now()))
    with st.container():
        if latest.data is not None:
            by_key = {section.key: section for section in latest.data.sections}
            for keys in ROWS:
                for key, column in zip(keys, st.columns(len(keys), gap="medium"), strict=True):
                    with column:
                        write_comparison_section(by_key[key], latest.data.figures)


def write_comparison_section(section: Section, figures: Figures) -> None:
    """Write a section of the comparison: heading, chart and tables."""
    elements.subsection(section.title, section.how_to_read)
    elements.caption("\n".join(section.lines))
    if section.key in comparison_charts.CHARTS:
        chart = comparison_charts.CHARTS[section.key](figures)
        write_chart(chart, section.key, section.figure_alt)
        elements.caption(section.figure_note if chart else "")
    for place, table in enumerate(section.tables):
        elements.titled_table(table, key=f"{section.key}-table-{place}")


def write_chart(chart: Chart | None, key: str, alt: str) -> None:
    """Write a chart, or an empty place."""
    with st.container(key=f"{key}-chart"):
        if chart is not None:
            st.vega_lite_chart(chart.with_data, key=key, alt=alt)


# --- records --------------------------------------------------------------------------------


def write_records(settings: Settings, reader: Reader) -> None:
    """Write counts, tables, services, rejected messages, the report's buttons and the settings."""
    snapshot = reader.snapshot()
    used = settings_table.in_use(snapshot.services, settings)
    shown = market.market(snapshot, chosen_span(), used)
    left, right = st.columns(2, gap="medium")
    with left:
        write_counts(snapshot, shown)
    with right:
        write_durations(snapshot)
    write_alerts(snapshot)
    write_windows(snapshot, settings)
    write_runs(snapshot)
    write_services(snapshot)
    write_rejected(snapshot)
    write_report()
    with st.expander("Settings, machine and versions"):
        elements.caption(settings_table.HOW_TO_READ)
        elements.table(
            ("setting", "value", "meaning"),
            settings_table.setting_rows(snapshot.services, settings),
            "Settings",
            key="settings",
        )
        machine = settings_table.machine_rows(snapshot.services)
        elements.table(
            ("machine and versions", "value"),
            machine or [("machine and versions", DASH)],
            "Machine and versions",
            key="machine",
        )


def write_counts(snapshot: Snapshot, shown: market.Market) -> None:
    """Write the trades that each path counted."""
    elements.section("Trades counted by each path")
    elements.caption(f"{market.counts_summary(snapshot)} {market.counts_how_to_read(shown)}")
    batch = market.batch_counts(snapshot, chosen_span(), shown)
    chart = None
    if len(shown.candles) or len(batch):
        chart = market_charts.counts_chart(shown.candles, batch, shown.width)
    write_chart(chart, "counts", "Trades over time in the stream and in the batch")


def write_durations(snapshot: Snapshot) -> None:
    """Write how long the batch runs took."""
    elements.section("Batch run time by part")
    elements.caption(snapshot.runs.derived("durations", None, tables.durations_caption))
    chart = None
    if len(snapshot.runs.frame):
        chart = snapshot.runs.derived(
            "chart",
            None,
            lambda runs: market_charts.duration_chart(runs.tail(tables.MAX_RUN_BARS)),
        )
    write_chart(chart, "durations", "Run time of each batch run, by part")


def write_alerts(snapshot: Snapshot) -> None:
    """Write the newest alerts."""
    elements.section("Alerts")
    rows = alerts.rows(*snapshot.alerts, snapshot.taken_at)
    elements.caption(alerts.HOW_TO_READ if rows else alerts.EMPTY)
    with st.container():
        if rows:
            elements.table(alerts.HEADER, rows, "Alerts", key="alerts")


def write_windows(snapshot: Snapshot, settings: Settings) -> None:
    """Write the table of windows and its download."""
    elements.section("Windows of the stream")
    rows, count = tables.window_rows(snapshot, chosen_span())
    elements.caption(tables.windows_caption(snapshot, len(rows), count))
    chosen, first = chosen_span(), tables.first_of_span(snapshot, chosen_span())
    with st.container():
        if rows.empty or first is None:
            return
        st.dataframe(
            rows,
            key="windows",
            hide_index=True,
            height=320,
            column_config=tables.window_columns(rows),
            placeholder=DASH,
            alt="Windows of the stream",
        )
        elements.download(
            "Download all windows of the time range (CSV)",
            f"windows-{chosen.replace(' ', '')}.csv",
            lambda: downloads.windows_in_own_process(DataDir(settings.data_dir), first),
        )


def write_runs(snapshot: Snapshot) -> None:
    """Write the table of batch runs."""
    elements.section("Batch runs")
    rows = snapshot.runs.derived("rows", None, tables.run_rows)
    elements.caption(tables.runs_caption(snapshot))
    with st.container():
        if rows.empty:
            return
        st.dataframe(
            rows,
            key="runs",
            hide_index=True,
            height=250 if len(rows) > 5 else "content",
            column_config=tables.RUN_COLUMNS,
            placeholder=DASH,
            alt="Batch runs",
        )


def write_services(snapshot: Snapshot) -> None:
    """Write a card for each service."""
    elements.section("Services")
    now = snapshot.taken_at
    with st.container(key="services"):
        columns = st.columns(len(snapshot.services), gap="small")
        for column, service in zip(columns, snapshot.services.values(), strict=True):
            with column, st.container(border=True, key=f"service-{service.name}"):
                symbol, color = services.badge(service, now)
                with st.container(horizontal=True, horizontal_alignment="distribute"):
                    st.markdown(f"**{elements.plain(service.name)}**", width="content")
                    state = elements.plain(services.state(service, now))
                    st.badge(f"{symbol} {state}", color=color)
                elements.table(
                    ("field", "value"),
                    services.card_rows(service, now),
                    service.name,
                    key=f"card-{service.name}",
                    hide_header=True,
                )


def write_rejected(snapshot: Snapshot) -> None:
    """Write the rejected messages."""
    elements.section("Rejected messages")
    elements.caption(services.rejected_caption(snapshot.services))
    with st.container(key="rejected-table"):
        rejected = services.rejected_rows(snapshot.services)
        if len(rejected):
            # Not `st.table`: it would render the raw messages as Markdown.
            st.dataframe(
                rejected,
                key="rejected",
                hide_index=True,
                column_config={services.MESSAGE: st.column_config.TextColumn(width="large")},
                alt="Rejected messages",
            )


def write_report() -> None:
    """Write the buttons that make and download the report."""
    elements.section("Report")
    elements.caption(downloads.HOW_TO_READ)
    elements.alert(downloads.failure(downloads.reports().problem, times.now()), "error")
    last = candles.SPANS[chosen_span()]
    with st.container(horizontal=True):
        elements.download(
            "Download report (HTML)", "report.html", lambda: downloads.reports().html(last)
        )
        elements.download(
            "Download report and figures (ZIP)",
            "report.zip",
            lambda: downloads.reports().archive(last),
        )


if __name__ == "__main__":
    main()
