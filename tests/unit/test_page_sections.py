"""What each section of the page shows, from prepared data directories."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest

from page import (
    candles,
    files,
    formatting,
    status,
    tables,
)
from page.charts import market as charts
from page.files import Reader, Snapshot, Table
from page.pace import Pace
from page.sections import alerts, header, market, newest_results, services, settings_table
from pipeline import outputs, times
from pipeline.compare.totals import SharedTotals
from pipeline.data_dir import DataDir
from pipeline.metrics import definitions
from pipeline.settings import Settings
from pipeline.stores.sqlite import SqliteStore
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
SETTINGS = Settings()


@pytest.fixture
def snapshot_of(tmp_path, monkeypatch):
    """Returns the snapshot of a scenario at NOW."""
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 20)
    monkeypatch.setattr(times, "now", lambda: NOW)

    def made(scenario: str) -> Snapshot:
        data = DataDir(tmp_path / scenario)
        page_data.SCENARIOS[scenario](data, NOW)
        return Reader(data, SqliteStore(data.database), Pace()).snapshot()

    return made


class Text(HTMLParser):
    """The text of some HTML, and the elements in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.elements: set[str] = set()
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.elements.add(tag)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def header_of(snapshot: Snapshot, span: str = "1 h") -> str:
    shown = market.market(snapshot, span, SETTINGS)
    return Text(header.html(header.header(snapshot, shown, SETTINGS, beat=True))).text


def test_the_header_of_a_replay_names_the_recording(snapshot_of) -> None:
    text = header_of(snapshot_of("sample"))
    assert "▶ REPLAY SYNTHETIC last trade 0.3 s ago" in text
    assert "replay of data/sample/synthetic_btcusd.jsonl.gz, re-timed to the present" in text
    assert "LIVE" not in text
    assert "12:00:30 UTC" in text


def test_the_header_of_the_live_feed_has_price_and_change(snapshot_of) -> None:
    snapshot = snapshot_of("live")
    price = float(snapshot.services["producer"].part("last_trade")["price"])
    for span, minutes in (("15 min", 15), ("1 h", 60)):
        first = snapshot.finals.frame["open_price"].iloc[-(minutes - 2)]
        expected = f"{price - first:+,.2f} ({(price / first - 1) * 100:+.2f} %)"
        assert f"{expected} in {formatting.age(minutes * 60)}" in header_of(snapshot, span)
    # the windows cover less than the span
    assert "in 3 h 2 min" in header_of(snapshot, "24 h")
    assert "● LIVE" in header_of(snapshot)


@pytest.mark.parametrize(
    ("scenario", "text"),
    [
        (
            "empty",
            f"… WAITING last trade {formatting.DASH} 12:00:30 UTC no service has started yet",
        ),
        ("stale", "! STALE live feed last trade 2 min 7 s ago"),
        ("stale", "connected to the feed, but no trade for 2 min 7 s"),
        ("down", "✕ DOWN live feed"),
        ("down", "no heartbeat from producer for 1 min 35 s"),
        ("down", "! consumer (waiting for Kafka): no connection to Kafka."),
        ("ended", "■ ENDED REPLAY last trade received 12 min ago (event time 2025-12-02"),
        ("stopped_stream", "! STALE live feed last trade 0.3 s ago"),
        ("stopped_stream", "no heartbeat from spark_processor for 3 min"),
        ("starting", "! spark_processor has been starting for 7.0 s"),
        ("starting", "not started yet: batch_scheduler"),
    ],
)
def test_the_header_names_every_state(snapshot_of, scenario, text) -> None:
    assert text in header_of(snapshot_of(scenario))


@pytest.mark.parametrize("scenario", ["down", "stale", "stopped_stream"])
def test_a_reason_that_names_its_cause_does_not_name_it_twice(snapshot_of, scenario) -> None:
    assert "cause:" not in header_of(snapshot_of(scenario))


