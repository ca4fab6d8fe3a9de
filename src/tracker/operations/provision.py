"""Creates or completes what is between the services, in this order.

1. The topic.
2. The dead-letter queue, and its policy, by which SNS may send to it on behalf of the topic.
3. The queue, its policy, and its redrive policy, which names the dead-letter queue.
4. The subscription of the queue to the topic, with raw delivery, the filter and a dead-letter queue.

A second run changes nothing. No message is touched. `wanted_settings` decides what is set. A queue is created without
attributes, which are set afterwards: SQS refuses to create an existing queue with other attributes, but changes them. A
queue keeps the dead-letter queue that it has, unless another one is named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tracker.aws import ask
from tracker.core.queue_address import parse_queue
from tracker.errors import TrackerError
from tracker.operations.lookups import (
    Subscription,
    find_queue,
    find_topic,
    is_https,
    queue_attributes,
    subscriptions,
    until_queue_exists,
)
from tracker.operations.shards import filter_policy, queue_names
from tracker.operations.wanted_settings import (
    dead_letter_target,
    may_topic_send,
    number,
    queue_settings,
    subscription_settings,
    topic_policy,
    with_our_statement,
)

TOPIC = "tracking"
QUEUE = "visits"
DEAD_LETTER_QUEUE = "visits-dlq"


@dataclass(frozen=True, kw_only=True)
class Names:
    """A topic by its name or ARN, a queue by its name, URL or ARN.

    `dead_letter_queue` is a name; None stands for the one that the queue has, or else for the queue's name with `-dlq`.
    `filter` is the filter of the subscription; None stands for the one that it has, if no visit is lost by it.
    """

    topic: str = TOPIC
    queue: str = QUEUE
    dead_letter_queue: str | None = None
    filter: Mapping[str, Any] | None = None

    def shards(self, count: int) -> "list[Names]":
        """The names of `count` shards, each with a dead-letter queue of its own: `tracker.operations.shards`."""
        if count == 1:
            return [self]
        shards = enumerate(queue_names(self.queue, count))
        return [Names(topic=self.topic, queue=queue, filter=filter_policy(at, count)) for at, queue in shards]


@dataclass(frozen=True)
class Change:
    """One setting of a topic, queue or subscription; `before` is None where there was none."""

    thing: str
    setting: str
    before: str | None
    after: str

    def __str__(self) -> str:
        if not self.setting:
            return f"{self.thing}: {self.after}"
        return f"{self.thing}: {self.setting}: {self.before or 'nothing'} -> {self.after or 'nothing'}"


@dataclass(frozen=True, kw_only=True)
class Provisioned:
    """What there is afterwards. `left` says what still keeps visits away, and is not provision's to change."""

    topic_arn: str
    queue_url: str
    queue_arn: str
    dead_letter_queue_url: str
    subscription_arn: str
    changes: list[Change] = field(compare=False)
    left: list[str] = field(compare=False)


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
        left=work.left,
    )


