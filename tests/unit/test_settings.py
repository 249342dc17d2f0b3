"""The settings: defaults, valid values and invalid ones."""

import os
import subprocess
import sys
import threading
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.durations import json_duration, parse_duration
from pipeline.settings import Settings, changed, load, setting_text

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
    "KAFKA_SECURITY_PROTOCOL": ("SASL_SSL", "SASL_SSL"),
    "KAFKA_SASL_MECHANISM": ("PLAIN", "PLAIN"),
    "KAFKA_CREDENTIALS_FILE": ("/etc/kafka/user", Path("/etc/kafka/user")),
    "KAFKA_CA_FILE": ("/etc/kafka/ca.pem", Path("/etc/kafka/ca.pem")),
    "DATA_DIR": ("/srv/crypto", Path("/srv/crypto")),
    "STORE_URL": ("postgresql://me@db.example/prices", "postgresql://me@db.example:5432/prices"),
    "STORE_PASSWORD_FILE": ("/run/secrets/store", Path("/run/secrets/store")),
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
    "BATCH_MODE": ("incremental", "incremental"),
    "BATCH_PARTITIONS": ("8", 8),
    "BATCH_TIMEOUT_SECONDS": ("90", 90.0),
    "RETENTION_DAYS": ("30", 30),
    "KAFKA_REPLICATION_FACTOR": ("3", 3),
    "KAFKA_MIN_INSYNC_REPLICAS": ("2", 2),
    "SPARK_DRIVER_HOST": ("stream.example.com", "stream.example.com"),
    "SPARK_DRIVER_BIND_ADDRESS": ("0.0.0.0", "0.0.0.0"),
    "SPARK_CORES_MAX": ("4", 4),
    "SPARK_EXECUTOR_CORES": ("2", 2),
    "SPARK_EXECUTOR_MEMORY": ("2g", "2g"),
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


@pytest.mark.parametrize(("name", "scheme"), [("FEED_URL", "wss"), ("FEED_REST_URL", "https")])
def test_an_address_with_a_password_is_refused_and_shown_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, scheme: str
) -> None:
    monkeypatch.setenv(name, f"{scheme}://user:secret@example.com")
    with pytest.raises(SystemExit):
        load()
    shown = capsys.readouterr().err
    assert "secret" not in shown
    assert "must not contain a user name" in shown


@pytest.mark.parametrize("name", GOOD)
def test_an_empty_variable_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unset = load()
    monkeypatch.setenv(name, "")
    assert load() == unset


