"""What lies between the services is made as the contract says, made again without harm, and shown before it is made."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.system.processes import Broker
from tracker import cli
from tracker.config import load_pixel, load_storage
from tracker.local.provision import local_client, provision_at
from tracker.operations.provision import Names, differences, provision

from .conftest import Bench

REGION = "ap-southeast-2"  # a region of this file's own: everything has its default name in it
Clients = tuple[Any, Any]


@pytest.fixture
async def clients(broker: Broker) -> AsyncIterator[Clients]:
    async with local_client("sns", broker.endpoint, REGION) as sns, local_client("sqs", broker.endpoint, REGION) as sqs:
        yield sns, sqs


class OverHttps:
    """A client whose endpoint seems to be called by HTTPS. The local broker has HTTP only, and obeys no policy."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.meta = SimpleNamespace(endpoint_url="https://aws.example")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


async def attributes(sqs: Any, url: str) -> dict[str, str]:
    return dict((await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))["Attributes"])


async def test_everything_is_there_and_a_second_time_changes_nothing(broker: Broker, clients: Clients) -> None:
    sns, sqs = clients
    made = await provision_at(broker.endpoint, REGION)
    await sqs.send_message(QueueUrl=made.queue_url, MessageBody="waits")
    again = await provision(sns, sqs)
    assert again == made
    assert not again.changes

    assert made.topic_arn == f"arn:aws:sns:{REGION}:000000000000:tracking"
    queue, dead = await attributes(sqs, made.queue_url), await attributes(sqs, made.dead_letter_queue_url)
    assert queue["QueueArn"] == made.queue_arn == f"arn:aws:sqs:{REGION}:000000000000:visits"
    assert queue["ApproximateNumberOfMessages"] == "1"
    assert queue["MessageRetentionPeriod"] == dead["MessageRetentionPeriod"] == "1209600"
    assert json.loads(queue["RedrivePolicy"]) == {"deadLetterTargetArn": dead["QueueArn"], "maxReceiveCount": 100}
    for one in (queue, dead):
        assert one["SqsManagedSseEnabled"] == "true"
        [statement] = json.loads(one["Policy"])["Statement"]
        assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
        assert statement["Action"] == "sqs:SendMessage"
        assert statement["Resource"] == one["QueueArn"]
        assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": made.topic_arn}}

    [only] = (await sns.list_subscriptions_by_topic(TopicArn=made.topic_arn))["Subscriptions"]
    assert only["Endpoint"] == queue["QueueArn"]
    subscription = await sns.get_subscription_attributes(SubscriptionArn=made.subscription_arn)
    assert subscription["Attributes"]["RawMessageDelivery"] == "true"
    assert json.loads(subscription["Attributes"]["FilterPolicy"]) == {"Type": ["Visit"]}
    assert json.loads(subscription["Attributes"]["RedrivePolicy"]) == {"deadLetterTargetArn": dead["QueueArn"]}


async def test_what_somebody_made_by_hand_is_put_right(clients: Clients) -> None:
    sns, sqs = clients
    names = Names(topic="by-hand", queue="by-hand", dead_letter_queue="by-hand-dlq")
    topic = (await sns.create_topic(Name="by-hand"))["TopicArn"]
    url = (await sqs.create_queue(QueueName="by-hand", Attributes={"MessageRetentionPeriod": "60"}))["QueueUrl"]
    arn = f"arn:aws:sqs:{REGION}:000000000000:by-hand"
    await sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)

    made = await provision(sns, sqs, names)

    assert made.queue_url == url
    assert (await attributes(sqs, url))["MessageRetentionPeriod"] == "1209600"
    visit = {"Type": {"DataType": "String", "StringValue": "Visit"}}
    await sns.publish(TopicArn=topic, Message="not a visit")
    await sns.publish(TopicArn=topic, Message="a visit", MessageAttributes=visit)
    received = await sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
    [message] = received["Messages"]
    assert message["Body"] == "a visit"  # raw, and filtered
    assert message["MessageAttributes"]["Type"]["StringValue"] == "Visit"


