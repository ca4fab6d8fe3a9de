"""Checks of the queue and its dead-letter queue at AWS: whether SNS may deliver, and how long messages stay."""

import json
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from typing import Any

from tracker.aws import open_client
from tracker.config import SqsConfig
from tracker.operations.findings import Finding, fault, ok, warning
from tracker.operations.lookups import queue_attributes, queue_url
from tracker.operations.provision import MAX_RECEIVE_COUNT
from tracker.operations.topic_checks import Setup
from tracker.storage.dead_letters import FEWEST_RECEIVES

DAY = 86_400
IN_FLIGHT_LIMIT = 120_000


async def check_queue(config: SqsConfig, setup: Setup) -> AsyncIterator[Finding]:
    async with open_client("sqs", config.client_region, config.client_endpoint) as sqs:
        url = await queue_url(sqs, config.queue)
        if url is None:
            yield fault(
                "queue",
                f"there is no queue {config.queue} in {sqs.meta.region_name}",
                why="storage has nothing to read, and visits that SNS accepts are lost",
                fix=f"correct sqs.queue and sqs.region, or create it: {setup.provision}",
            )
            return
        setup.queue = attributes = await queue_attributes(sqs, url)
        yield ok("queue", attributes["QueueArn"])
        for finding in (
            _retention(attributes, setup),
            _policy(attributes, setup),
            _encryption(attributes, setup),
            _in_flight(attributes),
        ):
            yield finding
        async for finding in _check_dead_letters(sqs, attributes, setup):
            yield finding


def _retention(attributes: dict[str, str], setup: Setup) -> Finding:
    seconds = int(attributes.get("MessageRetentionPeriod", 0))
    if seconds < 4 * DAY:
        return (fault if seconds < DAY else warning)(
            "queue",
            f"it keeps messages for {seconds} seconds",
            why="if storage is down for longer, the visits that waited longest are lost",
            fix=f"keep them for 14 days (1209600): {setup.provision}",
        )
    return ok("queue", f"keeps messages for {seconds // DAY} days")


def _policy(attributes: dict[str, str], setup: Setup) -> Finding:
    statements = json.loads(attributes.get("Policy") or "{}").get("Statement", [])
    statements = [statements] if isinstance(statements, dict) else statements
    ours = [each for each in statements if _lets_sns_send(each)]
    if not ours:
        return fault(
            "queue",
            "its policy does not let SNS send to it",
            why="SNS cannot deliver: messages end in the subscription's dead-letter queue, or are lost without one",
            fix=setup.provision,
        )
    sources = [source for statement in ours for source in _sources(statement)]
    if None in sources:
        return warning(
            "queue",
            "its policy lets SNS send on behalf of any topic of any account",
            why="everybody who knows the queue can send messages to it through SNS",
            fix=setup.provision,
        )
    if setup.topic_arn and not any(fnmatchcase(setup.topic_arn, source or "") for source in sources):
        return fault(
            "queue",
            f"its policy lets SNS send, but not on behalf of {setup.topic_arn}",
            why="SNS cannot deliver: messages end in the subscription's dead-letter queue, or are lost without one",
            fix=setup.provision,
        )
    return ok("queue", "its policy lets the topic send")


def _lets_sns_send(statement: dict[str, Any]) -> bool:
    principal, action = statement.get("Principal"), statement.get("Action")
    services = principal.get("Service") if isinstance(principal, dict) else principal
    actions = [action] if isinstance(action, str) else action or []
    return (
        statement.get("Effect") == "Allow"
        and ("sns.amazonaws.com" in (services or "") or services == "*")
        and any(each.lower() in ("sqs:sendmessage", "sqs:*", "*") for each in actions)
    )


