"""Topics in memory, as SNS documents them: what a topic refuses, and how its messages come to the queues."""

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.fake_aws.faults import Faults
from tests.fake_aws.queues import RAW_ATTRIBUTES, AwsError, Queue, Sent, check_body

SNS_BYTES = 262_144  # a message, and all of a PublishBatch: bodies and attributes


@dataclass
class Subscription:
    arn: str
    queue: Queue
    raw: bool
    filter_policy: dict[str, list[Any]]

    def deliver(self, topic: "Topic", message_id: str, sent: Sent) -> None:
        for name, rules in self.filter_policy.items():
            value = sent.attributes[name].value if name in sent.attributes else None
            if not any(_fits(rule, value) for rule in rules):
                return
        if self.raw and len(sent.attributes) > RAW_ATTRIBUTES:
            self.queue.refused_by_raw_delivery += 1  # "the message is discarded as a client-side error"
            return
        self.queue.send(sent if self.raw else Sent(_envelope(topic.arn, message_id, sent), {}))


@dataclass
class Topic:
    arn: str
    faults: Faults
    checks: bool = True
    subscriptions: list[Subscription] = field(default_factory=list)
    accepted: deque[Sent] = field(default_factory=lambda: deque(maxlen=1_000))

    def publish(self, sent: Sent, action: str) -> str:
        if self.checks:
            _check(sent)
        message_id = str(uuid4())
        self.accepted.append(sent)
        for subscription in self.subscriptions:
            for _ in range(2 if self.faults.strikes("double", action) else 1):
                subscription.deliver(self, message_id, sent)
        return message_id


def _fits(rule: Any, value: str | None) -> bool:
    """Whether a value, None for a missing attribute, fits one rule of a filter: a text, a prefix, or an existence."""
    match rule:
        case str():
            return value == rule
        case {"prefix": str(prefix)}:
            return value is not None and value.startswith(prefix)
        case {"exists": bool(exists)}:
            return exists is (value is not None)
    raise AwsError("InvalidParameter", f"the fake does not know the rule {rule}")


def _check(sent: Sent) -> None:
    if not sent.body:
        raise AwsError("InvalidParameter", "Invalid parameter: Empty message")
    check_body(sent.body, "InvalidParameter")
    if sent.size > SNS_BYTES:
        raise AwsError("InvalidParameter", "Invalid parameter: Message too long")
    for name, attribute in sent.attributes.items():
        if not attribute.value:
            raise AwsError("ParameterValueInvalid", f"The message attribute '{name}' must contain a value")


def _envelope(arn: str, message_id: str, sent: Sent) -> str:
    attributes = {name: {"Type": each.data_type, "Value": each.value} for name, each in sent.attributes.items()}
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": message_id,
            "TopicArn": arn,
            "Message": sent.body,
            "Timestamp": "2026-01-01T00:00:00.000Z",
            "MessageAttributes": attributes,
        }
    )