async def test_what_an_operator_allows_besides_stays_allowed(bench: Bench) -> None:
    theirs = {"Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": bench.made.queue_arn}
    ours = json.loads((await attributes(bench.sqs, bench.made.queue_url))["Policy"])["Statement"][0]
    stale = {**ours, "Condition": {"ArnEquals": {"aws:SourceArn": "arn:aws:sns:eu-west-1:000000000000:old"}}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [theirs, stale]})
    await bench.sqs.set_queue_attributes(QueueUrl=bench.made.queue_url, Attributes={"Policy": policy})
    await provision(bench.sns, bench.sqs, bench.names)
    now = json.loads((await attributes(bench.sqs, bench.made.queue_url))["Policy"])
    assert now["Statement"] == [theirs, ours]


async def test_a_dry_run_shows_all_of_it_and_makes_nothing(
    broker: Broker, clients: Clients, capsys: pytest.CaptureFixture[str]
) -> None:
    sns, sqs = clients
    arguments = ["provision", "--endpoint-url", broker.endpoint, "--region", REGION, "--topic", "dry"]
    arguments += ["--queue", "dry", "--dead-letter-queue", "dry-dlq"]
    assert await asyncio.to_thread(cli.main, [*arguments, "--dry-run"]) == 1
    said = capsys.readouterr().out
    for thing in ("topic dry", "queue dry-dlq", "queue dry", "subscription of queue dry"):
        assert f"{thing}: is created" in said
    assert "queue dry: MessageRetentionPeriod: nothing -> 1209600" in said
    assert not [one for one in (await sns.list_topics())["Topics"] if one["TopicArn"].endswith(":dry")]
    assert "QueueUrls" not in await sqs.list_queues(QueueNamePrefix="dry")

    assert await asyncio.to_thread(cli.main, arguments) == 0
    assert await differences(sns, sqs, Names(topic="dry", queue="dry", dead_letter_queue="dry-dlq")) == ([], [])
    capsys.readouterr()
    assert await asyncio.to_thread(cli.main, [*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out == "nothing to change\n"


async def test_the_lines_it_prints_are_configurations(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["provision", "--endpoint-url", broker.endpoint, "--region", REGION]
    assert await asyncio.to_thread(cli.main, arguments) == 0
    said = capsys.readouterr().out
    documents = re.findall(r"^# (pixel|storage)\.yaml\n((?:[a-z ].*\n)+)", said, re.MULTILINE)
    assert [name for name, _ in documents] == ["pixel", "storage"]
    for name, text in documents:
        assert yaml.safe_load(text)
        (tmp_path / f"{name}.yaml").write_text(text)
    pixel = load_pixel(tmp_path / "pixel.yaml", {})
    assert pixel.sns.topic_arn == f"arn:aws:sns:{REGION}:000000000000:tracking"
    storage = load_storage(tmp_path / "storage.yaml", {})
    assert (storage.sqs.queue, storage.sqs.region) == ("visits", REGION)
    assert pixel.sns.endpoint_url == storage.sqs.endpoint_url == broker.endpoint


@pytest.mark.parametrize(
    "arguments",
    [["--queue", "visits.fifo"], ["--topic", ""], ["--queue", "a", "--dead-letter-queue", "a"], ["--queue", "q" * 81]],
)
def test_names_that_cannot_be_are_refused_before_anything_is_asked(arguments: list[str]) -> None:
    assert cli.main(["provision", "--endpoint-url", "http://127.0.0.1:9", "--region", REGION, *arguments]) == 2


def test_a_dry_run_that_cannot_look_is_told_from_one_that_finds_a_difference() -> None:
    assert cli.main(["provision", "--dry-run", "--endpoint-url", "http://127.0.0.1:9", "--region", REGION]) == 3


async def test_what_is_created_where_https_is_spoken_refuses_plain_http(clients: Clients) -> None:
    sns, sqs = map(OverHttps, clients)
    names = Names(topic="encrypted", queue="encrypted-visits")
    made = await provision(sns, sqs, names)
    topic = await sns.get_topic_attributes(TopicArn=made.topic_arn)
    policies = [topic["Attributes"]["Policy"]]
    policies += [(await attributes(sqs, url))["Policy"] for url in (made.queue_url, made.dead_letter_queue_url)]
    for policy, action in zip(policies, ("sns:Publish", "sqs:*", "sqs:*"), strict=True):
        [statement] = [each for each in json.loads(policy)["Statement"] if each["Sid"] == "NoPlainHttp"]
        assert (statement["Effect"], statement["Action"]) == ("Deny", action)
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert await differences(sns, sqs, names) == ([], [])
    plain = await provision(*clients, Names(topic="plain", queue="plain-visits"))
    assert "NoPlainHttp" not in (await attributes(clients[1], plain.queue_url))["Policy"]