def test_a_reason_that_does_not_name_its_cause_is_followed_by_it(snapshot_of) -> None:
    text = header_of(snapshot_of("wrong"))
    assert "Correct PRODUCT_ID or FEED_URL · cause: feed" in text


def test_a_reason_that_begins_with_its_cause_does_not_name_it_twice(snapshot_of) -> None:
    snapshot = snapshot_of("live")
    fields = snapshot.services["producer"].fields | {"state": "stopped", "healthy": False}
    stopped = replace(snapshot.services["producer"], fields=fields)
    snapshot = replace(snapshot, services=snapshot.services | {"producer": stopped})
    text = header_of(snapshot)
    assert "✕ DOWN" in text
    assert "producer stopped 0.0 s ago" in text
    assert "cause:" not in text


def test_an_empty_state_names_what_is_missing_and_since_when(snapshot_of) -> None:
    snapshot = snapshot_of("starting")
    assert "spark_processor has been starting" in market.empty_state(snapshot)
    assert "No window yet (waiting for 0.0 s): " in market.empty_state(snapshot)
    assert "batch_scheduler has not started yet" in newest_results.empty_state(snapshot)
    full = snapshot_of("sample")
    assert market.empty_state(full) == newest_results.empty_state(full) == ""


def test_the_header_shows_text_from_data_letter_by_letter(snapshot_of) -> None:
    """A recording's name with tags and Markdown in it."""
    snapshot = snapshot_of("ended")
    shown = market.market(snapshot, "1 h", SETTINGS)
    html = header.html(header.header(snapshot, shown, SETTINGS, beat=True))
    assert page_data.NASTY_NAME in Text(html).text
    assert Text(html).elements <= {"div", "span"}


def table(columns: list[newest_results.Column]) -> dict[str, list[str]]:
    """Return the cells of the table by the label of their row."""
    return {label: cells for label, *cells in newest_results.rows(columns)}


def test_the_windows_of_both_paths_are_compared_whatever_else_a_path_has() -> None:
    """Also where differences cancel out in the totals."""
    rows = [("trade_count", 30, 31, -1.0), ("avg_price", 1.0, 1.0, 0.0)]
    rows += [("vwap", float("nan"), float("nan"), float("nan"))]
    totals = pd.DataFrame(rows, columns=["metric", "stream", "batch", "difference"])

    def text(windows: int, differing: int, found: pd.DataFrame) -> str:
        return newest_results.shared_windows(SharedTotals(windows, differing, found))

    assert text(7, 2, totals) == (
        "2 of 7 windows in both paths differ. Stream minus batch over all these windows: trades -1."
    )
    same = totals.assign(difference=0.0)
    assert text(7, 1, same).endswith("Stream minus batch over all these windows: no difference.")
    unknown = same.assign(difference=float("nan"))
    assert text(7, 1, unknown).endswith(
        "Stream minus batch over all these windows: no known difference."
    )
    assert text(1, 0, same) == "The 1 window in both paths is identical."
    assert text(7, 0, same) == "All 7 windows in both paths are identical."
    assert newest_results.shared_windows(None) == text(0, 0, totals.iloc[:0]) == ""


def test_a_column_missing_in_an_older_version_is_unknown_everywhere(snapshot_of) -> None:
    """Not 0, not Normal, not Neutral. Other values are shown."""
    snapshot = snapshot_of("older")
    final = newest_results.columns(snapshot)[1]
    for name in ("buy_count", "sell_count", "vwap", "volume_imbalance"):
        assert not formatting.is_known(final.metrics[name])
    assert table([final])["VWAP"] == [formatting.DASH]
    shown = market.market(snapshot, "everything", SETTINGS)
    assert len(shown.candles) == 180 + 2
    coarse = candles.aggregate(snapshot.finals.frame, timedelta(minutes=5), Decimal("1.2"))
    assert coarse.loc[coarse["windows"] > 1, "sentiment"].isna().all()
    assert coarse["buy_count"].isna().all()
    assert coarse["open_price"].isna().all()
    assert coarse["trade_count"].sum() == snapshot.finals.frame["trade_count"].sum()


