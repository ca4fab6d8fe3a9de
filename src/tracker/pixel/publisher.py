"""The publisher: takes spans from the outbox to the SNS topic, in order within each journal, and retires journals.

The published offset moves only when SNS has accepted everything before it. After a failure the publisher tries again,
for as long as it takes. What SNS refuses is handled in this order:

1. A refusal is first taken for a fault of the topic or of its permissions. Nothing is given up.
2. A probe is published: the message that SNS accepted last and, if that is refused too, what follows the refused
   message in its journal. What is accepted arrives twice, and storage removes the repeat.
3. When a message is refused again although SNS has accepted something else since its last refusal, the message is at
   fault. Its lines go to `refused.ndjson`, durably, and then the journal moves on. After a crash between the two they
   may be there twice.
"""

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from tracker import telemetry
from tracker.config import SnsConfig
from tracker.core.message import MAX_SENT_BYTES, MAX_SPAN_BYTES, Message, StoredSpan, end_marker, pack, unpack
from tracker.core.visit import split_lines
from tracker.errors import PublishFailed, PublishRefused
from tracker.lifecycle import Backoff, ends_before, wait_for_event
from tracker.pixel.accounting import Accounting
from tracker.pixel.journal_reader import LONG_LINE, JournalReader, Span, UnreadableJournal
from tracker.pixel.outbox import Outbox
from tracker.pixel.outbox_files import refused_lines

log = logging.getLogger("tracker.pixel.publisher")

SINGLES = 80  # visits in flight under `format: single`: eight batches of ten
SINGLES_BYTES = 2 * LONG_LINE  # enough for as many visits of a usual length


class Topic(Protocol):
    """Where messages go. `publish` gives one outcome a message, None when it is accepted.

    `ready` makes sure that the topic can be called (credentials, settings) and raises PublishFailed when it cannot.
    """

    async def ready(self) -> None: ...

    async def publish(self, messages: list[Message]) -> list[PublishFailed | None]: ...


class OpenTopic(Protocol):
    """Makes a `Topic`, which need not be ready."""

    def __call__(self, config: SnsConfig) -> AbstractAsyncContextManager[Topic]: ...


class _Progress:
    """What is under way for one journal: a window of messages, those of it that SNS has not accepted yet."""

    def __init__(self) -> None:
        self.window: list[Message] = []
        self.end = 0  # of the window as it was taken
        self.limited = False  # whether more was waiting behind it
        self.damaged = 0  # lines left out, not counted yet
        self.refused_at: dict[int, int] = {}  # start of a message, and how many SNS had accepted at its last refusal
        self.reported = False
        self.closed = False  # whether SNS has the end marker


