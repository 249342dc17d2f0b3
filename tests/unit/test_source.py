"""A data directory holds one feed, one product, one topic and windows of one length."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline import outputs, source, text_files
from pipeline.data_dir import DataDir
from pipeline.durations import duration_text, parse_duration
from pipeline.errors import OutputError
from pipeline.service import Service
from pipeline.settings import Settings

LIVE = {"kind": "live", "url": "wss://ws-feed.exchange.coinbase.com"}
REPLAY = {"kind": "replay", "recording": "sample.gz", "fingerprint": "ab", "retimed": True}
BTC, ETH = Settings(), Settings(product_id="ETH-USD")
MINUTE = timedelta(minutes=1)
START = datetime(2025, 12, 2, 5, 0, tzinfo=UTC)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "data")


def recorded(data: DataDir) -> dict[str, object]:
    return dict(json.loads(data.source.read_text()))


def write_windows(data: DataDir, length: timedelta, count: int = 1) -> None:
    starts = (START + number * length for number in range(count))
    outputs.write_final_windows(
        data,
        [
            text_files.cells(
                outputs.WINDOW_COLUMNS, {"window_start": at, "window_end": at + length}
            )
            | {"trade_count": "1"}
            for at in starts
        ],
    )


# --- the feed -------------------------------------------------------------------------------


def test_the_same_source_is_accepted_again(data: DataDir) -> None:
    source.claim(data, BTC, REPLAY)
    before = data.source.read_bytes()
    source.claim(data, BTC, dict(reversed(REPLAY.items())))
    assert data.source.read_bytes() == before
    assert json.loads(before) == REPLAY | {"product": "BTC-USD", "topic": "raw_prices"}


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (
            REPLAY,
            LIVE,
            "a replay of sample.gz (re-timed), not the live feed wss://ws-feed.exchange",
        ),
        (LIVE, REPLAY, f"the live feed {LIVE['url']}, not a replay of sample.gz (re-timed)"),
        (
            REPLAY,
            REPLAY | {"retimed": False},
            "a replay of sample.gz (re-timed), not a replay of sample.gz (as recorded)",
        ),
        (REPLAY, REPLAY | {"fingerprint": "cd"}, "DATA_DIR holds another feed: choose another"),
        (LIVE, LIVE | {"url": "wss://elsewhere"}, "not the live feed wss://elsewhere"),
    ],
)
def test_another_source_is_refused_with_what_to_do(
    data: DataDir, first: dict[str, object], second: dict[str, object], sentence: str
) -> None:
    source.claim(data, BTC, first)
    with pytest.raises(OutputError) as refusal:
        source.claim(data, BTC, second)
    said = str(refusal.value)
    assert str(data.root) in said
    assert sentence in said
    assert "DATA_DIR=" in said
    assert "make clean" in said
    assert "\n" not in said


REPEATED = REPLAY | {"repeat_from": "2025-01-01T00:00:01Z", "repeat_s": 3600}


def test_a_directory_of_an_older_version_continues_if_its_replay_sent_the_same_messages(
    data: DataDir,
) -> None:
    """It repeated each recording after whole minutes, and did not record the repetition."""
    source.claim(data, BTC, REPLAY)
    with pytest.raises(
        OutputError, match=r"not a replay of sample.gz \(re-timed, repeated every 61"
    ):
        source.claim(data, BTC, REPEATED | {"repeat_s": 61})
    with pytest.raises(OutputError, match="DATA_DIR holds another feed"):
        source.claim(data, BTC, REPEATED | {"fingerprint": "cd"})
    source.claim(data, BTC, REPEATED)
    assert REPEATED.items() <= recorded(data).items()
    with pytest.raises(OutputError, match="DATA_DIR holds another feed"):
        source.claim(data, BTC, REPEATED | {"repeat_s": 7200})


def test_the_seams_of_a_replay_are_every_start_of_the_recording_in_a_time_range() -> None:
    first = datetime(2025, 1, 1, 0, 0, 1, tzinfo=UTC)
    every = [first + timedelta(seconds=3600) * n for n in range(24)]
    for hours in (0, 1, 5):
        since = first + timedelta(hours=hours)
        last = first + timedelta(hours=8)
        assert source.seams(REPEATED, since, last, 100) == every[hours:9]
        assert source.seams(REPEATED, since - timedelta(days=9), last, 2) == every[7:9]
        assert source.seams(REPEATED, since, since - timedelta(seconds=1), 9) == []
    assert source.seams(REPEATED, first + timedelta(seconds=1), first + timedelta(hours=1), 9) == [
        every[1]
    ]


@pytest.mark.parametrize("every_s", [1, 7, 50, 60, 61, 3600])
@pytest.mark.parametrize("length_s", [1, 10, 60, 3600])
def test_a_window_has_a_seam_if_the_recording_starts_again_after_the_start_of_the_window(
    every_s: int, length_s: int
) -> None:
    """A window that begins with the recording has no jump."""
    repeated = REPEATED | {"repeat_s": every_s}
    began = datetime.fromisoformat(str(REPEATED["repeat_from"]))
    for second in range(-130, 2 * every_s + 10, max(1, every_s // 60)):
        start = began + timedelta(seconds=second)
        end = start + timedelta(seconds=length_s)
        inside = range(second + 1, second + length_s)
        expected = any(other >= 0 and other % every_s == 0 for other in inside)
        assert source.has_seam(repeated, start, end) == expected, second
    assert not source.has_seam(LIVE, began - timedelta(days=1), began + timedelta(days=1))


@pytest.mark.parametrize(
    "other",
    [
        LIVE,
        REPLAY,
        REPEATED | {"repeat_s": 0},
        REPEATED | {"repeat_s": "3600"},
        REPEATED | {"repeat_from": "2025-01-01T00:00:01"},
        REPEATED | {"repeat_from": None},
    ],
)
def test_another_feed_has_no_seams(other: dict[str, object]) -> None:
    assert source.seams(other, START, START + timedelta(days=1), 9) == []


@pytest.mark.parametrize("content", ["{", "", "[]", "\x00"])
def test_a_source_file_that_cannot_be_read_is_refused_and_kept(data: DataDir, content: str) -> None:
    data.root.mkdir()
    data.source.write_text(content)
    with pytest.raises(OutputError, match=r"source\.json.* Move it away: the next start"):
        source.claim(data, BTC, LIVE)
    assert data.source.read_text() == content


# --- the product and the topic --------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "variable", "held"),
    [
        (ETH, "PRODUCT_ID", "BTC-USD"),
        (Settings(kafka_topic="other"), "KAFKA_TOPIC", "raw_prices"),
    ],
)
def test_another_product_or_topic_is_refused_with_what_to_do(
    data: DataDir, other: Settings, variable: str, held: str
) -> None:
    source.claim(data, BTC)
    before = data.source.read_bytes()
    for refuse in (source.claim, source.check):
        with pytest.raises(OutputError) as refusal:
            refuse(data, other)
        said = str(refusal.value)
        assert f"Set {variable}={held}," in said[:110]
        assert str(data.root) in said
        assert "DATA_DIR=" in said
    assert data.source.read_bytes() == before
    source.claim(data, BTC)


def test_a_reader_accepts_a_directory_unless_the_user_named_another_product(data: DataDir) -> None:
    source.claim(data, ETH)
    source.check(data, Settings())  # BTC-USD by default: not the choice of the user
    with pytest.raises(OutputError, match="holds the product ETH-USD"):
        source.check(data, Settings(product_id="BTC-USD"))


def test_a_reader_writes_nothing(data: DataDir) -> None:
    source.check(data, Settings(product_id="ETH-USD", window=MINUTE))
    assert not data.root.exists()


def test_an_old_directory_gets_the_product_of_its_status_files(data: DataDir) -> None:
    data.root.mkdir()
    data.source.write_text(json.dumps(REPLAY))
    outputs.write_status(data, "consumer", {"settings": ETH.model_dump(mode="json")})
    with pytest.raises(OutputError, match="holds the product ETH-USD"):
        source.claim(data, BTC)
    assert recorded(data) == REPLAY | {"product": "ETH-USD", "topic": "raw_prices"}
    source.claim(data, ETH, REPLAY)


@pytest.mark.parametrize("status", ["{", "[]", '{"settings": []}', '{"settings": {}}'])
def test_an_old_directory_without_usable_status_files_continues(data: DataDir, status: str) -> None:
    data.status.mkdir(parents=True)
    data.status_of("producer").write_text(status)
    source.claim(data, ETH)
    assert recorded(data)["product"] == "ETH-USD"


def test_of_two_services_with_different_products_exactly_one_gets_the_directory(
    data: DataDir,
) -> None:
    def attempt(settings: Settings) -> bool:
        try:
            source.claim(data, settings)
        except OutputError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(attempt, [BTC, ETH] * 8))
    btc_has_it = recorded(data)["product"] == "BTC-USD"
    assert claims == [btc_has_it, not btc_has_it] * 8


def test_a_service_refuses_another_product_before_its_work_and_logs_why(data: DataDir) -> None:
    began: list[str] = []
    for settings, status in ((BTC, 0), (ETH, 2)):
        given = settings.model_copy(update={"data_dir": data.root})
        service = Service("consumer", given)
        assert service.run(lambda one, _: began.append(one.settings.product_id)) == status
    assert began == ["BTC-USD"]
    message = outputs.read_status(data, "consumer")["message"]
    assert message.startswith("PRODUCT_ID is ETH-USD, but the data directory holds the product BTC")


def test_an_old_directory_is_not_claimed_by_the_settings_of_a_wrong_start(data: DataDir) -> None:
    outputs.write_status(data, "consumer", {"settings": BTC.model_dump(mode="json")})
    service = Service("consumer", ETH.model_copy(update={"data_dir": data.root}))
    assert service.run(lambda _service, _resources: None) == 2
    assert recorded(data)["product"] == "BTC-USD"


def test_the_id_of_the_topic_is_replaced_and_no_part_of_the_claim(data: DataDir) -> None:
    source.claim(data, BTC, LIVE)
    for topic_id in ("one", "two"):
        source.record_topic_id(data, topic_id)
        assert recorded(data)["topic_id"] == topic_id
        source.claim(data, BTC, LIVE)


# --- the length of the windows --------------------------------------------------------------


def test_a_folder_with_windows_of_another_length_is_refused_with_what_to_do(
    data: DataDir,
) -> None:
    source.check_window(data, MINUTE)
    write_windows(data, MINUTE)
    source.check_window(data, MINUTE)
    with pytest.raises(
        OutputError,
        match=r"WINDOW is 5 minutes, but .* windows of 1 minute\. Set WINDOW='1 minute', or "
        r".*DATA_DIR=.*make clean.*" + re.escape(str(data.root)),
    ):
        source.check_window(data, 5 * MINUTE)
    with pytest.raises(OutputError, match="windows of 1 minute"):
        source.check(data, Settings(window=5 * MINUTE))


@pytest.mark.parametrize(
    ("feed", "text"),
    [
        (LIVE, f"live feed {LIVE['url']}"),
        (REPLAY, "replay of sample.gz, re-timed to the present"),
        (REPLAY | {"retimed": False}, "replay of sample.gz, with its original timestamps"),
        ({"kind": "replay"}, "replay of an unknown recording, re-timed to the present"),
        ({"kind": "other"}, ""),
        ({}, ""),
    ],
)
def test_the_page_and_the_report_describe_a_feed_with_the_same_words(
    feed: dict[str, object], text: str
) -> None:
    assert source.feed_description(feed) == text


def test_a_damaged_row_is_no_window_of_another_length(data: DataDir) -> None:
    write_windows(data, MINUTE, 3)
    (day,) = outputs.stream_files(data)
    header, _, *rest = day.read_text().splitlines()
    day.write_text("\n".join([header, "2025-12-02T05:00:00Z,2025-12-02T05:00:07Z", "x,y", *rest]))
    source.check_window(data, MINUTE)
    day.write_bytes(b"\xff\xfe\x00")
    source.check_window(data, 5 * MINUTE)


@pytest.mark.parametrize("text", ["1 second", "90 seconds", "1 minute", "45 minutes", "24 hours"])
def test_a_duration_is_shown_as_the_setting_is_written(text: str) -> None:
    span = parse_duration(text)
    assert isinstance(span, timedelta)
    assert duration_text(span) == text