def test_the_page_uses_the_settings_of_the_stream() -> None:
    """Not those of its own environment, and not broken ones from a status file."""
    runs = Settings(
        window=timedelta(minutes=5), volatility_range=Decimal(80), sentiment_ratio=Decimal("1.5")
    )
    found = publishing(spark_processor={"settings": runs.model_dump(mode="json")})
    used = settings_table.in_use(found, SETTINGS)
    assert used.window == timedelta(minutes=5)
    assert (used.volatility_range, used.sentiment_ratio) == (Decimal(80), Decimal("1.5"))
    assert used.log_level == SETTINGS.log_level
    odd = {"window": [1], "volatility_range": [1], "product_id": [1], "spike_volume": [1]}
    for nonsense in (odd, {"window": "-P1D", "spike_volume": "NaN"}, {"window": "60"}, None):
        found = publishing(spark_processor={"settings": nonsense})
        assert settings_table.in_use(found, SETTINGS) == SETTINGS


def test_the_results_of_both_paths_have_their_ages(snapshot_of) -> None:
    snapshot = snapshot_of("live")
    open_window, final, batch = newest_results.columns(snapshot)
    assert (open_window.first, open_window.last) == ("2026-03-01 12:00:00", "2026-03-01 12:01:00")
    assert open_window.newest_trade == "0.0 s ago"
    assert (final.first, final.last) == ("2026-03-01 11:58:00", "2026-03-01 11:59:00")
    assert final.written == "29 s ago"
    assert batch.metrics["trade_count"] == snapshot.batch_run["rows"]
    assert batch.written == "48 s ago"
    assert set(newest_results.FORMATS) == {*definitions.METRICS, *definitions.FURTHER}
    cells = table([open_window, final, batch])
    assert formatting.price(snapshot.batch_run["avg_price"]) == cells["average price"][2]


def test_a_recording_with_original_timestamps_shows_times_in_place_of_ages(snapshot_of) -> None:
    open_window = newest_results.columns(snapshot_of("ended"))[0]
    assert open_window.newest_trade == "05:07:17"


def test_an_unknown_value_is_a_dash_never_zero(snapshot_of) -> None:
    snapshot = snapshot_of("empty")
    shown = table(newest_results.columns(snapshot))
    assert "0" not in str(list(shown.values()))
    for service in snapshot.services.values():
        assert "0" not in str(services.card_rows(service, NOW))
    assert market.counts_summary(snapshot) == (
        f"Stream: no final window, no open window. Table btc_prices: {formatting.DASH}. "
        "Batch: no result yet."
    )


def test_a_table_that_is_still_being_read_is_not_called_empty(snapshot_of) -> None:
    loading = replace(snapshot_of("empty"), loading=("2026-03-01.csv",))
    assert loading.reading == market.empty_state(loading) == "Reading 2026-03-01.csv."
    assert market.counts_summary(loading).startswith(
        f"Stream: {formatting.DASH} final windows, {formatting.DASH} open windows."
    )
    assert tables.windows_caption(loading, 0, 0, "BTC-USD") == loading.reading
    assert tables.runs_caption(loading) == loading.reading


def test_the_trade_counts_are_those_of_the_files(snapshot_of) -> None:
    snapshot = snapshot_of("sample")
    finals = int(snapshot.finals.frame["trade_count"].sum())
    live = int(snapshot.live["trade_count"].sum())
    assert market.counts_summary(snapshot) == (
        f"Stream: {finals:,} trades in 180 final windows, {live:,} trades in 2 open windows. "
        f"Table btc_prices: 10,921 rows. Batch: {snapshot.batch_run['rows']:,.0f} rows, "
        "read 53 s ago."
    )


