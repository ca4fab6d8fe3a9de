"""A batch: the deliveries that share one append and one fdatasync, and the lines that they add to the visit log.

Each delivery is added in the owner thread of the ledger, in these steps:

1. The message is unpacked and checked. A malformed one is refused as a whole.
2. The ledger says which parts of its span are not stored yet. If some are stored, the span's bytes are compared with
   the checksums of what was stored; a message with other bytes for the same range is refused as a whole.
3. Only the lines of the parts that are not stored are written.
"""

from isal import isal_zlib

from tracker.core import spans
from tracker.core.delivery import Delivery
from tracker.core.log_line import format_line
from tracker.core.message import EndMarker, SingleVisit, StoredSpan, unpack
from tracker.core.visit import split_lines
from tracker.errors import ConflictingMessage, MalformedMessage
from tracker.storage.ledger import Ledger
from tracker.storage.pending import Append, Checksum

# A batch is full with this many bytes of lines or of message bodies, or this many deliveries. Compared with the work
# for a full batch, its fdatasync is cheap, so a larger batch would gain nothing.
FULL_BYTES = 2 << 20
FULL_DELIVERIES = 1_000


class Batch:
    """The deliveries, their `append`, and how many visits they add or repeat."""

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
        """Add a delivery. Raises MalformedMessage or ConflictingMessage; then nothing of the delivery is added."""
        content = unpack(delivery.attributes, delivery.body)
        if isinstance(content, SingleVisit):
            self._add_single(delivery, format_line(content.visit))
        elif isinstance(content, StoredSpan):
            self._add_span(content)
            self._record_latest(content.journal, delivery)
        else:
            self._add_end_marker(content)
            self._record_latest(content.journal, delivery)
        self._body_bytes += len(delivery.body)
        # From now on only the receipt is needed, to delete the message. Hundreds of deliveries may wait for that, so
        # their bodies and attributes (which may be as long as a body) are freed.
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
        lines, visits = span.lines, span.visits
        if new != [(span.start, span.end)]:
            self._compare(span)
            lines, visits = _lines_of(span, new)
        self._write(lines, visits)
        self.duplicates += span.visits - visits
        if not new:
            return
        for start, end in new:
            spans.add(ranges, start, end)
        self.append.ranges[span.journal] = ranges
        checksum = Checksum(span.start, span.end, span.crc32)
        self.append.checksums.setdefault(span.journal, []).append(checksum)

    def _compare(self, span: StoredSpan) -> None:
        """Compare a repeated span with the checksums of the ranges within it that are stored.

        Raises ConflictingMessage when they differ, because no pixel sends other bytes for the same range. A range that
        only overlaps the span cannot be compared, because the ledger has its checksum and not its bytes.
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
                continue  # no byte is compared twice, however many overlapping ranges somebody has sent
            if isal_zlib.crc32(memoryview(span.data)[start - span.start : end - span.start]) != crc32:
                raise ConflictingMessage(f"journal {span.journal}: other bytes are stored for [{start}, {end})")
            position = end

    def _add_end_marker(self, marker: EndMarker) -> None:
        self.append.closed[marker.journal] = max(marker.end, self.append.closed.get(marker.journal, 0))

    def _record_latest(self, journal: str, delivery: Delivery) -> None:
        self.append.latest_ms[journal] = max(delivery.sent_ms, self.append.latest_ms.get(journal, 0))

    def _write(self, lines: bytes, count: int) -> None:
        self.append.data += lines
        self.visits += count


def _lines_of(span: StoredSpan, parts: list[tuple[int, int]]) -> tuple[bytes, int]:
    """The lines of these ascending parts of the span, and their number.

    Raises MalformedMessage for a part that ends within a line.
    """
    lines = split_lines(span.lines)
    found: list[bytes] = []
    position = line = 0
    for start, end in parts:
        first, last = start - span.start, end - span.start
        if (first and span.data[first - 1] != 0x0A) or span.data[last - 1] != 0x0A:
            raise MalformedMessage(
                f"the stored part of journal {span.journal} begins or ends within a line of this span"
            )
        line += span.data.count(b"\n", position, first)
        count = span.data.count(b"\n", first, last)
        found += lines[line : line + count]
        position, line = last, line + count
    return b"".join(found), len(found)
