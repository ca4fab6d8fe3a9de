"""Deletes from SQS what the writer says is durable: by tens, or after two seconds.

A delivery that cannot be deleted is left: it comes again, adds nothing, and is acknowledged then.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from tracker import telemetry
from tracker.aws import BATCH_ENTRIES, Delivery, Queue
from tracker.errors import QueueFailed
from tracker.lifecycle import Backoff

log = logging.getLogger("tracker.acknowledger")

LINGER_SECONDS = 2.0  # the publisher's five messages a second make a full batch in that time
CALLS_IN_FLIGHT = 4
TRIES = 4
WAITING = 200  # deliveries; the writer waits beyond


class Acknowledger:
    """The last stage; `done` is told of every delivery, deleted or left."""

    def __init__(self, *, queue: Queue, done: Callable[[Iterable[Delivery]], None]) -> None:
        self._queue = queue
        self._done = done
        self._waiting: asyncio.Queue[Delivery | None] = asyncio.Queue(WAITING)
        self._closed = False

    async def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Delete these, soon. Their append must be durable."""
        for delivery in deliveries:
            await self._waiting.put(delivery)

    async def close(self) -> None:
        """Nothing more comes: `run` deletes what waits and returns."""
        await self._waiting.put(None)

    async def run(self) -> None:
        while not self._closed:
            group = await self._take()
            batches = [group[at : at + BATCH_ENTRIES] for at in range(0, len(group), BATCH_ENTRIES)]
            await asyncio.gather(*map(self._delete, batches))

    async def _take(self) -> list[Delivery]:
        group: list[Delivery] = []
        self._keep(await self._waiting.get(), group)
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while len(group) < BATCH_ENTRIES and not self._closed:
                    self._keep(await self._waiting.get(), group)
        except TimeoutError:
            pass  # that is long enough
        while len(group) < BATCH_ENTRIES * CALLS_IN_FLIGHT and not self._waiting.empty():
            self._keep(self._waiting.get_nowait(), group)
        return group

    def _keep(self, delivery: Delivery | None, group: list[Delivery]) -> None:
        if delivery is None:
            self._closed = True
        else:
            group.append(delivery)

    async def _delete(self, batch: Sequence[Delivery]) -> None:
        backoff = Backoff()
        left, reason = list(batch), "SQS did not confirm"
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(backoff.next())
            try:
                left = await self._queue.delete(left)
            except QueueFailed as error:
                reason = str(error)
            if not left:
                break
        if left:
            log.warning("delete_failed deliveries=%d error=%s", len(left), reason)
        telemetry.ACKNOWLEDGED.inc(len(batch) - len(left))
        self._done(batch)
