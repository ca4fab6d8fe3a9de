"""The tally: where every visit of this pixel is. Two sums hold in every look at the metrics:

    hits              = accepted + discarded by a worker (it was not recorded)
    accepted + adopted = published + waiting + discarded by the publisher (refused, damaged)

Accepted is what stands in the journals, and not what a worker says of itself: a worker can be killed between the
append and the count, a line in a journal is there or is not. Called on main's loop alone, which also answers for the
metrics: nobody sees a visit on its way from one count to the other.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from tracker import telemetry
from tracker.core.discards import NOT_RECORDED, REFUSED_CONNECTIONS, REFUSED_STATUSES
from tracker.core.message import Message
from tracker.pixel.control import (
    HEADERS_CUT,
    HEADERS_UNTRUSTED,
    LOG_LINES_DROPPED,
    refused_connection,
    refused_request,
)
from tracker.pixel.journal_reader import JournalReader


class Tally:
    """Counts visits from one place to the next; `waiting` of a journal are those that no message has carried yet."""

    def __init__(self) -> None:
        self._waiting: Counter[JournalReader] = Counter()
        self._found: Counter[JournalReader] = Counter()

    def found(self, journals: Iterable[JournalReader]) -> None:
        """Count the lines that the journals' readers have found since."""
        for journal in journals:
            new, self._found[journal] = journal.found - self._found[journal], journal.found
            self._wait(journal, new)
            if journal.earlier:
                telemetry.ADOPTED_VISITS.inc(new)
            else:
                telemetry.ACCEPTED.inc(new)
                telemetry.HITS.inc(new)

    def not_recorded(self, before: Mapping[str, int], now: Mapping[str, int]) -> None:
        """Count what a worker has discarded and refused between two looks at its counts."""

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
        telemetry.LOG_LINES_DROPPED.inc(new(LOG_LINES_DROPPED))

    def published(self, journal: JournalReader, message: Message) -> None:
        telemetry.PUBLISHED.inc()
        telemetry.PUBLISHED_VISITS.inc(message.visits)
        self._wait(journal, -message.visits)

    def not_published(self, journal: JournalReader, reason: str, count: int) -> None:
        telemetry.DISCARDED.labels(reason).inc(count)
        self._wait(journal, -count)

    def gone(self, journals: Iterable[JournalReader]) -> None:
        """These have left the outbox. What still waited in them was set aside, or somebody took it."""
        for journal in journals:
            self.found([journal])
            self.not_published(journal, "damaged", self._waiting[journal])
            del self._waiting[journal], self._found[journal]

    def _wait(self, journal: JournalReader, count: int) -> None:
        self._waiting[journal] += count
        telemetry.WAITING_VISITS.inc(count)
