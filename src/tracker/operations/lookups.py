"""What exists at AWS: topics, queues by name, URL or ARN, their attributes, and the subscriptions of a topic.

Nothing is changed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracker.aws import ask, incomplete_reply, queue_parameters
from tracker.core.queue_address import QueueAddress, parse_queue
from tracker.errors import AwsRefused, ConfigurationError, UsageError

NEW_QUEUE_TRIES = 5  # one second apart: AWS may need some seconds until it knows a queue that it has created


@dataclass(frozen=True)
class Subscription:
    """An SQS subscription of a topic. It has no `settings` before it is confirmed, or if they could not be read."""

    arn: str
    queue_arn: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_confirmed(self) -> bool:
        return self.arn.startswith("arn:") and self.settings.get("PendingConfirmation") != "true"


def is_https(client: Any) -> bool:
    """Whether the client calls its endpoint by HTTPS. Local brokers have HTTP only."""
    return str(client.meta.endpoint_url).startswith("https:")


def named_queue(option: str, text: str) -> QueueAddress:
    """The queue that an option of a command names. Raises UsageError."""
    try:
        return parse_queue(text)
    except ConfigurationError as error:
        raise UsageError(f"{option}: {error}") from error


async def queue_url(sqs: Any, text: str) -> str | None:
    """The URL of the queue with this name, URL or ARN; None if there is none. A URL is returned as it is."""
    address = parse_queue(text)
    if address.url is not None:
        return address.url
    try:
        return str((await ask(sqs.get_queue_url(**queue_parameters(address)), "QueueUrl"))["QueueUrl"])
    except AwsRefused as error:
        if error.is_missing:
            return None
        raise


async def queue_attributes(sqs: Any, url: str) -> dict[str, str]:
    """All attributes of the queue; its QueueArn is always among them."""
    attributes = (await ask(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]), "Attributes"))["Attributes"]
    if not attributes.get("QueueArn"):
        raise incomplete_reply("QueueArn is missing")
    return dict(attributes)


async def find_queue(sqs: Any, text: str) -> tuple[str, dict[str, str]] | None:
    """URL and attributes of the queue with this name, URL or ARN; None if there is none."""
    url = await queue_url(sqs, text)
    try:
        return None if url is None else (url, await queue_attributes(sqs, url))
    except AwsRefused as error:
        if error.is_missing:
            return None
        raise


async def until_queue_exists(call: Callable[[], Awaitable[Any]]) -> Any:
    """The result of a call for a queue that was just created."""
    for left in reversed(range(NEW_QUEUE_TRIES)):
        try:
            return await call()
        except AwsRefused as error:
            if not error.is_missing or not left:
                raise
        await asyncio.sleep(1.0)


async def find_topic(sns: Any, name: str) -> str | None:
    """The ARN of the topic with this name, among those of the account and Region of the client."""
    token: dict[str, str] = {}
    while True:
        reply = await ask(sns.list_topics(**token))
        for topic in reply.get("Topics", ()):
            if topic.get("TopicArn", "").rpartition(":")[2] == name:
                return str(topic["TopicArn"])
        if not reply.get("NextToken"):
            return None
        token = {"NextToken": reply["NextToken"]}


async def subscriptions(sns: Any, topic_arn: str) -> list[Subscription]:
    """All subscriptions of queues to the topic."""
    found: list[Subscription] = []
    token: dict[str, str] = {}
    while True:
        reply = await ask(sns.list_subscriptions_by_topic(TopicArn=topic_arn, **token))
        for each in reply.get("Subscriptions", ()):
            if each.get("Protocol") == "sqs":
                arn = str(each.get("SubscriptionArn"))
                found.append(Subscription(arn, str(each.get("Endpoint")), await _settings(sns, arn)))
        if not reply.get("NextToken"):
            return found
        token = {"NextToken": reply["NextToken"]}


async def _settings(sns: Any, arn: str) -> dict[str, str]:
    if not arn.startswith("arn:"):
        return {}  # AWS lists a subscription that is not confirmed as PendingConfirmation
    try:
        reply = await ask(sns.get_subscription_attributes(SubscriptionArn=arn), "Attributes")
    except AwsRefused as error:
        if error.is_denied or error.is_missing or error.is_unsupported:  # of another account; removed; another broker
            return {}
        raise
    return dict(reply["Attributes"])
