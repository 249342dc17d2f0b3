"""The ages that the comparison reports, checked by an observer who only reads the files."""

import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from feed.sample import SAMPLE
from pipeline.compare.freshness import (
    BATCH,
    STREAM_FINAL,
    STREAM_OPEN,
    freshness,
    publications,
    sawtooth,
)
from pipeline.compare.inputs import read_outputs
from pipeline.data_dir import DataDir
from pipeline.stores.sqlite import SqliteStore
from tests.conftest import Broker, Run, wait_until
from tests.integration.chain import SCRIPTS, Chain, new_chain

#: The observer reads the files for this long, and longer until each path has a new result.
LEAST_SECONDS = 8
MOST_SECONDS = 100
#: Seconds between two reads of the files.
LOOK_SECONDS = 0.05
#: The recorded times are from just before the files are replaced and synced to disk. So the ages
#: that follow from them are up to this much lower than those that a reader of the files sees.
SYNC_SECONDS = 0.3
#: The observed ages are computed for moments this far apart.
STEP_SECONDS = 0.01


def newest_trade(*files: Path) -> float:
    """Return the newest `last_trade_time` in the files, in seconds since 1970. 0 without one."""
    times = []
    for path in files:
        with path.open() as file:
            times += [row["last_trade_time"] for row in csv.DictReader(file)]
    return max((datetime.fromisoformat(text).timestamp() for text in times), default=0.0)


def results(data: Path) -> dict[str, Callable[[], float]]:
    """Return, for each kind of result, a function that returns its newest trade."""
    return {
        STREAM_OPEN: lambda: newest_trade(data / "stream_live.csv"),
        STREAM_FINAL: lambda: newest_trade(*sorted((data / "stream_csv").glob("*.csv"))),
        BATCH: lambda: newest_trade(*sorted((data / "batch_output").glob("*.csv"))[-1:]),
    }


class Observed:
    """The newest trade of a result, each time the observer read it."""

    def __init__(self) -> None:
        self._began: list[float] = []
        self._ended: list[float] = []
        self._newest: list[float] = []

    def look(self, newest: Callable[[], float]) -> None:
        self._began.append(time.time())
        self._newest.append(newest())
        self._ended.append(time.time())

    def least_ages(self, start: float, end: float) -> np.ndarray:
        """Return the ages if each new result was readable since the begin of the look before."""
        return self._ages([self._began[0], *self._began[:-1]], start, end)

    def greatest_ages(self, start: float, end: float) -> np.ndarray:
        """Return the ages if each new result was readable only when the observer had read it."""
        return self._ages(self._ended, start, end)

    def _ages(self, readable: list[float], start: float, end: float) -> np.ndarray:
        moments = np.arange(start, end, STEP_SECONDS)
        seen = np.searchsorted(readable, moments, side="right") - 1
        ages: np.ndarray = moments - np.maximum.accumulate(self._newest)[seen]
        return ages

    @property
    def since(self) -> float:
        return self._ended[0]

    @property
    def until(self) -> float:
        """The last look has seen each result that was readable before this time."""
        return self._began[-1]

    @property
    def newest(self) -> set[float]:
        """The newest trade of each result seen."""
        return set(self._newest)


def observe(newest_of: dict[str, Callable[[], float]]) -> dict[str, Observed]:
    seen = {name: Observed() for name in newest_of}
    start = time.monotonic()
    while (lasted := time.monotonic() - start) < MOST_SECONDS:
        for name, newest in newest_of.items():
            seen[name].look(newest)
        if lasted > LEAST_SECONDS and all(len(one.newest) >= 2 for one in seen.values()):
            return seen
        time.sleep(LOOK_SECONDS)
    pytest.fail(f"results seen: { {name: len(one.newest) for name, one in seen.items()} }")


def exists(newest: Callable[[], float]) -> bool:
    try:
        return newest() > 0
    except FileNotFoundError:
        return False


def copy(chain: Chain) -> Path:
    """Return a copy of the data directory at one moment, at which all services were running.

    A service that is stopped before the others would shorten the time with known ages.
    """
    for name in SCRIPTS:
        for process in chain.running[name].tree():
            process.suspend()
    return shutil.copytree(chain.data, chain.data.with_name("copy"))


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def is_recorded(chain: Chain, until: float) -> bool:
    """Return whether the stream has recorded its micro-batches up to this time."""
    data = DataDir(chain.data)
    outputs = read_outputs(data, SqliteStore(data.database))
    published = outputs.micro_batches["published_at"].max()
    return bool(published > moment(until))


@pytest.fixture
def chain(run: Run, tmp_path: Path, kafka: Broker) -> Iterator[Chain]:
    """A chain with windows of 10 seconds, so that six times as many become final."""
    short = {"WINDOW": "10 seconds", "WATERMARK": "10 seconds", "BATCH_INTERVAL_SECONDS": 10}
    with new_chain(run, tmp_path, kafka, **short) as chain:
        yield chain


@pytest.mark.slow
def test_the_ages_reported_are_those_that_an_observer_of_the_files_sees(
    chain: Chain, run: Run
) -> None:
    chain.feed(SAMPLE, "1", "--retime", "--backlog", "60")
    chain.start(*SCRIPTS)
    alive = list(chain.running.values())
    newest_of = results(chain.data)
    wait_until(lambda: all(map(exists, newest_of.values())), 90, "a result of each kind", *alive)
    seen = observe(newest_of)
    observed_until = time.time()
    wait_until(
        lambda: is_recorded(chain, observed_until), 20, "the record of the newest result", *alive
    )
    data = copy(chain)
    command = run("pipeline.compare", "--json", **chain.environment | {"DATA_DIR": data})
    assert command.process.wait(60) == 0, command.text()
    reported = json.loads(command.text())
    span = [datetime.fromisoformat(text) for text in reported["span"]]
    published = publications(read_outputs(DataDir(data), SqliteStore(DataDir(data).database)))
    for name, observed in seen.items():
        # The recorded times give the same ages over the time that the observer saw.
        start = max(observed.since, span[0].timestamp())
        end = min(observed.until, span[1].timestamp())
        found = freshness(sawtooth(published[name], moment(start), moment(end)))
        assert found is not None
        assert observed.newest <= {at.timestamp() for at in published[name]["newest"]}, name
        assert found.known_seconds == pytest.approx(end - start, abs=0.01), name
        least, most = observed.least_ages(start, end), observed.greatest_ages(start, end)
        for figure, of in (("mean", np.mean), ("median", np.median), ("maximum", np.max)):
            age = getattr(found, figure)
            assert of(least) - SYNC_SECONDS < age < of(most) + 2 * STEP_SECONDS, (name, figure)
