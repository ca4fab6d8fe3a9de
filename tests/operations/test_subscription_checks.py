"""What the doctor says of subscriptions that no local broker can show: not confirmed, far away, unreadable."""

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tracker.operations.findings import Finding, Level
from tracker.operations.remedies import Setup
from tracker.operations.subscription_checks import check_subscriptions
from tracker.operations.wanted_settings import with_our_statement

TOPIC = "arn:aws:sns:eu-west-1:111122223333:tracking"
QUEUE = "arn:aws:sqs:eu-west-1:111122223333:visits"
DEAD = "arn:aws:sqs:eu-west-1:111122223333:visits-dlq"
COMMAND = "tracker provision --topic tracking"
SETTINGS = {
    "RawMessageDelivery": "true",
    "FilterPolicy": '{"Type": ["Visit"]}',
    "RedrivePolicy": json.dumps({"deadLetterTargetArn": DEAD}),
}


class FakeSns:
    """The subscriptions of one topic: each a queue's ARN and its settings; None as settings: not confirmed."""

    def __init__(self, *subscriptions: tuple[str, dict[str, str] | None]) -> None:
        self._settings = {f"{TOPIC}:{n}": settings for n, (_, settings) in enumerate(subscriptions) if settings}
        self._listed = [
            {
                "SubscriptionArn": f"{TOPIC}:{n}" if settings else "PendingConfirmation",
                "Protocol": "sqs",
                "Endpoint": arn,
            }
            for n, (arn, settings) in enumerate(subscriptions)
        ]

    async def list_subscriptions_by_topic(self, **call: Any) -> dict[str, Any]:
        """One subscription a page."""
        page = int(call.get("NextToken", 0))
        more = {"NextToken": str(page + 1)} if page + 1 < len(self._listed) else {}
        return {"Subscriptions": self._listed[page : page + 1], **more}

    async def get_subscription_attributes(self, **call: Any) -> dict[str, Any]:
        settings = self._settings[call["SubscriptionArn"]]
        assert settings is not None
        if settings.get("denied"):
            error = {"Error": {"Code": "AuthorizationError", "Message": "No."}}
            raise ClientError(error, "GetSubscriptionAttributes")
        return {"Attributes": settings}


class FakeSqs:
    """A dead-letter queue to which SNS may send."""

    async def get_queue_url(self, **call: Any) -> dict[str, Any]:
        return {"QueueUrl": f"https://sqs/{call['QueueName']}"}

    async def get_queue_attributes(self, **call: Any) -> dict[str, Any]:
        return {"Attributes": {"QueueArn": DEAD, "Policy": with_our_statement(None, DEAD, TOPIC)}}


async def findings_of(*subscriptions: tuple[str, dict[str, str] | None], queue: str = QUEUE) -> list[Finding]:
    setup = Setup(topic_arn=TOPIC, queue={"QueueArn": queue, "MaximumMessageSize": "262144"}, provision=COMMAND)
    return await check_subscriptions(FakeSns(*subscriptions), FakeSqs(), setup)


def only(findings: list[Finding], level: Level) -> Finding:
    [finding] = [finding for finding in findings if finding.level is level]
    return finding


async def test_a_healthy_subscription_is_well() -> None:
    assert {finding.level for finding in await findings_of((QUEUE, SETTINGS))} == {Level.OK}


async def test_a_subscription_that_is_not_confirmed_names_the_message_that_waits() -> None:
    finding = only(await findings_of((QUEUE, None)), Level.FAULT)
    assert "not confirmed" in finding.what
    assert "SubscriptionConfirmation" in finding.why
    assert "account 111122223333" in finding.fix
    assert finding.fix.endswith(COMMAND)


