"""Makes the messages of one journal's spans. The formats are those of `sns.format`.

A message is charged once for each 64 KiB that it begins (`STEP_BYTES`). So a span whose message would be longer than
that is cut, and its message fills a whole number of these steps, as far as lines allow. What was cut off is the
beginning of the journal's next span, which is published right after this one.

How long a message gets is known only after its span was compressed. Therefore `limit` predicts from the journal's last
long message how many bytes to read next. A wrong prediction costs a second compression, or a part of a step.
"""

from typing import Literal

from tracker.core.message import MAX_SENT_BYTES, MAX_SPAN_BYTES, STEP_BYTES, Message, pack
from tracker.core.visit import MAX_JOURNAL_LINE_BYTES, split_lines
from tracker.cpus import let_others_run
from tracker.pixel.span import Span

Format = Literal["packed", "plain", "single"]

SINGLES = 80  # visits in flight under `format: single`: eight batches of ten
SINGLES_BYTES = 2 * MAX_JOURNAL_LINE_BYTES  # enough for SINGLES visits of a usual length
MARGIN = 0.97  # a part of a span may compress worse than the whole


class Packer:
    """Makes the messages of the journal with the id `journal`."""

    def __init__(self, journal: str) -> None:
        self._journal = journal
        self._share: float | None = None  # bytes as sent for a byte of the journal, in the last long message

    def limit(self, format: Format) -> int:
        """How many bytes of the journal to read for the next messages."""
        if format == "single":
            return SINGLES_BYTES
        if self._share is None or (sent := self._share * MAX_SPAN_BYTES) <= STEP_BYTES:
            return MAX_SPAN_BYTES
        return int(_whole_steps(sent) / self._share * MARGIN)

    def messages(self, span: Span, format: Format) -> list[Message]:
        """The messages for a span. They may leave out the last lines of the span, for later messages."""
        if format == "single":
            lines = split_lines(span.data)[:SINGLES]
            starts = [span.start]
            for line in lines:
                starts.append(starts[-1] + len(line))
            return [pack(self._journal, at, line, compress=False) for at, line in zip(starts, lines, strict=False)]
        data = span.data
        if len(data) > STEP_BYTES:
            let_others_run()  # the span was checked just now, and compressing it takes as long again
        message = pack(self._journal, span.start, data, compress=format == "packed")
        most = _whole_steps(message.size)
        while message.size > most and message.visits > 1:
            fitting = int(len(data) * most / message.size * MARGIN)
            data = data[: data.rfind(b"\n", 0, fitting) + 1 or data.index(b"\n") + 1]
            message = pack(self._journal, span.start, data, compress=format == "packed")
        if message.size > STEP_BYTES // 2:
            self._share = message.size / len(data)
        return [message]


def _whole_steps(size: float) -> int:
    """The longest message that is no longer than `size` and wastes no step. A message of less than a step is one."""
    return int(min(size, MAX_SENT_BYTES)) // STEP_BYTES * STEP_BYTES or STEP_BYTES
