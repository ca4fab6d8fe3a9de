"""Which settings of a queue and of a subscription `tracker provision` sets, given those that they have.

1. What is missing, or is as AWS makes it by default, gets our value.
2. What somebody has set stays, unless it loses visits, delays them or exposes them.
3. Statements of others in a policy stay, also a Deny that keeps SNS out: removing one is a decision of its owner.

Pure functions: nothing is asked and nothing is changed here.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tracker.core.message import MAX_SENT_BYTES
from tracker.operations.access_policy import Decision, decide, sns_request, statements_of
from tracker.operations.filter_policy import ATTRIBUTES_SCOPE
from tracker.operations.lookups import Subscription
from tracker.operations.sent_messages import keeps_visits
from tracker.operations.shards import filter_policy, is_shard
from tracker.storage.dead_letters import FEWEST_RECEIVES

RETENTION_SECONDS = 14 * 24 * 3600  # the longest SQS keeps a message
DEFAULT_RETENTION_SECONDS = 4 * 24 * 3600  # of a queue that nobody has changed
# SQS also counts the receives after which storage was killed or its disk was full. With three, a common choice, good
# visits would be moved to the dead-letter queue after three crashes.
MAX_RECEIVE_COUNT = 100
MESSAGE_BYTES = 262_144  # the largest message of SNS; every SQS accepts this value
FILTER_POLICY = filter_policy(0, 1)
STATEMENT = "TopicMaySend"  # the first part of the Sid of our statements in the policy of a queue
AWS_KEY = "alias/aws/sqs"  # only principals of the account can use it, and SNS is none

# These settings are JSON documents. SNS and SQS may return them formatted in another way than they were set.
_DOCUMENTS = {"FilterPolicy", "RedrivePolicy"}


def queue_settings(have: Mapping[str, str], *, dead: str | None, least_retention: int = 0) -> dict[str, str]:
    """What to set for a queue that has the settings `have`, but for its policy.

    `dead` is the ARN of its dead-letter queue; None for a dead-letter queue, which keeps messages for at least
    `least_retention` seconds, as the queue does.
    """
    wanted: dict[str, str] = {}
    retention = number(have, "MessageRetentionPeriod") or 0
    if retention <= DEFAULT_RETENTION_SECONDS or retention < least_retention:
        wanted["MessageRetentionPeriod"] = str(RETENTION_SECONDS)
    if is_aws_key(have.get("KmsMasterKeyId")):
        wanted["KmsMasterKeyId"] = ""  # SQS accepts one of the two only
        wanted["SqsManagedSseEnabled"] = "true"
    elif not have.get("KmsMasterKeyId"):
        wanted["SqsManagedSseEnabled"] = "true"
    if (number(have, "MaximumMessageSize") or MESSAGE_BYTES) < MAX_SENT_BYTES:
        wanted["MaximumMessageSize"] = str(MESSAGE_BYTES)
    if dead is not None:
        if number(have, "DelaySeconds"):
            wanted["DelaySeconds"] = "0"
        receives = max_receive_count(have.get("RedrivePolicy"))
        if dead_letter_target(have.get("RedrivePolicy")) != dead or receives is None or receives < FEWEST_RECEIVES:
            count = receives if receives is not None and receives >= FEWEST_RECEIVES else MAX_RECEIVE_COUNT
            wanted["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": count})
    return {key: value for key, value in wanted.items() if not is_same(key, have.get(key), value)}


def subscription_settings(
    have: Mapping[str, str],
    others: Sequence[Subscription],
    *,
    dead: str | None,
    exact_filter: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """What to set for a subscription, in the order in which to set it.

    `others` are those of the other queues of the topic: together they may share the visits. `dead` is the ARN of a
    dead-letter queue for what SNS cannot deliver; None leaves the setting as it is. Without an `exact_filter`, a filter
    that loses no visit stays, and so does that of a shard: what it leaves out belongs to other queues.
    """
    wanted = {"RawMessageDelivery": "true"}
    ours = Subscription("arn:", "", have)
    stays = is_shard(ours, others) or (bool(_document(have.get("FilterPolicy"))) and keeps_visits(ours, others))
    if exact_filter is not None or not stays:
        # First the filter: the one that is there may be nested, which SNS accepts for bodies alone.
        wanted["FilterPolicy"] = json.dumps(exact_filter or FILTER_POLICY)
        wanted["FilterPolicyScope"] = ATTRIBUTES_SCOPE
    if dead is not None:
        wanted["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": dead})
    usual = {"FilterPolicyScope": ATTRIBUTES_SCOPE}  # what SNS means when it returns nothing
    return {key: value for key, value in wanted.items() if not is_same(key, have.get(key) or usual.get(key), value)}


def may_topic_send(policy: str | None, queue_arn: str, topic_arn: str) -> Decision:
    """Whether the policy of a queue lets SNS send to it on behalf of the topic."""
    return decide(policy, sns_request("sqs:SendMessage", queue_arn, topic_arn))


def statement_id(topic_arn: str) -> str:
    """The Sid of our statement for this topic: each topic of a queue has its own."""
    return f"{STATEMENT}{hashlib.sha256(topic_arn.encode()).hexdigest()[:12]}"


def with_our_statement(policy: str | None, queue_arn: str, topic_arn: str, *, https: bool = False) -> str:
    """The queue's policy, with the statement that SNS may send to the queue on behalf of this topic only.

    `https`: the queue is called by HTTPS. Then a queue without a policy also refuses plain HTTP. Raises ValueError if
    the policy cannot be read.
    """
    ours = {
        "Sid": statement_id(topic_arn),
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
    }
    others = [statement for statement in statements_of(policy) if statement.get("Sid") != ours["Sid"]]
    if https and not policy:
        others.append(no_plain_http("sqs:*", queue_arn))
    document: dict[str, Any] = json.loads(policy) if policy else {"Version": "2012-10-17"}
    return json.dumps({**document, "Statement": [*others, ours]})


def no_plain_http(action: str, arn: str) -> dict[str, Any]:
    """The statement that refuses calls without encryption, as in the stack (deploy/aws/tracker.yaml)."""
    return {
        "Sid": "NoPlainHttp",
        "Effect": "Deny",
        "Principal": "*",
        "Action": action,
        "Resource": arn,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def topic_policy(arn: str) -> dict[str, str]:
    """The setting of a new topic: its policy. Who may publish is said by the policies of the account's roles."""
    policy = {"Version": "2012-10-17", "Statement": [no_plain_http("sns:Publish", arn)]}
    return {"AttributeName": "Policy", "AttributeValue": json.dumps(policy)}


def is_aws_key(key: str | None) -> bool:
    return bool(key) and str(key).endswith(AWS_KEY)


def number(settings: Mapping[str, str], name: str) -> int | None:
    """A setting that is a number; None where the endpoint does not tell it."""
    text = settings.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def dead_letter_target(redrive: str | None) -> str | None:
    """The ARN of the dead-letter queue that a RedrivePolicy names."""
    document = _document(redrive)
    return str(document["deadLetterTargetArn"]) if document.get("deadLetterTargetArn") else None


def max_receive_count(redrive: str | None) -> int | None:
    count = str(_document(redrive).get("maxReceiveCount"))
    return int(count) if count.isdigit() else None


def is_same(setting: str, have: str | None, wanted: str) -> bool:
    if setting in _DOCUMENTS:
        return bool(_document(have) == _document(wanted))
    return (have or "").lower() == wanted.lower()


def _document(text: str | None) -> dict[str, Any]:
    """The parsed document, its numbers as text: SQS returns 100 or "100", in the form in which it was set."""
    try:
        document = json.loads(text or "{}", parse_int=str)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
