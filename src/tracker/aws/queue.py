"""An SQS queue: receives messages, deletes them and changes their visibility, up to ten in one call."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec

from tracker.aws import calls
from tracker.aws.calls import BatchReply, NonEmpty, ask, read_reply
from tracker.aws.clients import Clients, ClientSettings
from tracker.config import SqsConfig
from tracker.core.delivery import BATCH_ENTRIES, Delivery
from tracker.core.queue_address import QueueAddress
from tracker.errors import AwsRefused, AwsUnreachable, QueueFailed

LATEST_MS = 253_402_300_799_999  # the end of the year 9999, since 1970; the ledger's clock never goes back

T = TypeVar("T")


# The members of replies that are read, by AWS's own names. A member without a default must be in the reply. If it is
# not, or if a member has another type, the call has failed.


class _QueueUrl(msgspec.Struct):
    QueueUrl: NonEmpty


class _Attributes(msgspec.Struct):
    Attributes: dict[str, str]


class _MessageAttribute(msgspec.Struct):
    StringValue: str = ""


class _SystemAttributes(msgspec.Struct):
    SentTimestamp: Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)] = 0
    ApproximateReceiveCount: int = 0


class _ReceivedMessage(msgspec.Struct):
    MessageId: NonEmpty
    ReceiptHandle: NonEmpty
    Body: str
    MessageAttributes: dict[str, _MessageAttribute] = {}
    Attributes: _SystemAttributes = msgspec.field(default_factory=_SystemAttributes)


class _Received(msgspec.Struct):
    Messages: list[_ReceivedMessage] = []


class SqsQueue:
    """An SQS queue; it implements `tracker.core.delivery.Queue`.

    Long polls have a client of their own, because each holds a connection for as long as it lasts.
    """

    def __init__(self, clients: Clients, address: QueueAddress, visibility_timeout: int) -> None:
        self._clients = clients
        self._address = address
        self._url = address.url or ""
        self._visibility_timeout = visibility_timeout

    async def ready(self) -> None:
        """Make the clients, renew their credentials and look up the queue's URL. Every call does this first, too.

        It may be cancelled at any time, unlike `receive`. Raises QueueFailed.
        """
        await self._ready()

    async def receive(self, wait_time: int) -> list[Delivery]:
        """Up to ten deliveries, after at most `wait_time` seconds of long polling."""
        receiver, _ = await self._ready()
        call = receiver.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=BATCH_ENTRIES,
            WaitTimeSeconds=wait_time,
            VisibilityTimeout=self._visibility_timeout,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        )
        reply = await _queue_call(call, _Received, calls.CALL_SECONDS + wait_time)
        now = asyncio.get_running_loop().time()
        return [_delivery(message, now) for message in reply.Messages]

    async def delete(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Delete up to ten deliveries; return those whose deletion SQS did not confirm."""
        _, caller = await self._ready()
        entries = [{"Id": str(i), "ReceiptHandle": delivery.receipt} for i, delivery in enumerate(deliveries)]
        call = caller.delete_message_batch(QueueUrl=self._url, Entries=entries)
        return _unconfirmed(deliveries, await _queue_call(call, BatchReply))

    async def change_visibility(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        """Keep up to ten deliveries invisible for `seconds` from now; 0 gives them back at once.

        Return those for which SQS did not confirm it. SQS refuses it for deliveries that are visible already.
        """
        _, caller = await self._ready()
        entries = [
            {"Id": str(i), "ReceiptHandle": delivery.receipt, "VisibilityTimeout": seconds}
            for i, delivery in enumerate(deliveries)
        ]
        call = caller.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)
        return _unconfirmed(deliveries, await _queue_call(call, BatchReply))

    async def attributes(self) -> dict[str, str]:
        """All attributes of the queue, as SQS names them."""
        _, caller = await self._ready()
        call = caller.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])
        return (await _queue_call(call, _Attributes)).Attributes

    async def _ready(self) -> Sequence[Any]:
        try:
            clients = await self._clients.ready()
        except AwsUnreachable as error:
            raise QueueFailed(str(error)) from error
        if not self._url:
            call = clients[1].get_queue_url(**queue_parameters(self._address))
            self._url = (await _queue_call(call, _QueueUrl)).QueueUrl
        return clients


@asynccontextmanager
async def open_queue(config: SqsConfig) -> AsyncIterator[SqsQueue]:
    """The queue. The first call makes its clients, and raises QueueFailed if that fails."""
    receiver = ClientSettings(calls.CALL_SECONDS + config.wait_time, config.receivers, receives=True)
    settings = receiver, ClientSettings(calls.CALL_SECONDS)
    async with aclosing(Clients("sqs", config.client_region, config.client_endpoint, *settings)) as clients:
        yield SqsQueue(clients, config.address, config.visibility_timeout)


def queue_parameters(address: QueueAddress) -> dict[str, str]:
    """The parameters of GetQueueUrl. The queue is in the caller's own account unless another one is named."""
    owner = {"QueueOwnerAWSAccountId": address.account} if address.account else {}
    return {"QueueName": address.name, **owner}


def _delivery(message: _ReceivedMessage, now: float) -> Delivery:
    return Delivery(
        message_id=message.MessageId,
        receipt=message.ReceiptHandle,
        body=message.Body,
        attributes={name: value.StringValue for name, value in message.MessageAttributes.items()},
        sent_ms=message.Attributes.SentTimestamp,
        receive_count=message.Attributes.ApproximateReceiveCount,
        received_at=now,
    )


def _unconfirmed(deliveries: Sequence[Delivery], reply: BatchReply) -> list[Delivery]:
    """The deliveries whose entries, which have their indices as ids, are not among the successful ones of a batch."""
    confirmed = {entry.Id for entry in reply.Successful}
    return [delivery for i, delivery in enumerate(deliveries) if str(i) not in confirmed]


async def _queue_call(call: Awaitable[dict[str, Any]], kind: type[T], seconds: float | None = None) -> T:
    try:
        return read_reply(await ask(call, seconds=seconds), kind)
    except (AwsRefused, AwsUnreachable) as error:
        raise QueueFailed(str(error)) from error
