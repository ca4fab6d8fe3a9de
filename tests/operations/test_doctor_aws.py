"""The doctor on topic, queue and subscription: each fault is found, and its remedy, as printed, puts it right.

What works is called no fault, and provision leaves it alone.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from tests.fake_aws import FakeAws
from tracker import exit_status
from tracker.local.provision import local_client, provision_at
from tracker.operations.findings import Level
from tracker.operations.key_checks import key_statement
from tracker.operations.provision import Names, differences, provision
from tracker.operations.wanted_settings import statement_id, with_our_statement

from .conftest import REGION, Bench, proxy
from .remedies import look, paste

Break = Callable[[Bench], Awaitable[object]]

SOURCE = "aws:SourceArn"


def queue_attribute(*, dead: bool = False, **attributes: str) -> Break:
    async def set_attributes(bench: Bench) -> None:
        url = bench.made.dead_letter_queue_url if dead else bench.made.queue_url
        answer = await bench.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])
        have = answer.get("Attributes", {})
        await bench.sqs.set_queue_attributes(QueueUrl=url, Attributes={**have, **attributes})  # moto forgets it else

    return set_attributes


def subscription_attribute(name: str, value: str) -> Break:
    async def set_attribute(bench: Bench) -> None:
        await bench.sns.set_subscription_attributes(
            SubscriptionArn=bench.made.subscription_arn, AttributeName=name, AttributeValue=value
        )

    return set_attribute


def filter_policy(scope: str = "MessageAttributes", **policy: Any) -> Break:
    async def set_filter(bench: Bench) -> None:
        await subscription_attribute("FilterPolicyScope", scope)(bench)
        await subscription_attribute("FilterPolicy", json.dumps(policy))(bench)

    return set_filter


def queue_statement(**elements: Any) -> Break:
    """The only statement of the queue's policy; TOPIC, OTHER and QUEUE in it stand for the ARNs."""

    async def set_policy(bench: Bench) -> None:
        await queue_attribute(Policy=policy_of(bench, elements))(bench)

    return set_policy


