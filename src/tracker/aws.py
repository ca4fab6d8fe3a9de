"""SNS and SQS as the services see them: `Topic` takes messages, `Queue` gives deliveries. botocore stops here.

Clients are long-lived. Every call has a deadline of its own, because aiobotocore leaves the total and the pool-wait
timeout unset, and is tried only once more by botocore: outages of any length are the callers' backoff to ride out.
"""

import asyncio
import ipaddress
import os
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError
from botocore.parsers import ResponseParserError

from tracker.config import SnsConfig, SqsConfig
from tracker.core.message import Message
from tracker.errors import AwsRefused, AwsUnreachable, PublishFailed, PublishRefused, QueueFailed

CALL_SECONDS = 10.0  # a call that takes longer is taken for lost
BATCH_ENTRIES = 10  # PublishBatch, DeleteMessageBatch, ChangeMessageVisibilityBatch
BATCH_BYTES = 262_144 - 4_096  # PublishBatch's 256 KiB, less some room for AWS's own counting
BATCHES_IN_FLIGHT = 8

_THROTTLES = ("Throttl", "TooManyRequests", "RequestLimitExceeded", "RequestExpired")
# A proxy's page in the place of a reply is a ResponseParserError, which is no BotoCoreError.
_TROUBLE = (BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError, TimeoutError, OSError)

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


class Topic:
    """An SNS topic."""

    def __init__(self, client: Any, arn: str) -> None:
        self._client = client
        self._arn = arn
        self._in_flight = asyncio.Semaphore(BATCHES_IN_FLIGHT)

    async def publish(self, messages: Sequence[Message]) -> list[PublishFailed | None]:
        """Publish all; one outcome a message, in their order, None where SNS has accepted it."""
        if len(messages) == 1:
            return [await self._publish_one(messages[0])]
        batches = _batches(messages)
        outcomes = await asyncio.gather(*map(self._publish_batch, batches))
        return [outcome for batch in outcomes for outcome in batch]

    async def _publish_one(self, message: Message) -> PublishFailed | None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._client.publish(
                    TopicArn=self._arn, Message=message.body, MessageAttributes=_sns_attributes(message)
                )
        except _TROUBLE as error:
            return _publish_error(error)
        return None

    async def _publish_batch(self, batch: Sequence[Message]) -> list[PublishFailed | None]:
        entries = [
            {"Id": str(index), "Message": message.body, "MessageAttributes": _sns_attributes(message)}
            for index, message in enumerate(batch)
        ]
        try:
            async with self._in_flight, asyncio.timeout(CALL_SECONDS):
                reply = await self._client.publish_batch(TopicArn=self._arn, PublishBatchRequestEntries=entries)
        except _TROUBLE as error:
            return [_publish_error(error)] * len(batch)
        accepted = {entry["Id"] for entry in reply.get("Successful", ())}
        failed = {entry["Id"]: entry for entry in reply.get("Failed", ())}
        outcomes: list[PublishFailed | None] = []
        for entry in entries:
            if entry["Id"] in accepted:
                outcomes.append(None)
            elif (failure := failed.get(entry["Id"])) is None:
                outcomes.append(PublishFailed("SNS named the entry neither accepted nor failed"))
            else:
                code = str(failure.get("Code"))
                kind = PublishRefused if failure.get("SenderFault") and not _is_throttle(code) else PublishFailed
                outcomes.append(kind(f"{code}: {failure.get('Message')}"))
        return outcomes


