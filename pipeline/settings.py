"""The settings of all services. No other module reads the environment.

Every setting is optional. It is read from the environment variable of the same name in capitals.
A test compares the table in README.md with this module.
"""

import os
import re
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

_UNITS = {"second": 1, "minute": 60, "hour": 3600}
_DURATION = re.compile(r"([1-9][0-9]{0,5}) (second|minute|hour)s?")
_DAY = timedelta(days=1)


def parse_duration(text: object) -> object:
    """Return the timedelta of a text such as '1 minute', '30 seconds' or '2 hours'.

    Raises:
        ValueError: the text is not a whole number and a unit.
    """
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(str(text).strip())
    if match is None:
        raise ValueError("must be a whole number and a unit, such as '1 minute' or '30 seconds'")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def duration_text(span: timedelta) -> str:
    """Return the text of a whole number of seconds as `parse_duration` reads it: `2 hours`."""
    whole = int(span.total_seconds())
    unit = next(name for name in ("hour", "minute", "second") if whole % _UNITS[name] == 0)
    number = whole // _UNITS[unit]
    return f"{number} {unit}" + ("" if number == 1 else "s")


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]*[mg]$")]


class Settings(BaseSettings):
    """The validated settings; they cannot be changed."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,
        extra="ignore",
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )

    feed_url: str = Field(
        default="wss://ws-feed.exchange.coinbase.com",
        pattern=r"^wss?://.+",
        description="WebSocket address of the exchange or of a replay",
    )
    feed_rest_url: str | None = Field(
        default=None,
        pattern=r"^https?://.+",
        description="Address for missing trades (REST); if unset, the one that belongs to FEED_URL",
    )
    backfill_seconds: float = Field(
        default=86_400,
        ge=0,
        le=604_800,
        description="Age up to which missing trades are recovered, in seconds; 0: recover none",
    )
    product_id: str = Field(
        default="BTC-USD", pattern=r"^[A-Z0-9]+-[A-Z0-9]+$", description="Product to follow"
    )
    kafka_bootstrap_servers: str = Field(
        default="localhost:9092",
        min_length=1,
        description="Addresses of the Kafka brokers, `host:port`, separated by commas",
    )
    kafka_topic: str = Field(
        default="raw_prices",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="Topic of the valid messages; rejected ones go to this name + `_rejected`",
    )
    data_dir: Path = Field(
        default=Path("data"), description="Folder of all outputs (`/app/data` in containers)"
    )
    window: Duration = Field(
        default=timedelta(minutes=1),
        ge=timedelta(seconds=1),
        le=_DAY,
        description="Length of the tumbling event-time windows",
    )
    watermark: Duration = Field(
        default=timedelta(minutes=1),
        ge=timedelta(seconds=1),
        le=_DAY,
        description="How late a trade may be, in event time, to be counted by the stream",
    )
    batch_interval_seconds: float = Field(
        default=600,
        gt=0,
        description="Seconds from the start of one batch run to the start of the next",
    )
    spark_master: str = Field(
        default="local[*]", min_length=1, description="Spark master: where Spark runs its tasks"
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
        default=90, gt=0, description="Seconds without a trade before the producer reconnects"
    )
    heartbeat_timeout_seconds: float = Field(
        default=15, gt=0, description="Seconds without a heartbeat before the producer reconnects"
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
        description="Maximum number of messages that wait for Kafka's acknowledgement",
    )
    poll_max_records: int = Field(
        default=5_000, ge=1, description="Maximum number of records in one SQLite transaction"
    )
    trigger_seconds: float = Field(
        default=1,
        gt=0,
        description="Seconds from the start of one micro-batch to the start of the next",
    )
    shuffle_partitions: int = Field(
        default=1, ge=1, le=64, description="Number of partitions of the stream's state"
    )
    max_offsets_per_trigger: int = Field(
        default=50_000, ge=1, description="Maximum number of Kafka records in one micro-batch"
    )
    stream_memory: Memory = Field(default="640m", description="Java heap of the stream (`-Xmx`)")
    batch_memory: Memory = Field(default="1g", description="Java heap of a batch run (`-Xmx`)")
    batch_partitions: int = Field(
        default=2, ge=1, le=64, description="Number of parallel JDBC reads in a batch run"
    )
    batch_timeout_seconds: float = Field(
        default=1800, gt=0, description="Seconds after which a batch run is ended"
    )
    java_home: Path | None = Field(
        default=None, description="Java runtime for Spark; if unset, the `java` on the PATH"
    )
    log_level: str = Field(
        default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Minimum log level"
    )

    @property
    def rejected_topic(self) -> str:
        return f"{self.kafka_topic}_rejected"


def load() -> Settings:
    """Return the settings from the environment.

    An invalid setting ends the process with status 2, after one line for each invalid setting.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0]).upper()
            reason = problem["msg"].removeprefix("Value error, ")
            given = os.environ.get(name, problem["input"])
            print(f"setting {name}={given!r} is invalid: {reason}", file=sys.stderr)
        sys.exit(2)
    return settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