def test_both_paths_counts_are_compared_over_the_same_windows(snapshot_of) -> None:
    """Also with wide candles: both begin with the same window."""
    snapshot = snapshot_of("sample")
    finals = snapshot.finals.frame
    shown = market.market(snapshot, "everything", SETTINGS)
    assert shown.end is not None
    coarse = market.Market(
        candles.aggregate(
            candles.since(finals, timedelta(minutes=60), shown.end),
            30 * page_data.MINUTE,
            SETTINGS.sentiment_ratio,
        ),
        30 * page_data.MINUTE,
        frozenset(),
        shown.end,
        timedelta(minutes=60),
        None,
        None,
    )
    batch = market.batch_counts(snapshot, "1 h", coarse)
    assert batch["window_start"].tolist() == coarse.candles["window_start"].tolist()
    assert batch["trade_count"].iloc[0] == coarse.candles["trade_count"].iloc[0]


def test_open_windows_are_marked_in_the_chart(snapshot_of) -> None:
    snapshot = snapshot_of("live")
    shown = market.market(snapshot, "15 min", SETTINGS)
    drawn = charts.price_chart(
        shown.candles, shown.width, shown.open_starts, None, "BTC-USD", seams=()
    )
    data = drawn.data["candles"]
    assert len(data) == 15
    assert data["is_open"].tolist() == [False] * 13 + [True] * 2
    assert data["state"].iloc[-1] == "open"
    assert data["start"].iloc[-1] == datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp() * 1000
    assert (data["end"] - data["start"]).unique().tolist() == [60_000]


def test_the_change_of_the_price_begins_after_the_last_seam_of_a_replay(snapshot_of) -> None:
    """At a seam the recording starts again, so the price jump there is not a market movement."""
    snapshot = snapshot_of("sample")
    shown = market.market(snapshot, "6 h", SETTINGS)
    hours = [datetime(2026, 3, 1, hour, 0, 1, tzinfo=UTC) for hour in (9, 10, 11, 12)]
    assert list(shown.seams) == hours[-len(shown.seams) :]
    assert shown.first_price is None  # the newest window holds the seam
    assert "Vertical line: the recording starts again." in market.how_to_read(shown, None, SETTINGS)
    drawn = charts.price_chart(
        shown.candles, shown.width, shown.open_starts, None, "BTC-USD", seams=shown.seams
    )
    assert drawn.data["seams"]["at"].tolist() == [
        moment.timestamp() * 1000 for moment in shown.seams
    ]
    later = page_data.HOURLY | {"repeat_from": "2025-01-01T00:50:00Z"}
    producer = snapshot.services["producer"]
    moved = replace(producer, fields=producer.fields | {"feed": later})
    snapshot = replace(snapshot, services=snapshot.services | {"producer": moved})
    shown = market.market(snapshot, "1 h", SETTINGS)
    finals = snapshot.finals.frame
    first = finals[finals["window_start"] == pd.Timestamp("2026-03-01T11:50Z")].iloc[0]
    assert shown.first_price == first["open_price"]
    assert shown.covered == timedelta(minutes=11)
    live = market.market(snapshot_of("live"), "6 h", SETTINGS)
    assert live.seams == ()


def test_an_open_window_is_added_to_its_wide_candle(snapshot_of) -> None:
    snapshot = snapshot_of("live")
    wide = 60 * page_data.MINUTE
    finals, ratio = snapshot.finals.frame, SETTINGS.sentiment_ratio
    closed = candles.aggregate(finals, wide, ratio)
    found = market.joined(closed, finals, snapshot.live, wide, ratio)
    total = finals["trade_count"].sum() + snapshot.live["trade_count"].sum()
    assert found["trade_count"].sum() == total
    assert found["window_start"].is_unique


def test_the_drawing_stays_the_same_while_the_data_changes(snapshot_of) -> None:
    """Streamlit would draw a changed drawing again, and the zoom would be lost."""
    snapshot = snapshot_of("live")
    drawings = []
    for span in candles.SPANS:
        shown = market.market(snapshot, span, SETTINGS)
        for average in (None, 1.0, shown.last_price):
            drawn = charts.price_chart(
                shown.candles, shown.width, shown.open_starts, average, "BTC-USD", seams=()
            )
            drawings.append(drawn.specification)
            assert set(drawn.data) == {"candles", "average", "last", "cross", "seams", "once"}
            assert all(len(frame) for frame in drawn.data.values())
    assert all(drawing is drawings[0] for drawing in drawings)


