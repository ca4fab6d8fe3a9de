"""Publishes one journal, message by message, in order.

1. The next span is made into a window of messages: one message, or with `sns.format: single` up to SINGLES messages of
   one visit each. All messages of the window are published at once.
2. Messages that SNS accepts leave the window. The committed offset moves to the first message that is left, so it never
   passes a message that SNS has not accepted. The messages that are left are published again in the next call.
3. When the window is empty, the next one is made. When an orphan has no more lines, its end marker is published while
   the last segment still exists, and then the journal is removed.

When SNS refuses a message, the cause is either the message, or the topic and its permissions:

1. A refusal is first taken for a fault of the topic. The message stays in the window.
2. A probe is published: the message that SNS accepted last. If SNS refuses that too, the lines after the refused
   message are published as a second probe. The visits of an accepted probe arrive twice, and storage stores them once.
3. If the message is refused again although SNS has accepted something else since the last refusal, the message is at
   fault. Its lines are appended to `refused.ndjson` and made durable, and then the journal moves on. After a crash
   between the two, the lines may be in that file twice.
"""

import asyncio
import logging
from typing import Literal

from tracker.core.message import MAX_SENT_BYTES, MAX_SPAN_BYTES, Message, StoredSpan, end_marker, pack, unpack
from tracker.core.visit import MAX_JOURNAL_LINE_BYTES, split_lines
from tracker.errors import PublishRefused
from tracker.pixel.accounting import Accounting
from tracker.pixel.journal_reader import JournalReader, UnreadableJournal
from tracker.pixel.outbox import Outbox
from tracker.pixel.outbox_files import refused_lines
from tracker.pixel.span import Span
from tracker.pixel.topic import Topic, TopicState

log = logging.getLogger(__name__)

Format = Literal["packed", "plain", "single"]

SINGLES = 80  # visits in flight under `format: single`: eight batches of ten
SINGLES_BYTES = 2 * MAX_JOURNAL_LINE_BYTES  # enough for SINGLES visits of a usual length


