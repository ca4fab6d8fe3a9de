"""The receiver: long-polls SQS and puts each delivery into a bounded queue, from which the writer takes it.

1. The receiver asks SQS for messages, and waits up to `sqs.wait_time` for the first one (a long poll).
2. Every delivery is in flight from then on, so its visibility timeout is extended.
3. The receiver puts the deliveries into the bounded queue. While the queue is full, because the writer is slower than
   SQS, the receiver waits and starts no new long poll. So the backlog stays in SQS, and memory stays flat.

If SQS cannot be reached, the receiver tries again with growing pauses, until it succeeds or a stop is requested.
"""

import asyncio
import logging

from tracker import telemetry
from tracker.core.delivery import Delivery, Queue
from tracker.errors import QueueFailed
from tracker.lifecycle import Backoff, ends_before, wait_for_event
from tracker.storage.in_flight import InFlight

log = logging.getLogger(__name__)

SHORT_POLL_SECONDS = 0.5  # after an empty poll that was shorter, the receiver pauses for as long


class Outage:
    """Whether SQS can be reached. The beginning and the end of an outage are logged once each, by all receivers."""

    def __init__(self) -> None:
        self.reason: str | None = None  # None while SQS can be reached; `/readyz` shows it

    def record_failure(self, error: QueueFailed) -> None:
        if self.reason is None:
            log.error(
                "receive_failed error=%s; SQS cannot be reached. Visits wait in the queue, and storage tries again "
                "until it succeeds. Check sqs.queue, the endpoint, the credentials and the network.",
                error,
            )
        self.reason = str(error)

    def record_success(self) -> None:
        if self.reason is not None:
            log.info("receive_resumed; SQS can be reached again, and messages are received.")
        self.reason = None


class Receiver:
    """Makes one long poll after the other until `stop` is set, and puts every delivery into `received`.

    A long poll that is running when the service stops is awaited. Cancelling it could leave up to ten messages
    invisible until their visibility timeout. Work before a poll, such as getting credentials, is cancelled.
    """

    def __init__(
        self,
        *,
        queue: Queue,
        received: asyncio.Queue[Delivery | None],
        in_flight: InFlight,
        outage: Outage,
        wait_time: int,
        stop: asyncio.Event,
    ) -> None:
        self._queue = queue
        self._received = received
        self._in_flight = in_flight
        self._outage = outage
        self._wait_time = wait_time  # seconds
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
                self._outage.record_failure(error)
                await wait_for_event(self._stop, backoff.next())
                continue
            self._outage.record_success()
            backoff.reset()
            telemetry.RECEIVED.inc(len(deliveries))
            self._in_flight.add(deliveries)
            for delivery in deliveries:
                await self._received.put(delivery)
            if not deliveries and asyncio.get_running_loop().time() - began < SHORT_POLL_SECONDS:
                # Some polls return at once: `wait_time` may be 0, or a proxy may answer. Without a pause, polling
                # would use a whole CPU.
                await wait_for_event(self._stop, SHORT_POLL_SECONDS)