@pytest.mark.parametrize(
    ("changes", "lag"),
    [
        ({}, "5 records"),
        ({"state": "stalled", "healthy": False}, formatting.DASH),  # Kafka does not answer
        ({"state": "stopped"}, formatting.DASH),
        ({"updated": NOW - timedelta(minutes=2)}, formatting.DASH),
    ],
)
def test_the_lag_of_a_stream_that_reads_nothing_is_unknown(
    changes: dict[str, Any], lag: str
) -> None:
    fields = page_data.statuses(NOW, page_data.LIVE)["spark_processor"] | changes
    texts = {
        name: times.iso(value) if isinstance(value, datetime) else value
        for name, value in fields.items()
    }
    found = status.ServiceStatus("spark_processor", texts)
    assert dict(services.card_rows(found, NOW))["lag"] == lag


@pytest.mark.parametrize(
    ("count", "every", "widening"),
    [
        (720, 1, 0.0),  # no space between them
        (12, 97, 4 - 0.7 * 640 / (97 * 11 + 1)),  # 4 pixels wide in all
        (720, 2, 0.7 * 640 / (2 * 719 + 1)),  # up to 0.7 of the distance
    ],
)
def test_candles_that_are_far_apart_are_wide_enough_to_be_seen(
    count: int, every: int, widening: float
) -> None:
    starts = [NOW - timedelta(minutes=every * n) for n in range(count)][::-1]
    found = pd.DataFrame(dict.fromkeys(candles.CANDLE_COLUMNS, 1.0), index=range(count))
    found["window_start"] = pd.to_datetime(starts)
    drawn = charts.price_chart(found, timedelta(minutes=1), frozenset(), None, "BTC-USD", seams=())
    assert drawn.data["candles"]["widening"].unique().tolist() == pytest.approx([widening])


def test_the_average_of_the_batch_is_drawn_only_in_view(snapshot_of) -> None:
    shown = market.market(snapshot_of("live"), "15 min", SETTINGS)
    middle = float(shown.candles["close_price"].mean())

    def shown_at(average: float | None) -> float | None:
        drawn = charts.price_chart(
            shown.candles, shown.width, shown.open_starts, average, "BTC-USD", seams=()
        )
        line = drawn.data["average"].iloc[0]
        return float(line["value"]) if line["shown"] else None

    assert shown_at(middle) == middle
    assert shown_at(1.0) is shown_at(None) is None
    assert f"average price of the batch, {middle:,.2f}" in market.how_to_read(
        shown, middle, SETTINGS
    )
    assert "is below the prices shown" in market.how_to_read(shown, 1.0, SETTINGS)


def test_the_price_chart_is_explained_with_the_thresholds_and_their_currencies(snapshot_of) -> None:
    shown = market.market(snapshot_of("live"), "15 min", SETTINGS)
    used = Settings(
        product_id="ETH-EUR", volatility_range=Decimal("2.5"), spike_volume=Decimal(1000)
    )
    assert market.how_to_read(shown, None, used).endswith(
        "Neutral has no mark. High marks a window with a price range above 2.5 EUR. Spike marks a "
        "window with a volume above 1,000 ETH."
    )


def test_failed_runs_stand_out_and_the_parts_of_the_others_add_up(snapshot_of) -> None:
    runs = snapshot_of("live").runs.frame
    rows = tables.run_rows(runs)
    assert rows["status"].str.startswith("✕").sum() == 2
    assert rows["started"].is_monotonic_decreasing
    drawn = charts.duration_chart(runs)
    parts = drawn.data["parts"]
    assert (parts["part"] == "failed run").sum() == 2
    added = parts.groupby("run")["seconds"].sum().to_numpy()
    assert added == pytest.approx(runs["wall_s"].to_numpy())
    assert set(parts.loc[parts["status"] == "failed", "part"]) == {"failed run"}
    assert "30 runs: 2 failed (✕)." in tables.durations_caption(runs)
    marked = tables.runs_caption(snapshot_of("live"))
    assert marked.endswith("✕ marks a run that failed or timed out. ■ marks a stopped run.")


