"""Histograms of latencies, compared with the sorted latencies."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import histogram


def test_bounds_increase_and_each_latency_is_in_its_bucket() -> None:
    assert list(histogram.BOUNDS) == sorted(set(histogram.BOUNDS))
    for seconds in (-50, -0.7, 0, 0.0004, 0.3, 61, 4000):
        number = histogram.bucket(seconds)
        assert histogram.BOUNDS[number - 1] < seconds <= histogram.BOUNDS[number]


@given(st.lists(st.floats(0.002, 5000), min_size=1, max_size=200), st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    found = histogram.quantile(histogram.count((value, 1) for value in values), share)
    true = sorted(values)[max(0, -(-int(share * 100) * len(values) // 100) - 1)]
    assert found is not None
    number = histogram.bucket(true)
    assert histogram.BOUNDS[number - 1] <= found <= histogram.BOUNDS[number] * (1 + 1e-9)


def test_a_negative_latency_stays_negative() -> None:
    found = histogram.quantile(histogram.count([(-0.3, 10)]), 0.5)
    assert found == pytest.approx(-0.3, rel=0.25)


def test_a_quantile_of_nothing_or_beyond_all_buckets_is_unknown() -> None:
    assert histogram.quantile({}, 0.5) is None
    years = histogram.count([(3e7, 5), (0.1, 1)])
    assert histogram.quantile(years, 0.5) is None
    assert histogram.quantile(years, 0.1) is not None


@given(
    st.lists(st.tuples(st.floats(-100, 1e6), st.integers(1, 9)), max_size=30),
    st.lists(st.tuples(st.floats(-100, 1e6), st.integers(1, 9)), max_size=30),
)
def test_the_sum_of_two_histograms_is_the_histogram_of_both(
    one: list[tuple[float, int]], other: list[tuple[float, int]]
) -> None:
    together = Counter(histogram.count(one))
    together.update(histogram.count(other))
    assert together == histogram.count([*one, *other])
