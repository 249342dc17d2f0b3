"""The stream after damage to its files, and on a topic that was deleted and created again."""

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
from tests.conftest import Broker, running, wait_until
from tests.integration.chain import Chain, new_chain
from tests.integration.made_trades import Topic, counts, message


@pytest.fixture
def chain(tmp_path: Path, module_kafka: Broker) -> Iterator[Chain]:
    with running(tmp_path) as run, new_chain(run, tmp_path, module_kafka) as chain:
        yield chain


def trades_of(*minutes: int) -> list[bytes]:
    """Two trades in minute 0, three in minute 1, and so on."""
    return [
        message(1 + 100 * minute + second, 60 * minute + second)
        for minute in minutes
        for second in range(minute + 2)
    ]


def expected(first: int, last: int) -> dict[str, str]:
    return {f"12:{minute:02}": str(minute + 2) for minute in range(first, last + 1)}


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


def other_state(chain: Chain) -> None:
    (query(chain).parent / "open_windows.json").write_text("{}")
    (day,) = (chain.data / "stream_csv").glob("*.csv")
    day.write_text("")


def partial_state_store(chain: Chain) -> None:
    """Only Spark itself finds this damage."""
    for path in (query(chain) / "state").glob("*/0/*.delta"):
        path.unlink()


def test_after_damage_to_its_files_every_window_is_exact_again(chain: Chain) -> None:
    topic = Topic(chain)
    chain.start("spark_processor")
    topic.step(*trades_of(0, 1, 2))
    topic.step(*trades_of(3, 4))
    wait_until(lambda: counts(chain) == expected(0, 2), 30, "the first final windows")
    cases: list[tuple[Callable[[Chain], None], str]] = [
        (power_cut, "Damaged: checkpoint (offsets/"),
        (other_state, "Damaged: checkpoint (open_windows.json is of micro-batch -1"),
        (partial_state_store, "The checkpoint is damaged or of another Spark version."),
    ]
    for number, (damage, reported) in enumerate(cases):
        stream = chain.running["spark_processor"]
        topic.send(*trades_of(5 + number))
        time.sleep(0.5)  # a micro-batch is running
        stream.terminate()
        assert "StackOverflowError" not in stream.text()
        damage(chain)
        chain.start("spark_processor")
        wait_until(
            lambda last=3 + number: counts(chain) == expected(0, last),  # type: ignore[misc]
            90,
            f"all windows after {damage.__name__}",
            chain.running["spark_processor"],
        )
        (line,) = chain.running["spark_processor"].errors()
        assert reported in line[:130]
    topic.close()
    assert (chain.data / "checkpoints" / "damaged" / "query").exists()
    assert len(list((chain.data / "stream_csv").glob("*.csv"))) == 1


def java_of(chain: Chain) -> psutil.Process:
    (java,) = (p for p in chain.running["spark_processor"].tree() if p.name() == "java")
    return java


def becomes_unhealthy(chain: Chain, cause: str) -> float:
    """Wait until the status names the cause, and return after how many seconds."""
    began = time.monotonic()
    stream = chain.running["spark_processor"]

    def is_named() -> bool:
        status = chain.status("spark_processor")
        return not status["healthy"] and cause in status["message"]

    wait_until(is_named, 40, f"the status names: {cause}", stream)
    return time.monotonic() - began


def test_a_suspended_process_is_named_in_the_status_and_nothing_is_lost(chain: Chain) -> None:
    """Java, then Kafka; both go on afterwards."""
    topic = Topic(chain)
    chain.start("spark_processor")
    topic.step(*trades_of(0, 1, 2))
    stream = chain.running["spark_processor"]
    suspensions = [
        (java_of(chain).send_signal, "the Java process does not answer"),
        (chain.broker.signal, "Kafka does not answer"),
    ]
    for number, (send_signal, cause) in enumerate(suspensions):
        send_signal(signal.SIGSTOP)
        took = becomes_unhealthy(chain, cause)
        assert chain.status("spark_processor")["message"].startswith("no micro-batch for 1")
        send_signal(signal.SIGCONT)
        assert took < 3 * 1 + MARGIN_SECONDS + 7
        topic.send(*trades_of(3 + number))
        wait_until(
            lambda last=1 + number: counts(chain) == expected(0, last),  # type: ignore[misc]
            40,
            "the windows after the suspension",
            stream,
        )
        wait_until(lambda: chain.status("spark_processor")["healthy"], 20, "healthy", stream)
    topic.close()


def recreate(chain: Chain) -> None:
    admin = KafkaAdminClient(bootstrap_servers=chain.broker.address)
    admin.delete_topics([chain.topic])
    admin.close()
    topics.create(chain.broker.address, chain.topic)


def test_a_topic_that_is_created_again_under_the_running_stream_is_read_from_its_beginning(
    chain: Chain,
) -> None:
    topic = Topic(chain)
    chain.start("spark_processor")
    topic.step(*trades_of(0, 1, 2, 3))
    topic.step(*trades_of(4))
    wait_until(lambda: counts(chain) == expected(0, 2), 30, "the first final windows")
    pid = chain.running["spark_processor"].pid
    recreate(chain)
    # More records than before, so the old offset exists in the new topic. Of minutes 1 and 4 the
    # new topic has one trade less than the old one.
    topic.close()
    topic = Topic(chain)
    topic.send(*trades_of(1)[1:], *trades_of(4)[1:], *trades_of(5, 6, 7, 8), *trades_of(9))
    stream = chain.running["spark_processor"]
    wait_until(lambda: counts(chain) == expected(0, 7), 90, "the windows of both topics", stream)
    topic.close()
    assert psutil.pid_exists(pid)
    assert f"Topic {chain.topic} was created again" in stream.text()
    assert chain.status("spark_processor")["starts"] == 1


def test_records_that_kafka_deleted_end_the_stream_with_the_remedy_first(chain: Chain) -> None:
    topic = Topic(chain)
    chain.start("spark_processor")
    topic.step(*trades_of(0, 1, 2))
    chain.running["spark_processor"].terminate()
    topic.send(*trades_of(3, 4))
    admin = KafkaAdminClient(bootstrap_servers=chain.broker.address)
    admin.delete_records({TopicPartition(chain.topic, 0): topic.written - 1})
    admin.close()
    topic.close()
    chain.start("spark_processor")
    stream = chain.running["spark_processor"]
    assert stream.process.wait(60) == 2
    (line,) = stream.errors()
    said = line.partition("spark_processor: ")[2]
    assert said.startswith(
        "Kafka lost records that the checkpoint expects. Delete the directory `checkpoints` in "
    )
    assert "Cause: " in said
    assert chain.status("spark_processor")["message"].startswith(said[:100])
