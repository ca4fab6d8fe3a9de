"""The receiver: long-polls SQS and puts what it receives into a bounded queue, from which the writer takes it.

When the writer is slower than SQS, that queue is full. Then the receiver waits and starts no new long poll, so the
backlog stays in SQS and memory stays flat.
"""

import asyncio
import logging

from tracker import telemetry
from tracker.core.delivery import Delivery, Queue
from tracker.errors import QueueFailed
from tracker.lifecycle import Backoff, ends_before, wait_for_event
from tracker.storage.in_flight import InFlight

log = logging.getLogger(__name__)

SHORT_POLL_PAUSE = 0.5  # seconds


class Outage:
    """Whether SQS can be reached. The begin and the end of an outage are logged once each."""

    def __init__(self) -> None:
        self.reason: str | None = None  # None while SQS can be reached; `/readyz` shows it

    def begins(self, error: QueueFailed) -> None:
        if self.reason is None:
            log.error(
                "receive_failed error=%s; SQS cannot be reached. Visits wait in the queue, and it is tried again "
                "until it succeeds. Check sqs.queue, the endpoint, the credentials and the network.",
                error,
            )
        self.reason = str(error)

    def ends(self) -> None:
        if self.reason is not None:
            log.info("receive_resumed; SQS can be reached again, and messages are received.")
        self.reason = None


class Receiver:
    """Makes one long poll after the other until `stop` is set, and puts every delivery into `received`.

    A long poll that is running when the service stops is awaited. Cancelling it could leave up to ten messages
    invisible until their visibility timeout. What happens before a poll, such as asking for credentials, is cancelled.
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
                self._outage.begins(error)
                await wait_for_event(self._stop, backoff.next())
                continue
            self._outage.ends()
            backoff.reset()
            telemetry.RECEIVED.inc(len(deliveries))
            self._in_flight.add(deliveries)
            for delivery in deliveries:
                await self._received.put(delivery)
            if not deliveries and asyncio.get_running_loop().time() - began < SHORT_POLL_PAUSE:
                # Some polls return at once: `wait_time` may be 0, or a proxy may answer. They must not use up the CPU.
                await wait_for_event(self._stop, SHORT_POLL_PAUSE)
