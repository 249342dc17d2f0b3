"""The settings of all services. Only this module and `local/` read them from the environment.

`local/` reads some of them itself, because it runs before the settings are loaded.

Every setting is optional. It is read from the environment variable of the same name in capitals.
A test compares the table in README.md with this module.
"""

import os
import re
import stat
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from pipeline.addresses import (
    HOST,
    PORT,
    broker_addresses,
    rest_address,
    store_address,
    websocket_address,
)
from pipeline.durations import duration_text, json_duration, parse_duration

_DAY = timedelta(days=1)
#: Seconds. No interval or time limit needs to be longer than a month.
_MONTH = 31 * 86_400
#: Maximum number of characters before the reason in an error message. A longer value is cut, so
#: that the first 100 characters show what is allowed. But some of the value always stays.
_BEFORE_REASON, _KEPT = 55, 16


# --- valid values of text settings ------------------------------------------------------------


def setting_text(value: object) -> str:
    """Return the value of a setting, as it is or as JSON, in the form that its variable accepts."""
    if value is None:
        return "not set"
    duration = value if isinstance(value, timedelta) else json_duration(value)
    if duration is not None:
        return duration_text(duration)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _at_most_a_day(duration: timedelta) -> timedelta:
    if duration > _DAY:
        raise ValueError("must be from '1 second' to '24 hours'")
    return duration


