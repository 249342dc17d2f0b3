"""The consumer with a real broker: it stops, loses its topic, or the database is replaced."""

import gc
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaTimeoutError

from local import topics
from local.ports import free_port
from pipeline import outputs, times
from pipeline.errors import OutputError
from pipeline.ingest import kafka as kafka_module
from pipeline.ingest import publisher as publisher_module
from pipeline.ingest.dead_letters import DeadLetters
from pipeline.ingest.exchange_clock import BURST_SECONDS
from pipeline.ingest.exchange_connection import FeedWatchdog, Message
from pipeline.ingest.kafka import (
    Sender,
    newest_records,
    partition,
    position,
    records_since,
    undelivered,
)
from pipeline.ingest.kafka import consumer as new_client
from pipeline.ingest.loader import Loader
from pipeline.ingest.publisher import REPORT_SECONDS, Publisher
from pipeline.service import Service
from pipeline.settings import Settings
from pipeline.stores import sqlite
from pipeline.stores.common_queries import next_offset, total_rows
from tests.conftest import Broker, Run, Running, wait_until

GOOD = (
    b'{"type":"ticker","product_id":"BTC-USD","trade_id":%d,"price":"86321.55","side":"buy",'
    b'"time":"2025-12-02T04:59:59.000001Z","last_size":"0.25"}'
)


@contextmanager
def new_publisher(service: Service) -> Iterator[tuple[Sender, Publisher]]:
    """Give a publisher and its sender, connected to the broker of the settings. Close both."""
    with ExitStack() as resources:
        sender = Sender(service)
        resources.callback(sender.close)
        publisher = Publisher(service, sender)
        resources.callback(publisher.close)
        yield sender, publisher


def test_nothing_is_stored_until_kafka_has_the_dead_letters_before_it(
    module_kafka: Broker, tmp_path: Path
) -> None:
    """The stored offset decides where the next start continues: after a lost dead letter."""
    topic = module_kafka.new_topic()
    write(module_kafka, topic, GOOD % 1, b"not JSON", GOOD % 2)
    settings = Settings(
        data_dir=tmp_path / "data", kafka_bootstrap_servers=module_kafka.address, kafka_topic=topic
    )
    service = Service("consumer", settings)
    with ExitStack() as resources:
        path = service.data.database
        connection = resources.enter_context(closing(sqlite.open_writer(path)))
        sender = Sender(service)
        resources.callback(sender.close)
        loader = Loader(service, connection, DeadLetters(service, sender))
        resources.callback(loader.close)
        loader.load(wait_until(loader.poll, 20, "the first records"))
        assert (total_rows(connection), next_offset(connection)) == (2, 3)

        write(module_kafka, topic, b"not JSON either", GOOD % 3)
        records = wait_until(loader.poll, 20, "the next records")
        module_kafka.kill()
        stop = threading.Timer(2, service.stop.set)
        stop.start()
        began = time.monotonic()
        loader.load(records)
        assert time.monotonic() - began > 1.5  # it waited for Kafka
        assert (total_rows(connection), next_offset(connection)) == (2, 3)

        module_kafka.start()
        service.stop.clear()
        loader.load(records)
        assert (total_rows(connection), next_offset(connection)) == (3, 5)


