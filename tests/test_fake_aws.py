"""The fake of SNS and SQS where it has to be truer than moto, and each fault it can make, through `tracker.aws`.

What the fake and moto agree upon is in test_aws.py, the same assertions for both.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.fake_aws import FakeAws
from tests.fake_aws.faults import Faults
from tests.fake_aws.queues import Attribute, AwsError, Queue, Sent
from tests.waiting import until
from tracker import aws
from tracker.aws import SnsTopic, calls, open_queue, open_topic, topic
from tracker.config import SnsConfig, SqsConfig
from tracker.core.message import Message, pack
from tracker.core.visit import encode_line
from tracker.errors import PublishFailed, PublishRefused, PublishThrottled, QueueFailed
from tracker.local.provision import local_client, provision_at

pytestmark = pytest.mark.asyncio(loop_scope="module")

REGION = "us-east-1"
LINE = encode_line("2026-11-23T07:09:24.932706+00:00", None, None, "192.0.2.1")


def messages(count: int, data: bytes = LINE) -> list[Message]:
    return [pack("0123456789abcdef" * 2, index * len(data), data, compress=False) for index in range(count)]


def plain(body: str, **attributes: str) -> Message:
    return Message("0" * 32, 0, 0, 1, body, {"Type": "Visit", **attributes})


@dataclass
class Rig:
    fake: FakeAws
    topic: SnsTopic
    queue: aws.SqsQueue
    sqs: Any
    url: str

    def sizes(self) -> tuple[int, int]:
        """Messages visible and in flight."""
        return self.fake.queue("visits", Queue.counts)

    def dead(self) -> list[str]:
        return self.fake.queue("visits-dlq", Queue.bodies)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened() -> AsyncIterator[Rig]:
    """One fake and one set of clients for all: making a client takes longer than any of these tests."""
    with FakeAws(seed=1) as fake:
        made = await provision_at(fake.sqs.url, REGION)
        async with (
            open_topic(SnsConfig(topic_arn=made.topic_arn, endpoint_url=fake.sns.url)) as topic,
            open_queue(SqsConfig(queue="visits", region=REGION, endpoint_url=fake.sqs.url)) as queue,
            local_client("sqs", fake.sqs.url, REGION) as sqs,
        ):
            yield Rig(fake, topic, queue, sqs, made.queue_url)


@pytest.fixture
def rig(opened: Rig) -> Rig:
    """Well, and with nothing in its queues."""
    for endpoint in (opened.fake.sns, opened.fake.sqs):
        endpoint.repair()
    for name in ("visits", "visits-dlq"):
        opened.fake.queue(name, Queue.clear)
    return opened


# -- truer than moto ------------------------------------------------------------------------------------------


async def test_a_stale_receipt_deletes_nothing_and_says_success(rig: Rig) -> None:
    await rig.topic.publish(messages(1))
    first = await rig.queue.receive(1)
    await rig.queue.change_visibility(first, 0)
    second = await rig.queue.receive(1)
    assert await rig.queue.delete(first) == []
    assert rig.sizes() == (0, 1)
    assert await rig.queue.delete(second) == []
    assert rig.sizes() == (0, 0)
    assert await rig.queue.delete(second) == []  # gone already: no error either


async def test_what_is_hidden_comes_back_when_its_time_is_over(rig: Rig) -> None:
    await rig.topic.publish(messages(2))
    deliveries = await rig.queue.receive(1)
    await rig.queue.change_visibility(deliveries[:1], 1)
    (again,) = await rig.queue.receive(5)
    assert again.message_id == deliveries[0].message_id
    assert again.receive_count == 2
    rig.fake.queue("visits", Queue.expire)
    assert len(await rig.queue.receive(1)) == 2


async def test_what_was_received_too_often_is_a_dead_letter_and_can_be_redriven(rig: Rig) -> None:
    body = messages(1)[0].body
    await rig.topic.publish(messages(1))
    for count in range(1, 101):
        (delivery,) = await rig.queue.receive(1)
        assert delivery.receive_count == count
        await rig.queue.change_visibility([delivery], 0)
    assert await rig.queue.receive(0) == []
    assert rig.dead() == [body]
    source = rig.fake.queue("visits", lambda queue: queue)
    assert rig.fake.queue("visits-dlq", lambda dead: dead.redrive_to(source)) == 1
    (redriven,) = await rig.queue.receive(1)
    assert (redriven.body, redriven.receive_count) == (body, 1)
    assert redriven.message_id != delivery.message_id


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (plain("x" * 262_145), "too long"),
        (plain("é" * 131_072), "too long"),  # bytes count, not characters, and the attributes count too
        (plain("\x01"), "Invalid characters"),
        (plain("\ufffe"), "Invalid characters"),
        (plain(""), "Empty message"),
    ],
)
async def test_sns_refuses_what_it_must(rig: Rig, message: Message, word: str) -> None:
    (outcome,) = await rig.topic.publish([message])
    assert isinstance(outcome, PublishRefused)
    assert word in str(outcome)
    outcomes = await rig.topic.publish([message, *messages(1)])
    assert isinstance(outcomes[0], PublishRefused)
    assert rig.sizes()[0] <= 1


async def test_a_message_of_just_256_kib_is_taken(rig: Rig) -> None:
    room = 262_144 - plain("").size
    assert await rig.topic.publish([plain("x" * room)]) == [None]


async def test_a_batch_of_more_than_256_kib_is_refused_as_a_whole(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic, "BATCH_BYTES", 1 << 30)
    outcomes = await rig.topic.publish([plain("x" * 150_000), plain("y" * 150_000)])
    assert all(isinstance(outcome, PublishRefused) and "BatchRequestTooLong" in str(outcome) for outcome in outcomes)


async def test_ids_that_are_not_distinct_too_many_and_none_are_refused(rig: Rig) -> None:
    entry = {"Id": "1", "ReceiptHandle": "x"}
    for entries, code in [
        ([entry, entry], "BatchEntryIdsNotDistinct"),
        ([{**entry, "Id": str(n)} for n in range(11)], "TooManyEntriesInBatchRequest"),
        ([], "EmptyBatchRequest"),
    ]:
        with pytest.raises(rig.sqs.exceptions.ClientError, match=code):
            await rig.sqs.delete_message_batch(QueueUrl=rig.url, Entries=entries)


async def test_an_eleventh_attribute_is_lost_behind_raw_delivery(rig: Rig) -> None:
    ten = {f"A{number}": "x" for number in range(9)}
    assert await rig.topic.publish([plain("{}", **ten)]) == [None]
    assert rig.sizes() == (1, 0)
    assert await rig.topic.publish([plain("{}", **ten, Eleventh="x")]) == [None]
    assert rig.sizes() == (1, 0)
    assert rig.fake.queue("visits", lambda queue: queue.refused_by_raw_delivery) == 1


async def test_sqs_refuses_control_characters_and_more_than_a_mebibyte(rig: Rig) -> None:
    with pytest.raises(rig.sqs.exceptions.ClientError, match="InvalidMessageContents"):
        await rig.sqs.send_message(QueueUrl=rig.url, MessageBody="\x00")
    rig.fake.queue("visits", lambda queue: queue.send(Sent("x" * (1 << 20), {})))
    with pytest.raises(AwsError, match="longer than"):
        rig.fake.queue("visits", lambda queue: queue.send(Sent("x" * (1 << 20) + "x", {})))


async def test_a_hidden_message_is_not_hidden_longer_by_a_stale_receipt(rig: Rig) -> None:
    await rig.topic.publish(messages(1))
    first = await rig.queue.receive(1)
    assert await rig.queue.change_visibility(first, 0) == []
    await rig.queue.receive(1)
    assert await rig.queue.change_visibility(first, 0) == first
    assert rig.sizes() == (0, 1)


# -- faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("kind", ["cut", "throttle", "error"])
async def test_a_call_that_fails_is_not_performed(rig: Rig, kind: str, count: int) -> None:
    before = rig.fake.sns.faults.injected[kind]
    rig.fake.sns.faults.inject(kind)
    outcomes = await rig.topic.publish(messages(count))
    assert [type(outcome) for outcome in outcomes] == [
        PublishThrottled if kind == "throttle" else PublishFailed
    ] * count
    assert rig.sizes() == (0, 0)
    assert rig.fake.sns.faults.injected[kind] > before


@pytest.mark.parametrize("kind", ["lost_reply", "error_after"])
async def test_a_reply_can_be_lost_after_acceptance(rig: Rig, kind: str) -> None:
    rig.fake.sns.faults.inject(kind, "Publish")
    (outcome,) = await rig.topic.publish(messages(1))
    assert type(outcome) is PublishFailed
    assert rig.sizes() == (2, 0)  # botocore tried twice
    rig.fake.sqs.faults.inject(kind, "DeleteMessageBatch")
    deliveries = await rig.queue.receive(1)
    with pytest.raises(QueueFailed):
        await rig.queue.delete(deliveries)
    assert rig.sizes() == (0, 0)


@pytest.mark.parametrize(("kind", "stored"), [("partial", 8), ("unlisted_done", 10), ("unlisted_undone", 8)])
async def test_entries_of_a_batch_can_fail_or_be_forgotten(rig: Rig, kind: str, stored: int) -> None:
    rig.fake.sns.faults.inject(kind, "PublishBatch", times=2)
    outcomes = await rig.topic.publish(messages(10))
    assert [type(outcome) for outcome in outcomes] == [PublishFailed] * 2 + [type(None)] * 8
    assert rig.sizes() == (stored, 0)
    rig.fake.sqs.faults.inject(kind, "DeleteMessageBatch", times=2)
    deliveries = await rig.queue.receive(1)
    assert await rig.queue.delete(deliveries) == deliveries[:2]
    assert rig.sizes() == (0, stored - len(deliveries) + (0 if kind == "unlisted_done" else 2))
    rig.fake.sqs.faults.inject(kind, "ChangeMessageVisibilityBatch", times=1)
    await rig.topic.publish(messages(2))
    deliveries = await rig.queue.receive(1)
    assert await rig.queue.change_visibility(deliveries, 60) == deliveries[:1]


async def test_a_publish_can_be_delivered_twice_and_a_delivery_stay_visible(rig: Rig) -> None:
    rig.fake.sns.faults.inject("double", times=1)
    await rig.topic.publish(messages(1))
    assert rig.sizes() == (2, 0)
    rig.fake.sqs.faults.inject("duplicate", times=1)
    first, again = await rig.queue.receive(1), await rig.queue.receive(1)
    assert len({delivery.message_id for delivery in first}) == 2
    assert [delivery.message_id for delivery in again] == [first[0].message_id]
    assert again[0].receipt != first[0].receipt


async def test_messages_can_come_in_another_order(rig: Rig) -> None:
    for message in messages(10):
        await rig.topic.publish([message])
    in_order = [message.attributes["Start"] for message in messages(10)]
    rig.fake.sqs.faults.inject("reorder", times=1)
    came = [delivery.attributes["Start"] for delivery in await rig.queue.receive(1)]
    assert came != in_order
    assert sorted(came, key=int) == in_order


@pytest.mark.parametrize("kind", ["stale", "undeleted"])
async def test_what_is_deleted_can_come_again(rig: Rig, kind: str) -> None:
    rig.fake.sqs.faults.inject(kind, times=1)
    await rig.topic.publish(messages(1))
    assert await rig.queue.delete(await rig.queue.receive(1)) == []
    rig.fake.queue("visits", Queue.expire)
    assert len(await rig.queue.receive(1)) == 1


async def test_a_delivery_can_be_visible_early(rig: Rig) -> None:
    rig.fake.sqs.faults.inject("early", times=1)
    await rig.topic.publish(messages(1))
    (first,) = await rig.queue.receive(1)
    (second,) = await rig.queue.receive(5)
    assert second.message_id == first.message_id


async def test_a_call_can_hang_and_be_slow(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CALL_SECONDS", 0.2)
    for kind in ("hang", "slow"):
        rig.fake.sns.faults.inject(kind)
        (outcome,) = await rig.topic.publish(messages(1))
        assert type(outcome) is PublishFailed
        assert "in time" in str(outcome)
        rig.fake.sns.faults.clear()


async def test_a_held_call_is_cut_off_when_it_is_released_and_a_port_can_refuse(rig: Rig) -> None:
    rig.fake.sns.hold("Publish")
    publishing = asyncio.create_task(rig.topic.publish(messages(1)))
    await until(lambda: "Publish" in rig.fake.sns.held)
    rig.fake.sns.down()
    (outcome,) = await publishing
    assert type(outcome) is PublishFailed
    (outcome,) = await rig.topic.publish(messages(1))
    assert type(outcome) is PublishFailed
    assert rig.sizes() == (0, 0)
    rig.fake.sns.up()
    assert await rig.topic.publish(messages(1)) == [None]


async def test_a_poll_whose_client_is_gone_takes_nothing_with_it(rig: Rig) -> None:
    polling = asyncio.create_task(rig.queue.receive(10))
    await until(lambda: rig.fake.sqs.calls[-1:] == ["ReceiveMessage"])
    polling.cancel()
    await asyncio.wait([polling])
    await rig.topic.publish(messages(1))
    assert len(await rig.queue.receive(5)) == 1


async def test_the_nth_call_of_an_action_meets_the_same_fate_in_every_run() -> None:
    def fates(seed: int, noise: int) -> list[bool]:
        faults = Faults(seed)
        faults.inject("error", chance=0.3)
        seen = []
        for _ in range(200):
            seen.append(faults.strikes("error", "Publish"))
            for _ in range(noise):
                faults.strikes("error", "ReceiveMessage")
        return seen

    assert fates(1, 0) == fates(1, 3) != fates(2, 0)
    assert 30 < sum(fates(1, 0)) < 90


async def test_a_queue_keeps_a_message_through_every_change_of_its_visibility() -> None:
    clock = [0.0]
    queue = Queue("q", {}, lambda: clock[0], Faults(), lambda arn: queue)
    queue.send(Sent("x", {"A": Attribute("String", "1")}))
    for _ in range(3):
        ((_, receipt, _),) = queue.receive(10, 30)
        queue.change_visibility(receipt, 60)
        clock[0] += 31
        assert queue.receive(10, 30) == []
        clock[0] += 30
        assert queue.counts() == (1, 0)
    queue.delete(receipt)  # visible again, and nobody has received it since: its receipt still holds
    assert queue.receive(10, 30) == []