def policy_of(bench: Bench, *statements: dict[str, Any]) -> str:
    usual = {"Sid": "Theirs", "Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "QUEUE"}
    condition = {"Condition": {"ArnEquals": {SOURCE: "TOPIC"}}}
    document = {"Version": "2012-10-17", "Statement": [{**usual, **condition, **elements} for elements in statements]}
    text = json.dumps(document).replace("QUEUE", bench.made.queue_arn).replace("TOPIC", bench.made.topic_arn)
    return text.replace("OTHER", f"{bench.made.topic_arn}-of-others")


async def unsubscribe(bench: Bench) -> None:
    await bench.sns.unsubscribe(SubscriptionArn=bench.made.subscription_arn)


def receives(count: int) -> Break:
    async def set_count(bench: Bench) -> None:
        answer = await bench.sqs.get_queue_attributes(QueueUrl=bench.made.queue_url, AttributeNames=["RedrivePolicy"])
        policy = {**json.loads(answer["Attributes"]["RedrivePolicy"]), "maxReceiveCount": count}
        await queue_attribute(RedrivePolicy=json.dumps(policy))(bench)

    return set_count


async def delete_dead_letters(bench: Bench) -> None:
    await bench.sqs.delete_queue(QueueUrl=bench.made.dead_letter_queue_url)


Fault = tuple[Break, Level, str, str]

# Faults that can be there at the same time are made and found together.
FAULTS: dict[str, list[Fault]] = {
    "nothing as it should be": [
        (subscription_attribute("RawMessageDelivery", "false"), Level.WARNING, "subscription", "raw message delivery"),
        (filter_policy(Type=["Order"]), Level.FAULT, "subscription", "drops visits"),
        (queue_attribute(Policy=""), Level.FAULT, "queue", "does not let SNS send"),
        (receives(3), Level.WARNING, "dead letters", "after 3 receives"),
        (queue_attribute(MessageRetentionPeriod="60"), Level.FAULT, "queue", "for 60 seconds"),
        (queue_attribute(SqsManagedSseEnabled="false"), Level.WARNING, "queue", "not encrypted"),
        (queue_attribute(DelaySeconds="30"), Level.WARNING, "queue", "for 30 seconds (DelaySeconds)"),
        (queue_attribute(dead=True, MessageRetentionPeriod="59"), Level.WARNING, "dead letters", "for a shorter time"),
        (queue_attribute(dead=True, MaximumMessageSize="1024"), Level.WARNING, "dead letters", "1024 bytes at most"),
    ],
    "half of it missing": [
        (subscription_attribute("FilterPolicy", "{}"), Level.WARNING, "subscription", "no filter"),
        (subscription_attribute("RedrivePolicy", ""), Level.WARNING, "subscription", "no dead-letter queue"),
        (queue_statement(Condition={"ArnEquals": {SOURCE: "OTHER"}}), Level.FAULT, "queue", "on behalf of"),
        (queue_attribute(MaximumMessageSize="4096"), Level.FAULT, "queue", "4096 bytes at most (MaximumMessageSize)"),
    ],
    "nobody subscribed": [
        (unsubscribe, Level.FAULT, "subscription", "not subscribed"),
        (queue_attribute(RedrivePolicy=""), Level.WARNING, "dead letters", "no dead-letter queue"),
        (queue_attribute(KmsMasterKeyId="alias/aws/sqs"), Level.FAULT, "queue", "the key alias/aws/sqs"),
    ],
    "the dead-letter queue is gone": [
        (delete_dead_letters, Level.FAULT, "dead letters", "does not exist"),
        (delete_dead_letters, Level.FAULT, "subscription", "does not exist"),
        (filter_policy(Type=["Visit"], Shop=["7"]), Level.FAULT, "subscription", "drops visits"),
    ],
    "the filter looks into the body": [
        (filter_policy("MessageBody", Type=["Visit"]), Level.FAULT, "subscription", "drops visits (MessageBody)"),
        (queue_attribute(dead=True, Policy=""), Level.FAULT, "subscription", "may not send to its dead-letter queue"),
    ],
    "the filter is nested": [
        (filter_policy("MessageBody", a={"b": ["c"]}), Level.FAULT, "subscription", "drops visits (MessageBody)"),
        (queue_attribute(dead=True, KmsMasterKeyId="alias/aws/sqs"), Level.FAULT, "subscription", "is encrypted with"),
    ],
    "the filter drops a part": [
        (filter_policy(Type=["Visit"], Journal=[{"prefix": "0"}]), Level.FAULT, "subscription", "a part of the visits"),
        (queue_attribute(MaximumMessageSize="250000"), Level.FAULT, "subscription", "off, and the queue takes"),
        (
            subscription_attribute("RawMessageDelivery", "false"),
            Level.FAULT,
            "subscription",
            "off, and the queue takes",
        ),
    ],
    "the filter drops end markers": [
        (filter_policy(Type=["Visit"], Closed=[{"exists": False}]), Level.WARNING, "subscription", "a journal ended"),
    ],
}


async def make_faults(bench: Bench, name: str) -> None:
    for make in dict.fromkeys(make for make, *_ in FAULTS[name]):
        await make(bench)


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_is_named_and_the_command_that_is_printed_fixes_it(bench: Bench, name: str) -> None:
    pixel, storage = bench.pixel_config(), bench.storage_config()
    await make_faults(bench, name)
    looked = await look(pixel, storage)
    commands = {looked.command(looked.found(level, subject, words)) for _, level, subject, words in FAULTS[name]}
    assert len(commands) == 1
    assert await paste(commands.pop()) == exit_status.OK
    assert (await look(pixel, storage)).levels == {Level.OK}
    # The command names no dead-letter queue: it keeps the one that is there, or makes one.
    assert await differences(bench.sns, bench.sqs, replace(bench.names, dead_letter_queue=None)) == ([], [])


async def test_a_dry_run_of_the_command_changes_nothing(bench: Bench) -> None:
    pixel, storage = bench.pixel_config(), bench.storage_config()
    await make_faults(bench, "nothing as it should be")
    looked = await look(pixel, storage)
    command = looked.command(looked.found(Level.FAULT, "queue", "does not let SNS send"))
    assert await paste(f"{command} --dry-run") == exit_status.FOUND
    assert (await look(pixel, storage)).findings == looked.findings


# What works. After each, the doctor has nothing to say, and provision nothing to change.
WORKS: dict[str, Sequence[Break]] = {
    "the policy of the SQS console": [
        queue_statement(Principal={"AWS": "*"}, Action="SQS:SendMessage", Condition={"ArnLike": {SOURCE: "TOPIC"}})
    ],
    "a wildcard in the action": [queue_statement(Action="sqs:Send*")],
    "any topic of the account": [
        queue_statement(Action="sqs:*", Condition={"StringEquals": {"aws:SourceAccount": "000000000000"}})
    ],
    "a statement of an earlier provision": [
        queue_statement(Sid="TopicMaySend", Principal={"Service": "sns.amazonaws.com"})
    ],
    "a filter by prefix": [filter_policy(Type=[{"prefix": "Vis"}])],
    "a filter that excludes another type": [filter_policy(Type=[{"anything-but": ["Order"]}])],
    "a filter with an alternative": [filter_policy(Type=["Visit", "Order"], Journal=[{"exists": True}])],
    "fewer receives and days": [
        receives(10),
        queue_attribute(MessageRetentionPeriod="604800"),
        queue_attribute(dead=True, MessageRetentionPeriod="864000"),
    ],
    "messages of 256 KiB": [queue_attribute(MaximumMessageSize="262144")],
}


@pytest.mark.parametrize("name", WORKS)
async def test_what_works_is_no_fault_and_stays_as_it_is(bench: Bench, name: str) -> None:
    for make in WORKS[name]:
        await make(bench)
    looked = await look(bench.pixel_config(), bench.storage_config())
    assert looked.levels == {Level.OK}, looked.output
    assert await differences(bench.sns, bench.sqs, bench.names) == ([], [])


async def test_single_visits_need_a_smaller_queue_than_spans(bench: Bench) -> None:
    await queue_attribute(MaximumMessageSize="65536")(bench)
    storage = bench.storage_config()
    (await look(bench.pixel_config(), storage)).found(Level.FAULT, "queue", "65536 bytes at most")
    assert (await look(bench.pixel_config({"sns": {"format": "single"}}), storage)).levels == {Level.OK}


# -- remedies that are no commands ---------------------------------------------------------------------------------


async def queue_policy(bench: Bench) -> dict[str, Any]:
    answer = await bench.sqs.get_queue_attributes(QueueUrl=bench.made.queue_url, AttributeNames=["Policy"])
    document: dict[str, Any] = json.loads(answer["Attributes"]["Policy"])
    return document


async def test_a_policy_that_is_too_wide_gets_the_condition_that_is_printed(bench: Bench) -> None:
    await queue_statement(Sid="Everybody", Condition={})(bench)
    pixel, storage = bench.pixel_config(), bench.storage_config()
    fix = (await look(pixel, storage)).found(Level.WARNING, "queue", "statement Everybody").fix
    document = await queue_policy(bench)
    document["Statement"][0]["Condition"] = json.loads(fix.partition("Condition: ")[2])
    await queue_attribute(Policy=json.dumps(document))(bench)
    assert (await look(pixel, storage)).levels == {Level.OK}


async def test_without_the_pixels_configuration_a_queue_that_nobody_may_send_to_is_found(bench: Bench) -> None:
    await queue_attribute(Policy="")(bench)
    storage = bench.storage_config()
    (await look(None, storage)).found(Level.FAULT, "queue", "does not let SNS send to it")
    await provision(bench.sns, bench.sqs, bench.names)
    assert (await look(None, storage)).levels == {Level.OK}


async def test_a_deny_is_named_and_removed_by_its_owner_alone(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    organisation = {"StringNotEquals": {"aws:PrincipalOrgID": "o-1234567890"}}
    deny = {"Sid": "OurOrganisation", "Effect": "Deny", "Action": "sqs:*", "Condition": organisation}
    await queue_attribute(Policy=policy_of(bench, {}, deny))(bench)
    pixel, storage = bench.pixel_config(), bench.storage_config()
    looked = await look(pixel, storage)
    finding = looked.found(Level.FAULT, "queue", "statement OurOrganisation")
    assert "narrow or remove statement OurOrganisation" in finding.fix
    command = looked.command(finding)
    assert await paste(command) == exit_status.FOUND
    assert "left to you: queue" in capsys.readouterr().out
    assert len((await queue_policy(bench))["Statement"]) == 2
    # Narrowed, as AWS documents it: services of AWS belong to no organisation.
    deny["Condition"] = {**organisation, "BoolIfExists": {"aws:PrincipalIsAWSService": "false"}}
    await queue_attribute(Policy=policy_of(bench, {}, deny))(bench)
    assert await paste(command) == exit_status.OK
    assert (await look(pixel, storage)).levels == {Level.OK}


async def test_what_cannot_be_decided_is_told_with_its_reason(bench: Bench) -> None:
    await queue_statement(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})(bench)
    pixel, storage = bench.pixel_config(), bench.storage_config()
    looked = await look(pixel, storage)
    finding = looked.found(Level.UNKNOWN, "queue", "IpAddress aws:SourceIp")
    assert await paste(looked.command(finding)) == exit_status.OK
    assert (await look(pixel, storage)).levels == {Level.OK}


async def test_a_key_must_let_sns_use_it_and_the_statement_that_is_printed_does(bench: Bench) -> None:
    async with local_client("kms", bench.endpoint, REGION) as kms:
        key = (await kms.create_key())["KeyMetadata"]
        await kms.create_alias(AliasName=f"alias/{bench.names.queue}", TargetKeyId=key["KeyId"])
        own = {
            "Effect": "Allow",
            "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
        await set_key_policy(kms, key["KeyId"], own)
        await queue_attribute(KmsMasterKeyId=f"alias/{bench.names.queue}")(bench)
        pixel, storage = bench.pixel_config(), bench.storage_config()
        fix = (await look(pixel, storage)).found(Level.FAULT, "queue", "does not let SNS use it").fix
        printed = json.loads(fix.partition("policy: ")[2])
        assert printed == key_statement(bench.made.topic_arn)
        await set_key_policy(kms, key["KeyId"], own, printed)
        assert (await look(pixel, storage)).levels == {Level.OK}
        assert await differences(bench.sns, bench.sqs, bench.names) == ([], [])  # the key stays

        await kms.disable_key(KeyId=key["KeyId"])
        fix = (await look(pixel, storage)).found(Level.FAULT, "queue", "is Disabled").fix
        assert fix.endswith(f" Then: aws kms enable-key --key-id {key['KeyId']}")
        await kms.enable_key(KeyId=fix.rpartition(" ")[2])
        assert (await look(pixel, storage)).levels == {Level.OK}

        stop = {"Sid": "NoServices", "Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"}
        services = {"Bool": {"aws:PrincipalIsAWSService": "true"}}
        await set_key_policy(kms, key["KeyId"], own, printed, {**stop, "Condition": services})
        fix = (await look(pixel, storage)).found(Level.FAULT, "queue", "does not let SNS use it").fix
        assert "narrow statement NoServices of the key's policy" in fix

        doubtful = {**printed, "Condition": {"StringEquals": {"kms:ViaService": "sqs.eu-west-1.amazonaws.com"}}}
        await set_key_policy(kms, key["KeyId"], doubtful)
        (await look(pixel, storage)).found(Level.UNKNOWN, "queue", "StringEquals kms:ViaService")


async def set_key_policy(kms: Any, key: str, *statements: dict[str, Any]) -> None:
    document = {"Version": "2012-10-17", "Statement": statements}
    await kms.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(document))


async def test_a_topics_key_must_work(bench: Bench) -> None:
    pixel, storage = bench.pixel_config(), bench.storage_config()
    async with local_client("kms", bench.endpoint, REGION) as kms:
        key = (await kms.create_key())["KeyMetadata"]["KeyId"]
        topic = {"TopicArn": bench.made.topic_arn, "AttributeName": "KmsMasterKeyId"}
        await bench.sns.set_topic_attributes(**topic, AttributeValue=key)
        assert (await look(pixel, storage)).levels == {Level.OK}
        await kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        fix = (await look(pixel, storage)).found(Level.FAULT, "topic", "is PendingDeletion").fix
        assert fix == f"aws kms cancel-key-deletion --key-id {key} && aws kms enable-key --key-id {key}"
        await kms.cancel_key_deletion(KeyId=key)
        await kms.enable_key(KeyId=key)
        assert (await look(pixel, storage)).levels == {Level.OK}
        await bench.sns.set_topic_attributes(**topic, AttributeValue="alias/aws/sns")
        assert "alias/aws/sns" in (await look(pixel, storage)).output
        assert (await look(pixel, storage)).levels == {Level.OK}


async def test_a_topic_whose_policy_denies_everybody(bench: Bench) -> None:
    deny = {
        "Sid": "Stop",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "SNS:Publish",
        "Resource": bench.made.topic_arn,
    }
    plain = {**deny, "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    pixel, storage = bench.pixel_config(), bench.storage_config()
    throttle = json.dumps({"http": {"defaultThrottlePolicy": {"maxReceivesPerSecond": 1}}})
    await bench.sns.set_topic_attributes(
        TopicArn=bench.made.topic_arn, AttributeName="DeliveryPolicy", AttributeValue=throttle
    )
    for statement, levels in ((deny, {Level.OK, Level.FAULT}), (plain, {Level.OK})):
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        await bench.sns.set_topic_attributes(
            TopicArn=bench.made.topic_arn, AttributeName="Policy", AttributeValue=policy
        )
        looked = await look(pixel, storage)
        assert looked.levels == levels
        assert "applies to HTTP endpoints and not to queues" in looked.output
        if statement is deny:
            assert "statement Stop" in looked.found(Level.FAULT, "topic", "denies sns:Publish").fix


# -- several topics and queues -------------------------------------------------------------------------------------


async def test_each_queue_of_the_topic_is_told_and_they_may_share_the_visits(bench: Bench) -> None:
    pixel, storage = bench.pixel_config(), bench.storage_config()
    second = Names(topic=bench.names.topic, queue=f"{bench.names.queue}-2")
    made = await provision(bench.sns, bench.sqs, second)
    assert made.queue_arn in (await look(pixel, storage)).output
    halves = ([{"prefix": f"{digit:x}"} for digit in range(8)], [{"prefix": f"{digit:x}"} for digit in range(8, 16)])
    for arn, half in zip((bench.made.subscription_arn, made.subscription_arn), halves, strict=True):
        policy = json.dumps({"Type": ["Visit"], "Journal": half})
        await bench.sns.set_subscription_attributes(
            SubscriptionArn=arn, AttributeName="FilterPolicy", AttributeValue=policy
        )
    looked = await look(pixel, storage)
    assert looked.levels == {Level.OK}, looked.output
    assert "2 queues receive each visit once" in looked.output
    for names in (bench.names, second):
        assert await differences(bench.sns, bench.sqs, names) == ([], [])
    await bench.sns.unsubscribe(SubscriptionArn=made.subscription_arn)
    (await look(pixel, storage)).found(Level.FAULT, "subscription", "drops a part of the visits")


async def test_two_topics_of_one_queue_have_a_statement_each(bench: Bench) -> None:
    other = await provision(bench.sns, bench.sqs, Names(topic=f"{bench.names.topic}-2", queue=bench.names.queue))
    statements = {one["Sid"]: one for one in (await queue_policy(bench))["Statement"]}
    assert set(statements) == {statement_id(bench.made.topic_arn), statement_id(other.topic_arn)}
    assert await differences(bench.sns, bench.sqs, bench.names) == ([], [])
    assert other.dead_letter_queue_url == bench.made.dead_letter_queue_url


async def test_provision_adds_to_a_policy_and_replaces_only_its_own_statement(bench: Bench) -> None:
    ours = (await queue_policy(bench))["Statement"][0]
    stale = {**ours, "Resource": f"{bench.made.queue_arn}-renamed"}
    theirs = json.loads(policy_of(bench, {"Condition": {"ArnEquals": {SOURCE: "OTHER"}}}))["Statement"][0]
    policy = json.dumps({"Version": "2012-10-17", "Id": "Kept", "Statement": [theirs, stale]})
    await queue_attribute(Policy=policy)(bench)
    made = await provision(bench.sns, bench.sqs, bench.names)
    assert [change.setting for change in made.changes] == ["Policy"]
    assert await queue_policy(bench) == {"Version": "2012-10-17", "Id": "Kept", "Statement": [theirs, ours]}
    assert json.loads(with_our_statement(None, "q", "t"))["Statement"][0]["Resource"] == "q"


async def test_a_dead_letter_queue_of_another_name_is_kept(bench: Bench) -> None:
    theirs = f"{bench.names.queue}-rest"
    url = (await bench.sqs.create_queue(QueueName=theirs))["QueueUrl"]
    answer = await bench.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    redrive = {"deadLetterTargetArn": answer["Attributes"]["QueueArn"], "maxReceiveCount": 50}
    await queue_attribute(RedrivePolicy=json.dumps(redrive))(bench)
    names = Names(topic=bench.names.topic, queue=bench.names.queue)
    made = await provision(bench.sns, bench.sqs, names)
    assert {change.thing for change in made.changes} == {f"queue {theirs}"}
    assert made.dead_letter_queue_url == url
    looked = await look(bench.pixel_config(), bench.storage_config())
    assert looked.levels == {Level.OK}, looked.output
    assert await differences(bench.sns, bench.sqs, names) == ([], [])


@pytest.mark.parametrize("form", ["ARN", "URL"])
async def test_a_queue_by_its_arn_or_url_is_found_provisioned_and_redriven(bench: Bench, form: str) -> None:
    await queue_attribute(MaximumMessageSize="4096")(bench)
    await bench.sqs.send_message(QueueUrl=bench.made.dead_letter_queue_url, MessageBody="a visit")
    text = bench.made.queue_arn if form == "ARN" else bench.made.queue_url
    pixel = bench.pixel_config()
    storage = bench.storage_config({"sqs": {"queue": text, "region": None if form == "ARN" else REGION}})
    looked = await look(pixel, storage)
    command = looked.command(looked.found(Level.FAULT, "queue", "4096 bytes at most"))
    assert text in command
    assert await paste(command) == exit_status.OK
    looked = await look(pixel, storage)
    command = looked.command(looked.found(Level.WARNING, "dead letters", "about 1 messages"))
    assert await paste(command) == exit_status.OK
    assert (await look(pixel, storage)).levels == {Level.OK}


async def test_a_topic_and_a_queue_of_two_endpoints_are_both_in_the_command(bench: Bench) -> None:
    await queue_attribute(MaximumMessageSize="4096")(bench)
    other = bench.endpoint.replace("127.0.0.1", "localhost")
    pixel, storage = bench.pixel_config({"sns": {"endpoint_url": other}}), bench.storage_config()
    looked = await look(pixel, storage)
    command = looked.command(looked.found(Level.FAULT, "queue", "4096 bytes at most"))
    assert f"AWS_ENDPOINT_URL_SNS={other}" in command
    assert await paste(command) == exit_status.OK
    assert (await look(pixel, storage)).levels == {Level.OK}


async def test_a_queue_of_another_account_is_not_created(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = f"arn:aws:sqs:{REGION}:111122223333:visits"
    looked = await look(bench.pixel_config(), bench.storage_config({"sqs": {"queue": foreign}}))
    command = looked.command(looked.found(Level.FAULT, "queue", "there is no queue"))
    assert await paste(command) == exit_status.COULD_NOT_LOOK
    assert "with credentials of its account" in capsys.readouterr().err


async def test_a_missing_topic_and_queue_are_made_by_the_command_that_is_printed(bench: Bench) -> None:
    arn = f"{bench.made.topic_arn}-new"
    pixel = bench.pixel_config({"sns": {"topic_arn": arn}})
    storage = bench.storage_config({"sqs": {"queue": f"{bench.names.queue}-new"}})
    looked = await look(pixel, storage)
    commands = {
        looked.command(looked.found(Level.FAULT, "queue", "there is no queue")),
        looked.command(looked.found(Level.FAULT, "topic", "AWS does not know it")),
    }
    assert len(commands) == 1
    assert await paste(commands.pop()) == exit_status.OK
    assert (await look(pixel, storage)).levels == {Level.OK}


# -- a broker that is not AWS --------------------------------------------------------------------------------------


async def test_what_another_broker_does_not_tell_is_unknown_and_no_fault(bench: Bench) -> None:
    with FakeAws() as fake:
        made = await provision_at(fake.door.url, "us-east-1")
        fake.queue("visits", lambda queue: queue.attributes.pop("MessageRetentionPeriod"))
        fake.queue("visits", lambda queue: queue.attributes.pop("SqsManagedSseEnabled"))
        pixel = bench.pixel_config({"sns": {"topic_arn": made.topic_arn, "endpoint_url": fake.door.url}})
        sqs = {"queue": "visits", "region": "us-east-1", "endpoint_url": fake.door.url}
        looked = await look(pixel, bench.storage_config({"sqs": sqs}))
    assert looked.levels == {Level.OK, Level.UNKNOWN}, looked.output
    for words in ("how long it keeps messages", "how long a message", "whether it is encrypted"):
        looked.found(Level.UNKNOWN, "queue", words)
    assert "endpoint_url" in looked.found(Level.UNKNOWN, "topic", "does not have this call").fix


# -- a subscription that waits -------------------------------------------------------------------------------------


async def test_a_subscription_that_waits_is_confirmed_by_the_owner_of_the_queue(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    """SNS confirms at once if the queue's account subscribes. `owner` says whether it is that account."""
    owner, confirmed = False, False
    listed = f"<member><Protocol>sqs</Protocol><Endpoint>{bench.made.queue_arn}</Endpoint>"
    listed += "<SubscriptionArn>PendingConfirmation</SubscriptionArn></member>"

    def intervene(action: str) -> web.Response | None:
        nonlocal confirmed
        confirmed = confirmed or (owner and action == "Subscribe")
        if action != "ListSubscriptionsByTopic" or confirmed:
            return None
        result = f"<Subscriptions>{listed}</Subscriptions>"
        text = f"<ListSubscriptionsByTopicResult>{result}</ListSubscriptionsByTopicResult><ResponseMetadata/>"
        root = "ListSubscriptionsByTopicResponse"
        return web.Response(text=f"<{root}>{text}</{root}>", content_type="text/xml")

    async with proxy(bench.endpoint, intervene=intervene) as endpoint:
        pixel = bench.pixel_config({"sns": {"endpoint_url": endpoint}})
        storage = bench.storage_config({"sqs": {"endpoint_url": endpoint}})
        looked = await look(pixel, storage)
        finding = looked.found(Level.FAULT, "subscription", "not confirmed: PendingConfirmation")
        command = looked.command(finding)
        assert await paste(command) == exit_status.FOUND
        assert "left to you: subscription: not confirmed" in capsys.readouterr().out
        owner = True
        assert await paste(command) == exit_status.OK
        assert (await look(pixel, storage)).levels == {Level.OK}
