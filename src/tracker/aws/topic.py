"""An SNS topic: publishes messages, one by one or in batches of ten, and returns an outcome for each."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from tracker.aws.calls import CALL_SECONDS, BatchReply, NonEmpty, ask, read_reply
from tracker.aws.clients import Clients, ClientSettings
from tracker.config import SnsConfig
from tracker.core.delivery import BATCH_ENTRIES
from tracker.core.message import Message
from tracker.errors import AwsRefused, AwsUnreachable, PublishFailed, PublishRefused

BATCH_BYTES = 262_144 - 4_096  # PublishBatch accepts 256 KiB; 4 KiB are left free, since AWS may count differently
BATCHES_IN_FLIGHT = 8

_THROTTLES = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "RequestExpired")  # KMSThrottling too


class _Published(msgspec.Struct):
    MessageId: NonEmpty


class SnsTopic:
    """An SNS topic; it implements `tracker.pixel.topic.Topic`."""

    def __init__(self, clients: Clients, arn: str) -> None:
        self._clients = clients
        self._arn = arn
        self._in_flight = asyncio.Semaphore(BATCHES_IN_FLIGHT)

    async def ready(self) -> None:
        """Make the client and renew its credentials. Every call does this first, too. Raises PublishFailed."""
        try:
            await self._clients.ready()
        except AwsUnreachable as error:
            raise _publish_error(error) from error

    async def publish(self, messages: Sequence[Message]) -> list[PublishFailed | None]:
        """Publish all messages. Return one outcome for each, in their order: None if SNS has accepted it."""
        if len(messages) == 1:
            return [await self._publish_one(messages[0])]
        batches = _batches(messages)
        outcomes = await asyncio.gather(*map(self._publish_batch, batches))
        return [outcome for batch in outcomes for outcome in batch]

    async def _publish_one(self, message: Message) -> PublishFailed | None:
        try:
            (client,) = await self._clients.ready()
            call = client.publish(TopicArn=self._arn, Message=message.body, MessageAttributes=_sns_attributes(message))
            read_reply(await ask(call), _Published)
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
                reply = read_reply(await ask(call), BatchReply)
        except (AwsRefused, AwsUnreachable) as error:
            return [_publish_error(error)] * len(batch)
        return [_outcome(reply, str(index)) for index in range(len(batch))]


@asynccontextmanager
async def open_topic(config: SnsConfig) -> AsyncIterator[SnsTopic]:
    """The topic. The first call makes its client, and raises PublishFailed if that fails."""
    region = config.region or config.topic_arn.split(":")[3]
    clients = Clients("sns", region, config.endpoint_url, ClientSettings(CALL_SECONDS))
    try:
        yield SnsTopic(clients, config.topic_arn)
    finally:
        await clients.close()


def _outcome(reply: BatchReply, entry_id: str) -> PublishFailed | None:
    """The outcome of one entry of a batch. An entry that is not in the reply has failed."""
    if any(entry.Id == entry_id for entry in reply.Successful):
        return None
    failure = next((entry for entry in reply.Failed if entry.Id == entry_id), None)
    if failure is None:
        return PublishFailed("this message is not in the reply of SNS")
    kind = PublishRefused if failure.SenderFault and not _is_throttle(failure.Code) else PublishFailed
    return kind(f"{failure.Code}: {failure.Message}")


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


def _publish_error(error: AwsRefused | AwsUnreachable) -> PublishFailed:
    """PublishRefused if SNS answers, with an error code, that the request is at fault; otherwise PublishFailed."""
    if isinstance(error, AwsRefused) and error.code and 400 <= error.status < 500 and error.status != 429:
        return (PublishFailed if _is_throttle(error.code) else PublishRefused)(str(error))
    return PublishFailed(str(error))


def _is_throttle(code: str) -> bool:
    return any(word in code for word in _THROTTLES)