BAD = [
    *(("FEED_URL", value) for value in ("http://example.com", "ws://", "example.com", "ws:///x")),
    *(("FEED_URL", f"ws://{value}") for value in ("h:notaport", "h:0", "h:65536", ":80", "h:1:2")),
    *(
        ("FEED_URL", f"wss://{value}")
        for value in ("[::1", "[::zz]:1", "a b", "a\nb", "ä.de", "-h")
    ),
    *(("FEED_URL", f"wss://{value}") for value in ("h/#x", "?x", "h:+1")),
    *(("FEED_REST_URL", f"http{value}") for value in ("://h:x", ":///x", "s://", ":h")),
    *(("STORE_URL", value) for value in ("SQLite", "postgresql://h/db", "data/prices.db")),
    *(("PRODUCT_ID", value) for value in ("btc-usd", "BTCUSD", "BTC-", "BTC-USD\n")),
    *(("KAFKA_TOPIC", value) for value in ("a b", "raw/prices", "ä", ".", "..")),
    ("KAFKA_TOPIC", "__consumer_offsets"),
    *(("KAFKA_SECURITY_PROTOCOL", value) for value in ("ssl", "TLS", "SASL")),
    *(("KAFKA_SASL_MECHANISM", value) for value in ("plain", "GSSAPI", "SCRAM")),
    *(
        ("KAFKA_BOOTSTRAP_SERVERS", value)
        for value in ("host", "host:", ":9092", "host:notaport", "host:0", "host:70000", "a:1,,b:2")
    ),
    *(("KAFKA_BOOTSTRAP_SERVERS", value) for value in (",", "a b:1", "http://a:1", "[::zz]:1")),
    *(("DATA_DIR", value) for value in ("/dev/null", "/dev/null/below", "a\nb", "~nobody-7731/x")),
    *(("SPARK_MASTER", f"spark://{value}") for value in ("", "a", "a:0", "a:1,", "a:65536", ":1")),
    *(("SPARK_DRIVER_HOST", value) for value in ("-a", "a b", "a:1", "http://a")),
    *(("SPARK_CORES_MAX", value) for value in ("0", "all", "1000")),
    *(("SPARK_MASTER", value) for value in ("foo", "local[0]", "local[-1]", "yarn")),
    *(("WINDOW", value) for value in ("0 seconds", "25 hours", "1minute", "1.5 minutes", "60")),
    *(
        ("WINDOW", value)
        for value in ("-1 minute", "1 day", "one minute", "\u0661 minute", "1 minutess")
    ),
    ("WATERMARK", "0 minutes"),
    *(("RETENTION_DAYS", value) for value in ("0", "-1", "1.5", "30 days", "36501")),
    ("WATERMARK", "86401 seconds"),
    *(("BATCH_INTERVAL_SECONDS", value) for value in ("0", "-1", "soon", "nan", "inf")),
    *(("BATCH_INTERVAL_SECONDS", value) for value in ("1e300", "1e-300", "1e9")),
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
    *(("STREAM_MEMORY", value) for value in ("640", "0m", "1 g", "1gb", "m")),
    *(("BATCH_MEMORY", value) for value in ("1t", "511m", "1025g")),
    *(("BATCH_MODE", value) for value in ("Full", "push-down", "full\n")),
    *(("BATCH_PARTITIONS", value) for value in ("0", "65")),
    *(("BATCH_TIMEOUT_SECONDS", value) for value in ("0", "inf")),
    *(("LOG_LEVEL", value) for value in ("TRACE", "WARNINGS", "info ")),
]


