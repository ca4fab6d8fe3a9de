"""SNS and SQS: what the services rely on, asked of moto's server and of our fakes alike, and SNS's odd replies.

What the fakes promise is what the other tests build upon, so the same assertions run on all: on those in memory, which
take the place of `tracker.aws`, and on the one over HTTP, which takes the place of AWS.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.fake_aws import FakeAws
from tests.fake_aws.in_memory import FakeQueue, FakeTopic
from tests.fake_aws.topics import Subscription
from tests.fake_aws.world import World
from tests.waiting import until
from tracker.aws import calls, open_queue, open_topic
from tracker.config import SnsConfig, SqsConfig
from tracker.core.delivery import Queue
from tracker.core.message import Message, StoredSpan, end_marker, pack, unpack
from tracker.core.visit import encode_line
from tracker.errors import PublishFailed, PublishRefused, PublishThrottled, QueueFailed
from tracker.local.broker import serialise_queues
from tracker.local.provision import local_client, provision_at
from tracker.operations.provision import Provisioned
from tracker.pixel.topic import Topic

REGION = "us-east-1"
ARN = f"arn:aws:sns:{REGION}:000000000000:tracking"
JOURNAL = "0123456789abcdef" * 2
LINE = encode_line("2026-11-23T07:09:24.932706+00:00", None, "Mozilla/5.0 (é|\x7f)", "192.0.2.1")


@pytest.fixture(scope="module")
def moto_server() -> "Iterator[Broker]":
    """A moto server in this process, with topic, queue and subscription."""
    from moto.server import ThreadedMotoServer

    serialise_queues()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    yield Broker(endpoint, asyncio.run(provision_at(endpoint, REGION)))
    server.stop()


@dataclass
class Broker:
    endpoint: str
    made: Provisioned

    def sns(self, topic_arn: str = "") -> SnsConfig:
        return SnsConfig(topic_arn=topic_arn or self.made.topic_arn, endpoint_url=self.endpoint)

    def sqs(self, queue: str = "visits", **settings: Any) -> SqsConfig:
        return SqsConfig(queue=queue, region=REGION, endpoint_url=self.endpoint, **settings)


@pytest.fixture
def moto(moto_server: Broker) -> Broker:
    """moto's with nothing in it."""
    from moto.sqs.models import sqs_backends

    region, account, name = moto_server.made.queue_arn.split(":")[3:]
    backend = sqs_backends[account][region]
    backend.get_queue(name).last_purged_at = None  # SQS allows one purge a minute, and moto keeps to it
    backend.purge_queue(name)
    return moto_server


@pytest.fixture(scope="module")
def http_server() -> "Iterator[tuple[FakeAws, Broker]]":
    """Our own over HTTP, with topic, queue and subscription."""
    with FakeAws() as fake:
        yield fake, Broker(fake.sns.url, asyncio.run(provision_at(fake.sns.url, REGION)))


@pytest.fixture
def http(http_server: "tuple[FakeAws, Broker]") -> Broker:
    """Our own with nothing in it."""
    fake, broker = http_server
    fake.queue("visits", lambda queue: queue.clear())
    return broker


@pytest.fixture(params=["http", "moto"])
def broker(request: pytest.FixtureRequest) -> Broker:
    chosen: Broker = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(params=["memory", "http", "moto"])
def maybe_broker(request: pytest.FixtureRequest) -> Broker | None:
    """None: the fake in memory, which needs none."""
    chosen: Broker | None = None if request.param == "memory" else request.getfixturevalue(request.param)
    return chosen


def messages(count: int, data: bytes = LINE) -> list[Message]:
    return [pack(JOURNAL, index * len(data), data, compress=False) for index in range(count)]


# -- Topic: the real one and the fakes ------------------------------------------------------------------------


@dataclass
class TopicRig:
    topic: Topic
    gone: Topic  # the topic is not there
    arrived: Callable[[], Awaitable[list[tuple[str, dict[str, str]]]]]  # body and attributes


async def received(queue: Queue) -> list[tuple[str, dict[str, str]]]:
    """Body and attributes of all messages."""
    found: list[tuple[str, dict[str, str]]] = []
    while deliveries := await queue.receive(0):
        found += [(delivery.body, delivery.attributes) for delivery in deliveries]
    return found


