"""The end of the storage service: its steps, and how long each may last.

A stop divides `shutdown.timeout` among these steps, by `STOP_SHARES`:

1. receive: the receivers start no new long poll, and the polls that run are awaited.
2. append and delete: the writer appends what was received, makes a checkpoint, and ends. Then the acknowledger deletes
   what is durable, and ends.
3. give back: all deliveries that are still in flight are given back to SQS, so that the next start does not have to
   wait for their visibility timeout.

If a stage raises an error, what is durable is deleted and the rest is given back, within `FAILURE_SECONDS`. After a
SIGKILL, SQS delivers what was in flight again, when its visibility timeout ends.
"""

import asyncio
import logging

from tracker.core.delivery import Delivery
from tracker.lifecycle import Budget
from tracker.storage.acknowledger import Acknowledger
from tracker.storage.in_flight import InFlight

log = logging.getLogger(__name__)

STOP_SHARES = {"receive": 0.6, "append and delete": 0.28, "give back": 0.12}
"""Shares of `shutdown.timeout`. The first step is the longest: a long poll may last `sqs.wait_time`."""

FAILURE_SECONDS = 4.0
FAILURE_SHARES = {"append and delete": 0.5, "give back": 0.5}
"""Shares of `FAILURE_SECONDS`, after a stage has raised an error. Nothing is received or appended any more."""


async def watch(task: asyncio.Task[None]) -> None:
    """Wait until `task` ends, and raise what it raises. If this call is cancelled, the task runs on."""
    await asyncio.shield(task)


async def drain(
    budget: Budget,
    received: asyncio.Queue[Delivery | None],
    acknowledger: Acknowledger,
    receiving: list[asyncio.Task[None]],
    writing: asyncio.Task[None],
    acknowledging: asyncio.Task[None],
) -> None:
    """Steps 1 and 2 of a stop: each stage ends when it has passed on all that it has.

    When the time of a step is over, SQS delivers the rest again.
    """
    await asyncio.wait(receiving, timeout=budget.remaining("receive"))
    for task in receiving:
        task.cancel()
    try:
        async with asyncio.timeout(budget.remaining("append and delete")):
            await received.put(None)
            await asyncio.wait([writing])
            await acknowledger.close()
            await asyncio.wait([acknowledging])
    except TimeoutError:
        log.warning(
            "stop_deadline_exceeded; There was not enough time to append and delete all messages that were received. "
            "SQS delivers the rest again, and each visit is stored once. Nothing needs to be done."
        )


async def give_back(
    budget: Budget, in_flight: InFlight, acknowledger: Acknowledger, acknowledging: asyncio.Task[None]
) -> None:
    """Step 3 of a stop, and all that is done after an error: delete what is durable, give the rest back to SQS.

    Raises nothing, because it may run while the error that ended the service is being raised. A message that cannot be
    given back is delivered again when its visibility timeout ends.
    """
    try:
        async with asyncio.timeout(budget.remaining("append and delete")):
            if not acknowledging.done():
                await acknowledger.close()
                await asyncio.wait([acknowledging])
    except TimeoutError:
        log.debug("delete_deadline_exceeded; SQS delivers again what was not deleted, and it is deleted then.")
    acknowledging.cancel()
    await asyncio.gather(acknowledging, return_exceptions=True)
    count = len(in_flight)
    try:
        async with asyncio.timeout(budget.remaining("give back")):
            await in_flight.give_back()
    except Exception as error:  # a TimeoutError too
        log.warning(
            "give_back_failed deliveries=%d error=%r; These messages could not be given back to SQS. It delivers them "
            "again when their visibility timeout ends. Nothing needs to be done.",
            *(len(in_flight), error),
        )
    if given_back := count - len(in_flight):
        log.info("deliveries_returned count=%d; SQS delivers these messages again at once.", given_back)