async def differences(sns: Any, sqs: Any, names: Names | None = None) -> tuple[list[Change], list[str]]:
    """What `provision` would change, and what it would leave to the operator. Nothing is changed."""
    work = _Provisioning(sns, sqs, names or Names(), dry_run=True)
    await work.run()
    return work.changes, work.left


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
        self.left: list[str] = []

    async def run(self) -> None:
        await self._topic()
        found = await find_queue(self._sqs, self._names.queue)
        have = found[1] if found else {}
        retention = number({**have, **queue_settings(have, dead="")}, "MessageRetentionPeriod")
        usual_dead = dead_letter_target(have.get("RedrivePolicy")) or f"{parse_queue(self._names.queue).name}-dlq"
        if await find_queue(self._sqs, usual_dead) is None:
            usual_dead = parse_queue(usual_dead).name
        await self._queue("dead", self._names.dead_letter_queue or usual_dead, least_retention=retention or 0)
        await self._queue("queue", self._names.queue)
        await self._subscription()

    async def _topic(self) -> None:
        if self._names.topic.startswith("arn:"):
            self.arns["topic"] = self._names.topic
        elif (arn := await find_topic(self._sns, self._names.topic)) is not None:
            self.arns["topic"] = arn
        else:
            self._note(f"topic {self._names.topic}", "", None, "is created")
            if not self._dry_run:
                arn = str((await ask(self._sns.create_topic(Name=self._names.topic), "TopicArn"))["TopicArn"])
                self.arns["topic"] = arn
                if is_https(self._sns):
                    await ask(self._sns.set_topic_attributes(TopicArn=arn, **topic_policy(arn)))

    async def _queue(self, role: str, text: str, *, least_retention: int = 0) -> None:
        queue = parse_queue(text)
        thing = f"queue {queue.name}"
        found = await find_queue(self._sqs, text)
        if found is None:
            if text != queue.name:  # of which account it would be, only its owner's credentials decide
                raise TrackerError(f"{text} does not exist; create it by its name, with credentials of its account")
            self._note(thing, "", None, "is created")
            if not self._dry_run:
                found = await self._create(text)
        url, have = found or ("", {})
        if found is not None:
            self.urls[role], self.arns[role] = url, have["QueueArn"]
        dead = self.arns.get("dead", "(new)") if role == "queue" else None
        changed = queue_settings(have, dead=dead, least_retention=least_retention)
        for key, value in changed.items():
            self._note(thing, key, have.get(key), value)
        changed.update(self._policy(thing, role, have))
        if changed and have.get("Policy"):  # moto, the local broker, forgets a policy that is not set along
            changed.setdefault("Policy", have["Policy"])
        if changed and found is not None and not self._dry_run:
            await until_queue_exists(lambda: ask(self._sqs.set_queue_attributes(QueueUrl=url, Attributes=changed)))

    async def _create(self, name: str) -> tuple[str, dict[str, str]]:
        url = str((await ask(self._sqs.create_queue(QueueName=name), "QueueUrl"))["QueueUrl"])
        return url, await until_queue_exists(lambda: queue_attributes(self._sqs, url))

    def _policy(self, thing: str, role: str, have: dict[str, str]) -> dict[str, str]:
        """The new policy of a queue, if it needs one."""
        own, topic = (self.arns.get(each, "arn:aws:new:::(new)") for each in (role, "topic"))
        decision = may_topic_send(have.get("Policy"), own, topic)
        if decision.denied_by:
            self.left.append(f"{thing}: Policy: {decision.denied_by} keeps SNS out; narrow or remove it")
        if decision.allowed is True or decision.allowed_by:
            return {}
        try:
            policy = with_our_statement(have.get("Policy"), own, topic, https=is_https(self._sqs))
        except ValueError as error:
            raise TrackerError(f"{thing}: its policy cannot be read: {error}") from error
        self._note(thing, "Policy", None, f"a statement: SNS may send on behalf of topic {self._names.topic}")
        return {"Policy": policy}

    async def _subscription(self) -> None:
        topic, queue = self.arns.get("topic"), self.arns.get("queue")
        thing = f"subscription of queue {parse_queue(self._names.queue).name}"
        all_of_topic = await subscriptions(self._sns, topic) if topic and queue else []
        ours = next((each for each in all_of_topic if each.queue_arn == queue), None)
        others = [each for each in all_of_topic if each.queue_arn != queue]
        have, dead = ours.settings if ours else {}, await self._undelivered(ours)
        wanted = subscription_settings(have, others, dead=dead, exact_filter=self._names.filter)
        if ours is None or not ours.is_confirmed:
            self._note(thing, "", None, "is created" if ours is None else "is confirmed")
            if not self._dry_run and topic and queue:
                await self._subscribe(topic, queue, wanted, may_wait=ours is not None)
            return
        self.arns["subscription"] = ours.arn
        for key, value in wanted.items():
            self._note(thing, key, ours.settings.get(key), value)
            if not self._dry_run:
                setting = {"AttributeName": key, "AttributeValue": value}
                await ask(self._sns.set_subscription_attributes(SubscriptionArn=ours.arn, **setting))

    async def _undelivered(self, ours: Subscription | None) -> str | None:
        """The dead-letter queue to set for what SNS cannot deliver; None if the subscription keeps what it has."""
        target = dead_letter_target(ours.settings.get("RedrivePolicy")) if ours else None
        dead = self.arns.get("dead", "(new)")
        topic, queue = (self.arns.get(role, ":::").split(":")[3] for role in ("topic", "queue"))
        if topic and queue and topic != queue:
            if target is None:
                self.left.append("subscription: RedrivePolicy: SNS takes a queue of the topic's Region only")
            return None
        if target in (None, dead) or (found := await find_queue(self._sqs, str(target))) is None:
            return dead
        self.arns["undelivered"] = str(target)
        changed = self._policy(f"queue {parse_queue(str(target)).name}", "undelivered", found[1])
        if changed and not self._dry_run:
            await ask(self._sqs.set_queue_attributes(QueueUrl=found[0], Attributes=changed))
        return None

    async def _subscribe(self, topic: str, queue: str, wanted: dict[str, str], *, may_wait: bool) -> None:
        """Subscribe. The same call sets the attributes, so that no message is delivered before the filter is set."""
        call = self._sns.subscribe(
            TopicArn=topic, Protocol="sqs", Endpoint=queue, Attributes=wanted, ReturnSubscriptionArn=True
        )
        self.arns["subscription"] = str((await ask(call, "SubscriptionArn"))["SubscriptionArn"])
        owner = queue.split(":")[4]
        if not may_wait and owner == topic.split(":")[4]:
            return  # SNS confirms a subscription within one account by itself
        for each in await subscriptions(self._sns, topic):
            if each.queue_arn == queue and not each.is_confirmed:
                self.left.append(f"subscription: not confirmed; run this with credentials of account {owner}")

    def _note(self, thing: str, setting: str, before: str | None, after: str) -> None:
        self.changes.append(Change(thing, setting, before, after))
