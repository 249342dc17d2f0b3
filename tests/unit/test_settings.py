"""The settings: defaults, valid values and invalid ones."""

import os
import subprocess
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.settings import Settings, load, parse_duration

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name.upper() for name in Settings.model_fields]
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the developer's own environment."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_are_those_of_the_design(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert settings.feed_url == "wss://ws-feed.exchange.coinbase.com"
    assert settings.product_id == "BTC-USD"
    assert settings.kafka_topic == "raw_prices"
    assert settings.rejected_topic == "raw_prices_rejected"
    assert settings.data_dir == tmp_path / "data"
    assert settings.window == settings.watermark == MINUTE
    assert settings.batch_interval_seconds == 600
    assert settings.spark_master == "local[*]"
    assert settings.volatility_range == Decimal(50)
    assert settings.sentiment_ratio == Decimal("1.2")
    assert settings.spike_volume == Decimal(100)
    assert settings.shuffle_partitions == 1
    assert settings.trigger_seconds == 1


GOOD = {
    "FEED_URL": ("ws://127.0.0.1:8765", "ws://127.0.0.1:8765"),
    "FEED_REST_URL": ("http://127.0.0.1:8765", "http://127.0.0.1:8765"),
    "BACKFILL_SECONDS": ("0", 0.0),
    "PRODUCT_ID": ("ETH-EUR", "ETH-EUR"),
    "KAFKA_BOOTSTRAP_SERVERS": ("a:9092,b:9092", "a:9092,b:9092"),
    "KAFKA_TOPIC": ("prices.v2", "prices.v2"),
    "DATA_DIR": ("/srv/crypto", Path("/srv/crypto")),
    "WINDOW": ("30 seconds", timedelta(seconds=30)),
    "WATERMARK": ("2 hours", timedelta(hours=2)),
    "BATCH_INTERVAL_SECONDS": ("0.5", 0.5),
    "SPARK_MASTER": ("local[2]", "local[2]"),
    "VOLATILITY_RANGE": ("0.00000001", Decimal("0.00000001")),
    "SENTIMENT_RATIO": ("1", Decimal(1)),
    "SPIKE_VOLUME": ("9999999999", Decimal(9999999999)),
    "TICK_TIMEOUT_SECONDS": ("12.5", 12.5),
    "HEARTBEAT_TIMEOUT_SECONDS": ("3", 3.0),
    "MAX_MESSAGE_BYTES": ("1024", 1024),
    "MAX_UNACKNOWLEDGED": ("1", 1),
    "POLL_MAX_RECORDS": ("1", 1),
    "TRIGGER_SECONDS": ("0.25", 0.25),
    "SHUFFLE_PARTITIONS": ("64", 64),
    "MAX_OFFSETS_PER_TRIGGER": ("1", 1),
    "STREAM_MEMORY": ("512m", "512m"),
    "BATCH_MEMORY": ("2g", "2g"),
    "BATCH_PARTITIONS": ("8", 8),
    "BATCH_TIMEOUT_SECONDS": ("90", 90.0),
    "JAVA_HOME": ("/opt/java", Path("/opt/java")),
    "LOG_LEVEL": ("DEBUG", "DEBUG"),
}


def test_every_setting_has_an_example_here() -> None:
    assert sorted(GOOD) == sorted(NAMES)


@pytest.mark.parametrize("name", GOOD)
def test_a_valid_value_is_read_from_the_variable_of_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = GOOD[name]
    monkeypatch.setenv(name, text)
    assert getattr(load(), name.lower()) == value


@pytest.mark.parametrize("name", GOOD)
def test_an_empty_variable_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unset = load()
    monkeypatch.setenv(name, "")
    assert load() == unset


