"""SNS and SQS as the services see them: `Topic` takes messages, `Queue` gives deliveries. botocore stops here.

Clients are long-lived and made when they are first needed (`aws_clients`). Every call has a deadline of its own,
because aiobotocore leaves the total and the pool-wait timeout unset, and is tried only once more by botocore. An outage
of any length is for the callers, who try again with a growing pause. Every failure is one of this project's errors.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from botocore.exceptions import ClientError

from tracker.aws_clients import Clients, ClientSettings, words
from tracker.config import SnsConfig, SqsConfig
from tracker.core.message import Message
from tracker.errors import AwsRefused, AwsUnreachable, PublishFailed, PublishRefused, QueueFailed

CALL_SECONDS = 10.0  # a call that takes longer is taken for lost
BATCH_ENTRIES = 10  # PublishBatch, DeleteMessageBatch, ChangeMessageVisibilityBatch
BATCH_BYTES = 262_144 - 4_096  # PublishBatch's 256 KiB, less some room for AWS's own counting
BATCHES_IN_FLIGHT = 8
LATEST_MS = 253_402_300_799_999  # since 1970, the end of the year 9999; the ledger's clock never goes back

_THROTTLES = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "RequestExpired")

T = TypeVar("T")


class Delivery(msgspec.Struct, eq=False):
    """A message as received from SQS; `sent_ms` by SQS's clock, `received_at` by the loop's, in seconds."""

    message_id: str
    receipt: str
    body: str
    attributes: dict[str, str]
    sent_ms: int
    receive_count: int
    received_at: float


# What we read of the replies, by AWS's own names. What is missing, empty or of another type makes the reply a failure.

_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Published(msgspec.Struct):
    MessageId: _Text


class _FailedEntry(msgspec.Struct):
    Id: str
    Code: str = ""
    Message: str = ""
    SenderFault: bool = False


class _Entry(msgspec.Struct):
    Id: str


class _Batch(msgspec.Struct):
    Successful: list[_Entry] = []
    Failed: list[_FailedEntry] = []


class _QueueUrl(msgspec.Struct):
    QueueUrl: _Text


class _Attributes(msgspec.Struct):
    Attributes: dict[str, str]


class _MessageAttribute(msgspec.Struct):
    StringValue: str = ""


class _SystemAttributes(msgspec.Struct):
    SentTimestamp: Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)] = 0
    ApproximateReceiveCount: int = 0


class _ReceivedMessage(msgspec.Struct):
    MessageId: _Text
    ReceiptHandle: _Text
    Body: str
    MessageAttributes: dict[str, _MessageAttribute] = {}
    Attributes: _SystemAttributes = msgspec.field(default_factory=_SystemAttributes)


class _Received(msgspec.Struct):
    Messages: list[_ReceivedMessage] = []


class Topic:
    """An SNS topic."""

    def __init__(self, clients: Clients, arn: str) -> None:
        self._clients = clients
        self._arn = arn
        self._in_flight = asyncio.Semaphore(BATCHES_IN_FLIGHT)

    async def ready(self) -> None:
        """Have a client with valid credentials, as every call does first. Raises PublishFailed."""
        try:
            await self._clients.ready()
        except AwsUnreachable as error:
            raise _publish_error(error) from error

    async def publish(self, messages: Sequence[Message]) -> list[PublishFailed | None]:
        """Publish all; one outcome a message, in their order, None where SNS has accepted it."""
        if len(messages) == 1:
            return [await self._publish_one(messages[0])]
        batches = _batches(messages)
        outcomes = await asyncio.gather(*map(self._publish_batch, batches))
        return [outcome for batch in outcomes for outcome in batch]

    async def _publish_one(self, message: Message) -> PublishFailed | None:
        try:
            (client,) = await self._clients.ready()
            call = client.publish(TopicArn=self._arn, Message=message.body, MessageAttributes=_sns_attributes(message))
            _read(await ask(call), _Published)
        except (AwsRefused, AwsUnreachable) as error:
            return _publish_error(error)
        return None

    async def _publish_batch(self, batch: Sequence[Message]) -> list[PublishFailed | None]:
        entries = [
            {"Id": str(index), "Message": message.body, "MessageAttributes": _sns_attributes(message)}
            for index, message in enumerate(batch)
        ]
        try:
            async with self._in_flight:
                (client,) = await self._clients.ready()
                call = client.publish_batch(TopicArn=self._arn, PublishBatchRequestEntries=entries)
                reply = _read(await ask(call), _Batch)
        except (AwsRefused, AwsUnreachable) as error:
            return [_publish_error(error)] * len(batch)
        accepted = {entry.Id for entry in reply.Successful}
        failed = {entry.Id: entry for entry in reply.Failed}
        outcomes: list[PublishFailed | None] = []
        for entry in entries:
            if entry["Id"] in accepted:
                outcomes.append(None)
            elif (failure := failed.get(str(entry["Id"]))) is None:
                outcomes.append(PublishFailed("SNS named the entry neither accepted nor failed"))
            else:
                kind = PublishRefused if failure.SenderFault and not _is_throttle(failure.Code) else PublishFailed
                outcomes.append(kind(f"{failure.Code}: {failure.Message}"))
        return outcomes


class Queue:
    """An SQS queue. Long polls have a client of their own: each holds a connection for as long as it lasts."""

    def __init__(self, clients: Clients, name: str, visibility_timeout: int) -> None:
        self._clients = clients
        self._name = name
        self._url = name if "://" in name else ""
        self._visibility_timeout = visibility_timeout

    async def ready(self) -> None:
        """Have clients with valid credentials, and the queue's URL, as every call does first. Raises QueueFailed.

        It may be cancelled at any time, which a `receive` may not.
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
        reply = await _queue_call(call, _Received, CALL_SECONDS + wait_time)
        now = asyncio.get_running_loop().time()
        return [_delivery(message, now) for message in reply.Messages]

    async def delete(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Delete up to ten; those SQS did not confirm."""
        _, caller = await self._ready()
        entries = [{"Id": str(i), "ReceiptHandle": delivery.receipt} for i, delivery in enumerate(deliveries)]
        reply = await _queue_call(caller.delete_message_batch(QueueUrl=self._url, Entries=entries), _Batch)
        done = {entry.Id for entry in reply.Successful}
        return [delivery for i, delivery in enumerate(deliveries) if str(i) not in done]

    async def change_visibility(self, deliveries: Sequence[Delivery], seconds: int) -> None:
        """Hide up to ten deliveries for `seconds` from now; 0 gives them back at once.

        SQS may refuse it for some of them, which are visible already. Raises QueueFailed when it names not all of them.
        """
        _, caller = await self._ready()
        entries = [
            {"Id": str(i), "ReceiptHandle": delivery.receipt, "VisibilityTimeout": seconds}
            for i, delivery in enumerate(deliveries)
        ]
        call = caller.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)
        reply = await _queue_call(call, _Batch)
        named = {entry.Id for entry in reply.Successful} | {entry.Id for entry in reply.Failed}
        if any(entry["Id"] not in named for entry in entries):
            raise QueueFailed("ChangeMessageVisibilityBatch: the reply does not name all entries")

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
            self._url = (await _queue_call(clients[1].get_queue_url(QueueName=self._name), _QueueUrl)).QueueUrl
        return clients


@asynccontextmanager
async def open_topic(config: SnsConfig) -> AsyncIterator[Topic]:
    """The topic. Its client is made by the first call, which raises PublishFailed when that fails."""
    region = config.region or config.topic_arn.split(":")[3]
    clients = Clients("sns", region, config.endpoint_url, ClientSettings(CALL_SECONDS))
    try:
        yield Topic(clients, config.topic_arn)
    finally:
        await clients.close()


@asynccontextmanager
async def open_queue(config: SqsConfig) -> AsyncIterator[Queue]:
    """The queue. Its clients are made by the first call, which raises QueueFailed when that fails."""
    receiver = ClientSettings(CALL_SECONDS + config.wait_time, config.receivers, receives=True)
    clients = Clients("sqs", config.region, config.endpoint_url, receiver, ClientSettings(CALL_SECONDS))
    try:
        yield Queue(clients, config.queue, config.visibility_timeout)
    finally:
        await clients.close()


@asynccontextmanager
async def open_client(service: str, region: str | None, endpoint: str | None) -> AsyncIterator[Any]:
    """A client of any service for the commands that look after it; its calls go through `ask`.

    Raises AwsUnreachable when none can be made.
    """
    clients = Clients(service, region, endpoint, ClientSettings(CALL_SECONDS, receives=service == "sqs"))
    try:
        (client,) = await clients.ready()
        yield client
    finally:
        await clients.close()


async def ask(call: Awaitable[dict[str, Any]], *members: str, seconds: float | None = None) -> dict[str, Any]:
    """The reply to a call, with all these members in it. After `seconds`, CALL_SECONDS by default, it is given up.

    Raises AwsRefused with SNS's or SQS's code, or AwsUnreachable.
    """
    try:
        async with asyncio.timeout(CALL_SECONDS if seconds is None else seconds):
            reply = await call
    except ClientError as error:
        metadata = error.response.get("ResponseMetadata", {})
        raise AwsRefused(
            words(error),
            code=str(error.response.get("Error", {}).get("Code") or ""),  # botocore has None for an empty one
            status=int(metadata.get("HTTPStatusCode", 500)),
            date=metadata.get("HTTPHeaders", {}).get("date"),
        ) from error
    except Exception as error:  # botocore raises a KeyError, or anything else, for replies that it does not expect
        raise AwsUnreachable(words(error)) from error
    if missing := [member for member in members if not reply.get(member)]:
        raise AwsUnreachable(_incomplete(f"it has no {missing[0]}"))
    return reply


def _read(reply: dict[str, Any], kind: type[T]) -> T:
    """The reply as what it should be. Raises AwsUnreachable, for no AWS answers otherwise."""
    try:
        return msgspec.convert(reply, kind, strict=False)  # numbers come as text
    except msgspec.ValidationError as error:
        raise AwsUnreachable(_incomplete(str(error))) from error


def _incomplete(what: str) -> str:
    return f"the reply is not AWS's: {what}; check endpoint_url, and that no proxy answers for it"


def _batches(messages: Sequence[Message]) -> list[list[Message]]:
    batches: list[list[Message]] = []
    size = 0
    for message in messages:
        if not batches or len(batches[-1]) == BATCH_ENTRIES or size + message.size > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(message)
        size += message.size
    return batches


def _sns_attributes(message: Message) -> dict[str, dict[str, str]]:
    return {name: {"DataType": "String", "StringValue": value} for name, value in message.attributes.items()}


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


async def _queue_call(call: Awaitable[dict[str, Any]], kind: type[T], seconds: float | None = None) -> T:
    try:
        return _read(await ask(call, seconds=seconds), kind)
    except (AwsRefused, AwsUnreachable) as error:
        raise QueueFailed(str(error)) from error


def _publish_error(error: AwsRefused | AwsUnreachable) -> PublishFailed:
    """A refusal when SNS itself says, by a code of its own, that the request is at fault."""
    if isinstance(error, AwsRefused) and error.code and 400 <= error.status < 500 and error.status != 429:
        return (PublishFailed if _is_throttle(error.code) else PublishRefused)(str(error))
    return PublishFailed(str(error))


def _is_throttle(code: str) -> bool:
    return any(word in code for word in _THROTTLES)  # KMSThrottling too
