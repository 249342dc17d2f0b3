"""What each part of the page says, from prepared data folders."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest

from page import files as read
from page import formatting as words
from page import markup, present, status, windows
from page.charts import market as charts
from page.files import Reader, Snapshot
from pipeline import metrics, outputs, times
from pipeline.compare.comparison import Shared
from pipeline.outputs import DataDir
from pipeline.settings import Settings
from tests import page_data

NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
SETTINGS = Settings()


@pytest.fixture
def look(tmp_path, monkeypatch):
    """What the page's reader sees of a scenario, at NOW."""
    monkeypatch.setattr(read, "PATIENCE_SECONDS", 20)
    monkeypatch.setattr(times, "now", lambda: NOW)

    def made(scenario: str) -> Snapshot:
        data = DataDir(tmp_path / scenario)
        page_data.SCENARIOS[scenario](data, NOW)
        return Reader(data).look()

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


def top_of(snapshot: Snapshot, span: str = "1 h") -> str:
    shown = present.market(snapshot, span, SETTINGS)
    return Text(markup.top(present.top(snapshot, shown, SETTINGS, beat=True))).text


def test_the_top_of_a_replay_of_the_sample_says_so(look) -> None:
    text = top_of(look("sample"))
    assert "▶ REPLAY SYNTHETIC last trade 0.3 s ago" in text
    assert "a replay of data/sample/synthetic_btcusd.jsonl.gz, re-timed to now" in text
    assert "LIVE" not in text
    assert "12:00:30 UTC" in text


def test_the_top_of_the_live_feed_has_price_and_change_over_the_span(look) -> None:
    snapshot = look("live")
    price = float(snapshot.services["producer"].part("last_trade")["price"])
    for span, minutes in (("15 min", 15), ("1 h", 60)):
        first = snapshot.finals.frame["open_price"].iloc[-(minutes - 2)]
        expected = f"{price - first:+,.2f} ({(price / first - 1) * 100:+.2f} %)"
        assert f"{expected} over {words.age(minutes * 60)}" in top_of(snapshot, span)
    # less than the span is there: what is truly covered is said
    assert "over 3 h 2 min" in top_of(snapshot, "24 h")
    assert "● LIVE" in top_of(snapshot)


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        (
            "empty",
            f"… WAITING last trade {words.DASH} 12:00:30 UTC no service has written a status yet",
        ),
        ("stale", "! STALE live feed last trade 2 min 7 s ago"),
        ("stale", "connected to the feed, but no trade for 2 min 7 s · cause: feed"),
        ("down", "✕ DOWN live feed"),
        ("down", "producer has not been heard of for 1 min 35 s · cause: producer"),
        ("down", "! consumer is waiting for Kafka: KafkaConnectionError"),
        ("ended", "■ ENDED REPLAY last trade received 12 min ago, its own time is 2025-12-02"),
        ("stopped_stream", "! STALE live feed last trade 0.3 s ago"),
        ("stopped_stream", "spark_processor has not been heard of for 3 min · cause: spark_proc"),
        ("starting", "! spark_processor is starting, for 7.0 s so far"),
        ("starting", "not started yet: batch_scheduler"),
    ],
)
def test_every_state_has_its_words(look, scenario, said) -> None:
    assert said in top_of(look(scenario))


def test_what_is_awaited_is_said_with_since_when(look) -> None:
    snapshot = look("starting")
    assert "spark_processor is starting" in present.awaited_windows(snapshot)
    assert "since this page began to look, 0.0 s ago" in present.awaited_windows(snapshot)
    assert "batch_scheduler has not written a status yet" in present.awaited_batch(snapshot)
    full = look("sample")
    assert present.awaited_windows(full) == present.awaited_batch(full) == ""


