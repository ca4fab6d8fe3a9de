"""`tracker provision`: creates or completes what is between the services, in this order.

1. The topic.
2. The dead-letter queue, and its policy, by which SNS may send to it on behalf of the topic.
3. The queue, its policy, and its redrive policy, which names the dead-letter queue.
4. The subscription of the queue to the topic, with raw delivery, the filter and the dead-letter queue.

With `--shards N` there are N queues, each with a dead-letter queue and a subscription: `tracker.operations.shards`.

It is idempotent: whatever existed before, complete or not, the state after a run is the same. No message in a queue is
touched. A queue is created without attributes, and they are set afterwards, because SQS refuses to create an existing
queue with other attributes, but changes them when they are set. Other statements of a queue's policy stay.
"""

import argparse
import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tracker import exit_status
from tracker.aws import ask, open_client
from tracker.errors import AwsRefused, UsageError
from tracker.operations.lookups import queue_attributes, queue_url, subscription, subscriptions
from tracker.operations.shards import COUNTS, filter_policy, queue_names, refuse_moves

TOPIC = "tracking"
QUEUE = "visits"
DEAD_LETTER_QUEUE = "visits-dlq"

RETENTION_SECONDS = 14 * 24 * 3600  # the longest SQS keeps a message
# SQS also counts the receives after which storage was killed or its disk was full. With three, a common choice, good
# visits would be moved to the dead-letter queue after three crashes.
MAX_RECEIVE_COUNT = 100
FILTER_POLICY = filter_policy(0, 1)
STATEMENT = "TopicMaySend"  # the Sid of our statement in the policy of a queue

NEW_QUEUE_TRIES = 5  # one second apart: AWS may need some seconds until it knows a queue that it has created

# These settings are JSON documents. SNS and SQS may return them formatted in another way than they were set.
_DOCUMENTS = {"FilterPolicy", "RedrivePolicy"}


@dataclass(frozen=True, kw_only=True)
class Names:
    topic: str = TOPIC
    queue: str = QUEUE
    dead_letter_queue: str = DEAD_LETTER_QUEUE
    filter: Mapping[str, Any] = field(default_factory=lambda: FILTER_POLICY)

    def shards(self, count: int) -> "list[Names]":
        """The names of `count` shards, each with a dead-letter queue of its own."""
        if count == 1:
            return [self]
        return [
            replace(self, queue=queue, dead_letter_queue=f"{queue}-dlq", filter=filter_policy(shard, count))
            for shard, queue in enumerate(queue_names(self.queue, count))
        ]


@dataclass(frozen=True)
class Change:
    """One setting of a topic, queue or subscription; `before` is None where there was none."""

    thing: str
    setting: str
    before: str | None
    after: str

    def __str__(self) -> str:
        if not self.setting:
            return f"{self.thing}: is created"
        return f"{self.thing}: {self.setting}: {'nothing' if self.before is None else self.before} -> {self.after}"


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    topic_arn: str
    queue_url: str
    queue_arn: str
    dead_letter_queue_url: str
    subscription_arn: str
    changes: list[Change] = field(compare=False)


async def provision(sns: Any, sqs: Any, names: Names | None = None) -> Provisioned:
    """Create or complete everything with the two open clients. Raises AwsRefused, AwsUnreachable."""
    work = _Provisioning(sns, sqs, names or Names(), dry_run=False)
    await work.run()
    return Provisioned(
        topic_arn=work.arns["topic"],
        queue_url=work.urls["queue"],
        queue_arn=work.arns["queue"],
        dead_letter_queue_url=work.urls["dead"],
        subscription_arn=work.arns["subscription"],
        changes=work.changes,
    )


async def differences(sns: Any, sqs: Any, names: Names | None = None) -> list[Change]:
    """What `provision` would change. Nothing is changed."""
    work = _Provisioning(sns, sqs, names or Names(), dry_run=True)
    await work.run()
    return work.changes


async def refuse_other_shards(sns: Any, names: Sequence[Names]) -> None:
    """Raise TrackerError if the topic exists and gives visits of the queues with these names to other queues."""
    if (topic := await find_topic(sns, names[0].topic)) is not None:
        refuse_moves(await subscriptions(sns, topic), [each.queue for each in names])


async def find_topic(sns: Any, name: str) -> str | None:
    """The ARN of the topic with this name; None if there is none."""
    token: dict[str, str] = {}
    while True:
        reply = await ask(sns.list_topics(**token))
        for topic in reply.get("Topics", ()):
            if topic.get("TopicArn", "").rpartition(":")[2] == name:
                return str(topic["TopicArn"])
        if not reply.get("NextToken"):
            return None
        token = {"NextToken": reply["NextToken"]}


