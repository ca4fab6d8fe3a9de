"""What a queue gives to storage, and what storage asks of a queue: the `Delivery`, and the `Queue` protocol.

`tracker.aws` implements the protocol for SQS. Another broker needs one more module like it, and no change in the stages
of storage.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

import msgspec

BATCH_ENTRIES = 10  # the most messages that one batch call of SNS or SQS accepts

T = TypeVar("T")


class Delivery(msgspec.Struct, eq=False):
    """A message as received from the queue.

    `receipt` identifies this receipt of the message; a delete or a change of its visibility needs it. `sent_ms` is in
    milliseconds since 1970 by the queue's clock, `received_at` in seconds by the clock of the event loop.
    """

    message_id: str
    receipt: str
    body: str
    attributes: dict[str, str]
    sent_ms: int
    receive_count: int
    received_at: float


class Queue(Protocol):
    """A queue that redelivers a message until it is deleted. Every call raises QueueFailed when it does not succeed.

    A received message is invisible to other receivers until its visibility timeout ends.
    """

    async def ready(self) -> None:
        """Connect and authenticate. Every other call does this first, too. Unlike `receive`, it may be cancelled."""

    async def receive(self, wait_time: int) -> list[Delivery]:
        """Return up to `BATCH_ENTRIES` deliveries; wait at most `wait_time` seconds for the first one.

        It must not be cancelled: messages that the queue has already handed out would stay invisible.
        """

    async def delete(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Delete up to `BATCH_ENTRIES` messages; return those whose deletion the queue did not confirm.

        A message that is no longer there counts as deleted. An old receipt may delete it or not.
        """

    async def change_visibility(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        """Keep up to `BATCH_ENTRIES` messages invisible for `seconds` from now; 0 makes them visible at once.

        Return those for which the queue did not confirm it. It may refuse this for messages that are visible already.
        """

    async def attributes(self) -> dict[str, str]:
        """Return all attributes of the queue, as SQS names them.

        Storage reads only `RedrivePolicy`, JSON with `maxReceiveCount`. It warns at its start when that is missing.
        """


def batches(entries: Sequence[T]) -> Iterator[Sequence[T]]:
    """Divide `entries` into parts that fit into one batch call each."""
    rest = iter(entries)
    while batch := list(islice(rest, BATCH_ENTRIES)):
        yield batch
