"""The fake without HTTP, behind the protocols `Topic` and `Queue`, for tests of single stages in one event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from tests.fake_aws.queues import AwsError, Sent
from tests.fake_aws.queues import Queue as Model
from tests.fake_aws.world import World
from tracker.config import SnsConfig
from tracker.core.delivery import BATCH_ENTRIES, Delivery, Queue
from tracker.core.message import Message
from tracker.errors import PublishFailed, PublishRefused, QueueFailed
from tracker.pixel.topic import Topic


class FakeTopic(Topic):
    """A topic of `world`. `outcome` is asked for every message first; `gate`, while cleared, holds all replies back."""

    def __init__(
        self,
        outcome: Callable[[Message], PublishFailed | None] = lambda message: None,
        *,
        world: World | None = None,
        arn: str = "",
    ) -> None:
        self.outcome = outcome
        self.tried: list[list[Message]] = []
        self.accepted: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._world = world or World()
        self._arn = arn or self._world.create_topic("tracking").arn

    async def ready(self) -> None:
        """Nothing has to be asked for."""

    async def publish(self, messages: Sequence[Message]) -> list[PublishFailed | None]:
        self.tried.append(list(messages))
        await self.gate.wait()
        return [self.outcome(message) or self._publish(message) for message in messages]

    def _publish(self, message: Message) -> PublishFailed | None:
        try:
            self._world.topic(self._arn).publish(Sent.of(message.body, message.attributes), "Publish")
        except AwsError as error:
            return PublishRefused(f"{error.code}: {error.message}")
        self.accepted.append(message)
        return None

    @asynccontextmanager
    async def open(self, config: SnsConfig) -> AsyncIterator["FakeTopic"]:
        """Stands in for `tracker.aws.open_topic`."""
        yield self


class FakeQueue(Queue):
    """A queue of `world`. `visibility_timeout` is in seconds. Each call fails for whose name `fail` returns true.

    `calls` are the names of the calls so far. `on_delete` is called with the deliveries of each delete.
    """

    def __init__(self, *, world: World | None = None, visibility_timeout: float = 120.0) -> None:
        self.visibility_timeout = visibility_timeout
        self.fail: Callable[[str], bool] = lambda call: False
        self.on_delete: Callable[[Sequence[Delivery]], None] = lambda deliveries: None
        self.calls: list[str] = []
        self._world = world or World()
        if world is None:
            self._world.create_queue("visits")

    @property
    def model(self) -> Model:
        """The queue in the fake. Raises QueueFailed if there is none."""
        try:
            return self._world.queue("visits")
        except AwsError as error:
            raise QueueFailed(f"{error.code}: {error.message}") from error

    def send(self, body: str, attributes: Mapping[str, str] | None = None) -> str:
        """Put a message into the queue; returns its id."""
        return self.model.send(Sent.of(body, attributes or {}))

    async def ready(self) -> None:
        """Nothing has to be asked for."""

    async def receive(self, wait_time: int) -> list[Delivery]:
        received = await self._called("receive").poll(BATCH_ENTRIES, self.visibility_timeout, wait_time)
        now = asyncio.get_running_loop().time()
        return [
            Delivery(message.id, receipt, message.sent.body, message.sent.values, message.sent_ms, receives, now)
            for message, receipt, receives in received
        ]

    async def delete(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        model = self._called("delete")
        self.on_delete(deliveries)
        return _failed(deliveries, lambda delivery: model.delete(delivery.receipt))

    async def change_visibility(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        model = self._called("change_visibility")
        return _failed(deliveries, lambda delivery: model.change_visibility(delivery.receipt, seconds))

    async def attributes(self) -> dict[str, str]:
        return self._called("attributes").all_attributes()

    def _called(self, call: str) -> Model:
        self.calls.append(call)
        if self.fail(call):
            raise QueueFailed(f"{call} does not work")
        return self.model


def _failed(deliveries: Sequence[Delivery], do: Callable[[Delivery], None]) -> list[Delivery]:
    """Do it with each delivery, and return those with which it failed."""
    assert 0 < len(deliveries) <= BATCH_ENTRIES
    failed = []
    for delivery in deliveries:
        try:
            do(delivery)
        except AwsError:
            failed.append(delivery)
    return failed