class _Provisioning:
    """Compares topic, queues and subscription with what they should be; notes and applies each change.

    In a dry run nothing is applied, and `arns` and `urls` have no entry for what does not exist yet.
    """

    def __init__(self, sns: Any, sqs: Any, names: Names, *, dry_run: bool) -> None:
        self._sns = sns
        self._sqs = sqs
        self._names = names
        self._dry_run = dry_run
        self.arns: dict[str, str] = {}
        self.urls: dict[str, str] = {}
        self.changes: list[Change] = []

    async def run(self) -> None:
        await self._topic()
        await self._queue("dead", self._names.dead_letter_queue)
        await self._queue("queue", self._names.queue)
        await self._subscription()

    async def _topic(self) -> None:
        if (arn := await find_topic(self._sns, self._names.topic)) is None:
            self._note(f"topic {self._names.topic}", "", None, "")
            if self._dry_run:
                return
            arn = str((await ask(self._sns.create_topic(Name=self._names.topic), "TopicArn"))["TopicArn"])
        self.arns["topic"] = arn

    async def _queue(self, role: str, name: str) -> None:
        thing = f"queue {name}"
        have: dict[str, str] = {}
        if (url := await queue_url(self._sqs, name)) is None:
            self._note(thing, "", None, "")
            if not self._dry_run:
                url = str((await ask(self._sqs.create_queue(QueueName=name), "QueueUrl"))["QueueUrl"])
        if url is not None:
            have = await _until_queue_exists(lambda: queue_attributes(self._sqs, url))
            self.urls[role], self.arns[role] = url, have["QueueArn"]
        wanted = self._queue_attributes(role, have)
        changed = {key: value for key, value in wanted.items() if not _same(key, have.get(key), value)}
        for key, value in changed.items():
            words = f"SNS may send, on behalf of topic {self._names.topic} alone" if key == "Policy" else value
            self._note(thing, key, have.get(key), words)
        if changed and url is not None and not self._dry_run:
            await _until_queue_exists(lambda: ask(self._sqs.set_queue_attributes(QueueUrl=url, Attributes=changed)))

    def _queue_attributes(self, role: str, have: Mapping[str, str]) -> dict[str, str]:
        own, topic, dead = (self.arns.get(each, "(new)") for each in (role, "topic", "dead"))
        wanted = {
            "MessageRetentionPeriod": str(RETENTION_SECONDS),
            "Policy": with_our_statement(have.get("Policy"), own, topic),
        }
        if not have.get("KmsMasterKeyId"):  # otherwise a key of the operator encrypts already
            wanted["SqsManagedSseEnabled"] = "true"
        if role == "queue":
            wanted["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": MAX_RECEIVE_COUNT})
        return wanted

    async def _subscription(self) -> None:
        topic, queue, dead = (self.arns.get(role) for role in ("topic", "queue", "dead"))
        wanted = {
            "RawMessageDelivery": "true",
            "FilterPolicy": json.dumps(self._names.filter),
            # Messages that SNS itself cannot deliver (after a changed policy or a deleted queue) are kept too.
            "RedrivePolicy": json.dumps({"deadLetterTargetArn": dead or "(new)"}),
        }
        thing = f"subscription of queue {self._names.queue}"
        existing = await subscription(self._sns, topic, queue) if topic and queue else None
        if existing is None:
            self._note(thing, "", None, "")
            if not self._dry_run:
                # The same call sets the attributes, so that no message is delivered before the filter is set.
                call = self._sns.subscribe(
                    TopicArn=topic, Protocol="sqs", Endpoint=queue, Attributes=wanted, ReturnSubscriptionArn=True
                )
                self.arns["subscription"] = str((await ask(call, "SubscriptionArn"))["SubscriptionArn"])
            return
        self.arns["subscription"], have = existing
        if self._names.filter == FILTER_POLICY and "Journal" in json.loads(have.get("FilterPolicy") or "{}"):
            del wanted["FilterPolicy"]  # the queue is a shard: only all shards together can get other filters
        for key, value in wanted.items():
            if _same(key, have.get(key), value):
                continue
            self._note(thing, key, have.get(key), value)
            if not self._dry_run:
                setting = {"AttributeName": key, "AttributeValue": value}
                await ask(self._sns.set_subscription_attributes(SubscriptionArn=existing[0], **setting))

    def _note(self, thing: str, setting: str, before: str | None, after: str) -> None:
        self.changes.append(Change(thing, setting, before, after))