def test_text_from_data_is_never_markup(look) -> None:
    """A recording's name with tags and Markdown in it stands there letter by letter."""
    snapshot = look("ended")
    shown = present.market(snapshot, "1 h", SETTINGS)
    html = markup.top(present.top(snapshot, shown, SETTINGS, beat=True))
    cards = markup.service_cards(snapshot.services.values(), NOW)
    for part in (html, cards):
        assert page_data.NASTY_NAME in Text(part).text
        assert Text(part).elements <= {"div", "span", "section", "h4", "dl", "dt", "dd"}


def test_no_field_of_any_status_gets_through_unescaped(tmp_path) -> None:
    evil = "<script>x</script><img src=x>"
    fields = dict.fromkeys(("state", "message", "running", "run"), evil) | {
        "healthy": True,
        "updated": NOW.isoformat(),
        "last_error": {"time": NOW.isoformat(), "text": evil},
        "counters": {evil: 5},
        "gaps": {"open": evil, "missing": 3},
        "feed": {"kind": "replay", "recording": evil, "speed": evil},
    }
    services = {name: status.Service(name, fields) for name in status.SERVICES}
    html = markup.service_cards(services.values(), NOW)
    html += markup.notes([evil], "bad")
    html += markup.settings_table([(evil, evil, evil)])
    column = markup.Column(evil, evil, evil, evil, evil, evil, {"market_sentiment": evil})
    html += markup.metrics_table([column], column)
    assert not Text(html).elements & {"script", "img"}


def table(columns: list[markup.Column]) -> str:
    return markup.metrics_table(columns, present.difference(*columns[-2:]))


def column(values: dict[str, Any]) -> markup.Column:
    return markup.Column("Stream", "2 final windows", "", "", "", "", values)


def test_the_difference_is_the_streams_value_less_the_batchs() -> None:
    at = pd.Timestamp(NOW)
    stream: dict[str, Any] = {"trade_count": 30, "avg_price": 100.5, "total_volume": 2.5}
    stream |= {
        "buy_sell_ratio": 1.25,
        "volume_spike": "Normal",
        "market_sentiment": "Bullish",
        "vwap": float("nan"),
    }
    stream |= {"last_trade_time": at - timedelta(seconds=90), "written_at": at}
    batch: dict[str, Any] = {"trade_count": 31, "avg_price": 100.5, "total_volume": 2.25}
    batch |= {
        "buy_sell_ratio": 1.0,
        "volume_spike": "Normal",
        "market_sentiment": "Neutral",
        "vwap": 7.0,
    }
    batch |= {"last_trade_time": at - timedelta(seconds=50), "written_at": at}
    found = present.difference(column(stream), column(batch))
    assert found.metrics == {
        "trade_count": "-1",
        "avg_price": "=",
        "total_volume": "+0.2500",
        "buy_sell_ratio": "+0.250",
        "volume_spike": "=",
        "market_sentiment": "≠",
    }
    assert (found.newest_trade, found.written) == ("40 s older", "=")
    assert found.title == "2 final windows - run"
    row = Text(markup.metrics_table([column(stream), column(batch)], found)).text
    assert f"average by volume {words.DASH} 7.00 {words.DASH}" in row


def test_over_the_windows_in_both_it_is_said_what_differs() -> None:
    """Whatever else one of them holds, and also where differences do not show in the totals."""
    rows = [("trade_count", 30, 31, -1.0), ("avg_price", 1.0, 1.0, 0.0)]
    rows += [("vwap", float("nan"), float("nan"), float("nan"))]
    totals = pd.DataFrame(rows, columns=["metric", "stream", "batch", "difference"])
    said = present.shared_said(Shared(7, 2, totals))
    assert said == "Of the 7 windows in both 2 differ; rolled up: trades -1."
    same = totals.assign(difference=0.0)
    said = present.shared_said(Shared(7, 1, same))
    assert said == "Of the 7 windows in both 1 differ; rolled up: no difference."
    said = present.shared_said(Shared(7, 1, same.assign(difference=float("nan"))))
    assert said.endswith("rolled up: nothing that is known.")
    assert present.shared_said(Shared(7, 0, same)) == "Of the 7 windows in both none differs."
    assert present.shared_said(None) == present.shared_said(Shared(0, 0, totals.iloc[:0])) == ""


