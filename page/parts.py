"""The parts of the page below the market, one tab each. Only the open tab is computed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import streamlit as st

from page import candles, downloads, elements, status, tables
from page.charts import comparison as comparison_charts
from page.charts import market as market_charts
from page.charts.chart import Chart
from page.comparison_worker import Comparer, LatestComparison
from page.files import Reader, Snapshot
from page.formatting import DASH
from page.pace import Pace
from page.sections import alerts, market, newest_results, services, settings_table
from page.sections import comparison as comparison_texts
from page.spans import chosen_span, latest_comparison
from pipeline import times
from pipeline.compare.figures import Figures
from pipeline.compare.section import Section
from pipeline.data_dir import DataDir
from pipeline.settings import Settings


@dataclass(frozen=True)
class Sources:
    """What the parts of the page are made from."""

    settings: Settings
    reader: Reader
    comparer: Comparer


# Each part always writes the same elements in the same order, empty ones too: see `elements`.


# --- the comparison -------------------------------------------------------------------------

#: The keys of the comparison's sections in each part. Each inner tuple is one row of the page.
#: `Overview` also shows all sections that no part lists.
ROWS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "Overview": (("frontier",), ("overview",)),
    "Results": (("metrics",),),
    "Agreement": (("agreement",), ("completeness",)),
    "Freshness": (("freshness", "latency"), ("watermark",)),
    "Alerts": (("detection",),),
    "Cost": (("cost",),),
    "Batch run time": (("growth", "micro_batches"),),
}


def rows_of(part: str, sections: Mapping[str, Section]) -> tuple[tuple[str, ...], ...]:
    """Return the keys of a part's sections, a tuple for each row."""
    placed = {key for rows in ROWS.values() for row in rows for key in row}
    others = () if part != "Overview" else tuple((key,) for key in sections if key not in placed)
    return (*others, *ROWS[part])


def write_comparison(latest: LatestComparison, part: str) -> None:
    """Write the sections of the comparison that belong to a part."""
    elements.caption(comparison_texts.section_caption(latest, times.now()))
    with st.container():
        if latest.data is None:
            return
        by_key = {section.key: section for section in latest.data.sections}
        for keys in rows_of(part, by_key):
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


# --- the parts ------------------------------------------------------------------------------


def comparison_only(part: str) -> Callable[[Sources], None]:
    """Return the function that writes a part with nothing but sections of the comparison."""
    return lambda sources: write_comparison(latest_comparison(sources.comparer), part)


def write_results(sources: Sources) -> None:
    """Write the newest results of both paths, and their totals over the same windows."""
    snapshot = sources.reader.snapshot()
    latest = latest_comparison(sources.comparer)
    used = settings_table.in_use(snapshot.services, sources.settings)
    left, right = st.columns(2, gap="medium")
    with left:
        write_newest_results(snapshot, used.product_id)
        write_counts(snapshot, market.market(snapshot, chosen_span(), used))
    with right:
        elements.section("Stream and batch over the same windows")
        shared = latest.data.shared if latest.data else None
        elements.caption(newest_results.shared_windows(shared))
        write_comparison(latest, "Results")


def write_newest_results(snapshot: Snapshot, product: str) -> None:
    """Write the newest results of both paths as a table."""
    elements.section("Newest results")
    elements.alert(newest_results.empty_state(snapshot))
    elements.caption(newest_results.how_to_read(snapshot.batch_run, product))
    columns = newest_results.columns(snapshot)
    elements.table(
        newest_results.heads(columns),
        newest_results.rows(columns),
        "Newest results of both paths",
        key="side-by-side",
    )


def write_all_alerts(sources: Sources) -> None:
    """Write the newest alerts, and how long each path takes to show one."""
    write_alerts(sources.reader.snapshot(), sources.settings)
    write_comparison(latest_comparison(sources.comparer), "Alerts")


def write_run_time(sources: Sources) -> None:
    """Write how long batch runs and micro-batches take."""
    write_comparison(latest_comparison(sources.comparer), "Batch run time")
    snapshot = sources.reader.snapshot()
    write_durations(snapshot)
    write_runs(snapshot)


def write_all_windows(sources: Sources) -> None:
    """Write the table of windows."""
    write_windows(sources.reader.snapshot(), sources.settings)


def write_all_services(sources: Sources) -> None:
    """Write the state of each service, the rejected messages and the settings."""
    snapshot = sources.reader.snapshot()
    write_services(snapshot)
    write_rejected(snapshot)
    with st.expander("Settings, machine and versions"):
        elements.caption(settings_table.HOW_TO_READ)
        elements.table(
            ("setting", "value", "meaning"),
            settings_table.setting_rows(snapshot.services, sources.settings),
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


def write_alerts(snapshot: Snapshot, settings: Settings) -> None:
    """Write the newest alerts."""
    elements.section("Alerts")
    used = settings_table.in_use(snapshot.services, settings)
    repetition = status.repetition(snapshot.services, snapshot.source)
    rows = alerts.rows(*snapshot.alerts, snapshot.taken_at, repetition, used)
    elements.caption(alerts.how_to_read(rows))
    with st.container():
        if rows:
            elements.table(alerts.HEADER, rows, "Alerts", key="alerts")


def write_windows(snapshot: Snapshot, settings: Settings) -> None:
    """Write the table of windows and its download."""
    elements.section("Windows of the stream")
    rows, count = tables.window_rows(snapshot, chosen_span())
    product = settings_table.in_use(snapshot.services, settings).product_id
    elements.caption(tables.windows_caption(snapshot, len(rows), count, product))
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


def write_report(_sources: Sources) -> None:
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


#: The parts in the order of their tabs.
PARTS: Mapping[str, Callable[[Sources], None]] = {
    "Overview": comparison_only("Overview"),
    "Results": write_results,
    "Agreement": comparison_only("Agreement"),
    "Freshness": comparison_only("Freshness"),
    "Cost": comparison_only("Cost"),
    "Batch run time": write_run_time,
    "Alerts": write_all_alerts,
    "Windows": write_all_windows,
    "Services": write_all_services,
    "Report": write_report,
}


def interval_of(part: str, pace: Pace) -> float:
    """Return the seconds between two refreshes of a part."""
    if part == "Results":
        return pace.results
    return pace.comparison if part in ROWS else pace.records