def with_our_statement(policy: str | None, queue_arn: str, topic_arn: str) -> str:
    """The queue's policy, with the statement that SNS may send to the queue on behalf of this topic only."""
    ours = {
        "Sid": STATEMENT,
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
    }
    document: dict[str, Any] = json.loads(policy) if policy else {"Version": "2012-10-17", "Statement": []}
    statements = document.get("Statement", [])
    statements = [statements] if isinstance(statements, dict) else statements
    if ours in statements:
        return policy or ""
    others = [statement for statement in statements if statement.get("Sid") != STATEMENT]
    return json.dumps({**document, "Statement": [*others, ours]})


def _same(setting: str, have: str | None, wanted: str) -> bool:
    if have is None or setting not in _DOCUMENTS:
        return have is not None and have.lower() == wanted.lower()
    return bool(_normal(have) == _normal(wanted))


def _normal(document: str) -> Any:
    """The parsed document, its numbers as text: SQS returns 100 or "100", in the form in which it was set."""
    return json.loads(document, parse_int=str) if document else None


async def _until_queue_exists(call: Callable[[], Awaitable[Any]]) -> Any:
    for left in reversed(range(NEW_QUEUE_TRIES)):
        try:
            return await call()
        except AwsRefused as error:
            if not error.is_missing or not left:
                raise
        await asyncio.sleep(1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--region", metavar="REGION", help="default: the region of the AWS tools (AWS_REGION, the profile)"
    )
    parser.add_argument("--endpoint-url", metavar="URL", help="an SNS and SQS other than those of AWS")
    parser.add_argument("--topic", default=TOPIC, metavar="NAME", help=f"default: {TOPIC}")
    parser.add_argument("--queue", default=QUEUE, metavar="NAME", help=f"default: {QUEUE}")
    parser.add_argument("--dead-letter-queue", metavar="NAME", help="default: the queue's name with -dlq")
    parser.add_argument(
        "--shards",
        type=int,
        choices=COUNTS,
        default=1,
        help="divide the journals among so many queues, NAME-0, NAME-1, ..., for as many storages; default: 1, "
        "which makes the queue NAME itself",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what would change; the exit status is 1 if anything would"
    )


def run(options: argparse.Namespace) -> int:
    if options.shards > 1 and options.dead_letter_queue is not None:
        raise UsageError("--dead-letter-queue: each shard has its own, NAME-0-dlq; leave it out with --shards")
    dead = options.dead_letter_queue or f"{options.queue}-dlq"
    for option, name, longest in (
        ("--topic", options.topic, 256),
        ("--queue", options.queue, 80 if options.shards == 1 else 80 - len("-15-dlq")),
        ("--dead-letter-queue", dead, 80),
    ):
        if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{longest}}}", name):
            raise UsageError(f"{option}: expected up to {longest} letters, digits, - and _, got {name!r}")
    if options.shards == 1 and options.queue == dead:
        raise UsageError("--dead-letter-queue: expected another name than the queue's")
    names = Names(topic=options.topic, queue=options.queue, dead_letter_queue=dead)
    return asyncio.run(_run(options, names.shards(options.shards)))


async def _run(options: argparse.Namespace, names: list[Names]) -> int:
    async with (
        open_client("sns", options.region, options.endpoint_url) as sns,
        open_client("sqs", options.region, options.endpoint_url) as sqs,
    ):
        await refuse_other_shards(sns, names)
        if options.dry_run:
            changes = [change for each in names for change in await differences(sns, sqs, each)]
            _show(changes)
            return exit_status.FOUND if changes else exit_status.OK
        made = [await provision(sns, sqs, each) for each in names]
        region = sqs.meta.region_name
    _show([change for each in made for change in each.changes])
    endpoint = f"\n  endpoint_url: {options.endpoint_url}" if options.endpoint_url else ""
    print(f"\n# pixel.yaml\nsns:\n  topic_arn: {made[0].topic_arn}{endpoint}")
    for each in names:
        print(f"# storage.yaml\nsqs:\n  queue: {each.queue}\n  region: {region}{endpoint}")
    return exit_status.OK


def _show(changes: list[Change]) -> None:
    """Print each change once: in a dry run every shard needs the topic."""
    print("\n".join(dict.fromkeys(map(str, changes))) or "nothing to change")