def _sources(statement: dict[str, Any]) -> list[str | None]:
    """The ARNs (patterns) on whose behalf a statement lets SNS send; None when it has no such condition."""
    conditions = statement.get("Condition", {}).values()
    named = {key.lower(): value for condition in conditions for key, value in condition.items()}
    if "aws:sourceaccount" in named and "aws:sourcearn" not in named:
        return ["*"]  # any topic of the accounts that the operator has named
    arns = named.get("aws:sourcearn")
    return list(arns) if isinstance(arns, list) else [arns]


def _encryption(attributes: dict[str, str], setup: Setup) -> Finding:
    key = attributes.get("KmsMasterKeyId", "")
    if key.endswith("alias/aws/sqs"):
        return fault(
            "queue",
            "it is encrypted with the key alias/aws/sqs",
            why="SNS may not use that key, so nothing is delivered",
            fix="set SqsManagedSseEnabled=true, or a key of your own whose policy lets sns.amazonaws.com use it",
        )
    if key or attributes.get("SqsManagedSseEnabled", "").lower() == "true":
        return ok("queue", f"encrypted at rest{f' with {key}' if key else ''}")
    return warning(
        "queue",
        "it is not encrypted at rest",
        why="it holds visitors' addresses while storage is down",
        fix=setup.provision,
    )


def _in_flight(attributes: dict[str, str]) -> Finding:
    waiting = int(attributes.get("ApproximateNumberOfMessages", 0))
    in_flight = int(attributes.get("ApproximateNumberOfMessagesNotVisible", 0))
    if in_flight > IN_FLIGHT_LIMIT * 0.8:
        return warning(
            "queue",
            f"{in_flight} messages are in flight",
            why=f"when {IN_FLIGHT_LIMIT} are in flight, SQS delivers no more, and reports no error",
            fix="look for other consumers of this queue, and for one that receives and never deletes",
        )
    return ok("queue", f"about {waiting} messages wait, {in_flight} are in flight")


async def _check_dead_letters(sqs: Any, attributes: dict[str, str], setup: Setup) -> AsyncIterator[Finding]:
    redrive = json.loads(attributes.get("RedrivePolicy") or "{}")
    if "deadLetterTargetArn" not in redrive:
        yield warning(
            "dead letters",
            "the queue has no dead-letter queue",
            why="a message that cannot be read is delivered again and again, and is lost when the retention ends",
            fix=setup.provision,
        )
        return
    yield _receive_count(int(redrive.get("maxReceiveCount", 0)), setup)
    name = str(redrive["deadLetterTargetArn"]).rpartition(":")[2]
    url = await queue_url(sqs, name)
    if url is None:
        yield fault(
            "dead letters",
            f"the dead-letter queue {name} does not exist",
            why="SQS cannot move messages that storage cannot read",
            fix=setup.provision,
        )
        return
    dead = await queue_attributes(sqs, url)
    waiting = int(dead.get("ApproximateNumberOfMessages", 0))
    if waiting:
        yield warning(
            "dead letters",
            f"about {waiting} messages are in {name}",
            why="they may be visits that are not in the log; they are lost when the retention ends",
            fix=f"look for message_malformed in storage's log, fix the cause, then: "
            f"tracker redrive --queue {attributes['QueueArn'].rpartition(':')[2]} --dead-letter-queue {name}",
        )
    if int(dead.get("MessageRetentionPeriod", 0)) < int(attributes.get("MessageRetentionPeriod", 0)):
        yield warning(
            "dead letters",
            f"{name} keeps messages for a shorter time than the queue",
            why="a message keeps its age when it is moved, so it may be deleted at once",
            fix=setup.provision,
        )


def _receive_count(count: int, setup: Setup) -> Finding:
    if count < FEWEST_RECEIVES:
        return warning(
            "dead letters",
            f"the queue moves messages to the dead-letter queue after {count} receives",
            why="each crash or stop of storage counts as one receive, so good visits are moved too",
            fix=f"set maxReceiveCount to {MAX_RECEIVE_COUNT}: {setup.provision}",
        )
    return ok("dead letters", f"messages are moved to the dead-letter queue after {count} receives")
