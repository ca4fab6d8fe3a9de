"""The SNS topic as the publisher uses it: the interface of a topic, and the record of its outcomes so far."""

import logging
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from tracker import telemetry
from tracker.config import SnsConfig
from tracker.core.message import Message
from tracker.errors import PublishFailed, PublishRefused

log = logging.getLogger(__name__)

LOGGED_FAILURES = 8  # at most this many different failures of one outage are logged


class Topic(Protocol):
    """Where messages are published."""

    async def ready(self) -> None:
        """Make sure that the topic can be called: credentials, settings. Raises PublishFailed when it cannot."""

    async def publish(self, messages: list[Message]) -> list[PublishFailed | None]:
        """Publish the messages. Return one outcome for each, in their order. Raises nothing.

        None: the message is durable where it was published, and the pixel may forget it.
        """


class OpenTopic(Protocol):
    """Makes a `Topic`, which need not be ready."""

    def __call__(self, config: SnsConfig) -> AbstractAsyncContextManager[Topic]: ...


class TopicState:
    """What SNS has answered to this publisher. The counts are of messages, probes and end markers included.

    `error` is the last failure; None once something was published after it without another failure.
    """

    def __init__(self, outbox: Path) -> None:
        self.error: str | None = None
        self.accepted = 0
        self.last_accepted: Message | None = None  # the last message with visits, for a probe
        self.failures = 0
        self.topic_failures = 0  # failures of the topic itself: messages of other journals would fail, too
        self._outbox = outbox
        self._logged: set[str] = set()

    async def publish(self, topic: Topic, messages: list[Message]) -> list[PublishFailed | None]:
        """Call `topic.publish`, and add the time that it takes to the metrics. The caller counts the outcomes."""
        with telemetry.PUBLISH_SECONDS.time():
            return await topic.publish(messages)

    def count_failure(self, error: PublishFailed) -> None:
        """Count a message, or a call, that SNS did not accept."""
        refused = isinstance(error, PublishRefused)
        self.topic_failures += not refused
        self._count("refused" if refused else "failed", str(error))

    def count_unread(self, journal: str, error: OSError) -> None:
        """Count a journal that cannot be read or changed at the moment."""
        self._count("unread", f"outbox: journal {journal}: {error.strerror}")

    def count_recovery(self) -> None:
        """Note that publishing works: SNS accepts messages."""
        if self._logged:
            log.info("publish_recovered outbox=%s; SNS accepts messages again.", self._outbox)
        self._logged.clear()
        self.error = None
        telemetry.PUBLISHING.set(1)

    def _count(self, result: str, error: str) -> None:
        self.failures += 1
        self.error = error
        telemetry.PUBLISH_FAILURES.labels(result).inc()
        telemetry.PUBLISHING.set(0)
        if error not in self._logged and len(self._logged) < LOGGED_FAILURES:  # once an outage
            self._logged.add(error)
            log.warning(
                "publish_failed error=%s outbox=%s; A message could not be published. Visits are kept in the outbox "
                "and published later. Check sns.topic_arn, its permissions, the endpoint, the credentials and the "
                "network.",
                error,
                self._outbox,
            )
