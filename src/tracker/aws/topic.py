"""An SNS topic: publishes messages in as few requests as it can, and returns an outcome for each.

SNS charges for a request, once for each 64 KiB of all its messages together. A request may have ten messages.

1. `publish` hands its messages over. Calls that begin in the same pass of the event loop share requests: the publisher
   publishes many journals at the same time.
2. The messages are divided into requests. At most REQUESTS_IN_FLIGHT requests are made at the same time.
3. Each message gets its outcome as soon as its own request has ended. So a request that SNS does not answer delays
   only its own messages.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tracker.aws.calls import CALL_SECONDS, BatchReply, NonEmpty, ask, read_reply
from tracker.aws.clients import Clients, ClientSettings
from tracker.config import SnsConfig
from tracker.core.delivery import BATCH_ENTRIES
from tracker.core.message import Message
from tracker.errors import AwsRefused, AwsUnreachable, PublishFailed, PublishRefused, PublishThrottled

BATCH_BYTES = 262_144 - 4_096  # PublishBatch accepts 256 KiB; 4 KiB are left free, since AWS may count differently
REQUESTS_IN_FLIGHT = 8

_THROTTLES = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "RequestExpired")  # KMSThrottling too


class _Published(msgspec.Struct):
    MessageId: NonEmpty


Outcome = PublishFailed | None
_Waiting = tuple[Message, asyncio.Future[Outcome]]  # a message, and where its outcome is expected


class SnsTopic:
    """An SNS topic; it implements `tracker.pixel.topic.Topic`."""

    def __init__(self, clients: Clients, arn: str) -> None:
        self._clients = clients
        self._arn = arn
        self._waiting: list[_Waiting] = []
        self._requests: set[asyncio.Task[None]] = set()
        self._in_flight = asyncio.Semaphore(REQUESTS_IN_FLIGHT)

    async def ready(self) -> None:
        """Make the client and renew its credentials. Every call does this first, too. Raises PublishFailed."""
        try:
            await self._clients.ready()
        except AwsUnreachable as error:
            raise _publish_error(error) from error

    async def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """Publish all messages. Return one outcome for each, in their order: None if SNS has accepted it."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._send)  # after the calls that begin in this pass of the event loop
        waiting: list[_Waiting] = [(message, loop.create_future()) for message in messages]
        self._waiting += waiting
        return await asyncio.gather(*(outcome for _, outcome in waiting))

    async def close(self) -> None:
        """Cancel the requests that are under way."""
        for request in self._requests:
            request.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        await self._clients.aclose()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for batch in _batches(waiting):
            request = asyncio.create_task(self._request(batch))
            self._requests.add(request)
            request.add_done_callback(self._requests.discard)

    async def _request(self, batch: list[_Waiting]) -> None:
        """Make one request, and set the outcomes of its messages."""
        messages = [message for message, _ in batch]
        try:
            async with self._in_flight:
                (client,) = await self._clients.ready()
                outcomes = await (self._publish_batch if len(batch) > 1 else self._publish_one)(client, messages)
        except (AwsRefused, AwsUnreachable) as error:
            outcomes = [_publish_error(error)] * len(batch)
        except BaseException as error:  # also when it is cancelled: nobody may wait for these outcomes for ever
            for _, expected in batch:
                if not expected.done():
                    expected.set_exception(error)
            raise
        for (_, expected), outcome in zip(batch, outcomes, strict=True):
            if not expected.done():  # it is done if its `publish` was cancelled
                expected.set_result(outcome)

    async def _publish_one(self, client: Any, messages: Sequence[Message]) -> list[Outcome]:
        (message,) = messages
        call = client.publish(TopicArn=self._arn, Message=message.body, MessageAttributes=_sns_attributes(message))
        read_reply(await ask(call), _Published)
        return [None]

    async def _publish_batch(self, client: Any, messages: Sequence[Message]) -> list[Outcome]:
        entries = [
            {"Id": str(index), "Message": message.body, "MessageAttributes": _sns_attributes(message)}
            for index, message in enumerate(messages)
        ]
        call = client.publish_batch(TopicArn=self._arn, PublishBatchRequestEntries=entries)
        reply = read_reply(await ask(call), BatchReply)
        return [_outcome(reply, str(index)) for index in range(len(messages))]


@asynccontextmanager
async def open_topic(config: SnsConfig) -> AsyncIterator[SnsTopic]:
    """The topic. The first call makes its client, and raises PublishFailed if that fails."""
    region = config.region or config.topic_arn.split(":")[3]
    clients = Clients("sns", region, config.endpoint_url, ClientSettings(CALL_SECONDS))
    topic = SnsTopic(clients, config.topic_arn)
    try:
        yield topic
    finally:
        await topic.close()


def _outcome(reply: BatchReply, entry_id: str) -> Outcome:
    """The outcome of one entry of a batch. An entry that is not in the reply has failed."""
    if any(entry.Id == entry_id for entry in reply.Successful):
        return None
    failure = next((entry for entry in reply.Failed if entry.Id == entry_id), None)
    if failure is None:
        return PublishFailed("this message is not in the reply of SNS")
    refused = PublishRefused if failure.SenderFault else PublishFailed
    return (PublishThrottled if _is_throttle(failure.Code) else refused)(f"{failure.Code}: {failure.Message}")


def _batches(waiting: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """The messages of each request."""
    batches: list[list[_Waiting]] = []
    size = 0
    for each in waiting:
        if not batches or len(batches[-1]) == BATCH_ENTRIES or size + each[0].size > BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(each)
        size += each[0].size
    return batches


def _sns_attributes(message: Message) -> dict[str, dict[str, str]]:
    return {name: {"DataType": "String", "StringValue": value} for name, value in message.attributes.items()}


def _publish_error(error: AwsRefused | AwsUnreachable) -> PublishFailed:
    """PublishRefused if SNS answers, with an error code, that the request is at fault."""
    if isinstance(error, AwsUnreachable):
        return PublishFailed(str(error))
    if error.status == 429 or _is_throttle(error.code):
        return PublishThrottled(str(error))
    return (PublishRefused if error.code and 400 <= error.status < 500 else PublishFailed)(str(error))


def _is_throttle(code: str) -> bool:
    return any(word in code for word in _THROTTLES)
