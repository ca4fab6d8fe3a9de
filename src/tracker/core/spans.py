"""The algebra of byte intervals by which the ledger keeps every byte of a journal in the visit log exactly once.

Intervals are half-open, ``[start, end)``; an empty one holds nothing and is never returned. What is returned is
ascending and disjoint.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence


def merge(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union, in the fewest intervals: those that overlap or touch become one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def subtract(span: tuple[int, int], stored: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of the span is not stored yet; `stored` in any order, overlapping or not."""
    position, end = span
    left: list[tuple[int, int]] = []
    for stored_start, stored_end in merge(stored):
        if stored_end <= position:
            continue
        if stored_start >= end:
            break
        if position < stored_start:
            left.append((position, stored_start))
        position = stored_end
    if position < end:
        left.append((position, end))
    return left


def overlapping(span: tuple[int, int], stored: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Those of `stored` that share a byte with the span, found by bisection: `stored` is ascending and disjoint."""
    first = bisect_left(stored, (span[0],))
    if first and stored[first - 1][1] > span[0]:
        first -= 1
    return stored[first : bisect_left(stored, (span[1],), first)]


def add(stored: list[tuple[int, int]], start: int, end: int) -> None:
    """Put an interval that is not empty into `stored`, which is ascending and disjoint and has no two that touch."""
    first = bisect_left(stored, (start,))
    if first and stored[first - 1][1] >= start:
        first -= 1
    last = bisect_left(stored, (end + 1,), first)
    stored[first:last] = merge([*stored[first:last], (start, end)])
