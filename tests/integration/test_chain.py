"""The whole pipeline with real parts: feed, WebSocket, Kafka, SQLite, Spark and the files.

It runs in an environment that other programs have prepared for themselves, as a user without a
name, and over TLS with a login. Nothing of this changes a result. Other tests run the pipeline in
an ordinary environment.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from kafka import KafkaProducer

from feed.sample import SAMPLE
from pipeline import alerts, outputs
from pipeline.compare.freshness import BATCH, STREAM_FINAL, STREAM_OPEN, publications
from pipeline.compare.inputs import read_outputs
from pipeline.data_dir import DataDir
from pipeline.stores.sqlite import SqliteStore
from tests import golden
from tests.conftest import Broker, Run, require_jars, started_broker, wait_until
from tests.integration.chain import SCRIPTS, Chain, frames, new_chain
from tests.integration.hostile import running_hostile
from tests.integration.secure_broker import PASSWORD, USER, SecureBroker

#: Messages that are no valid trade, and the reason each is rejected with.
INVALID = {
    b"not json": "not JSON",
    b"\xff\xfe": "not UTF-8",
    b"[1, 2]": "not a JSON object",
    b'{"type": "ticker"}': "product_id: missing",
    b'{"type": "ticker", "type": "ticker"}': "repeated key",
    b'{"type": []}': "type",
}
#: A recording may hold the exchange's own control messages.
CONTROL = (
    b'{"type":"subscriptions","channels":[]}',
    b'{"type":"heartbeat","last_trade_id":1,"product_id":"BTC-USD"}',
)
#: One message that is no trade after this many trades.
SPACING = 500


#: Seconds for a service to report that it cannot connect.
REPORT_SECONDS = 90


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    with started_broker(SecureBroker(tmp_path_factory.mktemp("kafka"))) as broker:
        yield broker


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Give a folder in which every user may write. The folders of pytest belong to one user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


# --- one replay of everything that a feed may send ------------------------------------------


@dataclass(frozen=True)
class Replayed:
    """A chain that has processed a whole recording."""

    chain: Chain
    expected: golden.Golden
    #: Values that another program wrote to the topic before the replay.
    foreign: list[bytes | None]
    #: Invalid messages in the recording.
    invalid: list[bytes]

    def rejected(self) -> list[dict[str, Any]]:
        """Return the records of the dead-letter topic."""
        records = self.chain.records(f"{self.chain.topic}_rejected")
        return [json.loads(record.value) for record in records]


@pytest.fixture(scope="module")
def replayed(folder: Path, secure: SecureBroker) -> Iterator[Replayed]:
    """The sample with invalid and control messages among its trades, replayed to its end."""
    require_jars("spark")
    recording, invalid = mixed_recording(folder)
    far = frames(SAMPLE)[0].replace(b'"time":"2', b'"time":"9')
    foreign = [*INVALID, far, b"", None]
    with (
        running_hostile(folder) as run,
        new_chain(run, folder, secure, **secure.settings) as chain,
    ):
        write(chain, foreign)
        chain.feed(recording, "max")
        chain.start()
        expected = chain.settle(recording, 150)
        yield Replayed(chain, expected, foreign, invalid)


def mixed_recording(folder: Path) -> tuple[Path, list[bytes]]:
    """Return a recording with invalid and control messages, and the invalid ones."""
    lines, invalid = [CONTROL[0]], []
    others = [*INVALID, *CONTROL]
    for number, frame in enumerate(frames(SAMPLE)):
        lines.append(frame)
        if number % SPACING == SPACING // 2:
            lines.append(others[number // SPACING % len(others)])
            invalid += [lines[-1]] if lines[-1] in INVALID else []
    recording = folder / "mixed.jsonl"
    recording.write_bytes(b"\n".join(lines) + b"\n")
    return recording, invalid


def write(chain: Chain, values: list[bytes | None]) -> None:
    writer = KafkaProducer(**chain.broker.client_options)
    for value in values:
        writer.send(chain.topic, value=value, key=b"x")
    writer.flush()
    writer.close()


def test_both_paths_give_the_results_of_an_independent_computation(replayed: Replayed) -> None:
    assert golden.differences(replayed.expected, replayed.chain.data) == []
    assert golden.without_quotes(replayed.expected, replayed.chain.data) == 0


def test_each_path_publishes_each_alert_once_and_no_false_one(replayed: Replayed) -> None:
    data = DataDir(replayed.chain.data)
    kinds = {"High": "volatility_flag", "Spike": "volume_spike"}
    expected = sorted(
        (golden.iso(start), kind)
        for start, window in replayed.expected.windows.items()
        for kind, flag in kinds.items()
        if window[flag] == kind
    )
    assert len(expected) > 5
    for path in (data.alerts_stream, data.alerts_batch):
        found = [(alert["window_start"], alert["kind"]) for alert in alerts.read(path)]
        assert sorted(found) == expected, path


def test_every_message_received_is_counted_under_exactly_one_outcome(replayed: Replayed) -> None:
    counters = replayed.chain.status("producer")["counters"]
    outcomes = ("published", "repeated", "conflicting", "rejected", "control", "ignored")
    assert counters["received"] == sum(counters.get(name, 0) for name in outcomes)
    assert counters["published"] == len(replayed.expected.trades)
    assert counters["rejected"] == len(replayed.invalid)


def test_recorded_control_messages_are_not_taken_for_the_feeds_own(replayed: Replayed) -> None:
    producer = replayed.chain.status("producer")
    assert (producer["feed"]["kind"], producer["state"]) == ("replay", "ended")
    published = len(replayed.chain.records(replayed.chain.topic)) - len(replayed.foreign)
    assert published == len(replayed.expected.trades)


def test_invalid_messages_are_kept_in_the_dead_letter_topic_with_their_reason(
    replayed: Replayed,
) -> None:
    rejected = replayed.rejected()
    assert len(rejected) == len(replayed.invalid) + len(replayed.foreign)
    kinds = [record["reason"].split(":")[0] for record in rejected]
    for message, reason in INVALID.items():
        expected = replayed.invalid.count(message) + replayed.foreign.count(message)
        assert kinds.count(reason.split(":")[0]) >= expected > 1, message
    assert all(record["received"].endswith("Z") for record in rejected)


def test_both_paths_reject_invalid_records_that_other_programs_wrote_to_the_topic(
    replayed: Replayed,
) -> None:
    count = len(replayed.foreign)
    assert replayed.chain.counter("consumer", "rejected") == count
    wait_until(
        # The stream counts a micro-batch a moment after its windows are readable.
        lambda: replayed.chain.counter("spark_processor", "unparsable") == count,
        10,
        "the stream's count of invalid records",
    )


def test_the_recorded_times_of_publication_are_those_of_the_files(replayed: Replayed) -> None:
    """`test_freshness`, which is slow, compares the ages with those that an observer sees."""
    data = DataDir(replayed.chain.data)
    files = {
        STREAM_OPEN: data.stream_live,
        STREAM_FINAL: outputs.stream_files(data)[-1],
        BATCH: outputs.batch_files(data)[-1],
    }

    def is_recorded(name: str) -> bool:
        recorded = publications(read_outputs(data, SqliteStore(data.database)))[name]["at"].max()
        return abs(files[name].stat().st_mtime - float(recorded.timestamp())) < 1

    for name in files:
        # The stream records a micro-batch a moment after its windows are readable.
        wait_until(partial(is_recorded, name), 10, f"the time of publication, {name}")


# --- the environment and the secured connection -----------------------------------------------


def test_the_password_is_in_no_log_and_no_file(folder: Path, replayed: Replayed) -> None:
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert {replayed.chain.running[name].log for name in SCRIPTS} < files
    for path in files:
        assert PASSWORD.encode() not in path.read_bytes(), path


def test_the_first_batch_run_succeeds_in_a_hostile_environment(replayed: Replayed) -> None:
    log = (replayed.chain.data / "batch_log.txt").read_text().splitlines()
    runs = [line for line in log if "status=no_data" not in line]
    assert "status=ok" in runs[0]


def test_the_window_of_gnu_screen_is_named_once_in_each_log(replayed: Replayed) -> None:
    for name in SCRIPTS:
        assert replayed.chain.running[name].text().count("WINDOW=0 is ignored") == 1


def test_the_broker_starts_in_a_hostile_environment(folder: Path) -> None:
    require_jars("kafka")
    own = folder / "broker"
    own.mkdir(mode=0o777)
    own.chmod(0o777)
    with running_hostile(own) as run:
        broker = Broker(own)
        ports = ("--port", str(broker.port), "--controller-port", str(broker.controller_port))
        run("local.kafka", "--data-dir", str(own / "kafka"), *ports)
        assert broker.new_topic()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("KAFKA_CREDENTIALS_FILE", "Check the login in KAFKA_CREDENTIALS_FILE"),
        ("KAFKA_CA_FILE", "Check KAFKA_CA_FILE"),
    ],
)
def test_a_wrong_password_or_certificate_is_named_by_every_service(
    run: Run, tmp_path: Path, secure: SecureBroker, wrong: str, words: str
) -> None:
    credentials, other = tmp_path / "credentials", tmp_path / "other.pem"
    credentials.write_text(f"{USER}\nwrong\n", encoding="utf-8")
    trustme.CA().cert_pem.write_to_path(str(other))
    files = {"KAFKA_CREDENTIALS_FILE": credentials, "KAFKA_CA_FILE": other}
    services = ("producer", "consumer", "spark_processor")
    with new_chain(run, tmp_path, secure, **secure.settings | {wrong: files[wrong]}) as chain:
        chain.start(*services)
        logs = [chain.running[service] for service in services]
        wait_until(
            lambda: all(re.search(words, log.text()) for log in logs),
            REPORT_SECONDS,
            f"every service names {wrong}",
        )
        assert not [log.name for log in logs if "Traceback" in log.text()]


# --- a producer that is killed ----------------------------------------------------------------


def test_a_restarted_producer_publishes_nothing_again(
    run: Run, tmp_path: Path, kafka: Broker
) -> None:
    recording = tmp_path / "some.jsonl"
    recording.write_bytes(b"\n".join(frames(SAMPLE)[:3000]) + b"\n")
    with new_chain(run, tmp_path, kafka) as chain:
        for _ in range(2):
            chain.feed(recording, "max")
            chain.start("producer")
            wait_until(partial(has_ended, chain), 60, "the replay's end", chain.running["producer"])
            chain.kill("producer")
            chain.kill("feed")
            (chain.data / "status" / "producer.json").unlink()
        assert len(chain.records(chain.topic)) == len(golden.compute(recording).trades)


def has_ended(chain: Chain) -> bool:
    return chain.status("producer").get("state") == "ended"
