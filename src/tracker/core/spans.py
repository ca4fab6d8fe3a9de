"""Sets of byte intervals: union, difference and overlap.

The ledger uses them to store every byte of a journal exactly once. An interval is half-open: ``[start, end)`` includes
`start` and not `end`. Empty intervals are accepted and never returned. Results are ascending and disjoint.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence


def merge(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union. Intervals that overlap or touch become one."""
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
    """The parts of the span that are not in `stored`, which may be in any order and overlap."""
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
    """The intervals of `stored` that share a byte with the span. `stored` is ascending and disjoint: it is bisected."""
    first = bisect_left(stored, (span[0],))
    if first and stored[first - 1][1] > span[0]:
        first -= 1
    return stored[first : bisect_left(stored, (span[1],), first)]


def add(stored: list[tuple[int, int]], start: int, end: int) -> None:
    """Add an interval to `stored`, in place. `stored` is a result of `merge`, and the interval is not empty."""
    first = bisect_left(stored, (start,))
    if first and stored[first - 1][1] >= start:
        first -= 1
    last = bisect_left(stored, (end + 1,), first)
    stored[first:last] = merge([*stored[first:last], (start, end)])
