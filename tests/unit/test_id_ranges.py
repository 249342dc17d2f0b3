"""The set of trade ids, against Python's own set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest import id_ranges
from pipeline.ingest.id_ranges import IdRanges

IDS = st.integers(1, 60)
SPANS = st.tuples(IDS, IDS).map(sorted).map(tuple)


def filled(spans: list[tuple[int, int]]) -> tuple[IdRanges, set[int]]:
    ranges, ids = IdRanges(), set()
    for first, last in spans:
        ranges.add(first, last)
        ids |= set(range(first, last + 1))
    return ranges, ids


@given(st.lists(SPANS))
def test_it_contains_what_was_added(spans: list[tuple[int, int]]) -> None:
    ranges, ids = filled(spans)
    assert {number for number in range(70) if number in ranges} == ids
    kept = list(ranges.ranges())
    assert sum(last - first + 1 for first, last in kept) == len(ids)  # disjoint
    assert kept == sorted(kept)


@given(st.lists(IDS))
def test_single_ids_in_any_order_give_the_same_set(numbers: list[int]) -> None:
    ranges = IdRanges()
    for number in numbers:
        ranges.add(number)
    assert {number for number in range(70) if number in ranges} == set(numbers)


@given(st.lists(SPANS))
def test_the_gaps_are_the_missing_ids_between_two_ids_newest_first(
    spans: list[tuple[int, int]],
) -> None:
    ranges, ids = filled(spans)
    gaps = list(ranges.gaps())
    missing = {number for first, last in gaps for number in range(first, last + 1)}
    assert missing == (set(range(min(ids), max(ids))) - ids if ids else set())
    assert gaps == sorted(gaps, reverse=True)
    assert all(first - 1 in ids and last + 1 in ids for first, last in gaps)


@given(st.lists(SPANS), st.lists(SPANS), IDS)
def test_sets_are_united_and_filled_below_an_id(
    spans: list[tuple[int, int]], others: list[tuple[int, int]], number: int
) -> None:
    (ranges, ids), (other, other_ids) = filled(spans), filled(others)
    ranges.update(other)
    union = ids | other_ids
    assert {n for n in range(70) if n in ranges} == union
    ranges.fill_below(number)
    if union and min(union) < number:
        union |= set(range(min(union), number + 1))
    assert {n for n in range(70) if n in ranges} == union


def test_above_the_maximum_number_of_ranges_the_lowest_gap_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(id_ranges, "MAX_RANGES", 3)
    ranges = IdRanges()
    for number in (2, 4, 6, 8):
        ranges.add(number)
    assert list(ranges.ranges()) == [(2, 4), (6, 6), (8, 8)]
