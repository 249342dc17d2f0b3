"""Latencies in fixed buckets, against the sorted values themselves."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import histogram as latency


def test_bounds_rise_and_each_value_lies_in_its_bucket() -> None:
    assert list(latency.BOUNDS) == sorted(set(latency.BOUNDS))
    for seconds in (-50, -0.7, 0, 0.0004, 0.3, 61, 4000):
        number = latency.bucket(seconds)
        assert latency.BOUNDS[number - 1] < seconds <= latency.BOUNDS[number]


@given(st.lists(st.floats(0.002, 5000), min_size=1, max_size=200), st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_within_a_bucket_of_the_true_one(values: list[float], share: float) -> None:
    found = latency.quantile(latency.count((value, 1) for value in values), share)
    true = sorted(values)[max(0, -(-int(share * 100) * len(values) // 100) - 1)]
    assert found is not None
    number = latency.bucket(true)
    assert latency.BOUNDS[number - 1] <= found <= latency.BOUNDS[number] * (1 + 1e-9)


def test_a_negative_latency_is_shown_as_it_is() -> None:
    found = latency.quantile(latency.count([(-0.3, 10)]), 0.5)
    assert found == pytest.approx(-0.3, rel=0.25)


def test_nothing_counted_or_beyond_all_buckets_is_unknown() -> None:
    assert latency.quantile({}, 0.5) is None
    years = latency.count([(3e7, 5), (0.1, 1)])
    assert latency.quantile(years, 0.5) is None
    assert latency.quantile(years, 0.1) is not None


@given(
    st.lists(st.tuples(st.floats(-100, 1e6), st.integers(1, 9)), max_size=30),
    st.lists(st.tuples(st.floats(-100, 1e6), st.integers(1, 9)), max_size=30),
)
def test_counts_add_up(one: list[tuple[float, int]], other: list[tuple[float, int]]) -> None:
    together = Counter(latency.count(one))
    together.update(latency.count(other))
    assert together == latency.count([*one, *other])
