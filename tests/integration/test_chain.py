"""The whole pipeline with real parts: feed, WebSocket, Kafka, SQLite, Spark and the files."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from feed.sample import SAMPLE
from pipeline import alerts
from pipeline.data_dir import DataDir
from tests import golden
from tests.conftest import Broker, Run, running, wait_until
from tests.integration.chain import Chain, frames, new_chain

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


@pytest.fixture
def chain(run: Run, tmp_path: Path, kafka: Broker) -> Iterator[Chain]:
    """A chain on the shared broker, with nothing started."""
    with new_chain(run, tmp_path, kafka) as chain:
        yield chain


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
def replayed(tmp_path_factory: pytest.TempPathFactory, kafka: Broker) -> Iterator[Replayed]:
    """The sample with invalid and control messages among its trades, replayed to its end."""
    folder = tmp_path_factory.mktemp("chain")
    recording, invalid = mixed_recording(folder)
    far = frames(SAMPLE)[0].replace(b'"time":"2', b'"time":"9')
    foreign = [*INVALID, far, b"", None]
    with running(folder) as run, new_chain(run, folder, kafka) as chain:
        write(chain, foreign)
        chain.feed(recording, "max")
        chain.start()
        expected = chain.settle(recording, 90)
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
    writer = KafkaProducer(bootstrap_servers=chain.broker.address)
    for value in values:
        writer.send(chain.topic, value=value, key=b"x")
    writer.flush()
    writer.close()


def test_both_paths_give_the_results_of_an_independent_computation(replayed: Replayed) -> None:
    assert golden.differences(replayed.expected, replayed.chain.data) == []


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


# --- a producer that is killed ----------------------------------------------------------------


def test_a_restarted_producer_publishes_nothing_again(chain: Chain, tmp_path: Path) -> None:
    recording = tmp_path / "some.jsonl"
    recording.write_bytes(b"\n".join(frames(SAMPLE)[:3000]) + b"\n")
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
