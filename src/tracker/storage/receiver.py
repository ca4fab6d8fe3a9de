"""The receiving end: long polls, the hand-over to the writer, and what becomes of a delivery until it is deleted.

A delivery is in `Held` from its receipt until it is acknowledged or left. While it is held it stays hidden in SQS,
however long the disk is full: its visibility timeout is extended again and again. Whatever is held when the service
ends, and was not appended, is given back to the queue at once. After a SIGKILL nobody extends, so it comes back when
the visibility timeout has passed.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from tracker import telemetry
from tracker.aws import BATCH_ENTRIES, Delivery, Queue
from tracker.errors import QueueFailed
from tracker.lifecycle import Backoff, ends_before, wait_for_event

log = logging.getLogger("tracker.receiver")

MAX_HIDDEN_SECONDS = 43_200 - 600  # SQS hides a message for twelve hours from its receipt at most
CALLS_IN_FLIGHT = 4  # of ten deliveries each; the deletes take four of the client's ten connections, too
SHORT_POLL_PAUSE = 0.5

Handover = asyncio.Queue[Delivery | None]  # None: nothing comes any more


class Outage:
    """The queue cannot be reached: said once when it begins and once when it ends, and kept for readiness."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def begins(self, error: QueueFailed) -> None:
        if self.reason is None:
            log.error("queue_unreachable error=%s action=retrying, check sqs.queue, credentials and network", error)
        self.reason = str(error)

    def ends(self) -> None:
        if self.reason is not None:
            log.info("queue_reachable")
        self.reason = None


class Held:
    """Every delivery received and neither acknowledged nor left."""

    def __init__(self, *, queue: Queue, visibility_timeout: int) -> None:
        self._queue = queue
        self._visibility_timeout = visibility_timeout
        self._hidden_at: dict[Delivery, float] = {}

    def __len__(self) -> int:
        return len(self._hidden_at)

    def add(self, deliveries: Iterable[Delivery]) -> None:
        self._hidden_at.update((delivery, delivery.received_at) for delivery in deliveries)

    def drop(self, deliveries: Iterable[Delivery]) -> None:
        """They are deleted, or left to their visibility timeout."""
        for delivery in deliveries:
            self._hidden_at.pop(delivery, None)

    async def run(self) -> None:
        """Keep the held ones hidden, until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._visibility_timeout / 10))
            await self.extend()

    async def extend(self) -> None:
        """Hide those again that have been hidden for a third of the visibility timeout.

        Two thirds are left for what may go wrong. A call that SQS does not answer is given up after a sixth, so there
        are at least two tries before a delivery becomes visible to others.
        """
        now = asyncio.get_running_loop().time()
        due = [
            delivery
            for delivery, hidden_at in self._hidden_at.items()
            if now - hidden_at > self._visibility_timeout / 3 and now - delivery.received_at < MAX_HIDDEN_SECONDS
        ]

        def extended(batch: list[Delivery]) -> None:
            self._hidden_at.update((delivery, now) for delivery in batch if delivery in self._hidden_at)

        if error := await self._hide(due, self._visibility_timeout, extended):
            # The receivers log an outage; the next round tries again.
            log.debug("extension_failed deliveries=%d error=%s", len(due), error)

    async def release(self) -> None:
        """Give all that is held back to the queue."""
        if error := await self._hide(list(self._hidden_at), 0, self.drop):
            log.warning(
                "release_failed deliveries=%d error=%s; they come back after their visibility timeout", len(self), error
            )

    async def _hide(
        self, deliveries: Sequence[Delivery], seconds: int, done: Callable[[list[Delivery]], None]
    ) -> str | None:
        """Hide these for `seconds` from now, four calls of ten at a time; `done` is given each ten that SQS confirms.

        Returns the error after which it was given up, None if there was none: in an outage the others would fail too.
        """
        batches = _batches(deliveries)
        errors: list[str] = []

        async def work() -> None:
            for batch in batches:  # each of the four takes the next one
                try:
                    async with asyncio.timeout(max(2.0, self._visibility_timeout / 6)):
                        await self._queue.change_visibility(batch, seconds)
                except (QueueFailed, TimeoutError) as error:
                    errors.append(str(error) or "SQS did not answer in time")
                else:
                    done(batch)
                if errors:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLS_IN_FLIGHT):
                group.create_task(work())
        return errors[0] if errors else None


class Receiver:
    """One long poll after the other until `stop`.

    A long poll that is running when the service stops is awaited. Cancelling it could leave up to ten messages
    invisible until their visibility timeout. What goes before a poll, as asking for credentials, is cancelled.
    """

    def __init__(
        self, *, queue: Queue, handover: Handover, held: Held, outage: Outage, wait_time: int, stop: asyncio.Event
    ) -> None:
        self._queue = queue
        self._handover = handover
        self._held = held
        self._outage = outage
        self._wait_time = wait_time
        self._stop = stop

    async def run(self) -> None:
        backoff = Backoff()
        while not self._stop.is_set():
            began = asyncio.get_running_loop().time()
            try:
                if not await ends_before(self._stop, self._queue.ready()):
                    return
                deliveries = await self._queue.receive(self._wait_time)
            except QueueFailed as error:
                self._outage.begins(error)
                await wait_for_event(self._stop, backoff.next())
                continue
            self._outage.ends()
            backoff.reset()
            telemetry.RECEIVED.inc(len(deliveries))
            self._held.add(deliveries)
            for delivery in deliveries:
                await self._handover.put(delivery)
            if not deliveries and asyncio.get_running_loop().time() - began < SHORT_POLL_PAUSE:
                # Polls that do not wait, by configuration or because a proxy answers them, must not spin.
                await wait_for_event(self._stop, SHORT_POLL_PAUSE)


def _batches(deliveries: Sequence[Delivery]) -> Iterator[list[Delivery]]:
    rest = iter(deliveries)
    while batch := list(islice(rest, BATCH_ENTRIES)):
        yield batch
