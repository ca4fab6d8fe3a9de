"""Checks of the subscriptions of the topic: whether each visit reaches a queue, and whether it reaches ours."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from tracker.errors import AwsRefused
from tracker.operations.findings import Finding, fault, ok, unknown, warning
from tracker.operations.lookups import Subscription, find_queue, subscriptions
from tracker.operations.queue_checks import UNDELIVERED
from tracker.operations.remedies import Setup
from tracker.operations.sent_messages import LEGACY, end_markers, largest, reach, visits
from tracker.operations.shards import expects, is_shard, shards_of
from tracker.operations.wanted_settings import AWS_KEY, dead_letter_target, is_aws_key, may_topic_send, number

LOST = "SNS accepts visits and delivers them to nobody: they are lost"


async def check_subscriptions(sns: Any, sqs: Any, setup: Setup) -> list[Finding]:
    """`sqs` is a client of the topic's Region: SNS takes no dead-letter queue of another one."""
    assert setup.queue is not None
    found = setup.subscriptions = await subscriptions(sns, setup.topic_arn)
    ours = [each for each in found if each.queue_arn == setup.queue["QueueArn"]]
    others = [each for each in found if each.queue_arn != setup.queue["QueueArn"]]
    findings = [_other(each) for each in others] + await _missing_queues(sqs, others, found, setup)
    if not ours:
        return [*findings, no_subscription("the queue is not subscribed to the topic", setup)]
    if not ours[0].is_confirmed:
        return [*findings, _not_confirmed(ours[0], setup)]
    if not ours[0].settings:
        return [*findings, _unreadable(ours[0])]
    setup.expects = partial(expects, ours[0].queue_arn, found)
    findings += [ok("subscription", ours[0].arn), *_delivery(ours[0].settings, setup)]
    findings += _filter(ours[0], others, setup)
    return [*findings, await _undelivered(sqs, ours[0].settings, setup)]


async def _missing_queues(
    sqs: Any, others: Sequence[Subscription], found: Sequence[Subscription], setup: Setup
) -> list[Finding]:
    """Shards whose queues do not exist any more, as far as these credentials can tell. Subscriptions outlive queues."""
    findings = []
    for each in shards_of(found):
        # Of a queue of another account SQS says that it does not exist, too, if these credentials may not see it.
        if each not in others or each.queue_arn.split(":")[3:5] != setup.topic_arn.split(":")[3:5]:
            continue
        try:
            if await find_queue(sqs, each.queue_arn) is not None:
                continue
        except AwsRefused:
            continue
        findings.append(
            fault(
                "shards",
                f"the queue {each.queue_arn} does not exist, but the topic divides the journals with it",
                why=UNDELIVERED,
                fix="create it with the tracker provision that made the shards, then redrive its dead-letter queue",
            )
        )
    return findings


def no_subscription(what: str, setup: Setup) -> Finding:
    return fault("subscription", what, why=LOST, fix=setup.repair)


def _other(subscription: Subscription) -> Finding:
    queue = subscription.queue_arn
    if not subscription.is_confirmed:
        return ok("subscription", f"another queue of this topic, not confirmed: {queue}")
    return ok(
        "subscription",
        f"another queue of this topic: {queue}, filter {subscription.settings.get('FilterPolicy') or 'none'}",
    )


def _unreadable(subscription: Subscription) -> Finding:
    return unknown(
        "subscription",
        f"cannot tell the settings of {subscription.arn}",
        why="its filter may drop visits",
        fix="run the doctor with credentials that have sns:GetSubscriptionAttributes",
    )


def _not_confirmed(subscription: Subscription, setup: Setup) -> Finding:
    account = subscription.queue_arn.split(":")[4]
    return fault(
        "subscription",
        f"the queue's subscription is not confirmed: {subscription.arn}",
        why="until then SNS delivers nothing. It has sent a SubscriptionConfirmation to the queue; storage leaves it "
        "to the dead-letter queue (message_malformed in its log)",
        fix=f"{setup.keep_outbox}subscribe with credentials of the queue's account {account}, then no confirmation is "
        f"needed: {setup.provision}",
    )


