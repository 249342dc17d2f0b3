"""Missing trades are recovered over REST: real feed, Kafka, producer and consumer.

`test_compare_chain` and the fault lab test what the stream, the batch and the comparison make of
recovered trades.
"""

import contextlib
import json
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from feed.sample import SAMPLE
from local.ports import free_port
from pipeline import histogram
from pipeline.ingest.kafka import is_backfilled
from tests import golden
from tests.conftest import Broker, Run, running, wait_until
from tests.integration.chain import Chain, frames, new_chain

#: Seconds after which a gap is asked for at the latest.
ASKED_AFTER = 4
#: Messages of the sample that are replayed: about 25 minutes.
MESSAGES = 9000


def beginning_of_the_sample(folder: Path) -> Path:
    recording = folder / "beginning.jsonl"
    recording.write_bytes(b"\n".join(frames(SAMPLE)[:MESSAGES]) + b"\n")
    return recording


class Line:
    """A network connection to a port that can be cut: it forwards bytes in both directions."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._open: list[socket.socket] = []
        self._server = self._listen()

    def _listen(self) -> socket.socket:
        server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=[server], daemon=True).start()
        return server

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=pair, daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End all connections and refuse new ones."""
        for one in (self._server, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def mend(self) -> None:
        """Accept connections again."""
        self._server = self._listen()


# --- one replay with all faults of the producer and its connection ----------------------------


@dataclass(frozen=True)
class Recovered:
    """A chain whose producer was killed, suspended and disconnected, after its recovery."""

    chain: Chain
    recording: Path


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory, kafka: Broker) -> Iterator[Recovered]:
    folder = tmp_path_factory.mktemp("backfill")
    recording = beginning_of_the_sample(folder)
    with running(folder) as run, new_chain(run, folder, kafka) as chain:
        chain.feed(recording, "100", "--rest-rate", "1", "--rest-failures", "3")
        line = Line(chain.feed_port)
        chain.environment |= {
            "FEED_URL": f"ws://127.0.0.1:{line.port}",
            "FEED_REST_URL": f"http://127.0.0.1:{chain.feed_port}",
        }
        chain.start("producer", "consumer")
        wait_until(partial(has_more, chain, 1000), 60, "the first rows", *chain.running.values())
        chain.kill("producer")
        time.sleep(1)
        chain.start("producer")
        wait_until(partial(has_more, chain, 3000), 60, "more rows", *chain.running.values())
        line.cut()
        time.sleep(2)
        line.mend()
        wait_until(partial(has_more, chain, 5500), 60, "more rows", *chain.running.values())
        producer = chain.running["producer"]
        producer.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        producer.process.send_signal(signal.SIGCONT)
        time.sleep(1)
        chain.restart("producer")  # while it recovers trades
        settle(chain)
        yield Recovered(chain, recording)


def settle(chain: Chain) -> None:
    """Wait until the replay has ended and no missing trade is left to ask for."""
    alive = list(chain.running.values())
    wait_until(partial(has_ended, chain), 90, "the replay's end", *alive)
    time.sleep(ASKED_AFTER)
    wait_until(partial(nothing_is_left_to_ask, chain), 60, "the backfill", *alive)
    wait_until(partial(all_is_stored, chain), 60, "every record stored", *alive)


def has_ended(chain: Chain) -> bool:
    return chain.status("producer").get("state") == "ended"


def has_more(chain: Chain, rows: int) -> bool:
    return chain.rows() > rows


def nothing_is_left_to_ask(chain: Chain) -> bool:
    return bool(chain.status("producer")["backfill"]["gaps"] == 0)


def all_is_stored(chain: Chain) -> bool:
    return chain.counter("consumer", "records") >= len(chain.records(chain.topic))


def query(chain: Chain, statement: str) -> list[Any]:
    with sqlite3.connect(f"file:{chain.data}/crypto_prices.db?mode=ro", uri=True) as db:
        return db.execute(statement).fetchall()


def test_the_store_is_complete_after_every_fault_of_the_producer(recovered: Recovered) -> None:
    expected = golden.compute(recovered.recording).trades
    stored, missing = recovered.chain.ids()
    assert stored == set(expected)
    # The sample skips some ids: they stay open.
    assert missing == set(range(min(expected), max(expected) + 1)) - set(expected)
    for trade_id, price, side, size in query(
        recovered.chain, "SELECT trade_id, price, side, last_size FROM btc_prices"
    ):
        trade = expected[trade_id]
        assert (price, side, size) == (float(trade.price), trade.side, float(trade.size))


def test_each_trade_is_published_once_and_recovered_ones_have_the_header_and_no_quotes(
    recovered: Recovered,
) -> None:
    records = recovered.chain.records(recovered.chain.topic)
    assert len(records) == len(golden.compute(recovered.recording).trades)
    backfilled = {json.loads(r.value)["trade_id"] for r in records if is_backfilled(r)}
    assert len(backfilled) > 1000
    without = query(recovered.chain, "SELECT trade_id FROM btc_prices WHERE best_bid IS NULL")
    assert {row[0] for row in without} == backfilled


def test_latencies_leave_recovered_trades_out(recovered: Recovered) -> None:
    records = recovered.chain.records(recovered.chain.topic)
    live = sum(not is_backfilled(record) for record in records)
    ((measured,),) = query(
        recovered.chain,
        f"SELECT sum(count) FROM latency WHERE leg = '{histogram.EVENT_TO_RECEIPT}'",  # noqa: S608
    )
    assert measured == live


# --- trades that the exchange no longer serves ------------------------------------------------


def test_trades_that_are_no_longer_served_stay_open_and_are_not_asked_for_again(
    run: Run, tmp_path: Path, kafka: Broker
) -> None:
    with new_chain(run, tmp_path, kafka) as chain:
        recording = beginning_of_the_sample(tmp_path)
        chain.feed(recording, "400", "--rest-newest", "100")
        chain.start("producer", "consumer")
        wait_until(partial(has_more, chain, 1000), 60, "the first rows")
        chain.kill("producer")
        time.sleep(1)
        chain.start("producer")
        settle(chain)
        stored, missing = chain.ids()
        issued = set(golden.compute(recording).trades)
        assert stored <= issued
        assert missing == set(range(min(issued), max(issued) + 1)) - stored
        assert len(missing & issued) > 100
        assert chain.status("producer")["backfill"]["not_served"] > 100
        asked = chain.running["feed"].text().count("GET /products")
        time.sleep(ASKED_AFTER)
        assert chain.running["feed"].text().count("GET /products") == asked


# --- a REST interface that does not answer ----------------------------------------------------


def test_a_silent_rest_interface_delays_neither_the_feed_nor_the_end(
    run: Run, tmp_path: Path, kafka: Broker
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, new_chain(run, tmp_path, kafka) as chain:
        chain.environment["FEED_REST_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        chain.feed(beginning_of_the_sample(tmp_path), "20")
        chain.start("producer")
        published = partial(chain.counter, "producer", "published")
        wait_until(published, 30, "the first trades", chain.running["producer"])
        chain.kill("producer")
        time.sleep(1)
        chain.start("producer")
        silent.settimeout(20)
        asked, _ = silent.accept()
        before = published()
        wait_until(lambda: published() > before + 100, 10, "trades meanwhile")
        assert chain.status("producer")["healthy"]
        assert chain.status("producer")["backfill"]["missing"] > 0
        assert chain.running["producer"].terminate(5) == 0
        asked.close()
