"""What exists at AWS: a queue by its name, its attributes, and the subscriptions of a topic. Nothing is changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tracker.aws import ask, incomplete_reply
from tracker.errors import AwsRefused


@dataclass(frozen=True)
class Subscription:
    """An SQS subscription of a topic. It has no `settings` before it is confirmed, or if they could not be read."""

    arn: str
    queue_arn: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_confirmed(self) -> bool:
        return self.arn.startswith("arn:") and self.settings.get("PendingConfirmation") != "true"


async def queue_url(sqs: Any, name: str) -> str | None:
    """The URL of the queue called `name`; None if there is none. A URL is returned as it is."""
    if "://" in name:
        return name
    try:
        return str((await ask(sqs.get_queue_url(QueueName=name), "QueueUrl"))["QueueUrl"])
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


async def subscription(sns: Any, topic_arn: str, queue_arn: str) -> tuple[str, dict[str, str]] | None:
    """ARN and attributes of the queue's subscription to the topic, if any; no attributes before it is confirmed."""
    for each in await subscriptions(sns, topic_arn):
        if each.queue_arn == queue_arn:
            return each.arn, dict(each.settings)
    return None


async def _settings(sns: Any, arn: str) -> dict[str, str]:
    if not arn.startswith("arn:"):
        return {}  # AWS lists a subscription that is not confirmed as PendingConfirmation
    try:
        reply = await ask(sns.get_subscription_attributes(SubscriptionArn=arn), "Attributes")
    except AwsRefused as error:
        if error.is_missing:  # removed since the listing
            return {}
        raise
    return dict(reply["Attributes"])
