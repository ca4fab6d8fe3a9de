"""Checks of the topic and of the queue's subscription at AWS, with the credentials of whoever runs the doctor."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from tracker.aws import ask, open_client
from tracker.config import SnsConfig
from tracker.errors import AwsRefused, AwsUnreachable
from tracker.operations.findings import Finding, fault, ok, unknown, warning
from tracker.operations.lookups import subscription
from tracker.operations.provision import FILTER_POLICY

SKEW_SECONDS = 5.0
REFUSED_SKEW_SECONDS = 240.0  # AWS refuses a signature whose time is five minutes off


@dataclass
class Setup:
    """What the checks know of the topic and the queue; `provision` is the command that sets them up."""

    topic_arn: str = ""
    queue: dict[str, str] | None = None
    provision: str = "tracker provision"


async def check_topic(config: SnsConfig, setup: Setup) -> AsyncIterator[Finding]:
    region = config.region or config.topic_arn.split(":")[3]
    async with open_client("sns", region, config.endpoint_url) as sns:
        reply = await ask(sns.get_topic_attributes(TopicArn=config.topic_arn), "Attributes")
        yield ok("topic", config.topic_arn)
        if (finding := clock(reply)) is not None:
            yield finding
        confirmed = int(reply["Attributes"].get("SubscriptionsConfirmed", 0))
        if setup.queue is not None:
            async for finding in _check_subscription(sns, setup):
                yield finding
        elif not confirmed:
            yield _no_subscription("the topic has no confirmed subscription", setup)


async def with_aws_errors(checks: AsyncIterator[Finding], subject: str) -> AsyncIterator[Finding]:
    """The findings of `checks`. If AWS refuses a call or cannot be reached, the last finding says so."""
    try:
        async for finding in checks:
            yield finding
    except AwsRefused as error:
        yield _refusal(subject, error)
    except AwsUnreachable as error:
        yield unknown(
            subject,
            f"AWS could not be asked: {error}",
            why="a service that is started with the same credentials on this network cannot reach AWS either",
            fix="give credentials (AWS_PROFILE, a role, AWS_ACCESS_KEY_ID); check region, endpoint and network",
        )


def _refusal(subject: str, error: AwsRefused) -> Finding:
    text = str(error)
    skew = _skew(error.date)
    if error.is_unknown_caller and skew is not None and abs(skew) > REFUSED_SKEW_SECONDS:
        return _skewed(skew)
    if error.is_unknown_caller:
        return fault(
            subject,
            f"AWS does not accept the credentials: {text}",
            why="nothing can be published or received with them",
            fix="renew them; `aws sts get-caller-identity` shows whose they are",
        )
    if error.is_denied:
        return unknown(
            subject,
            f"these credentials have no permission to look: {text}",
            fix="run the doctor with the policy DoctorPolicy of deploy/aws/tracker.yaml; the services need less",
        )
    if error.is_missing:
        return fault(
            subject,
            f"AWS does not know it: {text}",
            why="SNS refuses every message, and visits wait in the outbox until it is full",
            fix="correct sns.topic_arn (region and account are in it), or create it: tracker provision",
        )
    return fault(
        subject,
        f"AWS refuses the call: {text}",
        why="the checks after this one could not be made",
        fix="fix what the answer names",
    )


async def _check_subscription(sns: Any, setup: Setup) -> AsyncIterator[Finding]:
    assert setup.queue is not None
    found = await subscription(sns, setup.topic_arn, setup.queue["QueueArn"])
    if found is None:
        yield _no_subscription("the queue is not subscribed to the topic", setup)
        return
    arn, attributes = found
    if not attributes or attributes.get("PendingConfirmation") == "true":
        yield _no_subscription(f"the queue's subscription is not confirmed: {arn}", setup)
        return
    yield ok("subscription", arn)
    if attributes.get("RawMessageDelivery") != "true":
        yield warning(
            "subscription",
            "raw message delivery is off",
            why="each message is wrapped and signed: larger, more expensive and slower to read (storage accepts it)",
            fix=setup.provision,
        )
    yield _filter(attributes, setup)
    if not attributes.get("RedrivePolicy"):
        yield warning(
            "subscription",
            "it has no dead-letter queue",
            why="messages that SNS cannot deliver, after a changed policy or a deleted queue, are lost",
            fix=setup.provision,
        )


def _filter(attributes: dict[str, str], setup: Setup) -> Finding:
    text = attributes.get("FilterPolicy")
    policy = json.loads(text) if text else None
    if not policy:
        return warning(
            "subscription",
            "it has no filter",
            why="messages of other publishers reach storage too, which leaves them to the dead-letter queue",
            fix=setup.provision,
        )
    if "Visit" not in policy.get("Type", ()) or attributes.get("FilterPolicyScope") == "MessageBody":
        return fault(
            "subscription",
            f"its filter drops visits: {text}",
            why="SNS accepts visits and delivers them to nobody: they are lost",
            fix=setup.provision,
        )
    if policy != FILTER_POLICY:
        return warning(
            "subscription",
            f"its filter is {text}",
            why=f"storage reads {json.dumps(FILTER_POLICY)}; other messages are left to the dead-letter queue",
            fix=setup.provision,
        )
    return ok("subscription", "raw delivery, filter and queue agree" if _is_raw(attributes) else "the filter is right")


def _is_raw(attributes: dict[str, str]) -> bool:
    return attributes.get("RawMessageDelivery") == "true"


def _no_subscription(what: str, setup: Setup) -> Finding:
    return fault(
        "subscription",
        what,
        why="SNS accepts every message and delivers it to nobody: visits are lost",
        fix=setup.provision,
    )


def clock(reply: dict[str, Any]) -> Finding | None:
    skew = _skew(reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date"))
    if skew is None:
        return None
    return ok("clock", "agrees with AWS's") if abs(skew) < SKEW_SECONDS else _skewed(skew)


def _skewed(skew: float) -> Finding:
    return (fault if abs(skew) > REFUSED_SKEW_SECONDS else warning)(
        "clock",
        f"this machine's clock is {abs(skew):.0f} seconds {'ahead of' if skew > 0 else 'behind'} AWS's",
        why="visits are logged with the pixel's time, and AWS refuses signatures whose time is five minutes off",
        fix="switch time synchronisation on: timedatectl set-ntp true",
    )


def _skew(date: str | None) -> float | None:
    try:
        return (datetime.now(UTC) - parsedate_to_datetime(date or "")).total_seconds()
    except (TypeError, ValueError):
        return None
