"""A queue in memory behind the protocol `tracker.core.delivery.Queue`, with SQS's visibility and faults on demand."""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tracker.core.delivery import BATCH_ENTRIES, Delivery, Queue
from tracker.errors import QueueFailed


@dataclass
class _Waiting:
    message_id: str
    body: str
    attributes: dict[str, str]
    sent_ms: int
    hidden_until: float = 0.0
    receives: int = 0
    receipt: str = ""


@dataclass
class FakeQueue(Queue):
    """`visibility_timeout` in seconds; `fail` raises a QueueFailed out of any call it is given the name of."""

    visibility_timeout: float = 120.0
    queue_attributes: dict[str, str] = field(default_factory=dict)
    fail: Callable[[str], bool] = lambda call: False
    on_delete: Callable[[Sequence[Delivery]], None] = lambda deliveries: None
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._messages: dict[str, _Waiting] = {}
        self._ids = itertools.count(1)

    def send(
        self,
        body: str,
        attributes: Mapping[str, str] | None = None,
        *,
        message_id: str = "",
        sent_ms: int | None = None,
    ) -> str:
        message_id = message_id or f"message-{next(self._ids)}"
        sent = int(time.time() * 1000) if sent_ms is None else sent_ms
        self._messages[message_id] = _Waiting(message_id, body, dict(attributes or {}), sent)
        return message_id

    def ids(self) -> set[str]:
        """All that is in the queue, hidden or not."""
        return set(self._messages)

    def visible(self) -> set[str]:
        now = asyncio.get_running_loop().time()
        return {message.message_id for message in self._messages.values() if message.hidden_until <= now}

    async def ready(self) -> None:
        """Nothing has to be asked for."""

    async def receive(self, wait_time: int) -> list[Delivery]:
        self._called("receive")
        try:
            async with asyncio.timeout(wait_time):
                while not self.visible():
                    await asyncio.sleep(0.005)  # as SQS: a message becomes visible without anybody telling
        except TimeoutError:
            return []
        now = asyncio.get_running_loop().time()
        taken = [self._messages[message_id] for message_id in sorted(self.visible())[:BATCH_ENTRIES]]
        for message in taken:
            message.hidden_until = now + self.visibility_timeout
            message.receives += 1
            message.receipt = f"{message.message_id}/{message.receives}"
        return [Delivery(m.message_id, m.receipt, m.body, m.attributes, m.sent_ms, m.receives, now) for m in taken]

    async def delete(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        assert 0 < len(deliveries) <= BATCH_ENTRIES
        self._called("delete")
        self.on_delete(deliveries)
        for delivery in deliveries:
            message = self._messages.get(delivery.message_id)
            if message is not None and message.receipt == delivery.receipt:  # an old receipt deletes nothing
                del self._messages[delivery.message_id]
        return []

    async def change_visibility(self, deliveries: Sequence[Delivery], seconds: int) -> None:
        assert 0 < len(deliveries) <= BATCH_ENTRIES
        self._called("change_visibility")
        for delivery in deliveries:
            message = self._messages.get(delivery.message_id)
            if message is not None and message.receipt == delivery.receipt:
                message.hidden_until = asyncio.get_running_loop().time() + seconds

    async def attributes(self) -> dict[str, str]:
        self._called("attributes")
        return dict(self.queue_attributes)

    def _called(self, call: str) -> None:
        self.calls.append(call)
        if self.fail(call):
            raise QueueFailed(f"{call} does not work")