BAD = [
    *(("FEED_URL", value) for value in ("http://example.com", "ws://", "example.com")),
    *(("PRODUCT_ID", value) for value in ("btc-usd", "BTCUSD", "BTC-", "BTC-USD\n")),
    *(("KAFKA_TOPIC", value) for value in ("a b", "raw/prices", "x" * 201, "ä")),
    *(("WINDOW", value) for value in ("0 seconds", "25 hours", "1minute", "1.5 minutes", "60")),
    *(
        ("WINDOW", value)
        for value in ("-1 minute", "1 day", "one minute", "\u0661 minute", "1 minutess")
    ),
    ("WATERMARK", "0 minutes"),
    ("WATERMARK", "86401 seconds"),
    *(("BATCH_INTERVAL_SECONDS", value) for value in ("0", "-1", "soon", "nan", "inf")),
    *(("VOLATILITY_RANGE", value) for value in ("0", "-50", "NaN", "Infinity", "10000000000", "x")),
    *(
        ("SENTIMENT_RATIO", value)
        for value in ("0.99", "NaN", "Infinity", "1000000", "1." + "2" * 40)
    ),
    *(("SPIKE_VOLUME", value) for value in ("0", "-1", "sNaN", "1e10")),
    *(("TICK_TIMEOUT_SECONDS", value) for value in ("0", "nan", "inf")),
    *(("HEARTBEAT_TIMEOUT_SECONDS", value) for value in ("0", "inf")),
    *(("MAX_MESSAGE_BYTES", value) for value in ("1023", "900001", "1e4", "64k")),
    ("MAX_UNACKNOWLEDGED", "0"),
    ("POLL_MAX_RECORDS", "0"),
    *(("TRIGGER_SECONDS", value) for value in ("0", "-1", "inf")),
    *(("SHUFFLE_PARTITIONS", value) for value in ("0", "65", "1.5")),
    ("MAX_OFFSETS_PER_TRIGGER", "0"),
    *(("STREAM_MEMORY", value) for value in ("640", "0m", "1 g", "1G", "m")),
    ("BATCH_MEMORY", "1t"),
    *(("BATCH_PARTITIONS", value) for value in ("0", "65")),
    *(("BATCH_TIMEOUT_SECONDS", value) for value in ("0", "inf")),
    *(("LOG_LEVEL", value) for value in ("debug", "TRACE")),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_an_invalid_value_ends_the_process_with_a_line_that_names_the_variable(
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as exit_:
        load()
    assert exit_.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"setting {name}={value!r} is invalid: ")
    assert output.err.count("\n") == 1


def test_each_invalid_setting_gives_one_line() -> None:
    bad = {"WINDOW": "soon", "MAX_MESSAGE_BYTES": "12"}
    run = subprocess.run(
        [sys.executable, "-c", "from pipeline.settings import load; load()"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | bad,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert [line.split(" is invalid: ")[0] for line in lines] == [
        "setting WINDOW='soon'",
        "setting MAX_MESSAGE_BYTES='12'",
    ]


def test_settings_cannot_be_changed() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.product_id = "ETH-USD"


def test_a_relative_data_dir_is_relative_to_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", "here/data")
    assert load().data_dir == tmp_path / "here" / "data"


def test_other_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load()
    monkeypatch.setenv("WINDOWS", "none of ours")
    assert load() == before


@given(
    number=st.integers(1, 999_999),
    unit=st.sampled_from(["second", "minute", "hour"]),
    plural=st.sampled_from(["", "s"]),
)
def test_a_duration_is_a_whole_number_and_a_unit(number: int, unit: str, plural: str) -> None:
    seconds = {"second": 1, "minute": 60, "hour": 3600}[unit] * number
    assert parse_duration(f"{number} {unit}{plural}") == timedelta(seconds=seconds)


@given(st.text(max_size=12))
def test_any_other_text_is_not_a_duration(text: str) -> None:
    words = text.split()
    looks_right = len(words) == 2 and words[1].rstrip("s") in {"second", "minute", "hour"}
    if not looks_right:
        with pytest.raises(ValueError, match="such as '1 minute'"):
            parse_duration(text)
