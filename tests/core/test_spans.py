"""Each operation on intervals, compared with a simple model: a set of bytes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tracker.core.spans import add, merge, overlapping, subtract

positions = st.integers(min_value=0, max_value=60)
intervals = st.tuples(positions, positions)


def held(many: list[tuple[int, int]]) -> set[int]:
    return {position for start, end in many for position in range(start, end)}


@given(st.lists(intervals))
def test_merge_is_the_union_in_the_fewest_intervals(many: list[tuple[int, int]]) -> None:
    merged = merge(many)
    assert held(merged) == held(many)
    assert all(start < end for start, end in merged)
    assert all(left[1] < right[0] for left, right in pairwise(merged))


@given(intervals, st.lists(intervals))
def test_subtract_is_the_difference_in_ascending_order(span: tuple[int, int], stored: list[tuple[int, int]]) -> None:
    left = subtract(span, stored)
    assert held(left) == held([span]) - held(stored)
    assert left == merge(left)


@given(intervals, st.lists(intervals))
def test_storing_what_was_missing_leaves_nothing_missing(span: tuple[int, int], stored: list[tuple[int, int]]) -> None:
    assert subtract(span, merge(stored + subtract(span, stored))) == []


def test_intervals_that_touch_become_one() -> None:
    assert merge([(5, 9), (0, 5), (20, 21)]) == [(0, 9), (20, 21)]


def test_a_span_is_cut_in_the_middle() -> None:
    assert subtract((0, 10), [(3, 5), (5, 6), (9, 40)]) == [(0, 3), (6, 9)]


@given(intervals, st.lists(intervals))
def test_what_overlaps_a_span_is_all_that_subtracting_from_it_needs(
    span: tuple[int, int], many: list[tuple[int, int]]
) -> None:
    stored = merge(many)
    found = overlapping(span, stored)
    assert held([*found]) & held([span]) == held(stored) & held([span])
    assert all(start < span[1] and end > span[0] for start, end in found) or span[0] >= span[1]


@given(st.lists(intervals))
def test_adding_one_interval_after_the_other_is_merging_them(many: list[tuple[int, int]]) -> None:
    stored: list[tuple[int, int]] = []
    for start, end in many:
        if start < end:
            add(stored, start, end)
    assert stored == merge(many)
