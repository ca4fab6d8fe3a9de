"""Checks of the KMS keys that encrypt the queue and the topic: whether SNS can use the queue's, and whether they work.

What a key lets a role do is also up to the role's own policies, which cannot be read from here. Sources: "Key
management" in the Developer Guides of SQS and of SNS.
"""

import json
from typing import Any
from urllib.parse import urlsplit

from tracker.aws import ask, open_client
from tracker.errors import AwsRefused, AwsUnreachable
from tracker.operations.access_policy import decide, sns_request
from tracker.operations.findings import Finding, fault, ok, unknown, warning
from tracker.operations.remedies import Setup
from tracker.operations.verdicts import Unknown, all_of
from tracker.operations.wanted_settings import AWS_KEY, is_aws_key

_DELIVERY = ("kms:GenerateDataKey", "kms:Decrypt")
_LOST = "SNS cannot deliver: messages end in the subscription's dead-letter queue, or are lost without one"
_STATES = {
    "PendingDeletion": "aws kms cancel-key-deletion --key-id {key} && aws kms enable-key --key-id {key}",
    "Disabled": "aws kms enable-key --key-id {key}",
}


async def check_queue_encryption(attributes: dict[str, str], setup: Setup, endpoint: str | None) -> Finding:
    key = attributes.get("KmsMasterKeyId", "")
    if is_aws_key(key):
        return _aws_key(setup)
    if key:
        return await _queue_key(key, attributes["QueueArn"], setup, endpoint)
    if "SqsManagedSseEnabled" not in attributes:
        return unknown("queue", "cannot tell whether it is encrypted at rest", fix="ask whoever runs this broker")
    if attributes["SqsManagedSseEnabled"].lower() == "true":
        return ok("queue", "encrypted at rest")
    return warning(
        "queue",
        "it is not encrypted at rest",
        why="it holds visitors' addresses while storage is down",
        fix=setup.provision,
    )


async def check_topic_encryption(attributes: dict[str, str], region: str, endpoint: str | None) -> Finding | None:
    """The pixel publishes as a role of the topic's account, which may use the key alias/aws/sns too."""
    key = attributes.get("KmsMasterKeyId", "")
    if not key or key.endswith("alias/aws/sns"):
        only = " with alias/aws/sns; pixels of other accounts cannot publish" if key else ""
        return ok("topic", f"encrypted{only}") if key else None
    try:
        async with open_client("kms", region, _kms_endpoint(endpoint)) as kms:
            state = (await ask(kms.describe_key(KeyId=key), "KeyMetadata"))["KeyMetadata"]
    except (AwsRefused, AwsUnreachable) as error:
        return _cannot_tell("topic", f"whether its key {key} works: {error}", "kms:DescribeKey")
    if state.get("KeyState") != "Enabled":
        return _not_enabled("topic", state, "SNS refuses every message; visits wait in the outbox until it is full")
    return ok("topic", f"encrypted with {key}; the pixel's role needs kms:GenerateDataKey and kms:Decrypt for it")


async def _queue_key(key: str, queue_arn: str, setup: Setup, endpoint: str | None) -> Finding:
    try:
        async with open_client("kms", queue_arn.split(":")[3], _kms_endpoint(endpoint)) as kms:
            state = (await ask(kms.describe_key(KeyId=key), "KeyMetadata"))["KeyMetadata"]
            if state.get("KeyManager") == "AWS":
                return _aws_key(setup)
            if state.get("KeyState") != "Enabled":
                return _not_enabled("queue", state, _LOST, first=setup.keep_outbox)
            policy = (await ask(kms.get_key_policy(KeyId=state["Arn"], PolicyName="default"), "Policy"))["Policy"]
    except (AwsRefused, AwsUnreachable) as error:
        return _cannot_tell(
            "queue", f"whether SNS may use its key {key}: {error}", "kms:DescribeKey and kms:GetKeyPolicy"
        )
    return _judge_key_policy(policy, state["Arn"], setup)


def _kms_endpoint(endpoint: str | None) -> str | None:
    """Another broker has all services at one address; an endpoint of AWS, such as that of a VPC, has only one."""
    host = urlsplit(endpoint or "").hostname or ""
    return None if host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else endpoint


def _judge_key_policy(policy: str, key_arn: str, setup: Setup) -> Finding:
    if not setup.topic_arn:
        return ok("queue", f"encrypted with {key_arn} (whether SNS may use it was not checked: no --pixel)")
    decisions = [decide(policy, sns_request(action, key_arn, setup.topic_arn)) for action in _DELIVERY]
    allowed = all_of(decision.allowed for decision in decisions)
    if allowed is True:
        return ok("queue", f"encrypted with {key_arn}, which SNS may use")
    if isinstance(allowed, Unknown):
        return _cannot_tell("queue", f"whether SNS may use its key {key_arn}: {allowed.reason}", "")
    if denied := next((decision.denied_by for decision in decisions if decision.denied_by), ""):
        fix = f"narrow {denied} of the key's policy, so that it does not concern sns.amazonaws.com"
    else:
        fix = f"add this statement to the key's policy: {json.dumps(key_statement(setup.topic_arn))}"
    return fault(
        "queue", f"the policy of its key {key_arn} does not let SNS use it", why=_LOST, fix=setup.keep_outbox + fix
    )


def key_statement(topic_arn: str) -> dict[str, Any]:
    return {
        "Sid": "SnsMayUseThisKey",
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": list(_DELIVERY),
        "Resource": "*",
        "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
    }


def _aws_key(setup: Setup) -> Finding:
    return fault(
        "queue",
        f"it is encrypted with the key {AWS_KEY}",
        why="SNS may not use that key, so nothing is delivered",
        fix=f"{setup.keep_outbox}encrypt it with the keys of SQS (SqsManagedSseEnabled): {setup.provision}",
    )


def _not_enabled(subject: str, state: dict[str, Any], why: str, *, first: str = "") -> Finding:
    command = _STATES.get(state.get("KeyState", ""), "look at the key in the console of KMS")
    what = f"its key {state.get('Arn')} is {state.get('KeyState')}"
    return fault(subject, what, why=why, fix=first + command.format(key=state["KeyId"]))


def _cannot_tell(subject: str, what: str, permission: str) -> Finding:
    asked = (
        f"run the doctor with credentials that have {permission} for the key" if permission else "look at its policy"
    )
    return unknown(subject, f"cannot tell {what}", why="a key that cannot be used keeps visits away", fix=asked)