class JournalPublisher:
    """Publishes the journal that `reader` reads."""

    def __init__(self, *, reader: JournalReader, outbox: Outbox, accounting: Accounting, state: TopicState) -> None:
        self._reader = reader
        self._outbox = outbox
        self._accounting = accounting
        self._state = state
        self._window: list[Message] = []  # messages that SNS has not accepted yet
        self._window_end = 0  # the offset at which the window's last message ended when the window was made
        self._more = False  # whether more lines followed the window when it was made
        self._damaged = 0  # damaged lines that were left out and are not counted yet
        self._refused_at: dict[int, int] = {}  # start of a message: the value of `state.accepted` at its last refusal
        self._unreadable = False
        self._ended = False  # whether SNS has the end marker

    async def publish_next(self, topic: Topic, format: Format) -> bool:
        """Publish the journal's next messages, or remove it at its end. True if more is to be published at once.

        A journal that cannot be read or changed delays no other: its errors are logged and counted here.
        """
        try:
            try:
                return await self._publish_next(topic, format)
            except UnreadableJournal as error:
                await self._leave_unreadable(error)
        except FileNotFoundError:
            self._outbox.forget(self._reader)  # somebody removed it; the next scan of the outbox shows what is left
        except OSError as error:
            self._state.count_unread(self._reader.name, error)
        return False

    async def _publish_next(self, topic: Topic, format: Format) -> bool:
        # This is read first: then everything that the worker wrote is read before the journal is removed.
        orphaned = self._reader.orphaned
        if not self._window:
            await asyncio.to_thread(self._fill_window, format)
            self._count_window()
        if self._window:
            await self._publish_window(topic, format)
            committed = self._window[0].start if self._window else self._window_end
            await asyncio.to_thread(self._reader.advance, committed)
            return not self._window and (self._more or self._reader.orphaned)
        if orphaned:
            await self._finish(topic, format)
        return False

    def _fill_window(self, format: Format) -> None:
        """Read the next span and make its messages. Blocks on the disk and compresses: for a thread."""
        limit = SINGLES_BYTES if format == "single" else MAX_SPAN_BYTES
        while (span := self._reader.take(limit)) is not None:
            self._reader.count(to=span.end)
            if span.skipped:
                self._damaged += span.skipped
                log.error(
                    "lines_damaged journal=%s before=%d count=%d; These lines are not visits and are not published. A "
                    "power cut leaves such lines; at any other time check the disk and the memory of this host.",
                    self._reader.name,
                    span.start,
                    span.skipped,
                )
                self._reader.advance(span.start)
            if span.data:
                self._window = _messages(self._reader.name, span, format)
                self._refused_at.clear()
                self._window_end = self._window[-1].end
                self._more = self._window_end < span.end or span.more
                return

    async def _publish_window(self, topic: Topic, format: Format) -> None:
        accepted_before = self._state.accepted  # an acceptance in the same call as a refusal proves nothing
        outcomes = await self._state.publish(topic, self._window)
        refused: list[Message] = []
        for message, outcome in zip(self._window.copy(), outcomes, strict=True):
            if outcome is None:
                self._state.accepted += 1
                self._state.last_accepted = message
                self._accounting.count_published(self._reader, message)
                self._window.remove(message)
                continue
            self._state.count_failure(outcome)
            if isinstance(outcome, PublishRefused):
                refused.append(message)
        for message in refused:
            await self._set_aside_if_refused(message, accepted_before)
        if refused:
            await self._probe(topic, refused[-1], format)

    async def _set_aside_if_refused(self, message: Message, accepted_before: int) -> None:
        """Set a refused message aside if SNS has accepted something else since its last refusal.

        Raises OSError when its lines cannot be kept. It stays in the window then.
        """
        if accepted_before <= self._refused_at.get(message.start, accepted_before):
            self._refused_at[message.start] = self._state.accepted
            return
        content = await asyncio.to_thread(unpack, message.attributes, message.body)
        assert isinstance(content, StoredSpan)
        await asyncio.to_thread(self._outbox.keep_refused, content.data)
        self._window.remove(message)
        self._accounting.count_not_published(self._reader, "refused", message.visits)
        log.error(
            "span_refused journal=%s start=%d end=%d visits=%d file=%s; SNS refuses this message and accepts others. "
            "Its lines were moved to the file and are not published. Look for what they have in common.",
            self._reader.name,
            message.start,
            message.end,
            message.visits,
            refused_lines(self._outbox.directory),
        )

    async def _probe(self, topic: Topic, refused: Message, format: Format) -> None:
        """Publish a probe, to find out whether SNS accepts any other message than `refused` now."""
        probes = [self._state.last_accepted] if self._state.last_accepted is not None else []
        following = await asyncio.to_thread(self._reader.take, MAX_JOURNAL_LINE_BYTES, refused.end)
        if following is not None and following.data:
            probes.append(_messages(self._reader.name, following, format)[0])
        for probe in probes:
            if (await self._state.publish(topic, [probe]))[0] is None:
                self._state.accepted += 1
                return

    async def _finish(self, topic: Topic, format: Format) -> None:
        """Publish the end marker of an orphan whose lines are all published, and remove the journal."""
        reader = self._reader
        if reader.committed and format != "single" and not self._ended:
            outcome = (await self._state.publish(topic, [end_marker(reader.name, reader.committed)]))[0]
            if outcome is not None:
                self._state.count_failure(outcome)
                return
            self._state.accepted += 1
            self._ended = True
        await asyncio.to_thread(reader.retire)
        self._outbox.forget(reader)
        log.info(
            "journal_retired journal=%s end=%d; All of this journal is published and it was removed.",
            reader.name,
            reader.committed,
        )

    async def _leave_unreadable(self, error: UnreadableJournal) -> None:
        """Log an unreadable journal once, and set it aside if it is an orphan.

        While its worker lives, it is not set aside: the worker itself begins a new journal.
        """
        reader = self._reader
        if not self._unreadable:
            self._unreadable = True
            log.error(
                "journal_read_failed journal=%s error=%s; The journal is damaged. The rest of its visits is not "
                "published. When its worker has ended, its directory is renamed: the name then ends in .bad. Check the "
                "disk, keep a copy of the directory, then remove it.",
                reader.name,
                error,
            )
        if reader.orphaned:
            await asyncio.to_thread(reader.set_aside)
            self._outbox.forget(reader)

    def _count_window(self) -> None:
        """Count the lines that `_fill_window` has read: on the event loop, because the metrics are read there, too."""
        self._accounting.count_lines([self._reader])
        damaged, self._damaged = self._damaged, 0
        self._accounting.count_not_published(self._reader, "damaged", damaged)


def _messages(journal: str, span: Span, format: Format) -> list[Message]:
    """The messages for a span. They may leave out the last lines of the span, for later messages."""
    if format == "single":
        lines = split_lines(span.data)[:SINGLES]
        starts = [span.start]
        for line in lines:
            starts.append(starts[-1] + len(line))
        return [pack(journal, start, line, compress=False) for start, line in zip(starts, lines, strict=False)]
    data = span.data
    message = pack(journal, span.start, data, compress=format == "packed")
    while message.size > MAX_SENT_BYTES:
        fitting = int(len(data) * MAX_SENT_BYTES / message.size * 0.97)
        data = data[: data.rindex(b"\n", 0, fitting) + 1]
        message = pack(journal, span.start, data, compress=format == "packed")
    return [message]
