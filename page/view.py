"""The script that Streamlit runs for each viewer: the sections of the page, from top to bottom.

Only this module and `elements.py` write to the page. The other modules return what to write.
"""

from pathlib import Path

import streamlit as st

from page import candles, downloads, elements, header, market, services, settings_table, tables
from page import comparison as comparison_texts
from page import side_by_side as results_table
from page.charts import comparison as comparison_charts
from page.charts import market as market_charts
from page.charts.drawing import Chart
from page.comparison_data import ComparisonData
from page.comparison_worker import Comparer, LatestComparison, comparer_of
from page.files import Reader, Snapshot, reader_of
from page.formatting import DASH, number
from page.pace import Pace
from pipeline import times
from pipeline.outputs import DataDir
from pipeline.settings import Settings, load

#: The links at the top: a word, and the title of the section.
SECTIONS = {
    "Market": "Market by the stream",
    "Comparison": "Comparison",
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
    st.fragment(write_records, run_every=pace.records)(settings, reader, comparer)


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
    """Write the choice of the span and the links to the sections."""
    with st.container(horizontal=True, vertical_alignment="center", key="choices"):
        st.segmented_control(
            "Span of event time",
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
    """Write the newest results of both paths, and what the comparison answers."""
    snapshot = reader.snapshot()
    settings = settings_table.in_use(snapshot.services, settings)
    elements.alert("  \n".join(snapshot.problems), "error")
    loading = f"Reading {', '.join(snapshot.loading)}." if snapshot.loading else ""
    elements.caption(loading)
    latest = comparer.latest(chosen_span())
    write_answers(latest, snapshot)
    shown = market.market(snapshot, chosen_span(), settings)
    left, right = st.columns([11, 9], gap="medium")
    with left:
        write_market(snapshot, shown, settings)
    with right:
        write_side_by_side(snapshot, settings, latest)


def write_answers(latest: LatestComparison, snapshot: Snapshot) -> None:
    """Write a box for each question about the two paths, and how old the answers are."""
    answers = comparison_texts.answers(latest)
    with st.container(key="answers"):
        for column, answer in zip(st.columns(len(answers), gap="small"), answers, strict=True):
            with column:
                level = comparison_texts.LEVELS[answer.kind]
                elements.answer(answer.title, answer.short, answer.sentence, level)
    now = snapshot.taken_at
    elements.caption(comparison_texts.age(latest, now))
    elements.alert(comparison_texts.problem(latest, now), "warning")


def write_market(snapshot: Snapshot, shown: market.Market, settings: Settings) -> None:
    """Write the price chart."""
    elements.section("Market by the stream")
    average = number(snapshot.batch_run.get("avg_price"))
    elements.alert(market.empty_state(snapshot))
    elements.caption(market.how_to_read(shown, average))
    with st.container():
        if shown.candles.empty:
            return
        chart = market_charts.price_chart(
            shown.candles, shown.width, shown.open_starts, average, settings.product_id
        )
        # `on_select` makes Streamlit keep the zoom when the data changes.
        st.vega_lite_chart(
            chart.spec,
            key="price",
            on_select="rerun",
            selection_mode=market_charts.ZOOM,
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


def write_comparison(comparer: Comparer) -> None:
    """Write the comparison of both paths."""
    latest = comparer.latest(chosen_span())
    elements.section("Comparison")
    elements.caption(comparison_texts.section_caption(latest, times.now()))
    with st.container():
        if latest.data is not None:
            write_comparison_parts(latest.data)


def write_comparison_parts(found: ComparisonData) -> None:
    """Write the parts of the comparison."""
    elements.subsection("Agreement", comparison_texts.agreement_caption(found))
    st.html(comparison_texts.legend(found, comparison_charts.VERDICT_COLORS))
    cells = None if found.cells.empty else comparison_charts.strip_chart(found)
    write_chart(cells, "agreement", "Verdicts over time")
    elements.caption(comparison_texts.differing_caption(found))
    with st.container():
        differing = comparison_texts.differing_rows(found)
        if differing:
            elements.table(
                comparison_texts.DIFFERING_HEADS,
                differing,
                "Windows that differ",
                key="differing",
                max_rows=6,
            )
    left, right = st.columns(2, gap="medium")
    with left:
        elements.subsection("Freshness", comparison_texts.ages_caption(found))
        ages = None if found.teeth.empty else comparison_charts.ages_chart(found.teeth)
        write_chart(ages, "ages", "Age of the newest visible trade over time")
        elements.table(
            comparison_texts.AGES_HEADS, comparison_texts.ages_rows(found), "Ages", key="ages-table"
        )
        elements.subsection("Cost", comparison_texts.COST_CAPTION)
        elements.table(
            comparison_texts.COST_HEADS, comparison_texts.cost_rows(found), "Cost", key="cost-table"
        )
    with right:
        elements.subsection("Latency", comparison_texts.STEPS_CAPTION)
        write_chart(comparison_charts.steps_chart(found), "steps", "Latency of each step")
        elements.table(
            comparison_texts.STEPS_HEADS,
            comparison_texts.steps_rows(found),
            "Latency of each step",
            key="steps-table",
        )
        elements.subsection("Completeness", comparison_texts.STAGES_CAPTION)
        write_chart(comparison_charts.stages_chart(found), "stages", "Share kept by each stage")
        elements.table(
            comparison_texts.STAGES_HEADS,
            comparison_texts.stages_rows(found),
            "Completeness",
            key="stages-table",
        )
    left, right = st.columns(2, gap="medium")
    with left:
        elements.subsection("Batch growth", comparison_texts.growth_caption(found))
        grown = None if found.runs.empty else comparison_charts.growth_chart(found)
        write_chart(grown, "growth", "Batch duration by rows")
    with right:
        elements.subsection(
            "Micro-batch duration", comparison_texts.micro_batches_caption(found.steadiness)
        )
        minutes = found.micro_batches
        micro = None if minutes.empty else comparison_charts.micro_chart(minutes)
        write_chart(micro, "micro", "Duration of the micro-batches by minute")
    elements.subsection("Stream and batch in seven aspects", comparison_texts.ASPECTS_CAPTION)
    elements.table(
        tuple(found.aspects.columns),
        [tuple(row) for row in found.aspects.itertuples(index=False)],
        "Aspects",
        key="aspects",
    )


def write_chart(chart: Chart | None, key: str, alt: str) -> None:
    """Write a chart, or an empty place."""
    with st.container(key=f"{key}-chart"):
        if chart is not None:
            st.vega_lite_chart(chart.spec, key=key, alt=alt)


# --- records --------------------------------------------------------------------------------


def write_records(settings: Settings, reader: Reader, comparer: Comparer) -> None:
    """Write counts, tables, services, gaps, the report's buttons and the settings."""
    snapshot = reader.snapshot()
    used = settings_table.in_use(snapshot.services, settings)
    shown = market.market(snapshot, chosen_span(), used)
    left, right = st.columns(2, gap="medium")
    with left:
        write_counts(snapshot, shown)
    with right:
        write_durations(snapshot)
    write_windows(snapshot, settings)
    write_runs(snapshot)
    write_services(snapshot)
    write_gaps_and_rejected(snapshot, comparer.latest(chosen_span()))
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
    with st.container():
        if shown.candles.empty and batch.empty:
            return
        st.vega_lite_chart(
            market_charts.counts_chart(shown.candles, batch, shown.width).spec,
            key="counts",
            alt="Trades over time in the stream and in the batch",
        )


def write_durations(snapshot: Snapshot) -> None:
    """Write how long the batch runs took."""
    elements.section("Batch duration")
    elements.caption(snapshot.runs.derived("durations", None, tables.durations_caption))
    with st.container():
        if snapshot.runs.frame.empty:
            return
        chart = snapshot.runs.derived(
            "chart",
            None,
            lambda runs: market_charts.duration_chart(
                runs.tail(tables.MAX_RUN_BARS), tables.SUCCEEDED
            ),
        )
        st.vega_lite_chart(chart.spec, key="durations", alt="Wall time of each batch run, by part")


def write_windows(snapshot: Snapshot, settings: Settings) -> None:
    """Write the table of windows and its download."""
    elements.section("Windows of the stream")
    rows, count = tables.window_rows(snapshot, chosen_span())
    elements.caption(tables.windows_caption(len(rows), count))
    chosen, first = chosen_span(), tables.first_of_span(snapshot, chosen_span())
    with st.container():
        if rows.empty or first is None:
            return
        st.dataframe(
            rows,
            key="windows",
            hide_index=True,
            height=320,
            column_config=tables.WINDOW_COLUMNS,
            placeholder=DASH,
            alt="Windows of the stream",
        )
        st.download_button(
            "Download all windows of the span (CSV)",
            data=lambda: downloads.windows_in_own_process(DataDir(settings.data_dir), first),
            file_name=f"windows-{chosen.replace(' ', '')}.csv",
            mime="text/csv",
            key="windows-csv",
            on_click="ignore",
        )


def write_runs(snapshot: Snapshot) -> None:
    """Write the table of batch runs."""
    elements.section("Batch runs")
    rows = snapshot.runs.derived("rows", None, tables.run_rows)
    elements.caption(tables.runs_caption(snapshot.runs.frame))
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


def write_gaps_and_rejected(snapshot: Snapshot, latest: LatestComparison) -> None:
    """Write the gaps in the trade ids, and the rejected messages."""
    elements.section("Gaps and rejected messages")
    elements.caption(comparison_texts.gaps_caption(latest.data))
    with st.container():
        rows = comparison_texts.gap_rows(latest.data)
        if rows:
            elements.table(comparison_texts.GAP_HEADS, rows, "Gaps", key="gaps", max_rows=12)
    elements.caption(services.rejected_caption(snapshot.services))
    with st.container():
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
        st.download_button(
            "Download report (HTML)",
            data=lambda: downloads.reports().html(last),
            file_name="report.html",
            mime="text/html",
            key="report",
            on_click="ignore",
        )
        st.download_button(
            "Download report and figures (ZIP)",
            data=lambda: downloads.reports().archive(last),
            file_name="report.zip",
            mime="application/zip",
            key="figures",
            on_click="ignore",
        )


if __name__ == "__main__":
    main()
