"""Creates what lies between the two services: topic, queue, dead-letter queue and subscription.

It promises to be idempotent: run again, over something half made or made by hand, it leaves the same state, and nothing
that waits in a queue is touched. So attributes are set after the creating call and never given to it: creating a queue
again with other attributes is an error, setting them is not.
"""

import json
from dataclasses import dataclass
from typing import Any

from aiobotocore.session import get_session

TOPIC = "tracking"
QUEUE = "visits"
DEAD_LETTER_QUEUE = "visits-dlq"

RETENTION_SECONDS = 14 * 24 * 3600  # the longest SQS keeps a message
# A count, not a judgement: messages are received and released when storage is killed or its disk is full. Three, a
# common choice, would send good visits to the dead-letter queue after three crashes.
MAX_RECEIVE_COUNT = 100
FILTER_POLICY = {"Type": ["Visit"]}


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    topic_arn: str
    queue_url: str
    queue_arn: str
    dead_letter_queue_url: str
    subscription_arn: str


async def provision(sns: Any, sqs: Any) -> Provisioned:
    """Makes everything with the two open aiobotocore clients."""
    topic_arn = str((await sns.create_topic(Name=TOPIC))["TopicArn"])
    dead_url, dead_arn = await _queue(sqs, DEAD_LETTER_QUEUE)
    await sqs.set_queue_attributes(
        QueueUrl=dead_url,
        Attributes={
            "MessageRetentionPeriod": str(RETENTION_SECONDS),
            "Policy": _sns_may_send(dead_arn, topic_arn),
        },
    )
    queue_url, queue_arn = await _queue(sqs, QUEUE)
    await sqs.set_queue_attributes(
        QueueUrl=queue_url,
        Attributes={
            "MessageRetentionPeriod": str(RETENTION_SECONDS),
            "Policy": _sns_may_send(queue_arn, topic_arn),
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": MAX_RECEIVE_COUNT}),
        },
    )
    subscription_arn = await _subscribe(sns, topic_arn, queue_arn, dead_arn)
    return Provisioned(
        topic_arn=topic_arn,
        queue_url=queue_url,
        queue_arn=queue_arn,
        dead_letter_queue_url=dead_url,
        subscription_arn=subscription_arn,
    )


async def provision_at(endpoint_url: str, region: str) -> Provisioned:
    """Makes everything at a local broker, which takes any credentials."""
    async with local_client("sns", endpoint_url, region) as sns, local_client("sqs", endpoint_url, region) as sqs:
        return await provision(sns, sqs)


def local_client(service: str, endpoint_url: str, region: str) -> Any:
    """A context manager with a client that never looks for, nor sends, real credentials."""
    return get_session().create_client(
        service,
        region_name=region,
        endpoint_url=endpoint_url,
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


async def _queue(sqs: Any, name: str) -> tuple[str, str]:
    url = str((await sqs.create_queue(QueueName=name))["QueueUrl"])
    answer = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return url, str(answer["Attributes"]["QueueArn"])


async def _subscribe(sns: Any, topic_arn: str, queue_arn: str, dead_arn: str) -> str:
    attributes = {
        "RawMessageDelivery": "true",
        "FilterPolicy": json.dumps(FILTER_POLICY),
        # What SNS itself cannot deliver (a lost policy, a deleted queue) is kept as well.
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": dead_arn}),
    }
    existing = await _subscription(sns, topic_arn, queue_arn)
    if existing is None:
        # With its attributes at once: no message passes before the filter is there.
        answer = await sns.subscribe(
            TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn, Attributes=attributes, ReturnSubscriptionArn=True
        )
        return str(answer["SubscriptionArn"])
    for name, value in attributes.items():
        await sns.set_subscription_attributes(SubscriptionArn=existing, AttributeName=name, AttributeValue=value)
    return existing


async def _subscription(sns: Any, topic_arn: str, queue_arn: str) -> str | None:
    pages = sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic_arn)
    async for page in pages:
        for subscription in page["Subscriptions"]:
            if subscription["Protocol"] == "sqs" and subscription["Endpoint"] == queue_arn:
                return str(subscription["SubscriptionArn"])
    return None


def _sns_may_send(queue_arn: str, topic_arn: str) -> str:
    """The queue's policy: SNS may send to it, on behalf of our topic and of no other."""
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "TopicMaySend",
                    "Effect": "Allow",
                    "Principal": {"Service": "sns.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": queue_arn,
                    "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
                }
            ],
        }
    )