def test_what_an_older_version_did_not_write_is_unknown_wherever_it_is_used(look) -> None:
    """Not 0, not Normal, not Neutral; what does not rest on it is there."""
    snapshot = look("older")
    final, whole = present.columns(snapshot, SETTINGS)[1:3]
    for name in ("buy_count", "sell_count", "vwap", "volume_imbalance"):
        assert not words.is_known(final.metrics[name])
        assert not words.is_known(whole.metrics[name])
    for name in ("buy_sell_ratio", "market_sentiment"):
        assert not words.is_known(whole.metrics[name])
    assert whole.metrics["trade_count"] == snapshot.finals.frame["trade_count"].sum()
    assert whole.metrics["volatility_flag"] == "High"
    shown = present.market(snapshot, "everything", SETTINGS)
    assert len(shown.candles) == 180 + 2
    coarse = windows.coarser(snapshot.finals.frame, timedelta(minutes=5), Decimal("1.2"))
    assert coarse.loc[coarse["windows"] > 1, "mood"].isna().all()
    assert coarse["buy_count"].isna().all()
    assert coarse["open_price"].isna().all()
    assert coarse["trade_count"].sum() == whole.metrics["trade_count"]


def test_the_page_counts_by_what_the_stream_runs_with() -> None:
    """Its own environment may say something else, or a status file nonsense."""
    runs = Settings(
        window=timedelta(minutes=5), volatility_range=Decimal(80), sentiment_ratio=Decimal("1.5")
    )
    services = saying(spark_processor={"settings": runs.model_dump(mode="json")})
    found = present.as_run(services, SETTINGS)
    assert found.window == timedelta(minutes=5)
    assert (found.volatility_range, found.sentiment_ratio) == (Decimal(80), Decimal("1.5"))
    assert found.log_level == SETTINGS.log_level
    odd = {"window": [1], "volatility_range": [1], "product_id": [1], "spike_volume": [1]}
    for nonsense in (odd, {"window": "-P1D", "spike_volume": "NaN"}, {"window": "60"}, None):
        services = saying(spark_processor={"settings": nonsense})
        assert present.as_run(services, SETTINGS) == SETTINGS


def test_the_paths_stand_side_by_side_with_their_ages(look) -> None:
    snapshot = look("live")
    forming, final, whole, batch = present.columns(snapshot, SETTINGS)
    assert (forming.first, forming.last) == ("2026-03-01 12:00:00", "2026-03-01 12:01:00")
    assert forming.newest_trade == "0.0 s ago"
    assert (final.first, final.last) == ("2026-03-01 11:58:00", "2026-03-01 11:59:00")
    assert final.written == "29 s ago"
    assert whole.title == "180 final windows"
    assert whole.metrics["trade_count"] == snapshot.finals.frame["trade_count"].sum()
    assert batch.metrics["trade_count"] == snapshot.batch_run["rows"]
    assert batch.written == "48 s ago"
    html = table([forming, final, whole, batch])
    for metric in metrics.METRICS:
        assert any(metric == name for name, _, _ in markup.METRICS), metric
    row = Text(html).text
    assert words.price(snapshot.batch_run["avg_price"]) in row


def test_of_an_old_recording_the_newest_trades_time_stands_instead_of_its_age(look) -> None:
    forming = present.columns(look("ended"), SETTINGS)[0]
    assert forming.newest_trade == "05:07:17"


def test_what_is_unknown_is_a_dash_never_zero(look) -> None:
    snapshot = look("empty")
    shown = Text(table(present.columns(snapshot, SETTINGS))).text
    assert "0" not in shown
    cards = Text(markup.service_cards(snapshot.services.values(), NOW)).text
    assert "0" not in cards
    assert present.counts_sentence(snapshot) == (
        f"Stream: no final window, no open window. Table btc_prices: {words.DASH}. "
        "Batch: no result yet."
    )


