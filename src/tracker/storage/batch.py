"""What several deliveries add to the visit log: unpacked, cut against what is stored, and written as lines.

Runs in the writer's thread, one delivery after the other. A delivery is taken whole or, malformed, not at all.
"""

from tracker.aws import Delivery
from tracker.core import spans
from tracker.core.log_line import format_line
from tracker.core.message import Closing, SingleVisit, StoredSpan, unpack
from tracker.core.visit import Visit
from tracker.errors import MalformedMessage
from tracker.storage.ledger import Append, Ledger

FULL_BYTES = 8 << 20  # of lines, and of message bodies
FULL_DELIVERIES = 1_000


class Batch:
    """Deliveries that share one append and one fdatasync."""

    def __init__(self, *, ledger: Ledger) -> None:
        self._ledger = ledger
        self._body_bytes = 0
        self.append = Append()
        self.deliveries: list[Delivery] = []
        self.visits = 0
        self.duplicates = 0

    @property
    def is_full(self) -> bool:
        size = max(len(self.append.data), self._body_bytes)
        return size >= FULL_BYTES or len(self.deliveries) >= FULL_DELIVERIES

    def add(self, delivery: Delivery) -> None:
        """Take a delivery; raises MalformedMessage, and then nothing of it is taken."""
        content = unpack(delivery.attributes, delivery.body)
        if isinstance(content, SingleVisit):
            self._add_single(delivery, content.visit)
        elif isinstance(content, StoredSpan):
            self._add_span(content)
            self._hear(content.journal, delivery)
        else:
            self._close(content)
            self._hear(content.journal, delivery)
        self._body_bytes += len(delivery.body)
        self.deliveries.append(delivery)

    def _add_single(self, delivery: Delivery, visit: Visit) -> None:
        if delivery.message_id in self.append.seen or self._ledger.has_seen(delivery.message_id):
            self.duplicates += 1
            return
        self._write([visit])
        self.append.seen[delivery.message_id] = delivery.sent_ms

    def _add_span(self, span: StoredSpan) -> None:
        in_batch = self.append.ranges.get(span.journal, [])
        new = [
            piece
            for missing in self._ledger.missing(span.journal, (span.start, span.end))
            for piece in spans.subtract(missing, in_batch)
        ]
        visits = [visit for start, end in new for visit in _visits_of(span, start, end)]
        self.duplicates += len(span.visits) - len(visits)
        self._write(visits)
        if new:
            self.append.ranges[span.journal] = spans.merge([*in_batch, *new])

    def _close(self, closing: Closing) -> None:
        self.append.closed[closing.journal] = max(closing.end, self.append.closed.get(closing.journal, 0))

    def _hear(self, journal: str, delivery: Delivery) -> None:
        self.append.heard[journal] = max(delivery.sent_ms, self.append.heard.get(journal, 0))

    def _write(self, visits: list[Visit]) -> None:
        self.append.data += b"".join(map(format_line, visits))
        self.visits += len(visits)


def _visits_of(span: StoredSpan, start: int, end: int) -> list[Visit]:
    """The visits of a part of the span, which has to lie on its line boundaries."""
    first, last = start - span.start, end - span.start
    if (first and span.data[first - 1] != 0x0A) or span.data[last - 1] != 0x0A:
        raise MalformedMessage(f"what is stored of journal {span.journal} ends within a line of this span")
    skipped = span.data.count(b"\n", 0, first)
    return span.visits[skipped : skipped + span.data.count(b"\n", first, last)]