def _matching(pattern: str, rule: str) -> AfterValidator:
    """Return a validator of a text. The rule is the sentence for a text that does not match."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text, re.ASCII) is None:
            raise ValueError(rule)
        return text

    return AfterValidator(check)


def _heap(text: str) -> str:
    """Return the size of a Java heap in lowercase. Java and Spark also accept `2G`."""
    text = text.lower()
    match = re.fullmatch(r"([1-9][0-9]{0,6})([mg])", text)
    mib = int(match[1]) * (1024 if match[2] == "g" else 1) if match else 0
    if not 512 <= mib <= 1024 * 1024:  # Spark refuses a smaller heap
        raise ValueError("must be a whole number and m (MiB) or g (GiB), from 512m to 1024g")
    return text


def _log_level(text: str) -> str:
    """Return the name of a log level. Other tools use lowercase names, and WARN."""
    level = "WARNING" if text.upper() == "WARN" else text.upper()
    if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return level


def _folder(path: Path) -> Path:
    """Return the absolute path of a directory, which may not exist yet."""
    if re.search(r"[\x00-\x1f\x7f]", str(path)):
        raise ValueError("must not contain control characters")
    path = _absolute(path)
    for folder in (path, *path.parents):
        try:
            mode = folder.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ValueError(f"must be a directory: {error.strerror}") from None
        if not stat.S_ISDIR(mode):
            raise ValueError("must be a directory, but it is a file or below a file")
        break
    return path


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError(
            "must be a path without ~, because the home directory of this user is unknown"
        ) from None


Duration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_at_most_a_day)]
File = Annotated[Path, AfterValidator(_absolute)]
Memory = Annotated[str, AfterValidator(_heap)]
Product = Annotated[
    str,
    _matching(
        "[A-Z0-9]{1,20}-[A-Z0-9]{1,20}",
        "must be two names in capitals and a hyphen, such as BTC-USD",
    ),
]
Topic = Annotated[
    str,
    # Kafka allows 249 characters, and reserves names such as __consumer_offsets.
    _matching(
        r"(?!__|\.{1,2}$)[A-Za-z0-9._-]{1,200}",
        "must be 1 to 200 letters, digits, dots, hyphens or underscores, not '.' or '..', and not "
        "begin with two underscores",
    ),
]
SecurityProtocol = Annotated[
    str,
    _matching(
        "PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL",
        "must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
    ),
]
SaslMechanism = Annotated[
    str,
    _matching("PLAIN|SCRAM-SHA-256|SCRAM-SHA-512", "must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
]
Master = Annotated[
    str,
    _matching(
        rf"local(\[(\*|[1-9][0-9]{{0,2}})\])?|spark://{HOST}:{PORT}(,{HOST}:{PORT})*",
        "must be local, local[N], local[*] or spark://host:port, where N is 1 to 999 cores",
    ),
]
Host = Annotated[str, _matching(HOST, "must be the name or the IPv4 address of a machine")]
LogLevel = Annotated[str, AfterValidator(_log_level)]

BatchMode = Annotated[
    str, _matching("full|pushdown|incremental", "must be full, pushdown or incremental")
]


def rejected_topic_of(topic: str) -> str:
    """Return the dead-letter topic of a topic."""
    return f"{topic}_rejected"


class Settings(BaseModel):
    """The validated settings; they cannot be changed."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    feed_url: Annotated[str, AfterValidator(websocket_address)] = Field(
        default="wss://ws-feed.exchange.coinbase.com",
        description="WebSocket address of the exchange or of a replay",
    )
    feed_rest_url: Annotated[str, AfterValidator(rest_address)] | None = Field(
        default=None,
        description="Address for missing trades (REST); if unset, the one that belongs to FEED_URL",
    )
    backfill_seconds: float = Field(
        default=86_400,
        ge=0,
        le=604_800,
        description="Maximum age of a missing trade that the producer recovers, in seconds; "
        "0: recover none",
    )
    product_id: Product = Field(default="BTC-USD", description="Product to follow")
    kafka_bootstrap_servers: Annotated[str, AfterValidator(broker_addresses)] = Field(
        default="localhost:9092",
        description="Addresses of the Kafka brokers, `host:port`, separated by commas",
    )
    kafka_topic: Topic = Field(
        default="raw_prices",
        description="Topic of the valid messages; rejected ones go to this name + `_rejected`",
    )
    kafka_replication_factor: int = Field(
        default=1, ge=1, le=9, description="For new topics: number of brokers that keep each record"
    )
    kafka_min_insync_replicas: int = Field(
        default=1,
        ge=1,
        le=9,
        description="For new topics: brokers that must have a record before it is acknowledged",
    )
    kafka_security_protocol: SecurityProtocol = Field(
        default="PLAINTEXT",
        description="Connection to Kafka: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
    )
    kafka_sasl_mechanism: SaslMechanism = Field(
        default="SCRAM-SHA-512",
        description="With SASL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
    )
    kafka_credentials_file: File | None = Field(
        default=None,
        description="With SASL: file with two lines, the user name and the password",
    )
    kafka_ca_file: File | None = Field(
        default=None,
        description="With SSL: file with the certificates (PEM) to trust; if unset, those of the "
        "system",
    )
    data_dir: Annotated[Path, AfterValidator(_folder)] = Field(
        default=Path("data"),
        validate_default=True,
        description="Data directory: the place of all outputs (`/app/data` in containers)",
    )
    store_url: Annotated[str, AfterValidator(store_address)] = Field(
        default="sqlite",
        description="Store of the trades: sqlite (a file in DATA_DIR), or "
        "postgresql://user@host:port/database",
    )
    store_password_file: File | None = Field(
        default=None,
        description="With PostgreSQL: file with one line, the password of the user in STORE_URL",
    )
    window: Duration = Field(
        default=timedelta(minutes=1),
        description="Length of the tumbling event-time windows",
    )
    watermark: Duration = Field(
        default=timedelta(minutes=1),
        description="How late a trade may be, in event time, to be counted by the stream",
    )
    batch_interval_seconds: float = Field(
        default=600,
        ge=0.1,
        le=_MONTH,
        description="Seconds from the start of one batch run to the start of the next",
    )
    spark_master: Master = Field(
        default="local[*]", description="Spark master: where Spark runs its tasks"
    )
    spark_driver_host: Host = Field(
        default="127.0.0.1",
        description="On a Spark cluster: address at which the workers reach this service",
    )
    spark_driver_bind_address: Host | None = Field(
        default=None,
        description="On a Spark cluster: address to listen on; if unset, SPARK_DRIVER_HOST",
    )
    spark_cores_max: int = Field(
        default=2,
        ge=1,
        le=999,
        description="On a Spark cluster: cores of the stream, and of each batch run",
    )
    spark_executor_cores: int = Field(
        default=1, ge=1, le=999, description="On a Spark cluster: cores of one executor"
    )
    spark_executor_memory: Memory = Field(
        default="1g", description="On a Spark cluster: Java heap of one executor (`-Xmx`)"
    )
    volatility_range: Decimal = Field(
        default=Decimal(50),
        gt=0,
        lt=10**10,
        decimal_places=8,
        description="Volatility is High if the price range is above this, in quote currency",
    )
    sentiment_ratio: Decimal = Field(
        default=Decimal("1.2"),
        ge=1,
        lt=10**6,
        decimal_places=8,
        description="Sentiment is Bullish if buys > ratio * sells, Bearish if sells > ratio * buys",
    )
    spike_volume: Decimal = Field(
        default=Decimal(100),
        gt=0,
        lt=10**10,
        decimal_places=8,
        description="The volume of a window is a Spike if it is above this, in base currency",
    )

    tick_timeout_seconds: float = Field(
        default=90,
        ge=0.1,
        le=_MONTH,
        description="Seconds without a trade before the producer reconnects",
    )
    heartbeat_timeout_seconds: float = Field(
        default=15,
        ge=0.1,
        le=_MONTH,
        description="Seconds without a heartbeat before the producer reconnects",
    )
    max_message_bytes: int = Field(
        default=65_536,
        ge=1024,
        le=900_000,
        description="Maximum size of a WebSocket message, in bytes; a longer one is rejected",
    )
    max_unacknowledged: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Maximum number of messages that wait for Kafka's acknowledgement",
    )
    poll_max_records: int = Field(
        default=5_000,
        ge=1,
        le=1_000_000,
        description="Maximum number of records in one transaction of the store",
    )
    trigger_seconds: float = Field(
        default=1,
        ge=0.001,
        le=3600,
        description="Seconds from the start of one micro-batch to the start of the next",
    )
    shuffle_partitions: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Number of Spark's shuffle partitions. The stream's state has the same number "
        "of partitions",
    )
    max_offsets_per_trigger: int = Field(
        default=200_000,
        ge=1,
        le=10_000_000,
        description="Maximum number of Kafka records in one micro-batch",
    )
    stream_memory: Memory = Field(default="640m", description="Java heap of the stream (`-Xmx`)")
    batch_memory: Memory = Field(default="1g", description="Java heap of a batch run (`-Xmx`)")
    batch_mode: BatchMode = Field(
        default="full",
        description="How a batch run gets its sums: full, pushdown or incremental",
    )
    batch_partitions: int = Field(
        default=2, ge=1, le=64, description="Number of parallel JDBC reads in a batch run"
    )
    batch_timeout_seconds: float = Field(
        default=1800, ge=1, le=_MONTH, description="Seconds after which a batch run is ended"
    )
    retention_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="Days after which the files in `batch_output/` and the rows of the tables "
        "`ingest`, `latency` and `lags` are deleted; if unset, none are deleted",
    )
    java_home: File | None = Field(
        default=None, description="Java runtime for Spark; if unset, the `java` on the PATH"
    )
    log_level: LogLevel = Field(default="INFO", description="Minimum log level")

    @property
    def rejected_topic(self) -> str:
        return rejected_topic_of(self.kafka_topic)

    @property
    def on_cluster(self) -> bool:
        """Return whether Spark runs its tasks on the workers of a cluster."""
        return is_cluster(self.spark_master)


