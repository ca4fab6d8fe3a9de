"""What lies between the services is made as the contract says, and made again without harm."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.local.conftest import Broker
from tracker.local.provision import local_client, provision_at
from tracker.operations.provision import provision

REGION = "eu-west-1"  # the broker has made everything in its own region, and nothing here


@pytest.fixture
def endpoint(free_port: int) -> Iterator[str]:
    pytest.importorskip("moto", reason="the local broker is moto")
    with Broker(free_port) as broker:
        yield broker.endpoint


def test_everything_is_there_and_a_second_time_changes_nothing(endpoint: str) -> None:
    async def exercise() -> None:
        made = await provision_at(endpoint, REGION)
        async with local_client("sns", endpoint, REGION) as sns, local_client("sqs", endpoint, REGION) as sqs:
            await sqs.send_message(QueueUrl=made.queue_url, MessageBody="waits")
            assert await provision(sns, sqs) == made

            assert made.topic_arn == "arn:aws:sns:eu-west-1:000000000000:tracking"
            queue = (await sqs.get_queue_attributes(QueueUrl=made.queue_url, AttributeNames=["All"]))["Attributes"]
            dead_url = made.dead_letter_queue_url
            dead = (await sqs.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["All"]))["Attributes"]
            assert queue["ApproximateNumberOfMessages"] == "1"
            assert queue["MessageRetentionPeriod"] == dead["MessageRetentionPeriod"] == "1209600"
            redrive = json.loads(queue["RedrivePolicy"])
            assert redrive == {"deadLetterTargetArn": dead["QueueArn"], "maxReceiveCount": 100}
            for one in (queue, dead):
                [statement] = json.loads(one["Policy"])["Statement"]
                assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
                assert statement["Action"] == "sqs:SendMessage"
                assert statement["Resource"] == one["QueueArn"]
                assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": made.topic_arn}}

            [only] = (await sns.list_subscriptions_by_topic(TopicArn=made.topic_arn))["Subscriptions"]
            assert only["Endpoint"] == queue["QueueArn"]
            attributes = await sns.get_subscription_attributes(SubscriptionArn=made.subscription_arn)
            assert attributes["Attributes"]["RawMessageDelivery"] == "true"
            assert json.loads(attributes["Attributes"]["FilterPolicy"]) == {"Type": ["Visit"]}

    asyncio.run(exercise())


def test_what_somebody_made_by_hand_is_put_right(endpoint: str) -> None:
    async def exercise() -> None:
        async with local_client("sns", endpoint, REGION) as sns, local_client("sqs", endpoint, REGION) as sqs:
            topic = (await sns.create_topic(Name="tracking"))["TopicArn"]
            url = (await sqs.create_queue(QueueName="visits", Attributes={"MessageRetentionPeriod": "60"}))["QueueUrl"]
            arn = "arn:aws:sqs:eu-west-1:000000000000:visits"
            await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)

            made = await provision(sns, sqs)

            assert made.queue_url == url
            names = ["MessageRetentionPeriod"]
            answer = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
            assert answer["Attributes"] == {"MessageRetentionPeriod": "1209600"}
            visit = {"Type": {"DataType": "String", "StringValue": "Visit"}}
            await sns.publish(TopicArn=topic, Message="not a visit")
            await sns.publish(TopicArn=topic, Message="a visit", MessageAttributes=visit)
            received = await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
            [message] = received["Messages"]
            assert message["Body"] == "a visit"  # raw, and filtered
            assert message["MessageAttributes"]["Type"]["StringValue"] == "Visit"

    asyncio.run(exercise())