#: Values that are wrong for most settings, for a reason of their own.
HOSTILE = [
    *(
        "0",
        "-1",
        "nan",
        "-inf",
        "1e300",
        "1e-300",
        "9" * 400,
        "5" * 5000,
        "0x10",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "1_000",
    ),
    *(
        " ",
        ",",
        ".",
        "..",
        "/",
        "a b",
        "x" * 300,
        "host:notaport",
        "local[*",
        "[",
        "%s",
        "{}",
        "$HOME",
    ),
    *("\n", "a\nb", "\x1b[31m", "\udcff", "ä", "İ", "None", "true", "~", "~nobody-7731/x"),
    *("/dev/null", "/dev/null/x", "1 year", "0 seconds", "http://[", "ws://h:notaport", "*" * 300),
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
    assert output.err.startswith(f"setting {name}={repr(value)[:15]}")  # a longer value is cut
    assert " is invalid: must " in output.err
    assert output.err.count("\n") == 1


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Load invalid settings and return what is printed, which must be one line."""
    with pytest.raises(SystemExit) as exit_:
        load()
    assert exit_.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize(
    "address",
    [
        *("postgres://me@h:1/db", "mysql://me@h/db", "postgresql://me@h", "postgresql://me@h/"),
        *("postgresql://me@h:0/db", "postgresql://me@h:65536/db", "postgresql://me@-h/db"),
        *("postgresql://me@h/a/b", "postgresql://@h/db"),
    ],
)
def test_an_address_of_another_form_is_no_store(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORE_URL", address)
    line = refusal(monkeypatch, capsys)
    assert line.endswith("is invalid: must be sqlite or postgresql://user@host:port/database\n")


@pytest.mark.parametrize(
    "parameters",
    [
        *("sslmode=disable", "sslmode=require", "sslmode=verify-ca&sslrootcert=/etc/ca.pem"),
        "sslrootcert=/etc/my%20ca+1.pem&sslmode=verify-full",
    ],
)
def test_the_address_of_the_store_can_have_parameters_of_tls(
    parameters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE_URL", f"postgresql://me@h/db?{parameters}")
    assert load().store_url == f"postgresql://me@h:5432/db?{parameters}"


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        *(
            (text, "must have only the parameters sslmode and sslrootcert, each at most once")
            for text in ("x=1", "sslmode=require&sslcert=/x", "sslmode=require&sslmode=disable")
        ),
        *(
            (text, "must have sslmode=disable, require, verify-ca or verify-full")
            for text in ("", "sslmode", "sslmode=prefer", "sslmode=Require", "sslrootcert=/x")
        ),
        *(
            (
                f"sslmode=verify-ca{text}",
                "must have sslrootcert=/path/of/a/file with sslmode=verify-ca",
            )
            for text in (
                "&sslrootcert=",
                "&sslrootcert=ca.pem",
                "&sslrootcert=system",
                "&sslrootcert=/a%0a",
            )
        ),
        ("sslmode=verify-full", "must have sslrootcert=/path/of/a/file with sslmode=verify-full"),
        ("sslmode=require&sslrootcert=/x", "must have no sslrootcert with sslmode=require"),
    ],
)
def test_other_parameters_of_the_address_of_the_store_are_refused(
    parameters: str, rule: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORE_URL", f"postgresql://me@h/db?{parameters}")
    assert refusal(monkeypatch, capsys).endswith(f" is invalid: {rule}\n")


def test_a_password_in_the_address_of_the_store_is_refused_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for password in ("secret", "secret:@x", "a/secret", ""):
        monkeypatch.setenv("STORE_URL", f"postgresql://me:{password}@host:5432/prices")
        line = refusal(monkeypatch, capsys)
        assert "must not contain a password: put it into a file, STORE_PASSWORD_FILE" in line
        assert "secret" not in line


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me@host/prices?password=secret",
        "jdbc:postgresql://h/db?user=me&PASSWORD=secret",
        "me:secret@host:5432/db",
        "postgresql:/me:secret@host/db",
    ],
)
def test_a_password_in_an_address_of_another_form_is_not_printed(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORE_URL", address)
    assert "secret" not in refusal(monkeypatch, capsys)


def test_a_long_value_is_cut_so_that_the_reason_stays_near_the_beginning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_TOPIC", "x" * 201)
    line = refusal(monkeypatch, capsys)
    assert line.startswith(f"setting KAFKA_TOPIC='{'x' * 20}… is invalid: must be 1 to 200")


@pytest.mark.parametrize("name", NAMES)
def test_any_value_is_accepted_or_refused_in_one_line_with_what_is_allowed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in HOSTILE:
        monkeypatch.setenv(name, value)
        try:
            accepted = getattr(load(), name.lower())
        except SystemExit:
            line = capsys.readouterr().err
            assert line.count("\n") == 1
            assert line.startswith(f"setting {name}=")
            assert " is invalid: must " in line[:100]
            assert "pattern" not in line
        else:  # a larger number of seconds cannot be waited for
            assert not isinstance(accepted, float) or accepted <= threading.TIMEOUT_MAX


def test_a_folder_below_a_file_is_named_as_such(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("")
    monkeypatch.chdir(tmp_path)  # the default is data
    assert refusal(monkeypatch, capsys) == (
        "setting DATA_DIR='data' is invalid: must be a directory, but it is a file or below a file"
        "\n"
    )


def test_a_tilde_in_data_dir_is_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA_DIR", "~/prices")
    assert load().data_dir == tmp_path / "prices"


def test_spaces_between_broker_addresses_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", " a:1, [::1]:9092 ,b_c.d:65535")
    assert load().kafka_bootstrap_servers == "a:1,[::1]:9092,b_c.d:65535"


# --- GNU screen -------------------------------------------------------------------------------


def test_the_window_number_of_gnu_screen_is_ignored_and_reported_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STY", "4711.pts-0.host")
    monkeypatch.setenv("WINDOW", "0")
    assert load().window == load().window == MINUTE
    assert capsys.readouterr().err.startswith("WINDOW=0 is ignored: it is the window number of")
    assert "WINDOW" not in os.environ  # nor do the processes that are started later see it


def test_in_gnu_screen_a_duration_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STY", "4711.pts-0.host")
    monkeypatch.setenv("WINDOW", "5 minutes")
    assert load().window == 5 * MINUTE


# --- every service and command ----------------------------------------------------------------

PROGRAMS = [
    *("producer.py", "consumer.py", "spark_processor.py", "batch_scheduler.py"),
    *("local.topics", "pipeline.batch.archive", "pipeline.compare", "report"),
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_refuses_invalid_settings_in_one_line(program: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = ended(program, DATA_DIR=tmp_path / "file")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("setting DATA_DIR=")
    assert done.stderr.count("\n") == 1


def test_more_replicas_in_sync_than_replicas_are_refused_before_kafka_is_asked() -> None:
    done = ended("local.topics", KAFKA_MIN_INSYNC_REPLICAS=2)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "KAFKA_MIN_INSYNC_REPLICAS=2 must not be above KAFKA_REPLICATION_FACTOR=1\n"
    )


def test_a_service_refuses_a_folder_that_it_cannot_write_to() -> None:
    """/proc refuses new files, also to root."""
    done = ended("consumer.py", DATA_DIR="/proc")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "setting DATA_DIR='/proc' is invalid: must be writable for this user: "
    )
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_a_service_refuses_a_directory_of_the_system() -> None:
    """Root can write to it."""
    done = ended("consumer.py", DATA_DIR="/usr/share")
    assert done.returncode == 2
    assert done.stderr == (
        "setting DATA_DIR='/usr/share' is invalid: must be a directory of your own, not a system "
        "directory\n"
    )


def ended(program: str, **environment: object) -> subprocess.CompletedProcess[str]:
    """Run a program with this environment to its end."""
    what = [program] if program.endswith(".py") else ["-m", program]
    return subprocess.run(
        [sys.executable, *what],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]} | {name: str(v) for name, v in environment.items()},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


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


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *((name, "2G", "2g") for name in ("SPARK_EXECUTOR_MEMORY", "STREAM_MEMORY")),
        ("BATCH_MEMORY", "640M", "640m"),
        ("LOG_LEVEL", "info", "INFO"),
        ("LOG_LEVEL", "Debug", "DEBUG"),
        *(("LOG_LEVEL", text, "WARNING") for text in ("WARN", "warn", "warning")),
    ],
)
def test_a_heap_size_of_spark_and_a_log_level_of_other_tools_are_accepted(
    name: str, text: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(load(), name.lower()) == value


def test_a_variable_in_small_letters_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("window", "7")
    monkeypatch.setenv("Log_Level", "WARNING")
    settings = load()
    assert settings.window == timedelta(minutes=1)
    assert settings.log_level == "INFO"


def test_only_settings_that_differ_from_their_defaults_are_listed_as_a_variable_accepts_them() -> (
    None
):
    settings = Settings(window=timedelta(minutes=2), batch_interval_seconds=60)
    listed = [text for text in changed(settings) if not text.startswith("DATA_DIR=")]
    assert listed == ["WINDOW=2 minutes", "BATCH_INTERVAL_SECONDS=60"]
    as_json = settings.model_dump(mode="json")
    assert setting_text(as_json["window"]) == "2 minutes"
    for seconds in (1, 59, 60, 90, 3600, 5400, 86_400):
        span = timedelta(seconds=seconds)
        text = setting_text(Settings(window=span).model_dump(mode="json")["window"])
        assert parse_duration(text) == span
    for kept in ("P", "PT", "P-1", "1 minute", "PASSWORD", f"P{10**30}D"):
        assert setting_text(kept) == kept


def test_a_duration_is_read_back_from_a_status_file() -> None:
    for seconds in (1, 59, 60, 90, 3600, 5400, 86_400):
        span = timedelta(seconds=seconds)
        assert json_duration(Settings(window=span).model_dump(mode="json")["window"]) == span
    texts = ("P", "PT", "-PT1M", "1 minute", "60", "NaT", f"PT{10**30}S")
    for other in (*texts, None, 60, [1]):
        assert json_duration(other) is None