@pytest.fixture
async def topic(maybe_broker: Broker | None) -> AsyncIterator[TopicRig]:
    if (broker := maybe_broker) is None:
        world = World()
        subscription = Subscription("arn", world.create_queue("visits"), raw=True, filter_policy={"Type": ["Visit"]})
        world.create_topic("tracking").subscriptions.append(subscription)
        fake = FakeTopic(world=world)
        yield TopicRig(fake, FakeTopic(world=World(), arn=ARN), lambda: received(FakeQueue(world=world)))
        return

    async def arrived() -> list[tuple[str, dict[str, str]]]:
        async with open_queue(broker.sqs()) as queue:
            return await received(queue)

    async with (
        open_topic(broker.sns()) as real,
        open_topic(broker.sns(broker.made.topic_arn + "-gone")) as gone,
    ):
        yield TopicRig(real, gone, arrived)


@pytest.mark.parametrize("count", [0, 1, 2, 10, 25])
async def test_what_a_topic_accepts_arrives_as_it_was(topic: TopicRig, count: int) -> None:
    sent = messages(count)
    assert await topic.topic.publish(sent) == [None] * count
    arrived = await topic.arrived()
    assert sorted(map(str, arrived)) == sorted(str((message.body, message.attributes)) for message in sent)
    for body, attributes in arrived:
        span = unpack(attributes, body)
        assert isinstance(span, StoredSpan)
        assert span.data == LINE


async def test_a_compressed_span_and_an_end_marker_arrive_as_they_were(topic: TopicRig) -> None:
    sent = [pack(JOURNAL, 0, LINE * 500, compress=True), end_marker(JOURNAL, 500 * len(LINE))]
    assert sent[0].attributes["Encoding"] == "zlib+base64url"
    assert await topic.topic.publish(sent) == [None, None]
    arrived = await topic.arrived()
    assert sorted(map(str, arrived)) == sorted(str((message.body, message.attributes)) for message in sent)


@pytest.mark.parametrize("count", [1, 12])
async def test_a_topic_that_is_not_there_refuses(topic: TopicRig, count: int) -> None:
    outcomes = await topic.gone.publish(messages(count))
    assert len(outcomes) == count
    assert all(isinstance(outcome, PublishRefused) for outcome in outcomes)
    assert "NotFound" in str(outcomes[0])


async def test_the_fake_topic_answers_message_by_message_and_when_it_is_let() -> None:
    failed = PublishFailed("not this one")
    fake = FakeTopic(lambda message: failed if message.start == 0 else None)
    fake.gate.clear()
    publishing = asyncio.create_task(fake.publish(messages(2)))
    await asyncio.sleep(0)
    assert not publishing.done()
    assert not fake.accepted
    fake.gate.set()
    assert await publishing == [failed, None]
    assert [message.start for message in fake.accepted] == [len(LINE)]
    assert [len(tried) for tried in fake.tried] == [2]
    async with fake.open(SnsConfig(topic_arn=ARN)) as opened:
        assert opened is fake


# -- Topic: who cannot be reached, and with what rights -------------------------------------------------------


@pytest.mark.parametrize("count", [1, 12])
async def test_an_endpoint_that_nobody_answers_at_is_a_failure_and_no_refusal(free_port: int, count: int) -> None:
    config = SnsConfig(topic_arn=ARN, endpoint_url=f"http://127.0.0.1:{free_port}")
    async with open_topic(config) as topic:
        outcomes = await topic.publish(messages(count))
    assert [type(outcome) for outcome in outcomes] == [PublishFailed] * count


