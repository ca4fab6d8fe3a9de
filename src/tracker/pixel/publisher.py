"""The publisher: takes spans from the outbox to the SNS topic, until the outbox is empty and a stop was requested.

It waits until the topic can be called. Then it makes one pass after the other over the journals. A pass does this:

1. Once every `sns.linger` seconds it takes each journal of a live worker. So one message carries the visits of that
   time, and the messages of all journals share requests. A pass in between takes only the journals that have more lines
   waiting than their last message could carry.
2. If no live journal has more lines waiting, except journals that fail, it takes orphans too. Whatever their number, at
   most ORPHAN_MESSAGES of their messages are held in memory and published at the same time.
3. The next messages of these journals are made in a thread, as many as fill one request at a time. Then a task for each
   journal publishes them (`journal_publisher`). The pass does not wait for the tasks.

A journal is not taken again while its task runs, so its messages are accepted in order. A journal whose messages are
slow, refused or failed holds up no other. It is tried again after a wait, which is longer after each failure, and
without a limit.

A pass begins when the linger is over, when a task ends, or when a failed journal is to be tried again. A new
configuration takes effect between two passes, once all tasks have ended.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable

from tracker.config import SnsConfig
from tracker.core.delivery import BATCH_ENTRIES
from tracker.core.message import STEP_BYTES
from tracker.errors import PublishFailed
from tracker.lifecycle import Backoff, ends_before, wait_for_event
from tracker.pixel.accounting import Accounting
from tracker.pixel.journal_publisher import JournalPublisher
from tracker.pixel.journal_reader import JournalReader
from tracker.pixel.outbox import Outbox
from tracker.pixel.packer import Format
from tracker.pixel.topic import OpenTopic, Topic, TopicState

DRAIN_PASS_SECONDS = 0.01  # between two passes while draining
ORPHAN_MESSAGES = 40  # half of what the topic takes at a time, so that live journals never wait for orphans
REQUEST_BYTES = 4 * STEP_BYTES  # what SNS takes in one request


class Publisher:
    """Publishes the outbox. `config` returns the configuration in force."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        config: Callable[[], SnsConfig],
        open_topic: OpenTopic,
        accounting: Accounting | None = None,
    ) -> None:
        self._outbox = outbox
        self._accounting = accounting or Accounting()
        self._config = config
        self._open_topic = open_topic
        self._state = TopicState(outbox.directory)
        self._publishers: dict[JournalReader, JournalPublisher] = {}  # of live journals, and of orphans being published
        self._publishing: set[JournalPublisher] = set()  # those whose task runs
        self._changed = asyncio.Event()  # set when a pass may have something to do
        self._backoff = Backoff()  # while the topic is not ready
        self._draining = asyncio.Event()

    @property
    def error(self) -> str | None:
        """Why nothing can be published now; None while publishing works.

        The service sets it when `run` itself has failed.
        """
        return self._state.error

    @error.setter
    def error(self, error: str) -> None:
        self._state.error = error

    def drain(self) -> None:
        """Let `run` return once the outbox is empty."""
        self._draining.set()
        self._changed.set()

    async def run(self) -> None:
        """Publish until drained. After a failure of SNS or of the disk, count it, log it and try again."""
        while True:
            config = self._config()
            async with self._open_topic(config) as topic:
                if await self._wait_ready(topic, config):
                    async with asyncio.TaskGroup() as tasks:
                        await self._publish_all(topic, config, tasks)
            if config is self._config():
                return

    async def _wait_ready(self, topic: Topic, config: SnsConfig) -> bool:
        """Wait until the topic can be called, and return True. Return False when the wait is no longer needed.

        There are two such cases. Another configuration is in force. Or the pixel stops and no visit is waiting: then
        the next start publishes the end markers.
        """
        tried = failed = False
        while config is self._config():
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
                self._state.count_failure(error)
                await self._pause()
                continue
            if failed:
                self._backoff.reset()
                self._state.count_recovery()
            return True
        return False

    async def _publish_all(self, topic: Topic, config: SnsConfig, tasks: asyncio.TaskGroup) -> None:
        """Make passes until drained, or until another configuration is in force."""
        loop = asyncio.get_running_loop()
        linger_ends = loop.time()
        while config is self._config():
            self._changed.clear()
            draining = self._draining.is_set()
            if draining and not self._outbox.journals:
                return
            now = loop.time()
            tick = draining or now >= linger_ends
            if tick:
                linger_ends = now + config.linger
            await self._start(self._take(now, tick=tick), topic, config.format, tasks)
            if self._state.recovering and not any(each.failing for each in self._publishers.values()):
                self._state.count_recovery()
            retries = [each.retry_at for each in self._publishers.values() if each.retry_at]
            next_pass = min([loop.time() + DRAIN_PASS_SECONDS if draining else linger_ends, *retries])
            await wait_for_event(self._changed, max(0.0, next_pass - loop.time()))

    def _take(self, now: float, *, tick: bool) -> deque[JournalPublisher]:
        """The journals whose messages are to be made now. `tick` says that the linger is over."""
        known, readers = self._publishers, self._outbox.journals
        orphans = [reader for reader in readers if reader.orphaned]
        live = [known.get(reader) or self._publisher_of(reader) for reader in readers if not reader.orphaned]
        taken = [known[reader] for reader in orphans if reader in known]
        behind = any(publisher.more and not publisher.retry_at for publisher in live)  # orphans wait for these
        held = sum(max(1, len(publisher.window)) for publisher in taken)
        if not behind:
            others = (reader for reader in orphans if reader not in known)
            taken += map(self._publisher_of, itertools.islice(others, max(0, ORPHAN_MESSAGES - held)))
        self._publishers = {publisher.reader: publisher for publisher in (*live, *taken)}
        ready: deque[JournalPublisher] = deque()
        for publisher in (*live, *taken):
            if publisher in self._publishing:
                publisher.more |= tick and not publisher.reader.orphaned  # it is taken as soon as its task has ended
            elif publisher.retry_at:
                if now >= publisher.retry_at:
                    ready.append(publisher)
            elif not behind if publisher.reader.orphaned else tick or publisher.more:
                ready.append(publisher)
        return ready

    async def _start(
        self, ready: deque[JournalPublisher], topic: Topic, format: Format, tasks: asyncio.TaskGroup
    ) -> None:
        """Make the messages of these journals, and start a task for each that publishes them."""
        while ready:
            for publisher in await asyncio.to_thread(_fill, ready, format):
                self._publishing.add(publisher)
                tasks.create_task(self._publish(publisher, topic, format))

    async def _publish(self, publisher: JournalPublisher, topic: Topic, format: Format) -> None:
        try:
            await publisher.publish(topic, format)
        finally:
            self._publishing.discard(publisher)
            if publisher.more or publisher.reader.orphaned or publisher.retry_at:
                self._changed.set()

    async def _pause(self) -> None:
        """Wait before the next try. If the drain begins meanwhile, return at once."""
        seconds = self._backoff.next()
        await (asyncio.sleep(seconds) if self._draining.is_set() else wait_for_event(self._draining, seconds))

    def _publisher_of(self, reader: JournalReader) -> JournalPublisher:
        return JournalPublisher(
            reader=reader, outbox=self._outbox, accounting=self._accounting, state=self._state, backoff=Backoff()
        )


def _fill(ready: deque[JournalPublisher], format: Format) -> list[JournalPublisher]:
    """Make the messages of journals until they fill a request. Return the journals that have something to publish.

    They are removed from `ready`, as are those that have nothing. Blocks on the disk and compresses: for a thread.
    """
    filled: list[JournalPublisher] = []
    messages = size = 0
    while ready and messages < BATCH_ENTRIES and size < REQUEST_BYTES:
        publisher = ready.popleft()
        if publisher.fill(format):
            filled.append(publisher)
            messages += max(1, len(publisher.window))  # an end marker is a message
            size += sum(message.size for message in publisher.window)
    return filled
