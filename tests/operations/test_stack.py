"""The CloudFormation template deployed as far as the local broker goes, which has neither subscriptions nor queue
policies. `tracker provision` completes it, and takes the rest for its own."""

import json

from tests.deploy.tools import DEPLOY
from tests.system.processes import Broker
from tracker.local.provision import local_client
from tracker.operations import provision

from .conftest import REGION

TEMPLATE = DEPLOY / "aws/tracker.yaml"


async def test_an_emulator_makes_its_topic_and_queues(broker: Broker) -> None:
    async with (
        local_client("cloudformation", broker.endpoint, REGION) as cloudformation,
        local_client("sqs", broker.endpoint, REGION) as sqs,
        local_client("sns", broker.endpoint, REGION) as sns,
    ):
        parameters = {"TopicName": "stack-topic", "QueueName": "stack-visits"}
        await cloudformation.create_stack(
            StackName="tracker",
            TemplateBody=TEMPLATE.read_text(),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        )
        [stack] = (await cloudformation.describe_stacks(StackName="tracker"))["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        assert outputs["QueueName"] == "stack-visits"
        url = (await sqs.get_queue_url(QueueName=outputs["QueueName"]))["QueueUrl"]
        attributes = (await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))["Attributes"]
        assert attributes["MessageRetentionPeriod"] == "1209600"
        assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].endswith(":stack-visits-dlq")
        # What the emulator leaves out, provision completes: it recognises the rest as its own.
        names = provision.Names(topic="stack-topic", queue="stack-visits", dead_letter_queue="stack-visits-dlq")
        changes, left = await provision.differences(sns, sqs, names)
        assert not left
        assert {(change.thing, change.setting) for change in changes} == {
            ("queue stack-visits", "Policy"),
            ("queue stack-visits-dlq", "Policy"),
            ("subscription of queue stack-visits", ""),
        }