def currencies(product: str) -> tuple[str, str]:
    """Return the base currency and the quote currency of a product: BTC and USD of `BTC-USD`."""
    base, _, quote = product.partition("-")
    return base, quote


def units_text(product: str) -> str:
    """Return the units of prices and volumes, as a sentence."""
    base, quote = currencies(product)
    return f"Prices are in {quote}, volumes in {base}."


def is_cluster(spark_master: str) -> bool:
    """Return whether this is the address of a Spark cluster."""
    return spark_master.startswith("spark://")


#: The environment variables of all settings.
NAMES = tuple(name.upper() for name in Settings.model_fields)


# --- reading ----------------------------------------------------------------------------------


def changed(settings: Settings) -> list[str]:
    """Return the settings that differ from their defaults, as `NAME=value`."""
    return [
        f"{name.upper()}={setting_text(getattr(settings, name))}"
        for name, field in Settings.model_fields.items()
        if getattr(settings, name) != field.get_default(call_default_factory=True)
    ]


def load() -> Settings:
    """Return the settings from the environment. An empty variable counts as unset.

    An invalid setting ends the process with status 2, after one line for each invalid setting.
    """
    if window := remove_window_of_gnu_screen():
        print(
            f"WINDOW={window} is ignored: it is the window number of GNU screen. To change the "
            "length of the windows, set WINDOW to a duration, such as '1 minute'.",
            file=sys.stderr,
        )
    texts = {name: os.environ.get(name.upper()) for name in Settings.model_fields}
    try:
        settings = Settings.model_validate({name: text for name, text in texts.items() if text})
    except ValidationError as error:
        messages = {str(problem["loc"][0]): problem["msg"] for problem in error.errors()}
        for name, message in messages.items():
            value = texts[name] or Settings.model_fields[name].default
            reason = _number_rule(name) or message.removeprefix("Value error, ")
            print(invalid(name, str(value), reason), file=sys.stderr)
        sys.exit(2)
    return settings


def invalid(name: str, value: str, reason: str) -> str:
    """Return the line about an invalid setting. The reason contains what is allowed."""
    # A password must not get into a log, wherever it is in an address.
    hidden = re.sub("(?s)(//|:).*@", r"\1…@", value)
    shown = repr(re.sub("(?i)(password=)[^&]*", r"\1…", hidden))
    before, after = f"setting {name.upper()}=", " is invalid: "
    room = max(_KEPT, _BEFORE_REASON - len(before + after))
    if len(shown) > room:
        shown = f"{shown[: room - 1]}…"
    return f"{before}{shown}{after}{reason}"


def remove_window_of_gnu_screen() -> str:
    """Remove `WINDOW=0` of GNU screen, also from the environment of processes started later.

    Returns:
        The removed number; "" if there is none.
    """
    window = os.environ.get("WINDOW", "").strip()
    if not (os.environ.get("STY") and window.isdecimal()):
        return ""
    del os.environ["WINDOW"]
    return window


def _number_rule(name: str) -> str | None:
    """Return what a number setting may be; None for any other setting."""
    field = Settings.model_fields[name]
    types = {*get_args(field.annotation), field.annotation} - {type(None)}
    if not types & {int, float, Decimal}:
        return None
    kind = "a whole number" if int in types else "a number"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = {
        word: limit
        for rule in field.metadata
        for attribute, word in words.items()
        if (limit := getattr(rule, attribute, None)) is not None
    }
    if limits.keys() == {"at least", "at most"}:
        allowed = f" from {limits['at least']} to {limits['at most']}"
    else:
        allowed = ", " + " and ".join(f"{word} {limit}" for word, limit in limits.items())
    places = [rule.decimal_places for rule in field.metadata if hasattr(rule, "decimal_places")]
    decimals = "".join(f", with at most {count} decimal places" for count in places)
    return f"must be {kind}{allowed}{decimals}"