def test_the_counts_of_both_paths_are_those_of_the_files(look) -> None:
    snapshot = look("sample")
    finals = int(snapshot.finals.frame["trade_count"].sum())
    live = int(snapshot.live["trade_count"].sum())
    assert present.counts_sentence(snapshot) == (
        f"Stream: {finals:,} trades in 180 final windows, {live:,} trades in 2 open windows. "
        f"Table btc_prices: 10,921 rows. Batch: {snapshot.batch_run['rows']:,.0f} rows in its "
        "snapshot, taken 53 s ago."
    )


def test_both_paths_counts_are_compared_over_the_same_windows(look) -> None:
    """Also where candles are coarse: the batch's are cut at the same first window."""
    snapshot = look("sample")
    finals = snapshot.finals.frame
    shown = present.market(snapshot, "everything", SETTINGS)
    assert shown.end is not None
    coarse = present.Market(
        windows.coarser(
            windows.since(finals, timedelta(minutes=60), shown.end), 30 * page_data.MINUTE
        ),
        30 * page_data.MINUTE,
        frozenset(),
        shown.end,
        timedelta(minutes=60),
        None,
        None,
    )
    batch = present.batch_counts(snapshot, "1 h", coarse)
    assert batch["window_start"].tolist() == coarse.candles["window_start"].tolist()
    assert batch["trade_count"].iloc[0] == coarse.candles["trade_count"].iloc[0]


def test_candles_end_with_the_open_windows_marked(look) -> None:
    snapshot = look("live")
    shown = present.market(snapshot, "15 min", SETTINGS)
    drawn = charts.price_chart(shown.candles, shown.width, shown.forming_starts, None, "BTC-USD")
    data = drawn.data["candles"]
    assert len(data) == 15
    assert data["forming"].tolist() == [False] * 13 + [True] * 2
    assert data["state"].iloc[-1] == "open"
    assert data["start"].iloc[-1] == datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp() * 1000
    assert (data["end"] - data["start"]).unique().tolist() == [60_000]


def test_an_open_window_within_a_coarse_candle_is_added_to_it(look) -> None:
    snapshot = look("live")
    wide = 60 * page_data.MINUTE
    finals, ratio = snapshot.finals.frame, SETTINGS.sentiment_ratio
    candles = present.joined(windows.coarser(finals, wide), finals, snapshot.live, wide, ratio)
    total = finals["trade_count"].sum() + snapshot.live["trade_count"].sum()
    assert candles["trade_count"].sum() == total
    assert candles["window_start"].is_unique


def test_the_drawing_stays_the_same_while_the_data_changes(look) -> None:
    """A changed drawing would be drawn anew, and the zoom be lost."""
    snapshot = look("live")
    drawings = []
    for span in windows.SPANS:
        shown = present.market(snapshot, span, SETTINGS)
        for average in (None, 1.0, shown.last_price):
            drawn = charts.price_chart(
                shown.candles, shown.width, shown.forming_starts, average, "BTC-USD"
            )
            drawings.append(drawn.drawing)
            assert set(drawn.data) == {"candles", "average", "once"}
            assert all(len(frame) for frame in drawn.data.values())
    assert all(drawing is drawings[0] for drawing in drawings)


def test_the_batchs_average_is_drawn_only_where_it_is_in_view(look) -> None:
    shown = present.market(look("live"), "15 min", SETTINGS)
    middle = float(shown.candles["close_price"].mean())

    def shown_at(average: float | None) -> float | None:
        drawn = charts.price_chart(
            shown.candles, shown.width, shown.forming_starts, average, "BTC-USD"
        )
        line = drawn.data["average"].iloc[0]
        return float(line["value"]) if line["shown"] else None

    assert shown_at(middle) == middle
    assert shown_at(1.0) is shown_at(None) is None
    assert f"the batch's average price, {middle:,.2f}" in present.reading(shown, middle)
    assert "lies below what is shown" in present.reading(shown, 1.0)


