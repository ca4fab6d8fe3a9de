"""A check of the queue at the start: has it a dead-letter queue, and is its `maxReceiveCount` high enough?"""

import asyncio
import json
import logging

from tracker.core.delivery import Queue
from tracker.errors import QueueFailed
from tracker.lifecycle import Backoff, wait_for_event

log = logging.getLogger(__name__)

FEWEST_RECEIVES = 10  # with fewer, a few crashes would send good visits to the dead-letter queue


async def check_redrive(queue: Queue, stop: asyncio.Event) -> None:
    """Log a warning if the queue has no dead-letter queue, or moves messages there after too few receives.

    It runs beside the stages, so it delays nothing, and tries again until SQS answers.
    """
    backoff = Backoff()
    while not stop.is_set():
        try:
            attributes = await queue.attributes()
            break
        except QueueFailed as error:
            log.debug(
                "queue_check_failed error=%s; The attributes of the queue could not be read. Storage tries again.",
                error,
            )
            await wait_for_event(stop, backoff.next())
    else:
        return
    try:
        count = int(json.loads(attributes["RedrivePolicy"])["maxReceiveCount"])
    except (KeyError, TypeError, ValueError):
        log.warning(
            "dead_letter_queue_not_found; The queue has no dead-letter queue, so unreadable messages expire and are "
            "lost. Give it one."
        )
        return
    if count < FEWEST_RECEIVES:
        log.warning(
            "receives_limited max_receive_count=%d least=%d; SQS moves a message to the dead-letter queue after "
            "max_receive_count receives. A few crashes would send good visits there. Set maxReceiveCount to 100.",
            *(count, FEWEST_RECEIVES),
        )
