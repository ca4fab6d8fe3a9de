"""Checks of the queue at AWS: whether SNS may deliver everything to it, at once, and how long messages stay."""

import json
from collections.abc import AsyncIterator, Iterator

from tracker.aws import open_client
from tracker.config import SqsConfig
from tracker.operations.dead_letter_checks import check_dead_letters
from tracker.operations.findings import Finding, fault, ok, unknown, warning
from tracker.operations.key_checks import check_queue_encryption
from tracker.operations.lookups import find_queue
from tracker.operations.remedies import Setup
from tracker.operations.sent_messages import largest
from tracker.operations.verdicts import Unknown
from tracker.operations.wanted_settings import may_topic_send, number

DAY = 86_400
IN_FLIGHT_LIMIT = 120_000
UNDELIVERED = "SNS cannot deliver: messages end in the subscription's dead-letter queue, or are lost without one"


async def check_queue(config: SqsConfig, setup: Setup) -> AsyncIterator[Finding]:
    async with open_client("sqs", config.client_region, config.client_endpoint) as sqs:
        found = await find_queue(sqs, config.queue)
        if found is None:
            yield fault(
                "queue",
                f"there is no queue {config.queue} in {sqs.meta.region_name}",
                why="storage has nothing to read, and visits that SNS accepts are lost",
                fix=f"correct sqs.queue and sqs.region, or create it: {setup.provision}",
            )
            return
        attributes = found[1]
        setup.queue = attributes
        yield ok("queue", attributes["QueueArn"])
        yield _retention(attributes, setup)
        for finding in _policy(attributes, setup):
            yield finding
        yield await check_queue_encryption(attributes, setup, config.client_endpoint)
        for finding in (*_limits(attributes, setup), _in_flight(attributes)):
            yield finding
        async for finding in check_dead_letters(sqs, attributes, setup):
            yield finding


def _retention(attributes: dict[str, str], setup: Setup) -> Finding:
    seconds = number(attributes, "MessageRetentionPeriod")
    if seconds is None:
        return _not_told("how long it keeps messages")
    if seconds < 4 * DAY:
        return (fault if seconds < DAY else warning)(
            "queue",
            f"it keeps messages for {seconds} seconds",
            why="if storage is down for longer, the visits that waited longest are lost",
            fix=f"keep them for 14 days (1209600): {setup.provision}",
        )
    return ok("queue", f"keeps messages for {seconds // DAY} days")


def _policy(attributes: dict[str, str], setup: Setup) -> Iterator[Finding]:
    policy, queue_arn = attributes.get("Policy"), attributes["QueueArn"]
    if setup.topic_arn:
        yield _topic_may_send(policy, queue_arn, setup)
    elif not policy:
        yield fault("queue", "its policy does not let SNS send to it", why=UNDELIVERED, fix=setup.repair)
    partition, _, region = queue_arn.split(":")[1:4]
    stranger = may_topic_send(policy, queue_arn, f"arn:{partition}:sns:{region}:999999999999:of-somebody-else")
    if stranger.allowed is True:
        condition = {"ArnEquals": {"aws:SourceArn": setup.topic_arn or "(the topic's ARN)"}}
        yield warning(
            "queue",
            f"{stranger.allowed_by} of its policy lets SNS send on behalf of any topic of any account",
            why="everybody who knows the queue can send messages to it through SNS",
            fix=f"give {stranger.allowed_by} this Condition: {json.dumps(condition)}",
        )


def _topic_may_send(policy: str | None, queue_arn: str, setup: Setup) -> Finding:
    decision = may_topic_send(policy, queue_arn, setup.topic_arn)
    if decision.allowed is True:
        return ok("queue", "its policy lets the topic send")
    if isinstance(decision.allowed, Unknown):
        return unknown(
            "queue",
            f"cannot tell whether its policy lets the topic send: {decision.allowed.reason}",
            why=UNDELIVERED,
            fix=f"look at that statement; if it is an Allow, this adds one that is certain: {setup.provision}",
        )
    if decision.denied_by:
        return fault(
            "queue",
            f"{decision.denied_by} of its policy denies that SNS sends on behalf of {setup.topic_arn}",
            why=UNDELIVERED,
            fix=f"{setup.keep_outbox}narrow or remove {decision.denied_by}; then: {setup.provision}",
        )
    return fault(
        "queue",
        f"its policy does not let SNS send to it on behalf of {setup.topic_arn}",
        why=UNDELIVERED,
        fix=setup.repair,
    )


def _limits(attributes: dict[str, str], setup: Setup) -> Iterator[Finding]:
    size, needed = number(attributes, "MaximumMessageSize"), largest(setup.format)
    if size is None:
        yield _not_told("how long a message it accepts")
    elif size < needed:
        yield fault(
            "queue",
            f"it accepts messages of {size} bytes at most (MaximumMessageSize)",
            why=f"the pixel sends up to {needed}: SNS cannot deliver the larger messages, and nobody can redrive them",
            fix=setup.repair,
        )
    else:
        yield ok("queue", f"accepts messages of {size} bytes")
    if delay := number(attributes, "DelaySeconds"):
        yield warning(
            "queue",
            f"it hides each new message for {delay} seconds (DelaySeconds)",
            why="each visit is in the log that much later",
            fix=setup.provision,
        )


def _in_flight(attributes: dict[str, str]) -> Finding:
    waiting = number(attributes, "ApproximateNumberOfMessages") or 0
    in_flight = number(attributes, "ApproximateNumberOfMessagesNotVisible") or 0
    if in_flight > IN_FLIGHT_LIMIT * 0.8:
        return warning(
            "queue",
            f"{in_flight} messages are in flight",
            why=f"when {IN_FLIGHT_LIMIT} are in flight, SQS delivers no more, and reports no error",
            fix="look for other consumers of this queue, and for one that receives and never deletes",
        )
    return ok("queue", f"about {waiting} messages wait, {in_flight} are in flight")


def _not_told(what: str) -> Finding:
    return unknown("queue", f"cannot tell {what}: the endpoint does not say", fix="ask whoever runs this broker")