@pytest.mark.parametrize(
    "policy", ['{"Type": ["Order"]}', '{"Type": ["Visit"], "Journal": [{"suffix": "0"}]}', '{"Nobody": ["knows"]}']
)
async def test_the_remedy_of_a_loss_begins_with_a_copy_of_the_outbox(policy: str) -> None:
    finding = only(await findings_of((QUEUE, {**SETTINGS, "FilterPolicy": policy})), Level.FAULT)
    assert finding.fix.startswith("first copy outbox.dir (cp -a): it holds what was lost")
    assert finding.fix.endswith(f" Then: {COMMAND}")


async def test_a_confirmed_subscription_may_be_listed_while_it_waits() -> None:
    pending = {**SETTINGS, "PendingConfirmation": "true"}
    assert "not confirmed" in only(await findings_of((QUEUE, pending)), Level.FAULT).what


async def test_settings_that_may_not_be_read_are_unknown_and_no_fault() -> None:
    assert "cannot tell the settings" in only(await findings_of((QUEUE, {"denied": "yes"})), Level.UNKNOWN).what


async def test_every_queue_of_the_topic_is_told() -> None:
    others = [f"{QUEUE}-{n}" for n in range(3)]
    findings = await findings_of(*((arn, SETTINGS) for arn in others), (QUEUE, SETTINGS))
    for arn in others:
        assert any(f"another queue of this topic: {arn}, filter" in finding.what for finding in findings)
    assert any("not confirmed" in one.what for one in await findings_of((others[0], None), (QUEUE, SETTINGS)))


async def test_visits_that_only_another_queue_gets_are_missed_here() -> None:
    elsewhere = {**SETTINGS, "FilterPolicy": '{"Type": ["Order"]}'}
    finding = only(await findings_of((f"{QUEUE}-2", SETTINGS), (QUEUE, elsewhere)), Level.FAULT)
    assert "another queue of the topic does" in finding.why


@pytest.mark.parametrize("policy", [{"Type": [{"sounds-like": "Visit"}]}, {"Type": {"Name": ["Visit"]}}])
async def test_a_filter_that_cannot_be_decided_is_named(policy: dict[str, Any]) -> None:
    finding = only(await findings_of((QUEUE, {**SETTINGS, "FilterPolicy": json.dumps(policy)})), Level.UNKNOWN)
    assert "cannot tell whether its filter lets every visit through" in finding.what


async def test_a_share_is_unknown_when_the_other_queues_filter_cannot_be_read() -> None:
    half = {**SETTINGS, "FilterPolicy": json.dumps({"Type": ["Visit"], "Journal": [{"prefix": "0"}]})}
    finding = only(await findings_of((f"{QUEUE}-2", {"denied": "yes"}), (QUEUE, half)), Level.UNKNOWN)
    assert f"the filter of {QUEUE}-2" in finding.what


async def test_a_filter_of_the_body_loses_each_span_of_several_visits() -> None:
    body = {"FilterPolicy": '{"VisitedAt": [{"exists": true}]}', "FilterPolicyScope": "MessageBody"}
    assert (
        "a part of the visits (MessageBody)" in only(await findings_of((QUEUE, {**SETTINGS, **body})), Level.FAULT).what
    )


async def test_envelopes_need_a_larger_queue() -> None:
    finding = only(await findings_of((QUEUE, {**SETTINGS, "RawMessageDelivery": "false"})), Level.WARNING)
    assert "raw message delivery is off" in finding.what
    setup = Setup(topic_arn=TOPIC, format="plain", queue={"QueueArn": QUEUE, "MaximumMessageSize": "262144"})
    sns = FakeSns((QUEUE, {**SETTINGS, "RawMessageDelivery": "false"}))
    assert "262144 bytes at most" in only(await check_subscriptions(sns, FakeSqs(), setup), Level.FAULT).what


async def test_sns_needs_a_dead_letter_queue_of_its_own_region() -> None:
    far = QUEUE.replace("eu-west-1", "us-east-1")
    without = {name: value for name, value in SETTINGS.items() if name != "RedrivePolicy"}
    assert "in the topic's Region" in only(await findings_of((far, without), queue=far), Level.WARNING).fix