def test_messages_that_a_suspended_kafka_did_not_acknowledge_are_counted_when_the_service_stops(
    module_kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client ends too: its thread, and without an error of its destructor."""
    monkeypatch.setattr(kafka_module, "CLOSE_SECONDS", 0.3)
    monkeypatch.setattr(kafka_module, "ACKNOWLEDGE_SECONDS", 0.2)
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    topic = module_kafka.new_topic()
    settings = Settings(
        data_dir=tmp_path, kafka_bootstrap_servers=module_kafka.address, kafka_topic=topic
    )
    service = Service("consumer", settings)
    threads = set(threading.enumerate())
    sender = Sender(service)
    sender.send(topic, b"acknowledged", times.now())
    assert sender.flush()
    module_kafka.signal(signal.SIGSTOP)
    try:
        sender.send(topic, b"not acknowledged", times.now())
        stop = threading.Timer(2, service.stop.set)
        stop.start()
        assert not sender.flush()
        status = outputs.read_status(service.data, "consumer")
        address = module_kafka.address
        expected = f"no answer from Kafka. Check that its brokers run ({address})"
        assert status["message"] == expected
        stop.join()
        sender.close()
    finally:
        module_kafka.signal(signal.SIGCONT)
    service.close()
    assert outputs.read_status(service.data, "consumer")["last_error"]["text"] == undelivered(
        "consumer", 1
    )
    del sender
    gc.collect()
    wait_until(lambda: not set(threading.enumerate()) - threads, 20, "the end of the thread")
    assert not unraisable


def test_a_consumer_that_cannot_start_leaves_no_connection_open(
    kafka: Broker, tmp_path: Path
) -> None:
    """A full disk is tried again every 30 s, for days."""
    settings = Settings(
        data_dir=tmp_path, kafka_bootstrap_servers=kafka.address, kafka_topic=kafka.new_topic()
    )
    service = Service("consumer", settings)
    with ExitStack() as resources:
        connection = resources.enter_context(closing(sqlite.open_writer(service.data.database)))
        sender = Sender(service)
        resources.callback(sender.close)
        dead_letters = DeadLetters(service, sender)
        service.data.source.write_text("damaged")
        before = len(psutil.Process().net_connections())
        with pytest.raises(OutputError, match=r"source\.json"):
            Loader(service, connection, dead_letters)
        assert len(psutil.Process().net_connections()) == before


def test_a_position_that_the_client_does_not_have_yet_is_a_timeout(kafka: Broker) -> None:
    """After a reset, the client first has to request the offset from Kafka."""
    topic = kafka.new_topic()
    settings = Settings(kafka_bootstrap_servers=kafka.address, kafka_topic=topic)
    with closing(new_client(settings)) as client:
        client.seek_to_beginning(partition(topic))
        with pytest.raises(KafkaTimeoutError, match=topic):
            position(client, partition(topic), timeout_ms=0)
        client.seek(partition(topic), 0)
        assert position(client, partition(topic)) == 0


def write(broker: Broker, topic: str, *values: bytes) -> None:
    """Write all of these records, so that one poll finds them."""
    writer = KafkaProducer(bootstrap_servers=broker.address, linger_ms=500)
    for value in values:
        writer.send(topic, value=value)
    writer.close()


class Consumer:
    """The consumer as a process, its topic and its database."""

    def __init__(self, run: Run, broker: Broker, data: Path) -> None:
        self.broker = broker
        self.topic = broker.new_topic()
        self.data = data
        self.database = data / "crypto_prices.db"
        self._run = run
        self.process: Running

    def start(self) -> None:
        self.process = self._run(
            "consumer.py",
            KAFKA_BOOTSTRAP_SERVERS=self.broker.address,
            KAFKA_TOPIC=self.topic,
            DATA_DIR=self.data,
            RETENTION_DAYS=1,
        )

    def write(self, *ids: int) -> None:
        write(self.broker, self.topic, *(GOOD % number for number in ids))

    def ids(self) -> set[int]:
        try:
            with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as reader:
                return {number for (number,) in reader.execute("SELECT trade_id FROM btc_prices")}
        except sqlite3.OperationalError:
            return set()

    def wait_for(self, *ids: int, seconds: float = 20) -> None:
        missing = f"of {len(ids)} ids up to {max(ids)} some are missing"
        wait_until(lambda: self.ids() >= set(ids), seconds, missing, self.process)

    def dead_letters(self) -> list[bytes]:
        settings = Settings(
            kafka_bootstrap_servers=self.broker.address, kafka_topic=f"{self.topic}_rejected"
        )
        return [record.value for record in newest_records(settings, 100)]

    def status(self) -> dict[str, Any]:
        return dict(json.loads((self.data / "status" / "consumer.json").read_text()))

    def source(self) -> dict[str, Any]:
        return dict(json.loads((self.data / "source.json").read_text()))

    def last_error(self) -> str:
        return str((self.status()["last_error"] or {}).get("text", ""))


@pytest.fixture
def consumer(run: Run, kafka: Broker, tmp_path: Path) -> Iterator[Consumer]:
    started = Consumer(run, kafka, tmp_path / "data")
    started.write(*range(1, 21))
    started.start()
    started.wait_for(*range(1, 21))
    yield started
    if started.process.process.poll() is None:
        assert started.process.terminate() == 0


# --- another topic --------------------------------------------------------------------------


def delete_topic(broker: Broker, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    admin.delete_topics([topic])
    wait_until(lambda: topic not in admin.list_topics(), 10, "the topic is deleted")
    admin.close()


def recreate(broker: Broker, topic: str) -> None:
    delete_topic(broker, topic)
    topics.create(broker.address, topic)


def test_a_deleted_topic_is_the_state_of_the_consumer_until_it_exists_again(
    consumer: Consumer,
) -> None:
    delete_topic(consumer.broker, consumer.topic)
    expected = f"topic {consumer.topic} was deleted. Create it with `python -m local.topics`"
    is_said = lambda: consumer.status()["message"] == expected  # noqa: E731
    wait_until(is_said, 20, "the cause in the status", consumer.process)
    assert not consumer.status()["healthy"]
    topics.create(consumer.broker.address, consumer.topic)
    consumer.write(*range(101, 151))
    consumer.wait_for(*range(1, 21), *range(101, 151))
    wait_until(lambda: consumer.status()["healthy"], 10, "healthy again", consumer.process)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_deleted_dead_letter_topic_is_the_state_of_a_sender_until_it_exists_again(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_known: bool
) -> None:
    """Also if a record was sent before the client knows that the topic is deleted."""
    monkeypatch.setattr(kafka_module, "ACKNOWLEDGE_SECONDS", 0.2)
    topic = kafka.new_topic()
    settings = Settings(data_dir=tmp_path, kafka_bootstrap_servers=kafka.address, kafka_topic=topic)
    rejected = settings.rejected_topic
    service = Service("producer", settings)
    reported: list[str] = []

    def create_after_the_report() -> None:
        expected = f"topic {rejected} was deleted. Create it with `python -m local.topics`"
        while not reported:
            status = outputs.read_status(service.data, "producer")
            if (status.get("state"), status.get("message")) == ("waiting for Kafka", expected):
                reported.append(expected)
                topics.create(kafka.address, rejected)
            time.sleep(0.05)

    with closing(Sender(service)) as sender:
        delete_topic(kafka, rejected)
        metadata = sender._metadata
        if is_known:
            wait_until(lambda: not metadata.partitions_for_topic(rejected), 10, "the deletion")
        creator = threading.Thread(target=create_after_the_report, daemon=True)
        creator.start()
        sender.send(rejected, b"a dead letter", times.now())
        assert sender.flush()
        creator.join(1)
    assert reported
    of_rejected = settings.model_copy(update={"kafka_topic": rejected})
    assert [record.value for record in newest_records(of_rejected, 10)] == [b"a dead letter"]


def test_a_topic_created_again_is_read_from_its_beginning_by_the_running_consumer(
    consumer: Consumer,
) -> None:
    """The new topic at once holds more records than the old one did."""
    before = consumer.source()
    recreate(consumer.broker, consumer.topic)
    consumer.write(*range(101, 151))
    consumer.wait_for(*range(1, 21), *range(101, 151))
    # The trades can be complete before the consumer sees the new id.
    changed = lambda: consumer.source()["topic_id"] != before["topic_id"]  # noqa: E731
    wait_until(changed, 10, "the new id in source.json", consumer.process)
    assert consumer.source()["topic"] == before["topic"] == consumer.topic
    assert "was created again: reading it from its beginning" in consumer.last_error()


def test_a_topic_created_again_while_the_consumer_is_down_is_read_from_its_beginning(
    consumer: Consumer,
) -> None:
    consumer.process.kill()
    recreate(consumer.broker, consumer.topic)
    consumer.write(*range(101, 151))
    with closing(sqlite3.connect(consumer.database)) as writer, writer:
        writer.execute("INSERT INTO latency VALUES ('2020-01-01T00:00Z', 'leg', 1, 1)")
    consumer.start()
    consumer.wait_for(*range(1, 21), *range(101, 151))
    wait_until(lambda: not old_latencies(consumer), 20, "retention deletes", consumer.process)


def old_latencies(consumer: Consumer) -> list[Any]:
    with closing(sqlite.open_reader(consumer.database)) as reader:
        return reader.execute("SELECT 1 FROM latency WHERE minute < '2025'").fetchall()


def test_a_wiped_broker_that_grew_past_the_old_position_of_a_suspended_consumer_loses_nothing(
    run: Run, module_kafka: Broker, tmp_path: Path
) -> None:
    consumer = Consumer(run, module_kafka, tmp_path / "data")
    consumer.write(*range(1, 21))
    consumer.start()
    consumer.wait_for(*range(1, 21))
    consumer.process.process.send_signal(signal.SIGSTOP)
    module_kafka.kill()
    shutil.rmtree(module_kafka.folder / "kafka")
    module_kafka.start()
    topics.create(module_kafka.address, consumer.topic, f"{consumer.topic}_rejected")
    consumer.write(*range(101, 151))
    consumer.process.process.send_signal(signal.SIGCONT)
    consumer.wait_for(*range(1, 21), *range(101, 151))


def test_a_broker_that_lost_its_newest_records_and_gave_their_offsets_to_others_loses_nothing_more(
    run: Run, module_kafka: Broker, tmp_path: Path
) -> None:
    """As after a power cut of its host: the topic keeps its id."""
    consumer = Consumer(run, module_kafka, tmp_path / "data")
    consumer.write(*range(1, 11))
    consumer.write(*range(11, 21))
    consumer.start()
    consumer.wait_for(*range(1, 21))
    assert consumer.process.terminate() == 0
    module_kafka.kill()
    (log,) = module_kafka.folder.glob(f"kafka/**/{consumer.topic}-0/*.log")
    written = log.read_bytes().rstrip(b"\0")
    os.truncate(log, len(written) - 10)
    module_kafka.start()
    consumer.write(*range(101, 151))
    consumer.start()
    consumer.wait_for(*range(1, 21), *range(101, 151))
    assert "the consumer starts at the beginning of the topic" in consumer.process.text()


def test_another_name_of_the_topic_is_refused_and_the_first_one_continues(
    consumer: Consumer,
) -> None:
    """Two topics and back again: nothing is lost."""
    first = consumer.topic
    assert consumer.process.terminate() == 0
    consumer.topic = consumer.broker.new_topic()
    consumer.write(*range(101, 151))
    consumer.start()
    assert consumer.process.process.wait(20) == 2
    assert f"Set KAFKA_TOPIC={first}, or " in consumer.process.tail()
    consumer.topic = first
    consumer.write(*range(21, 31))
    consumer.start()
    consumer.wait_for(*range(1, 31))
    assert consumer.ids() == {*range(1, 31)}


def test_the_producer_reads_which_trades_are_published_the_newest_first(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread reads the older ones, each once, while the feed is read."""
    topic = kafka.new_topic()
    missing = {7, 8, 24}
    write(kafka, topic, *(GOOD % number for number in range(1, 31) if number not in missing))
    settings = Settings(data_dir=tmp_path, kafka_bootstrap_servers=kafka.address, kafka_topic=topic)
    monkeypatch.setattr(publisher_module, "RESTORED_RECORDS", 10)
    service = Service("producer", settings)
    with new_publisher(service) as (_, publisher):
        publisher.restore_published()
        assert len(publisher._published) == 10
        backfill = publisher._backfill
        assert backfill._missing.gaps() == [(24, 24)]

        def all_are_read() -> bool:
            backfill.step()
            return backfill._restoring is None

        wait_until(all_are_read, 20, "the older trades")
        assert backfill._missing.gaps() == [(24, 24), (7, 8)]
    before_1970 = times.from_epoch_millis(-1)
    older = records_since(settings, before_1970, 17, threading.Event())
    assert [record.offset for record in older] == [*range(17)]


def test_the_producer_forgets_what_it_published_to_a_topic_that_was_created_again(
    kafka: Broker, tmp_path: Path
) -> None:
    """The feed may send it again, and the backfill requests it again."""
    topic = kafka.new_topic()
    service = Service(
        "producer",
        Settings(
            data_dir=tmp_path,
            kafka_bootstrap_servers=kafka.address,
            kafka_topic=topic,
            feed_rest_url=f"http://127.0.0.1:{free_port()}",
        ),
    )
    with new_publisher(service) as (sender, publisher):
        publisher.on_connect(FeedWatchdog(heartbeat_timeout=60, trade_timeout=60))

        def receive(number: int = 1) -> dict[str, int]:
            message = GOOD % number
            publisher.on_message(Message(message, len(message)), times.now())
            publisher.after_read()
            return {name: service.counters[name] for name in ("published", "repeated")}

        assert receive() == {"published": 1, "repeated": 0}
        assert receive() == {"published": 1, "repeated": 1}
        assert sender.flush()
        before = sender.topic_id()
        recreate(kafka, topic)
        wait_until(lambda: sender.topic_id() not in {None, before}, 10, "the id of the new topic")
        time.sleep(REPORT_SECONDS)
        publisher.after_read()
        assert receive(2) == {"published": 2, "repeated": 1}
        assert publisher._backfill._missing.gaps() == [(1, 1)]
        assert receive() == {"published": 3, "repeated": 1}
        assert sender.flush()
        found = [record.value for record in newest_records(service.settings, 10)]
        assert found == [GOOD % 2, GOOD % 1]


@pytest.mark.parametrize(("heartbeats", "hold_s"), [(3, 60.0), (0, 0.0)])
def test_a_held_trade_is_published_after_ntp_has_set_a_clock_that_was_behind(
    kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heartbeats: int, hold_s: float
) -> None:
    """Its time of receipt is correct, with heartbeats after the change of the clock or without."""
    monkeypatch.setattr(publisher_module, "HOLD_SECONDS", hold_s)
    behind = timedelta(seconds=200)
    monkeypatch.setattr(times, "now", lambda: datetime.now(UTC) - behind)
    topic = kafka.new_topic()
    settings = Settings(data_dir=tmp_path, kafka_bootstrap_servers=kafka.address, kafka_topic=topic)
    service = Service("producer", settings)
    with new_publisher(service) as (sender, publisher):
        publisher.on_connect(FeedWatchdog(heartbeat_timeout=60, trade_timeout=60))

        def receive(message: bytes) -> None:
            publisher.on_message(Message(message, len(message)), times.now())

        def heartbeat() -> bytes:
            return json.dumps({"type": "heartbeat", "time": times.iso(datetime.now(UTC))}).encode()

        received = datetime.now(UTC)
        receive(heartbeat())
        trade_now = json.loads(GOOD % 1) | {"time": times.iso(received)}
        receive(json.dumps(trade_now).encode())
        assert (service.counters["published"], service.counters["rejected"]) == (0, 0)
        behind = timedelta()
        for _ in range(heartbeats):
            receive(heartbeat())
            time.sleep(BURST_SECONDS)
        publisher.after_read()
        assert (service.counters["published"], service.counters["rejected"]) == (1, 0)
        assert sender.flush()
    (record,) = newest_records(settings, 10)
    found = times.from_epoch_millis(record.timestamp)
    assert abs(found - received) < timedelta(seconds=BURST_SECONDS)


# --- another database -----------------------------------------------------------------------


def delete(database: Path) -> None:
    for path in database.parent.glob("crypto_prices.db*"):
        path.unlink()


def delete_only_the_log(database: Path) -> None:
    for path in database.parent.glob("crypto_prices.db-*"):
        path.unlink()


def rename_the_folder(database: Path) -> None:
    database.parent.rename(database.parent.with_name("moved"))


def rename_the_folder_and_make_it_again(database: Path) -> None:
    rename_the_folder(database)
    database.parent.mkdir()


def truncate(database: Path) -> None:
    os.truncate(database, 0)


def replace_by_an_older_copy(database: Path) -> None:
    """As a backup does: a copy that was made by SQLite is moved over the file."""
    copy = database.with_name("copy.db")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("DELETE FROM btc_prices WHERE trade_id > 5")
        target.execute("UPDATE ingest SET last_offset = 4, total_rows = 5")
        target.commit()
    copy.replace(database)


def replace_by_an_empty_file(database: Path) -> None:
    database.unlink()
    database.touch()


@pytest.mark.parametrize(
    "damage",
    [
        delete,
        Path.unlink,
        delete_only_the_log,
        rename_the_folder,
        rename_the_folder_and_make_it_again,
        truncate,
        replace_by_an_older_copy,
        replace_by_an_empty_file,
    ],
)
def test_a_database_that_is_gone_while_the_consumer_runs_is_filled_again_from_kafka(
    consumer: Consumer, damage: Callable[[Path], None]
) -> None:
    damage(consumer.database)
    consumer.wait_for(*range(1, 21))
    wait_until(consumer.last_error, 5, "the reason in the status file", consumer.process)
    assert "while it was open" in consumer.last_error()
    consumer.write(21)
    consumer.wait_for(*range(1, 22))
    with closing(sqlite3.connect(consumer.database)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    wait_until(lambda: consumer.status()["healthy"], 5, "healthy again", consumer.process)
    open_files = {file.path for file in psutil.Process(consumer.process.pid).open_files()}
    assert {path for path in open_files if "crypto_prices" in path} == {
        f"{consumer.database}{suffix}" for suffix in ("", "-wal", "-shm")
    }


def test_a_database_that_is_damaged_while_the_consumer_runs_ends_it_with_what_to_do(
    consumer: Consumer,
) -> None:
    """Rejected records that are read again are counted again, and not sent again."""
    write(consumer.broker, consumer.topic, b"not JSON", GOOD % 31)
    consumer.wait_for(31)

    def is_counted() -> bool:
        return bool(consumer.status()["counters"].get("rejected") == 1)

    wait_until(is_counted, 5, "the rejected record", consumer.process)
    with closing(sqlite3.connect(consumer.database)) as other:  # the log could repair the file
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        os.truncate(consumer.database, 8192)
    consumer.write(21)
    assert consumer.process.process.wait(20) == 2
    message = consumer.status()["message"]
    assert message.startswith(
        "The database in DATA_DIR is damaged. Restore a backup, or move crypto_prices.db away: "
    )
    assert "the consumer fills a new one from Kafka" in message
    assert message.endswith("Cause: database disk image is malformed")
    consumer.database.unlink()
    consumer.start()
    consumer.wait_for(*range(1, 22), 31)
    wait_until(is_counted, 5, "the rejected record again", consumer.process)
    write(consumer.broker, consumer.topic, b"not JSON either", GOOD % 32)
    consumer.wait_for(32)
    assert [json.loads(value)["message"] for value in consumer.dead_letters()] == [
        "not JSON",
        "not JSON either",
    ]