class Queue:
    """An SQS queue. Long polls have a client of their own: each holds a connection for as long as it lasts."""

    def __init__(self, receiver: Any, caller: Any, name: str, visibility_timeout: int) -> None:
        self._receiver = receiver
        self._caller = caller
        self._name = name
        self._url = name if "://" in name else None
        self._visibility_timeout = visibility_timeout

    async def receive(self, wait_time: int) -> list[Delivery]:
        """Up to ten deliveries, after at most `wait_time` seconds of long polling."""
        call = self._receiver.receive_message(
            QueueUrl=await self._queue_url(),
            MaxNumberOfMessages=BATCH_ENTRIES,
            WaitTimeSeconds=wait_time,
            VisibilityTimeout=self._visibility_timeout,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        )
        reply = await _queue_call(call, CALL_SECONDS + wait_time)
        now = asyncio.get_running_loop().time()
        return [_delivery(message, now) for message in reply.get("Messages", ())]

    async def delete(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Delete up to ten; those SQS did not confirm."""
        entries = [{"Id": str(i), "ReceiptHandle": delivery.receipt} for i, delivery in enumerate(deliveries)]
        call = self._caller.delete_message_batch(QueueUrl=await self._queue_url(), Entries=entries)
        reply = await _queue_call(call, CALL_SECONDS)
        done = {entry["Id"] for entry in reply.get("Successful", ())}
        return [delivery for i, delivery in enumerate(deliveries) if str(i) not in done]

    async def change_visibility(self, deliveries: Sequence[Delivery], seconds: int) -> None:
        """Hide up to ten deliveries for `seconds` from now; 0 gives them back at once."""
        entries = [
            {"Id": str(i), "ReceiptHandle": delivery.receipt, "VisibilityTimeout": seconds}
            for i, delivery in enumerate(deliveries)
        ]
        call = self._caller.change_message_visibility_batch(QueueUrl=await self._queue_url(), Entries=entries)
        await _queue_call(call, CALL_SECONDS)

    async def attributes(self) -> dict[str, str]:
        """All attributes of the queue, as SQS names them."""
        call = self._caller.get_queue_attributes(QueueUrl=await self._queue_url(), AttributeNames=["All"])
        reply = await _queue_call(call, CALL_SECONDS)
        return dict(reply.get("Attributes", {}))

    async def _queue_url(self) -> str:
        if self._url is None:
            reply = await _queue_call(self._caller.get_queue_url(QueueName=self._name), CALL_SECONDS)
            if "QueueUrl" not in reply:
                raise QueueFailed(
                    "the reply names no queue: check that the endpoint is SQS and no proxy answers for it"
                )
            self._url = str(reply["QueueUrl"])
        return self._url


@asynccontextmanager
async def open_topic(config: SnsConfig) -> AsyncIterator[Topic]:
    """A client for the topic; raises PublishFailed when none can be made (no region, broken profile)."""
    async with AsyncExitStack() as stack:
        try:
            region = config.region or config.topic_arn.split(":")[3]
            client = await _client(stack, get_session(), "sns", region, config.endpoint_url, CALL_SECONDS)
        except (*_TROUBLE, ValueError) as error:  # botocore says ValueError to an endpoint of the environment
            raise _publish_error(error) from error
        yield Topic(client, config.topic_arn)


@asynccontextmanager
async def open_queue(config: SqsConfig) -> AsyncIterator[Queue]:
    """Clients for the queue; raises QueueFailed when none can be made (no region, broken profile)."""
    async with AsyncExitStack() as stack:
        try:
            long = CALL_SECONDS + config.wait_time
            session = get_session()  # one for both: what botocore loads into it takes as much memory as all the rest
            where = config.region, config.endpoint_url
            receiver = await _client(stack, session, "sqs", *where, long, config.receivers)
            caller = await _client(stack, session, "sqs", *where, CALL_SECONDS)
        except (*_TROUBLE, ValueError) as error:
            raise _queue_error(error) from error
        yield Queue(receiver, caller, config.queue, config.visibility_timeout)


@asynccontextmanager
async def open_client(service: str, region: str | None, endpoint: str | None) -> AsyncIterator[Any]:
    """A client of any service for the commands that look after it; its calls go through `ask`."""
    async with AsyncExitStack() as stack:
        try:
            client = await _client(stack, get_session(), service, region, endpoint, CALL_SECONDS)
        except (*_TROUBLE, ValueError) as error:
            raise AwsUnreachable(_words(error)) from error
        yield client


async def ask(call: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """The reply to a call; raises AwsRefused with SNS's or SQS's code, or AwsUnreachable."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await call
    except ClientError as error:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise AwsRefused(_words(error), code=code, date=headers.get("date")) from error
    except _TROUBLE as error:
        raise AwsUnreachable(_words(error)) from error


async def _client(
    stack: AsyncExitStack,
    session: AioSession,
    service: str,
    region: str | None,
    endpoint: str | None,
    read_seconds: float,
    pool: int = 10,
) -> Any:
    # One try of one second, botocore's own setting, makes a busy metadata service look like missing credentials.
    session.set_config_variable("metadata_service_timeout", 3)
    session.set_config_variable("metadata_service_num_attempts", 3)
    settings = AioConfig(
        connect_timeout=5,
        read_timeout=read_seconds,
        max_pool_connections=max(10, pool),
        retries={"mode": "standard", "total_max_attempts": 2},
    )
    # The other AWS tools know AWS_REGION, and botocore alone does not.
    region = region or os.environ.get("AWS_REGION") or None
    options: dict[str, Any] = {"region_name": region, "endpoint_url": endpoint, "config": settings}
    async with session.create_client(service, **options, **_PLACEHOLDERS) as probe:  # asks nobody, only resolves
        endpoint = probe.meta.endpoint_url
    if _is_loopback(endpoint):
        # Nobody's metadata service has to be asked on the way to this very machine.
        session.get_component("credential_provider").remove("iam-role")
        if await session.get_credentials() is None:
            options |= _PLACEHOLDERS
    return await stack.enter_async_context(session.create_client(service, **options))


_PLACEHOLDERS = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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


def _delivery(message: dict[str, Any], now: float) -> Delivery:
    attributes = message.get("MessageAttributes", {})
    system = message.get("Attributes", {})
    return Delivery(
        message_id=message["MessageId"],
        receipt=message["ReceiptHandle"],
        body=message["Body"],
        attributes={name: value.get("StringValue", "") for name, value in attributes.items()},
        sent_ms=int(system.get("SentTimestamp", 0)),
        receive_count=int(system.get("ApproximateReceiveCount", 0)),
        received_at=now,
    )


async def _queue_call(call: Awaitable[T], seconds: float) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await call
    except _TROUBLE as error:
        raise _queue_error(error) from error


def _publish_error(error: Exception) -> PublishFailed:
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        code = error.response.get("Error", {}).get("Code", "")
        if 400 <= status < 500 and status != 429 and not _is_throttle(code):
            return PublishRefused(_words(error))
    return PublishFailed(_words(error))


def _is_throttle(code: str) -> bool:
    return any(word in code for word in _THROTTLES)  # KMSThrottling too


def _queue_error(error: Exception) -> QueueFailed:
    return QueueFailed(_words(error))


def _words(error: Exception) -> str:
    """One line for the operator: what happened and, where it is plain, what mends it."""
    if isinstance(error, NoCredentialsError):
        return "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
    if isinstance(error, NoRegionError):
        return "no AWS region found: set the region in the configuration, with --region, or AWS_REGION"
    if isinstance(error, TimeoutError):
        return "no reply in time: check the endpoint and the network"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
