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

        None: the message is durable where it was published, and the pixel may forget it. Many calls run at the same
        time, one a journal. Those that begin together may share requests.
        """


class OpenTopic(Protocol):
    """Makes a `Topic`, which need not be ready."""

    def __call__(self, config: SnsConfig) -> AbstractAsyncContextManager[Topic]: ...


class TopicState:
    """What SNS has answered to this publisher. The counts are of messages, probes and end markers included.

    `error` is the last failure; None while publishing works. `calls` is how many calls have begun. `accepted_call` is
    the number of the call that began last among those in which SNS has accepted a message. Calls overlap: an acceptance
    shows that the topic accepted messages after a refusal only if its call began after the refusal.
    """

    def __init__(self, outbox: Path) -> None:
        self.calls = 0
        self.accepted_call = 0
        self.last_accepted: Message | None = None  # the last message with visits, for a probe
        self._error: str | None = None
        self._recovering = False  # whether SNS has accepted a message since the last failure
        self._outbox = outbox
        self._logged: set[str] = set()

    @property
    def error(self) -> str | None:
        return self._error

    @error.setter
    def error(self, error: str) -> None:
        self._error, self._recovering = error, False

    @property
    def recovering(self) -> bool:
        """Whether SNS has accepted a message since the last failure, and `count_recovery` was not called yet."""
        return self._error is not None and self._recovering

    async def publish(self, topic: Topic, messages: list[Message]) -> list[PublishFailed | None]:
        """Call `topic.publish`, and note what SNS accepts. The caller counts the failures."""
        self.calls += 1
        call = self.calls
        with telemetry.PUBLISH_SECONDS.time():
            outcomes = await topic.publish(messages)
        for message, outcome in zip(messages, outcomes, strict=True):
            if outcome is None:
                self.accepted_call = max(self.accepted_call, call)
                self.last_accepted = message if message.visits else self.last_accepted
                self._recovering = True
        return outcomes

    def count_failure(self, error: PublishFailed) -> None:
        """Count a message, or a call, that SNS did not accept."""
        self._count("refused" if isinstance(error, PublishRefused) else "failed", str(error))

    def count_unread(self, journal: str, error: OSError) -> None:
        """Count a journal that cannot be read or changed at the moment."""
        self._count("unread", f"outbox: journal {journal}: {error.strerror}")

    def count_recovery(self) -> None:
        """Note that publishing works: SNS accepts messages."""
        if self._logged:
            log.info("publish_recovered outbox=%s; SNS accepts messages again.", self._outbox)
        self._logged.clear()
        self._error = None
        telemetry.PUBLISHING.set(1)

    def _count(self, result: str, error: str) -> None:
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
