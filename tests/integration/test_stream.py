"""The streaming path's edge cases: late, repeated and future trades.

The tests share one running chain. Each takes an hour of event time of its own, later than the
hours before it, so that earlier tests do not change what it sees.
"""

import shutil
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

from pipeline.outputs import WINDOW_COLUMNS
from pipeline.text_files import to_csv
from tests.conftest import Broker, Run, running, wait_until
from tests.integration.chain import Chain, new_chain
from tests.integration.made_trades import Topic, counts, message

HOURS = count()
COUNTERS = ("late", "duplicates", "unparsable")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, kafka: Broker) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("stream")
    with running(folder) as run, new_chain(run, folder, kafka, TRIGGER_SECONDS=0.3) as chain:
        chain.start("consumer", "spark_processor")
        yield chain


@pytest.fixture(scope="module")
def topic(chain: Chain) -> Iterator[Topic]:
    writer = Topic(chain)
    yield writer
    writer.close()


class Hour:
    """An hour of event time, and what the chain made of the trades sent in it."""

    def __init__(self, chain: Chain, topic: Topic, number: int) -> None:
        self._chain = chain
        self._topic = topic
        self._number = number
        self._prefix = f"{12 + number:02}:"
        self._rows_before = chain.rows()
        self._counted_before = self._counters()

    def step(self, *trades: bytes) -> None:
        self._topic.step(*trades)

    def trade(self, trade_id: int, at_seconds: float, price: str = "100.00") -> bytes:
        """Return a trade with an event time of this many seconds after the hour."""
        seconds = 3600 * self._number + at_seconds
        return message(1000 * self._number + trade_id, seconds, price)

    def final(self) -> dict[str, str]:
        """Return the trades of each final window, by its start (:MM)."""
        here = counts(self._chain)
        return {start[2:]: n for start, n in here.items() if start.startswith(self._prefix)}

    def rows_of(self, windows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [row for row in windows if row["window_start"][11:].startswith(self._prefix)]

    def rows_stored(self) -> int:
        return self._chain.rows() - self._rows_before

    def counted(self) -> dict[str, int]:
        """Return what the stream has counted since the start of the test."""
        now = self._counters()
        return {name: now[name] - self._counted_before[name] for name in COUNTERS}

    def _counters(self) -> dict[str, int]:
        return {name: self._chain.counter("spark_processor", name) for name in COUNTERS}


@pytest.fixture
def hour(chain: Chain, topic: Topic) -> Hour:
    return Hour(chain, topic, next(HOURS))


def test_late_and_repeated_trades_are_counted_and_do_not_change_final_windows(
    chain: Chain, hour: Hour
) -> None:
    trade = hour.trade
    hour.step(trade(1, 10), trade(2, 20), trade(2, 20))
    hour.step(trade(3, 65), trade(1, 10))  # a repeat in a window that is still open
    hour.step(trade(4, 121))  # one minute (the watermark) after the end of the first window
    wait_until(lambda: ":00" in hour.final(), 30, "the first window is final")
    (first,) = hour.rows_of(chain.final_windows())
    assert (first["trade_count"], first["total_volume"]) == ("2", "1")
    hour.step(trade(5, 30))  # late
    hour.step(trade(6, 122, price="101.5"))
    wait_until(lambda: hour.rows_stored() == 6, 30, "the late trade is stored too")
    assert hour.counted() == {"late": 1, "duplicates": 2, "unparsable": 0}
    assert hour.rows_of(chain.final_windows()) == [first]
    (minute_1, minute_2) = hour.rows_of(chain.open_windows())
    assert (minute_1["trade_count"], minute_2["trade_count"]) == ("1", "2")
    assert minute_2["max_price"] == "101.5"


def test_one_event_from_the_future_closes_no_window(chain: Chain, hour: Hour) -> None:
    hour.step(hour.trade(1, 10))
    century = 100 * 365 * 86_400
    hour.step(hour.trade(2, century))
    hour.step(hour.trade(3, 20))
    (window,) = hour.rows_of(chain.open_windows())
    assert window["trade_count"] == "2"
    assert hour.counted() == {"late": 0, "duplicates": 0, "unparsable": 1}
    assert hour.final() == {}


def test_the_stream_refuses_a_folder_with_windows_of_another_length(
    run: Run, tmp_path: Path, chain: Chain, hour: Hour
) -> None:
    hour.step(hour.trade(1, 10))
    hour.step(hour.trade(2, 200))
    wait_until(lambda: ":00" in hour.final(), 30, "a final window")
    shutil.copytree(chain.data / "stream_csv", tmp_path / "data" / "stream_csv")
    environment = chain.environment | {"DATA_DIR": tmp_path / "data", "WINDOW": "5 minutes"}
    stream = run("spark_processor.py", **environment)
    assert stream.process.wait(30) == 2
    assert "WINDOW is 5 minutes" in stream.text()


def test_an_output_that_cannot_be_continued_ends_the_stream_with_one_sentence(
    run: Run, tmp_path: Path, chain: Chain, hour: Hour
) -> None:
    hour.step(hour.trade(1, 10))
    hour.step(hour.trade(2, 200))
    wait_until(lambda: ":00" in hour.final(), 30, "a final window")
    days = tmp_path / "data" / "stream_csv"
    days.mkdir(parents=True)
    newer = (*WINDOW_COLUMNS, "invented_later")
    (days / "2025-06-01.csv").write_text(to_csv(newer, []))
    stream = run("spark_processor.py", **chain.environment | {"DATA_DIR": tmp_path / "data"})
    assert stream.process.wait(60) == 2
    (line,) = stream.errors()
    assert line.endswith(
        "A newer version wrote stream_csv/2025-06-01.csv. Use that version, or move the file away. "
        "Its columns differ from those of this version."
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_a_heap_above_the_limit_of_memory_ends_the_stream_with_one_sentence(
    run: Run, tmp_path: Path
) -> None:
    """The limit is above what `java -version` reserves: a quarter of the memory as heap."""
    gib = 1024**3
    limit_gib = psutil.virtual_memory().total // gib // 4 + 5
    memory = f"{limit_gib + 1}g"
    stream = run("spark_processor.py", DATA_DIR=tmp_path / "data", STREAM_MEMORY=memory)
    limit = limit_gib * gib
    psutil.Process(stream.pid).rlimit(psutil.RLIMIT_AS, (limit, limit))
    assert stream.process.wait(60) == 2
    (line,) = stream.errors()
    assert line.partition("spark_processor: ")[2].startswith(
        "Java cannot start. The lines above give the cause. If it is memory, decrease "
        f"STREAM_MEMORY={memory}"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full of Linux")
def test_after_a_full_disk_the_same_process_continues_and_every_trade_counts_once(
    chain: Chain, hour: Hour
) -> None:
    hour.step(hour.trade(1, 10))
    (checkpoint,) = (chain.data / "checkpoints").iterdir()
    pid = chain.running["spark_processor"].process.pid
    # The stream writes its state through this file, which a failed write removes.
    (checkpoint / f".open_windows.json.{pid}.tmp").symlink_to("/dev/full")
    hour.step(hour.trade(2, 20), hour.trade(2, 20), hour.trade(3, 65))
    status = chain.status("spark_processor")
    assert status["last_error"]["text"].startswith(
        "No space left on device: free space on the disk of DATA_DIR. The service tries again in "
    )
    assert (status["state"], status["pid"], status["starts"]) == ("running", pid, 1)
    assert [row["trade_count"] for row in hour.rows_of(chain.open_windows())] == ["2", "1"]
    assert hour.counted() == {"late": 0, "duplicates": 1, "unparsable": 0}
