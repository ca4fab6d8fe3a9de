"""Journals that several ledgers know: what `tracker audit` looks for when it reads several ledgers.

Each journal belongs to one storage. If two storages have stored parts of one, its visits are divided between their
logs, and each ledger shows gaps that the other one fills. If the parts overlap, visits are in two logs.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

Stored = Iterator[tuple[str, int, int]]


class SharedJournal(NamedTuple):
    """A journal that the ledgers of these logs know, and how many of its bytes more than one of them has stored."""

    journal: str
    logs: Sequence[str]
    twice: int


def shared_journals(ledgers: Mapping[str, Stored]) -> Iterator[SharedJournal]:
    """The journals of which several ledgers have stored bytes. `ledgers` has their intervals in order, by their logs.

    One interval of each ledger is in memory, whatever the number of journals.
    """
    tagged = [_tagged(log, stored) for log, stored in ledgers.items()]
    current, logs, twice, position = "", set[str](), 0, 0
    for journal, start, end, log in heapq.merge(*tagged, [("~", 0, 0, "")]):
        if journal != current:
            if len(logs) > 1:
                yield SharedJournal(current, sorted(logs), twice)
            current, logs, twice, position = journal, set(), 0, 0
        logs.add(log)
        twice += max(0, min(position, end) - start)
        position = max(position, end)


def _tagged(log: str, stored: Stored) -> Iterator[tuple[str, int, int, str]]:
    for journal, start, end in stored:
        yield journal, start, end, log
