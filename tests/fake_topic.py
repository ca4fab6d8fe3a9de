"""A topic in memory, behind the protocol `tracker.pixel.topic.Topic`, with SNS's answers on demand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from tracker.config import SnsConfig
from tracker.core.message import Message
from tracker.errors import PublishFailed
from tracker.pixel.topic import Topic


class FakeTopic(Topic):
    """`outcome` is asked for every message; `gate`, while cleared, holds all replies back."""

    def __init__(self, outcome: Callable[[Message], PublishFailed | None] = lambda message: None) -> None:
        self.outcome = outcome
        self.tried: list[list[Message]] = []
        self.accepted: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def ready(self) -> None:
        """Nothing has to be asked for."""

    async def publish(self, messages: Sequence[Message]) -> list[PublishFailed | None]:
        self.tried.append(list(messages))
        await self.gate.wait()
        outcomes = [self.outcome(message) for message in messages]
        self.accepted += [message for message, outcome in zip(messages, outcomes, strict=True) if outcome is None]
        return outcomes

    @asynccontextmanager
    async def open(self, config: SnsConfig) -> AsyncIterator["FakeTopic"]:
        """Stands in for `tracker.aws.open_topic`."""
        yield self
