"""Checks of the topic at AWS, with the credentials of whoever runs the doctor, and how errors of AWS are reported."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from tracker.aws import ask, open_client
from tracker.config import SnsConfig
from tracker.errors import AwsRefused, AwsUnreachable
from tracker.operations.access_policy import Request, decide
from tracker.operations.findings import Finding, fault, ok, unknown, warning
from tracker.operations.key_checks import check_topic_encryption
from tracker.operations.remedies import Setup
from tracker.operations.shard_checks import check_coverage
from tracker.operations.subscription_checks import check_subscriptions, no_subscription

SKEW_SECONDS = 5.0
REFUSED_SKEW_SECONDS = 240.0  # AWS refuses a signature whose time is five minutes off
REFUSED_BY_SNS = "SNS refuses every message, and visits wait in the outbox until it is full"


async def check_topic(config: SnsConfig, setup: Setup) -> AsyncIterator[Finding]:
    region = config.region or config.topic_arn.split(":")[3]
    async with open_client("sns", region, config.endpoint_url) as sns:
        reply = await ask(sns.get_topic_attributes(TopicArn=config.topic_arn), "Attributes")
        attributes = reply["Attributes"]
        yield ok("topic", config.topic_arn)
        encryption = await check_topic_encryption(attributes, region, config.endpoint_url)
        for finding in (
            clock(reply),
            _publish_denied(attributes, config.topic_arn),
            encryption,
            _throttle(attributes),
        ):
            if finding is not None:
                yield finding
        if setup.queue is not None and setup.sqs is not None:
            async with open_client("sqs", region, setup.sqs.client_endpoint) as sqs:
                for finding in await check_subscriptions(sns, sqs, setup):
                    yield finding
            for finding in check_coverage(setup.subscriptions, setup.provision, first=setup.keep_outbox):
                yield finding
        elif not int(attributes.get("SubscriptionsConfirmed", 0)):
            yield no_subscription("the topic has no confirmed subscription", setup)


def _publish_denied(attributes: dict[str, str], topic_arn: str) -> Finding | None:
    """Who the pixel is, is not known here; but a Deny may concern everybody."""
    request = Request(action="sns:Publish", resource=topic_arn, service=None, context={"aws:securetransport": "true"})
    denied_by = decide(attributes.get("Policy"), request).denied_by
    if not denied_by:
        return None
    return fault(
        "topic",
        f"{denied_by} of its policy denies sns:Publish to everybody",
        why=REFUSED_BY_SNS,
        fix=f"narrow or remove {denied_by} of the topic's policy",
    )


def _throttle(attributes: dict[str, str]) -> Finding | None:
    """It applies to HTTP endpoints only: SNS Developer Guide, "Amazon SNS message delivery retries"."""
    if "maxReceivesPerSecond" not in attributes.get("DeliveryPolicy", ""):
        return None
    return ok("topic", "its delivery policy has a throttle, which applies to HTTP endpoints and not to queues")


async def with_aws_errors(
    checks: AsyncIterator[Finding], subject: str, setup: Setup | None = None
) -> AsyncIterator[Finding]:
    """The findings of `checks`. If AWS refuses a call or cannot be reached, the last finding says so."""
    try:
        async for finding in checks:
            yield finding
    except AwsRefused as error:
        yield _refusal(subject, error, setup or Setup())
    except AwsUnreachable as error:
        yield unknown(
            subject,
            f"AWS could not be asked: {error}",
            why="a service that is started with the same credentials on this network cannot reach AWS either",
            fix="give credentials (AWS_PROFILE, a role, AWS_ACCESS_KEY_ID); check region, endpoint and network",
        )


def _refusal(subject: str, error: AwsRefused, setup: Setup) -> Finding:
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
    if error.is_unsupported:
        return unknown(
            subject,
            f"the endpoint does not have this call: {text}",
            why="the checks after this one could not be made",
            fix="check endpoint_url; if it is another broker than AWS, look there for what the doctor cannot see",
        )
    if error.is_missing:
        return fault(
            subject,
            f"AWS does not know it: {text}",
            why=REFUSED_BY_SNS,
            fix=f"correct sns.topic_arn (region and account are in it), or create it: {setup.provision}",
        )
    return fault(
        subject,
        f"AWS refuses the call: {text}",
        why="the checks after this one could not be made",
        fix="fix what the answer names",
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
