"""The publisher: takes spans from the outbox to the SNS topic, until the outbox is empty and a stop was requested.

It waits until the topic can be called. Then it makes one pass after the other over the journals. Each pass has these
steps:

1. The next messages of each journal of a live worker are published (see `journal_publisher`).
2. If no live journal has more lines waiting, orphans are published, one window of messages after the other, for at most
   `sns.linger` seconds. A failure of the topic ends this step. A refusal does not end it: whether SNS accepts a message
   of the next journal decides whether the refused message is at fault.
3. If anything failed, the publisher waits before the next pass, longer after each failed pass. It tries until SNS
   accepts the messages, without a limit.
4. If no more lines are waiting, the publisher waits until `sns.linger` seconds have passed since the pass began. So one
   message carries the visits of that time.

A new configuration takes effect between two passes.
"""

import asyncio
from collections.abc import Callable

from tracker.config import SnsConfig
from tracker.errors import PublishFailed
from tracker.lifecycle import Backoff, ends_before, wait_for_event
from tracker.pixel.accounting import Accounting
from tracker.pixel.journal_publisher import JournalPublisher
from tracker.pixel.journal_reader import JournalReader
from tracker.pixel.outbox import Outbox
from tracker.pixel.topic import OpenTopic, Topic, TopicState

DRAIN_PASS_SECONDS = 0.01  # between two passes while draining


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
        self._publishers: dict[JournalReader, JournalPublisher] = {}
        self._backoff = Backoff()
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

    async def run(self) -> None:
        """Publish until drained. After a failure of SNS or of the disk, count it, log it and try again."""
        while True:
            config = self._config()
            async with self._open_topic(config) as topic:
                if await self._wait_ready(topic, config):
                    await self._publish_all(topic, config)
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

    async def _publish_all(self, topic: Topic, config: SnsConfig) -> None:
        """Make passes until drained, or until another configuration is in force."""
        loop = asyncio.get_running_loop()
        state = self._state
        while config is self._config():
            began = loop.time()
            accepted, failures = state.accepted, state.failures
            more = await self._pass(topic, config, began)
            if state.accepted > accepted:
                self._backoff.reset()
            if state.failures > failures:
                await self._pause()
                continue
            if state.accepted > accepted:
                state.count_recovery()
            if self._draining.is_set() and not self._outbox.journals:
                return
            if self._draining.is_set() and not more:
                await asyncio.sleep(DRAIN_PASS_SECONDS)
            elif not more:
                await wait_for_event(self._draining, max(0.0, config.linger - (loop.time() - began)))

    async def _pass(self, topic: Topic, config: SnsConfig, began: float) -> bool:
        """Make one pass over the journals. Return whether a live journal has more lines waiting."""
        journals = self._outbox.journals
        self._publishers = {reader: self._publishers.get(reader) or self._publisher_of(reader) for reader in journals}
        orphans = [self._publishers[reader] for reader in journals if reader.orphaned]
        live = [self._publishers[reader] for reader in journals if not reader.orphaned]
        topic_failures = self._state.topic_failures
        more = [await publisher.publish_next(topic, config.format) for publisher in live]
        while orphans and not any(more) and self._state.topic_failures == topic_failures:
            if not await orphans[0].publish_next(topic, config.format):
                orphans.pop(0)
            if not self._draining.is_set() and asyncio.get_running_loop().time() - began >= config.linger:
                break
        return any(more)

    async def _pause(self) -> None:
        """Wait before the next try. If the drain begins meanwhile, return at once."""
        seconds = self._backoff.next()
        await (asyncio.sleep(seconds) if self._draining.is_set() else wait_for_event(self._draining, seconds))

    def _publisher_of(self, reader: JournalReader) -> JournalPublisher:
        return JournalPublisher(reader=reader, outbox=self._outbox, accounting=self._accounting, state=self._state)