def test_a_failed_and_a_stopped_run_have_the_same_mark_in_the_table_and_in_the_chart() -> None:
    statuses = ["ok", "no_data", "failed", "timeout", "stopped"]
    marks = ["", "", "✕", "✕", "■"]
    runs = pd.DataFrame(
        [
            {"started": pd.Timestamp(NOW) + timedelta(minutes=n), "status": found, "wall_s": 5.0}
            for n, found in enumerate(statuses)
        ],
        columns=list(outputs.LOG_FIELDS),
    )
    listed = tables.run_rows(runs)["status"].iloc[::-1].tolist()
    assert listed == ["ok", "no_data", "✕ failed", "✕ timeout", "■ stopped"]
    parts = charts.duration_chart(runs).data["parts"]
    assert dict(zip(parts["status"], parts["mark"], strict=True)) == dict(
        zip(statuses, marks, strict=True)
    )
    assert "5 runs: 2 failed (✕), 1 stopped (■)." in tables.durations_caption(runs)


def test_a_run_without_its_split_is_drawn_as_a_whole() -> None:
    runs = pd.DataFrame(
        [{"started": pd.Timestamp(NOW), "status": "ok", "wall_s": 5.0}],
        columns=list(outputs.LOG_FIELDS),
    )
    parts = charts.duration_chart(runs).data["parts"]
    assert parts[["part", "seconds"]].to_numpy().tolist() == [["other", 5.0]]


def test_the_tables_have_the_columns_of_the_files() -> None:
    assert list(tables.RUN_COLUMNS) == list(outputs.LOG_FIELDS)
    left_out = {"window_end", "last_receipt_time"}
    assert set(tables.WINDOW_COLUMNS) == {"state", *outputs.WINDOW_COLUMNS} - left_out


@pytest.mark.parametrize(("lowest", "pattern"), [(89_950.5, "%,.2f"), (0.00002, "%,.8f")])
def test_prices_in_the_table_of_windows_have_thousands_separators_and_enough_decimals(
    lowest: float, pattern: str
) -> None:
    columns = tables.window_columns(pd.DataFrame({"min_price": [lowest, 2 * lowest]}))
    assert list(columns) == list(tables.WINDOW_COLUMNS)
    for name, found in columns.items():
        if name.endswith("_price") or name in ("price_range", "vwap"):
            assert found["type_config"]["format"] == pattern


def test_a_ratio_that_is_rounded_to_zero_has_no_minus_in_the_table(snapshot_of) -> None:
    """The browser writes -0.0001 with three decimals as -0.000."""
    snapshot = snapshot_of("live")
    frame = snapshot.finals.frame.assign(volume_imbalance=-0.0004, range_z=-0.004, volume_z=-1.234)
    rows, _ = tables.window_rows(replace(snapshot, finals=Table(frame)), "15 min")
    final = rows[rows["state"] == "final"].iloc[0]
    assert [str(final[name]) for name in ("volume_imbalance", "range_z", "volume_z")] == [
        "0.0",
        "0.0",
        "-1.23",
    ]


def test_a_span_begins_with_its_first_window(snapshot_of) -> None:
    snapshot = snapshot_of("live")
    assert tables.first_of_span(snapshot, "15 min") == NOW.replace(hour=11, minute=46, second=0)
    rows, count = tables.window_rows(snapshot, "15 min")
    assert count == 15
    caption = tables.windows_caption(snapshot, len(rows), count, "ETH-EUR")
    assert caption.startswith("15 windows in the selected time range. Prices are in EUR, volumes ")
    assert rows["window_start"].iloc[0] == pd.Timestamp(NOW.replace(second=0))
    assert tables.first_of_span(snapshot_of("empty"), "15 min") is None


