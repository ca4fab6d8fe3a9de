"""What several deliveries add to the visit log: unpacked, cut against what is stored, and written as lines.

Runs in the writer's thread, one delivery after the other. A delivery is taken whole or, malformed, not at all.
"""

import zlib
from collections.abc import Iterator

from tracker.aws import Delivery
from tracker.core import spans
from tracker.core.log_line import format_line
from tracker.core.message import Closing, SingleVisit, StoredSpan, unpack
from tracker.errors import ConflictingMessage, MalformedMessage
from tracker.storage.ledger import Append, Checksum, Ledger

FULL_BYTES = 2 << 20  # of lines, and of message bodies: enough that one more fdatasync is little, beside them
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
        """Take a delivery. Raises MalformedMessage and ConflictingMessage, and then nothing of it is taken."""
        content = unpack(delivery.attributes, delivery.body)
        if isinstance(content, SingleVisit):
            self._add_single(delivery, format_line(content.visit))
        elif isinstance(content, StoredSpan):
            self._add_span(content)
            self._hear(content.journal, delivery)
        else:
            self._close(content)
            self._hear(content.journal, delivery)
        self._body_bytes += len(delivery.body)
        # Hundreds may wait for their delete, which needs the receipt alone. Attributes may be as long as a body.
        delivery.body, delivery.attributes = "", {}
        self.deliveries.append(delivery)

    def _add_single(self, delivery: Delivery, line: bytes) -> None:
        if delivery.message_id in self.append.seen or self._ledger.has_seen(delivery.message_id):
            self.duplicates += 1
            return
        self._write(line, 1)
        self.append.seen[delivery.message_id] = delivery.sent_ms

    def _add_span(self, span: StoredSpan) -> None:
        ranges = self.append.ranges.get(span.journal, [])
        new = self._ledger.missing(span.journal, (span.start, span.end), ranges)
        if new != [(span.start, span.end)]:
            self._compare(span)
        lines = list(_lines_of(span, new))
        self.duplicates += len(span.lines) - len(lines)
        self._write("".join(lines).encode("ascii"), len(lines))
        if not new:
            return
        for start, end in new:
            spans.add(ranges, start, end)
        self.append.ranges[span.journal] = ranges
        checksum = Checksum(span.start, span.end, span.crc32)
        self.append.checksums.setdefault(span.journal, []).append(checksum)

    def _compare(self, span: StoredSpan) -> None:
        """Compare a repeat with the checksums of what was stored before within its range.

        Raises ConflictingMessage when bytes differ: an honest pixel never sends other bytes for the same range. Ranges
        that only overlap cannot be compared, for the ledger has no bytes.
        """
        known = self._ledger.checksums(span.journal, (span.start, span.end))
        known += [
            each
            for each in self.append.checksums.get(span.journal, [])
            if span.start <= each.start and each.end <= span.end
        ]
        position = span.start
        for start, end, crc32 in sorted(known, key=lambda each: (each.start, -each.end)):
            if start < position:
                continue  # so that no byte is read twice, however many ranges somebody made overlap
            if zlib.crc32(memoryview(span.data)[start - span.start : end - span.start]) != crc32:
                raise ConflictingMessage(f"journal {span.journal}: other bytes for [{start}, {end}) came before")
            position = end

    def _close(self, closing: Closing) -> None:
        self.append.closed[closing.journal] = max(closing.end, self.append.closed.get(closing.journal, 0))

    def _hear(self, journal: str, delivery: Delivery) -> None:
        self.append.heard[journal] = max(delivery.sent_ms, self.append.heard.get(journal, 0))

    def _write(self, lines: bytes, count: int) -> None:
        self.append.data += lines
        self.visits += count


def _lines_of(span: StoredSpan, parts: list[tuple[int, int]]) -> Iterator[str]:
    """The lines of ascending parts of the span, each of which has to lie on its line boundaries."""
    if parts == [(span.start, span.end)]:
        yield from span.lines
        return
    position = line = 0
    for start, end in parts:
        first, last = start - span.start, end - span.start
        if (first and span.data[first - 1] != 0x0A) or span.data[last - 1] != 0x0A:
            raise MalformedMessage(f"what is stored of journal {span.journal} ends within a line of this span")
        line += span.data.count(b"\n", position, first)
        count = span.data.count(b"\n", first, last)
        yield from span.lines[line : line + count]
        position, line = last, line + count
