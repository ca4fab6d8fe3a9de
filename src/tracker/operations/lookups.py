"""What exists at AWS: a queue by its name, its attributes, its subscription to a topic. Nothing is changed."""

from typing import Any

from tracker.aws import ask, incomplete_reply, queue_parameters
from tracker.core.queue_address import parse_queue
from tracker.errors import AwsRefused


async def queue_url(sqs: Any, name: str) -> str | None:
    """The URL of the queue with this name, URL or ARN; None if there is none. A URL is returned as it is."""
    address = parse_queue(name)
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


async def subscription(sns: Any, topic_arn: str, queue_arn: str) -> tuple[str, dict[str, str]] | None:
    """ARN and attributes of the queue's subscription to the topic, if any; no attributes before it is confirmed."""
    token: dict[str, str] = {}
    while True:
        reply = await ask(sns.list_subscriptions_by_topic(TopicArn=topic_arn, **token))
        for each in reply.get("Subscriptions", ()):
            if each.get("Protocol") == "sqs" and each.get("Endpoint") == queue_arn:
                arn = str(each.get("SubscriptionArn"))
                if not arn.startswith("arn:"):
                    return arn, {}
                reply = await ask(sns.get_subscription_attributes(SubscriptionArn=arn), "Attributes")
                return arn, dict(reply["Attributes"])
        if not reply.get("NextToken"):
            return None
        token = {"NextToken": reply["NextToken"]}
