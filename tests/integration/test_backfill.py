"""Missing trades are recovered over REST: real feed, Kafka, producer and consumer."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline.ingest.kafka import is_backfilled
from tests import golden
from tests.conftest import Broker, Run, wait_until
from tests.integration.chain import SAMPLE, Chain, new_chain


@pytest.fixture
def chain(run: Run, tmp_path: Path, kafka: Broker) -> Iterator[Chain]:
    """A chain on the shared broker, with nothing started."""
    with new_chain(run, tmp_path, kafka) as chain:
        yield chain


def has_ended(chain: Chain) -> bool:
    return chain.status("producer").get("state") == "ended"


def has_more(chain: Chain, rows: int) -> bool:
    return chain.rows() > rows


def nothing_is_left_to_ask(chain: Chain) -> bool:
    return bool(chain.status("producer")["backfill"]["gaps"] == 0)


def all_is_stored(chain: Chain) -> bool:
    return chain.counter("consumer", "records") >= len(chain.records(chain.topic))


def settle(chain: Chain) -> None:
    """Wait until the replay has ended and no gap is left to ask for."""
    alive = list(chain.running.values())
    wait_until(partial(has_ended, chain), 60, "the replay's end", *alive)
    time.sleep(3)  # a gap is asked for after two seconds
    wait_until(partial(nothing_is_left_to_ask, chain), 60, "the backfill", *alive)
    wait_until(partial(all_is_stored, chain), 60, "every record stored", *alive)


def test_after_kills_of_the_producer_the_store_is_complete(chain: Chain) -> None:
    chain.feed(SAMPLE, "200")
    chain.start("producer", "consumer")
    for rows in (1_000, 4_000, 9_000):
        wait_until(partial(has_more, chain, rows), 60, f"{rows} rows")
        chain.kill("producer")
        time.sleep(1)
        chain.start("producer")
    settle(chain)
    stored, missing = chain.ids()
    issued = set(golden.compute(SAMPLE).trades)
    assert stored == issued
    assert missing == set(range(min(issued), max(issued) + 1)) - issued
    records = chain.records(chain.topic)
    assert any(map(is_backfilled, records))
    assert not all(map(is_backfilled, records))
    assert len(records) == len(issued)