async def test_the_region_of_the_aws_tools_is_taken_where_none_is_configured(
    sns: "OddSns", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    for region, signed in ((None, "eu-central-1"), (REGION, REGION)):
        async with open_queue(SqsConfig(queue="visits", region=region, endpoint_url=sns.config.endpoint_url)) as queue:
            with pytest.raises(QueueFailed):
                await queue.ready()
        assert f"/{signed}/sqs/" in sns.authorization


@pytest.mark.parametrize(
    ("queue", "region", "signed"),
    [
        ("arn:aws:sqs:eu-west-1:000000000000:visits", None, "eu-west-1"),
        ("arn:aws:sqs:eu-west-1:000000000000:visits", "eu-west-2", "eu-west-2"),
        ("https://eu-west-3.queue.amazonaws.com/000000000000/visits", None, "eu-west-3"),
    ],
)
async def test_the_key_wins_over_the_arn_or_url_and_these_win_over_the_aws_tools(
    sns: "OddSns", monkeypatch: pytest.MonkeyPatch, queue: str, region: str | None, signed: str
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    config = SqsConfig(queue=queue, region=region, endpoint_url=sns.config.endpoint_url)
    async with open_queue(config) as opened:
        with pytest.raises(QueueFailed):
            await opened.attributes()
    assert f"/{signed}/sqs/" in sns.authorization


async def test_a_queue_by_its_arn_is_looked_up_in_its_account_and_by_its_url_where_the_url_leads(
    http: Broker,
) -> None:
    for account, found in (("000000000000", True), ("123456789012", False)):
        arn = f"arn:aws:sqs:{REGION}:{account}:visits"
        async with open_queue(SqsConfig(queue=arn, endpoint_url=http.endpoint)) as queue:
            if found:
                await queue.ready()
            else:
                with pytest.raises(QueueFailed, match=r"NonExistentQueue|does not exist"):
                    await queue.ready()
    async with open_queue(SqsConfig(queue=http.made.queue_url, region=REGION)) as queue:
        assert "QueueArn" in await queue.attributes()


async def test_no_region_is_a_failure_that_says_what_mends_it() -> None:
    async with open_queue(SqsConfig(queue="visits")) as queue:
        with pytest.raises(QueueFailed, match="no AWS region found: set the region"):
            await queue.ready()


# -- Topic: SNS's odd replies ---------------------------------------------------------------------------------

Form = dict[str, str]
Reply = Callable[[Form], Awaitable[web.Response]]


class OddSns:
    """An SNS of a few lines; `reply` is asked for every call."""

    def __init__(self) -> None:
        self.calls: list[Form] = []
        self.reply: Reply = all_accepted
        self.authorization = ""
        app = web.Application(client_max_size=1 << 20)
        app.router.add_post("/", self._handle)
        self.server = TestServer(app)

    async def _handle(self, request: web.Request) -> web.Response:
        self.authorization = request.headers.get("Authorization", "")
        form = {name: values[0] for name, values in parse_qs(await request.text(), keep_blank_values=True).items()}
        self.calls.append(form)
        return await self.reply(form)

    @property
    def config(self) -> SnsConfig:
        return SnsConfig(topic_arn=ARN, endpoint_url=str(self.server.make_url("/")))


@pytest.fixture
async def sns() -> AsyncIterator[OddSns]:
    odd = OddSns()
    await odd.server.start_server()
    yield odd
    await odd.server.close()


def ids(form: Form) -> list[str]:
    return [value for name, value in form.items() if name.startswith("PublishBatch") and name.endswith(".Id")]


def bodies(form: Form) -> list[str]:
    return [value for name, value in form.items() if name.startswith("PublishBatch") and name.endswith(".Message")]


def xml(action: str, result: str) -> web.Response:
    return web.Response(
        content_type="text/xml",
        text=f'<{action}Response xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><{action}Result>{result}'
        f"</{action}Result><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></{action}Response>",
    )


def batch_reply(accepted: list[str], failed: dict[str, tuple[str, str]]) -> web.Response:
    good = "".join(f"<member><Id>{each}</Id><MessageId>m</MessageId></member>" for each in accepted)
    bad = "".join(
        f"<member><Id>{each}</Id><Code>{code}</Code><Message>words</Message><SenderFault>{fault}</SenderFault></member>"
        for each, (code, fault) in failed.items()
    )
    return xml("PublishBatch", f"<Successful>{good}</Successful><Failed>{bad}</Failed>")


async def all_accepted(form: Form) -> web.Response:
    if form["Action"] == "Publish":
        return xml("Publish", "<MessageId>m</MessageId>")
    return batch_reply(ids(form), {})


def error(status: int, code: str) -> Reply:
    async def reply(form: Form) -> web.Response:
        return web.Response(
            status=status,
            content_type="text/xml",
            text='<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>'
            f"<Code>{code}</Code><Message>words</Message></Error><RequestId>r</RequestId></ErrorResponse>",
        )

    return reply


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "Throttling", PublishThrottled),
        (400, "ThrottlingException", PublishThrottled),
        (400, "KMSThrottling", PublishThrottled),
        (429, "Anything", PublishThrottled),
        (400, "", PublishFailed),
        (500, "InternalError", PublishFailed),
        (503, "ServiceUnavailable", PublishFailed),
        (400, "InvalidParameter", PublishRefused),
        (403, "AuthorizationError", PublishRefused),
        (403, "InvalidClientTokenId", PublishRefused),
        (404, "NotFound", PublishRefused),
    ],
)
async def test_an_error_is_a_refusal_only_when_the_request_is_at_fault(
    sns: OddSns, status: int, code: str, kind: type[PublishFailed], count: int
) -> None:
    sns.reply = error(status, code)
    async with open_topic(sns.config) as topic:
        outcomes = await topic.publish(messages(count))
    assert [type(outcome) for outcome in outcomes] == [kind] * count
    assert code in str(outcomes[0])


