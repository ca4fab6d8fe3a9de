"""The deliveries that are in flight: received, and neither acknowledged nor given back.

1. The receiver adds each delivery when SQS has handed it out. SQS then hides the message from other receivers until its
   visibility timeout ends.
2. While a delivery is in flight, `run` extends its visibility timeout again and again, however long the disk is full.
3. The acknowledger removes a delivery after its message is deleted. A delivery that is left to SQS is removed too:
   nobody extends its visibility timeout any more, so SQS delivers it again after that timeout.
4. When the service ends, `give_back` makes the messages of all deliveries still in flight visible at once.

After a SIGKILL nobody extends the visibility timeout, so SQS delivers the messages again when it ends.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from tracker.core.delivery import Delivery, Queue, batches
from tracker.errors import QueueFailed

log = logging.getLogger(__name__)

MAX_HIDDEN_SECONDS = 43_200 - 600  # SQS hides a message for at most twelve hours after it was received
CALLS_AT_ONCE = 4  # each for ten deliveries; the acknowledger uses four more of the client's ten connections


class InFlight:
    """Every delivery in flight, with the time when its message was last hidden."""

    def __init__(self, *, queue: Queue, visibility_timeout: int) -> None:
        self._queue = queue
        self._visibility_timeout = visibility_timeout
        self._hidden_at: dict[Delivery, float] = {}  # seconds, by the clock of the event loop

    def __len__(self) -> int:
        return len(self._hidden_at)

    def add(self, deliveries: Iterable[Delivery]) -> None:
        self._hidden_at.update((delivery, delivery.received_at) for delivery in deliveries)

    def remove(self, deliveries: Iterable[Delivery]) -> None:
        """Remove deliveries that are deleted, given back, or left to SQS."""
        for delivery in deliveries:
            self._hidden_at.pop(delivery, None)

    async def run(self) -> None:
        """Keep the messages of all deliveries in flight hidden, until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._visibility_timeout / 10))
            await self.extend()

    async def extend(self) -> None:
        """Extend the visibility timeout of each delivery of whose timeout a third has passed.

        The other two thirds are time for further tries. A call that SQS does not answer is cancelled after a sixth of
        the timeout, so there are at least two tries before other receivers can see the message.

        When the whole timeout has passed there is no other try, because SQS refuses to hide a message that is visible.
        The message comes again and adds nothing.
        """
        now = asyncio.get_running_loop().time()
        due = [
            delivery
            for delivery, hidden_at in self._hidden_at.items()
            if self._visibility_timeout / 3 < now - hidden_at < self._visibility_timeout
            and now - delivery.received_at < MAX_HIDDEN_SECONDS
        ]

        def extended(batch: Sequence[Delivery]) -> None:
            self._hidden_at.update((delivery, now) for delivery in batch if delivery in self._hidden_at)

        failed, error = await self._change_visibility(due, self._visibility_timeout, extended)
        if failed:
            log.debug(
                "extension_failed deliveries=%d error=%s; The visibility timeout of these messages could not be "
                "extended. Storage tries again within a second. If that fails too, they are delivered again, which "
                "adds nothing to the log.",
                *(failed, error),
            )

    async def give_back(self) -> None:
        """Make the messages of all deliveries in flight visible at once, so that SQS delivers them again."""
        failed, error = await self._change_visibility(list(self._hidden_at), 0, self.remove)
        if failed:
            log.warning(
                "give_back_failed deliveries=%d error=%s; These messages could not be given back to SQS. It delivers "
                "them again when their visibility timeout ends. Nothing needs to be done.",
                *(failed, error),
            )

    async def _change_visibility(
        self, deliveries: Sequence[Delivery], seconds: int, done: Callable[[Sequence[Delivery]], None]
    ) -> tuple[int, str]:
        """Hide these messages for `seconds` from now, with up to four calls at a time.

        `done` is called with the deliveries for which SQS has confirmed it. After the first call that fails no further
        call is made, because in an outage the others would fail too. Returns for how many deliveries it is not
        confirmed, and why.
        """
        waiting = batches(deliveries)
        failures: list[str] = []
        unconfirmed = len(deliveries)

        async def work() -> None:
            nonlocal unconfirmed
            for batch in waiting:  # each of the four tasks takes the next one
                try:
                    async with asyncio.timeout(max(2.0, self._visibility_timeout / 6)):
                        refused = set(await self._queue.change_visibility(batch, seconds))
                except (QueueFailed, TimeoutError) as error:
                    failures.append(str(error) or "SQS did not answer in time")
                else:
                    confirmed = [delivery for delivery in batch if delivery not in refused]
                    unconfirmed -= len(confirmed)
                    done(confirmed)
                if failures:
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLS_AT_ONCE):
                group.create_task(work())
        return unconfirmed, failures[0] if failures else "SQS did not confirm it"