def test_failed_runs_stand_out_and_the_parts_of_the_others_add_up(look) -> None:
    runs = look("live").runs.frame
    rows = present.run_rows(runs)
    assert rows["status"].str.startswith("✕").sum() == 2
    assert rows["started"].is_monotonic_decreasing
    drawn = charts.duration_chart(runs, present.GOOD_RUNS)
    parts = drawn.data["parts"]
    assert (parts["part"] == "run that failed").sum() == 2
    added = parts.groupby("run")["seconds"].sum().to_numpy()
    assert added == pytest.approx(runs["wall_s"].to_numpy())
    assert set(parts.loc[parts["status"] == "failed", "part"]) == {"run that failed"}
    assert "30 runs, 2 of them not well ended" in present.durations_sentence(runs)


def test_a_run_without_its_split_is_drawn_as_a_whole() -> None:
    runs = pd.DataFrame(
        [{"started": pd.Timestamp(NOW), "status": "ok", "wall_s": 5.0}],
        columns=list(outputs.LOG_FIELDS),
    )
    parts = charts.duration_chart(runs, present.GOOD_RUNS).data["parts"]
    assert parts[["part", "seconds"]].to_numpy().tolist() == [["the rest", 5.0]]


def test_a_span_begins_with_its_first_window(look) -> None:
    snapshot = look("live")
    assert present.first_of_span(snapshot, "15 min") == NOW.replace(hour=11, minute=46, second=0)
    rows, count = present.window_rows(snapshot, "15 min")
    assert count == 15
    assert rows["window_start"].iloc[0] == pd.Timestamp(NOW.replace(second=0))
    assert present.first_of_span(look("empty"), "15 min") is None


def saying(**said: dict[str, Any]) -> dict[str, status.Service]:
    """The services, of which some say something."""
    return {name: status.Service(name, said.get(name, {})) for name in status.SERVICES}


def test_every_setting_is_shown_with_its_meaning() -> None:
    shown = present.setting_rows(saying(), SETTINGS)
    rows = {name: (value, meaning) for name, value, meaning in shown}
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    assert rows["WINDOW"][0] == "1 minute"
    assert rows["JAVA_HOME"][0] == "not set"
    assert all(meaning for _, meaning in rows.values())


def test_settings_are_what_the_services_run_with_and_who_differs_is_named() -> None:
    """What they say is JSON; the page's own environment may be another one."""
    runs = Settings(batch_interval_seconds=60).model_dump(mode="json")
    odd = runs | {"window": "PT2M", "watermark": "P<b>", "log_level": None}
    services = saying(producer={"settings": runs}, consumer={"settings": odd})
    rows = {name: value for name, value, _ in present.setting_rows(services, SETTINGS)}
    assert rows["BATCH_INTERVAL_SECONDS"] == "≠ 60 (producer, consumer); 600 (this page)"
    assert rows["WINDOW"] == "≠ 1 minute (producer, this page); 2 minutes (consumer)"
    assert rows["WATERMARK"] == "≠ 1 minute (producer, this page); P<b> (consumer)"
    assert rows["LOG_LEVEL"] == "≠ INFO (producer, this page); not set (consumer)"
    assert rows["KAFKA_TOPIC"] == "raw_prices"


def test_machine_and_versions_are_what_the_services_say() -> None:
    one = {"machine": {"Python": "3.13.1", "SQLite": "3.40.1"}}
    services = saying(
        producer=one,
        consumer={"machine": {"Python": "3.11.7", "SQLite": "3.40.1"}},
        spark_processor=one | {"java": "21.0.2"},
    )
    assert present.machine_rows(services) == [
        ("Python", "≠ 3.13.1 (producer, spark_processor); 3.11.7 (consumer)"),
        ("SQLite", "3.40.1"),
        ("Java", "21.0.2"),
    ]
    assert present.machine_rows(saying()) == []
    assert words.DASH in markup.machine_table([])
