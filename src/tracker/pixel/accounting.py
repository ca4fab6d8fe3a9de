"""Accounting: how many visits wait for SNS, are published or were discarded, and for which reason.

Two sums hold whenever the metrics are read:

    hits               = accepted + discarded by a worker (it was not recorded)
    accepted + adopted = published + waiting + discarded by the publisher (refused, damaged)

`adopted` are visits that an earlier run of the pixel left in the outbox.

What a worker accepted is counted from the lines in its journal, and not from numbers that the worker reports. A worker
can be killed after it has appended a line and before it has counted it.

All methods run on main's event loop, which also answers requests for the metrics, and none of them awaits. So the
metrics are never read after a visit was taken from one count and before it is added to the next.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from tracker import telemetry
from tracker.core.discards import (
    HEADERS_CUT,
    HEADERS_MISSING,
    HEADERS_UNTRUSTED,
    NOT_RECORDED,
    REFUSED_CONNECTIONS,
    REFUSED_STATUSES,
)
from tracker.core.message import Message
from tracker.pixel.control import LOG_LINES_DROPPED, refused_connection, refused_request
from tracker.pixel.journal_reader import JournalReader


class Accounting:
    """Keeps the counts of visits. A visit waits from when its line is counted until it is published or discarded."""

    def __init__(self) -> None:
        self._waiting: Counter[JournalReader] = Counter()
        self._lines_counted: Counter[JournalReader] = Counter()

    def count_lines(self, journals: Iterable[JournalReader]) -> None:
        """Add the lines that the readers have counted since the last call."""
        for journal in journals:
            new = journal.lines_counted - self._lines_counted[journal]
            self._lines_counted[journal] += new
            self._count_new(journal, new)

    def count_not_recorded(self, before: Mapping[str, int], now: Mapping[str, int]) -> None:
        """Count what a worker has discarded and refused between two readings of its counts."""

        def new(name: str) -> int:
            return now[name] - before.get(name, 0)

        for reason in NOT_RECORDED:
            telemetry.DISCARDED.labels(reason).inc(new(reason))
            telemetry.HITS.inc(new(reason))
        for status in REFUSED_STATUSES:
            telemetry.REQUESTS_REFUSED.labels(str(status)).inc(new(refused_request(status)))
        for reason in REFUSED_CONNECTIONS:
            telemetry.CONNECTIONS_REFUSED.labels(reason).inc(new(refused_connection(reason)))
        telemetry.HEADERS_CUT.inc(new(HEADERS_CUT))
        telemetry.HEADERS_UNTRUSTED.inc(new(HEADERS_UNTRUSTED))
        telemetry.HEADERS_MISSING.inc(new(HEADERS_MISSING))
        telemetry.LOG_LINES_DROPPED.inc(new(LOG_LINES_DROPPED))

    def count_published(self, journal: JournalReader, message: Message) -> None:
        """Count a message of the journal that SNS has accepted."""
        telemetry.PUBLISHED.inc()
        telemetry.PUBLISHED_VISITS.inc(message.visits)
        self._take_waiting(journal, message.visits)

    def count_not_published(self, journal: JournalReader, reason: str, count: int) -> None:
        """Count `count` visits of the journal as discarded by the publisher."""
        telemetry.DISCARDED.labels(reason).inc(count)
        self._take_waiting(journal, count)

    def count_removed(self, journals: Iterable[JournalReader]) -> None:
        """Count the visits that still waited in journals which are no longer in the outbox.

        A journal that was published to its end has none. In any other journal these visits are lost: it was set aside
        as unreadable, or somebody removed its directory.
        """
        for journal in journals:
            self.count_lines([journal])
            self.count_not_published(journal, "damaged", self._waiting[journal])
            del self._waiting[journal], self._lines_counted[journal]

    def _count_new(self, journal: JournalReader, count: int) -> None:
        self._waiting[journal] += count
        telemetry.WAITING_VISITS.inc(count)
        if journal.earlier:
            telemetry.ADOPTED_VISITS.inc(count)
        else:
            telemetry.ACCEPTED.inc(count)
            telemetry.HITS.inc(count)

    def _take_waiting(self, journal: JournalReader, count: int) -> None:
        # A fault of the disk can put a newline into a line that is counted already. What is more than was counted is
        # counted now, so that the sums hold.
        self._count_new(journal, max(0, count - self._waiting[journal]))
        self._waiting[journal] -= count
        telemetry.WAITING_VISITS.dec(count)