def publishing(**fields: dict[str, Any]) -> dict[str, status.ServiceStatus]:
    """Return the services, some with these status fields."""
    return {name: status.ServiceStatus(name, fields.get(name, {})) for name in outputs.SERVICES}


@pytest.mark.parametrize(
    ("minutes", "healthy", "is_past"), [(9, True, False), (11, True, True), (11, False, False)]
)
def test_an_error_from_which_a_service_has_recovered_is_shown_as_resolved(
    minutes: int, healthy: bool, is_past: bool
) -> None:
    error = {"time": times.iso(NOW - timedelta(minutes=minutes)), "text": "no broker answers"}
    fields = {"updated": times.iso(NOW), "state": "running", "healthy": healthy}
    found = publishing(consumer=fields | {"last_error": error})["consumer"]
    shown = dict(services.card_rows(found, NOW))["last error"]
    assert shown == ("resolved: " if is_past else "") + f"no broker answers ({minutes} min ago)"


def test_a_card_names_the_counters_and_the_unit_of_each_value() -> None:
    found = {
        name: status.ServiceStatus(name, {**fields, "started": "2026-03-01T11:29:30Z"})
        for name, fields in page_data.statuses(NOW, page_data.LIVE).items()
    }
    shown = {name: dict(services.card_rows(service, NOW)) for name, service in found.items()}
    assert shown["producer"]["counters"] == (
        "reconnects 2, received 11,932, published 10,921, duplicates 1, rejected 2, control "
        "messages 1,008, ignored 0"
    )
    assert shown["spark_processor"]["counters"] == (
        "rows 10,918, late 0, duplicates 1, rejected 0, final windows 29"
    )
    assert shown["batch_scheduler"]["counters"] == "successful runs 28, failed runs 2"
    assert shown["consumer"]["started"] == "2026-03-01 11:29:30 UTC (31 min ago)"
    assert shown["consumer"]["last message"] == "storing trades"
    assert shown["consumer"]["resources"] == (
        "12 CPU seconds since the start; resident memory 61 MiB (peak 64 MiB)"
    )


def test_every_setting_is_shown_with_its_meaning() -> None:
    shown = settings_table.setting_rows(publishing(), SETTINGS)
    rows = {name: (value, meaning) for name, value, meaning in shown}
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    assert rows["WINDOW"][0] == "1 minute"
    assert rows["JAVA_HOME"][0] == "not set"
    assert all(meaning for _, meaning in rows.values())


def test_a_setting_that_services_disagree_on_names_them() -> None:
    """Status files hold JSON. The page's own environment may differ."""
    runs = Settings(batch_interval_seconds=60).model_dump(mode="json")
    odd = runs | {"window": "PT2M", "watermark": "P<b>", "log_level": None}
    found = publishing(producer={"settings": runs}, consumer={"settings": odd})
    rows = {name: value for name, value, _ in settings_table.setting_rows(found, SETTINGS)}
    assert rows["BATCH_INTERVAL_SECONDS"] == "≠ 60 (producer, consumer); 600 (this page)"
    assert rows["WINDOW"] == "≠ 1 minute (producer, this page); 2 minutes (consumer)"
    assert rows["WATERMARK"] == "≠ 1 minute (producer, this page); P<b> (consumer)"
    assert rows["LOG_LEVEL"] == "≠ INFO (producer, this page); not set (consumer)"
    assert rows["KAFKA_TOPIC"] == "raw_prices"


def test_machine_and_versions_are_those_of_the_services() -> None:
    one = {"machine": {"Python": "3.13.1", "SQLite": "3.40.1"}}
    found = publishing(
        producer=one,
        consumer={"machine": {"Python": "3.11.7", "SQLite": "3.40.1"}},
        spark_processor=one | {"java": "21.0.2"},
    )
    assert settings_table.machine_rows(found) == [
        ("Python", "≠ 3.13.1 (producer, spark_processor); 3.11.7 (consumer)"),
        ("SQLite", "3.40.1"),
        ("Java", "21.0.2"),
    ]
    assert settings_table.machine_rows(publishing()) == []


