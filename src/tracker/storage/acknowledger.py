"""The acknowledger: the last stage. It deletes from SQS the messages whose visits the writer has made durable.

1. The writer calls `acknowledge` with deliveries whose lines are durable in the visit log.
2. `run` collects them into batches of ten, because one delete call takes ten. It waits at most two seconds for more.
3. After the delete the deliveries are no longer in flight.

A delivery that cannot be deleted is left to SQS. SQS delivers it again; then it adds nothing to the log and is deleted.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from tracker import telemetry
from tracker.core.delivery import BATCH_ENTRIES, Delivery, Queue, batches
from tracker.errors import QueueFailed
from tracker.lifecycle import Backoff
from tracker.storage.in_flight import InFlight

log = logging.getLogger(__name__)

LINGER_SECONDS = 2.0  # the publisher sends about five messages a second, so a batch is full after that time
CALLS_AT_ONCE = 4
TRIES = 4
MAX_WAITING = 200  # deliveries; while this many wait, `acknowledge` waits, and so does the writer


class Acknowledger:
    """Deletes deliveries from SQS, or leaves them to it; either way they are no longer in flight."""

    def __init__(self, *, queue: Queue, in_flight: InFlight) -> None:
        self._queue = queue
        self._in_flight = in_flight
        self._waiting: asyncio.Queue[Delivery | None] = asyncio.Queue(MAX_WAITING)
        self._closed = False

    async def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Let `run` delete these. Their append must be durable. Waits while `MAX_WAITING` deliveries wait already."""
        for delivery in deliveries:
            await self._waiting.put(delivery)

    def leave(self, deliveries: Iterable[Delivery]) -> None:
        """Leave these to SQS: they are not deleted, and their visibility timeout is no longer extended.

        SQS delivers them again, and after `maxReceiveCount` receives it moves them to the dead-letter queue.
        """
        self._in_flight.remove(deliveries)

    async def close(self) -> None:
        """Tell `run` that no more deliveries follow: it deletes those that wait and returns."""
        await self._waiting.put(None)

    async def run(self) -> None:
        while not self._closed:
            await asyncio.gather(*map(self._delete, batches(await self._take())))

    async def _take(self) -> list[Delivery]:
        """Wait for a first delivery, then up to two seconds for a batch of ten.

        Up to three further batches are taken if their deliveries wait already.
        """
        taken: list[Delivery] = []
        self._keep(await self._waiting.get(), taken)
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while len(taken) < BATCH_ENTRIES and not self._closed:
                    self._keep(await self._waiting.get(), taken)
        except TimeoutError:
            pass  # two seconds are over: the batch is deleted as it is
        while len(taken) < BATCH_ENTRIES * CALLS_AT_ONCE and not self._waiting.empty():
            self._keep(self._waiting.get_nowait(), taken)
        return taken

    def _keep(self, delivery: Delivery | None, taken: list[Delivery]) -> None:
        if delivery is None:
            self._closed = True
        else:
            taken.append(delivery)

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
            log.warning(
                "delete_failed deliveries=%d error=%s; These messages are stored but could not be deleted from SQS. "
                "SQS delivers them again, and then they are deleted without being stored twice.",
                *(len(left), reason),
            )
        telemetry.ACKNOWLEDGED.inc(len(batch) - len(left))
        self._in_flight.remove(batch)