class Publisher:
    """Publishes the outbox. `trouble` says what stands in the way, None when nothing does."""

    def __init__(
        self, *, outbox: Outbox, config: SnsConfig, open_topic: OpenTopic, accounting: Accounting | None = None
    ) -> None:
        self.trouble: str | None = None
        self._outbox = outbox
        self._accounting = accounting or Accounting()
        self._config = config
        self._open_topic = open_topic
        self._progress: dict[str, _Progress] = {}
        self._accepted = 0  # messages; the evidence that the topic is well
        self._last_accepted: Message | None = None
        self._failed = 0
        self._down = 0  # failures that the next journal would meet too
        self._backoff = Backoff()
        self._told: set[str] = set()
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Let `run` return once the outbox is empty."""
        self._draining.set()

    def reconfigure(self, config: SnsConfig) -> None:
        """Go on with another configuration, from the next pass over the journals on."""
        self._config = config

    async def run(self) -> None:
        """Publish until drained; raises nothing for what SNS or the disk does."""
        while True:
            config = self._config
            async with self._open_topic(config) as topic:
                if await self._wait_ready(topic, config):
                    await self._publish_all(topic, config)
            if config is self._config:
                return

    async def _wait_ready(self, topic: Topic, config: SnsConfig) -> bool:
        """Wait until the topic can be called; False when there is no need any more: drained, or reconfigured.

        Journals in which nothing waits are left to the next start, which sends their end markers.
        """
        tried = failed = False
        while config is self._config:
            if tried and self._draining.is_set() and not self._outbox.waiting:
                return False
            tried = True
            try:
                if self._draining.is_set():
                    await topic.ready()
                elif not await ends_before(self._draining, topic.ready()):
                    continue
            except PublishFailed as error:
                failed = True
                self._fail(error)
                await self._pause()
                continue
            if failed:
                self._backoff.reset()
                self._recover()
            return True
        return False

    async def _publish_all(self, topic: Topic, config: SnsConfig) -> None:
        """Pass over the journals until drained, or until the configuration is another."""
        loop = asyncio.get_running_loop()
        while config is self._config:
            began = loop.time()
            accepted, failed, down = self._accepted, self._failed, self._down
            journals = self._outbox.journals
            self._progress = {journal.name: self._progress.get(journal.name, _Progress()) for journal in journals}
            orphans = [journal for journal in journals if journal.orphaned]
            more = [await self._advance(topic, journal) for journal in journals if not journal.orphaned]
            # Orphans come behind the live ones: in the time these leave, a window at a time. A refusal does not end
            # their turn: what SNS says to the next one is the evidence that the refused one waits for.
            while orphans and not any(more) and self._down == down:
                if not await self._advance(topic, orphans[0]):
                    orphans.pop(0)
                if not self._draining.is_set() and loop.time() - began >= config.linger:
                    break
            if self._accepted > accepted:
                self._backoff.reset()
            if self._failed > failed:
                await self._pause()
                continue
            if self._accepted > accepted:
                self._recover()
            if self._draining.is_set() and not self._outbox.journals:
                return
            if not any(more):
                linger = max(0.0, config.linger - (loop.time() - began))
                await (asyncio.sleep(0.01) if self._draining.is_set() else wait_for_event(self._draining, linger))

    async def _pause(self) -> None:
        """Wait before the next try. The beginning of the drain ends the wait."""
        seconds = self._backoff.next()
        await (asyncio.sleep(seconds) if self._draining.is_set() else wait_for_event(self._draining, seconds))

    async def _advance(self, topic: Topic, journal: JournalReader) -> bool:
        """Publish the journal's next messages; whether more waits right behind them."""
        progress = self._progress[journal.name]
        orphaned = journal.orphaned  # before the look: what its maker wrote until it died must be in it
        try:
            if not progress.window:
                await asyncio.to_thread(self._fill_window, journal, progress)
                self._count_found(journal, progress)
            if not progress.window:
                if orphaned:
                    await self._finish(topic, journal, progress)
                return False
            await self._publish_window(topic, journal, progress)
            done = progress.window[0].start if progress.window else progress.end
            await asyncio.to_thread(journal.advance, done)
        except UnreadableJournal as error:
            await self._set_aside(journal, progress, error)
            return False
        except FileNotFoundError:
            self._outbox.forget(journal)  # somebody removed it; the next look at the directory says what is left
            return False
        except OSError as error:
            self._fail(PublishFailed(f"outbox: journal {journal.name}: {error.strerror}"), everywhere=False)
            return False
        return not progress.window and (progress.limited or journal.orphaned)

    def _fill_window(self, journal: JournalReader, progress: _Progress) -> None:
        """Read and pack what comes next. Blocks: for a thread."""
        limit = SINGLES_BYTES if self._config.format == "single" else MAX_SPAN_BYTES
        while (span := journal.take(limit)) is not None:
            journal.count(to=span.end)
            if span.skipped:
                progress.damaged += span.skipped
                log.error("lines_damaged journal=%s before=%d count=%d", journal.name, span.start, span.skipped)
                journal.advance(span.start)
            if span.data:
                progress.window = _messages(journal.name, span, self._config.format)
                progress.refused_at.clear()
                progress.end = progress.window[-1].end
                progress.limited = progress.end < span.end or span.more
                return

    async def _publish_window(self, topic: Topic, journal: JournalReader, progress: _Progress) -> None:
        before = self._accepted  # what is accepted in the same call as a refusal proves nothing about the topic
        outcomes = await self._send(topic, progress.window)
        refused: list[Message] = []
        for message, outcome in zip(progress.window.copy(), outcomes, strict=True):
            if outcome is None:
                self._count_accepted(journal, message)
                progress.window.remove(message)
                continue
            self._fail(outcome)
            if isinstance(outcome, PublishRefused):
                refused.append(message)
        for message in refused:
            if before > progress.refused_at.get(message.start, before):
                await self._give_up(journal, progress, message)
            else:
                progress.refused_at[message.start] = self._accepted
        if refused:
            await self._probe(topic, journal, refused[-1])

    async def _probe(self, topic: Topic, journal: JournalReader, refused: Message) -> None:
        """Find out whether SNS accepts another message now: what it accepted last, or what follows the refused one."""
        probes = [self._last_accepted] if self._last_accepted is not None else []
        if (span := await asyncio.to_thread(journal.take, LONG_LINE, refused.end)) is not None and span.data:
            probes.append(_messages(journal.name, span, self._config.format)[0])
        for probe in probes:
            if (await self._send(topic, [probe]))[0] is None:
                self._accepted += 1
                return

    async def _give_up(self, journal: JournalReader, progress: _Progress, message: Message) -> None:
        """Set the lines of a refused message aside. Raises OSError when they cannot be kept: then it still waits."""
        content = await asyncio.to_thread(unpack, message.attributes, message.body)
        assert isinstance(content, StoredSpan)
        await asyncio.to_thread(self._outbox.give_up, content.data)
        progress.window.remove(message)
        self._accounting.not_published(journal, "refused", message.visits)
        log.error(
            "span_refused journal=%s start=%d end=%d visits=%d; SNS refuses this message and accepts others; its lines "
            "are kept in %s and not published; look for what they have in common",
            journal.name,
            message.start,
            message.end,
            message.visits,
            refused_lines(self._outbox.directory),
        )

    async def _finish(self, topic: Topic, journal: JournalReader, progress: _Progress) -> None:
        """An orphan is wholly published: say where it ends while its last segment is still there, then remove it."""
        if journal.published and self._config.format != "single" and not progress.closed:
            outcome = (await self._send(topic, [end_marker(journal.name, journal.published)]))[0]
            if outcome is not None:
                self._fail(outcome)
                return
            self._accepted += 1
            progress.closed = True
        await asyncio.to_thread(journal.retire)
        self._outbox.forget(journal)
        log.info("journal_retired journal=%s end=%d", journal.name, journal.published)

    async def _set_aside(self, journal: JournalReader, progress: _Progress, error: UnreadableJournal) -> None:
        if not progress.reported:
            progress.reported = True
            log.error("journal_unreadable journal=%s error=%s", journal.name, error)
        if journal.orphaned:
            await asyncio.to_thread(journal.set_aside)
            self._outbox.forget(journal)

    async def _send(self, topic: Topic, messages: list[Message]) -> list[PublishFailed | None]:
        with telemetry.PUBLISH_SECONDS.time():
            return await topic.publish(messages)

    def _count_found(self, journal: JournalReader, progress: _Progress) -> None:
        self._accounting.found([journal])
        damaged, progress.damaged = progress.damaged, 0
        self._accounting.not_published(journal, "damaged", damaged)

    def _count_accepted(self, journal: JournalReader, message: Message) -> None:
        self._accepted += 1
        self._last_accepted = message
        self._accounting.published(journal, message)

    def _fail(self, error: PublishFailed, *, everywhere: bool = True) -> None:
        """Count and tell a failure; `everywhere` unless it is one journal's own."""
        self._failed += 1
        self._down += everywhere and not isinstance(error, PublishRefused)
        self.trouble = str(error)
        result = "refused" if isinstance(error, PublishRefused) else "failed" if everywhere else "unread"
        telemetry.PUBLISH_FAILURES.labels(result).inc()
        telemetry.PUBLISHING.set(0)
        if self.trouble not in self._told and len(self._told) < 8:  # once an outage, not once a try
            self._told.add(self.trouble)
            log.warning(
                "publish_failing %s; check sns.topic_arn, its permissions, the credentials and the network; "
                "visits are kept in %s and published once that is mended",
                self.trouble,
                self._outbox.directory,
            )

    def _recover(self) -> None:
        if self._told:
            log.info("publish_recovered")
        self._told.clear()
        self.trouble = None
        telemetry.PUBLISHING.set(1)


def _messages(journal: str, span: Span, format: str) -> list[Message]:
    """The messages that the format makes of a span, of which the last bytes may be left for later."""
    if format == "single":
        lines = split_lines(span.data)[:SINGLES]
        starts = [span.start]
        for line in lines:
            starts.append(starts[-1] + len(line))
        return [pack(journal, start, line, compress=False) for start, line in zip(starts, lines, strict=False)]
    data = span.data
    message = pack(journal, span.start, data, compress=format == "packed")
    while message.size > MAX_SENT_BYTES:
        room = int(len(data) * MAX_SENT_BYTES / message.size * 0.97)
        data = data[: data.rindex(b"\n", 0, room) + 1]
        message = pack(journal, span.start, data, compress=format == "packed")
    return [message]