# --- alerts ---------------------------------------------------------------------------------


def alert(minute: int, kind: str, value: str, raised: str) -> dict[str, str]:
    return {
        "window_start": f"2026-03-01T11:{minute:02}:00Z",
        "kind": kind,
        "value": value,
        "threshold": "50" if kind == "High" else "100",
        "newest_trade": raised,
        "raised_at": raised,
    }


def test_each_alert_has_one_row_with_the_time_of_each_path_and_a_mark_for_ten_minutes() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    stream = [
        alert(40, "High", "61.234", "2026-03-01T11:40:09.5Z"),
        alert(49, "Spike", "1200.5", "2026-03-01T11:50:00.1Z"),
    ]
    batch = [
        alert(40, "High", "70", "2026-03-01T11:59:00Z"),
        alert(30, "High", "52", "2026-03-01T11:31:00Z"),
    ]
    found = alerts.rows(stream, batch, now, page_data.LIVE, SETTINGS)
    assert found == [
        ("● new", "2026-03-01 11:49:00", "Spike", "1,200.5 BTC", "100 BTC", "11:50:00", "–"),  # noqa: RUF001
        ("", "2026-03-01 11:40:00", "High", "61.234 USD", "50 USD", "11:40:09", "11:59:00"),
        ("", "2026-03-01 11:30:00", "High", "52 USD", "50 USD", "–", "11:31:00"),  # noqa: RUF001
    ]
    many = [alert(n, "High", "60", "2026-03-01T11:59:00Z") for n in range(50)]
    assert len(alerts.rows(many, [], now, page_data.LIVE, SETTINGS)) == alerts.LISTED
    assert alerts.rows([], [], now, page_data.LIVE, SETTINGS) == []
    assert alerts.how_to_read([]) == alerts.EMPTY
    assert alerts.how_to_read(found).endswith("● new: first shown within the last 10 minutes.")


def test_a_value_next_to_its_threshold_does_not_look_equal_to_it() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    small = alert(40, "High", "0.00040001", "2026-03-01T11:40:09Z") | {"threshold": "0.0004"}
    large = alert(41, "Spike", "1234567890.5", "2026-03-01T11:41:09Z")
    large |= {"threshold": "1234567890"}
    found = alerts.rows([small, large], [], now, page_data.LIVE, SETTINGS)
    assert [row[3:5] for row in found] == [
        ("1,234,567,890.5 BTC", "1,234,567,890 BTC"),
        ("0.00040001 USD", "0.0004 USD"),
    ]


def test_an_alert_of_a_window_in_which_the_recording_starts_again_is_marked() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    stream = [alert(n, "High", "61", f"2026-03-01T11:{n:02}:59Z") for n in (30, 31, 32, 54, 55, 56)]
    # The recording starts again at 11:31:20 and, 1440 s later, at 11:55:20.
    repeated = page_data.replay(repeat_from="2026-03-01T11:31:20Z", repeat_s=1440)
    found = alerts.rows(stream, [], now, repeated, SETTINGS)
    assert [row[0] for row in found] == ["● new", "● new, restart", "● new", "", "restart", ""]
    assert alerts.how_to_read(found).endswith(
        "● new: first shown within the last 10 minutes. restart: the recording starts again in "
        "this window. The jump of the price or the volume there is not a market movement."
    )
    # Windows of five minutes from 11:30 and 11:54 on contain it too.
    wide_windows = Settings(window=timedelta(minutes=5))
    wide = alerts.rows(stream, [], now, repeated, wide_windows)
    new, old = "● new, restart", "restart"
    assert [row[0] for row in wide] == ["● new", new, new, "", old, old]
    as_live = alerts.rows(stream, [], now, {}, SETTINGS)
    assert [row[0] for row in as_live] == ["● new"] * 3 + [""] * 3
