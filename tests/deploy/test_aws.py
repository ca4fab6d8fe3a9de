"""The CloudFormation template: right by cfn-lint, one with what `tracker provision` makes."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tracker.operations import provision, wanted_settings

from .tools import DEPLOY, ROOT, run, sections_of_the_guide

TEMPLATE = DEPLOY / "aws/tracker.yaml"


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms; they are read as what they are applied to."""


def _short(loader: yaml.Loader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return f"!{tag} {loader.construct_scalar(node)}"
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node)


_Loader.add_multi_constructor("!", _short)


ARCHIVE = DEPLOY / "aws/archive.yaml"


def resources(template: Path = TEMPLATE) -> dict[str, dict[str, Any]]:
    document = yaml.load(template.read_text(), _Loader)
    return {name: resource["Properties"] for name, resource in document["Resources"].items()}


def test_cfn_lint_has_nothing_to_say() -> None:
    assert run("cfn-lint", "--include-checks", "I", "--", TEMPLATE, ARCHIVE).strip() == ""


def test_it_makes_what_provision_makes() -> None:
    made = resources()
    for queue in ("Queue", "DeadLetterQueue"):
        assert made[queue]["MessageRetentionPeriod"] == wanted_settings.RETENTION_SECONDS
        assert made[queue]["SqsManagedSseEnabled"] is True
    assert made["Queue"]["RedrivePolicy"]["maxReceiveCount"] == wanted_settings.MAX_RECEIVE_COUNT
    assert made["Subscription"]["FilterPolicy"] == wanted_settings.FILTER_POLICY
    assert made["Subscription"]["RawMessageDelivery"] is True
    assert made["Subscription"]["RedrivePolicy"] == {
        "deadLetterTargetArn": made["Queue"]["RedrivePolicy"]["deadLetterTargetArn"]
    }
    statements = made["QueuesPolicy"]["PolicyDocument"]["Statement"]
    [ours] = [statement for statement in statements if statement["Sid"] == wanted_settings.STATEMENT]
    expected = json.loads(wanted_settings.with_our_statement(None, "queue", "!Ref Topic"))["Statement"][0]
    assert {**ours, "Resource": "queue", "Sid": expected["Sid"]} == expected
    defaults = yaml.load(TEMPLATE.read_text(), _Loader)["Parameters"]
    names = provision.Names(topic=defaults["TopicName"]["Default"], queue=defaults["QueueName"]["Default"])
    assert names == provision.Names()


def test_topic_and_queues_refuse_plain_http() -> None:
    refused: set[str] = set()
    for policy in ("TopicPolicy", "QueuesPolicy"):
        [statement] = [one for one in resources()[policy]["PolicyDocument"]["Statement"] if one["Sid"] == "NoPlainHttp"]
        assert statement["Effect"] == "Deny"
        assert statement["Principal"] == "*"
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        resource = statement["Resource"]
        refused |= set(resource if isinstance(resource, list) else [resource])
    assert refused == {"!Ref Topic", "!GetAtt Queue.Arn", "!GetAtt DeadLetterQueue.Arn"}


def actions(policy: str, template: Path = TEMPLATE) -> set[str]:
    found: set[str] = set()
    for statement in resources(template)[policy]["PolicyDocument"]["Statement"]:
        action = statement["Action"]
        found |= {action} if isinstance(action, str) else set(action)
    return found


def _called(source: str) -> set[str]:
    """The calls of a module on its SNS and SQS clients, as IAM names them; a batch is its single call's permission."""
    text = (ROOT / "src/tracker" / source).read_text()
    found = set()
    for client, call in re.findall(
        r"(sns|sqs|client|receiver|caller|clients\[1\])\.([a-z]+_[a-z_]+|publish|subscribe)\(", text
    ):
        service = "sns" if client in ("sns", "client") else "sqs"
        words = call.removesuffix("_batch").split("_")
        found.add(f"{service}:{''.join(word.capitalize() for word in words)}")
    return found


def test_each_policy_allows_what_its_service_calls_and_nothing_else() -> None:
    calls = (_called("aws/topic.py") | _called("aws/queue.py")) - {"sns:Exceptions"}
    assert actions("PixelPolicy") == {call for call in calls if call.startswith("sns:")}
    assert actions("StoragePolicy") == {call for call in calls if call.startswith("sqs:")}
    looks = {"sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic", "sns:GetSubscriptionAttributes"}
    looks |= {"sqs:GetQueueUrl", "sqs:GetQueueAttributes"}
    assert actions("DoctorPolicy") == looks
    assert actions("RedrivePolicy") == _called("operations/redrive.py") | {"sqs:GetQueueUrl", "sqs:GetQueueAttributes"}


def test_the_guide_names_what_provision_calls() -> None:
    guide = (ROOT / "docs/deployment.md").read_text()
    [row] = re.findall(r"^\| who runs `tracker provision` \|(.*)\|$", guide, re.MULTILINE)
    assert set(re.findall(r"`(\w+:\w+)`", row)) == _called("operations/provision.py") | _called("operations/lookups.py")


def test_every_policy_names_its_resources() -> None:
    for name in ("PixelPolicy", "StoragePolicy", "DoctorPolicy", "RedrivePolicy"):
        for statement in resources()[name]["PolicyDocument"]["Statement"]:
            resource = statement["Resource"]
            assert "*" not in (resource if isinstance(resource, list) else [resource]), name


def test_every_alarm_names_its_section_of_the_guide() -> None:
    alarms = {name: made for name, made in resources().items() if name.endswith("Alarm")}
    assert len(alarms) == 5
    for alarm in alarms.values():
        found = re.search(r"docs/operations\.md#([\w-]+)", alarm["AlarmDescription"])
        assert found is not None
        assert found[1] in sections_of_the_guide()
