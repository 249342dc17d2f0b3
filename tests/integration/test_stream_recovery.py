"""The stream after damage to its files, and on a topic that was deleted and created again.

The tests share one chain. Each sends the trades of minutes later than those of the tests before.
"""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient

from local import topics
from pipeline.stream.progress import MARGIN_SECONDS
from tests.conftest import Broker, Running, running, wait_until
from tests.integration.chain import Chain, new_chain
from tests.integration.made_trades import Topic, counts, message


def trades_of(*minutes: int) -> list[bytes]:
    """Two trades in minute 0, three in minute 1, and so on."""
    return [
        message(1 + 100 * minute + second, 60 * minute + second)
        for minute in minutes
        for second in range(minute + 2)
    ]


class Market:
    """A chain with a running stream, and the minutes whose trades the topic has."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.topic = Topic(chain)
        #: The next minute without trades.
        self.minute = 0

    @property
    def stream(self) -> Running:
        return self.chain.running["spark_processor"]

    def send(self, minutes: int = 1) -> None:
        """Send all trades of the next minutes."""
        self.topic.send(*trades_of(*range(self.minute, self.minute + minutes)))
        self.minute += minutes

    def final(self, timeout: float, what: str) -> None:
        """Wait until exactly the windows behind the watermark are final, each with all trades."""
        expected = {f"12:{minute:02}": str(minute + 2) for minute in range(self.minute - 2)}
        wait_until(lambda: counts(self.chain) == expected, timeout, what, self.stream)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory, module_kafka: Broker) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("recovery")
    with running(folder) as run, new_chain(run, folder, module_kafka) as chain:
        market = Market(chain)
        chain.start("spark_processor")
        market.send(3)
        market.topic.wait()
        market.send()
        market.final(30, "the first final windows")
        yield market
        market.topic.close()


def becomes_unhealthy(market: Market, cause: str) -> float:
    """Wait until the status names the cause, and return after how many seconds."""
    began = time.monotonic()

    def is_named() -> bool:
        status = market.chain.status("spark_processor")
        return not status["healthy"] and cause in status["message"]

    wait_until(is_named, 40, f"the status names: {cause}", market.stream)
    return time.monotonic() - began


def test_a_suspended_process_is_named_in_the_status_and_nothing_is_lost(market: Market) -> None:
    """Java is suspended first, then Kafka. Both continue afterwards."""
    chain = market.chain
    suspensions = [
        (market.stream.java().send_signal, "Java does not answer"),
        (chain.broker.signal, "Kafka does not answer"),
    ]
    for send_signal, cause in suspensions:
        send_signal(signal.SIGSTOP)
        took = becomes_unhealthy(market, cause)
        assert chain.status("spark_processor")["message"].startswith("no micro-batch for 1")
        send_signal(signal.SIGCONT)
        assert took < 3 * 1 + MARGIN_SECONDS + 7
        market.send()
        market.final(40, "the windows after the suspension")
        is_healthy = lambda: chain.status("spark_processor")["healthy"]  # noqa: E731
        wait_until(is_healthy, 20, "healthy", market.stream)


# --- damage -------------------------------------------------------------------------------------


def query(chain: Chain) -> Path:
    (folder,) = (path for path in (chain.data / "checkpoints").iterdir() if path.name != "damaged")
    return folder / "query"


def newest(log: Path) -> Path:
    return max((path for path in log.iterdir() if path.name.isdecimal()), key=lambda p: int(p.name))


def power_cut(chain: Chain) -> None:
    """The newest files of Spark are empty, and rows of a day are damaged."""
    newest(query(chain) / "offsets").write_bytes(b"")
    (day,) = (chain.data / "stream_csv").glob("*.csv")
    header, *rows = day.read_text().splitlines()
    day.write_text("\n".join([header, rows[0][:40], "garbage", *rows[2:]]) + "\n")
    for name in ("stream_position.csv", "stream_drops.csv", "spark_processor.json"):
        (chain.data / "status" / name).write_bytes(b"\0\0\xff{")


def no_state(chain: Chain) -> None:
    """Only Spark itself finds this damage. A snapshot alone would make the deltas unnecessary."""
    for path in (query(chain) / "state").glob("*/0/*"):
        if path.suffix in {".delta", ".snapshot"}:
            path.unlink()


def stop(stream: Running) -> None:
    stream.terminate()


def kill_java(stream: Running) -> None:
    """The service ends with an error; on a stack, supervisor starts it again."""
    stream.java().kill()
    assert stream.process.wait(30) == 2
    assert "The Java process of the stream has ended." in stream.errors()[-1]


@pytest.mark.parametrize(
    ("end", "damage", "reported"),
    [
        pytest.param(
            *(stop, power_cut, "its oldest record. Damaged: checkpoint (offsets/"),
            marks=pytest.mark.slow,
        ),
        (kill_java, no_state, "The checkpoint is damaged or of another Spark version."),
    ],
)
def test_after_damage_to_its_files_every_window_is_exact_again(
    market: Market,
    end: Callable[[Running], None],
    damage: Callable[[Chain], None],
    reported: str,
) -> None:
    chain = market.chain
    market.send()
    time.sleep(0.5)  # a micro-batch is running
    end(market.stream)
    assert "StackOverflowError" not in market.stream.text()
    damage(chain)
    market.send()  # without new trades, Spark starts no micro-batch
    chain.start("spark_processor")
    market.final(180, f"all windows after {damage.__name__}")
    (line,) = market.stream.errors()
    assert reported in line[:160]
    assert (chain.data / "checkpoints" / "damaged" / "query").exists()
    assert len(list((chain.data / "stream_csv").glob("*.csv"))) == 1


def test_files_that_are_deleted_under_the_running_stream_are_computed_again(
    market: Market,
) -> None:
    """Spark and the stream create both directories again, without the old files.

    They are renamed: `rmtree` fails if Spark writes a file meanwhile.
    """
    chain, pid = market.chain, market.stream.pid
    for name in ("stream_csv", "checkpoints"):
        (chain.data / name).rename(chain.data.parent / name)
    market.send()
    market.final(90, "all windows after the deletion")
    assert "checkpoints/ was deleted while the stream ran." in market.stream.text()
    assert chain.status("spark_processor")["pid"] == pid


# --- another topic, and deleted records ---------------------------------------------------------


def recreate(chain: Chain) -> None:
    admin = KafkaAdminClient(bootstrap_servers=chain.broker.address)
    admin.delete_topics([chain.topic])
    admin.close()
    topics.create(chain.broker.address, chain.topic)


def test_a_topic_that_is_created_again_under_the_running_stream_is_read_from_its_beginning(
    market: Market,
) -> None:
    chain, old = market.chain, market.topic
    market.send()
    market.final(30, "the windows of the old topic")
    pid, starts = market.stream.pid, chain.status("spark_processor")["starts"]
    recreate(chain)
    old.close()
    market.topic = Topic(chain)
    # In a final window and in an open one, the new topic has one trade less than the old one.
    final, still_open = market.minute - 3, market.minute - 1
    market.topic.send(*trades_of(final)[1:], *trades_of(still_open)[1:])
    market.send(8)
    assert market.topic.written > old.written  # so the old offset exists in the new topic
    market.final(90, "the windows of both topics")
    assert psutil.pid_exists(pid)
    assert f"Topic {chain.topic} was created again" in market.stream.text()
    assert chain.status("spark_processor")["starts"] == starts


def test_records_that_kafka_deleted_end_the_stream_with_the_action_first(market: Market) -> None:
    chain = market.chain
    market.stream.terminate()
    market.send(2)
    admin = KafkaAdminClient(bootstrap_servers=chain.broker.address)
    admin.delete_records({TopicPartition(chain.topic, 0): market.topic.written - 1})
    admin.close()
    chain.start("spark_processor")
    assert market.stream.process.wait(60) == 2
    (line,) = market.stream.errors()
    said = line.partition("spark_processor: ")[2]
    assert said.startswith(
        "Kafka lost records that the checkpoint expects. Delete the directory `checkpoints` in "
    )
    assert "Cause: " in said
    assert chain.status("spark_processor")["message"].startswith(said[:100])