def _delivery(settings: Mapping[str, str], setup: Setup) -> Iterator[Finding]:
    if settings.get("RawMessageDelivery") == "true":
        return
    limit = number(setup.queue or {}, "MaximumMessageSize")
    needed = largest(setup.format, raw=False)
    if limit is not None and limit < needed:
        yield fault(
            "subscription",
            f"raw message delivery is off, and the queue takes messages of {limit} bytes at most",
            why=f"in an envelope the pixel's messages have up to {needed}: SNS cannot deliver the larger ones",
            fix=setup.repair,
        )
        return
    yield warning(
        "subscription",
        "raw message delivery is off",
        why="each message is wrapped and signed: larger, more expensive and slower to read (storage accepts it)",
        fix=setup.provision,
    )


def _filter(ours: Subscription, others: Sequence[Subscription], setup: Setup) -> Iterator[Finding]:
    text = ours.settings.get("FilterPolicy")
    scope = ours.settings.get("FilterPolicyScope") or "MessageAttributes"
    if text in (None, "", "{}"):
        yield warning(
            "subscription",
            "it has no filter",
            why="messages of other publishers reach storage too, which leaves them to the dead-letter queue",
            fix=setup.provision,
        )
        return
    if is_shard(ours, others):  # `check_coverage` compares it with the filters of the other queues
        yield ok("subscription", f"its filter lets a part of the journals through: {text}")
        return
    found = reach(ours, others, visits(setup.format))
    if found.lost or not (found.passed or found.unknown):
        extent = "a part of the visits" if found.passed else "visits"
        lost = LOST if found.lost else "this queue and its log get none; another queue of the topic does"
        remedy = setup.repair if found.lost else setup.provision
        yield fault("subscription", f"its filter drops {extent} ({scope}): {text}", why=lost, fix=remedy)
        return
    if found.unknown:
        yield unknown(
            "subscription",
            f"cannot tell whether its filter lets every visit through: {found.unknown[0].reason}",
            why="a filter that drops visits loses them",
            fix="send a canary (without --no-canary), or use operators that the doctor knows: docs/operations.md",
        )
        return
    markers = reach(ours, others, end_markers(setup.format))
    if markers.lost:
        yield warning(
            "subscription",
            f"its filter drops the messages that say where a journal ended ({scope}): {text}",
            why="tracker audit cannot see that the last visits of a journal are missing",
            fix=setup.provision,
        )
        return
    what = "its filter lets every visit through"
    if found.dropped:
        what = f"its filter shares the visits with other queues: {text}"
    elif reach(ours, others, [LEGACY]).lost:
        what += ", but none of a legacy .NET pixel"
    yield ok("subscription", what)


async def _undelivered(sqs: Any, settings: Mapping[str, str], setup: Setup) -> Finding:
    """Where SNS puts what it cannot deliver."""
    target = dead_letter_target(settings.get("RedrivePolicy"))
    assert setup.queue is not None
    if target is None:
        near = setup.topic_arn.split(":")[3] == setup.queue["QueueArn"].split(":")[3]
        return warning(
            "subscription",
            "it has no dead-letter queue",
            why="messages that SNS cannot deliver, after a changed policy or a deleted queue, are lost",
            fix=setup.provision
            if near
            else "create a queue in the topic's Region, and name it in the subscription's RedrivePolicy",
        )
    found = await find_queue(sqs, target)
    why = "messages that SNS cannot deliver are lost"
    if found is None:
        return fault("subscription", f"its dead-letter queue {target} does not exist", why=why, fix=setup.provision)
    if is_aws_key(found[1].get("KmsMasterKeyId")):
        what = f"its dead-letter queue {target} is encrypted with the key {AWS_KEY}, which SNS may not use"
        return fault("subscription", what, why=why, fix=setup.provision)
    decision = may_topic_send(found[1].get("Policy"), target, setup.topic_arn)
    if decision.allowed is True:
        return ok("subscription", f"its dead-letter queue is {target}")
    if decision.allowed is False and not decision.denied_by:
        what = f"SNS may not send to its dead-letter queue {target}"
        return fault("subscription", what, why=why, fix=setup.provision)
    return unknown(
        "subscription",
        f"cannot tell whether SNS may send to its dead-letter queue {target}: "
        f"{decision.denied_by or getattr(decision.allowed, 'reason', '')}",
        why=why,
        fix="look at that queue's policy",
    )