async def test_each_entry_of_a_batch_has_its_own_outcome(sns: OddSns) -> None:
    async def reply(form: Form) -> web.Response:
        failed = {"1": ("InvalidParameter", "true"), "2": ("InternalError", "false"), "4": ("KMSThrottling", "true")}
        return batch_reply(["5", "0"], failed)  # 3 is named nowhere, and order is nothing to rely on

    sns.reply = reply
    async with open_topic(sns.config) as topic:
        outcomes = await topic.publish(messages(6))
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [type(None), PublishRefused, PublishFailed, PublishFailed, PublishThrottled, type(None)]
    assert str(outcomes[1]) == "InvalidParameter: words"
    assert "is not in the reply" in str(outcomes[3])


@pytest.mark.parametrize("count", [1, 3])
async def test_a_reply_that_does_not_come_is_a_failure_within_the_deadline(
    sns: OddSns, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    over = asyncio.Event()

    async def hang(form: Form) -> web.Response:
        await over.wait()
        return web.Response()

    sns.reply = hang
    async with open_topic(sns.config) as topic:
        monkeypatch.setattr(calls, "CALL_SECONDS", 0.1)
        async with asyncio.timeout(5):
            outcomes = await topic.publish(messages(count))
    over.set()
    assert [type(outcome) for outcome in outcomes] == [PublishFailed] * count
    assert "no reply in time" in str(outcomes[0])


async def test_batches_are_of_ten_and_of_256_kib_and_outcomes_in_the_messages_order(sns: OddSns) -> None:
    large = messages(5, LINE * (100_000 // len(LINE)))  # two fit in a batch
    sent = [*messages(23), *large, *messages(2)]
    # Messages 24 and 26; small ones may begin at the same offset, but not at these.
    refused = {str(large[1].start), str(large[3].start)}
    waiting = 3

    async def reply(form: Form) -> web.Response:
        nonlocal waiting
        waiting -= 1
        await asyncio.sleep(0.05 * max(0, waiting))  # the first batches answer last
        entries = [name.removesuffix(".Id") for name in form if name.endswith(".Id")]
        starts = {form[f"{entry}.Id"]: attribute(form, entry, "Start") for entry in entries}
        failed = {entry: ("Code", "true") for entry, start in starts.items() if start in refused}
        return batch_reply([entry for entry in starts if entry not in failed], failed)

    sns.reply = reply
    async with open_topic(sns.config) as topic:
        outcomes = await topic.publish(sent)
    assert [index for index, outcome in enumerate(outcomes) if outcome is not None] == [24, 26]
    assert sum(len(ids(call)) for call in sns.calls) == len(sent) == len(outcomes)
    for call in sns.calls:
        assert len(ids(call)) == len(set(ids(call))) <= 10
        assert sum(map(len, bodies(call))) <= 262_144


def attribute(form: Form, entry: str, name: str) -> str:
    where = next(key for key, value in form.items() if key.startswith(f"{entry}.MessageAttributes") and value == name)
    return form[where.removesuffix("Name") + "Value.StringValue"]


async def test_messages_published_at_the_same_time_share_requests_and_each_has_its_outcome(
    sns: OddSns,
) -> None:
    async def reply(form: Form) -> web.Response:
        accepted = [entry for entry in ids(form) if entry != "4"]
        return batch_reply(accepted, {"4": ("InvalidParameter", "true")})

    sns.reply = reply
    sent = messages(8)
    async with open_topic(sns.config) as topic:
        outcomes = await asyncio.gather(*(topic.publish([message]) for message in sent), topic.publish([]))
    assert [type(outcome) for (outcome,) in outcomes[:8]] == [*[type(None)] * 4, PublishRefused, *[type(None)] * 3]
    assert outcomes[8] == []
    assert [bodies(call) for call in sns.calls] == [[message.body for message in sent]]


async def test_a_request_without_a_reply_delays_only_its_own_messages_and_ends_with_the_topic(sns: OddSns) -> None:
    over = asyncio.Event()

    async def reply(form: Form) -> web.Response:
        if len(ids(form)) == 10:
            await over.wait()
        return await all_accepted(form)

    sns.reply = reply
    async with open_topic(sns.config) as topic:
        slow = asyncio.create_task(topic.publish(messages(10)))
        await until(lambda: sns.calls)
        assert await topic.publish(messages(3)) == [None] * 3
        assert not slow.done()
        given_up = asyncio.create_task(topic.publish(messages(2)))
        await asyncio.sleep(0)
        given_up.cancel()  # the request of the others goes on
        assert await topic.publish(messages(1)) == [None]
    async with asyncio.timeout(5):
        assert isinstance((await asyncio.gather(slow, return_exceptions=True))[0], asyncio.CancelledError)
    over.set()


async def test_at_most_eight_requests_are_in_flight(sns: OddSns) -> None:
    now, most = 0, 0

    async def reply(form: Form) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        return await all_accepted(form)

    sns.reply = reply
    async with open_topic(sns.config) as topic:
        assert await topic.publish(messages(200)) == [None] * 200
    assert len(sns.calls) == 20
    assert 1 < most <= 8


async def test_on_loopback_without_credentials_placeholders_sign(sns: OddSns) -> None:
    async with open_topic(sns.config) as topic:
        assert await topic.publish(messages(1)) == [None]
    assert "Credential=local/" in sns.authorization


async def test_credentials_that_are_there_sign(sns: OddSns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with open_topic(sns.config) as topic:
        assert await topic.publish(messages(1)) == [None]
    assert "Credential=mine/" in sns.authorization


async def test_the_endpoint_may_come_from_the_environment(sns: OddSns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SNS", str(sns.config.endpoint_url))
    async with open_topic(SnsConfig(topic_arn=ARN)) as topic:
        assert await topic.publish(messages(1)) == [None]
    assert "Credential=local/" in sns.authorization


# -- Queue: the real one and the fakes ------------------------------------------------------------------------


@dataclass
class QueueRig:
    queue: Queue
    gone: Queue
    send: Callable[[str, dict[str, str]], Awaitable[None]]


@pytest.fixture
async def queue(maybe_broker: Broker | None) -> AsyncIterator[QueueRig]:
    if (broker := maybe_broker) is None:
        fake = FakeQueue()
        fake.model.attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": "arn", "maxReceiveCount": 100})

        async def put(body: str, attributes: dict[str, str]) -> None:
            fake.send(body, attributes)

        yield QueueRig(fake, FakeQueue(world=World()), put)
        return
    async with (
        local_client("sqs", broker.endpoint, REGION) as sqs,
        open_queue(broker.sqs()) as real,
        open_queue(broker.sqs("gone")) as gone,
    ):

        async def send(body: str, attributes: dict[str, str]) -> None:
            typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
            await sqs.send_message(QueueUrl=broker.made.queue_url, MessageBody=body, MessageAttributes=typed)

        yield QueueRig(real, gone, send)


async def test_a_delivery_is_the_message_as_it_was_sent(queue: QueueRig) -> None:
    message = pack(JOURNAL, 0, LINE, compress=False)
    await queue.send(message.body, message.attributes)
    before = asyncio.get_running_loop().time()
    (delivery,) = await queue.queue.receive(1)
    assert (delivery.body, delivery.attributes) == (message.body, message.attributes)
    assert delivery.message_id
    assert delivery.receipt
    assert delivery.receive_count == 1
    assert delivery.sent_ms > 1_600_000_000_000
    assert before <= delivery.received_at <= asyncio.get_running_loop().time()


async def test_a_message_without_attributes_has_none(queue: QueueRig) -> None:
    await queue.send("{}", {})
    (delivery,) = await queue.queue.receive(1)
    assert delivery.attributes == {}


async def test_an_empty_queue_gives_nothing(queue: QueueRig) -> None:
    assert await queue.queue.receive(0) == []


async def test_at_most_ten_come_at_once(queue: QueueRig) -> None:
    for index in range(12):
        await queue.send(str(index), {})
    first, second = await queue.queue.receive(1), await queue.queue.receive(1)
    assert (len(first), len(second)) == (10, 2)
    assert {delivery.body for delivery in first + second} == {str(index) for index in range(12)}


async def test_what_was_received_is_hidden_until_it_is_given_back(queue: QueueRig) -> None:
    await queue.send("x", {})
    deliveries = await queue.queue.receive(1)
    assert await queue.queue.receive(0) == []
    await queue.queue.change_visibility(deliveries, 0)
    (again,) = await queue.queue.receive(0)
    assert again.message_id == deliveries[0].message_id
    assert again.receive_count == 2


async def test_what_was_deleted_does_not_come_again(queue: QueueRig) -> None:
    for index in range(3):
        await queue.send(str(index), {})
    deliveries = await queue.queue.receive(1)
    assert len(deliveries) == 3
    assert await queue.queue.delete(deliveries[:2]) == []
    await queue.queue.change_visibility(deliveries, 0)  # a queue that has only hidden the two would give them now
    assert [delivery.body for delivery in await queue.queue.receive(0)] == [deliveries[2].body]


async def test_what_nobody_deletes_comes_again_when_its_visibility_timeout_ends(queue: QueueRig) -> None:
    await queue.send("x", {})
    deliveries = await queue.queue.receive(1)
    await queue.queue.change_visibility(deliveries, 1)
    assert await queue.queue.receive(0) == []
    (again,) = await queue.queue.receive(5)
    assert again.message_id == deliveries[0].message_id


async def test_an_extension_counts_from_the_call(queue: QueueRig) -> None:
    await queue.send("x", {})
    deliveries = await queue.queue.receive(1)
    await queue.queue.change_visibility(deliveries, 1)
    await queue.queue.change_visibility(deliveries, 30)
    assert await queue.queue.receive(2) == []


async def test_of_two_receivers_each_message_goes_to_one(queue: QueueRig) -> None:
    for index in range(10):
        await queue.send(str(index), {})
    both = await asyncio.gather(queue.queue.receive(0), queue.queue.receive(0))
    bodies = [delivery.body for deliveries in both for delivery in deliveries]
    assert sorted(bodies) == sorted({*bodies})


async def test_the_attributes_tell_the_redrive_policy(queue: QueueRig) -> None:
    attributes = await queue.queue.attributes()
    assert json.loads(attributes["RedrivePolicy"])["maxReceiveCount"] == 100


async def test_a_queue_that_is_not_there_fails_every_call(queue: QueueRig) -> None:
    await queue.send("x", {})
    deliveries = await queue.queue.receive(1)
    with pytest.raises(QueueFailed):
        await queue.gone.receive(0)
    with pytest.raises(QueueFailed):
        await queue.gone.delete(deliveries)
    with pytest.raises(QueueFailed):
        await queue.gone.change_visibility(deliveries, 0)
    with pytest.raises(QueueFailed):
        await queue.gone.attributes()


async def test_a_queue_may_be_named_by_its_url(broker: Broker) -> None:
    async with open_queue(broker.sqs(broker.made.queue_url)) as queue:
        assert "RedrivePolicy" in await queue.attributes()


async def test_what_the_queue_does_not_confirm_is_returned(queue: QueueRig) -> None:
    for index in range(2):
        await queue.send(str(index), {})
    deliveries = await queue.queue.receive(1)
    deliveries[1].receipt = "none of SQS's"
    assert await queue.queue.change_visibility(deliveries, 60) == deliveries[1:]
    assert await queue.queue.delete(deliveries) == deliveries[1:]


async def test_a_long_poll_ends_when_a_message_comes(queue: QueueRig) -> None:
    polling = asyncio.create_task(queue.queue.receive(10))
    await asyncio.sleep(0.2)
    assert not polling.done()
    await queue.send("x", {})
    async with asyncio.timeout(5):
        assert [delivery.body for delivery in await polling] == ["x"]


async def test_an_endpoint_that_nobody_answers_at_fails_every_call(free_port: int) -> None:
    config = SqsConfig(queue="visits", region=REGION, endpoint_url=f"http://127.0.0.1:{free_port}")
    async with open_queue(config) as queue:
        with pytest.raises(QueueFailed, match=f"127.0.0.1:{free_port}"):
            await queue.receive(0)
