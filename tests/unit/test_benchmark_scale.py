"""How the benchmark of the capacity finds the highest rate with a flat lag, and its table."""

import pytest

from benchmarks import capacity, scale
from benchmarks.capacity import Capacity, Moment, NoFlatRateError, Plan, Publication, Step

PLAN = Plan(first=1000, most=64_000, step_seconds=10, hold_seconds=60)


def step(rate: float, slope: float = 0.0, sent: float | None = None, read: float = 0.0) -> Step:
    """A step of 20 seconds with a publication each second, whose lag grows by `slope` a second."""
    lags = [Moment(100.0 + second, 500 + slope * second) for second in range(20)]
    return Step(rate, rate if sent is None else sent, read or rate, lags, {})


class Machine:
    """A stream that reads at most `limit` messages a second, and at most `sends` are sent."""

    def __init__(self, limit: float, sends: float = 1e9, held: float | None = None) -> None:
        self.limit = limit
        self.sends = sends
        #: The limit in a hold.
        self.held = limit if held is None else held
        self.log: list[object] = []

    def observe(self, rate: float, seconds: float) -> Step:
        self.log.append((round(rate), seconds))
        limit = self.held if seconds == PLAN.hold_seconds else self.limit
        sent = min(rate, self.sends)
        return step(rate, max(0.0, sent - limit), sent, min(sent, limit))

    def drain(self) -> None:
        self.log.append("drain")

    def search(self) -> Capacity:
        return capacity.search(self.observe, self.drain, PLAN)


def test_the_lag_of_a_publication_is_what_was_sent_and_is_not_published():
    ends = [Moment(10, 0), Moment(12, 100), Moment(14, 300)]
    published = [Publication(11, 20), Publication(13, 50), Publication(20, 230)]
    assert capacity.lags(ends, published) == [Moment(11, 30), Moment(13, 130), Moment(20, 0)]


def test_the_growth_of_the_lag_is_a_share_of_the_rate():
    assert step(1000, slope=25).growth == pytest.approx(0.025)
    assert step(1000, slope=-100).growth == pytest.approx(-0.1)


def test_a_step_with_too_few_publications_counts_as_one_in_which_the_lag_grows():
    assert Step(1000, 1000, 1000, [Moment(1, 5), Moment(2, 5)], {}).growth == float("inf")


def test_the_rate_of_reading_excludes_what_came_before_the_first_publication():
    assert capacity.read_rate([Publication(1, 999), Publication(2, 10), Publication(5, 30)]) == 10
    assert capacity.read_rate([Publication(1, 999)]) == 0


def test_the_rate_doubles_until_the_lag_grows_and_is_then_held_below_the_rate_of_reading():
    machine = Machine(limit=5000)
    found = machine.search()
    assert machine.log == [
        *[(1000, 10), (2000, 10), (4000, 10), (8000, 10), (5000, 20)],
        "drain",
        *[(4500, 10), (4500, 60)],
    ]
    assert (found.backlog, found.held.rate, found.failed) == (5000, 4500, [])


def test_a_lower_rate_is_held_when_the_lag_grew():
    found = Machine(limit=5000, held=3600).search()
    assert found.failed == pytest.approx([4500, 4000])
    assert found.held.rate == pytest.approx(3500)


def test_a_sender_that_is_too_slow_is_the_limit():
    found = Machine(limit=5000, sends=3000).search()
    assert found.backlog is None
    assert found.held.rate == pytest.approx(2700)


def test_without_a_growing_lag_the_highest_rate_is_the_limit():
    found = Machine(limit=1e6).search()
    assert found.backlog is None
    assert found.held.rate == pytest.approx(0.9 * PLAN.most)


def test_a_lag_that_always_grows_is_an_error():
    with pytest.raises(NoFlatRateError, match=r"^the lag grew at 4500, 4000, .*/s$"):
        Machine(limit=5000, held=100).search()


def test_a_row_has_the_ratios_to_the_reference_of_the_same_run():
    def row(form: scale.Form, rate: float, cpu: float, reference: dict[str, object]):
        groups = {"stream": cpu, "brokers": 0.25, "sender": 0.5}
        held = Step(rate, rate, rate, step(rate).lags, groups)
        state = scale.State(rows=1000, size=250_000, mib=812.4)
        return scale.table_row(form, Capacity(rate / 0.9, held, [9000.0]), state, reference)

    local = row(scale.REFERENCE, 10_000, 0.4, {})
    assert (local["sustained / local"], local["CPU / local"]) == (None, None)
    assert local["CPU of the stream, s per million"] == 40
    clustered = row(scale.FORMS[-1], 5000, 0.3, local)
    assert (clustered["sustained / local"], clustered["CPU / local"]) == (0.5, 1.5)
    assert clustered["busy cores of 2"] == 1.05
    assert clustered["rates at which the lag grew"] == "9,000"
    assert clustered["lag every 10 s, thousand messages"] == "0.5, 0.5"
    assert list(clustered) == list(local)


def test_a_stream_that_publishes_nothing_ends_the_search_with_the_reason():
    def silent(rate: float, _seconds: float) -> Step:
        return Step(rate, rate, 0.0, [], {})

    with pytest.raises(NoFlatRateError, match="the stream published nothing at 1000 messages/s"):
        capacity.search(silent, lambda: None, PLAN)
