"""Publishes one journal, message by message, in order.

1. `fill`, in a thread, reads the next span and makes it into a window of messages: one message, or with `sns.format:
   single` up to eighty messages of one visit each.
2. `publish` publishes all messages of the window at once. The journal's window is not filled again before they have
   their outcomes.
3. Messages that SNS accepts leave the window. The committed offset moves to the first message that is left, so it never
   passes a message that SNS has not accepted. The messages that are left are published again: the journal waits for
   that until `retry_at`, longer after each failure.
4. When the window is empty, the next one is made. When an orphan has no more lines, its end marker is published while
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

from tracker.core.message import Message, StoredSpan, end_marker, unpack
from tracker.core.visit import MAX_JOURNAL_LINE_BYTES
from tracker.errors import PublishRefused
from tracker.lifecycle import Backoff
from tracker.pixel.accounting import Accounting
from tracker.pixel.journal_reader import JournalReader, UnreadableJournal
from tracker.pixel.outbox import Outbox
from tracker.pixel.outbox_files import refused_lines
from tracker.pixel.packer import Format, Packer
from tracker.pixel.topic import Topic, TopicState

log = logging.getLogger(__name__)


class JournalPublisher:
    """Publishes the journal of `reader`.

    `window` are the messages that SNS has not accepted yet. `more` says that the next window is to be made at once,
    because lines follow the last one. `retry_at` is when the journal may be tried again after a failure, by the event
    loop's clock; 0 when its last try did not fail. `failing` is set as soon as a try fails, until one has not failed.
    """

    def __init__(
        self, *, reader: JournalReader, outbox: Outbox, accounting: Accounting, state: TopicState, backoff: Backoff
    ) -> None:
        self.reader = reader
        self.window: list[Message] = []
        self.more = False
        self.retry_at = 0.0
        self.failing = False
        self._outbox = outbox
        self._accounting = accounting
        self._state = state
        self._backoff = backoff
        self._packer = Packer(reader.name)
        self._window_end = 0  # the offset at which the window's last message ended when the window was made
        self._damaged = 0  # damaged lines that were left out and are not counted yet
        self._refused_at: dict[int, int] = {}  # start of a message: the value of `state.calls` at its last refusal
        self._error: UnreadableJournal | OSError | None = None  # why `fill` could not read the journal
        self._unreadable = False
        self._exhausted = False  # whether all lines of an orphan are published
        self._ended = False  # whether SNS has the end marker

    def fill(self, format: Format) -> bool:
        """Make the next window, if there is none. Return whether `publish` is to be called.

        Blocks on the disk and compresses: for a thread. Raises nothing: `publish` logs and counts the errors.
        """
        orphaned = self.reader.orphaned  # read first: then everything that the worker wrote is read before the end
        try:
            if not self.window:
                self.more = False
                self._fill_window(format)
        except (UnreadableJournal, OSError) as error:
            self._error = error
        self._exhausted = orphaned and not self.window
        return bool(self.window or self._exhausted or self._error or self._damaged)

    async def publish(self, topic: Topic, format: Format) -> None:
        """Publish the window that `fill` has made, or remove the journal at its end. Raises nothing.

        A journal that cannot be read or changed delays no other: its errors are logged and counted here.
        """
        waiting = len(self.window)
        try:
            try:
                done = await self._publish(topic, format)
            except UnreadableJournal as error:
                done = True
                await self._leave_unreadable(error)
        except FileNotFoundError:
            done = True
            self._outbox.forget(self.reader)  # somebody removed it; the next scan of the outbox shows what is left
        except OSError as error:
            done = False
            self._state.count_unread(self.reader.name, error)
        if done or len(self.window) < waiting:
            self._backoff.reset()
        self.failing = not done
        self.retry_at = 0.0 if done else asyncio.get_running_loop().time() + self._backoff.next()

    async def _publish(self, topic: Topic, format: Format) -> bool:
        """Do the work of `publish`. Return whether nothing has failed."""
        error, self._error = self._error, None
        self._count_window()
        if error is not None:
            raise error
        if self.window:
            await self._publish_window(topic, format)
            committed = self.window[0].start if self.window else self._window_end
            await asyncio.to_thread(self.reader.advance, committed)
            return not self.window
        return not self._exhausted or await self._finish(topic, format)

    def _fill_window(self, format: Format) -> None:
        while (span := self.reader.take(self._packer.limit(format))) is not None:
            self.reader.count_span(span)
            if span.skipped:
                self._damaged += span.skipped
                log.error(
                    "lines_damaged journal=%s before=%d count=%d; These lines are not visits and are not published. A "
                    "power cut leaves such lines; at any other time check the disk and the memory of this host.",
                    self.reader.name,
                    span.start,
                    span.skipped,
                )
                self.reader.advance(span.start)
            if span.data:
                self.window = self._packer.messages(span, format)
                self._refused_at.clear()
                self._window_end = self.window[-1].end
                self.more = self._window_end < span.end or span.more
                return

    async def _publish_window(self, topic: Topic, format: Format) -> None:
        accepted_call = self._state.accepted_call  # an acceptance in the same call as a refusal proves nothing
        outcomes = await self._state.publish(topic, self.window)
        refused: list[Message] = []
        for message, outcome in zip(self.window.copy(), outcomes, strict=True):
            if outcome is None:
                self._accounting.count_published(self.reader, message)
                self.window.remove(message)
                continue
            self.failing = True  # before others can take the next acceptance for a recovery
            self._state.count_failure(outcome)
            if isinstance(outcome, PublishRefused):
                refused.append(message)
        for message in refused:
            await self._set_aside_if_refused(message, accepted_call)
        if refused:
            await self._probe(topic, refused[-1], format)

    async def _set_aside_if_refused(self, message: Message, accepted_call: int) -> None:
        """Set a refused message aside if SNS has accepted something else since its last refusal.

        `accepted_call` is the value of `state.accepted_call` before the message was published this time. Raises OSError
        when its lines cannot be kept. It stays in the window then.
        """
        if accepted_call <= self._refused_at.get(message.start, accepted_call):
            self._refused_at[message.start] = self._state.calls
            return
        content = await asyncio.to_thread(unpack, message.attributes, message.body)
        assert isinstance(content, StoredSpan)
        await asyncio.to_thread(self._outbox.keep_refused, content.data)
        self.window.remove(message)
        self._accounting.count_not_published(self.reader, "refused", message.visits)
        log.error(
            "span_refused journal=%s start=%d end=%d visits=%d file=%s; SNS refuses this message and accepts others. "
            "Its lines were moved to the file and are not published. Look for what they have in common.",
            self.reader.name,
            message.start,
            message.end,
            message.visits,
            refused_lines(self._outbox.directory),
        )

    async def _probe(self, topic: Topic, refused: Message, format: Format) -> None:
        """Publish a probe, to find out whether SNS accepts any other message than `refused` now."""
        probes = [self._state.last_accepted] if self._state.last_accepted is not None else []
        following = await asyncio.to_thread(self.reader.take, MAX_JOURNAL_LINE_BYTES, refused.end)
        if following is not None and following.data:
            probes.append(self._packer.messages(following, format)[0])
        for probe in probes:
            if (await self._state.publish(topic, [probe]))[0] is None:
                return

    async def _finish(self, topic: Topic, format: Format) -> bool:
        """Publish the end marker of an orphan whose lines are all published, and remove the journal.

        Return whether SNS has accepted the end marker.
        """
        reader = self.reader
        if reader.committed and format != "single" and not self._ended:
            outcome = (await self._state.publish(topic, [end_marker(reader.name, reader.committed)]))[0]
            if outcome is not None:
                self._state.count_failure(outcome)
                return False
            self._ended = True
        await asyncio.to_thread(reader.retire)
        self._outbox.forget(reader)
        log.info(
            "journal_retired journal=%s end=%d; All of this journal is published and it was removed.",
            reader.name,
            reader.committed,
        )
        return True

    async def _leave_unreadable(self, error: UnreadableJournal) -> None:
        """Log an unreadable journal once, and set it aside if it is an orphan.

        While its worker lives, it is not set aside: the worker itself begins a new journal.
        """
        reader = self.reader
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
        """Count the lines that `fill` has read: on the event loop, because the metrics are read there, too."""
        self._accounting.count_lines([self.reader])
        damaged, self._damaged = self._damaged, 0
        self._accounting.count_not_published(self.reader, "damaged", damaged)
