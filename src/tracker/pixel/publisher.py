"""The publisher: takes spans from the outbox to the SNS topic, until the outbox is empty and a stop was requested.

It makes one pass after the other over the journals. A pass goes like this:

1. Every journal of a live worker publishes its next messages (see `journal_publisher`).
2. Orphans come behind them: only if no live journal has more waiting, and for `sns.linger` seconds at most, one window
   of messages after the other. A refusal does not end their turn, because what SNS answers to the next journal is the
   evidence that a refused message waits for. A failure of the topic ends it.
3. If anything failed, the publisher waits, longer after each failed pass. It tries for as long as it takes and gives
   nothing up.
4. If nothing more is waiting, it lingers until `sns.linger` seconds have passed since the pass began, so that one
   message carries the visits of that time.

The publisher begins once the topic is ready. A new configuration takes effect between two passes.
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
    def trouble(self) -> str | None:
        """What stands in the way of publishing, None when nothing does.

        The service sets it when the publisher itself has failed.
        """
        return self._state.trouble

    @trouble.setter
    def trouble(self, trouble: str) -> None:
        self._state.trouble = trouble

    def drain(self) -> None:
        """Let `run` return once the outbox is empty."""
        self._draining.set()

    async def run(self) -> None:
        """Publish until drained. Failures of SNS and of the disk are counted, logged and tried again."""
        while True:
            config = self._config()
            async with self._open_topic(config) as topic:
                if await self._wait_ready(topic, config):
                    await self._publish_all(topic, config)
            if config is self._config():
                return

    async def _wait_ready(self, topic: Topic, config: SnsConfig) -> bool:
        """Wait until the topic can be called. False when that is not needed any more.

        It is not needed when another configuration is in force, nor at a stop when no visit is waiting. The next start
        publishes the end markers then.
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
        """Make passes until drained, or until the configuration is another."""
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
        """One pass over the journals, which began at `began`; whether a live journal has more waiting."""
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
        """Wait before the next try. The beginning of the drain ends the wait."""
        seconds = self._backoff.next()
        await (asyncio.sleep(seconds) if self._draining.is_set() else wait_for_event(self._draining, seconds))

    def _publisher_of(self, reader: JournalReader) -> JournalPublisher:
        return JournalPublisher(reader=reader, outbox=self._outbox, accounting=self._accounting, state=self._state)
